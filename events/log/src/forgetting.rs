//! A working table: the users to be forgotten, and those who were. One append writes the fact and
//! wipes the key. Steps that can be repeated erase the rest (working rows, files, read rows, the
//! user in Directus), and this table lists the users whose rest is not erased yet. So a crash at
//! any point leaves a row here, and the next leader continues.

use std::collections::BTreeMap;

use genie_events::{StreamId, StreamKind, Timestamp, UserId, account::FORGOTTEN};
use serde_json::{Value, json};
use sqlx::{Row, any::AnyRow};

use crate::{
    Log, LogError, StoreTransaction, append_sqlite::SqliteTx, store::Store, stored_ids::IdForm,
    stored_row::stored_stream,
};

/// One transaction deletes at most this many rows, so that nobody waits for long.
const ERASED_AT_ONCE: i64 = 1000;
/// The most users that one call may ask for.
pub const ASKED_AT_ONCE: usize = 500;

/// The place of a user's rows in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserRows {
    pub table: &'static str,
    pub user: &'static str,
    /// The primary key's columns, separated by commas.
    pub key: &'static str,
    /// The form of the user's id there.
    pub ids: IdForm,
}

/// The working tables whose rows are deleted with their user. Other tables name the user, too:
/// `blobs`, whose rows go after the bytes; `user_keys` and `forgettings`, which say that the user
/// was forgotten; and `events`, which nobody can read any more.
pub const WORKING_ROWS: [UserRows; 10] = [
    UserRows {
        table: "secrets",
        user: "user_id",
        key: "secret_id, version",
        ids: IdForm::Text,
    },
    UserRows {
        table: "sessions",
        user: "user_id",
        key: "family",
        ids: IdForm::Text,
    },
    UserRows {
        table: "leases",
        user: "user_id",
        key: "kind, id",
        ids: IdForm::Text,
    },
    UserRows {
        table: "unfinished",
        user: "user_id",
        key: "user_id, job_id",
        ids: IdForm::Binary,
    },
    UserRows {
        table: "journal",
        user: "user_id",
        key: "turn_id, upto",
        ids: IdForm::Text,
    },
    UserRows {
        table: "idempotency",
        user: "user_id",
        key: "key_hash",
        ids: IdForm::Text,
    },
    UserRows {
        table: "resumable",
        user: "user_id",
        key: "id",
        ids: IdForm::Text,
    },
    UserRows {
        table: "snapshots",
        user: "user_id",
        key: "user_id",
        ids: IdForm::Text,
    },
    UserRows {
        table: "impersonations",
        user: "user_id",
        key: "session",
        ids: IdForm::Text,
    },
    UserRows {
        table: "impersonations",
        user: "by_admin",
        key: "session",
        ids: IdForm::Text,
    },
];

impl UserRows {
    /// Deletes at most `most` of a user's rows; answers how many were deleted.
    pub async fn erase(
        &self,
        tx: &mut StoreTransaction,
        user: UserId,
        most: i64,
    ) -> Result<u64, sqlx::Error> {
        let Self {
            table,
            user: column,
            key,
            ids,
        } = self;
        let user_id = ids.given("$1");
        let sql = format!(
            "DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} WHERE {column} = {user_id} LIMIT $2)"
        );
        Ok(sqlx::query(&sql)
            .bind(user.to_string())
            .bind(most)
            .execute(&mut **tx)
            .await?
            .rows_affected())
    }

    /// The number of a user's rows.
    pub async fn count(&self, store: &Store, user: UserId) -> Result<u64, LogError> {
        let sql = format!(
            "SELECT count(*) FROM {} WHERE {} = {}",
            self.table,
            self.user,
            self.ids.given("$1")
        );
        let count: i64 = sqlx::query_scalar(&sql)
            .bind(user.to_string())
            .fetch_one(store.reads())
            .await?;
        Ok(count as u64)
    }
}

/// The stage of a forgetting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The user asked for it, and the time has not come.
    Requested,
    /// The fact is in the log and the key is gone. The rest is being erased.
    Forgotten,
    /// Nothing is left. Erasing is repeated once, for writes that were under way.
    Erased,
    /// Nothing is left to do.
    Closed,
}

impl Stage {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "requested" => Some(Self::Requested),
            "forgotten" => Some(Self::Forgotten),
            "erased" => Some(Self::Erased),
            "closed" => Some(Self::Closed),
            _ => None,
        }
    }
}

/// A user who is to be forgotten, or was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forgetting {
    pub user: UserId,
    pub stage: Stage,
    /// When the next step is due.
    pub due: Timestamp,
    /// The position of the fact; 0 while there is none.
    pub position: u64,
    pub forgotten_at: Option<Timestamp>,
    pub erased_at: Option<Timestamp>,
    /// A signed note that says all this.
    pub certificate: Option<String>,
}

