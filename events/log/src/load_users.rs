//! Loads users: a snapshot, and the facts after it folded into it. One task takes all users that
//! wait, without a timer, and reads the keys, snapshots and tails of all of them together.

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

/// The users that may wait to be read. Beyond that a caller is told that the store is busy.
const QUEUE: usize = 65_536;
/// The most users that are read together.
const BATCH: usize = 128;
/// The batches that are read at the same time; the next one gathers meanwhile.
const AT_ONCE: usize = 3;
/// The most events of each user that are read together. The rest of a longer tail is read
/// separately.
const TAIL: u64 = 256;
/// A snapshot is kept after this many events without one.
pub const SNAPSHOT_EVERY: u64 = 200;

/// A loaded user.
#[derive(Debug)]
pub struct Awake {
    pub user: User,
    /// The position of the user's latest event.
    pub position: u64,
    /// The number of events that the kept snapshot covers.
    pub snapshot_seq: u64,
    /// The user's keys; `None` for an unknown user.
    pub keys: Option<Arc<UserKeys>>,
}

impl Awake {
    /// Folds the user's next events. Each is checked against its digest, opened and lifted to the
    /// present version.
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

/// The outcome of loading a user.
#[derive(Debug)]
pub enum Waking {
    Awake(Box<Awake>),
    /// The user was forgotten: nobody can read the facts any more.
    Forgotten,
}

/// The stored data of one user.
struct Kept {
    key: Option<WrappedKey>,
    snapshot: Option<Stored>,
    /// The number of the user's events.
    seq: u64,
    tail: Vec<StoredRow>,
}

type Answer = Result<Option<Arc<Kept>>, LogError>;

/// The queue of the task that loads users.
#[derive(Clone)]
pub(crate) struct Wakes(mpsc::Sender<(UserId, oneshot::Sender<Answer>)>);

impl Wakes {
    /// Starts the task on the current runtime, which must be the one that owns the store's
    /// connections.
    pub fn start(store: Store) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(read_all(store, waiting));
        Self(queue)
    }

    async fn read(&self, user: UserId) -> Answer {
        let (reply, answer) = oneshot::channel();
        self.0
            .try_send((user, reply))
            .map_err(|_| LogError::Away("too many users are being loaded at once".into()))?;
        answer
            .await
            .unwrap_or_else(|_| Err(LogError::Away("the store was closed".into())))
    }
}

impl Log {
    /// The present state of a user, from the snapshot and the facts after it. An unknown user has
    /// an empty state.
    pub async fn wake(&self, user: UserId) -> Result<Waking, LogError> {
        let Some(kept) = self.wakes().read(user).await? else {
            return Ok(Waking::Awake(Box::new(asleep(user))));
        };
        let KeyState::Live(keys) = self.opened_key(user.0, kept.key.as_ref())? else {
            return Ok(Waking::Forgotten);
        };
        if self.ends_in_forgetting(&kept.tail).await? {
            // The key does not matter here: it may have come back with a backup.
            return Ok(Waking::Forgotten);
        }
        let mut awake = begin(user, &keys, kept.snapshot.as_ref(), kept.seq);
        // The tail is of no use when it was read for a snapshot that turned out unreadable.
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

    /// Whether the last of a user's rows is the fact of the forgetting, which is sealed under the
    /// system's key.
    async fn ends_in_forgetting(&self, rows: &[StoredRow]) -> Result<bool, LogError> {
        match rows.last() {
            Some(row) if row.is_forgotten() => self.open_row(row).await.map(|_| true),
            _ => Ok(false),
        }
    }
}

/// A user before any fact is read.
pub fn asleep(user: UserId) -> Awake {
    Awake {
        user: User::new(user),
        position: 0,
        snapshot_seq: 0,
        keys: None,
    }
}

/// The state in a snapshot, or an empty one. A snapshot that covers more events than the log has is
/// ignored: the store was restored to an earlier time without it.
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
            return; // The log was closed.
        }
        let store = store.clone();
        tokio::spawn(async move {
            let mut users: Vec<UserId> = batch.iter().map(|(user, _)| *user).collect();
            users.sort_unstable();
            users.dedup(); // A user who is asked for twice is read once.
            let read = match tokio::time::timeout(LONGEST, read_batch(&store, &users)).await {
                Ok(read) => read,
                Err(_) => Err(LogError::Away("no answer in time".into())),
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
                let _ = reply.send(answer); // The caller may have gone.
            }
            drop(permit);
        });
    }
}

/// Two statements for all users: keys and snapshots, then the tails after these snapshots.
async fn read_batch(store: &Store, users: &[UserId]) -> Result<HashMap<UserId, Kept>, LogError> {
    // Padded with empty ids, so that there are few different statements.
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
        a_snapshot_with_its_tail_equals_the_whole_log,
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

            // A snapshot that was changed, one ahead of a log restored without it, and one of
            // another version: the log is read.
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
            keep_snapshot(&log, &from_snapshot).await; // A snapshot of this version again.
        }
    );

    both_stores!(
        many_users_load_together_and_each_gets_their_own_state,
        async |store: TestStore| {
            let log = store.open().await.log;
            let mut users = Vec::new();
            for n in 0..150 {
                let user = store.register(&log, &format!("user{n}")).await;
                sign_in(&log, user, 1, n % 7 + 1).await;
                users.push((user, n % 7 + 2));
            }
            sign_in(&log, users[3].0, users[3].1, 400).await; // More events than are read together.
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
        a_missing_event_is_an_alarm_and_not_a_shorter_history,
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
