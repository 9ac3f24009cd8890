//! Tiers: units that are counted and given back, and limits that no crowd of callers passes.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use genie_log::testing::{TestStore, both_stores};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::test_genie::{SECRET, TestGenie, TestUser};

const CALLERS: usize = 200;
const LIMIT: u64 = 30;

/// The built-in limits, with this limit for some counters of `pro`, the tier of the tests' users.
fn with_limits(counters: &[&str], limit: u64) -> String {
    let mut file: toml::Table = toml::from_str(include_str!("../../events/tiers.toml")).unwrap();
    for counter in counters {
        file["pro"][*counter] = toml::Value::Integer(limit as i64);
    }
    toml::to_string(&file).unwrap()
}

async fn with_tiers(store: TestStore, tiers: &str) -> TestGenie {
    let path = store.folder().join("tiers.toml");
    std::fs::write(&path, tiers).unwrap();
    TestGenie::start_with(
        store,
        &[("GENIE_TIERS_FILE", path.to_str().unwrap().to_owned())],
    )
    .await
}

/// A user of tier `pro`.
async fn bob(genie: &mut TestGenie) -> TestUser {
    genie.user("ada").await; // the administrator
    genie.user("bob").await
}

async fn used(genie: &TestGenie, user: &TestUser, counter: &str) -> u64 {
    genie.settle().await;
    user.get(genie, "/api/usage").await.ok()["usage"][counter]
        .as_u64()
        .unwrap()
}

/// Sends this many requests at once, to the servers in turn. Returns the number of answers by
/// status.
async fn crowd(
    genie: &TestGenie,
    user: &TestUser,
    path: &str,
    body: Value,
) -> BTreeMap<u16, usize> {
    let calls = (0..CALLERS).map(|_| user.post(genie, path, body.clone()));
    let mut answers = BTreeMap::new();
    for answer in join_all(calls).await {
        if answer.status == 403 {
            assert_eq!(answer.json["error"], "tier_limit_reached");
            assert_eq!(answer.json["reason"], "limit_reached");
            assert!(
                answer.json["message"]
                    .as_str()
                    .is_some_and(|sentence| sentence.contains("`pro`"))
            );
        }
        *answers.entry(answer.status.as_u16()).or_default() += 1;
    }
    answers
}

/// Exactly as many requests succeed as the limit allows. The others are neither counted nor queued,
/// and their answer does not invite a retry.
async fn no_crowd_passes_a_limit(genie: &TestGenie, user: &TestUser) {
    let exactly = BTreeMap::from([(200, LIMIT as usize), (403, CALLERS - LIMIT as usize)]);
    let body = json!({"operation": "taxonomy_ai_calls"});
    assert_eq!(
        crowd(genie, user, "/api/usage/increment", body).await,
        exactly
    );
    assert_eq!(used(genie, user, "taxonomy_ai_calls").await, LIMIT);
    let job = json!({"operation": "create_teaser", "input_url": "http://a/b"});
    assert_eq!(crowd(genie, user, "/api/queue/media", job).await, exactly);
    assert_eq!(used(genie, user, "ai_clip_ops").await, LIMIT);
    let queued = user.get(genie, "/api/jobs?limit=500").await.ok();
    assert_eq!(queued["data"].as_array().unwrap().len() as u64, LIMIT);
    // This crowd is larger than the model queue. A caller past the limit still gets the limit's
    // answer, not the one to come again.
    assert_eq!(
        crowd(
            genie,
            user,
            "/api/captions/generate",
            json!({"platform": "x"})
        )
        .await,
        exactly
    );
    assert_eq!(used(genie, user, "posts_ai_assisted").await, LIMIT);
}

