//! Master keys through the real program: a ring in a file or in the environment, beside running
//! servers and without one.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use genie_log::{
    MasterKeys,
    testing::{Kind, TestStore, both_stores},
};
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::test_genie::TestGenie;

async fn keys(genie: &TestGenie, arguments: &[&str]) -> Output {
    genie
        .command(&[&["keys"], arguments].concat())
        .output()
        .await
        .unwrap()
}

#[track_caller]
fn said(output: Output) -> String {
    let (out, wrong) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    assert!(output.status.success(), "{out}{wrong}");
    out
}

#[track_caller]
fn refused(output: Output, words: &str) {
    let wrong = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && wrong.contains(words), "{wrong}");
}

fn ring_file(genie: &TestGenie) -> PathBuf {
    genie.store.folder().join("master.key")
}

/// The ids and counts that `genie keys list` prints.
async fn listed(genie: &TestGenie) -> Vec<(String, u64)> {
    let told = said(keys(genie, &["list"]).await);
    let row = |line: &str| {
        let (id, rest) = line.split_once(' ')?;
        Some((
            id.to_owned(),
            rest.trim()
                .strip_prefix("wraps ")?
                .split(' ')
                .next()?
                .parse()
                .ok()?,
        ))
    };
    told.lines().filter_map(row).collect()
}

fn pairs(of: &[(&str, u64)]) -> Vec<(String, u64)> {
    of.iter().map(|(id, n)| ((*id).to_owned(), *n)).collect()
}

/// Writes the store's own ring to a file where the server reads it, so that the test can edit the
/// file.
fn keep_ring(store: &TestStore, name: &str, mode: u32) -> PathBuf {
    let path = store.folder().join(name);
    fs::write(&path, store.masters()).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    path
}

async fn log_in(genie: &TestGenie, name: &str) {
    let login =
        json!({"email": format!("{name}@example.com"), "password": format!("{name}'s password")});
    assert_eq!(
        genie
            .send(Method::POST, "/auth/login", &[], Some(login))
            .await
            .status,
        200
    );
}

both_stores!(
    a_key_is_added_rotated_to_and_the_old_one_retired_beside_a_server,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let profile = json!({"platform": "onlyfans", "credentials": {"password": "hunter2"}});
        let profile = ada
            .post(&genie, "/api/credentials/create-profile", profile)
            .await
            .ok();
        let first = fs::read_to_string(ring_file(&genie)).unwrap();
        assert_eq!(listed(&genie).await, pairs(&[("m1", 2)]));
        assert!(said(keys(&genie, &["rotate"]).await).starts_with("nothing to do"));
        refused(keys(&genie, &["retire", "m1"]).await, "`m1` is current");
        refused(keys(&genie, &["retire", "m9"]).await, "no master key `m9`");

        assert!(said(keys(&genie, &["add"]).await).contains("`m2` is first in"));
        refused(keys(&genie, &["add", "m1"]).await, "take another id");
        refused(keys(&genie, &["add", "a,b"]).await, "1 to 32 letters");
        assert_eq!(
            fs::metadata(ring_file(&genie))
                .unwrap()
                .permissions()
                .mode()
                & 0o777,
            0o600
        );
        genie.user("bob").await;
        assert_eq!(listed(&genie).await, pairs(&[("m2", 0), ("m1", 3)]));

        let told = said(keys(&genie, &["rotate"]).await);
        for words in [
            "`m2` is current",
            "2 others remain",
            "2 wrapped anew, 0 remain",
            "all 3 data keys",
            "genie keys retire m1",
        ] {
            assert!(told.contains(words), "{words}: {told}");
        }
        genie.user("cyd").await;
        assert_eq!(listed(&genie).await, pairs(&[("m2", 4), ("m1", 0)]));
        assert!(said(keys(&genie, &["rotate"]).await).starts_with("nothing to do"));
        let told = said(keys(&genie, &["retire", "m1"]).await);
        assert!(told.contains("Backups and exports made before"), "{told}");
        assert!(said(keys(&genie, &["retire", "m1"]).await).starts_with("nothing to do"));
        refused(keys(&genie, &["add", "m1"]).await, "take another id");
        assert!(
            !fs::read_to_string(ring_file(&genie))
                .unwrap()
                .contains(first.trim())
        );

        // Checks the server that runs, and then a server that starts with only the new key.
        for _ in 0..2 {
            for name in ["ada", "bob", "cyd"] {
                log_in(&genie, name).await;
            }
            let reveal = json!({"creatorProfileId": profile["id"], "purpose": "test"});
            let revealed = genie.server("/api/credentials/reveal", reveal).await.ok();
            assert_eq!(revealed["credentials"], json!({"password": "hunter2"}));
            genie.restart().await;
        }
    }
);

