//! Deletes rows that would otherwise grow for ever: outcomes of requests by age, signed heads but for
//! one an hour, and pieces of answers whose turn is over. Only the leader does it, in steps of bounded size.

use genie_events::Timestamp;

use crate::{Epoch, Log, LogError, store::Store};

/// The most rows that one step deletes, and the most heads that one step looks at.
pub const ROWS_AT_ONCE: u64 = 1000;
/// All heads of the last day are kept.
const ALL_HEADS_SECONDS: i64 = 24 * 3600;
/// Of older heads, the last one of each hour stays.
const HOUR_MICROS: i64 = 3600 * 1_000_000;
/// The checkpoint with the size of the last head that thinning has seen.
const THINNED: &str = "tree.v1.thinned";

/// See [`Log::retention`].
#[derive(Debug, Clone)]
pub struct Retention(Log);

impl Log {
    /// Deletes what would otherwise grow for ever.
    pub fn retention(&self) -> Retention {
        Retention(self.clone())
    }
}

impl Retention {
    /// Deletes outcomes of requests that were kept before a time, oldest first, and answers their
    /// number. Fewer than [`ROWS_AT_ONCE`]: no more are left.
    pub async fn delete_outcomes(&self, epoch: Epoch, before: Timestamp) -> Result<u64, LogError> {
        let delete = async move |store: Store| {
            let sql = "DELETE FROM idempotency WHERE key_hash IN \
                       (SELECT key_hash FROM idempotency WHERE kept_at < $1 ORDER BY kept_at LIMIT $2)";
            let mut tx = store.relaxed_in(epoch).await?;
            let deleted = sqlx::query(sql)
                .bind(before.0)
                .bind(ROWS_AT_ONCE as i64)
                .execute(&mut *tx)
                .await?
                .rows_affected();
            tx.commit().await?;
            Ok(deleted)
        };
        self.0.store().run(delete).await
    }

    /// Deletes pieces in the journal of turns that are over, and answers their number. A piece stays
    /// when its write timed out and was carried out after the turn's end. The journal is short: it
    /// holds the running turns.
    ///
    /// A turn has its lease before its first piece.
    pub async fn delete_stray_pieces(&self, epoch: Epoch) -> Result<u64, LogError> {
        let delete = async move |store: Store| {
            let sql = "DELETE FROM journal WHERE turn_id IN (SELECT j.turn_id FROM journal j \
                       WHERE NOT EXISTS (SELECT 1 FROM leases l WHERE l.kind = 'turn' AND l.id = j.turn_id) LIMIT $1)";
            let mut tx = store.relaxed_in(epoch).await?;
            let deleted = sqlx::query(sql)
                .bind(ROWS_AT_ONCE as i64)
                .execute(&mut *tx)
                .await?
                .rows_affected();
            tx.commit().await?;
            Ok(deleted)
        };
        self.0.store().run(delete).await
    }

