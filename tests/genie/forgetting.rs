//! Forgetting, as users, administrators and operators see it.

use std::collections::{BTreeMap, BTreeSet};

use genie_log::testing::{Kind, TestStore, both_stores};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    disk_search::Fingerprints,
    fake_ollama::Step,
    files,
    test_genie::{Answer, SECRET, TestGenie, TestUser, answer},
    until::{moment_after, until},
};

/// Settings with which heads are signed often, so that certificates come soon, everybody may chat,
/// and the test can open the store.
fn soon(store: &TestStore) -> [(&'static str, String); 3] {
    let masters = store.masters().to_owned();
    [
        ("GENIE_SEAL_SECONDS", "1".into()),
        ("ONBOARDING_GATE", "off".into()),
        ("GENIE_MASTER_KEYS", masters),
    ]
}

async fn forget(genie: &TestGenie, admin: &TestUser, user: &TestUser) -> Answer {
    admin
        .post(
            genie,
            &format!("/api/admin/users/{}/forget", user.id),
            json!({}),
        )
        .await
}

/// Waits until genie has erased everything of a user.
async fn erased(genie: &TestGenie, admin: &TestUser, user: &str) -> Value {
    let path = format!("/api/admin/users/{user}/forgotten");
    until("the user to be erased", async || {
        let shown = admin.get(genie, &path).await;
        let is_erased = shown.status == 200 && shown.json["state"] == "erased";
        is_erased.then(|| shown.ok())
    })
    .await
}

/// The tables with rows that name this user in any column.
async fn rows_of(genie: &TestGenie, user: &str) -> BTreeSet<String> {
    let log = genie.store.open_to_read().await;
    let store = log.store();
    let sql = match genie.store.database_url() {
        None => {
            "SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table'"
        }
        Some(_) => {
            "SELECT CAST(table_name AS text), CAST(column_name AS text) FROM information_schema.columns \
             JOIN information_schema.tables USING (table_schema, table_name) \
             WHERE table_schema = 'public' AND table_type = 'BASE TABLE'"
        }
    };
    let columns: Vec<(String, String)> =
        sqlx::query_as(sql).fetch_all(store.reads()).await.unwrap();
    let mut found = BTreeSet::new();
    for (table, column) in columns.into_iter().filter(|(_, column)| {
        column.ends_with("_id") || column.ends_with("_by") || column == "owner"
    }) {
        // In either form of an id.
        let is_it = match genie.store.database_url() {
            None => format!("{column} IN ($1, unhex($1, '-'))"),
            Some(_) => format!("CAST({column} AS text) = $1"),
        };
        let sql = format!("SELECT count(*) FROM {table} WHERE {is_it}");
        let count: i64 = sqlx::query_scalar(&sql)
            .bind(user)
            .fetch_one(store.reads())
            .await
            .unwrap();
        if count > 0 {
            found.insert(table);
        }
    }
    found
}

/// A user with data in as many tables as possible.
async fn full_life(genie: &mut TestGenie, name: &str) -> TestUser {
    let user = genie.user(name).await;
    let credentials = json!({"platform": "onlyfans", "credentials": {"password": "hunter2"}, "platform_username": name});
    user.post(genie, "/api/credentials/create-profile", credentials)
        .await
        .ok();
    files::upload(genie, &user, "diary.png", &files::png(100))
        .await
        .ok();
    user.submit_job(genie).await;
    genie.claim().await;
    user.submit_job(genie).await;
    genie.ollama.script(
        "secret",
        &[Step::Say("Hello"), Step::Say(" you"), Step::Done],
    );
    let mut events = user.ask(genie, "diary", "my deepest secret").await;
    while events.next().await.is_some() {}
    genie.settle().await;
    user
}

both_stores!(
    nothing_is_left_of_a_forgotten_user_but_the_fact_of_forgetting,
    async |store: TestStore| {
        let settings = soon(&store);
        let mut genie = TestGenie::start_with(store, &settings).await;
        let admin = genie.user("admin").await;
        let ada = full_life(&mut genie, "ada").await;
        let before = rows_of(&genie, &ada.id).await;
        for table in [
            "accounts",
            "blobs",
            "chats",
            "credentials",
            "invites",
            "jobs",
            "leases",
            "messages",
            "secrets",
            "sessions",
        ] {
            assert!(
                before.contains(table),
                "{table} has nothing of the user: {before:?}"
            );
        }

        let answer = forget(&genie, &admin, &ada).await.ok();
        assert_eq!(answer["userId"], json!(ada.id));
        assert_eq!(ada.get(&genie, "/users/me").await.status, 401);
        assert_eq!(
            ada.post(
                &genie,
                "/api/queue/media",
                json!({"operation": "thumbnail", "input_url": "http://a/b"})
            )
            .await
            .status,
            401
        );
        let login = json!({"email": "ada@example.com", "password": "ada's password"});
        assert_eq!(
            genie
                .send(Method::POST, "/auth/login", &[], Some(login))
                .await
                .status,
            401
        );
        let refresh = json!({"refresh_token": ada.refresh});
        assert_eq!(
            genie
                .send(Method::POST, "/auth/refresh", &[], Some(refresh))
                .await
                .status,
            401
        );

        let shown = erased(&genie, &admin, &ada.id).await;
        let kept = ["events", "forgettings", "user_keys"];
        assert_eq!(
            rows_of(&genie, &ada.id).await,
            kept.map(str::to_owned).into()
        );

        let note = shown["certificate"].as_str().unwrap();
        let log = genie.store.open_to_read().await;
        let text = String::from_utf8(
            log.proofs()
                .head_key()
                .await
                .unwrap()
                .public()
                .open_text(note)
                .unwrap(),
        )
        .unwrap();
        for line in [
            format!("user: {}", ada.id),
            format!("position: {}", shown["position"]),
            "at the wish of: administrator".into(),
        ] {
            assert!(
                text.lines().any(|one| one == line),
                "{line} is missing in {text}"
            );
        }
        assert!(text.contains("wrapped by master key m1"), "{text}");
        let again = forget(&genie, &admin, &ada).await.ok();
        assert_eq!(
            again["certificate"], shown["certificate"],
            "asking again is no error and gives the same answer"
        );
    }
);

both_stores!(
    the_feed_shows_tombstones_and_the_one_fact,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let admin = genie.user("admin").await;
        let ada = genie.user("ada").await;
        forget(&genie, &admin, &ada).await.ok();
        let secret = [("X-RBAC-SYNC-SECRET", SECRET.to_owned())];
        for personal in ["false", "true"] {
            let path = format!("/api/events?user={}&personal={personal}&limit=100", ada.id);
            let page = genie.send(Method::GET, &path, &secret, None).await.ok();
            let events = page["data"].as_array().unwrap();
            let (last, before) = events.split_last().unwrap();
            assert!(
                before
                    .iter()
                    .all(|one| one["data"].is_null() && one["forgotten"] == true),
                "{before:?}"
            );
            assert!(
                before.iter().all(|one| one.get("callerid").is_none()),
                "{before:?}"
            );
            assert_eq!(
                (last["type"].as_str(), &last["data"]),
                (Some("account.forgotten"), &json!({"by": "administrator"}))
            );
            assert_eq!(
                (&last["forgotten"], &last["callerid"]),
                (&json!(true), &json!(admin.id))
            );
        }
    }
);

