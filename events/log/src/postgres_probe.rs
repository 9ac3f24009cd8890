//! Asks a server, before it is written to, whether it is a Postgres as the log needs it.
//!
//! Invariant: the log's order and fences stand on three behaviours of Postgres. An advisory lock
//! keeps others out and makes them wait. A lock of a session stays with that session. Each statement
//! of a volatile function sees what was committed before it. An engine that lacks one of these
//! loses facts without an error, so it is refused by name.
//!
//! The probe makes no table and no function, and needs no right but to connect.

use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection, Row, postgres::PgConnectOptions};
use tokio::time::{Instant, sleep, timeout};

use crate::{LogError, clock::random_bytes};

/// The longest time for the whole probe. It takes a few milliseconds.
const LONGEST: Duration = Duration::from_secs(10);
/// How long the probe waits until one session is seen to wait for the other's lock.
const UNTIL_WAITING: Duration = Duration::from_secs(2);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(2);
/// A setting that the probe gives its sessions, to see whether they get it.
const STATEMENT_TIMEOUT: &str = "9s";
/// The oldest Postgres that has the settings of the log's connections.
const OLDEST: u32 = 14;
/// Engines that speak Postgres' protocol and call themselves PostgreSQL in part, by a word of their
/// version.
const LOOKALIKES: [(&str, &str); 4] = [
    ("-YB-", "YugabyteDB"),
    ("Greenplum", "Greenplum"),
    ("Redshift", "Amazon Redshift"),
    ("Materialize", "Materialize"),
];
const SHARED_SESSIONS: &str = "DATABASE_URL leads to a pooler that shares connections among its clients, as PgBouncer does with \
     pool_mode=transaction: advisory locks do not stay with their session. Connect to PostgreSQL directly";

/// What the server did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Observed {
    /// The answer to `version()`.
    version: String,
    /// The session got the settings that it was opened with.
    took_settings: bool,
    /// One connection stayed with one session, and two connections had two.
    kept_sessions: bool,
    /// A session could not take the lock that another one held.
    excluded: bool,
    /// The lock was still the session's when it gave it back.
    kept_lock: bool,
    /// A session that asked for a lock of another waited for it.
    waited: bool,
    /// After the wait, a statement of the same function saw what was committed meanwhile.
    saw_fresh: bool,
}

/// Refuses a server that is not fit for the log.
pub(crate) async fn check(options: &PgConnectOptions) -> Result<(), LogError> {
    let late =
        |_| LogError::Away("the store did not answer the questions of a start in time".into());
    timeout(LONGEST, observe(options)).await.map_err(late)?
}

async fn observe(options: &PgConnectOptions) -> Result<(), LogError> {
    let options = options
        .clone()
        .application_name("genie probe")
        .options([("statement_timeout", STATEMENT_TIMEOUT)]);
    let mut seen = Observed::default();
    let mut one = connect(&options).await?;
    seen.version = text(&mut one, "SELECT version()").await?;
    known_engine(&seen.version).map_err(LogError::UnfitStore)?;
    let mut other = connect(&options).await?;
    let asked = ask(&mut one, &mut other, &mut seen).await;
    match asked {
        // What the server could not do at all is its fault, not the network's.
        Err(LogError::Statement(error)) => Err(LogError::UnfitStore(format!(
            "{} refused a question of the start: {error}",
            seen.version
        ))),
        Err(error) => Err(error),
        Ok(()) => judge(&seen).map_err(LogError::UnfitStore),
    }
}

async fn connect(options: &PgConnectOptions) -> Result<PgConnection, LogError> {
    PgConnection::connect_with(options).await.map_err(|error| {
        if error.to_string().contains("unsupported startup parameter") {
            let sentence = "DATABASE_URL leads to a pooler that refuses the settings of a connection, as PgBouncer does. \
                            Connect to PostgreSQL directly";
            LogError::UnfitStore(sentence.into())
        } else {
            error.into()
        }
    })
}

