//! Going on with a turn that its server left unfinished.

use genie_log::testing::{TestStore, both_stores};
use serde_json::{Value, json};

use crate::{
    fake_ollama::Step,
    test_genie::{Events, TestGenie, TestUser, outcome, text_of},
    until::until,
};

/// A turn that was interrupted after `one`, on a server that was started again.
async fn interrupted(store: TestStore) -> (TestGenie, TestUser, String) {
    let mut genie = TestGenie::start_process(store).await;
    let ada = genie.user("ada").await;
    let turn = interrupt(&mut genie, &ada).await;
    (genie, ada, turn)
}

/// Asks, and kills the server when the first word is shown.
async fn interrupt(genie: &mut TestGenie, user: &TestUser) -> String {
    genie
        .ollama
        .script("long", &[Step::Say("one"), Step::Hold, Step::Done]);
    let mut events = user.ask(genie, "s", "a long one").await;
    events.text().await;
    let turn = events.turn.clone();
    genie.restart().await;
    let url = format!("{}/api/genie/turns/{turn}/stream", genie.base);
    let resumed = genie.http.get(url).bearer_auth(&user.token);
    let rest = Events::open(resumed).await.rest().await;
    assert_eq!(outcome(&rest), "interrupted");
    turn
}

fn continuing(genie: &TestGenie, user: &TestUser, turn: &str) -> reqwest::RequestBuilder {
    let url = format!("{}/api/genie/turns/{turn}/continue", genie.base);
    genie.http.post(url).bearer_auth(&user.token)
}

/// Role and content of what the model was given last, without the system prompt.
fn given(genie: &TestGenie) -> Vec<(String, String)> {
    let requests = genie.ollama.requests();
    let messages = requests.last().unwrap()["messages"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let messages = messages.iter().skip(1);
    messages
        .map(|message| (text(&message["role"]), text(&message["content"])))
        .collect()
}

fn of(role: &str, text: &str) -> (String, String) {
    (role.to_owned(), text.to_owned())
}

both_stores!(
    an_interrupted_turn_is_gone_on_with_where_it_broke_off,
    async |store: TestStore| {
        let (genie, ada, turn) = interrupted(store).await;
        genie.ollama.script("one", &[Step::Say(" two"), Step::Done]);
        let key = |key: &str| continuing(&genie, &ada, &turn).header("Idempotency-Key", key);
        let events = Events::open(key("k")).await;
        let second = events.turn.clone();
        assert_ne!(second, turn);
        let events = events.rest().await;
        assert_eq!(events[0].data["continues"], json!(turn), "{events:?}");
        assert!(
            events[1..]
                .iter()
                .all(|event| event.data["continues"].is_null())
        );
        assert_eq!(text_of(&events), " two", "nothing is said twice");
        assert_eq!(outcome(&events), "completed");
        assert_eq!(
            given(&genie),
            [of("user", "a long one"), of("assistant", "one")]
        );

        // The same request again, and a reader of the whole, get the same turn.
        let asked = genie.ollama.requests().len();
        let again = Events::open(key("k")).await;
        assert_eq!(again.turn, second);
        let again = again.rest().await;
        assert_eq!(again[0].data["continues"], json!(turn), "{again:?}");
        assert_eq!(text_of(&again), " two");
        assert_eq!(genie.ollama.requests().len(), asked);

        let next = ada.ask(&genie, "s", "thanks").await.rest().await;
        assert_eq!(text_of(&next), "Hello there");
        let whole = [
            of("user", "a long one"),
            of("assistant", "one two"),
            of("user", "thanks"),
        ];
        assert_eq!(given(&genie), whole, "one answer to the model");
        genie.settle().await;
        let messages = ada.messages(&genie, "s").await;
        let shown: Vec<&str> = messages.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(
            shown,
            ["a long one", "one", " two", "thanks", "Hello there"]
        );
        let sessions = ada.get(&genie, "/api/genie/sessions").await.ok();
        assert_eq!(sessions["data"][0]["message_count"], 5);
        assert_eq!(sessions["data"][0]["running_turn"], Value::Null);

        for turn in [&turn, &second] {
            let path = format!("/api/genie/turns/{turn}/continue");
            let refused = ada.post(&genie, &path, Value::Null).await;
            refused.refused(409, "turn_not_last");
        }
    }
);

both_stores!(
    only_the_users_own_interrupted_last_turn_can_be_continued,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let bob = genie.user("bob").await;
        let path = |turn: &str| format!("/api/genie/turns/{turn}/continue");
        let whole = ada.ask(&genie, "s", "hello").await;
        let turn = whole.turn.clone();
        whole.rest().await;
        let code = async |turn: &str, status: u16, code: &str| {
            let answer = ada.post(&genie, &path(turn), Value::Null).await;
            answer.refused(status, code)
        };
        code(&turn, 409, "turn_not_interrupted").await;
        let elsewhere = bob.post(&genie, &path(&turn), Value::Null).await;
        elsewhere.refused(404, "not_found");
        code("0192d4e1-15c2-7d09-9a41-5e6f708192a3", 404, "not_found").await;
        code("x", 404, "not_found").await;
        genie
            .ollama
            .script("long", &[Step::Say("one"), Step::Hold, Step::Done]);
        let mut running = ada.ask(&genie, "s", "a long one").await;
        running.text().await;
        let turn = running.turn.clone();
        let told = code(&turn, 409, "turn_running").await;
        assert_eq!(told["turnId"], json!(turn));
        ada.delete(&genie, &format!("/api/genie/turns/{turn}"))
            .await
            .ok();
        assert_eq!(outcome(&running.rest().await), "stopped");
        code(&turn, 409, "turn_not_interrupted").await;
        ada.delete(&genie, "/api/genie/sessions/s").await.ok();
        genie.settle().await;
        code(&turn, 404, "not_found").await;
    }
);

