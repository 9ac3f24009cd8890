//! genie as an MCP server: agents call tools for their user, by both versions of the protocol.

use std::path::Path;

use genie_log::testing::{TestStore, both_stores};
use reqwest::{Method, header::HeaderMap};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    api_keys::Program,
    fake_ollama::Step,
    test_genie::{Answer, TestGenie, TestUser},
};

const STATELESS: &str = "2026-07-28";
const WITH_SESSIONS: &str = "2025-11-25";

/// Runs an official client, which `scripts/test` installs.
async fn client(
    genie: &TestGenie,
    token: &str,
    version: &str,
    agent: &str,
    calls: &Value,
) -> Value {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/mcp");
    let script = tools.join("client.mjs");
    assert!(
        script.exists(),
        "run this by scripts/test, which installs the clients of MCP"
    );
    let output = Command::new("node")
        .arg(script)
        .args([version, &format!("{}/mcp", genie.base), token, agent])
        .arg(calls.to_string())
        .kill_on_drop(true)
        .output();
    let output = output.await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_str(said.lines().last().unwrap()).unwrap()
}

/// Sends a message of the later version, as an agent of this name.
async fn stateless(
    genie: &TestGenie,
    token: &str,
    agent: &str,
    method: &str,
    params: Value,
) -> Answer {
    let message = modern(agent, method, params);
    let mut headers = vec![
        ("Authorization", format!("Bearer {token}")),
        ("MCP-Protocol-Version", STATELESS.to_owned()),
        ("Mcp-Method", method.to_owned()),
    ];
    if let Some(name) = message["params"]["name"].as_str() {
        headers.push(("Mcp-Name", name.to_owned()));
    }
    genie
        .send(Method::POST, "/mcp", &headers, Some(message))
        .await
}