both_stores!(
    a_forgotten_users_address_is_free_again,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let admin = genie.user("admin").await;
        let ada = genie.user("ada").await;
        forget(&genie, &admin, &ada).await.ok();
        let again = genie.user("ada").await;
        assert_ne!(again.id, ada.id);
        assert_eq!(again.get(&genie, "/users/me").await.status, 200);
        let events = again.get(&genie, "/api/me/events").await.ok();
        assert!(
            events["data"]
                .as_array()
                .unwrap()
                .iter()
                .all(|one| one["userid"] == json!(again.id))
        );
        // An administrator still sees that the invite was used, but not by whom.
        genie.settle().await;
        let invites = admin.get(&genie, "/api/admin/invites").await.ok();
        let of_ada = &invites["data"][1];
        assert_eq!(
            (of_ada["status"].as_str(), &of_ada["used_by"]),
            (Some("used"), &Value::Null),
            "{invites}"
        );
    }
);

both_stores!(
    requests_about_a_forgotten_user_are_not_found,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let admin = genie.user("admin").await;
        let ada = genie.user("ada").await;
        let credentials = json!({"platform": "onlyfans", "credentials": {"password": "hunter2"}});
        let held = ada
            .post(&genie, "/api/credentials/create-profile", credentials)
            .await
            .ok();
        forget(&genie, &admin, &ada).await.ok();
        let reveal = genie
            .server(
                "/api/credentials/reveal",
                json!({"creatorProfileId": held["id"]}),
            )
            .await;
        assert!(
            !reveal
                .refused(404, "not_found")
                .to_string()
                .contains("hunter2")
        );
        let sync = json!({"userId": ada.id, "tier": "pro"});
        genie
            .server("/api/rbac-sync", sync)
            .await
            .refused(404, "not_found");
        let of = |route: &str| format!("/api/admin/users/{}/{route}", ada.id);
        admin
            .post(&genie, &of("impersonate"), json!({}))
            .await
            .refused(404, "not_found");
        admin
            .post(&genie, &of("password-reset"), json!({}))
            .await
            .refused(404, "not_found");
        admin
            .delete(&genie, &of("forget"))
            .await
            .refused(409, "already_forgotten");
        let nobody = "0192d4e0-7f3a-7c3b-8f4e-0123456789ac";
        admin
            .post(
                &genie,
                &format!("/api/admin/users/{nobody}/forget"),
                json!({}),
            )
            .await
            .refused(404, "not_found");
        admin
            .get(&genie, &format!("/api/admin/users/{nobody}/forgotten"))
            .await
            .refused(404, "not_found");
    }
);

