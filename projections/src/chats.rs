//! `chats` and `messages`: the chat sessions, with the user's and the model's messages.

use futures_util::{FutureExt, future::BoxFuture};
use genie_events::{
    Event, SessionId, StreamKind, Timestamp, TurnId, UserId,
    chat::{ChatEvent, Failure, TurnMetrics},
};
use genie_log::{
    Log, LogError,
    forgetting::UserRows,
    pages::{PageSql, Paged, paged},
    store::Store,
};
use serde::{Deserialize, Serialize};
use sqlx::Row;

use crate::projection::{Projection, Seen, Tx, open, read};

pub(crate) struct Projector;

/// The part of an answer's row beside its text.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct AnswerDetail {
    pub model: String,
    /// Tokens and durations.
    #[serde(default)]
    pub metrics: TurnMetrics,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

impl Projection for Projector {
    fn name(&self) -> &'static str {
        "chats"
    }

    fn wants(&self, kind: StreamKind) -> bool {
        kind == StreamKind::Chat
    }

    fn rows(&self) -> &'static [UserRows] {
        &[
            UserRows {
                table: "chats",
                user: "user_id",
                key: "session_id",
            },
            UserRows {
                table: "messages",
                user: "user_id",
                key: "message_id",
            },
        ]
    }

    fn apply<'a>(
        &'a self,
        seen: Seen<'a>,
        tx: &'a mut Tx,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        async move {
            let Event::Chat(event) = seen.event else { return Ok(()) };
            let session = &seen.fact.stream.id.to_string();
            match event {
                ChatEvent::Asked { turn, session: title, message } => {
                    sqlx::query(
                        "INSERT INTO chats (session_id, user_id, title_sealed, message_count, running_turn, created_at, updated_at) \
                         VALUES ($1, $2, $3, 1, $4, $5, $5) \
                         ON CONFLICT (session_id) DO UPDATE SET message_count = chats.message_count + 1, \
                             running_turn = excluded.running_turn, updated_at = excluded.updated_at",
                    )
                    .bind(session)
                    .bind(seen.user())
                    .bind(seen.seal("chats.title", title))
                    .bind(turn.to_string())
                    .bind(seen.at().0)
                    .execute(&mut **tx)
                    .await?;
                    message_row(seen, tx, *turn, "user", message, None, None).await
                }
                ChatEvent::Answered { turn, answer } => {
                    sqlx::query(
                        "UPDATE chats SET message_count = message_count + 1, running_turn = NULL, updated_at = $2 WHERE session_id = $1",
                    )
                    .bind(session)
                    .bind(seen.at().0)
                    .execute(&mut **tx)
                    .await?;
                    let detail = AnswerDetail {
                        model: answer.model.clone(),
                        metrics: answer.metrics.clone(),
                        failure: answer.failure.clone(),
                    };
                    let detail = serde_json::to_string(&detail).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
                    let outcome = Some(answer.outcome.as_str());
                    message_row(seen, tx, *turn, "assistant", &answer.content, outcome, Some(detail)).await
                }
            }
        }
        .boxed()
    }
}

async fn message_row(
    seen: Seen<'_>,
    tx: &mut Tx,
    turn: TurnId,
    role: &str,
    content: &str,
    outcome: Option<&str>,
    detail: Option<String>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO messages (message_id, session_id, user_id, turn_id, role, content_sealed, outcome, detail, created_at, position) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(seen.fact.event_id.to_string())
    .bind(seen.fact.stream.id.to_string())
    .bind(seen.user())
    .bind(turn.to_string())
    .bind(role)
    .bind(seen.seal("messages.content", content))
    .bind(outcome)
    .bind(detail)
    .bind(seen.at().0)
    .bind(seen.fact.position as i64)
    .execute(&mut **tx)
    .await
    .map(drop)
}

#[derive(Debug, Clone)]
pub struct ChatRow {
    /// The id of the chat session's stream.
    pub id: String,
    /// Clients name a chat session by this.
    pub name: String,
    pub message_count: i64,
    /// The turn that is running now.
    pub running_turn: Option<String>,
    pub created_at: Timestamp,
    /// When the latest message was written.
    pub updated_at: Timestamp,
}

#[derive(Debug, Clone)]
pub struct MessageRow {
    pub id: String,
    pub turn: String,
    /// `user` or `assistant`.
    pub role: String,
    pub content: String,
    /// How the turn ended; only answers have one.
    pub outcome: Option<String>,
    /// Model, metrics and failure; only answers have them.
    pub detail: Option<AnswerDetail>,
    pub created_at: Timestamp,
    pub position: u64,
}

#[derive(Debug, Clone)]
pub struct ChatReader {
    log: Log,
}

const MESSAGE: &str =
    "message_id, turn_id, role, content_sealed, outcome, detail, created_at, position";

impl ChatReader {
    pub(crate) fn new(log: Log) -> Self {
        Self { log }
    }