fn modern(agent: &str, method: &str, mut params: Value) -> Value {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": STATELESS,
        "io.modelcontextprotocol/clientInfo": {"name": agent, "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
}

/// Calls a tool and returns its result.
async fn call(genie: &TestGenie, user: &TestUser, name: &str, arguments: Value) -> Value {
    let params = json!({"name": name, "arguments": arguments});
    let answer = stateless(genie, &user.token, "claude-code", "tools/call", params).await;
    assert_eq!(answer.status, 200, "{:?}", answer.json);
    answer.json["result"].clone()
}

#[track_caller]
fn content(result: &Value) -> Value {
    assert_eq!(result["isError"], json!(false), "{result}");
    let content = result["structuredContent"].clone();
    let text = result["content"][0]["text"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(text).unwrap(), content);
    content
}

#[track_caller]
fn failure(result: &Value) -> String {
    assert_eq!(result["isError"], json!(true), "{result}");
    assert_eq!(result["structuredContent"], json!(null));
    result["content"][0]["text"].as_str().unwrap().to_owned()
}

both_stores!(
    official_clients_of_both_versions_call_every_tool,
    async |store: TestStore| {
        let settings = [("ONBOARDING_GATE", "off".to_owned())];
        let mut genie = TestGenie::start_with(store, &settings).await;
        genie.ollama.script(
            "caption",
            &[Step::Say("A "), Step::Say("caption."), Step::Done],
        );
        genie.ollama.script(
            "Hello",
            &[Step::Say("An "), Step::Say("answer."), Step::Done],
        );
        genie.user("ada").await;
        let bob = genie.user("bob").await;
        let program = Program::of(&genie, &bob, "bob", &["mcp"]).await;
        for version in [WITH_SESSIONS, STATELESS] {
            let named = format!("of-{version}");
            let job = json!({
                "operation": "resize_image", "input_url": "http://a/b", "params": {"width": 100}, "job_id": named,
            });
            let calls = json!([
                {"name": "queue_media_job", "arguments": job},
                {"name": "queue_media_job", "arguments": job},
                {"name": "job_status", "arguments": {"job_id": named}},
                {"name": "list_jobs", "arguments": {"status": "queued", "limit": 10}},
                {"name": "cancel_job", "arguments": {"job_id": named}},
                {"name": "generate_caption", "arguments": {"platform": "x", "topic": "news"}},
                {"name": "usage", "arguments": {}},
                {"name": "list_files", "arguments": {}},
                {"name": "list_connections", "arguments": {}},
                {"name": "chat", "arguments": {"message": "Hello", "session": named}},
                {"name": "queue_media_job", "arguments": {"operation": "resize_image"}},
            ]);
            let told = client(&genie, &program.key, version, "claude-code", &calls).await;
            assert_eq!(
                (&told["server"], &told["version"]),
                (&json!("genie"), &json!(version))
            );
            let tools = told["tools"].as_array().unwrap();
            let names: Vec<&str> = tools
                .iter()
                .map(|tool| tool["name"].as_str().unwrap())
                .collect();
            assert_eq!(
                names,
                [
                    "queue_media_job",
                    "job_status",
                    "list_jobs",
                    "cancel_job",
                    "generate_caption",
                    "usage",
                    "list_files",
                    "list_connections",
                    "chat"
                ]
            );
            assert_eq!(tools[1]["annotations"]["readOnlyHint"], json!(true));
            assert_eq!(tools[3]["annotations"]["idempotentHint"], json!(true));
            let results = told["results"].as_array().unwrap();
            let queued = content(&results[0]);
            assert_eq!(queued["status"], "queued");
            assert_eq!(content(&results[1])["job_id"], queued["job_id"]);
            assert_eq!(content(&results[2])["job_id"], json!(named));
            let listed = content(&results[3]);
            assert_eq!(listed["jobs"].as_array().unwrap().len(), 1, "{listed}");
            assert_eq!(content(&results[4])["status"], "cancelled");
            assert_eq!(content(&results[5])["caption"], "A caption.");
            assert_eq!(content(&results[6])["tier"], "pro");
            assert_eq!(content(&results[7])["files"], json!([]));
            assert_eq!(content(&results[8])["connections"], json!([]));
            let said = content(&results[9]);
            assert_eq!(
                (&said["text"], &said["outcome"]),
                (&json!("An answer."), &json!("completed"))
            );
            assert!(
                failure(&results[10]).contains("`params.width`"),
                "{}",
                results[10]
            );
        }
        let usage = bob.get(&genie, "/api/usage").await.ok();
        assert_eq!(
            usage["usage"]["posts_ai_assisted"], 2,
            "each caption counts"
        );
    }
);

both_stores!(
    facts_name_the_agent_the_key_and_the_request,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        genie.user("ada").await;
        let bob = genie.user("bob").await;
        let program = Program::of(&genie, &bob, "bob", &["mcp"]).await;
        let job = json!({"operation": "resize_image", "input_url": "http://a/b", "params": {"width": 100}});
        let calls = json!([{"name": "queue_media_job", "arguments": job}]);
        client(&genie, &program.key, WITH_SESSIONS, "Claude Code", &calls).await;
        client(&genie, &program.key, STATELESS, "Claude Code", &calls).await;
        let params = json!({"name": "queue_media_job", "arguments": job});
        let asked = stateless(&genie, &bob.token, "adas-own-bot", "tools/call", params).await;
        let request = asked.headers["X-Request-Id"].to_str().unwrap().to_owned();
        let facts = bob
            .get(&genie, "/api/me/events?types=job.submitted")
            .await
            .ok();
        let facts = facts["data"].as_array().unwrap();
        assert_eq!(facts.len(), 3, "{facts:?}");
        for fact in &facts[..2] {
            assert_eq!(fact["agent"], "claude-code");
            assert_eq!(fact["callerid"], json!(bob.id));
            assert_eq!(fact["callerkey"], json!(program.id));
            assert!(fact["requestid"].is_string());
        }
        // A name that genie does not know may be personal: the log has a keyed hash of it.
        let agent = facts[2]["agent"].as_str().unwrap();
        assert!(agent.starts_with('#') && !agent.contains("ada"), "{agent}");
        assert_eq!(facts[2]["callerkey"], json!(null));
        assert_eq!(facts[2]["requestid"], json!(request));
    }
);

both_stores!(
    a_wrong_argument_is_a_result_that_names_it,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        genie.user("ada").await;
        let bob = genie.user("bob").await;
        let carl = genie.user("carl").await;
        let job = carl.submit_job(&genie).await;
        for (tool, arguments, named) in [
            ("queue_media_job", json!({}), "`operation`"),
            (
                "queue_media_job",
                json!({"operation": "fly"}),
                "`operation`",
            ),
            (
                "queue_media_job",
                json!({"operation": "resize_image", "input_url": "http://a/b", "params": {"width": -1}}),
                "width",
            ),
            ("job_status", json!({}), "`job_id`"),
            ("job_status", json!({"job_id": 7.5}), "`job_id`"),
            ("job_status", json!({"job_id": job}), "not_found"),
            ("cancel_job", json!({"job_id": job}), "not_found"),
            ("list_jobs", json!({"status": "asleep"}), "`status`"),
            ("list_files", json!({"limit": 5000}), "`limit`"),
            ("list_connections", json!({"cursor": "x"}), "`cursor`"),
            (
                "generate_caption",
                json!({"platform": "myspace"}),
                "`platform`",
            ),
            ("chat", json!({"message": "  "}), "`message`"),
            ("chat", json!([]), "`arguments`"),
        ] {
            let result = call(&genie, &bob, tool, arguments).await;
            let sentence = failure(&result);
            assert!(sentence.contains(named), "{tool}: {sentence}");
        }
        // The tier holds for tools as for routes.
        let free = genie
            .server(
                "/api/rbac-sync",
                json!({"userId": bob.id, "tier": "starter"}),
            )
            .await;
        free.ok();
        let thumbnail = json!({"operation": "thumbnail", "input_url": "http://a/b"});
        let refused = failure(&call(&genie, &bob, "queue_media_job", thumbnail).await);
        assert!(refused.contains("thumbnail_ops"), "{refused}");
        let jobs = bob.get(&genie, "/api/jobs").await.ok();
        assert_eq!(jobs["data"], json!([]));
    }
);

