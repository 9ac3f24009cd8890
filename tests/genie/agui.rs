//! AG-UI's dialect: a run's events, a page's own tools, the same run again, and runs that stop or fail.

use std::time::Duration;

use genie_log::testing::{TestStore, both_stores};
use reqwest::Response;
use serde_json::{Value, json};

use crate::{
    fake_ollama::Step,
    test_genie::{TestGenie, TestUser},
    until::until,
};

const PATH: &str = "/api/genie/agui";

async fn start(store: TestStore) -> (TestGenie, TestUser) {
    let mut genie = TestGenie::start(store).await;
    let ada = genie.user("ada").await;
    (genie, ada)
}

fn input(thread: &str, run: &str, messages: &Value) -> Value {
    json!({
        "threadId": thread, "runId": run, "messages": messages, "tools": [], "context": [], "state": {"a": 1},
        "forwardedProps": {"b": 2},
    })
}

fn asking(thread: &str, run: &str, message: &str) -> Value {
    input(
        thread,
        run,
        &json!([{"id": "1", "role": "user", "content": message}]),
    )
}

/// The events of a run, as a page reads them.
struct Run {
    turn: String,
    response: Response,
    buffer: String,
}

impl Run {
    async fn open(genie: &TestGenie, user: &TestUser, input: &Value) -> Self {
        let sent = genie
            .http
            .post(format!("{}{PATH}", genie.next_base()))
            .bearer_auth(&user.token)
            .json(input);
        let response = sent.send().await.unwrap();
        assert_eq!(response.status(), 200);
        let turn = response.headers().get("Genie-Turn");
        Self {
            turn: turn.map_or(String::new(), |turn| turn.to_str().unwrap().to_owned()),
            response,
            buffer: String::new(),
        }
    }

    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.find("\n\n") {
                let block: String = self.buffer.drain(..end + 2).collect();
                let mut lines = block.lines();
                if let Some(data) = lines.find_map(|line| line.strip_prefix("data: ")) {
                    return Some(serde_json::from_str(data).unwrap());
                }
                continue;
            }
            let chunk = tokio::time::timeout(Duration::from_secs(30), self.response.chunk())
                .await
                .expect("the run goes on");
            self.buffer
                .push_str(std::str::from_utf8(&chunk.ok()??).unwrap());
        }
    }

    async fn until_text(&mut self) {
        loop {
            let event = self.next().await.expect("more of the run");
            if event["type"] == "TEXT_MESSAGE_CONTENT" {
                return;
            }
        }
    }

    async fn rest(mut self) -> Vec<Value> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

/// The types of events, each once in a row.
fn types(events: &[Value]) -> Vec<&str> {
    let mut types: Vec<&str> = events
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    types.dedup();
    types
}

fn text_of(events: &[Value]) -> String {
    let contents = events
        .iter()
        .filter(|event| event["type"] == "TEXT_MESSAGE_CONTENT");
    contents
        .map(|event| event["delta"].as_str().unwrap())
        .collect()
}

async fn outcome_of(genie: &TestGenie, user: &TestUser, session: &str) -> String {
    let path = format!("/api/genie/sessions/{session}/messages");
    until("the answer", async || {
        let messages = user.get(genie, &path).await.json;
        let answer = messages["data"][1]["outcome"].as_str()?;
        Some(answer.to_owned())
    })
    .await
}

