//! Streams that are open at once: a user's, and all.

use genie_log::testing::{TestStore, both_stores};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use crate::{
    test_genie::{SECRET, TestGenie, TestUser},
    until::until,
};

async fn feed_of(genie: &TestGenie, user: &TestUser) -> Response {
    let url = format!("{}/api/me/events", genie.base);
    let request = genie.http.get(url).bearer_auth(&user.token);
    let request = request.header("Accept", "text/event-stream");
    request.send().await.unwrap()
}

async fn feed_of_all(genie: &TestGenie) -> Response {
    let url = format!("{}/api/events", genie.base);
    let request = genie.http.get(url).header("X-RBAC-SYNC-SECRET", SECRET);
    let request = request.header("Accept", "text/event-stream");
    request.send().await.unwrap()
}

async fn refused(response: Response, status: u16, code: &str) {
    assert_eq!(response.status(), status);
    assert!(response.headers().contains_key("Retry-After"));
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["code"], code);
}

both_stores!(
    a_user_has_a_share_of_streams_and_all_share_the_rest,
    async |store: TestStore| {
        let settings = [
            ("STREAMS_PER_USER", "2".to_owned()),
            ("STREAMS_IN_ALL", "4".to_owned()),
            ("ONBOARDING_GATE", "off".to_owned()),
        ];
        let mut genie = TestGenie::start_with(store, &settings).await;
        let (ada, bob) = (genie.user("ada").await, genie.user("bob").await);
        let (first, second) = (feed_of(&genie, &ada).await, feed_of(&genie, &ada).await);
        assert!(first.status().is_success() && second.status().is_success());
        refused(feed_of(&genie, &ada).await, 429, "too_many_streams").await;
        let question = json!({"message": "hello"});
        ada.post(&genie, "/api/genie/stream-chat", question)
            .await
            .refused(429, "too_many_streams");
        let sessions = ada.get(&genie, "/api/genie/sessions").await.ok();
        assert_eq!(sessions["data"], json!([]), "nothing was asked");

        let (_bobs, _subscribers) = (feed_of(&genie, &bob).await, feed_of_all(&genie).await);
        refused(feed_of_all(&genie).await, 503, "busy").await;
        let waiting = json!({"queues": ["media-jobs"], "worker_id": "w", "wait_ms": 10});
        genie
            .server("/api/worker/claim", waiting)
            .await
            .refused(503, "busy");
        let at_once = json!({"queues": ["media-jobs"], "worker_id": "w"});
        genie.server("/api/worker/claim", at_once).await.ok();

        drop(first);
        until("the stream's end to be noticed", async || {
            let again = feed_of(&genie, &ada).await;
            (again.status() == StatusCode::OK).then_some(())
        })
        .await;
    }
);
