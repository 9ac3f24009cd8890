//! Logins, passwords, e-mail addresses and one-time codes, as users, thieves and administrators
//! meet them.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use genie_log::{
    Clock, Log, MasterKeys, Settings,
    testing::{Kind, TestStore, both_stores},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    identity::email,
    test_genie::{Answer, SECRET, TestGenie, TestUser, password},
    until::until,
};

async fn log_in(genie: &TestGenie, email: &str, password: &str, otp: Option<&str>) -> Answer {
    let login = json!({"email": email, "password": password, "otp": otp});
    genie
        .send(Method::POST, "/auth/login", &[], Some(login))
        .await
}

/// Logs the user in once more, with the password that belongs to the name.
async fn again(genie: &TestGenie, name: &str, user: &TestUser) -> TestUser {
    TestUser::of(&user.id, genie.log_in(name, &password(name)).await)
}

/// The types of all facts of a user.
async fn facts_of(genie: &TestGenie, user: &TestUser) -> Vec<String> {
    let path = format!("/api/events?limit=500&user={}", user.id);
    let page = genie
        .send(
            Method::GET,
            &path,
            &[("X-RBAC-SYNC-SECRET", SECRET.into())],
            None,
        )
        .await
        .ok();
    page["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fact| fact["type"].as_str().unwrap().to_owned())
        .collect()
}

fn count(facts: &[String], of: &str) -> usize {
    facts.iter().filter(|fact| *fact == of).count()
}

/// Ends the grace of all replaced refresh tokens.
async fn let_the_grace_pass(genie: &TestGenie) {
    genie
        .store
        .try_sql("UPDATE sessions SET rotated = '[]'")
        .await
        .unwrap();
}

both_stores!(
    a_thousand_tabs_that_refresh_at_once_get_one_successor,
    async |store: TestStore| {
        let has_nodes = store.kind == Kind::Postgres;
        let mut genie = TestGenie::start(store).await;
        if has_nodes {
            genie.launch_beside().await;
        }
        let ada = genie.user("ada").await;
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..1000 {
            let request = genie
                .http
                .post(format!("{}/auth/refresh", genie.next_base()))
                .json(&json!({"refresh_token": ada.refresh}));
            all.spawn(async move {
                let response = request.send().await.unwrap();
                (
                    response.status().as_u16(),
                    response.json::<Value>().await.unwrap(),
                )
            });
        }
        let answers = all.join_all().await;
        let failed: Vec<_> = answers
            .iter()
            .filter(|(status, _)| *status != 200)
            .collect();
        assert!(
            failed.is_empty(),
            "{} failed: {:?}",
            failed.len(),
            failed[0]
        );
        let successors: BTreeSet<&str> = answers
            .iter()
            .map(|(_, json)| json["data"]["refresh_token"].as_str().unwrap())
            .collect();
        assert_eq!(successors.len(), 1);
        let successor = *successors.first().unwrap();
        assert_ne!(successor, ada.refresh);
        let ada = TestUser::of(&ada.id, genie.refresh(successor).await);
        ada.get(&genie, "/api/usage").await.ok();
    }
);

both_stores!(
    tabs_that_refresh_one_after_the_other_all_get_the_newest_token,
    async |store: TestStore| {
        let has_nodes = store.kind == Kind::Postgres;
        let mut genie = TestGenie::start(store).await;
        if has_nodes {
            genie.launch_beside().await;
        }
        let mut tabs = [
            genie.user("ada").await.refresh,
            String::new(),
            String::new(),
        ];
        let id = genie.user_again("ada", "").await.id;
        let refreshed = async |token: &str| TestUser::of(&id, genie.refresh(token).await);
        for round in 0..3 {
            // One tab refreshes twice, while the others hold its former tokens.
            let old = tabs[0].clone();
            let between = refreshed(&old).await.refresh;
            let newest = refreshed(&between).await.refresh;
            for (token, held) in [(&old, "first"), (&between, "second"), (&old, "first again")] {
                assert_eq!(
                    refreshed(token).await.refresh,
                    newest,
                    "round {round}, {held}"
                );
            }
            let_the_grace_pass(&genie).await;
            // Any of them goes on with what it was given, and the next in the grace follows.
            tabs[1] = refreshed(&newest).await.refresh;
            tabs[2] = refreshed(&newest).await.refresh;
            assert_eq!(tabs[1], tabs[2]);
            let_the_grace_pass(&genie).await;
            tabs[0] = tabs[2].clone();
        }
        // More refreshes within the grace than are remembered: the token is old then, not a riddle.
        let first = tabs[0].clone();
        for _ in 0..33 {
            tabs[0] = refreshed(&tabs[0]).await.refresh;
        }
        genie
            .refresh(&first)
            .await
            .refused_by_identity(401, "INVALID_CREDENTIALS");
    }
);

both_stores!(
    a_refresh_token_that_is_used_twice_ends_its_login_and_no_other,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let elsewhere = again(&genie, "ada", &ada).await;
        let next = TestUser::of(&ada.id, genie.refresh(&ada.refresh).await);
        genie.restart().await;
        let same = TestUser::of(&ada.id, genie.refresh(&ada.refresh).await);
        assert_eq!(
            same.refresh, next.refresh,
            "within the grace, even after kill -9"
        );

        let_the_grace_pass(&genie).await;
        let thieves = (0..20).map(|_| genie.refresh(&ada.refresh));
        for answer in futures_util::future::join_all(thieves).await {
            answer.refused_by_identity(401, "INVALID_CREDENTIALS");
        }
        genie
            .refresh(&next.refresh)
            .await
            .refused_by_identity(401, "INVALID_CREDENTIALS");
        assert_eq!(
            count(
                &facts_of(&genie, &ada).await,
                "account.session_reuse_detected"
            ),
            1
        );
        assert_eq!(genie.refresh(&elsewhere.refresh).await.status, 200);
        for nonsense in ["", "x", &"A".repeat(64), &next.refresh[1..]] {
            genie
                .refresh(nonsense)
                .await
                .refused_by_identity(401, "INVALID_CREDENTIALS");
        }
    }
);

