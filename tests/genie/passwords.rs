//! Forgotten passwords without a Directus: requests, mails, and the administrators' list.

use std::{sync::atomic::Ordering, time::Duration};

use genie_log::{both_stores, testing::TestStore};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    fake_smtp::FakeSmtp,
    test_genie::{Answer, SECRET, TestGenie, TestUser, password},
    until::until,
};

const PAGE: &str = "https://app.example/reset";

fn settings(smtp: &FakeSmtp) -> Vec<(&'static str, String)> {
    vec![
        ("SMTP_URL", smtp.url.clone()),
        ("MAIL_FROM", "genie <genie@example.com>".to_owned()),
        (
            "PASSWORD_RESET_URL_ALLOW_LIST",
            format!("{PAGE}, http://localhost:5173/new"),
        ),
    ]
}

async fn request(genie: &TestGenie, body: Value) -> Answer {
    genie
        .send(Method::POST, "/auth/password/request", &[], Some(body))
        .await
}

async fn request_for(genie: &TestGenie, email: &str) {
    let answer = request(genie, json!({"email": email})).await;
    assert_eq!(answer.status, 204, "{:?}", answer.json);
    assert!(
        answer.headers.get("Genie-Position").is_none(),
        "it would tell that the address is known"
    );
}

async fn reset(genie: &TestGenie, token: &str, password: &str) -> Answer {
    let body = json!({"token": token, "password": password});
    genie
        .send(Method::POST, "/auth/password/reset", &[], Some(body))
        .await
}

/// The tokens of the links that were sent, with their pages.
fn links(smtp: &FakeSmtp) -> Vec<(String, String)> {
    let mails = smtp.mails();
    let links = mails.iter().map(|mail| {
        let link = mail
            .text
            .lines()
            .find(|line| line.contains("token="))
            .unwrap();
        let (page, token) = link.split_once("token=").unwrap();
        (
            page.trim_end_matches(['?', '&']).to_owned(),
            token.trim().to_owned(),
        )
    });
    links.collect()
}

async fn mails(smtp: &FakeSmtp, count: usize) {
    until(&format!("{count} mails are sent"), async || {
        (smtp.mails().len() >= count).then_some(())
    })
    .await;
    assert_eq!(smtp.mails().len(), count);
}

async fn open_requests(genie: &TestGenie, admin: &TestUser) -> Vec<Value> {
    genie.settle().await;
    let listed = admin.get(genie, "/api/admin/password-requests").await.ok();
    listed["data"].as_array().unwrap().clone()
}

/// A mail is sent before that is recorded.
async fn all_answered(genie: &TestGenie, admin: &TestUser) {
    until("all requests are answered", async || {
        open_requests(genie, admin).await.is_empty().then_some(())
    })
    .await;
}

/// The types of the user's facts.
async fn facts(genie: &TestGenie, user: &TestUser) -> Vec<String> {
    let path = format!("/api/events?limit=500&user={}", user.id);
    let secret = [("X-RBAC-SYNC-SECRET", SECRET.to_owned())];
    let listed = genie.send(Method::GET, &path, &secret, None).await.ok();
    let types = listed["data"].as_array().unwrap().iter();
    types
        .map(|event| event["type"].as_str().unwrap().to_owned())
        .collect()
}

