//! Bad input: a clear sentence, the right status, and nothing changed.

use genie_log::testing::{Kind, TestStore, both_stores};
use reqwest::Method;
use serde_json::{Value, json};

use crate::test_genie::{SECRET, TestGenie};

both_stores!(
    a_refusal_names_the_field_that_was_not_understood,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        genie.settle().await;
        let before = facts(&genie).await;
        for (path, body, names) in [
            (
                "/api/register",
                json!({"email": "a@example.com", "inviteCode": "x"}),
                "password",
            ),
            (
                "/api/register",
                json!({"email": "a@example.com", "password": "short", "inviteCode": "x"}),
                "password",
            ),
            (
                "/api/register",
                json!({"email": "nobody", "password": "long enough", "inviteCode": "x"}),
                "email",
            ),
            (
                "/api/register",
                json!({"email": "a@example.com", "password": "long enough", "inviteCode": "x"}),
                "inviteCode",
            ),
            (
                "/api/register",
                json!({"email": 7, "password": "long enough", "inviteCode": "x"}),
                "email",
            ),
            (
                "/api/credentials/create-profile",
                json!({"platform": "x", "credentials": "canary"}),
                "credentials",
            ),
            (
                "/api/credentials/create-profile",
                json!({"platform": "x", "credentials": {}}),
                "credentials",
            ),
            (
                "/api/credentials/create-profile",
                json!({"credentials": {"p": "canary"}}),
                "platform",
            ),
            ("/api/queue/media", json!({}), "operation"),
            (
                "/api/queue/media",
                json!({"operation": "make_coffee"}),
                "operation",
            ),
            (
                "/api/queue/media",
                json!({"operation": "thumbnail", "input_url": "http://a/b", "params": "canary"}),
                "params",
            ),
            (
                "/api/queue/media",
                json!({"operation": "thumbnail", "input_url": "http://a/b", "jobId": "my secret canary"}),
                "jobId",
            ),
            (
                "/api/queue/media",
                json!({"operation": "thumbnail", "input_url": "http://a/b", "priority": -1}),
                "priority",
            ),
            (
                "/api/queue/media",
                json!({"operation": "thumbnail", "input_url": "http://a/b", "run_at": "tomorrow"}),
                "run_at",
            ),
            (
                "/api/queue/media",
                json!({"operation": "thumbnail", "input_url": "file:///etc/passwd"}),
                "input_url",
            ),
            (
                "/api/queue/media",
                json!({"operation": "resize_image", "params": {"width": 100}}),
                "input_file_id",
            ),
            (
                "/api/queue/media",
                json!({"operation": "resize_image", "input_url": "http://a/b", "params": {"width": "canary"}}),
                "params.width",
            ),
            (
                "/api/queue/media",
                json!({"operation": "thumbnail", "input_url": "http://a/b", "params": {"width": 9000}}),
                "params.width",
            ),
            (
                "/api/queue/media",
                json!({"operation": "trim_videos", "input_url": "http://a/b", "params": {"start": 9, "end": 3}}),
                "params.end",
            ),
            (
                "/api/queue/media",
                json!({"operation": "join_videos", "params": {"inputs": ["one"]}}),
                "params.inputs",
            ),
            (
                "/api/queue/media",
                json!({"operation": "convert_image", "input_url": "http://a/b", "params": {"format": "canary"}}),
                "params.format",
            ),
            (
                "/api/queue/media",
                json!({"operation": "ytdlp_info"}),
                "input_url",
            ),
            (
                "/api/genie/stream-chat",
                json!({"message": "  "}),
                "message",
            ),
            (
                "/api/genie/stream-chat",
                json!({"sessionId": "s"}),
                "message",
            ),
            (
                "/api/genie/stream-chat",
                json!({"message": "hi", "sessionId": "x".repeat(201)}),
                "sessionId",
            ),
            (
                "/api/captions/generate",
                json!({"platform": "myspace"}),
                "platform",
            ),
            (
                "/api/captions/generate",
                json!({"length": "endless"}),
                "length",
            ),
        ] {
            let refused = ada
                .post(&genie, path, body.clone())
                .await
                .refused(400, "invalid_field");
            let sentence = refused["error"].as_str().unwrap();
            assert!(
                sentence.contains(&format!("`{names}`")) || sentence.contains("invite"),
                "{path} {body}: {sentence}"
            );
            assert!(!sentence.contains("canary"), "{sentence}");
        }
        for (path, body) in [
            ("/api/worker/claim", json!({"queues": [], "worker_id": "w"})),
            (
                "/api/worker/claim",
                json!({"queues": ["nonsense"], "worker_id": "w"}),
            ),
            (
                "/api/worker/claim",
                json!({"queues": ["media-jobs"], "worker_id": "w", "wait_ms": 99_999}),
            ),
            ("/api/worker/claim", json!({"queues": ["media-jobs"]})),
        ] {
            genie.server(path, body).await.refused(400, "invalid_field");
        }
        assert_eq!(facts(&genie).await, before, "nothing changed");
    }
);

