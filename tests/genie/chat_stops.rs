//! Stopping a turn: while it waits, while the model reads, and while it writes.

use genie_log::testing::{TestStore, both_stores};
use serde_json::{Value, json};

use crate::{
    fake_ollama::Step,
    test_genie::{TestGenie, TestUser, outcome, text_of},
};

async fn start(store: TestStore) -> (TestGenie, TestUser) {
    let mut genie = TestGenie::start(store).await;
    let ada = genie.user("ada").await;
    (genie, ada)
}

async fn stop(genie: &TestGenie, user: &TestUser, turn: &str) {
    let path = format!("/api/genie/turns/{turn}");
    assert_eq!(user.delete(genie, &path).await.ok()["stopped"], true);
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
    a_turn_that_is_stopped_while_it_waits_never_reaches_the_model,
    async |store: TestStore| {
        let (genie, ada) = start(store).await;
        genie
            .ollama
            .script("long", &[Step::Say("one"), Step::Hold, Step::Done]);
        let mut held = ada.ask(&genie, "held", "a long one").await;
        held.text().await;
        let mut waiting = ada.ask(&genie, "s", "never to be asked").await;
        while !waiting.next().await.expect("a place in line").data["queue_position"].is_number() {}
        let turn = waiting.turn.clone();
        stop(&genie, &ada, &turn).await;
        assert_eq!(outcome(&waiting.rest().await), "stopped");
        // Asking again at once works, and so does stopping again.
        let again = ada.ask(&genie, "s", "hello").await;
        stop(&genie, &ada, &turn).await;
        genie.ollama.go_on();
        assert_eq!(outcome(&held.rest().await), "completed");
        assert_eq!(text_of(&again.rest().await), "Hello there");
        assert_eq!(genie.ollama.requests().len(), 2);
        // The question itself is kept: one message with the next.
        assert_eq!(given(&genie), [of("user", "never to be asked\n\nhello")]);
    }
);

both_stores!(
    a_turn_that_is_stopped_while_the_model_reads_frees_it_at_once,
    async |store: TestStore| {
        let (mut genie, ada) = start(store).await;
        genie
            .ollama
            .script("long", &[Step::Hold, Step::Say("late"), Step::Done]);
        let events = ada.ask(&genie, "s", "a long one").await;
        genie.ollama.asked().await;
        stop(&genie, &ada, &events.turn).await;
        genie.ollama.cancelled().await;
        let events = events.rest().await;
        assert_eq!(
            (outcome(&events), text_of(&events)),
            ("stopped".into(), String::new())
        );
        // Its last message holds both questions.
        genie
            .ollama
            .script("hello", &[Step::Say("Hello there"), Step::Done]);
        let next = ada.ask(&genie, "s", "hello").await.rest().await;
        assert_eq!(text_of(&next), "Hello there");
        assert_eq!(given(&genie), [of("user", "a long one\n\nhello")]);
    }
);

both_stores!(
    the_part_answer_of_a_stopped_turn_is_in_the_history,
    async |store: TestStore| {
        let (genie, ada) = start(store).await;
        genie
            .ollama
            .script("long", &[Step::Say("one"), Step::Hold, Step::Done]);
        let mut events = ada.ask(&genie, "s", "a long one").await;
        events.text().await;
        stop(&genie, &ada, &events.turn).await;
        genie.ollama.cancelled().await;
        let next = ada.ask(&genie, "s", "hello").await;
        assert_eq!(outcome(&events.rest().await), "stopped");
        assert_eq!(text_of(&next.rest().await), "Hello there");
        let history = [
            of("user", "a long one"),
            of("assistant", "one"),
            of("user", "hello"),
        ];
        assert_eq!(given(&genie), history);
        genie.settle().await;
        let path = "/api/genie/sessions/s/messages";
        let messages = ada.get(&genie, path).await.ok();
        assert_eq!(messages["data"][1]["outcome"], json!("stopped"));
    }
);
