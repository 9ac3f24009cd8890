//! Refreshes of Directus' tokens. Directus takes a refresh token once, but several browser tabs
//! send the same token at the same time, perhaps to several nodes. The first request asks Directus,
//! and its answer serves the others for a few seconds.
//!
//! Invariant: a hash of the token names the row, and the content is sealed under a key derived from
//! the token. So the store alone, even with its master keys, opens nothing.

use genie_events::Timestamp;
use sha2::{Digest, Sha256};
use sqlx::Row;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    Log, LogError,
    encryption::{Place, SealingKey},
    store::Store,
};

/// A refresh token in the form that the store knows.
pub struct Refreshing {
    name: String,
    key: SealingKey,
}

impl std::fmt::Debug for Refreshing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Refreshing({})", &self.name[..8])
    }
}

#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// The caller asks Directus; the others wait.
    Yours,
    /// Another request is still asking.
    Theirs,
    Answered(Zeroizing<Vec<u8>>),
}

impl Refreshing {
    pub fn new(token: &str) -> Self {
        let part = |part: &str| -> [u8; 32] {
            Sha256::digest(format!("genie refresh {part}/{token}")).into()
        };
        let root = Zeroizing::new(part("key"));
        Self {
            name: hex::encode(part("name")),
            key: SealingKey::derive(Uuid::nil(), &root, "refresh"),
        }
    }

    /// The name of the row.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn place(&self) -> Place {
        Place::new(&["refresh v1", &self.name])
    }

    fn open(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, LogError> {
        self.key.open(sealed, &self.place()).map_err(|reason| {
            LogError::Statement(format!("a kept refresh cannot be opened: {reason}"))
        })
    }
}

/// Directus' recent answers to refresh tokens. See [`Log::directus_refreshes`].
#[derive(Debug, Clone)]
pub struct DirectusRefreshes(Log);

impl Log {
    /// Directus' recent answers to refresh tokens.
    pub fn directus_refreshes(&self) -> DirectusRefreshes {
        DirectusRefreshes(self.clone())
    }
}

