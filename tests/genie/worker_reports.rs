//! What workers report: jobs given back, failures with a code, and reports of many jobs by one request.

use std::collections::BTreeSet;

use genie_log::testing::{TestStore, both_stores};
use serde_json::{Value, json};

use crate::{
    raw_connection::RawConnection,
    test_genie::{TestGenie, TestUser},
    until::moment_after,
};

async fn shown(genie: &TestGenie, user: &TestUser, job: &Value) -> Value {
    let path = format!("/api/jobs/{}", job.as_str().unwrap());
    user.get(genie, &path).await.ok()
}

async fn claim_all(genie: &TestGenie, count: usize) -> Vec<Value> {
    let claim = json!({"queues": ["media-jobs"], "worker_id": "w", "max": 100, "wait_ms": 10_000});
    let mut claimed = Vec::new();
    while claimed.len() < count {
        let jobs = genie.server("/api/worker/claim", claim.clone()).await.ok();
        let jobs = jobs["jobs"].as_array().unwrap().clone();
        assert!(!jobs.is_empty(), "{} of {count}", claimed.len());
        claimed.extend(jobs);
    }
    claimed
}

/// The `data` of all facts of a type.
async fn facts(genie: &TestGenie, admin: &TestUser, of_type: &str) -> Vec<Value> {
    let path = format!("/api/events?types={of_type}&limit=500");
    let mut page = admin.get(genie, &path).await.ok();
    let events = page["data"].as_array_mut().unwrap();
    events
        .iter_mut()
        .map(|event| event["data"].take())
        .collect()
}

both_stores!(
    a_job_that_is_given_back_has_spent_no_attempt,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        ada.submit_job(&genie).await;
        let first = genie.claim().await;
        let job = &first["jobId"];
        let path = |verb: &str| format!("/api/worker/jobs/{}/{verb}", job.as_str().unwrap());
        let with = |lease: &Value| json!({"lease": lease});
        let wrong = with(&json!("another"));
        let refused = genie.server(&path("release"), wrong).await;
        refused.refused(409, "stale_lease");
        for _ in 0..2 {
            let released = genie.server(&path("release"), with(&first["lease"])).await;
            assert_eq!(released.ok()["status"], "queued");
        }
        for verb in ["complete", "fail", "heartbeat"] {
            let late = genie.server(&path(verb), with(&first["lease"])).await;
            late.refused(409, "stale_lease");
        }
        let waiting = shown(&genie, &ada, job).await;
        assert_eq!(
            (&waiting["status"], &waiting["attempt"]),
            (&json!("queued"), &json!(0))
        );
        genie.restart().await;
        let second = genie.claim().await;
        assert_eq!((&second["jobId"], &second["attempt"]), (job, &json!(1)));
        let again = genie.server(&path("release"), with(&first["lease"])).await;
        again.ok();
        genie
            .server(&path("complete"), with(&second["lease"]))
            .await
            .ok();
        assert_eq!(shown(&genie, &ada, job).await["status"], "completed");
        assert_eq!(
            facts(&genie, &ada, "job.released").await,
            [json!({"attempt": 1})]
        );
    }
);

both_stores!(
    a_failure_has_a_code_and_may_be_reported_twice,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        ada.submit_job(&genie).await;
        let claimed = genie.claim().await;
        let path = format!(
            "/api/worker/jobs/{}/fail",
            claimed["jobId"].as_str().unwrap()
        );
        let fail = json!({"lease": claimed["lease"], "error": "disk full", "code": "No Space!"});
        let first = genie.server(&path, fail.clone()).await.ok();
        let again = genie.server(&path, fail).await.ok();
        assert_eq!(first["jobId"], again["jobId"]);
        let failed = facts(&genie, &ada, "job.failed").await;
        assert_eq!(failed.len(), 1, "{failed:?}");
        assert_eq!(failed[0]["code"], "no_space_");
        let job = shown(&genie, &ada, &claimed["jobId"]).await;
        assert_eq!(
            (&job["attempt"], &job["code"]),
            (&json!(1), &json!("no_space_"))
        );
        let list = async |filter: &str| {
            let path = format!("/api/jobs?{filter}");
            let page = ada.get(&genie, &path).await.ok();
            let rows = page["data"].as_array().unwrap().iter();
            rows.map(|job| job["code"].clone()).collect::<Vec<_>>()
        };
        assert_eq!(list("code=No%20Space%21").await, [json!("no_space_")]);
        assert!(list("code=other").await.is_empty());
        assert!(list("code=no_space_&status=failed").await.is_empty());
        let odd = ada.get(&genie, "/api/jobs?code=%3F").await;
        odd.refused(400, "invalid_field");
        // A code goes with the error: it stays over the next attempt, and a job that completes has none.
        genie.clock.advance_millis(2000);
        let second = genie.claim().await;
        let running = shown(&genie, &ada, &second["jobId"]).await;
        assert_eq!(
            (&running["status"], &running["code"]),
            (&json!("processing"), &json!("no_space_"))
        );
        let path = format!(
            "/api/worker/jobs/{}/complete",
            second["jobId"].as_str().unwrap()
        );
        let done = json!({"lease": second["lease"]});
        genie.server(&path, done).await.ok();
        let done = shown(&genie, &ada, &second["jobId"]).await;
        assert_eq!(
            (&done["code"], &done["error"]),
            (&Value::Null, &Value::Null)
        );
    }
);

