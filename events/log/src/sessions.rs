//! Refresh tokens, as hashes. Rotation is one transaction: the old token dies with the birth of the new one.

use genie_events::{Moment, UserId};
use sqlx::Row;

use crate::{Log, LogError, store::Store};

impl Log {
    /// Replaces a refresh token by its successor in the same family; `None` when the old one is unknown, used or expired.
    pub async fn rotate_session(
        &self,
        old_hash: &str,
        new_hash: &str,
        now: Moment,
        expires_at: Moment,
    ) -> Result<Option<UserId>, LogError> {
        let (old_hash, new_hash) = (old_hash.to_owned(), new_hash.to_owned());
        self.store()
            .run(async move |store: Store| {
                let mut tx = store.durable().await?;
                let sql = "UPDATE sessions SET token_hash = $2, expires_at = $4 WHERE token_hash = $1 AND expires_at > $3 RETURNING user_id";
                let query = sqlx::query(sql).bind(old_hash).bind(new_hash).bind(now.0).bind(expires_at.0);
                let row = query.fetch_optional(&mut *tx).await?;
                tx.commit().await?;
                let user: Option<String> = row.map(|row| row.try_get("user_id")).transpose()?;
                Ok(user.and_then(|user| user.parse().ok()))
            })
            .await
    }

    /// Ends a session; one that is not there is ended already.
    pub async fn end_session(&self, token_hash: &str) -> Result<(), LogError> {
        let token_hash = token_hash.to_owned();
        self.store()
            .run(async move |store: Store| {
                let mut tx = store.durable().await?;
                sqlx::query("DELETE FROM sessions WHERE token_hash = $1").bind(token_hash).execute(&mut *tx).await?;
                Ok(tx.commit().await?)
            })
            .await
    }
}
