//! Leases outlive a server or a store that is away for longer than a lease, as long as the worker goes on beating: the
//! job is done once, and at its first attempt. A worker that is cut off for longer loses its job to another.

use std::{env, time::Duration};

use genie_log::testing::{TestStore, both_stores};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle, time::sleep};

use crate::{
    store_away::{Cuttable, Way},
    test_genie::{SECRET, TestGenie, TestUser},
    until::{moment_after, until_within},
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
        let types = facts(genie).await;
        assert_eq!(types, ["job.submitted", "job.claimed", "job.completed"]);
    }
}

/// The types of the facts of all jobs.
async fn facts(genie: &TestGenie) -> Vec<String> {
    let secret = [("X-RBAC-SYNC-SECRET", SECRET.to_owned())];
    let path = "/api/events?types=job.*";
    let facts = genie.send(Method::GET, path, &secret, None).await.ok();
    let facts = facts["data"].as_array().unwrap().iter();
    facts
        .map(|fact| fact["type"].as_str().unwrap().to_owned())
        .collect()
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

both_stores!(
    a_worker_that_is_cut_off_for_longer_than_a_lease_loses_its_job_to_another,
    async |store: TestStore| {
        let genie = TestGenie::start_process_with(store, &lease_setting()).await;
        let way = Cuttable::to(genie.base.replace("http://", "")).await;
        let (genie, ada, first) = with_a_job(genie).await;
        first.server.send_replace(way.url());
        moment_after(1000).await;
        way.is(Way::Hangs);
        let claim = json!({"queues": ["media-jobs"], "worker_id": "worker-2", "wait_ms": 1000});
        let limit = 3 * lengths().lease + Duration::from_secs(30);
        let second = until_within(limit, "the job to be given to another", async || {
            let claimed = genie.server("/api/worker/claim", claim.clone()).await.ok();
            claimed["jobs"].get(0).cloned()
        })
        .await;
        assert_eq!(
            (&second["jobId"], &second["attempt"]),
            (&first.job["jobId"], &json!(2))
        );

        // What the first one sent meanwhile arrives, and then its result. Nothing of that changes anything.
        way.is(Way::Open);
        moment_after(1000).await;
        let job = second["jobId"].as_str().unwrap().to_owned();
        let shown = async || {
            genie.settle().await;
            ada.get(&genie, &format!("/api/jobs/{job}")).await.ok()
        };
        let before = (shown().await, facts(&genie).await);
        first.beating.abort();
        let path = |verb: &str| format!("/api/worker/jobs/{job}/{verb}");
        for verb in ["complete", "fail", "release", "heartbeat"] {
            let late = json!({"lease": first.job["lease"]});
            let late = genie.server(&path(verb), late).await;
            late.refused(409, "stale_lease");
        }
        assert_eq!((shown().await, facts(&genie).await), before);

        let done = json!({"lease": second["lease"], "result": {"by": 2}});
        genie.server(&path("complete"), done).await.ok();
        let shown = shown().await;
        assert_eq!(
            (&shown["status"], &shown["attempt"], &shown["result"]),
            (&json!("completed"), &json!(2), &json!({"by": 2}))
        );
        assert_eq!(
            facts(&genie).await,
            [
                "job.submitted",
                "job.claimed",
                "job.lapsed",
                "job.claimed",
                "job.completed"
            ]
        );
    }
);
