//! A working table: sessions, which are logins. Each is a family of refresh tokens, stored as
//! hashes, and one of them is good at a time. A token is replaced by its successor whenever it is
//! used. A token that was replaced a moment ago leads to the newest of its family, so that several
//! tabs may refresh at once, on any node. An older token was used twice.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use genie_events::{Timestamp, UserId};
use serde_json::{Value, json};
use sqlx::{Row, any::AnyRow};
use uuid::Uuid;

use crate::{Log, LogError, append_sqlite::SqliteTx, keys::KeyState, store::Store};

/// The most sessions of one user. The next login ends the longest unused one.
pub const MAX_SESSIONS: i64 = 50;
/// A replaced token still leads to the newest of its family for this long (docs/api.md, Identity).
pub const GRACE: Duration = Duration::from_secs(10);
/// The most replaced tokens that are remembered within the grace, and so the most steps from one of
/// them to the newest. A client that refreshes more
/// often is broken.
pub const MOST_ROTATED: usize = 32;
/// How often a race for one token is retried; the winner's successor is stored by then.
const TRIES: u32 = 4;
/// At most this many sessions are deleted in one transaction.
const SWEPT_AT_ONCE: i64 = 1000;

/// A session to be opened in the append of its fact.
#[derive(Debug, Clone)]
pub struct NewSession {
    pub user: UserId,
    /// Names all tokens that follow from this login.
    pub family: String,
    /// SHA-256 of the first token.
    pub token_hash: String,
    /// The client's User-Agent, sealed for `sessions.agent`.
    pub agent_sealed: Option<Vec<u8>>,
    pub now: Timestamp,
    /// The end of the session, unless it is used before.
    pub expires_at: Timestamp,
}

/// A token that is to be replaced by its successor.
#[derive(Debug, Clone)]
pub struct Refresh {
    pub family: String,
    /// SHA-256 of the token.
    pub old_hash: String,
    /// SHA-256 of its successor.
    pub new_hash: String,
    pub now: Timestamp,
    /// The new end of the session.
    pub expires_at: Timestamp,
}

/// The outcome of a refresh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refreshed {
    /// The successor is good, and belongs to this user.
    Good(UserId),
    /// The token was replaced a moment ago. The good one follows from it, in one step or in several.
    InGrace {
        user: UserId,
        /// SHA-256 of the good token.
        newest: String,
    },
    /// The token was replaced long ago: a thief or a broken client has it. Nothing was changed.
    Reused(UserId),
    /// The session is over.
    Over,
}

/// A session as its user sees it.
#[derive(Debug, Clone)]
pub struct Session {
    pub family: String,
    /// The client's User-Agent.
    pub agent: Option<String>,
    pub created_at: Timestamp,
    /// When it was last refreshed.
    pub used_at: Timestamp,
    /// The end of the session, unless it is used before.
    pub expires_at: Timestamp,
}

/// The row of a family.
#[derive(Debug)]
struct Family {
    user: UserId,
    token_hash: String,
    rotated: Vec<(String, Timestamp)>,
    expires_at: Timestamp,
}

/// The state of a token within its family.
#[derive(Debug, PartialEq, Eq)]
enum Presented {
    Good,
    InGrace,
    Reused,
    Expired,
}

impl Family {
    fn of(row: &AnyRow) -> Result<Self, LogError> {
        let rotated: String = row.try_get("rotated")?;
        let user: String = row.try_get("user_id")?;
        let damaged = || LogError::Statement("a row of `sessions` cannot be read".into());
        Ok(Self {
            user: user.parse().map_err(|_| damaged())?,
            token_hash: row.try_get("token_hash")?,
            rotated: serde_json::from_str(&rotated).map_err(|_| damaged())?,
            expires_at: Timestamp(row.try_get("expires_at")?),
        })
    }

    fn judge(&self, hash: &str, now: Timestamp) -> Presented {
        let in_grace =
            |(rotated, at): &(String, Timestamp)| rotated == hash && now < grace_end(*at);
        if now >= self.expires_at {
            Presented::Expired
        } else if self.token_hash == hash {
            Presented::Good
        } else if self.rotated.iter().any(in_grace) {
            Presented::InGrace
        } else {
            Presented::Reused
        }
    }

    /// The replaced tokens to remember once the present one is replaced, too.
    fn rotated_after(&self, now: Timestamp) -> Vec<(&str, Timestamp)> {
        let recent = self
            .rotated
            .iter()
            .filter(|(_, at)| now < grace_end(*at))
            .map(|(hash, at)| (hash.as_str(), *at));
        let mut rotated: Vec<_> = recent.chain([(self.token_hash.as_str(), now)]).collect();
        rotated.drain(..rotated.len().saturating_sub(MOST_ROTATED));
        rotated
    }
}

