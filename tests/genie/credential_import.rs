//! `genie import credentials`: credentials of the original are imported once, beside a running
//! server and without one. Nothing in the file is lost or printed.

use std::{os::unix::fs::PermissionsExt, path::PathBuf, process::Output, time::Duration};

use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use genie_log::testing::{TestStore, both_stores};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    test_genie::{SECRET, TestGenie, TestUser},
    until::moment_after,
};

const KEY: [u8; 32] = [42; 32];

pub fn setting() -> (&'static str, String) {
    ("CREDENTIALS_ENC_KEY_B64", BASE64.encode(KEY))
}

/// Encrypts credentials as the original does.
pub fn sealed(credentials: &Value) -> String {
    let iv = genie_log::clock::random_bytes::<12>();
    let mut bytes = credentials.to_string().into_bytes();
    Aes256Gcm::new(&KEY.into())
        .encrypt_in_place(&iv.into(), &[], &mut bytes)
        .unwrap();
    let (ciphertext, tag) = bytes.split_at(bytes.len() - 16);
    format!(
        "v1:{}:{}:{}",
        hex::encode(iv),
        hex::encode(tag),
        hex::encode(ciphertext)
    )
}

pub fn line(user: &str, id: &str, platform: &str, credentials: Value) -> String {
    let line = json!({"userId": user, "creatorProfileId": id, "platform": platform, "credentials": credentials});
    line.to_string()
}

pub fn id(n: u128) -> String {
    Uuid::from_u128(0x0192_f0c1_2345_4000_8000_0000_0000_0000 + n).to_string()
}

async fn import(
    genie: &TestGenie,
    lines: &[String],
    arguments: &[&str],
) -> (bool, String, PathBuf) {
    let file = genie.store.folder().join("credentials.jsonl");
    std::fs::write(&file, lines.join("\n")).unwrap();
    let output = genie
        .command(
            &[
                &["import", "credentials", file.to_str().unwrap()],
                arguments,
            ]
            .concat(),
        )
        .output()
        .await
        .unwrap();
    let (is_good, text) = told(&output);
    (is_good, text, file)
}

fn told(output: &Output) -> (bool, String) {
    (
        output.status.success(),
        [&output.stdout, &output.stderr]
            .map(|bytes| String::from_utf8(bytes.clone()).unwrap())
            .concat(),
    )
}

async fn reveal(genie: &TestGenie, id: &str) -> Value {
    genie
        .server("/api/credentials/reveal", json!({"creatorProfileId": id}))
        .await
        .ok()["credentials"]
        .clone()
}

async fn stored(genie: &TestGenie, user: &TestUser) -> Vec<Value> {
    let path = format!(
        "/api/events?types=credential.stored,credential.changed&limit=500&user={}",
        user.id
    );
    let facts = genie
        .send(
            Method::GET,
            &path,
            &[("X-RBAC-SYNC-SECRET", SECRET.into())],
            None,
        )
        .await
        .ok();
    facts["data"].as_array().unwrap().clone()
}

