//! The job board: what a claim gets, why a job waits, and users who may not act.

use genie_log::testing::{TestStore, both_stores};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    fake_ollama::Step,
    test_genie::{Events, SECRET, TestGenie, TestUser},
    until::until,
};

/// Queues a job and answers its id.
async fn submit(genie: &TestGenie, user: &TestUser, job: Value) -> String {
    let queued = user.post(genie, "/api/queue/media", job).await.ok();
    queued["id"].as_str().unwrap().to_owned()
}

/// Claims at most one job, without waiting, and answers it or null.
async fn claim(genie: &TestGenie, scope: Value) -> Value {
    let mut claim = json!({"worker_id": "w"});
    claim
        .as_object_mut()
        .unwrap()
        .extend(scope.as_object().unwrap().clone());
    let mut claimed = genie.server("/api/worker/claim", claim).await.ok();
    let first = claimed["jobs"].get_mut(0).map(Value::take);
    first.unwrap_or_default()
}

async fn because(genie: &TestGenie, user: &TestUser, job: &str) -> Value {
    let mut shown = user.get(genie, &format!("/api/jobs/{job}")).await.ok();
    shown["waits_because"].take()
}

async fn sync(genie: &TestGenie, user: &TestUser, status: &str) {
    let body = json!({"userId": user.id, "status": status});
    genie.server("/api/rbac-sync", body).await.ok();
}

/// Waits until the board knows the newest facts.
async fn until_because(genie: &TestGenie, user: &TestUser, job: &str, reason: &str) {
    until(reason, async || {
        // An administrator may ask before the read side knows of the job.
        let shown = user.get(genie, &format!("/api/jobs/{job}")).await;
        (shown.json["waits_because"]["reason"] == reason).then_some(())
    })
    .await;
}

both_stores!(
    a_worker_gets_only_the_operations_that_it_names,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let thumbnail = submit(
            &genie,
            &ada,
            json!({"operation": "thumbnail", "input_url": "http://a/b"}),
        )
        .await;
        let post = submit(&genie, &ada, json!({"operation": "publish_post"})).await;
        let both = json!(["media-jobs", "scrape-jobs"]);
        let scope = |operations: Value| json!({"queues": both, "operations": operations});
        until("the board", async || {
            let none = claim(&genie, scope(json!(["crop_video"]))).await;
            assert_eq!(none, Value::Null);
            let got = claim(
                &genie,
                scope(json!(["scrape_post_performance", "publish_post"])),
            )
            .await;
            (got["jobId"] == post.as_str()).then_some(())
        })
        .await;
        let outside = json!({"queues": ["scrape-jobs"], "operations": ["thumbnail"]});
        assert_eq!(claim(&genie, outside).await, Value::Null);
        let all = claim(&genie, json!({"queues": ["media-jobs"]})).await;
        assert_eq!(all["jobId"], thumbnail.as_str());
        for wrong in [json!([]), json!(["make_coffee"]), json!("thumbnail")] {
            let body = json!({"queues": both, "operations": wrong, "worker_id": "w"});
            let refused = genie.server("/api/worker/claim", body).await;
            assert_eq!(refused.status, 400, "{wrong}");
            assert!(
                refused.json["error"]
                    .as_str()
                    .unwrap()
                    .contains("`operations`")
            );
        }
    }
);

