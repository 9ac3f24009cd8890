//! What a job names is its user's own, and a worker gets what its job needs and nothing else.

use genie_log::testing::{TestStore, both_stores};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    onboarding::{upload, zip},
    service_keys::Key,
    test_genie::{Answer, SECRET, TestGenie, TestUser},
};

const NOBODYS: &str = "0192d4e0-7f3a-7c3b-8f4e-0123456789ab";

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// A file of the user.
async fn file(genie: &TestGenie, user: &TestUser, content: &str) -> String {
    let step = json!({"state": "DATA_COLLECTION"});
    user.patch(genie, "/api/onboarding/state", step).await;
    let uploaded = upload(genie, user, &zip("a.txt", content.as_bytes())).await;
    let file = text(&uploaded.ok()["fileId"]);
    // The import fails, so that the user may upload once more.
    let claim = json!({"queues": ["onboarding-jobs"], "worker_id": "w", "wait_ms": 10_000});
    let job = genie.server("/api/worker/claim", claim).await.ok()["jobs"][0].take();
    let fail = json!({"lease": job["lease"], "error": "e", "retryable": false});
    let path = format!("/api/worker/jobs/{}/fail", text(&job["jobId"]));
    genie.server(&path, fail).await.ok();
    file
}

/// A profile, a login or a session of the user.
async fn credential(genie: &TestGenie, user: &TestUser, kind: &str, platform: &str) -> String {
    let (route, body) = match kind {
        "profile" => ("create-profile", json!({"credentials": {"p": "q"}})),
        "password" => (
            "download-cred",
            json!({"kind": "password", "username": "u", "password": "p"}),
        ),
        _ => (
            "platform-session",
            json!({"cookies": [{"name": "n", "value": "v", "domain": ".x.com"}]}),
        ),
    };
    let mut body = body;
    body["platform"] = json!(platform);
    let path = format!("/api/credentials/{route}");
    text(&user.post(genie, &path, body).await.ok()["id"])
}

both_stores!(
    a_job_names_files_and_profiles_of_its_user_only,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let (admin, ada, bob) = (
            genie.user("root").await,
            genie.user("ada").await,
            genie.user("bob").await,
        );
        let (own, hers) = (file(&genie, &bob, "a").await, file(&genie, &ada, "b").await);
        let of_root = credential(&genie, &admin, "profile", "x").await;
        let profile = credential(&genie, &bob, "profile", "x").await;
        let session = credential(&genie, &bob, "session", "x").await;
        let removed = credential(&genie, &bob, "profile", "reddit").await;
        let path = format!("/api/credentials/{removed}");
        bob.delete(&genie, &path).await.ok();
        let queued = async || {
            let jobs = bob.get(&genie, "/api/jobs?queue=media-jobs").await.ok();
            jobs["data"].as_array().unwrap().len()
        };
        let profile_field = "creator_profile_id";
        let many = vec![own.clone(); 21];
        for (operation, field, value, status) in [
            ("publish_post", profile_field, json!(of_root), 404),
            ("publish_post", profile_field, json!(removed), 404),
            ("publish_post", profile_field, json!(NOBODYS), 404),
            ("publish_post", profile_field, json!("../../secrets"), 404),
            ("publish_post", profile_field, json!(own), 404),
            ("publish_post", profile_field, json!(session), 400),
            ("publish_post", profile_field, json!(""), 400),
            ("publish_post", profile_field, json!(7), 400),
            ("strip_metadata", "input_file_id", json!(hers), 404),
            ("strip_metadata", "input_file_id", json!(NOBODYS), 404),
            ("strip_metadata", "input_file_id", json!("a.jpg"), 404),
            ("strip_metadata", "input_file_id", json!(profile), 404),
            ("join_videos", "params.inputs", json!([own, hers]), 404),
            ("join_videos", "params.inputs", json!([NOBODYS]), 400),
            ("join_videos", "params.inputs", json!([own, NOBODYS]), 404),
            ("join_videos", "params.inputs", json!(many), 400),
            (
                "apply_watermark",
                "params.watermark_file_id",
                json!(hers),
                404,
            ),
            ("create_teaser", "params.watermark_file_id", json!("x"), 404),
        ] {
            let mut body = json!({"operation": operation, "params": {}});
            if matches!(operation, "apply_watermark" | "create_teaser") {
                body["input_url"] = json!("http://a/b");
            }
            match field.strip_prefix("params.") {
                Some(field) => body["params"][field] = value.clone(),
                None => body[field] = value.clone(),
            }
            let code = if status == 404 {
                "not_found"
            } else {
                "invalid_field"
            };
            let refused = bob.post(&genie, "/api/queue/media", body).await;
            let error = text(&refused.refused(status, code)["error"]);
            if !value.is_array() || status == 404 {
                assert!(error.contains(&format!("`{field}`")), "{field}: {error}");
            }
            for content in [&own, &hers, &of_root, &session] {
                assert!(!error.contains(content.as_str()), "{error}");
            }
        }
        assert_eq!(queued().await, 0, "what is refused queues nothing");
        let usage = bob.get(&genie, "/api/usage").await.ok();
        assert_eq!(usage["usage"]["posts_published"], json!(0), "{usage}");

        let upper = own.to_uppercase();
        for body in [
            json!({"operation": "strip_metadata", "input_file_id": own}),
            json!({"operation": "strip_metadata", "input_file_id": upper}),
            json!({"operation": "join_videos", "params": {"inputs": [own, own]}}),
            json!({"operation": "apply_watermark", "input_url": "http://a/b", "params": {"watermark_file_id": own}}),
            // Of other operations these are parameters like all others.
            json!({"operation": "strip_metadata", "input_url": "http://a/b", "params": {"watermark_file_id": hers}}),
        ] {
            bob.post(&genie, "/api/queue/media", body).await.ok();
        }
        assert_eq!(queued().await, 5);

        // A named job is the same job, whatever became of what it names.
        let job = json!({"jobId": "7", "operation": "publish_post", "creator_profile_id": profile});
        let first = bob.post(&genie, "/api/queue/media", job.clone()).await.ok();
        let path = format!("/api/credentials/{profile}");
        bob.delete(&genie, &path).await.ok();
        let again = bob.post(&genie, "/api/queue/media", job.clone()).await.ok();
        assert_eq!(again["id"], first["id"]);
        let mut other = job;
        other["jobId"] = json!("8");
        bob.post(&genie, "/api/queue/media", other)
            .await
            .refused(404, "not_found");
    }
);

