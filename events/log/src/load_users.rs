//! Waking users: a snapshot and the tail of the log after it, folded. Whoever wakes at once is read at once: one task takes
//! whatever waits, without a timer, and reads keys, snapshots and tails of all of them together.

use std::{collections::HashMap, sync::Arc};

use genie_events::{User, UserId};
use sqlx::{Row, any::AnyRow};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tracing::warn;

use crate::{
    Log, LogError, StoredRow,
    keys::{KeyState, UserKeys, WrappedKey},
    log::wrapped_key,
    snapshots::Stored,
    store::{LONGEST, Store},
    stored_row::COLUMNS,
};

/// Users that may wait to be read; one more is told that the store is busy.
const QUEUE: usize = 65_536;
/// The most users read together.
const BATCH: usize = 128;
/// Batches read at the same time; while they are, the next gathers.
const AT_ONCE: usize = 3;
/// The most events of each user that are read with the others; who has more is read on alone.
const TAIL: u64 = 256;
/// After so many events without one, a snapshot is kept.
pub const SNAPSHOT_EVERY: u64 = 200;

/// A user, awake.
#[derive(Debug)]
pub struct Awake {
    /// The state.
    pub user: User,
    /// The position of the user's latest event.
    pub position: u64,
    /// How many events the kept snapshot covers.
    pub snapshot_seq: u64,
    /// The user's keys; none for somebody of whom nothing is known.
    pub keys: Option<Arc<UserKeys>>,
}

impl Awake {
    /// Folds the user's next events: each is checked against its digest, opened and lifted to its present shape.
    pub fn replay(&mut self, rows: &[StoredRow], keys: &UserKeys) -> Result<(), LogError> {
        for row in rows {
            if row.owner_seq != self.user.seq() + 1 {
                return Err(row.damaged(format!(
                    "the user's event {} is missing before it",
                    self.user.seq() + 1
                )));
            }
            let (stream, event) = row.open(keys)?;
            self.user.evolve(&stream, row.sequence, event);
            self.position = row.position;
        }
        Ok(())
    }
}

/// What came of waking somebody.
#[derive(Debug)]
pub enum Waking {
    /// The state is folded.
    Awake(Box<Awake>),
    /// Nobody can read them any more.
    Forgotten,
}

/// What the store holds of one user.
struct Kept {
    key: Option<WrappedKey>,
    snapshot: Option<Stored>,
    /// How many events the user has.
    seq: u64,
    tail: Vec<StoredRow>,
}

type Answer = Result<Option<Arc<Kept>>, LogError>;

/// The way to the task that reads whoever wakes.
#[derive(Clone)]
pub(crate) struct Wakes(mpsc::Sender<(UserId, oneshot::Sender<Answer>)>);

impl Wakes {
    /// Starts the task on the current runtime, which must be the one that owns the store's connections.
    pub fn start(store: Store) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(read_all(store, waiting));
        Self(queue)
    }

    async fn read(&self, user: UserId) -> Answer {
        let (reply, answer) = oneshot::channel();
        self.0
            .try_send((user, reply))
            .map_err(|_| LogError::Away("too many users wake at once".into()))?;
        answer
            .await
            .unwrap_or_else(|_| Err(LogError::Away("the store was closed".into())))
    }
}

impl Log {
    /// The present state of a user, from the snapshot and what came after it. A user of whom nothing is known is empty.
    pub async fn wake(&self, user: UserId) -> Result<Waking, LogError> {
        let Some(kept) = self.wakes().read(user).await? else {
            return Ok(Waking::Awake(Box::new(asleep(user))));
        };
        let KeyState::Live(keys) = self.opened_key(user.0, kept.key.as_ref())? else {
            return Ok(Waking::Forgotten);
        };
        if self.ends_in_forgetting(&kept.tail).await? {
            return Ok(Waking::Forgotten); // whatever became of the key: it may have come back with a backup
        }
        let mut awake = begin(user, &keys, kept.snapshot.as_ref(), kept.seq);
        // Read for a snapshot that turned out unreadable, the tail is of no use.
        if kept
            .tail
            .first()
            .is_some_and(|row| row.owner_seq == awake.user.seq() + 1)
        {
            awake.replay(&kept.tail, &keys)?;
        }
        while awake.user.seq() < kept.seq {
            let rows = self.user_rows(user, awake.user.seq()).await?;
            if rows.is_empty() {
                return Err(LogError::EventsMissing {
                    owner: user.to_string(),
                    missing: awake.user.seq() + 1,
                });
            }
            if self.ends_in_forgetting(&rows).await? {
                return Ok(Waking::Forgotten);
            }
            awake.replay(&rows, &keys)?;
        }
        Ok(Waking::Awake(Box::new(awake)))
    }

    /// Whether the last of a user's rows says that they were forgotten, which is sealed under the system's key.
    async fn ends_in_forgetting(&self, rows: &[StoredRow]) -> Result<bool, LogError> {
        match rows.last() {
            Some(row) if row.is_forgotten() => self.open_row(row).await.map(|_| true),
            _ => Ok(false),
        }
    }
}

