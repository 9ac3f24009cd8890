//! Credentials of all kinds: kept, revealed to servers with a fact before the answer, refused with
//! a fact, and never shown in another way.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
};

use genie_log::testing::{TestStore, both_stores};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    service_keys::Key,
    test_genie::{Answer, SECRET, TestGenie, TestUser},
    until::until,
};

const COOKIE_FILE: &str = "# Netscape HTTP Cookie File\r\n\
    # made by hand\r\n\
    \r\n\
    .x.com\tTRUE\t/\tFALSE\t0\tlang\ten; canary-1\r\n\
    #HttpOnly_.x.com\tTRUE\t/\tTRUE\t1893456000\tauth_token\tcanary-2==\r\n";

fn cookies(platform: &str) -> Value {
    json!({"platform": platform, "kind": "cookies", "cookies": COOKIE_FILE})
}

fn password(platform: &str, password: &str) -> Value {
    json!({"platform": platform, "kind": "password", "username": "ada", "password": password})
}

/// A session that expires in this many seconds.
fn session(platform: &str, seconds: i64) -> Value {
    let expires = genie_log::Clock::system().now().unix_seconds() + seconds;
    json!({
        "platform": platform, "user_agent": "Mozilla/5.0",
        "cookies": [
            {"name": "auth", "value": "canary-3", "domain": ".x.com", "httpOnly": true, "expires": expires},
            {"name": "seen", "value": "canary-4", "domain": ".x.com", "expirationDate": expires + 99_999, "hostOnly": false},
        ],
    })
}

async fn store(genie: &TestGenie, user: &TestUser, body: Value) -> String {
    let route = match body["kind"].as_str() {
        Some(_) => "/api/credentials/download-cred",
        None if body["cookies"].is_array() => "/api/credentials/platform-session",
        None => "/api/credentials/create-profile",
    };
    user.post(genie, route, body).await.ok()["id"]
        .as_str()
        .unwrap()
        .to_owned()
}

async fn profile(genie: &TestGenie, user: &TestUser, platform: &str) -> String {
    store(
        genie,
        user,
        json!({"platform": platform, "credentials": {"password": "canary-0"}}),
    )
    .await
}

async fn reveal(genie: &TestGenie, profile: &str) -> Answer {
    genie
        .server(
            "/api/credentials/reveal",
            json!({"creatorProfileId": profile, "purpose": "publish"}),
        )
        .await
}

async fn get_session(genie: &TestGenie, user: &str, platform: &str) -> Answer {
    genie
        .server(
            "/api/credentials/get-platform-session",
            json!({"userId": user, "platform": platform}),
        )
        .await
}

