//! A node that stands for election on Postgres, on a connection of its own: the lock lives and dies with it, and no pool may
//! close, share or reset it.
//!
//! How soon another node is elected, when the elected one
//! - dies: its connection ends, the lock falls free, and the next [`LOOK`] of a candidate finds it;
//! - is stopped, hangs or is cut off, so that the database still holds its connection: a candidate finds it silent for longer
//!   than [`SILENT`] and has that connection ended;
//! - was stopped in the middle of a transaction in office: the candidate waits for it for [`PATIENCE`], then has it ended too.
//!
//! Invariant: [`TERM`] is shorter than [`SILENT`] and counted from before a heartbeat was sent, so a node knows that its term is
//! over before anybody may take it for silent.

use std::time::Duration;

use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};
use tracing::{error, info, warn};

use super::{Epoch, Term};

/// How often the elected node says that it is there.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// For how long a node is elected after a heartbeat.
const TERM: Duration = Duration::from_secs(2);
/// How long the elected node may be unheard of before another is elected; by the database's clock.
pub(super) const SILENT: Duration = Duration::from_millis(2_500);
/// How often a candidate looks whether the lock is free.
const LOOK: Duration = Duration::from_millis(200);
/// How long a candidate that holds the lock waits for the transactions of who held it before.
const PATIENCE: Duration = Duration::from_millis(300);
/// How long the database may take for one step of a candidate, which waits for nothing longer than [`PATIENCE`].
const STEP: Duration = Duration::from_secs(2);
/// How long after a process of the database was told to end its locks are free, as a rule.
const ENDING: Duration = Duration::from_millis(50);

/// Postgres' code for a lock that was not given in time.
const LOCK_NOT_AVAILABLE: &str = "55P03";
/// Postgres' code for what the role may not do.
const NOT_PERMITTED: &str = "42501";

pub(super) struct Candidate {
    options: PgConnectOptions,
    node: String,
    tell: watch::Sender<Option<Term>>,
    /// Whether the last try to stand failed: said once, not at each try.
    is_failing: bool,
    /// Whether it was said that the role may not end other nodes' connections.
    has_asked_for_rights: bool,
}

/// What a candidate's try came to.
enum Try {
    Elected {
        epoch: Epoch,
        until: Instant,
    },
    /// Worth another after a pause.
    Again(Duration),
}

impl Candidate {
    pub fn new(options: &PgConnectOptions, node: &str, tell: watch::Sender<Option<Term>>) -> Self {
        // Heartbeats need no fsync; raising the epoch asks for one itself.
        let options = options
            .clone()
            .application_name("genie election")
            .options([("synchronous_commit", "off")]);
        Self {
            options,
            node: node.to_owned(),
            tell,
            is_failing: false,
            has_asked_for_rights: false,
        }
    }

    /// Stands, serves and stands again, until nobody asks any more who is elected.
    pub async fn stand(mut self) {
        let unasked = self.tell.clone();
        tokio::select! {
            () = unasked.closed() => {}
            () = self.stand_for_ever() => {}
        }
    }

    async fn stand_for_ever(&mut self) {
        loop {
            // The connection is closed, and with it the lock free, when this returns.
            if let Err(error) = self.stand_once().await
                && !self.is_failing
            {
                self.is_failing = true;
                warn!(%error, "this node can't stand for election; trying on");
            }
            sleep(LOOK).await;
        }
    }

    async fn stand_once(&mut self) -> Result<(), sqlx::Error> {
        let mut connection = in_time(PgConnection::connect_with(&self.options)).await?;
        loop {
            match self.try_once(&mut connection).await? {
                Try::Again(pause) => sleep(pause).await,
                Try::Elected { epoch, until } => {
                    self.is_failing = false;
                    self.serve(&mut connection, epoch, until).await;
                    return Ok(());
                }
            }
            self.is_failing = false;
        }
    }

