//! A scripted model server in its own process: an answer is so many tokens, one every 10 ms, and each token holds
//! the time at which it was written.

use std::{process::Stdio, time::Duration};

use genie_log::Clock;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    time::Instant,
};

use crate::setup::Measured;

/// The subcommand of the process.
pub const CHILD: &str = "scripted-model";
/// Tokens of an answer.
pub const TOKENS: u32 = 100;
/// From one token to the next.
const GAP: Duration = Duration::from_millis(10);
/// A question with this word gets one token, and then nothing until its asker goes away.
pub const SILENT: &str = "silent";

/// It is killed when this is dropped.
pub struct ScriptedModel {
    _process: Child,
    pub address: String,
}

impl ScriptedModel {
    pub async fn start() -> Measured<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg(CHILD)
            .kill_on_drop(true)
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = process.stdout.take().ok_or("no standard output")?;
        let address = BufReader::new(lines).lines().next_line().await?;
        Ok(Self {
            _process: process,
            address: address.ok_or("the scripted model stopped")?,
        })
    }
}

/// Serves until the process is killed, on one thread.
pub fn serve() -> Measured<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        println!("{}", listener.local_addr()?);
        loop {
            let (client, _) = listener.accept().await?;
            tokio::spawn(async move {
                // A client that goes away is no error.
                let _ = answer_all(client).await;
            });
        }
    })
}

/// Answers the requests of a connection, one after the other.
async fn answer_all(mut client: TcpStream) -> Measured<()> {
    client.set_nodelay(true)?;
    let mut received = Vec::new();
    while let Some(request) = next_request(&mut client, &mut received).await? {
        if !request.contains("/api/chat ") {
            client
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
                .await?;
            continue;
        }
        client
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await?;
        write_answer(&mut client, request.contains(SILENT)).await?;
    }
    Ok(())
}

async fn write_answer(client: &mut TcpStream, is_silent: bool) -> Measured<()> {
    let began = Instant::now();
    for n in 0..TOKENS {
        tokio::time::sleep_until(began + GAP * n).await;
        let written = Clock::system().now().0;
        let token = format!(
            "{{\"model\":\"m\",\"message\":{{\"role\":\"assistant\",\"content\":\"@{written}@\"}},\"done\":false}}\n"
        );
        client.write_all(chunk(&token).as_bytes()).await?;
        if is_silent {
            // Resolves when the asker goes away.
            client.read_u8().await?;
        }
    }
    let end = format!(
        "{{\"model\":\"m\",\"message\":{{\"role\":\"assistant\",\"content\":\"\"}},\"done\":true,\"done_reason\":\"stop\",\"prompt_eval_count\":5,\"eval_count\":{TOKENS}}}\n"
    );
    client
        .write_all(format!("{}0\r\n\r\n", chunk(&end)).as_bytes())
        .await?;
    Ok(())
}

fn chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.len())
}

/// The next request, its head and body; `None` when the client has closed the connection.
async fn next_request(client: &mut TcpStream, received: &mut Vec<u8>) -> Measured<Option<String>> {
    loop {
        if let Some(length) = request_length(received)
            && received.len() >= length
        {
            let request: Vec<u8> = received.drain(..length).collect();
            return Ok(Some(String::from_utf8_lossy(&request).into_owned()));
        }
        if client.read_buf(received).await? == 0 {
            return Ok(None);
        }
    }
}

/// The length of the request that begins here, once its head is complete.
fn request_length(received: &[u8]) -> Option<usize> {
    let end = received.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&received[..end]).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    let body = length.and_then(|length| length.trim().parse().ok());
    Some(end + body.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_its_head_and_body() {
        let request = b"POST /api/chat HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}GET";
        assert_eq!(request_length(request), Some(request.len() - 3));
        assert_eq!(request_length(b"GET / HTTP/1.1\r\n\r\n"), Some(18));
        assert_eq!(request_length(b"GET / HTTP/1.1\r\n"), None);
    }
}
