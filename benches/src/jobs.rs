//! The queue over HTTP beside BullMQ on a Redis that flushes every write, which is asked through its own
//! library. One program in Node asks both; it and its parts are in `benches/queues`. Both take turns.

use std::{collections::BTreeMap, path::PathBuf, process::Stdio, time::Duration};

use genie_log::testing::Kind;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    time::{sleep, timeout},
};

use crate::{
    http::server::{BENCH_SECRET, BenchServer},
    setup::{Measured, name_on},
    statistics::median,
    table::{Bound, Row},
};

/// Where `scripts/bench` has installed the program's packages.
const PROGRAM: &str = "GENIE_BENCH_QUEUES";
const USERS: usize = 64;
/// Each side is measured so often, in turn with the others.
const ROUNDS: usize = 3;
/// The time for Redis to listen.
const START: Duration = Duration::from_secs(10);
/// The time for one side of one round.
const ROUND: Duration = Duration::from_secs(600);

/// A figure of genie's that is held against the same figure of another.
struct Comparison {
    figure: &'static str,
    of: &'static str,
    with: Peer,
    at_least: f64,
}

const COMPARISONS: [Comparison; 5] = [
    Comparison {
        figure: "enqueue_vs_bullmq",
        of: "enqueue_per_s",
        with: Peer::BullMq,
        at_least: 0.6,
    },
    Comparison {
        figure: "enqueue_vs_express_bullmq",
        of: "enqueue_per_s",
        with: Peer::Express,
        at_least: 3.0,
    },
    Comparison {
        figure: "enqueue_and_work_vs_bullmq",
        of: "both_per_s",
        with: Peer::BullMq,
        at_least: 1.0,
    },
    Comparison {
        figure: "drain_vs_bullmq",
        of: "drain_per_s",
        with: Peer::BullMq,
        at_least: 1.0,
    },
    Comparison {
        figure: "batch_of_1000_vs_bullmq",
        of: "batch_per_s",
        with: Peer::BullMq,
        at_least: 1.5,
    },
];

/// From an enqueue to the start of its handler at 100 jobs a second. In milliseconds.
const PICKUPS: [(&str, f64); 3] = [
    ("pickup_p50_ms", 3.0),
    ("pickup_p95_ms", 5.0),
    ("pickup_p99_ms", 10.0),
];

/// What genie is measured beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Peer {
    BullMq,
    /// Express and jsonwebtoken before BullMQ. It only enqueues.
    Express,
}

impl Peer {
    fn program(self) -> &'static str {
        match self {
            Self::BullMq => "bullmq",
            Self::Express => "express",
        }
    }
}

/// What the program in Node prints.
type QueueFigures = BTreeMap<String, f64>;

/// The names of the figures on a store.
pub fn figures(kind: Kind) -> Vec<String> {
    let compared = COMPARISONS.iter().map(|comparison| comparison.figure);
    let picked_up = PICKUPS.iter().map(|(figure, _)| *figure);
    let figures = compared.chain(picked_up);
    figures
        .map(|figure| name_on("jobs", kind, figure))
        .collect()
}

pub async fn measure(kinds: &[Kind]) -> Measured<Vec<Row>> {
    let program = PathBuf::from(
        std::env::var_os(PROGRAM)
            .ok_or_else(|| format!("{PROGRAM} is not set; use scripts/bench"))?,
    );
    let redis = BenchRedis::start().await?;
    let mut queues = Vec::new();
    for kind in kinds {
        queues.push(GenieQueue::start(*kind).await?);
    }
    let mut of_peers: BTreeMap<Peer, Vec<QueueFigures>> = BTreeMap::new();
    for _ in 0..ROUNDS {
        for peer in [Peer::BullMq, Peer::Express] {
            let environment = [("REDIS_PORT", redis.port.to_string())];
            let measured = run(&program, peer.program(), &environment).await?;
            of_peers.entry(peer).or_default().push(measured);
        }
        for queue in &mut queues {
            let measured = run(&program, "genie", &queue.environment()).await?;
            queue.measured.push(measured);
        }
    }
    Ok(queues
        .iter()
        .flat_map(|queue| queue.rows(&of_peers))
        .collect())
}

