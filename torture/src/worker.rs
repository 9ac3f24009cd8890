//! Simulated workers. Most complete their jobs. Some fail them, and some go silent and come back with a lapsed lease. One
//! that is killed is followed by another, which knows nothing of its jobs.

use std::{sync::Arc, time::Duration};

use genie_events::JobId;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::task::{JoinError, JoinSet};

use crate::{
    client::{Arena, By, ClientAnswer, ClientRequest},
    ledger::{CommandKind, stream_hash},
    read_side::id,
    worker_line::{HeldMark, WorkerConnections, WorkerLine},
};

/// The lease of a job without a heartbeat, in milliseconds. The servers are started with this setting.
pub const LEASE_MS: u64 = 2000;
/// The most jobs on which one worker is silent at a time.
const SILENT: usize = 16;

struct LeasedJob {
    job: JobId,
    lease: String,
    claimed_at: u64,
    connections: Arc<WorkerConnections>,
    _held: HeldMark,
}

/// One worker after another, until told to stop.
pub async fn work(arena: Arc<Arena>, line: Arc<WorkerLine>, name: String, mut chance: StdRng) {
    for life in 1.. {
        let own = StdRng::seed_from_u64(chance.random());
        tokio::select! {
            () = live(&arena, &line, format!("{name}-{life}"), own) => return,
            () = line.killed() => {}
        }
    }
}

/// Claims and works until told to stop.
async fn live(arena: &Arc<Arena>, line: &Arc<WorkerLine>, name: String, mut chance: StdRng) {
    let connections = Arc::new(line.connections());
    let mut silent = JoinSet::new();
    while !arena.stop.is_cancelled() {
        while let Some(ended) = silent.try_join_next() {
            go_on(ended);
        }
        match claim(arena, line, &connections, &name, &mut chance).await {
            Some(job) => treat(arena, job, &mut chance, &mut silent).await,
            None => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    while let Some(ended) = silent.join_next().await {
        go_on(ended);
    }
}

async fn claim(
    arena: &Arena,
    line: &Arc<WorkerLine>,
    connections: &Arc<WorkerConnections>,
    name: &str,
    chance: &mut StdRng,
) -> Option<LeasedJob> {
    let queues = json!(["media-jobs", "scrape-jobs"]);
    let claim = json!({"queues": queues, "worker_id": name, "max": 1, "wait_ms": 300});
    // The answer holds a lease, so it is never kept. A job whose claim's answer got lost lapses.
    let request = ClientRequest {
        again: false,
        through: Some(connections),
        ..ClientRequest::post(
            CommandKind::ClaimJob,
            "/api/worker/claim",
            By::Secret,
            claim,
        )
    };
    let ClientAnswer::Yes { json, position } = arena.tell(chance, request).await else {
        return None;
    };
    let claimed = &json["jobs"][0];
    Some(LeasedJob {
        job: id::<JobId>(&claimed["jobId"])?,
        lease: claimed["lease"].as_str()?.to_owned(),
        claimed_at: position,
        connections: Arc::clone(connections),
        _held: line.hold(),
    })
}

async fn treat(arena: &Arc<Arena>, job: LeasedJob, chance: &mut StdRng, silent: &mut JoinSet<()>) {
    match chance.random_range(0..100) {
        0..=9 => end(arena, chance, &job, CommandKind::FailJob).await,
        10..=21 if silent.len() < SILENT => {
            let arena = Arc::clone(arena);
            let chance = StdRng::seed_from_u64(chance.random());
            silent.spawn(async move { end_late(&arena, chance, &job).await });
        }
        22..=26 => {} // gone for good; the lease lapses
        35..=40 => end(arena, chance, &job, CommandKind::ReleaseJob).await,
        27..=34 => {
            heartbeat(arena, chance, &job).await;
            end(arena, chance, &job, CommandKind::CompleteJob).await;
        }
        _ => {
            tokio::time::sleep(Duration::from_millis(chance.random_range(0..20))).await;
            end(arena, chance, &job, CommandKind::CompleteJob).await;
        }
    }
}

/// Ends the job around the moment at which another worker gets it.
async fn end_late(arena: &Arena, mut chance: StdRng, job: &LeasedJob) {
    let until = LEASE_MS + chance.random_range(0..2 * LEASE_MS);
    tokio::time::sleep(Duration::from_millis(until)).await;
    let kind = if chance.random_bool(0.8) {
        CommandKind::CompleteJob
    } else {
        CommandKind::FailJob
    };
    end(arena, &mut chance, job, kind).await;
}

/// Passes a panic of a silent task on to its worker, so that the run hears of it.
fn go_on(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && let Ok(panic) = error.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}

/// Ends the attempt by the job's own route, or by a report.
async fn end(arena: &Arena, chance: &mut StdRng, held: &LeasedJob, kind: CommandKind) {
    let (verb, mut end) = match kind {
        CommandKind::FailJob => (
            "fail",
            json!({"error": "on purpose", "code": "on_purpose", "retryable": chance.random_bool(0.7)}),
        ),
        CommandKind::ReleaseJob => ("release", json!({})),
        _ => ("complete", json!({"result": {"n": chance.random::<u32>()}})),
    };
    let (path, body) = if chance.random_bool(0.3) {
        let report = json!({"jobId": held.job, "lease": held.lease, verb: end});
        let body = json!({"reports": [report]});
        ("/api/worker/report".to_owned(), body)
    } else {
        end["lease"] = held.lease.clone().into();
        (format!("/api/worker/jobs/{}/{verb}", held.job), end)
    };
    let stream = stream_hash("job", &held.job.to_string());
    let request = ClientRequest {
        stream,
        held: Some(held.claimed_at),
        through: Some(&held.connections),
        ..ClientRequest::post(kind, path, By::Secret, body)
    };
    arena.tell(chance, request).await;
}

/// A heartbeat leaves no fact, so it is not in the ledger.
async fn heartbeat(arena: &Arena, chance: &mut StdRng, held: &LeasedJob) {
    let WorkerConnections { http, base } = &*held.connections;
    let body: Value = json!({"lease": held.lease, "progress": chance.random_range(0..100)});
    let path = format!("/api/worker/jobs/{}/heartbeat", held.job);
    let request = arena
        .request_by(http, reqwest::Method::POST, base, &path, By::Secret)
        .json(&body);
    let _ = request
        .timeout(Duration::from_millis(LEASE_MS))
        .send()
        .await; // without it the lease lapses, which is fine
}
