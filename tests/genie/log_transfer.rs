//! Moving to another store: the other store serves what the first one wrote, and users do not
//! notice.

use std::path::{Path, PathBuf};

use genie_log::testing::{Kind, TestStore, both_stores};
use reqwest::Method;
use serde_json::json;
use tokio::process::Command;

use crate::{
    test_genie::{TestGenie, outcome},
    until::moment_after,
};

const PASSPHRASE: &str = "correct horse battery";

async fn output_of(mut command: Command) -> (bool, String) {
    let output = command
        .env("GENIE_EXPORT_PASSPHRASE", PASSPHRASE)
        .output()
        .await
        .unwrap();
    let text = [output.stdout, output.stderr]
        .map(|bytes| String::from_utf8(bytes).unwrap())
        .concat();
    (output.status.success(), text)
}

/// Runs `genie log VERB DIR` on the store of this genie and returns its output.
async fn log(genie: &TestGenie, verb: &str, dir: &Path) -> String {
    let (is_good, text) = output_of(genie.command(&["log", verb, dir.to_str().unwrap()])).await;
    assert!(is_good, "{text}");
    text
}

/// A genie on a new store of the other kind, not started. A move from the embedded store to
/// Postgres keeps the data folder and with it the master key. In the other direction the test
/// copies the key into the new folder.
async fn other_house(old: &TestGenie) -> TestGenie {
    match old.store.kind {
        Kind::Sqlite => {
            let folder = old.store.folder().to_str().unwrap().to_owned();
            TestGenie::not_started(
                TestStore::new(Kind::Postgres).await,
                &[("GENIE_DATA_DIR", folder)],
            )
            .await
        }
        Kind::Postgres => {
            let store = TestStore::new(Kind::Sqlite).await;
            // Without the key the import is refused, and no new key is made.
            let new = TestGenie::not_started(store, &[]).await;
            let export = export_of(old);
            let (is_good, text) =
                output_of(new.command(&["log", "import", export.to_str().unwrap()])).await;
            assert!(!is_good && text.contains("master.key"), "{text}");
            std::fs::copy(
                old.store.folder().join("master.key"),
                new.store.folder().join("master.key"),
            )
            .unwrap();
            new
        }
    }
}

fn export_of(genie: &TestGenie) -> PathBuf {
    genie.store.folder().join("export")
}

both_stores!(
    a_users_whole_life_moves_to_the_other_store,
    async |store: TestStore| {
        let mut old = TestGenie::start(store).await;
        let ada = old.user("ada").await;
        let bob = old.user("bob").await;
        let profile = json!({"platform": "onlyfans", "credentials": {"password": "canary"}, "platform_username": "ada"});
        let credential = ada
            .post(&old, "/api/credentials/create-profile", profile)
            .await
            .ok()["id"]
            .clone();
        let (done, running) = (ada.submit_job(&old).await, ada.submit_job(&old).await);
        let lease = old.claim().await["lease"].clone();
        let complete = json!({"lease": lease, "result": {"width": 100}});
        old.server(&format!("/api/worker/jobs/{done}/complete"), complete)
            .await
            .ok();
        let second = old.claim().await;
        assert_eq!(second["jobId"], running);
        assert_eq!(
            outcome(&ada.ask(&old, "chat", "hello?").await.rest().await),
            "completed"
        );
        old.settle().await;

        // Exports beside the running server, then once more after it has stopped.
        let dir = export_of(&old);
        log(&old, "export", &dir).await;
        let later = bob.submit_job(&old).await;
        assert!(old.terminate().await);
        assert!(log(&old, "export", &dir).await.contains("1 of them new"));

        let mut new = other_house(&old).await;
        let imported = log(&new, "import", &dir).await;
        new.launch_again().await;
        new.settle().await;
        let first = bob.submit_job(&new).await;
        let facts = output_of(new.command(&["audit", "--user", &bob.id]))
            .await
            .1;
        let fact = facts.lines().find(|line| line.contains(&first)).unwrap();
        let position = fact.split_whitespace().next().unwrap();
        let head: u64 = imported
            .split(['o', ','])
            .find_map(|words| words.trim().parse().ok())
            .unwrap();
        assert_eq!(position, (head + 1).to_string(), "{imported}");

        for name in ["ada", "bob"] {
            let login = json!({"email": format!("{name}@example.com"), "password": format!("{name}'s password")});
            assert_eq!(
                new.send(Method::POST, "/auth/login", &[], Some(login))
                    .await
                    .status,
                200,
                "{name} can log in"
            );
        }
        // The tokens issued before the move go on.
        assert_eq!(
            ada.get(&new, "/users/me").await.json["data"]["email"],
            "ada@example.com"
        );
        let refresh = json!({"refresh_token": ada.refresh, "mode": "json"});
        assert_eq!(
            new.send(Method::POST, "/auth/refresh", &[], Some(refresh))
                .await
                .status,
            200
        );
        let reveal = json!({"creatorProfileId": credential, "purpose": "publish"});
        let revealed = new.server("/api/credentials/reveal", reveal).await.ok();
        assert_eq!(revealed["credentials"], json!({"password": "canary"}));
        assert_eq!(
            ada.get(&new, &format!("/api/jobs/{done}")).await.ok()["result"],
            json!({"width": 100})
        );
        assert_eq!(
            bob.get(&new, &format!("/api/jobs/{later}")).await.ok()["jobId"],
            later
        );
        assert_eq!(ada.messages(&new, "chat").await.len(), 2);
        // The worker that held the job completes it on the new store, under its old lease.
        let complete = json!({"lease": second["lease"], "result": {}});
        new.server(&format!("/api/worker/jobs/{running}/complete"), complete)
            .await
            .ok();

        assert!(new.terminate().await);
        let (is_good, text) =
            output_of(new.command(&["log", "import", dir.to_str().unwrap()])).await;
        assert!(!is_good && text.contains("used since"), "{text}");
    }
);