both_stores!(
    a_user_can_ask_to_be_forgotten_and_cancel_during_the_grace,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let admin = genie.user("admin").await;
        let ada = genie.user("ada").await;
        let leave = async |body| {
            genie
                .send(Method::DELETE, "/api/me", &ada.headers(), body)
                .await
        };
        leave(Some(json!({"password": "wrong"})))
            .await
            .refused(403, "wrong_password");
        leave(Some(json!({"password": 7})))
            .await
            .refused(400, "invalid_field");
        let asked = leave(Some(json!({"password": "ada's password"})))
            .await
            .ok();
        assert_eq!(asked["state"], "requested");
        assert!(asked["due_at"].as_str().is_some(), "{asked}");
        assert_eq!(ada.get(&genie, "/users/me").await.status, 401);
        let login = json!({"email": "ada@example.com", "password": "ada's password"});
        assert_eq!(
            genie
                .send(Method::POST, "/auth/login", &[], Some(login.clone()))
                .await
                .status,
            401
        );
        genie
            .server(
                "/api/rbac-sync",
                json!({"userId": ada.id, "status": "active"}),
            )
            .await
            .ok();
        assert_eq!(
            genie
                .send(Method::POST, "/auth/login", &[], Some(login.clone()))
                .await
                .status,
            401
        );

        let path = format!("/api/admin/users/{}/forget", ada.id);
        assert_eq!(admin.delete(&genie, &path).await.ok()["withdrawn"], true);
        assert_eq!(admin.delete(&genie, &path).await.ok()["withdrawn"], false);
        assert_eq!(
            genie
                .send(Method::POST, "/auth/login", &[], Some(login))
                .await
                .status,
            200
        );
        admin
            .get(&genie, &format!("/api/admin/users/{}/forgotten", ada.id))
            .await
            .refused(404, "not_found");
    }
);

both_stores!(
    without_grace_a_user_is_forgotten_at_once,
    async |store: TestStore| {
        let mut genie = TestGenie::start_with(store, &[("FORGET_GRACE", "0".into())]).await;
        genie.user("admin").await;
        let ada = genie.user("ada").await;
        // The login is fresh, so no password is needed.
        let gone = ada.delete(&genie, "/api/me").await.ok();
        assert_ne!(gone["state"], "requested", "{gone}");
        assert_eq!(ada.get(&genie, "/users/me").await.status, 401);
    }
);

