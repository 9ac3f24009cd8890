//! A connection whose bytes the test writes and reads itself, for clients that no HTTP library
//! imitates: those that go away, send half a request or do not read.

use std::{io::ErrorKind, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    test_genie::{SECRET, TestGenie},
    until::until,
};

/// Longer than any step takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);
/// Long enough for bytes that the kernel takes at once.
const MOMENT: Duration = Duration::from_millis(200);

pub struct RawConnection(TcpStream);

impl RawConnection {
    pub async fn open(genie: &TestGenie) -> Self {
        let address = genie.base.strip_prefix("http://").unwrap();
        Self(TcpStream::connect(address).await.unwrap())
    }

    pub async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    pub async fn get(&mut self, path: &str) {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: genie\r\n\r\n"))
            .await;
    }

    /// Sends bytes for as long as the server takes them.
    pub async fn send_what_fits(&mut self, bytes: usize) {
        let bytes = vec![b'x'; bytes];
        let sending = self.0.write_all(&bytes);
        let _ = timeout(MOMENT, sending).await; // a full buffer is what is wanted
    }

    /// The head of the next answer, and what came with it.
    pub async fn head(&mut self) -> String {
        let mut bytes = Vec::new();
        let reading = async {
            while !bytes.windows(4).any(|end| end == b"\r\n\r\n") {
                if self.0.read_buf(&mut bytes).await.unwrap() == 0 {
                    break;
                }
            }
        };
        timeout(LIMIT, reading).await.expect("an answer");
        String::from_utf8(bytes).unwrap()
    }

    /// Waits until the server has closed the connection, without reading.
    pub async fn until_cut_off(&mut self) {
        until("the server to cut the connection", async || {
            match self.0.try_write(b"x") {
                Err(error) if error.kind() != ErrorKind::WouldBlock => Some(()),
                _ => None,
            }
        })
        .await;
    }

    pub async fn post_with_secret(&mut self, path: &str, body: &Value) {
        let body = body.to_string();
        let length = body.len();
        self.send(&format!(
            "POST {path} HTTP/1.1\r\nHost: genie\r\nX-RBAC-SYNC-SECRET: {SECRET}\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
        .await;
    }

    /// Announces a login's body of a length, and sends only a part of it.
    pub async fn begin_login(&mut self, length: usize, part: usize) {
        let body = "x".repeat(part);
        self.send(&format!(
            "POST /auth/login HTTP/1.1\r\nHost: genie\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        ))
        .await;
    }

    /// Closes the sending half, as the kernel of a dead client does.
    pub async fn send_no_more(&mut self) {
        self.0.shutdown().await.unwrap();
    }

    /// Everything that the server sends until it closes the connection.
    pub async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        timeout(LIMIT, self.0.read_to_end(&mut bytes))
            .await
            .expect("the server closes the connection")
            .unwrap();
        String::from_utf8(bytes).unwrap()
    }
}
