//! The server's own log, as an operator reads it: JSON throughout, one line a request, and the request's id in the lines of the
//! tasks that work for it.

use std::{fs, path::Path, process::Stdio};

use genie_log::testing::{Kind, TestStore, both_stores};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::{
    secret_leaks::start,
    test_genie::{TestGenie, TestUser},
};

fn text(logs: &Path) -> String {
    fs::read_to_string(logs.join("stderr")).unwrap()
}

/// The lines of the server's standard error. Each must be a JSON object.
fn lines(logs: &Path) -> Vec<Value> {
    let text = text(logs);
    let parsed = text.lines().map(|line| {
        serde_json::from_str::<Value>(line)
            .ok()
            .filter(Value::is_object)
            .unwrap_or_else(|| panic!("not JSON: {line}"))
    });
    parsed.collect()
}

fn answered<'a>(lines: &'a [Value], path: &str) -> Vec<&'a Value> {
    let is_answer = |line: &&Value| {
        line["message"] == "request: answered" && line["http.path"].as_str() == Some(path)
    };
    lines.iter().filter(is_answer).collect()
}

fn request_id(line: &Value) -> Option<&str> {
    line["spans"]
        .as_array()?
        .iter()
        .find_map(|span| span["request.id"].as_str())
}

async fn terminate(mut process: Child) {
    let id = process.id().expect("it runs").to_string();
    let sent = Command::new("kill").args(["-TERM", &id]).status().await;
    assert!(sent.unwrap().success());
    assert!(process.wait().await.unwrap().success(), "a clean stop");
}

/// How often a server is started and stopped.
const STOPS: usize = 5;
/// A claim waits so long that its caller is checked again meanwhile, in milliseconds.
const LONG_CLAIM: u64 = 5500;

/// A request by a user, one without a caller to an unknown route, one by a worker, and two probes.
async fn some_requests(genie: &mut TestGenie) -> TestUser {
    let ada = genie.user("ada").await;
    assert_eq!(ada.get(genie, "/users/me").await.status, 200);
    let job = json!({"operation": "thumbnail", "input_url": "http://a/b"});
    ada.post(genie, "/api/queue/media", job).await.ok();
    assert_eq!(ada.get(genie, "/api/me/export").await.status, 200);
    genie
        .send(Method::GET, "/no/such/route", &[], None)
        .await
        .refused(404, "no_such_route");
    let claim =
        json!({"queues": ["scrape-jobs"], "worker_id": "w", "max": 1, "wait_ms": LONG_CLAIM});
    genie.server("/api/worker/claim", claim).await.ok();
    for probe in ["/healthz", "/readyz"] {
        genie.send(Method::GET, probe, &[], None).await;
    }
    ada
}

fn check_request_lines(lines: &[Value], ada: &TestUser) {
    let me = answered(lines, "/users/me");
    assert_eq!(me.len(), 1, "one line a request");
    let span = &me[0]["spans"][0];
    assert_eq!(
        (
            &span["user.id"],
            &span["http.method"],
            &me[0]["http.status"]
        ),
        (&json!(ada.id), &json!("GET"), &json!(200))
    );
    assert_eq!(me[0]["client.address"], "127.0.0.1");

    let nowhere = answered(lines, "/no/such/route");
    assert_eq!(
        (&nowhere[0]["http.status"], &nowhere[0]["code"]),
        (&json!(404), &json!("no_such_route"))
    );
    let claim = answered(lines, "/api/worker/claim");
    assert_eq!(claim[0]["spans"][0]["key.id"], "shared secret");
    assert!(
        claim[0]["took_ms"].as_u64() >= Some(LONG_CLAIM),
        "{claim:?}"
    );
    for probe in ["/healthz", "/readyz"] {
        assert!(answered(lines, probe).is_empty(), "{probe} is no news");
    }
}

/// The body of an export is written after the handler has answered.
fn check_body_lines(lines: &[Value]) {
    let is_end = |line: &&Value| line["message"] == "export: complete";
    let end = lines.iter().find(is_end).expect("the export was complete");
    let answered = request_id(answered(lines, "/api/me/export")[0]);
    assert!(answered.is_some());
    assert_eq!(request_id(end), answered, "{end}");
}

/// A JSON object that was read has each name once, so this looks at the text.
fn check_names(text: &str) {
    let answered = text
        .lines()
        .filter(|line| line.contains("request: answered"));
    for line in answered {
        for name in ["\"user.id\"", "\"key.id\""] {
            assert!(line.matches(name).count() <= 1, "{line}");
        }
    }
}

