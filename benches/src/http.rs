//! The server over HTTP: the cost of checking a token, reads beside a bare server that answers the
//! same bytes, and what an enqueue costs.

use std::time::Duration;

use futures_util::future::try_join_all;
use genie_log::testing::Kind;
use tokio::time::Instant;

use crate::{
    setup::{Measured, name_on},
    statistics::median,
    table::{Bound, Row},
};

/// A bare actix-web server.
pub mod bare;
mod enqueue;
pub mod server;
mod silent_readers;
pub mod spent;

use server::{BenchServer, Connection, bearer, request};

/// Connections at once. Each asks again as soon as it is answered.
const CONNECTIONS: usize = 32;
/// The length of one turn.
const TURN: Duration = Duration::from_millis(500);
/// Turns of each server. The first one warms up and does not count.
const TURNS: usize = 12;
/// The read looks into the store. `QUEUE_STATS_PUBLIC` decides whether it needs a token.
const READ: &str = "/api/queue/stats";
const TOKEN_CHECK: &str = "token_vs_no_token";
/// The jobs of the user whose reads are measured.
const JOBS: usize = 800;
/// Reads that every client makes, and how much slower than a bare server they may be.
const READS: [(&str, &str, f64); 3] = [
    ("read_users_me", "/users/me", 0.5),
    ("read_usage", "/api/usage", 0.3),
    ("read_jobs", "/api/jobs?limit=1", 0.2),
];

/// One measurement of a server. Some give several figures.
#[derive(Debug, Clone, Copy)]
pub enum HttpMeasurement {
    TokenCheck,
    Reads,
    Enqueue,
    SilentReaders,
}

impl HttpMeasurement {
    pub const ALL: [Self; 4] = [
        Self::TokenCheck,
        Self::Reads,
        Self::Enqueue,
        Self::SilentReaders,
    ];

    /// The names of its figures on a store.
    pub fn figures(self, kind: Kind) -> Vec<String> {
        let figures = match self {
            Self::TokenCheck => vec![TOKEN_CHECK.to_owned()],
            Self::Reads => READS.map(|(figure, ..)| format!("{figure}_vs_bare")).into(),
            Self::Enqueue => enqueue::figures(kind),
            Self::SilentReaders => vec![silent_readers::FIGURE.to_owned()],
        };
        let named = figures.iter().map(|figure| name_on("http", kind, figure));
        named.collect()
    }

    pub async fn measure(self, kind: Kind) -> Measured<Vec<Row>> {
        match self {
            Self::TokenCheck => Ok(vec![token_check(kind).await?]),
            Self::Reads => reads(kind).await,
            Self::Enqueue => enqueue::measure(kind).await,
            Self::SilentReaders => Ok(vec![silent_readers::measure(kind).await?]),
        }
    }
}

/// The same read from a server that asks for a token and from one that does not.
async fn token_check(kind: Kind) -> Measured<Row> {
    let open = BenchServer::start(kind, true).await?;
    let closed = BenchServer::start(kind, false).await?;
    let token = closed.log_in().await?;
    let anybody = request("GET", READ, "", "");
    let user = request("GET", READ, &bearer(&token), "");
    let (status, _) = Connection::open(&closed.address)
        .await?
        .ask(&anybody)
        .await?;
    if status != 401 {
        return Err(format!("without a token the closed server answered {status}").into());
    }
    let (without, with) = in_turn((&open.address, &anybody), (&closed.address, &user)).await?;
    let nothing = rate(&open.address, &request("GET", "/healthz", "", "")).await?;
    eprintln!(
        "{kind:?}: {without:.0} reads/s without a token, {with:.0} with one; /healthz, which reads nothing, {nothing:.0}"
    );
    Ok(Row::new(
        name_on("http", kind, TOKEN_CHECK),
        with / without,
        "x",
        Bound::AtLeast(0.7),
    ))
}

/// Reads of a user beside a bare server that answers the same bytes.
async fn reads(kind: Kind) -> Measured<Vec<Row>> {
    let genie = BenchServer::start(kind, false).await?;
    let token = genie.log_in().await?;
    enqueue::submit(&genie, std::slice::from_ref(&token), JOBS).await?;
    let mut rows = Vec::new();
    for (figure, path, bound) in READS {
        let asked = request("GET", path, &bearer(&token), "");
        let (status, body) = Connection::open(&genie.address).await?.ask(&asked).await?;
        if status != 200 {
            return Err(format!("{path}: {status}").into());
        }
        let bare = bare::BareServer::start(&body).await?;
        let (reads, bytes) = in_turn((&genie.address, &asked), (&bare.address, &asked)).await?;
        eprintln!("{kind:?}: {path} {reads:.0}/s, bare actix-web {bytes:.0}/s");
        rows.push(Row::new(
            name_on("http", kind, &format!("{figure}_vs_bare")),
            reads / bytes,
            "x",
            Bound::AtLeast(bound),
        ));
    }
    Ok(rows)
}

/// The median rates of two servers that take turns.
async fn in_turn(one: (&str, &[u8]), other: (&str, &[u8])) -> Measured<(f64, f64)> {
    let mut of_one = Vec::new();
    let mut of_other = Vec::new();
    for turn in 0..TURNS {
        let first = rate(one.0, one.1).await?;
        let second = rate(other.0, other.1).await?;
        if turn > 0 {
            of_one.push(first);
            of_other.push(second);
        }
    }
    Ok((median(&of_one), median(&of_other)))
}

/// Answers per second.
async fn rate(address: &str, request: &[u8]) -> Measured<f64> {
    let connections = try_join_all((0..CONNECTIONS).map(|_| Connection::open(address))).await?;
    let request = request.to_vec();
    let began = Instant::now();
    let asking = connections.into_iter().map(|mut connection| {
        let request = request.clone();
        tokio::spawn(async move {
            let mut answers = 0_u32;
            while began.elapsed() < TURN {
                match connection.ask(&request).await? {
                    (200, _) => answers += 1,
                    (status, body) => {
                        return Err(format!("{status}: {}", String::from_utf8_lossy(&body)).into());
                    }
                }
            }
            Measured::Ok(answers)
        })
    });
    let answers = try_join_all(asking)
        .await?
        .into_iter()
        .sum::<Measured<u32>>()?;
    Ok(f64::from(answers) / began.elapsed().as_secs_f64())
}
