//! OpenAI's dialect: turns whose messages the client gives, whole and streamed, stopped by closing the connection, with the
//! client's own tools, and failures in OpenAI's shape.

use std::time::Duration;

use genie_log::testing::{Kind, TestStore, both_stores};
use reqwest::Response;
use serde_json::{Value, json};

use crate::{
    api_keys::Program,
    fake_ollama::Step,
    test_genie::{Answer, TestGenie, TestUser},
    until::until,
};

const PATH: &str = "/v1/chat/completions";
const MODEL: &str = "qwen2.5:latest";

async fn start(store: TestStore) -> (TestGenie, TestUser) {
    let mut genie = TestGenie::start(store).await;
    let ada = genie.user("ada").await;
    (genie, ada)
}

fn asking(message: &str) -> Value {
    json!({"model": MODEL, "messages": [{"role": "user", "content": message}]})
}

fn with(mut request: Value, field: &str, value: Value) -> Value {
    request[field] = value;
    request
}

fn streamed(request: Value) -> Value {
    with(request, "stream", json!(true))
}

/// Expects a refusal in OpenAI's shape.
#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str, kind: &str, param: Option<&str>) {
    let error = &answer.json["error"];
    assert_eq!(
        (
            answer.status.as_u16(),
            error["code"].as_str(),
            error["type"].as_str(),
            error["param"].as_str()
        ),
        (status, Some(code), Some(kind), param),
        "{:?}",
        answer.json
    );
    assert!(
        error["message"]
            .as_str()
            .is_some_and(|text| !text.is_empty())
    );
}

/// A stream of chunks, as a client reads it.
struct Chunks {
    turn: String,
    response: Response,
    buffer: String,
}

impl Chunks {
    async fn open(genie: &TestGenie, user: &TestUser, request: Value) -> Self {
        let sent = genie
            .http
            .post(format!("{}{PATH}", genie.next_base()))
            .bearer_auth(&user.token)
            .json(&streamed(request));
        let response = sent.send().await.unwrap();
        assert_eq!(response.status(), 200);
        let turn = response.headers().get("Genie-Turn");
        Self {
            turn: turn.map_or(String::new(), |turn| turn.to_str().unwrap().to_owned()),
            response,
            buffer: String::new(),
        }
    }

    /// The `data` of the next event; `None` at the end of the stream.
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.find("\n\n") {
                let block: String = self.buffer.drain(..end + 2).collect();
                let mut lines = block.lines();
                if let Some(data) = lines.find_map(|line| line.strip_prefix("data: ")) {
                    return Some(data.to_owned());
                }
                continue;
            }
            let chunk = tokio::time::timeout(Duration::from_secs(30), self.response.chunk())
                .await
                .expect("the stream goes on");
            self.buffer
                .push_str(std::str::from_utf8(&chunk.ok()??).unwrap());
        }
    }

    /// The next piece of text.
    async fn text(&mut self) -> String {
        loop {
            let data = self.next().await.expect("more of the answer");
            let chunk: Value = serde_json::from_str(&data).unwrap();
            match chunk["choices"][0]["delta"]["content"].as_str() {
                None | Some("") => {}
                Some(text) => return text.to_owned(),
            }
        }
    }

    /// All chunks to the end, which must be `[DONE]`.
    async fn rest(mut self) -> Vec<Value> {
        let mut chunks = Vec::new();
        loop {
            let data = self.next().await.expect("the stream ends with [DONE]");
            if data == "[DONE]" {
                assert_eq!(self.next().await, None, "nothing comes after [DONE]");
                return chunks;
            }
            chunks.push(serde_json::from_str(&data).unwrap());
        }
    }
}

fn text_of(chunks: &[Value]) -> String {
    let pieces = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str());
    pieces.collect()
}

fn finish_reason(chunks: &[Value]) -> Option<&str> {
    let mut reasons = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["finish_reason"].as_str());
    let reason = reasons.next();
    assert_eq!(reasons.next(), None, "one end");
    reason
}