/// The row of a forgotten user's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestroyedKey {
    pub key_id: String,
    /// The master key that wrapped it last.
    pub master_id: String,
}

const COLUMNS: &str = "user_id, state, due, position, forgotten_at, erased_at, certificate";

fn read(row: &AnyRow) -> Result<Forgetting, LogError> {
    let user: String = row.try_get("user_id")?;
    let stage: String = row.try_get("state")?;
    let damaged = || LogError::Statement("a row of `forgettings` cannot be read".into());
    Ok(Forgetting {
        user: user.parse().map_err(|_| damaged())?,
        stage: Stage::parse(&stage).ok_or_else(damaged)?,
        due: Timestamp(row.try_get("due")?),
        position: row.try_get::<Option<i64>, _>("position")?.unwrap_or(0) as u64,
        forgotten_at: row
            .try_get::<Option<i64>, _>("forgotten_at")?
            .map(Timestamp),
        erased_at: row.try_get::<Option<i64>, _>("erased_at")?.map(Timestamp),
        certificate: row.try_get("certificate")?,
    })
}

/// How far each forgetting is, and the steps that erase what is left. See [`Log::forgettings`].
#[derive(Debug, Clone)]
pub struct Forgettings(Log);

impl Log {
    /// How far each forgetting is, and the steps that erase what is left.
    pub fn forgettings(&self) -> Forgettings {
        Forgettings(self.clone())
    }
}

impl Forgettings {
    /// `None` when nobody asked to forget the user.
    pub async fn get(&self, user: UserId) -> Result<Option<Forgetting>, LogError> {
        self.0
            .store()
            .run(async move |store: Store| {
                let sql = format!("SELECT {COLUMNS} FROM forgettings WHERE user_id = $1");
                let row = sqlx::query(&sql)
                    .bind(user.to_string())
                    .fetch_optional(store.reads())
                    .await?;
                row.as_ref().map(read).transpose()
            })
            .await
    }

    /// The forgettings that are due at `now`, the longest due first, at most `limit`.
    pub async fn due(&self, now: Timestamp, limit: i64) -> Result<Vec<Forgetting>, LogError> {
        self.0.store()
            .run(async move |store: Store| {
                let sql =
                    format!("SELECT {COLUMNS} FROM forgettings WHERE state <> 'closed' AND due <= $1 ORDER BY due LIMIT $2");
                let rows = sqlx::query(&sql).bind(now.0).bind(limit).fetch_all(store.reads()).await?;
                rows.iter().map(read).collect()
            })
            .await
    }

    /// The forgotten users in order of their ids, at most [`ASKED_AT_ONCE`], after one of them.
    pub async fn forgotten_after(
        &self,
        after: Option<UserId>,
    ) -> Result<Vec<Forgetting>, LogError> {
        self.0
            .store()
            .run(async move |store: Store| {
                let sql = format!(
                    "SELECT {COLUMNS} FROM forgettings WHERE state <> 'requested' AND user_id > $1 \
                     ORDER BY user_id LIMIT {ASKED_AT_ONCE}"
                );
                let after = after.map(|user| user.to_string()).unwrap_or_default();
                let rows = sqlx::query(&sql)
                    .bind(after)
                    .fetch_all(store.reads())
                    .await?;
                rows.iter().map(read).collect()
            })
            .await
    }

    /// Sets the next attempt of a step that failed.
    pub async fn put_off(&self, user: UserId, until: Timestamp) -> Result<(), LogError> {
        self.0
            .store()
            .run(async move |store: Store| {
                let mut tx = store.durable().await?;
                let put_off = sqlx::query("UPDATE forgettings SET due = $2 WHERE user_id = $1")
                    .bind(user.to_string());
                put_off.bind(until.0).execute(&mut *tx).await?;
                Ok(tx.commit().await?)
            })
            .await
    }

    /// Records that nothing is left. Only the first certificate is kept.
    pub async fn note_erased(
        &self,
        user: UserId,
        at: Timestamp,
        certificate: String,
        look_again: Timestamp,
    ) -> Result<(), LogError> {
        self.0.store()
            .run(async move |store: Store| {
                let sql = "UPDATE forgettings SET state = 'erased', erased_at = $2, certificate = $3, due = $4 \
                           WHERE user_id = $1 AND state = 'forgotten'";
                let mut tx = store.durable().await?;
                let note = sqlx::query(sql).bind(user.to_string()).bind(at.0).bind(certificate).bind(look_again.0);
                note.execute(&mut *tx).await?;
                Ok(tx.commit().await?)
            })
            .await
    }

