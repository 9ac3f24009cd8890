//! A pool of connections that are pinged neither before nor after their use. A connection comes
//! back when its work ended well. One that broke, timed out or was left in the middle of a
//! statement is closed, and the idle ones with it: what broke one of them broke the others.

use std::{
    collections::VecDeque,
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Duration,
};

use futures_util::{
    FutureExt, StreamExt, TryFutureExt, TryStreamExt,
    future::{BoxFuture, pending, ready},
    stream::{self, BoxStream},
};
use parking_lot::Mutex;
use sqlx::{
    Any, Database, Describe, Either, Error, Execute, Executor,
    any::{AnyArguments, AnyQueryResult, AnyRow},
};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

use crate::{
    store::LONGEST,
    write_turns::{WriteTurn, WriteTurns},
};

/// One connection to either store.
mod connection;
pub(crate) use connection::ConnectionOptions;
pub use connection::StoreConnection;

/// When no connection is free or can be opened for this long, the store counts as away.
const ACQUIRE: Duration = Duration::from_secs(3);
/// No statement takes longer: the store itself ends it after 10 s (`statement_timeout`).
const ANSWER: Duration = Duration::from_secs(11);
/// A connection that lay idle for longer may belong to a server that vanished without a word.
const RESTED: Duration = Duration::from_secs(1);
/// The longest wait for the first answer of a rested connection, before a fresh one is tried.
const ANSWER_AFTER_REST: Duration = Duration::from_secs(3);
/// The longest time for a `BEGIN`, or for the `ROLLBACK` of an abandoned transaction. SQLite waits
/// 3 s of it for another writer.
const BEGINNING: Duration = Duration::from_secs(5);
/// An idle connection is closed after this time.
const IDLE: Duration = Duration::from_secs(600);
/// A connection is not lent again after this time.
const LIFETIME: Duration = Duration::from_secs(1800);

/// The options of a pool.
pub(crate) struct ConnectionSettings {
    pub options: ConnectionOptions,
    /// Statements that each connection runs first.
    pub first: Vec<String>,
    /// The most connections.
    pub most: u32,
    /// The statement that begins a transaction.
    pub begin: &'static str,
    /// Transactions wait here for their turn.
    pub turns: Option<WriteTurns>,
    /// True for a server, which may vanish without a word. A file answers, however long it takes.
    pub may_vanish: bool,
}

#[derive(Clone)]
pub struct Connections(Arc<Inner>);

struct Inner {
    settings: ConnectionSettings,
    /// The runtime that owns the connections.
    io: Handle,
    places: Arc<Semaphore>,
    /// The last one returned is at the back, and is lent first.
    idle: Mutex<VecDeque<IdleConnection>>,
}

struct IdleConnection {
    connection: StoreConnection,
    opened: Instant,
    since: Instant,
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connections(at most {})", self.0.settings.most)
    }
}

impl Connections {
    /// Call it on the runtime that is to own the connections. None is opened yet.
    pub(crate) fn new(settings: ConnectionSettings) -> Self {
        Self(Arc::new(Inner {
            io: Handle::current(),
            places: Arc::new(Semaphore::new(settings.most as usize)),
            idle: Mutex::default(),
            settings,
        }))
    }

    /// Lends a connection. It comes back by [`LentConnection::give_back`]; a dropped one is closed.
    pub(crate) async fn lend(&self) -> Result<LentConnection, Error> {
        let place = self.place().await?;
        match self.take_idle() {
            Some(idle) => Ok(self.lent(place, idle)),
            None => self.open(place).await,
        }
    }

    async fn place(&self) -> Result<OwnedSemaphorePermit, Error> {
        let place = Arc::clone(&self.0.places).acquire_owned();
        match timeout(ACQUIRE, place).await {
            Ok(Ok(place)) => Ok(place),
            // The process is about to end. What still asks is work in the background, which would
            // report that the store is away.
            Ok(Err(_)) => pending().await,
            Err(_) => Err(Error::PoolTimedOut),
        }
    }

    fn take_idle(&self) -> Option<IdleConnection> {
        let mut idle = self.0.idle.lock();
        while idle
            .front()
            .is_some_and(|longest| longest.since.elapsed() > IDLE)
        {
            idle.pop_front();
        }
        idle.pop_back()
    }

    fn lent(&self, place: OwnedSemaphorePermit, idle: IdleConnection) -> LentConnection {
        LentConnection {
            rested: Some(idle.since.elapsed()),
            opened: idle.opened,
            connection: idle.connection,
            pool: self.clone(),
            turn: None,
            place,
        }
    }

    async fn open(&self, place: OwnedSemaphorePermit) -> Result<LentConnection, Error> {
        let opening = async {
            let settings = &self.0.settings;
            let mut connection = StoreConnection::open(&settings.options).await?;
            for statement in &settings.first {
                sqlx::query(statement).execute(&mut connection).await?;
            }
            Ok(connection)
        };
        let opened = timeout(ACQUIRE, opening).await;
        Ok(LentConnection {
            connection: opened.unwrap_or(Err(Error::PoolTimedOut))?,
            opened: Instant::now(),
            rested: None,
            pool: self.clone(),
            turn: None,
            place,
        })
    }