both_stores!(
    a_mail_has_a_link_that_sets_a_new_password_once,
    async |store: TestStore| {
        let smtp = FakeSmtp::start().await;
        let mut genie = TestGenie::start_with(store, &settings(&smtp)).await;
        let admin = genie.user("admin").await;
        let ada = genie.user("ada").await;
        // Nobody, and what is no address.
        for stranger in ["nobody@example.com", "nobody", "", "ada@"] {
            request_for(&genie, stranger).await;
        }
        let asked = request(
            &genie,
            json!({"email": " ADA@Example.COM ", "reset_url": "http://localhost:5173/new?lang=de", "extra": 1}),
        )
        .await;
        assert_eq!(asked.status, 204, "{:?}", asked.json);
        mails(&smtp, 1).await;
        let mail = smtp.mails()[0].clone();
        assert_eq!(mail.to, "ada@example.com");
        assert!(
            mail.text.contains("From: genie <genie@example.com>"),
            "{}",
            mail.text
        );
        let (page, token) = links(&smtp)[0].clone();
        assert_eq!(page, "http://localhost:5173/new?lang=de");
        assert!(!genie.store.holds(&token).await);
        all_answered(&genie, &admin).await;

        reset(&genie, &token, "short")
            .await
            .refused_by_identity(400, "INVALID_PAYLOAD");
        let set = reset(&genie, &token, "a new password").await;
        assert_eq!(set.status, 204, "{:?}", set.json);
        reset(&genie, &token, "another")
            .await
            .refused_by_identity(400, "INVALID_PAYLOAD");
        reset(&genie, &token, "another password")
            .await
            .refused_by_identity(403, "INVALID_TOKEN");
        genie
            .refresh(&ada.refresh)
            .await
            .refused_by_identity(401, "INVALID_CREDENTIALS");
        genie
            .log_in("ada", &password("ada"))
            .await
            .refused_by_identity(401, "INVALID_CREDENTIALS");
        TestUser::of(&ada.id, genie.log_in("ada", "a new password").await);

        // The next one leads to the first page, and dies within the hour.
        request_for(&genie, "ada@example.com").await;
        mails(&smtp, 2).await;
        let (page, token) = links(&smtp)[1].clone();
        assert_eq!(page, PAGE);
        all_answered(&genie, &admin).await;
        genie.clock.advance_millis(61 * 60 * 1000);
        reset(&genie, &token, "another password")
            .await
            .refused_by_identity(403, "INVALID_TOKEN");
        let facts = facts(&genie, &ada).await;
        let count = |name: &str| facts.iter().filter(|fact| *fact == name).count();
        assert_eq!(
            (
                count("account.password_reset_requested"),
                count("account.password_reset_offered"),
                count("account.password_request_answered"),
                count("account.password_reset"),
            ),
            (2, 2, 2, 1)
        );
    }
);

both_stores!(
    a_request_that_is_wrong_is_refused_before_anything_is_looked_up,
    async |store: TestStore| {
        let smtp = FakeSmtp::start().await;
        let mut genie = TestGenie::start_with(store, &settings(&smtp)).await;
        let admin = genie.user("ada").await;
        for email in ["ada@example.com", "nobody@example.com"] {
            for foreign in [
                "https://evil.example/reset",
                "https://app.example.evil.example/reset",
                "https://app.example@evil.example/reset",
                "http://app.example/reset",
                "https://app.example/reset#",
                "javascript:alert(1)",
                "//evil.example",
                "/reset",
            ] {
                let refused = request(&genie, json!({"email": email, "reset_url": foreign})).await;
                assert!(
                    !refused.json.to_string().contains("evil"),
                    "{:?}",
                    refused.json
                );
                refused.refused_by_identity(400, "INVALID_PAYLOAD");
            }
        }
        for wrong in [
            json!({}),
            json!({"email": null}),
            json!({"email": 1}),
            json!({"email": "ada@example.com", "reset_url": 1}),
            json!([]),
        ] {
            request(&genie, wrong)
                .await
                .refused_by_identity(400, "INVALID_PAYLOAD");
        }
        assert_eq!(open_requests(&genie, &admin).await, Vec::<Value>::new());
        assert_eq!(smtp.mails().len(), 0);
        assert_eq!(
            request(
                &genie,
                json!({"email": "ada@example.com", "reset_url": null})
            )
            .await
            .status,
            204
        );
        mails(&smtp, 1).await;
    }
);

