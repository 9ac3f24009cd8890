//! The answer to a connection that finds no room. It comes once the client has sent something, whatever
//! that is, and the connection is then closed so that the answer arrives.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};
use uuid::Uuid;

use crate::shares::NoShare;

/// Refusals at once. A further connection is closed without an answer. The file limit leaves room
/// for them.
pub const AT_ONCE: usize = 128;
/// The longest time of a refusal.
const LONGEST: Duration = Duration::from_secs(1);
/// Bytes of the request that are read and dropped, because unread ones would reset the connection
/// and take the answer with them.
const DROPPED: u64 = 64 * 1024;
/// In seconds.
const RETRY_AFTER: u64 = 5;

/// Refuses connections.
#[derive(Clone)]
pub struct Refusals(Arc<Semaphore>);

impl Default for Refusals {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl Refusals {
    pub async fn refuse(self, mut stream: TcpStream, reason: NoShare, request_id: Uuid) {
        let Ok(_permit) = self.0.try_acquire() else {
            return;
        };
        let answer = answer(reason, request_id);
        let told = async {
            // A client that is answered before it asked may take the answer for a fault.
            if stream.read(&mut [0; 1024]).await? == 0 {
                return Ok(0);
            }
            stream.write_all(answer.as_bytes()).await?;
            stream.shutdown().await?;
            let mut rest = stream.take(DROPPED);
            tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
        };
        let _ = timeout(LONGEST, told).await; // in time or not, the connection is closed
    }
}

fn answer(reason: NoShare, request_id: Uuid) -> String {
    let (status, code, sentence) = match reason {
        NoShare::OfHolder => (
            "429 Too Many Requests",
            "too_many_connections",
            "Too many connections from this address; close some, or try again shortly",
        ),
        NoShare::InAll => (
            "503 Service Unavailable",
            "busy",
            "The server has as many connections as it may have; try again shortly",
        ),
    };
    let body = json!({
        "ok": false, "success": false, "error": sentence, "code": code, "request_id": request_id,
    })
    .to_string();
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Retry-After: {RETRY_AFTER}\r\nX-Request-Id: {request_id}\r\nCache-Control: no-store\r\n\
         Connection: close\r\n\r\n{body}"
    )
}