both_stores!(
    an_import_is_refused_while_a_server_runs,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        genie.user("ada").await;
        let dir = export_of(&genie);
        log(&genie, "export", &dir).await;
        let (is_good, text) =
            output_of(genie.command(&["log", "import", dir.to_str().unwrap()])).await;
        assert!(!is_good && text.contains("another genie"), "{text}");
        genie.terminate().await;
        let (is_good, text) =
            output_of(genie.command(&["log", "import", dir.to_str().unwrap()])).await;
        assert!(
            is_good && text.contains("0 of them new"),
            "the store must have it all: {text}"
        );
    }
);

both_stores!(
    the_passphrase_comes_from_a_file_that_only_its_owner_reads,
    async |store: TestStore| {
        use std::os::unix::fs::PermissionsExt;
        let genie = TestGenie::start(store).await;
        let dir = export_of(&genie);
        let file = genie.store.folder().join("passphrase");
        std::fs::write(&file, format!("{PASSPHRASE}\n")).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
        let arguments = [
            "log",
            "export",
            dir.to_str().unwrap(),
            "--passphrase-file",
            file.to_str().unwrap(),
        ];
        let export = async || genie.command(&arguments).output().await.unwrap();
        let refused = export().await;
        assert!(
            !refused.status.success()
                && String::from_utf8_lossy(&refused.stderr).contains("chmod 600"),
            "{refused:?}"
        );
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
        assert!(export().await.status.success());
        // The environment may give the same passphrase, without the line's end. Another passphrase
        // is refused.
        log(&genie, "export", &dir).await;
        let other = genie
            .command(&arguments[..3])
            .env("GENIE_EXPORT_PASSPHRASE", "something else")
            .output()
            .await
            .unwrap();
        assert!(
            String::from_utf8_lossy(&other.stderr).contains("passphrase is not the one"),
            "{other:?}"
        );
        let none = genie.command(&arguments[..3]).output().await.unwrap();
        assert!(
            String::from_utf8_lossy(&none.stderr).contains("--passphrase-file"),
            "{none:?}"
        );
    }
);

both_stores!(
    an_import_killed_at_any_moment_goes_on,
    async |store: TestStore| {
        let mut old = TestGenie::start(store).await;
        let ada = old.user("ada").await;
        for _ in 0..40 {
            ada.submit_job(&old).await;
        }
        assert!(old.terminate().await);
        let dir = export_of(&old);
        // Exports are killed too. The folder only ever has whole files.
        for millis in [0, 60, 120, 250] {
            killed(
                old.command(&["log", "export", dir.to_str().unwrap()]),
                millis,
            )
            .await;
        }
        log(&old, "export", &dir).await;
        let mut new = other_house(&old).await;
        for millis in [0, 60, 120, 180, 250, 400] {
            killed(
                new.command(&["log", "import", dir.to_str().unwrap()]),
                millis,
            )
            .await;
        }
        log(&new, "import", &dir).await;
        new.launch_again().await;
        new.settle().await;
        assert_eq!(
            ada.get(&new, "/api/jobs?limit=100").await.ok()["data"]
                .as_array()
                .unwrap()
                .len(),
            40
        );
    }
);

async fn killed(mut command: Command, millis: u64) {
    let mut process = command
        .env("GENIE_EXPORT_PASSPHRASE", PASSPHRASE)
        .spawn()
        .unwrap();
    moment_after(millis).await;
    process.kill().await.unwrap();
}