/// Asks everything that `judge` needs, in an order in which a misfit is known before it could make
/// the probe wait.
async fn ask(
    one: &mut PgConnection,
    other: &mut PgConnection,
    seen: &mut Observed,
) -> Result<(), LogError> {
    // Random, so that nodes that start at once do not meet.
    let key = i64::from_le_bytes(random_bytes());
    seen.took_settings = text(one, "SHOW statement_timeout").await? == STATEMENT_TIMEOUT;
    let before = text(one, "SELECT pg_backend_pid()::text").await?;
    if before == text(other, "SELECT pg_backend_pid()::text").await? {
        return Ok(()); // One session for both: a question that makes one wait would wait for ever.
    }
    let taken = is_true(one, &format!("SELECT pg_try_advisory_lock({key})")).await?;
    // A transaction keeps the other session busy, so a pooler that shares sessions must now give
    // the first connection another one.
    other.execute("BEGIN").await?;
    let others = text(other, "SELECT pg_backend_pid()::text").await?;
    seen.excluded =
        taken && !is_true(other, &format!("SELECT pg_try_advisory_lock({key})")).await?;
    let after = text(one, "SELECT pg_backend_pid()::text").await?;
    seen.kept_sessions = before == after && before != others;
    seen.kept_lock = is_true(one, &format!("SELECT pg_advisory_unlock({key})")).await?;
    other.execute("ROLLBACK").await?;
    if seen.kept_sessions && seen.excluded {
        ask_for_order(one, other, key, seen).await?;
    }
    Ok(())
}

/// One session waits within a block for the lock of the other, which commits a transaction
/// meanwhile. A `DO` block runs as a volatile function does.
async fn ask_for_order(
    one: &mut PgConnection,
    other: &mut PgConnection,
    key: i64,
    seen: &mut Observed,
) -> Result<(), LogError> {
    other.execute("BEGIN").await?;
    other
        .execute(format!("SELECT pg_advisory_xact_lock({key})").as_str())
        .await?;
    let committed = text(other, "SELECT txid_current()::text").await?;
    let is_seen = format!("txid_visible_in_snapshot({committed}, txid_current_snapshot())::text");
    let block = format!(
        "DO $$ BEGIN
           PERFORM set_config('genie.before', {is_seen}, false);
           PERFORM pg_advisory_xact_lock({key});
           PERFORM set_config('genie.after', {is_seen}, false);
         END $$"
    );
    let waiting = format!(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND pid = {})::text",
        text(one, "SELECT pg_backend_pid()::text").await?
    );
    let let_go = async {
        let started = Instant::now();
        let mut waits = false;
        while !waits && started.elapsed() < UNTIL_WAITING {
            sleep(LOOK).await;
            waits = text(other, &waiting).await? == "true";
        }
        other.execute("COMMIT").await?;
        Ok::<_, LogError>(waits)
    };
    let waits_then_sees = async { one.execute(block.as_str()).await.map_err(LogError::from) };
    (seen.waited, _) = tokio::try_join!(let_go, waits_then_sees)?;
    let said = text(
        one,
        "SELECT current_setting('genie.before') || '/' || current_setting('genie.after')",
    )
    .await?;
    seen.saw_fresh = said == "false/true";
    Ok(())
}

async fn text(connection: &mut PgConnection, sql: &str) -> Result<String, LogError> {
    // Without a prepared statement, which a pooler may lose.
    let row = connection.fetch_one(sqlx::raw_sql(sql)).await?;
    Ok(row.try_get(0)?)
}

async fn is_true(connection: &mut PgConnection, sql: &str) -> Result<bool, LogError> {
    let row = connection.fetch_one(sqlx::raw_sql(sql)).await?;
    Ok(row.try_get(0)?)
}

/// Refuses an engine that says that it is another than PostgreSQL, and a PostgreSQL that is too old.
fn known_engine(version: &str) -> Result<(), String> {
    let other = |engine: &str| {
        format!(
            "the store is {engine}, not PostgreSQL, and genie would lose facts on it. \
             Set DATABASE_URL to a PostgreSQL of version {OLDEST} or newer, or leave it out for the embedded store"
        )
    };
    if let Some((_, name)) = LOOKALIKES.iter().find(|(word, _)| version.contains(word)) {
        return Err(other(name));
    }
    let number = version.strip_prefix("PostgreSQL ").map(|rest| {
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
        digits.and_then(|digits| digits.parse::<u32>().ok())
    });
    match number {
        None => Err(other(&format!("`{}`", short(version)))),
        Some(Some(number)) if number >= OLDEST => Ok(()),
        Some(_) => Err(format!(
            "the store is `{}`; genie needs PostgreSQL {OLDEST} or newer",
            short(version)
        )),
    }
}

fn judge(seen: &Observed) -> Result<(), String> {
    let version = short(&seen.version);
    let unlike = |what: &str| {
        format!(
            "the store is `{version}`, but {what}, unlike PostgreSQL, and genie would lose facts on it. \
             Set DATABASE_URL to a PostgreSQL of version {OLDEST} or newer"
        )
    };
    if !seen.kept_sessions || (seen.excluded && !seen.kept_lock) {
        return Err(SHARED_SESSIONS.into());
    }
    if !seen.took_settings {
        return Err(
            "DATABASE_URL leads to a pooler that drops the settings of a connection, so time-outs and durability \
             would be others than genie's. Connect to PostgreSQL directly"
                .into(),
        );
    }
    if !seen.excluded {
        return Err(unlike("two sessions hold the same advisory lock at once"));
    }
    if !seen.waited {
        return Err(unlike(
            "nobody waits for an advisory lock that another session holds",
        ));
    }
    if !seen.saw_fresh {
        return Err(unlike(
            "a statement in a function does not see what was committed before it",
        ));
    }
    Ok(())
}