both_stores!(
    a_run_is_a_turn_and_the_same_run_again_is_the_same_turn,
    async |store: TestStore| {
        let (genie, ada) = start(store).await;
        let mut asked = input(
            "thread",
            "run 1",
            &json!([
                {"id": "0", "role": "system", "content": "Be kind"},
                {"id": "1", "role": "user", "content": [{"type": "text", "text": "one"}]},
                {"id": "2", "role": "activity", "activityType": "x", "content": {"shown": true}},
                {"id": "3", "role": "reasoning", "content": "hm"},
                {"id": "4", "role": "assistant", "content": "ONE"},
                {"id": "5", "role": "user", "content": "two"},
            ]),
        );
        asked["context"] = json!([{"description": "The page", "value": "Invoices"}]);
        let run = Run::open(&genie, &ada, &asked).await;
        let turn = run.turn.clone();
        let events = run.rest().await;
        assert_eq!(
            types(&events),
            [
                "RUN_STARTED",
                "TEXT_MESSAGE_START",
                "TEXT_MESSAGE_CONTENT",
                "TEXT_MESSAGE_END",
                "RUN_FINISHED"
            ]
        );
        assert_eq!(
            (&events[0]["threadId"], &events[0]["runId"]),
            (&json!("thread"), &json!("run 1"))
        );
        assert_eq!(
            (&events[1]["messageId"], &events[1]["role"]),
            (&json!(turn), &json!("assistant"))
        );
        assert_eq!(text_of(&events), "Hello there");
        let last = events.last().unwrap();
        assert_eq!(last["outcome"], json!({"type": "success"}));
        assert_eq!(
            last["usage"],
            json!([{"model": "qwen2.5:latest", "outputTokens": 4}])
        );
        let given = &genie.ollama.requests()[0]["messages"];
        let system = given[0]["content"].as_str().unwrap();
        assert!(
            system.ends_with("\n\nThe page: Invoices\n\nBe kind"),
            "{system}"
        );
        let rest: Vec<_> = given.as_array().unwrap()[1..]
            .iter()
            .map(|one| one["content"].as_str().unwrap())
            .collect();
        assert_eq!(rest, ["one", "ONE", "two"]);
        let again = Run::open(&genie, &ada, &asked).await;
        assert_eq!(again.turn, turn);
        let again = again.rest().await;
        assert_eq!(
            (types(&again), text_of(&again)),
            (types(&events), "Hello there".to_owned())
        );
        assert_eq!(genie.ollama.requests().len(), 1, "asked once");
        let elsewhere = ada.post(&genie, PATH, asking("other", "run 1", "x")).await;
        elsewhere.refused(422, "idempotency_key_reused");
        genie.settle().await;
        let kept = ada.messages(&genie, "thread").await;
        assert_eq!(
            kept,
            [
                ("user".into(), "two".into()),
                ("assistant".into(), "Hello there".into())
            ]
        );
    }
);