both_stores!(
    a_pending_deletion_happens_when_its_grace_ends,
    async |store: TestStore| {
        let mut genie = TestGenie::start_with(
            store,
            &[
                ("FORGET_GRACE", "1s".into()),
                ("GENIE_SEAL_SECONDS", "1".into()),
            ],
        )
        .await;
        let admin = genie.user("admin").await;
        let ada = genie.user("ada").await;
        ada.delete(&genie, "/api/me").await.ok();
        genie.restart().await; // the server that noted the request dies
        let shown = erased(&genie, &admin, &ada.id).await;
        assert!(
            shown["certificate"]
                .as_str()
                .unwrap()
                .contains("at the wish of: user")
        );
    }
);

both_stores!(
    the_last_administrator_cannot_be_forgotten_over_http,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let admin = genie.user("admin").await;
        forget(&genie, &admin, &admin)
            .await
            .refused(409, "last_administrator");
        admin
            .delete(&genie, "/api/me")
            .await
            .refused(409, "last_administrator");
        let ada = genie.user("ada").await;
        forget(&genie, &ada, &admin).await.refused(403, "forbidden");
        genie
            .server(
                "/api/rbac-sync",
                json!({"userId": ada.id, "role": "administrator"}),
            )
            .await
            .ok();
        genie.settle().await;
        forget(&genie, &admin, &admin).await.ok();
    }
);

both_stores!(
    of_administrators_who_leave_at_once_one_remains,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let mut one = genie.user("admin").await;
        for round in 0..4 {
            let name = format!("ada{round}");
            let invite = one.post(&genie, "/api/admin/invites", json!({})).await.ok();
            let code = invite["data"][0]["code"].as_str().unwrap();
            let other = genie.register(&name, code).await;
            let promotion = json!({"userId": other.id, "role": "administrator"});
            genie.server("/api/rbac-sync", promotion).await.ok();
            genie.settle().await;
            let other = genie.user_again(&name, &other.id).await;
            // Each forgets the other, or each goes by themselves.
            let statuses = if round % 2 == 0 {
                tokio::join!(forget(&genie, &one, &other), forget(&genie, &other, &one))
            } else {
                tokio::join!(
                    one.delete(&genie, "/api/me"),
                    other.delete(&genie, "/api/me")
                )
            };
            let statuses = [statuses.0.status.as_u16(), statuses.1.status.as_u16()];
            let gone = statuses.iter().filter(|status| **status == 200).count();
            assert_eq!(gone, 1, "{statuses:?} in round {round}");
            let first_remains = (statuses[0] == 200) == (round % 2 == 0);
            one = if first_remains { one } else { other };
            let invites = one.get(&genie, "/api/admin/invites").await;
            assert_eq!(invites.status, 200, "the one who remains administers");
        }
    }
);

both_stores!(
    an_impersonator_cannot_have_the_user_forgotten,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let admin = genie.user("admin").await;
        let ada = genie.user("ada").await;
        let begun = admin
            .post(
                &genie,
                &format!("/api/admin/users/{}/impersonate", ada.id),
                json!({}),
            )
            .await
            .ok();
        let acting = TestUser {
            token: begun["access_token"].as_str().unwrap().to_owned(),
            ..ada.clone()
        };
        acting
            .delete(&genie, "/api/me")
            .await
            .refused(403, "forbidden");
        assert_eq!(ada.get(&genie, "/users/me").await.status, 200);
    }
);

