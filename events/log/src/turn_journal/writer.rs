//! The task that writes the journal for all turns of a node. One statement writes all pieces that
//! wait. While many turns write, it lets pieces gather for a moment: a statement costs as much as
//! several pieces. A lone turn never waits.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use sqlx::{ConnectOptions, PgConnection, Row, postgres::PgConnectOptions};
use tokio::{sync::mpsc, time::Instant};

use super::{JournalOutcome, Piece};
use crate::{
    LogError,
    store::{POOL_NAME, Store, in_time},
};

/// The most pieces of one statement.
const BATCH: usize = 256;
/// The pauses before a batch is tried again because a lease was locked, in milliseconds: its
/// heartbeat is being written just then.
const LOCKED_MS: [u64; 3] = [1, 2, 4];

/// The lease is locked until the piece is committed, so that a node that takes the lease finds the
/// piece in the journal. A lease that somebody else has locked is passed over: to wait for it could
/// be to wait for each other.
const INTO_POSTGRES: &str = "INSERT INTO journal (turn_id, upto, user_id, sealed) \
     SELECT piece.turn_id, piece.upto, lease.user_id, piece.sealed \
     FROM unnest($1::text[], $2::bigint[], $3::bytea[]) AS piece (turn_id, upto, sealed) \
     CROSS JOIN LATERAL ( \
         SELECT user_id FROM leases WHERE kind = 'turn' AND id = piece.turn_id AND holder = $4 \
         FOR SHARE SKIP LOCKED \
     ) AS lease \
     ON CONFLICT (turn_id, upto) DO NOTHING";
/// SQLite has one writer at a time, so nothing is locked.
const INTO_SQLITE: &str = "INSERT INTO journal (turn_id, upto, user_id, sealed) \
     SELECT piece.value ->> 0, piece.value ->> 1, lease.user_id, unhex(piece.value ->> 2) \
     FROM json_each($1) AS piece \
     CROSS JOIN leases AS lease ON lease.kind = 'turn' AND lease.id = piece.value ->> 0 \
     WHERE lease.holder = $2 \
     ON CONFLICT (turn_id, upto) DO NOTHING";
const IS_WRITTEN: &str = "SELECT \
     (SELECT count(*) FROM journal WHERE turn_id = $1 AND upto = $2) AS written, \
     (SELECT count(*) FROM leases WHERE kind = 'turn' AND id = $1 AND holder = $3) AS held";

/// The time over which pieces are counted.
const COUNTED: Duration = Duration::from_millis(50);
/// From so many pieces in that time on, statements begin at least so far apart. 50 are ten turns at
/// 100 tokens a second.
const SPACINGS: [(usize, Duration); 2] = [
    (500, Duration::from_millis(4)),
    (50, Duration::from_millis(2)),
];

pub(super) struct JournalWriter {
    store: Store,
    node: String,
    /// A connection of its own, kept from batch to batch.
    connection: Option<PgConnection>,
}

impl JournalWriter {
    pub fn new(store: Store, node: &str) -> Self {
        Self {
            store,
            node: node.to_owned(),
            connection: None,
        }
    }

