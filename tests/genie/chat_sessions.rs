//! Chat sessions: titles, search, and deletion, which nothing survives.

use genie_log::testing::{Kind, TestStore, both_stores};
use serde_json::json;

use crate::{
    fake_ollama::Step,
    test_genie::{Events, TestGenie, TestUser, outcome, text_of},
    until::until,
};

async fn start(store: TestStore) -> (TestGenie, TestUser) {
    let mut genie = TestGenie::start(store).await;
    let ada = genie.user("ada").await;
    (genie, ada)
}

const LONG: [Step; 4] = [Step::Say("one"), Step::Hold, Step::Say(" two"), Step::Done];

/// Lets a user past the onboarding gate.
async fn onboard(genie: &TestGenie, user: &TestUser) {
    for state in ["DATA_COLLECTION", "PROCESSING"] {
        let step = json!({"state": state});
        user.patch(genie, "/api/onboarding/state", step).await.ok();
    }
}

/// The titles of a user's sessions, the latest used first.
async fn titles(genie: &TestGenie, user: &TestUser, query: &str) -> Vec<String> {
    let path = format!("/api/genie/sessions?{query}");
    let page = user.get(genie, &path).await.ok();
    let rows = page["data"].as_array().unwrap().iter();
    rows.map(|row| row["title"].as_str().unwrap().to_owned())
        .collect()
}

both_stores!(
    a_session_has_a_title_that_can_be_changed_and_searched,
    async |store: TestStore| {
        let (mut genie, ada) = start(store).await;
        let bob = genie.user("bob").await;
        onboard(&genie, &bob).await;
        let long = format!("What about\n  a Café {}?", "x".repeat(60));
        ada.ask(&genie, "a", &long).await.rest().await;
        ada.ask(&genie, "a", "and more").await.rest().await;
        ada.ask(&genie, "b/ü", "Plans for May").await.rest().await;
        bob.ask(&genie, "a", "Plans of Bob").await.rest().await;
        genie.settle().await;
        let first = format!("What about a Café {}", "x".repeat(42));
        assert_eq!(first.chars().count(), 60);
        assert_eq!(titles(&genie, &ada, "").await, ["Plans for May", &first]);
        assert_eq!(
            titles(&genie, &ada, "search=PLANS").await,
            ["Plans for May"]
        );
        assert_eq!(
            titles(&genie, &ada, "search=cafe%CC%81").await,
            [first.as_str()]
        );
        assert_eq!(titles(&genie, &ada, "search=%20").await.len(), 2);
        assert!(titles(&genie, &ada, "search=Bob").await.is_empty());
        let too_long = format!("/api/genie/sessions?search={}", "x".repeat(201));
        ada.get(&genie, &too_long)
            .await
            .refused(400, "invalid_field");

        // Its name is reachable percent-encoded.
        let path = "/api/genie/sessions/b%2F%C3%BC";
        let renamed = ada
            .patch(&genie, path, json!({"title": " My  plans "}))
            .await;
        assert!(renamed.headers.contains_key("Genie-Position"));
        assert_eq!(renamed.ok()["title"], "My plans");
        genie.settle().await;
        assert_eq!(titles(&genie, &ada, "search=my").await, ["My plans"]);
        assert!(titles(&genie, &ada, "search=may").await.is_empty());
        ada.ask(&genie, "b/ü", "go on").await.rest().await;
        ada.patch(&genie, path, json!({"title": null})).await.ok();
        genie.settle().await;
        assert_eq!(titles(&genie, &ada, "limit=1").await, ["Plans for May"]);
        for bad in [
            json!({}),
            json!({"title": " "}),
            json!({"title": "x".repeat(201)}),
        ] {
            ada.patch(&genie, path, bad)
                .await
                .refused(400, "invalid_field");
        }
        let absent = "/api/genie/sessions/absent";
        let title = json!({"title": "t"});
        ada.patch(&genie, absent, title.clone())
            .await
            .refused(404, "not_found");
        bob.patch(&genie, path, title)
            .await
            .refused(404, "not_found");
        assert_eq!(titles(&genie, &bob, "").await, ["Plans of Bob"]);
    }
);

