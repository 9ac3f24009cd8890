//! Words that people choose: platforms, roles, names of jobs and sessions, ids of requests. Their own user sees them.
//! Nobody else reads them, and after a forgetting they are nowhere.

use genie_events::event::CLEAR_FIELDS;
use genie_log::testing::{TestStore, both_stores};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    fake_ollama::Step,
    onboarding, secret_leaks,
    service_keys::Key,
    test_genie::{Answer, SECRET, TestGenie, TestUser},
    until::until,
};

/// Stands in each word that somebody chooses here.
const CANARY: &str = "canary";

fn settings(store: &TestStore) -> Vec<(&'static str, String)> {
    vec![
        ("GENIE_MASTER_KEYS", store.masters().to_owned()),
        ("GENIE_SEAL_SECONDS", "1".to_owned()),
        ("GENIE_ROLES", "canary-role,canary-invite".to_owned()),
        ("GENIE_LOG", "debug".to_owned()),
        (
            "GENIE_EXPORT_PASSPHRASE",
            "correct horse battery".to_owned(),
        ),
    ]
}

/// A request whose client chooses its id and its key.
async fn send(
    genie: &TestGenie,
    who: &[(&str, String)],
    method: Method,
    path: &str,
    body: Value,
) -> Answer {
    let mut headers = who.to_vec();
    headers.push(("X-Request-Id", "canary-request".to_owned()));
    headers.push(("Idempotency-Key", format!("canary-key-{path}-{body}")));
    let body = Some(body).filter(|body| !body.is_null());
    let answer = genie.send(method, path, &headers, body).await;
    assert_eq!(answer.headers["X-Request-Id"], "canary-request");
    let own = answer.headers["Genie-Request-Id"].to_str().unwrap();
    assert!(uuid::Uuid::try_parse(own).is_ok(), "{own}");
    if answer.json["ok"] == false {
        assert_eq!(
            answer.json["request_id"], own,
            "a failure tells the log's id"
        );
    }
    answer
}

/// The user's life with words of the user's own. Answers the id of a job.
async fn live(genie: &TestGenie, user: &TestUser) -> String {
    let who = user.headers();
    let secret = [("X-RBAC-SYNC-SECRET", SECRET.to_owned())];
    let post = async |path: &str, body: Value| send(genie, &who, Method::POST, path, body).await;
    let mut profile = String::new();
    for (route, mut body) in [
        (
            "platform-session",
            json!({"cookies": [{"name": "n", "value": "v", "domain": ".x.com"}]}),
        ),
        (
            "download-cred",
            json!({"kind": "password", "username": "canary-user", "password": "p"}),
        ),
        (
            "create-profile",
            json!({"credentials": {"p": "q"}, "platform_username": "canary-user"}),
        ),
    ] {
        body["platform"] = json!("Canary-Platform");
        let stored = post(&format!("/api/credentials/{route}"), body).await.ok();
        profile = stored["id"].as_str().unwrap().to_owned();
    }
    let job = json!({"jobId": "canary-job.1", "operation": "publish_post", "creator_profile_id": profile});
    let id = post("/api/queue/media", job).await.ok()["id"].clone();
    post("/api/queue/cancel/canary-job.1", Value::Null)
        .await
        .ok();
    post("/api/queue/retry/canary-job.1", Value::Null)
        .await
        .ok();
    post("/api/queue/cancel/canary-job.2", Value::Null)
        .await
        .refused(404, "not_found");
    send(
        genie,
        &who,
        Method::GET,
        "/api/jobs/canary-job.2",
        Value::Null,
    )
    .await
    .refused(404, "not_found");
    post("/api/queue/media", json!({"operation": CANARY}))
        .await
        .refused(400, "invalid_field");

    let reveal = json!({"creatorProfileId": profile, "purpose": "canary-purpose"});
    send(
        genie,
        &secret,
        Method::POST,
        "/api/credentials/reveal",
        reveal,
    )
    .await
    .ok();
    let elsewhere = json!({"userId": user.id, "platform": "canary-elsewhere"});
    send(
        genie,
        &secret,
        Method::POST,
        "/api/credentials/get-platform-session",
        elsewhere,
    )
    .await
    .refused(404, "not_found");
    let role = json!({"userId": user.id, "role": "canary-role"});
    send(genie, &secret, Method::POST, "/api/rbac-sync", role)
        .await
        .ok();

    let step = json!({"state": "DATA_COLLECTION"});
    send(genie, &who, Method::PATCH, "/api/onboarding/state", step)
        .await
        .ok();
    let archive = onboarding::zip("canary.txt", b"canary");
    onboarding::upload(genie, user, &archive).await.ok();
    genie
        .ollama
        .script("canary-question", &[Step::Say("canary-answer"), Step::Done]);
    let mut events = user.ask(genie, "canary-session", "canary-question").await;
    while events.next().await.is_some() {}
    genie.settle().await;
    id.as_str().unwrap().to_owned()
}