    /// A user's chat sessions, latest message first, at most `limit`, after the one named by
    /// `before` (updated_at, id) in this order.
    pub async fn sessions(
        &self,
        user: UserId,
        before: Option<(i64, String)>,
        limit: i64,
    ) -> Result<Vec<ChatRow>, LogError> {
        let rows = read(&self.log, async move |store: Store| {
            let (updated, id) = before.unwrap_or((i64::MAX, String::new()));
            let sql = "SELECT session_id, title_sealed, message_count, running_turn, created_at, updated_at FROM chats \
                       WHERE user_id = $1 AND (updated_at < $2 OR (updated_at = $2 AND session_id < $3)) \
                       ORDER BY updated_at DESC, session_id DESC LIMIT $4";
            let query = sqlx::query(sql)
                .bind(user.to_string())
                .bind(updated)
                .bind(id)
                .bind(limit);
            Ok(query.fetch_all(store.reads()).await?)
        });
        let rows = rows.await?;
        let keys = self.log.keys().live(user).await?;
        let chat = |row: &sqlx::any::AnyRow| {
            let title: Vec<u8> = row.try_get("title_sealed")?;
            Ok(ChatRow {
                id: row.try_get("session_id")?,
                name: open(&keys, "chats.title", &title)?,
                message_count: row.try_get("message_count")?,
                running_turn: row.try_get("running_turn")?,
                created_at: Timestamp(row.try_get("created_at")?),
                updated_at: Timestamp(row.try_get("updated_at")?),
            })
        };
        rows.iter().map(chat).collect()
    }

    /// The messages of a chat session, oldest first, after a position: a page of at most `limit`.
    /// `None` when the user has no such chat session.
    pub async fn messages(
        &self,
        user: UserId,
        session: SessionId,
        after: u64,
        limit: i64,
    ) -> Result<Option<Paged<MessageRow>>, LogError> {
        let id = session.to_string();
        let owner = user.to_string();
        let rows = read(&self.log, async move |store: Store| {
            let sql = "SELECT 1 FROM chats WHERE session_id = $1 AND user_id = $2";
            if sqlx::query(sql)
                .bind(&id)
                .bind(&owner)
                .fetch_optional(store.reads())
                .await?
                .is_none()
            {
                return Ok(None);
            }
            let sql = PageSql {
                table: "messages",
                columns: MESSAGE,
                key: "message_id",
                bytes: "octet_length(content_sealed) + coalesce(octet_length(detail), 0)",
                condition: "session_id = $1 AND user_id = $2 AND position > $3",
                order: &["position"],
                descending: false,
                limit: "$4",
            }
            .text(&store);
            let query = sqlx::query(&sql)
                .bind(&id)
                .bind(&owner)
                .bind(after as i64)
                .bind(limit);
            Ok(Some(paged(query.fetch_all(store.reads()).await?)?))
        });
        let Some(page) = rows.await? else {
            return Ok(None);
        };
        let rows = self.open_messages(user, &page.rows).await?;
        Ok(Some(Paged {
            rows,
            has_more: page.has_more,
        }))
    }

    /// The question and the answer of a turn, as far as they are written. Empty for another user's
    /// turn.
    pub async fn turn(&self, user: UserId, turn: TurnId) -> Result<Vec<MessageRow>, LogError> {
        let rows = read(&self.log, async move |store: Store| {
            let sql = format!(
                "SELECT {MESSAGE} FROM messages WHERE turn_id = $1 AND user_id = $2 ORDER BY position"
            );
            Ok(sqlx::query(&sql)
                .bind(turn.to_string())
                .bind(user.to_string())
                .fetch_all(store.reads())
                .await?)
        });
        let rows = rows.await?;
        self.open_messages(user, &rows).await
    }

    /// True when a turn of this user is known.
    pub async fn has_turn(&self, user: UserId, turn: TurnId) -> Result<bool, LogError> {
        let found = read(&self.log, async move |store: Store| {
            let sql = "SELECT 1 FROM messages WHERE turn_id = $1 AND user_id = $2 LIMIT 1";
            Ok(sqlx::query(sql)
                .bind(turn.to_string())
                .bind(user.to_string())
                .fetch_optional(store.reads())
                .await?
                .is_some())
        });
        found.await
    }

    /// The answer of a turn, once it is written.
    pub async fn answer(&self, user: UserId, turn: TurnId) -> Result<Option<MessageRow>, LogError> {
        let rows = read(&self.log, async move |store: Store| {
            let sql = format!(
                "SELECT {MESSAGE} FROM messages WHERE turn_id = $1 AND user_id = $2 AND role = 'assistant'"
            );
            Ok(sqlx::query(&sql)
                .bind(turn.to_string())
                .bind(user.to_string())
                .fetch_all(store.reads())
                .await?)
        });
        let rows = rows.await?;
        Ok(self.open_messages(user, &rows).await?.pop())
    }

    async fn open_messages(
        &self,
        user: UserId,
        rows: &[sqlx::any::AnyRow],
    ) -> Result<Vec<MessageRow>, LogError> {
        let keys = self.log.keys().live(user).await?;
        let message = |row: &sqlx::any::AnyRow| {
            let content: Vec<u8> = row.try_get("content_sealed")?;
            let detail: Option<String> = row.try_get("detail")?;
            Ok(MessageRow {
                id: row.try_get("message_id")?,
                turn: row.try_get("turn_id")?,
                role: row.try_get("role")?,
                content: open(&keys, "messages.content", &content)?,
                outcome: row.try_get("outcome")?,
                detail: detail.and_then(|detail| serde_json::from_str(&detail).ok()),
                created_at: Timestamp(row.try_get("created_at")?),
                position: row.try_get::<i64, _>("position")? as u64,
            })
        };
        rows.iter().map(message).collect()
    }
}
