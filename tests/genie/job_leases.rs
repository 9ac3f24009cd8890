//! Leases outlive a server or a store that is away for longer than a lease, as long as the worker goes on beating: the
//! job is done once, and at its first attempt.

use std::{env, time::Duration};

use genie_log::testing::{TestStore, both_stores};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle, time::sleep};

use crate::{
    store_away::{Cuttable, Way},
    test_genie::{SECRET, TestGenie, TestUser},
    until::moment_after,
};

/// How long things take: a tenth of what they are in use, unless the tests are to take their full length.
struct Lengths {
    lease: Duration,
    /// Longer than a lease.
    away: Duration,
    beat: Duration,
}

fn lengths() -> Lengths {
    let [lease, away, beat] = match env::var_os("GENIE_TEST_LONG") {
        Some(_) => [30_000, 31_000, 1000],
        None => [2500, 3500, 100],
    }
    .map(Duration::from_millis);
    Lengths { lease, away, beat }
}

fn lease_setting() -> [(&'static str, String); 1] {
    let lease = lengths().lease.as_millis().to_string();
    [("GENIE_JOB_LEASE_MS", lease)]
}

/// A worker that holds a job and beats, whether or not anybody answers.
struct BeatingWorker {
    job: Value,
    server: watch::Sender<String>,
    beating: JoinHandle<()>,
}

impl BeatingWorker {
    async fn begin(genie: &TestGenie) -> Self {
        let job = genie.claim().await;
        let (server, base) = watch::channel(genie.base.clone());
        let beat = json!({"lease": job["lease"]});
        let path = format!(
            "/api/worker/jobs/{}/heartbeat",
            job["jobId"].as_str().unwrap()
        );
        let http = genie.http.clone();
        let beating = tokio::spawn(async move {
            loop {
                let url = format!("{}{path}", *base.borrow());
                let request = http.post(url).header("X-RBAC-SYNC-SECRET", SECRET);
                let request = request.timeout(Duration::from_secs(2)).json(&beat);
                let _ = request.send().await; // nobody may be there
                sleep(lengths().beat).await;
            }
        });
        Self {
            job,
            server,
            beating,
        }
    }

    /// Goes on for longer than a lease, and completes the job.
    async fn end(self, genie: &TestGenie, owner: &TestUser) {
        sleep(lengths().lease + Duration::from_secs(2)).await;
        self.beating.abort();
        let job = self.job["jobId"].as_str().unwrap();
        let path = format!("/api/worker/jobs/{job}/complete");
        let done = json!({"lease": self.job["lease"], "result": {}});
        genie.server(&path, done).await.ok();
        let shown = owner.get(genie, &format!("/api/jobs/{job}")).await.ok();
        assert_eq!(
            (&shown["status"], &shown["attempt"]),
            (&json!("completed"), &json!(1))
        );
        let secret = [("X-RBAC-SYNC-SECRET", SECRET.to_owned())];
        let path = "/api/events?types=job.*";
        let facts = genie.send(Method::GET, path, &secret, None).await.ok();
        let facts = facts["data"].as_array().unwrap().iter();
        let types: Vec<&str> = facts.map(|fact| fact["type"].as_str().unwrap()).collect();
        assert_eq!(types, ["job.submitted", "job.claimed", "job.completed"]);
    }
}

async fn with_a_job(mut genie: TestGenie) -> (TestGenie, TestUser, BeatingWorker) {
    let ada = genie.user("ada").await;
    ada.submit_job(&genie).await;
    let worker = BeatingWorker::begin(&genie).await;
    moment_after(1000).await;
    (genie, ada, worker)
}

both_stores!(
    a_server_that_stands_still_for_longer_than_a_lease_costs_no_job,
    async |store: TestStore| {
        let genie = TestGenie::start_process_with(store, &lease_setting()).await;
        let (genie, ada, worker) = with_a_job(genie).await;
        genie.signal("STOP").await;
        sleep(lengths().away).await;
        genie.signal("CONT").await;
        worker.end(&genie, &ada).await;
    }
);

both_stores!(
    a_server_that_is_down_for_longer_than_a_lease_costs_no_job,
    async |store: TestStore| {
        let genie = TestGenie::start_process_with(store, &lease_setting()).await;
        let (mut genie, ada, worker) = with_a_job(genie).await;
        genie.kill().await;
        sleep(lengths().away).await;
        genie.launch_again().await;
        worker.server.send_replace(genie.base.clone());
        worker.end(&genie, &ada).await;
    }
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_that_is_cut_off_for_longer_than_a_lease_costs_no_job() {
    let (way, genie) = Cuttable::genie_with(&lease_setting()).await;
    let (genie, ada, worker) = with_a_job(genie).await;
    way.is(Way::Cut);
    sleep(lengths().away).await;
    way.is(Way::Open);
    worker.end(&genie, &ada).await;
}