/// All facts, as a caller sees them.
async fn feed(genie: &TestGenie, who: (&'static str, String), personal: bool) -> Vec<Value> {
    let mut all = Vec::new();
    let mut after = String::new();
    loop {
        let path = format!("/api/events?limit=500&personal={personal}{after}");
        let page = genie
            .send(Method::GET, &path, std::slice::from_ref(&who), None)
            .await
            .ok();
        all.extend_from_slice(page["data"].as_array().unwrap());
        if page["has_more"] == false {
            return all;
        }
        after = format!("&after={}", page["next_cursor"].as_str().unwrap());
    }
}

/// What a command prints.
async fn printed(genie: &TestGenie, arguments: &[&str]) -> String {
    let output = genie.command(arguments).output().await.unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    [output.stdout, output.stderr]
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .concat()
}

/// Everything in the files of a folder.
fn content(folder: &std::path::Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(content(&path));
        } else if path.is_file() {
            all.extend(std::fs::read(path).unwrap());
        }
    }
    all
}

fn has_canary(bytes: &[u8]) -> bool {
    let lower = bytes.to_ascii_lowercase();
    lower
        .windows(CANARY.len())
        .any(|window| window == CANARY.as_bytes())
}

both_stores!(
    a_word_that_somebody_chose_is_read_by_its_user_and_nowhere_after_a_forgetting,
    async |store: TestStore| {
        let settings = settings(&store);
        let mut genie = TestGenie::not_started(store, &settings).await;
        let folder = genie.store.folder().to_owned();
        let logs = folder.join("logs");
        std::fs::create_dir(&logs).unwrap();
        let mut process = secret_leaks::start(&mut genie, &logs, "json").await;
        let (admin, ada) = (genie.user("root").await, genie.user("ada").await);
        let invite = json!({"role": "canary-invite", "tier": "pro"});
        let invite = admin.post(&genie, "/api/admin/invites", invite).await.ok();
        let bob = genie
            .register("bob", invite["data"][0]["code"].as_str().unwrap())
            .await;
        let key = Key::make(&genie, &admin, &["events:read"]).await;
        let job = live(&genie, &ada).await;

        // The user reads the words.
        let held = ada.get(&genie, "/api/credentials").await.ok();
        assert_eq!(held["data"][0]["platform"], "canary-platform");
        let shown = ada.get(&genie, "/api/jobs/canary-job.1").await.ok();
        assert_eq!(
            (&shown["id"], &shown["jobId"]),
            (&json!(job), &json!("canary-job.1"))
        );
        let me = ada.get(&genie, "/users/me").await.json;
        assert_eq!(me["data"]["role"], "canary-role");
        let me = bob.get(&genie, "/users/me").await.json;
        assert_eq!(me["data"]["role"], "canary-invite");
        let invites = admin.get(&genie, "/api/admin/invites").await.ok();
        assert!(invites.to_string().contains("canary-invite"), "{invites}");

        // Others read that they are the same words, and not which.
        let clear = feed(&genie, key.header(), false).await;
        let of = |kind: &str, field: &str| {
            let of_ada = clear.iter().filter(|fact| fact["userid"] == json!(ada.id));
            let those = of_ada.filter(|fact| fact["type"] == kind);
            those
                .map(|fact| fact["data"][field].clone())
                .collect::<Vec<_>>()
        };
        let platforms = of("credential.stored", "platform");
        assert_eq!(platforms.len(), 3);
        assert!(
            platforms.iter().all(|one| *one == platforms[0]),
            "{platforms:?}"
        );
        for hash in [&platforms[0], &of("account.role_changed", "role")[0]] {
            let hash = hash.as_str().unwrap();
            assert!(hash.len() == 33 && hash.starts_with('#'), "{hash}");
        }
        assert_eq!(of("account.registered", "role"), [json!("creator")]);
        assert!(
            !has_canary(json!(clear).to_string().as_bytes()),
            "{clear:?}"
        );
        assert!(!genie.store.holds(CANARY).await, "all of it is sealed");

        for user in [&ada, &bob] {
            let path = format!("/api/admin/users/{}/forget", user.id);
            admin.post(&genie, &path, json!({})).await.ok();
        }
        let path = format!("/api/admin/users/{}/forgotten", ada.id);
        let certificate = until("the user to be erased", async || {
            let shown = admin.get(&genie, &path).await.ok();
            shown["certificate"].as_str().map(str::to_owned)
        })
        .await;
        for field in CLEAR_FIELDS {
            let words = certificate.split(|c: char| !(c.is_alphanumeric() || c == '_'));
            assert!(
                words.into_iter().any(|word| word == field),
                "{field}: {certificate}"
            );
        }
        let secret = ("X-RBAC-SYNC-SECRET", SECRET.to_owned());
        let mut facts = feed(&genie, secret, true).await;
        // The invite is the administrator's: its fact is sealed under the key of the system, and stays.
        facts.retain(|fact| fact["type"] != "invite.created");
        process.kill().await.unwrap();
        let export = folder.join("export");
        let exported = printed(&genie, &["log", "export", export.to_str().unwrap()]).await;
        for (place, bytes) in [
            ("the certificate", certificate.into_bytes()),
            ("the feed", json!(facts).to_string().into_bytes()),
            (
                "the audit",
                printed(&genie, &["audit", "--user", &ada.id])
                    .await
                    .into_bytes(),
            ),
            ("the export", exported.into_bytes()),
            ("the store", genie.store.bytes().await),
            ("the folder", content(&folder)),
        ] {
            assert!(!bytes.is_empty(), "{place} is empty");
            assert!(!has_canary(&bytes), "{place}");
        }
        assert!(!genie.store.holds(CANARY).await);
    }
);