both_stores!(
    credentials_are_imported_beside_a_server_and_without_one,
    async |store: TestStore| {
        let mut genie = TestGenie::start_with(store, &[setting()]).await;
        let (ada, bob) = (genie.user("ada").await, genie.user("bob").await);
        let secret = |n: usize| json!({"username": "ada", "password": format!("canary-{n}")});
        let object = |n: usize| json!({"enc": sealed(&secret(n))});
        let own = json!({"platform": "x", "credentials": {"password": "new"}});
        let new = bob
            .post(&genie, "/api/credentials/create-profile", own.clone())
            .await
            .ok()["id"]
            .clone();

        let damaged = sealed(&secret(0));
        let damaged = format!(
            "{}{}",
            &damaged[..damaged.len() - 1],
            if damaged.ends_with('0') { '1' } else { '0' }
        );
        let lines = [
            line(&ada.id, &id(1), "OnlyFans", object(1)),
            line(&ada.id, "profile-2", "fansly", json!(sealed(&secret(2)))),
            String::new(),
            line(&ada.id, &id(4), "x", json!({"password": "canary-4"})),
            line(&ada.id, &id(5), "x", json!(damaged)),
            line(&id(999), &id(6), "x", object(6)),
            "{\"canary-7\": ".to_owned(),
            format!("{{\"canary-8\": \"{}\"}}", "8".repeat(300_000)),
            line(&bob.id, &id(1), "fansly", object(9)),
            line(&bob.id, &id(10), "x", object(10)),
            line(&ada.id, &id(11), "x", json!(sealed(&json!("canary-11")))),
            line(&ada.id, &id(12), "reddit", object(12)),
        ];
        let rejected = genie.store.folder().join("rejected.jsonl");
        let with_rejected = ["--rejected", rejected.to_str().unwrap()];
        let (is_good, text, _) = import(&genie, &lines, &with_rejected).await;
        assert!(
            !is_good && text.contains("3 imported, 0 imported before, 8 not imported"),
            "{text}"
        );
        assert!(!text.contains("canary") && !text.contains("v1:"), "{text}");
        let wanted = [
            (1, "imported"),
            (2, "imported as "),
            (
                4,
                "not imported: `credentials` must be the value that the original encrypted",
            ),
            (
                5,
                "not imported: `credentials` does not open with CREDENTIALS_ENC_KEY_B64",
            ),
            (6, "not imported: genie does not know this user"),
            (7, "not imported: it is not valid JSON, at column"),
            (8, "not imported: it is longer than"),
            (
                9,
                "not imported: its `creatorProfileId` belongs to another user's credential here",
            ),
            (
                10,
                "not imported: The user's credentials for this platform and name are held under the id",
            ),
            (11, "not imported: `credentials` must be a JSON object"),
            (12, "imported"),
        ];
        for (number, words) in wanted {
            assert!(
                text.lines()
                    .any(|told| told.starts_with(&format!("line {number}: {words}"))),
                "line {number}: {words}\n{text}"
            );
        }
        assert!(
            !text.contains("line 3:"),
            "blank lines must be ignored: {text}"
        );
        // Rejected lines are in the file unchanged, and only its owner can read it.
        assert_eq!(
            std::fs::metadata(&rejected).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let kept = std::fs::read_to_string(&rejected).unwrap();
        let mut kept: Vec<_> = kept.lines().collect();
        let mut expected: Vec<_> = [3, 4, 5, 6, 7, 8, 9, 10]
            .map(|n| lines[n].as_str())
            .to_vec();
        kept.sort_unstable();
        expected.sort_unstable();
        assert!(kept == expected, "rejected lines must be unchanged");

        // Imported and new credentials are read side by side, under the ids that clients know.
        genie.settle().await;
        assert_eq!(reveal(&genie, &id(1)).await, secret(1));
        assert_eq!(
            reveal(&genie, new.as_str().unwrap()).await,
            json!({"password": "new"})
        );
        let mapped = text
            .lines()
            .find_map(|line| line.strip_prefix("line 2: imported as "))
            .unwrap();
        assert_eq!(reveal(&genie, &mapped[..36]).await, secret(2));
        // The owner can change an imported credential like any other.
        let update = json!({"id": id(1), "credentials": {"password": "changed"}});
        ada.post(&genie, "/api/credentials/update-profile-creds", update)
            .await
            .ok();
        let facts = stored(&genie, &ada).await;
        let callers: Vec<_> = facts
            .iter()
            .map(|fact| fact["caller"].as_str().unwrap())
            .collect();
        assert_eq!(callers, ["system", "system", "system", "user"]);

        // A second import, without a server, changes nothing and keeps the owner's change.
        let (is_good, text, _) = import(&genie, &lines, &with_rejected).await;
        assert!(
            !is_good && text.contains("name a file that does not exist yet"),
            "no file may be overwritten: {text}"
        );
        assert!(genie.terminate().await);
        let more = [
            lines[0].clone(),
            lines[1].clone(),
            lines[11].clone(),
            line(&bob.id, &id(13), "fansly", object(13)),
        ];
        let (is_good, text, _) = import(&genie, &more, &[]).await;
        assert!(
            is_good && text.contains("1 imported, 3 imported before, 0 not imported"),
            "{text}"
        );
        genie.launch_again().await;
        genie.settle().await;
        assert_eq!(stored(&genie, &ada).await, facts);
        assert_eq!(reveal(&genie, &id(1)).await, json!({"password": "changed"}));
        assert_eq!(reveal(&genie, &id(13)).await, secret(13));
        assert!(!genie.store.holds("canary").await);
    }
);

both_stores!(
    a_later_copy_replaces_only_what_an_earlier_copy_brought,
    async |store: TestStore| {
        let mut genie = TestGenie::start_with(store, &[setting()]).await;
        let ada = genie.user("ada").await;
        let copy = |password: &str| {
            let sealed = json!(sealed(&json!({"password": password})));
            [
                line(&ada.id, &id(1), "x", sealed.clone()),
                line(&ada.id, &id(2), "reddit", sealed.clone()),
                line(&ada.id, &id(3), "fansly", sealed),
            ]
        };
        let (first, second, third) = (copy("first"), copy("second"), copy("third"));
        assert!(import(&genie, &first, &[]).await.0);
        let update = json!({"id": id(2), "credentials": {"password": "ada's own"}});
        ada.post(&genie, "/api/credentials/update-profile-creds", update)
            .await
            .ok();
        ada.delete(&genie, &format!("/api/credentials/{}", id(3)))
            .await
            .ok();
        for (lines, password) in [(&second, "second"), (&third, "third")] {
            let (is_good, text, _) = import(&genie, lines, &[]).await;
            assert!(
                !is_good && text.contains("1 imported, 0 imported before, 2 not imported"),
                "{text}"
            );
            assert!(
                text.contains("line 2: not imported: This credential was changed here"),
                "{text}"
            );
            assert!(
                text.contains("line 3: not imported: This credential was removed here"),
                "{text}"
            );
            assert_eq!(reveal(&genie, &id(1)).await, json!({"password": password}));
        }
        // Importing an earlier copy once more undoes nothing.
        let (_, text, _) = import(&genie, &first, &[]).await;
        assert!(
            text.contains("0 imported, 3 imported before, 0 not imported"),
            "{text}"
        );
        assert_eq!(reveal(&genie, &id(1)).await, json!({"password": "third"}));
        assert_eq!(
            reveal(&genie, &id(2)).await,
            json!({"password": "ada's own"})
        );
    }
);

both_stores!(
    an_import_needs_the_key_and_is_not_stopped_by_limits,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let (_, ada) = (genie.user("admin").await, genie.user("ada").await);
        let lines: Vec<_> = (0..9)
            .map(|n| {
                line(
                    &ada.id,
                    &id(n),
                    &format!("platform {n}"),
                    json!(sealed(&json!({"n": n}))),
                )
            })
            .collect();
        let (is_good, text, _) = import(&genie, &lines, &[]).await;
        assert!(
            !is_good
                && text.contains("CREDENTIALS_ENC_KEY_B64 is not set")
                && text.contains("also for the server"),
            "{text}"
        );
        genie.kill().await;
        let (is_good, text, file) = import(&genie, &lines, &[]).await;
        assert!(
            !is_good && text.contains("CREDENTIALS_ENC_KEY_B64 is not set"),
            "{text}"
        );
        let with_key = async |key: &str| {
            let mut command = genie.command(&["import", "credentials", file.to_str().unwrap()]);
            told(
                &command
                    .env("CREDENTIALS_ENC_KEY_B64", key)
                    .output()
                    .await
                    .unwrap(),
            )
        };
        let (is_good, text) = with_key("c2hvcnQ=").await;
        assert!(
            !is_good && text.contains("must be 32 bytes in base64") && !text.contains("c2hvcnQ"),
            "{text}"
        );
        let (is_good, text) = with_key(&setting().1).await;
        assert!(
            is_good && text.contains("9 imported"),
            "the tier's limit must not stop the import: {text}"
        );
    }
);

