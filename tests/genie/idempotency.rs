//! A command with an `Idempotency-Key` may be sent again, and has one outcome.

use genie_log::testing::{TestStore, both_stores};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    fake_ollama::Step,
    test_genie::{Answer, SECRET, TestGenie, TestUser},
    until::until,
};

async fn post(genie: &TestGenie, user: &TestUser, key: &str, path: &str, body: Value) -> Answer {
    let [(name, token)] = user.headers();
    genie
        .send(
            Method::POST,
            path,
            &[(name, token), ("Idempotency-Key", key.into())],
            Some(body),
        )
        .await
}

async fn jobs(genie: &TestGenie, user: &TestUser) -> usize {
    genie.settle().await;
    user.get(genie, "/api/jobs").await.ok()["data"]
        .as_array()
        .unwrap()
        .len()
}

fn job() -> Value {
    json!({"operation": "resize_image", "input_url": "http://a/b", "params": {"width": 100}})
}

both_stores!(
    the_same_key_and_request_have_one_outcome_even_after_a_kill,
    async |store: TestStore| {
        let mut genie = TestGenie::start_process(store).await;
        let (ada, bob) = (genie.user("ada").await, genie.user("bob").await);
        let first = post(&genie, &ada, "key-1", "/api/queue/media", job()).await;
        let position = first.headers["genie-position"].clone();
        let first = first.ok();
        genie.restart().await;
        let again = post(&genie, &ada, "key-1", "/api/queue/media", job()).await;
        assert_eq!(again.headers["genie-position"], position);
        assert_eq!(again.ok()["jobId"], first["jobId"]);
        assert_eq!(jobs(&genie, &ada).await, 1);

        // Another body, another key, another user, another route.
        let other = json!({"operation": "resize_image", "input_url": "http://a/b", "params": {"width": 200}});
        post(&genie, &ada, "key-1", "/api/queue/media", other)
            .await
            .refused(422, "idempotency_key_reused");
        post(&genie, &ada, "key-2", "/api/queue/media", job())
            .await
            .ok();
        assert_ne!(
            post(&genie, &bob, "key-1", "/api/queue/media", job())
                .await
                .ok()["jobId"],
            first["jobId"]
        );
        let cancel = format!("/api/queue/cancel/{}", first["jobId"].as_str().unwrap());
        for _ in 0..2 {
            assert_eq!(
                post(&genie, &ada, "key-1", &cancel, Value::Null).await.ok()["status"],
                "cancelled"
            );
        }
        assert_eq!((jobs(&genie, &ada).await, jobs(&genie, &bob).await), (2, 1));
        post(&genie, &ada, &"k".repeat(256), "/api/queue/media", job())
            .await
            .refused(400, "invalid_field");
    }
);

both_stores!(
    of_many_simultaneous_requests_with_one_key_one_is_done,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let asked = (0..30).map(|_| post(&genie, &ada, "key", "/api/queue/media", job()));
        let answers = futures_util::future::join_all(asked).await;
        let first = answers[0].json["jobId"].clone();
        for answer in answers {
            assert_eq!(answer.ok()["jobId"], first);
        }
        assert_eq!(jobs(&genie, &ada).await, 1);
    }
);

both_stores!(
    a_credential_is_stored_once_per_key_and_reveals_take_no_key,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let profile = json!({"platform": "x", "credentials": {"password": "hunter2"}});
        let stored = post(
            &genie,
            &ada,
            "key",
            "/api/credentials/create-profile",
            profile.clone(),
        )
        .await
        .ok();
        let again = post(
            &genie,
            &ada,
            "key",
            "/api/credentials/create-profile",
            profile,
        )
        .await
        .ok();
        assert_eq!(
            (&again["id"], &again["updated"]),
            (&stored["id"], &json!(false))
        );
        for purpose in ["one", "two"] {
            let body = json!({"creatorProfileId": stored["id"], "purpose": purpose});
            let headers = [
                ("X-RBAC-SYNC-SECRET", SECRET.into()),
                ("Idempotency-Key", "key".into()),
            ];
            let revealed = genie
                .send(
                    Method::POST,
                    "/api/credentials/reveal",
                    &headers,
                    Some(body),
                )
                .await
                .ok();
            assert_eq!(
                revealed["credentials"]["password"], "hunter2",
                "each reveal is a separate one"
            );
        }
    }
);