both_stores!(a_job_that_waits_says_why, async |store: TestStore| {
    let mut genie = TestGenie::start(store).await;
    let ada = genie.user("ada").await;
    let later = genie.clock.now().plus_seconds(3600);
    let at = later.rfc3339();
    let delayed = submit(
        &genie,
        &ada,
        json!({"operation": "thumbnail", "input_url": "http://a/b", "run_at": at}),
    )
    .await;
    let first = submit(
        &genie,
        &ada,
        json!({"operation": "thumbnail", "input_url": "http://a/b"}),
    )
    .await;
    let second = submit(
        &genie,
        &ada,
        json!({"operation": "thumbnail", "input_url": "http://a/b"}),
    )
    .await;
    let mut shown = because(&genie, &ada, &delayed).await;
    let shown_at = shown["at"].take();
    assert_eq!(shown["reason"], "run_at");
    assert_eq!(
        genie_events::Timestamp::parse_rfc3339(shown_at.as_str().unwrap())
            .unwrap()
            .unix_millis(),
        later.unix_millis()
    );
    until("the board", async || {
        let turn = because(&genie, &ada, &second).await;
        (turn == json!({"reason": "turn", "place": 2})).then_some(())
    })
    .await;
    assert_eq!(
        because(&genie, &ada, &first).await,
        json!({"reason": "turn", "place": 1})
    );
    // No worker for thumbnails came for a minute; one for other work tells nothing of them.
    genie.clock.advance_millis(60_000);
    let other = json!({"queues": ["media-jobs"], "operations": ["crop_video"]});
    assert_eq!(claim(&genie, other).await, Value::Null);
    assert_eq!(
        because(&genie, &ada, &first).await,
        json!({"reason": "no_worker"})
    );

    let got = claim(&genie, json!({"queues": ["media-jobs"]})).await;
    assert_eq!(got["jobId"], first.as_str());
    assert_eq!(because(&genie, &ada, &first).await, Value::Null, "it runs");
    until_because(&genie, &ada, &second, "turn").await;
    let failed = json!({"lease": got["lease"], "error": "e"});
    genie
        .server(&format!("/api/worker/jobs/{first}/fail"), failed)
        .await
        .ok();
    until_because(&genie, &ada, &first, "backoff").await;
    let shown = because(&genie, &ada, &first).await;
    assert!(
        shown["at"].is_string() && shown.get("place").is_none(),
        "{shown}"
    );
    let listed = ada.get(&genie, "/api/jobs").await.ok();
    assert!(listed["data"][0].get("waits_because").is_none());
});

both_stores!(
    jobs_of_a_user_who_may_not_act_are_parked_and_come_back,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let admin = genie.user("admin").await;
        let ada = genie.user("ada").await;
        let bob = genie.user("bob").await;
        let eve = genie.user("eve").await;
        let media = json!({"queues": ["media-jobs"]});
        let next = async |genie: &TestGenie, wanted: &str| {
            until("a claim", async || {
                let got = claim(genie, media.clone()).await;
                (!got.is_null()).then(|| assert_eq!(got["jobId"], wanted))
            })
            .await;
        };

        // Suspended, and reactivated.
        let parked = submit(
            &genie,
            &ada,
            json!({"operation": "thumbnail", "input_url": "http://a/b"}),
        )
        .await;
        sync(&genie, &ada, "suspended").await;
        until_because(&genie, &admin, &parked, "user_suspended").await;
        let bobs = submit(
            &genie,
            &bob,
            json!({"operation": "thumbnail", "input_url": "http://a/b"}),
        )
        .await;
        next(&genie, &bobs).await;
        assert_eq!(claim(&genie, media.clone()).await, Value::Null);
        // A board that starts finds out by asking.
        genie.restart().await;
        let bobs = submit(
            &genie,
            &bob,
            json!({"operation": "thumbnail", "input_url": "http://a/b"}),
        )
        .await;
        next(&genie, &bobs).await;
        assert_eq!(claim(&genie, media.clone()).await, Value::Null);
        assert_eq!(
            because(&genie, &admin, &parked).await,
            json!({"reason": "user_suspended"})
        );
        sync(&genie, &ada, "active").await;
        next(&genie, &parked).await;

        // About to be forgotten, and not after all.
        let parked = submit(
            &genie,
            &bob,
            json!({"operation": "thumbnail", "input_url": "http://a/b"}),
        )
        .await;
        bob.delete(&genie, "/api/me").await.ok();
        until_because(&genie, &admin, &parked, "user_suspended").await;
        assert_eq!(claim(&genie, media.clone()).await, Value::Null);
        let path = format!("/api/admin/users/{}/forget", bob.id);
        let undone = genie
            .send(Method::DELETE, &path, &admin.headers(), None)
            .await;
        assert_eq!(undone.status, 200, "{:?}", undone.json);
        next(&genie, &parked).await;

        // A changed role is a reason to ask again; a suspended user stays parked.
        let parked = submit(
            &genie,
            &eve,
            json!({"operation": "thumbnail", "input_url": "http://a/b"}),
        )
        .await;
        sync(&genie, &eve, "suspended").await;
        let body = json!({"userId": eve.id, "role": "administrator"});
        genie.server("/api/rbac-sync", body).await.ok();
        genie.settle().await;
        assert_eq!(claim(&genie, media.clone()).await, Value::Null);
        until_because(&genie, &admin, &parked, "user_suspended").await;
    }
);

