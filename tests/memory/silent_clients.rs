use std::time::Duration;

use futures_util::future::join_all;
use genie_events::TurnId;
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
};

use crate::{
    large_store::SESSION,
    test_genie::{SECRET, TestGenie, TestUser},
    until::until_within,
};

/// The client's kernel takes about this much of an answer, and the server's about as much.
const RECEIVE_BUFFER: u32 = 16 << 10;
const ANSWERED: Duration = Duration::from_secs(120);

/// A connection that asked for something and leaves the answer unread.
pub struct SilentClient(TcpStream);

impl SilentClient {
    pub async fn ask(genie: &TestGenie, request: String) -> Self {
        let address = genie.base.strip_prefix("http://").unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(RECEIVE_BUFFER).unwrap();
        let mut connection = socket.connect(address.parse().unwrap()).await.unwrap();
        connection.write_all(request.as_bytes()).await.unwrap();
        Self(connection)
    }

    /// Waits for the head of the answer, and returns the status.
    pub async fn status(&self) -> u16 {
        let mut buffer = [0; 16];
        until_within(ANSWERED, "an answer", async || {
            self.0.peek(&mut buffer).await.unwrap();
            let text = std::str::from_utf8(&buffer).unwrap();
            text.get(9..12)?.parse().ok()
        })
        .await
    }
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: genie\r\n{headers}\r\n")
}

/// The five kinds of readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReaderKind {
    /// The live stream of everybody's facts, with all their fields.
    Feed,
    /// The live stream of the caller's own facts.
    OwnFeed,
    /// The stream of a turn.
    Turn,
    JobList,
    /// The messages of the session.
    MessagePage,
}

impl ReaderKind {
    pub const ALL: [Self; 5] = [
        Self::Feed,
        Self::OwnFeed,
        Self::Turn,
        Self::JobList,
        Self::MessagePage,
    ];

    fn request(self, user: &TestUser, turn: TurnId) -> String {
        let bearer = format!("Authorization: Bearer {}\r\n", user.token);
        let secret = format!("X-RBAC-SYNC-SECRET: {SECRET}\r\n");
        let live = "Accept: text/event-stream\r\n";
        let session = SESSION.replace(' ', "%20");
        match self {
            Self::Feed => get("/api/events?personal=true", &format!("{secret}{live}")),
            Self::OwnFeed => get("/api/me/events", &format!("{bearer}{live}")),
            Self::Turn => get(&format!("/api/genie/turns/{turn}/stream"), &bearer),
            Self::JobList => get("/api/jobs?limit=500", &bearer),
            Self::MessagePage => get(
                &format!("/api/genie/sessions/{session}/messages?limit=500"),
                &bearer,
            ),
        }
    }
}

/// This many readers of each kind, who come at once. Each has an answer before it.
pub async fn readers(
    genie: &TestGenie,
    user: &TestUser,
    turns: &[TurnId],
    each: usize,
) -> Vec<SilentClient> {
    let mut opening = Vec::new();
    for reading in ReaderKind::ALL {
        for turn in turns.iter().cycle().take(each) {
            opening.push(async move {
                let client = SilentClient::ask(genie, reading.request(user, *turn)).await;
                assert_eq!(client.status().await, 200, "{reading:?}");
                client
            });
        }
    }
    join_all(opening).await
}

/// Workers that claim as much as they may, at once. One who is told to come back asks again.
pub async fn workers(genie: &TestGenie, count: usize) -> Vec<SilentClient> {
    let claim: Value =
        json!({"queues": ["media-jobs"], "worker_id": "silent", "max": 100, "wait_ms": 10_000});
    let claim = claim.to_string();
    let request = format!(
        "POST /api/worker/claim HTTP/1.1\r\nHost: genie\r\nX-RBAC-SYNC-SECRET: {SECRET}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{claim}",
        claim.len()
    );
    let claiming = (0..count).map(async |_| {
        until_within(ANSWERED, "a claim", async || {
            let worker = SilentClient::ask(genie, request.clone()).await;
            match worker.status().await {
                200 => Some(worker),
                503 => None, // the jobs are all of one user, who is asked for many at once
                other => panic!("a claim was answered {other}"),
            }
        })
        .await
    });
    join_all(claiming).await
}