/// The first words of a version, for a sentence.
fn short(version: &str) -> String {
    let words = version.split(['(', ',']).next().unwrap_or(version);
    words.trim_end().chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Kind, TestStore};

    fn postgres() -> Observed {
        Observed {
            version: "PostgreSQL 15.18 (Debian 15.18-0+deb12u1) on x86_64-pc-linux-gnu".into(),
            took_settings: true,
            kept_sessions: true,
            excluded: true,
            kept_lock: true,
            waited: true,
            saw_fresh: true,
        }
    }

    #[test]
    fn engines_are_known_by_their_versions() {
        for good in [
            "PostgreSQL 14.0 on x86_64-pc-linux-gnu",
            "PostgreSQL 15.18 (Debian 15.18-0+deb12u1) on x86_64-pc-linux-gnu, compiled by gcc",
            "PostgreSQL 18devel on aarch64-apple-darwin",
            "PostgreSQL 16.4 on aarch64-unknown-linux-gnu, compiled by aarch64-unknown-linux-gnu-gcc (GCC) 9.5.0, 64-bit",
        ] {
            assert_eq!(known_engine(good), Ok(()), "{good}");
        }
        for (bad, name) in [
            (
                "CockroachDB CCL v23.1.11 (x86_64-pc-linux-gnu, built 2023/09/27)",
                "`CockroachDB CCL v23.1.11`",
            ),
            (
                "PostgreSQL 11.2-YB-2.18.3.0-b0 on x86_64-pc-linux-gnu",
                "YugabyteDB",
            ),
            (
                "PostgreSQL 15.2-YB-2.25.0.0-b0 on x86_64-pc-linux-gnu",
                "YugabyteDB",
            ),
            (
                "PostgreSQL 14.4 (Greenplum Database 7.0.0 build) on x86_64",
                "Greenplum",
            ),
            (
                "PostgreSQL 8.0.2 on i686-pc-linux-gnu, Redshift 1.0.12103",
                "Amazon Redshift",
            ),
            ("CrateDB 5.4.0 (built 1234)", "`CrateDB 5.4.0`"),
            ("", "``"),
        ] {
            let told = known_engine(bad).unwrap_err();
            assert!(
                told.contains(&format!("the store is {name}, not PostgreSQL")),
                "{told}"
            );
            assert!(told.contains("DATABASE_URL"), "{told}");
        }
        let old = known_engine("PostgreSQL 13.9 on x86_64-pc-linux-gnu").unwrap_err();
        assert!(
            old.contains("`PostgreSQL 13.9 on x86_64-pc-linux-gnu`; genie needs PostgreSQL 14"),
            "{old}"
        );
    }

    #[test]
    fn a_server_that_lacks_one_behaviour_is_refused_with_what_to_do() {
        assert_eq!(judge(&postgres()), Ok(()));
        type Lacks = fn(&mut Observed);
        let misfits: [(Lacks, &str); 6] = [
            (
                |seen| seen.kept_sessions = false,
                "a pooler that shares connections",
            ),
            (
                |seen| seen.kept_lock = false,
                "a pooler that shares connections",
            ),
            (
                |seen| seen.took_settings = false,
                "a pooler that drops the settings",
            ),
            (
                // An engine whose locks do nothing may also answer that nothing was held.
                |seen| (seen.excluded, seen.kept_lock) = (false, false),
                "two sessions hold the same advisory lock",
            ),
            (
                |seen| seen.waited = false,
                "nobody waits for an advisory lock",
            ),
            (
                |seen| seen.saw_fresh = false,
                "does not see what was committed before it",
            ),
        ];
        for (lacks, sentence) in misfits {
            let mut seen = postgres();
            lacks(&mut seen);
            let told = judge(&seen).unwrap_err();
            assert!(told.contains(sentence), "{told}");
            assert!(told.contains("DATABASE_URL"), "{told}");
        }
    }

    /// Several at once, as nodes that start together.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_real_postgres_passes() {
        let store = TestStore::new(Kind::Postgres).await;
        let options: PgConnectOptions = store.database_url().unwrap().parse().unwrap();
        let all = futures_util::future::join_all((0..8).map(|_| check(&options))).await;
        assert!(all.iter().all(Result::is_ok), "{all:?}");
    }
}
