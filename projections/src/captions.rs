//! `captions`: each request for a caption, and the text that the model wrote.

use futures_util::{FutureExt, future::BoxFuture};
use genie_events::{Event, StreamKind, Timestamp, UserId, caption::CaptionEvent};
use genie_log::{
    Log, LogError,
    forgetting::UserRows,
    pages::{PageSql, Paged, paged},
    store::Store,
};
use sqlx::Row;

use crate::projection::{Projection, Seen, Tx, open_option, read};

pub(crate) struct Projector;

impl Projection for Projector {
    fn name(&self) -> &'static str {
        "captions"
    }

    fn wants(&self, kind: StreamKind) -> bool {
        kind == StreamKind::Caption
    }

    fn rows(&self) -> &'static [UserRows] {
        &[UserRows {
            table: "captions",
            user: "user_id",
            key: "caption_id",
        }]
    }

    fn apply<'a>(
        &'a self,
        seen: Seen<'a>,
        tx: &'a mut Tx,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        async move {
            let Event::Caption(event) = seen.event else { return Ok(()) };
            let id = &seen.fact.stream.id.to_string();
            let query = match event {
                CaptionEvent::Requested { brief, .. } => sqlx::query(
                    "INSERT INTO captions (caption_id, user_id, status, platform, created_at, position) VALUES ($1, $2, 'writing', $3, $4, $5)",
                )
                .bind(id)
                .bind(seen.user())
                .bind(brief.platform.as_str())
                .bind(seen.at().0)
                .bind(seen.fact.position as i64),
                CaptionEvent::Completed(written) => sqlx::query(
                    "UPDATE captions SET status = 'completed', caption_sealed = $2, model = $3, truncated = $4 WHERE caption_id = $1",
                )
                .bind(id)
                .bind(seen.seal("captions.caption", &written.text))
                .bind(&written.model)
                .bind(i64::from(written.truncated)),
                CaptionEvent::Failed(_) => sqlx::query("UPDATE captions SET status = 'failed' WHERE caption_id = $1").bind(id),
            };
            query.execute(&mut **tx).await.map(drop)
        }
        .boxed()
    }
}

#[derive(Debug, Clone)]
pub struct CaptionRow {
    pub id: String,
    /// `writing`, `completed` or `failed`.
    pub status: String,
    pub platform: String,
    /// The text, once it is written.
    pub caption: Option<String>,
    pub model: Option<String>,
    /// True when the text was cut at the platform's limit.
    pub truncated: bool,
    pub created_at: Timestamp,
    /// The position of the request.
    pub position: u64,
}

#[derive(Debug, Clone)]
pub struct CaptionReader {
    log: Log,
}

impl CaptionReader {
    pub(crate) fn new(log: Log) -> Self {
        Self { log }
    }

    /// A user's captions, newest first, older than the position `before`: a page of at most `limit`.
    pub async fn list(
        &self,
        user: UserId,
        before: Option<u64>,
        limit: i64,
    ) -> Result<Paged<CaptionRow>, LogError> {
        let rows = read(&self.log, async move |store: Store| {
            let sql = PageSql {
                table: "captions",
                columns: "caption_id, status, platform, caption_sealed, model, truncated, created_at, position",
                key: "caption_id",
                bytes: "coalesce(octet_length(caption_sealed), 0)",
                condition: "user_id = $1 AND position < $2",
                order: &["position"],
                descending: true,
                limit: "$3",
            }
            .text(&store);
            let before = before.map_or(i64::MAX, |before| before as i64);
            let query = sqlx::query(&sql)
                .bind(user.to_string())
                .bind(before)
                .bind(limit);
            Ok(paged(query.fetch_all(store.reads()).await?)?)
        });
        let rows = rows.await?;
        let keys = self.log.keys().live(user).await?;
        let caption = |row: sqlx::any::AnyRow| {
            Ok(CaptionRow {
                id: row.try_get("caption_id")?,
                status: row.try_get("status")?,
                platform: row.try_get("platform")?,
                caption: open_option(&keys, "captions.caption", row.try_get("caption_sealed")?)?,
                model: row.try_get("model")?,
                truncated: row.try_get::<Option<i64>, _>("truncated")?.unwrap_or(0) != 0,
                created_at: Timestamp(row.try_get("created_at")?),
                position: row.try_get::<i64, _>("position")? as u64,
            })
        };
        rows.try_map(caption)
    }
}