both_stores!(
    no_request_is_lost_while_the_mail_server_or_the_server_is_away,
    async |store: TestStore| {
        let smtp = FakeSmtp::start().await;
        smtp.mailbox.is_away.store(true, Ordering::SeqCst);
        let mut genie = TestGenie::start_process_with(store, &settings(&smtp)).await;
        let admin = genie.user("admin").await;
        let ada = genie.user("ada").await;
        request_for(&genie, "ada@example.com").await;
        until("the mail server is asked", async || {
            (smtp.mailbox.connections.load(Ordering::SeqCst) > 0).then_some(())
        })
        .await;
        let open = open_requests(&genie, &admin).await;
        assert_eq!(open[0]["userId"], ada.id.as_str());
        let made = facts(&genie, &ada).await;
        assert!(
            !made.contains(&"account.password_reset_offered".to_owned()),
            "no link without a mail: {made:?}"
        );

        genie.kill().await;
        smtp.mailbox.is_away.store(false, Ordering::SeqCst);
        // It takes a mail, but not this one.
        smtp.mailbox.refuses_with.store(550, Ordering::SeqCst);
        genie.launch_again().await;
        until("the mail is refused", async || {
            let made = facts(&genie, &ada).await;
            made.contains(&"account.password_reset_offered".to_owned())
                .then_some(())
        })
        .await;
        assert_eq!(open_requests(&genie, &admin).await.len(), 1);
        smtp.mailbox.refuses_with.store(0, Ordering::SeqCst);
        genie.restart().await;
        mails(&smtp, 1).await;
        let (_, token) = links(&smtp)[0].clone();
        assert_eq!(reset(&genie, &token, "a new password").await.status, 204);
        assert_eq!(open_requests(&genie, &admin).await.len(), 0);
    }
);

both_stores!(
    without_a_mail_server_administrators_see_the_requests,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let admin = genie.user("admin").await;
        let ada = genie.user("ada").await;
        let bob = genie.user("bob").await;
        for email in [
            "bob@example.com",
            "nobody@example.com",
            "ada@example.com",
            "ada@example.com",
        ] {
            request_for(&genie, email).await;
        }
        let open = open_requests(&genie, &admin).await;
        let users: Vec<&Value> = open.iter().map(|one| &one["userId"]).collect();
        assert_eq!(users, [&json!(bob.id), &json!(ada.id)]);
        assert!(open.iter().all(|one| one["email"].is_null()), "{open:?}");
        let path = "/api/admin/password-requests";
        let whole = admin
            .get(
                &genie,
                &format!("{path}?personal=true&reason=a%20lost%20mail&limit=1"),
            )
            .await
            .ok();
        assert_eq!(whole["data"][0]["email"], "bob@example.com");
        let next = format!(
            "{path}?personal=true&reason=a%20lost%20mail&cursor={}",
            whole["next_cursor"].as_str().unwrap()
        );
        let rest = admin.get(&genie, &next).await.ok();
        assert_eq!(rest["data"][0]["email"], "ada@example.com");
        assert_eq!(rest["next_cursor"], Value::Null);
        let read = admin
            .get(&genie, "/api/events?types=access.personal_read")
            .await
            .ok();
        assert!(
            !read["data"].as_array().unwrap().is_empty(),
            "the reading is a fact"
        );
        ada.get(&genie, path).await.refused(403, "forbidden");
        genie
            .send(Method::GET, path, &[], None)
            .await
            .refused(401, "invalid_token");

        let offer = format!("/api/admin/users/{}/password-reset", ada.id);
        let offered = admin.post(&genie, &offer, json!({})).await.ok();
        assert_eq!(
            open_requests(&genie, &admin).await.len(),
            1,
            "Ada's is answered"
        );
        let token = offered["token"].as_str().unwrap();
        assert_eq!(reset(&genie, token, "a new password").await.status, 204);
        // Who knows the password needs no link.
        let change = json!({"old_password": password("bob"), "password": "another password"});
        let changed = bob.patch(&genie, "/users/me", change).await;
        assert_eq!(changed.status, 200, "{:?}", changed.json);
        assert_eq!(open_requests(&genie, &admin).await.len(), 0);
        // A page to lead to is checked all the same.
        request(
            &genie,
            json!({"email": "ada@example.com", "reset_url": PAGE}),
        )
        .await
        .refused_by_identity(400, "INVALID_PAYLOAD");
        // A user who may not act gets no link, and nobody is told.
        genie
            .server(
                "/api/rbac-sync",
                json!({"userId": bob.id, "status": "suspended"}),
            )
            .await
            .ok();
        request_for(&genie, "bob@example.com").await;
        assert_eq!(open_requests(&genie, &admin).await.len(), 0);
    }
);

