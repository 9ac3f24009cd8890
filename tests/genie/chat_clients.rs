//! The official clients of OpenAI (npm and PyPI), the AI SDK and AG-UI, and the validator of AG-UI, against a model with a
//! script.

use std::path::{Path, PathBuf};

use genie_log::testing::{TestStore, both_stores};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    fake_ollama::Step,
    test_genie::{TestGenie, TestUser},
    until::until,
};

/// Warnings of AG-UI's validator fail. Events need no time of their own (AGUI902).
const STRICT: [&str; 2] = ["--max-warnings=0", "--off=AGUI902"];

/// The folder of the clients, which `scripts/test` installs.
fn tools() -> PathBuf {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/chat-clients");
    let is_there = tools.join("openai.mjs").exists();
    assert!(
        is_there,
        "run this by scripts/test, which installs the clients"
    );
    tools
}

/// What a program says.
async fn output(command: &mut Command) -> String {
    let output = command.kill_on_drop(true).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
    said
}

/// Runs a client against the server. Its last line is what happened.
async fn client(program: &Path, script: &str, genie: &TestGenie, user: &TestUser) -> Value {
    let mut command = Command::new(program);
    command
        .arg(tools().join(script))
        .args([&genie.base, &user.token]);
    let said = output(&mut command).await;
    serde_json::from_str(said.lines().last().unwrap()).unwrap()
}

fn python() -> PathBuf {
    tools().join("python/bin/python")
}

async fn start(store: TestStore) -> (TestGenie, TestUser) {
    let mut genie = TestGenie::start(store).await;
    let ada = genie.user("ada").await;
    let weather = Step::Call("weather", r#"{"city":"Bern"}"#);
    let paint = Step::Call("paint", r#"{"colour":"red"}"#);
    for (word, steps) in [
        ("weather?", vec![weather, Step::Done]),
        (
            "colour it",
            vec![Step::Say("Of course."), paint, Step::Done],
        ),
        ("long", vec![Step::Say("one"), Step::Hold, Step::Done]),
        ("breaks", vec![Step::Say("one"), Step::ErrorLine("boom")]),
        ("missing", vec![Step::Refuse(404, "model 'x' not found")]),
    ] {
        genie.ollama.script(word, &steps);
    }
    (genie, ada)
}

/// Waits until the turn of a session has ended as stopped, at the model server, too.
async fn stopped(genie: &TestGenie, user: &TestUser, session: &str) {
    genie.ollama.cancelled().await;
    let path = format!("/api/genie/sessions/{session}/messages");
    until("the turn to stop", async || {
        let messages = user.get(genie, &path).await.json;
        let rows = messages["data"].as_array()?;
        rows.iter()
            .any(|row| row["outcome"] == "stopped")
            .then_some(())
    })
    .await;
}

both_stores!(
    the_client_of_openai_for_javascript_works_unchanged,
    async |store: TestStore| {
        let (genie, ada) = start(store).await;
        let told = client(Path::new("node"), "openai.mjs", &genie, &ada).await;
        stopped(&genie, &ada, "aborted").await;
        assert_eq!(
            told,
            json!({
                "models": ["qwen2.5:latest"],
                "model": "qwen2.5:latest",
                "whole": ["Hello there", "stop", 4],
                "streamed": ["Hello there", 4],
                "tools": "Hello there",
                "streamedTools": "Hello there",
                "aborted": true,
                "unknownModel": ["NotFoundError", 404, "model_not_found", "invalid_request_error", "model"],
                "wrongField": ["BadRequestError", 400, "invalid_field", "invalid_request_error", "n"],
                "missingModel": ["InternalServerError", 502, "ollama_model_missing", "server_error", null],
                "brokenStream": ["APIError", null, "ollama_failed", "server_error", null],
                "stranger": ["AuthenticationError", 401, "invalid_token", "authentication_error", null],
            })
        );
    }
);

both_stores!(
    the_client_of_openai_for_python_works_unchanged,
    async |store: TestStore| {
        let (genie, ada) = start(store).await;
        let told = client(&python(), "openai_client.py", &genie, &ada).await;
        stopped(&genie, &ada, "aborted").await;
        assert_eq!(
            told,
            json!({
                "models": ["qwen2.5:latest"],
                "model": "qwen2.5:latest",
                "whole": ["Hello there", "stop", 4],
                "streamed": ["Hello there", 4],
                "calls": [["weather", {"city": "Bern"}]],
                "tools": "Hello there",
                "streamed_calls": ["tool_calls", ["weather"]],
                "aborted": true,
                "unknown_model": ["NotFoundError", 404, "model_not_found", "invalid_request_error", "model"],
                "wrong_field": ["BadRequestError", 400, "invalid_field", "invalid_request_error", "n"],
                "missing_model": ["InternalServerError", 502, "ollama_model_missing", "server_error", null],
                "broken_stream": ["APIError", null, "ollama_failed", "server_error", null],
                "stranger": ["AuthenticationError", 401, "invalid_token", "authentication_error", null],
            })
        );
    }
);

both_stores!(
    the_ai_sdk_takes_its_steps_with_tools,
    async |store: TestStore| {
        let (genie, ada) = start(store).await;
        let mut told = client(Path::new("node"), "ai.mjs", &genie, &ada).await;
        stopped(&genie, &ada, "openai").await;
        let broken = told["broken"].take();
        assert!(
            broken.as_str().unwrap().contains("model server"),
            "{broken}"
        );
        assert_eq!(
            told,
            json!({
                "asked": ["Bern", "Bern"],
                "whole": ["Hello there", "stop", 4],
                "steps": [2, "tool-calls", "Hello there"],
                "streamed": [2, "Hello there", "stop"],
                "aborted": true,
                "broken": null,
            })
        );
    }
);

both_stores!(
    the_client_of_ag_ui_runs_calls_the_page_and_aborts,
    async |store: TestStore| {
        let (genie, ada) = start(store).await;
        let mut told = client(Path::new("node"), "agui.mjs", &genie, &ada).await;
        stopped(&genie, &ada, "stopped").await;
        told["stopped"].take(); // an error or an end, as the client likes
        assert_eq!(
            told,
            json!({
                "first": [["assistant", "Hello there"]],
                "call": ["paint", {"colour": "red"}],
                "painted": ["Hello there"],
                "stopped": null,
                "error": "ollama_failed",
            })
        );
    }
);

both_stores!(
    the_validator_of_ag_ui_finds_nothing,
    async |store: TestStore| {
        let (genie, ada) = start(store).await;
        let validator = tools().join("python/bin/ag-ui-validate");
        let mut live = Command::new(&validator);
        live.arg(format!("{}/api/genie/agui", genie.base))
            .arg(format!("--header=Authorization: Bearer {}", ada.token))
            .args(STRICT);
        let said = output(&mut live).await;
        assert!(said.contains("no conformance violations"), "{said}");
        // A run with a tool of the page, and one that fails.
        for message in ["colour it", "breaks"] {
            let run = json!({
                "threadId": "t", "runId": message, "messages": [{"id": "1", "role": "user", "content": message}],
                "tools": [{"name": "paint", "description": "Paints", "parameters": {"type": "object"}}], "context": [],
            });
            let told = ada.post(&genie, "/api/genie/agui", run).await.json;
            let file = genie.store.folder().join("run.sse");
            std::fs::write(&file, told.as_str().unwrap()).unwrap();
            let mut recorded = Command::new(&validator);
            recorded.arg(&file).args(STRICT);
            let said = output(&mut recorded).await;
            assert!(
                said.contains("no conformance violations"),
                "{message}: {said}"
            );
        }
    }
);
