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
                "UPDATE events SET payload = digest WHERE stream = unhex('{job}', '-')"
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
            json!({"operation": "thumbnail", "input_url": "http://a/b"}),
        )
        .await
        .refused(500, "internal");
        bob.get(&genie, &format!("/api/jobs/{job}"))
            .await
            .refused(404, "not_found");
        let ready = genie.readiness().await.json;
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
        // The clear fields are shown without a look at the payload, which an operator may ask for.
        let feed = bob.get(&genie, "/api/me/events?types=job.*").await.ok();
        assert_eq!(feed["data"][0]["data"]["operation"], "resize_image");
        let whole = format!(
            "/api/events?types=job.*&user={}&personal=true&reason=a%20test",
            bob.id
        );
        let feed = ada.get(&genie, &whole).await.ok();
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

both_stores!(
    a_users_own_feed_reads_no_rows_of_others,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let bob = genie.user("bob").await;
        for _ in 0..3 {
            ada.submit_job(&genie).await;
            bob.submit_job(&genie).await;
        }
        genie.settle().await;
        // Whoever reads the log in order stops at this hole.
        let facts = ada.get(&genie, "/api/events?limit=500").await.ok();
        let mut facts = facts["data"].as_array().unwrap().iter();
        let theirs = |fact: &serde_json::Value| {
            fact["type"] == "job.submitted" && fact["userid"].as_str() == Some(&ada.id)
        };
        let position = facts.position(theirs).unwrap() + 1; // positions are dense
        let others = format!("DELETE FROM events WHERE position = {position}");
        genie.store.tamper(&others).await;
        let mut own = Vec::new();
        let mut path = "/api/me/events?types=job.*&limit=1".to_owned();
        loop {
            let page = bob.get(&genie, &path).await.ok();
            own.extend(page["data"].as_array().unwrap().clone());
            if page["has_more"] == false {
                break;
            }
            let next = page["next_cursor"].as_str().unwrap();
            path = format!("/api/me/events?types=job.*&limit=1&after={next}");
        }
        assert_eq!(own.len(), 3);
        let by_user = format!("/api/events?user={}&types=job.*", bob.id);
        let by_user = ada.get(&genie, &by_user).await.ok();
        assert_eq!(by_user["data"].as_array().unwrap(), &own);
        // A position of another user's fact is a place in the own feed, too.
        let head = ada
            .get(&genie, &format!("/api/events?user={}", ada.id))
            .await
            .ok();
        let place = head["data"][2]["cursor"].as_str().unwrap();
        let after = bob
            .get(&genie, &format!("/api/me/events?after={place}"))
            .await
            .ok();
        let theirs = bob.get(&genie, "/api/me/events").await.ok();
        let position = |event: &serde_json::Value| event["userseq"].as_u64().unwrap();
        let rest: Vec<u64> = after["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(position)
            .collect();
        let all: Vec<u64> = theirs["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(position)
            .collect();
        assert!(
            all.ends_with(&rest) && !rest.is_empty() && rest.len() < all.len(),
            "{rest:?} of {all:?}"
        );
    }
);

both_stores!(
    a_filter_that_fits_nothing_still_answers_a_cursor,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        genie.settle().await;
        let page = ada.get(&genie, "/api/events?types=nothing.*").await.ok();
        assert_eq!(
            (&page["data"], &page["has_more"]),
            (&json!([]), &json!(false))
        );
        let cursor = page["next_cursor"].as_str().unwrap();
        let at_the_end = ada
            .get(&genie, &format!("/api/events?after={cursor}"))
            .await
            .ok();
        assert_eq!(
            at_the_end["data"],
            json!([]),
            "the cursor is behind all that was looked through"
        );
        let first = ada.get(&genie, "/api/events?limit=1").await.ok();
        assert_eq!(first["has_more"], true);
    }
);

both_stores!(
    a_user_follows_the_own_feed_live,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let bob = genie.user("bob").await;
        let old = bob.submit_job(&genie).await;
        let follow = async |after: Option<String>| {
            let request = genie
                .http
                .get(format!("{}/api/me/events?types=job.*", genie.base))
                .bearer_auth(&bob.token)
                .header("Accept", "text/event-stream");
            Events::open(match after {
                Some(cursor) => request.header("Last-Event-ID", cursor),
                None => request,
            })
            .await
        };
        let subject =
            |event: &crate::test_genie::Event| event.data["subject"].as_str().unwrap().to_owned();
        let mut feed = follow(None).await;
        let first = feed.next().await.unwrap();
        assert_eq!(subject(&first), format!("job/{old}"));
        ada.submit_job(&genie).await;
        let new = bob.submit_job(&genie).await;
        assert_eq!(subject(&feed.next().await.unwrap()), format!("job/{new}"));
        let mut resumed = follow(Some(first.id)).await;
        assert_eq!(
            subject(&resumed.next().await.unwrap()),
            format!("job/{new}")
        );
    }
);
