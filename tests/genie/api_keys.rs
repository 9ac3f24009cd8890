//! Users' own keys: a program acts for its user as far as the key's scopes go, and facts name both.

use genie_log::testing::{Kind, TestStore, both_stores};
use serde_json::{Value, json};

use crate::{
    test_genie::{Answer, Events, SECRET, TestGenie, TestUser, password},
    until::until,
};

const KEYS: &str = "/api/me/keys";

/// A program with a key of a user's own, and the key's id.
pub struct Program {
    pub key: String,
    pub id: String,
}

impl Program {
    /// Makes a key for the user of this name.
    pub async fn of(genie: &TestGenie, user: &TestUser, name: &str, scopes: &[&str]) -> Self {
        Self::from(
            &make(genie, user, name, json!({"scopes": scopes}))
                .await
                .ok(),
        )
    }

    fn from(made: &Value) -> Self {
        let text = |field: &str| made[field].as_str().unwrap().to_owned();
        assert!(text("key").starts_with("gk_"), "{made}");
        Self {
            key: text("key"),
            id: text("id"),
        }
    }

    /// Requests that show the key.
    pub fn caller(&self) -> TestUser {
        TestUser {
            id: String::new(),
            token: self.key.clone(),
            refresh: String::new(),
        }
    }
}

/// Asks for a key; `more` is put over a good request.
async fn make(genie: &TestGenie, user: &TestUser, name: &str, more: Value) -> Answer {
    let mut body = json!({"name": "my agent", "scopes": ["api"], "password": password(name)});
    for (field, value) in more.as_object().unwrap() {
        body[field] = value.clone();
    }
    user.post(genie, KEYS, body).await
}

async fn set_status(genie: &TestGenie, user: &TestUser, status: &str) {
    let sync = json!({"userId": user.id, "status": status});
    genie.server("/api/rbac-sync", sync).await.ok();
}

both_stores!(
    a_key_opens_what_its_scopes_say_and_nothing_of_the_user_in_person,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let admin = genie.user("ada").await;
        let bob = genie.user("bob").await;
        let api = Program::of(&genie, &bob, "bob", &["api"]).await.caller();
        let chat = Program::of(&genie, &bob, "bob", &["chat"]).await.caller();
        let mcp = Program::of(&genie, &bob, "bob", &["mcp"]).await.caller();

        let for_programs = [
            "/api/jobs",
            "/api/files",
            "/api/captions",
            "/api/usage",
            "/api/me/events",
            "/api/onboarding/state",
        ];
        for path in for_programs {
            api.get(&genie, path).await.ok();
            for other in [&chat, &mcp] {
                let refused = other.get(&genie, path).await.refused(403, "scope_needed");
                assert!(refused["error"].as_str().unwrap().contains("`api`"));
            }
        }
        let me = api.get(&genie, "/users/me").await;
        assert_eq!(me.json["data"]["id"], json!(bob.id));
        let sessions = "/api/genie/sessions";
        api.get(&genie, sessions).await.ok();
        chat.get(&genie, sessions).await.ok();
        let refused = mcp.get(&genie, sessions).await.refused(403, "scope_needed");
        assert!(refused["error"].as_str().unwrap().contains("`chat`"));

        let job = api.submit_job(&genie).await;
        let its_job = bob.get(&genie, &format!("/api/jobs/{job}")).await.ok();
        assert_eq!(its_job["status"], "queued");

        // An administrator's key has no more rights than another user's.
        let of_admin = Program::of(&genie, &admin, "ada", &["api"]).await.caller();
        of_admin
            .get(&genie, &format!("/api/jobs/{job}"))
            .await
            .refused(404, "not_found");
        let profile = json!({"platform": "x", "credentials": {"password": "hunter2"}});
        for key in [&api, &of_admin] {
            for path in [
                "/api/credentials",
                "/api/me/keys",
                "/api/me/sessions",
                "/api/me/export",
                "/api/admin/invites",
                "/api/admin/service-keys",
                "/api/events",
            ] {
                key.get(&genie, path).await.refused(403, "forbidden");
            }
            for (path, body) in [
                ("/api/credentials/create-profile", profile.clone()),
                ("/api/me/keys", json!({})),
                ("/api/credentials/reveal", json!({})),
                ("/api/worker/claim", json!({})),
                (&format!("/api/jobs/{job}/ticket"), json!({})),
            ] {
                key.post(&genie, path, body).await.refused(403, "forbidden");
            }
            key.delete(&genie, "/api/me")
                .await
                .refused(403, "forbidden");
            let renamed = key.patch(&genie, "/users/me", json!({"first_name": "x"}));
            renamed.await.refused_by_identity(403, "FORBIDDEN");
            let factor = key.post(&genie, "/users/me/tfa/generate", json!({"password": "x"}));
            factor.await.refused_by_identity(403, "FORBIDDEN");
        }
    }
);