both_stores!(
    a_rotation_that_was_killed_goes_on,
    async |store: TestStore| {
        keep_ring(&store, "master.key", 0o600);
        let log = store.open().await.log;
        for n in 0..40 {
            let register = async |m: u32| store.register(&log, &format!("user-{n}-{m}")).await;
            futures_util::future::join_all((0..100).map(register)).await;
        }
        log.store().close().await;
        drop(log);
        let mut genie = TestGenie::start_process(store).await;
        said(keys(&genie, &["add"]).await);
        let mut rotation = genie
            .command(&["keys", "rotate"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let line = BufReader::new(rotation.stdout.take().unwrap())
            .lines()
            .next_line()
            .await
            .unwrap()
            .unwrap();
        assert!(
            line.contains("`m2` is current: new data keys are wrapped by it; 4000 others remain"),
            "{line}"
        );
        genie.kill().await;
        rotation.kill().await.unwrap();

        // Lists keys in the store itself while no server runs, and finishes the rotation beside the
        // next server.
        let without = listed(&genie).await;
        assert_eq!(without.iter().map(|(_, n)| n).sum::<u64>(), 4001);
        genie.launch_again().await;
        let told = said(keys(&genie, &["rotate"]).await);
        assert!(
            told.contains("all 4001 data keys are wrapped by master key `m2`")
                || told.starts_with("nothing to do"),
            "{told}"
        );
        said(keys(&genie, &["retire", "m1"]).await);
        assert_eq!(listed(&genie).await, pairs(&[("m2", 4001)]));
        genie.restart().await;
        genie.settle().await; // waits until everything was read
    }
);

both_stores!(
    a_ring_in_the_environment_is_left_to_the_operator,
    async |store: TestStore| {
        let ring = store.masters().to_owned();
        let mut genie = TestGenie::start_with(store, &[("GENIE_MASTER_KEYS", ring.clone())]).await;
        genie.user("ada").await;
        let output = keys(&genie, &["add", "spring-2027"]).await;
        assert!(
            String::from_utf8_lossy(&output.stderr)
                .contains("restart the servers one after the other")
        );
        let entry = said(output);
        assert_eq!(
            MasterKeys::parse(entry.trim()).unwrap().first(),
            "spring-2027"
        );
        assert_eq!(listed(&genie).await, pairs(&[("m1", 2)]));
        assert!(!ring_file(&genie).exists());

        assert!(genie.terminate().await);
        genie.set("GENIE_MASTER_KEYS", format!("{},{ring}", entry.trim()));
        genie.launch_again().await;
        genie.user("bob").await;
        assert_eq!(
            listed(&genie).await,
            pairs(&[("spring-2027", 0), ("m1", 3)])
        );
        assert!(genie.terminate().await);
        // The rotation also works without a server.
        assert!(
            said(keys(&genie, &["rotate"]).await)
                .contains("all 3 data keys are wrapped by master key `spring-2027`")
        );

        let start = async |ring: &str| {
            genie
                .command(&["serve"])
                .env("GENIE_MASTER_KEYS", ring)
                .output()
                .await
                .unwrap()
        };
        refused(
            start(&ring).await,
            "master key `spring-2027` is wanted by 3 data keys, and not in the ring",
        );
        assert!(
            said(keys(&genie, &["retire", "m1"]).await)
                .contains("remove it from GENIE_MASTER_KEYS")
        );
        genie.set("GENIE_MASTER_KEYS", entry.trim().to_owned());
        genie.launch_again().await;
        log_in(&genie, "ada").await;
    }
);

both_stores!(
    a_ring_that_lacks_a_needed_key_is_refused_at_start,
    async |store: TestStore| {
        keep_ring(&store, "master.key", 0o600);
        let log = store.open().await.log;
        store.register(&log, "ada").await;
        store.register(&log, "bob").await;
        let new = MasterKeys::new_entry("m2");
        log.keys()
            .rings()
            .take(MasterKeys::parse(&format!("{},{}", *new, store.masters())).unwrap())
            .await
            .unwrap();
        log.keys().rotation().begin().await.unwrap(); // now the new key wraps the system's data key, but no user's
        log.store().close().await;
        drop(log);
        let genie = TestGenie::not_started(store, &[]).await;
        fs::write(ring_file(&genie), new.as_str()).unwrap();
        refused(
            keys(&genie, &["rotate"]).await,
            "master key `m1` is wanted by 2 data keys",
        );
        let start = genie.command(&["serve"]).output().await.unwrap();
        refused(
            start,
            "master key `m1` is wanted by 2 data keys, and not in the ring; add what is missing",
        );
    }
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_key_file_must_exist_and_be_closed_to_others() {
    let store = TestStore::new(Kind::Sqlite).await;
    let file = keep_ring(&store, "ring", 0o640);
    let named = ("GENIE_MASTER_KEYS_FILE", file.display().to_string());
    let mut genie = TestGenie::not_started(store, &[named]).await;
    let start = async |genie: &TestGenie| genie.command(&["serve"]).output().await.unwrap();
    refused(
        start(&genie).await,
        &format!("(mode 640); run: chmod 600 {}", file.display()),
    );
    fs::set_permissions(&file, Permissions::from_mode(0o400)).unwrap();
    genie.launch_again().await;
    assert_eq!(listed(&genie).await, pairs(&[("m1", 1)]));
    said(keys(&genie, &["add"]).await);
    assert_eq!(listed(&genie).await, pairs(&[("m2", 0), ("m1", 1)]));
    let both = genie
        .command(&["serve"])
        .env("GENIE_MASTER_KEYS", "m1:x")
        .output()
        .await
        .unwrap();
    refused(both, "are both set");
    genie.kill().await;
    fs::remove_file(&file).unwrap();
    refused(start(&genie).await, "GENIE_MASTER_KEYS_FILE: ");
    assert!(
        !file.exists() && !ring_file(&genie).exists(),
        "no key is made where a file was named"
    );
}

/// Two servers on one Postgres, each with its own file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_several_servers_nothing_is_wrapped_by_a_key_that_one_of_them_lacks() {
    let store = TestStore::new(Kind::Postgres).await;
    let (one, other) = (
        keep_ring(&store, "one", 0o600),
        keep_ring(&store, "other", 0o600),
    );
    let mut genie = TestGenie::not_started(store, &[]).await;
    genie.set("GENIE_MASTER_KEYS_FILE", one.display().to_string());
    genie.launch_again().await;
    genie.set("GENIE_MASTER_KEYS_FILE", other.display().to_string());
    let second = genie.another_node().await;
    genie.set("GENIE_MASTER_KEYS_FILE", one.display().to_string());
    genie.user("ada").await;

    said(keys(&genie, &["add"]).await);
    refused(
        keys(&genie, &["rotate"]).await,
        "these servers do not have master key `m2`: node-",
    );
    assert_eq!(listed(&genie).await, pairs(&[("m2", 0), ("m1", 2)]));
    fs::write(&other, fs::read(&one).unwrap()).unwrap();
    let began = Instant::now();
    let told = loop {
        let output = keys(&genie, &["rotate"]).await; // refused until the other server has read its file again
        if output.status.success() {
            break said(output);
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{output:?}");
    };
    assert!(told.contains("all 2 data keys"), "{told}");

    // The other server may still wrap data keys by the old key for some seconds. The next rotation
    // wraps those anew.
    genie.base = second.base.clone();
    genie.user("bob").await;
    said(keys(&genie, &["rotate"]).await);
    assert_eq!(listed(&genie).await, pairs(&[("m2", 3), ("m1", 0)]));
    said(keys(&genie, &["retire", "m1"]).await);
    log_in(&genie, "ada").await;
}