both_stores!(logins_are_listed_and_ended, async |store: TestStore| {
    let mut genie = TestGenie::start(store).await;
    let ada = genie.user("ada").await;
    let phone = json!({"email": email(&genie, "ada"), "password": password("ada")});
    let phone = genie
        .send(
            Method::POST,
            "/auth/login",
            &[("User-Agent", "a phone".into())],
            Some(phone),
        )
        .await;
    let phone = TestUser::of(&ada.id, phone);
    let listed = phone.get(&genie, "/api/me/sessions").await.ok();
    let sessions = listed["data"].as_array().unwrap();
    assert_eq!(sessions.len(), 2);
    let (here, there): (Vec<_>, Vec<_>) = sessions
        .iter()
        .partition(|session| session["current"] == true);
    assert_eq!(
        (here[0]["user_agent"].as_str(), there.len()),
        (Some("a phone"), 1)
    );
    let of_ada = format!("/api/me/sessions/{}", there[0]["id"].as_str().unwrap());

    let bob = genie.user("bob").await;
    bob.delete(&genie, &of_ada).await.refused(404, "not_found");
    bob.delete(&genie, "/api/me/sessions/nonsense")
        .await
        .refused(404, "not_found");
    phone.delete(&genie, &of_ada).await.ok();
    phone
        .delete(&genie, &of_ada)
        .await
        .refused(404, "not_found");
    genie
        .refresh(&ada.refresh)
        .await
        .refused_by_identity(401, "INVALID_CREDENTIALS");

    let laptop = again(&genie, "ada", &ada).await;
    let log_out = json!({"refresh_token": laptop.refresh});
    assert_eq!(
        genie
            .send(Method::POST, "/auth/logout", &[], Some(log_out))
            .await
            .status,
        204
    );
    genie
        .refresh(&laptop.refresh)
        .await
        .refused_by_identity(401, "INVALID_CREDENTIALS");

    let tablet = again(&genie, "ada", &ada).await;
    tablet.delete(&genie, "/api/me/sessions").await.ok();
    for ended in [&phone.refresh, &tablet.refresh] {
        genie
            .refresh(ended)
            .await
            .refused_by_identity(401, "INVALID_CREDENTIALS");
    }
    assert_eq!(
        count(&facts_of(&genie, &ada).await, "account.sessions_ended"),
        1
    );
    assert_eq!(genie.refresh(&bob.refresh).await.status, 200);
});

