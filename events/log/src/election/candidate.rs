//! A node that stands for election on Postgres. It has a connection of its own: the lock lives and
//! dies with the connection, and no pool may close, share or reset it.
//!
//! The time until another node is elected, when the leader
//! - dies: its connection ends, the lock falls free, and the next [`LOOK`] of a candidate finds it;
//! - is stopped, hangs or is cut off, while the database still holds its connection: a candidate
//!   finds it silent for longer than [`SILENT`] and ends the connection;
//! - was stopped in the middle of a transaction of its term: the candidate waits [`PATIENCE`] for
//!   the transaction, then ends it, too.
//!
//! Invariant: [`TERM`] is shorter than [`SILENT`] and counted from before a heartbeat was sent. So
//! a node knows that its term is over before anybody may take it for silent.

use std::time::Duration;

use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use tracing::{error, info, warn};

use super::{Epoch, Term};
use crate::store::in_time_or;

/// How often the leader renews.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// A node leads for this long after a heartbeat.
const TERM: Duration = Duration::from_secs(2);
/// A leader that has not renewed for this long, by the database's clock, is replaced.
pub(super) const SILENT: Duration = Duration::from_millis(2_500);
/// How often a candidate tries the lock.
const LOOK: Duration = Duration::from_millis(200);
/// A candidate that holds the lock waits this long for the open transactions of the last leader.
const PATIENCE: Duration = Duration::from_millis(300);
/// The database may take this long for one step of a candidate, which itself waits at most
/// [`PATIENCE`].
const STEP: Duration = Duration::from_secs(2);
/// A database process that was told to end has usually released its locks after this time.
const ENDING: Duration = Duration::from_millis(50);

/// Postgres' code for a lock that was not granted in time.
const LOCK_NOT_AVAILABLE: &str = "55P03";
/// Postgres' code for an operation that the role may not do.
const NOT_PERMITTED: &str = "42501";

pub(super) struct Candidate {
    options: PgConnectOptions,
    node: String,
    tell: watch::Sender<Option<Term>>,
    /// True when the last attempt to stand failed: a failure is logged once, not at each attempt.
    is_failing: bool,
    /// True once it is logged that the role may not end other nodes' connections.
    has_asked_for_rights: bool,
}

enum Try {
    Elected {
        epoch: Epoch,
        until: Instant,
    },
    /// To be repeated after a pause.
    Again(Duration),
}

impl Candidate {
    pub fn new(options: &PgConnectOptions, node: &str, tell: watch::Sender<Option<Term>>) -> Self {
        // A heartbeat needs no fsync. Raising the epoch asks for one itself.
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

    /// Stands, leads and stands again, until nobody asks for the leader any more.
    pub async fn stand(mut self) {
        let unasked = self.tell.clone();
        tokio::select! {
            () = unasked.closed() => {}
            () = self.stand_for_ever() => {}
        }
    }

    async fn stand_for_ever(&mut self) {
        loop {
            // Returning closes the connection, which frees the lock.
            if let Err(error) = self.stand_once().await
                && !self.is_failing
            {
                self.is_failing = true;
                warn!(%error, "election: standing as a candidate failed; trying again");
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

    /// Tries to get the lock and to raise the epoch. Ends the connections of a node that is in the
    /// way and does not run.
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

    /// The next step after other nodes' connections were told to end.
    fn ended<T>(&mut self, ended: Result<T, sqlx::Error>, why: &str) -> Result<Try, sqlx::Error> {
        match ended {
            Ok(_) => {
                warn!(why, "election: ended the connections of another server");
                Ok(Try::Again(ENDING))
            }
            Err(error) if is(&error, NOT_PERMITTED) => {
                if !self.has_asked_for_rights {
                    self.has_asked_for_rights = true;
                    error!(
                        %error,
                        "election: nobody can be elected, since this role may not end the connections of a server that hangs; \
                         use one role for all servers, or GRANT pg_signal_backend to this one"
                    );
                }
                Ok(Try::Again(LOOK))
            }
            Err(error) => Err(error),
        }
    }

    /// Leads until a heartbeat fails or comes too late.
    async fn serve(&self, connection: &mut PgConnection, epoch: Epoch, until: Instant) {
        self.tell.send_replace(Some(Term {
            epoch,
            until: Some(until),
        }));
        info!(
            epoch = epoch.0,
            node = self.node,
            "election: this server leads"
        );
        let reason = self.renew(connection, epoch, until).await;
        self.tell.send_replace(None);
        warn!(
            epoch = epoch.0,
            node = self.node,
            reason,
            "election: this server no longer leads"
        );
    }

    /// Renews the term for as long as possible; answers why it ended.
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
                // A stopped process that continues finds both an answer and the end of its term.
                // A task that asked meanwhile was told that the term is over, and that stands.
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
                false // Nobody needs to wake for a longer term.
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
    let late = || sqlx::Error::Io(std::io::ErrorKind::TimedOut.into());
    in_time_or(STEP, step, late).await
}