both_stores!(
    an_owner_who_cannot_be_read_is_passed_over,
    async |store: TestStore| {
        let mut genie = TestGenie::start_process(store).await;
        let ada = genie.user("ada").await;
        let bob = genie.user("bob").await;
        for _ in 0..30 {
            submit(
                &genie,
                &ada,
                json!({"operation": "thumbnail", "input_url": "http://a/b"}),
            )
            .await;
        }
        genie.settle().await;
        let damage = format!(
            "UPDATE events SET payload = digest WHERE event_type = 'account.registered' AND owner = unhex('{}', '-')",
            ada.id
        );
        genie.store.tamper(&damage).await;
        genie.restart().await;
        let bobs = submit(
            &genie,
            &bob,
            json!({"operation": "thumbnail", "input_url": "http://a/b"}),
        )
        .await;
        assert_eq!(genie.claim().await["jobId"], bobs.as_str());
        // The jobs of the other one are neither handed out nor asked for again and again.
        let claims = async || {
            let scope = json!({"queues": ["media-jobs"], "max": 100, "wait_ms": 1000});
            assert_eq!(claim(&genie, scope).await, Value::Null);
        };
        tokio::join!(claims(), claims(), claims());
    }
);

both_stores!(
    the_server_writes_captions_that_are_queued_as_jobs,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        genie
            .ollama
            .script("summer", &[Step::Say("\"Sun and sea\""), Step::Done]);
        genie
            .ollama
            .script("winter", &[Step::Refuse(404, "model not found")]);
        let caption = |topic: &str| json!({"operation": "caption_generation", "max_attempts": 1, "params": {"topic": topic, "platform": "x"}});
        let written = submit(&genie, &ada, caption("summer")).await;
        let refused = submit(&genie, &ada, caption("winter")).await;
        let wrong = json!({"operation": "caption_generation", "params": {"platform": "myspace"}});
        let wrong = submit(&genie, &ada, wrong).await;
        let ended = async |job: &str| {
            until("the job's end", async || {
                assert_eq!(
                    claim(&genie, json!({"queues": ["media-jobs"]})).await,
                    Value::Null
                );
                let job = ada.get(&genie, &format!("/api/jobs/{job}")).await.ok();
                (!job["finished_at"].is_null()).then_some(job)
            })
            .await
        };
        let job = ended(&written).await;
        let model = job["result"]["model"].clone();
        assert_eq!(
            job["result"],
            json!({"caption": "Sun and sea", "platform": "x", "model": model})
        );
        assert_eq!(
            (&job["status"], &job["attempt"]),
            (&json!("completed"), &json!(1))
        );
        let usage = ada.get(&genie, "/api/usage").await.ok();
        assert_eq!(ended(&refused).await["status"], "failed");
        let job = ended(&wrong).await;
        assert_eq!(
            (&job["status"], &job["attempt"]),
            (&json!("failed"), &json!(1)),
            "no second try"
        );
        assert!(
            job["error"].as_str().unwrap().contains("`platform`"),
            "{job}"
        );
        genie.settle().await;
        let counted = |usage: &Value| usage["usage"]["posts_ai_assisted"].as_i64().unwrap();
        let usage_after = ada.get(&genie, "/api/usage").await.ok();
        assert_eq!(
            counted(&usage_after),
            1,
            "what failed is not counted; before: {usage}"
        );
    }
);

