//! Service keys: each scope opens its own routes, a revoked or expired key opens none, and facts
//! name the key.

use std::time::Duration;

use genie_log::testing::{Kind, TestStore, both_stores};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    test_genie::{Answer, Events, SECRET, TestGenie, TestUser},
    until::until,
};

const SCOPES: [&str; 5] = [
    "events:read",
    "events:read:personal",
    "jobs:work",
    "audit:read",
    "credentials:reveal",
];

/// A service key with its id.
pub struct Key {
    pub id: String,
    key: String,
}

impl Key {
    pub async fn make(genie: &TestGenie, admin: &TestUser, scopes: &[&str]) -> Self {
        let made = admin
            .post(
                genie,
                "/api/admin/service-keys",
                json!({"name": "a key", "scopes": scopes}),
            )
            .await
            .ok();
        let text = |field: &str| made[field].as_str().unwrap().to_owned();
        assert!(text("key").starts_with("gk_"), "{made}");
        Self {
            id: text("id"),
            key: text("key"),
        }
    }

    pub fn header(&self) -> (&'static str, String) {
        ("Authorization", format!("Bearer {}", self.key))
    }

    async fn send(
        &self,
        genie: &TestGenie,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Answer {
        genie.send(method, path, &[self.header()], body).await
    }

    async fn get(&self, genie: &TestGenie, path: &str) -> Answer {
        self.send(genie, Method::GET, path, None).await
    }

    pub async fn post(&self, genie: &TestGenie, path: &str, body: Value) -> Answer {
        self.send(genie, Method::POST, path, Some(body)).await
    }

    async fn revoke(&self, genie: &TestGenie, admin: &TestUser) -> Answer {
        admin
            .delete(genie, &format!("/api/admin/service-keys/{}", self.id))
            .await
    }
}

async fn store_credential(genie: &TestGenie, user: &TestUser) -> Value {
    let profile = json!({"platform": "x", "credentials": {"password": "hunter2"}});
    user.post(genie, "/api/credentials/create-profile", profile)
        .await
        .ok()["id"]
        .clone()
}

both_stores!(
    each_scope_opens_its_routes_and_no_others,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let admin = genie.user("ada").await;
        let credential = store_credential(&genie, &admin).await;
        let job = admin.submit_job(&genie).await;
        let claim = json!({"queues": ["scrape-jobs"], "worker_id": "w"});
        let lease = json!({"lease": "none", "error": "e"});
        let routes = [
            (
                Method::GET,
                "/api/events".to_owned(),
                None,
                vec!["events:read", "events:read:personal"],
            ),
            (
                Method::POST,
                "/api/worker/claim".to_owned(),
                Some(claim),
                vec!["jobs:work"],
            ),
            (
                Method::POST,
                format!("/api/worker/jobs/{job}/heartbeat"),
                Some(lease.clone()),
                vec!["jobs:work"],
            ),
            (
                Method::POST,
                format!("/api/worker/jobs/{job}/complete"),
                Some(lease.clone()),
                vec!["jobs:work"],
            ),
            (
                Method::POST,
                format!("/api/worker/jobs/{job}/fail"),
                Some(lease),
                vec!["jobs:work"],
            ),
            (
                Method::GET,
                "/api/admin/audit/proof?position=1".to_owned(),
                None,
                vec!["audit:read"],
            ),
            (
                Method::POST,
                "/api/credentials/reveal".to_owned(),
                Some(json!({"creatorProfileId": credential})),
                vec!["credentials:reveal"],
            ),
        ];
        let no_file = "/api/files/00000000-0000-7000-8000-000000000000";
        let routes = routes
            .into_iter()
            .chain([(Method::GET, no_file.to_owned(), None, vec!["jobs:work"])])
            .collect::<Vec<_>>();
        let closed = [
            (Method::GET, "/api/jobs"),
            (Method::GET, "/api/me/events"),
            (Method::GET, "/api/credentials"),
            (Method::GET, "/api/admin/invites"),
            (Method::GET, "/api/admin/service-keys"),
            (
                Method::DELETE,
                "/api/admin/service-keys/0123456789abcdef0123456789abcdef",
            ),
        ];
        for scope in SCOPES {
            let key = Key::make(&genie, &admin, &[scope]).await;
            for (method, path, body, opened_by) in &routes {
                let answer = key.send(&genie, method.clone(), path, body.clone()).await;
                if opened_by.contains(&scope) {
                    let code = answer.json["code"].as_str().unwrap_or_default();
                    assert!(
                        !["invalid_token", "scope_needed", "forbidden"].contains(&code),
                        "{scope} {path}: {:?}",
                        answer.json
                    );
                } else {
                    let sentence = answer.refused(403, "scope_needed")["error"].clone();
                    assert!(
                        sentence
                            .as_str()
                            .unwrap()
                            .contains(&format!("`{}`", opened_by[0])),
                        "{scope} {path}: {sentence}"
                    );
                }
            }
            for (method, path) in &closed {
                key.send(&genie, method.clone(), path, None)
                    .await
                    .refused(403, "forbidden");
            }
            // Routes of the shared secret alone.
            let body = json!({"creatorProfileId": credential, "credentials": {"p": "q"}});
            key.post(&genie, "/api/credentials/store", body)
                .await
                .refused(403, "forbidden");
        }
    }
);