both_stores!(
    a_search_goes_through_all_titles_in_pages,
    async |store: TestStore| {
        let (genie, ada) = start(store).await;
        for n in 0..5 {
            let question = if n % 2 == 0 { "even" } else { "odd" };
            let session = format!("s{n}");
            ada.ask(&genie, &session, question).await.rest().await;
        }
        genie.settle().await;
        let mut ids = Vec::new();
        let mut path = "/api/genie/sessions?search=even&limit=2".to_owned();
        loop {
            let page = ada.get(&genie, &path).await.ok();
            let rows = page["data"].as_array().unwrap().clone();
            ids.extend(
                rows.iter()
                    .map(|row| row["id"].as_str().unwrap().to_owned()),
            );
            let Some(next) = page["next_cursor"].as_str() else {
                break;
            };
            path = format!("/api/genie/sessions?search=even&limit=2&cursor={next}");
        }
        assert_eq!(ids, ["s4", "s2", "s0"]);
    }
);

both_stores!(
    a_deleted_session_is_gone_from_every_read_and_its_name_is_free,
    async |store: TestStore| {
        let (mut genie, ada) = start(store).await;
        let bob = genie.user("bob").await;
        onboard(&genie, &bob).await;
        let asked = ada.ask(&genie, "s", "the canary question").await;
        let turn = asked.turn.clone();
        asked.rest().await;
        ada.ask(&genie, "kept", "hello").await.rest().await;
        bob.ask(&genie, "s", "hello").await.rest().await;
        let path = "/api/genie/sessions/s";
        let stream = format!("/api/genie/turns/{turn}/stream");
        let messages = format!("{path}/messages");
        let deleted = ada.delete(&genie, path).await.ok();
        assert_eq!(
            (deleted["id"].as_str(), &deleted["deleted"]),
            (Some("s"), &json!(true))
        );
        for restarts in [false, true] {
            if restarts {
                genie.restart().await;
            }
            genie.settle().await;
            assert_eq!(titles(&genie, &ada, "").await, ["hello"]);
            assert!(titles(&genie, &ada, "search=canary").await.is_empty());
            ada.get(&genie, &messages).await.refused(404, "not_found");
            ada.get(&genie, &stream).await.refused(404, "not_found");
            ada.delete(&genie, &format!("/api/genie/turns/{turn}"))
                .await
                .refused(404, "not_found");
            let title = json!({"title": "t"});
            ada.patch(&genie, path, title)
                .await
                .refused(404, "not_found");
        }
        let export = ada.get(&genie, "/api/me/export").await.ok();
        assert!(!export["messages"].to_string().contains("canary"));
        assert!(!export["chats"].to_string().contains("canary"));
        let feed = ada
            .get(&genie, "/api/me/events?types=chat.*&limit=500")
            .await
            .ok();
        assert!(!feed.to_string().contains("canary"));
        let last = feed["data"].as_array().unwrap().last().unwrap();
        assert_eq!(last["type"], "chat.removed");
        assert_eq!(bob.messages(&genie, "s").await.len(), 2, "another user's");

        ada.delete(&genie, path).await.ok(); // a second time is no error
        let absent = ada.delete(&genie, "/api/genie/sessions/absent").await;
        absent.refused(404, "not_found");

        // The name begins anew, and the model is given nothing of before.
        let again = ada.ask(&genie, "s", "fresh").await.rest().await;
        assert_eq!(text_of(&again), "Hello there");
        let requests = genie.ollama.requests();
        let given = requests.last().unwrap()["messages"].as_array().unwrap();
        assert_eq!(given.len(), 2, "{given:?}");
        assert_eq!(given[1]["content"], "fresh");
        genie.settle().await;
        assert_eq!(titles(&genie, &ada, "").await, ["fresh", "hello"]);
        assert_eq!(ada.messages(&genie, "s").await.len(), 2);
        ada.get(&genie, &stream).await.refused(404, "not_found");
    }
);