both_stores!(
    bodies_that_are_not_json_or_too_large_are_refused,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let raw = async |body: Vec<u8>, kind: &str| {
            let url = format!("{}/api/queue/media", genie.base);
            let response = genie
                .http
                .post(url)
                .bearer_auth(&ada.token)
                .header("Content-Type", kind)
                .body(body)
                .send()
                .await
                .unwrap();
            let status = response.status().as_u16();
            (
                status,
                response.json::<Value>().await.unwrap()["code"]
                    .as_str()
                    .unwrap()
                    .to_owned(),
            )
        };
        assert_eq!(
            raw(b"{\"operation\": canary".to_vec(), "application/json").await,
            (400, "malformed_json".into())
        );
        assert_eq!(
            raw(
                b"operation=thumbnail".to_vec(),
                "application/x-www-form-urlencoded"
            )
            .await,
            (415, "not_json".into())
        );
        assert_eq!(
            raw(vec![b' '; (1 << 20) + 1], "application/json").await,
            (413, "body_too_large".into())
        );
        assert_eq!(
            raw("[".repeat(100_000).into_bytes(), "application/json")
                .await
                .0,
            400
        );
        assert_eq!(
            raw(b"[1]".to_vec(), "application/json").await,
            (400, "invalid_field".into())
        );
        ada.get(&genie, "/api/jobs?limit=abc")
            .await
            .refused(400, "invalid_field");
        ada.get(&genie, "/api/jobs?queue=%00")
            .await
            .refused(400, "invalid_field");
        ada.post(&genie, "/api/admin/invites", json!({"role": "edi\u{0}tor"}))
            .await
            .refused(400, "invalid_field");
        ada.get(&genie, "/api/jobs?limit=501")
            .await
            .refused(400, "invalid_field");
        ada.get(&genie, "/api/jobs?cursor=abc")
            .await
            .refused(400, "invalid_field");
        genie
            .send(Method::GET, "/api/nonsense", &[], None)
            .await
            .refused(404, "no_such_route");
    }
);