both_stores!(
    a_key_is_shown_once_and_opens_nothing_once_it_is_revoked,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let admin = genie.user("ada").await;
        let bob = genie.user("bob").await;
        let (kept, gone) = (
            Key::make(&genie, &admin, &SCOPES).await,
            Key::make(&genie, &admin, &["audit:read"]).await,
        );
        let listed = admin.get(&genie, "/api/admin/service-keys").await.ok();
        let rows = listed["data"].as_array().unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(
            (&rows[0]["name"], &rows[0]["scopes"], &rows[0]["created_by"]),
            (&json!("a key"), &json!(SCOPES), &json!(admin.id))
        );
        assert!(!listed.to_string().contains("gk_"), "{listed}");
        bob.get(&genie, "/api/admin/service-keys")
            .await
            .refused(403, "forbidden");

        let proof = "/api/admin/audit/proof?position=99999";
        gone.get(&genie, proof).await.refused(404, "not_found");
        let revoked = gone.revoke(&genie, &admin).await.ok();
        assert_eq!(
            (&revoked["id"], &revoked["revoked"]),
            (&json!(gone.id), &json!(true))
        );
        gone.get(&genie, proof).await.refused(401, "invalid_token");
        gone.revoke(&genie, &admin).await.ok(); // revoking twice is no error
        genie.restart().await;
        gone.get(&genie, proof).await.refused(401, "invalid_token");
        kept.get(&genie, proof).await.refused(404, "not_found");
        genie.settle().await;
        let listed = admin.get(&genie, "/api/admin/service-keys").await.ok();
        let revoked_at: Vec<bool> = listed["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["revoked_at"].is_string())
            .collect();
        assert_eq!(revoked_at, [false, true]);
        let first = admin
            .get(&genie, "/api/admin/service-keys?limit=1")
            .await
            .ok();
        let second = format!(
            "/api/admin/service-keys?limit=1&cursor={}",
            first["next_cursor"].as_str().unwrap()
        );
        assert_eq!(
            admin.get(&genie, &second).await.ok()["data"][0]["id"],
            json!(gone.id)
        );
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_one_server_revoked_opens_nothing_on_another() {
    let mut genie = TestGenie::start(TestStore::new(Kind::Postgres).await).await;
    let admin = genie.user("ada").await;
    genie.launch_beside().await;
    let proof = "/api/admin/audit/proof?position=99999";
    for _ in 0..5 {
        let key = Key::make(&genie, &admin, &["audit:read"]).await;
        for _ in 0..2 {
            key.get(&genie, proof).await.refused(404, "not_found"); // asks each server in turn
        }
        key.revoke(&genie, &admin).await.ok();
        until("both servers to hear of it", async || {
            let first = key.get(&genie, proof).await.status;
            let second = key.get(&genie, proof).await.status;
            (first == 401 && second == 401).then_some(())
        })
        .await;
    }
}

both_stores!(
    an_unknown_or_ended_key_is_401_and_a_malformed_request_for_one_is_400,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let admin = genie.user("ada").await;
        let unknown = Key {
            id: "0".repeat(32),
            key: format!("gk_{}", "0".repeat(64)),
        };
        unknown
            .get(&genie, "/api/events")
            .await
            .refused(401, "invalid_token");
        unknown
            .get(&genie, "/api/jobs")
            .await
            .refused(401, "invalid_token");
        unknown
            .revoke(&genie, &admin)
            .await
            .refused(404, "not_found");
        admin
            .delete(&genie, "/api/admin/service-keys/nonsense%00")
            .await
            .refused(404, "not_found");
        for (wrong, field) in [
            (json!({"scopes": ["audit:read"]}), "name"),
            (json!({"name": "", "scopes": ["audit:read"]}), "name"),
            (json!({"name": "n", "scopes": []}), "scopes"),
            (json!({"name": "n", "scopes": ["everything"]}), "scopes"),
            (
                json!({"name": "n", "scopes": ["audit:read"], "expires_at": "soon"}),
                "expires_at",
            ),
            (
                json!({"name": "n", "scopes": ["audit:read"], "expires_at": "2001-01-01T00:00:00Z"}),
                "expires_at",
            ),
        ] {
            let refused = admin
                .post(&genie, "/api/admin/service-keys", wrong)
                .await
                .refused(400, "invalid_field");
            assert!(
                refused["error"]
                    .as_str()
                    .unwrap()
                    .contains(&format!("`{field}`")),
                "{refused}"
            );
        }
        let hour = 60 * 60;
        let soon = genie.clock.now().plus_seconds(hour).rfc3339();
        let wanted = json!({"name": "n", "scopes": ["audit:read"], "expires_at": soon});
        let made = admin
            .post(&genie, "/api/admin/service-keys", wanted)
            .await
            .ok();
        assert_eq!(made["expires_at"], json!(soon));
        let short = Key {
            id: String::new(),
            key: made["key"].as_str().unwrap().to_owned(),
        };
        let path = "/api/admin/audit/proof?position=99999";
        assert_ne!(short.get(&genie, path).await.status, 401);
        genie.clock.advance_millis(hour * 1000);
        assert_eq!(short.get(&genie, path).await.status, 401);
    }
);

both_stores!(
    a_workers_key_reveals_only_for_a_job_that_it_holds,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let admin = genie.user("ada").await;
        let bob = genie.user("bob").await;
        let (of_bob, of_ada) = (
            store_credential(&genie, &bob).await,
            store_credential(&genie, &admin).await,
        );
        let job = json!({"operation": "publish_post", "creator_profile_id": of_bob});
        let job = bob.post(&genie, "/api/queue/media", job).await.ok();
        let job = job["jobId"].as_str().unwrap().to_owned();
        let worker = Key::make(&genie, &admin, &["jobs:work"]).await;
        let claim = json!({"queues": ["scrape-jobs"], "worker_id": "w", "wait_ms": 10_000});
        let claimed = worker.post(&genie, "/api/worker/claim", claim).await.ok();
        let lease = claimed["jobs"][0]["lease"].clone();
        let reveal = async |credential: &Value, job: &str, lease: &Value| {
            let body = json!({"creatorProfileId": credential, "jobId": job, "lease": lease});
            worker.post(&genie, "/api/credentials/reveal", body).await
        };
        worker
            .post(
                &genie,
                "/api/credentials/reveal",
                json!({"creatorProfileId": of_bob}),
            )
            .await
            .refused(403, "scope_needed");
        reveal(&of_bob, &job, &json!("another"))
            .await
            .refused(409, "stale_lease");
        reveal(&of_ada, &job, &lease)
            .await
            .refused(409, "stale_lease");
        assert_eq!(
            reveal(&of_bob, &job, &lease).await.ok()["credentials"]["password"],
            "hunter2"
        );
        worker
            .post(
                &genie,
                &format!("/api/worker/jobs/{job}/complete"),
                json!({"lease": lease}),
            )
            .await
            .ok();
        reveal(&of_bob, &job, &lease)
            .await
            .refused(409, "stale_lease");

        // Every fact of the key's work names the key.
        let printed = genie
            .command(&["audit", "--user", &bob.id, "--json"])
            .output()
            .await
            .unwrap();
        let facts: Vec<Value> = String::from_utf8(printed.stdout)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let by_key: Vec<&str> = facts
            .iter()
            .filter(|fact| fact["caller"] == json!(format!("service_key:{}", worker.id)))
            .map(|fact| fact["type"].as_str().unwrap())
            .collect();
        // Refused without a lease and with another job's lease. Repeating the last refusal within a
        // minute leaves no fact.
        let refused = ["credential.refused", "credential.refused"];
        assert_eq!(
            by_key,
            [
                &["job.claimed"][..],
                &refused,
                &["credential.revealed", "job.completed"]
            ]
            .concat()
        );
    }
);

