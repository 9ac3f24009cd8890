//! What the model is told beside the messages, and how it is asked.

use genie_log::testing::{TestStore, both_stores};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    fake_ollama::Step,
    test_genie::{Answer, TestGenie, TestUser, text_of},
};

const PERSONA: &str = "/api/me/persona";

async fn put(genie: &TestGenie, user: &TestUser, text: &str) -> Answer {
    let body = json!({"text": text});
    genie
        .send(Method::PUT, PERSONA, &user.headers(), Some(body))
        .await
}

/// The system prompt of the last question.
fn told(genie: &TestGenie) -> String {
    let requests = genie.ollama.requests();
    let first = &requests.last().unwrap()["messages"][0];
    assert_eq!(first["role"], "system");
    first["content"].as_str().unwrap().to_owned()
}

both_stores!(
    a_persona_follows_the_system_prompt_and_is_the_users_own,
    async |store: TestStore| {
        let prompt = [("CHAT_SYSTEM_PROMPT", "Speak like a sailor.".to_owned())];
        let mut genie = TestGenie::start_with(store, &prompt).await;
        let ada = genie.user("ada").await;
        let bob = genie.user("bob").await;
        assert_eq!(ada.get(&genie, PERSONA).await.ok()["text"], "");
        ada.ask(&genie, "s", "hello").await.rest().await;
        assert_eq!(told(&genie), "Speak like a sailor.");
        let changed = put(&genie, &ada, "  I sing to a canary.\n").await;
        assert!(changed.headers.contains_key("Genie-Position"));
        assert_eq!(changed.ok()["text"], "I sing to a canary.");
        assert_eq!(
            ada.get(&genie, PERSONA).await.ok()["text"],
            "I sing to a canary."
        );
        assert_eq!(bob.get(&genie, PERSONA).await.ok()["text"], "");
        genie.restart().await;
        ada.ask(&genie, "s", "hello").await.rest().await;
        let with_persona =
            "Speak like a sailor.\n\nThe user says about themselves:\nI sing to a canary.";
        assert_eq!(told(&genie), with_persona);
        let longest = "é".repeat(2048);
        put(&genie, &ada, &format!("{longest}x"))
            .await
            .refused(400, "invalid_field");
        put(&genie, &ada, &longest).await.ok();
        put(&genie, &ada, "I sing to a canary.").await.ok();

        // It is personal: in the export, and not in the feed.
        let export = ada.get(&genie, "/api/me/export").await.ok();
        assert_eq!(export["account"]["persona"], "I sing to a canary.");
        let feed = ada
            .get(&genie, "/api/me/events?types=account.*&limit=500")
            .await
            .ok();
        let types: Vec<&Value> = feed["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| &one["type"])
            .collect();
        assert!(
            types.contains(&&json!("account.persona_changed")),
            "{types:?}"
        );
        assert!(!feed.to_string().contains("canary"));

        put(&genie, &ada, " ").await.ok();
        ada.ask(&genie, "s", "hello").await.rest().await;
        assert_eq!(told(&genie), "Speak like a sailor.");
    }
);

both_stores!(a_model_has_options_of_its_own, async |store: TestStore| {
    let options = json!({
        "qwen2.5": {"max_tokens": 77, "context_tokens": 1000, "temperature": 0.5, "stop": ["END"]},
        "other:7b": {"temperature": 1.5},
    });
    let settings = [("CHAT_MODEL_OPTIONS", options.to_string())];
    let mut genie = TestGenie::start_with(store, &settings).await;
    let ada = genie.user("ada").await;
    ada.ask(&genie, "s", "hello").await.rest().await;
    let asked = &genie.ollama.requests()[0]["options"];
    let wanted = json!({"num_ctx": 1077, "num_predict": 77, "temperature": 0.5, "stop": ["END"]});
    assert_eq!(*asked, wanted);
    // The history is cut to the model's own context: 1,000 tokens are less than these.
    let long = "word ".repeat(900);
    ada.ask(&genie, "s", &long).await.rest().await;
    ada.ask(&genie, "s", "hello").await.rest().await;
    let requests = genie.ollama.requests();
    assert_eq!(requests[2]["messages"].as_array().unwrap().len(), 2);
});

both_stores!(
    a_stream_says_when_the_model_is_being_loaded,
    async |store: TestStore| {
        let (mut genie, loading) = (TestGenie::start(store).await, "Loading the model");
        let ada = genie.user("ada").await;
        genie
            .ollama
            .script("slow", &[Step::Hold, Step::Say("late"), Step::Done]);
        genie.ollama.unload();
        let mut events = ada.ask(&genie, "s", "a slow one").await;
        let stage = loop {
            let event = events.next().await.unwrap();
            if event.data["missionLabel"] == loading {
                break event;
            }
        };
        assert_eq!(stage.data["mood"], "thinking");
        genie.ollama.go_on();
        let rest = events.rest().await;
        assert_eq!(rest[0].data["missionLabel"], "Writing");
        assert_eq!(text_of(&rest), "late");
        // It has answered a moment ago.
        let next = ada.ask(&genie, "s", "hello").await.rest().await;
        assert!(
            next.iter()
                .all(|event| event.data["missionLabel"] != loading),
            "{next:?}"
        );
    }
);