both_stores!(
    an_account_update_takes_effect_at_once_and_a_repeat_changes_nothing,
    async |store: TestStore| {
        let mut genie =
            TestGenie::start_with(store, &[("GENIE_ROLES", "editor, team lead".to_owned())]).await;
        let admin = genie.user("admin").await;
        let ada = genie.user("ada").await;
        genie.settle().await;
        let before = facts_of(&genie, &ada).await;
        for (body, names) in [
            (json!({"tier": "pro"}), "userId"),
            (json!({"userId": "ada"}), "userId"),
            (json!({"userId": ada.id, "tier": "gold"}), "tier"),
            (
                json!({"userId": ada.id, "tier": "studio", "status": "asleep"}),
                "status",
            ),
            (
                json!({"userId": ada.id, "tier": "studio", "role": ""}),
                "role",
            ),
            (
                json!({"userId": ada.id, "tier": "studio", "role": "cretor"}),
                "role",
            ),
            (
                json!({"userId": ada.id, "tier": "studio", "role": "Administrator"}),
                "role",
            ),
            (
                json!({"userId": ada.id, "tier": "studio", "admin_access": "yes"}),
                "admin_access",
            ),
        ] {
            let told = genie
                .server("/api/rbac-sync", body)
                .await
                .refused(400, "invalid_field");
            let sentence = told["error"].as_str().unwrap();
            assert!(sentence.contains(&format!("`{names}`")), "{told}");
            assert!(
                names != "role" || sentence.ends_with("creator, administrator, editor, team lead"),
                "{told}"
            );
        }
        admin
            .post(&genie, "/api/admin/invites", json!({"role": "edtor"}))
            .await
            .refused(400, "invalid_field");
        admin
            .post(&genie, "/api/admin/invites", json!({"role": "team lead"}))
            .await
            .ok();
        let unknown = json!({"userId": "0192d4e0-7f3a-7c3b-8f4e-0123456789ab", "tier": "pro"});
        genie
            .server("/api/rbac-sync", unknown)
            .await
            .refused(404, "not_found");
        ada.post(
            &genie,
            "/api/rbac-sync",
            json!({"userId": ada.id, "admin_access": true}),
        )
        .await
        .refused(403, "forbidden");
        assert_eq!(facts_of(&genie, &ada).await, before, "nothing changed");

        let promotion =
            json!({"userId": ada.id, "role": "editor", "tier": "elite", "admin_access": true});
        for changed in [true, false] {
            let synced = genie.server("/api/rbac-sync", promotion.clone()).await;
            assert_eq!(synced.ok()["changed"], changed);
        }
        genie.settle().await;
        let me = ada
            .get(&genie, "/users/me?fields=role,tier,nonsense")
            .await
            .json;
        assert_eq!(me, json!({"data": {"role": "editor", "tier": "studio"}}));
        ada.post(&genie, "/api/admin/invites", json!({})).await.ok();
        genie
            .server(
                "/api/rbac-sync",
                json!({"userId": ada.id, "role": "creator"}),
            )
            .await
            .ok();
        genie.settle().await;
        ada.post(&genie, "/api/admin/invites", json!({}))
            .await
            .refused(403, "forbidden");

        genie
            .server(
                "/api/rbac-sync",
                json!({"userId": ada.id, "status": "suspended"}),
            )
            .await
            .ok();
        let next = ada
            .post(
                &genie,
                "/api/queue/media",
                json!({"operation": "thumbnail", "input_url": "http://a/b"}),
            )
            .await;
        assert!(
            [401, 403].contains(&next.status.as_u16()),
            "{:?}",
            next.json
        );
        genie
            .refresh(&ada.refresh)
            .await
            .refused_by_identity(401, "INVALID_CREDENTIALS");
        genie
            .log_in("ada", &password("ada"))
            .await
            .refused_by_identity(401, "INVALID_CREDENTIALS");
        genie
            .server(
                "/api/rbac-sync",
                json!({"userId": ada.id, "status": "active"}),
            )
            .await
            .ok();
        genie
            .refresh(&ada.refresh)
            .await
            .refused_by_identity(401, "INVALID_CREDENTIALS");
        let ada = again(&genie, "ada", &ada).await;
        ada.submit_job(&genie).await;
    }
);

/// An account change through one server holds at the next command on another server whose actor is
/// warm.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspension_or_downgrade_on_one_node_holds_on_the_other() {
    let mut genie = TestGenie::start(TestStore::new(Kind::Postgres).await).await;
    let second = genie.another_node().await;
    let _admin = genie.user("admin").await;
    let first = genie.base.clone();
    for round in 0..5 {
        let ada = genie.user(&format!("ada{round}")).await; // tier `pro`
        let clip = || json!({"operation": "trim_videos", "input_url": "http://a/b"});
        for base in [&first, &second.base] {
            genie.base = base.clone();
            ada.post(&genie, "/api/queue/media", clip()).await.ok(); // wakes the actor on both servers
        }
        genie.base = first.clone();
        genie
            .server(
                "/api/rbac-sync",
                json!({"userId": ada.id, "tier": "starter"}),
            )
            .await
            .ok();
        genie.base = second.base.clone();
        let next = ada.post(&genie, "/api/queue/media", clip()).await;
        assert_eq!(
            (next.status.as_u16(), next.json["reason"].as_str()),
            (403, Some("not_in_tier")),
            "{:?}",
            next.json
        );

        let resize = || json!({"operation": "resize_image", "input_url": "http://a/b", "params": {"width": 1}});
        ada.post(&genie, "/api/queue/media", resize()).await.ok();
        genie.base = first.clone();
        genie
            .server(
                "/api/rbac-sync",
                json!({"userId": ada.id, "status": "suspended"}),
            )
            .await
            .ok();
        genie.base = second.base.clone();
        let next = ada.post(&genie, "/api/queue/media", resize()).await;
        assert!(
            [401, 403].contains(&next.status.as_u16()),
            "{:?}",
            next.json
        );
        genie
            .refresh(&ada.refresh)
            .await
            .refused_by_identity(401, "INVALID_CREDENTIALS");
        genie.base = first.clone();
    }
}