both_stores!(
    reading_personal_data_is_recorded,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let admin = genie.user("ada").await;
        let bob = genie.user("bob").await;
        let job = json!({"operation": "resize_image", "input_url": "http://a/b", "params": {"width": 100}});
        bob.post(&genie, "/api/queue/media", job).await.ok();
        let plain = Key::make(&genie, &admin, &["events:read"]).await;
        let personal = Key::make(&genie, &admin, &["events:read:personal"]).await;
        let jobs = "/api/events?types=job.*";
        let params = |page: &Value| page["data"][0]["data"]["params"].clone();
        let reads = async || {
            let page = plain.get(&genie, "/api/events?types=access.*").await.ok();
            page["data"]
                .as_array()
                .unwrap()
                .iter()
                .map(|event| event["callerid"].clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(params(&plain.get(&genie, jobs).await.ok()), json!(null));
        plain
            .get(&genie, &format!("{jobs}&personal=true"))
            .await
            .refused(403, "scope_needed");
        assert_eq!(
            params(&admin.get(&genie, jobs).await.ok()),
            json!(null),
            "even an administrator has to ask for personal fields"
        );
        assert_eq!(
            params(
                &personal
                    .get(&genie, &format!("{jobs}&personal=false"))
                    .await
                    .ok()
            ),
            json!(null)
        );
        assert!(reads().await.is_empty());

        // Pages and live reads together leave one fact a minute.
        for _ in 0..3 {
            assert_eq!(
                params(&personal.get(&genie, jobs).await.ok()),
                json!({"width": 100})
            );
        }
        let live = genie
            .http
            .get(format!("{}{jobs}", genie.base))
            .header("Accept", "text/event-stream")
            .bearer_auth(&personal.key);
        assert_eq!(
            Events::open(live).await.next().await.unwrap().data["data"]["params"]["width"],
            100
        );
        assert_eq!(reads().await, [json!(personal.id)]);
        assert_eq!(
            params(
                &admin
                    .get(&genie, &format!("{jobs}&personal=true&reason=a%20test"))
                    .await
                    .ok()
            ),
            json!({"width": 100})
        );
        let secret = [("X-RBAC-SYNC-SECRET", SECRET.into())];
        let page = genie
            .send(
                Method::GET,
                &format!("{jobs}&personal=true&user={}", bob.id),
                &secret,
                None,
            )
            .await
            .ok();
        assert_eq!(params(&page), json!({"width": 100}));
        assert_eq!(
            reads().await,
            [json!(personal.id), json!(admin.id), json!(null)]
        );
        // No event shows an invite's code to anybody, because the code would let its reader
        // register.
        let invites = personal
            .get(&genie, "/api/events?types=invite.created")
            .await
            .ok();
        let codes = admin.get(&genie, "/api/admin/invites").await.ok();
        for invite in codes["data"].as_array().unwrap() {
            assert!(
                !invites
                    .to_string()
                    .contains(invite["code"].as_str().unwrap())
            );
        }
    }
);

both_stores!(
    a_key_revoked_while_its_request_waits_is_refused,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let admin = genie.user("ada").await;
        let (worker, reader) = (
            Key::make(&genie, &admin, &["jobs:work"]).await,
            Key::make(&genie, &admin, &["events:read"]).await,
        );
        let live = genie
            .http
            .get(format!("{}/api/events", genie.base))
            .header("Accept", "text/event-stream");
        let feed = Events::open(live.bearer_auth(&reader.key)).await;
        let claim = json!({"queues": ["media-jobs"], "worker_id": "w", "wait_ms": 30_000});
        let waiting = worker.post(&genie, "/api/worker/claim", claim);
        let revoking = async {
            worker.revoke(&genie, &admin).await.ok();
            reader.revoke(&genie, &admin).await.ok();
        };
        let (claimed, ()) = tokio::join!(waiting, revoking);
        claimed.refused(401, "invalid_token");
        tokio::time::timeout(Duration::from_secs(60), feed.rest())
            .await
            .expect("the feed ends long before a quarter of an hour");
    }
);

