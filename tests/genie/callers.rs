//! Invalid tokens and too many of them: one status, one sentence.

use genie_log::testing::{Kind, TestStore, both_stores};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    test_genie::{Answer, SECRET, TestGenie, answer},
    until::until,
};

both_stores!(
    an_invalid_token_is_401_and_two_tokens_are_400,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let parts: Vec<&str> = ada.token.split('.').collect();
        let (header, claims) = (parts[0], parts[1]);
        // {"alg":"none","typ":"JWT"}, with both endings that such a token can have.
        let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
        for bad in [
            format!("{none}.{claims}."),
            format!("{none}.{claims}.{}", parts[2]),
            format!("{header}.{claims}."),
            format!("{header}.{claims}.{}", "A".repeat(43)),
            format!("{header}.{claims}"),
            "a-static-token".to_owned(),
            "gk_".to_owned(),
            "é".to_owned(),
            String::new(),
        ] {
            let headers = [("Authorization", format!("Bearer {bad}"))];
            let refused = genie
                .send(Method::GET, "/api/jobs", &headers, None)
                .await
                .refused(401, "invalid_token");
            assert_eq!(refused["error"], "Invalid or expired token", "{bad}");
        }
        let bearer = ("Authorization", format!("Bearer {}", ada.token));
        genie
            .send(
                Method::GET,
                "/api/jobs",
                &[("Authorization", format!("bearer   {}", ada.token))],
                None,
            )
            .await
            .ok();

        let twice = [bearer.clone(), bearer.clone()];
        genie
            .send(Method::GET, "/api/jobs", &twice, None)
            .await
            .refused(400, "two_tokens");
        let in_address = format!("/api/jobs?access_token={}", ada.token);
        genie
            .send(
                Method::GET,
                &in_address,
                std::slice::from_ref(&bearer),
                None,
            )
            .await
            .refused(400, "two_tokens");
        genie
            .send(Method::GET, &in_address, &[], None)
            .await
            .refused(401, "invalid_token");
        let me = genie.send(Method::GET, "/users/me", &twice, None).await;
        me.refused_by_identity(400, "INVALID_PAYLOAD");
        let secret = ("X-RBAC-SYNC-SECRET", SECRET.to_owned());
        genie
            .send(
                Method::GET,
                "/api/events",
                &[secret.clone(), secret.clone()],
                None,
            )
            .await
            .refused(400, "two_tokens");
        // A secret beside a token is not a second token. It takes precedence on routes that accept
        // it.
        genie
            .send(Method::GET, "/api/events", &[secret, bearer], None)
            .await
            .ok();
        genie
            .server("/api/credentials/reveal", json!({}))
            .await
            .refused(400, "invalid_field");
    }
);

/// The answer to a caller at this address that shows this header on a route of servers.
async fn shown_from(
    genie: &TestGenie,
    address: &str,
    header: &'static str,
    text: String,
) -> Answer {
    let headers = [("X-Forwarded-For", address.to_owned()), (header, text)];
    genie
        .send(
            Method::GET,
            "/api/events?types=access.refused",
            &headers,
            None,
        )
        .await
}

/// Shows wrong values until the server tells the caller to wait. Returns how many values the server
/// checked.
async fn guess(
    genie: &TestGenie,
    address: &str,
    header: &'static str,
    wrong: impl Fn(usize) -> String,
) -> usize {
    for n in 0..1000 {
        let answer = shown_from(genie, address, header, wrong(n)).await;
        if answer.status == 429 {
            assert!(
                answer.headers["Retry-After"]
                    .to_str()
                    .unwrap()
                    .parse::<u32>()
                    .unwrap()
                    >= 1
            );
            answer.refused(429, "too_many_wrong");
            return n;
        }
        answer.refused(401, "invalid_token");
    }
    panic!("nobody stopped the guesser");
}

/// Sums over all facts of refusals, and those facts.
async fn on_record(genie: &TestGenie) -> ([u64; 4], Vec<Value>) {
    let secret = [("X-RBAC-SYNC-SECRET", SECRET.to_owned())];
    let told = genie
        .send(
            Method::GET,
            "/api/events?types=access.refused&personal=true",
            &secret,
            None,
        )
        .await;
    let Value::Array(facts) = told.ok()["data"].take() else {
        panic!("no list")
    };
    let sum = |name: &str| {
        facts
            .iter()
            .map(|fact| fact["data"][name].as_u64().unwrap())
            .sum()
    };
    (
        ["secrets", "service_keys", "tokens", "stopped"].map(sum),
        facts,
    )
}