both_stores!(
    a_caption_asked_again_is_the_same_caption,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        genie
            .ollama
            .script("sunset", &[Step::Say("Look at that sky"), Step::Done]);
        let wanted = json!({"topic": "sunset"});
        let first = post(
            &genie,
            &ada,
            "key",
            "/api/captions/generate",
            wanted.clone(),
        )
        .await
        .ok();
        let asked = genie.ollama.requests().len();
        let again = post(&genie, &ada, "key", "/api/captions/generate", wanted)
            .await
            .ok();
        assert_eq!(
            (&again["caption"], genie.ollama.requests().len()),
            (&first["caption"], asked)
        );
        genie.settle().await;
        assert_eq!(
            ada.get(&genie, "/api/usage").await.ok()["usage"]["posts_ai_assisted"],
            1
        );
    }
);

both_stores!(
    a_revocation_under_one_key_happens_once,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let (ada, bob) = (genie.user("ada").await, genie.user("bob").await);
        let delete = async |user: &TestUser, path: &str, key: &str| {
            let [token] = user.headers();
            genie
                .send(
                    Method::DELETE,
                    path,
                    &[token, ("Idempotency-Key", key.into())],
                    None,
                )
                .await
        };
        let twice = async |user: &TestUser, path: &str| {
            let first = delete(user, path, "key").await;
            assert!(
                first.headers.contains_key("genie-position"),
                "{path}: {}",
                first.json
            );
            let position = first.headers["genie-position"].clone();
            let first = first.ok();
            let again = delete(user, path, "key").await;
            assert_eq!(again.headers["genie-position"], position, "{path}");
            assert_eq!(again.ok(), first, "{path}");
        };
        let invites = ada
            .post(&genie, "/api/admin/invites", json!({"count": 2}))
            .await
            .ok();
        let invite = |n: usize| {
            format!(
                "/api/admin/invites/{}",
                invites["data"][n]["code"].as_str().unwrap()
            )
        };
        twice(&ada, &invite(0)).await;
        delete(&ada, &invite(1), "key")
            .await
            .refused(422, "idempotency_key_reused");
        delete(&ada, &invite(1), "another").await.ok();

        let made = ada
            .post(
                &genie,
                "/api/admin/service-keys",
                json!({"name": "n", "scopes": ["audit:read"]}),
            )
            .await
            .ok();
        twice(
            &ada,
            &format!("/api/admin/service-keys/{}", made["id"].as_str().unwrap()),
        )
        .await;

        let begin = format!("/api/admin/users/{}/impersonate", bob.id);
        let begun = ada.post(&genie, &begin, Value::Null).await.ok();
        let path = format!(
            "/api/admin/impersonations/{}",
            begun["session"].as_str().unwrap()
        );
        twice(&ada, &path).await;
        delete(&ada, &path, "another")
            .await
            .refused(404, "not_found");
        let acting = [(
            "Authorization",
            format!("Bearer {}", begun["access_token"].as_str().unwrap()),
        )];
        genie
            .send(Method::GET, "/api/jobs", &acting, None)
            .await
            .refused(401, "invalid_token");

        let logins = bob.get(&genie, "/api/me/sessions").await.ok();
        let path = format!(
            "/api/me/sessions/{}",
            logins["data"][0]["id"].as_str().unwrap()
        );
        delete(&ada, &path, "key").await.refused(404, "not_found");
        let phone = genie.user_again("bob", &bob.id).await;
        twice(&phone, &path).await;
        delete(&phone, &path, "another")
            .await
            .refused(404, "not_found");
        let ended = delete(&phone, "/api/me/sessions", "key").await.ok();
        // The request's own login is over, too. Repeated from the next login, it ends nothing more.
        let next = genie.user_again("bob", &bob.id).await;
        let again = delete(&next, "/api/me/sessions", "key").await.ok();
        assert_eq!(again, ended);
        let facts = next.get(&genie, "/api/me/events").await.ok();
        let types: Vec<_> = facts["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|fact| fact["type"].as_str().unwrap())
            .collect();
        let begin = [
            "account.registered",
            "account.signed_in",
            "account.impersonation_started",
        ];
        assert_eq!(
            types,
            [
                &begin[..],
                &[
                    "account.impersonation_ended",
                    "account.signed_in",
                    "account.session_ended",
                    "account.sessions_ended",
                    "account.signed_in"
                ]
            ]
            .concat()
        );
    }
);

