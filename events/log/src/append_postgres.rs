//! Appends on Postgres: one call of the function `append` for a whole batch, in one round trip.

use std::time::Duration;

use sqlx::{PgConnection, PgPool, Postgres, Row, pool::PoolConnection, postgres::PgRow};

use crate::{
    append::{Appended, Request, Verdict, WorkJson},
    health::Trouble,
    stored_row::StoredRow,
};

/// The writer's connection, kept from batch to batch. A pool would ping it whenever it is lent and
/// returned; an append finds a dead connection by itself.
pub(crate) type HeldPostgres = Option<PoolConnection<Postgres>>;

/// Appends a batch. A statement that takes longer than `limit` is given up together with its
/// connection: a server that vanished silently would otherwise hold the writer for as long as TCP
/// tries.
pub(crate) async fn append(
    pool: &PgPool,
    held: &mut HeldPostgres,
    batch: &[&Request],
    limit: Duration,
) -> Result<Vec<Verdict>, sqlx::Error> {
    let mut connection = match held.take() {
        Some(connection) => connection,
        None => pool.acquire().await?,
    };
    let appended = tokio::time::timeout(limit, append_on(&mut connection, batch)).await;
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
) -> Result<Vec<Verdict>, sqlx::Error> {
    let request_numbers: Vec<i32> = (0..)
        .zip(batch)
        .flat_map(|(n, request)| std::iter::repeat_n(n, request.rows.len()))
        .collect();
    let are_of_system: Vec<bool> = batch
        .iter()
        .flat_map(|request| {
            request
                .rows
                .iter()
                .map(|row| request.system_owners.contains(&row.owner))
        })
        .collect();
    let work: Vec<WorkJson> = (0_i32..)
        .zip(batch)
        .flat_map(|(n, request)| request.work.iter().map(move |work| WorkJson::new(n, work)))
        .collect();
    let answers = sqlx::query(
        "SELECT request, outcome, first_position, last_position \
         FROM append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
    )
    .bind(request_numbers)
    .bind(column(batch, |row| row.kind.as_str()))
    .bind(column(batch, |row| row.id.as_str()))
    .bind(column(batch, |row| row.sequence as i64))
    .bind(column(batch, |row| row.event_type.as_str()))
    .bind(column(batch, |row| row.event_version.as_str()))
    .bind(column(batch, |row| row.payload.as_str()))
    .bind(column(batch, |row| row.metadata.as_str()))
    .bind(column(batch, |row| row.event_id.to_string()))
    .bind(column(batch, |row| row.owner.to_string()))
    .bind(column(batch, |row| row.owner_seq as i64))
    .bind(column(batch, |row| row.slice as i64))
    .bind(column(batch, |row| row.recorded_at.0))
    .bind(column(batch, |row| row.digest.as_slice()))
    .bind(are_of_system)
    .bind((!work.is_empty()).then_some(sqlx::types::Json(work)))
    .fetch_all(connection)
    .await?;

    outcomes(batch, &answers)
}

/// One value of each row of the batch.
fn column<'a, T>(batch: &[&'a Request], value: impl Fn(&'a StoredRow) -> T) -> Vec<T> {
    batch
        .iter()
        .flat_map(|request| request.rows.iter().map(&value))
        .collect()
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
