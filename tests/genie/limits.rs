//! Rates, sizes and the headers around them: the answers to too many requests, too large ones, and
//! foreign pages.

use genie_log::testing::{TestStore, both_stores};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::test_genie::{Answer, SECRET, TestGenie, password};

const OPEN: &str = "/api/openapi.json";

async fn with_rates(store: TestStore, user: &str, address: &str, proxies: &str) -> TestGenie {
    let settings = [
        ("RATE_LIMIT_USER", user.into()),
        ("RATE_LIMIT_ADDRESS", address.into()),
        ("TRUSTED_PROXIES", proxies.into()),
    ];
    TestGenie::start_with(store, &settings).await
}

/// Sends a request that the proxy attributes to this address.
async fn from(genie: &TestGenie, address: &str, path: &str, headers: &[(&str, String)]) -> Answer {
    let headers = [headers, &[("X-Forwarded-For", address.to_owned())]].concat();
    genie.send(Method::GET, path, &headers, None).await
}

/// The remaining rate that the answer states.
fn left(answer: &Answer) -> (String, u32) {
    let limit = answer.headers["RateLimit"].to_str().unwrap();
    let (name, rest) = limit.split_once(";r=").unwrap();
    assert!(rest.contains(";t="), "{limit}");
    (
        name.trim_matches('"').to_owned(),
        rest.split(';').next().unwrap().parse().unwrap(),
    )
}

#[track_caller]
fn too_fast(answer: Answer) {
    assert!(
        answer.headers["Retry-After"]
            .to_str()
            .unwrap()
            .parse::<u32>()
            .unwrap()
            >= 1
    );
    assert_eq!(left(&answer).1, 0);
    answer.refused(429, "too_many_requests");
}

both_stores!(
    an_address_that_is_too_fast_is_told_so_and_others_go_on,
    async |store: TestStore| {
        let mut genie = with_rates(store, "off", "8/1h", "127.0.0.0/8").await;
        let ada = genie.user("ada").await; // the test itself uses two requests of the address
        for n in (0..8).rev() {
            let answer = from(&genie, "198.51.100.1", OPEN, &[]).await;
            assert_eq!(
                (answer.status, left(&answer)),
                (StatusCode::OK, ("address".into(), n))
            );
            assert_eq!(answer.headers["RateLimit-Policy"], "\"address\";q=8;w=3600");
        }
        let origin = [("Origin", "https://app.example.com".to_owned())];
        let refused = from(&genie, "198.51.100.1", OPEN, &origin).await;
        assert_eq!(
            refused.headers["Access-Control-Allow-Origin"],
            "https://app.example.com"
        );
        let exposed = refused.headers["Access-Control-Expose-Headers"]
            .to_str()
            .unwrap()
            .to_lowercase();
        for header in [
            "ratelimit",
            "ratelimit-policy",
            "retry-after",
            "genie-position",
            "genie-request-id",
            "x-request-id",
        ] {
            assert!(exposed.contains(header), "{header}: {exposed}");
        }
        too_fast(refused);

        // Another address goes on. A client can't claim another address for itself.
        assert_eq!(from(&genie, "198.51.100.2", OPEN, &[]).await.status, 200);
        too_fast(from(&genie, "203.0.113.7, 198.51.100.1", OPEN, &[]).await);
        let login = json!({"email": "ada@example.com", "password": "wrong"});
        let there = [("X-Forwarded-For", "198.51.100.1".to_owned())];
        let login = genie
            .send(Method::POST, "/auth/login", &there, Some(login))
            .await;
        login.refused_by_identity(429, "REQUESTS_EXCEEDED");

        // At that very address, authenticated callers and probes of the server go on.
        for path in ["/healthz", "/readyz"] {
            assert_eq!(from(&genie, "198.51.100.1", path, &[]).await.status, 200);
        }
        let secret = ("X-RBAC-SYNC-SECRET", SECRET.to_owned());
        for proven in [ada.headers()[0].clone(), secret] {
            from(&genie, "198.51.100.1", "/api/events?limit=1", &[proven])
                .await
                .ok();
        }
        // A request with a refused token counts like one without a token.
        let wrong = [("Authorization", "Bearer nonsense".to_owned())];
        too_fast(from(&genie, "198.51.100.1", "/api/jobs", &wrong).await);
        for _ in 0..8 {
            from(&genie, "2001:db8:1:2::1", "/api/jobs", &wrong)
                .await
                .refused(401, "invalid_token");
        }
        too_fast(from(&genie, "2001:db8:1:2:ffff::2", "/api/jobs", &wrong).await); // an address in the same network
        from(&genie, "2001:db8:1:3::1", "/api/jobs", &wrong)
            .await
            .refused(401, "invalid_token");
        too_fast(from(&genie, "2001:db8:1:2::1", "/api/nonsense", &[]).await); // an unknown route counts too
    }
);

