//! A Directus that is gone, slow, overloaded, or restarted with another secret, and tokens that end
//! by its clock. Each test that stops or changes Directus has its own.

use std::time::{Duration, Instant};

use genie_log::testing::{TestStore, both_stores};
use reqwest::Method;
use serde_json::json;

use crate::{
    proxy::Does,
    test_directus::{Directus, PASSWORD, Pair, Site},
    until::until,
};

both_stores!(tokens_end_when_directus_says, async |store: TestStore| {
    let directus = Directus::own(&[("ACCESS_TOKEN_TTL", "2s")]).await;
    let ada = directus.person("ada", "creator").await;
    let site = Site::with(store, directus, &[]).await;
    let pair = site.pair(&ada).await;
    site.until(&pair.access, 401).await;
    assert_eq!(
        site.get(&pair.access, "/users/me").await.json["errors"][0]["extensions"]["code"],
        "TOKEN_EXPIRED"
    );
    let refresh = json!({"refresh_token": pair.refresh});
    let second = Pair::of(
        &site
            .genie
            .send(Method::POST, "/auth/refresh", &[], Some(refresh))
            .await,
    );
    // A slow test may have missed the token's life and gets another.
    let began = Instant::now();
    let mut access = second.access;
    while site.opens(&access).await != 200 {
        assert!(began.elapsed() < Duration::from_secs(30));
        access = site.pair(&ada).await.access;
    }
    // While Directus is gone its last answer serves, but not past the token's end.
    let third = site.pair(&ada).await;
    site.directus.signal("STOP").await;
    site.until(&third.access, 401).await;
    site.directus.signal("CONT").await;
});

both_stores!(
    cached_answers_serve_while_directus_hangs,
    async |store: TestStore| {
        let directus = Directus::own(&[]).await;
        let (ada, bob) = (
            directus.person("ada", "creator").await,
            directus.person("bob", "creator").await,
        );
        let site = Site::with(store, directus, &[]).await;
        let (ada, bob) = (site.pair(&ada).await, site.pair(&bob).await);
        assert_eq!(site.opens(&ada.access).await, 200);
        assert_eq!(site.ready().await["circuit"]["state"], "closed");
        site.directus.signal("STOP").await;
        // Long after Directus' last answer has grown old.
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(7) {
            let asked = Instant::now();
            assert_eq!(site.opens(&ada.access).await, 200);
            assert!(
                asked.elapsed() < Duration::from_secs(9),
                "{:?}",
                asked.elapsed()
            );
        }
        // Users without a cached answer get 502. The circuit opens, so that they get it at once.
        let refused =
            futures_util::future::join_all((0..8).map(|_| site.get(&bob.access, "/api/usage")))
                .await;
        for answer in refused {
            answer.refused(502, "directus_away");
        }
        let login = async || site.log_in("nobody@example.com", PASSWORD).await;
        let began = Instant::now();
        while site.ready().await["circuit"]["state"] != "open" {
            assert_eq!(login().await.status, 502);
            assert!(
                began.elapsed() < Duration::from_secs(90),
                "{:?}",
                site.ready().await
            );
        }
        let asked = Instant::now();
        let answer = login().await;
        if asked.elapsed() < Duration::from_secs(1) {
            assert_eq!(
                answer.json["errors"][0]["extensions"]["code"],
                "SERVICE_UNAVAILABLE"
            );
            assert!(answer.headers.contains_key("Retry-After"));
        }
        assert_eq!(site.ready().await["state"], "away");
        assert_eq!(site.opens(&ada.access).await, 200);
        site.directus.signal("CONT").await;
        site.until(&bob.access, 200).await;
        let ready = site.ready().await;
        assert_eq!(
            (&ready["state"], &ready["circuit"]["state"]),
            (&json!("ok"), &json!("closed")),
            "{ready}"
        );
    }
);

both_stores!(
    another_secret_is_noticed_and_new_tokens_still_work,
    async |store: TestStore| {
        let directus =
            Directus::own(&[("SECRET", "the first secret of this Directus 0123456789")]).await;
        let ada = directus.person("ada", "creator").await;
        let mut site = Site::with(store, directus, &[]).await;
        let old = site.pair(&ada).await;
        assert_eq!(site.opens(&old.access).await, 200);
        site.directus
            .restart(&[("SECRET", "the second secret of this Directus 987654321")])
            .await;
        let new = site.pair(&ada).await;
        assert_eq!(site.opens(&new.access).await, 200);
        let ready = site.ready().await;
        assert_eq!(ready["secret"]["state"], "differs", "{ready}");
        assert!(ready["secret"]["since"].is_string());
    }
);

