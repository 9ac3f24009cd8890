//! One connection to either store, spoken to in SQL that both stores understand.

use std::borrow::Cow;

use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, ready},
    stream::{self, BoxStream},
};
use sqlx::{
    Any, ConnectOptions, Database, Describe, Either, Error, Execute, Executor,
    any::{AnyQueryResult, AnyRow},
    postgres::PgConnectOptions,
    sqlite::SqliteConnectOptions,
};
use sqlx_core::any::AnyConnectionBackend;

#[cfg(any(test, feature = "testing"))]
use crate::sqlite_counters;

/// Where a connection leads.
#[derive(Debug, Clone)]
pub(crate) enum ConnectionOptions {
    Postgres(PgConnectOptions),
    Sqlite(SqliteConnectOptions),
}

/// A connection like sqlx' `AnyConnection`, which hides the store's own type from its first moment
/// on. Here a connection is set up by its own type, and hidden afterwards.
#[derive(Debug)]
pub struct StoreConnection(Box<dyn AnyConnectionBackend>);

impl StoreConnection {
    pub(crate) async fn open(options: &ConnectionOptions) -> Result<Self, Error> {
        match options {
            ConnectionOptions::Postgres(options) => Ok(Self(Box::new(options.connect().await?))),
            ConnectionOptions::Sqlite(options) => {
                let connection = options.connect().await?;
                #[cfg(any(test, feature = "testing"))]
                let connection = sqlite_counters::counted(connection, options).await?;
                Ok(Self(Box::new(connection)))
            }
        }
    }

    /// As sqlx names the store: `PostgreSQL` or `SQLite`.
    pub fn backend_name(&self) -> &str {
        self.0.name()
    }

    pub(crate) async fn close(self) -> Result<(), Error> {
        self.0.close().await
    }

    pub(crate) async fn begin(&mut self, statement: &'static str) -> Result<(), Error> {
        self.0.begin(Some(Cow::Borrowed(statement))).await
    }

    pub(crate) async fn commit(&mut self) -> Result<(), Error> {
        self.0.commit().await
    }

    pub(crate) async fn rollback(&mut self) -> Result<(), Error> {
        self.0.rollback().await
    }
}

impl<'c> Executor<'c> for &'c mut StoreConnection {
    type Database = Any;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        mut query: E,
    ) -> BoxStream<'e, Result<Either<AnyQueryResult, AnyRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Any>,
    {
        match query.take_arguments() {
            Ok(arguments) => self
                .0
                .fetch_many(query.sql(), query.persistent(), arguments),
            Err(error) => stream::once(ready(Err(Error::Encode(error)))).boxed(),
        }
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        mut query: E,
    ) -> BoxFuture<'e, Result<Option<AnyRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Any>,
    {
        match query.take_arguments() {
            Ok(arguments) => self
                .0
                .fetch_optional(query.sql(), query.persistent(), arguments),
            Err(error) => ready(Err(Error::Encode(error))).boxed(),
        }
    }

    fn prepare_with<'e, 'q: 'e>(
        self,
        sql: &'q str,
        parameters: &'e [<Any as Database>::TypeInfo],
    ) -> BoxFuture<'e, Result<<Any as Database>::Statement<'q>, Error>>
    where
        'c: 'e,
    {
        self.0.prepare_with(sql, parameters)
    }

    fn describe<'e, 'q: 'e>(self, sql: &'q str) -> BoxFuture<'e, Result<Describe<Any>, Error>>
    where
        'c: 'e,
    {
        self.0.describe(sql)
    }
}