/// A server of genie's with its users, and what was measured of it.
struct GenieQueue {
    kind: Kind,
    genie: BenchServer,
    tokens: Vec<String>,
    measured: Vec<QueueFigures>,
}

impl GenieQueue {
    async fn start(kind: Kind) -> Measured<Self> {
        let genie = BenchServer::start(kind, false).await?;
        let admin = genie.log_in().await?;
        let tokens = genie.users(&admin, USERS).await?;
        Ok(Self {
            kind,
            genie,
            tokens,
            measured: Vec::with_capacity(ROUNDS),
        })
    }

    fn environment(&self) -> [(&'static str, String); 3] {
        [
            ("GENIE", format!("http://{}", self.genie.address)),
            ("SECRET", BENCH_SECRET.to_owned()),
            ("TOKENS", serde_json::json!(self.tokens).to_string()),
        ]
    }

    fn rows(&self, peers: &BTreeMap<Peer, Vec<QueueFigures>>) -> Vec<Row> {
        let name = |figure| name_on("jobs", self.kind, figure);
        let compared = COMPARISONS.iter().map(|comparison| {
            let theirs = peers.get(&comparison.with).map_or(&[][..], Vec::as_slice);
            let ours = median_of(&self.measured, comparison.of);
            let ratio = ours / median_of(theirs, comparison.of);
            let bound = Bound::AtLeast(comparison.at_least);
            Row::new(name(comparison.figure), ratio, "x", bound)
        });
        let picked_up = PICKUPS.iter().map(|(figure, bound)| {
            let ms = median_of(&self.measured, figure);
            Row::new(name(figure), ms, "ms", Bound::AtMost(*bound))
        });
        compared.chain(picked_up).collect()
    }
}

/// The median of a figure; not a number when it is missing, so that no bound is met.
fn median_of(measured: &[QueueFigures], figure: &str) -> f64 {
    let values: Vec<f64> = measured
        .iter()
        .filter_map(|figures| figures.get(figure).copied())
        .collect();
    if values.is_empty() {
        return f64::NAN;
    }
    median(&values)
}

/// One run of the program in Node.
async fn run(
    program: &std::path::Path,
    queue: &str,
    environment: &[(&str, String)],
) -> Measured<QueueFigures> {
    let mut node = Command::new("node")
        .arg("bench.mjs")
        .arg(queue)
        .current_dir(program)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut output = node.stdout.take().ok_or("no standard output")?;
    let mut printed = String::new();
    let status = timeout(ROUND, async {
        output.read_to_string(&mut printed).await?;
        node.wait().await
    });
    if !status.await??.success() {
        return Err(format!("the measurement of {queue} failed").into());
    }
    let figures: QueueFigures = serde_json::from_str(&printed)?;
    let shown = figures
        .iter()
        .map(|(name, value)| format!("{name} {value:.1}"));
    eprintln!("{queue}: {}", shown.collect::<Vec<_>>().join(", "));
    Ok(figures)
}

/// A Redis with an empty folder, which flushes each write before it answers. It is killed when this is
/// dropped.
struct BenchRedis {
    port: u16,
    _process: Child,
    _folder: tempfile::TempDir,
}

impl BenchRedis {
    async fn start() -> Measured<Self> {
        let folder = tempfile::tempdir()?;
        let port = TcpListener::bind(("127.0.0.1", 0))
            .await?
            .local_addr()?
            .port();
        let process = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args([
                "--save",
                "",
                "--appendonly",
                "yes",
                "--appendfsync",
                "always",
            ])
            .arg("--dir")
            .arg(folder.path())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("redis-server can't be started: {error}"))?;
        let listens = async {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(START, listens)
            .await
            .map_err(|_| "redis-server does not listen")?;
        Ok(Self {
            port,
            _process: process,
            _folder: folder,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_that_is_missing_meets_no_bound() {
        let figures = |value| QueueFigures::from([("both_per_s".to_owned(), value)]);
        let measured = [figures(1.0), figures(3.0), figures(2.0)];
        assert_eq!(median_of(&measured, "both_per_s"), 2.0);
        assert!(median_of(&measured, "drain_per_s").is_nan());
        assert!(median_of(&[], "both_per_s").is_nan());
    }
}
