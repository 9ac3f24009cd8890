//! `chats` and `messages`: the chat sessions, with the user's and the model's messages.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{FutureExt, future::BoxFuture};
use genie_events::{
    Event, SessionId, StreamKind, Timestamp, TurnId, UserId,
    chat::{ChatEvent, Failure, ToolCall, TurnMetrics, default_title},
};
use genie_log::{
    Log, LogError,
    forgetting::UserRows,
    pages::{PageSql, Paged, paged},
    store::Store,
    stored_ids::IdForm,
};
use serde::{Deserialize, Serialize};
use sqlx::{Row, any::AnyRow};
use uuid::Uuid;

use crate::{
    projection::{Projection, Seen, Tx, begun_before, open, open_option, read},
    rows::{ByKey, Cell, Upsert},
};

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
                ids: IdForm::Text,
            },
            UserRows {
                table: "messages",
                user: "user_id",
                key: "message_id",
                ids: IdForm::Text,
            },
        ]
    }

    fn apply<'a>(
        &'a self,
        facts: &'a [Seen<'a>],
        tx: &'a mut Tx,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        async move {
            let mut batch = ChatChanges::default();
            for row in BY_ID.run(tx, &begun_before(facts, |_| false)).await? {
                let id = row.try_get("session_id")?;
                batch.chats.insert(id, ChatColumns::read(&row)?);
            }
            for seen in facts {
                if let Event::Chat(event) = seen.event {
                    batch.take(seen, event)?;
                }
            }
            DELETE.run(tx, &batch.removed).await?;
            DELETE_MESSAGES.run(tx, &batch.removed).await?;
            let rows = batch.chats.into_iter().map(|(id, chat)| chat.cells(id));
            UPSERT.write(tx, rows.collect()).await?;
            let messages = batch.messages.into_iter().map(|(_, cells)| cells);
            MESSAGES.write(tx, messages.collect()).await
        }
        .boxed()
    }
}

/// What a batch of facts makes of the rows.
#[derive(Default)]
struct ChatChanges {
    /// The chat sessions by their streams' ids.
    chats: BTreeMap<String, ChatColumns>,
    /// The chat sessions whose rows of earlier batches go.
    removed: BTreeSet<Uuid>,
    /// The new messages, each with its chat session.
    messages: Vec<(String, Vec<Cell>)>,
}

impl ChatChanges {
    fn take(&mut self, seen: &Seen<'_>, event: &ChatEvent) -> Result<(), sqlx::Error> {
        let id = seen.id();
        if let Some(cells) = message(seen, event)? {
            self.messages.push((id.clone(), cells));
        }
        match event {
            ChatEvent::Asked {
                turn,
                session,
                message,
            } => {
                let chat = self.chats.entry(id);
                let chat = chat.or_insert_with(|| ChatColumns::new(seen, session, message));
                chat.add_message(seen, Some(turn.to_string()));
            }
            ChatEvent::Continued { turn, .. } => {
                if let Some(chat) = self.chats.get_mut(&id) {
                    chat.running_turn = Some(turn.to_string());
                    chat.updated_at = seen.at().0;
                }
            }
            // Turns of programs do not hold the session up, so they are not its running turn.
            ChatEvent::Prompted {
                session, message, ..
            } => {
                let chat = self.chats.entry(id);
                let chat = chat.or_insert_with(|| ChatColumns::new(seen, session, message));
                let running_turn = chat.running_turn.take();
                chat.add_message(seen, running_turn);
            }
            ChatEvent::Answered { turn, .. } => {
                if let Some(chat) = self.chats.get_mut(&id) {
                    let running_turn = chat.running_turn.take();
                    let other = running_turn.filter(|running| *running != turn.to_string());
                    chat.add_message(seen, other);
                }
            }
            ChatEvent::Renamed { title } => {
                if let Some(chat) = self.chats.get_mut(&id) {
                    chat.title_sealed = seen.seal_option(TITLE, title.as_deref());
                }
            }
            ChatEvent::Removed { .. } => {
                self.chats.remove(&id);
                self.messages.retain(|(session, _)| *session != id);
                self.removed.insert(seen.fact.stream.id);
            }
            ChatEvent::Reopened => {}
        }
        Ok(())
    }
}