both_stores!(
    an_import_killed_at_any_moment_goes_on,
    async |store: TestStore| {
        const LINES: u128 = 150;
        let mut genie = TestGenie::start_process_with(store, &[setting()]).await;
        let (_, ada) = (genie.user("admin").await, genie.user("ada").await);
        let secret = |n: u128| json!({"password": format!("secret {n}")});
        let lines: Vec<_> = (0..LINES)
            .map(|n| line(&ada.id, &id(n), &format!("p{n}"), json!(sealed(&secret(n)))))
            .collect();
        let file = genie.store.folder().join("credentials.jsonl");
        std::fs::write(&file, lines.join("\n")).unwrap();
        let arguments = ["import", "credentials", file.to_str().unwrap()];
        for (millis, kills_the_server) in [
            (30, false),
            (60, false),
            (90, true),
            (120, false),
            (150, true),
        ] {
            let mut process = genie
                .command(&arguments)
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap();
            moment_after(millis).await;
            if kills_the_server {
                genie.kill().await; // the import fails with the server, or takes the store itself
                let status = tokio::time::timeout(Duration::from_secs(30), process.wait())
                    .await
                    .unwrap()
                    .unwrap();
                println!(
                    "the server was killed after {millis} ms, and the import ended with {status}"
                );
                genie.launch_again().await;
            } else {
                process.kill().await.unwrap();
            }
        }
        let (is_good, text) = told(&genie.command(&arguments).output().await.unwrap());
        assert!(is_good && text.contains(" 0 not imported"), "{text}");
        let (is_good, text) = told(&genie.command(&arguments).output().await.unwrap());
        assert!(
            is_good
                && text.contains(&format!(
                    "0 imported, {LINES} imported before, 0 not imported"
                )),
            "{text}"
        );
        assert_eq!(stored(&genie, &ada).await.len() as u128, LINES, "each once");
        genie.settle().await;
        for n in 0..LINES {
            assert_eq!(reveal(&genie, &id(n)).await, secret(n));
        }
        let used = ada.get(&genie, "/api/usage").await.ok();
        assert_eq!(
            (
                &used["usage"]["platforms_connected"],
                &used["remaining"]["platforms_connected"]
            ),
            (&json!(LINES as u64), &json!(0))
        );
        let one_more = json!({"platform": "x", "credentials": {"password": "new"}});
        ada.post(&genie, "/api/credentials/create-profile", one_more)
            .await
            .refused(403, "tier_limit_reached");
    }
);