fn grace_end(rotated_at: Timestamp) -> Timestamp {
    rotated_at.plus_millis(GRACE.as_millis() as i64)
}

/// The logins of users. See [`Log::sessions`].
#[derive(Debug, Clone)]
pub struct Sessions(Log);

impl Log {
    /// The logins of users.
    pub fn sessions(&self) -> Sessions {
        Sessions(self.clone())
    }
}

impl Sessions {
    /// Replaces a refresh token by its successor. A token within the grace replaces nothing.
    pub async fn refresh(&self, refresh: Refresh) -> Result<Refreshed, LogError> {
        self.0.store()
            .run(async move |store: Store| {
                let mut waited_in_vain = false;
                for _ in 0..TRIES {
                    let sql = "SELECT user_id, token_hash, rotated, expires_at FROM sessions WHERE family = $1";
                    let row = sqlx::query(sql).bind(&refresh.family).fetch_optional(store.reads()).await?;
                    let Some(family) = row.as_ref().map(Family::of).transpose()? else { return Ok(Refreshed::Over) };
                    match family.judge(&refresh.old_hash, refresh.now) {
                        Presented::InGrace => {
                            return Ok(Refreshed::InGrace { user: family.user, newest: family.token_hash });
                        }
                        Presented::Reused => return Ok(Refreshed::Reused(family.user)),
                        Presented::Expired => return Ok(Refreshed::Over),
                        Presented::Good => match rotate(&store, &family, &refresh).await {
                            Ok(true) => return Ok(Refreshed::Good(family.user)),
                            Ok(false) => {} // Another request was quicker, or ended the session.
                            // Perhaps another request holds the row: the next attempt shows.
                            Err(LogError::Away(_)) if !waited_in_vain => waited_in_vain = true,
                            Err(error) => return Err(error),
                        },
                    }
                }
                Err(LogError::Away("too many requests refresh one session at once".into()))
            })
            .await
    }

    /// The user of a session; `None` when it is over.
    pub async fn user_of(&self, family: &str) -> Result<Option<UserId>, LogError> {
        let family = family.to_owned();
        let read = async move |store: Store| {
            let sql =
                "SELECT user_id, token_hash, rotated, expires_at FROM sessions WHERE family = $1";
            let row = sqlx::query(sql)
                .bind(family)
                .fetch_optional(store.reads())
                .await?;
            Ok(row
                .as_ref()
                .map(Family::of)
                .transpose()?
                .map(|family| family.user))
        };
        self.0.store().run(read).await
    }

    /// The families of a user's sessions.
    pub async fn families_of(&self, user: UserId, now: Timestamp) -> Result<Vec<Uuid>, LogError> {
        let read = async move |store: Store| {
            let sql = "SELECT family FROM sessions WHERE user_id = $1 AND expires_at > $2 LIMIT $3";
            let query = sqlx::query_scalar(sql)
                .bind(user.to_string())
                .bind(now.0)
                .bind(MAX_SESSIONS);
            let families: Vec<String> = query.fetch_all(store.reads()).await?;
            // A family that is no UUID has no access token.
            Ok(families
                .iter()
                .filter_map(|family| family.parse().ok())
                .collect())
        };
        self.0.store().run(read).await
    }

    /// A user's sessions, last used first.
    pub async fn of_user(&self, user: UserId, now: Timestamp) -> Result<Vec<Session>, LogError> {
        let KeyState::Live(keys) = self.0.keys().of(user.0).await? else {
            return Ok(vec![]);
        };
        let read = async move |store: Store| {
            let sql = "SELECT family, agent_sealed, created_at, used_at, expires_at FROM sessions \
                       WHERE user_id = $1 AND expires_at > $2 ORDER BY used_at DESC, family DESC LIMIT $3";
            let query = sqlx::query(sql)
                .bind(user.to_string())
                .bind(now.0)
                .bind(MAX_SESSIONS);
            Ok(query.fetch_all(store.reads()).await?)
        };
        let rows = self.0.store().run(read).await?;
        let session = |row: &AnyRow| {
            let sealed: Option<Vec<u8>> = row.try_get("agent_sealed")?;
            Ok(Session {
                family: row.try_get("family")?,
                // A name that cannot be opened is no reason to hide the session.
                agent: sealed.and_then(|sealed| keys.open_text("sessions.agent", &sealed).ok()),
                created_at: Timestamp(row.try_get("created_at")?),
                used_at: Timestamp(row.try_get("used_at")?),
                expires_at: Timestamp(row.try_get("expires_at")?),
            })
        };
        rows.iter().map(session).collect()
    }

