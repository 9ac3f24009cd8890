//! Appends on Postgres: one call of the function `append` for a whole batch, in one round trip.

use std::time::Duration;

use sqlx::{
    PgConnection, PgPool, Postgres, Row,
    pool::PoolConnection,
    postgres::{PgArguments, PgRow},
    query::Query,
};

use crate::{
    append::{Appended, Request, Verdict, WorkJson},
    health::Trouble,
    stored_row::StoredRow,
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
    let mut requests: Vec<i32> = Vec::new();
    let mut are_of_system: Vec<bool> = Vec::new();
    let mut rows: Vec<&StoredRow> = Vec::new();
    let mut work: Vec<WorkJson> = Vec::new();
    for (n, request) in (0..).zip(batch) {
        for row in &request.rows {
            requests.push(n);
            are_of_system.push(request.system_owners.contains(&row.owner));
            rows.push(row);
        }
        work.extend(request.work.iter().map(|work| WorkJson::new(n, work)));
    }
    let call = sqlx::query(
        "SELECT request, outcome, first_position, last_position \
         FROM append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
    );
    let answers = bind_rows(call, &rows)
        .bind(requests)
        .bind(are_of_system)
        .bind((!work.is_empty()).then_some(sqlx::types::Json(work)))
        .bind(known as i64)
        .fetch_all(connection)
        .await?;

    outcomes(batch, &answers)
}

/// Binds the columns of rows as arrays, in the table's order, without the position.
pub(crate) fn bind_rows<'q>(
    query: Query<'q, Postgres, PgArguments>,
    rows: &[&'q StoredRow],
) -> Query<'q, Postgres, PgArguments> {
    query
        .bind(column(rows, |row| row.owner))
        .bind(column(rows, |row| row.owner_seq as i64))
        .bind(column(rows, |row| row.stream))
        .bind(column(rows, |row| row.sequence as i64))
        .bind(column(rows, |row| row.kind))
        .bind(column(rows, |row| row.event_type.as_ref()))
        .bind(column(rows, |row| row.event_version))
        .bind(column(rows, |row| row.event_id))
        .bind(column(rows, |row| row.slice as i16)) // 0..1023
        .bind(column(rows, |row| row.recorded_at.0))
        .bind(column(rows, |row| row.digest.as_slice()))
        .bind(column(rows, |row| row.metadata.as_str()))
        .bind(column(rows, |row| row.payload.as_slice()))
}

/// One value of each row.
fn column<'q, T>(rows: &[&'q StoredRow], value: impl Fn(&'q StoredRow) -> T) -> Vec<T> {
    rows.iter().copied().map(value).collect()
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
    let mut head = head.ok_or(sqlx::Error::RowNotFound)?;
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
    Ok(batch.iter().zip(told).map(appended).collect())
}
