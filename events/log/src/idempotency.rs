//! A working table: the outcomes of requests with an `Idempotency-Key`, written in the append of
//! their facts (docs/api.md, Everywhere). A repeated request is answered from it. The leader
//! deletes outcomes by age ([`crate::retention`]).

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use genie_events::{Timestamp, UserId};
use serde_json::{Value, json};
use sqlx::Row;
use uuid::Uuid;

use crate::{
    Log, LogError, append_sqlite::SqliteTx, encryption::Place, keys::KeyState, store::Store,
};

/// A request that may be sent again. Both fields are keyed hashes, because a client's key and
/// request may be personal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestKey {
    /// The hash of the caller, the route and the key.
    pub key: String,
    /// The hash of the whole request.
    pub request: String,
}

/// A request's outcome, to be kept with its facts.
#[derive(Debug, Clone)]
pub struct Remember {
    pub request: RequestKey,
    /// The user whose facts the outcome is kept with.
    pub user: UserId,
    /// The data of the answer; never a secret.
    pub outcome: Value,
}

/// An outcome on its way into the store.
#[derive(Debug, Clone)]
pub struct OutcomeRow {
    pub(crate) key: String,
    pub(crate) request: String,
    pub(crate) user: UserId,
    /// The request's last fact, by its owner and its number among the owner's.
    pub(crate) fact_owner: Uuid,
    pub(crate) fact_seq: u64,
    pub(crate) sealed: Vec<u8>,
    pub(crate) kept_at: Timestamp,
}

impl OutcomeRow {
    pub(crate) fn json(&self) -> Value {
        json!({
            "t": "remember", "user_id": self.user, "key_hash": self.key, "request_hash": self.request,
            "fact_owner": self.fact_owner, "fact_seq": self.fact_seq, "sealed": BASE64.encode(&self.sealed), "kept_at": self.kept_at,
        })
    }

    pub(crate) async fn write(&self, tx: &mut SqliteTx<'_>) -> Result<(), sqlx::Error> {
        let sql = "INSERT INTO idempotency (key_hash, user_id, request_hash, fact_owner, fact_seq, sealed, kept_at) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7)";
        sqlx::query(sql)
            .bind(&self.key)
            .bind(self.user.to_string())
            .bind(&self.request)
            .bind(self.fact_owner.to_string())
            .bind(self.fact_seq as i64)
            .bind(&self.sealed)
            .bind(self.kept_at.0)
            .execute(&mut **tx)
            .await
            .map(drop)
    }
}

/// The request that was kept under a key, compared with the present one.
#[derive(Debug, Clone, PartialEq)]
pub enum Remembered {
    Same {
        /// The data of the answer.
        outcome: Value,
        /// The position of the request's last fact.
        position: u64,
    },
    /// Another request used this key.
    Other,
}

/// The outcomes of requests that may be sent again. See [`Log::outcomes`].
#[derive(Debug, Clone)]
pub struct RequestOutcomes(Log);

impl Log {
    /// The outcomes of requests that may be sent again.
    pub fn outcomes(&self) -> RequestOutcomes {
        RequestOutcomes(self.clone())
    }
}

impl RequestOutcomes {
    /// Keeps the outcome of a request that changed nothing, because its wish was fulfilled when its
    /// user had `seq` events. `false` when the user has more events by now, or the key was used
    /// meanwhile; the request is then decided again.
    pub async fn keep(&self, remember: Remember, seq: u64) -> Result<bool, LogError> {
        let Remember {
            request,
            user,
            outcome,
        } = remember;
        let keys = self.0.keys().live(user).await?;
        let sealed = keys
            .payload()
            .seal(outcome.to_string().as_bytes(), &place(user, &request.key));
        let now = self.0.clock().now();
        let write = async move |store: Store| {
            // The row refers to the user's latest event, as the row of a request with facts refers
            // to its last fact.
            let sql = "INSERT INTO idempotency (key_hash, user_id, request_hash, fact_owner, fact_seq, sealed, kept_at) \
                 SELECT $1, $2, $3, $2, $5, $4, $6 WHERE $5 = (SELECT max(owner_seq) FROM events WHERE owner = unhex($2, '-')) \
                 ON CONFLICT DO NOTHING";
            let mut tx = store.durable().await?;
            let insert = sqlx::query(sql)
                .bind(request.key)
                .bind(user.to_string())
                .bind(request.request)
                .bind(sealed);
            let kept = insert
                .bind(seq as i64)
                .bind(now.0)
                .execute(&mut *tx)
                .await?
                .rows_affected()
                > 0;
            tx.commit().await?;
            Ok(kept)
        };
        self.0.store().run(write).await
    }

    /// The user whose facts the outcome of an earlier request with this key was kept with.
    pub async fn owner_of(&self, request: &RequestKey) -> Result<Option<UserId>, LogError> {
        let key = request.key.clone();
        let read = async move |store: Store| {
            let sql = "SELECT user_id FROM idempotency WHERE key_hash = $1";
            Ok(sqlx::query_scalar::<_, String>(sql)
                .bind(key)
                .fetch_optional(store.reads())
                .await?)
        };
        Ok(self
            .0
            .store()
            .run(read)
            .await?
            .and_then(|user| user.parse().ok()))
    }

    /// The outcome of an earlier request with this key, if its facts are in the log.
    pub async fn get(
        &self,
        user: UserId,
        request: &RequestKey,
    ) -> Result<Option<Remembered>, LogError> {
        let RequestKey { key, request } = request.clone();
        let asked = key.clone();
        let read = async move |store: Store| {
            let sql = "SELECT i.user_id, i.request_hash, i.sealed, e.position FROM idempotency i \
                 JOIN events e ON e.owner = unhex(i.fact_owner, '-') AND e.owner_seq = i.fact_seq WHERE i.key_hash = $1";
            let row = sqlx::query(sql)
                .bind(asked)
                .fetch_optional(store.reads())
                .await?;
            let Some(row) = row else { return Ok(None) };
            let owner: String = row.try_get("user_id")?;
            let request_hash: String = row.try_get("request_hash")?;
            let position: i64 = row.try_get("position")?;
            Ok(Some((
                owner,
                request_hash,
                row.try_get::<Vec<u8>, _>("sealed")?,
                position as u64,
            )))
        };
        let Some((owner, stored, sealed, position)) = self.0.store().run(read).await? else {
            return Ok(None);
        };
        if owner != user.to_string() || stored != request {
            return Ok(Some(Remembered::Other));
        }
        let KeyState::Live(keys) = self.0.keys().of(user.0).await? else {
            return Ok(None);
        };
        let opened = keys
            .payload()
            .open(&sealed, &place(user, &key))
            .map_err(|reason| {
                LogError::Statement(format!(
                    "the kept outcome of a request of user {user} cannot be opened: {reason}"
                ))
            })?;
        let outcome = serde_json::from_slice(&opened).map_err(|_| {
            LogError::Statement(format!(
                "the kept outcome of a request of user {user} is not JSON"
            ))
        })?;
        Ok(Some(Remembered::Same { outcome, position }))
    }
}

pub(crate) fn place(user: UserId, key: &str) -> Place {
    Place::new(&["idempotency v1", &user.to_string(), key])
}