both_stores!(
    work_in_progress_for_a_forgotten_user_is_stopped,
    async |store: TestStore| {
        let settings = soon(&store);
        let mut genie = TestGenie::start_with(store, &settings).await;
        let admin = genie.user("admin").await;
        let ada = genie.user("ada").await;
        let (running, waiting) = (ada.submit_job(&genie).await, ada.submit_job(&genie).await);
        let claimed = genie.claim().await;
        assert_eq!(claimed["jobId"], json!(running));
        genie.ollama.script(
            "secret",
            &[Step::Say("one"), Step::Hold, Step::Say(" two"), Step::Done],
        );
        let mut events = ada.ask(&genie, "diary", "my deepest secret").await;
        genie.ollama.asked().await;
        while events.next().await.expect("the turn is answered").data["textResponse"] != "one" {}

        forget(&genie, &admin, &ada).await.ok();
        genie.ollama.cancelled().await;
        while events.next().await.is_some() {}
        let lease = json!({"lease": claimed["lease"]});
        for route in ["heartbeat", "complete", "fail"] {
            let body = json!({"lease": lease["lease"], "result": {}, "error": "x"});
            let said = genie
                .server(&format!("/api/worker/jobs/{running}/{route}"), body)
                .await;
            assert!(
                said.status == 404 || said.status == 409,
                "{route}: {:?}",
                said.json
            );
        }
        let claim = json!({"queues": ["media-jobs"], "worker_id": "worker-1"});
        assert_eq!(
            genie.server("/api/worker/claim", claim).await.ok()["jobs"],
            json!([]),
            "job {waiting} must not be handed out"
        );
        erased(&genie, &admin, &ada.id).await;
        let left = rows_of(&genie, &ada.id).await;
        assert!(
            !left.contains("leases") && !left.contains("journal"),
            "{left:?}"
        );
        genie.settle().await;
        let stats = genie
            .send(Method::GET, "/api/queue/stats", &[], None)
            .await
            .ok();
        assert_eq!(
            (&stats["stats"]["active"], &stats["stats"]["waiting"]),
            (&json!(0), &json!(0)),
            "{stats}"
        );
    }
);

/// The output of a command, and whether it succeeded.
async fn said_by(genie: &TestGenie, arguments: &[&str]) -> (bool, String) {
    let output = genie
        .command(arguments)
        .env("GENIE_EXPORT_PASSPHRASE", "correct horse")
        .output()
        .await
        .unwrap();
    let text = [output.stdout, output.stderr]
        .map(|bytes| String::from_utf8(bytes).unwrap())
        .concat();
    (output.status.success(), text)
}

both_stores!(
    a_search_of_the_store_finds_a_user_before_forgetting_and_nothing_afterwards,
    async |store: TestStore| {
        let settings = soon(&store);
        let mut genie = TestGenie::start_with(store, &settings).await;
        genie.user("admin").await;
        let ada = full_life(&mut genie, "ada").await;
        let bob = full_life(&mut genie, "bob").await;
        let strays = "CREATE TABLE strays AS SELECT sealed FROM secrets WHERE user_id =";

        // Forgets a user beside the running server.
        let fingerprints = Fingerprints::take(&genie.store, &ada.id).await;
        assert!(!fingerprints.found(&genie.store).await.is_empty());
        let (is_good, said) = said_by(&genie, &["forget", &ada.id]).await;
        assert!(
            is_good && said.contains("at the wish of: operator"),
            "{said}"
        );
        assert_eq!(fingerprints.found(&genie.store).await, BTreeMap::new());
        let nothing = Fingerprints::take(&genie.store, &ada.id).await;
        assert!(nothing.is_empty(), "nothing of ada is left");

        // Forgets a user without a server. The search still finds a copy in a table that genie does
        // not know.
        assert!(genie.terminate().await);
        genie
            .store
            .try_sql(&format!("{strays} '{}'", bob.id))
            .await
            .unwrap();
        let fingerprints = Fingerprints::take(&genie.store, &bob.id).await;
        for _ in 0..2 {
            let (is_good, said) = said_by(&genie, &["forget", &bob.id]).await;
            assert!(
                is_good && said.contains(&format!("user: {}", bob.id)),
                "asking again is no error: {said}"
            );
        }
        let left = fingerprints.found(&genie.store).await;
        assert_eq!(left.keys().collect::<Vec<_>>(), [&"secrets.sealed"]);
        genie.launch_again().await;
        let login = json!({"email": "bob@example.com", "password": "bob's password"});
        assert_eq!(
            genie
                .send(Method::POST, "/auth/login", &[], Some(login))
                .await
                .status,
            401
        );
    }
);

