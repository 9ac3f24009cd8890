//! `genie invite` beside a running server, and without one; and the socket between them.

use std::os::unix::fs::PermissionsExt;

use genie_log::testing::{TestStore, both_stores};
use reqwest::Method;
use serde_json::json;

use crate::genie::{SECRET, TestGenie};

/// The codes that `genie invite` printed.
async fn invite(genie: &TestGenie, arguments: &[&str]) -> Vec<String> {
    let output = genie.command(&[&["invite"], arguments].concat()).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

async fn register(genie: &TestGenie, name: &str, code: &str) {
    let body = json!({"email": format!("{name}@example.com"), "password": "a long password", "inviteCode": code});
    genie.send(Method::POST, "/api/register", &[], Some(body)).await.ok();
}

both_stores!(invites_are_made_beside_a_server_and_without_one, async |store: TestStore| {
    let mut genie = TestGenie::start(store).await;
    let socket = genie.store.folder().join("genie.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let codes =
        invite(&genie, &["--count", "3", "--tier", "pro", "--role", "creator", "--expires-at", "2999-01-01T00:00:00Z"]).await;
    assert_eq!(codes.len(), 3);
    register(&genie, "ada", &codes[0]).await;
    let secret = [("X-RBAC-SYNC-SECRET", SECRET.into())];
    let facts = genie.send(Method::GET, "/api/events?types=invite.created&limit=10", &secret, None).await.ok();
    assert_eq!(facts["data"].as_array().unwrap().len(), 4, "the first one and these: the server made them");
    let refused = genie.command(&["invite", "--tier", "gold"]).output().await.unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("`tier` must be one of"), "{refused:?}");

    // The socket of a server that was killed is in nobody's way: neither without a server ...
    genie.kill().await;
    assert!(socket.exists());
    let codes = invite(&genie, &[]).await;
    // ... nor at the next start.
    genie.launch_again().await;
    register(&genie, "bob", &codes[0]).await;
    register(&genie, "cyd", &invite(&genie, &[]).await[0]).await;
    assert!(genie.terminate().await);
    assert!(!socket.exists(), "it goes with its server");
});

both_stores!(an_invite_on_a_new_store_does_not_take_the_place_of_the_first, async |store: TestStore| {
    let mut genie = TestGenie::not_started(store, &[]).await;
    let codes = invite(&genie, &[]).await;
    genie.launch_again().await;
    assert!(genie.said.iter().any(|line| line.contains("first invite")), "{:?}", genie.said);
    register(&genie, "bob", &codes[0]).await;
    genie.user("ada").await;
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_servers_in_one_folder_the_first_has_the_socket() {
    let mut genie = TestGenie::start(TestStore::new(genie_log::testing::Kind::Postgres).await).await;
    let second = genie.another_node().await;
    let codes = invite(&genie, &[]).await;
    drop(second); // killed
    register(&genie, "ada", &codes[0]).await;
    register(&genie, "bob", &invite(&genie, &[]).await[0]).await;
    assert!(genie.terminate().await);
}
