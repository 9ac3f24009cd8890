//! A working table: the impersonations that run now. Their tokens are good only while the row
//! exists, so that ending one takes effect on every node at once. The proof that an impersonation
//! began is a fact of the user, written before the row.

use genie_events::{Timestamp, UserId};
use sqlx::Row;
use uuid::Uuid;

use crate::{Log, LogError, store::Store};

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
    /// Begins an impersonation, and deletes those that have expired at `now`.
    pub async fn open(&self, opened: Impersonation, now: Timestamp) -> Result<(), LogError> {
        self.0.store()
            .run(async move |store: Store| {
                let mut tx = store.durable().await?;
                sqlx::query("DELETE FROM impersonations WHERE expires_at <= $1").bind(now.0).execute(&mut *tx).await?;
                sqlx::query("INSERT INTO impersonations (session, user_id, by_admin, expires_at) VALUES ($1, $2, $3, $4)")
                    .bind(opened.session.to_string())
                    .bind(opened.user.to_string())
                    .bind(opened.by.to_string())
                    .bind(opened.expires_at.0)
                    .execute(&mut *tx)
                    .await?;
                Ok(tx.commit().await?)
            })
            .await
    }

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

    /// Ends an impersonation; answers whether there was one.
    pub async fn end(&self, session: Uuid) -> Result<bool, LogError> {
        self.0
            .store()
            .run(async move |store: Store| {
                let mut tx = store.durable().await?;
                let ended = sqlx::query("DELETE FROM impersonations WHERE session = $1")
                    .bind(session.to_string());
                let ended = ended.execute(&mut *tx).await?.rows_affected() > 0;
                tx.commit().await?;
                Ok(ended)
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestStore, both_stores};

    both_stores!(
        an_impersonation_lasts_until_it_ends_or_expires,
        async |store: TestStore| {
            let log = store.open().await.log;
            let one = |n: u128, expires_at| {
                let (user, by) = (UserId(Uuid::from_u128(7)), UserId(Uuid::from_u128(8)));
                Impersonation {
                    session: Uuid::from_u128(n),
                    user,
                    by,
                    expires_at: Timestamp(expires_at),
                }
            };
            let (short, long) = (one(1, 10), one(2, 20));
            log.impersonations()
                .open(short, Timestamp(0))
                .await
                .unwrap();
            assert_eq!(
                log.impersonations()
                    .get(short.session, Timestamp(9))
                    .await
                    .unwrap(),
                Some(short)
            );
            assert_eq!(
                log.impersonations()
                    .get(short.session, Timestamp(10))
                    .await
                    .unwrap(),
                None,
                "expired"
            );
            log.impersonations()
                .open(long, Timestamp(11))
                .await
                .unwrap();
            assert_eq!(
                log.impersonations()
                    .get(short.session, Timestamp(9))
                    .await
                    .unwrap(),
                None,
                "dropped"
            );
            assert!(log.impersonations().end(long.session).await.unwrap());
            assert_eq!(
                log.impersonations()
                    .get(long.session, Timestamp(12))
                    .await
                    .unwrap(),
                None,
                "ended"
            );
            assert!(
                !log.impersonations().end(long.session).await.unwrap(),
                "it ends only once"
            );
        }
    );
}