both_stores!(
    a_continuation_that_breaks_off_can_be_continued_too,
    async |store: TestStore| {
        let (mut genie, ada, turn) = interrupted(store).await;
        let path = format!("/api/genie/turns/{turn}/continue");
        // The model is away at first.
        genie
            .ollama
            .script("one", &[Step::Refuse(500, "out of memory")]);
        until_refused(&genie, &ada, &path).await;
        // Then the server is killed after the first word.
        genie.ollama.script(
            "one",
            &[
                Step::Say(" two"),
                Step::Hold,
                Step::Say(" three"),
                Step::Done,
            ],
        );
        let mut events = Events::open(continuing(&genie, &ada, &turn)).await;
        let second = events.turn.clone();
        events.text().await;
        genie.restart().await;
        let url = format!("{}/api/genie/turns/{second}/stream", genie.base);
        let resumed = genie.http.get(url).bearer_auth(&ada.token);
        let rest = Events::open(resumed).await.rest().await;
        assert_eq!(rest[0].data["continues"], json!(turn), "{rest:?}");
        assert_eq!(
            (text_of(&rest), outcome(&rest)),
            (" two".into(), "interrupted".into())
        );
        genie
            .ollama
            .script("two", &[Step::Say(" three"), Step::Done]);
        let third = Events::open(continuing(&genie, &ada, &second))
            .await
            .rest()
            .await;
        assert_eq!(third[0].data["continues"], json!(second));
        assert_eq!(text_of(&third), " three");
        assert_eq!(
            given(&genie),
            [of("user", "a long one"), of("assistant", "one two")]
        );
    }
);

/// Continues a turn until the failure of the model is a status. On a busy machine the stream opens before.
async fn until_refused(genie: &TestGenie, user: &TestUser, path: &str) {
    until("the model to fail before the stream opens", async || {
        let answer = user.post(genie, path, Value::Null).await;
        (answer.status == 502).then_some(())
    })
    .await;
}

both_stores!(
    a_continuation_that_its_server_left_before_the_first_word_is_asked_again,
    async |store: TestStore| {
        let (mut genie, ada, turn) = interrupted(store).await;
        assert_eq!(genie.ollama.requests().len(), 1);
        genie.ollama.asked().await; // the question
        genie
            .ollama
            .script("one", &[Step::Hold, Step::Say(" two"), Step::Done]);
        let events = Events::open(continuing(&genie, &ada, &turn)).await;
        let second = events.turn.clone();
        genie.ollama.asked().await;
        genie.restart().await;
        genie.ollama.asked().await; // the new process asks the model again
        genie.ollama.go_on();
        let url = format!("{}/api/genie/turns/{second}/stream", genie.base);
        let resumed = genie.http.get(url).bearer_auth(&ada.token);
        let rest = Events::open(resumed).await.rest().await;
        assert_eq!(
            (text_of(&rest), outcome(&rest)),
            (" two".into(), "completed".into())
        );
        assert_eq!(
            given(&genie),
            [of("user", "a long one"), of("assistant", "one")]
        );
    }
);
