//! `/readyz` and `/api/queue/stats`, which anybody may ask for as often as they like.

use genie_log::testing::{TestStore, both_stores};
use reqwest::Method;
use serde_json::{Value, json};

use crate::test_genie::{Answer, SECRET, TestGenie};

async fn stats(genie: &TestGenie, headers: &[(&str, String)]) -> Value {
    let path = "/api/queue/stats";
    let mut stats = genie.send(Method::GET, path, headers, None).await.ok();
    stats["stats"]["waiting"].take()
}

async fn probe(genie: &TestGenie, headers: &[(&str, String)]) -> Answer {
    genie.send(Method::GET, "/readyz", headers, None).await
}

both_stores!(
    strangers_learn_only_whether_the_server_is_ready,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let (admin, bob) = (genie.user("ada").await, genie.user("bob").await);
        let key = json!({"name": "watch", "scopes": ["audit:read"]});
        let key = admin
            .post(&genie, "/api/admin/service-keys", key)
            .await
            .ok();
        let key = format!("Bearer {}", key["key"].as_str().unwrap());
        for may_see in [
            ("X-RBAC-SYNC-SECRET", SECRET.to_owned()),
            ("Authorization", key),
            admin.headers()[0].clone(),
        ] {
            let told = probe(&genie, &[may_see]).await.ok();
            assert!(told["projections"].is_object(), "{told}");
        }
        let wrong = ("X-RBAC-SYNC-SECRET", "wrong".to_owned());
        for headers in [vec![], vec![wrong], bob.headers().to_vec()] {
            let told = probe(&genie, &headers).await.ok();
            assert_eq!(told, json!({"ok": true, "success": true, "ready": true}));
        }
    }
);

both_stores!(
    probes_are_answered_from_one_result_for_a_while,
    async |store: TestStore| {
        let age = [("PROBE_AGE_MS", "60000".to_owned())];
        let mut genie = TestGenie::start_with(store, &age).await;
        let ada = genie.user("ada").await;
        let before = genie.readiness().await.ok();
        assert_eq!(stats(&genie, &[]).await, 0);
        let job = json!({"operation": "resize_image", "input_url": "http://a/b", "params": {"width": 100}});
        let queued = ada.post(&genie, "/api/queue/media", job).await;
        let position = queued.headers["Genie-Position"]
            .to_str()
            .unwrap()
            .to_owned();
        queued.ok();
        let later = genie.readiness().await.ok();
        assert_eq!(later["log"]["head"], before["log"]["head"]);
        assert_eq!(stats(&genie, &[]).await, 0);
        let newer = [("Genie-Min-Position", position)];
        assert_eq!(
            stats(&genie, &newer).await,
            1,
            "it knows of something newer"
        );
        assert_eq!(stats(&genie, &[]).await, 1);
    }
);
