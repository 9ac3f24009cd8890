//! A server in its own process, and a client that costs little.

use std::{process::Stdio, time::Duration};

use genie_log::testing::{Kind, TestStore};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
};

use crate::setup::Measured;

/// The time limit of a server's start.
const START: Duration = Duration::from_secs(60);
const INVITE: &str = "the-first-invite";
/// One request makes at most so many invites.
const INVITES_AT_ONCE: usize = 50;
/// The shared secret of servers and workers.
pub const BENCH_SECRET: &str = "the shared secret of a measured server";
pub const JSON: &str = "Content-Type: application/json\r\n";

/// A server in its own process on a fresh store. It is killed when this is dropped.
pub struct BenchServer {
    process: Child,
    pub store: TestStore,
    pub address: String,
}

impl BenchServer {
    pub async fn start(kind: Kind, is_open: bool) -> Measured<Self> {
        let public = [("QUEUE_STATS_PUBLIC", is_open.to_string())];
        Self::start_with(kind, &public).await
    }

    /// The same with settings.
    pub async fn start_with(kind: Kind, settings: &[(&str, String)]) -> Measured<Self> {
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
            .env("RBAC_SYNC_WEBHOOK_SECRET", BENCH_SECRET)
            .envs(settings.iter().map(|(name, value)| (name, value)))
            // The rate is never reached, but requests are counted.
            .env("RATE_LIMIT_USER", "1000000/1s")
            .env("RATE_LIMIT_ADDRESS", "1000000/1s")
            .env("CONNECTIONS_PER_ADDRESS", "off")
            // Nobody is cut off for not reading.
            .env("CLIENT_STALL_MS", "3600000")
            .env("STREAMS_PER_USER", "1000000")
            .env("STREAMS_IN_ALL", "1000000")
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
                    process,
                    store,
                    address: address.to_owned(),
                });
            }
        }
    }

    pub fn pid(&self) -> Measured<u32> {
        Ok(self.process.id().ok_or("the server ended")?)
    }

    /// Registers the first user, who administers, and returns the token.
    pub async fn log_in(&self) -> Measured<String> {
        self.register("ada", INVITE).await
    }

    /// Registers users by invites of the administrator, and returns their tokens.
    pub async fn users(&self, admin: &str, count: usize) -> Measured<Vec<String>> {
        let mut tokens = Vec::with_capacity(count);
        while tokens.len() < count {
            let some = (count - tokens.len()).min(INVITES_AT_ONCE);
            tokens.extend(self.some_users(admin, tokens.len(), some).await?);
        }
        Ok(tokens)
    }

    async fn some_users(&self, admin: &str, first: usize, count: usize) -> Measured<Vec<String>> {
        let mut connection = Connection::open(&self.address).await?;
        let body = json!({"count": count, "tier": "studio"}).to_string();
        let headers = format!("{JSON}{}", bearer(admin));
        let asked = request("POST", "/api/admin/invites", &headers, &body);
        let (status, answer) = connection.ask(&asked).await?;
        if status != 200 {
            return Err(format!("invites: {status}").into());
        }
        let answer: Value = serde_json::from_slice(&answer)?;
        let mut tokens = Vec::new();
        for n in 0..count {
            let invite = answer["data"][n]["code"].as_str().ok_or("no invite")?;
            tokens.push(self.register(&format!("user{}", first + n), invite).await?);
        }
        Ok(tokens)
    }

    async fn register(&self, name: &str, invite: &str) -> Measured<String> {
        let email = format!("{name}@example.com");
        let body = json!({"email": email, "password": "a long password", "inviteCode": invite});
        let body = body.to_string();
        let mut connection = Connection::open(&self.address).await?;
        for path in ["/api/register", "/auth/login"] {
            let (status, answer) = connection.ask(&request("POST", path, JSON, &body)).await?;
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

pub fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

pub fn request(method: &str, path: &str, headers: &str, body: &str) -> Vec<u8> {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: genie\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// One connection that stays open. It does only what HTTP/1.1 needs here, since a busier client would hide the server's cost.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub async fn open(address: &str) -> Measured<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(16 * 1024),
        })
    }

    /// The status and the body.
    pub async fn ask(&mut self, request: &[u8]) -> Measured<(u16, Vec<u8>)> {
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