both_stores!(
    a_connection_is_listed_without_its_secret,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        genie.user("ada").await;
        let bob = genie.user("bob").await;
        let profile = json!({"platform": "x", "credentials": {"password": "hunter2"}, "platform_username": "bobby"});
        let stored = bob
            .post(&genie, "/api/credentials/create-profile", profile)
            .await
            .ok();
        let listed = call(&genie, &bob, "list_connections", json!({})).await;
        assert!(!listed.to_string().contains("hunter2"));
        let connections = content(&listed);
        let connection = &connections["connections"][0];
        assert_eq!(
            (
                &connection["id"],
                &connection["platform"],
                &connection["platform_username"]
            ),
            (&stored["id"], &json!("x"), &json!("bobby"))
        );
        let fields: Vec<&String> = connection.as_object().unwrap().keys().collect();
        assert_eq!(
            fields,
            [
                "created_at",
                "id",
                "kind",
                "platform",
                "platform_username",
                "updated_at"
            ]
        );
    }
);

both_stores!(
    only_posts_of_a_user_s_agent_are_taken,
    async |store: TestStore| {
        let settings = [("CORS_ORIGINS", "https://app.example.com".to_owned())];
        let mut genie = TestGenie::start_with(store, &settings).await;
        let admin = genie.user("ada").await;
        let bob = genie.user("bob").await;
        let list = || Some(modern("claude-code", "tools/list", json!({})));
        let refused = genie.send(Method::POST, "/mcp", &[], list()).await;
        assert_eq!(refused.headers["WWW-Authenticate"], "Bearer");
        refused.refused(401, "invalid_token");
        let chat = Program::of(&genie, &bob, "bob", &["chat"]).await;
        stateless(&genie, &chat.key, "x", "tools/list", json!({}))
            .await
            .refused(403, "scope_needed");
        let server = json!({"name": "n", "scopes": ["audit:read"]});
        let server = admin
            .post(&genie, "/api/admin/service-keys", server)
            .await
            .ok();
        stateless(
            &genie,
            server["key"].as_str().unwrap(),
            "x",
            "tools/list",
            json!({}),
        )
        .await
        .refused(403, "forbidden");
        for method in [Method::GET, Method::DELETE] {
            let answer = genie.send(method, "/mcp", &bob.headers(), None).await;
            assert_eq!(
                (answer.status.as_u16(), &answer.headers["Allow"]),
                (405, &"POST".parse().unwrap())
            );
        }
        for (origin, status) in [
            ("https://evil.example.com", 403),
            ("https://app.example.com", 200),
        ] {
            let [bearer] = bob.headers();
            let headers = [
                bearer,
                ("Origin", origin.to_owned()),
                ("MCP-Protocol-Version", STATELESS.to_owned()),
                ("Mcp-Method", "tools/list".to_owned()),
            ];
            let answer = genie.send(Method::POST, "/mcp", &headers, list()).await;
            assert_eq!(answer.status, status, "{origin}: {:?}", answer.json);
        }
    }
);

