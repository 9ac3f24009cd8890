//! A connection whose bytes the test writes and reads itself, for clients that no HTTP library
//! imitates: those that go away, send half a request or do not read.

use std::time::Duration;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::test_genie::{SECRET, TestGenie};

/// Longer than any step takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

pub struct RawConnection(TcpStream);

impl RawConnection {
    pub async fn open(genie: &TestGenie) -> Self {
        let address = genie.base.strip_prefix("http://").unwrap();
        Self(TcpStream::connect(address).await.unwrap())
    }

    pub async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
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