both_stores!(
    overload_is_passed_on_with_its_pause,
    async |store: TestStore| {
        let limits = [
            ("RATE_LIMITER_ENABLED", "true"),
            ("RATE_LIMITER_POINTS", "40"),
            ("RATE_LIMITER_DURATION", "3"),
        ];
        let directus = Directus::own(&limits).await;
        let ada = directus.person("ada", "creator").await;
        let mut site = Site::with(store, directus, &[]).await;
        let pair = site.pair(&ada).await;
        assert_eq!(site.opens(&pair.access).await, 200);
        let logins = futures_util::future::join_all(
            (0..60).map(|_| site.log_in("nobody@example.com", PASSWORD)),
        )
        .await;
        let refused: Vec<_> = logins
            .iter()
            .filter(|answer| answer.status == 429)
            .collect();
        assert!(
            !refused.is_empty()
                && logins
                    .iter()
                    .all(|answer| answer.status == 429 || answer.status == 401)
        );
        for answer in refused {
            assert_eq!(
                answer.json["errors"][0]["extensions"]["code"],
                "REQUESTS_EXCEEDED"
            );
            assert!(
                answer.headers["Retry-After"]
                    .to_str()
                    .unwrap()
                    .parse::<u64>()
                    .unwrap()
                    >= 1
            );
        }
        site.until(&pair.access, 200).await;

        let pressed = [
            ("PRESSURE_LIMITER_ENABLED", "true"),
            ("PRESSURE_LIMITER_MAX_EVENT_LOOP_UTILIZATION", "0.0000001"),
            ("PRESSURE_LIMITER_RETRY_AFTER", "3"),
        ];
        site.directus.restart(&pressed).await;
        let answer = until("Directus to be under pressure", async || {
            let answer = site.log_in(&ada.email, PASSWORD).await;
            (answer.status == 503).then_some(answer)
        })
        .await;
        assert_eq!(
            answer.json["errors"][0]["extensions"]["code"],
            "SERVICE_UNAVAILABLE"
        );
        assert!(
            answer.headers.contains_key("Retry-After"),
            "{:?}",
            answer.headers
        );
        assert_eq!(
            site.opens(&pair.access).await,
            200,
            "the cached answer serves"
        );
    }
);

fn refusal(code: &str) -> String {
    json!({"errors": [{"message": "m", "extensions": {"code": code}}]}).to_string()
}

both_stores!(
    reaching_directus_rate_limit_keeps_no_old_rights,
    async |store: TestStore| {
        let site = Site::shared(store).await;
        let ada = site.directus.person("ada", "creator").await;
        let pair = site.pair(&ada).await;
        assert_eq!(site.opens(&pair.access).await, 200);
        site.directus
            .change(&ada, json!({"status": "suspended"}))
            .await;
        site.proxy.on(
            "GET",
            "/users",
            Does::Answer(429, refusal("REQUESTS_EXCEEDED")),
        );
        site.until(&pair.access, 429).await;
        assert_eq!(site.opens(&pair.access).await, 429);
        site.proxy.pass_all();
        site.until(&pair.access, 401).await;
    }
);

both_stores!(
    a_removed_administrator_stays_removed_while_directus_fails,
    async |store: TestStore| {
        const GLOBALS: &str = "/policies/me/globals";
        let site = Site::shared(store).await;
        let ada = site.directus.person("ada", "Administrator").await;
        let pair = site.pair(&ada).await;
        let invite = async || {
            let headers = [("Authorization", format!("Bearer {}", pair.access))];
            site.genie
                .send(
                    Method::POST,
                    "/api/admin/invites",
                    &headers,
                    Some(json!({})),
                )
                .await
                .status
                .as_u16()
        };
        // Users without a cached answer get 502.
        site.proxy
            .on("GET", GLOBALS, Does::Answer(500, String::new()));
        assert_eq!(invite().await, 502);
        site.proxy.on(
            "GET",
            GLOBALS,
            Does::Answer(200, json!({"data": {"admin_access": true}}).to_string()),
        );
        assert_eq!(invite().await, 200);
        site.proxy.on(
            "GET",
            GLOBALS,
            Does::Answer(200, json!({"data": {"admin_access": false}}).to_string()),
        );
        until("the invite to be refused", async || {
            (invite().await != 200).then_some(())
        })
        .await;
        site.proxy
            .on("GET", GLOBALS, Does::Answer(500, String::new()));
        let asked = site.proxy.count(&format!("GET {GLOBALS}"));
        until("two more requests to Directus", async || {
            assert_eq!(invite().await, 403);
            (site.proxy.count(&format!("GET {GLOBALS}")) >= asked + 2).then_some(())
        })
        .await;
        assert_eq!(invite().await, 403);
    }
);

both_stores!(
    an_unusable_answer_is_an_error_and_no_proof,
    async |store: TestStore| {
        let site = Site::shared(store).await;
        let ada = site.directus.person("ada", "creator").await;
        let pair = site.pair(&ada).await;
        for (status, body) in [
            (200, "<html>"),
            (200, "{}"),
            (200, r#"{"data": {}}"#),
            (200, r#"{"data": [{"id": "x"}]}"#),
            (302, ""),
            (500, r#"{"errors": []}"#),
            (
                403,
                r#"{"errors": [{"message": "m", "extensions": {"code": "FORBIDDEN"}}]}"#,
            ),
        ] {
            site.proxy
                .on("GET", "/users", Does::Answer(status, body.to_owned()));
            let told = site
                .get(&pair.access, "/api/usage")
                .await
                .refused(502, "directus_away");
            assert!(!told.to_string().contains("html"), "{told}");
            // The next answer must not come from the open circuit.
            site.proxy.pass_all();
            let none = json!({"refresh_token": format!("none {status} {body}")});
            assert_eq!(
                site.genie
                    .send(Method::POST, "/auth/refresh", &[], Some(none))
                    .await
                    .status,
                401
            );
        }
        assert_eq!(site.opens(&pair.access).await, 200);
    }
);