both_stores!(
    a_guesser_is_stopped_and_recorded_and_nobody_else_is,
    async |store: TestStore| {
        const SECRET_HEADER: &str = "X-RBAC-SYNC-SECRET";
        const TOKEN: &str = "Authorization";
        let (alone, shared, elsewhere) = ("198.51.100.7", "203.0.113.7", "203.0.113.8");
        let mut genie =
            TestGenie::start_with(store, &[("TRUSTED_PROXIES", "127.0.0.0/8".to_owned())]).await;
        let ada = genie.user("ada").await;
        let key = ada
            .post(
                &genie,
                "/api/admin/service-keys",
                json!({"name": "n", "scopes": ["events:read"]}),
            )
            .await
            .ok();
        let key = format!("Bearer {}", key["key"].as_str().unwrap());
        shown_from(&genie, shared, SECRET_HEADER, SECRET.into())
            .await
            .ok();
        shown_from(&genie, shared, TOKEN, key.clone()).await.ok();

        // The same old secret again and again is not a guess.
        for _ in 0..120 {
            shown_from(&genie, alone, SECRET_HEADER, "last month's".into())
                .await
                .refused(401, "invalid_token");
        }
        let mut looked_at = [0; 3];
        for (n, (header, wrong)) in [
            (
                SECRET_HEADER,
                (|n| format!("guess {n}")) as fn(usize) -> String,
            ),
            (TOKEN, |n| format!("Bearer gk_{n:064x}")),
            (TOKEN, |n| format!("Bearer forged.{n}.x")),
        ]
        .into_iter()
        .enumerate()
        {
            looked_at[n] = guess(&genie, alone, header, wrong).await
                + guess(&genie, shared, header, wrong).await;
            assert!((199..400).contains(&looked_at[n]), "{looked_at:?}");
        }
        // A caller with the right secret that never showed it from this address waits too. The
        // server checks one value every few seconds, so the last guess must come just before.
        looked_at[0] += guess(&genie, alone, SECRET_HEADER, |n| {
            format!("another guess {n}")
        })
        .await;
        shown_from(&genie, alone, SECRET_HEADER, SECRET.into())
            .await
            .refused(429, "too_many_wrong");
        looked_at[1] += guess(&genie, alone, TOKEN, |n| {
            format!("Bearer gk_{:064x}", n + 10_000)
        })
        .await;
        shown_from(&genie, alone, TOKEN, key.clone())
            .await
            .refused(429, "too_many_wrong");
        // Callers that showed the right secret before, callers with a valid token, and callers at
        // other addresses go on.
        for address in [shared, elsewhere] {
            shown_from(&genie, address, SECRET_HEADER, SECRET.into())
                .await
                .ok();
            shown_from(&genie, address, TOKEN, key.clone()).await.ok();
        }
        for address in [alone, shared, elsewhere] {
            shown_from(&genie, address, TOKEN, format!("Bearer {}", ada.token))
                .await
                .ok();
        }

        until("a fact about each address", async || {
            (on_record(&genie).await.1.len() >= 2).then_some(())
        })
        .await;
        assert!(genie.terminate().await);
        genie.launch_again().await;
        let (told, facts) = on_record(&genie).await;
        assert_eq!(
            told,
            [looked_at[0] + 120, looked_at[1], looked_at[2], 8 + 2].map(|count| count as u64)
        );
        let networks: std::collections::BTreeSet<_> = facts
            .iter()
            .map(|fact| fact["data"]["network"].as_str().unwrap())
            .collect();
        assert!(
            networks.len() == 2 && facts.len() <= 4,
            "one fact a minute, and the last before the stop: {facts:?}"
        );
        assert!(!genie.store.holds(alone).await && !genie.store.holds(shared).await);
    }
);

