//! The cost of checking a token: the same read from a server that asks for a token and from one that does not, in turn.

use std::{process::Stdio, time::Duration};

use futures_util::future::try_join_all;
use genie_log::testing::{Kind, TestStore};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time::Instant,
};

use crate::{
    setup::{Measured, name_on},
    statistics::median,
    table::{Bound, Row},
};

/// Connections at once. Each asks again as soon as it is answered.
const CONNECTIONS: usize = 32;
/// The length of one turn.
const TURN: Duration = Duration::from_secs(1);
/// Turns of each server. The first one warms up and does not count.
const TURNS: usize = 11;
/// The time limit of a server's start.
const START: Duration = Duration::from_secs(60);
/// The read looks into the store. `QUEUE_STATS_PUBLIC` decides whether it needs a token.
const READ: &str = "/api/queue/stats";
const INVITE: &str = "the-first-invite";

/// The ratio on one store.
pub async fn measure(kind: Kind) -> Measured<Vec<Row>> {
    let open = BenchServer::start(kind, true).await?;
    let closed = BenchServer::start(kind, false).await?;
    let token = closed.log_in().await?;
    let anybody = request("GET", READ, "", "");
    let user = request(
        "GET",
        READ,
        &format!("Authorization: Bearer {token}\r\n"),
        "",
    );
    let (status, _) = Connection::open(&closed.address)
        .await?
        .ask(&anybody)
        .await?;
    if status != 401 {
        return Err(format!("without a token the closed server answered {status}").into());
    }
    let mut without = Vec::new();
    let mut with = Vec::new();
    for turn in 0..TURNS {
        let one = rate(&open.address, &anybody).await?;
        let other = rate(&closed.address, &user).await?;
        if turn > 0 {
            without.push(one);
            with.push(other);
        }
    }
    let nothing = rate(&open.address, &request("GET", "/healthz", "", "")).await?;
    let without = median(&without);
    let with = median(&with);
    eprintln!(
        "{kind:?}: {without:.0} reads/s without a token, {with:.0} with one; /healthz, which reads nothing, {nothing:.0}"
    );
    Ok(vec![Row::new(
        name_on("http", kind, "token_vs_no_token"),
        with / without,
        "x",
        Bound::AtLeast(0.7),
    )])
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

/// A server in its own process on a fresh store. It is killed when this is dropped.
struct BenchServer {
    _process: Child,
    _store: TestStore,
    address: String,
}

impl BenchServer {
    async fn start(kind: Kind, is_open: bool) -> Measured<Self> {
        let store = TestStore::new(kind).await;
        let mut command = Command::new(std::env::current_exe()?.with_file_name("genie"));
        command
            .arg("serve")
            .current_dir(store.folder())
            .env_clear()
            .kill_on_drop(true)
            .stdout(Stdio::piped());
        command
            .env("SERVER_PORT", "0")
            .env("GENIE_DATA_DIR", store.folder())
            .env("GENIE_FIRST_INVITE", INVITE)
            .env("QUEUE_STATS_PUBLIC", is_open.to_string())
            // The rate is never reached, but requests are counted.
            .env("RATE_LIMIT_USER", "1000000/1s")
            .env("RATE_LIMIT_ADDRESS", "1000000/1s")
            .env("FACTS_PER_USER_DAY", "1000000000")
            .env("GENIE_LOG", "error");
        if let Some(url) = store.database_url() {
            command.env("DATABASE_URL", url);
        }
        let mut process = command
            .spawn()
            .map_err(|error| format!("`genie` can't be started beside this program: {error}"))?;
        let mut lines = BufReader::new(process.stdout.take().ok_or("no standard output")?).lines();
        loop {
            let line = tokio::time::timeout(START, lines.next_line())
                .await??
                .ok_or("the server stopped")?;
            if let Some(address) = line.strip_prefix("genie listens on http://") {
                return Ok(Self {
                    _process: process,
                    _store: store,
                    address: address.to_owned(),
                });
            }
        }
    }

    /// Registers a user and returns the token.
    async fn log_in(&self) -> Measured<String> {
        let body =
            json!({"email": "ada@example.com", "password": "ada's password", "inviteCode": INVITE})
                .to_string();
        let mut connection = Connection::open(&self.address).await?;
        let json = "Content-Type: application/json\r\n";
        for path in ["/api/register", "/auth/login"] {
            let (status, answer) = connection.ask(&request("POST", path, json, &body)).await?;
            if status != 200 {
                return Err(format!("{path}: {status}").into());
            }
            let answer: Value = serde_json::from_slice(&answer)?;
            if let Some(token) = answer["data"]["access_token"].as_str() {
                return Ok(token.to_owned());
            }
        }
        Err("the login gave no token".into())
    }
}

fn request(method: &str, path: &str, headers: &str, body: &str) -> Vec<u8> {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: genie\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// One connection that stays open. It does only what HTTP/1.1 needs here, since a busier client would hide the server's cost.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(address: &str) -> Measured<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(16 * 1024),
        })
    }

    /// The status and the body.
    async fn ask(&mut self, request: &[u8]) -> Measured<(u16, Vec<u8>)> {
        self.stream.write_all(request).await?;
        loop {
            if let Some((status, head, length)) = head(&self.buffer)?
                && self.buffer.len() >= head + length
            {
                let body = self.buffer[head..head + length].to_vec();
                self.buffer.drain(..head + length);
                return Ok((status, body));
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err("the server closed the connection".into());
            }
        }
    }
}

/// The status, the start of the body and its length, once the head is complete.
fn head(bytes: &[u8]) -> Measured<Option<(u16, usize, usize)>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&bytes[..end])?.to_ascii_lowercase();
    let status = text.split(' ').nth(1).ok_or("no status")?.parse()?;
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .ok_or("no length")?
        .trim()
        .parse()?;
    Ok(Some((status, end + 4, length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_head_says_so() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Type: x\r\nContent-Length: 2\r\n\r\nok";
        assert_eq!(head(answer).unwrap(), Some((200, answer.len() - 2, 2)));
        assert_eq!(head(&answer[..30]).unwrap(), None);
        assert!(head(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
