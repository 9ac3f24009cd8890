//! The program itself on both stores, with a model server.
//!
//! `GENIE_TORTURE_SECONDS` makes it longer, `GENIE_TORTURE_RESTART` is a command that restarts the Postgres of the tests, and
//! `GENIE_TORTURE_BIN` names another `genie` than the one that cargo built beside `genie-torture`. `scripts/test` sets the first two.

use std::{process::Stdio, time::Duration};

use serde_json::Value;
use tokio::process::Command;

use crate::fake_ollama::{FakeOllama, Step};

/// Longer than the beginning and the end of any run.
const SLACK: Duration = Duration::from_secs(240);

#[expect(
    clippy::disallowed_methods,
    reason = "how long and on what to test is said by the environment"
)]
fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A run with a model server whose answers take a while.
async fn torture(arguments: &[&str]) -> Value {
    let ollama = FakeOllama::start().await;
    let pieces = ["Some", " words,", " and", " some", " more", " \u{2764}."];
    let steps: Vec<Step> = pieces
        .into_iter()
        .flat_map(|piece| [Step::Say(piece), Step::Pause(15)])
        .collect();
    ollama.script("Question", &[steps, vec![Step::Done]].concat());
    let seconds = setting("GENIE_TORTURE_SECONDS").unwrap_or_else(|| "15".into());
    let mut command = Command::new(env!("CARGO_BIN_EXE_genie-torture"));
    command
        .args(["--json", "--clients", "8", "--seconds", &seconds])
        .args(["--ollama", &ollama.url])
        .args(arguments);
    if let Some(genie) = setting("GENIE_TORTURE_BIN") {
        command.args(["--genie", &genie]);
    }
    // The program gets the machine's paths and temporary folder, and nothing else of the
    // environment.
    command.env_clear().envs(
        ["PATH", "TMPDIR"]
            .into_iter()
            .filter_map(|name| Some((name, setting(name)?))),
    );
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let running = command.spawn().unwrap().wait_with_output();
    let limit = Duration::from_secs(seconds.parse().unwrap()) + SLACK;
    let output = tokio::time::timeout(limit, running)
        .await
        .expect("it comes to an end")
        .unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let report: Value =
        serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error}: {told}"));
    println!("{report:#}");
    assert!(output.status.success(), "{report:#}");
    for counter in report["counters"].as_array().unwrap() {
        assert_eq!(counter["count"], 0, "{report:#}");
    }
    assert_eq!(report["counters"].as_array().unwrap().len(), 6);
    assert_eq!(report["internal_errors"]["count"], 0, "{report:#}");
    assert!(report["read_side_settled_ms"].is_u64(), "{report:#}");
    assert_eq!(
        (
            report["passed"].as_bool(),
            report["failures"].as_array().map(Vec::len)
        ),
        (Some(true), Some(0)),
        "{report:#}"
    );
    report
}

/// A run that did nothing must not pass.
#[track_caller]
fn happened(report: &Value, faults: &[&str]) {
    for fault in faults {
        assert!(
            report["faults"][fault].as_u64().is_some_and(|n| n > 0),
            "{fault}: {report:#}"
        );
    }
    for command in [
        "submit a job with a jobId",
        "complete a job",
        "store a credential",
    ] {
        assert!(
            report["commands"][command]["acknowledged"]
                .as_u64()
                .is_some_and(|n| n > 0),
            "{command}: {report:#}"
        );
    }
    // Readers of answers that went away, or were cut off, and came back.
    let readers = &report["readers_of_turns"];
    let came_back = readers["left"].as_u64().unwrap() + readers["cut_off"].as_u64().unwrap();
    let at_least = if is_whole(report) { 100 } else { 1 };
    assert!(came_back >= at_least, "{report:#}");
    // Requests that were sent again under their key could have been applied twice.
    assert!(
        !is_whole(report) || report["lost_answers"].as_u64().is_some_and(|n| n > 0),
        "{report:#}"
    );
}

/// Chance decides which faults come first. A whole run has time for all of them, a short one for
/// one or two.
fn is_whole(report: &Value) -> bool {
    report["seconds"].as_u64() >= Some(60)
}

/// The number of faults of a run.
fn faults(report: &Value) -> u64 {
    let faults = report["faults"].as_object().unwrap();
    faults.values().filter_map(Value::as_u64).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite() {
    let report = torture(&[]).await;
    assert_eq!(
        (
            report["servers"].as_u64(),
            report["skipped"].as_object().unwrap().len()
        ),
        (Some(1), 10)
    );
    let expected: &[&str] = if is_whole(&report) {
        &[
            "kill -9 of a server",
            "a server frozen for a while",
            "a worker killed in the middle of a job",
            "a worker cut off for longer than a lease",
            "five waiting workers killed before 100 jobs",
        ]
    } else {
        &[]
    };
    happened(&report, expected);
    assert!(faults(&report) > 0, "{report:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres() {
    let postgres =
        setting("GENIE_TEST_POSTGRES").expect("GENIE_TEST_POSTGRES names the Postgres to test on");
    let url = format!("{postgres}/postgres");
    let restart = setting("GENIE_TORTURE_RESTART");
    let arguments = match &restart {
        Some(command) => vec!["--postgres", &url, "--restart-postgres", command],
        None => vec!["--postgres", &url],
    };
    let report = torture(&arguments).await;
    assert_eq!(report["servers"], 2);
    happened(&report, &[]);
    let at_least = if is_whole(&report) { 4 } else { 1 };
    assert!(faults(&report) >= at_least, "{report:#}");
    if is_whole(&report) && restart.is_some() {
        happened(&report, &["Postgres restarted"]);
    }
}
