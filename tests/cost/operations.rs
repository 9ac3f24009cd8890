//! The operations that are counted.

use futures_util::future::join_all;
use genie_events::{CredentialId, UserId};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    fake_ollama::Step,
    meter::{Meter, REPETITIONS},
    test_genie::{Answer, Events, SECRET, TestGenie, TestUser, answer, outcome, password},
    until::until,
};

/// The session with all the messages.
pub const LONG_SESSION: &str = "long";
const NAME: &str = "ada";

/// The user whose operations are counted.
pub struct Subject {
    pub id: UserId,
    pub credential: CredentialId,
    pub user: TestUser,
}

impl Subject {
    /// Registers the user, who administers and has one credential.
    pub async fn register(genie: &mut TestGenie) -> Self {
        let user = genie.user(NAME).await;
        let profile = json!({"platform": "onlyfans", "credentials": {"password": "hunter2"}});
        let stored = user
            .post(genie, "/api/credentials/create-profile", profile)
            .await
            .ok();
        Self {
            id: user.id.parse().unwrap(),
            credential: stored["id"].as_str().unwrap().parse().unwrap(),
            user,
        }
    }
}

/// Loads the subject's state from a past without a snapshot. That takes longer than a request may, and
/// leaves a snapshot.
pub async fn load(genie: &TestGenie, subject: &Subject) {
    until("the subject's state", async || {
        let answer = ask_to_append(genie, subject).await;
        (answer.status == 200).then_some(())
    })
    .await;
}

/// Counts each operation of a running server.
pub async fn count_all(meter: &mut Meter, genie: &TestGenie, subject: &Subject) {
    writes(meter, genie, subject).await;
    files(meter, genie, subject).await;
    jobs(meter, genie, subject).await;
    chat(meter, genie, subject).await;
    reads(meter, genie, subject).await;
}

/// A command that appends one fact.
pub async fn append(genie: &TestGenie, subject: &Subject) {
    ask_to_append(genie, subject).await.ok();
}

async fn ask_to_append(genie: &TestGenie, subject: &Subject) -> Answer {
    let count = json!({"operation": "taxonomy_ai_calls"});
    subject
        .user
        .post(genie, "/api/usage/increment", count)
        .await
}

async fn writes(meter: &mut Meter, genie: &TestGenie, subject: &Subject) {
    meter
        .count("append", async || append(genie, subject).await)
        .await;
    let login = json!({"email": format!("{NAME}@example.com"), "password": password(NAME)});
    meter
        .count("login", async || {
            let body = Some(login.clone());
            let answer = genie.send(Method::POST, "/auth/login", &[], body).await;
            assert_eq!(answer.status, 200, "{:?}", answer.json);
        })
        .await;
    let reveal = json!({"creatorProfileId": subject.credential, "purpose": "publish"});
    meter
        .count("reveal", async || {
            genie
                .server("/api/credentials/reveal", reveal.clone())
                .await
                .ok();
        })
        .await;
}

async fn jobs(meter: &mut Meter, genie: &TestGenie, subject: &Subject) {
    let ada = &subject.user;
    meter
        .count("enqueue", async || {
            ada.submit_job(genie).await;
        })
        .await;
    // Claims find the jobs that the enqueues left.
    let mut claimed = Vec::new();
    meter
        .count("claim", async || claimed.push(genie.claim().await))
        .await;
    let next = async || claimed.pop().expect("a claim for each completion");
    meter
        .count_after("complete", next, async |job: Value| {
            let path = format!(
                "/api/worker/jobs/{}/complete",
                job["jobId"].as_str().unwrap()
            );
            let body = json!({"lease": job["lease"], "result": {"width": 100}});
            genie.server(&path, body).await.ok();
        })
        .await;
    changes_of_jobs(meter, genie, ada).await;
    meter
        .count("batch of 100", async || {
            let job = json!({"operation": "thumbnail", "input_url": "http://a/b"});
            let batch = json!({"jobs": vec![job; BATCH], "atomic": true});
            ada.post(genie, "/api/queue/media/batch", batch).await.ok();
        })
        .await;
    reports(meter, genie).await;
    meter
        .count("enqueue of a mark", async || {
            let operation = "apply_steganographic_watermark";
            let job = json!({"operation": operation, "input_url": "http://a/b"});
            ada.post(genie, "/api/queue/media", job).await.ok();
        })
        .await;
}

/// The jobs of a batch, and those of a report.
const BATCH: usize = 100;
const REPORTED: usize = 10;

