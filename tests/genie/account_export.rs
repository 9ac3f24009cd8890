//! `/api/me/export`: all data of the caller as one stream. A broken export is visibly incomplete,
//! and no export has another user's data.

use std::{collections::BTreeSet, fs, time::Duration};

use genie_events::{Event, Metadata, StreamId, StreamKind, UserId, chat::ChatEvent};
use genie_log::{
    AppendRequest, Group, NewFact,
    testing::{TestStore, both_stores},
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    test_genie::{SECRET, TestGenie, TestUser, outcome},
    until::until,
};

const EXPORT: &str = "/api/me/export";

fn list<'a>(export: &'a Value, name: &str) -> &'a Vec<Value> {
    export[name]
        .as_array()
        .unwrap_or_else(|| panic!("{name} is a list"))
}

fn texts<'a>(export: &'a Value, name: &str, field: &str) -> Vec<&'a str> {
    list(export, name)
        .iter()
        .map(|one| one[field].as_str().unwrap())
        .collect()
}

async fn profile(genie: &TestGenie, user: &TestUser, platform: &str) -> String {
    let body =
        json!({"platform": platform, "credentials": {"password": format!("canary {platform}")}});
    user.post(genie, "/api/credentials/create-profile", body)
        .await
        .ok()["id"]
        .as_str()
        .unwrap()
        .to_owned()
}

both_stores!(
    an_export_has_all_data_of_its_user_and_nothing_else,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let (admin, ada, bob) = (
            genie.user("admin").await,
            genie.user("ada").await,
            genie.user("bob").await,
        );
        let (x, reddit) = (
            profile(&genie, &ada, "x").await,
            profile(&genie, &ada, "reddit").await,
        );
        profile(&genie, &bob, "fansly").await;
        let job = ada.submit_job(&genie).await;
        let lease = genie.claim().await["lease"].clone();
        genie
            .server(
                &format!("/api/worker/jobs/{job}/complete"),
                json!({"lease": lease, "result": {"width": 100}}),
            )
            .await
            .ok();
        let user = |n: u32| format!("chat \"{n}\"");
        for n in 0..3 {
            assert_eq!(
                outcome(&admin.ask(&genie, &user(n), "mine").await.rest().await),
                "completed"
            );
        }
        let caption = json!({"platform": "x", "topic": "a \u{1F600} video"});
        ada.post(&genie, "/api/captions/generate", caption)
            .await
            .ok();

        let answer = ada.get(&genie, EXPORT).await;
        assert!(answer.headers.contains_key("Genie-Position"));
        assert!(
            answer.headers["content-disposition"]
                .to_str()
                .unwrap()
                .contains("genie-export.json")
        );
        let export = answer.ok();
        assert_eq!(
            (&export["complete"], &export["secrets"]),
            (&json!(true), &json!(false))
        );
        assert_eq!(
            (&export["account"]["email"], &export["account"]["id"]),
            (&json!("ada@example.com"), &json!(ada.id))
        );
        assert_eq!(export["usage"]["usage"]["platforms_connected"], 2);
        assert_eq!(list(&export, "sessions").len(), 1);
        assert_eq!(texts(&export, "credentials", "id"), [x.as_str(), &reddit]);
        assert_eq!(
            (&export["jobs"][0]["params"], &export["jobs"][0]["result"]),
            (&json!({"width": 100}), &json!({"width": 100}))
        );
        assert_eq!(texts(&export, "captions", "caption"), ["Hello there"]);
        let types: BTreeSet<_> = texts(&export, "events", "type").into_iter().collect();
        for wanted in [
            "account.registered",
            "account.exported",
            "credential.stored",
            "job.completed",
            "caption.requested",
        ] {
            assert!(types.contains(wanted), "{wanted}: {types:?}");
        }
        let topic = list(&export, "events")
            .iter()
            .find(|event| event["type"] == "caption.requested")
            .unwrap();
        assert!(
            topic["data"].to_string().contains("a \u{1F600} video"),
            "opened: {topic}"
        );
        for others in ["canary", "bob@example.com", &bob.id, "fansly", "$argon2"] {
            assert!(!export.to_string().contains(others), "{others}");
        }
        let own = admin.get(&genie, EXPORT).await.ok();
        assert_eq!(
            (list(&own, "chats").len(), list(&own, "messages").len()),
            (3, 6)
        );
        let sessions: Vec<_> = texts(&own, "messages", "session");
        assert_eq!(
            sessions,
            [user(2), user(2), user(1), user(1), user(0), user(0)],
            "messages come chat by chat"
        );

        // An export has secrets only if the caller gives the password. A fact records each reveal
        // before the secret is sent.
        ada.post(&genie, EXPORT, json!({}))
            .await
            .refused(400, "invalid_field");
        ada.post(&genie, EXPORT, json!({"password": "bob's password"}))
            .await
            .refused(403, "wrong_password");
        let whole = ada
            .post(&genie, EXPORT, json!({"password": "ada's password"}))
            .await
            .ok();
        assert_eq!(
            whole["credentials"][0]["secret"],
            json!({"password": "canary x"})
        );
        assert_eq!(
            whole["credentials"][1]["secret"],
            json!({"password": "canary reddit"})
        );
        let facts: Vec<_> = texts(&whole, "events", "type");
        assert_eq!(
            facts[facts.len() - 3..],
            [
                "account.exported",
                "credential.revealed",
                "credential.revealed"
            ]
        );
        let last = list(&whole, "events").last().unwrap();
        assert_eq!(
            (&last["data"]["purpose"], &last["caller"], &last["callerid"]),
            (&json!("export"), &json!("user"), &json!(ada.id))
        );

        // An impersonator and another server get no export.
        let acting = admin
            .post(
                &genie,
                &format!("/api/admin/users/{}/impersonate", ada.id),
                json!({}),
            )
            .await
            .ok();
        let acting = [(
            "Authorization",
            format!("Bearer {}", acting["access_token"].as_str().unwrap()),
        )];
        genie
            .send(Method::GET, EXPORT, &acting, None)
            .await
            .refused(403, "forbidden");
        let body = Some(json!({"password": "ada's password"}));
        genie
            .send(Method::POST, EXPORT, &acting, body)
            .await
            .refused(403, "forbidden");
        genie
            .send(
                Method::GET,
                EXPORT,
                &[("X-RBAC-SYNC-SECRET", SECRET.into())],
                None,
            )
            .await
            .refused(401, "invalid_token");
        let path = format!("/api/events?types=account.exported&user={}", ada.id);
        let noted = genie
            .send(
                Method::GET,
                &path,
                &[("X-RBAC-SYNC-SECRET", SECRET.into())],
                None,
            )
            .await
            .ok();
        let noted: Vec<_> = list(&noted, "data")
            .iter()
            .map(|fact| fact["data"]["secrets"].clone())
            .collect();
        assert_eq!(noted, [false, true], "refused exports leave no fact");
    }
);