/// Event and reason of each fact, newest first.
async fn history(genie: &TestGenie, user: &TestUser, path: &str) -> Vec<(String, String)> {
    let page = user.get(genie, path).await.ok();
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    page["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fact| (word(&fact["event"]), word(&fact["reason"])))
        .collect()
}

async fn history_of(genie: &TestGenie, user: &TestUser, id: &str) -> Vec<(String, String)> {
    history(genie, user, &format!("/api/credentials/{id}/history")).await
}

fn told(event: &str, reason: &str) -> (String, String) {
    (event.to_owned(), reason.to_owned())
}

async fn feed(genie: &TestGenie, query: &str) -> Vec<Value> {
    let secret = [("X-RBAC-SYNC-SECRET", SECRET.into())];
    let page = genie
        .send(
            Method::GET,
            &format!("/api/events?limit=500&{query}"),
            &secret,
            None,
        )
        .await
        .ok();
    page["data"].as_array().unwrap().clone()
}

both_stores!(
    each_kind_is_kept_once_per_platform_and_shown_by_its_own_route,
    async |store_on: TestStore| {
        let mut genie = TestGenie::start(store_on).await;
        let ada = genie.user("ada").await;
        let login = store(&genie, &ada, password(" X ", "canary-5")).await;
        let file = store(&genie, &ada, cookies("x")).await;
        let browser = store(&genie, &ada, session("x", 3600)).await;
        let connected = profile(&genie, &ada, "x").await;
        assert_eq!(store(&genie, &ada, password("x", "canary-6")).await, login);
        let again = ada
            .post(&genie, "/api/credentials/download-cred", cookies("x"))
            .await
            .ok();
        assert_eq!(
            (&again["id"], &again["updated"]),
            (&json!(file), &json!(true))
        );
        let again = ada
            .post(
                &genie,
                "/api/credentials/platform-session",
                session("x", 7200),
            )
            .await
            .ok();
        assert_eq!(
            (&again["id"], &again["updated"]),
            (&json!(browser), &json!(true))
        );

        let list = ada.get(&genie, "/api/credentials").await.ok();
        let kinds: Vec<_> = list["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| (row["kind"].clone(), row["id"].clone()))
            .collect();
        let expected = [
            ("password", &login),
            ("cookies", &file),
            ("session", &browser),
            ("profile", &connected),
        ];
        assert_eq!(kinds, expected.map(|(kind, id)| (json!(kind), json!(id))));
        assert_eq!(list["data"][0]["platform_username"], "ada");
        assert_eq!(list["data"][2]["expires_at"], again["expires_at"]);
        assert!(!list.to_string().contains("canary"), "{list}");
        assert_eq!(
            ada.get(&genie, "/api/usage").await.ok()["usage"]["platforms_connected"],
            1,
            "only profiles count"
        );

        let download = async |body: Value| {
            genie
                .server("/api/credentials/reveal-download-cred", body)
                .await
        };
        let shown = download(json!({"id": login})).await;
        assert!(
            shown.headers.contains_key("Genie-Position"),
            "the fact was durable before the answer"
        );
        let shown = shown.ok();
        let fields = ["id", "kind", "username", "password"].map(|field| shown[field].clone());
        assert_eq!(
            fields,
            [
                json!(login),
                json!("password"),
                json!("ada"),
                json!("canary-6")
            ]
        );
        for by in [
            json!({"id": file}),
            json!({"userId": ada.id, "platform": "X"}),
            json!({"userId": ada.id, "platform": "x", "kind": "cookies"}),
        ] {
            let shown = download(by).await.ok();
            assert_eq!(
                (&shown["id"], &shown["kind"], &shown["cookies"]),
                (&json!(file), &json!("cookies"), &json!(COOKIE_FILE))
            );
        }
        let other = json!({"userId": ada.id, "platform": "x", "kind": "password"});
        assert_eq!(download(other).await.ok()["password"], "canary-6");

        let shown = get_session(&genie, &ada.id, "x").await.ok();
        assert_eq!(
            (&shown["id"], &shown["user_agent"]),
            (&json!(browser), &json!("Mozilla/5.0"))
        );
        assert_eq!(
            (&shown["expires_at"], shown["captured_at"].is_string()),
            (&again["expires_at"], true)
        );
        let cookies = shown["cookies"].as_array().unwrap();
        assert_eq!(
            (&cookies[0]["value"], &cookies[0]["httpOnly"]),
            (&json!("canary-3"), &json!(true))
        );
        assert!(
            cookies[1]["expires"].is_number() && cookies[1].get("hostOnly").is_none(),
            "{shown}"
        );

        // The route of another kind answers that the credential is not there.
        for id in [&login, &file, &browser] {
            reveal(&genie, id).await.refused(404, "not_found");
            let change = json!({"id": id, "credentials": {"p": "q"}});
            ada.post(&genie, "/api/credentials/update-profile-creds", change)
                .await
                .refused(404, "not_found");
        }
        download(json!({"id": connected}))
            .await
            .refused(404, "not_found");
        assert_eq!(
            history_of(&genie, &ada, &login).await[0],
            told("refused", "other_kind")
        );
        assert_eq!(
            reveal(&genie, &connected).await.ok()["credentials"]["password"],
            "canary-0"
        );

        // A user who gives the password gets the whole secret.
        let whole = ada
            .post(
                &genie,
                "/api/me/export",
                json!({"password": "ada's password"}),
            )
            .await
            .ok();
        let secret = |n: usize, field: &str| whole["credentials"][n]["secret"][field].clone();
        assert_eq!(
            [secret(0, "password"), secret(1, "cookies")],
            [json!("canary-6"), json!(COOKIE_FILE)]
        );
        assert_eq!(
            [secret(2, "cookies"), secret(3, "password")],
            [shown["cookies"].clone(), json!("canary-0")]
        );
        assert!(!genie.store.holds("canary").await);
    }
);

both_stores!(
    a_malformed_cookie_file_session_or_login_is_refused_and_its_mistake_located,
    async |store_on: TestStore| {
        let mut genie = TestGenie::start(store_on).await;
        let ada = genie.user("ada").await;
        let file = |line: &str| json!({"platform": "x", "kind": "cookies", "cookies": format!("{COOKIE_FILE}{line}\r\n")});
        let with = |mut body: Value, field: &str, value: Value| {
            body[field] = value;
            body
        };
        let cookie = |more: Value| {
            let mut cookie = json!({"name": "a", "value": "canary", "domain": "x.com"});
            cookie
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            with(session("x", 60), "cookies", json!([cookie]))
        };
        let deep = |levels: usize| {
            let nested = format!("{}\"canary\"{}", "[".repeat(levels), "]".repeat(levels));
            serde_json::from_str::<Value>(&nested).unwrap()
        };
        for (route, body, place) in [
            (
                "download-cred",
                file("canary x.com TRUE / FALSE 0 a b"),
                "line 6 must have seven fields",
            ),
            (
                "download-cred",
                file(".x.com\tTRUE\t/\tFALSE\tcanary\ta\tb"),
                "line 6 must have a number",
            ),
            (
                "download-cred",
                file(".x.com\tcanary\t/\tFALSE\t0\ta\tb"),
                "line 6 must have TRUE as its second field",
            ),
            (
                "download-cred",
                file("#HttpOnly_canary"),
                "line 6 must have seven fields",
            ),
            (
                "download-cred",
                with(cookies("x"), "cookies", json!("[{\"name\": \"canary\"}]")),
                "`cookies` is JSON",
            ),
            (
                "download-cred",
                with(cookies("x"), "cookies", json!("# canary")),
                "at least one cookie",
            ),
            (
                "download-cred",
                with(
                    cookies("x"),
                    "cookies",
                    json!(format!("{COOKIE_FILE}{}", "# canary\n".repeat(70_000))),
                ),
                "bytes",
            ),
            (
                "download-cred",
                json!({"platform": "x", "kind": "cookies"}),
                "`cookies` is missing",
            ),
            (
                "download-cred",
                with(cookies("x"), "cookies", json!(["canary"])),
                "`cookies` must be a string",
            ),
            (
                "download-cred",
                json!({"platform": "x", "kind": "password", "username": "a"}),
                "`password` is missing",
            ),
            (
                "download-cred",
                json!({"platform": "x", "kind": "password", "password": "canary"}),
                "`username` is missing",
            ),
            ("download-cred", password("x", ""), "must not be empty"),
            ("download-cred", password("", "canary"), "`platform`"),
            (
                "download-cred",
                with(cookies("x"), "kind", json!("canary")),
                "`kind` must be",
            ),
            (
                "platform-session",
                with(session("x", 60), "cookies", json!([])),
                "1 to 1000 cookies",
            ),
            ("platform-session", session("x", -60), "is over"),
            (
                "platform-session",
                cookie(json!({"value": 7})),
                "`cookies[0].value` must be a string",
            ),
            (
                "platform-session",
                cookie(json!({"domain": "canary x"})),
                "`cookies[0].domain`",
            ),
            (
                "platform-session",
                cookie(json!({"path": "canary\n"})),
                "`cookies[0].path`",
            ),
            (
                "platform-session",
                with(session("x", 60), "user_agent", json!("canary\n")),
                "`user_agent`",
            ),
            (
                "create-profile",
                json!({"platform": "x", "credentials": ["canary"]}),
                "`credentials` must be",
            ),
            (
                "create-profile",
                json!({"platform": "x", "credentials": {"p": "canary".repeat(20_000)}}),
                "at most 65536 bytes",
            ),
        ] {
            let refused = ada
                .post(&genie, &format!("/api/credentials/{route}"), body)
                .await
                .refused(400, "invalid_field");
            let sentence = refused["error"].as_str().unwrap();
            assert!(
                sentence.contains(place) && !sentence.contains("canary"),
                "{place}: {sentence}"
            );
        }
        let create = "/api/credentials/create-profile";
        let huge = json!({"platform": "x", "credentials": {"p": "canary".repeat(200_000)}});
        ada.post(&genie, create, huge)
            .await
            .refused(413, "body_too_large");
        let endless = json!({"platform": "x", "credentials": {"p": deep(125)}});
        let text = endless
            .to_string()
            .replace("[\"canary\"]", &"[".repeat(1000));
        let answer = genie
            .http
            .post(format!("{}{create}", genie.base))
            .bearer_auth(&ada.token);
        let answer =
            crate::test_genie::answer(answer.header("Content-Type", "application/json").body(text))
                .await;
        assert!(
            !answer.refused(400, "invalid_field")["error"]
                .as_str()
                .unwrap()
                .contains("canary")
        );
        assert_eq!(
            ada.get(&genie, "/api/credentials").await.ok()["data"],
            json!([])
        );
        assert!(!genie.store.holds("canary").await);

        // A body of the greatest allowed depth comes out unchanged.
        let kept = store(
            &genie,
            &ada,
            json!({"platform": "x", "credentials": {"p": deep(98)}}),
        )
        .await;
        assert_eq!(
            reveal(&genie, &kept).await.ok()["credentials"]["p"],
            deep(98)
        );
    }
);

both_stores!(
    an_expired_session_is_refused_and_its_owner_can_see_it,
    async |store_on: TestStore| {
        let mut genie = TestGenie::start(store_on).await;
        let ada = genie.user("ada").await;
        let id = store(&genie, &ada, session("x", 60)).await;
        let shown = get_session(&genie, &ada.id, "x").await.ok();
        assert_eq!(shown["id"], json!(id));
        genie.clock.advance_millis(60_000);
        let refused = get_session(&genie, &ada.id, "x")
            .await
            .refused(404, "session_expired");
        assert!(!refused.to_string().contains("canary"), "{refused}");
        assert_eq!(
            history_of(&genie, &ada, &id).await[0],
            told("refused", "session_expired")
        );
        genie.restart().await;
        get_session(&genie, &ada.id, "x")
            .await
            .refused(404, "session_expired");
        assert_eq!(
            store(&genie, &ada, session("x", 3600)).await,
            id,
            "a session captured again keeps its id"
        );
        get_session(&genie, &ada.id, "x").await.ok();
    }
);

both_stores!(
    owners_see_the_whole_history_of_their_credentials_and_others_see_nothing,
    async |store_on: TestStore| {
        let mut genie = TestGenie::start(store_on).await;
        let (admin, ada, bob) = (
            genie.user("root").await,
            genie.user("ada").await,
            genie.user("bob").await,
        );
        let id = profile(&genie, &ada, "x").await;
        profile(&genie, &ada, "x").await; // stored a second time
        let headers = [
            ("X-RBAC-SYNC-SECRET", SECRET.into()),
            ("X-Request-Id", "a-request".into()),
        ];
        let body = json!({"creatorProfileId": id, "purpose": "publish the post"});
        let answer = genie
            .send(
                Method::POST,
                "/api/credentials/reveal",
                &headers,
                Some(body),
            )
            .await;
        let request = answer.headers["Genie-Request-Id"]
            .to_str()
            .unwrap()
            .to_owned();
        answer.ok();
        let key = Key::make(&genie, &admin, &["credentials:reveal"]).await;
        key.post(
            &genie,
            "/api/credentials/reveal",
            json!({"creatorProfileId": id}),
        )
        .await
        .ok();
        ada.delete(&genie, &format!("/api/credentials/{id}"))
            .await
            .ok();
        reveal(&genie, &id).await.refused(404, "not_found");

        let path = format!("/api/credentials/{id}/history");
        let events = [
            "refused", "removed", "revealed", "revealed", "changed", "stored",
        ];
        let page = ada.get(&genie, &path).await.ok();
        let facts = page["data"].as_array().unwrap();
        assert_eq!(
            facts
                .iter()
                .map(|fact| fact["event"].as_str().unwrap())
                .collect::<Vec<_>>(),
            events
        );
        assert_eq!(
            (&facts[0]["reason"], &facts[0]["purpose"]),
            (&json!("removed"), &json!("publish"))
        );
        assert_eq!(
            (&facts[2]["by"], &facts[2]["by_id"]),
            (&json!("service_key"), &json!(key.id))
        );
        let revealed = ["by", "by_id", "purpose", "request_id", "version"]
            .map(|field| facts[3][field].clone());
        assert_eq!(
            revealed,
            [
                json!("shared_secret"),
                json!(null),
                json!("publish the post"),
                json!(request),
                json!(2)
            ]
        );
        assert_eq!(
            (&facts[4]["by"], &facts[4]["by_id"]),
            (&json!("user"), &json!(ada.id))
        );
        assert!(
            facts
                .iter()
                .all(|fact| fact["at"].is_string() && fact["id"] == json!(id)),
            "{page}"
        );

        // The pages hold everything, once and in order.
        let mut seen = Vec::<Value>::new();
        let mut cursor = String::new();
        loop {
            let page = ada
                .get(&genie, &format!("{path}?limit=2{cursor}"))
                .await
                .ok();
            seen.extend(page["data"].as_array().unwrap().clone());
            let Some(next) = page["next_cursor"].as_str() else {
                break;
            };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(&seen, facts);

        let reveals = "/api/credentials/reveals";
        let mine = [
            told("refused", "removed"),
            told("revealed", ""),
            told("revealed", ""),
        ];
        assert_eq!(history(&genie, &ada, reveals).await, mine);
        let first = ada.get(&genie, &format!("{reveals}?limit=1")).await.ok();
        let next = format!(
            "{reveals}?limit=2&cursor={}",
            first["next_cursor"].as_str().unwrap()
        );
        assert_eq!(history(&genie, &ada, &next).await, mine[1..]);
        assert!(history(&genie, &bob, reveals).await.is_empty());

        bob.get(&genie, &path).await.refused(404, "not_found");
        bob.get(&genie, "/api/credentials/nonsense/history")
            .await
            .refused(404, "not_found");
        ada.get(&genie, &format!("{path}?cursor=nonsense"))
            .await
            .refused(400, "invalid_field");
        assert!(feed(&genie, "types=access.*").await.is_empty());
        assert_eq!(admin.get(&genie, &path).await.ok()["data"], page["data"]);
        let looked = feed(&genie, "types=access.*").await;
        assert_eq!(
            (
                looked.len(),
                &looked[0]["callerid"],
                &looked[0]["data"]["user"]
            ),
            (1, &json!(admin.id), &json!(ada.id))
        );
    }
);

both_stores!(
    a_refusal_is_a_fact_of_the_owner_or_of_the_system,
    async |store_on: TestStore| {
        let mut genie = TestGenie::start(store_on).await;
        let (admin, ada) = (genie.user("root").await, genie.user("ada").await);
        let id = profile(&genie, &ada, "x").await;
        let worker = Key::make(&genie, &admin, &["jobs:work"]).await;
        let job = "0192d4e0-7f3a-7c3b-8f4e-0123456789ab";
        let body = |id: &str| json!({"creatorProfileId": id, "jobId": job, "lease": "nonsense"});
        for _ in 0..3 {
            let without = json!({"creatorProfileId": id});
            worker
                .post(&genie, "/api/credentials/reveal", without)
                .await
                .refused(403, "scope_needed");
            worker
                .post(&genie, "/api/credentials/reveal", body(&id))
                .await
                .refused(409, "stale_lease");
            get_session(&genie, &ada.id, "x")
                .await
                .refused(404, "not_found");
            get_session(&genie, &ada.id, "y")
                .await
                .refused(404, "not_found");
        }
        let of_ada = feed(&genie, &format!("types=credential.refused&user={}", ada.id)).await;
        let reasons: Vec<_> = of_ada
            .iter()
            .map(|fact| fact["data"]["reason"].as_str().unwrap())
            .collect();
        assert_eq!(
            reasons,
            ["scope_needed", "stale_lease", "not_held", "not_held"],
            "each refusal is recorded once a minute"
        );
        let page = ada.get(&genie, "/api/credentials/reveals").await.ok();
        assert_eq!(
            (&page["data"][0]["platform"], &page["data"][0]["id"]),
            (&json!("y"), &json!(ada.id))
        );
        assert_eq!(page["data"][3]["by_id"], json!(worker.id));

        // A worker's key reveals what the job that it holds needs.
        store(&genie, &ada, session("x", 3600)).await;
        store(&genie, &ada, password("x", "canary-8")).await;
        let job = json!({"operation": "resize_image", "input_url": "http://a/b", "params": {"width": 1}, "creator_profile_id": id});
        let job = ada.post(&genie, "/api/queue/media", job).await.ok()["jobId"].clone();
        let lease = genie.claim().await["lease"].clone();
        for (route, field) in [
            ("get-platform-session", "cookies"),
            ("reveal-download-cred", "password"),
        ] {
            let body = json!({"userId": ada.id, "platform": "x", "jobId": job, "lease": lease});
            let shown = worker
                .post(&genie, &format!("/api/credentials/{route}"), body)
                .await
                .ok();
            assert!(shown[field].to_string().contains("canary"), "{route}");
        }

        // Reveals for a suspended owner are refused, and the refusals are facts of the owner.
        genie
            .server(
                "/api/rbac-sync",
                json!({"userId": ada.id, "status": "suspended"}),
            )
            .await
            .ok();
        reveal(&genie, &id).await.refused(403, "suspended");
        genie
            .server(
                "/api/rbac-sync",
                json!({"userId": ada.id, "status": "active"}),
            )
            .await
            .ok();
        genie.settle().await;
        let ada = genie.user_again("ada", &ada.id).await; // the suspension ended all logins
        assert_eq!(
            history_of(&genie, &ada, &id).await[0],
            told("refused", "suspended")
        );
        reveal(&genie, &id).await.ok();
        ada.delete(&genie, &format!("/api/credentials/{id}"))
            .await
            .ok();
        let change = json!({"creatorProfileId": id, "credentials": {"p": "canary"}});
        genie
            .server("/api/credentials/store", change)
            .await
            .refused(404, "not_found");
        assert_eq!(
            history_of(&genie, &ada, &id).await[0],
            told("refused", "removed")
        );

        // Credentials of nobody: the refusals are facts of the system.
        let unknown = "0192d4e0-7f3a-7c3b-8f4e-0123456789ab";
        for _ in 0..3 {
            reveal(&genie, unknown).await.refused(404, "not_found");
            get_session(&genie, unknown, "x")
                .await
                .refused(404, "not_found");
            worker
                .post(
                    &genie,
                    "/api/credentials/reveal",
                    json!({"creatorProfileId": unknown}),
                )
                .await
                .refused(403, "scope_needed");
        }
        reveal(&genie, "nonsense").await.refused(404, "not_found");
        let of_nobody = feed(&genie, "types=access.credential_refused").await;
        let seen: Vec<_> = of_nobody
            .iter()
            .map(|fact| (fact["caller"].clone(), fact["data"].clone()))
            .collect();
        let (by_secret, by_key) = (json!("shared_secret"), json!("service_key"));
        let expected = [
            (
                by_secret.clone(),
                json!({"reason": "unknown", "credential": unknown}),
            ),
            (by_secret, json!({"reason": "unknown", "user": unknown})),
            (by_key, json!({"reason": "unknown", "credential": unknown})),
        ];
        assert_eq!(seen, expected);

        // An answer about a forgotten user's credential does not differ from one about a credential
        // that never existed.
        let bob = genie.user("bob").await;
        let of_bob = profile(&genie, &bob, "x").await;
        let forget = format!(
            "UPDATE user_keys SET state = 'destroyed', wrapped = NULL, destroyed_at = 1 WHERE user_id = '{}'",
            bob.id
        );
        assert_eq!(genie.store.try_sql(&forget).await.unwrap(), 1);
        genie.restart().await;
        reveal(&genie, &of_bob).await.refused(404, "not_found");
        get_session(&genie, &bob.id, "x")
            .await
            .refused(404, "not_found");
        let told: Vec<_> = feed(&genie, "types=access.credential_refused").await[3..]
            .iter()
            .map(|fact| fact["data"].clone())
            .collect();
        let expected = [
            json!({"reason": "forgotten", "credential": of_bob}),
            json!({"reason": "forgotten", "user": bob.id}),
        ];
        assert_eq!(told, expected);
        admin
            .get(&genie, &format!("/api/credentials/{of_bob}/history"))
            .await
            .refused(404, "not_found");
    }
);

both_stores!(
    a_damaged_or_moved_secret_is_never_shown_and_the_failure_is_recorded,
    async |store_on: TestStore| {
        let mut genie = TestGenie::start(store_on).await;
        let (ada, bob) = (genie.user("ada").await, genie.user("bob").await);
        let of_bob = profile(&genie, &bob, "x").await;
        for damage in [
            "UPDATE secrets SET sealed = substr(sealed, 1, 60) WHERE secret_id = '{id}'",
            "UPDATE secrets SET sealed = (SELECT sealed FROM secrets WHERE secret_id = '{other}') WHERE secret_id = '{id}'",
            "UPDATE secrets SET version = version + 1 WHERE secret_id = '{id}'",
            "DELETE FROM secrets WHERE secret_id = '{id}'",
        ] {
            let id = profile(&genie, &ada, "x").await;
            assert_eq!(
                genie
                    .store
                    .try_sql(&damage.replace("{id}", &id).replace("{other}", &of_bob))
                    .await
                    .unwrap(),
                1
            );
            let refused = reveal(&genie, &id).await.refused(500, "internal");
            assert!(!refused.to_string().contains("canary"), "{refused}");
            let facts = history_of(&genie, &ada, &id).await;
            assert_eq!(
                facts[..2],
                [told("refused", "damaged"), told("revealed", "")],
                "{damage}"
            );
            // Deleting the damaged credential lets the next round make a new one.
            ada.delete(&genie, &format!("/api/credentials/{id}"))
                .await
                .ok();
        }
        reveal(&genie, &of_bob).await.ok();
        let id = profile(&genie, &ada, "x").await;
        genie
            .store
            .try_sql(&format!("DELETE FROM secrets WHERE secret_id = '{id}'"))
            .await
            .unwrap();
        reveal(&genie, &id).await.refused(500, "internal");
        let exported = ada
            .post(
                &genie,
                "/api/me/export",
                json!({"password": "ada's password"}),
            )
            .await
            .ok();
        let of_ada = &exported["credentials"][0];
        assert_eq!(
            (&of_ada["secret"], &of_ada["secret_refused"]),
            (&Value::Null, &json!("damaged")),
            "the export still has the rest"
        );
        assert_eq!(
            profile(&genie, &ada, "x").await,
            id,
            "the owner can store it again under the same id"
        );
        reveal(&genie, &id).await.ok();
    }
);

both_stores!(
    storing_again_under_one_key_has_one_outcome_that_holds_no_secret,
    async |store_on: TestStore| {
        let mut genie = TestGenie::start(store_on).await;
        let ada = genie.user("ada").await;
        let keyed = async |route: &str, body: &Value| {
            let [(name, token)] = ada.headers();
            let headers = [(name, token), ("Idempotency-Key", "a-key".into())];
            genie
                .send(
                    Method::POST,
                    &format!("/api/credentials/{route}"),
                    &headers,
                    Some(body.clone()),
                )
                .await
        };
        for (route, body) in [
            ("download-cred", cookies("x")),
            ("download-cred", password("y", "canary-7")),
            ("platform-session", session("x", 3600)),
        ] {
            // The key belongs to a route and a body, so a second download credential is another
            // request.
            if body["kind"] == "password" {
                keyed(route, &body)
                    .await
                    .refused(422, "idempotency_key_reused");
                continue;
            }
            let first = keyed(route, &body).await.ok();
            assert_eq!(keyed(route, &body).await.ok(), first, "{route}");
            assert_eq!(first["updated"], false, "{route}");
            let plain = genie_log::keys::sha256_hex(body.to_string().as_bytes());
            assert!(
                !genie.store.holds(&plain).await,
                "a plain hash in the store would give a weak secret away"
            );
        }
        assert!(!genie.store.holds("canary").await);
    }
);

both_stores!(
    no_plaintext_leaves_without_its_fact_however_the_server_dies,
    async |store_on: TestStore| {
        let mut genie = TestGenie::start_process(store_on).await;
        let ada = genie.user("ada").await;
        let id = profile(&genie, &ada, "x").await;
        let mut shown = HashSet::new();
        for round in 0..3 {
            let answered = Arc::new(Mutex::new(Vec::new()));
            let callers: Vec<_> = (0..8)
                .map(|caller| {
                    let http = genie.http.clone();
                    let url = format!("{}/api/credentials/reveal", genie.base);
                    let answered = Arc::clone(&answered);
                    let body = json!({"creatorProfileId": id});
                    tokio::spawn(async move {
                        for n in 0.. {
                            let request = format!("round-{round}-caller-{caller}-{n}");
                            let asked = http
                                .post(&url)
                                .header("X-RBAC-SYNC-SECRET", SECRET)
                                .header("X-Request-Id", &request);
                            // Whatever part of an answer arrives before the server dies may hold
                            // the plaintext.
                            let Ok(answer) = asked.json(&body).send().await else {
                                return;
                            };
                            let of_log = answer.headers()["Genie-Request-Id"].clone();
                            match answer.text().await {
                                Ok(text) if text.contains("canary-0") => {
                                    let id = of_log.to_str().unwrap().to_owned();
                                    answered.lock().unwrap().push(id)
                                }
                                Ok(text) => panic!("{text}"),
                                Err(_) => return,
                            }
                        }
                    })
                })
                .collect();
            until("many answered reveals", async || {
                (answered.lock().unwrap().len() >= 40).then_some(())
            })
            .await;
            genie.kill().await;
            for caller in callers {
                caller.await.unwrap();
            }
            shown.extend(answered.lock().unwrap().drain(..));
            genie.launch_again().await;
        }
        let mut on_record = HashSet::new();
        let mut cursor = String::new();
        loop {
            let page = ada
                .get(
                    &genie,
                    &format!("/api/credentials/reveals?limit=500{cursor}"),
                )
                .await
                .ok();
            on_record.extend(
                page["data"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|fact| fact["request_id"].as_str().unwrap().to_owned()),
            );
            let Some(next) = page["next_cursor"].as_str() else {
                break;
            };
            cursor = format!("&cursor={next}");
        }
        let without: Vec<_> = shown.difference(&on_record).collect();
        assert!(
            shown.len() >= 120 && without.is_empty(),
            "{} were shown; without a fact: {without:?}",
            shown.len()
        );
    }
);