async fn changes_of_jobs(meter: &mut Meter, genie: &TestGenie, ada: &TestUser) {
    let new_job = async || ada.submit_job(genie).await;
    meter
        .count_after("reschedule", new_job, async |job: String| {
            let body = json!({"priority": 3});
            ada.patch(genie, &format!("/api/jobs/{job}"), body)
                .await
                .ok();
        })
        .await;
    let mut cancelled = Vec::new();
    meter
        .count_after("cancel", new_job, async |job: String| {
            let path = format!("/api/queue/cancel/{job}");
            ada.post(genie, &path, Value::Null).await.ok();
            cancelled.push(job);
        })
        .await;
    let next = async || cancelled.pop().expect("a cancelled job for each retry");
    meter
        .count_after("retry", next, async |job: String| {
            let path = format!("/api/queue/retry/{job}");
            ada.post(genie, &path, Value::Null).await.ok();
        })
        .await;
}

/// Reports that end jobs and claim as many.
async fn reports(meter: &mut Meter, genie: &TestGenie) {
    // The batches' jobs are of one user: what a report costs depends on the number of users.
    let claim = json!({
        "queues": ["media-jobs"],
        "operations": ["thumbnail"],
        "worker_id": "w",
        "max": REPORTED,
        "wait_ms": 10_000,
    });
    let first = async || genie.server("/api/worker/claim", claim.clone()).await.ok();
    meter
        .count_after("report of 10", first, async |mut claimed: Value| {
            let jobs = claimed["jobs"].as_array_mut().unwrap();
            assert_eq!(jobs.len(), REPORTED);
            let report = |job: &Value| {
                json!({"jobId": job["jobId"], "lease": job["lease"], "complete": {"result": {}}})
            };
            let reports: Vec<Value> = jobs.iter().map(report).collect();
            let body = json!({"reports": reports, "claim": claim});
            let answer = genie.server("/api/worker/report", body).await.ok();
            let told = answer["reports"].as_array().unwrap();
            assert!(told.iter().all(|one| one["ok"] == true), "{answer}");
            assert_eq!(answer["jobs"].as_array().unwrap().len(), REPORTED);
        })
        .await;
}

async fn files(meter: &mut Meter, genie: &TestGenie, subject: &Subject) {
    let ada = &subject.user;
    let mut uploaded = Vec::new();
    meter
        .count("upload", async || {
            let url = format!("{}/api/files?name=a.txt", genie.base);
            let request = genie.http.post(url).bearer_auth(&ada.token);
            let file = answer(request.body("a small file")).await.ok();
            uploaded.push(file["id"].as_str().unwrap().to_owned());
        })
        .await;
    let path = format!("/api/files/{}", uploaded[0]);
    meter
        .count("download", async || {
            assert_eq!(ada.get(genie, &path).await.status, 200);
        })
        .await;
    let next = async || uploaded.pop().expect("an upload for each removal");
    meter
        .count_after("remove a file", next, async |file: String| {
            let path = format!("/api/files/{file}");
            ada.delete(genie, &path).await.ok();
        })
        .await;
}

async fn chat(meter: &mut Meter, genie: &TestGenie, subject: &Subject) {
    meter
        .count("ask", async || {
            subject
                .user
                .ask(genie, LONG_SESSION, "Say hello")
                .await
                .rest()
                .await;
        })
        .await;
}

/// A question with this word is answered by a token each time that the model goes on.
const SLOWLY: &str = "slowly";

/// Counts what turns take that run, or have ended, in the long session: with so many readers of one, and as many others
/// beside it.
pub async fn count_turns(meter: &mut Meter, genie: &TestGenie, subject: &Subject, readers: usize) {
    let ada = &subject.user;
    let token = [Step::Say("a"), Step::Hold];
    let answer: Vec<Step> = token.iter().cycle().take(40).cloned().collect();
    genie.ollama.script(SLOWLY, &answer);
    let ended = ada.ask(genie, LONG_SESSION, "Say hello").await.turn;
    genie.settle().await;
    meter
        .count("resume after the end", async || {
            let events = resume(genie, ada, &ended).await.rest().await;
            assert_eq!(outcome(&events), "completed");
        })
        .await;

    // The first one is read by many; the others only run.
    let mut asked = ada.ask(genie, "read by many", SLOWLY).await;
    asked.text().await;
    let mut watched = Vec::new();
    for _ in 0..readers {
        let mut reader = resume(genie, ada, &asked.turn).await;
        reader.text().await;
        watched.push(reader);
    }
    meter
        .count("token to its readers", async || {
            genie.ollama.go_on();
            for reader in watched.iter_mut().chain([&mut asked]) {
                reader.text().await;
            }
        })
        .await;
    meter
        .count("resume of a running turn", async || {
            resume(genie, ada, &asked.turn).await.text().await;
        })
        .await;

    let mut others = Vec::new();
    for n in 0..readers {
        let mut other = ada.ask(genie, &format!("beside {n}"), SLOWLY).await;
        other.text().await;
        others.push(other);
    }
    let ask = async || {
        let mut asked = ada.ask(genie, LONG_SESSION, SLOWLY).await;
        asked.text().await;
        asked
    };
    meter
        .count_after("stop", ask, async |asked: Events| {
            let path = format!("/api/genie/turns/{}", asked.turn);
            ada.delete(genie, &path).await.ok();
            assert_eq!(outcome(&asked.rest().await), "stopped");
        })
        .await;
    for turn in others.iter().chain([&asked]) {
        let path = format!("/api/genie/turns/{}", turn.turn);
        ada.delete(genie, &path).await.ok();
    }
}

