//! The stock stack that genie is compared with: unmodified cqrs-es and postgres-es, with the table
//! of their documentation.

use std::{convert::Infallible, str::FromStr, sync::Arc};

use cqrs_es::{Aggregate, DomainEvent, event_sink::EventSink};
use futures_util::future::try_join_all;
use postgres_es::{PostgresCqrs, postgres_cqrs};
use serde::{Deserialize, Serialize};
use sqlx::{
    Connection, PgConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::Instant;
use uuid::Uuid;

use crate::setup::{Measured, purpose};

/// As in postgres-es 0.5.0, `db/init.sql`.
const TABLE: &str = "CREATE TABLE stock.events (
    aggregate_type text                         NOT NULL,
    aggregate_id   text                         NOT NULL,
    sequence       bigint CHECK (sequence >= 0) NOT NULL,
    event_type     text                         NOT NULL,
    event_version  text                         NOT NULL,
    payload        json                         NOT NULL,
    metadata       json                         NOT NULL,
    PRIMARY KEY (aggregate_type, aggregate_id, sequence)
)";

/// New aggregates that are made at once.
const AT_ONCE: usize = 1000;

/// The same state as a stored credential: a version, and facts that it was revealed.
#[derive(Debug, Default, Serialize, Deserialize)]
struct StockCredential {
    version: u32,
    revealed: u64,
}

struct Reveal {
    purpose: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum HeldEvent {
    Revealed { version: u32, purpose: String },
}

impl DomainEvent for HeldEvent {
    fn event_type(&self) -> String {
        "credential.revealed".into()
    }

    fn event_version(&self) -> String {
        "1".into()
    }
}

impl Aggregate for StockCredential {
    const TYPE: &'static str = "credential";
    type Command = Reveal;
    type Event = HeldEvent;
    type Error = Infallible;
    type Services = ();

    async fn handle(
        &mut self,
        command: Reveal,
        (): &(),
        sink: &EventSink<Self>,
    ) -> Result<(), Infallible> {
        sink.write(
            HeldEvent::Revealed {
                version: self.version,
                purpose: command.purpose,
            },
            self,
        )
        .await;
        Ok(())
    }

    fn apply(&mut self, event: HeldEvent) {
        let HeldEvent::Revealed { version, .. } = event;
        self.version = version;
        self.revealed += 1;
    }
}

/// The stock stack in its own schema of the same database.
pub struct Stock {
    cqrs: Arc<PostgresCqrs<StockCredential>>,
}

impl Stock {
    pub async fn prepare(url: &str) -> Measured<()> {
        let mut connection = PgConnection::connect(url).await?;
        sqlx::query("CREATE SCHEMA stock")
            .execute(&mut connection)
            .await?;
        sqlx::query(TABLE).execute(&mut connection).await?;
        Ok(())
    }

    /// Opens a pool of this size with all its connections.
    pub async fn open(url: &str, connections: u32) -> Measured<Self> {
        let options = PgConnectOptions::from_str(url)?.options([("search_path", "stock")]);
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .min_connections(connections)
            .connect_with(options)
            .await?;
        Ok(Self {
            cqrs: Arc::new(postgres_cqrs(pool, vec![], ())),
        })
    }

    /// Commands per second of `tasks` tasks. Each has its own new aggregate, like a new user of
    /// genie. The first command of each is not counted, like genie's.
    pub async fn rate(&self, tasks: usize, each: usize) -> Measured<f64> {
        let ids: Vec<String> = (0..tasks).map(|_| Uuid::new_v4().to_string()).collect();
        self.all_ask(&ids, 1).await?;
        let began = Instant::now();
        self.all_ask(&ids, each).await?;
        Ok((tasks * each) as f64 / began.elapsed().as_secs_f64())
    }

    /// Makes as many new aggregates.
    pub async fn grow(&self, count: usize) -> Measured<()> {
        let ids: Vec<String> = (0..count).map(|_| Uuid::new_v4().to_string()).collect();
        for ids in ids.chunks(AT_ONCE) {
            self.all_ask(ids, 1).await?;
        }
        Ok(())
    }

    async fn all_ask(&self, ids: &[String], each: usize) -> Measured<()> {
        let clients = ids.iter().map(|id| {
            let cqrs = Arc::clone(&self.cqrs);
            let id = id.clone();
            tokio::spawn(async move {
                for _ in 0..each {
                    cqrs.execute(&id, Reveal { purpose: purpose() }).await?;
                }
                Measured::Ok(())
            })
        });
        try_join_all(clients).await?.into_iter().collect()
    }
}