both_stores!(
    a_user_restored_from_a_backup_is_forgotten_again,
    async |store: TestStore| {
        let ledger = store
            .folder()
            .join("elsewhere/forgotten")
            .to_str()
            .unwrap()
            .to_owned();
        let settings = [
            soon(&store).to_vec(),
            vec![("GENIE_FORGOTTEN_FILE", ledger.clone())],
        ]
        .concat();
        let mut genie = TestGenie::start_with(store, &settings).await;
        let admin = genie.user("admin").await;
        let ada = full_life(&mut genie, "ada").await;
        let bob = genie.user("bob").await;
        let backup = genie
            .store
            .folder()
            .join("backup")
            .to_str()
            .unwrap()
            .to_owned();
        let (is_good, said) = said_by(&genie, &["log", "export", &backup]).await;
        assert!(is_good, "{said}");
        forget(&genie, &admin, &ada).await.ok();
        erased(&genie, &admin, &ada.id).await;
        assert!(
            std::fs::read_to_string(&ledger)
                .unwrap()
                .starts_with(&ada.id)
        );
        genie.kill().await;

        for checked_first in [false, true] {
            let mut restored =
                TestGenie::not_started(TestStore::new(genie.store.kind).await, &settings).await;
            let (is_good, said) = said_by(&restored, &["log", "import", &backup]).await;
            assert!(is_good, "{said}");
            if checked_first {
                let (is_good, said) = said_by(&restored, &["restore-check"]).await;
                assert!(is_good && said.contains(&ada.id), "{said}");
            }
            restored.launch_again().await;
            let again = restored
                .said
                .iter()
                .any(|line| line.contains(&ada.id) && line.contains("forgotten again"));
            assert_eq!(again, !checked_first, "{:?}", restored.said);
            assert_eq!(ada.get(&restored, "/users/me").await.status, 401);
            assert_eq!(bob.get(&restored, "/users/me").await.status, 200);
            let shown = erased(&restored, &admin, &ada.id).await;
            assert!(
                shown["certificate"]
                    .as_str()
                    .unwrap()
                    .contains("at the wish of: ledger")
            );
            let (is_good, said) = said_by(&restored, &["restore-check"]).await;
            assert!(is_good && said.contains("is back"), "{said}");
        }
    }
);

both_stores!(
    kill_9_leaves_a_user_whole_or_forgotten,
    async |store: TestStore| {
        let settings = soon(&store);
        let mut genie = TestGenie::start_process_with(store, &settings).await;
        let admin = genie.user("admin").await;
        let mut forgotten = 0;
        for round in 0..8_u64 {
            let name = format!("user{round}");
            let user = full_life(&mut genie, &name).await;
            let asked = {
                let http = genie.http.clone();
                let url = format!("{}/api/admin/users/{}/forget", genie.base, user.id);
                let token = admin.token.clone();
                tokio::spawn(async move {
                    http.post(url)
                        .bearer_auth(token)
                        .send()
                        .await
                        .map(|answer| answer.status().as_u16())
                })
            };
            // Each round dies at another moment: before the append, or at one of the steps after
            // it.
            moment_after([0, 4, 8, 12, 20, 40, 100, 400][round as usize]).await;
            genie.restart().await;
            let is_acknowledged = matches!(asked.await.unwrap(), Ok(200));
            let shown = admin
                .get(&genie, &format!("/api/admin/users/{}/forgotten", user.id))
                .await;
            let login = json!({"email": format!("{name}@example.com"), "password": format!("{name}'s password")});
            let login = genie
                .send(Method::POST, "/auth/login", &[], Some(login))
                .await;
            match shown.status.as_u16() {
                404 => {
                    assert!(
                        !is_acknowledged,
                        "the server had answered that user {round} was forgotten"
                    );
                    assert_eq!(login.status, 200);
                    let credentials = user.get(&genie, "/api/credentials").await.ok();
                    let path = json!({"creatorProfileId": credentials["data"][0]["id"]});
                    let revealed = genie.server("/api/credentials/reveal", path).await.ok();
                    assert_eq!(revealed["credentials"]["password"], "hunter2");
                }
                200 => {
                    forgotten += 1;
                    assert_eq!(login.status, 401);
                    erased(&genie, &admin, &user.id).await;
                    assert_eq!(
                        rows_of(&genie, &user.id).await.len(),
                        3,
                        "only events, key and the record of forgetting are left"
                    );
                }
                status => panic!("{status}: {:?}", shown.json),
            }
        }
        assert!(forgotten > 0, "every kill came before the append");
    }
);