    /// Tries to get the lock, and with it the epoch raised; ends what stands in the way and does not run.
    async fn try_once(&mut self, connection: &mut PgConnection) -> Result<Try, sqlx::Error> {
        let query = sqlx::query_as("SELECT won, silent FROM try_election($1)")
            .bind(SILENT.as_micros() as i64);
        let (won, silent): (bool, Option<i64>) = in_time(query.fetch_one(&mut *connection)).await?;
        if let Some(backend) = silent {
            let query = sqlx::query("SELECT pg_terminate_backend($1::int)").bind(backend);
            return self.ended(
                in_time(query.execute(&mut *connection)).await,
                "the elected node has not been heard of",
            );
        }
        if !won {
            return Ok(Try::Again(LOOK));
        }
        let sent = Instant::now();
        let query = sqlx::query_scalar("SELECT raise_epoch($1, $2)")
            .bind(&self.node)
            .bind(PATIENCE.as_millis() as i32);
        match in_time(query.fetch_one(&mut *connection)).await {
            Ok(epoch) => Ok(Try::Elected {
                epoch: Epoch(epoch),
                until: sent + TERM,
            }),
            Err(error) if is(&error, LOCK_NOT_AVAILABLE) => {
                let ended =
                    in_time(sqlx::query("SELECT end_office()").execute(&mut *connection)).await;
                self.ended(
                    ended,
                    "transactions of the node that was elected before were still open",
                )
            }
            Err(error) => Err(error),
        }
    }

    /// What comes after other nodes' connections were told to end.
    fn ended<T>(&mut self, ended: Result<T, sqlx::Error>, why: &str) -> Result<Try, sqlx::Error> {
        match ended {
            Ok(_) => {
                warn!(why, "connections of another node were ended");
                Ok(Try::Again(ENDING))
            }
            Err(error) if is(&error, NOT_PERMITTED) => {
                if !self.has_asked_for_rights {
                    self.has_asked_for_rights = true;
                    error!(
                        %error,
                        "no node can be elected: the database's role may not end the connections of the node that does not answer; \
                         let all servers use one role, or GRANT pg_signal_backend to this one"
                    );
                }
                Ok(Try::Again(LOOK))
            }
            Err(error) => Err(error),
        }
    }

    /// Is elected, until a heartbeat fails or comes too late.
    async fn serve(&self, connection: &mut PgConnection, epoch: Epoch, until: Instant) {
        self.tell.send_replace(Some(Term {
            epoch,
            until: Some(until),
        }));
        info!(epoch = epoch.0, node = self.node, "this node is elected");
        let reason = self.renew(connection, epoch, until).await;
        self.tell.send_replace(None);
        warn!(
            epoch = epoch.0,
            node = self.node,
            reason,
            "this node is not elected any more"
        );
    }

    /// Renews the term for as long as it can; answers why it can't.
    async fn renew(
        &self,
        connection: &mut PgConnection,
        epoch: Epoch,
        mut until: Instant,
    ) -> String {
        let sql = "UPDATE elections SET renewed_at = micros_now() WHERE name = 'genie' AND epoch = $1 AND backend = pg_backend_pid()";
        loop {
            sleep(HEARTBEAT).await;
            let sent = Instant::now();
            let renewed = timeout_at(
                until,
                sqlx::query(sql).bind(epoch.0).execute(&mut *connection),
            )
            .await;
            match renewed {
                // A process that was stopped finds an answer and its term over: who asked meanwhile was told so, and that stands.
                Err(_) => return "the store did not answer in time".into(),
                Ok(_) if Instant::now() >= until => {
                    return "the store did not answer in time".into();
                }
                Ok(Err(error)) => return error.to_string(),
                Ok(Ok(renewed)) if renewed.rows_affected() == 0 => {
                    return "another node was elected".into();
                }
                Ok(Ok(_)) => until = sent + TERM,
            }
            self.tell.send_if_modified(|term| {
                *term = Some(Term {
                    epoch,
                    until: Some(until),
                });
                false // a longer term is no news
            });
        }
    }
}

fn is(error: &sqlx::Error, code: &str) -> bool {
    error
        .as_database_error()
        .and_then(|error| error.code())
        .is_some_and(|found| found == code)
}

async fn in_time<T>(step: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    match timeout(STEP, step).await {
        Ok(done) => done,
        Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
    }
}