    pub async fn run(mut self, mut waiting: mpsc::Receiver<Piece>) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut pace = WritingPace::new(Instant::now());
        while waiting.recv_many(&mut batch, BATCH).await > 0 {
            if let Some(next) = pace.next_at() {
                tokio::time::sleep_until(next).await;
                let gathered = std::iter::from_fn(|| waiting.try_recv().ok());
                batch.extend(gathered.take(BATCH - batch.len()));
            }
            pace.begins(Instant::now(), batch.len());
            let outcomes = self.commit(&batch).await;
            for (piece, outcome) in batch.drain(..).zip(outcomes) {
                // The turn may have been stopped meanwhile.
                let _ = piece.committed.send(outcome);
            }
        }
    }

    /// The outcome of each piece.
    async fn commit(&mut self, batch: &[Piece]) -> Vec<Result<JournalOutcome, LogError>> {
        match self.insert_all(batch).await {
            Ok(true) => batch
                .iter()
                .map(|_| Ok(JournalOutcome::Committed))
                .collect(),
            Ok(false) => {
                let mut outcomes = Vec::with_capacity(batch.len());
                for piece in batch {
                    outcomes.push(self.outcome(piece).await);
                }
                outcomes
            }
            Err(error) => batch.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    /// True when every piece was inserted. Otherwise some were there before, or have no lease.
    async fn insert_all(&mut self, batch: &[Piece]) -> Result<bool, LogError> {
        let mut left = batch.len() as u64;
        for pause in LOCKED_MS {
            left -= self.insert(batch).await?;
            if left == 0 {
                return Ok(true);
            }
            if !self.store.is_postgres() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        Ok(false)
    }

    /// The number of pieces that were inserted.
    async fn insert(&mut self, batch: &[Piece]) -> Result<u64, LogError> {
        let Some(options) = self.store.postgres() else {
            return in_time(self.insert_into_sqlite(batch)).await;
        };
        if let Some(kept) = self.connection.take() {
            match in_time(self.insert_into_postgres(kept, batch)).await {
                // It may have died while it was not used. A piece that is written twice is no error.
                Err(LogError::Away(_)) => {}
                settled => return settled,
            }
        }
        let opened = in_time(open(&options)).await?;
        in_time(self.insert_into_postgres(opened, batch)).await
    }

    async fn insert_into_postgres(
        &mut self,
        mut connection: PgConnection,
        batch: &[Piece],
    ) -> Result<u64, LogError> {
        let turns: Vec<String> = batch.iter().map(|piece| piece.turn.to_string()).collect();
        let places: Vec<i64> = batch.iter().map(|piece| piece.upto as i64).collect();
        let sealed: Vec<&[u8]> = batch.iter().map(|piece| piece.sealed.as_slice()).collect();
        let inserted = sqlx::query(INTO_POSTGRES)
            .bind(turns)
            .bind(places)
            .bind(sealed)
            .bind(&self.node)
            .execute(&mut connection)
            .await?;
        self.connection = Some(connection);
        Ok(inserted.rows_affected())
    }

    async fn insert_into_sqlite(&self, batch: &[Piece]) -> Result<u64, LogError> {
        let pieces = batch
            .iter()
            .map(|piece| json!([piece.turn, piece.upto, hex::encode(&piece.sealed)]));
        let mut tx = self.store.relaxed().await?;
        let inserted = sqlx::query(INTO_SQLITE)
            .bind(serde_json::Value::from_iter(pieces).to_string())
            .bind(&self.node)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(inserted.rows_affected())
    }

    /// The outcome of a piece of a batch that was not inserted as a whole.
    async fn outcome(&self, piece: &Piece) -> Result<JournalOutcome, LogError> {
        let look = async {
            let found = sqlx::query(IS_WRITTEN)
                .bind(piece.turn.to_string())
                .bind(piece.upto as i64)
                .bind(&self.node)
                .fetch_one(self.store.reads())
                .await?;
            let count = |column| found.try_get::<i64, _>(column);
            Ok::<_, LogError>((count("written")? > 0, count("held")? > 0))
        };
        match in_time(look).await? {
            (true, _) => Ok(JournalOutcome::Committed),
            (false, false) => Ok(JournalOutcome::LeaseLost),
            (false, true) => Err(LogError::Away("the turn's lease is locked".into())),
        }
    }
}

/// How far apart statements begin, by the number of pieces that came lately.
struct WritingPace {
    /// The beginning of the time in which pieces are counted, and their number.
    since: Instant,
    pieces: usize,
    spacing: Option<Duration>,
    /// When the last statement began.
    began: Instant,
}

impl WritingPace {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            pieces: 0,
            spacing: None,
            began: now,
        }
    }

    /// When the next statement may begin; `None` for at once.
    fn next_at(&self) -> Option<Instant> {
        Some(self.began + self.spacing?)
    }

    fn begins(&mut self, now: Instant, pieces: usize) {
        self.began = now;
        self.pieces += pieces;
        let counted = now - self.since;
        if counted < COUNTED {
            return;
        }
        // After a silence the time is longer.
        let lately = self.pieces * COUNTED.as_millis() as usize / counted.as_millis() as usize;
        let spacing = SPACINGS.iter().find(|(from, _)| lately >= *from);
        self.spacing = spacing.map(|(_, spacing)| *spacing);
        self.since = now;
        self.pieces = 0;
    }
}

/// A connection whose commits need no fsync.
async fn open(options: &Arc<PgConnectOptions>) -> Result<PgConnection, LogError> {
    let options = options.as_ref().clone().application_name(POOL_NAME);
    let options = options.options([("synchronous_commit", "off")]);
    Ok(options.connect().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The spacing after a second of statements that each wrote `pieces`, one every `millis`.
    fn spacing(pieces: usize, millis: u64) -> Option<Duration> {
        let mut now = Instant::now();
        let mut pace = WritingPace::new(now);
        for _ in 0..1000 / millis {
            now += Duration::from_millis(millis);
            pace.begins(now, pieces);
        }
        pace.next_at().map(|next| next - now)
    }

    #[test]
    fn pieces_gather_only_while_many_turns_write() {
        assert_eq!(spacing(1, 10), None, "one turn");
        assert_eq!(spacing(8, 10), None, "eight turns");
        assert_eq!(spacing(1, 1), Some(Duration::from_millis(2)), "ten turns");
        assert_eq!(spacing(50, 5), Some(Duration::from_millis(4)), "hundred");
        assert_eq!(spacing(50, 500), None, "a burst now and then");
    }
}
