//! Tickets for browsers' `EventSource`: on a turn of a chat, and on the own feed.

use std::fs;

use genie_log::testing::{Kind, TestStore, both_stores};
use reqwest::RequestBuilder;
use serde_json::Value;

use crate::{
    fake_ollama::Step,
    secret_leaks::start,
    test_genie::{Events, TestGenie, TestUser, outcome, text_of},
    until::until,
};

async fn ticket(genie: &TestGenie, user: &TestUser, path: &str) -> String {
    let made = user.post(genie, path, Value::Null).await.ok();
    made["ticket"].as_str().unwrap().to_owned()
}

/// As `EventSource`: no token, and the last id when it comes back.
fn watching(genie: &TestGenie, path: &str, ticket: &str, last: &str) -> RequestBuilder {
    let address = format!("{}{path}?ticket={ticket}", genie.base);
    let request = genie
        .http
        .get(address)
        .header("Accept", "text/event-stream");
    match last {
        "" => request,
        last => request.header("Last-Event-ID", last),
    }
}

both_stores!(
    a_ticket_opens_a_turn_for_a_browser_until_a_minute_after_its_end,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let bob = genie.user("bob").await;
        genie.ollama.script(
            "long",
            &[Step::Say("one"), Step::Hold, Step::Say(" two"), Step::Done],
        );
        let asked = ada.ask(&genie, "s", "a long one").await;
        let turn = asked.turn.clone();
        let path = format!("/api/genie/turns/{turn}/stream");
        let make = format!("/api/genie/turns/{turn}/ticket");
        let good = ticket(&genie, &ada, &make).await;
        bob.post(&genie, &make, Value::Null)
            .await
            .refused(404, "not_found");
        let status = async |path: &str, ticket: &str, last: &str| {
            let answer = watching(&genie, path, ticket, last).send().await.unwrap();
            answer.status().as_u16()
        };
        let mut events = Events::open(watching(&genie, &path, &good, "")).await;
        let seen = events.text().await;
        assert_eq!(seen.data["textResponse"], "one");
        assert!(seen.id.starts_with(&format!("{turn}:3:")), "{}", seen.id);
        drop(events);

        let other = ada.ask(&genie, "other", "hello").await;
        let of_other = format!("/api/genie/turns/{}/stream", other.turn);
        let ticket_of_other = format!("/api/genie/turns/{}/ticket", other.turn);
        let ticket_of_other = ticket(&genie, &ada, &ticket_of_other).await;
        assert_eq!(status(&of_other, &good, "").await, 403, "for another turn");
        assert_eq!(status(&path, "x", "").await, 403);
        let messages = "/api/genie/sessions/s/messages";
        assert_eq!(status(messages, &good, "").await, 401);
        let job = "/api/jobs/0192d4e1-15c2-7d09-9a41-5e6f708192a3/stream";
        assert_eq!(status(job, &good, "").await, 403, "for another kind");
        assert_eq!(status("/api/me/events", &good, "").await, 403);

        // A minute later only the reader who was there goes on.
        genie.clock.advance_millis(60_000);
        assert_eq!(status(&path, &good, "").await, 403);
        assert_eq!(status(&path, &good, &format!("{turn}:3")).await, 403);
        assert_eq!(status(&of_other, &ticket_of_other, &seen.id).await, 403);
        let resumed = Events::open(watching(&genie, &path, &good, &seen.id)).await;
        genie.ollama.go_on();
        let rest = resumed.rest().await;
        assert_eq!(
            (text_of(&rest), outcome(&rest)),
            (" two".into(), "completed".into())
        );
        genie.settle().await;
        let last = rest.last().unwrap().id.clone();
        assert_eq!(
            status(&path, &good, &last).await,
            204,
            "it has seen the end"
        );
        let again = Events::open(watching(&genie, &path, &good, &seen.id)).await;
        assert_eq!(text_of(&again.rest().await), " two");
        genie.clock.advance_millis(61_000);
        assert_eq!(status(&path, &good, &seen.id).await, 403, "over");
        let by_token = genie.http.get(format!("{}{path}", genie.base));
        let by_token = by_token
            .bearer_auth(&ada.token)
            .header("Last-Event-ID", &seen.id);
        assert_eq!(text_of(&Events::open(by_token).await.rest().await), " two");

        // The ticket dies with the login that made it.
        let good = ticket(&genie, &ada, &make).await;
        ada.delete(&genie, "/api/me/sessions").await;
        genie.settle().await;
        assert_eq!(status(&path, &good, "").await, 401);
    }
);

both_stores!(
    a_ticket_opens_the_own_feed_for_a_day,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let bob = genie.user("bob").await;
        let path = "/api/me/events";
        let good = ticket(&genie, &ada, "/api/me/events/ticket").await;
        let of_bob = ticket(&genie, &bob, "/api/me/events/ticket").await;
        let status = async |ticket: &str, last: &str| {
            let answer = watching(&genie, path, ticket, last).send().await.unwrap();
            answer.status().as_u16()
        };
        let mut events = Events::open(watching(&genie, path, &good, "")).await;
        let first = events.next().await.unwrap();
        assert_eq!(first.data["type"], "account.registered");
        drop(events);
        let page = genie
            .http
            .get(format!("{}{path}?ticket={good}", genie.base));
        assert_eq!(page.send().await.unwrap().status(), 403, "the stream alone");
        assert_eq!(status("x", "").await, 403);

        genie.clock.advance_millis(60_000);
        assert_eq!(status(&good, "").await, 403);
        assert_eq!(status(&of_bob, &first.id).await, 403, "another's proof");
        genie.clock.advance_millis(23 * 60 * 60 * 1000);
        let mut events = Events::open(watching(&genie, path, &good, &first.id)).await;
        let second = events.next().await.unwrap();
        assert_ne!(
            second.data["cursor"], first.data["cursor"],
            "it goes on behind the first"
        );
        assert_eq!(
            second.data["userid"], first.data["userid"],
            "and has her facts alone"
        );
        drop(events);
        genie.clock.advance_millis(60 * 60 * 1000);
        assert_eq!(status(&good, &second.id).await, 403, "a day later");
    }
);

#[tokio::test]
async fn no_line_of_the_log_holds_a_ticket() {
    let settings = [("GENIE_LOG", "info".to_owned())];
    let mut genie = TestGenie::not_started(TestStore::new(Kind::Sqlite).await, &settings).await;
    let logs = genie.store.folder().join("logs");
    fs::create_dir(&logs).unwrap();
    let mut process = start(&mut genie, &logs, "json").await;
    let ada = genie.user("ada").await;
    let good = ticket(&genie, &ada, "/api/me/events/ticket").await;
    let mut events = Events::open(watching(&genie, "/api/me/events", &good, "")).await;
    assert!(events.next().await.is_some());
    let refused = "/api/genie/turns/0192d4e1-15c2-7d09-9a41-5e6f708192a3/stream";
    let refused = watching(&genie, refused, &good, "").send().await.unwrap();
    assert_eq!(refused.status(), 403);
    let text = until("the line of the refused request", async || {
        let text = fs::read_to_string(logs.join("stderr")).unwrap();
        text.contains("/stream").then_some(text)
    })
    .await;
    assert!(!text.contains(&good) && !text.contains("ticket="));
    process.kill().await.unwrap();
}
