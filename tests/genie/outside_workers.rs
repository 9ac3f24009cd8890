//! The workers of docs/workers.md, run as they stand there.

use std::time::Duration;

use genie_log::testing::{TestStore, both_stores};
use serde_json::json;
use tokio::process::{Child, Command};

use crate::{onboarding::two, test_genie::TestGenie, until::until_within};

const PAGE: &str = include_str!("../../docs/workers.md");

/// The only block of code in this language.
fn program(language: &str) -> &'static str {
    let (_, rest) = PAGE
        .split_once(&format!("```{language}\n"))
        .expect("the page has it");
    let (program, after) = rest.split_once("```").expect("the block ends");
    assert!(!after.contains(&format!("```{language}\n")), "one block");
    program
}

fn start(genie: &TestGenie, program: &str, file: &str, text: &str, key: &str) -> Child {
    let path = genie.store.folder().join(file);
    std::fs::write(&path, text).unwrap();
    Command::new(program)
        .arg(path)
        .env("GENIE_WORKER_URL", &genie.base)
        .env("GENIE_WORKER_KEY", key)
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

#[test]
fn the_documented_workers_are_short() {
    for language in ["python", "js"] {
        let lines = program(language).lines().count();
        assert!(lines <= 24, "{language}: {lines} lines");
    }
}

both_stores!(the_documented_workers_work, async |store: TestStore| {
    let mut genie = TestGenie::start(store).await;
    let (admin, ada) = two(&mut genie).await;
    let wanted = json!({"name": "outside", "scopes": ["jobs:work"]});
    let path = "/api/admin/service-keys";
    let made = admin.post(&genie, path, wanted).await.ok();
    let key = made["key"].as_str().unwrap();
    for (name, file, language) in [
        ("python3", "worker.py", "python"),
        ("node", "worker.mjs", "js"),
    ] {
        let mut worker = start(&genie, name, file, program(language), key);
        for number in 0..2 {
            let params = json!({"profile": format!("{name} {number}")});
            let job = json!({"operation": "scrape_profile", "params": params});
            let queued = ada.post(&genie, "/api/queue/media", job).await.ok();
            let path = format!("/api/jobs/{}", queued["id"].as_str().unwrap());
            let job = until_within(Duration::from_secs(60), "the job ends", async || {
                let job = ada.get(&genie, &path).await.ok();
                job["finished_at"].is_string().then_some(job)
            })
            .await;
            assert_eq!(job["status"], "completed", "{name}: {job}");
            assert_eq!(job["result"], json!({"echo": params}), "{name}");
            assert_eq!(job["attempt"], 1, "{name}");
        }
        assert!(worker.try_wait().unwrap().is_none(), "{name} goes on");
        worker.kill().await.unwrap();
    }
});