both_stores!(
    a_request_says_its_version_and_its_headers_say_what_its_body_says,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let send = async |headers: &[(&'static str, &str)], body: Value| {
            let [bearer] = ada.headers();
            let others = headers
                .iter()
                .map(|(name, value)| (*name, (*value).to_owned()));
            let headers: Vec<_> = std::iter::once(bearer).chain(others).collect();
            genie.send(Method::POST, "/mcp", &headers, Some(body)).await
        };
        let version = ("MCP-Protocol-Version", STATELESS);
        let list = modern("x", "tools/list", json!({}));
        let usage = modern("x", "tools/call", json!({"name": "usage"}));
        let is_method = ("Mcp-Method", "tools/list");
        let calls = ("Mcp-Method", "tools/call");
        let mut bare = list.clone();
        bare["params"] = json!({});
        let mut no_capabilities = list.clone();
        no_capabilities["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] =
            json!(null);
        let old = ("MCP-Protocol-Version", "2024-11-05");
        let legacy = ("MCP-Protocol-Version", WITH_SESSIONS);
        for (headers, body, status, code) in [
            (vec![version], list.clone(), 400, -32020),
            (vec![version, calls], list.clone(), 400, -32020),
            (vec![is_method], list.clone(), 400, -32020),
            (vec![legacy, is_method], list.clone(), 400, -32020),
            (vec![version, calls], usage.clone(), 400, -32020),
            (
                vec![version, calls, ("Mcp-Name", "chat")],
                usage.clone(),
                400,
                -32020,
            ),
            (vec![version, is_method], bare.clone(), 400, -32602),
            (vec![version, is_method], no_capabilities, 400, -32602),
            (vec![old], bare.clone(), 400, -32022),
            (
                vec![],
                json!({"jsonrpc": "1.0", "id": 1, "method": "ping"}),
                400,
                -32600,
            ),
            (
                vec![],
                json!({"jsonrpc": "2.0", "id": {}, "method": "ping"}),
                400,
                -32600,
            ),
            (vec![], json!([bare.clone()]), 400, -32700),
            (
                vec![],
                json!({"jsonrpc": "2.0", "id": 1, "method": "resources/list"}),
                200,
                -32601,
            ),
            (
                vec![],
                json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "fly"}}),
                200,
                -32602,
            ),
            (
                vec![("Mcp-Session-Id", "nonsense")],
                json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "usage"}}),
                404,
                -32001,
            ),
        ] {
            let answer = send(&headers, body.clone()).await;
            let told = (
                answer.status.as_u16(),
                answer.json["error"]["code"].as_i64(),
            );
            assert_eq!(
                told,
                (status, Some(code)),
                "{headers:?} {body}: {:?}",
                answer.json
            );
        }
        let unknown = modern("x", "prompts/list", json!({}));
        let answer = send(&[version, ("Mcp-Method", "prompts/list")], unknown).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json["error"]["code"]),
            (404, &json!(-32601))
        );
        let supported = send(&[old], bare).await.json;
        assert_eq!(
            supported["error"]["data"]["supported"],
            json!([STATELESS, WITH_SESSIONS])
        );

        let coded = ("Mcp-Name", "=?base64?dXNhZ2U=?=");
        let answer = send(&[version, calls, coded], usage).await;
        assert_eq!(content(&answer.json["result"])["tier"], "studio");
        assert_eq!(answer.json["result"]["resultType"], "complete");
        let discover = modern("x", "server/discover", json!({}));
        let found = send(&[version, ("Mcp-Method", "server/discover")], discover)
            .await
            .json;
        assert_eq!(
            found["result"]["supportedVersions"],
            json!([STATELESS, WITH_SESSIONS])
        );
    }
);

both_stores!(
    a_session_is_known_to_every_server_and_nothing_is_kept_of_it,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let [bearer] = ada.headers();
        // A client of an earlier version is answered with the version that genie speaks.
        let begin = json!({"jsonrpc": "2.0", "id": "a", "method": "initialize", "params": {
            "protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "cursor", "version": "1"},
        }});
        let begun = genie
            .send(
                Method::POST,
                "/mcp",
                std::slice::from_ref(&bearer),
                Some(begin),
            )
            .await;
        assert_eq!(begun.json["result"]["protocolVersion"], WITH_SESSIONS);
        assert_eq!(begun.json["id"], "a");
        let session = session_of(&begun.headers);
        assert!(!session.contains("cursor"));
        let headers = [
            bearer,
            ("Mcp-Session-Id", session),
            ("MCP-Protocol-Version", WITH_SESSIONS.to_owned()),
        ];
        let note = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        let noted = genie.send(Method::POST, "/mcp", &headers, Some(note)).await;
        assert_eq!(noted.status, 202);
        genie.restart().await;
        let job = json!({"operation": "resize_image", "input_url": "http://a/b", "params": {"width": 100}});
        let queue = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "queue_media_job", "arguments": job}});
        let queued = genie
            .send(Method::POST, "/mcp", &headers, Some(queue))
            .await;
        content(&queued.json["result"]);
        let facts = ada
            .get(&genie, "/api/me/events?types=job.submitted")
            .await
            .ok();
        assert_eq!(facts["data"][0]["agent"], "cursor");
    }
);

fn session_of(headers: &HeaderMap) -> String {
    let id = headers["Mcp-Session-Id"].to_str().unwrap();
    assert!(id.bytes().all(|byte| byte.is_ascii_graphic()));
    id.to_owned()
}
