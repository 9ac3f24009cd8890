//! The live feed: past facts, then new ones, from any cursor, across restarts.

use genie_log::testing::{TestStore, both_stores};
use serde_json::json;

use crate::test_genie::{Events, SECRET, TestGenie};

async fn follow(genie: &TestGenie, after: Option<&str>) -> Events {
    let request = genie
        .http
        .get(format!("{}/api/events?types=job.*", genie.base))
        .header("Accept", "text/event-stream");
    let request = request.header("X-RBAC-SYNC-SECRET", SECRET);
    let request = match after {
        Some(cursor) => request.header("Last-Event-ID", cursor),
        None => request,
    };
    Events::open(request).await
}

both_stores!(
    a_subscriber_misses_nothing_and_sees_nothing_twice,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let first = ada.submit_job(&genie).await;
        let mut feed = follow(&genie, None).await;
        let seen = feed.next().await.unwrap();
        assert_eq!(
            (seen.data["type"].as_str(), seen.data["subject"].as_str()),
            (Some("job.submitted"), Some(&*format!("job/{first}")))
        );
        assert_eq!(seen.data["data"]["operation"], "resize_image");
        assert!(
            seen.data["data"].get("params").is_none(),
            "personal fields are not shown"
        );
        let second = ada.submit_job(&genie).await; // arrives live
        let live = feed.next().await.unwrap();
        assert_eq!(
            live.data["subject"].as_str(),
            Some(&*format!("job/{second}"))
        );

        genie.restart().await;
        let third = ada.submit_job(&genie).await;
        let mut resumed = follow(&genie, Some(&live.id)).await;
        assert_eq!(
            resumed.next().await.unwrap().data["subject"].as_str(),
            Some(&*format!("job/{third}"))
        );
    }
);

both_stores!(
    operators_read_the_whole_feed_and_users_only_their_own_facts,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let admin = genie.user("ada").await;
        let bob = genie.user("bob").await;
        bob.get(&genie, "/api/events")
            .await
            .refused(403, "forbidden");
        admin.get(&genie, "/api/events").await.ok();
        let mine = bob
            .get(&genie, &format!("/api/me/events?user={}", admin.id))
            .await
            .ok();
        let owners: Vec<_> = mine["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["userid"].as_str().unwrap())
            .collect();
        assert_eq!(
            owners,
            [bob.id.as_str(); 2],
            "users get their own two facts, whichever user they ask for"
        );
        admin
            .get(&genie, "/api/events?after=nonsense")
            .await
            .refused(400, "invalid_field");
        admin
            .get(&genie, "/api/events?slices=9-1")
            .await
            .refused(400, "invalid_field");
        let half = admin.get(&genie, "/api/events?slices=0-511").await.ok();
        let other = admin.get(&genie, "/api/events?slices=512-1023").await.ok();
        let all = admin.get(&genie, "/api/events").await.ok();
        let count = |page: &serde_json::Value| page["data"].as_array().unwrap().len();
        assert_eq!(count(&half) + count(&other), count(&all));
    }
);

both_stores!(
    a_damaged_event_is_reported_and_stops_only_its_own_stream,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let bob = genie.user("bob").await;
        let job = bob.submit_job(&genie).await;
        genie.settle().await;
        genie.kill().await;
        genie
            .store
            .tamper(&format!(
                "UPDATE events SET payload = '{{\"v\":1}}' WHERE aggregate_id = '{job}'"
            ))
            .await;
        genie.store.tamper("DELETE FROM jobs").await;
        genie
            .store
            .tamper("DELETE FROM projections WHERE name LIKE 'jobs%'")
            .await; // waits until the projection is refilled
        genie.launch_again().await;
        genie.settle().await;
        bob.post(
            &genie,
            "/api/queue/media",
            json!({"operation": "thumbnail"}),
        )
        .await
        .refused(500, "internal");
        bob.get(&genie, &format!("/api/jobs/{job}"))
            .await
            .refused(404, "not_found");
        let ready = genie
            .send(reqwest::Method::GET, "/readyz", &[], None)
            .await
            .json;
        assert_eq!(
            ready["projections"]["jobs"]["damaged_streams"], 1,
            "{ready}"
        );
        assert!(
            ready["projections"]["jobs"]["damaged_at"][0]
                .as_u64()
                .is_some_and(|position| position > 1),
            "{ready}"
        );
        let printed = genie
            .command(&["audit", "--user", &bob.id])
            .output()
            .await
            .unwrap();
        let told = String::from_utf8(printed.stderr).unwrap();
        assert!(
            !printed.status.success() && told.contains("position") && told.contains("digest"),
            "{told}"
        );
        let feed = bob.get(&genie, "/api/me/events?types=job.*").await.ok();
        assert_eq!(
            (&feed["data"][0]["damaged"], &feed["data"][0]["data"]),
            (&json!(true), &json!(null))
        );

        let good = ada.submit_job(&genie).await;
        assert_eq!(
            ada.get(&genie, &format!("/api/jobs/{good}")).await.ok()["status"],
            "queued",
            "other streams go on"
        );
        assert_eq!(genie.claim().await["jobId"].as_str(), Some(good.as_str()));
    }
);
