//! Jobs: leases that lapse, attempts that fail, ids that clients choose, owners who cancel and
//! queue again.

use genie_log::testing::{TestStore, both_stores};
use serde_json::{Value, json};

use crate::{
    raw_connection::RawConnection,
    test_genie::{TestGenie, TestUser},
    until::{moment_after, until},
};

/// One hour in seconds.
const HOUR: i64 = 60 * 60;

async fn start(store: TestStore, lease_ms: u64) -> (TestGenie, TestUser) {
    let mut genie =
        TestGenie::start_with(store, &[("GENIE_JOB_LEASE_MS", lease_ms.to_string())]).await;
    let ada = genie.user("ada").await;
    (genie, ada)
}

async fn status(genie: &TestGenie, user: &TestUser, job: &str) -> String {
    user.get(genie, &format!("/api/jobs/{job}")).await.ok()["status"]
        .as_str()
        .unwrap()
        .to_owned()
}

both_stores!(
    a_lapsed_lease_frees_the_job_for_another_worker_and_can_end_nothing,
    async |store: TestStore| {
        let (mut genie, ada) = start(store, 2000).await;
        let job = ada.submit_job(&genie).await;
        let first = genie.claim().await;
        genie.restart().await; // the worker's lease outlives the server
        genie.clock.advance_millis(2000);
        let second = genie.claim().await; // after the lease has lapsed and the pause is over
        assert_eq!(
            (second["jobId"].as_str(), second["attempt"].as_u64()),
            (Some(job.as_str()), Some(2))
        );
        let stale = json!({"lease": first["lease"], "result": {}});
        genie
            .server(&format!("/api/worker/jobs/{job}/complete"), stale)
            .await
            .refused(409, "stale_lease");
        let beat = genie
            .server(
                &format!("/api/worker/jobs/{job}/heartbeat"),
                json!({"lease": first["lease"]}),
            )
            .await;
        beat.refused(409, "stale_lease");
        let good = json!({"lease": second["lease"], "result": {"by": 2}});
        genie
            .server(&format!("/api/worker/jobs/{job}/complete"), good)
            .await
            .ok();
        assert_eq!(status(&genie, &ada, &job).await, "completed");
    }
);

both_stores!(
    a_worker_that_goes_away_while_it_waits_takes_no_job_with_it,
    async |store: TestStore| {
        let (genie, ada) = start(store, 30_000).await;
        let claim = json!({"queues": ["media-jobs"], "worker_id": "gone", "wait_ms": 30_000});
        let mut gone = RawConnection::open(&genie).await;
        gone.post_with_secret("/api/worker/claim", &claim).await;
        gone.send_no_more().await;
        assert_eq!(gone.rest().await, "", "the server has ended the claim");
        let job = ada.submit_job(&genie).await;
        let claimed = genie.claim().await;
        assert_eq!(
            (claimed["jobId"].as_str(), claimed["attempt"].as_u64()),
            (Some(job.as_str()), Some(1))
        );
    }
);

both_stores!(a_heartbeat_keeps_the_lease, async |store: TestStore| {
    let (genie, ada) = start(store, 4000).await;
    let job = ada.submit_job(&genie).await;
    let claimed = genie.claim().await;
    for progress in 1..=10 {
        genie.clock.advance_millis(500); // past the first lease
        let beat = json!({"lease": claimed["lease"], "progress": progress * 10});
        genie
            .server(&format!("/api/worker/jobs/{job}/heartbeat"), beat)
            .await
            .ok();
    }
    assert_eq!(status(&genie, &ada, &job).await, "processing");
    genie
        .server(
            &format!("/api/worker/jobs/{job}/complete"),
            json!({"lease": claimed["lease"]}),
        )
        .await
        .ok();
});