both_stores!(
    a_queued_caption_of_a_killed_server_is_written_by_the_next,
    async |store: TestStore| {
        let mut genie =
            TestGenie::start_process_with(store, &[("GENIE_JOB_LEASE_MS", "2000".into())]).await;
        let ada = genie.user("ada").await;
        genie
            .ollama
            .script("summer", &[Step::Say("Sun"), Step::Hold, Step::Done]);
        let job = json!({"operation": "caption_generation", "params": {"topic": "summer"}});
        let job = submit(&genie, &ada, job).await;
        genie.ollama.asked().await;
        genie.restart().await;
        genie.ollama.asked().await;
        genie.ollama.go_on();
        genie.ollama.go_on();
        let job = until("the job's end", async || {
            genie.ollama.go_on();
            let job = ada.get(&genie, &format!("/api/jobs/{job}")).await.ok();
            (job["status"] == "completed").then_some(job)
        })
        .await;
        assert_eq!(
            (&job["attempt"], &job["result"]["caption"]),
            (&json!(2), &json!("Sun"))
        );
    }
);

both_stores!(a_job_can_be_watched_to_its_end, async |store: TestStore| {
    let mut genie = TestGenie::start(store).await;
    let ada = genie.user("ada").await;
    let bob = genie.user("bob").await;
    let job = submit(
        &genie,
        &bob,
        json!({"operation": "thumbnail", "input_url": "http://a/b"}),
    )
    .await;
    let path = format!("/api/jobs/{job}/stream");
    let watch = |last: &'static str| {
        let address = format!("{}{path}", genie.base);
        genie
            .http
            .get(address)
            .bearer_auth(&bob.token)
            .header("Last-Event-ID", last)
    };
    let mut events = Events::open(watch("")).await;
    let first = events.next().await.unwrap().data;
    assert_eq!(
        (&first["id"], &first["status"]),
        (&json!(job), &json!("queued"))
    );
    let got = genie.claim().await;
    let mut seen = vec![];
    let mut until_seen = async |wanted: &dyn Fn(&Value) -> bool| loop {
        let event = events.next().await.expect("the job has not ended");
        seen.push(event.data.clone());
        if wanted(&event.data) {
            return event;
        }
    };
    until_seen(&|job| job["status"] == "processing").await;
    let beat = json!({"lease": got["lease"], "progress": 40});
    genie
        .server(&format!("/api/worker/jobs/{job}/heartbeat"), beat)
        .await
        .ok();
    until_seen(&|job| job["progress"] == 40).await;
    let done = json!({"lease": got["lease"], "result": {"width": 1}});
    genie
        .server(&format!("/api/worker/jobs/{job}/complete"), done)
        .await
        .ok();
    let last = until_seen(&|job| job["status"] == "completed").await;
    let shown = bob.get(&genie, &format!("/api/jobs/{job}")).await.ok();
    assert_eq!((last.data, last.id.as_str()), (shown, "end"));
    assert!(
        events.next().await.is_none(),
        "the stream ends with its job"
    );
    let repeated = seen.windows(2).any(|two| two[0] == two[1]);
    assert!(!repeated, "only news are sent: {seen:?}");
    let again = watch("end").send().await.unwrap();
    assert_eq!(again.status(), 204, "a browser must not come back for ever");
    ada.get(
        &genie,
        &format!("/api/jobs/{}/stream", got["lease"].as_str().unwrap()),
    )
    .await
    .refused(404, "not_found");
});

both_stores!(
    a_server_that_starts_knows_who_may_not_act,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let bob = genie.user("bob").await;
        let eve = genie.user("eve").await;
        let bobs = bob.submit_job(&genie).await;
        let eves = eve.submit_job(&genie).await;
        sync(&genie, &bob, "suspended").await;
        genie.restart().await;
        // Nobody claims, and an administrator looks.
        let admin = genie.user_again("ada", &ada.id).await;
        until_because(&genie, &admin, &bobs, "user_suspended").await;
        until_because(&genie, &admin, &eves, "turn").await;
        sync(&genie, &bob, "active").await;
        until_because(&genie, &admin, &bobs, "turn").await;
    }
);