both_stores!(
    changing_a_password_needs_the_old_one_and_ends_other_logins,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let elsewhere = again(&genie, "ada", &ada).await;
        let change = async |body: Value| ada.patch(&genie, "/users/me", body).await;
        change(json!({"password": "a new password"}))
            .await
            .refused_by_identity(400, "INVALID_PAYLOAD");
        change(json!({"old_password": password("ada")}))
            .await
            .refused_by_identity(400, "INVALID_PAYLOAD");
        change(json!({"old_password": password("ada"), "password": "short"}))
            .await
            .refused_by_identity(400, "INVALID_PAYLOAD");
        change(json!({"old_password": "wrong", "password": "a new password"}))
            .await
            .refused_by_identity(401, "INVALID_CREDENTIALS");
        assert_eq!(
            genie.refresh(&elsewhere.refresh).await.status,
            200,
            "nothing changed"
        );

        // One of several simultaneous changes succeeds. The others give a password that is no
        // longer the old one.
        let bodies = (0..4).map(
            |n| json!({"old_password": password("ada"), "password": format!("a new password {n}")}),
        );
        let answers = futures_util::future::join_all(bodies.map(change)).await;
        let changed: Vec<usize> = (0..4).filter(|n| answers[*n].status == 200).collect();
        assert_eq!(changed.len(), 1, "{answers:?}");
        genie
            .log_in("ada", &password("ada"))
            .await
            .refused_by_identity(401, "INVALID_CREDENTIALS");
        assert_eq!(
            genie
                .log_in("ada", &format!("a new password {}", changed[0]))
                .await
                .status,
            200
        );
        genie
            .refresh(&elsewhere.refresh)
            .await
            .refused_by_identity(401, "INVALID_CREDENTIALS");
        assert_eq!(
            genie.refresh(&ada.refresh).await.status,
            200,
            "the login that changed the password goes on"
        );
        let facts = facts_of(&genie, &ada).await;
        assert_eq!(count(&facts, "account.password_changed"), 1);
        genie.restart().await;
        assert_eq!(
            genie
                .log_in("ada", &format!("a new password {}", changed[0]))
                .await
                .status,
            200
        );
    }
);

both_stores!(
    a_changed_address_belongs_to_one_user_and_frees_the_old_one,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let mut users = vec![];
        for name in ["ada", "bob", "cleo", "dan"] {
            users.push((name, genie.user(name).await));
        }
        let wanted = "Wanted+Box@Example.com";
        let change = async |(name, user): &(&str, TestUser), to: &str| {
            let body = json!({"old_password": password(name), "email": to});
            user.patch(&genie, "/users/me", body).await
        };
        change(&users[0], "nobody")
            .await
            .refused_by_identity(400, "INVALID_PAYLOAD");
        change(&users[0], " BOB@example.com")
            .await
            .refused_by_identity(400, "RECORD_NOT_UNIQUE");
        let answers =
            futures_util::future::join_all(users.iter().map(|user| change(user, wanted))).await;
        let winners: Vec<usize> = (0..users.len())
            .filter(|n| answers[*n].status == 200)
            .collect();
        assert_eq!(winners.len(), 1, "{answers:?}");
        let (winner, ada) = &users[winners[0]];
        assert_eq!(answers[winners[0]].json["data"]["email"], wanted);
        for (n, answer) in answers
            .into_iter()
            .enumerate()
            .filter(|(n, _)| *n != winners[0])
        {
            answer.refused_by_identity(400, "RECORD_NOT_UNIQUE");
            assert_eq!(
                genie.log_in(users[n].0, &password(users[n].0)).await.status,
                200
            );
        }
        // Case does not distinguish addresses. The part after a plus sign does.
        assert_eq!(
            log_in(&genie, "wanted+box@example.COM", &password(winner), None)
                .await
                .status,
            200
        );
        log_in(&genie, "wanted@example.com", &password(winner), None)
            .await
            .refused_by_identity(401, "INVALID_CREDENTIALS");
        genie
            .log_in(winner, &password(winner))
            .await
            .refused_by_identity(401, "INVALID_CREDENTIALS");

        // Another user takes the address that became free, and the first user can't have it back.
        let (heir, _) = users[(winners[0] + 1) % users.len()];
        let taken = change(
            &users[(winners[0] + 1) % users.len()],
            &email(&genie, winner),
        )
        .await;
        assert_eq!(taken.status, 200, "{:?}", taken.json);
        change(&users[winners[0]], &email(&genie, winner))
            .await
            .refused_by_identity(400, "RECORD_NOT_UNIQUE");
        assert_eq!(genie.log_in(winner, &password(heir)).await.status, 200);
        assert_eq!(
            count(&facts_of(&genie, ada).await, "account.email_changed"),
            1
        );
        genie.settle().await;
        let shown = ada.get(&genie, "/users/me").await.json;
        assert_eq!(shown["data"]["email"], wanted, "{shown}");
    }
);