both_stores!(
    a_job_queued_again_survives_the_loss_of_its_owners_state,
    async |store: TestStore| {
        let (mut genie, ada) = start(store, 3000).await;
        let job = ada.submit_job(&genie).await;
        ada.post(&genie, &format!("/api/queue/cancel/{job}"), Value::Null)
            .await
            .ok();
        ada.post(&genie, &format!("/api/queue/retry/{job}"), Value::Null)
            .await
            .ok();
        genie.restart().await;
        assert_eq!(genie.claim().await["jobId"], job);
        genie.restart().await;
        genie.clock.advance_millis(3000);
        let again = genie.claim().await; // after the first lease has lapsed and the pause is over
        assert_eq!(
            (again["jobId"].as_str(), again["attempt"].as_u64()),
            (Some(job.as_str()), Some(2))
        );
        genie
            .server(
                &format!("/api/worker/jobs/{job}/complete"),
                json!({"lease": again["lease"]}),
            )
            .await
            .ok();
        assert_eq!(status(&genie, &ada, &job).await, "completed");
    }
);

both_stores!(
    a_failed_job_is_kept_and_its_owner_may_queue_it_again,
    async |store: TestStore| {
        let (genie, ada) = start(store, 30_000).await;
        let job = ada.submit_job(&genie).await;
        let claimed = genie.claim().await;
        let failed =
            json!({"lease": claimed["lease"], "error": "no such codec", "retryable": false});
        genie
            .server(&format!("/api/worker/jobs/{job}/fail"), failed)
            .await
            .ok();
        let shown = ada.get(&genie, &format!("/api/jobs/{job}")).await.ok();
        assert_eq!(
            (shown["status"].as_str(), shown["error"].as_str()),
            (Some("failed"), Some("no such codec"))
        );
        ada.post(&genie, &format!("/api/queue/retry/{job}"), Value::Null)
            .await
            .ok();
        ada.post(&genie, &format!("/api/queue/retry/{job}"), Value::Null)
            .await
            .refused(409, "not_failed");
        let again = genie.claim().await;
        assert_eq!(
            (again["jobId"].as_str(), again["attempt"].as_u64()),
            (Some(job.as_str()), Some(1))
        );
        // The owner cancels the job while it runs. The worker learns it at its next heartbeat, and
        // its lease is void.
        ada.post(&genie, &format!("/api/queue/cancel/{job}"), Value::Null)
            .await
            .ok();
        let beat = genie
            .server(
                &format!("/api/worker/jobs/{job}/heartbeat"),
                json!({"lease": again["lease"]}),
            )
            .await
            .ok();
        assert_eq!(beat["cancel"], true);
        let late = json!({"lease": again["lease"], "result": {}});
        genie
            .server(&format!("/api/worker/jobs/{job}/complete"), late)
            .await
            .refused(409, "stale_lease");
        assert_eq!(status(&genie, &ada, &job).await, "cancelled");
    }
);

both_stores!(
    a_cancelled_job_can_be_queued_again_whatever_the_job_board_remembers,
    async |store: TestStore| {
        let (mut genie, ada) = start(store, 30_000).await;
        let job = ada.submit_job(&genie).await;
        ada.post(&genie, &format!("/api/queue/cancel/{job}"), Value::Null)
            .await
            .ok();
        genie.restart().await;
        ada.post(&genie, &format!("/api/queue/retry/{job}"), Value::Null)
            .await
            .ok();
        assert_eq!(genie.claim().await["jobId"].as_str(), Some(job.as_str()));

        // A job that is cancelled in the very moment of a claim and queued again is handed out all
        // the same.
        let claim = json!({"queues": ["media-jobs"], "worker_id": "w"});
        for _ in 0..15 {
            let job = ada.submit_job(&genie).await;
            let cancel = format!("/api/queue/cancel/{job}");
            let (_, cancelled) = tokio::join!(
                genie.server("/api/worker/claim", claim.clone()),
                ada.post(&genie, &cancel, Value::Null)
            );
            cancelled.ok();
            ada.post(&genie, &format!("/api/queue/retry/{job}"), Value::Null)
                .await
                .ok();
            assert_eq!(genie.claim().await["jobId"].as_str(), Some(job.as_str()));
        }
    }
);