    /// Deletes signed heads that are older than a day, but for the last one of each hour. Answers
    /// the number of heads that it looked at. Fewer than [`ROWS_AT_ONCE`]: no more are left for now.
    ///
    /// The tree keeps all its hashes, so a deleted head that somebody holds can still be proven.
    pub async fn thin_heads(&self, epoch: Epoch, now: Timestamp) -> Result<u64, LogError> {
        let before = now.plus_seconds(-ALL_HEADS_SECONDS);
        let thin = async move |store: Store| {
            let mut tx = store.relaxed_in(epoch).await?;
            let seen: Option<i64> =
                sqlx::query_scalar("SELECT position FROM checkpoints WHERE name = $1")
                    .bind(THINNED)
                    .fetch_optional(&mut *tx)
                    .await?;
            let sql =
                "SELECT size, signed_at FROM tree_heads WHERE size >= $1 ORDER BY size LIMIT $2";
            let heads: Vec<(i64, i64)> = sqlx::query_as(sql)
                .bind(seen.unwrap_or(0))
                .bind(ROWS_AT_ONCE as i64)
                .fetch_all(&mut *tx)
                .await?;
            let old = heads
                .iter()
                .take_while(|(_, signed_at)| *signed_at < before.0)
                .count();
            let superseded = superseded(&heads[..old]);
            if !superseded.is_empty() {
                let sizes: Vec<String> = superseded.iter().map(i64::to_string).collect();
                let sql = format!(
                    "DELETE FROM tree_heads WHERE size IN ({})",
                    sizes.join(", ")
                );
                sqlx::query(&sql).execute(&mut *tx).await?;
            }
            // The last old head is looked at again: the next one may be of the same hour.
            if let Some((last, _)) = heads[..old].last() {
                let sql = "INSERT INTO checkpoints (name, position, epoch) VALUES ($1, $2, $3) \
                     ON CONFLICT (name) DO UPDATE SET position = excluded.position, epoch = excluded.epoch";
                sqlx::query(sql)
                    .bind(THINNED)
                    .bind(last)
                    .bind(epoch.number())
                    .execute(&mut *tx)
                    .await?;
            }
            tx.commit().await?;
            Ok(old as u64)
        };
        self.0.store().run(thin).await
    }
}

/// The sizes of heads that are followed by a later one of the same hour. `heads` are sizes and
/// times, in order of their sizes.
fn superseded(heads: &[(i64, i64)]) -> Vec<i64> {
    let hour = |signed_at: i64| signed_at.div_euclid(HOUR_MICROS);
    let pairs = heads.windows(2);
    pairs
        .filter(|pair| hour(pair[0].1) == hour(pair[1].1))
        .map(|pair| pair[0].0)
        .collect()
}

#[cfg(test)]
mod tests {
    use genie_events::UserId;
    use serde_json::json;

    use super::*;
    use crate::{
        Remember, RequestKey,
        idempotency::Remembered,
        testing::{TestStore, both_stores},
    };

    async fn keep(log: &Log, user: UserId, key: &str) -> RequestKey {
        let request = RequestKey {
            key: key.into(),
            request: "r".into(),
        };
        let remember = Remember {
            request: request.clone(),
            user,
            outcome: json!({"n": 1}),
        };
        assert!(log.outcomes().keep(remember, 1).await.unwrap());
        request
    }

    async fn leads(log: &Log) -> Epoch {
        log.elections().stand("n").await.unwrap().elected().await
    }

    both_stores!(
        old_outcomes_are_deleted_in_steps_and_their_keys_are_new_again,
        async |store: TestStore| {
            let log = store.open().await.log;
            let ada = store.register(&log, "ada").await;
            let epoch = leads(&log).await;
            let blob = "x''";
            let many = (0..ROWS_AT_ONCE + 5).map(|n| {
                let sealed = if store.database_url().is_some() {
                    "''"
                } else {
                    blob
                };
                format!("('k{n}', 'u', 'r', 'e', 1, {sealed}, {n})")
            });
            let many = many.collect::<Vec<_>>().join(", ");
            store
                .try_sql(&format!("INSERT INTO idempotency VALUES {many}"))
                .await
                .unwrap();
            let old = keep(&log, ada, "old").await;
            store.clock.advance_millis(1000);
            let young = keep(&log, ada, "young").await;
            let before = store.clock.now();
            let mut deleted = Vec::new();
            for _ in 0..3 {
                deleted.push(
                    log.retention()
                        .delete_outcomes(epoch, before)
                        .await
                        .unwrap(),
                );
            }
            assert_eq!(deleted, [ROWS_AT_ONCE, 6, 0]);
            let outcomes = log.outcomes();
            assert_eq!(outcomes.get(ada, &old).await.unwrap(), None);
            let kept = outcomes.get(ada, &young).await.unwrap();
            assert!(matches!(kept, Some(Remembered::Same { .. })), "{kept:?}");
            keep(&log, ada, "old").await;
        }
    );

