//! Measures the resident memory of an idle user's actor, with everything that the process keeps for
//! that user. Runs in a separate process, so that nothing else has used its memory.

use std::{fs, io::Write, path::PathBuf, process::Stdio, time::Duration};

use actix::ArbiterHandle;
use futures_util::future::try_join_all;
use genie_actors::users::Users;
use genie_events::{Limits, Metadata, UserCommand, UserId};
use genie_log::{
    Clock, Log, LogError, MasterKeys, Opened, Settings,
    store::{Store, Target},
};
use serde::{Deserialize, Serialize};
use sqlx::Row as _;

use crate::{
    setup::{Ground, Measured},
    table::{Bound, Row},
};

/// The hidden command that starts this process.
pub const CHILD: &str = "idle-users";
/// Users with an idle actor.
const USERS: usize = 100_000;
/// Users who are loaded before the first look, so that pools, threads and statements do not count.
const FIRST: usize = 2000;
/// Commands at once. They are few, so that their own memory does not count.
const AT_ONCE: usize = 64;
/// The time after which everything has come to rest.
const CALM: Duration = Duration::from_secs(1);

/// The child reads this from its standard input.
#[derive(Serialize, Deserialize)]
struct StoreLocation {
    sqlite: Option<PathBuf>,
    postgres: Option<String>,
    masters: String,
}

/// Bytes per user.
pub async fn measure(ground: &Ground) -> Measured<Vec<Row>> {
    let node = ground.node().await?;
    ground.register(&node.log, USERS).await;
    if let Target::Sqlite(_) = ground.store.target {
        node.log.store().close().await; // an embedded store has one process at a time
    }
    let (sqlite, postgres) = match ground.store.target.clone() {
        Target::Sqlite(path) => (Some(path), None),
        Target::Postgres(url) => (None, Some(url)),
    };
    let place = serde_json::to_vec(&StoreLocation {
        sqlite,
        postgres,
        masters: ground.masters.clone(),
    })?;
    let told = tokio::task::spawn_blocking(move || {
        let mut child = std::process::Command::new(std::env::current_exe()?)
            .arg(CHILD)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(&place)?;
        }
        child.wait_with_output()
    });
    let told = told.await??;
    if !told.status.success() {
        return Err(format!("the process with the idle users ended with {}", told.status).into());
    }
    let bytes: f64 = String::from_utf8(told.stdout)?.trim().parse()?;
    Ok(vec![Row::new(
        ground.name("idle_user_bytes"),
        bytes,
        "bytes",
        Bound::AtMost(4096.0),
    )])
}

/// Runs in the child, and prints the bytes per user.
pub async fn idle_users(arbiters: Vec<ArbiterHandle>) -> Measured<()> {
    let place: StoreLocation = serde_json::from_reader(std::io::stdin())?;
    let target = match (place.sqlite, place.postgres) {
        (Some(path), _) => Target::Sqlite(path),
        (None, url) => Target::Postgres(url.ok_or("no store was named")?),
    };
    let masters = MasterKeys::parse(&place.masters)?;
    let Opened { log, append, .. } = Log::open(Settings {
        target,
        masters,
        clock: Clock::system(),
        read_only: false,
    })
    .await?;
    let users = Users::new(append, Limits::built_in(), arbiters);
    let ids = all_users(&log).await?;
    let (first, rest) = ids
        .split_at_checked(FIRST)
        .ok_or("too few users are registered")?;
    wake(&users, first).await?;
    let before = resident()?;
    wake(&users, rest).await?;
    let after = resident()?;
    eprintln!(
        "{} users live; {} MiB, of which {} MiB before",
        users.live_count(),
        after >> 20,
        before >> 20
    );
    if users.live_count() != ids.len() {
        return Err("not all users live".into());
    }
    println!("{}", after.saturating_sub(before) / rest.len() as u64);
    Ok(())
}

/// Sends a command to each user, and waits for rest.
async fn wake(users: &Users, ids: &[UserId]) -> Measured<()> {
    for some in ids.chunks(AT_ONCE) {
        try_join_all(
            some.iter()
                .map(|id| users.ask(*id, Metadata::system(), UserCommand::SignIn)),
        )
        .await?;
    }
    tokio::time::sleep(CALM).await;
    Ok(())
}

async fn all_users(log: &Log) -> Result<Vec<UserId>, LogError> {
    let read = async |store: Store| {
        let rows = sqlx::query("SELECT user_id FROM user_keys")
            .fetch_all(store.reads())
            .await?;
        let id = |row: &sqlx::any::AnyRow| row.try_get::<String, _>("user_id").ok()?.parse().ok();
        Ok(rows
            .iter()
            .filter_map(id)
            .filter(|user: &UserId| !user.0.is_nil())
            .collect())
    };
    log.store().run(read).await
}

/// The resident bytes of this process.
fn resident() -> Measured<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .ok_or("/proc/self/status does not say VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}