both_stores!(
    a_name_chosen_by_the_client_is_one_job_of_its_user,
    async |store: TestStore| {
        let (mut genie, ada) = start(store, 30_000).await;
        let bob = genie.user("bob").await;
        let job = json!({"jobId": 4711, "operation": "strip_metadata", "input_url": "http://a/b"});
        let first = ada.post(&genie, "/api/queue/media", job.clone()).await.ok();
        assert_eq!(
            (first["jobId"].as_str(), first["bullJobId"].as_str()),
            (Some("4711"), Some("4711"))
        );
        let again = ada.post(&genie, "/api/queue/media", job.clone()).await.ok();
        assert_eq!(again["id"], first["id"]);
        let other = json!({"jobId": "4711", "operation": "thumbnail", "input_url": "http://a/b"});
        ada.post(&genie, "/api/queue/media", other)
            .await
            .refused(409, "job_exists");
        bob.get(&genie, "/api/jobs/4711")
            .await
            .refused(404, "not_found");
        let claimed = genie.claim().await;
        assert_eq!(
            (&claimed["jobId"], &claimed["clientJobId"]),
            (&first["id"], &json!("4711"))
        );
        assert_eq!(
            ada.post(&genie, "/api/queue/media", job.clone()).await.ok()["status"],
            "processing"
        );
        let bobs = bob.post(&genie, "/api/queue/media", job.clone()).await.ok();
        assert_eq!(bobs["jobId"], "4711");
        assert_ne!(bobs["id"], first["id"], "a name is its own user's");
        assert_eq!(genie.claim().await["jobId"], bobs["id"]);
        let none = genie
            .server(
                "/api/worker/claim",
                json!({"queues": ["media-jobs"], "worker_id": "w"}),
            )
            .await
            .ok();
        assert_eq!(none["jobs"], json!([]), "asked twice, queued once");
        let listed = ada.get(&genie, "/api/jobs?status=processing").await.ok();
        assert_eq!(listed["data"].as_array().unwrap().len(), 1);
        assert_eq!(
            (&listed["data"][0]["jobId"], &listed["data"][0]["id"]),
            (&json!("4711"), &first["id"])
        );
        let failed = json!({"lease": claimed["lease"], "error": "e", "retryable": false});
        genie
            .server("/api/worker/jobs/4711/fail", failed.clone())
            .await
            .refused(404, "not_found");
        let path = format!(
            "/api/worker/jobs/{}/fail",
            claimed["jobId"].as_str().unwrap()
        );
        genie.server(&path, failed).await.ok();
        ada.post(&genie, "/api/queue/retry/4711", Value::Null)
            .await
            .ok();
        assert_eq!(
            ada.post(&genie, "/api/queue/media", job).await.ok()["status"],
            "queued",
            "the name is still the same job"
        );
    }
);

both_stores!(
    an_owner_may_use_the_name_and_the_uuid_of_a_job,
    async |store: TestStore| {
        let (genie, ada) = start(store, 30_000).await;
        // A name in the form of a UUID is a name, too.
        for name in ["post.7_final-2", "0192d4e0-7f3a-7c3b-8f4e-0123456789ab"] {
            let job = json!({"jobId": name, "operation": "thumbnail", "input_url": "http://a/b"});
            let id = ada.post(&genie, "/api/queue/media", job).await.ok()["id"].clone();
            let id = id.as_str().unwrap();
            assert_ne!(id, name);
            for used in [name, id] {
                let shown = ada.get(&genie, &format!("/api/jobs/{used}")).await.ok();
                assert_eq!((&shown["jobId"], &shown["id"]), (&json!(name), &json!(id)));
                for verb in ["cancel", "retry"] {
                    let path = format!("/api/queue/{verb}/{used}");
                    let done = ada.post(&genie, &path, Value::Null).await.ok();
                    assert_eq!((&done["jobId"], &done["id"]), (&json!(name), &json!(id)));
                }
            }
        }
    }
);