both_stores!(
    only_trusted_proxies_are_believed,
    async |store: TestStore| {
        let genie = with_rates(store, "off", "3/1h", "10.0.0.0/8").await;
        for n in 0..3 {
            assert_eq!(
                from(&genie, &format!("198.51.100.{n}"), OPEN, &[])
                    .await
                    .status,
                200
            );
        }
        too_fast(from(&genie, "198.51.100.9", OPEN, &[]).await);
    }
);

both_stores!(
    a_user_who_is_too_fast_is_told_so_and_others_go_on,
    async |store: TestStore| {
        let mut genie = with_rates(store, "6/1h", "off", "").await;
        let (ada, bob) = (genie.user("ada").await, genie.user("bob").await);
        let first = bob.get(&genie, "/api/usage").await;
        assert_eq!(left(&first), ("user".into(), 5));
        first.ok();
        // A stream counts as one request, however long it lasts.
        let stream = genie
            .http
            .post(format!("{}/api/genie/stream-chat", genie.base))
            .bearer_auth(&bob.token);
        let stream = stream
            .json(&json!({"message": "hello"}))
            .send()
            .await
            .unwrap();
        assert_eq!(
            (
                stream.status().as_u16(),
                stream.headers()["RateLimit"].to_str().unwrap()
            ),
            (200, "\"user\";r=4;t=1200")
        );
        assert!(
            stream
                .text()
                .await
                .unwrap()
                .contains("finalizeResponseStream")
        );
        for n in (0..4).rev() {
            assert_eq!(left(&bob.get(&genie, "/api/jobs").await).1, n);
        }
        too_fast(bob.get(&genie, "/api/jobs").await);
        let me = bob.get(&genie, "/users/me").await;
        me.refused_by_identity(429, "REQUESTS_EXCEEDED");
        let job = json!({"operation": "strip_metadata", "input_url": "http://a/b"});
        too_fast(bob.post(&genie, "/api/queue/media", job).await);
        ada.get(&genie, "/api/usage").await.ok();
        for _ in 0..10 {
            genie
                .server(
                    "/api/worker/claim",
                    json!({"queues": ["media-jobs"], "worker_id": "w"}),
                )
                .await
                .ok();
        }
    }
);

both_stores!(
    too_large_requests_are_refused_before_they_are_parsed,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let long = |bytes: usize| "x".repeat(bytes);
        for name in ["Authorization", "X-Anything", "Idempotency-Key"] {
            let mut headers = ada.headers().to_vec();
            headers.retain(|(known, _)| *known != name);
            headers.push((name, long(100_000)));
            genie
                .send(Method::GET, "/api/jobs", &headers, None)
                .await
                .refused(431, "headers_too_large");
        }
        let far_beyond = genie
            .http
            .get(format!("{}/api/jobs", genie.base))
            .header("X-Anything", long(300_000))
            .send()
            .await;
        assert!(
            far_beyond.is_err() || far_beyond.is_ok_and(|answer| answer.status() == 431),
            "the server cuts the connection or answers 431"
        );

        let password = long(10 << 20);
        let login = json!({"email": "ada@example.com", "password": password});
        let login = genie
            .send(Method::POST, "/auth/login", &[], Some(login))
            .await;
        login.refused_by_identity(413, "INVALID_PAYLOAD");
        let register = json!({"email": "b@example.com", "password": password, "inviteCode": "x"});
        genie
            .send(Method::POST, "/api/register", &[], Some(register))
            .await
            .refused(413, "body_too_large");
        ada.get(&genie, "/api/jobs").await.ok(); // the server goes on
    }
);

both_stores!(
    every_route_answers_cors_preflights,
    async |store: TestStore| {
        let origins = [("CORS_ORIGINS", "https://app.example.com".to_owned())];
        let genie = TestGenie::start_with(store, &origins).await;
        let document: Value =
            serde_json::from_str(include_str!("../../src/http/openapi.json")).unwrap();
        for (path, item) in document["paths"].as_object().unwrap() {
            for method in item
                .as_object()
                .unwrap()
                .keys()
                .filter(|key| *key != "parameters")
            {
                let method = method.to_uppercase();
                let path = path.replace(['{', '}'], "");
                let asked = |origin: &str| {
                    vec![
                        ("Origin", origin.to_owned()),
                        ("Access-Control-Request-Method", method.clone()),
                        (
                            "Access-Control-Request-Headers",
                            "authorization,content-type,idempotency-key,genie-min-position"
                                .to_owned(),
                        ),
                    ]
                };
                let answer = genie
                    .send(
                        Method::OPTIONS,
                        &path,
                        &asked("https://app.example.com"),
                        None,
                    )
                    .await;
                assert_eq!(answer.status, 200, "{method} {path}: {:?}", answer.json);
                assert_eq!(
                    answer.headers["Access-Control-Allow-Origin"], "https://app.example.com",
                    "{method} {path}"
                );
                assert!(
                    answer.headers["Access-Control-Allow-Methods"]
                        .to_str()
                        .unwrap()
                        .contains(&method),
                    "{method} {path}"
                );
                let stranger = genie
                    .send(
                        Method::OPTIONS,
                        &path,
                        &asked("https://evil.example.com"),
                        None,
                    )
                    .await;
                assert!(
                    !stranger.headers.contains_key("Access-Control-Allow-Origin"),
                    "{method} {path}"
                );
            }
        }
    }
);