both_stores!(
    a_key_is_made_with_the_password_shown_once_and_revoked_for_good,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        genie.user("ada").await;
        let bob = genie.user("bob").await;
        let carl = genie.user("carl").await;
        for (wrong, field) in [
            (json!({"name": " "}), "name"),
            (json!({"scopes": []}), "scopes"),
            (json!({"scopes": ["jobs:work"]}), "scopes"),
            (json!({"expires_at": "2001-01-01T00:00:00Z"}), "expires_at"),
            (json!({"password": null}), "password"),
        ] {
            let refused = make(&genie, &bob, "bob", wrong).await;
            let refused = refused.refused(400, "invalid_field");
            let sentence = refused["error"].as_str().unwrap();
            assert!(sentence.contains(&format!("`{field}`")), "{refused}");
        }
        let guessed = make(&genie, &bob, "bob", json!({"password": "guessed"})).await;
        guessed.refused(403, "wrong_password");

        let kept = Program::of(&genie, &bob, "bob", &["api"]).await;
        let gone = Program::of(&genie, &bob, "bob", &["chat", "api"]).await;
        let listed = bob.get(&genie, KEYS).await.ok();
        let rows = listed["data"].as_array().unwrap();
        assert_eq!(rows.len(), 2, "{listed}");
        assert_eq!(rows[0]["name"], "my agent");
        assert_eq!(rows[1]["scopes"], json!(["api", "chat"]));
        assert_eq!(rows[1]["created_by"], json!(bob.id));
        assert!(!listed.to_string().contains("gk_"), "{listed}");
        assert_eq!(carl.get(&genie, KEYS).await.ok()["data"], json!([]));

        let path = format!("{KEYS}/{}", gone.id);
        carl.delete(&genie, &path).await.refused(404, "not_found");
        gone.caller().get(&genie, "/api/jobs").await.ok();
        assert_eq!(bob.delete(&genie, &path).await.ok()["revoked"], json!(true));
        gone.caller()
            .get(&genie, "/api/jobs")
            .await
            .refused(401, "invalid_token");
        bob.delete(&genie, &path).await.ok(); // revoking twice is no error
        genie.restart().await;
        gone.caller()
            .get(&genie, "/api/jobs")
            .await
            .refused(401, "invalid_token");
        kept.caller().get(&genie, "/api/jobs").await.ok();
        let listed = bob.get(&genie, KEYS).await.ok();
        assert_eq!(listed["data"].as_array().unwrap().len(), 1, "{listed}");
        assert_eq!(listed["data"][0]["id"], json!(kept.id));

        let export = bob.get(&genie, "/api/me/export").await.ok();
        assert_eq!(export["keys"][0]["id"], json!(kept.id));
        assert!(!export.to_string().contains(&kept.key));

        // The store holds only a hash of the key.
        if genie.store.database_url().is_none() {
            for file in ["genie.db", "genie.db-wal"] {
                let bytes = std::fs::read(genie.store.folder().join(file)).unwrap_or_default();
                let found = bytes
                    .windows(kept.key.len())
                    .any(|window| window == kept.key.as_bytes());
                assert!(!found, "{file}");
            }
        }
    }
);