both_stores!(
    the_shared_secret_can_be_limited_to_the_original_s_routes,
    async |store: TestStore| {
        let mut genie =
            TestGenie::start_with(store, &[("SHARED_SECRET_ROUTES", "original".to_owned())]).await;
        let admin = genie.user("ada").await;
        let credential = store_credential(&genie, &admin).await;
        let secret = [("X-RBAC-SYNC-SECRET", SECRET.into())];
        genie
            .send(Method::GET, "/api/events", &secret, None)
            .await
            .refused(403, "forbidden");
        genie
            .send(
                Method::GET,
                "/api/admin/audit/proof?position=1",
                &secret,
                None,
            )
            .await
            .refused(403, "forbidden");
        let claim = json!({"queues": ["media-jobs"], "worker_id": "w"});
        genie
            .server("/api/worker/claim", claim.clone())
            .await
            .refused(403, "forbidden");
        let wrong = [("X-RBAC-SYNC-SECRET", "wrong".into())];
        genie
            .send(Method::GET, "/api/events", &wrong, None)
            .await
            .refused(401, "invalid_token");
        genie
            .server(
                "/api/credentials/reveal",
                json!({"creatorProfileId": credential}),
            )
            .await
            .ok();
        genie
            .server("/api/rbac-sync", json!({"userId": admin.id, "tier": "pro"}))
            .await
            .ok();
        Key::make(&genie, &admin, &["jobs:work"])
            .await
            .post(&genie, "/api/worker/claim", claim)
            .await
            .ok();
    }
);
