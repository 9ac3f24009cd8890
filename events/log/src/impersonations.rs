//! A working table: the impersonations that run now. Their tokens are good only while the row
//! exists, so that ending one takes effect on every node at once. The row is written and deleted in
//! the transaction of the fact, so neither is there without the other.

use genie_events::{Timestamp, UserId};
use serde_json::{Value, json};
use sqlx::Row;
use uuid::Uuid;

use crate::{Log, LogError, append_sqlite::SqliteTx, store::Store};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Impersonation {
    pub session: Uuid,
    /// The user whom the administrator acts for.
    pub user: UserId,
    /// The administrator.
    pub by: UserId,
    pub expires_at: Timestamp,
}

/// The impersonations that last. See [`Log::impersonations`].
#[derive(Debug, Clone)]
pub struct ImpersonationTable(Log);

impl Log {
    /// The impersonations that last.
    pub fn impersonations(&self) -> ImpersonationTable {
        ImpersonationTable(self.clone())
    }
}

impl ImpersonationTable {
    /// An impersonation that has neither ended nor expired.
    pub async fn get(
        &self,
        session: Uuid,
        now: Timestamp,
    ) -> Result<Option<Impersonation>, LogError> {
        let read = async move |store: Store| {
            let sql = "SELECT user_id, by_admin, expires_at FROM impersonations WHERE session = $1 AND expires_at > $2";
            let row = sqlx::query(sql)
                .bind(session.to_string())
                .bind(now.0)
                .fetch_optional(store.reads())
                .await?;
            let Some(row) = row else { return Ok(None) };
            let user: String = row.try_get("user_id")?;
            let by: String = row.try_get("by_admin")?;
            let expires_at = Timestamp(row.try_get("expires_at")?);
            let (Ok(user), Ok(by)) = (user.parse(), by.parse()) else {
                return Err(LogError::Statement(
                    "an impersonation has an invalid user id".into(),
                ));
            };
            Ok(Some(Impersonation {
                session,
                user,
                by,
                expires_at,
            }))
        };
        self.0.store().run(read).await
    }
}

/// An impersonation's row, in the transaction of its fact.
#[derive(Debug, Clone)]
pub enum ImpersonationRow {
    /// It begins. Those that have expired at `now` go.
    Open {
        impersonation: Impersonation,
        now: Timestamp,
    },
    /// It is over.
    End { session: Uuid },
}

impl ImpersonationRow {
    pub(crate) fn json(&self) -> Value {
        match self {
            Self::Open { impersonation, now } => json!({
                "t": "open_impersonation", "session": impersonation.session, "user_id": impersonation.user,
                "by_admin": impersonation.by, "expires_at": impersonation.expires_at, "now": now,
            }),
            Self::End { session } => json!({"t": "end_impersonation", "session": session}),
        }
    }

    pub(crate) async fn write(&self, tx: &mut SqliteTx<'_>) -> Result<(), sqlx::Error> {
        match self {
            Self::Open { impersonation, now } => {
                sqlx::query("DELETE FROM impersonations WHERE expires_at <= $1")
                    .bind(now.0)
                    .execute(&mut **tx)
                    .await?;
                let sql = "INSERT INTO impersonations (session, user_id, by_admin, expires_at) VALUES ($1, $2, $3, $4)";
                sqlx::query(sql)
                    .bind(impersonation.session.to_string())
                    .bind(impersonation.user.to_string())
                    .bind(impersonation.by.to_string())
                    .bind(impersonation.expires_at.0)
                    .execute(&mut **tx)
                    .await
                    .map(drop)
            }
            Self::End { session } => sqlx::query("DELETE FROM impersonations WHERE session = $1")
                .bind(session.to_string())
                .execute(&mut **tx)
                .await
                .map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use genie_events::{Event, Metadata, StreamId, StreamKind, account::AccountEvent};

    use super::*;
    use crate::{
        AppendError, AppendRequest, Group, NewFact, Work,
        testing::{TestStore, append, both_stores},
    };

    /// Appends the `n`th fact of the user with this row.
    async fn write(
        log: &Log,
        user: UserId,
        n: u64,
        row: ImpersonationRow,
    ) -> Result<(), AppendError> {
        let fact = NewFact {
            stream: StreamId::new(StreamKind::Account, user),
            sequence: n,
            event: Event::Account(AccountEvent::SignedIn),
        };
        let request = AppendRequest {
            groups: vec![Group::of_user(user, n - 1, vec![fact])],
            work: vec![Work::Impersonation(row)],
            metadata: Metadata::system(),
            remember: None,
        };
        append(log, request).await.map(drop)
    }

    fn open(impersonation: Impersonation, now: i64) -> ImpersonationRow {
        let now = Timestamp(now);
        ImpersonationRow::Open { impersonation, now }
    }

    both_stores!(
        an_impersonation_lasts_until_it_ends_or_expires,
        async |store: TestStore| {
            let log = store.open().await.log;
            let user = store.register(&log, "ada").await;
            let n = log.reader().user_seq(user).await.unwrap();
            let one = |n: u128, expires_at| Impersonation {
                session: Uuid::from_u128(n),
                user,
                by: UserId(Uuid::from_u128(8)),
                expires_at: Timestamp(expires_at),
            };
            let at = async |one: Impersonation, now| {
                let table = log.impersonations();
                table.get(one.session, Timestamp(now)).await.unwrap()
            };
            let (short, long, stale) = (one(1, 10), one(2, 20), one(3, 20));
            write(&log, user, n + 1, open(short, 0)).await.unwrap();
            assert_eq!(at(short, 9).await, Some(short));
            assert_eq!(at(short, 10).await, None, "expired");

            write(&log, user, n + 2, open(long, 11)).await.unwrap();
            assert_eq!(at(short, 9).await, None, "dropped");

            let refused = write(&log, user, n + 2, open(stale, 11)).await;
            assert!(matches!(refused, Err(AppendError::Stale)), "{refused:?}");
            assert_eq!(at(stale, 12).await, None, "no row without its fact");

            let end = ImpersonationRow::End {
                session: long.session,
            };
            let refused = write(&log, user, n + 2, end.clone()).await;
            assert!(matches!(refused, Err(AppendError::Stale)), "{refused:?}");
            assert_eq!(at(long, 12).await, Some(long), "no end without its fact");
            write(&log, user, n + 3, end).await.unwrap();
            assert_eq!(at(long, 12).await, None, "ended");
        }
    );
}