/// The outcome of the answer in a session that has one.
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
    a_program_gives_the_messages_and_gets_the_answer_whole_or_streamed,
    async |store: TestStore| {
        let (genie, ada) = start(store).await;
        // What is kept in the session is not what the model gets.
        ada.ask(&genie, "mine", "an earlier question")
            .await
            .rest()
            .await;
        let request = json!({
            "model": "Qwen2.5", "user": "mine",
            "messages": [
                {"role": "developer", "content": "Be kind"},
                {"role": "user", "content": "one"},
                {"role": "assistant", "content": "ONE"},
                {"role": "user", "content": [{"type": "text", "text": "two"}]},
            ],
            "temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ["END"], "max_tokens": 12,
            "presence_penalty": 1, "frequency_penalty": -1, "response_format": {"type": "json_object"},
        });
        let answer = ada.post(&genie, PATH, request.clone()).await;
        assert_eq!(answer.status, 200, "{:?}", answer.json);
        let turn = answer.headers["Genie-Turn"].to_str().unwrap().to_owned();
        let whole = answer.json;
        assert_eq!(whole["id"], format!("chatcmpl-{turn}"));
        assert_eq!(
            (&whole["object"], &whole["model"]),
            (&json!("chat.completion"), &json!(MODEL))
        );
        assert!(whole["created"].as_i64().unwrap() > 1_700_000_000);
        assert_eq!(
            whole["choices"],
            json!([{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello there"}}])
        );
        assert_eq!(
            whole["usage"],
            json!({"prompt_tokens": 0, "completion_tokens": 4, "total_tokens": 4})
        );
        let asked = genie.ollama.requests().pop().unwrap();
        let messages = asked["messages"].as_array().unwrap();
        assert_eq!(messages.len(), 4, "{messages:?}");
        let system = messages[0]["content"].as_str().unwrap();
        assert!(system.starts_with("You are Genie") && system.ends_with("\n\nBe kind"));
        assert_eq!(messages[1], json!({"role": "user", "content": "one"}));
        assert_eq!(messages[3], json!({"role": "user", "content": "two"}));
        assert_eq!(
            (&asked["model"], &asked["format"]),
            (&json!(MODEL), &json!("json"))
        );
        assert_eq!(
            asked["options"],
            json!({
                "num_ctx": 4096 + 1024, "num_predict": 12, "temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ["END"],
                "presence_penalty": 1.0, "frequency_penalty": -1.0,
            })
        );
        let usage = json!({"include_usage": true});
        let chunks = Chunks::open(&genie, &ada, with(request, "stream_options", usage)).await;
        let turn = chunks.turn.clone();
        let chunks = chunks.rest().await;
        assert_eq!(
            chunks[0]["choices"][0]["delta"],
            json!({"role": "assistant", "content": ""})
        );
        assert_eq!(text_of(&chunks), "Hello there");
        assert_eq!(finish_reason(&chunks), Some("stop"));
        let (last, others) = chunks.split_last().unwrap();
        assert_eq!(
            (&last["choices"], &last["usage"]["completion_tokens"]),
            (&json!([]), &json!(4))
        );
        for chunk in others {
            assert_eq!(chunk["object"], "chat.completion.chunk");
            assert_eq!(chunk["id"], format!("chatcmpl-{turn}"));
            assert_eq!(chunk["choices"][0]["index"], 0);
            assert!(chunk["usage"].is_null() && chunk.get("usage").is_some());
        }
        let chunks = Chunks::open(&genie, &ada, asking("hello"))
            .await
            .rest()
            .await;
        assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));
        genie.settle().await;
        let kept = ada.messages(&genie, "mine").await;
        let of = |role: &str, text: &str| (role.to_owned(), text.to_owned());
        assert_eq!(
            kept[2..],
            [
                of("user", "two"),
                of("assistant", "Hello there"),
                of("user", "two"),
                of("assistant", "Hello there")
            ]
        );
        assert_eq!(
            ada.messages(&genie, "openai").await.len(),
            2,
            "the default session"
        );
        // A chat of genie's own goes on with what the session keeps.
        ada.ask(&genie, "mine", "three").await.rest().await;
        let asked = genie.ollama.requests().pop().unwrap();
        assert_eq!(asked["messages"].as_array().unwrap().len(), 8);
        // The turn can be read in genie's own words, too.
        let path = format!("/api/genie/turns/{turn}/stream");
        let again = ada.get(&genie, &path).await.json;
        assert!(
            again.as_str().unwrap().contains("finalizeResponseStream"),
            "{again}"
        );
    }
);