both_stores!(
    a_ticket_opens_one_stream_for_a_browser,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let bob = genie.user("bob").await;
        let eve = genie.user("eve").await;
        let job = bob.submit_job(&genie).await;
        let other = bob.submit_job(&genie).await;
        let ticket_of = async |job: &str| {
            let path = format!("/api/jobs/{job}/ticket");
            let made = bob.post(&genie, &path, Value::Null).await.ok();
            made["ticket"].as_str().unwrap().to_owned()
        };
        let ticket = ticket_of(&job).await;
        // As `EventSource`: no token, and the last id when it comes back.
        let watch = |job: &str, ticket: &str, last: &str| {
            let address = format!("{}/api/jobs/{job}/stream?ticket={ticket}", genie.base);
            let request = genie.http.get(address);
            match last {
                "" => request,
                last => request.header("Last-Event-ID", last),
            }
        };
        let status = async |job: &str, ticket: &str, last: &str| {
            let answer = watch(job, ticket, last).send().await.unwrap();
            answer.status().as_u16()
        };
        let mut events = Events::open(watch(&job, &ticket, "")).await;
        let first = events.next().await.unwrap();
        assert_eq!(first.data["status"], "queued");
        drop(events);

        let forged = ticket.replace(&ticket[100..108], "00000000");
        assert_eq!(status(&job, &forged, "").await, 403);
        assert_eq!(status(&other, &ticket, "").await, 403, "for another stream");
        assert_eq!(status(&job, "x", "").await, 403);
        let of_other = ticket_of(&other).await;
        let path = format!("/api/jobs/{job}?ticket={ticket}");
        let shown = genie.send(Method::GET, &path, &[], None).await;
        shown.refused(401, "invalid_token");

        // A minute later only the reader who was there goes on.
        genie.clock.advance_millis(60_000);
        assert_eq!(status(&job, &ticket, "").await, 403);
        assert_eq!(status(&job, &ticket, "1").await, 403);
        assert_eq!(
            status(&other, &of_other, &first.id).await,
            403,
            "another's proof"
        );
        let mut events = Events::open(watch(&job, &ticket, &first.id)).await;
        assert_eq!(events.next().await.unwrap().data["id"], json!(job));
        let path = format!("/api/queue/cancel/{job}");
        bob.post(&genie, &path, Value::Null).await.ok();
        let mut last = first;
        while let Some(event) = events.next().await {
            last = event;
        }
        assert_eq!(last.data["status"], "cancelled");
        assert_eq!(
            status(&job, &ticket, &last.id).await,
            204,
            "it has seen the end"
        );
        genie.clock.advance_millis(61_000);
        assert_eq!(status(&job, &ticket, &last.id).await, 403, "over");

        // The ticket dies with the login, and is for those who may see the job.
        let third = bob.submit_job(&genie).await;
        let ticket = ticket_of(&third).await;
        let path = format!("/api/jobs/{third}/ticket");
        ada.post(&genie, &path, Value::Null).await.ok(); // she administers
        eve.post(&genie, &path, Value::Null)
            .await
            .refused(404, "not_found");
        bob.delete(&genie, "/api/me/sessions").await;
        genie.settle().await;
        assert_eq!(status(&third, &ticket, "").await, 401);
    }
);

