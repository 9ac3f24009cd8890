//! Impersonation: an administrator acts for a user, facts name both, and the user's own matters
//! stay closed to the administrator.

use std::time::Duration;

use genie_log::testing::{TestStore, both_stores};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    identity,
    test_genie::{Answer, TestGenie, TestUser},
    until::until_within,
};

async fn begin(genie: &TestGenie, admin: &TestUser, user: &str) -> Answer {
    admin
        .post(
            genie,
            &format!("/api/admin/users/{user}/impersonate"),
            Value::Null,
        )
        .await
}

/// The user with the administrator's token, and the id of the impersonation.
async fn acting(genie: &TestGenie, admin: &TestUser, user: &TestUser) -> (TestUser, String) {
    let begun = begin(genie, admin, &user.id).await.ok();
    let text = |field: &str| begun[field].as_str().unwrap().to_owned();
    assert_eq!(
        (text("userId"), begun["expires"].as_u64()),
        (user.id.clone(), Some(900_000))
    );
    (
        TestUser {
            id: text("userId"),
            token: text("access_token"),
            refresh: String::new(),
        },
        text("session"),
    )
}

async fn facts(genie: &TestGenie, user: &TestUser) -> Vec<Value> {
    let printed = genie
        .command(&["audit", "--user", &user.id, "--json"])
        .output()
        .await
        .unwrap();
    String::from_utf8(printed.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

both_stores!(
    an_administrator_acts_for_a_user_and_both_are_on_record,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let admin = genie.user("ada").await;
        let bob = genie.user("bob").await;
        let (as_bob, session) = acting(&genie, &admin, &bob).await;
        let me = as_bob.get(&genie, "/users/me").await;
        assert_eq!(
            (me.status.as_u16(), &me.json["data"]["id"]),
            (200, &json!(bob.id))
        );
        let job = as_bob.submit_job(&genie).await;
        genie.restart().await;
        as_bob
            .post(&genie, &format!("/api/queue/cancel/{job}"), Value::Null)
            .await
            .ok();
        assert_eq!(
            as_bob.get(&genie, &format!("/api/jobs/{job}")).await.ok()["status"],
            "cancelled"
        );
        as_bob.get(&genie, "/api/usage").await.ok();
        as_bob.get(&genie, "/api/me/events").await.ok();
        let feed = bob
            .get(&genie, "/api/me/events?types=job.cancelled")
            .await
            .ok();
        let seen = &feed["data"][0];
        assert_eq!(
            (&seen["callerid"], &seen["onbehalfof"]),
            (&json!(admin.id), &json!(bob.id))
        );
        bob.submit_job(&genie).await;

        let both = json!(format!("impersonator:{} for {}", admin.id, bob.id));
        let told: Vec<(String, bool)> = facts(&genie, &bob)
            .await
            .iter()
            .map(|fact| {
                (
                    fact["type"].as_str().unwrap().to_owned(),
                    fact["caller"] == both,
                )
            })
            .filter(|(name, _)| name != "account.signed_in") // a Directus records its own logins
            .collect();
        let wanted = [
            ("account.registered", false),
            ("account.impersonation_started", false), // the administrator acts in person
            ("job.submitted", true),
            ("job.cancelled", true),
            ("job.submitted", false),
        ];
        assert_eq!(told, wanted.map(|(name, acted)| (name.to_owned(), acted)));
        let all = facts(&genie, &bob).await;
        let started = all
            .iter()
            .find(|fact| fact["type"] == "account.impersonation_started")
            .unwrap();
        assert_eq!(started["caller"], json!(format!("user:{}", admin.id)));
        assert_eq!(
            (&started["data"]["by"], &started["data"]["impersonation"]),
            (&json!(admin.id), &json!(session))
        );
    }
);

both_stores!(
    an_impersonator_is_refused_what_only_the_user_or_an_administrator_may_do,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let admin = genie.user("ada").await;
        let bob = genie.user("bob").await;
        let profile = json!({"platform": "x", "credentials": {"password": "hunter2"}});
        let credential = bob
            .post(&genie, "/api/credentials/create-profile", profile.clone())
            .await
            .ok()["id"]
            .clone();
        let credential = credential.as_str().unwrap();
        let (as_bob, session) = acting(&genie, &admin, &bob).await;
        let before = facts(&genie, &bob).await.len();
        let refused = [
            (
                Method::POST,
                "/api/credentials/create-profile".to_owned(),
                Some(profile),
            ),
            (
                Method::POST,
                "/api/credentials/update-profile-creds".to_owned(),
                Some(json!({"id": credential, "credentials": {"p": "q"}})),
            ),
            (Method::GET, "/api/credentials".to_owned(), None),
            (Method::GET, format!("/api/credentials/{credential}"), None),
            (
                Method::DELETE,
                format!("/api/credentials/{credential}"),
                None,
            ),
            (Method::GET, "/api/admin/service-keys".to_owned(), None),
            (
                Method::POST,
                "/api/admin/service-keys".to_owned(),
                Some(json!({"name": "n", "scopes": ["audit:read"]})),
            ),
            (
                Method::POST,
                "/api/admin/invites".to_owned(),
                Some(json!({})),
            ),
            (Method::GET, "/api/events".to_owned(), None),
            (
                Method::POST,
                format!("/api/admin/users/{}/impersonate", bob.id),
                None,
            ),
            (
                Method::DELETE,
                format!("/api/admin/impersonations/{session}"),
                None,
            ),
        ];
        for (method, path, body) in refused {
            let answer = genie.send(method, &path, &as_bob.headers(), body).await;
            assert_eq!(answer.status, 403, "{path}: {:?}", answer.json);
            answer.refused(403, "forbidden");
        }
        // An impersonator can't use the routes of the shared secret either.
        let reveal = json!({"creatorProfileId": credential});
        as_bob
            .post(&genie, "/api/credentials/reveal", reveal)
            .await
            .refused(403, "forbidden");
        assert_eq!(facts(&genie, &bob).await.len(), before, "nothing changed");
    }
);