both_stores!(
    the_name_of_a_job_is_one_job_on_two_servers,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        if genie.store.database_url().is_some() {
            genie.launch_beside().await;
        }
        for n in 0..10 {
            // Both have the name and one of them the work of the other: one is taken, whichever comes first.
            let job = |operation| {
                let name = format!("post.{n}");
                let params = json!({"width": 1});
                json!({"jobId": name, "operation": operation, "input_url": "http://a/b", "params": params})
            };
            let (one, two) = tokio::join!(
                ada.post(&genie, "/api/queue/media", job("resize_image")),
                ada.post(&genie, "/api/queue/media", job("thumbnail"))
            );
            let mut statuses = [one.status.as_u16(), two.status.as_u16()];
            statuses.sort_unstable();
            assert_eq!(statuses, [200, 409], "{:?} {:?}", one.json, two.json);
            let (one, two) = tokio::join!(
                ada.post(&genie, "/api/queue/media", job("strip_metadata")),
                ada.post(&genie, "/api/queue/media", job("strip_metadata"))
            );
            assert_eq!((one.status.as_u16(), two.status.as_u16()), (409, 409));
        }
        let listed = ada.get(&genie, "/api/jobs").await.ok();
        assert_eq!(listed["data"].as_array().unwrap().len(), 10);
    }
);