async fn resume(genie: &TestGenie, user: &TestUser, turn: &str) -> Events {
    let url = format!("{}/api/genie/turns/{turn}/stream", genie.base);
    Events::open(genie.http.get(url).bearer_auth(&user.token)).await
}

/// Reads as the user, who administers too.
const READS: [(&str, &str); 20] = [
    ("authenticated read", "/users/me"),
    ("usage", "/api/usage"),
    ("list of jobs", "/api/jobs"),
    ("list of jobs by status", "/api/jobs?status=cancelled"),
    // The past of the grown store has no such job.
    ("jobs of another status", "/api/jobs?status=failed"),
    ("jobs of another queue", "/api/jobs?queue=scrape-jobs"),
    (
        "jobs of another operation",
        "/api/jobs?operation=crop_video",
    ),
    (
        "jobs of all three",
        "/api/jobs?queue=media-jobs&operation=resize_image&status=failed",
    ),
    ("jobs with a code", "/api/jobs?code=no_space"),
    ("list of files", "/api/files"),
    ("list of credentials", "/api/credentials"),
    ("list of reveals", "/api/credentials/reveals"),
    ("list of logins", "/api/me/sessions"),
    ("list of captions", "/api/captions"),
    ("list of chats", "/api/genie/sessions"),
    ("messages page", "/api/genie/sessions/long/messages"),
    ("list of invites", "/api/admin/invites"),
    ("list of service keys", "/api/admin/service-keys"),
    ("own feed", "/api/me/events?limit=100"),
    ("feed page", "/api/events?limit=100"),
];

async fn reads(meter: &mut Meter, genie: &TestGenie, subject: &Subject) {
    for (name, path) in READS {
        meter
            .count(name, async || {
                let answer = subject.user.get(genie, path).await;
                assert_eq!(answer.status, 200, "{path}: {:?}", answer.json);
            })
            .await;
    }
    meter
        .count("queue statistics", async || {
            let header = [("X-RBAC-SYNC-SECRET", SECRET.to_owned())];
            let answer = genie
                .send(Method::GET, "/api/queue/stats", &header, None)
                .await;
            assert_eq!(answer.status, 200, "{:?}", answer.json);
        })
        .await;
}

/// The job board's start, which reads the jobs that have not ended, in pages.
pub const BOARD: &str = "board start";
const UNFINISHED: &str = "SELECT hex(user_id) AS user_hex, hex(job_id) AS job_hex, queue, operation, priority, submitted, sequence, due, running FROM unfinished";

/// How the users with such jobs stand.
pub const OWNERS: &str = "owners on the board";
const STANDINGS: &str = "SELECT user_id, status, tier FROM accounts WHERE user_id IN";

/// Counts the server's start, and the first command of a user whom it has not in memory.
pub async fn count_starts(meter: &mut Meter, genie: &mut TestGenie, subject: &Subject) {
    for _ in 0..REPETITIONS {
        assert!(genie.terminate().await);
        let apart = [(BOARD, UNFINISHED), (OWNERS, STANDINGS)];
        meter
            .add("server start", &apart, async || genie.launch_again().await)
            .await;
        meter
            .add("wake", &[], async || append(genie, subject).await)
            .await;
    }
}

/// This many users who have logged in, registered by invites of the first.
pub async fn users(genie: &mut TestGenie, count: usize) -> Vec<TestUser> {
    let admin = genie.user(NAME).await;
    let wanted = json!({"count": count, "tier": "studio"});
    let invites = admin.post(genie, "/api/admin/invites", wanted).await.ok();
    let genie = &*genie;
    let registered = (0..count).map(|n| {
        let invite = invites["data"][n]["code"].as_str().unwrap().to_owned();
        async move { genie.register(&format!("user{n}"), &invite).await }
    });
    join_all(registered).await
}

/// Each user enqueues this many jobs, one after the other; the users at the same time.
pub async fn enqueue(genie: &TestGenie, users: &[TestUser], each: usize) {
    let enqueues = users.iter().map(async |user| {
        for _ in 0..each {
            user.submit_job(genie).await;
        }
    });
    join_all(enqueues).await;
}
