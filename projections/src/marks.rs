//! `marks`: the number of each invisible mark, and the fact that it names.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{FutureExt, future::BoxFuture};
use genie_events::{
    Event, EventId, JobId, MarkNumber, StreamKind, Timestamp, UserId,
    job::{JobEvent, JobSpec},
};
use genie_log::{Log, LogError, forgetting::UserRows, store::Store, stored_ids::IdForm};
use sqlx::{Row, any::AnyRow};
use uuid::Uuid;

use crate::{
    projection::{Projection, Seen, Tx, id_column, open, read, user_id},
    rows::{ByKey, Cell, Upsert},
};

pub(crate) struct Projector;

impl Projection for Projector {
    fn name(&self) -> &'static str {
        "marks"
    }

    fn wants(&self, kind: StreamKind) -> bool {
        kind == StreamKind::Job
    }

    fn rows(&self) -> &'static [UserRows] {
        &[UserRows {
            table: "marks",
            user: "user_id",
            key: "job_id",
            ids: IdForm::Text,
        }]
    }

    fn apply<'a>(
        &'a self,
        facts: &'a [Seen<'a>],
        tx: &'a mut Tx,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        apply(facts, tx).boxed()
    }
}

async fn apply(facts: &[Seen<'_>], tx: &mut Tx) -> Result<(), sqlx::Error> {
    let mut marks = BTreeMap::new();
    let mut done = BTreeMap::new();
    for seen in facts {
        match seen.event {
            Event::Job(JobEvent::Submitted {
                spec: spec @ JobSpec {
                    mark: Some(number), ..
                },
                ..
            }) => {
                marks.insert(seen.fact.stream.id, MarkColumns::new(seen, *number, spec));
            }
            Event::Job(JobEvent::Completed { result, .. }) if result["mark"].is_u64() => {
                done.insert(seen.fact.stream.id, seen.at().0);
            }
            _ => {}
        }
    }
    let earlier = |id: &Uuid| !marks.contains_key(id);
    let earlier: BTreeSet<Uuid> = done.keys().copied().filter(earlier).collect();
    for row in BY_ID.run(tx, &earlier).await? {
        marks.insert(id_column(&row, "job_id")?, MarkColumns::read(&row)?);
    }
    for (id, at) in done {
        if let Some(mark) = marks.get_mut(&id) {
            mark.marked_at = at;
        }
    }
    let rows = marks.into_iter().map(|(id, mark)| mark.cells(id));
    UPSERT.write(tx, rows.collect()).await
}

/// The column for which recipients are sealed.
const RECIPIENT: &str = "marks.recipient";

/// The columns of a mark's row. The recipient is only written, never read back.
struct MarkColumns {
    user: String,
    number: i64,
    fact: String,
    position: i64,
    marked_at: i64,
    recipient_sealed: Option<Vec<u8>>,
}

const BY_ID: ByKey = ByKey::text(
    "SELECT job_id, user_id, number, fact, position, marked_at FROM marks WHERE job_id IN ({})",
);

const UPSERT: Upsert = Upsert {
    table: "marks",
    columns: &[
        "job_id",
        "user_id",
        "number",
        "fact",
        "position",
        "marked_at",
        "recipient_sealed",
    ],
    on_conflict: "(job_id) DO UPDATE SET marked_at = excluded.marked_at",
};

impl MarkColumns {
    fn new(seen: &Seen<'_>, number: MarkNumber, spec: &JobSpec) -> Self {
        Self {
            user: seen.user(),
            number: i64::from(number.0),
            fact: seen.fact.event_id.to_string(),
            position: seen.fact.position as i64,
            marked_at: seen.at().0,
            recipient_sealed: seen.seal_option(RECIPIENT, spec.params["recipient"].as_str()),
        }
    }

    fn read(row: &AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            user: row.try_get("user_id")?,
            number: row.try_get("number")?,
            fact: row.try_get("fact")?,
            position: row.try_get("position")?,
            marked_at: row.try_get("marked_at")?,
            recipient_sealed: None,
        })
    }

    fn cells(self, id: Uuid) -> Vec<Cell> {
        vec![
            id.to_string().into(),
            self.user.into(),
            self.number.into(),
            self.fact.into(),
            self.position.into(),
            self.marked_at.into(),
            self.recipient_sealed.into(),
        ]
    }
}

/// What a mark's number means.
#[derive(Debug, Clone)]
pub struct MarkRow {
    pub user: UserId,
    /// The job that made the mark, or was to make it.
    pub job: JobId,
    /// The submission of the job.
    pub fact: EventId,
    pub marked_at: Timestamp,
    recipient_sealed: Option<Vec<u8>>,
}

/// A number is drawn when nobody has it, so there is one row but for those drawn at the same moment.
const BY_NUMBER: &str = "SELECT job_id, user_id, fact, marked_at, recipient_sealed FROM marks WHERE number = $1 \
                         ORDER BY position LIMIT 8";

#[derive(Debug, Clone)]
pub struct MarkReader {
    log: Log,
}

impl MarkReader {
    pub(crate) fn new(log: Log) -> Self {
        Self { log }
    }

    /// What the number means, the oldest first. Empty when it means nothing.
    pub async fn named_by(&self, number: MarkNumber) -> Result<Vec<MarkRow>, LogError> {
        let rows = read(&self.log, async move |store: Store| {
            Ok(sqlx::query(BY_NUMBER)
                .bind(i64::from(number.0))
                .fetch_all(store.reads())
                .await?)
        });
        rows.await?.iter().map(read_row).collect()
    }

    /// The text that says for whom the mark was made; personal.
    pub async fn recipient(&self, mark: &MarkRow) -> Result<Option<String>, LogError> {
        let Some(sealed) = &mark.recipient_sealed else {
            return Ok(None);
        };
        let keys = self.log.keys().live(mark.user).await?;
        open(&keys, RECIPIENT, sealed).map(Some)
    }
}

fn read_row(row: &AnyRow) -> Result<MarkRow, LogError> {
    let invalid = |what| LogError::Statement(format!("a read table holds an invalid {what} id"));
    let job: String = row.try_get("job_id")?;
    let fact: String = row.try_get("fact")?;
    Ok(MarkRow {
        user: user_id(&row.try_get::<String, _>("user_id")?)?,
        job: job.parse().map_err(|_| invalid("job"))?,
        fact: fact.parse().map_err(|_| invalid("event"))?,
        marked_at: Timestamp(row.try_get("marked_at")?),
        recipient_sealed: row.try_get("recipient_sealed")?,
    })
}

#[cfg(test)]
pub(crate) fn statements() -> Vec<String> {
    vec![BY_ID.sql(4), UPSERT.sql(4), BY_NUMBER.into()]
}