    /// Ends a forgetting: nothing is left to do.
    pub async fn close(&self, user: UserId) -> Result<(), LogError> {
        self.0.store()
            .run(async move |store: Store| {
                let mut tx = store.durable().await?;
                let close = sqlx::query("UPDATE forgettings SET state = 'closed' WHERE user_id = $1 AND state = 'erased'");
                close.bind(user.to_string()).execute(&mut *tx).await?;
                Ok(tx.commit().await?)
            })
            .await
    }

    /// Deletes a forgotten user's working rows, some at a time. Repeating it deletes rows that came
    /// since. It deletes nothing of a user who was not forgotten.
    pub async fn erase_working_rows(&self, user: UserId) -> Result<(), LogError> {
        if self.destroyed_key(user).await?.is_none() {
            return Ok(());
        }
        for rows in WORKING_ROWS {
            let erase = async move |store: Store| {
                let mut tx = store.durable().await?;
                let erased = rows.erase(&mut tx, user, ERASED_AT_ONCE).await?;
                tx.commit().await?;
                Ok(erased)
            };
            while self.0.store().run(erase).await? >= ERASED_AT_ONCE as u64 {}
        }
        Ok(())
    }

    /// The number of rows that a user has left in the working tables, by table. Tables without such
    /// rows are left out.
    pub async fn working_rows_left(
        &self,
        user: UserId,
    ) -> Result<BTreeMap<&'static str, u64>, LogError> {
        let count = async move |store: Store| {
            let blobs = UserRows {
                table: "blobs",
                user: "user_id",
                key: "id",
                ids: IdForm::Text,
            };
            let mut left = BTreeMap::new();
            for rows in WORKING_ROWS.into_iter().chain([blobs]) {
                *left.entry(rows.table).or_insert(0) += rows.count(&store, user).await?;
            }
            left.retain(|_, count| *count > 0);
            Ok(left)
        };
        self.0.store().run(count).await
    }

    /// The row of a forgotten user's key; `None` while the key is live, or when there never was
    /// one.
    pub async fn destroyed_key(&self, user: UserId) -> Result<Option<DestroyedKey>, LogError> {
        let read = async move |store: Store| {
            let sql = "SELECT key_id, master_id FROM user_keys WHERE user_id = $1 AND state = 'destroyed' AND wrapped IS NULL";
            let row = sqlx::query(sql)
                .bind(user.to_string())
                .fetch_optional(store.reads())
                .await?;
            let Some(row) = row else { return Ok(None) };
            Ok(Some(DestroyedKey {
                key_id: row.try_get("key_id")?,
                master_id: row.try_get("master_id")?,
            }))
        };
        self.0.store().run(read).await
    }

    /// For a forgotten user whose key came back with a part of a backup: wipes the key again, and
    /// demands that the rest be erased again. It changes nothing for a user without the fact.
    pub async fn forget_restored_key(&self, user: UserId, at: Timestamp) -> Result<(), LogError> {
        self.0.store()
            .run(async move |store: Store| {
                // The fact of the forgetting is its user's last.
                let fact = "SELECT position FROM ( \
                         SELECT position, event_type FROM events WHERE owner = unhex($1, '-') ORDER BY owner_seq DESC LIMIT 1 \
                     ) last WHERE event_type = $2";
                let mut tx = store.durable().await?;
                let fact = sqlx::query_scalar(fact).bind(user.to_string()).bind(FORGOTTEN);
                let Some(position) = fact.fetch_optional(&mut *tx).await? else { return Ok(()) };
                let position: i64 = position;
                let wipe = "UPDATE user_keys SET state = 'destroyed', wrapped = NULL, destroyed_at = $2 \
                            WHERE user_id = $1 AND state = 'live'";
                let wipe = sqlx::query(wipe).bind(user.to_string()).bind(position);
                if wipe.execute(&mut *tx).await?.rows_affected() > 0 {
                    let again = "INSERT INTO forgettings (user_id, state, due, position, forgotten_at) \
                                 VALUES ($1, 'forgotten', $2, $3, $2) ON CONFLICT (user_id) DO UPDATE SET \
                                 state = excluded.state, due = excluded.due, erased_at = NULL, certificate = NULL";
                    sqlx::query(again).bind(user.to_string()).bind(at.0).bind(position).execute(&mut *tx).await?;
                }
                Ok(tx.commit().await?)
            })
            .await
    }

    /// The number of a user's events, and the number among them that belong to the account. The
    /// forgetting of a user whose events cannot be read needs both to append the last event.
    pub async fn counts_of(&self, user: UserId) -> Result<(u64, u64), LogError> {
        self.0.store()
            .run(async move |store: Store| {
                let sql = "SELECT coalesce(max(owner_seq), 0) AS events, coalesce((SELECT max(sequence) FROM events \
                           WHERE stream = unhex($2, '-')), 0) AS of_account FROM events WHERE owner = unhex($1, '-')";
                let account = stored_stream(&StreamId::new(StreamKind::Account, user));
                let query = sqlx::query(sql).bind(user.to_string()).bind(account.to_string());
                let row = query.fetch_one(store.reads()).await?;
                Ok((row.try_get::<i64, _>("events")? as u64, row.try_get::<i64, _>("of_account")? as u64))
            })
            .await
    }

    /// The users among these who have a live key. At most [`ASKED_AT_ONCE`] may be asked for.
    pub async fn with_live_keys(&self, users: Vec<UserId>) -> Result<Vec<UserId>, LogError> {
        if users.is_empty() {
            return Ok(vec![]);
        }
        self.0.store()
            .run(async move |store: Store| {
                let places: Vec<String> = (1..=users.len()).map(|n| format!("${n}")).collect();
                let places = places.join(", ");
                let sql =
                    format!("SELECT user_id FROM user_keys WHERE state = 'live' AND user_id IN ({places}) ORDER BY user_id");
                let query = users.iter().fold(sqlx::query_scalar(&sql), |query, user| query.bind(user.to_string()));
                let found: Vec<String> = query.fetch_all(store.reads()).await?;
                Ok(found.iter().filter_map(|user| user.parse().ok()).collect())
            })
            .await
    }

    /// On an embedded store: writes the WAL into the database's file and empties the WAL, which
    /// holds deleted rows until then. [`LogError::Away`] while a reader still needs it.
    pub async fn empty_wal(&self) -> Result<(), LogError> {
        let is_empty = self
            .0
            .store()
            .run(async move |store: Store| store.scrub().await)
            .await?;
        if !is_empty {
            return Err(LogError::Away(
                "a reader still needs the write-ahead log, so it cannot be emptied yet".into(),
            ));
        }
        Ok(())
    }
}