both_stores!(
    closing_the_connection_stops_the_turn_whole_streamed_or_waiting,
    async |store: TestStore| {
        let (genie, ada) = start(store).await;
        genie.ollama.script(
            "long",
            &[Step::Say("one"), Step::Hold, Step::Say(" two"), Step::Done],
        );
        let mut running = Chunks::open(
            &genie,
            &ada,
            with(asking("a long one"), "user", json!("running")),
        )
        .await;
        assert_eq!(running.text().await, "one");
        // Neither waits for the end of the other, but for the model: the second has its place in the line.
        let post = |session: &str, stream: bool| {
            let request = with(asking("a long one"), "user", json!(session));
            let sent = genie
                .http
                .post(format!("{}{PATH}", genie.base))
                .bearer_auth(&ada.token)
                .json(&with(request, "stream", json!(stream)));
            tokio::spawn(sent.send())
        };
        let waiting = [post("waits whole", false), post("waits streamed", true)];
        until("both turns to be asked", async || {
            let sessions = ada.get(&genie, "/api/genie/sessions").await.json;
            (sessions["data"].as_array()?.len() == 3).then_some(())
        })
        .await;
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
        for session in ["waits%20whole", "waits%20streamed"] {
            assert_eq!(outcome_of(&genie, &ada, session).await, "stopped");
        }
        assert_eq!(
            genie.ollama.requests().len(),
            1,
            "they never reached the model"
        );
        drop(running);
        genie.ollama.cancelled().await;
        assert_eq!(outcome_of(&genie, &ada, "running").await, "stopped");
        let kept = ada.messages(&genie, "running").await;
        assert_eq!(
            kept[1],
            ("assistant".into(), "one".into()),
            "what was shown is kept"
        );
        // Whole, while the model writes.
        let whole = post("whole", false);
        until("the model to be asked again", async || {
            (genie.ollama.requests().len() == 2).then_some(())
        })
        .await;
        whole.abort();
        assert_eq!(outcome_of(&genie, &ada, "whole").await, "stopped");
        let next = ada.post(&genie, PATH, asking("hello")).await;
        assert_eq!(next.status, 200, "the model's place is free");
    }
);

both_stores!(
    turns_of_programs_do_not_wait_for_each_other_in_a_session,
    async |store: TestStore| {
        let settings = [("OLLAMA_CONCURRENCY", "3".to_owned())];
        let mut genie = TestGenie::start_with(store, &settings).await;
        let ada = genie.user("ada").await;
        genie
            .ollama
            .script("long", &[Step::Say("one"), Step::Hold, Step::Done]);
        let request = |message: &str| with(asking(message), "user", json!("s"));
        let mut first = Chunks::open(&genie, &ada, request("a long one")).await;
        assert_eq!(first.text().await, "one");
        let second = ada.post(&genie, PATH, request("a title, please")).await;
        assert_eq!(
            second.json["choices"][0]["message"]["content"],
            "Hello there"
        );
        let mut own = ada.ask(&genie, "s", "a long one of genie's own").await;
        own.text().await;
        let sessions = ada.get(&genie, "/api/genie/sessions").await.ok();
        assert_eq!(sessions["data"][0]["running_turn"], json!(own.turn));
        let third = ada.post(&genie, PATH, request("hello")).await;
        assert_eq!(third.status, 200);
        // The user stops the program's turn from elsewhere: its text so far is the answer.
        let path = format!("/api/genie/turns/{}", first.turn);
        ada.delete(&genie, &path).await.ok();
        let rest = first.rest().await;
        assert_eq!(finish_reason(&rest), Some("stop"));
        genie.ollama.go_on();
        assert_eq!(crate::test_genie::outcome(&own.rest().await), "completed");
        genie.settle().await;
        let sessions = ada.get(&genie, "/api/genie/sessions").await.ok();
        assert_eq!(
            (
                &sessions["data"][0]["running_turn"],
                &sessions["data"][0]["message_count"]
            ),
            (&json!(null), &json!(8))
        );
    }
);