both_stores!(
    a_webhook_that_is_sent_again_is_answered_as_before,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let (ada, bob) = (genie.user("ada").await, genie.user("bob").await);
        let sync = async |genie: &TestGenie, key: &str, body: Value| {
            let headers = [
                ("X-RBAC-SYNC-SECRET", SECRET.into()),
                ("Idempotency-Key", key.into()),
            ];
            genie
                .send(Method::POST, "/api/rbac-sync", &headers, Some(body))
                .await
        };
        let studio = json!({"userId": bob.id, "tier": "studio"});
        assert_eq!(
            sync(&genie, "one", studio.clone()).await.ok()["changed"],
            true
        );
        assert_eq!(
            sync(&genie, "two", json!({"userId": bob.id, "tier": "starter"}))
                .await
                .ok()["changed"],
            true
        );
        genie.restart().await;
        assert_eq!(
            sync(&genie, "one", studio).await.ok()["changed"],
            true,
            "as before"
        );
        genie.settle().await;
        assert_eq!(
            bob.get(&genie, "/api/usage").await.ok()["tier"],
            "starter",
            "a late repeat undoes nothing"
        );
        sync(&genie, "one", json!({"userId": ada.id, "tier": "studio"}))
            .await
            .refused(422, "idempotency_key_reused");

        // This holds for a request that changed nothing, too.
        let starter = json!({"userId": bob.id, "tier": "starter"});
        let first = sync(&genie, "three", starter.clone()).await.ok();
        assert_eq!(first["changed"], false);
        sync(&genie, "four", json!({"userId": bob.id, "tier": "pro"}))
            .await
            .ok();
        assert_eq!(sync(&genie, "three", starter).await.ok(), first);
        genie.settle().await;
        assert_eq!(
            bob.get(&genie, "/api/usage").await.ok()["tier"],
            "pro",
            "a late repeat undoes nothing"
        );
        let at_once =
            (0..30).map(|_| sync(&genie, "five", json!({"userId": bob.id, "tier": "pro"})));
        for answer in futures_util::future::join_all(at_once).await {
            assert_eq!(answer.ok()["changed"], false);
        }
    }
);

both_stores!(
    after_its_days_a_key_is_new_again,
    async |store: TestStore| {
        let settings = [("GENIE_IDEMPOTENCY_DAYS", "2".to_owned())];
        let mut genie = TestGenie::start_with(store, &settings).await;
        let ada = genie.user("ada").await;
        let first = post(&genie, &ada, "key", "/api/queue/media", job())
            .await
            .ok()["jobId"]
            .take();
        genie.clock.advance_millis(47 * 3600 * 1000);
        let ada = genie.user_again("ada", &ada.id).await;
        let again = post(&genie, &ada, "key", "/api/queue/media", job())
            .await
            .ok()["jobId"]
            .take();
        assert_eq!(again, first);
        genie.clock.advance_millis(2 * 3600 * 1000);
        let ada = genie.user_again("ada", &ada.id).await;
        until("the old outcome to be deleted", async || {
            let again = post(&genie, &ada, "key", "/api/queue/media", job())
                .await
                .ok();
            (again["jobId"] != first).then_some(())
        })
        .await;
        assert_eq!(jobs(&genie, &ada).await, 2);
    }
);
