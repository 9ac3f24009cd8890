//! A token is good for as long as Directus says that its holder may act, and no longer.

use genie_log::testing::{TestStore, both_stores};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    proxy::Does,
    test_directus::{Directus, PASSWORD, Pair, Site},
    test_genie::SECRET,
    until::until,
};

fn authorization(token: &str) -> [(&'static str, String); 1] {
    [("Authorization", format!("Bearer {token}"))]
}

both_stores!(
    an_account_begins_with_the_first_token_and_follows_directus,
    async |store: TestStore| {
        let site = Site::shared(store).await;
        let ada = site.directus.person("ada", "creator").await;
        let pair = site.pair(&ada).await;
        let me = site
            .get(&pair.access, "/users/me?fields=id,email,status,role.name")
            .await;
        let expected = json!({"id": ada.id, "email": ada.email, "status": "active", "role": {"name": "creator"}});
        assert_eq!((me.status.as_u16(), &me.json["data"]), (200, &expected));
        let usage = site.get(&pair.access, "/api/usage").await.ok();
        assert_eq!(usage["tier"], "starter");
        let facts = site.get(&pair.access, "/api/me/events").await.ok();
        let types: Vec<_> = facts["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|fact| fact["type"].as_str().unwrap())
            .collect();
        assert_eq!(types, ["account.met"]);

        let elsewhere = format!("elsewhere-{}", ada.email);
        site.directus
            .change(&ada, json!({"email": elsewhere}))
            .await;
        until("the new address to be known", async || {
            let facts = site.get(&pair.access, "/api/me/events").await.ok();
            let mut facts = facts["data"].as_array().unwrap().iter();
            facts.find_map(|fact| (fact["type"] == "account.email_changed").then_some(()))
        })
        .await;

        site.directus
            .change(&ada, json!({"status": "suspended"}))
            .await;
        site.until(&pair.access, 401).await;
        assert_eq!(
            site.get(&pair.access, "/users/me").await.json["errors"][0]["extensions"]["code"],
            "INVALID_CREDENTIALS"
        );
        assert_eq!(site.log_in(&elsewhere, PASSWORD).await.status, 401);
        site.directus
            .change(&ada, json!({"status": "active"}))
            .await;
        site.until(&pair.access, 200).await;
        // A suspension made here stays, whatever Directus says.
        site.genie
            .server(
                "/api/rbac-sync",
                json!({"userId": ada.id, "status": "suspended"}),
            )
            .await
            .ok();
        site.until(&pair.access, 401).await;
        assert_eq!(site.opens(&pair.access).await, 401);
        site.genie
            .server(
                "/api/rbac-sync",
                json!({"userId": ada.id, "status": "active"}),
            )
            .await
            .ok();
        site.until(&pair.access, 200).await;

        site.directus
            .admin(Method::DELETE, &format!("/users/{}", ada.id), Value::Null)
            .await;
        site.until(&pair.access, 401).await;
    }
);

both_stores!(
    a_changed_role_is_followed_and_removes_admin_rights,
    async |store: TestStore| {
        let site = Site::shared(store).await;
        let ada = site.directus.person("ada", "Administrator").await;
        let pair = site.pair(&ada).await;
        let invite = async || {
            let invite = site
                .genie
                .send(
                    Method::POST,
                    "/api/admin/invites",
                    &authorization(&pair.access),
                    Some(json!({})),
                )
                .await;
            invite.status.as_u16()
        };
        assert_eq!(invite().await, 200);
        site.directus
            .change(&ada, json!({"role": site.directus.role("creator").await}))
            .await;
        until("the invite to be refused", async || {
            (invite().await != 200).then_some(())
        })
        .await;
        assert_eq!(invite().await, 403);
        let facts = site.get(&pair.access, "/api/me/events").await.ok();
        let last = facts["data"].as_array().unwrap().last().unwrap().clone();
        let told = (&last["type"], &last["data"]["role"], &last["data"]["admin"]);
        assert_eq!(
            told,
            (
                &json!("account.role_changed"),
                &json!("creator"),
                &json!(false)
            )
        );
    }
);

both_stores!(
    a_role_that_directus_does_not_have_is_refused,
    async |store: TestStore| {
        let site = Site::shared(store).await;
        let ada = site.directus.person("ada", "creator").await;
        let pair = site.pair(&ada).await;
        assert_eq!(site.opens(&pair.access).await, 200);
        let sync = async |role: &str| {
            site.genie
                .server("/api/rbac-sync", json!({"userId": ada.id, "role": role}))
                .await
        };
        let told = sync("administrator").await.refused(400, "invalid_field");
        let sentence = told["error"].as_str().unwrap();
        assert!(
            sentence.contains("`role` must be one of") && sentence.contains("Administrator"),
            "{told}"
        );
        assert_eq!(sync("creator").await.ok()["changed"], false);
        site.proxy
            .on("GET", "/roles", Does::Answer(500, String::new()));
        sync("creator").await.refused(502, "directus_away");
        site.proxy.pass_all();
        let admin = site
            .pair(&site.directus.person("bob", "Administrator").await)
            .await;
        let invite = async |role: &str| {
            let body = json!({"role": role});
            site.genie
                .send(
                    Method::POST,
                    "/api/admin/invites",
                    &authorization(&admin.access),
                    Some(body),
                )
                .await
        };
        invite("administrator").await.refused(400, "invalid_field");
        invite("creator").await.ok();
    }
);

both_stores!(
    many_requests_ask_directus_once_with_the_secret_and_without,
    async |store: TestStore| {
        let site = Site::shared(store).await;
        let ada = site.directus.person("ada", "creator").await;
        let pair = site.pair(&ada).await;
        let burst = async |site: &Site| {
            let requests = (0..100).map(|_| site.opens(&pair.access));
            assert!(
                futures_util::future::join_all(requests)
                    .await
                    .into_iter()
                    .all(|status| status == 200)
            );
        };
        burst(&site).await;
        assert!(
            site.proxy.count("GET /users") <= 3,
            "{}",
            site.proxy.count("GET /users")
        );
        assert_eq!(site.proxy.count("GET /users/me"), 0);

        let Site {
            mut genie,
            directus,
            ..
        } = site;
        genie.kill().await;
        let store = std::mem::replace(
            &mut genie.store,
            TestStore::new(genie_log::testing::Kind::Sqlite).await,
        );
        let site = Site::with(store, directus, &[("DIRECTUS_SECRET", "")]).await;
        assert_eq!(site.ready().await["secret"]["state"], "unset");
        burst(&site).await;
        assert!(
            (1..=3).contains(&site.proxy.count("GET /users/me")),
            "{}",
            site.proxy.count("GET /users/me")
        );
        site.directus
            .change(&ada, json!({"status": "archived"}))
            .await;
        site.until(&pair.access, 401).await;
    }
);

both_stores!(
    a_user_who_may_not_read_their_own_status_is_looked_up,
    async |store: TestStore| {
        let directus = Directus::shared().await;
        // A role without any policy: its users may read nothing but their id.
        directus
            .admin(Method::POST, "/roles", json!({"name": "bare"}))
            .await;
        let ada = directus.person("ada", "bare").await;
        let site = Site::with(store, directus, &[("DIRECTUS_SECRET", "")]).await;
        let pair = site.pair(&ada).await;
        assert_eq!(site.opens(&pair.access).await, 200);
        assert!(site.proxy.count("GET /users") > 0);

        // Without an administrator's token nothing proves that they are active.
        let Site {
            mut genie,
            directus,
            ..
        } = site;
        genie.kill().await;
        let store = std::mem::replace(
            &mut genie.store,
            TestStore::new(genie_log::testing::Kind::Sqlite).await,
        );
        let creator = directus.person("bob", "creator").await;
        for secret in ["", &directus.secret.clone()] {
            let site = Site::with(
                TestStore::new(store.kind).await,
                Directus::shared().await,
                &[
                    ("DIRECTUS_ADMIN_TOKEN", ""),
                    ("DIRECTUS_SECRET", secret.to_owned().leak()),
                ],
            )
            .await;
            assert_eq!(site.opens(&pair.access).await, 401);
            assert_eq!(site.opens(&site.pair(&creator).await.access).await, 200);
        }
    }
);

both_stores!(
    guessing_is_stopped_before_directus_suspends_the_user,
    async |store: TestStore| {
        let site = Site::shared(store).await;
        let ada = site.directus.person("ada", "creator").await;
        let mut guesses = 0;
        while site.log_in(&ada.email, "a guess").await.status == 401 {
            guesses += 1;
            assert!(guesses < 20, "25 wrong passwords would suspend the user");
        }
        let told = site.log_in(&ada.email, PASSWORD).await;
        assert_eq!(told.status, 429, "{:?}", told.json);
        assert!(told.headers.contains_key("Retry-After"));
        assert_eq!(site.directus.found(&ada.email).await.len(), 1);
    }
);

both_stores!(bad_tokens_are_refused, async |store: TestStore| {
    let site = Site::shared(store).await;
    let ada = site.directus.person("ada", "creator").await;
    let good = site.pair(&ada).await.access;
    let (head, rest) = good.split_once('.').unwrap();
    let claims = json!({"id": ada.id, "role": null, "app_access": true, "admin_access": true, "exp": 99_999_999_999_i64, "iss": "directus"});
    let with = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        claims
    };
    let signed = |claims: &Value, secret: &str| {
        encode(
            &Header::new(Algorithm::HS256),
            claims,
            &EncodingKey::from_secret(secret.as_bytes()),
        )
        .unwrap()
    };
    let secret = site.directus.secret.as_str();
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
    let none = format!(
        "{}.{}.",
        BASE64.encode(r#"{"alg":"none"}"#),
        BASE64.encode(claims.to_string())
    );
    let mut endless = claims.clone();
    endless.as_object_mut().unwrap().remove("exp");
    let bad = [
        signed(&endless, secret),
        signed(&claims, "another secret"),
        signed(&with("exp", json!(1)), secret),
        signed(&with("exp", Value::Null), secret),
        signed(&with("iss", json!("genie")), secret),
        signed(&with("nbf", json!(99_999_999_998_i64)), secret),
        signed(
            &with("id", json!("0192d4e0-7f3a-7c3b-8f4e-0123456789ab")),
            secret,
        ), // A good signature, but the user never existed.
        none.clone(),
        format!("{none}x"),
        format!("{head}.{}", rest.chars().rev().collect::<String>()),
        site.directus.admin_token.clone(),
        "a".repeat(6000),
        String::new(),
    ];
    let mut statuses = Vec::new();
    for token in &bad {
        assert_eq!(site.opens(token).await, 401, "{token:.80}");
        // A forged token is 403 here, as Directus has it. What does not look like a token of Directus', or is old, is 401.
        let status = site.get(token, "/users/me").await.status;
        statuses.push(status.as_u16());
    }
    let forged = [1, 5, 7, 8];
    let expected = (0..bad.len()).map(|n| if forged.contains(&n) { 403 } else { 401 });
    assert_eq!(statuses, expected.collect::<Vec<_>>());
    assert_eq!(site.opens(&good).await, 200);
    // A token signed by the test with Directus' secret is as good as Directus' own, but makes
    // nobody an administrator.
    let forged = signed(&claims, secret);
    let invite = site
        .genie
        .send(
            Method::POST,
            "/api/admin/invites",
            &authorization(&forged),
            Some(json!({})),
        )
        .await;
    assert_eq!(invite.status, 403, "{:?}", invite.json);
    let two = site
        .get(&good, &format!("/users/me?access_token={good}"))
        .await;
    assert_eq!(two.status, 400, "{:?}", two.json);
    // Directus is asked about only some of endless forged tokens.
    for n in 0..200 {
        assert!(
            [401, 429].contains(
                &site
                    .opens(&signed(&with("n", json!(n)), "another secret"))
                    .await
            )
        );
    }
    assert_eq!(
        site.opens(&good).await,
        200,
        "the holder of a good token is not told to wait"
    );
    assert!(
        site.proxy.count("GET /users/me") < 150,
        "{}",
        site.proxy.count("GET /users/me")
    );
    assert_eq!(site.ready().await["secret"]["state"], "in use");
});

both_stores!(
    the_address_of_a_user_who_was_deleted_in_directus_is_free,
    async |store: TestStore| {
        let site = Site::shared(store).await;
        let (ada, bob) = (
            site.directus.person("ada", "creator").await,
            site.directus.person("bob", "creator").await,
        );
        let email_here = async |pair: &Pair| {
            let facts = site.get(&pair.access, "/api/me/events").await.ok();
            facts["data"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|fact| fact["type"] == "account.email_changed")
                .count()
        };
        let bobs = site.pair(&bob).await;
        for pair in [&site.pair(&ada).await, &bobs] {
            assert_eq!(site.opens(&pair.access).await, 200);
        }
        site.directus
            .admin(Method::DELETE, &format!("/users/{}", ada.id), Value::Null)
            .await;
        site.directus
            .change(&bob, json!({"email": ada.email}))
            .await;
        until("the new address to be known", async || {
            (email_here(&bobs).await > 0).then_some(())
        })
        .await;
        // A new user under the freed address gets an account with it.
        site.directus
            .admin(Method::DELETE, &format!("/users/{}", bob.id), Value::Null)
            .await;
        let body = json!({"email": ada.email, "password": PASSWORD, "role": site.directus.role("creator").await, "status": "active"});
        let cyd = site.directus.admin(Method::POST, "/users", body).await;
        let cyds = Pair::of(&site.log_in(&ada.email, PASSWORD).await);
        assert_eq!(site.opens(&cyds.access).await, 200);
        let secret = [("X-RBAC-SYNC-SECRET", SECRET.to_owned())];
        let claimed = site
            .genie
            .send(
                Method::GET,
                "/api/events?types=email.claimed",
                &secret,
                None,
            )
            .await
            .ok();
        assert_eq!(
            claimed["data"].as_array().unwrap().last().unwrap()["data"]["user"],
            cyd["id"]
        );
    }
);

both_stores!(
    an_impersonation_ends_when_a_role_in_directus_changes,
    async |store: TestStore| {
        let site = Site::shared(store).await;
        let (ada, bob) = (
            site.directus.person("ada", "Administrator").await,
            site.directus.person("bob", "creator").await,
        );
        assert_eq!(site.opens(&site.pair(&bob).await.access).await, 200);
        let headers = authorization(&site.pair(&ada).await.access);
        let begin = format!("/api/admin/users/{}/impersonate", bob.id);
        let begun = site
            .genie
            .send(Method::POST, &begin, &headers, Some(Value::Null))
            .await
            .ok();
        let acting = begun["access_token"].as_str().unwrap();
        for (person, role, former) in [
            (&bob, "Administrator", "creator"),
            (&ada, "creator", "Administrator"),
        ] {
            assert_eq!(site.opens(acting).await, 200);
            site.directus
                .change(person, json!({"role": site.directus.role(role).await}))
                .await;
            site.until(acting, 401).await; // The two users sent no token of their own meanwhile.
            site.directus
                .change(person, json!({"role": site.directus.role(former).await}))
                .await;
            site.until(acting, 200).await;
        }
    }
);

both_stores!(
    too_large_requests_never_reach_directus,
    async |store: TestStore| {
        let site = Site::shared(store).await;
        let long = |length: usize| "x".repeat(length);
        let headers = [
            ("Authorization", "Bearer x".to_owned()),
            ("X-Anything", long(100_000)),
        ];
        let refused = site
            .genie
            .send(Method::GET, "/users/me", &headers, None)
            .await;
        refused.refused_by_identity(431, "INVALID_PAYLOAD");
        let login = site.log_in("ada@example.com", &long(10 << 20)).await;
        login.refused_by_identity(413, "INVALID_PAYLOAD");
        let register =
            json!({"email": "b@example.com", "password": long(10 << 20), "inviteCode": "x"});
        site.genie
            .send(Method::POST, "/api/register", &[], Some(register))
            .await
            .refused(413, "body_too_large");
        let register = json!({"email": "b@example.com", "password": long(2000), "inviteCode": "x"});
        site.genie
            .send(Method::POST, "/api/register", &[], Some(register))
            .await
            .refused(400, "invalid_field");
        for line in ["GET /users/me", "POST /auth/login", "POST /users"] {
            assert_eq!(site.proxy.count(line), 0, "{line}");
        }
    }
);

both_stores!(
    a_static_token_that_claims_another_user_is_refused,
    async |store: TestStore| {
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
        let site = Site::with(store, Directus::shared().await, &[("DIRECTUS_SECRET", "")]).await;
        // Directus shows nothing but the id to a user without rights, so genie would go on to look
        // up the claimed user.
        site.directus
            .admin(Method::POST, "/roles", json!({"name": "bare"}))
            .await;
        let (ada, mallory) = (
            site.directus.person("ada", "creator").await,
            site.directus.person("mallory", "bare").await,
        );
        let claims = json!({"id": ada.id, "admin_access": false, "exp": 99_999_999_999_i64, "iss": "directus"});
        let claims = BASE64.encode(claims.to_string());
        let head = BASE64.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
        for token in [format!("a.{claims}.b"), format!("{head}.{claims}.~")] {
            site.directus
                .change(&mallory, json!({"token": token}))
                .await;
            let taken = site
                .genie
                .http
                .get(format!("{}/users/me", site.directus.url))
                .bearer_auth(&token)
                .send()
                .await
                .unwrap();
            let taken: Value = serde_json::from_str(&taken.text().await.unwrap()).unwrap();
            assert_eq!(
                taken["data"]["id"], mallory.id,
                "Directus accepts the token: {taken}"
            );
            assert_eq!(site.opens(&token).await, 401, "{token}");
        }
        assert_eq!(
            site.proxy.count("GET /users/me"),
            1,
            "only the second token has a valid header"
        );
    }
);

both_stores!(
    guessing_with_a_stolen_token_is_stopped,
    async |store: TestStore| {
        let site = Site::shared(store).await;
        let ada = site.directus.person("ada", "creator").await;
        let pair = site.pair(&ada).await;
        let generate = async |password: &str| {
            let body = json!({"password": password});
            site.genie
                .send(
                    Method::POST,
                    "/users/me/tfa/generate",
                    &authorization(&pair.access),
                    Some(body),
                )
                .await
        };
        let mut guesses = 0;
        while generate("a guess").await.status == 401 {
            guesses += 1;
            assert!(guesses < 20);
        }
        let asked = site.proxy.count("POST /users/me/tfa/generate");
        let told = generate(PASSWORD).await;
        assert_eq!(told.status, 429, "{:?}", told.json);
        assert!(told.headers.contains_key("Retry-After"));
        assert_eq!(site.proxy.count("POST /users/me/tfa/generate"), asked);
    }
);

both_stores!(
    a_suspended_administrator_and_a_deleted_user_end_their_impersonations,
    async |store: TestStore| {
        let site = Site::shared(store).await;
        let bob = site.directus.person("bob", "creator").await;
        assert_eq!(site.opens(&site.pair(&bob).await.access).await, 200);
        let acting = async || {
            let ada = site.directus.person("ada", "Administrator").await;
            let pair = site.pair(&ada).await;
            let path = format!("/api/admin/users/{}/impersonate", bob.id);
            let begun = site
                .genie
                .send(
                    Method::POST,
                    &path,
                    &authorization(&pair.access),
                    Some(Value::Null),
                )
                .await
                .ok();
            (ada, begun["access_token"].as_str().unwrap().to_owned())
        };
        let ((ada, by_ada), (_, by_cyd)) = (acting().await, acting().await);
        for token in [&by_ada, &by_cyd] {
            assert_eq!(site.opens(token).await, 200);
        }
        site.directus
            .change(&ada, json!({"status": "suspended"}))
            .await;
        site.until(&by_ada, 401).await;
        assert_eq!(site.opens(&by_cyd).await, 200);
        site.directus
            .admin(Method::DELETE, &format!("/users/{}", bob.id), Value::Null)
            .await;
        site.until(&by_cyd, 401).await;
    }
);

both_stores!(
    invented_tokens_are_asked_about_at_a_limited_rate,
    async |store: TestStore| {
        let site = Site::with(store, Directus::shared().await, &[("DIRECTUS_SECRET", "")]).await;
        let ada = site.directus.person("ada", "creator").await;
        let pair = site.pair(&ada).await;
        assert_eq!(site.opens(&pair.access).await, 200);
        let refusal =
            json!({"errors": [{"message": "m", "extensions": {"code": "INVALID_CREDENTIALS"}}]});
        site.proxy
            .on("GET", "/users/me", Does::Answer(401, refusal.to_string()));
        let asked = site.proxy.count("GET /users/me");
        let made_up = |n: usize| {
            let claims = json!({"id": ada.id, "admin_access": false, "exp": 99_999_999_999_i64, "iss": "directus", "n": n});
            encode(
                &Header::new(Algorithm::HS256),
                &claims,
                &EncodingKey::from_secret(b"another secret"),
            )
            .unwrap()
        };
        let mut n = 0;
        let began = std::time::Instant::now();
        loop {
            let tokens: Vec<_> = (n..n + 100).map(&made_up).collect();
            let told =
                futures_util::future::join_all(tokens.iter().map(|token| site.opens(token))).await;
            assert!(
                told.iter().all(|status| [401, 429].contains(status)),
                "{told:?}"
            );
            n += 100;
            if told.contains(&429) {
                break;
            }
            assert!(began.elapsed().as_secs() < 30);
        }
        assert!(site.proxy.count("GET /users/me") - asked < n);
        site.proxy.pass_all();
        assert_eq!(
            site.opens(&pair.access).await,
            200,
            "a token that was accepted before is not limited"
        );
    }
);

both_stores!(
    forwarded_changes_work_and_never_repeat_a_password,
    async |store: TestStore| {
        let site = Site::shared(store).await;
        // The built-in rights let users read themselves; only an administrator may change
        // themselves here.
        let ada = site.directus.person("ada", "Administrator").await;
        let pair = site.pair(&ada).await;
        let change = async |body: Value| {
            site.genie
                .send(
                    Method::PATCH,
                    "/users/me",
                    &authorization(&pair.access),
                    Some(body),
                )
                .await
        };
        assert_eq!(
            change(json!({"first_name": "Ada", "password": "another password"}))
                .await
                .status,
            200
        );
        assert_eq!(site.log_in(&ada.email, PASSWORD).await.status, 401);
        Pair::of(&site.log_in(&ada.email, "another password").await);
        let refresh = json!({"refresh_token": pair.refresh});
        assert_eq!(
            site.genie
                .send(Method::POST, "/auth/refresh", &[], Some(refresh))
                .await
                .status,
            401,
            "the change of the password ended the session"
        );

        let canary = json!({"errors": [{"message": "canary", "extensions": {"code": "FAILED_VALIDATION", "invalid": "canary"}}]});
        site.proxy
            .on("PATCH", "/users/me", Does::Answer(400, canary.to_string()));
        let told = change(json!({"password": "canary"})).await;
        assert_eq!(
            told.json["errors"][0]["extensions"]["code"],
            "FAILED_VALIDATION"
        );
        assert!(!told.json.to_string().contains("canary"), "{:?}", told.json);
        site.proxy.pass_all();
        let large = change(json!({"description": "x".repeat(2 << 20)})).await;
        assert_eq!(large.status, 413);
        let list = site
            .genie
            .send(
                Method::PATCH,
                "/users/me",
                &authorization(&pair.access),
                Some(json!(["x"])),
            )
            .await;
        assert_eq!(list.status, 400);

        let two_factor = json!({"password": "another password"});
        let made = site
            .genie
            .send(
                Method::POST,
                "/users/me/tfa/generate",
                &authorization(&pair.access),
                Some(two_factor),
            )
            .await;
        assert!(made.json["data"]["secret"].is_string(), "{:?}", made.json);
        let logout = Pair::of(&site.log_in(&ada.email, "another password").await);
        let body = json!({"refresh_token": logout.refresh});
        assert_eq!(
            site.genie
                .send(Method::POST, "/auth/logout", &[], Some(body.clone()))
                .await
                .status,
            204
        );
        assert_eq!(
            site.genie
                .send(Method::POST, "/auth/refresh", &[], Some(body))
                .await
                .status,
            401
        );
        let cookie = json!({"email": ada.email, "password": "another password", "mode": "cookie"});
        assert_eq!(
            site.genie
                .send(Method::POST, "/auth/login", &[], Some(cookie))
                .await
                .status,
            400
        );
    }
);