    both_stores!(
        of_old_heads_the_last_of_each_hour_stays_and_of_the_last_day_all,
        async |store: TestStore| {
            let log = store.open().await.log;
            let epoch = leads(&log).await;
            // A head each ten seconds for 30 hours.
            let begun = store.clock.now();
            let heads =
                (1..=30 * 360_i64).map(|n| format!("({n}, 'note', {})", begun.0 + n * 10_000_000));
            let heads = heads.collect::<Vec<_>>().join(", ");
            let insert = format!("INSERT INTO tree_heads (size, note, signed_at) VALUES {heads}");
            store.try_sql(&insert).await.unwrap();
            let now = begun.plus_seconds(30 * 3600);
            let mut looked = Vec::new();
            while looked.last() != Some(&1) {
                looked.push(log.retention().thin_heads(epoch, now).await.unwrap());
            }
            assert!(
                looked.iter().all(|rows| *rows <= ROWS_AT_ONCE),
                "{looked:?}"
            );
            let left: Vec<i64> =
                sqlx::query_scalar("SELECT size FROM tree_heads ORDER BY size LIMIT 8")
                    .fetch_all(log.store().reads())
                    .await
                    .unwrap();
            // The first day has six hours more than the last one. A head at a full hour is of the
            // hour that it begins; all after hour 6 are of the last day.
            assert_eq!(left, [359, 719, 1079, 1439, 1799, 2159, 2160, 2161]);
            // Much later most of the rest goes, too, and the newest head stays.
            while log
                .retention()
                .thin_heads(epoch, now.plus_seconds(10 * 86_400))
                .await
                .unwrap()
                > 1
            {}
            let left: (i64, i64) = sqlx::query_as("SELECT count(*), max(size) FROM tree_heads")
                .fetch_one(log.store().reads())
                .await
                .unwrap();
            assert_eq!(left, (31, 10_800));
        }
    );

    both_stores!(
        pieces_of_turns_that_are_over_are_deleted_and_those_of_running_ones_stay,
        async |store: TestStore| {
            let log = store.open().await.log;
            let epoch = leads(&log).await;
            let sealed = if store.database_url().is_some() {
                "''"
            } else {
                "x''"
            };
            for sql in [
                "INSERT INTO leases (kind, id, user_id, stream_id, holder, expires_at) VALUES \
                 ('turn', 'runs', 'u', 's', 'h', 0), ('job', 'over', 'u', 's', 'h', 0)"
                    .to_owned(),
                format!(
                    "INSERT INTO journal (turn_id, upto, user_id, sealed) VALUES \
                     ('runs', 1, 'u', {sealed}), ('over', 1, 'u', {sealed}), ('over', 2, 'u', {sealed})"
                ),
            ] {
                store.try_sql(&sql).await.unwrap();
            }
            assert_eq!(log.retention().delete_stray_pieces(epoch).await.unwrap(), 2);
            assert_eq!(log.retention().delete_stray_pieces(epoch).await.unwrap(), 0);
            let left: i64 = sqlx::query_scalar("SELECT count(*) FROM journal")
                .fetch_one(log.store().reads())
                .await
                .unwrap();
            assert_eq!(left, 1);
        }
    );

    both_stores!(
        a_node_that_was_deposed_deletes_nothing,
        async |store: TestStore| {
            let log = store.open().await.log;
            let epoch = leads(&log).await;
            store
                .try_sql("UPDATE elections SET epoch = epoch + 1")
                .await
                .unwrap();
            let outcomes = log
                .retention()
                .delete_outcomes(epoch, store.clock.now())
                .await;
            let heads = log.retention().thin_heads(epoch, store.clock.now()).await;
            assert!(matches!(outcomes, Err(LogError::Deposed)), "{outcomes:?}");
            assert!(matches!(heads, Err(LogError::Deposed)), "{heads:?}");
        }
    );
}