    /// Deletes the sessions that have expired.
    pub async fn sweep(&self, now: Timestamp) -> Result<(), LogError> {
        loop {
            let sweep = async move |store: Store| {
                let mut tx = store.relaxed().await?;
                let sql = "DELETE FROM sessions WHERE family IN (SELECT family FROM sessions WHERE expires_at <= $1 LIMIT $2)";
                let swept = sqlx::query(sql)
                    .bind(now.0)
                    .bind(SWEPT_AT_ONCE)
                    .execute(&mut *tx)
                    .await?
                    .rows_affected();
                tx.commit().await?;
                Ok(swept)
            };
            if self.0.store().run(sweep).await? < SWEPT_AT_ONCE as u64 {
                return Ok(());
            }
        }
    }
}

/// Replaces the token by its successor, if the token is still the good one. The write is flushed: a
/// successor that was handed out and then lost would look like a token that was used twice.
async fn rotate(store: &Store, family: &Family, refresh: &Refresh) -> Result<bool, LogError> {
    let rotated = serde_json::to_string(&family.rotated_after(refresh.now))
        .expect("text and numbers serialize");
    let mut tx = store.durable().await?;
    let sql = "UPDATE sessions SET token_hash = $3, rotated = $4, used_at = $5, expires_at = $6 \
               WHERE family = $1 AND token_hash = $2";
    let query = sqlx::query(sql)
        .bind(&refresh.family)
        .bind(&refresh.old_hash)
        .bind(&refresh.new_hash)
        .bind(rotated);
    let written = query
        .bind(refresh.now.0)
        .bind(refresh.expires_at.0)
        .execute(&mut *tx)
        .await?
        .rows_affected();
    tx.commit().await?;
    Ok(written == 1)
}

/// A login's row, in the transaction of its fact.
#[derive(Debug, Clone)]
pub enum SessionRow {
    /// A login. Past the most that a user may have, the longest unused ends.
    Open(NewSession),
    /// A login is over.
    End { family: String },
    /// All logins of a user are over, but for one if one is named.
    EndAll { user: UserId, but: Option<String> },
}

impl SessionRow {
    pub(crate) fn json(&self) -> Value {
        match self {
            Self::Open(session) => json!({
                "t": "open_session", "user_id": session.user, "family": session.family,
                "token_hash": session.token_hash,
                "agent": session.agent_sealed.as_ref().map(|sealed| BASE64.encode(sealed)),
                "now": session.now, "expires_at": session.expires_at, "most": MAX_SESSIONS,
            }),
            Self::End { family } => json!({"t": "end_session", "family": family}),
            Self::EndAll { user, but } => json!({"t": "end_sessions", "user_id": user, "but": but}),
        }
    }

    pub(crate) async fn write(&self, tx: &mut SqliteTx<'_>) -> Result<(), sqlx::Error> {
        let query = match self {
            Self::Open(session) => return session.write(tx).await,
            Self::End { family } => {
                sqlx::query("DELETE FROM sessions WHERE family = $1").bind(family)
            }
            Self::EndAll { user, but } => {
                sqlx::query("DELETE FROM sessions WHERE user_id = $1 AND family <> $2")
                    .bind(user.to_string())
                    .bind(but.as_deref().unwrap_or("")) // no family is called so
            }
        };
        query.execute(&mut **tx).await.map(drop)
    }
}

impl NewSession {
    async fn write(&self, tx: &mut SqliteTx<'_>) -> Result<(), sqlx::Error> {
        sqlx::query(
            "DELETE FROM sessions WHERE user_id = $1 AND (expires_at <= $2 OR family NOT IN \
             (SELECT family FROM sessions WHERE user_id = $1 ORDER BY used_at DESC, family DESC LIMIT $3))",
        )
        .bind(self.user.to_string())
        .bind(self.now.0)
        .bind(MAX_SESSIONS - 1)
        .execute(&mut **tx)
        .await?;
        sqlx::query(
            "INSERT INTO sessions (family, user_id, token_hash, agent_sealed, created_at, used_at, expires_at) \
             VALUES ($1, $2, $3, $4, $5, $5, $6)",
        )
        .bind(&self.family)
        .bind(self.user.to_string())
        .bind(&self.token_hash)
        .bind(&self.agent_sealed)
        .bind(self.now.0)
        .bind(self.expires_at.0)
        .execute(&mut **tx)
        .await
        .map(drop)
    }
}

#[cfg(test)]
mod tests;