both_stores!(
    a_pages_tools_go_to_the_model_and_a_run_ends_with_its_calls,
    async |store: TestStore| {
        let (genie, ada) = start(store).await;
        genie.ollama.script(
            "colour",
            &[Step::Call("paint", r#"{"colour":"red"}"#), Step::Done],
        );
        let mut asked = asking("thread", "run 1", "colour it");
        asked["tools"] =
            json!([{"name": "paint", "description": "Paints", "parameters": {"type": "object"}}]);
        let events = Run::open(&genie, &ada, &asked).await.rest().await;
        assert_eq!(
            types(&events),
            [
                "RUN_STARTED",
                "TOOL_CALL_START",
                "TOOL_CALL_ARGS",
                "TOOL_CALL_END",
                "RUN_FINISHED"
            ]
        );
        assert_eq!(
            genie.ollama.requests()[0]["tools"],
            json!([{"type": "function", "function": {"name": "paint", "description": "Paints", "parameters": {"type": "object"}}}])
        );
        let call = events[1]["toolCallId"].as_str().unwrap();
        assert_eq!(events[1]["toolCallName"], "paint");
        assert_eq!(events[2]["delta"], r#"{"colour":"red"}"#);
        let last = events.last().unwrap();
        assert_eq!(
            last["outcome"],
            json!({"type": "success", "pendingToolCallIds": [call]})
        );
        // A page that lost its answer asks again, when the turn has ended, too.
        genie.settle().await;
        let again = Run::open(&genie, &ada, &asked).await.rest().await;
        assert_eq!(again[1..4], events[1..4]);
        let mut next = input(
            "thread",
            "run 2",
            &json!([
                {"id": "1", "role": "user", "content": "colour it"},
                {"id": "2", "role": "assistant", "toolCalls": [
                    {"id": call, "type": "function", "function": {"name": "paint", "arguments": "{\"colour\":\"red\"}"}},
                ]},
                {"id": "3", "role": "tool", "toolCallId": call, "content": "painted"},
            ]),
        );
        next["tools"] = asked["tools"].clone();
        let events = Run::open(&genie, &ada, &next).await.rest().await;
        assert_eq!(text_of(&events), "Hello there");
        let given = &genie.ollama.requests()[1]["messages"];
        assert_eq!(
            given[3],
            json!({"role": "tool", "content": "painted", "tool_name": "paint", "tool_call_id": call})
        );
    }
);

both_stores!(
    a_run_stops_when_its_page_goes_away_and_ends_as_told_when_it_fails,
    async |store: TestStore| {
        let (genie, ada) = start(store).await;
        genie
            .ollama
            .script("long", &[Step::Say("one"), Step::Hold, Step::Done]);
        genie
            .ollama
            .script("breaks", &[Step::Say("one"), Step::ErrorLine("boom")]);
        let mut gone = Run::open(&genie, &ada, &asking("gone", "1", "a long one")).await;
        gone.until_text().await;
        // Who only looks at the same run stops nothing.
        let second = Run::open(&genie, &ada, &asking("gone", "1", "a long one")).await;
        assert_eq!(second.turn, gone.turn);
        drop(second);
        let mut third = Run::open(&genie, &ada, &asking("gone", "1", "a long one")).await;
        third.until_text().await;
        drop(gone);
        genie.ollama.cancelled().await;
        let rest = third.rest().await;
        assert_eq!(types(&rest), ["TEXT_MESSAGE_END", "RUN_FINISHED"]);
        assert_eq!(
            rest.last().unwrap()["outcome"],
            json!({"type": "cancelled"})
        );
        assert_eq!(outcome_of(&genie, &ada, "gone").await, "stopped");
        let events = Run::open(&genie, &ada, &asking("fails", "2", "breaks"))
            .await
            .rest()
            .await;
        assert_eq!(
            types(&events),
            [
                "RUN_STARTED",
                "TEXT_MESSAGE_START",
                "TEXT_MESSAGE_CONTENT",
                "TEXT_MESSAGE_END",
                "RUN_ERROR"
            ]
        );
        assert_eq!(events.last().unwrap()["code"], "ollama_failed");
        for (field, value, place) in [
            ("threadId", json!(""), "`threadId`"),
            ("runId", json!(7), "`runId`"),
            ("runId", json!("r".repeat(256)), "`runId`"),
            ("messages", json!([]), "`messages`"),
            (
                "messages",
                json!([{"role": "tool", "content": "x"}]),
                "`messages[0].toolCallId`",
            ),
            ("resume", json!([{"interruptId": "a"}]), "`resume`"),
            ("tools", json!([{"description": "x"}]), "`tools[0].name`"),
        ] {
            let mut wrong = asking("wrong", "3", "hello");
            wrong[field] = value;
            let refused = ada
                .post(&genie, PATH, wrong)
                .await
                .refused(400, "invalid_field");
            let error = refused["error"].as_str().unwrap();
            assert!(error.starts_with(place), "{field}: {error}");
        }
        let long = asking("wrong", "4", &"word ".repeat(20_000));
        ada.post(&genie, PATH, long)
            .await
            .refused(400, "context_length_exceeded");
    }
);

both_stores!(
    the_gate_answers_a_run_as_an_assistant,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        genie.user("ada").await;
        let bob = genie.user("bob").await;
        let events = Run::open(&genie, &bob, &asking("t", "1", "hello"))
            .await
            .rest()
            .await;
        assert_eq!(
            types(&events),
            [
                "RUN_STARTED",
                "TEXT_MESSAGE_START",
                "TEXT_MESSAGE_CONTENT",
                "TEXT_MESSAGE_END",
                "RUN_FINISHED"
            ]
        );
        assert!(text_of(&events).contains("extension"));
        assert!(genie.ollama.requests().is_empty());
    }
);