/// The columns for which texts are sealed.
const NAME: &str = "chats.name";
const OPENING: &str = "chats.opening";
const TITLE: &str = "chats.title";

/// The columns of a chat session's row.
struct ChatColumns {
    user: String,
    message_count: i64,
    running_turn: Option<String>,
    created_at: i64,
    updated_at: i64,
    name_sealed: Vec<u8>,
    opening_sealed: Vec<u8>,
    title_sealed: Option<Vec<u8>>,
}

const BY_ID: ByKey = ByKey::text(
    "SELECT session_id, user_id, message_count, running_turn, created_at, updated_at, name_sealed, opening_sealed, \
     title_sealed FROM chats WHERE session_id IN ({})",
);
const DELETE: ByKey = ByKey::text("DELETE FROM chats WHERE session_id IN ({})");
const DELETE_MESSAGES: ByKey = ByKey::text("DELETE FROM messages WHERE session_id IN ({})");

const UPSERT: Upsert = Upsert {
    table: "chats",
    columns: &[
        "session_id",
        "user_id",
        "message_count",
        "running_turn",
        "created_at",
        "updated_at",
        "name_sealed",
        "opening_sealed",
        "title_sealed",
    ],
    on_conflict: "(session_id) DO UPDATE SET message_count = excluded.message_count, \
                  running_turn = excluded.running_turn, updated_at = excluded.updated_at, \
                  title_sealed = excluded.title_sealed",
};

const MESSAGES: Upsert = Upsert {
    table: "messages",
    columns: &[
        "message_id",
        "session_id",
        "user_id",
        "turn_id",
        "role",
        "outcome",
        "created_at",
        "position",
        "detail",
        "content_sealed",
        "tool_calls_sealed",
    ],
    on_conflict: "(message_id) DO NOTHING",
};

impl ChatColumns {
    fn read(row: &AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            user: row.try_get("user_id")?,
            message_count: row.try_get("message_count")?,
            running_turn: row.try_get("running_turn")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
            name_sealed: row.try_get("name_sealed")?,
            opening_sealed: row.try_get("opening_sealed")?,
            title_sealed: row.try_get("title_sealed")?,
        })
    }

    fn new(seen: &Seen<'_>, name: &str, first_question: &str) -> Self {
        Self {
            user: seen.user(),
            message_count: 0,
            running_turn: None,
            created_at: seen.at().0,
            updated_at: seen.at().0,
            name_sealed: seen.seal(NAME, name),
            opening_sealed: seen.seal(OPENING, &default_title(first_question)),
            title_sealed: None,
        }
    }

    fn add_message(&mut self, seen: &Seen<'_>, running_turn: Option<String>) {
        self.message_count += 1;
        self.running_turn = running_turn;
        self.updated_at = seen.at().0;
    }

    fn cells(self, id: String) -> Vec<Cell> {
        vec![
            id.into(),
            self.user.into(),
            self.message_count.into(),
            self.running_turn.into(),
            self.created_at.into(),
            self.updated_at.into(),
            self.name_sealed.into(),
            self.opening_sealed.into(),
            self.title_sealed.into(),
        ]
    }
}

/// The role of a row that is no message: it names a turn that goes on with another, whose id is its detail.
const CONTINUES: &str = "continues";

