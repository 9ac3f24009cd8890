//! The cost of turns: how much longer a start takes than first in, first out, as a share of a job's claim and
//! completion through the store. So many percent fewer jobs start in a second.

use std::{
    collections::{HashMap, VecDeque},
    hint::black_box,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::future::try_join_all;
use genie_actors::jobs::{
    AttemptEnd, BoardState, JobBoard, NewSubmission, operation_set::ClaimScope, queues::JobQueues,
};
use genie_events::{JobId, Metadata, Timestamp, UserId, job::JobSpec};
use genie_log::read::JobStep;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    setup::{Ground, Measured},
    statistics::median,
    table::{Bound, Row},
};

/// One user has many jobs, nine have some.
const MANY: u64 = 5000;
const SOME: u64 = 100;
const USERS: u64 = 10;
/// Turns of both orders.
const ROUNDS: usize = 15;
/// Jobs of each user that are claimed and completed, and workers at once.
const EACH: usize = 100;
const WORKERS: usize = 16;

/// A worker that finds no job looks again after this.
const SHORT_WAIT: Duration = Duration::from_millis(1);

const QUEUE: &str = "media-jobs";
const OPERATION: &str = "thumbnail";

pub async fn measure(ground: &Ground) -> Measured<Vec<Row>> {
    let steps: Vec<JobStep> = steps().collect();
    let mut turns = Vec::new();
    let mut fifo = Vec::new();
    for _ in 0..ROUNDS {
        turns.push(time_of(|| take_by_turns(&steps)));
        fifo.push(time_of(|| take_first_in_first_out(&steps)));
    }
    let jobs = steps.len() as f64;
    let (turns, fifo) = (median(&turns) / jobs, median(&fifo) / jobs);
    let start = start_and_end(ground).await?;
    eprintln!(
        "a job: {turns:.0} ns by turns, {fifo:.0} ns first in, first out, {start:.0} ns claimed and completed"
    );
    Ok(vec![Row::new(
        ground.name("turns_cost"),
        100.0 * (turns - fifo) / start,
        "% of a job",
        Bound::AtMost(5.0),
    )])
}

/// In nanoseconds.
fn time_of(work: impl FnOnce() -> usize) -> f64 {
    let began = Instant::now();
    black_box(work());
    began.elapsed().as_nanos() as f64
}

fn steps() -> impl Iterator<Item = JobStep> {
    let jobs_of = |user| if user == 0 { MANY } else { SOME };
    let each = (0..USERS).flat_map(move |user| (0..jobs_of(user)).map(move |n| (user, n)));
    each.map(|(user, n)| JobStep {
        owner_seq: n + 1,
        job: JobId(Uuid::from_u128(u128::from(user) << 64 | u128::from(n))),
        user: UserId(Uuid::from_u128(user.into())),
        sequence: 1,
        event_type: "job.submitted".into(),
        clear: [
            ("queue".to_owned(), json!(QUEUE)),
            ("operation".to_owned(), json!(OPERATION)),
            ("priority".to_owned(), json!(10)),
        ]
        .into(),
    })
}

fn take_by_turns(steps: &[JobStep]) -> usize {
    let now = Timestamp(0);
    let scope = ClaimScope::of_worker(&[QUEUE], None);
    let mut board = JobQueues::new(now);
    for step in steps {
        board.see(step, now);
    }
    std::iter::from_fn(|| board.take(&scope)).count()
}

/// The least that a board without turns has to do: it knows its jobs, and hands out the oldest.
fn take_first_in_first_out(steps: &[JobStep]) -> usize {
    let mut known = HashMap::new();
    let mut line = VecDeque::new();
    for step in steps {
        let text = |key| step.clear.get(key).and_then(Value::as_str).map(str::len);
        let clear = (text("queue"), text("operation"));
        known.insert(step.job, (step.user, step.sequence, clear));
        line.push_back(step.job);
    }
    let mut taken = 0;
    while let Some(job) = line.pop_front() {
        taken += usize::from(known.contains_key(&job));
    }
    taken
}

/// The time of a claim and a completion while many are on their way, in nanoseconds.
async fn start_and_end(ground: &Ground) -> Measured<f64> {
    let node = ground.node().await?;
    let users = ground.register(&node.log, USERS as usize).await;
    let board = JobBoard::new(
        node.log.clone(),
        node.users.clone(),
        Duration::from_secs(60),
    );
    tokio::spawn(board.clone().follow());
    while board.state() != BoardState::Ready {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    try_join_all(
        users
            .into_iter()
            .map(|user| submit(&node.log, &board, user)),
    )
    .await?;
    let left = AtomicUsize::new(USERS as usize * EACH);
    let began = Instant::now();
    try_join_all((0..WORKERS).map(|_| work(&board, &left))).await?;
    Ok(began.elapsed().as_nanos() as f64 / (USERS as usize * EACH) as f64)
}

async fn submit(log: &genie_log::Log, board: &JobBoard, user: UserId) -> Measured<()> {
    for _ in 0..EACH {
        let spec = JobSpec {
            name: None,
            operation: OPERATION.into(),
            queue: QUEUE.into(),
            params: json!({"width": 100}),
            input_file_id: None,
            input_url: None,
            creator_profile_id: None,
            priority: 10,
            run_at: None,
            max_attempts: 3,
            mark: None,
        };
        let job = NewSubmission {
            job: JobId(log.clock().new_uuid()),
            spec,
            foreign: None,
        };
        board.submit(user, job, Metadata::system()).await?;
    }
    Ok(())
}

/// Claims and completes jobs until none is left.
async fn work(board: &JobBoard, left: &AtomicUsize) -> Measured<()> {
    let scope = ClaimScope::of_worker(&[QUEUE], None);
    while left.load(Ordering::SeqCst) > 0 {
        let claim = board.claim(scope.clone(), "w".into(), 1, SHORT_WAIT, Metadata::system());
        for job in claim.await?.take() {
            let end = AttemptEnd::Completed {
                result: json!({"width": 100}),
                outputs: json!([]),
            };
            let ended = board.end_attempt(job.user, job.job, &job.lease, end, Metadata::system());
            ended.await?;
            left.fetch_sub(1, Ordering::SeqCst);
        }
    }
    Ok(())
}
