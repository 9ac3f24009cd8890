//! Many jobs by one request, and jobs whose priority or time changes while they wait.

use std::collections::BTreeSet;

use genie_log::testing::{TestStore, both_stores};
use serde_json::{Value, json};

use crate::test_genie::{TestGenie, TestUser};

const BATCH: &str = "/api/queue/media/batch";
/// One hour in seconds.
const HOUR: i64 = 60 * 60;

fn resize() -> Value {
    let url = "https://example.com/a.jpg";
    json!({"operation": "resize_image", "input_url": url, "params": {"width": 100}})
}

fn job(operation: &str, params: Value) -> Value {
    json!({"operation": operation, "input_url": "https://example.com/a.mp4", "params": params})
}

fn with(mut job: Value, field: &str, value: Value) -> Value {
    job[field] = value;
    job
}

async fn on_starter(genie: &TestGenie, admin: &TestUser, name: &str) -> TestUser {
    let invites = admin.post(genie, "/api/admin/invites", json!({"tier": "starter"}));
    let invites = invites.await.ok();
    let code = invites["data"][0]["code"].as_str().unwrap();
    genie.register(name, code).await
}

async fn facts(genie: &TestGenie, admin: &TestUser, of_type: &str) -> Vec<Value> {
    let path = format!("/api/events?types={of_type}&limit=500");
    let mut page = admin.get(genie, &path).await.ok();
    page["data"].as_array_mut().unwrap().drain(..).collect()
}

both_stores!(
    each_job_of_a_batch_is_queued_or_refused_alone_and_all_by_one_append,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let eve = on_starter(&genie, &ada, "eve").await;
        let named = with(resize(), "jobId", json!("one"));
        let jobs = json!([
            resize(),
            job("make_coffee", json!({})),
            with(resize(), "priority", json!("high")),
            with(resize(), "priority", json!(-1)),
            with(resize(), "run_at", json!("2200-01-01T00:00:00Z")),
            job("thumbnail", json!({})),
            named,
            named,
            with(named.clone(), "priority", json!(3)),
            with(resize(), "creator_profile_id", json!("nobody's")),
            with(resize(), "run_at", json!("1999-01-01T00:00:00Z")),
            7,
        ]);
        let sent = json!({"jobs": jobs});
        let answer = eve.post(&genie, BATCH, sent.clone()).await;
        assert!(answer.headers.contains_key("genie-position"));
        let answer = answer.ok();
        let told = answer["jobs"].as_array().unwrap();
        let codes: Vec<_> = told
            .iter()
            .map(|one| one["code"].as_str().unwrap_or("ok"))
            .collect();
        assert_eq!(
            codes,
            [
                "ok",
                "invalid_field",
                "invalid_field",
                "invalid_field",
                "invalid_field",
                "tier_limit_reached",
                "ok",
                "ok",
                "job_exists",
                "not_found",
                "ok",
                "invalid_field",
            ],
            "{answer}"
        );
        for (n, field) in [
            (1, "operation"),
            (2, "priority"),
            (3, "priority"),
            (4, "run_at"),
        ] {
            let sentence = told[n]["error"].as_str().unwrap();
            assert!(sentence.contains(&format!("`{field}`")), "{sentence}");
        }
        assert_eq!(
            (&told[5]["error"], &told[5]["reason"]),
            (&json!("tier_limit_reached"), &json!("not_in_tier"))
        );
        assert_eq!(told[6]["jobId"], "one");
        assert_eq!(
            told[6]["id"], told[7]["id"],
            "the same job twice is one job"
        );
        assert_eq!(told[10]["status"], "queued", "a past time is now");
        assert!(
            told.iter()
                .all(|one| one["ok"] == (one.get("code").is_none()))
        );
        let submitted = facts(&genie, &ada, "job.submitted").await;
        let times: BTreeSet<&str> = submitted
            .iter()
            .map(|fact| fact["time"].as_str().unwrap())
            .collect();
        assert_eq!((submitted.len(), times.len()), (3, 1), "one append");
        let listed = eve.get(&genie, "/api/jobs").await.ok();
        assert_eq!(listed["data"].as_array().unwrap().len(), 3);
        let again = eve.post(&genie, BATCH, json!({"jobs": [named]})).await.ok();
        assert_eq!(again["jobs"][0]["id"], told[6]["id"]);
        let none = eve.post(&genie, BATCH, json!({"jobs": [7]})).await;
        assert!(
            !none.headers.contains_key("genie-position"),
            "nothing was written"
        );
        assert_eq!(none.ok()["jobs"][0]["ok"], false);
    }
);

