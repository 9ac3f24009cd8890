//! Appends on Postgres: one call of the function `append` for a whole batch, in one round trip. Only a
//! batch that has a condition, or meets a key, takes `append_judged`.

use std::time::Duration;

use sqlx::{
    PgConnection, PgPool, Postgres, Row, pool::PoolConnection, postgres::PgRow, types::Json,
};

use crate::{
    append::{Appended, Request, Verdict, Work, WorkJson},
    health::Trouble,
    postgres_records::{NewEvent, UnfinishedChange},
    unfinished::UnfinishedRow,
};

/// The writer's connection, kept from batch to batch. A pool would ping it whenever it is lent and
/// returned; an append finds a dead connection by itself.
pub(crate) type HeldPostgres = Option<PoolConnection<Postgres>>;

/// Appends a batch. `known` is the last position that this process has seen: the store must not end
/// before it. A statement that takes longer than `limit` is given up together with its
/// connection: a server that vanished silently would otherwise hold the writer for as long as TCP
/// tries.
pub(crate) async fn append(
    pool: &PgPool,
    held: &mut HeldPostgres,
    batch: &[&Request],
    known: u64,
    limit: Duration,
) -> Result<Vec<Verdict>, sqlx::Error> {
    let mut connection = match held.take() {
        Some(connection) => connection,
        None => pool.acquire().await?,
    };
    let appended = tokio::time::timeout(limit, append_on(&mut connection, batch, known)).await;
    let appended = appended.unwrap_or(Err(sqlx::Error::PoolTimedOut));
    match appended.as_ref().err().and_then(Trouble::of) {
        None => *held = Some(connection),
        // The connection is broken, still waits for an answer, or belongs to a server that takes no
        // writes. The next append opens another.
        Some(_) => drop(connection.detach()),
    }
    appended
}

async fn append_on(
    connection: &mut PgConnection,
    batch: &[&Request],
    known: u64,
) -> Result<Vec<Verdict>, sqlx::Error> {
    let is_judged = batch.iter().any(|request| request.has_condition());
    if !is_judged && let Some(head) = append_all(connection, batch, known).await? {
        return Ok(in_order(head, batch, vec![None; batch.len()]));
    }
    append_judged(connection, batch, known).await
}

/// Appends requests without a condition, and returns the head before them; `None` when one of them
/// is not good, and nothing was written.
async fn append_all(
    connection: &mut PgConnection,
    batch: &[&Request],
    known: u64,
) -> Result<Option<u64>, sqlx::Error> {
    let work = WorkRows::of(batch);
    let head: Option<i64> = sqlx::query_scalar("SELECT append($1, $2, $3, $4, $5, $6)")
        .bind(events_of(batch))
        .bind(work.put)
        .bind(work.change)
        .bind(work.end)
        .bind(work.other)
        .bind(known as i64)
        .fetch_one(connection)
        .await?;
    Ok(head.map(|head| head as u64))
}

/// Has each request judged before it is appended.
async fn append_judged(
    connection: &mut PgConnection,
    batch: &[&Request],
    known: u64,
) -> Result<Vec<Verdict>, sqlx::Error> {
    let mut requests: Vec<i32> = Vec::new();
    let mut are_of_system: Vec<bool> = Vec::new();
    for (n, request) in (0..).zip(batch) {
        for row in &request.rows {
            requests.push(n);
            are_of_system.push(request.system_owners.contains(&row.owner));
        }
    }
    let work = WorkRows::of(batch);
    let call = sqlx::query(
        "SELECT request, outcome, first_position, last_position \
         FROM append_judged($1, $2, $3, $4, $5, $6, $7, $8)",
    );
    let answers = call
        .bind(events_of(batch))
        .bind(requests)
        .bind(are_of_system)
        .bind(work.put)
        .bind(work.change)
        .bind(work.end)
        .bind(work.other)
        .bind(known as i64)
        .fetch_all(connection)
        .await?;
    outcomes(batch, &answers)
}

fn events_of<'r>(batch: &[&'r Request]) -> Vec<NewEvent<'r>> {
    let rows = batch.iter().flat_map(|request| &request.rows);
    rows.map(NewEvent).collect()
}

/// The working rows of a batch; `None` where there are none of a kind.
#[derive(Default)]
struct WorkRows<'r> {
    put: Option<Vec<UnfinishedChange<'r>>>,
    change: Option<Vec<UnfinishedChange<'r>>>,
    end: Option<Vec<UnfinishedChange<'r>>>,
    other: Option<Json<Vec<WorkJson>>>,
}

impl<'r> WorkRows<'r> {
    fn of(batch: &[&'r Request]) -> Self {
        let mut rows = Self::default();
        for (n, request) in (0..).zip(batch) {
            for work in &request.work {
                match work {
                    Work::Unfinished(row) => rows.add_unfinished(row),
                    _ => rows
                        .other
                        .get_or_insert_default()
                        .extend(WorkJson::new(n, work)),
                }
            }
        }
        rows
    }

    fn add_unfinished(&mut self, row: &'r UnfinishedRow) {
        let those = match row {
            UnfinishedRow::Put(_) => &mut self.put,
            UnfinishedRow::Change { .. } => &mut self.change,
            UnfinishedRow::End { .. } => &mut self.end,
        };
        those.get_or_insert_default().push(UnfinishedChange(row));
    }
}

/// The function tells the head before the batch, and what was not appended; everything else follows the head in order.
fn outcomes(batch: &[&Request], answers: &[PgRow]) -> Result<Vec<Verdict>, sqlx::Error> {
    let mut head = None;
    let mut told = vec![None; batch.len()];
    for answer in answers {
        let position = |column: &str| {
            answer
                .try_get::<Option<i64>, _>(column)
                .map(|p| p.unwrap_or(0) as u64)
        };
        let outcome = match answer.try_get::<&str, _>("outcome")? {
            "head" => {
                head = Some(position("first_position")?);
                continue;
            }
            "already" => Verdict::Written(Appended {
                first: position("first_position")?,
                last: position("last_position")?,
            }),
            "key_not_live" => Verdict::KeyNotLive,
            "taken" => Verdict::Taken,
            "key_used" => Verdict::KeyUsed,
            "deposed" => Verdict::Deposed,
            "lease_held" => Verdict::LeaseHeld,
            _ => Verdict::Stale,
        };
        let request: i32 = answer.try_get("request")?;
        if let Some(slot) = usize::try_from(request).ok().and_then(|n| told.get_mut(n)) {
            *slot = Some(outcome);
        }
    }
    let head = head.ok_or(sqlx::Error::RowNotFound)?;
    Ok(in_order(head, batch, told))
}

/// The requests that nothing was told of were appended after the head, in their order.
fn in_order(mut head: u64, batch: &[&Request], told: Vec<Option<Verdict>>) -> Vec<Verdict> {
    let appended = |(request, told): (&&Request, Option<Verdict>)| {
        told.unwrap_or_else(|| {
            let at = Appended {
                first: head + 1,
                last: head + request.rows.len() as u64,
            };
            head = at.last;
            Verdict::Written(at)
        })
    };
    batch.iter().zip(told).map(appended).collect()
}