/// Only Postgres can be shared by several servers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_forgotten_on_one_server_is_refused_by_the_next_command_on_another() {
    let mut genie = TestGenie::start(TestStore::new(Kind::Postgres).await).await;
    let admin = genie.user("admin").await;
    let other = genie.another_node().await;
    for round in 0..5 {
        let ada = genie.user(&format!("ada{round}")).await;
        genie.settle().await;
        let job = || {
            let request = genie
                .http
                .post(format!("{}/api/queue/media", other.base))
                .bearer_auth(&ada.token);
            answer(request.json(&json!({"operation": "thumbnail", "input_url": "http://a/b"})))
        };
        job().await.ok(); // the user's actor is awake on the other server
        forget(&genie, &admin, &ada).await.ok();
        let refused = job().await;
        assert!(
            [401, 404].contains(&refused.status.as_u16()),
            "{:?}",
            refused.json
        );
    }
}

both_stores!(
    users_with_damaged_facts_can_be_forgotten,
    async |store: TestStore| {
        let settings = soon(&store);
        let mut genie = TestGenie::start_process_with(store, &settings).await;
        let admin = genie.user("admin").await;
        let mut users = Vec::new();
        for (name, damage) in [("ada", "event_version = 9"), ("bob", "payload = digest")] {
            users.push((full_life(&mut genie, name).await, damage));
        }
        genie.settle().await;
        for (user, damage) in &users {
            let login = format!(
                "UPDATE events SET {damage} WHERE event_type = 'account.signed_in' AND owner = unhex('{}', '-')",
                user.id
            );
            genie.store.tamper(&login).await;
        }
        genie.restart().await;
        for (user, damage) in &users {
            let forgotten = forget(&genie, &admin, user).await;
            assert_eq!(forgotten.status, 200, "{damage}: {}", forgotten.json);
            assert_eq!(user.get(&genie, "/users/me").await.status, 401, "{damage}");
        }
        // The head signer and everything else that reads a damaged fact stops, as it should. The
        // rest goes on.
        let tables = [
            "accounts", "chats", "jobs", "messages", "secrets", "sessions",
        ];
        for (user, _) in &users {
            until("the working tables to lose the user's rows", async || {
                let left = rows_of(&genie, &user.id).await;
                (!tables.iter().any(|table| left.contains(*table))).then_some(())
            })
            .await;
        }
    }
);

both_stores!(
    a_log_with_a_forgotten_user_verifies_and_moves_to_another_store,
    async |store: TestStore| {
        let settings = soon(&store);
        let mut genie = TestGenie::start_with(store, &settings).await;
        let admin = genie.user("admin").await;
        let ada = full_life(&mut genie, "ada").await;
        forget(&genie, &admin, &ada).await.ok();
        let certificate = erased(&genie, &admin, &ada.id).await["certificate"].clone();
        let (is_good, said) = said_by(&genie, &["audit", "verify"]).await;
        assert!(is_good, "{said}");
        assert!(genie.terminate().await);
        let export = genie
            .store
            .folder()
            .join("export")
            .to_str()
            .unwrap()
            .to_owned();
        let (is_good, said) = said_by(&genie, &["log", "export", &export]).await;
        assert!(is_good, "{said}");

        let mut moved =
            TestGenie::not_started(TestStore::new(genie.store.kind).await, &settings).await;
        let (is_good, said) = said_by(&moved, &["log", "import", &export]).await;
        assert!(is_good, "{said}");
        moved.launch_again().await;
        assert_eq!(ada.get(&moved, "/users/me").await.status, 401);
        assert_eq!(
            erased(&moved, &admin, &ada.id).await["certificate"],
            certificate
        );
        let events = admin
            .get(
                &moved,
                &format!("/api/events?user={}&types=account.forgotten", ada.id),
            )
            .await
            .ok();
        assert_eq!(events["data"][0]["data"], json!({"by": "administrator"}));
        let (is_good, said) = said_by(&moved, &["audit", "verify"]).await;
        assert!(is_good, "{said}");
    }
);