both_stores!(
    a_login_with_two_factors_accepts_each_code_once,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let admin = genie.user("admin").await;
        let ada = genie.user("ada").await;
        let tfa = async |route: &str, body: Value| {
            ada.post(&genie, &format!("/users/me/tfa/{route}"), body)
                .await
        };
        tfa("generate", json!({"password": "wrong"}))
            .await
            .refused_by_identity(401, "INVALID_CREDENTIALS");
        let made = tfa("generate", json!({"password": password("ada")}))
            .await
            .json;
        let secret = made["data"]["secret"].as_str().unwrap().to_owned();
        assert!(
            made["data"]["otpauth_url"]
                .as_str()
                .unwrap()
                .starts_with("otpauth://totp/genie:"),
            "{made}"
        );
        let codes = Codes::of(&secret, &genie.clock);
        tfa("enable", json!({"secret": secret, "otp": "000000x"}))
            .await
            .refused_by_identity(400, "INVALID_PAYLOAD");
        let chosen = totp_rs::Secret::from([7; 20]).to_base32();
        let chosen = json!({"secret": chosen, "otp": Codes::of(&chosen, &genie.clock).at(0)});
        tfa("enable", chosen)
            .await
            .refused_by_identity(400, "INVALID_PAYLOAD"); // a secret that a thief of the token chose
        assert_eq!(
            genie.log_in("ada", &password("ada")).await.status,
            200,
            "one-time codes are not enabled yet"
        );
        // The code of the step before, so that two later codes are left for logins.
        assert_eq!(
            tfa("enable", json!({"secret": secret, "otp": codes.at(-1)}))
                .await
                .status,
            204
        );

        let log_in = async |otp: Option<&str>| {
            log_in(&genie, &email(&genie, "ada"), &password("ada"), otp).await
        };
        log_in(None).await.refused_by_identity(401, "INVALID_OTP");
        log_in(Some("12345"))
            .await
            .refused_by_identity(401, "INVALID_OTP");
        log_in(Some(&codes.at(-1)))
            .await
            .refused_by_identity(401, "INVALID_OTP");
        let wrong = log_in_with_wrong_password(&genie, &codes.at(0)).await;
        wrong.refused_by_identity(401, "INVALID_CREDENTIALS");
        let now = codes.at(0);
        let tries = futures_util::future::join_all((0..4).map(|_| log_in(Some(&now)))).await;
        assert_eq!(
            tries.iter().filter(|answer| answer.status == 200).count(),
            1,
            "{tries:?}"
        );
        log_in(Some(&now))
            .await
            .refused_by_identity(401, "INVALID_OTP");
        genie.settle().await;
        assert_eq!(
            ada.get(&genie, "/users/me?fields=tfa_secret").await.json,
            json!({"data": {"tfa_secret": "**********"}})
        );
        tfa("generate", json!({"password": password("ada")}))
            .await
            .refused_by_identity(400, "INVALID_PAYLOAD");
        assert!(!genie.store.holds(&secret).await);

        tfa("disable", json!({"otp": now}))
            .await
            .refused_by_identity(400, "INVALID_PAYLOAD");
        assert_eq!(
            tfa("disable", json!({"otp": codes.at(1)})).await.status,
            204
        );
        assert_eq!(log_in(None).await.status, 200);

        // A user who has lost the authenticator asks an administrator.
        genie.settle().await;
        let made = tfa("generate", json!({"password": password("ada")}))
            .await
            .json;
        let secret = made["data"]["secret"].as_str().unwrap();
        assert_eq!(
            tfa(
                "enable",
                json!({"secret": secret, "otp": Codes::of(secret, &genie.clock).at(0)})
            )
            .await
            .status,
            204
        );
        log_in(None).await.refused_by_identity(401, "INVALID_OTP");
        let remove = |user: &str| format!("/users/{user}/tfa/disable");
        ada.post(&genie, &remove(&ada.id), json!({}))
            .await
            .refused_by_identity(403, "FORBIDDEN");
        admin
            .post(
                &genie,
                &remove("0192d4e0-7f3a-7c3b-8f4e-0123456789ab"),
                json!({}),
            )
            .await
            .refused_by_identity(403, "FORBIDDEN");
        for _ in 0..2 {
            assert_eq!(
                admin.post(&genie, &remove(&ada.id), json!({})).await.status,
                204
            );
        }
        assert_eq!(log_in(None).await.status, 200);
        let facts = facts_of(&genie, &ada).await;
        for (of, times) in [
            ("two_factor_enabled", 2),
            ("two_factor_used", 1),
            ("two_factor_disabled", 2),
        ] {
            assert_eq!(count(&facts, &format!("account.{of}")), times, "{facts:?}");
        }
    }
);