/// The work for a user's forgetting, done in the transaction of its fact.
#[derive(Debug, Clone)]
pub enum ForgettingRow {
    /// With the fact that a user was forgotten, which is their last: their wrapped key is wiped, and what is left of them is to be
    /// erased.
    Forget { user: UserId, at: Timestamp },
    /// With the fact that a user asked to be forgotten: it is to be done when it is due.
    Await { user: UserId, due: Timestamp },
    /// With the fact that they are not to be forgotten after all.
    Stay { user: UserId },
}

impl ForgettingRow {
    pub(crate) fn json(&self) -> Value {
        match self {
            Self::Forget { user, at } => json!({"t": "forget", "user_id": user, "at": at}),
            Self::Await { user, due } => json!({"t": "await_forget", "user_id": user, "due": due}),
            Self::Stay { user } => json!({"t": "stay", "user_id": user}),
        }
    }

    pub(crate) async fn write(&self, tx: &mut SqliteTx<'_>) -> Result<(), sqlx::Error> {
        let query = match self {
            Self::Forget { user, at } => return write_forgotten(tx, *user, *at).await,
            Self::Await { user, due } => {
                let sql = "INSERT INTO forgettings (user_id, state, due) VALUES ($1, 'requested', $2) \
                           ON CONFLICT (user_id) DO NOTHING";
                sqlx::query(sql).bind(user.to_string()).bind(due.0)
            }
            Self::Stay { user } => {
                sqlx::query("DELETE FROM forgettings WHERE user_id = $1 AND state = 'requested'")
                    .bind(user.to_string())
            }
        };
        query.execute(&mut **tx).await.map(drop)
    }
}

/// The fact is the user's last event, inserted by this very append.
async fn write_forgotten(
    tx: &mut SqliteTx<'_>,
    user: UserId,
    at: Timestamp,
) -> Result<(), sqlx::Error> {
    let user = user.to_string();
    let sql =
        "SELECT position FROM events WHERE owner = unhex($1, '-') ORDER BY owner_seq DESC LIMIT 1";
    let position: i64 = sqlx::query_scalar(sql)
        .bind(&user)
        .fetch_one(&mut **tx)
        .await?;
    let wipe = "UPDATE user_keys SET state = 'destroyed', wrapped = NULL, destroyed_at = $2 WHERE user_id = $1";
    sqlx::query(wipe)
        .bind(&user)
        .bind(position)
        .execute(&mut **tx)
        .await?;
    sqlx::query(
        "INSERT INTO forgettings (user_id, state, due, position, forgotten_at) VALUES ($1, 'forgotten', $2, $3, $2) \
         ON CONFLICT (user_id) DO UPDATE SET state = excluded.state, due = excluded.due, position = excluded.position, \
             forgotten_at = excluded.forgotten_at, erased_at = NULL, certificate = NULL",
    )
    .bind(&user)
    .bind(at.0)
    .bind(position)
    .execute(&mut **tx)
    .await
    .map(drop)
}

#[cfg(test)]
mod tests;