both_stores!(
    an_atomic_batch_is_queued_whole_or_not_at_all,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let eve = on_starter(&genie, &ada, "eve").await;
        let atomic = |second: Value| json!({"jobs": [resize(), second], "atomic": true});
        let refused = eve
            .post(&genie, BATCH, atomic(job("make_coffee", json!({}))))
            .await;
        let refused = refused.refused(400, "invalid_field");
        assert!(
            refused["error"]
                .as_str()
                .unwrap()
                .starts_with("`jobs[1]`: `operation`")
        );
        let refused = eve
            .post(&genie, BATCH, atomic(job("thumbnail", json!({}))))
            .await;
        assert_eq!(refused.status, 403);
        assert_eq!(
            (&refused.json["error"], &refused.json["reason"]),
            (&json!("tier_limit_reached"), &json!("not_in_tier"))
        );
        assert!(
            refused.json["message"]
                .as_str()
                .unwrap()
                .starts_with("`jobs[1]`: ")
        );
        let foreign = with(resize(), "creator_profile_id", json!("nobody's"));
        let refused = eve.post(&genie, BATCH, atomic(foreign)).await;
        refused.refused(404, "not_found");
        assert_eq!(facts(&genie, &ada, "job.*").await, Vec::<Value>::new());
        let queued = eve.post(&genie, BATCH, atomic(resize())).await.ok();
        assert_eq!(queued["jobs"].as_array().unwrap().len(), 2);
        assert_eq!(facts(&genie, &ada, "job.submitted").await.len(), 2);
    }
);

both_stores!(
    a_full_batch_is_one_append_and_its_quota_is_counted_for_each_job,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        genie.user("ada").await;
        let bob = genie.user("bob").await;
        let mark = json!({"watermark_file_id": "0192d4e0-7f3a-7c3b-8f4e-0123456789ab"});
        let too_many = vec![job("trim_videos", json!({})); 1001];
        let refused = bob.post(&genie, BATCH, json!({"jobs": too_many})).await;
        refused.refused(400, "invalid_field");
        let none = bob.post(&genie, BATCH, json!({"jobs": []})).await;
        none.refused(400, "invalid_field");
        // A tier `pro` has 150 of these in a month.
        let trims: Vec<Value> = (0..1000)
            .map(|n| with(job("trim_videos", json!({"end": 5})), "priority", json!(n)))
            .collect();
        let answer = bob.post(&genie, BATCH, json!({"jobs": trims})).await.ok();
        let told = answer["jobs"].as_array().unwrap();
        assert!(
            told[..150].iter().all(|one| one["ok"] == true),
            "{}",
            told[0]
        );
        assert!(
            told[150..]
                .iter()
                .all(|one| one["reason"] == "limit_reached")
        );
        let used = async || bob.get(&genie, "/api/usage").await.ok()["usage"].take();
        assert_eq!(used().await["ai_clip_ops"], 150);
        // Without a limit: all of them, atomic, and each is counted.
        let foreign = bob.post(
            &genie,
            BATCH,
            json!({"jobs": [job("apply_watermark", mark)]}),
        );
        assert_eq!(
            foreign.await.ok()["jobs"][0]["code"],
            "not_found",
            "nobody's file"
        );
        let thumbnails = vec![job("thumbnail", json!({})); 1000];
        let answer = bob.post(&genie, BATCH, json!({"jobs": thumbnails, "atomic": true}));
        let answer = answer.await.ok();
        let told = answer["jobs"].as_array().unwrap();
        let ids: BTreeSet<&str> = told.iter().map(|one| one["id"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), 1000);
        assert_eq!(used().await["thumbnail_ops"], 1000);
        let stats = genie
            .send(reqwest::Method::GET, "/api/queue/stats", &[], None)
            .await
            .ok();
        assert_eq!(stats["stats"]["waiting"], 1150);
    }
);

both_stores!(
    a_batch_may_have_eight_mebibytes_and_be_sent_again,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let scrape = |n: usize| {
            let text = "x".repeat(60 << 10);
            json!({"jobId": format!("j{n}"), "operation": "scrape_profile", "params": {"text": text}})
        };
        let batch = |count: usize| json!({"jobs": (0..count).map(scrape).collect::<Vec<_>>()});
        let refused = ada.post(&genie, BATCH, batch(140)).await;
        refused.refused(413, "body_too_large");
        let key = ("Idempotency-Key", "a batch".to_owned());
        let headers = [&ada.headers()[..], &[key]].concat();
        let send = async |body| {
            let method = reqwest::Method::POST;
            genie.send(method, BATCH, &headers, Some(body)).await
        };
        let first = send(batch(130)).await.ok();
        let queued = |answer: &Value| {
            let told = answer["jobs"].as_array().unwrap().iter();
            told.map(|one| (one["ok"].clone(), one["id"].clone()))
                .collect::<Vec<_>>()
        };
        assert!(queued(&first).iter().all(|(ok, _)| *ok == true));
        assert_eq!(queued(&send(batch(130)).await.ok()), queued(&first));
        send(batch(129))
            .await
            .refused(422, "idempotency_key_reused");
        // Without the key the names say that it is the same.
        let again = ada.post(&genie, BATCH, batch(130)).await.ok();
        assert_eq!(queued(&again), queued(&first));
        assert_eq!(facts(&genie, &ada, "job.submitted").await.len(), 130);
    }
);