both_stores!(
    every_answer_has_security_headers_and_is_not_cached,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let login = json!({"email": "ada@example.com", "password": "ada's password"});
        for answer in [
            genie
                .send(Method::POST, "/auth/login", &[], Some(login))
                .await,
            genie
                .send(
                    Method::POST,
                    "/auth/refresh",
                    &[],
                    Some(json!({"refresh_token": ada.refresh})),
                )
                .await,
            ada.get(&genie, "/users/me").await,
            ada.get(&genie, "/api/jobs").await,
            genie.send(Method::GET, "/api/jobs", &[], None).await,
            genie.send(Method::GET, "/api/nonsense", &[], None).await,
        ] {
            for (name, value) in [
                ("X-Content-Type-Options", "nosniff"),
                ("X-Frame-Options", "DENY"),
                ("Referrer-Policy", "no-referrer"),
                ("Cache-Control", "no-store"),
            ] {
                assert_eq!(answer.headers[name], value, "{:?}", answer.json);
            }
        }
        let stream = genie
            .http
            .post(format!("{}/api/genie/stream-chat", genie.base))
            .bearer_auth(&ada.token);
        let stream = stream
            .json(&json!({"message": "hello"}))
            .send()
            .await
            .unwrap();
        assert_eq!(stream.headers()["Cache-Control"], "no-cache, no-transform");
    }
);

both_stores!(
    a_full_day_refuses_the_users_own_commands_only_and_ends_at_midnight,
    async |store: TestStore| {
        let settings = [("FACTS_PER_USER_DAY", "12".to_owned())];
        let mut genie = TestGenie::start_with(store, &settings).await;
        let half_past_23 = (23 * 60 + 30) * 60;
        let now = genie.clock.now().unix_seconds();
        let until_then = (half_past_23 - now).rem_euclid(86_400);
        genie.clock.advance_millis(until_then * 1000);
        let ada = genie.user("ada").await;
        let bob = genie.user("bob").await;
        let submit =
            json!({"operation": "resize_image", "input_url": "http://a/b", "params": {"width": 1}});
        let mut queued = Vec::new();
        let refused = loop {
            let answer = ada.post(&genie, "/api/queue/media", submit.clone()).await;
            if answer.status != 200 {
                break answer;
            }
            queued.push(answer.ok()["jobId"].as_str().unwrap().to_owned());
        };
        // Some of the twelve are of her registration and login.
        assert!((8..=12).contains(&queued.len()), "{}", queued.len());
        let wait: i64 = refused.headers["Retry-After"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!((1500..=1800).contains(&wait), "{wait}");
        refused.refused(429, "too_many_facts");

        for change in [
            json!({"old_password": password("ada"), "password": "another password"}),
            json!({"old_password": password("ada"), "email": "other@example.com"}),
        ] {
            let refused = ada.patch(&genie, "/users/me", change).await;
            assert_eq!(refused.status, 429, "{}", refused.json);
            assert!(refused.headers.contains_key("Retry-After"));
        }

        // The server that starts now counts the same.
        genie.restart().await;
        ada.post(&genie, "/api/queue/media", submit.clone())
            .await
            .refused(429, "too_many_facts");
        // Reads, endings, workers and other users go on.
        ada.get(&genie, "/api/jobs").await.ok();
        ada.post(
            &genie,
            &format!("/api/queue/cancel/{}", queued[0]),
            json!({}),
        )
        .await
        .ok();
        for _ in 1..queued.len() {
            let job = genie.claim().await;
            let done = json!({"lease": job["lease"]});
            let path = format!(
                "/api/worker/jobs/{}/complete",
                job["jobId"].as_str().unwrap()
            );
            genie.server(&path, done).await.ok();
        }
        bob.post(&genie, "/api/queue/media", submit.clone())
            .await
            .ok();

        genie.clock.advance_millis(wait * 1000);
        let ada = genie.user_again("ada", &ada.id).await;
        ada.post(&genie, "/api/queue/media", submit).await.ok();
    }
);