both_stores!(
    callers_without_permission_are_told_so,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let bob = genie.user("bob").await;
        let stored = ada
            .post(
                &genie,
                "/api/credentials/create-profile",
                json!({"platform": "x", "credentials": {"p": "canary"}}),
            )
            .await
            .ok();
        let credential = stored["id"].as_str().unwrap().to_owned();
        let job = ada.submit_job(&genie).await;
        genie.settle().await;
        let before = facts(&genie).await;

        // No token, nonsense, and a token signed with another key.
        let other_key = "eyJhbGciOiJIUzI1NiJ9.eyJpZCI6IjAiLCJpc3MiOiJkaXJlY3R1cyIsImV4cCI6OTk5OTk5OTk5OX0.c2lnbmF0dXJl";
        let nobody = (401, "INVALID_CREDENTIALS");
        for (token, (status, code)) in [
            (None, nobody),
            (Some("Bearer nonsense".to_owned()), nobody),
            (Some(format!("Bearer {other_key}")), (403, "INVALID_TOKEN")),
            (Some("Basic YTpi".to_owned()), nobody),
        ] {
            let headers: Vec<(&str, String)> = token
                .into_iter()
                .map(|token| ("Authorization", token))
                .collect();
            let refused = genie
                .send(Method::GET, "/api/jobs", &headers, None)
                .await
                .refused(401, "invalid_token");
            assert_eq!(refused["error"], "Invalid or expired token");
            let me = genie.send(Method::GET, "/users/me", &headers, None).await;
            me.refused_by_identity(status, code);
        }
        // A wrong secret, no secret, and a user's token instead of the secret.
        let reveal = json!({"creatorProfileId": credential});
        let wrong = [("X-RBAC-SYNC-SECRET", "wrong".to_owned())];
        genie
            .send(
                Method::POST,
                "/api/credentials/reveal",
                &wrong,
                Some(reveal.clone()),
            )
            .await
            .refused(401, "invalid_token");
        ada.post(&genie, "/api/credentials/reveal", reveal)
            .await
            .refused(403, "forbidden");
        // Another user's things, and things that do not exist.
        for (user, path) in [
            (&bob, format!("/api/credentials/{credential}")),
            (&bob, format!("/api/jobs/{job}")),
            (&ada, format!("/api/credentials/{job}")),
            (
                &ada,
                "/api/jobs/0192d4e0-7f3a-7c3b-8f4e-0123456789ab".to_owned(),
            ),
            (&ada, "/api/jobs/nonsense".to_owned()),
            (&ada, "/api/genie/sessions/nonsense/messages".to_owned()),
        ] {
            user.get(&genie, &path).await.refused(404, "not_found");
        }
        let change = json!({"id": credential, "credentials": {"p": "other"}});
        bob.post(&genie, "/api/credentials/update-profile-creds", change)
            .await
            .refused(404, "not_found");
        bob.delete(&genie, &format!("/api/credentials/{credential}"))
            .await
            .refused(404, "not_found");
        bob.post(&genie, &format!("/api/queue/cancel/{job}"), Value::Null)
            .await
            .refused(404, "not_found");
        bob.post(&genie, "/api/admin/invites", json!({}))
            .await
            .refused(403, "forbidden");
        assert_eq!(facts(&genie).await, before, "nothing changed");
        genie
            .server("/api/credentials/reveal", json!({"creatorProfileId": job}))
            .await
            .refused(404, "not_found");
        assert_eq!(
            facts(&genie).await,
            before + 1,
            "only the request for an unknown credential is recorded, and nothing else changed"
        );
        genie
            .server(
                "/api/credentials/reveal",
                json!({"creatorProfileId": credential}),
            )
            .await
            .ok();
    }
);

both_stores!(
    an_address_and_an_invite_are_used_once_even_at_the_same_time,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let invites = ada
            .post(&genie, "/api/admin/invites", json!({"count": 6}))
            .await
            .ok();
        let code = |n: usize| invites["data"][n]["code"].as_str().unwrap().to_owned();
        let register = |email: String, code: String| {
            let http = genie.http.clone();
            let base = genie.base.clone();
            tokio::spawn(async move {
                let body = json!({"email": email, "password": "long enough", "inviteCode": code});
                http.post(format!("{base}/api/register"))
                    .json(&body)
                    .send()
                    .await
                    .unwrap()
                    .status()
                    .as_u16()
            })
        };
        // Five registrations of one address with five invites, then five of different addresses
        // with one invite.
        let mut for_one_address = Vec::new();
        for n in 0..5 {
            for_one_address.push(register("Bob@example.com".into(), code(n)));
        }
        let mut statuses = Vec::new();
        for answer in for_one_address {
            statuses.push(answer.await.unwrap());
        }
        statuses.sort();
        assert_eq!(statuses, [200, 409, 409, 409, 409]);
        let mut with_one_invite = Vec::new();
        for n in 0..5 {
            with_one_invite.push(register(format!("carol{n}@example.com"), code(5)));
        }
        let mut statuses = Vec::new();
        for answer in with_one_invite {
            statuses.push(answer.await.unwrap());
        }
        statuses.sort();
        assert_eq!(statuses, [200, 400, 400, 400, 400]);
        let taken =
            json!({"email": "ADA@example.com", "password": "long enough", "inviteCode": code(0)});
        let refused = genie
            .send(Method::POST, "/api/register", &[], Some(taken))
            .await;
        assert!(
            [400, 409].contains(&refused.status.as_u16()),
            "the address is taken, and perhaps the invite is used"
        );
    }
);