both_stores!(
    a_waiting_jobs_priority_and_time_can_be_changed,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let bob = genie.user("bob").await;
        let mut ids = Vec::new();
        for name in ["a", "b", "c"] {
            let job = with(resize(), "jobId", json!(name));
            let queued = bob.post(&genie, "/api/queue/media", job).await.ok();
            ids.push(queued["id"].as_str().unwrap().to_owned());
        }
        let patch = async |user: &TestUser, job: &str, body: Value| {
            user.patch(&genie, &format!("/api/jobs/{job}"), body).await
        };
        let in_an_hour = genie.clock.now().plus_seconds(HOUR).rfc3339();
        for (body, field) in [
            (json!({}), "priority"),
            (json!({"priority": -1}), "priority"),
            (json!({"priority": 1.5}), "priority"),
            (json!({"run_at": "soon"}), "run_at"),
            (json!({"run_at": "2200-01-01T00:00:00Z"}), "run_at"),
        ] {
            let refused = patch(&bob, "a", body).await.refused(400, "invalid_field");
            let sentence = refused["error"].as_str().unwrap();
            assert!(sentence.contains(&format!("`{field}`")), "{sentence}");
        }
        patch(&bob, "nothing", json!({"priority": 1}))
            .await
            .refused(404, "not_found");
        let eve = on_starter(&genie, &ada, "eve").await;
        patch(&eve, &ids[0], json!({"priority": 1}))
            .await
            .refused(404, "not_found");
        let changed = patch(&bob, "b", json!({"run_at": in_an_hour})).await.ok();
        assert_eq!(
            (&changed["jobId"], &changed["id"]),
            (&json!("b"), &json!(ids[1]))
        );
        // An administrator may, by the job's own id.
        let changed = patch(&ada, &ids[2], json!({"priority": 1})).await.ok();
        assert_eq!(changed["jobId"], json!(ids[2]), "the name is its owner's");
        let shown = async |job: &str| bob.get(&genie, &format!("/api/jobs/{job}")).await.ok();
        let b = shown("b").await;
        assert_eq!(
            (&b["status"], &b["priority"]),
            (&json!("delayed"), &json!(10))
        );
        assert_eq!(b["run_at"], json!(in_an_hour));
        assert_eq!(shown("c").await["priority"], 1);
        let before = facts(&genie, &ada, "job.rescheduled").await.len();
        patch(&bob, "b", json!({"run_at": in_an_hour, "priority": 10}))
            .await
            .ok();
        let after = facts(&genie, &ada, "job.rescheduled").await.len();
        assert_eq!((before, after), (2, 2), "asking twice changes nothing");
    }
);

both_stores!(
    a_changed_priority_and_time_outlive_a_restart_and_decide_the_order,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        for name in ["a", "b", "c"] {
            let job = with(resize(), "jobId", json!(name));
            ada.post(&genie, "/api/queue/media", job).await.ok();
        }
        let in_an_hour = genie.clock.now().plus_seconds(HOUR).rfc3339();
        let changes = [
            ("a", json!({"run_at": in_an_hour})),
            ("c", json!({"priority": 1})),
        ];
        for (job, body) in changes {
            ada.patch(&genie, &format!("/api/jobs/{job}"), body)
                .await
                .ok();
        }
        genie.restart().await;
        for name in ["c", "b"] {
            assert_eq!(genie.claim().await["clientJobId"], name);
        }
        let running = ada
            .patch(&genie, "/api/jobs/c", json!({"priority": 2}))
            .await;
        running.refused(409, "not_waiting");
        let claim = json!({"queues": ["media-jobs"], "worker_id": "w"});
        let none = genie.server("/api/worker/claim", claim).await.ok();
        assert_eq!(none["jobs"], json!([]));
        let now = json!({"run_at": "1999-01-01T00:00:00Z"});
        ada.patch(&genie, "/api/jobs/a", now).await.ok();
        assert_eq!(
            genie.claim().await["clientJobId"],
            "a",
            "a past time is now"
        );
    }
);

both_stores!(
    an_administrator_may_cancel_and_retry_anybodys_job,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let bob = genie.user("bob").await;
        let job = bob.submit_job(&genie).await;
        for (verb, status) in [("cancel", "cancelled"), ("retry", "queued")] {
            let path = format!("/api/queue/{verb}/{job}");
            assert_eq!(
                ada.post(&genie, &path, Value::Null).await.ok()["status"],
                status
            );
            let shown = bob.get(&genie, &format!("/api/jobs/{job}")).await.ok();
            assert_eq!(shown["status"], status);
        }
        let unknown = "/api/queue/cancel/0192d4e0-7f3a-7c3b-8f4e-0123456789ab";
        for user in [&ada, &bob] {
            let refused = user.post(&genie, unknown, Value::Null).await;
            refused.refused(404, "not_found");
        }
    }
);