/// Somebody of whom nothing is read yet.
pub fn asleep(user: UserId) -> Awake {
    Awake {
        user: User::new(user),
        position: 0,
        snapshot_seq: 0,
        keys: None,
    }
}

/// The state that a snapshot holds, or an empty one. A snapshot of more events than there are is none: the store was restored to
/// an earlier time without it.
fn begin(user: UserId, keys: &Arc<UserKeys>, snapshot: Option<&Stored>, seq: u64) -> Awake {
    let empty = || Awake {
        keys: Some(Arc::clone(keys)),
        ..asleep(user)
    };
    let Some(stored) = snapshot else {
        return empty();
    };
    if stored.user_seq > seq {
        warn!(user.id = %user, "the snapshot of user `{user}` is ahead of the log; the log is read instead");
        return empty();
    }
    match stored.open(user, keys) {
        Some(state) => Awake {
            user: state,
            position: stored.position,
            snapshot_seq: stored.user_seq,
            ..empty()
        },
        None => {
            warn!(user.id = %user, "the snapshot of user `{user}` can't be read; the log is read instead");
            empty()
        }
    }
}

async fn read_all(store: Store, mut waiting: mpsc::Receiver<(UserId, oneshot::Sender<Answer>)>) {
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let mut batch = Vec::with_capacity(BATCH);
        if waiting.recv_many(&mut batch, BATCH).await == 0 {
            return; // the log was closed
        }
        let store = store.clone();
        tokio::spawn(async move {
            let mut users: Vec<UserId> = batch.iter().map(|(user, _)| *user).collect();
            users.sort_unstable();
            users.dedup(); // somebody may be woken twice, and is read once
            let read = match tokio::time::timeout(LONGEST, read_batch(&store, &users)).await {
                Ok(read) => read,
                Err(_) => Err(LogError::Away("it did not answer in time".into())),
            };
            let read = read.map(|kept| {
                kept.into_iter()
                    .map(|(user, kept)| (user, Arc::new(kept)))
                    .collect::<HashMap<_, _>>()
            });
            for (user, reply) in batch {
                let answer = read
                    .as_ref()
                    .map(|kept| kept.get(&user).cloned())
                    .map_err(LogError::clone);
                let _ = reply.send(answer); // whoever woke the user may have gone
            }
            drop(permit);
        });
    }
}

/// Two statements for all of them: keys and snapshots, then the tails after these snapshots.
async fn read_batch(store: &Store, users: &[UserId]) -> Result<HashMap<UserId, Kept>, LogError> {
    // Padded with nobody, so that there are few different statements.
    let size = [1, 8, 32, BATCH]
        .into_iter()
        .find(|size| *size >= users.len())
        .unwrap_or(BATCH);
    let padded = || {
        users
            .iter()
            .map(Some)
            .chain(std::iter::repeat(None))
            .take(size)
    };
    let id = |user: Option<&UserId>| user.map(UserId::to_string).unwrap_or_default();

    let places: Vec<String> = (1..=size).map(|n| format!("${n}")).collect();
    let sql = format!(
        "SELECT k.user_id, k.key_id, k.master_id, k.wrapped, k.state, s.version, s.user_seq, s.position, s.sealed, \
             (SELECT coalesce(max(e.user_seq), 0) FROM events e WHERE e.user_id = k.user_id) AS seq \
         FROM user_keys k LEFT JOIN snapshots s ON s.user_id = k.user_id WHERE k.user_id IN ({})",
        places.join(", ")
    );
    let query = padded().fold(sqlx::query(&sql), |query, user| query.bind(id(user)));
    let mut kept = HashMap::with_capacity(users.len());
    for row in query.fetch_all(store.reads()).await? {
        if let Some((user, one)) = read_kept(&row)? {
            kept.insert(user, one);
        }
    }

    let places: Vec<String> = (0..size)
        .map(|n| {
            format!(
                "(CAST(${} AS text), CAST(${} AS bigint))",
                2 * n + 1,
                2 * n + 2
            )
        })
        .collect();
    let sql = format!(
        "WITH wanted (wanted_user, after) AS (VALUES {}) SELECT {COLUMNS} FROM wanted \
         JOIN events ON user_id = wanted_user AND user_seq > after AND user_seq <= after + {TAIL} ORDER BY user_id, user_seq",
        places.join(", ")
    );
    let after = |user: Option<&UserId>| {
        let snapshot = user
            .and_then(|user| kept.get(user))
            .and_then(|one: &Kept| one.snapshot.as_ref());
        snapshot.map_or(0, |stored| stored.user_seq) as i64
    };
    let query = padded().fold(sqlx::query(&sql), |query, user| {
        query.bind(id(user)).bind(after(user))
    });
    for row in query.fetch_all(store.reads()).await? {
        let row = StoredRow::read(&row)?;
        if let Some(one) = kept.get_mut(&UserId(row.owner)) {
            one.tail.push(row);
        }
    }
    Ok(kept)
}