both_stores!(
    failed_logins_look_alike_and_a_logout_ends_one_login,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        for body in [
            json!({"email": "ada@example.com", "password": "wrong password"}),
            json!({"email": "nobody@example.com", "password": "ada's password"}),
            json!({"email": "not an address", "password": "ada's password"}),
        ] {
            let refused = genie
                .send(Method::POST, "/auth/login", &[], Some(body))
                .await;
            assert_eq!(refused.status, 401);
            assert_eq!(
                refused.json["errors"][0]["extensions"]["code"],
                "INVALID_CREDENTIALS"
            );
        }
        let bad = genie
            .send(
                Method::POST,
                "/auth/login",
                &[],
                Some(json!({"email": "ada@example.com"})),
            )
            .await;
        bad.refused_by_identity(400, "INVALID_PAYLOAD");
        let refresh = async |token: &str| {
            genie
                .send(
                    Method::POST,
                    "/auth/refresh",
                    &[],
                    Some(json!({"refresh_token": token})),
                )
                .await
        };
        let fresh = refresh(&ada.refresh).await;
        assert_eq!(
            (
                fresh.status.as_u16(),
                fresh.json["data"]["expires"].as_u64()
            ),
            (200, Some(900_000))
        );
        let successor = fresh.json["data"]["refresh_token"]
            .as_str()
            .unwrap()
            .to_owned();
        assert_ne!(successor, ada.refresh);
        let out = genie
            .send(
                Method::POST,
                "/auth/logout",
                &[],
                Some(json!({"refresh_token": successor})),
            )
            .await;
        assert_eq!(out.status, 204);
        assert_eq!(refresh(&successor).await.status, 401);
        assert_eq!(refresh(&ada.refresh).await.status, 401);
    }
);

both_stores!(
    reads_wait_for_the_position_they_ask_for,
    async |store: TestStore| {
        let mut genie =
            TestGenie::start_with(store, &[("GENIE_READ_WAIT_MS", "2000".to_owned())]).await;
        let ada = genie.user("ada").await;
        let queued = ada
            .post(
                &genie,
                "/api/queue/media",
                json!({"operation": "thumbnail", "input_url": "http://a/b"}),
            )
            .await;
        let position = queued.headers["Genie-Position"]
            .to_str()
            .unwrap()
            .to_owned();
        let [authorization] = ada.headers();
        let at = |position: String| [authorization.clone(), ("Genie-Min-Position", position)];
        let jobs = genie
            .send(Method::GET, "/api/jobs", &at(position), None)
            .await
            .ok();
        assert_eq!(jobs["data"].as_array().unwrap().len(), 1);
        // A position far beyond the head: base64 of `p2:0.999999`.
        genie
            .send(
                Method::GET,
                "/api/jobs",
                &at("cDI6MC45OTk5OTk".into()),
                None,
            )
            .await
            .refused(412, "position_not_reached");
        genie
            .send(Method::GET, "/api/jobs", &at("nonsense".into()), None)
            .await
            .refused(400, "invalid_field");
        // A position beyond any number: base64 of `p2:0.18446744073709551615`.
        let beyond = "cDI6MC4xODQ0Njc0NDA3MzcwOTU1MTYxNQ";
        genie
            .send(Method::GET, "/api/jobs", &at(beyond.into()), None)
            .await
            .refused(400, "invalid_field");
        ada.get(&genie, &format!("/api/me/events?after={beyond}"))
            .await
            .refused(400, "invalid_field");
    }
);

both_stores!(
    quota_is_checked_and_counted_in_one_step,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let admin = genie.user("ada").await;
        let invite = admin
            .post(&genie, "/api/admin/invites", json!({"tier": "starter"}))
            .await
            .ok()["data"][0]["code"]
            .clone();
        let body =
            json!({"email": "bob@example.com", "password": "long enough", "inviteCode": invite});
        genie
            .send(Method::POST, "/api/register", &[], Some(body))
            .await
            .ok();
        let login = json!({"email": "bob@example.com", "password": "long enough"});
        let token = genie
            .send(Method::POST, "/auth/login", &[], Some(login))
            .await
            .json["data"]["access_token"]
            .clone();
        let token = token.as_str().unwrap().to_owned();
        let mut asked = Vec::new();
        for _ in 0..12 {
            let http = genie.http.clone();
            let base = genie.base.clone();
            let token = token.clone();
            asked.push(tokio::spawn(async move {
                let answer = http
                    .post(format!("{base}/api/captions/generate"))
                    .bearer_auth(token)
                    .json(&json!({}))
                    .send()
                    .await
                    .unwrap();
                (
                    answer.status().as_u16(),
                    answer.json::<Value>().await.unwrap(),
                )
            }));
        }
        let mut statuses = Vec::new();
        for answer in asked {
            let (status, json) = answer.await.unwrap();
            if status == 403 {
                assert_eq!(
                    (json["error"].as_str(), json["reason"].as_str()),
                    (Some("tier_limit_reached"), Some("limit_reached"))
                );
                assert!(json["message"].as_str().unwrap().contains("starter"));
            }
            statuses.push(status);
        }
        statuses.sort();
        assert_eq!(statuses, [[200; 3].as_slice(), &[403; 9]].concat());
        let clip = json!({"operation": "trim_videos", "input_url": "http://a/b"});
        let refused = genie
            .send(
                Method::POST,
                "/api/queue/media",
                &[("Authorization", format!("Bearer {token}"))],
                Some(clip),
            )
            .await;
        assert_eq!(
            (refused.status.as_u16(), refused.json["reason"].as_str()),
            (403, Some("not_in_tier"))
        );
    }
);

