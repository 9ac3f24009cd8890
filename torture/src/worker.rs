//! Simulated workers. Most do their work; some fail it, some go silent and come back with a lease that has run out.

use std::{sync::Arc, time::Duration};

use genie_events::JobId;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::task::{JoinError, JoinSet};

use crate::{
    client::{Arena, By, ClientAnswer, ClientRequest},
    ledger::{CommandKind, stream_hash},
    read_side::id,
};

/// How long a worker holds a job without a heartbeat, in milliseconds: the servers are started with it.
pub const LEASE_MS: u64 = 2000;
/// Those of one worker who are silent at once; beyond it jobs are worked on as they should be.
const SILENT: usize = 16;

/// A job as it was handed out.
struct ClaimedJob {
    job: JobId,
    lease: String,
    claimed_at: u64,
}

/// Claims and works until told to stop.
pub async fn work(arena: Arc<Arena>, name: String, mut chance: StdRng) {
    let mut silent = JoinSet::new();
    while !arena.stop.is_cancelled() {
        while let Some(ended) = silent.try_join_next() {
            go_on(ended);
        }
        let queues = json!(["media-jobs", "scrape-jobs"]);
        let claim = json!({"queues": queues, "worker_id": name, "max": 1, "wait_ms": 300});
        // The answer holds a lease, so it is never kept: a job whose claim's answer got lost lapses.
        let ask = ClientRequest {
            again: false,
            ..ClientRequest::post(
                CommandKind::ClaimJob,
                "/api/worker/claim",
                By::Secret,
                claim,
            )
        };
        let told = arena.tell(&mut chance, ask).await;
        let ClientAnswer::Yes { json, position } = told else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let claimed = &json["jobs"][0];
        let (Some(job), Some(lease)) = (id::<JobId>(&claimed["jobId"]), claimed["lease"].as_str())
        else {
            continue;
        };
        let held = ClaimedJob {
            job,
            lease: lease.to_owned(),
            claimed_at: position,
        };
        match chance.random_range(0..100) {
            0..=9 => end(&arena, &mut chance, &held, CommandKind::FailJob).await,
            10..=21 if silent.len() < SILENT => {
                let (arena, mut chance) =
                    (Arc::clone(&arena), StdRng::seed_from_u64(chance.random()));
                silent.spawn(async move {
                    // Until around the moment at which somebody else is given the job.
                    let until = LEASE_MS + chance.random_range(0..2 * LEASE_MS);
                    tokio::time::sleep(Duration::from_millis(until)).await;
                    let kind = if chance.random_bool(0.8) {
                        CommandKind::CompleteJob
                    } else {
                        CommandKind::FailJob
                    };
                    end(&arena, &mut chance, &held, kind).await;
                });
            }
            22..=26 => {} // gone for good; the lease lapses
            27..=34 => {
                heartbeat(&arena, &mut chance, &held).await;
                end(&arena, &mut chance, &held, CommandKind::CompleteJob).await;
            }
            _ => {
                tokio::time::sleep(Duration::from_millis(chance.random_range(0..20))).await;
                end(&arena, &mut chance, &held, CommandKind::CompleteJob).await;
            }
        }
    }
    while let Some(ended) = silent.join_next().await {
        go_on(ended);
    }
}

/// A panic of somebody silent is their worker's, so that the run hears of it.
fn go_on(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && let Ok(panic) = error.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}

async fn end(arena: &Arena, chance: &mut StdRng, held: &ClaimedJob, kind: CommandKind) {
    let (verb, body) = match kind {
        CommandKind::FailJob => (
            "fail",
            json!({"lease": held.lease, "error": "on purpose", "retryable": chance.random_bool(0.7)}),
        ),
        _ => (
            "complete",
            json!({"lease": held.lease, "result": {"n": chance.random::<u32>()}}),
        ),
    };
    let path = format!("/api/worker/jobs/{}/{verb}", held.job);
    let stream = stream_hash("job", held.job.as_str());
    arena
        .tell(
            chance,
            ClientRequest {
                stream,
                held: Some(held.claimed_at),
                ..ClientRequest::post(kind, path, By::Secret, body)
            },
        )
        .await;
}

/// Leaves no fact, so it is in no ledger.
async fn heartbeat(arena: &Arena, chance: &mut StdRng, held: &ClaimedJob) {
    let Some((_, base)) = arena.any_node(chance) else {
        return;
    };
    let body: Value = json!({"lease": held.lease, "progress": chance.random_range(0..100)});
    let path = format!("/api/worker/jobs/{}/heartbeat", held.job);
    let request = arena
        .request(reqwest::Method::POST, &base, &path, By::Secret)
        .json(&body);
    let _ = request
        .timeout(Duration::from_millis(LEASE_MS))
        .send()
        .await; // without it the lease lapses, which is fine
}