fn read_kept(row: &AnyRow) -> Result<Option<(UserId, Kept)>, sqlx::Error> {
    let Ok(user) = row.try_get::<String, _>("user_id")?.parse::<UserId>() else {
        return Ok(None);
    };
    let snapshot = match row.try_get::<Option<i64>, _>("version")? {
        None => None,
        Some(version) => Some(Stored {
            version,
            user_seq: row.try_get::<i64, _>("user_seq")? as u64,
            position: row.try_get::<i64, _>("position")? as u64,
            sealed: row.try_get("sealed")?,
        }),
    };
    let seq = row.try_get::<i64, _>("seq")? as u64;
    Ok(Some((
        user,
        Kept {
            key: wrapped_key(user.0, row)?,
            snapshot,
            seq,
            tail: Vec::new(),
        },
    )))
}

#[cfg(test)]
mod tests {
    use genie_events::{Event, Metadata, StreamId, StreamKind, account::AccountEvent};

    use super::*;
    use crate::{
        Append, Group, NewFact,
        testing::{TestStore, both_stores},
    };

    async fn sign_in(log: &Log, user: UserId, after: u64, times: u64) {
        let stream = StreamId::new(StreamKind::Account, user);
        let event = || Event::Account(AccountEvent::SignedIn);
        let facts = (after + 1..=after + times)
            .map(|sequence| NewFact {
                stream: stream.clone(),
                sequence,
                event: event(),
            })
            .collect();
        let groups = vec![Group::of_user(user, after, facts)];
        log.append(Append {
            groups,
            work: vec![],
            metadata: Metadata::system(),
            remember: None,
        })
        .await
        .unwrap();
    }

    async fn awake(log: &Log, user: UserId) -> Awake {
        match log.wake(user).await.unwrap() {
            Waking::Awake(awake) => *awake,
            Waking::Forgotten => panic!("forgotten"),
        }
    }

    async fn keep_snapshot(log: &Log, awake: &Awake) {
        log.keep_snapshot(&awake.user, awake.position).await;
        while self::awake(log, awake.user.id()).await.snapshot_seq != awake.user.seq() {
            tokio::task::yield_now().await;
        }
    }

    both_stores!(
        a_snapshot_and_the_tail_are_what_the_whole_log_is,
        async |store: TestStore| {
            let log = store.open().await.log;
            let ada = store.register(&log, "ada").await;
            sign_in(&log, ada, 1, 700).await;
            let whole = awake(&log, ada).await;
            assert_eq!(
                (whole.user.seq(), whole.position, whole.snapshot_seq),
                (701, 701, 0)
            );
            keep_snapshot(&log, &whole).await;
            sign_in(&log, ada, 701, 3).await;
            let from_snapshot = awake(&log, ada).await;
            assert_eq!(
                (
                    from_snapshot.user.seq(),
                    from_snapshot.position,
                    from_snapshot.snapshot_seq
                ),
                (704, 704, 701)
            );

            // One that was changed, and one that is ahead of a log restored without it: the log is read.
            for damage in [
                "UPDATE snapshots SET position = 700",
                "UPDATE snapshots SET user_seq = 9000",
                "UPDATE snapshots SET version = 0",
            ] {
                store.tamper(damage).await;
                let read = awake(&log, ada).await;
                assert_eq!(
                    (read.snapshot_seq, &read.user),
                    (0, &from_snapshot.user),
                    "{damage}"
                );
                assert_eq!(read.position, 704);
            }
            keep_snapshot(&log, &from_snapshot).await; // of this version again
        }
    );

    both_stores!(
        many_wake_together_and_each_as_themselves,
        async |store: TestStore| {
            let log = store.open().await.log;
            let mut users = Vec::new();
            for n in 0..150 {
                let user = store.register(&log, &format!("user{n}")).await;
                sign_in(&log, user, 1, n % 7 + 1).await;
                users.push((user, n % 7 + 2));
            }
            sign_in(&log, users[3].0, users[3].1, 400).await; // more than is read with the others
            users[3].1 += 400;
            let fresh = store.open().await.log;
            let nobody = UserId(store.clock.new_uuid());
            let mut tasks = tokio::task::JoinSet::new();
            for (user, seq) in users.iter().chain(&users).copied() {
                let fresh = fresh.clone();
                tasks.spawn(async move { (awake(&fresh, user).await.user, user, seq) });
            }
            for (user, id, seq) in tasks.join_all().await {
                assert_eq!((user.id(), user.seq()), (id, seq));
                assert!(user.account().active().is_ok());
            }
            assert_eq!(awake(&fresh, nobody).await.user, User::new(nobody));
        }
    );

    both_stores!(
        a_missing_event_is_an_alarm_and_not_a_shorter_life,
        async |store: TestStore| {
            let log = store.open().await.log;
            let ada = store.register(&log, "ada").await;
            sign_in(&log, ada, 1, 3).await;
            store
                .tamper(
                    "DELETE FROM events WHERE user_seq = 2 AND event_type = 'account.signed_in'",
                )
                .await;
            assert!(
                matches!(log.wake(ada).await, Err(LogError::Damaged(damaged)) if damaged.position == 3)
            );
        }
    );
}