/// The number of facts, without those about wrong secrets.
async fn facts(genie: &TestGenie) -> usize {
    let page = genie
        .send(
            Method::GET,
            "/api/events?limit=500",
            &[("X-RBAC-SYNC-SECRET", SECRET.into())],
            None,
        )
        .await
        .ok();
    // The server records refusals of wrong secrets only some time later.
    page["data"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|fact| fact["type"] != "access.refused")
        .count()
}

both_stores!(
    a_store_without_its_master_key_is_refused_and_no_new_key_is_made,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        genie.user("ada").await;
        genie.kill().await;
        let key = genie.store.folder().join("master.key");
        let kept = std::fs::read_to_string(&key).unwrap();
        std::fs::remove_file(&key).unwrap();
        let serve = async || {
            let refused = genie.command(&["serve"]).output().await.unwrap();
            assert!(!refused.status.success());
            String::from_utf8(refused.stderr).unwrap()
        };
        let told = serve().await;
        assert!(
            told.contains("master.key is missing") && !key.exists(),
            "{told}"
        );

        // Another key, and a key file that others can read.
        let write = |text: &str, mode: u32| {
            use std::os::unix::fs::PermissionsExt;
            std::fs::write(&key, text).unwrap();
            std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let other = genie_log::MasterKeys::generate();
        write(&other, 0o600);
        assert!(
            serve()
                .await
                .contains("it is not the key it was sealed with")
        );
        write(&other.replace("m1:", "m2:"), 0o600);
        assert!(serve().await.contains("master key `m1` is wanted"));
        write(&kept, 0o644);
        assert!(serve().await.contains("chmod 600"));
        write(&kept, 0o600);
        genie.launch_again().await;
    }
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_setting_is_a_warning_and_an_invalid_one_an_error() {
    let genie = TestGenie::start(TestStore::new(Kind::Sqlite).await).await;
    let run = async |arguments: &[&str], name: &str, value: &str| {
        let mut command = genie.command(arguments);
        let run = command.env(name, value).output().await.unwrap();
        (run.status.success(), String::from_utf8(run.stderr).unwrap())
    };
    let (is_well, told) = run(&["config"], "GENIE_BIN", "/usr/bin/genie").await;
    assert!(
        is_well && told.contains("GENIE_BIN is not a setting"),
        "{told}"
    );
    let (is_well, told) = run(&["config"], "GENIE_JOB_LEASE", "5").await;
    assert!(
        is_well && told.contains("did you mean GENIE_JOB_LEASE_MS?"),
        "{told}"
    );
    // The server warns too, and then finds that another server runs.
    let (_, told) = run(&["serve"], "GENIE_BIN", "/usr/bin/genie").await;
    assert!(
        told.contains("GENIE_BIN is not a setting") && told.contains("another genie runs on"),
        "{told}"
    );
    let (is_well, told) = run(&["config"], "GENIE_JOB_LEASE_MS", "soon").await;
    assert!(
        !is_well && told.contains("GENIE_JOB_LEASE_MS must be a whole number"),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedded_store_has_one_server() {
    let genie = TestGenie::start(TestStore::new(Kind::Sqlite).await).await;
    let refused = genie.command(&["serve"]).output().await.unwrap();
    assert!(!refused.status.success());
    assert!(
        String::from_utf8(refused.stderr)
            .unwrap()
            .contains("another genie runs on")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_come_from_a_file_and_the_environment_overrides_it() {
    let genie = TestGenie::start(TestStore::new(Kind::Sqlite).await).await;
    std::fs::write(
        genie.store.folder().join(".env"),
        "OLLAMA_MODEL=from-the-file\nGENIE_LOG=debug\n",
    )
    .unwrap();
    let printed = genie.command(&["config"]).output().await.unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(
        printed.contains("from-the-file")
            && !printed.contains("debug")
            && !printed.contains(SECRET),
        "{printed}"
    );
}