impl DirectusRefreshes {
    /// Takes the turn until `until`, or says who has it.
    pub async fn take_turn(
        &self,
        refreshing: &Refreshing,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Turn, LogError> {
        let name = refreshing.name.clone();
        let work = async move |store: Store| {
            let mut tx = store.relaxed().await?;
            let sql = "INSERT INTO refresh_grace (token_hash, sealed, expires_at) VALUES ($1, NULL, $3) \
                 ON CONFLICT (token_hash) DO UPDATE SET sealed = NULL, expires_at = $3 WHERE refresh_grace.expires_at <= $2";
            let query = sqlx::query(sql)
                .bind(name.clone())
                .bind(now.0)
                .bind(until.0);
            let is_taken = query.execute(&mut *tx).await?.rows_affected() == 1;
            let sql = "SELECT sealed FROM refresh_grace WHERE token_hash = $1";
            let row = sqlx::query(sql).bind(name).fetch_one(&mut *tx).await?;
            tx.commit().await?;
            Ok((is_taken, row.try_get::<Option<Vec<u8>>, _>("sealed")?))
        };
        match self.0.store().run(work).await? {
            (true, _) => Ok(Turn::Yours),
            (false, None) => Ok(Turn::Theirs),
            (false, Some(sealed)) => refreshing.open(&sealed).map(Turn::Answered),
        }
    }

    /// Directus' answer to this token, if it was used a moment ago.
    pub async fn answer(
        &self,
        refreshing: &Refreshing,
        now: Timestamp,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, LogError> {
        let name = refreshing.name.clone();
        let read = async move |store: Store| {
            let sql = "SELECT sealed FROM refresh_grace WHERE token_hash = $1 AND expires_at > $2";
            let query = sqlx::query_scalar(sql).bind(name).bind(now.0);
            let sealed: Option<Option<Vec<u8>>> = query.fetch_optional(store.reads()).await?;
            Ok(sealed.flatten())
        };
        let sealed = self.0.store().run(read).await?;
        sealed.map(|sealed| refreshing.open(&sealed)).transpose()
    }

    /// Keeps Directus' answer until `until`.
    pub async fn keep(
        &self,
        refreshing: &Refreshing,
        answer: &[u8],
        until: Timestamp,
    ) -> Result<(), LogError> {
        let name = refreshing.name.clone();
        let sealed = refreshing.key.seal(answer, &refreshing.place());
        let work = async move |store: Store| {
            let mut tx = store.relaxed().await?;
            let sql = "UPDATE refresh_grace SET sealed = $2, expires_at = $3 WHERE token_hash = $1";
            sqlx::query(sql)
                .bind(name)
                .bind(sealed)
                .bind(until.0)
                .execute(&mut *tx)
                .await?;
            Ok(tx.commit().await?)
        };
        self.0.store().run(work).await
    }

    /// Gives the turn back after Directus refused new tokens.
    pub async fn give_up(&self, refreshing: &Refreshing) -> Result<(), LogError> {
        let name = refreshing.name.clone();
        let work = async move |store: Store| {
            let mut tx = store.relaxed().await?;
            sqlx::query("DELETE FROM refresh_grace WHERE token_hash = $1 AND sealed IS NULL")
                .bind(name)
                .execute(&mut *tx)
                .await?;
            Ok(tx.commit().await?)
        };
        self.0.store().run(work).await
    }

    /// Deletes the answers and turns that have expired.
    pub async fn prune(&self, now: Timestamp) -> Result<(), LogError> {
        let work = async move |store: Store| {
            let mut tx = store.relaxed().await?;
            sqlx::query("DELETE FROM refresh_grace WHERE expires_at <= $1")
                .bind(now.0)
                .execute(&mut *tx)
                .await?;
            Ok(tx.commit().await?)
        };
        self.0.store().run(work).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestStore, both_stores};

    both_stores!(
        one_request_asks_and_all_get_the_same_answer,
        async |store: TestStore| {
            let (one, two) = (store.open().await.log, store.open().await.log);
            let refreshing = Refreshing::new("canary-token");
            let now = store.clock.now();
            let (asking, grace) = (now.plus_seconds(15), now.plus_seconds(10));
            assert_eq!(
                one.directus_refreshes()
                    .take_turn(&refreshing, now, asking)
                    .await
                    .unwrap(),
                Turn::Yours
            );
            assert_eq!(
                two.directus_refreshes()
                    .take_turn(&refreshing, now, asking)
                    .await
                    .unwrap(),
                Turn::Theirs
            );
            assert_eq!(
                two.directus_refreshes()
                    .take_turn(&Refreshing::new("another"), now, asking)
                    .await
                    .unwrap(),
                Turn::Yours
            );
            one.directus_refreshes()
                .keep(&refreshing, b"canary-pair", grace)
                .await
                .unwrap();
            let answered = Turn::Answered(Zeroizing::new(b"canary-pair".to_vec()));
            assert_eq!(
                two.directus_refreshes()
                    .take_turn(&refreshing, now, asking)
                    .await
                    .unwrap(),
                answered
            );
            let known = async |token, at| {
                let refreshing = Refreshing::new(token);
                let found = two.directus_refreshes().answer(&refreshing, at).await;
                found.unwrap().map(|answer| answer.to_vec())
            };
            assert_eq!(
                known("canary-token", now).await,
                Some(b"canary-pair".to_vec())
            );
            assert_eq!(known("canary-token", grace).await, None, "its time is over");
            assert_eq!(known("another", now).await, None, "it is being asked");
            assert_eq!(known("unknown", now).await, None);
            one.directus_refreshes().give_up(&refreshing).await.unwrap();
            assert_eq!(
                two.directus_refreshes()
                    .take_turn(&refreshing, now, asking)
                    .await
                    .unwrap(),
                answered,
                "an answer stays when the turn is given back"
            );
            for word in ["canary-token", "canary-pair"] {
                assert!(!store.holds(word).await, "{word}");
            }
            one.directus_refreshes().prune(grace).await.unwrap();
            assert_eq!(
                two.directus_refreshes()
                    .take_turn(&refreshing, grace, grace.plus_seconds(5))
                    .await
                    .unwrap(),
                Turn::Yours
            );
        }
    );

    both_stores!(
        a_turn_that_was_given_back_or_expired_is_free_again,
        async |store: TestStore| {
            let log = store.open().await.log;
            let refreshing = Refreshing::new("token");
            let now = store.clock.now();
            let later = now.plus_seconds(15);
            assert_eq!(
                log.directus_refreshes()
                    .take_turn(&refreshing, now, later)
                    .await
                    .unwrap(),
                Turn::Yours
            );
            log.directus_refreshes().give_up(&refreshing).await.unwrap();
            assert_eq!(
                log.directus_refreshes()
                    .take_turn(&refreshing, now, later)
                    .await
                    .unwrap(),
                Turn::Yours
            );
            assert_eq!(
                log.directus_refreshes()
                    .take_turn(&refreshing, later, later.plus_seconds(15))
                    .await
                    .unwrap(),
                Turn::Yours,
                "its node died"
            );
        }
    );

    both_stores!(many_at_once_get_one_turn, async |store: TestStore| {
        let log = store.open().await.log;
        let now = store.clock.now();
        let refreshing = std::sync::Arc::new(Refreshing::new("token"));
        let mut tries = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let log = log.clone();
            let refreshing = refreshing.clone();
            tries.spawn(async move {
                log.directus_refreshes()
                    .take_turn(&refreshing, now, now.plus_seconds(15))
                    .await
                    .unwrap()
            });
        }
        let turns = tries.join_all().await;
        assert_eq!(
            turns
                .into_iter()
                .filter(|turn| *turn == Turn::Yours)
                .count(),
            1
        );
    });
}
