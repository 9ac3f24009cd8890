//! One user's whole story on both stores: once without interruption, and once with kill -9 between
//! the steps.

use genie_log::testing::{TestStore, both_stores};
use reqwest::Method;
use serde_json::{Value, json};

use crate::test_genie::{Answer, SECRET, TestGenie, outcome, text_of};

both_stores!(the_whole_story, async |store: TestStore| {
    tell(TestGenie::start(store).await, false).await;
});

both_stores!(
    the_whole_story_with_kill_9_between_the_steps,
    async |store: TestStore| {
        tell(TestGenie::start_process(store).await, true).await;
    }
);

/// A place where the story may kill the server. The new server does not know the positions of its
/// callers' writes, so the test waits for the read side.
async fn step(genie: &mut TestGenie, killing: bool) {
    if killing {
        genie.restart().await;
        genie.settle().await;
    }
}

pub async fn tell(mut genie: TestGenie, killing: bool) {
    assert!(
        genie.said.iter().any(|line| line.contains("first invite")),
        "{:?}",
        genie.said
    );
    step(&mut genie, killing).await;
    assert!(
        genie.said.iter().any(|line| line.contains("first invite")),
        "the first invite is printed until it is used: {:?}",
        genie.said
    );

    // Registers and logs in.
    let ada = genie.user("ada").await;
    step(&mut genie, killing).await;
    assert!(
        !killing || !genie.said.iter().any(|line| line.contains("first invite")),
        "a used first invite is not printed: {:?}",
        genie.said
    );
    let me = ada.get(&genie, "/users/me").await;
    assert_eq!(
        (
            me.json["data"]["email"].as_str(),
            me.json["data"]["id"].as_str()
        ),
        (Some("ada@example.com"), Some(ada.id.as_str()))
    );

    // Stores a credential, and reveals it to a holder of the shared secret.
    let profile = json!({"platform": "OnlyFans", "credentials": {"password": "canary-1"}, "platform_username": "ada"});
    let stored = ada
        .post(&genie, "/api/credentials/create-profile", profile)
        .await
        .ok();
    assert_eq!(stored["updated"], false);
    let credential = stored["id"].as_str().unwrap().to_owned();
    step(&mut genie, killing).await;
    let changed = json!({"platform": "onlyfans", "credentials": {"password": "canary-2", "otp": 7}, "platform_username": "ada"});
    let changed = ada
        .post(&genie, "/api/credentials/create-profile", changed)
        .await
        .ok();
    assert_eq!(
        (changed["updated"].as_bool(), changed["id"].as_str()),
        (Some(true), Some(credential.as_str()))
    );
    step(&mut genie, killing).await;
    let reveal = json!({"creatorProfileId": credential, "purpose": "publish"});
    let revealed = genie.server("/api/credentials/reveal", reveal).await;
    assert!(
        revealed.headers.contains_key("Genie-Position"),
        "the fact was durable before the answer"
    );
    let revealed = revealed.ok();
    assert_eq!(
        revealed["credentials"],
        json!({"password": "canary-2", "otp": 7})
    );
    step(&mut genie, killing).await;
    let shown = ada
        .get(&genie, &format!("/api/credentials/{credential}"))
        .await
        .ok();
    assert_eq!(
        (
            shown["platform"].as_str(),
            shown["last_revealed_by"].as_str()
        ),
        (Some("onlyfans"), Some("shared_secret"))
    );
    assert!(!shown.to_string().contains("canary"));

    // Queues a job, claims it, sends a heartbeat and completes it.
    let job = ada.submit_job(&genie).await;
    step(&mut genie, killing).await;
    let claimed = genie.claim().await;
    assert_eq!(
        (claimed["jobId"].as_str(), claimed["userId"].as_str()),
        (Some(job.as_str()), Some(ada.id.as_str()))
    );
    assert_eq!(
        (&claimed["params"], &claimed["attempt"]),
        (&json!({"width": 100}), &json!(1))
    );
    let lease = claimed["lease"].clone();
    step(&mut genie, killing).await;
    let beat = genie
        .server(
            &format!("/api/worker/jobs/{job}/heartbeat"),
            json!({"lease": lease, "progress": 40}),
        )
        .await
        .ok();
    assert_eq!(beat["cancel"], false);
    let running = ada.get(&genie, &format!("/api/jobs/{job}")).await.ok();
    assert_eq!(
        (running["status"].as_str(), running["progress"].as_i64()),
        (Some("processing"), Some(40))
    );
    step(&mut genie, killing).await;
    let done = json!({"lease": lease, "result": {"width": 100}, "outputs": [{"url": "https://example.com/a.png", "name": "a.png"}]});
    genie
        .server(&format!("/api/worker/jobs/{job}/complete"), done.clone())
        .await
        .ok();
    step(&mut genie, killing).await;
    genie
        .server(&format!("/api/worker/jobs/{job}/complete"), done)
        .await
        .ok(); // the worker lost the first answer
    let finished = ada.get(&genie, &format!("/api/jobs/{job}")).await.ok();
    assert_eq!(
        (finished["status"].as_str(), &finished["result"]),
        (Some("completed"), &json!({"width": 100}))
    );
    genie.settle().await;
    let stats = genie
        .send(Method::GET, "/api/queue/stats", &[], None)
        .await
        .ok();
    assert_eq!(
        (
            &stats["stats"]["completed"],
            &stats["stats"]["media-jobs"]["completed"]
        ),
        (&json!(1), &json!(1))
    );

    // Streams a chat. Both sides are kept.
    let events = ada.ask(&genie, "first chat", "hello?").await.rest().await;
    assert_eq!(
        (text_of(&events).as_str(), outcome(&events).as_str()),
        ("Hello there", "completed")
    );
    step(&mut genie, killing).await;
    genie.settle().await;
    let kept = ada.messages(&genie, "first%20chat").await;
    assert_eq!(
        kept,
        [
            ("user".into(), "hello?".into()),
            ("assistant".into(), "Hello there".into())
        ]
    );

    // Generates a caption.
    let wanted = json!({"platform": "instagram", "topic": "a new video"});
    let caption = ada
        .post(&genie, "/api/captions/generate", wanted)
        .await
        .ok();
    assert_eq!(
        (caption["caption"].as_str(), caption["platform"].as_str()),
        (Some("Hello there"), Some("instagram"))
    );
    step(&mut genie, killing).await;
    genie.settle().await;
    assert_eq!(
        ada.get(&genie, "/api/usage").await.ok()["usage"]["posts_ai_assisted"],
        1
    );
    assert_eq!(
        ada.get(&genie, "/api/captions").await.ok()["data"][0]["caption"],
        "Hello there"
    );

    audit_and_feed(&genie, &ada.id).await;

    // The secret occurs only in the answer that revealed it.
    for path in ["/api/me/events", "/api/credentials", "/api/jobs", "/readyz"] {
        assert!(
            !ada.get(&genie, path)
                .await
                .json
                .to_string()
                .contains("canary"),
            "{path}"
        );
    }
    assert!(
        genie.store.holds("credential.revealed").await,
        "the search must find plain text"
    );
    for word in [
        "canary",
        "ada@example.com",
        "ada's password",
        "hello?",
        "first chat",
        "Hello there",
        "a new video",
        &ada.refresh,
    ] {
        assert!(
            !genie.store.holds(word).await,
            "the store holds {word} in the clear"
        );
    }
    assert!(
        genie.terminate().await,
        "SIGTERM must end the server cleanly"
    );
    genie.launch_again().await;
    genie.settle().await;
    assert_eq!(
        ada.get(&genie, &format!("/api/jobs/{job}")).await.ok()["status"],
        "completed"
    );
}