/// A user with this many messages of two kilobytes each, written while no server runs.
async fn talkative(genie: &mut TestGenie, messages: u64) -> TestUser {
    let ada = genie.user("ada").await;
    genie.kill().await;
    let key = fs::read_to_string(genie.store.folder().join("master.key")).unwrap();
    let log = genie.store.open_with(key.trim()).await.unwrap().log;
    let user: UserId = ada.id.parse().unwrap();
    let mut seq = log.reader().user_seq(user).await.unwrap();
    let session = log.hashes().session(user, "long");
    for batch in 0..messages / 500 {
        let fact = |n: u64| NewFact {
            stream: StreamId::new(StreamKind::Chat, session),
            sequence: batch * 500 + n,
            event: Event::Chat(
                serde_json::from_value::<ChatEvent>(chat_event(batch * 500 + n)).unwrap(),
            ),
        };
        let facts = (1..=500).map(fact).collect();
        let groups = vec![Group::of_user(user, seq, facts)];
        genie_log::testing::append(
            &log,
            AppendRequest {
                groups,
                work: vec![],
                metadata: Metadata::system(),
                remember: None,
            },
        )
        .await
        .unwrap();
        seq += 500;
    }
    log.store().close().await;
    genie.launch_again().await;
    genie.settle_within(Duration::from_secs(120)).await;
    ada
}

/// Alternates questions and answers.
fn chat_event(n: u64) -> Value {
    let turn = uuid::Uuid::from_u128(u128::from(n.div_ceil(2)));
    let mut sample: Value = match n % 2 {
        1 => serde_json::from_str(include_str!("../../events/stored/chat.asked.1.json")).unwrap(),
        _ => {
            serde_json::from_str(include_str!("../../events/stored/chat.answered.1.json")).unwrap()
        }
    };
    sample["turn"] = turn.to_string().into();
    match n % 2 {
        1 => {
            sample["session"] = "long".into();
            sample["message"] = "q".repeat(2000).into();
        }
        _ => sample["content"] = "a".repeat(2000).into(),
    }
    sample
}

both_stores!(
    exporting_a_large_account_takes_no_more_memory_and_stops_with_its_reader,
    async |store: TestStore| {
        const MESSAGES: u64 = 5000;
        let mut genie = TestGenie::start_process(store).await;
        let ada = talkative(&mut genie, MESSAGES).await;
        let url = format!("{}{EXPORT}", genie.base);
        let begin = async || {
            genie
                .http
                .get(&url)
                .bearer_auth(&ada.token)
                .send()
                .await
                .unwrap()
        };

        // This reader takes only the beginning, holds the only place, and frees it by closing the
        // connection.
        let mut first = begin().await;
        assert!(first.chunk().await.unwrap().is_some());
        ada.get(&genie, EXPORT).await.refused(409, "export_running");
        drop(first);
        let second = until("the place to become free", async || {
            let second = begin().await;
            (second.status() != StatusCode::CONFLICT).then_some(second)
        })
        .await;
        let most_kib = || {
            let status = fs::read_to_string(format!("/proc/{}/status", genie.pid())).unwrap();
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("VmHWM:"))
                .unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        let before = most_kib(); // after a first export, so that only growth counts
        let body = second.bytes().await.unwrap();
        let grown = most_kib().saturating_sub(before);
        let export: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(export["complete"], true);
        assert_eq!(list(&export, "messages").len() as u64, MESSAGES);
        assert!(list(&export, "events").len() as u64 > MESSAGES);
        println!(
            "an export of {} KiB took {grown} KiB more",
            body.len() / 1024
        );
        assert!(
            body.len() > 20 << 20 && grown < 8 * 1024,
            "{} bytes, {grown} KiB",
            body.len()
        );

        // A damaged message breaks the export off. The part that was sent is not valid JSON, so
        // nobody takes it for the whole.
        genie.store.tamper("UPDATE messages SET content_sealed = (SELECT name_sealed FROM chats) WHERE position = (SELECT max(position) FROM messages)").await;
        let mut broken = begin().await;
        let mut got = Vec::new();
        assert_eq!(broken.status(), 200);
        let ended = loop {
            match broken.chunk().await {
                Ok(Some(chunk)) => got.extend_from_slice(&chunk),
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        assert!(!ended, "the connection must be cut");
        assert!(got.len() > 1 << 20 && serde_json::from_slice::<Value>(&got).is_err());
    }
);
