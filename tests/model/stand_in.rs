//! What the stand-in can be asked for: failures of each kind, and texts that look like a protocol.

use genie_log::testing::{TestStore, both_stores};
use serde_json::json;

use crate::{
    PeerModel,
    test_genie::{outcome, text_of},
};

both_stores!(
    failures_before_and_within_an_answer_are_told_apart,
    async |store: TestStore| {
        let mut genie = PeerModel::StandIn.genie(store).await;
        let ada = genie.user("ada").await;
        for (question, code) in [
            ("fail before", "ollama_failed"),
            ("be busy", "ollama_busy"),
            ("no model", "ollama_model_missing"),
        ] {
            let body = json!({"message": question, "sessionId": question});
            let answer = ada.post(&genie, "/api/genie/stream-chat", body).await;
            answer.refused(502, code);
        }
        for (question, whole) in [
            ("cut after three", "this stream is cut in the middle of it"),
            (
                "drop in time",
                "this stream is dropped after a while by the server",
            ),
        ] {
            let events = ada.ask(&genie, question, question).await.rest().await;
            assert_eq!(outcome(&events), "failed", "{question}");
            let text = text_of(&events);
            assert!(whole.starts_with(&text), "{question}: {text}");
            assert!(!text.is_empty() && text.len() < whole.len(), "{text}");
            genie.settle().await;
            let kept = ada.messages(&genie, question).await;
            assert_eq!(kept.last().unwrap().1, text, "{question}");
        }
    }
);

both_stores!(
    texts_that_look_like_a_protocol_are_texts,
    async |store: TestStore| {
        let mut genie = PeerModel::StandIn.genie(store).await;
        let ada = genie.user("ada").await;
        let events = ada.ask(&genie, "s", "quote json").await.rest().await;
        assert_eq!(outcome(&events), "completed");
        let text =
            "line one\nline \"two\" \\ and a tab\t, then {\"done\":true}\ndata: no event\n\nend";
        assert_eq!(text_of(&events), text);
        // Thoughts are no part of the answer.
        let events = ada.ask(&genie, "s", "think first").await.rest().await;
        assert_eq!(text_of(&events), "The answer is 4.");
    }
);
