//! Small reads of one user beside 500 clients of another that do not read what they asked for.

use std::time::Duration;

use genie_log::testing::Kind;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
    time::{Instant, sleep},
};

use super::{
    JOBS, enqueue,
    server::{BenchServer, Connection, bearer, request},
};
use crate::{
    setup::{Measured, name_on},
    statistics::{millis, percentile},
    table::{Bound, Row},
};

pub const FIGURE: &str = "small_read_beside_silent_readers_p99_ms";
/// Clients that ask and do not read, in all.
const SILENT: usize = 500;
/// What they ask for: a long list and a live stream.
const ASKED: [(&str, &str); 2] = [
    ("/api/jobs?limit=500", ""),
    ("/api/me/events", "Accept: text/event-stream\r\n"),
];
/// A client's kernel takes about this much of an answer.
const RECEIVE_BUFFER: u32 = 16 << 10;
/// The time for an answer to begin.
const ANSWERED: Duration = Duration::from_secs(60);
/// The small reads, and the pause between two of them, so that they do not keep the server busy.
const SMALL: [&str; 3] = ["/users/me", "/api/usage", "/api/jobs?limit=1"];
const READS: usize = 1500;
const PAUSE: Duration = Duration::from_millis(10);

pub async fn measure(kind: Kind) -> Measured<Row> {
    let genie = BenchServer::start(kind, false).await?;
    let ada = genie.log_in().await?;
    let bob = genie.users(&ada, 1).await?.remove(0);
    enqueue::submit(&genie, std::slice::from_ref(&ada), JOBS).await?;
    let alone = small_reads(&genie, &bob).await?;
    let mut silent = Vec::with_capacity(SILENT);
    for (path, headers) in ASKED.iter().cycle().take(SILENT) {
        let asked = request("GET", path, &format!("{headers}{}", bearer(&ada)), "");
        silent.push(ask(&genie.address, &asked).await?);
    }
    for client in &silent {
        tokio::time::timeout(ANSWERED, is_answered(client)).await??;
    }
    let beside = small_reads(&genie, &bob).await?;
    drop(silent);
    let said = |times: &[Duration]| {
        format!(
            "p50 {:.2} ms, p99 {:.2} ms",
            millis(percentile(times, 50)),
            millis(percentile(times, 99))
        )
    };
    eprintln!(
        "{kind:?}: small reads alone {}, beside {SILENT} silent readers {}",
        said(&alone),
        said(&beside)
    );
    Ok(Row::new(
        name_on("http", kind, FIGURE),
        millis(percentile(&beside, 99)),
        "ms",
        Bound::AtMost(50.0),
    ))
}

/// Sends a request and leaves its answer unread.
async fn ask(address: &str, asked: &[u8]) -> Measured<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    let mut stream = socket.connect(address.parse()?).await?;
    stream.write_all(asked).await?;
    Ok(stream)
}

/// Waits for the status line, which must say 200.
async fn is_answered(client: &TcpStream) -> Measured<()> {
    let mut line = [0; 12];
    while client.peek(&mut line).await? < line.len() {
        sleep(PAUSE).await;
    }
    if line.ends_with(b" 200") {
        Ok(())
    } else {
        Err(format!("a reader got {}", String::from_utf8_lossy(&line)).into())
    }
}

/// The times of small reads, one after the other. Each has a connection of its own, so that they come to
/// all of the server's threads.
async fn small_reads(genie: &BenchServer, token: &str) -> Measured<Vec<Duration>> {
    let mut times = Vec::with_capacity(READS);
    for path in SMALL.into_iter().cycle().take(READS) {
        let asked = request("GET", path, &bearer(token), "");
        let began = Instant::now();
        let (status, _) = Connection::open(&genie.address).await?.ask(&asked).await?;
        times.push(began.elapsed());
        if status != 200 {
            return Err(format!("{path}: {status}").into());
        }
        sleep(PAUSE).await;
    }
    Ok(times)
}