async fn log_in_with_wrong_password(genie: &TestGenie, otp: &str) -> Answer {
    log_in(genie, &email(genie, "ada"), "wrong", Some(otp)).await
}

const STEP_MILLIS: i64 = 30_000;

/// An authenticator for one test, with the time fixed at its creation. The server accepts codes one
/// step early or late. The fixed time lies early in a step, so that the step does not change in the
/// middle of the test.
pub struct Codes {
    totp: totp_rs::Totp,
    now: u64,
}

impl Codes {
    /// Moves the server's clock to the start of a step, unless a step has just begun.
    pub fn of(secret: &str, clock: &Clock) -> Self {
        let into_step = clock.now().unix_millis() % STEP_MILLIS;
        if into_step > STEP_MILLIS / 3 {
            clock.advance_millis(STEP_MILLIS - into_step);
        }
        Self::at_time(secret, clock)
    }

    /// Waits for the start of a step, for a server with a clock that a test can't move.
    pub async fn of_the_next_step(secret: &str) -> Self {
        let clock = Clock::system();
        until("a step of the authenticator to begin", async || {
            (clock.now().unix_millis() % STEP_MILLIS < STEP_MILLIS / 2).then_some(())
        })
        .await;
        Self::at_time(secret, &clock)
    }

    fn at_time(secret: &str, clock: &Clock) -> Self {
        let secret = totp_rs::Secret::try_from_base32(secret).unwrap();
        let totp = totp_rs::Builder::new().with_secret(secret).build().unwrap();
        let now = clock.now().unix_seconds() as u64;
        Self { totp, now }
    }

    pub fn at(&self, steps: i64) -> String {
        self.totp
            .generate(self.now.saturating_add_signed(steps * 30))
            .to_string()
    }
}