both_stores!(
    no_crowd_of_callers_passes_a_limit,
    async |store: TestStore| {
        let mut genie = with_tiers(
            store,
            &with_limits(
                &["taxonomy_ai_calls", "ai_clip_ops", "posts_ai_assisted"],
                LIMIT,
            ),
        )
        .await;
        let bob = bob(&mut genie).await;
        no_crowd_passes_a_limit(&genie, &bob).await;
    }
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_crowd_on_two_servers_passes_a_limit() {
    let store = TestStore::new(genie_log::testing::Kind::Postgres).await;
    let mut genie = with_tiers(
        store,
        &with_limits(
            &["taxonomy_ai_calls", "ai_clip_ops", "posts_ai_assisted"],
            LIMIT,
        ),
    )
    .await;
    let bob = bob(&mut genie).await;
    genie.settle().await;
    genie.launch_beside().await;
    no_crowd_passes_a_limit(&genie, &bob).await;
}

both_stores!(
    captions_stop_at_the_limit_and_a_failed_one_gives_its_unit_back,
    async |store: TestStore| {
        let mut genie = with_tiers(store, &with_limits(&["posts_ai_assisted"], 3)).await;
        let bob = bob(&mut genie).await;
        genie.ollama.script(
            "bad news",
            &[crate::fake_ollama::Step::Refuse(500, "out of memory")],
        );
        for (topic, status) in [
            ("bad news", 502),
            ("a", 200),
            ("b", 200),
            ("c", 200),
            ("d", 403),
        ] {
            let answer = bob
                .post(&genie, "/api/captions/generate", json!({"topic": topic}))
                .await;
            assert_eq!(answer.status, status, "{topic}: {:?}", answer.json);
        }
        assert_eq!(used(&genie, &bob, "posts_ai_assisted").await, 3);
    }
);

both_stores!(
    clients_count_what_genie_does_not,
    async |store: TestStore| {
        let mut genie = with_tiers(store, &with_limits(&["taxonomy_ai_calls"], 5)).await;
        let bob = bob(&mut genie).await;
        let path = "/api/usage/increment";
        let counted = bob
            .post(&genie, path, json!({"operation": "taxonomy_ai_calls"}))
            .await
            .ok();
        assert_eq!(told(&counted), (1, false, true));
        let by_a_server = genie
            .server(
                path,
                json!({"operation": "taxonomy_ai_calls", "amount": 4, "userId": bob.id}),
            )
            .await
            .ok();
        assert_eq!(told(&by_a_server), (5, true, true));
        bob.post(&genie, path, json!({"operation": "taxonomy_ai_calls"}))
            .await
            .refused(403, "tier_limit_reached");
        assert_eq!(used(&genie, &bob, "taxonomy_ai_calls").await, 5);

        // Genie counts these itself. An old client that reports them must not double the count.
        bob.post(
            &genie,
            "/api/queue/media",
            json!({"operation": "thumbnail", "input_url": "http://a/b"}),
        )
        .await
        .ok();
        for (counter, value) in [
            ("thumbnail_ops", 1),
            ("posts_ai_assisted", 0),
            ("platforms_connected", 0),
            ("team_seats", 0),
        ] {
            let left_alone = bob
                .post(&genie, path, json!({"operation": counter, "amount": 2}))
                .await
                .ok();
            assert_eq!(told(&left_alone), (value, false, false), "{counter}");
            assert_eq!(used(&genie, &bob, counter).await, value, "{counter}");
        }

        for (body, names) in [
            (json!({"operation": "coffee"}), "operation"),
            (json!({}), "operation"),
            (
                json!({"operation": "taxonomy_ai_calls", "amount": 0}),
                "amount",
            ),
            (
                json!({"operation": "taxonomy_ai_calls", "amount": -3}),
                "amount",
            ),
            (
                json!({"operation": "taxonomy_ai_calls", "amount": 10_001}),
                "amount",
            ),
            (
                json!({"operation": "taxonomy_ai_calls", "amount": "many"}),
                "amount",
            ),
        ] {
            let refused = bob
                .post(&genie, path, body)
                .await
                .refused(400, "invalid_field");
            assert!(
                refused["error"]
                    .as_str()
                    .unwrap()
                    .contains(&format!("`{names}`")),
                "{refused}"
            );
        }
        genie
            .server(path, json!({"operation": "taxonomy_ai_calls"}))
            .await
            .refused(400, "invalid_field");
        let nobody = "0192f0c1-2d3e-7f00-8000-0123456789ab";
        for stranger in [nobody, "nobody"] {
            let body = json!({"operation": "taxonomy_ai_calls", "userId": stranger});
            genie.server(path, body).await.refused(404, "not_found");
        }
        bob.post(
            &genie,
            path,
            json!({"operation": "taxonomy_ai_calls", "userId": nobody}),
        )
        .await
        .refused(403, "forbidden");
        genie
            .send(
                Method::POST,
                path,
                &[],
                Some(json!({"operation": "taxonomy_ai_calls"})),
            )
            .await
            .refused(401, "invalid_token");
    }
);

fn told(answer: &Value) -> (u64, bool, bool) {
    let flag = |name: &str| answer[name].as_bool().unwrap();
    (
        answer["newValue"].as_u64().unwrap(),
        flag("limitReached"),
        flag("counted"),
    )
}

both_stores!(
    usage_counted_under_one_key_is_counted_once,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let bob = bob(&mut genie).await;
        let body = json!({"operation": "taxonomy_ai_calls", "amount": 2, "userId": bob.id});
        let [token] = bob.headers();
        for who in [token, ("X-RBAC-SYNC-SECRET", SECRET.to_owned())] {
            let headers = [who, ("Idempotency-Key", "once".to_owned())];
            let path = "/api/usage/increment";
            let first = genie
                .send(Method::POST, path, &headers, Some(body.clone()))
                .await
                .ok();
            genie.restart().await;
            assert_eq!(
                genie
                    .send(Method::POST, path, &headers, Some(body.clone()))
                    .await
                    .ok(),
                first
            );
        }
        assert_eq!(used(&genie, &bob, "taxonomy_ai_calls").await, 4);
    }
);