    /// A connection broke. The idle ones are no younger than it.
    fn close_idle(&self) {
        let idle = std::mem::take(&mut *self.0.idle.lock());
        drop(idle);
    }

    /// A transaction, begun by `statement`. When the connection turns out broken, nothing has
    /// happened yet, and a fresh one is tried.
    pub(crate) async fn begin_with(
        &self,
        statement: &'static str,
    ) -> Result<StoreTransaction, Error> {
        let mut lent = self.lend().await?;
        if let Some(turns) = &self.0.settings.turns {
            lent.turn = match turns.next().await {
                Ok(turn) => Some(turn),
                Err(late) => {
                    lent.give_back();
                    return Err(late);
                }
            };
        }
        let began = lent.begin(statement).await;
        match began {
            Err(error) if lent.rested.is_some() && is_broken(&error) => {
                let mut fresh = lent.replace().await?;
                fresh.begin(statement).await?;
                Ok(StoreTransaction { lent: Some(fresh) })
            }
            Ok(()) => Ok(StoreTransaction { lent: Some(lent) }),
            Err(error) => Err(lent.failed(error)),
        }
    }

    pub(crate) async fn begin(&self) -> Result<StoreTransaction, Error> {
        self.begin_with(self.0.settings.begin).await
    }

    /// One statement that changes nothing. When the connection turns out broken, the statement runs
    /// once more on a fresh one.
    async fn read(&self, statement: Statement<'_>) -> Result<Vec<StatementResult>, Error> {
        let mut lent = self.lend().await?;
        let rested = lent.rested;
        let limit = match rested {
            _ if !self.0.settings.may_vanish => LONGEST,
            Some(rested) if rested > RESTED => ANSWER_AFTER_REST,
            _ => ANSWER,
        };
        match lent.run(statement.copy(), limit).await {
            Err(error) if rested.is_some() && is_broken(&error) => {
                let mut fresh = lent.replace().await?;
                let results = fresh.run(statement, ANSWER).await;
                fresh.ended(results)
            }
            results => lent.ended(results),
        }
    }

    /// Closes all connections, those in use when they come back. Who asks for one afterwards waits for ever.
    pub(crate) async fn close(&self) {
        let all = self.0.places.acquire_many(self.0.settings.most);
        let _ = timeout(ANSWER, all).await; // those that take longer are closed when they come back
        self.0.places.close();
        let idle = std::mem::take(&mut *self.0.idle.lock());
        for idle in idle {
            let _ = idle.connection.close().await; // it is gone either way
        }
    }
}

type StatementResult = Either<AnyQueryResult, AnyRow>;

/// A statement that can be sent twice.
struct Statement<'q> {
    sql: &'q str,
    arguments: Option<AnyArguments<'q>>,
}

impl<'q> Statement<'q> {
    fn of(mut query: impl Execute<'q, Any>) -> Result<Self, Error> {
        Ok(Self {
            arguments: query.take_arguments().map_err(Error::Encode)?,
            sql: query.sql(),
        })
    }

    fn copy(&self) -> Self {
        let copied = |arguments: &AnyArguments<'q>| {
            let mut copy = AnyArguments::default();
            copy.values.0.clone_from(&arguments.values.0);
            copy
        };
        Self {
            sql: self.sql,
            arguments: self.arguments.as_ref().map(copied),
        }
    }
}

impl<'p> Executor<'p> for &'p Connections {
    type Database = Any;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<AnyQueryResult, AnyRow>, Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Any>,
    {
        let statement = match Statement::of(query) {
            Ok(statement) => statement,
            Err(error) => return stream::once(ready(Err(error))).boxed(),
        };
        let read = async move {
            let results = self.read(statement).await?;
            Ok(stream::iter(results.into_iter().map(Ok)))
        };
        read.try_flatten_stream().boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<AnyRow>, Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Any>,
    {
        let statement = Statement::of(query);
        async move {
            let results = self.read(statement?).await?;
            Ok(results.into_iter().find_map(Either::right))
        }
        .boxed()
    }

    fn prepare_with<'e, 'q: 'e>(
        self,
        _: &'q str,
        _: &'e [<Any as Database>::TypeInfo],
    ) -> BoxFuture<'e, Result<<Any as Database>::Statement<'q>, Error>>
    where
        'p: 'e,
    {
        ready(Err(not_for_a_pool())).boxed()
    }

    fn describe<'e, 'q: 'e>(self, _: &'q str) -> BoxFuture<'e, Result<Describe<Any>, Error>>
    where
        'p: 'e,
    {
        ready(Err(not_for_a_pool())).boxed()
    }
}

fn not_for_a_pool() -> Error {
    Error::Configuration("a statement is prepared on one connection, not on a pool".into())
}

/// A lent connection. It holds its place in the pool until it is dropped.
pub(crate) struct LentConnection {
    connection: StoreConnection,
    opened: Instant,
    /// The time for which it lay idle; `None` when it was opened for this use.
    rested: Option<Duration>,
    pool: Connections,
    /// Of a transaction in an embedded store.
    turn: Option<WriteTurn>,
    place: OwnedSemaphorePermit,
}