/// The row of a question or an answer, or of a turn that goes on with another; other facts have none.
fn message(seen: &Seen<'_>, event: &ChatEvent) -> Result<Option<Vec<Cell>>, sqlx::Error> {
    let (turn, role, content, outcome, detail, calls) = match event {
        ChatEvent::Asked { turn, message, .. } | ChatEvent::Prompted { turn, message, .. } => {
            (turn, "user", message.as_str(), None, None, None)
        }
        ChatEvent::Continued { turn, continues } => {
            let detail = Some(continues.to_string());
            (turn, CONTINUES, "", None, detail, None)
        }
        ChatEvent::Answered { turn, answer } => {
            let detail = AnswerDetail {
                model: answer.model.clone(),
                metrics: answer.metrics.clone(),
                failure: answer.failure.clone(),
            };
            let detail = json(&detail)?;
            let calls = match &answer.tool_calls[..] {
                [] => None,
                calls => Some(json(&calls)?),
            };
            let outcome = answer.outcome.as_str().to_owned();
            (
                turn,
                "assistant",
                answer.content.as_str(),
                Some(outcome),
                Some(detail),
                calls,
            )
        }
        ChatEvent::Renamed { .. } | ChatEvent::Removed { .. } | ChatEvent::Reopened => {
            return Ok(None);
        }
    };
    Ok(Some(vec![
        seen.fact.event_id.to_string().into(),
        seen.id().into(),
        seen.user().into(),
        turn.to_string().into(),
        role.into(),
        outcome.into(),
        seen.at().0.into(),
        (seen.fact.position as i64).into(),
        detail.into(),
        seen.seal("messages.content", content).into(),
        seen.seal_option("messages.tool_calls", calls.as_deref())
            .into(),
    ]))
}

fn json(value: &impl Serialize) -> Result<String, sqlx::Error> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(Box::new(error)))
}

#[derive(Debug, Clone)]
pub struct ChatRow {
    /// The id of the chat session's stream.
    pub id: String,
    /// Clients name a chat session by this.
    pub name: String,
    /// What people see: the user's own title, or the beginning of the first question.
    pub title: String,
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
    /// The calls of a program's tools with which an answer ended.
    pub tool_calls: Vec<ToolCall>,
    pub created_at: Timestamp,
    pub position: u64,
}

const SESSIONS: &str = "SELECT session_id, name_sealed, opening_sealed, title_sealed, message_count, running_turn, created_at, updated_at FROM chats \
                        WHERE user_id = $1 AND (updated_at, session_id) < ($2, $3) \
                        ORDER BY updated_at DESC, session_id DESC LIMIT $4";
const SESSION: &str = "SELECT 1 FROM chats WHERE session_id = $1 AND user_id = $2";
const MESSAGE: &str = "message_id, turn_id, role, content_sealed, tool_calls_sealed, outcome, detail, created_at, position";
const SESSION_OF_TURN: &str =
    "SELECT session_id FROM messages WHERE turn_id = $1 AND user_id = $2 LIMIT 1";
const END_OF_TURN: &str =
    "SELECT created_at FROM messages WHERE turn_id = $1 AND user_id = $2 AND role = 'assistant'";
const CONTINUED_BY_TURN: &str =
    "SELECT detail FROM messages WHERE turn_id = $1 AND user_id = $2 AND role = $3";
const MESSAGES_OF_SESSION: PageSql<'static> = PageSql {
    table: "messages",
    columns: MESSAGE,
    key: "message_id",
    bytes: "octet_length(content_sealed) + coalesce(octet_length(tool_calls_sealed), 0) \
            + coalesce(octet_length(detail), 0)",
    condition: "session_id = $1 AND user_id = $2 AND position > $3 AND role <> 'continues'",
    order: &["position"],
    descending: false,
    limit: "$4",
};

