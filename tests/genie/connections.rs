//! Connections that ask for too much: too many of them, and those whose clients do not read or do
//! not go on.

use genie_log::testing::{TestStore, both_stores};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{raw_connection::RawConnection, test_genie::TestGenie, until::until};

async fn start(store: TestStore, settings: &[(&'static str, &str)]) -> TestGenie {
    let settings: Vec<_> = settings
        .iter()
        .map(|(name, value)| (*name, (*value).to_owned()))
        .collect();
    TestGenie::start_with(store, &settings).await
}

/// Connections that have been accepted.
async fn crowd(genie: &TestGenie, size: usize) -> Vec<RawConnection> {
    let mut crowd = Vec::new();
    for _ in 0..size {
        let mut connection = RawConnection::open(genie).await;
        connection.get("/healthz").await;
        assert!(connection.head().await.starts_with("HTTP/1.1 200 OK"));
        crowd.push(connection);
    }
    crowd
}

#[track_caller]
fn refused(answer: &str, status: u16, code: &str) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    assert!(head.contains("\r\nRetry-After: 5\r\n"), "{head}");
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["code"], code);
    assert!(!body["request_id"].as_str().unwrap().is_empty());
}

both_stores!(
    an_address_has_its_share_of_connections,
    async |store: TestStore| {
        let genie = start(store, &[("CONNECTIONS_PER_ADDRESS", "3")]).await;
        let mut crowd = crowd(&genie, 3).await;
        let mut fourth = RawConnection::open(&genie).await;
        fourth.get("/healthz").await;
        refused(&fourth.rest().await, 429, "too_many_connections");
        crowd.pop();
        until("room for another connection", async || {
            let mut another = RawConnection::open(&genie).await;
            another.get("/healthz").await;
            let head = another.head().await;
            head.starts_with("HTTP/1.1 200 OK").then_some(())
        })
        .await;
    }
);

both_stores!(
    proxies_may_open_more_connections_but_not_more_than_there_may_be,
    async |store: TestStore| {
        let settings = [
            ("CONNECTIONS_PER_ADDRESS", "2"),
            ("CONNECTIONS_IN_ALL", "5"),
            ("TRUSTED_PROXIES", "127.0.0.0/8"),
        ];
        let genie = start(store, &settings).await;
        let _crowd = crowd(&genie, 5).await;
        let mut sixth = RawConnection::open(&genie).await;
        sixth.get("/healthz").await;
        refused(&sixth.rest().await, 503, "busy");
    }
);

both_stores!(
    a_client_that_asks_again_and_again_and_does_not_read_is_cut_off,
    async |store: TestStore| {
        let genie = start(store, &[("CLIENT_STALL_MS", "300")]).await;
        let mut deaf = RawConnection::open(&genie).await;
        for _ in 0..100 {
            deaf.get("/api/openapi.json").await;
        }
        deaf.send_what_fits(256 * 1024).await;
        deaf.until_cut_off().await;
        let healthy = genie.send(Method::GET, "/healthz", &[], None).await;
        healthy.ok();
    }
);

both_stores!(
    a_client_that_begins_a_second_request_and_stops_is_cut_off,
    async |store: TestStore| {
        let genie = start(store, &[("CLIENT_STALL_MS", "300")]).await;
        let mut slow = crowd(&genie, 1).await.remove(0);
        slow.send("GET /healthz HTTP/1.1\r\nHost: gen").await;
        slow.until_cut_off().await;
    }
);

both_stores!(
    bodies_of_strangers_are_small_and_take_a_bounded_amount_of_memory,
    async |store: TestStore| {
        let mut genie = start(store, &[("BODY_BYTES_IN_FLIGHT", "2097152")]).await;
        let ada = genie.user("ada").await;
        let large = json!({"email": "ada@example.com", "password": "x".repeat(16 << 10)});
        let login = |body: Value| genie.send(Method::POST, "/auth/login", &[], Some(body));
        login(large.clone())
            .await
            .refused_by_identity(413, "INVALID_PAYLOAD");
        let mut register = large;
        register["inviteCode"] = "x".into();
        genie
            .send(Method::POST, "/api/register", &[], Some(register))
            .await
            .refused(413, "body_too_large");

        // Strangers have an eighth: sixteen bodies that never end. One that came while a login held
        // the last bytes was refused, so each round begins another.
        let mut slow = Vec::new();
        let good = json!({"email": "ada@example.com", "password": "ada's password"});
        until("strangers to find no room", async || {
            let mut connection = RawConnection::open(&genie).await;
            connection.begin_login(16_384, 16_383).await;
            slow.push(connection);
            if slow.len() < 16 {
                return None;
            }
            let answer = login(good.clone()).await;
            (answer.status == 503).then(|| answer.refused_by_identity(503, "SERVICE_UNAVAILABLE"))
        })
        .await;
        ada.submit_job(&genie).await;
        drop(slow);
        until("room for strangers", async || {
            (login(good.clone()).await.status == 200).then_some(())
        })
        .await;
    }
);