both_stores!(
    a_worker_says_what_it_does_while_it_does_it,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let bob = genie.user("bob").await;
        bob.submit_job(&genie).await;
        let claimed = genie.claim().await;
        let job = &claimed["jobId"];
        let message = async || shown(&genie, &bob, job).await["message"].clone();
        assert_eq!(message().await, Value::Null);
        let path = format!("/api/worker/jobs/{}/heartbeat", job.as_str().unwrap());
        let beat = json!({"lease": claimed["lease"], "progress": 5, "message": "pass 1 of 2"});
        genie.server(&path, beat).await.ok();
        assert_eq!(message().await, "pass 1 of 2");
        // What is left out stays, and a stale lease says nothing.
        let quiet = json!({"lease": claimed["lease"], "progress": 6, "message": null});
        genie.server(&path, quiet).await.ok();
        let stale = json!({"lease": "x", "message": "not mine"});
        genie.server(&path, stale).await.refused(409, "stale_lease");
        assert_eq!(message().await, "pass 1 of 2");
        let beat = json!({"message": "pass 2 of 2"});
        let report = json!({"jobId": job, "lease": claimed["lease"], "heartbeat": beat});
        let report = json!({"reports": [report]});
        genie.server("/api/worker/report", report).await.ok();
        assert_eq!(message().await, "pass 2 of 2");
        // It is personal.
        let job_path = format!("/api/jobs/{}", job.as_str().unwrap());
        assert_eq!(
            ada.get(&genie, &job_path).await.ok()["message"],
            Value::Null
        );
        let stored = genie.store.bytes().await;
        let clear = b"pass 2 of 2";
        let is_there = |some: &[u8]| some.windows(clear.len()).any(|found| found == clear);
        assert!(!is_there(&stored), "kept in clear");
        let path = format!("/api/worker/jobs/{}/release", job.as_str().unwrap());
        let release = json!({"lease": claimed["lease"]});
        genie.server(&path, release).await.ok();
        assert_eq!(message().await, Value::Null);
        genie.claim().await;
        assert_eq!(
            message().await,
            Value::Null,
            "a new attempt begins without one"
        );
    }
);

both_stores!(
    jobs_of_many_owners_are_reported_and_claimed_by_one_request,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let bob = genie.user("bob").await;
        for user in [&ada, &bob, &ada, &bob, &ada] {
            user.submit_job(&genie).await;
        }
        genie.settle().await;
        let claimed = claim_all(&genie, 5).await;
        let of = |user: &TestUser| {
            let theirs = claimed.iter().filter(|job| job["userId"] == user.id);
            theirs.cloned().collect::<Vec<_>>()
        };
        let (adas, bobs) = (of(&ada), of(&bob));
        assert_eq!((adas.len(), bobs.len()), (3, 2));
        let report = |job: &Value, kind: &str, what: Value| json!({"jobId": job["jobId"], "lease": job["lease"], kind: what});
        let stale = json!({"jobId": bobs[0]["jobId"], "lease": "x", "heartbeat": {}});
        let unknown =
            json!({"jobId": "0192d4e0-7f3a-7c3b-8f4e-0123456789ab", "lease": "x", "fail": {}});
        let ends = vec![
            report(&adas[0], "complete", json!({"result": {"n": 1}})),
            report(&adas[1], "complete", json!({})),
            report(
                &adas[2],
                "fail",
                json!({"error": "e", "code": "e_1", "retryable": false}),
            ),
            report(&bobs[1], "release", json!({})),
        ];
        let mut reports = ends.clone();
        reports.extend([
            report(&bobs[0], "heartbeat", json!({"progress": "41 %"})),
            stale,
            unknown,
            json!({"jobId": adas[0]["jobId"], "lease": 7, "heartbeat": {}}),
            json!({"jobId": adas[0]["jobId"], "lease": "x"}),
        ]);
        let claim = json!({"queues": ["media-jobs"], "worker_id": "w", "wait_ms": 10_000});
        let body = json!({"reports": reports, "claim": claim});
        let answer = genie.server("/api/worker/report", body).await;
        assert!(answer.headers.contains_key("genie-position"));
        let answer = answer.ok();
        let told = answer["reports"].as_array().unwrap();
        let oks: Vec<bool> = told.iter().map(|one| one["ok"] == true).collect();
        assert_eq!(
            oks,
            [true, true, true, true, true, false, false, false, false]
        );
        for (one, sent) in told.iter().zip(&reports).take(7) {
            assert_eq!(one["jobId"], sent["jobId"]);
        }
        assert_eq!(told[4]["cancel"], false);
        assert!(told[4]["lease_expires_at"].is_string());
        let codes: Vec<&str> = told[5..]
            .iter()
            .map(|one| one["code"].as_str().unwrap())
            .collect();
        assert_eq!(
            codes,
            ["stale_lease", "not_found", "invalid_field", "invalid_field"]
        );
        assert!(told[7]["error"].as_str().unwrap().contains("`lease`"));
        let handed = answer["jobs"].as_array().unwrap();
        assert_eq!(handed.len(), 1, "{answer}");
        assert_eq!(
            (&handed[0]["jobId"], &handed[0]["attempt"]),
            (&bobs[1]["jobId"], &json!(1)),
            "the job that was given back"
        );
        for (user, job, status) in [
            (&ada, &adas[0], "completed"),
            (&ada, &adas[1], "completed"),
            (&ada, &adas[2], "failed"),
            (&bob, &bobs[0], "processing"),
            (&bob, &bobs[1], "processing"),
        ] {
            assert_eq!(shown(&genie, user, &job["jobId"]).await["status"], status);
        }
        assert_eq!(shown(&genie, &bob, &bobs[0]["jobId"]).await["progress"], 41);

        // The answer got lost: the same ends again are answered the same, and change nothing.
        let before = facts(&genie, &ada, "job.*").await.len();
        let twice = [ends.clone(), ends].concat();
        let again = genie
            .server("/api/worker/report", json!({"reports": twice}))
            .await
            .ok();
        let told = again["reports"].as_array().unwrap();
        assert!(told.iter().all(|one| one["ok"] == true), "{again}");
        assert_eq!(again["jobs"], json!([]));
        assert_eq!(facts(&genie, &ada, "job.*").await.len(), before);
    }
);