both_stores!(
    the_tools_of_a_program_go_to_the_model_and_its_calls_come_back,
    async |store: TestStore| {
        let (genie, ada) = start(store).await;
        genie.ollama.script(
            "weather",
            &[
                Step::Say("Let me see."),
                Step::Call("weather", r#"{"city":"Bern"}"#),
                Step::Call("weather", r#"{"city":"Ulm"}"#),
                Step::Done,
            ],
        );
        let tool = json!({"type": "function", "function": {
            "name": "weather", "description": "The weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        }});
        let request = with(asking("the weather?"), "tools", json!([tool]));
        let answer = ada.post(&genie, PATH, request.clone()).await.json;
        assert_eq!(genie.ollama.requests()[0]["tools"], json!([tool]));
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls");
        assert_eq!(choice["message"]["content"], "Let me see.");
        let calls = choice["message"]["tool_calls"].as_array().unwrap().clone();
        let said: Vec<_> = calls
            .iter()
            .map(|call| {
                assert_eq!(call["type"], "function");
                (
                    call["function"]["name"].as_str().unwrap(),
                    call["function"]["arguments"].as_str().unwrap(),
                )
            })
            .collect();
        assert_eq!(
            said,
            [
                ("weather", r#"{"city":"Bern"}"#),
                ("weather", r#"{"city":"Ulm"}"#)
            ]
        );
        assert_ne!(calls[0]["id"], calls[1]["id"]);
        let chunks = Chunks::open(&genie, &ada, request.clone())
            .await
            .rest()
            .await;
        assert_eq!(
            (text_of(&chunks).as_str(), finish_reason(&chunks)),
            ("Let me see.", Some("tool_calls"))
        );
        let deltas: Vec<&Value> = chunks
            .iter()
            .filter_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"].as_array())
            .flatten()
            .collect();
        assert_eq!(deltas.len(), 2);
        for (n, delta) in deltas.iter().enumerate() {
            assert_eq!(
                (&delta["index"], &delta["type"]),
                (&json!(n), &json!("function"))
            );
            assert!(delta["id"].as_str().unwrap().starts_with("call_"));
        }
        // The results come back with the calls as they were given, or broken.
        let broken = json!({"id": "c3", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":"}});
        let mut replayed = calls.clone();
        replayed.push(broken);
        let ids: Vec<Value> = replayed.iter().map(|call| call["id"].clone()).collect();
        let mut messages = vec![
            json!({"role": "user", "content": "the weather?"}),
            json!({"role": "assistant", "content": null, "tool_calls": replayed}),
        ];
        messages.extend(
            ids.iter()
                .map(|id| json!({"role": "tool", "tool_call_id": id, "content": "sunny"})),
        );
        let back = with(
            with(request.clone(), "messages", json!(messages)),
            "tool_choice",
            json!("none"),
        );
        let answer = ada.post(&genie, PATH, back).await.json;
        assert_eq!(answer["choices"][0]["message"]["content"], "Hello there");
        let asked = genie.ollama.requests().pop().unwrap();
        assert_eq!(asked.get("tools"), None);
        let asked = asked["messages"].as_array().unwrap();
        assert_eq!(
            asked[2]["tool_calls"][0]["function"],
            json!({"name": "weather", "arguments": {"city": "Bern"}})
        );
        assert_eq!(
            asked[2]["tool_calls"][2]["function"]["arguments"],
            json!({})
        );
        assert_eq!(
            asked[3],
            json!({"role": "tool", "content": "sunny", "tool_name": "weather", "tool_call_id": ids[0]})
        );
        genie.settle().await;
        let kept = ada
            .get(&genie, "/api/genie/sessions/openai/messages")
            .await
            .ok();
        assert_eq!(
            kept["data"][1]["tool_calls"][0]["arguments"],
            json!({"city": "Bern"})
        );
        assert_eq!(kept["data"][0].get("tool_calls"), None);
        let lonely = json!([{"role": "user", "content": "x"}, {"role": "tool", "tool_call_id": "a", "content": "b"}]);
        let lonely = ada
            .post(&genie, PATH, with(request, "messages", lonely))
            .await;
        refused(
            &lonely,
            400,
            "invalid_field",
            "invalid_request_error",
            Some("messages[1].tool_call_id"),
        );
    }
);

both_stores!(
    failures_have_openais_shape_and_a_broken_stream_never_ends_as_stop,
    async |store: TestStore| {
        let (genie, ada) = start(store).await;
        genie
            .ollama
            .script("breaks", &[Step::Say("one"), Step::ErrorLine("boom")]);
        genie
            .ollama
            .script("missing", &[Step::Refuse(404, "model 'x' not found")]);
        genie
            .ollama
            .script("cut", &[Step::Say("one"), Step::DoneBecause("length")]);
        let chunks = Chunks::open(&genie, &ada, asking("breaks"))
            .await
            .rest()
            .await;
        assert_eq!(
            (text_of(&chunks).as_str(), finish_reason(&chunks)),
            ("one", None)
        );
        let error = &chunks.last().unwrap()["error"];
        assert_eq!(
            (&error["code"], &error["type"], &error["param"]),
            (
                &json!("ollama_failed"),
                &json!("server_error"),
                &json!(null)
            )
        );
        for request in [
            asking("breaks"),
            asking("missing"),
            streamed(asking("missing")),
        ] {
            let code = if request["messages"][0]["content"] == "breaks" {
                "ollama_failed"
            } else {
                "ollama_model_missing"
            };
            let answer = ada.post(&genie, PATH, request).await;
            refused(&answer, 502, code, "server_error", None);
            assert!(answer.headers.contains_key("Genie-Turn"));
        }
        let cut = ada.post(&genie, PATH, asking("cut")).await.json;
        assert_eq!(cut["choices"][0]["finish_reason"], "length");
        let invalid = "invalid_request_error";
        for (request, status, code, param) in [
            (json!({"messages": []}), 400, "invalid_field", Some("model")),
            (
                with(asking("x"), "model", json!("gpt-4o")),
                404,
                "model_not_found",
                Some("model"),
            ),
            (
                with(asking("x"), "n", json!(2)),
                400,
                "invalid_field",
                Some("n"),
            ),
            (
                with(asking("x"), "temperature", json!("hot")),
                400,
                "invalid_field",
                Some("temperature"),
            ),
            (
                with(asking("x"), "messages", json!([{"content": "x"}])),
                400,
                "invalid_field",
                Some("messages[0].role"),
            ),
            (
                asking(&"word ".repeat(20_000)),
                400,
                "context_length_exceeded",
                Some("messages"),
            ),
            (
                with(asking("x"), "user", json!("u".repeat(201))),
                400,
                "invalid_field",
                Some("user"),
            ),
        ] {
            refused(
                &ada.post(&genie, PATH, request).await,
                status,
                code,
                invalid,
                param,
            );
        }
        let nobody = [("Authorization", "Bearer nobody".to_owned())];
        let nobody = genie
            .send(reqwest::Method::POST, PATH, &nobody, Some(asking("x")))
            .await;
        refused(&nobody, 401, "invalid_token", "authentication_error", None);
        let unknown = ada.post(&genie, "/v1/embeddings", json!({})).await;
        refused(&unknown, 404, "no_such_route", invalid, None);
        let broken = genie
            .http
            .post(format!("{}{PATH}", genie.base))
            .bearer_auth(&ada.token)
            .header("Content-Type", "application/json")
            .body("{\"model\":");
        let broken = crate::test_genie::answer(broken).await;
        refused(&broken, 400, "malformed_json", invalid, None);
        // Nothing that was refused reached the model, or was kept.
        assert_eq!(genie.ollama.requests().len(), 5);
        genie.settle().await;
        assert_eq!(ada.messages(&genie, "openai").await.len(), 10);
    }
);

both_stores!(
    history_that_is_too_long_is_cut_with_calls_and_results_together,
    async |store: TestStore| {
        let settings = [("CHAT_CONTEXT_TOKENS", "300".to_owned())];
        let mut genie = TestGenie::start_with(store, &settings).await;
        let ada = genie.user("ada").await;
        let call =
            json!({"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}});
        let messages = json!([
            {"role": "user", "content": "old"},
            {"role": "assistant", "content": null, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "a", "content": "long ".repeat(200)},
            {"role": "assistant", "content": "so"},
            {"role": "user", "content": "middle"},
            {"role": "assistant", "content": "then"},
            {"role": "user", "content": "new"},
        ]);
        let answer = ada
            .post(&genie, PATH, with(asking(""), "messages", messages))
            .await;
        assert_eq!(answer.status, 200, "{:?}", answer.json);
        let asked = genie.ollama.requests().pop().unwrap();
        let asked = asked["messages"].as_array().unwrap();
        let texts: Vec<_> = asked[1..]
            .iter()
            .map(|one| one["content"].as_str().unwrap())
            .collect();
        assert_eq!(texts, ["middle", "then", "new"]);
    }
);

both_stores!(
    a_server_that_dies_ends_the_turn_of_its_connection_as_interrupted,
    async |store: TestStore| {
        let mut genie = TestGenie::start_process(store).await;
        let ada = genie.user("ada").await;
        genie
            .ollama
            .script("long", &[Step::Say("one"), Step::Hold, Step::Done]);
        genie.ollama.script("silent", &[Step::Hold, Step::Done]);
        let mut shown = Chunks::open(
            &genie,
            &ada,
            with(asking("a long one"), "user", json!("shown")),
        )
        .await;
        assert_eq!(shown.text().await, "one");
        let request = genie
            .http
            .post(format!("{}{PATH}", genie.base))
            .bearer_auth(&ada.token)
            .json(&with(asking("silent"), "user", json!("waiting")));
        let waiting = tokio::spawn(request.send());
        until("the second turn to be asked", async || {
            let sessions = ada.get(&genie, "/api/genie/sessions").await.json;
            (sessions["data"].as_array()?.len() == 2).then_some(())
        })
        .await;
        genie.restart().await;
        assert_eq!(shown.next().await, None, "the stream breaks off");
        assert!(waiting.await.unwrap().is_err());
        for (session, text) in [("shown", "one"), ("waiting", "")] {
            assert_eq!(outcome_of(&genie, &ada, session).await, "interrupted");
            let kept = ada.messages(&genie, session).await;
            assert_eq!(kept.len(), 2, "answered once");
            assert_eq!(kept[1].1, text);
        }
        assert_eq!(
            genie.ollama.requests().len(),
            1,
            "nothing is asked a second time"
        );
    }
);

both_stores!(
    models_are_those_of_the_setting_and_the_gate_answers_as_an_assistant,
    async |store: TestStore| {
        let settings = [("CHAT_MODELS", "small:1b, big:70b".to_owned())];
        let mut genie = TestGenie::start_with(store, &settings).await;
        let ada = genie.user("ada").await;
        let models = ada.get(&genie, "/v1/models").await.json;
        let listed = models["data"].as_array().unwrap();
        let names: Vec<_> = listed
            .iter()
            .map(|one| one["id"].as_str().unwrap())
            .collect();
        assert_eq!(
            (names, &models["object"]),
            (vec!["small:1b", "big:70b"], &json!("list"))
        );
        let model = ada.get(&genie, "/v1/models/small:1b").await.json;
        assert_eq!(
            (&model["object"], &model["owned_by"]),
            (&json!("model"), &json!("genie"))
        );
        let unknown = ada.get(&genie, &format!("/v1/models/{MODEL}")).await;
        refused(
            &unknown,
            404,
            "model_not_found",
            "invalid_request_error",
            Some("model"),
        );
        let request = with(asking("hello"), "model", json!("big:70b"));
        let answer = ada.post(&genie, PATH, request.clone()).await.json;
        assert_eq!(answer["model"], "big:70b");
        assert_eq!(genie.ollama.requests()[0]["model"], "big:70b");
        let bob = genie.user("bob").await;
        let gated = bob.post(&genie, PATH, request.clone()).await;
        let said = &gated.json["choices"][0]["message"]["content"];
        assert!(said.as_str().unwrap().contains("extension"), "{said}");
        let chunks = Chunks::open(&genie, &bob, request).await.rest().await;
        assert_eq!(
            (json!(text_of(&chunks)), finish_reason(&chunks)),
            (said.clone(), Some("stop"))
        );
        assert_eq!(genie.ollama.requests().len(), 1);
        let sessions = bob.get(&genie, "/api/genie/sessions").await.ok();
        assert_eq!(sessions["data"], json!([]));
    }
);

both_stores!(
    a_users_own_key_with_the_scope_chat_opens_the_dialects,
    async |store: TestStore| {
        let (genie, ada) = start(store).await;
        let chats = Program::of(&genie, &ada, "ada", &["chat"]).await.caller();
        let answer = chats.post(&genie, PATH, asking("hello")).await;
        assert_eq!(answer.status, 200, "{:?}", answer.json);
        let models = chats.get(&genie, "/v1/models").await;
        assert_eq!(models.status, 200);
        let run = json!({"threadId": "t", "runId": "1", "messages": [{"role": "user", "content": "hello"}]});
        let run = chats.post(&genie, "/api/genie/agui", run).await;
        assert!(run.json.as_str().unwrap().contains("RUN_FINISHED"));
        let other = Program::of(&genie, &ada, "ada", &["mcp"]).await.caller();
        let other = other.post(&genie, PATH, asking("hello")).await;
        refused(&other, 403, "scope_needed", "invalid_request_error", None);
    }
);

both_stores!(
    open_answers_of_a_user_are_bounded,
    async |store: TestStore| {
        let settings = [("STREAMS_PER_USER", "1".to_owned())];
        let mut genie = TestGenie::start_with(store, &settings).await;
        let ada = genie.user("ada").await;
        genie
            .ollama
            .script("long", &[Step::Say("one"), Step::Hold, Step::Done]);
        let mut open = Chunks::open(&genie, &ada, asking("a long one")).await;
        assert_eq!(open.text().await, "one");
        let second = ada.post(&genie, PATH, asking("hello")).await;
        refused(&second, 429, "too_many_streams", "rate_limit_error", None);
        assert!(second.headers.contains_key("Retry-After"));
        genie.ollama.go_on();
        assert_eq!(finish_reason(&open.rest().await), Some("stop"));
    }
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_server_stops_a_programs_turn_and_ends_it_when_its_own_dies() {
    // A process: a server that is killed inside the test still sees its connections close.
    let mut genie = TestGenie::start_process(TestStore::new(Kind::Postgres).await).await;
    let ada = genie.user("ada").await;
    let first = genie.base.clone();
    let second = genie.another_node().await;
    let held = [Step::Say("one"), Step::Hold, Step::Done];
    genie.ollama.script("long", &held);
    let request = |session: &str| with(asking("a long one"), "user", json!(session));
    let mut stopped = Chunks::open(&genie, &ada, request("stopped")).await;
    assert_eq!(stopped.text().await, "one");
    genie.base = second.base.clone();
    let turn = format!("/api/genie/turns/{}", stopped.turn);
    until("the other server to know the turn", async || {
        (ada.delete(&genie, &turn).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(finish_reason(&stopped.rest().await), Some("stop"));
    assert_eq!(outcome_of(&genie, &ada, "stopped").await, "stopped");
    genie.base = first;
    let mut orphan = Chunks::open(&genie, &ada, request("orphan")).await;
    assert_eq!(orphan.text().await, "one");
    genie.kill().await;
    genie.base = second.base.clone();
    assert_eq!(outcome_of(&genie, &ada, "orphan").await, "interrupted");
    let kept = ada.messages(&genie, "orphan").await;
    assert_eq!(kept[1], ("assistant".into(), "one".into()));
    assert_eq!(
        genie.ollama.requests().len(),
        2,
        "nothing is asked a second time"
    );
}