both_stores!(
    facts_name_the_user_and_the_key_and_a_repeated_request_is_the_key_s_own,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        genie.user("ada").await;
        let bob = genie.user("bob").await;
        let program = Program::of(&genie, &bob, "bob", &["api"]).await;
        let job = program.caller().submit_job(&genie).await;
        let facts = bob
            .get(&genie, "/api/me/events?types=job.submitted")
            .await
            .ok();
        let fact = &facts["data"][0];
        assert_eq!(fact["subject"], json!(format!("job/{job}")));
        let named = (&fact["caller"], &fact["callerid"], &fact["callerkey"]);
        assert_eq!(
            named,
            (&json!("user"), &json!(bob.id), &json!(program.id)),
            "{fact}"
        );
        let made = bob.get(&genie, "/api/me/events?types=api_key.*").await.ok();
        assert_eq!(made["data"][0]["type"], "api_key.created");
        assert_eq!(made["data"][0]["callerkey"], json!(null));

        let body =
            json!({"operation": "resize_image", "input_url": "http://a/b", "params": {"width": 1}});
        let send = async |token: &str| {
            let headers = [
                ("Authorization", format!("Bearer {token}")),
                ("Idempotency-Key", "one".to_owned()),
            ];
            let sent = genie.send(
                reqwest::Method::POST,
                "/api/queue/media",
                &headers,
                Some(body.clone()),
            );
            sent.await.ok()["id"].clone()
        };
        let first = send(&program.key).await;
        assert_eq!(send(&program.key).await, first);
        assert_ne!(send(&bob.token).await, first);
    }
);