both_stores!(
    a_board_starts_from_the_table_of_unfinished_jobs_alone_and_hands_out_each_once,
    async |store: TestStore| {
        let (mut genie, ada) = start(store, 3_600_000).await;
        let kept = async |genie: &TestGenie, which: &str| {
            let sql = format!("UPDATE unfinished SET priority = priority WHERE {which}");
            genie.store.try_sql(&sql).await.unwrap()
        };
        let finished = ada.submit_job(&genie).await;
        let lease = genie.claim().await["lease"].clone();
        let path = format!("/api/worker/jobs/{finished}/complete");
        genie.server(&path, json!({"lease": lease})).await.ok();
        let again = ada.submit_job(&genie).await;
        for verb in ["cancel", "retry", "cancel"] {
            let path = format!("/api/queue/{verb}/{again}");
            ada.post(&genie, &path, Value::Null).await.ok();
        }
        assert_eq!(
            kept(&genie, "1 = 1").await,
            0,
            "nothing is kept of the ended"
        );
        ada.submit_job(&genie).await;
        genie.claim().await;
        let later = genie.clock.now().plus_seconds(HOUR).rfc3339();
        let delayed = json!({"operation": "thumbnail", "input_url": "http://a/b", "run_at": later});
        ada.post(&genie, "/api/queue/media", delayed).await.ok();
        let mut waiting = vec![
            ada.submit_job(&genie).await,
            ada.submit_job(&genie).await,
            again,
        ];
        let path = format!("/api/queue/retry/{}", waiting[2]);
        ada.post(&genie, &path, Value::Null).await.ok();
        assert_eq!(kept(&genie, "running = 1").await, 1);
        assert_eq!(kept(&genie, "running = 0 AND due IS NOT NULL").await, 1);
        assert_eq!(kept(&genie, "running = 0 AND due IS NULL").await, 3);

        genie.restart().await;
        assert_eq!(
            until("the board is ready", async || {
                let board = genie.readiness().await.json["board"].take();
                (board["state"] == "ready").then_some(board)
            })
            .await,
            json!({"state": "ready", "waiting": 3})
        );
        let claim = json!({"queues": ["media-jobs"], "worker_id": "w", "max": 10});
        let claimed = genie.server("/api/worker/claim", claim.clone()).await.ok();
        let jobs = claimed["jobs"].as_array().unwrap();
        let mut got: Vec<&str> = jobs
            .iter()
            .filter_map(|job| job["jobId"].as_str())
            .collect();
        got.sort_unstable();
        waiting.sort_unstable();
        assert_eq!(got, waiting);
        let none = genie.server("/api/worker/claim", claim.clone()).await.ok();
        assert_eq!(none["jobs"], json!([]));

        ada.submit_job(&genie).await;
        genie.store.try_sql("DELETE FROM unfinished").await.unwrap();
        genie.restart().await;
        let none = genie.server("/api/worker/claim", claim).await.ok();
        assert_eq!(none["jobs"], json!([]), "the log's events are not searched");
    }
);

both_stores!(
    a_job_is_claimed_with_what_it_was_submitted_with,
    async |store: TestStore| {
        let (mut genie, ada) = start(store, 30_000).await;
        let params = json!({"text": "x".repeat(60_000)});
        let job = json!({"operation": "thumbnail", "params": params, "input_url": "http://a/b"});
        ada.post(&genie, "/api/queue/media", job).await.ok();
        genie.restart().await;
        let claimed = genie.claim().await;
        assert_eq!(
            (&claimed["params"], &claimed["input_url"]),
            (&params, &json!("http://a/b"))
        );
    }
);