/// A span that stood twice in a line would have its request's id twice.
fn check_spans(lines: &[Value]) {
    for line in lines {
        if let Some(id) = request_id(line) {
            let times = line.to_string().matches(&format!("\"{id}\"")).count();
            assert_eq!(times, 1, "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_names_each_request_and_its_caller_once() {
    let store = TestStore::new(Kind::Sqlite).await;
    let settings = [("GENIE_LOG", "info,genie_log=debug".to_owned())];
    let mut genie = TestGenie::not_started(store, &settings).await;
    let logs = genie.store.folder().join("logs");
    fs::create_dir(&logs).unwrap();
    let process = start(&mut genie, &logs, "json").await;
    let ada = some_requests(&mut genie).await;
    terminate(process).await;

    let first = lines(&logs);
    check_request_lines(&first, &ada);
    check_body_lines(&first);
    check_spans(&first);
    check_names(&text(&logs));
    // A user's actor works in separate tasks.
    let submitted = request_id(answered(&first, "/api/queue/media")[0]);
    assert!(submitted.is_some());
    let is_its_append =
        |line: &Value| line["message"] == "writer: facts appended" && request_id(line) == submitted;
    assert!(
        first.iter().any(is_its_append),
        "the line of the actor's append names the request"
    );

    // After a clean stop no line speaks of a node that died.
    let process = start(&mut genie, &logs, "json").await;
    terminate(process).await;
    let second = &lines(&logs)[first.len()..];
    assert!(!second.is_empty());
    let of_the_dead = [
        "election: ended the connections",
        "supervisor: going on with a turn",
        "election: standing as a candidate failed",
    ];
    for line in second {
        let message = line["message"].as_str().unwrap_or_default();
        assert!(
            !of_the_dead.iter().any(|start| message.starts_with(start)),
            "{line}"
        );
    }
}

both_stores!(a_clean_stop_leaves_no_warning, async |store: TestStore| {
    let mut genie = TestGenie::not_started(store, &[]).await;
    let logs = genie.store.folder().join("logs");
    fs::create_dir(&logs).unwrap();
    for _ in 0..STOPS {
        let process = start(&mut genie, &logs, "json").await;
        // It is put on record at the stop, and projected while the connections are closed.
        let wrong = [("X-RBAC-SYNC-SECRET", "another secret".to_owned())];
        let claim = json!({"queues": ["media-jobs"], "worker_id": "w"});
        let path = "/api/worker/claim";
        let refused = genie.send(Method::POST, path, &wrong, Some(claim)).await;
        assert_eq!(refused.status, 401, "{:?}", refused.json);
        let before = lines(&logs).len();
        terminate(process).await;
        let mut at_the_stop = lines(&logs).split_off(before);
        at_the_stop.retain(|line| {
            let message = line["message"].as_str().unwrap_or_default();
            !message.starts_with("wrong secrets: ")
        });
        assert_eq!(at_the_stop, Vec::<Value>::new());
    }
});

#[tokio::test]
async fn wrong_settings_are_one_line_in_the_form_of_the_log() {
    let store = TestStore::new(Kind::Sqlite).await;
    let genie = TestGenie::not_started(store, &[]).await;
    for (name, value) in [("SERVER_PORT", "canary"), ("GENIE_LOG", "genie=canary")] {
        let mut serve = genie.command(&["serve"]);
        serve.env(name, value).env("GENIE_LOG_FORMAT", "json");
        let ended = serve.output().await.unwrap();
        assert!(!ended.status.success());
        let told = String::from_utf8(ended.stderr).unwrap();
        let line: Value = serde_json::from_str(&told).expect(&told);
        assert_eq!(
            (&line["level"], &line["message"]),
            (&json!("ERROR"), &json!("process: ends with an error"))
        );
        assert!(line["reason"].as_str().unwrap().contains(name), "{line}");
    }
    // Commands are for people, whatever the form of the log.
    let mut command = genie.command(&["config"]);
    command
        .env("SERVER_PORT", "canary")
        .env("GENIE_LOG_FORMAT", "json");
    let ended = command.output().await.unwrap();
    let told = String::from_utf8(ended.stderr).unwrap();
    assert!(told.starts_with("genie: SERVER_PORT"), "{told}");
}

/// The output of a server on a terminal. It warns, and ends because its data folder cannot be one.
async fn on_a_terminal(genie: &TestGenie, no_color: Option<&str>) -> String {
    let serve = genie.command(&["serve"]);
    let serve = serve.as_std();
    let mut script = Command::new("script");
    let program = format!("{} serve", serve.get_program().to_str().unwrap());
    script
        .args(["--quiet", "--return", "--command", &program, "/dev/null"])
        .current_dir(genie.store.folder())
        .env_clear()
        .envs(
            serve
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .env("PATH", "/usr/bin:/bin")
        .env("GENIE_DATA_DIR", "/dev/null")
        .env("GENIE_NO_SUCH_SETTING", "1")
        .stdin(Stdio::null());
    if let Some(no_color) = no_color {
        script.env("NO_COLOR", no_color);
    }
    let ended = script.output().await.expect("`script` of util-linux");
    let shown = String::from_utf8(ended.stdout).unwrap();
    assert!(shown.contains("GENIE_NO_SUCH_SETTING"), "{shown}");
    assert!(!ended.status.success(), "{shown}");
    shown
}

#[tokio::test]
async fn no_color_keeps_colors_off_a_terminal() {
    let store = TestStore::new(Kind::Sqlite).await;
    let genie = TestGenie::not_started(store, &[]).await;
    const ESCAPE: char = '\u{1b}';
    assert!(on_a_terminal(&genie, None).await.contains(ESCAPE));
    assert!(
        on_a_terminal(&genie, Some("")).await.contains(ESCAPE),
        "empty is unset"
    );
    assert!(!on_a_terminal(&genie, Some("1")).await.contains(ESCAPE));
}