both_stores!(a_key_dies_with_its_user, async |store: TestStore| {
    let settings = [("FORGET_GRACE", "0".to_owned())];
    let mut genie = TestGenie::start_with(store, &settings).await;
    let admin = genie.user("ada").await;
    let bob = genie.user("bob").await;
    let program = Program::of(&genie, &bob, "bob", &["api"]).await.caller();
    program.get(&genie, "/api/jobs").await.ok();
    set_status(&genie, &bob, "suspended").await;
    program
        .get(&genie, "/api/jobs")
        .await
        .refused(401, "invalid_token");
    set_status(&genie, &bob, "active").await;
    program.get(&genie, "/api/jobs").await.ok();

    let forget = format!("/api/admin/users/{}/forget", bob.id);
    admin.post(&genie, &forget, json!({})).await.ok();
    program
        .get(&genie, "/api/jobs")
        .await
        .refused(401, "invalid_token");
    genie.restart().await;
    program
        .get(&genie, "/api/jobs")
        .await
        .refused(401, "invalid_token");
    genie.settle().await;
    let listed = admin.get(&genie, "/api/admin/service-keys").await.ok();
    assert_eq!(listed["data"], json!([]));
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_ends_on_every_server() {
    let mut genie = TestGenie::start(TestStore::new(Kind::Postgres).await).await;
    genie.user("ada").await;
    let bob = genie.user("bob").await;
    genie.launch_beside().await;
    let is_shut = async |program: &TestUser| {
        until("both servers to refuse the key", async || {
            let first = program.get(&genie, "/api/jobs").await.status;
            let second = program.get(&genie, "/api/jobs").await.status;
            (first == 401 && second == 401).then_some(())
        })
        .await;
    };
    let revoked = Program::of(&genie, &bob, "bob", &["api"]).await;
    let orphan = Program::of(&genie, &bob, "bob", &["api"]).await.caller();
    for program in [&revoked.caller(), &orphan] {
        program.get(&genie, "/api/jobs").await.ok(); // asks each server in turn
        program.get(&genie, "/api/jobs").await.ok();
    }
    bob.delete(&genie, &format!("{KEYS}/{}", revoked.id))
        .await
        .ok();
    is_shut(&revoked.caller()).await;
    set_status(&genie, &bob, "suspended").await;
    is_shut(&orphan).await;
}

both_stores!(
    a_key_expires_and_its_open_stream_ends_when_it_is_revoked,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        genie.user("ada").await;
        let bob = genie.user("bob").await;
        let hour = 60 * 60;
        let soon = genie.clock.now().plus_seconds(hour).rfc3339();
        let made = make(&genie, &bob, "bob", json!({"expires_at": soon})).await;
        let short = Program::from(&made.ok()).caller();
        short.get(&genie, "/api/jobs").await.ok();
        genie.clock.advance_millis(hour * 1000);
        short
            .get(&genie, "/api/jobs")
            .await
            .refused(401, "invalid_token");

        let bob = genie.user_again("bob", &bob.id).await;
        let reader = Program::of(&genie, &bob, "bob", &["api"]).await;
        let live = genie
            .http
            .get(format!("{}/api/me/events", genie.base))
            .header("Accept", "text/event-stream")
            .bearer_auth(&reader.key);
        let feed = Events::open(live).await;
        bob.delete(&genie, &format!("{KEYS}/{}", reader.id))
            .await
            .ok();
        tokio::time::timeout(std::time::Duration::from_secs(60), feed.rest())
            .await
            .expect("the feed ends");
    }
);

both_stores!(
    a_user_has_a_bounded_number_of_keys_and_an_administrator_may_make_and_revoke_them,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let admin = genie.user("ada").await;
        let bob = genie.user("bob").await;
        let of_bob =
            |scopes: &[&str]| json!({"name": "a bot", "scopes": scopes, "user_id": bob.id});
        let keys = "/api/admin/service-keys";
        for wrong in [
            of_bob(&["events:read"]),
            json!({"name": "n", "scopes": ["api"]}),
        ] {
            let refused = admin.post(&genie, keys, wrong).await;
            refused.refused(400, "invalid_field");
        }
        let nobody = "01890000-0000-7000-8000-000000000000";
        let nobody_s = json!({"name": "n", "scopes": ["api"], "user_id": nobody});
        admin
            .post(&genie, keys, nobody_s)
            .await
            .refused(404, "not_found");
        bob.post(&genie, keys, of_bob(&["api"]))
            .await
            .refused(403, "forbidden");

        let mut last = Value::Null;
        for _ in 0..50 {
            last = admin.post(&genie, keys, of_bob(&["api"])).await.ok();
        }
        admin
            .post(&genie, keys, of_bob(&["api"]))
            .await
            .refused(409, "too_many_keys");
        let listed = bob.get(&genie, KEYS).await.ok();
        assert_eq!(listed["data"].as_array().unwrap().len(), 50);
        assert_eq!(listed["data"][0]["created_by"], json!(admin.id));
        assert_eq!(listed["data"][0]["name"], "a bot");
        // The administrators' list does not tell how a user calls their keys.
        let all = admin.get(&genie, keys).await.ok();
        assert_eq!(all["data"][0]["user_id"], json!(bob.id));
        assert_eq!(all["data"][0]["name"], json!(null));

        let program = Program::from(&last);
        program.caller().get(&genie, "/api/jobs").await.ok();
        set_status(&genie, &bob, "suspended").await;
        admin
            .delete(&genie, &format!("{keys}/{}", program.id))
            .await
            .ok();
        set_status(&genie, &bob, "active").await;
        program
            .caller()
            .get(&genie, "/api/jobs")
            .await
            .refused(401, "invalid_token");
        admin.post(&genie, keys, of_bob(&["mcp"])).await.ok();
    }
);

both_stores!(
    an_administrator_who_acts_for_a_user_makes_no_key,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let admin = genie.user("ada").await;
        let bob = genie.user("bob").await;
        let path = format!("/api/admin/users/{}/impersonate", bob.id);
        let begun = admin.post(&genie, &path, json!({})).await.ok();
        let acting = TestUser {
            id: bob.id.clone(),
            token: begun["access_token"].as_str().unwrap().to_owned(),
            refresh: String::new(),
        };
        make(&genie, &acting, "bob", json!({}))
            .await
            .refused(403, "forbidden");
        acting.get(&genie, KEYS).await.refused(403, "forbidden");
        let secret = [("X-RBAC-SYNC-SECRET", SECRET.to_owned())];
        genie
            .send(reqwest::Method::GET, KEYS, &secret, None)
            .await
            .refused(401, "invalid_token");
    }
);