both_stores!(
    requests_are_bounded_and_tell_nothing_of_the_account,
    async |store: TestStore| {
        let stall = Duration::from_millis(300);
        let settings = [("GENIE_LOGIN_STALL_MS", "300".to_owned())];
        let mut genie = TestGenie::start_with(store, &settings).await;
        let admin = genie.user("ada").await;
        for email in ["ada@example.com", "nobody@example.com", "no address"] {
            let began = Instant::now();
            request_for(&genie, email).await;
            assert!(began.elapsed() >= stall, "{email}");
        }
        // Each quarter of an hour one more, and no more than three in a row.
        for _ in 0..6 {
            genie.clock.advance_millis(15 * 60 * 1000);
            request_for(&genie, "ada@example.com").await;
        }
        let made = facts(&genie, &admin).await;
        let requested = made
            .iter()
            .filter(|fact| *fact == "account.password_reset_requested");
        assert_eq!(requested.count(), 3);
        // Nine came from this address so far.
        for n in 9..20 {
            request_for(&genie, &format!("nobody.{n}@example.com")).await;
        }
        for email in ["ada@example.com", "nobody@example.com"] {
            let refused = request(&genie, json!({"email": email})).await;
            assert!(refused.headers.contains_key("Retry-After"));
            refused.refused_by_identity(429, "REQUESTS_EXCEEDED");
        }
    }
);

both_stores!(
    names_can_be_changed_and_removed,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        genie.user("admin").await;
        let mut ada = genie.user("ada").await;
        let long = "x".repeat(200);
        for (change, first, last) in [
            (
                json!({"last_name": "Lovelace"}),
                json!("ada"),
                json!("Lovelace"),
            ),
            (
                json!({"first_name": " Ada\u{200b} "}),
                json!("Ada"),
                json!("Lovelace"),
            ),
            (
                json!({"first_name": "Ada"}),
                json!("Ada"),
                json!("Lovelace"),
            ),
            (
                json!({"first_name": "A\u{308}da", "last_name": null}),
                json!("\u{c4}da"),
                json!(null),
            ),
            (
                json!({"first_name": "", "last_name": long, "title": "Countess"}),
                json!(null),
                json!(long),
            ),
            (
                json!({"first_name": "Ada", "old_password": password("ada"), "password": password("ada")}),
                json!("Ada"),
                json!(long),
            ),
        ] {
            let changed = ada
                .patch(
                    &genie,
                    "/users/me?fields=first_name,last_name",
                    change.clone(),
                )
                .await;
            assert_eq!(changed.status, 200, "{change}: {:?}", changed.json);
            let names = json!({"data": {"first_name": first, "last_name": last}});
            assert_eq!(changed.json, names, "{change}");
            genie.restart().await;
            ada = genie.user_again("ada", &ada.id).await;
            let shown = ada
                .get(&genie, "/users/me?fields=first_name,last_name")
                .await;
            assert_eq!(shown.json, names, "{change}");
        }
        let before = facts(&genie, &ada).await.len();
        for wrong in [
            json!({}),
            json!({"title": "Countess"}),
            json!({"first_name": 1}),
            json!({"first_name": "x".repeat(201)}),
            json!({"last_name": "a\nb"}),
            json!({"first_name": "Eve", "email": "eve@example.com"}),
            json!({"email": null}),
        ] {
            let refused = ada.patch(&genie, "/users/me", wrong).await;
            refused.refused_by_identity(400, "INVALID_PAYLOAD");
        }
        assert_eq!(facts(&genie, &ada).await.len(), before, "nothing changed");
        let exported = ada.get(&genie, "/api/me/export").await;
        assert_eq!(
            exported.json["account"]["first_name"], "Ada",
            "{:?}",
            exported.json["account"]
        );
        assert!(!genie.store.holds(&long).await);
    }
);