both_stores!(
    a_report_that_is_refused_costs_neither_its_lease_nor_the_others,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        for _ in 0..2 {
            ada.submit_job(&genie).await;
        }
        let jobs = claim_all(&genie, 2).await;
        let complete = |job: &Value, result: Value| json!({"jobId": job["jobId"], "lease": job["lease"], "complete": {"result": result}});
        let large = Value::from("x".repeat(1 << 20));
        let reports = json!([complete(&jobs[0], large), complete(&jobs[1], json!({}))]);
        let answer = genie
            .server("/api/worker/report", json!({"reports": reports}))
            .await
            .ok();
        let told = &answer["reports"];
        assert_eq!(
            (&told[0]["ok"], &told[0]["code"]),
            (&json!(false), &json!("body_too_large"))
        );
        assert_eq!(told[1]["ok"], true);
        let claim = json!({"queues": ["tea-jobs"], "worker_id": "w"});
        let wrong_claim = json!({"reports": [complete(&jobs[0], json!({}))], "claim": claim});
        let refused = genie.server("/api/worker/report", wrong_claim).await;
        let refused = refused.refused(400, "invalid_field");
        assert!(refused["error"].as_str().unwrap().contains("`queues`"));
        assert_eq!(
            shown(&genie, &ada, &jobs[0]["jobId"]).await["status"],
            "processing"
        );
        let many = vec![complete(&jobs[0], json!({})); 1001];
        let refused = genie
            .server("/api/worker/report", json!({"reports": many}))
            .await;
        refused.refused(400, "invalid_field");
        let huge = Value::from("x".repeat(8 << 20));
        let huge = json!({"reports": [complete(&jobs[0], huge)]});
        let refused = genie.server("/api/worker/report", huge).await;
        refused.refused(413, "body_too_large");
        let small = json!({"reports": [complete(&jobs[0], json!({}))]});
        let answer = genie.server("/api/worker/report", small).await.ok();
        assert_eq!(answer["reports"][0]["ok"], true);
    }
);

both_stores!(
    workers_that_died_while_they_waited_take_no_job_and_no_attempt,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let claim =
            json!({"queues": ["media-jobs"], "worker_id": "gone", "max": 100, "wait_ms": 30_000});
        let mut waiting = Vec::new();
        for _ in 0..5 {
            let mut worker = RawConnection::open(&genie).await;
            worker.post_with_secret("/api/worker/claim", &claim).await;
            waiting.push(worker);
        }
        moment_after(200).await;
        drop(waiting);
        let mut submitted = BTreeSet::new();
        for _ in 0..100 {
            submitted.insert(ada.submit_job(&genie).await);
        }
        let claimed = claim_all(&genie, 100).await;
        assert!(claimed.iter().all(|job| job["attempt"] == 1), "{claimed:?}");
        let got = claimed
            .iter()
            .map(|job| job["jobId"].as_str().unwrap().to_owned());
        assert_eq!(got.collect::<BTreeSet<_>>(), submitted);
    }
);