both_stores!(
    an_administrator_sees_what_is_personal_of_anothers_job_only_on_record,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let admin = genie.user("admin").await;
        let bob = genie.user("bob").await;
        let eve = genie.user("eve").await;
        let job = json!({"operation": "thumbnail", "input_url": "http://a/b", "max_attempts": 1});
        let failed = submit(&genie, &bob, job.clone()).await;
        let got = genie.claim().await;
        let failure = json!({"lease": got["lease"], "error": "bob's words"});
        genie
            .server(&format!("/api/worker/jobs/{failed}/fail"), failure)
            .await
            .ok();
        let completed = submit(&genie, &bob, job).await;
        let got = genie.claim().await;
        let done = json!({"lease": got["lease"], "result": {"a": 1}, "outputs": [{"name": "n"}]});
        genie
            .server(&format!("/api/worker/jobs/{completed}/complete"), done)
            .await
            .ok();
        genie.settle().await;
        let looks = async || {
            let feed = "/api/events?types=access.personal_read&limit=100";
            let seen = admin.get(&genie, feed).await.ok();
            seen["data"].as_array().unwrap().len()
        };
        let path = |job: &str, query: &str| format!("/api/jobs/{job}{query}");
        let own = bob.get(&genie, &path(&completed, "")).await.ok();
        for (job, status) in [(&failed, "failed"), (&completed, "completed")] {
            let shown = admin.get(&genie, &path(job, "")).await.ok();
            assert_eq!(shown["status"], status);
            for field in ["error", "message", "result", "outputs"] {
                assert_eq!(shown[field], Value::Null, "{field}");
            }
        }
        assert_eq!(looks().await, 0);
        for reason in ["", "&reason=%20", &format!("&reason={}", "x".repeat(501))] {
            let query = format!("?personal=true{reason}");
            let unsaid = admin.get(&genie, &path(&failed, &query)).await;
            unsaid.refused(400, "invalid_field");
        }
        let why = "?personal=true&reason=a%20complaint%20of%20bob";
        let shown = admin.get(&genie, &path(&failed, why)).await.ok();
        assert_eq!(shown["error"], "bob's words");
        let shown = admin.get(&genie, &path(&completed, why)).await.ok();
        assert_eq!(
            (&shown["result"], &shown["outputs"]),
            (&own["result"], &own["outputs"])
        );
        assert_eq!(looks().await, 1, "one a minute");
        let another = "?personal=true&reason=another";
        admin.get(&genie, &path(&completed, another)).await.ok();
        assert_eq!(looks().await, 2, "for each reason");
        // The reason is personal.
        assert!(!genie.store.holds("a complaint of bob").await);
        let secret = [("X-RBAC-SYNC-SECRET", SECRET.to_owned())];
        let feed = "/api/events?types=access.personal_read&personal=true";
        let whole = genie.send(Method::GET, feed, &secret, None).await.ok();
        assert_eq!(
            whole["data"][0]["data"]["stated_reason"],
            "a complaint of bob"
        );
        let other = eve.get(&genie, &path(&failed, "?personal=true")).await;
        other.refused(404, "not_found");
    }
);

both_stores!(
    statistics_tell_how_long_jobs_waited_and_ran,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let job = submit(
            &genie,
            &ada,
            json!({"operation": "thumbnail", "input_url": "http://a/b"}),
        )
        .await;
        until_because(&genie, &ada, &job, "turn").await;
        genie.clock.advance_millis(2000);
        let got = genie.claim().await;
        until("the claim is known", async || {
            let times = genie
                .send(Method::GET, "/api/queue/stats", &[], None)
                .await
                .ok();
            (times["times"]["media-jobs"]["wait"]["count"] == 1).then_some(())
        })
        .await;
        genie.clock.advance_millis(10_000);
        let done = json!({"lease": got["lease"]});
        genie
            .server(&format!("/api/worker/jobs/{job}/complete"), done)
            .await
            .ok();
        let times = until("the end is known", async || {
            let mut stats = genie
                .send(Method::GET, "/api/queue/stats", &[], None)
                .await
                .ok();
            let times = stats["times"].take();
            (times["media-jobs"]["run"]["count"] == 1).then_some(times)
        })
        .await;
        let near = |figure: &Value, wanted: u64| {
            assert!(
                (wanted..wanted * 3 / 2).contains(&figure.as_u64().unwrap()),
                "{figure}"
            );
        };
        near(&times["media-jobs"]["wait"]["p99_ms"], 2000);
        near(&times["media-jobs"]["run"]["p50_ms"], 10_000);
        let nothing = json!({"count": 0, "p50_ms": null, "p99_ms": null});
        assert_eq!(
            times["scrape-jobs"],
            json!({"wait": nothing, "run": nothing})
        );
    }
);