both_stores!(
    only_administrators_impersonate_and_only_active_users_without_admin_rights,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let admin = genie.user("ada").await;
        let (bob, cyd) = (genie.user("bob").await, genie.user("cyd").await);
        begin(&genie, &bob, &cyd.id).await.refused(403, "forbidden");
        begin(&genie, &admin, &admin.id)
            .await
            .refused(403, "forbidden");
        begin(&genie, &admin, "0192d4e0-7f3a-7c3b-8f4e-0123456789ab")
            .await
            .refused(404, "not_found");
        begin(&genie, &admin, "nonsense")
            .await
            .refused(404, "not_found");
        identity::set_administrator(&genie, "cyd", &cyd, true).await;
        begin(&genie, &admin, &cyd.id)
            .await
            .refused(403, "forbidden");
        identity::set_active(&genie, &bob, false).await;
        begin(&genie, &admin, &bob.id)
            .await
            .refused(403, "suspended");
    }
);

both_stores!(
    an_impersonation_ends_with_its_time_its_administrator_or_its_user,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let admin = genie.user("ada").await;
        let (bob, cyd) = (genie.user("bob").await, genie.user("cyd").await);
        let is_good =
            async |genie: &TestGenie, acting: &TestUser| match acting.get(genie, "/api/jobs").await
            {
                answer if answer.status == 200 => true,
                answer => {
                    answer.refused(401, "invalid_token");
                    false
                }
            };
        // Ending one of two impersonations leaves the other.
        let ((first, session), (second, _)) = (
            acting(&genie, &admin, &bob).await,
            acting(&genie, &admin, &bob).await,
        );
        admin
            .delete(&genie, &format!("/api/admin/impersonations/{session}"))
            .await
            .ok();
        assert!(!is_good(&genie, &first).await && is_good(&genie, &second).await);
        admin
            .delete(&genie, &format!("/api/admin/impersonations/{session}"))
            .await
            .refused(404, "not_found");
        // The user is suspended, or becomes an administrator.
        for active in [false, true] {
            identity::set_active(&genie, &bob, active).await;
            assert_eq!(is_good(&genie, &second).await, active);
        }
        for administers in [true, false] {
            identity::set_administrator(&genie, "bob", &bob, administers).await;
            assert_eq!(is_good(&genie, &second).await, !administers);
        }
        // The impersonator stops being an administrator.
        let cyd = identity::set_administrator(&genie, "cyd", &cyd, true).await;
        let (by_cyd, _) = acting(&genie, &cyd, &bob).await;
        assert!(is_good(&genie, &by_cyd).await);
        identity::set_administrator(&genie, "cyd", &cyd, false).await;
        // Cached accounts follow the log, a moment behind it.
        let limit = Duration::from_secs(10);
        until_within(
            limit,
            "the former administrator's token to end",
            async || (!is_good(&genie, &by_cyd).await).then_some(()),
        )
        .await;
        assert!(is_good(&genie, &second).await);
        // The impersonation expires.
        genie.kill().await;
        genie
            .store
            .tamper("UPDATE impersonations SET expires_at = 1")
            .await;
        genie.launch_again().await;
        assert!(!is_good(&genie, &second).await);
    }
);
