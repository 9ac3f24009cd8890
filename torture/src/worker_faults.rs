//! Faults of workers. They hurt no server, so nobody waits for one to answer again.

use std::{io, sync::Arc, time::Duration};

use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use serde_json::json;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::{
    client::{Arena, ClientAnswer, ClientRequest},
    faults::MOMENT,
    ledger::CommandKind,
    simulated_users::{InviteDesk, SimulatedUser},
    worker::LEASE_MS,
    worker_line::WorkerLine,
};

/// How long a worker is cut off beyond its lease, in milliseconds.
const BEYOND_MS: std::ops::Range<u64> = 500..3000;
/// Workers that wait for a job when they are killed.
const WAITING: usize = 5;
/// Jobs that are submitted after that.
const JOBS: usize = 100;
/// How long claims are given to reach their server and wait there.
const BEGUN: Duration = Duration::from_millis(300);
/// How long a server is given to hear that connections were closed.
const HEARD: Duration = Duration::from_secs(1);
/// No user submits this operation, so those who claim only this one wait.
const OPERATION: &str = "strip_metadata";

/// A worker that holds a job just now.
async fn at_work(lines: &[Arc<WorkerLine>], chance: &mut StdRng) -> Option<Arc<WorkerLine>> {
    let deadline = Instant::now() + MOMENT;
    while Instant::now() < deadline {
        if let Some(line) = lines.choose(chance).filter(|line| line.holds_a_job()) {
            return Some(Arc::clone(line));
        }
        sleep(Duration::from_millis(1)).await;
    }
    None
}

/// Kills a worker that holds a job. Its lease lapses, and another worker gets the job.
pub async fn kill(lines: &[Arc<WorkerLine>], chance: &mut StdRng) -> bool {
    let Some(line) = at_work(lines, chance).await else {
        return false;
    };
    line.kill();
    true
}

/// Cuts the network between a worker that holds a job and the servers until its lease has lapsed. What it sent meanwhile
/// arrives late.
pub async fn cut_off(lines: &[Arc<WorkerLine>], chance: &mut StdRng) -> bool {
    let Some(line) = at_work(lines, chance).await else {
        return false;
    };
    line.cut(true);
    let beyond = chance.random_range(BEYOND_MS);
    sleep(Duration::from_millis(LEASE_MS + beyond)).await;
    line.cut(false);
    true
}

/// Kills workers while they wait for a job, and submits jobs that they would get. Other workers do them.
pub async fn kill_waiting(arena: &Arena, invites: &InviteDesk, chance: &mut StdRng) -> bool {
    let Some(invite) = invites.invite(arena).await else {
        return false;
    };
    let Some(user) = SimulatedUser::register(arena, chance, &invite).await else {
        return false;
    };
    let Some((_, base)) = arena.any_node(chance) else {
        return false;
    };
    let mut names = Vec::new();
    let mut waiting = Vec::new();
    for _ in 0..WAITING {
        let name = format!("waiting-{:016x}", chance.random::<u64>());
        let Ok(claim) = begin_claim(arena, &base, &name).await else {
            return false;
        };
        names.push(name);
        waiting.push(claim);
    }
    sleep(BEGUN).await;
    if !waiting.iter().all(is_waiting) {
        return false; // a job of an earlier time, or the server has gone
    }
    drop(waiting);
    sleep(HEARD).await;
    let mut names = Some(names);
    for _ in 0..JOBS {
        let body = json!({"operation": OPERATION, "input_url": "http://a/b", "max_attempts": 2});
        let path = "/api/queue/media";
        let submit = ClientRequest::post(CommandKind::SubmitJob, path, user.by(), body);
        if let ClientAnswer::Yes { position, .. } = arena.tell(chance, submit).await
            && let Some(names) = names.take()
        {
            arena.were_gone(names, position);
        }
    }
    names.is_none()
}

/// Sends a claim that waits for long. The connection is its own: the worker is gone when it is dropped.
async fn begin_claim(arena: &Arena, base: &str, name: &str) -> io::Result<TcpStream> {
    let mark = {
        let mut ledger = arena.ledger();
        let mark = ledger.begin(CommandKind::ClaimJob, 0);
        ledger.sending(mark);
        ledger.text(mark)
    };
    let claim = json!({
        "queues": ["media-jobs"], "operations": [OPERATION], "worker_id": name, "wait_ms": 30_000,
    });
    let claim = claim.to_string();
    let (secret, length) = (&arena.secret, claim.len());
    let address = base.strip_prefix("http://").unwrap_or(base);
    let mut stream = TcpStream::connect(address).await?;
    let request = format!(
        "POST /api/worker/claim HTTP/1.1\r\nHost: {address}\r\nX-RBAC-SYNC-SECRET: {secret}\r\nX-Request-Id: {mark}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{claim}"
    );
    stream.write_all(request.as_bytes()).await?;
    Ok(stream)
}

/// True while there is neither an answer nor an end.
fn is_waiting(claim: &TcpStream) -> bool {
    let read = claim.try_read(&mut [0]);
    matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}
