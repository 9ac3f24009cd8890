//! From an invite to the first answer, and the ways in which access ends. Runs with either
//! identity.

use futures_util::future::join_all;
use genie_log::testing::{TestStore, both_stores};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    identity,
    test_genie::{Answer, TestGenie, TestUser, outcome, password, text_of},
};

/// Directus' code for a wrong name, password or token.
const WRONG: &str = "INVALID_CREDENTIALS";

async fn register(genie: &TestGenie, email: &str, password: &str, invite: &str) -> Answer {
    let body =
        json!({"email": email, "password": password, "firstName": "Bob", "inviteCode": invite});
    genie
        .send(Method::POST, "/api/register", &[], Some(body))
        .await
}

async fn step(genie: &TestGenie, by: &TestUser, state: &str, of: &TestUser) -> Answer {
    by.patch(
        genie,
        "/api/onboarding/state",
        json!({"state": state, "userId": of.id}),
    )
    .await
}

both_stores!(
    from_an_invite_to_the_first_answer,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let admin = genie.user("ada").await;
        let made = admin
            .post(
                &genie,
                "/api/admin/invites",
                json!({"count": 3, "tier": "pro"}),
            )
            .await
            .ok();
        let code = |n: usize| made["data"][n]["code"].as_str().unwrap();
        admin
            .delete(&genie, &format!("/api/admin/invites/{}", code(2)))
            .await
            .ok();
        let (email, other) = (
            identity::email(&genie, "bob"),
            identity::email(&genie, "cyd"),
        );
        for (email, password, invite) in [
            (email.as_str(), "short", code(0)),
            (&email, "long enough", "no-such-invite"),
            (&email, "long enough", code(2)),
            ("no address", "long enough", code(0)),
        ] {
            register(&genie, email, password, invite)
                .await
                .refused(400, "invalid_field");
        }
        let bob = genie.register("bob", code(0)).await; // the refused registrations did not use up the invite
        register(&genie, &other, "long enough", code(0))
            .await
            .refused(400, "invalid_field");
        register(&genie, &email.to_uppercase(), "long enough", code(1))
            .await
            .refused(409, "email_taken");

        genie
            .log_in("bob", "not the password")
            .await
            .refused_by_identity(401, WRONG);
        genie
            .log_in("nobody", "not the password")
            .await
            .refused_by_identity(401, WRONG);
        let me = bob.get(&genie, "/users/me?fields=id,email,status").await;
        assert_eq!(
            me.json["data"],
            json!({"id": bob.id, "email": email, "status": "active"})
        );
        assert_eq!(bob.get(&genie, "/api/usage").await.ok()["tier"], "pro");
        bob.post(&genie, "/api/admin/invites", json!({}))
            .await
            .refused(403, "forbidden");
        let tabs = join_all((0..10).map(|_| genie.refresh(&bob.refresh))).await;
        let tabs: Vec<TestUser> = tabs
            .into_iter()
            .map(|tab| TestUser::of(&bob.id, tab))
            .collect();
        assert!(
            tabs.iter()
                .all(|tab| tab.refresh == tabs[0].refresh && tab.refresh != bob.refresh)
        );

        // Chat is closed before the user has told of themselves.
        assert_eq!(
            bob.get(&genie, "/api/onboarding/state").await.ok()["state"],
            "EXTENSION_INSTALL"
        );
        let told = bob.ask(&genie, "s", "hello").await.rest().await;
        assert_eq!(
            (&told[0].data["type"], outcome(&told).as_str()),
            (&json!("textResponse"), "completed")
        );
        assert!(genie.ollama.requests().is_empty());
        step(&genie, &bob, "PROCESSING", &bob)
            .await
            .refused(409, "onboarding_order");
        step(&genie, &bob, "DATA_COLLECTION", &bob).await.ok();
        step(&genie, &bob, "PROCESSING", &bob).await.ok();
        step(&genie, &bob, "COMPLETE", &bob)
            .await
            .refused(409, "onboarding_order");
        step(&genie, &admin, "COMPLETE", &bob).await.ok();
        genie.restart().await;
        assert_eq!(
            text_of(&tabs[0].ask(&genie, "s", "hello").await.rest().await),
            "Hello there"
        );
        let feed = bob.get(&genie, "/api/me/events?types=account.*").await.ok();
        let types = feed["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|fact| fact["type"].as_str().unwrap());
        let types: Vec<_> = types.filter(|one| *one != "account.signed_in").collect(); // a Directus records its own logins
        assert_eq!(
            types,
            [
                &["account.registered"][..],
                &["account.onboarding_advanced"; 3]
            ]
            .concat()
        );
        assert!(!genie.store.holds(&password("bob")).await && !genie.store.holds(&email).await);
    }
);

both_stores!(
    a_suspension_and_a_new_password_end_logins,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let (_, bob) = (genie.user("ada").await, genie.user("bob").await);
        bob.submit_job(&genie).await;
        identity::set_active(&genie, &bob, false).await;
        bob.get(&genie, "/api/jobs")
            .await
            .refused(401, "invalid_token");
        bob.post(
            &genie,
            "/api/queue/media",
            json!({"operation": "thumbnail", "input_url": "http://a/b"}),
        )
        .await
        .refused(401, "invalid_token");
        genie
            .log_in("bob", &password("bob"))
            .await
            .refused_by_identity(401, WRONG);
        genie
            .refresh(&bob.refresh)
            .await
            .refused_by_identity(401, WRONG);
        identity::set_active(&genie, &bob, true).await;
        let (phone, laptop) = (
            genie.user_again("bob", &bob.id).await,
            genie.user_again("bob", &bob.id).await,
        );
        phone.submit_job(&genie).await;
        assert_eq!(
            phone.get(&genie, "/api/jobs").await.ok()["data"]
                .as_array()
                .map(Vec::len),
            Some(2)
        );

        identity::set_password(&genie, "bob", &phone, "another password").await;
        genie
            .log_in("bob", &password("bob"))
            .await
            .refused_by_identity(401, WRONG);
        genie
            .refresh(&laptop.refresh)
            .await
            .refused_by_identity(401, WRONG);
        let bob = TestUser::of(&bob.id, genie.log_in("bob", "another password").await);
        assert_ne!(
            bob.post(
                &genie,
                "/api/queue/media",
                json!({"operation": "thumbnail", "input_url": "http://a/b"})
            )
            .await
            .ok()["jobId"],
            Value::Null
        );
    }
);
