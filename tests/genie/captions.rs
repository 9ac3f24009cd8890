//! Captions: the caps of platforms, what models put around a caption, and variants.

use genie_log::testing::{TestStore, both_stores};
use serde_json::{Value, json};

use crate::{
    fake_ollama::Step,
    test_genie::{TestGenie, TestUser},
};

const GENERATE: &str = "/api/captions/generate";

async fn used(genie: &TestGenie, user: &TestUser) -> Value {
    let usage = user.get(genie, "/api/usage").await.ok();
    usage["usage"]["posts_ai_assisted"].clone()
}

both_stores!(
    a_caption_keeps_to_what_its_platform_counts,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let link = "New https://example.com/a-long-path-that-x-counts-as-twenty-three/and-more/and-more/and-more/and-more/and-more/and-more/and-more/and-more/and-more/and-more/and-more/and-more/and-more/and-more/and-more/and-more/and-more/and-more/and-more/and-more/and-more/and-more/and-more/and-more/and-more/and-more";
        genie.ollama.script("link", &[Step::Say(link), Step::Done]);
        let asked = json!({"platform": "x", "topic": "a link"});
        let caption = ada.post(&genie, GENERATE, asked).await.ok();
        assert_eq!(caption["caption"], json!(link));
        assert_eq!(caption["truncated"], json!(null));

        // 40 Chinese words of four characters each weigh 8 and a space.
        let chinese: &'static str = Box::leak("新品上市 ".repeat(40).into_boxed_str());
        // Asked again, the model is no shorter.
        for word in ["chinese", "too long"] {
            genie.ollama.script(word, &[Step::Say(chinese), Step::Done]);
        }
        let asked = json!({"platform": "x", "topic": "chinese"});
        let caption = ada.post(&genie, GENERATE, asked).await.ok();
        assert_eq!(caption["truncated"], json!(true));
        let text = caption["caption"].as_str().unwrap();
        assert_eq!(text.split(' ').count(), 31, "31 words weigh 278: {text}");

        // The second time the model is held to a form, which leaves no room for talk.
        let requests = genie.ollama.requests();
        let forms: Vec<&Value> = requests.iter().map(|one| &one["format"]["type"]).collect();
        assert_eq!(forms, [&Value::Null, &Value::Null, &json!("object")]);
        let formed = r#"{"caption": "新品上市"}"#;
        genie
            .ollama
            .script("too long", &[Step::Say(formed), Step::Done]);
        let asked = json!({"platform": "x", "topic": "chinese"});
        let caption = ada.post(&genie, GENERATE, asked).await.ok();
        assert_eq!(caption["caption"], "新品上市");
        assert_eq!(caption["truncated"], json!(null));

        let families: &'static str = Box::leak("👩‍👩‍👧‍👦".repeat(9).into_boxed_str());
        for word in ["families", "too long"] {
            genie
                .ollama
                .script(word, &[Step::Say(families), Step::Done]);
        }
        let asked = json!({"platform": "snapchat", "topic": "families"});
        let caption = ada.post(&genie, GENERATE, asked).await.ok();
        assert_eq!(
            caption["caption"],
            json!("👩‍👩‍👧‍👦".repeat(4)),
            "each has 7 characters"
        );
        assert_eq!(caption["truncated"], json!(true));
    }
);

both_stores!(
    what_a_model_puts_around_a_caption_goes_and_the_caption_stays,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        for (topic, reply, expected) in [
            ("clock", "Here at 9:30 tonight", "Here at 9:30 tonight"),
            ("thinker", "<think>short: ok</think>\nNew set", "New set"),
            ("chatty", "Sure! Here's a caption: \"New set\"", "New set"),
        ] {
            genie.ollama.script(topic, &[Step::Say(reply), Step::Done]);
            let caption = ada
                .post(&genie, GENERATE, json!({"topic": topic}))
                .await
                .ok();
            assert_eq!(caption["caption"], json!(expected));
        }
        let before = used(&genie, &ada).await;
        let thought = [Step::Say("<think>and nothing else"), Step::Done];
        genie.ollama.script("dreamer", &thought);
        let failed = ada
            .post(&genie, GENERATE, json!({"topic": "dreamer"}))
            .await;
        failed.refused(502, "ollama_failed");
        assert_eq!(used(&genie, &ada).await, before, "the unit went back");
    }
);

both_stores!(
    variants_are_counted_each_and_all_or_none,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        genie.user("ada").await;
        let bob = genie.user("bob").await;
        let sync = json!({"userId": bob.id, "tier": "starter"});
        genie.server("/api/rbac-sync", sync).await.ok();
        genie
            .ollama
            .script("variant", &[Step::Say("A variant"), Step::Done]);
        for n in [0, 5] {
            let refused = bob.post(&genie, GENERATE, json!({"n": n})).await;
            let refused = refused.refused(400, "invalid_field");
            assert!(refused["error"].as_str().unwrap().contains("`n`"));
        }
        let asked = |n: u64| json!({"topic": "variant", "n": n});
        let written = bob.post(&genie, GENERATE, asked(2)).await.ok();
        let variant = json!({"caption": "A variant"});
        assert_eq!(written["captions"], json!([variant, variant]));
        assert_eq!(written["caption"], "A variant");
        assert_eq!(used(&genie, &bob).await, 2);

        // Two more pass the limit of 3, so neither is written.
        let refused = bob.post(&genie, GENERATE, asked(2)).await;
        assert_eq!(
            (refused.status.as_u16(), &refused.json["reason"]),
            (403, &json!("limit_reached"))
        );
        assert_eq!(used(&genie, &bob).await, 2);
        let one = bob.post(&genie, GENERATE, asked(1)).await.ok();
        assert_eq!(one["captions"], json!([variant]));
        let listed = bob.get(&genie, "/api/captions").await.ok();
        assert_eq!(listed["data"].as_array().unwrap().len(), 3);
    }
);

both_stores!(
    variants_that_fail_give_their_units_back_and_a_repeated_request_counts_once,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        genie.ollama.script("broken", &[Step::Refuse(500, "no")]);
        let asked = json!({"topic": "broken", "n": 3});
        let failed = ada.post(&genie, GENERATE, asked).await;
        assert_eq!(failed.status, 502, "{:?}", failed.json);
        assert_eq!(used(&genie, &ada).await, 0);

        genie
            .ollama
            .script("fine", &[Step::Say("Fine"), Step::Done]);
        let [bearer] = ada.headers();
        let headers = [bearer, ("Idempotency-Key", "once".to_owned())];
        for _ in 0..2 {
            let body = Some(json!({"topic": "fine", "n": 2}));
            let sent = genie.send(reqwest::Method::POST, GENERATE, &headers, body);
            let written = sent.await.ok();
            assert_eq!(written["captions"].as_array().unwrap().len(), 2);
        }
        assert_eq!(used(&genie, &ada).await, 2);
    }
);