both_stores!(
    an_administrators_link_sets_a_new_password_once,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let admin = genie.user("admin").await;
        let ada = genie.user("ada").await;
        let path = format!("/api/admin/users/{}/password-reset", ada.id);
        ada.post(&genie, &path, json!({}))
            .await
            .refused(403, "forbidden");
        let unknown = "/api/admin/users/0192d4e0-7f3a-7c3b-8f4e-0123456789ab/password-reset";
        admin
            .post(&genie, unknown, json!({}))
            .await
            .refused(404, "not_found");
        let offer = async || {
            admin.post(&genie, &path, json!({})).await.ok()["token"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        let (void, token) = (offer().await, offer().await);
        assert!(!genie.store.holds(&token).await);
        let reset = async |token: &str, password: &str| {
            let body = json!({"token": token, "password": password});
            genie
                .send(Method::POST, "/auth/password/reset", &[], Some(body))
                .await
        };
        for bad in ["", "nonsense", &void, &"A".repeat(64)] {
            reset(bad, "a new password")
                .await
                .refused_by_identity(403, "INVALID_TOKEN");
        }
        reset(&token, "short")
            .await
            .refused_by_identity(400, "INVALID_PAYLOAD");
        assert_eq!(
            genie.refresh(&ada.refresh).await.status,
            200,
            "nothing changed"
        );
        let tries = (0..4).map(|n| {
            let reset = &reset;
            let token = &token;
            async move { reset(token, &format!("a new password {n}")).await }
        });
        let tries = futures_util::future::join_all(tries).await;
        let set: Vec<usize> = (0..4).filter(|n| tries[*n].status == 204).collect();
        assert_eq!(set.len(), 1, "{tries:?}");
        genie
            .refresh(&ada.refresh)
            .await
            .refused_by_identity(401, "INVALID_CREDENTIALS");
        genie
            .log_in("ada", &password("ada"))
            .await
            .refused_by_identity(401, "INVALID_CREDENTIALS");
        assert_eq!(
            genie
                .log_in("ada", &format!("a new password {}", set[0]))
                .await
                .status,
            200
        );
        reset(&token, "another password")
            .await
            .refused_by_identity(403, "INVALID_TOKEN");
        let facts = facts_of(&genie, &ada).await;
        assert_eq!(
            (
                count(&facts, "account.password_reset_offered"),
                count(&facts, "account.password_reset")
            ),
            (2, 1)
        );
    }
);

both_stores!(
    a_stranger_who_guesses_has_to_wait_and_the_owner_does_not,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let stranger = loop {
            let answer = log_in(&genie, " ADA@example.com", "a guess", None).await;
            if answer.status != 401 {
                break answer;
            }
        };
        stranger.refused_by_identity(429, "REQUESTS_EXCEEDED");
        let seconds: u64 = stranger.headers["Retry-After"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!((1..=30).contains(&seconds), "{seconds}");
        genie
            .log_in("ada", &password("ada"))
            .await
            .refused_by_identity(429, "REQUESTS_EXCEEDED");

        // The owner can still log in from another address, and the session here goes on.
        let elsewhere = reqwest::Client::builder()
            .local_address("127.0.0.2".parse::<IpAddr>().unwrap())
            .build()
            .unwrap();
        let login = json!({"email": email(&genie, "ada"), "password": password("ada")});
        let login = elsewhere
            .post(format!("{}/auth/login", genie.base))
            .json(&login)
            .send()
            .await
            .unwrap();
        assert_eq!(login.status(), 200);
        assert_eq!(genie.refresh(&ada.refresh).await.status, 200);
        genie.user("bob").await;
    }
);

both_stores!(
    a_login_takes_the_same_time_whatever_its_outcome,
    async |store: TestStore| {
        let stall = Duration::from_millis(700);
        let mut genie = TestGenie::start_with(
            store,
            &[("GENIE_LOGIN_STALL_MS", stall.as_millis().to_string())],
        )
        .await;
        let _admin = genie.user("admin").await;
        let ada = genie.user("ada").await;
        genie
            .server(
                "/api/rbac-sync",
                json!({"userId": ada.id, "status": "archived"}),
            )
            .await
            .ok();
        let nobody = email(&genie, "nobody");
        let (admin, archived) = (email(&genie, "admin"), email(&genie, "ada"));
        for (email, password, status) in [
            (&admin, password("admin"), 200),
            (&admin, "wrong".into(), 401),
            (&nobody, password("admin"), 401),
            (&archived, password("ada"), 401),
        ] {
            let began = Instant::now();
            let answer = log_in(&genie, email, &password, None).await;
            assert_eq!(answer.status, status, "{:?}", answer.json);
            assert!(began.elapsed() >= stall, "{email}: {:?}", began.elapsed());
            if status == 401 {
                answer.refused_by_identity(401, "INVALID_CREDENTIALS");
            }
        }
    }
);

/// The login that an access token names.
fn login_of(user: &TestUser) -> Value {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
    let claims = BASE64
        .decode(user.token.split('.').nth(1).unwrap())
        .unwrap();
    serde_json::from_slice::<Value>(&claims).unwrap()["sid"].clone()
}

both_stores!(bad_tokens_are_refused, async |store: TestStore| {
    let mut genie = TestGenie::start(store).await;
    let ada = genie.user("ada").await;
    let now = genie_log::Clock::system().now().unix_seconds();
    let key = EncodingKey::from_secret(signing_key(&genie).await.hashes().token_key());
    let good = json!({
        "id": ada.id, "role": "creator", "app_access": true, "admin_access": true, "iat": now, "exp": now + 600, "iss": "directus",
        "sid": login_of(&ada),
    });
    let signed = |change: &dyn Fn(&mut Value), key: &EncodingKey, algorithm: Algorithm| {
        let mut claims = good.clone();
        change(&mut claims);
        encode(&Header::new(algorithm), &claims, key).unwrap()
    };
    let me = async |header: String, query: &str| {
        genie
            .send(
                Method::GET,
                &format!("/users/me{query}"),
                &[("Authorization", header)],
                None,
            )
            .await
    };
    let fine = signed(&|_| {}, &key, Algorithm::HS256);
    assert_eq!(
        me(format!("bearer {fine}"), "").await.status,
        200,
        "the signing key must be the server's"
    );

    let stranger = EncodingKey::from_secret(b"another key");
    let parts: Vec<&str> = fine.split('.').collect();
    let unsigned = {
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
        format!(
            "{}.{}.",
            BASE64.encode(r#"{"alg":"none","typ":"JWT"}"#),
            parts[1]
        )
    };
    let expired = signed(
        &|claims| claims["exp"] = (now - 1).into(),
        &key,
        Algorithm::HS256,
    );
    me(format!("Bearer {expired}"), "")
        .await
        .refused_by_identity(401, "TOKEN_EXPIRED");
    for (what, forged) in [
        ("forged", signed(&|_| {}, &stranger, Algorithm::HS256)),
        ("another algorithm", signed(&|_| {}, &key, Algorithm::HS512)),
        ("unsigned", unsigned),
        (
            "a token without an expiry",
            signed(
                &|claims| drop(claims.as_object_mut().unwrap().remove("exp")),
                &key,
                Algorithm::HS256,
            ),
        ),
        (
            "no user",
            signed(
                &|claims| claims["id"] = "ada".into(),
                &key,
                Algorithm::HS256,
            ),
        ),
    ] {
        let told = me(format!("Bearer {forged}"), "").await;
        assert_eq!(told.status, 403, "{what}: {:?}", told.json);
        told.refused_by_identity(403, "INVALID_TOKEN");
    }
    for (what, bad) in [
        (
            "another issuer",
            signed(
                &|claims| claims["iss"] = "genie".into(),
                &key,
                Algorithm::HS256,
            ),
        ),
        (
            "nobody",
            signed(
                &|claims| claims["id"] = "0192d4e0-7f3a-7c3b-8f4e-0123456789ab".into(),
                &key,
                Algorithm::HS256,
            ),
        ),
        ("static", "a-static-token".into()),
        ("a refresh token", ada.refresh.clone()),
        ("empty", String::new()),
    ] {
        let told = me(format!("Bearer {bad}"), "").await;
        assert_eq!(told.status, 401, "{what}: {:?}", told.json);
        told.refused_by_identity(401, "INVALID_CREDENTIALS");
    }
    me(format!("Basic {fine}"), "")
        .await
        .refused_by_identity(401, "INVALID_CREDENTIALS");
    me(format!("Bearer {fine}"), &format!("?access_token={fine}"))
        .await
        .refused_by_identity(400, "INVALID_PAYLOAD");
    genie
        .send(
            Method::GET,
            &format!("/users/me?access_token={fine}"),
            &[],
            None,
        )
        .await
        .refused_by_identity(401, "INVALID_CREDENTIALS");
    let huge = genie
        .http
        .get(format!("{}/users/me", genie.base))
        .bearer_auth("x".repeat(100_000))
        .send()
        .await
        .unwrap();
    assert!(huge.status().is_client_error(), "{}", huge.status());
    let long = json!({"email": email(&genie, "ada"), "password": "x".repeat(10 << 20)});
    genie
        .send(Method::POST, "/auth/login", &[], Some(long))
        .await
        .refused_by_identity(413, "INVALID_PAYLOAD");
    for mode in ["cookie", "session", "nonsense"] {
        let login =
            json!({"email": email(&genie, "ada"), "password": password("ada"), "mode": mode});
        genie
            .send(Method::POST, "/auth/login", &[], Some(login))
            .await
            .refused_by_identity(400, "INVALID_PAYLOAD");
    }
    assert_eq!(me(format!("Bearer {fine}"), "").await.status, 200);
});

/// Opens the log of a running server to read its signing key, as its operator could.
async fn signing_key(genie: &TestGenie) -> Log {
    let masters = std::fs::read_to_string(genie.store.folder().join("master.key")).unwrap();
    let masters = MasterKeys::parse(masters.trim()).unwrap();
    Log::open(Settings {
        masters,
        read_only: true,
        ..genie.store.settings()
    })
    .await
    .unwrap()
    .log
}

both_stores!(
    users_whose_events_cannot_be_read_can_be_suspended,
    async |store: TestStore| {
        let mut genie = TestGenie::start_process(store).await;
        genie.user("admin").await;
        let mut users = Vec::new();
        for (name, damage) in [
            ("ada", "event_version = 9"),
            ("bob", "payload = digest"),
            ("eve", "event_type = 'job.unheard_of'"),
        ] {
            let user = genie.user(name).await;
            user.submit_job(&genie).await;
            users.push((user, damage));
        }
        genie.settle().await;
        for (user, damage) in &users {
            let newest_job = format!(
                "UPDATE events SET {damage} WHERE event_type = 'job.submitted' AND owner = unhex('{}', '-')",
                user.id
            );
            genie.store.tamper(&newest_job).await;
        }
        genie.restart().await;
        for (user, damage) in &users {
            let job = json!({"operation": "thumbnail", "input_url": "http://a/b"});
            let refused = user.post(&genie, "/api/queue/media", job).await;
            assert_eq!(refused.status, 500, "{damage}: {}", refused.json);
            let suspend = async || {
                let body = json!({"userId": user.id, "status": "suspended"});
                genie.server("/api/rbac-sync", body).await.ok()["changed"].clone()
            };
            assert_eq!(suspend().await, true, "{damage}");
            assert_eq!(suspend().await, false, "{damage}: suspended already");
            // Until the read side has the fact, nobody can say what the user is, and the answer is 500.
            genie.settle().await;
            let me = user.get(&genie, "/users/me").await;
            assert_eq!(me.status, 401, "{damage}: {}", me.json);
        }
        genie.restart().await;
        for (user, damage) in &users {
            let me = user.get(&genie, "/users/me").await;
            assert_eq!(me.status, 401, "{damage}: {}", me.json);
        }
    }
);
