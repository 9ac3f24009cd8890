//! Loads users: a snapshot, and the facts after it folded into it. One task takes all users that
//! wait, without a timer, and reads the keys, snapshots and tails of all of them together.

use std::{collections::HashMap, sync::Arc};

use futures_util::TryStreamExt;
use genie_events::{User, UserId, user::facts_of_day::day_of};
use sqlx::{Row, any::AnyRow};
use tracing::warn;
use uuid::Uuid;

use crate::{
    Log, LogError, StoredRow,
    keys::{KeyState, UserKeys, WrappedKey},
    log::wrapped_key,
    read_batcher::{BatchBounds, ReadBatcher, padded_size},
    snapshots::StoredSnapshot,
    store::Store,
};

/// The users that may wait to be read. Beyond that a caller is told that the store is busy.
const QUEUE: usize = 65_536;
/// Batches read at the same time; while they are, the next gathers.
const AT_ONCE: usize = 3;
/// The most events of each user that are read together. The rest of a longer tail is read
/// separately.
const TAIL: u64 = 256;
/// The most bytes of each user's events that are read together. The rest is read separately, too.
const TAIL_BYTES: usize = 256 << 10;
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
        // Facts of earlier days than the last one are not counted for any day, so their metadata
        // need not be read.
        let last_day = rows.last().map_or(0, |row| day_of(row.recorded_at));
        for row in rows {
            if row.owner_seq != self.user.seq() + 1 {
                return Err(row.damaged(format!(
                    "the user's event {} is missing before it",
                    self.user.seq() + 1
                )));
            }
            let (stream, event) = row.open(keys)?;
            if day_of(row.recorded_at) < last_day {
                self.user.evolve(&stream, row.sequence, event);
            } else {
                let (metadata, at) = (row.metadata()?, row.recorded_at);
                self.user
                    .evolve_counted(&stream, row.sequence, event, &metadata, at);
            }
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

/// A user as stored: wrapped key, snapshot and tail.
pub(crate) struct StoredUser {
    key: Option<WrappedKey>,
    snapshot: Option<StoredSnapshot>,
    /// How many events the user has.
    seq: u64,
    tail: Vec<StoredRow>,
    /// The bytes of the events after the snapshot that were seen. Past [`TAIL_BYTES`] none is kept.
    tail_bytes: usize,
}

/// The way to the task that reads users. A user of whom nothing is known has nothing stored.
pub(crate) type UserLoader = ReadBatcher<UserId, Option<Arc<StoredUser>>>;

/// Starts the task on the current runtime, which must be the one that owns the store's connections.
pub(crate) fn start(store: Store) -> UserLoader {
    let bounds = BatchBounds {
        waiting: QUEUE,
        at_once: AT_ONCE,
        overload: "too many users wake at once",
    };
    ReadBatcher::start(store, bounds, read_users)
}

/// The present states of users. See [`Log::users`].
#[derive(Debug, Clone)]
pub struct UserStates(Log);

impl Log {
    /// The present states of users.
    pub fn users(&self) -> UserStates {
        UserStates(self.clone())
    }
}

impl UserStates {
    pub(crate) fn log(&self) -> &Log {
        &self.0
    }

    /// The present state of a user, from the snapshot and the facts after it. An unknown user has
    /// an empty state.
    pub async fn wake(&self, user: UserId) -> Result<Waking, LogError> {
        let Some(kept) = self.0.user_loader().read(user).await? else {
            return Ok(Waking::Awake(Box::new(asleep(user))));
        };
        let KeyState::Live(keys) = self.0.keys().opened_key(user.0, kept.key.as_ref())? else {
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
            let rows = self.0.reader().user_rows(user, awake.user.seq()).await?;
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

    /// True when the last of a user's rows is the fact of the forgetting, which is sealed under the
    /// system's key.
    async fn ends_in_forgetting(&self, rows: &[StoredRow]) -> Result<bool, LogError> {
        match rows.last() {
            Some(row) if row.is_forgotten() => self.0.reader().open_row(row).await.map(|_| true),
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

/// The state that a snapshot holds, or an empty one. A snapshot of more events than there are is none: the store was restored to
/// an earlier time without it.
fn begin(user: UserId, keys: &Arc<UserKeys>, snapshot: Option<&StoredSnapshot>, seq: u64) -> Awake {
    let empty = || Awake {
        keys: Some(Arc::clone(keys)),
        ..asleep(user)
    };
    let Some(stored) = snapshot else {
        return empty();
    };
    if stored.user_seq > seq {
        warn!(user.id = %user, "snapshots: a snapshot is ahead of the log; reading the log instead");
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
            warn!(user.id = %user, "snapshots: a snapshot can't be read; reading the log instead");
            empty()
        }
    }
}

/// Two statements for all of them: keys and snapshots, then the tails after these snapshots.
async fn read_users(
    store: Store,
    users: Vec<UserId>,
) -> Result<HashMap<UserId, Option<Arc<StoredUser>>>, LogError> {
    let mut stored = read_snapshots(&store, &users).await?;
    read_tails(&store, &users, &mut stored).await?;
    Ok(stored
        .into_iter()
        .map(|(user, stored)| (user, Some(Arc::new(stored))))
        .collect())
}

/// The users' ids, padded with nobody to the statement's size.
fn padded(users: &[UserId]) -> impl Iterator<Item = Option<&UserId>> {
    users
        .iter()
        .map(Some)
        .chain(std::iter::repeat(None))
        .take(padded_size(users.len()))
}

fn id_or_nobody(user: Option<&UserId>) -> String {
    user.map_or_else(|| UserId(Uuid::nil()).to_string(), UserId::to_string)
}

async fn read_snapshots(
    store: &Store,
    users: &[UserId],
) -> Result<HashMap<UserId, StoredUser>, LogError> {
    let places: Vec<String> = (1..=padded_size(users.len()))
        .map(|n| format!("${n}"))
        .collect();
    let sql = format!(
        "SELECT k.user_id, k.key_id, k.master_id, k.wrapped, k.state, s.version, s.user_seq, s.position, s.sealed, \
             (SELECT coalesce(max(e.owner_seq), 0) FROM events e WHERE e.owner = unhex(k.user_id, '-')) AS seq \
         FROM user_keys k LEFT JOIN snapshots s ON s.user_id = k.user_id WHERE k.user_id IN ({})",
        places.join(", ")
    );
    let query = padded(users).fold(sqlx::query(&sql), |query, user| {
        query.bind(id_or_nobody(user))
    });
    let mut stored = HashMap::with_capacity(users.len());
    for row in query.fetch_all(store.reads()).await? {
        if let Some((user, one)) = stored_user(&row)? {
            stored.insert(user, one);
        }
    }
    Ok(stored)
}

async fn read_tails(
    store: &Store,
    users: &[UserId],
    stored: &mut HashMap<UserId, StoredUser>,
) -> Result<(), LogError> {
    let places: Vec<String> = (0..padded_size(users.len()))
        .map(|n| {
            format!(
                "(CAST(${} AS text), CAST(${} AS bigint))",
                2 * n + 1,
                2 * n + 2
            )
        })
        .collect();
    let sql = format!(
        "WITH wanted (wanted_user, after) AS (VALUES {}) SELECT {} FROM wanted \
         JOIN events ON owner = unhex(wanted_user, '-') AND owner_seq > after AND owner_seq <= after + {TAIL} \
         ORDER BY owner, owner_seq",
        places.join(", "),
        store.columns()
    );
    let after = |user: Option<&UserId>| {
        let snapshot = user
            .and_then(|user| stored.get(user))
            .and_then(|one| one.snapshot.as_ref());
        snapshot.map_or(0, |snapshot| snapshot.user_seq) as i64
    };
    let query = padded(users).fold(sqlx::query(&sql), |query, user| {
        query.bind(id_or_nobody(user)).bind(after(user))
    });
    let mut rows = query.fetch(store.reads());
    while let Some(row) = rows.try_next().await? {
        let row = StoredRow::read(&row)?;
        if let Some(one) = stored.get_mut(&UserId(row.owner)) {
            one.tail_bytes += row.payload.len() + row.metadata.len();
            if one.tail_bytes <= TAIL_BYTES {
                one.tail.push(row);
            }
        }
    }
    Ok(())
}

fn stored_user(row: &AnyRow) -> Result<Option<(UserId, StoredUser)>, sqlx::Error> {
    let Ok(user) = row.try_get::<String, _>("user_id")?.parse::<UserId>() else {
        return Ok(None);
    };
    let snapshot = match row.try_get::<Option<i64>, _>("version")? {
        None => None,
        Some(version) => Some(StoredSnapshot {
            version,
            user_seq: row.try_get::<i64, _>("user_seq")? as u64,
            position: row.try_get::<i64, _>("position")? as u64,
            sealed: row.try_get("sealed")?,
        }),
    };
    let seq = row.try_get::<i64, _>("seq")? as u64;
    Ok(Some((
        user,
        StoredUser {
            key: wrapped_key(user.0, row)?,
            snapshot,
            seq,
            tail: Vec::new(),
            tail_bytes: 0,
        },
    )))
}

#[cfg(test)]
mod tests {
    use genie_events::{
        Change, Event, Limits, Metadata, Now, PlatformName, StreamId, StreamKind, UserName,
        account::AccountEvent,
        credential::{CredentialEvent, CredentialKind, SealedSecret},
    };

    use super::*;
    use crate::{
        AppendRequest, Group, NewFact,
        testing::{TestStore, both_stores},
    };

    async fn sign_in(log: &Log, user: UserId, after: u64, times: u64) {
        sign_in_by(Metadata::system(), log, user, after, times).await;
    }

    async fn sign_in_by(metadata: Metadata, log: &Log, user: UserId, after: u64, times: u64) {
        let stream = StreamId::new(StreamKind::Account, user);
        let event = || Event::Account(AccountEvent::SignedIn);
        let facts = (after + 1..=after + times)
            .map(|sequence| NewFact {
                stream,
                sequence,
                event: event(),
            })
            .collect();
        let groups = vec![Group::of_user(user, after, facts)];
        crate::testing::append(
            log,
            AppendRequest {
                groups,
                work: vec![],
                metadata,
                remember: None,
            },
        )
        .await
        .unwrap();
    }

    async fn awake(log: &Log, user: UserId) -> Awake {
        match log.users().wake(user).await.unwrap() {
            Waking::Awake(awake) => *awake,
            Waking::Forgotten => panic!("forgotten"),
        }
    }

    async fn keep_snapshot(log: &Log, awake: &Awake) {
        log.users().keep_snapshot(&awake.user, awake.position).await;
        while self::awake(log, awake.user.id()).await.snapshot_seq != awake.user.seq() {
            tokio::task::yield_now().await;
        }
    }

    both_stores!(
        a_user_who_wakes_counts_the_facts_of_the_last_day_only,
        async |store: TestStore| {
            let log = store.open().await.log;
            let ada = store.register(&log, "ada").await;
            let own = || Metadata::user(ada, "r");
            sign_in_by(own(), &log, ada, 1, 3).await;
            store.clock.advance_millis(86_400_000);
            sign_in_by(own(), &log, ada, 4, 2).await;
            sign_in(&log, ada, 6, 5).await;
            let one_more = [Change::new(ada, AccountEvent::SignedIn)];
            for from_snapshot in [false, true] {
                let awake = awake(&log, ada).await;
                let now = |facts| Now {
                    moment: store.clock.now(),
                    limits: Limits::built_in().with_facts_per_day(facts),
                };
                let check = |facts| awake.user.check_day(&now(facts), &own(), &one_more);
                assert!(check(2).is_err() && check(3).is_ok(), "{from_snapshot}");
                keep_snapshot(&log, &awake).await;
            }
        }
    );

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
        a_large_state_is_kept_as_a_snapshot_too,
        async |store: TestStore| {
            let log = store.open().await.log;
            let ada = store.register(&log, "ada").await;
            for thousand in 0..3 {
                let facts = (0..1000).map(|_| NewFact {
                    stream: StreamId::new(StreamKind::Credential, log.clock().new_uuid()),
                    sequence: 1,
                    event: CredentialEvent::Stored {
                        kind: CredentialKind::Profile,
                        platform: PlatformName::read("x").unwrap(),
                        platform_username: UserName::read("", &"\u{1f4f7}".repeat(100)).unwrap(),
                        expires_at: None,
                        sealed: SealedSecret {
                            version: 1,
                            hash: "00".into(),
                        },
                    }
                    .into(),
                });
                let group = Group::of_user(ada, 1 + thousand * 1000, facts.collect());
                let request = AppendRequest {
                    groups: vec![group],
                    work: vec![],
                    metadata: Metadata::system(),
                    remember: None,
                };
                crate::testing::append(&log, request).await.unwrap();
            }
            let whole = awake(&log, ada).await;
            assert!(whole.user.to_snapshot().len() > 1 << 20);
            keep_snapshot(&log, &whole).await;
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
                    "DELETE FROM events WHERE owner_seq = 2 AND event_type = 'account.signed_in'",
                )
                .await;
            assert!(
                matches!(log.users().wake(ada).await, Err(LogError::Damaged(damaged)) if damaged.position == 3)
            );
        }
    );
}