/// The job that a worker claims next.
async fn claim(genie: &TestGenie) -> Value {
    let claim =
        json!({"queues": ["media-jobs", "scrape-jobs"], "worker_id": "w", "wait_ms": 10_000});
    let mut claimed = genie.server("/api/worker/claim", claim).await.ok();
    claimed["jobs"][0].take()
}

async fn submit_and_claim(genie: &TestGenie, user: &TestUser, job: Value) -> (String, String) {
    user.post(genie, "/api/queue/media", job).await.ok();
    let claimed = claim(genie).await;
    (text(&claimed["jobId"]), text(&claimed["lease"]))
}

async fn download(
    genie: &TestGenie,
    (name, value): (&'static str, String),
    file: &str,
    held: &[(&'static str, &str)],
) -> Answer {
    let mut headers = vec![(name, value)];
    headers.extend(
        held.iter()
            .map(|(name, value)| (*name, (*value).to_owned())),
    );
    let path = format!("/api/files/{file}");
    genie.send(Method::GET, &path, &headers, None).await
}

both_stores!(
    a_workers_key_opens_a_file_for_the_job_that_names_it,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let (admin, ada, bob) = (
            genie.user("root").await,
            genie.user("ada").await,
            genie.user("bob").await,
        );
        let (own, unnamed, hers) = (
            file(&genie, &bob, "named").await,
            file(&genie, &bob, "not named").await,
            file(&genie, &ada, "another's").await,
        );
        let key = Key::make(&genie, &admin, &["jobs:work"]).await.header();
        let secret = ("X-RBAC-SYNC-SECRET", SECRET.to_owned());
        let [token] = bob.headers();
        let job = json!({"operation": "strip_metadata", "input_file_id": own});
        let (job, lease) = submit_and_claim(&genie, &bob, job).await;
        let params = json!({"watermark_file_id": unnamed});
        let marked =
            json!({"operation": "apply_watermark", "input_url": "http://a/b", "params": params});
        let (marked, of_marked) = submit_and_claim(&genie, &bob, marked).await;

        let both = [("Genie-Job", job.as_str()), ("Genie-Lease", lease.as_str())];
        let mark = [
            ("Genie-Job", marked.as_str()),
            ("Genie-Lease", of_marked.as_str()),
        ];
        let mixed = [both[0], mark[1]];
        let unknown = [("Genie-Job", NOBODYS), both[1]];
        let twice = [both[0], both[0], both[1]];
        let nonsense = [("Genie-Job", "7"), both[1]];
        for (who, file, held, status, code) in [
            (&key, &own, &[][..], 403, "lease_needed"),
            (&key, &own, &both[..1], 400, "invalid_field"),
            (&key, &own, &both[1..], 400, "invalid_field"),
            (&key, &own, &twice[..], 400, "invalid_field"),
            (&key, &own, &unknown[..], 404, "not_found"),
            (&key, &own, &nonsense[..], 404, "not_found"),
            (&key, &own, &mixed[..], 409, "stale_lease"),
            (&key, &unnamed, &both[..], 404, "not_found"),
            (&key, &hers, &both[..], 404, "not_found"),
            (&key, &own, &mark[..], 404, "not_found"),
            (&secret, &unnamed, &both[..], 404, "not_found"),
            (&secret, &own, &mixed[..], 409, "stale_lease"),
            (&token, &hers, &both[..], 404, "not_found"),
        ] {
            download(&genie, who.clone(), file, held)
                .await
                .refused(status, code);
        }
        for (who, file, held) in [
            (&key, &own, &both[..]),
            (&key, &unnamed, &mark[..]),
            (&secret, &own, &both[..]),
            (&secret, &hers, &[][..]),
            (&token, &own, &[][..]),
            (&token, &own, &mixed[..]),
        ] {
            assert_eq!(download(&genie, who.clone(), file, held).await.status, 200);
        }
        let path = format!("/api/worker/jobs/{job}/complete");
        genie.server(&path, json!({"lease": lease})).await.ok();
        let path = format!("/api/queue/cancel/{marked}");
        bob.post(&genie, &path, Value::Null).await.ok();
        for (file, held) in [(&own, &both[..]), (&unnamed, &mark[..])] {
            download(&genie, key.clone(), file, held)
                .await
                .refused(409, "stale_lease");
        }
    }
);

both_stores!(
    a_workers_key_reveals_what_its_job_needs,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let (admin, bob) = (genie.user("root").await, genie.user("bob").await);
        let named = credential(&genie, &bob, "profile", "x").await;
        let other = credential(&genie, &bob, "profile", "reddit").await;
        for (kind, platform) in [
            ("session", "x"),
            ("session", "reddit"),
            ("password", "x"),
            ("password", "reddit"),
        ] {
            credential(&genie, &bob, kind, platform).await;
        }
        let worker = Key::make(&genie, &admin, &["jobs:work"]).await;
        let every = Key::make(&genie, &admin, &["credentials:reveal"]).await;
        let post = json!({"operation": "publish_post", "creator_profile_id": named});
        let post = submit_and_claim(&genie, &bob, post).await;
        let video = json!({"operation": "download_video", "input_url": "https://x.com/v"});
        let video = submit_and_claim(&genie, &bob, video).await;
        let plain = submit_and_claim(
            &genie,
            &bob,
            json!({"operation": "thumbnail", "input_url": "http://a/b"}),
        )
        .await;

        let profile = |id: &str| ("reveal", json!({"creatorProfileId": id}));
        let of = |route, platform: &str| (route, json!({"userId": bob.id, "platform": platform}));
        let (session, login) = ("get-platform-session", "reveal-download-cred");
        for (held, (route, body), status) in [
            (&post, profile(&named), 200),
            (&post, profile(&other), 404),
            (&post, of(session, "x"), 200),
            (&post, of(session, "reddit"), 404),
            (&post, of(login, "x"), 200),
            (&post, of(login, "reddit"), 404),
            (&video, of(login, "x"), 200),
            (&video, of(login, "reddit"), 200),
            (&video, of(session, "x"), 404),
            (&video, profile(&named), 404),
            (&plain, of(login, "x"), 404),
            (&plain, profile(&named), 404),
        ] {
            let path = format!("/api/credentials/{route}");
            let (job, lease) = held;
            let mut in_body = body.clone();
            in_body["jobId"] = json!(job);
            in_body["lease"] = json!(lease);
            let answer = worker.post(&genie, &path, in_body.clone()).await;
            assert_eq!(answer.status, status, "{route} {body}: {:?}", answer.json);
            // The headers say the same.
            let headers = [
                worker.header(),
                ("Genie-Job", job.clone()),
                ("Genie-Lease", lease.clone()),
            ];
            let by_headers = genie.send(Method::POST, &path, &headers, Some(body.clone()));
            assert_eq!(by_headers.await.status, status, "{route} {body}");
            // Whoever shows a lease is held to its job.
            let by_secret = genie.server(&path, in_body).await;
            assert_eq!(by_secret.status, status, "{route} {body}");
            assert_eq!(every.post(&genie, &path, body.clone()).await.status, 200);
            worker
                .post(&genie, &path, body)
                .await
                .refused(403, "scope_needed");
        }
        let facts = format!(
            "/api/events?limit=500&types=credential.refused&user={}",
            bob.id
        );
        let secret = [("X-RBAC-SYNC-SECRET", SECRET.to_owned())];
        let refused = genie.send(Method::GET, &facts, &secret, None).await.ok();
        let reasons = refused["data"].as_array().unwrap().iter();
        let not_named = reasons.filter(|fact| fact["data"]["reason"] == "not_named");
        assert!(not_named.count() > 0, "{refused}");

        let (job, lease) = post;
        let path = format!("/api/worker/jobs/{job}/complete");
        genie.server(&path, json!({"lease": lease})).await.ok();
        let late = json!({"creatorProfileId": named, "jobId": job, "lease": lease});
        worker
            .post(&genie, "/api/credentials/reveal", late)
            .await
            .refused(409, "stale_lease");
    }
);