both_stores!(
    a_valid_token_of_the_wrong_kind_is_403,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let key = ada
            .post(
                &genie,
                "/api/admin/service-keys",
                json!({"name": "n", "scopes": ["jobs:work"]}),
            )
            .await
            .ok();
        let bearer = |token: &str| ("Authorization", format!("Bearer {token}"));
        let (key, user) = (bearer(key["key"].as_str().unwrap()), bearer(&ada.token));
        let unknown = bearer(&format!("gk_{}", "0".repeat(64)));
        let worker = "/api/worker/jobs/0192d4e0-7f3a-7c3b-8f4e-0123456789ab/heartbeat";
        for (path, who, status, code) in [
            ("/api/rbac-sync", Some(&user), 403, "forbidden"),
            ("/api/rbac-sync", Some(&key), 403, "forbidden"),
            ("/api/rbac-sync", Some(&unknown), 401, "invalid_token"),
            ("/api/rbac-sync", None, 401, "invalid_token"),
            ("/api/credentials/store", Some(&key), 403, "forbidden"),
            ("/api/worker/claim", Some(&user), 403, "forbidden"),
            (worker, Some(&user), 403, "forbidden"),
            (worker, Some(&unknown), 401, "invalid_token"),
            (worker, None, 401, "invalid_token"),
            ("/api/credentials/reveal", Some(&user), 403, "forbidden"),
        ] {
            let headers: Vec<_> = who.into_iter().cloned().collect();
            let id = &ada.id;
            let body = json!({
                "userId": id, "queues": ["media-jobs"], "worker_id": "w", "lease": "l", "creatorProfileId": id, "credentials": {"p": "q"},
            });
            let answer = genie.send(Method::POST, path, &headers, Some(body)).await;
            assert_eq!(answer.status, status, "{path} {who:?}");
            answer.refused(status, code);
        }
        let no_token = ("Authorization", "Bearer forged.a.b".to_owned());
        genie
            .send(
                Method::POST,
                "/api/rbac-sync",
                &[no_token],
                Some(json!({"userId": ada.id})),
            )
            .await
            .refused(401, "invalid_token");
    }
);

/// The memory of each server follows the log, whichever server a change was made on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_or_key_that_ended_on_one_server_opens_nothing_on_another() {
    let mut genie = TestGenie::start(TestStore::new(Kind::Postgres).await).await;
    let admin = genie.user("admin").await;
    let ada = genie.user("ada").await;
    let bob = genie.user("bob").await;
    let made = admin
        .post(
            &genie,
            "/api/admin/service-keys",
            json!({"name": "a key", "scopes": ["events:read"]}),
        )
        .await
        .ok();
    let (key, id) = (made["key"].as_str().unwrap(), made["id"].as_str().unwrap());
    let other = genie.another_node().await;
    let asked = async |path: &str, token: &str| {
        let request = genie.http.get(format!("{}{path}", other.base));
        answer(request.bearer_auth(token)).await.status.as_u16()
    };
    let becomes = async |path: &str, token: &str, status: u16| {
        until("the other server to hear of it", async || {
            (asked(path, token).await == status).then_some(())
        })
        .await;
    };
    for _ in 0..3 {
        assert_eq!(asked("/users/me", &ada.token).await, 200);
        assert_eq!(asked("/users/me", &bob.token).await, 200);
        assert_eq!(asked("/api/events", key).await, 200);
    }

    let log_out = json!({"refresh_token": ada.refresh});
    let ended = genie
        .send(Method::POST, "/auth/logout", &[], Some(log_out))
        .await;
    assert_eq!(ended.status, 204);
    becomes("/users/me", &ada.token, 401).await;
    let again = genie.user_again("ada", &ada.id).await;
    assert_eq!(asked("/users/me", &again.token).await, 200);
    assert_eq!(asked("/users/me", &ada.token).await, 401);

    genie
        .server(
            "/api/rbac-sync",
            json!({"userId": bob.id, "status": "suspended"}),
        )
        .await
        .ok();
    becomes("/users/me", &bob.token, 401).await;
    admin
        .delete(&genie, &format!("/api/admin/service-keys/{id}"))
        .await
        .ok();
    becomes("/api/events", key, 401).await;
}

both_stores!(
    an_access_token_ends_with_its_login,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let phone = genie.user_again("ada", &ada.id).await;
        ada.get(&genie, "/api/jobs").await.ok();
        phone.delete(&genie, "/api/me/sessions").await.ok();
        for user in [&ada, &phone] {
            user.get(&genie, "/api/jobs")
                .await
                .refused(401, "invalid_token");
        }
        let log_out = json!({"refresh_token": ada.refresh});
        let nothing_left = genie
            .send(Method::POST, "/auth/logout", &[], Some(log_out))
            .await;
        assert_eq!(nothing_left.status, 204);
    }
);
