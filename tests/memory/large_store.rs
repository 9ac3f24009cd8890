use std::time::Duration;

use genie_events::{
    JobId, SessionId, StreamId, StreamKind, TurnId, UserId,
    chat::{ChatEvent, TurnAnswer, TurnMetrics, TurnOutcome},
    job::{JobEvent, JobSpec},
};
use genie_log::{
    Log,
    load_users::Waking,
    testing::{bulk::BulkLoader, store_of},
};
use serde_json::{Value, json};

use crate::{
    test_genie::TestGenie,
    until::{moment_after, until_within},
};

pub const JOBS: usize = 5000;
const PARAMS_BYTES: usize = 64 << 10;
/// Questions of the chat. Each has an answer of the same length.
pub const TURNS: usize = 5000;
const MESSAGE_BYTES: usize = 100_000;
/// The time to fold all of it once.
const SNAPSHOT: Duration = Duration::from_secs(300);
pub const SESSION: &str = "a long session";

/// The part of the store and of the clients that this run has.
#[derive(Clone, Copy)]
pub struct StoreSize {
    percent: usize,
}

impl StoreSize {
    /// All of it when `GENIE_MEMORY_WHOLE` is set, else a tenth.
    #[expect(clippy::disallowed_methods, reason = "asked for by the environment")]
    pub fn asked_for() -> Self {
        let is_whole = std::env::var("GENIE_MEMORY_WHOLE").is_ok_and(|set| !set.is_empty());
        Self {
            percent: if is_whole { 100 } else { 10 },
        }
    }

    pub fn of(self, whole: usize) -> usize {
        whole * self.percent / 100
    }

    /// What the process may have at most.
    pub fn most_mib(self) -> u64 {
        if self.is_whole() { 400 } else { 200 }
    }

    /// The p99 of small reads of others, once there are silent clients. It needs an optimised server on a
    /// machine that does nothing else, so a tenth only checks that they succeed.
    pub fn longest_read(self) -> Option<Duration> {
        self.is_whole().then_some(Duration::from_millis(50))
    }

    fn is_whole(self) -> bool {
        self.percent == 100
    }
}

/// Fills the store of a server that is down. Returns the turns of the chat.
pub async fn fill(genie: &TestGenie, user: UserId, size: StoreSize) -> Vec<TurnId> {
    let log = genie.store.open().await.log;
    let mut loader = BulkLoader::of(&log, user).await.unwrap();
    add_jobs(&log, &mut loader, size.of(JOBS)).await;
    let session = log.hashes().session(user, SESSION);
    let turns = add_turns(&log, &mut loader, session, size.of(TURNS)).await;
    loader.flush().await.unwrap();
    keep_snapshot(&log, user).await;
    store_of(&log).close().await;
    turns
}

/// A user who wrote all of this through a server has a snapshot.
async fn keep_snapshot(log: &Log, user: UserId) {
    until_within(SNAPSHOT, "a snapshot", async || {
        let Waking::Awake(awake) = log.users().wake(user).await.unwrap() else {
            panic!("forgotten")
        };
        if awake.snapshot_seq == awake.user.seq() {
            return Some(());
        }
        let (state, position) = (&awake.user, awake.position);
        log.users().keep_snapshot(state, position).await;
        moment_after(1000).await; // a task of its own writes it
        None
    })
    .await;
}

async fn add_jobs(log: &Log, loader: &mut BulkLoader, count: usize) {
    let params = params();
    for _ in 0..count {
        let spec = JobSpec {
            name: None,
            operation: "resize_image".into(),
            queue: "media-jobs".into(),
            params: params.clone(),
            input_file_id: None,
            input_url: None,
            creator_profile_id: None,
            priority: 10,
            run_at: None,
            max_attempts: 20,
            mark: None,
        };
        let job = JobId(log.clock().new_uuid());
        let stream = StreamId::new(StreamKind::Job, job);
        let submitted = JobEvent::Submitted {
            spec,
            counted: None,
        };
        loader
            .add(stream, 1, submitted, PARAMS_BYTES)
            .await
            .unwrap();
    }
}

/// Small numbers: no other JSON takes more room when it is parsed.
fn params() -> Value {
    let params = json!({"numbers": vec![1; PARAMS_BYTES / 2 - 10]});
    let bytes = params.to_string().len();
    assert!(
        (PARAMS_BYTES - 100..=PARAMS_BYTES).contains(&bytes),
        "{bytes}"
    );
    params
}

async fn add_turns(
    log: &Log,
    loader: &mut BulkLoader,
    session: SessionId,
    count: usize,
) -> Vec<TurnId> {
    let stream = StreamId::new(StreamKind::Chat, session);
    let text = "All work and no play. ".repeat(MESSAGE_BYTES / 22);
    let mut turns = Vec::new();
    for _ in 0..count {
        let turn = TurnId(log.clock().new_uuid());
        let asked = ChatEvent::Asked {
            turn,
            session: SESSION.into(),
            message: text.clone(),
        };
        let answer = TurnAnswer {
            content: text.clone(),
            outcome: TurnOutcome::Completed,
            failure: None,
            model: "fake".into(),
            metrics: TurnMetrics::default(),
            tool_calls: vec![],
        };
        for event in [asked, ChatEvent::Answered { turn, answer }] {
            let sequence =
                1 + 2 * turns.len() as u64 + u64::from(matches!(event, ChatEvent::Answered { .. }));
            loader
                .add(stream, sequence, event, MESSAGE_BYTES)
                .await
                .unwrap();
        }
        turns.push(turn);
    }
    turns
}