#[derive(Debug, Clone)]
pub struct ChatReader {
    log: Log,
}

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
            let query = sqlx::query(SESSIONS)
                .bind(user.to_string())
                .bind(updated)
                .bind(id)
                .bind(limit);
            Ok(query.fetch_all(store.reads()).await?)
        });
        let rows = rows.await?;
        let keys = self.log.keys().live(user).await?;
        let chat = |row: &AnyRow| {
            let name: Vec<u8> = row.try_get("name_sealed")?;
            let opening: Vec<u8> = row.try_get("opening_sealed")?;
            let title: Option<Vec<u8>> = row.try_get("title_sealed")?;
            let name = open(&keys, NAME, &name)?;
            let title = match title {
                Some(title) => open(&keys, TITLE, &title)?,
                None => open(&keys, OPENING, &opening)?,
            };
            Ok(ChatRow {
                id: row.try_get("session_id")?,
                // A question of invisible characters names nothing.
                title: if title.is_empty() {
                    name.clone()
                } else {
                    title
                },
                name,
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
            if sqlx::query(SESSION)
                .bind(&id)
                .bind(&owner)
                .fetch_optional(store.reads())
                .await?
                .is_none()
            {
                return Ok(None);
            }
            let sql = MESSAGES_OF_SESSION.text(&store);
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

    /// The session of a turn.
    pub async fn session_of(
        &self,
        user: UserId,
        turn: TurnId,
    ) -> Result<Option<SessionId>, LogError> {
        let found = read(&self.log, async move |store: Store| {
            let query = sqlx::query_scalar(SESSION_OF_TURN)
                .bind(turn.to_string())
                .bind(user.to_string());
            Ok(query.fetch_optional(store.reads()).await?)
        });
        let found: Option<String> = found.await?;
        Ok(found.and_then(|id| id.parse().ok()))
    }

    /// When a turn ended; `None` while it runs.
    pub async fn ended_at(
        &self,
        user: UserId,
        turn: TurnId,
    ) -> Result<Option<Timestamp>, LogError> {
        let found = read(&self.log, async move |store: Store| {
            let query = sqlx::query_scalar(END_OF_TURN)
                .bind(turn.to_string())
                .bind(user.to_string());
            Ok(query.fetch_optional(store.reads()).await?)
        });
        Ok(found.await?.map(Timestamp))
    }

    /// The interrupted turn that this one goes on with.
    pub async fn continued_by(
        &self,
        user: UserId,
        turn: TurnId,
    ) -> Result<Option<TurnId>, LogError> {
        let found = read(&self.log, async move |store: Store| {
            let query = sqlx::query_scalar(CONTINUED_BY_TURN)
                .bind(turn.to_string())
                .bind(user.to_string())
                .bind(CONTINUES);
            Ok(query.fetch_optional(store.reads()).await?)
        });
        let found: Option<String> = found.await?;
        Ok(found.and_then(|id| id.parse().ok()))
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
        rows: &[AnyRow],
    ) -> Result<Vec<MessageRow>, LogError> {
        let keys = self.log.keys().live(user).await?;
        let message = |row: &AnyRow| {
            let content: Vec<u8> = row.try_get("content_sealed")?;
            let detail: Option<String> = row.try_get("detail")?;
            let calls = open_option(
                &keys,
                "messages.tool_calls",
                row.try_get("tool_calls_sealed")?,
            )?;
            Ok(MessageRow {
                id: row.try_get("message_id")?,
                turn: row.try_get("turn_id")?,
                role: row.try_get("role")?,
                content: open(&keys, "messages.content", &content)?,
                outcome: row.try_get("outcome")?,
                detail: detail.and_then(|detail| serde_json::from_str(&detail).ok()),
                tool_calls: calls
                    .and_then(|calls| serde_json::from_str(&calls).ok())
                    .unwrap_or_default(),
                created_at: Timestamp(row.try_get("created_at")?),
                position: row.try_get::<i64, _>("position")? as u64,
            })
        };
        rows.iter().map(message).collect()
    }
}

#[cfg(test)]
pub(crate) fn statements(store: &Store) -> Vec<String> {
    let of_turn = format!("SELECT {MESSAGE} FROM messages WHERE turn_id = $1 AND user_id = $2");
    let mut all = vec![BY_ID.sql(4), UPSERT.sql(4), MESSAGES.sql(4), of_turn];
    all.extend([DELETE.sql(4), DELETE_MESSAGES.sql(4)]);
    all.extend(
        [
            SESSIONS,
            SESSION,
            SESSION_OF_TURN,
            END_OF_TURN,
            CONTINUED_BY_TURN,
        ]
        .map(String::from),
    );
    all.push(MESSAGES_OF_SESSION.text(store));
    all
}
