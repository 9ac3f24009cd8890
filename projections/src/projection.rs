//! The trait of every projection, and the parts that projections share.

use std::collections::{BTreeSet, HashSet};

use futures_util::{FutureExt, future::BoxFuture};
use genie_events::{Event, StreamKind, Timestamp, UserId};
use genie_log::{
    Fact, Log, LogError, StoreTransaction, UserKeys, forgetting::UserRows, store::Store,
};
use sqlx::{Row, any::AnyRow};
use uuid::Uuid;

/// A transaction on either store.
pub type Tx = StoreTransaction;

pub trait Projection: Send + Sync + 'static {
    /// The table's word, such as `jobs`.
    fn name(&self) -> &'static str;

    /// True when the projection needs the facts of such streams.
    fn wants(&self, kind: StreamKind) -> bool;

    /// Where a user's rows stand. They are deleted when the user is forgotten.
    fn rows(&self) -> &'static [UserRows];

    /// Columns, as table and column, that name a user in rows that are not the user's. They are
    /// emptied when that user is forgotten.
    fn mentions(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// Writes the changes of a batch of facts. They come in order, and all are of streams that the
    /// projection wants.
    fn apply<'a>(
        &'a self,
        facts: &'a [Seen<'a>],
        tx: &'a mut Tx,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>>;

    /// Deletes at most `most` of a forgotten user's rows from each table; answers the largest
    /// number of rows that a table lost.
    fn erase<'a>(
        &'a self,
        user: UserId,
        most: i64,
        tx: &'a mut Tx,
    ) -> BoxFuture<'a, Result<u64, sqlx::Error>> {
        async move {
            let mut largest = 0;
            for rows in self.rows() {
                largest = rows.erase(tx, user, most).await?.max(largest);
            }
            Ok(largest)
        }
        .boxed()
    }

    /// True when counts wait for [`Projection::pass_time`].
    fn is_due<'a>(
        &'a self,
        _now: Timestamp,
        _store: &'a Store,
    ) -> BoxFuture<'a, Result<bool, sqlx::Error>> {
        async { Ok(false) }.boxed()
    }

    /// Brings counts that depend on the time up to `now`, some at a time.
    fn pass_time<'a>(
        &'a self,
        _now: Timestamp,
        _tx: &'a mut Tx,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        async { Ok(()) }.boxed()
    }
}

/// An opened fact, as handed to a projection.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    pub fact: &'a Fact,
    pub event: &'a Event,
    pub(crate) keys: &'a UserKeys,
}

impl Seen<'_> {
    /// The id of the fact's stream.
    pub fn id(&self) -> String {
        self.fact.stream.id.to_string()
    }

    /// The owner; nil for the system's facts.
    pub fn owner(&self) -> Uuid {
        self.fact.user.map(Uuid::from).unwrap_or_default()
    }

    /// The owner as text. The system's facts have an empty one.
    pub fn user(&self) -> String {
        self.fact
            .user
            .map(|user| user.to_string())
            .unwrap_or_default()
    }

    pub fn at(&self) -> Timestamp {
        self.fact.recorded_at
    }

    /// Seals personal text for a column (`table.column`).
    pub fn seal(&self, column: &str, text: &str) -> Vec<u8> {
        self.keys.seal_text(column, text)
    }

    pub fn seal_option(&self, column: &str, text: Option<&str>) -> Option<Vec<u8>> {
        text.map(|text| self.seal(column, text))
    }
}

/// The streams among these facts that began in an earlier batch, so that their rows must be read.
/// `begins` tells the first fact of a stream.
pub(crate) fn begun_before(facts: &[Seen<'_>], begins: impl Fn(&Event) -> bool) -> BTreeSet<Uuid> {
    let mut new = HashSet::new();
    let mut begun = BTreeSet::new();
    for seen in facts {
        let id = seen.fact.stream.id;
        if begins(seen.event) {
            new.insert(id);
        } else if !new.contains(&id) {
            begun.insert(id);
        }
    }
    begun
}

/// Opens a sealed column for a reader. A failure is the server's fault, never the caller's.
pub(crate) fn open(keys: &UserKeys, column: &str, sealed: &[u8]) -> Result<String, LogError> {
    keys.open_text(column, sealed)
        .map_err(|reason| LogError::Statement(format!("{column} cannot be opened: {reason}")))
}

pub(crate) fn open_option(
    keys: &UserKeys,
    column: &str,
    sealed: Option<Vec<u8>>,
) -> Result<Option<String>, LogError> {
    sealed.map(|sealed| open(keys, column, &sealed)).transpose()
}

/// A column of ids that the statement shows as text.
pub(crate) fn id_column(row: &AnyRow, column: &str) -> Result<Uuid, sqlx::Error> {
    let text: String = row.try_get(column)?;
    Uuid::try_parse(&text).map_err(|error| sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: Box::new(error),
    })
}

pub(crate) fn user_id(text: &str) -> Result<UserId, LogError> {
    text.parse()
        .map_err(|_| LogError::Statement("a read table holds an invalid user id".into()))
}

/// Runs a read on the runtime that owns the store's connections.
pub(crate) async fn read<T, W>(
    log: &Log,
    work: impl FnOnce(Store) -> W + Send + 'static,
) -> Result<T, LogError>
where
    T: Send + 'static,
    W: Future<Output = Result<T, LogError>> + Send + 'static,
{
    log.store().run(work).await
}