both_stores!(
    a_delayed_job_waits_for_its_time,
    async |store: TestStore| {
        let (genie, ada) = start(store, 30_000).await;
        let soon = genie.clock.now().plus_seconds(HOUR).rfc3339();
        let queued = ada
            .post(
                &genie,
                "/api/queue/media",
                json!({"operation": "thumbnail", "input_url": "http://a/b", "run_at": soon}),
            )
            .await
            .ok();
        assert_eq!(queued["status"], "delayed");
        let job = queued["jobId"].as_str().unwrap().to_owned();
        assert_eq!(status(&genie, &ada, &job).await, "delayed");
        let early = genie
            .server(
                "/api/worker/claim",
                json!({"queues": ["media-jobs"], "worker_id": "w"}),
            )
            .await
            .ok();
        assert_eq!(early["jobs"], json!([]));
        let due = async {
            moment_after(100).await;
            genie.clock.advance_millis(HOUR * 1000);
        };
        let (claimed, ()) = tokio::join!(genie.claim(), due);
        assert_eq!(
            claimed["jobId"], job,
            "a waiting claim gets the job when it is due"
        );
    }
);

both_stores!(
    many_workers_do_each_of_many_jobs_once,
    async |store: TestStore| {
        let (genie, ada) = start(store, 30_000).await;
        let mut submitted = Vec::new();
        for _ in 0..40 {
            submitted.push(ada.submit_job(&genie).await);
        }
        let claims = (0..8).map(|n| {
        let http = genie.http.clone();
        let base = genie.base.clone();
        tokio::spawn(async move {
            let mut mine = Vec::new();
            loop {
                let claim = json!({"queues": ["media-jobs"], "worker_id": format!("w{n}"), "max": 3, "wait_ms": 300});
                let request = http.post(format!("{base}/api/worker/claim")).header("X-RBAC-SYNC-SECRET", crate::test_genie::SECRET);
                let claimed: Value = request.json(&claim).send().await.unwrap().json().await.unwrap();
                let jobs = claimed["jobs"].as_array().unwrap().clone();
                if jobs.is_empty() {
                    return mine;
                }
                mine.extend(jobs.into_iter().map(|job| job["jobId"].as_str().unwrap().to_owned()));
            }
        })
    });
        let mut claimed = Vec::new();
        for claim in claims.collect::<Vec<_>>() {
            claimed.extend(claim.await.unwrap());
        }
        claimed.sort();
        submitted.sort();
        assert_eq!(claimed, submitted);
    }
);

both_stores!(
    a_claim_ends_at_a_mebibyte_of_params,
    async |store: TestStore| {
        let (genie, ada) = start(store, 30_000).await;
        let text = "x".repeat(60 << 10);
        let job = json!({"operation": "resize_image", "input_url": "http://a/b", "params": {"width": 1, "text": text}});
        for _ in 0..20 {
            ada.post(&genie, "/api/queue/media", job.clone()).await.ok();
        }
        let claim =
            json!({"queues": ["media-jobs"], "worker_id": "w", "max": 100, "wait_ms": 10_000});
        let mut claimed = Vec::new();
        while claimed.iter().sum::<usize>() < 20 {
            let jobs = genie.server("/api/worker/claim", claim.clone()).await.ok();
            let jobs = jobs["jobs"].as_array().unwrap();
            assert!(jobs.iter().all(|job| job["params"]["text"] == text));
            claimed.push(jobs.len());
        }
        // The job that reaches the bound is the last: 17 of 60 KiB are less than a mebibyte. A claim
        // may have fewer, when the board has not seen all of them.
        assert!(claimed.iter().all(|jobs| *jobs <= 18), "{claimed:?}");
    }
);

both_stores!(
    an_expired_lease_that_cannot_be_ended_makes_way_for_others,
    async |store: TestStore| {
        let (mut genie, ada) = start(store, 1000).await;
        ada.submit_job(&genie).await;
        genie.claim().await;
        genie.settle().await;
        let owner = "SELECT owner FROM events WHERE event_type = 'job.claimed'";
        genie
            .store
            .tamper(&format!(
                "UPDATE events SET payload = digest WHERE owner = ({owner}) AND owner_seq = 1"
            ))
            .await;
        genie.restart().await;
        genie.clock.advance_millis(2000); // past the lease
        let soon = genie.clock.now().plus_seconds(20).0;
        let put_off =
            format!("UPDATE leases SET kind = 'job' WHERE kind = 'job' AND expires_at > {soon}");
        until("the lease to be put off", async || {
            (genie.store.try_sql(&put_off).await.ok()? == 1).then_some(())
        })
        .await;
    }
);