both_stores!(
    an_announced_id_is_a_name_of_its_user,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let (admin, ada, bob) = (
            genie.user("root").await,
            genie.user("ada").await,
            genie.user("bob").await,
        );
        let long = "a".repeat(100);
        for (sent, name) in [
            (json!(0), "0"),
            (json!(7), "7"),
            (json!(10.0), "10"),
            (json!(u64::MAX), "18446744073709551615"),
            (json!("007"), "007"),
            (json!("A"), "A"),
            (json!("a"), "a"),
            (json!(".."), ".."),
            (json!("post_7.v2-final"), "post_7.v2-final"),
            (json!(long), long.as_str()),
        ] {
            let body = json!({"jobId": sent, "operation": "thumbnail", "input_url": "http://a/b", "params": {"a": 1, "b": null}});
            let first = ada
                .post(&genie, "/api/queue/media", body.clone())
                .await
                .ok();
            assert_eq!(
                (&first["jobId"], &first["bullJobId"]),
                (&json!(name), &json!(name))
            );
            let id = first["id"].as_str().unwrap();
            assert_ne!(id, name);
            // The same content in another order.
            let same = json!({"params": {"b": null, "a": 1}, "operation": "thumbnail", "input_url": "http://a/b", "jobId": name});
            assert_eq!(
                ada.post(&genie, "/api/queue/media", same).await.ok()["id"],
                id
            );
            let other = json!({"jobId": name, "operation": "thumbnail", "input_url": "http://a/b"});
            ada.post(&genie, "/api/queue/media", other.clone())
                .await
                .refused(409, "job_exists");
            let bobs = bob.post(&genie, "/api/queue/media", other).await.ok();
            assert_eq!(bobs["jobId"], name);
            assert_ne!(bobs["id"], id);
            if name == ".." {
                continue; // clients take it out of an address
            }
            for (user, at, status) in [
                (&ada, name, 200),
                (&ada, id, 200),
                (&bob, id, 404),
                (&admin, id, 200),
                (&admin, name, 404),
            ] {
                let shown = user.get(&genie, &format!("/api/jobs/{at}")).await;
                assert_eq!(shown.status, status, "{at}: {:?}", shown.json);
                if status == 200 {
                    let shown_as = if user.id == ada.id { name } else { id };
                    assert_eq!(
                        (&shown.json["id"], &shown.json["jobId"]),
                        (&json!(id), &json!(shown_as))
                    );
                }
            }
            for at in [name, id] {
                let path = format!("/api/queue/cancel/{at}");
                bob.post(&genie, &path, Value::Null).await;
            }
            let shown = ada.get(&genie, &format!("/api/jobs/{id}")).await.ok();
            assert_eq!(
                shown["status"], "queued",
                "another user's name cancels nothing"
            );
        }
        for bad in [
            json!(-1),
            json!(1.5),
            json!(true),
            json!(["7"]),
            json!(""),
            json!("a b"),
            json!("a/b"),
            json!("\u{e9}"),
            json!("a".repeat(101)),
        ] {
            let body = json!({"jobId": bad, "operation": "thumbnail", "input_url": "http://a/b"});
            let refused = ada.post(&genie, "/api/queue/media", body).await;
            let error = refused.refused(400, "invalid_field")["error"].clone();
            assert!(
                error.as_str().unwrap().contains("`jobId`"),
                "{bad}: {error}"
            );
        }
        // In the feed and for workers a job has its UUID.
        let secret = [("X-RBAC-SYNC-SECRET", SECRET.to_owned())];
        let path = "/api/events?limit=500&types=job.submitted";
        let facts = genie.send(Method::GET, path, &secret, None).await.ok();
        for fact in facts["data"].as_array().unwrap() {
            let id = fact["subject"]
                .as_str()
                .unwrap()
                .strip_prefix("job/")
                .unwrap();
            assert!(uuid::Uuid::try_parse(id).is_ok(), "{fact}");
        }
        let without = ada.submit_job(&genie).await;
        let shown = ada.get(&genie, &format!("/api/jobs/{without}")).await.ok();
        assert_eq!(
            (&shown["id"], &shown["jobId"]),
            (&json!(without), &json!(without))
        );
    }
);