impl LentConnection {
    /// Returns a sound connection. Invariant: its last statement was read to the end, and it is in
    /// no transaction.
    pub fn give_back(self) {
        if self.opened.elapsed() > LIFETIME || self.pool.0.places.is_closed() {
            return;
        }
        self.pool.0.idle.lock().push_back(IdleConnection {
            connection: self.connection,
            opened: self.opened,
            since: Instant::now(),
        });
    }

    async fn run(
        &mut self,
        statement: Statement<'_>,
        limit: Duration,
    ) -> Result<Vec<StatementResult>, Error> {
        let results = self
            .connection
            .fetch_many((statement.sql, statement.arguments))
            .try_collect();
        in_time(limit, results).await
    }

    async fn begin(&mut self, statement: &'static str) -> Result<(), Error> {
        in_time(BEGINNING, self.connection.begin(statement)).await
    }

    /// Another connection in the same place, for one that broke.
    async fn replace(self) -> Result<Self, Error> {
        let Self {
            pool, turn, place, ..
        } = self;
        pool.close_idle();
        let fresh = pool.open(place).await?;
        Ok(Self { turn, ..fresh })
    }

    fn ended<T>(self, result: Result<T, Error>) -> Result<T, Error> {
        match result {
            Ok(value) => {
                self.give_back();
                Ok(value)
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    /// A refused statement leaves the connection as good as it was.
    fn failed(self, error: Error) -> Error {
        if is_broken(&error) {
            self.pool.close_idle();
        } else if matches!(error, Error::Database(_)) {
            self.give_back();
        }
        error
    }
}

impl Deref for LentConnection {
    type Target = StoreConnection;

    fn deref(&self) -> &StoreConnection {
        &self.connection
    }
}

impl DerefMut for LentConnection {
    fn deref_mut(&mut self) -> &mut StoreConnection {
        &mut self.connection
    }
}

/// A transaction. Dropped before its end, it is rolled back.
pub struct StoreTransaction {
    /// `None` after its end.
    lent: Option<LentConnection>,
}

impl StoreTransaction {
    pub async fn commit(mut self) -> Result<(), Error> {
        let Some(mut lent) = self.lent.take() else {
            return Ok(());
        };
        let committed = in_time(ANSWER, lent.connection.commit()).await;
        match committed {
            Ok(()) => {
                lent.give_back();
                Ok(())
            }
            Err(error) => {
                // Whether the transaction lasts is unknown, and so is the connection's state.
                if is_broken(&error) {
                    lent.pool.close_idle();
                }
                Err(error)
            }
        }
    }

    pub async fn rollback(mut self) -> Result<(), Error> {
        match self.lent.take() {
            Some(lent) => roll_back(lent).await,
            None => Ok(()),
        }
    }
}

/// A connection that cannot roll back is closed. SQLite ends a transaction by itself when its disk
/// is full, and sqlx' count of open transactions never learns of that.
async fn roll_back(mut lent: LentConnection) -> Result<(), Error> {
    let rolled_back = in_time(BEGINNING, lent.connection.rollback()).await;
    match &rolled_back {
        Ok(()) => lent.give_back(),
        Err(error) if is_broken(error) => lent.pool.close_idle(),
        Err(_) => {}
    }
    rolled_back
}

impl Drop for StoreTransaction {
    fn drop(&mut self) {
        if let Some(lent) = self.lent.take() {
            let io = lent.pool.0.io.clone();
            io.spawn(roll_back(lent));
        }
    }
}

impl Deref for StoreTransaction {
    type Target = StoreConnection;

    fn deref(&self) -> &StoreConnection {
        let lent = self.lent.as_ref();
        &lent.expect("only its end takes the connection").connection
    }
}

impl DerefMut for StoreTransaction {
    fn deref_mut(&mut self) -> &mut StoreConnection {
        let lent = self.lent.as_mut();
        &mut lent.expect("only its end takes the connection").connection
    }
}

async fn in_time<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    timeout(limit, work)
        .await
        .unwrap_or(Err(Error::PoolTimedOut))
}

/// True when the connection itself is at fault: it broke, did not answer in time, or belongs to a
/// session that the server has ended or keeps read-only.
///
/// Postgres: SQLSTATE classes 08 (connection) and 57P0x (shutdown, ended by an administrator or for
/// idleness), 25P03 (left open in a transaction), 25006 (read-only).
pub(crate) fn is_broken(error: &Error) -> bool {
    match error {
        Error::Database(database) => {
            let code = database.code().unwrap_or_default();
            let has_five = code.len() == 5; // SQLite's codes are shorter
            has_five
                && (code.starts_with("08")
                    || code.starts_with("57P0")
                    || matches!(&*code, "25P03" | "25006"))
        }
        Error::Io(_)
        | Error::Tls(_)
        | Error::Protocol(_)
        | Error::PoolTimedOut
        | Error::WorkerCrashed => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