/// The facts as an operator and a subscriber see them.
async fn audit_and_feed(genie: &TestGenie, ada: &str) {
    let expected = [
        "account.registered",
        "account.signed_in",
        "credential.stored",
        "credential.changed",
        "credential.revealed",
        "job.submitted",
        "job.claimed",
        "job.completed",
        "chat.asked",
        "chat.answered",
        "usage.counted",
        "caption.requested",
        "caption.completed",
    ];
    let printed = genie
        .command(&["audit", "--user", ada])
        .output()
        .await
        .unwrap();
    let text = String::from_utf8(printed.stdout).unwrap();
    assert!(
        printed.status.success(),
        "{}",
        String::from_utf8_lossy(&printed.stderr)
    );
    let types: Vec<&str> = text
        .lines()
        .map(|line| line.split_whitespace().nth(2).unwrap())
        .collect();
    assert_eq!(types, expected, "{text}");
    assert!(
        !text.contains("canary") && !text.contains("ada's password") && !text.contains("$argon2"),
        "{text}"
    );

    let feed = |path: String| async move {
        genie
            .send(
                Method::GET,
                &path,
                &[("X-RBAC-SYNC-SECRET", SECRET.into())],
                None,
            )
            .await
    };
    let mine = feed(format!("/api/events?user={ada}&limit=500")).await.ok();
    let types: Vec<&str> = mine["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    assert_eq!(types, expected);
    for event in mine["data"].as_array().unwrap() {
        assert_eq!(
            (event["specversion"].as_str(), event["source"].as_str()),
            (Some("1.0"), Some("/genie"))
        );
        assert!(
            ["id", "type", "subject", "time"]
                .iter()
                .all(|name| event[*name].is_string()),
            "{event}"
        );
    }

    // The pages of the feed hold everything, once and in order.
    let mut seen = Vec::<Value>::new();
    let mut after = String::new();
    loop {
        let page = feed(format!("/api/events?limit=4&after={after}"))
            .await
            .ok();
        let data = page["data"].as_array().unwrap().clone();
        if data.is_empty() {
            break;
        }
        after = page["next_cursor"].as_str().unwrap().to_owned();
        seen.extend(data);
    }
    let whole: Answer = feed("/api/events?limit=500".into()).await;
    assert_eq!(Value::Array(seen), whole.ok()["data"]);
}