both_stores!(
    deleting_a_session_stops_its_turn_and_tells_its_reader,
    async |store: TestStore| {
        let (genie, ada) = start(store).await;
        genie.ollama.script("long", &LONG);
        let mut events = ada.ask(&genie, "s", "a long one").await;
        events.text().await;
        let turn = events.turn.clone();
        ada.delete(&genie, "/api/genie/sessions/s").await.ok();
        genie.ollama.cancelled().await;
        assert_eq!(outcome(&events.rest().await), "stopped");
        let next = ada.ask(&genie, "s", "hello").await;
        assert_ne!(next.turn, turn);
        assert_eq!(text_of(&next.rest().await), "Hello there", "at once");
        genie.settle().await;
        assert_eq!(
            ada.messages(&genie, "s").await,
            [
                ("user".into(), "hello".into()),
                ("assistant".into(), "Hello there".into())
            ]
        );
        let stream = format!("/api/genie/turns/{turn}/stream");
        ada.get(&genie, &stream).await.refused(404, "not_found");
    }
);

both_stores!(
    a_turn_that_waits_never_reaches_the_model_after_its_session_is_deleted,
    async |store: TestStore| {
        let (genie, ada) = start(store).await;
        genie.ollama.script("long", &LONG);
        let mut held = ada.ask(&genie, "held", "a long one").await;
        held.text().await;
        let waiting = ada.ask(&genie, "s", "never to be asked").await;
        ada.delete(&genie, "/api/genie/sessions/s").await.ok();
        assert_eq!(outcome(&waiting.rest().await), "stopped");
        genie.ollama.go_on();
        assert_eq!(outcome(&held.rest().await), "completed");
        let next = ada.ask(&genie, "s", "hello").await.rest().await;
        assert_eq!(text_of(&next), "Hello there");
        let asked = genie.ollama.requests();
        assert!(!json!(asked).to_string().contains("never to be asked"));
    }
);

both_stores!(
    a_server_that_dies_after_a_deletion_brings_nothing_back,
    async |store: TestStore| {
        let mut genie = TestGenie::start_process(store).await;
        let ada = genie.user("ada").await;
        genie.ollama.script("long", &LONG);
        let mut events = ada.ask(&genie, "s", "a long one").await;
        events.text().await;
        let turn = events.turn.clone();
        ada.delete(&genie, "/api/genie/sessions/s").await.ok();
        genie.restart().await;
        genie.settle().await;
        let messages = "/api/genie/sessions/s/messages";
        ada.get(&genie, messages).await.refused(404, "not_found");
        let stream = format!("/api/genie/turns/{turn}/stream");
        ada.get(&genie, &stream).await.refused(404, "not_found");
        let next = ada.ask(&genie, "s", "hello").await.rest().await;
        assert_eq!(text_of(&next), "Hello there");
    }
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_deleted_on_another_server_stops_here() {
    let (mut genie, ada) = start(TestStore::new(Kind::Postgres).await).await;
    let first = genie.base.clone();
    let second = genie.another_node().await;
    genie.ollama.script("long", &LONG);
    let mut here = ada.ask(&genie, "s", "a long one").await;
    here.text().await;
    genie.base = second.base.clone();
    let resumed = genie
        .http
        .get(format!(
            "{}/api/genie/turns/{}/stream",
            genie.base, here.turn
        ))
        .bearer_auth(&ada.token)
        .header("Genie-Min-Position", &here.position);
    let mut there = Events::open(resumed).await;
    assert_eq!(there.text().await.data["textResponse"], "one");
    let deleted = ada.delete(&genie, "/api/genie/sessions/s").await;
    let position = deleted.headers["Genie-Position"].clone();
    deleted.ok();
    genie.ollama.cancelled().await;
    assert_eq!(outcome(&here.rest().await), "stopped");
    assert_eq!(outcome(&there.rest().await), "stopped");
    genie.base = first;
    until("the first server to show the deletion", async || {
        let listing = genie
            .http
            .get(format!("{}/api/genie/sessions", genie.base))
            .bearer_auth(&ada.token)
            .header("Genie-Min-Position", &position);
        let page: serde_json::Value = listing.send().await.ok()?.json().await.ok()?;
        page["data"]
            .as_array()
            .filter(|rows| rows.is_empty())
            .map(drop)
    })
    .await;
}
