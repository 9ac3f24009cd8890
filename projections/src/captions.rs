//! `captions`: each request for a caption, and the text that the model wrote.

use std::collections::BTreeMap;

use futures_util::{FutureExt, future::BoxFuture};
use genie_events::{Event, StreamKind, Timestamp, UserId, caption::CaptionEvent};
use genie_log::{
    Log, LogError,
    forgetting::UserRows,
    pages::{PageSql, Paged, paged},
    store::Store,
    stored_ids::IdForm,
};
use sqlx::{Row, any::AnyRow};

use crate::{
    projection::{Projection, Seen, Tx, begun_before, open_option, read},
    rows::{ByKey, Cell, Upsert},
};

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
            ids: IdForm::Text,
        }]
    }

    fn apply<'a>(
        &'a self,
        facts: &'a [Seen<'a>],
        tx: &'a mut Tx,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        async move {
            let begins =
                |event: &Event| matches!(event, Event::Caption(CaptionEvent::Requested { .. }));
            let mut captions = BTreeMap::new();
            for row in BY_ID.run(tx, &begun_before(facts, begins)).await? {
                captions.insert(row.try_get("caption_id")?, CaptionColumns::read(&row)?);
            }
            for seen in facts {
                if let Event::Caption(event) = seen.event {
                    fold(&mut captions, seen, event);
                }
            }
            let rows = captions.into_iter().map(|(id, caption)| caption.cells(id));
            UPSERT.write(tx, rows.collect()).await
        }
        .boxed()
    }
}

/// The columns of a caption's row. A caption is written at most once, so its text is not read back.
struct CaptionColumns {
    user: String,
    status: &'static str,
    platform: String,
    created_at: i64,
    position: i64,
    model: Option<String>,
    truncated: Option<i64>,
    caption_sealed: Option<Vec<u8>>,
}

const BY_ID: ByKey = ByKey::text(
    "SELECT caption_id, user_id, platform, created_at, position FROM captions WHERE caption_id IN ({})",
);

const UPSERT: Upsert = Upsert {
    table: "captions",
    columns: &[
        "caption_id",
        "user_id",
        "status",
        "platform",
        "model",
        "truncated",
        "created_at",
        "position",
        "caption_sealed",
    ],
    on_conflict: "(caption_id) DO UPDATE SET status = excluded.status, model = excluded.model, \
                  truncated = excluded.truncated, caption_sealed = excluded.caption_sealed",
};

impl CaptionColumns {
    fn read(row: &AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            user: row.try_get("user_id")?,
            status: "writing",
            platform: row.try_get("platform")?,
            created_at: row.try_get("created_at")?,
            position: row.try_get("position")?,
            model: None,
            truncated: None,
            caption_sealed: None,
        })
    }

    fn cells(self, id: String) -> Vec<Cell> {
        vec![
            id.into(),
            self.user.into(),
            self.status.into(),
            self.platform.into(),
            self.model.into(),
            self.truncated.into(),
            self.created_at.into(),
            self.position.into(),
            self.caption_sealed.into(),
        ]
    }
}

fn fold(captions: &mut BTreeMap<String, CaptionColumns>, seen: &Seen<'_>, event: &CaptionEvent) {
    let ended = captions.get_mut(&seen.id());
    match (event, ended) {
        (CaptionEvent::Requested { brief, .. }, _) => {
            let requested = CaptionColumns {
                user: seen.user(),
                status: "writing",
                platform: brief.platform.as_str().into(),
                created_at: seen.at().0,
                position: seen.fact.position as i64,
                model: None,
                truncated: None,
                caption_sealed: None,
            };
            captions.insert(seen.id(), requested);
        }
        (CaptionEvent::Completed(written), Some(caption)) => {
            caption.status = "completed";
            caption.model = Some(written.model.clone());
            caption.truncated = Some(i64::from(written.truncated));
            caption.caption_sealed = Some(seen.seal("captions.caption", &written.text));
        }
        (CaptionEvent::Failed(_), Some(caption)) => caption.status = "failed",
        (_, None) => {}
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

const LIST: PageSql<'static> = PageSql {
    table: "captions",
    columns: "caption_id, status, platform, caption_sealed, model, truncated, created_at, position",
    key: "caption_id",
    bytes: "coalesce(octet_length(caption_sealed), 0)",
    condition: "user_id = $1 AND position < $2",
    order: &["position"],
    descending: true,
    limit: "$3",
};

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
            let before = before.map_or(i64::MAX, |before| before as i64);
            let sql = LIST.text(&store);
            let query = sqlx::query(&sql)
                .bind(user.to_string())
                .bind(before)
                .bind(limit);
            Ok(paged(query.fetch_all(store.reads()).await?)?)
        });
        let rows = rows.await?;
        let keys = self.log.keys().live(user).await?;
        let caption = |row: AnyRow| {
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

#[cfg(test)]
pub(crate) fn statements(store: &Store) -> Vec<String> {
    vec![BY_ID.sql(4), UPSERT.sql(4), LIST.text(store)]
}