both_stores!(
    a_job_that_comes_to_nothing_gives_its_unit_back,
    async |store: TestStore| {
        let mut genie = with_tiers(store, &with_limits(&["ai_clip_ops"], 1)).await;
        let bob = bob(&mut genie).await;
        let teaser = json!({"operation": "create_teaser", "input_url": "http://a/b"});
        let job = bob
            .post(&genie, "/api/queue/media", teaser.clone())
            .await
            .ok()["jobId"]
            .as_str()
            .unwrap()
            .to_owned();
        bob.post(&genie, "/api/queue/media", teaser.clone())
            .await
            .refused(403, "tier_limit_reached");
        bob.post(&genie, &format!("/api/queue/cancel/{job}"), Value::Null)
            .await
            .ok();
        bob.post(&genie, &format!("/api/queue/cancel/{job}"), Value::Null)
            .await
            .ok();
        assert_eq!(used(&genie, &bob, "ai_clip_ops").await, 0);

        // A job queued again counts again. A final failure gives the unit back again.
        bob.post(&genie, &format!("/api/queue/retry/{job}"), Value::Null)
            .await
            .ok();
        assert_eq!(used(&genie, &bob, "ai_clip_ops").await, 1);
        bob.post(&genie, "/api/queue/media", teaser.clone())
            .await
            .refused(403, "tier_limit_reached");
        let claimed = genie.claim().await;
        let failed =
            json!({"lease": claimed["lease"], "error": "the disk is full", "retryable": false});
        genie
            .server(&format!("/api/worker/jobs/{job}/fail"), failed)
            .await
            .ok();
        assert_eq!(used(&genie, &bob, "ai_clip_ops").await, 0);

        // Another job takes the unit, so the first one can't be queued again. A job cancelled while
        // a worker has it stays counted.
        let other = bob.post(&genie, "/api/queue/media", teaser).await.ok()["jobId"]
            .as_str()
            .unwrap()
            .to_owned();
        bob.post(&genie, &format!("/api/queue/retry/{job}"), Value::Null)
            .await
            .refused(403, "tier_limit_reached");
        genie.claim().await;
        bob.post(&genie, &format!("/api/queue/cancel/{other}"), Value::Null)
            .await
            .ok();
        assert_eq!(used(&genie, &bob, "ai_clip_ops").await, 1);
    }
);

both_stores!(
    an_incomplete_file_of_limits_is_refused_at_start,
    async |store: TestStore| {
        let path = store.folder().join("tiers.toml");
        let name = path.to_str().unwrap().to_owned();
        let genie = TestGenie::not_started(store, &[("GENIE_TIERS_FILE", name)]).await;
        let refused = async |told: &[&str]| {
            let mut command: Command = genie.command(&["serve"]);
            let output = command.output().await.unwrap();
            let error = String::from_utf8(output.stderr).unwrap();
            assert!(!output.status.success());
            for words in told {
                assert!(error.contains(words), "{words}: {error}");
            }
        };
        refused(&["GENIE_TIERS_FILE", "tiers.toml can't be read"]).await;
        let file = with_limits(&["ai_clip_ops"], 1)
            .replace("[starter]", "[gold]")
            .replacen("team_seats", "team_chairs", 1);
        std::fs::write(&path, file).unwrap();
        refused(&[
            "`gold` is no tier",
            "the tier starter is missing",
            "team_chairs` is no counter",
            "team_seats` is missing",
        ])
        .await;
        std::fs::write(&path, "[starter").unwrap();
        refused(&["it is not TOML, near line 1"]).await;
    }
);