both_stores!(
    an_administrators_look_at_anothers_job_is_a_fact,
    async |store: TestStore| {
        let (mut genie, ada) = start(store, 1000).await;
        let bob = genie.user("bob").await;
        let eve = genie.user("eve").await;
        let job = bob.submit_job(&genie).await;
        genie.settle().await;
        let path = format!("/api/jobs/{job}");
        let looks = async || {
            let feed = "/api/events?types=access.personal_read&limit=100";
            let seen = ada.get(&genie, feed).await.ok();
            let of_event = |event: &Value| event["data"]["user"].clone();
            let events = seen["data"].as_array().unwrap();
            events.iter().map(of_event).collect::<Vec<_>>()
        };
        bob.get(&genie, &path).await.ok();
        eve.get(&genie, &path).await.refused(404, "not_found");
        assert_eq!(looks().await, Vec::<Value>::new());
        for _ in 0..2 {
            assert_eq!(ada.get(&genie, &path).await.ok()["id"], json!(job));
        }
        assert_eq!(looks().await, Vec::<Value>::new(), "nothing personal");
        let personal = format!("{path}?personal=true&reason=a%20complaint");
        for _ in 0..2 {
            assert_eq!(ada.get(&genie, &personal).await.ok()["id"], json!(job));
        }
        assert_eq!(looks().await, [json!(bob.id)], "one a minute");
    }
);

both_stores!(
    old_jobs_go_and_those_that_have_not_ended_stay,
    async |store: TestStore| {
        let settings = [("JOBS_KEEP_DAYS", "2".to_owned())];
        let mut genie = TestGenie::start_with(store, &settings).await;
        let ada = genie.user("ada").await;
        let named = json!({"jobId": "first", "operation": "thumbnail", "input_url": "http://a/b"});
        let old = ada.post(&genie, "/api/queue/media", named.clone()).await;
        let old = old.ok()["id"].as_str().unwrap().to_owned();
        let waits = ada.submit_job(&genie).await;
        let cancel = async |genie: &TestGenie, ada: &TestUser, job: &str| {
            let path = format!("/api/queue/cancel/{job}");
            ada.post(genie, &path, Value::Null).await.ok();
        };
        cancel(&genie, &ada, &old).await;
        genie.clock.advance_millis(36 * 3600 * 1000);
        let ada = genie.user_again("ada", &ada.id).await;
        let young = ada.submit_job(&genie).await;
        cancel(&genie, &ada, &young).await;
        genie.settle().await;
        genie.clock.advance_millis(24 * 3600 * 1000);
        let ada = genie.user_again("ada", &ada.id).await;
        let path = format!("/api/jobs/{old}");
        until("the old job to go", async || {
            (ada.get(&genie, &path).await.status == 404).then_some(())
        })
        .await;
        let listed = async |genie: &TestGenie| {
            let list = ada.get(genie, "/api/jobs").await.ok();
            let ids = list["data"].as_array().unwrap().iter();
            ids.map(|job| job["id"].clone()).collect::<Vec<_>>()
        };
        assert_eq!(listed(&genie).await, [json!(young), json!(waits)]);
        for verb in ["retry", "cancel"] {
            let path = format!("/api/queue/{verb}/{old}");
            let gone = ada.post(&genie, &path, Value::Null).await;
            gone.refused(404, "not_found");
        }
        let again = ada.post(&genie, "/api/queue/media", named).await;
        again.refused(409, "job_exists");
        let feed = "/api/me/events?types=job.removed";
        let removed = ada.get(&genie, feed).await.ok();
        assert_eq!(removed["data"].as_array().unwrap().len(), 1, "{removed}");
        assert_eq!(removed["data"][0]["subject"], format!("job/{old}"));
        genie.restart().await;
        genie.settle().await;
        assert_eq!(listed(&genie).await, [json!(young), json!(waits)]);
    }
);
