//! A relay between a server and Postgres, or between a worker and the servers, that misbehaves on request. It cuts all
//! connections, passes nothing on for a while, or cuts one connection to Postgres at the worst moment: after a commit was
//! requested, and before its answer is passed back.
//!
//! `postgres_wire.rs` recognises the request. Over TLS the relay can't read it, so that moment never comes.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::postgres_wire::{Listener, WireRequest, ends_ready};

/// Bytes passed on at once.
const PIECE: usize = 16 * 1024;
/// The most of an answer that is kept while it is withheld.
const WITHHELD: usize = 1 << 20;
/// Pause after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(50);

/// When a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutAt {
    /// As soon as the whole request was passed on: whether it takes effect is open.
    Sent,
    /// When Postgres has answered that it is done; the answer is not passed back.
    Done,
}

/// A cut that waits for its moment.
struct Armed {
    on: WireRequest,
    moment: CutAt,
    happened: CancellationToken,
}

/// Host and port for the next connection; `None` while there is nobody to connect to.
type RelayTarget = Box<dyn Fn() -> Option<(String, u16)> + Send + Sync>;

struct RelayState {
    target: RelayTarget,
    armed: Mutex<Option<Armed>>,
    /// Open connections, by the port from which this relay makes them.
    open: Mutex<HashMap<u16, CancellationToken>>,
    stalled: watch::Sender<bool>,
}

/// The relay ends when this is dropped.
pub struct TcpRelay {
    pub port: u16,
    shared: Arc<RelayState>,
    accepting: JoinHandle<()>,
}

impl Drop for TcpRelay {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut_all();
    }
}

impl TcpRelay {
    /// Listens on a free port of this machine, and relays to `target`.
    pub async fn start(
        target: impl Fn() -> Option<(String, u16)> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(RelayState {
            target: Box::new(target),
            armed: Mutex::default(),
            open: Mutex::default(),
            stalled: watch::Sender::new(false),
        });
        let accepting = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                loop {
                    match listener.accept().await {
                        Ok((client, _)) => drop(tokio::spawn(relay(Arc::clone(&shared), client))),
                        Err(_) => tokio::time::sleep(PAUSE).await, // out of file handles, perhaps; they come back
                    }
                }
            }
        });
        Ok(Self {
            port,
            shared,
            accepting,
        })
    }

    /// Cuts every open connection. Returns how many.
    pub fn cut_all(&self) -> usize {
        let open = std::mem::take(&mut *self.shared.open.lock());
        open.values().for_each(CancellationToken::cancel);
        open.len()
    }

    /// Cuts the connection that this relay made from this port, if it goes through this relay.
    pub fn cut(&self, port: u16) -> bool {
        self.shared
            .open
            .lock()
            .remove(&port)
            .inspect(CancellationToken::cancel)
            .is_some()
    }

    /// Passes nothing on in either direction, without an error, until it is told otherwise.
    pub fn stall(&self, stalled: bool) {
        self.shared.stalled.send_replace(stalled);
    }

    /// Cuts the next connection with this request, at this moment. Returns whether one came within `limit`.
    pub async fn cut_next(&self, on: WireRequest, moment: CutAt, limit: Duration) -> bool {
        let happened = CancellationToken::new();
        *self.shared.armed.lock() = Some(Armed {
            on,
            moment,
            happened: happened.clone(),
        });
        let in_time = tokio::time::timeout(limit, happened.cancelled())
            .await
            .is_ok();
        *self.shared.armed.lock() = None;
        in_time
    }
}

impl RelayState {
    /// The armed cut, if it is for one of these.
    fn disarm(&self, said: &[WireRequest]) -> Option<Armed> {
        self.armed.lock().take_if(|armed| said.contains(&armed.on))
    }
}

async fn relay(shared: Arc<RelayState>, client: TcpStream) {
    let Some(target) = (shared.target)() else {
        return;
    };
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let Ok(port) = server.local_addr().map(|address| address.port()) else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true)); // only slower without
    let cut = CancellationToken::new();
    shared.open.lock().insert(port, cut.clone());
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let withhold = watch::Sender::new(None);
    tokio::select! {
        () = cut.cancelled() => {}
        _ = requests(&shared, from_client, to_server, &withhold) => {}
        _ = answers(&shared, from_server, to_client, withhold.subscribe()) => {}
    }
    shared.open.lock().remove(&port);
}

/// From who asks to who answers. Ends to cut the connection.
async fn requests(
    shared: &RelayState,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    withhold: &watch::Sender<Option<CancellationToken>>,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    let mut listener = Listener::default();
    let mut stalled = shared.stalled.subscribe();
    loop {
        let count = from.read(&mut piece).await?;
        if count == 0 {
            return Ok(());
        }
        let _ = stalled.wait_for(|stalled| !stalled).await; // a closed watch stalls nobody
        let said = listener.hear(&piece[..count]);
        let armed = shared.disarm(&said);
        if let Some(Armed {
            moment: CutAt::Done,
            happened,
            ..
        }) = &armed
        {
            withhold.send_replace(Some(happened.clone())); // before Postgres can answer
        }
        to.write_all(&piece[..count]).await?;
        if let Some(Armed {
            moment: CutAt::Sent,
            happened,
            ..
        }) = &armed
        {
            happened.cancel();
            return Ok(());
        }
    }
}

/// From who answers to who asks. Ends to cut the connection.
async fn answers(
    shared: &RelayState,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    withhold: watch::Receiver<Option<CancellationToken>>,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    let mut withheld = Vec::new();
    let mut stalled = shared.stalled.subscribe();
    loop {
        let count = from.read(&mut piece).await?;
        if count == 0 {
            return Ok(());
        }
        let _ = stalled.wait_for(|stalled| !stalled).await; // a closed watch stalls nobody
        let cut = withhold.borrow().clone();
        match cut {
            None => to.write_all(&piece[..count]).await?,
            Some(happened) => {
                withheld.extend_from_slice(&piece[..count]);
                if ends_ready(&withheld) || withheld.len() > WITHHELD {
                    happened.cancel();
                    return Ok(());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Postgres of one trick: answers every message with "ready", and counts the messages of one byte and a length.
    async fn postgres() -> (u16, watch::Receiver<usize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (count, counted) = watch::channel(0);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let count = count.clone();
                tokio::spawn(async move {
                    let mut start_up = [0; 8];
                    stream.read_exact(&mut start_up).await.unwrap();
                    let mut header = [0; 5];
                    while stream.read_exact(&mut header).await.is_ok() {
                        let mut body =
                            vec![
                                0;
                                u32::from_be_bytes(header[1..].try_into().unwrap()) as usize - 4
                            ];
                        stream.read_exact(&mut body).await.unwrap();
                        count.send_modify(|count| *count += 1);
                        if stream.write_all(b"Z\0\0\0\x05I").await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        (port, counted)
    }

    async fn started() -> (TcpRelay, watch::Receiver<usize>) {
        let (port, counted) = postgres().await;
        (
            TcpRelay::start(move || Some(("127.0.0.1".into(), port)))
                .await
                .unwrap(),
            counted,
        )
    }

    async fn connect(proxy: &TcpRelay) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port)).await.unwrap();
        stream.write_all(&[0, 0, 0, 8, 0, 3, 0, 0]).await.unwrap();
        assert!(ask(&mut stream, "SELECT 1").await, "it is relayed");
        stream
    }

    /// True when the query is answered, false when the connection is cut.
    async fn ask(stream: &mut TcpStream, sql: &str) -> bool {
        let length = (sql.len() as u32 + 5).to_be_bytes();
        let message = [&b"Q"[..], &length, sql.as_bytes(), b"\0"].concat();
        let mut answer = [0; 6];
        stream.write_all(&message).await.is_ok() && stream.read_exact(&mut answer).await.is_ok()
    }

    #[tokio::test]
    async fn an_append_is_cut_off_from_its_answer_and_was_executed() {
        for moment in [CutAt::Sent, CutAt::Done] {
            let (proxy, mut counted) = started().await;
            let (mut one, mut other) = (connect(&proxy).await, connect(&proxy).await);
            let limit = Duration::from_secs(10);
            let talk = async {
                // Armed by the time that this side is polled.
                assert!(
                    ask(&mut other, "COMMIT").await,
                    "that is not what the cut waits for"
                );
                assert!(!ask(&mut one, "SELECT append($1)").await, "{moment:?}");
            };
            let (happened, ()) =
                tokio::join!(proxy.cut_next(WireRequest::Append, moment, limit), talk);
            assert!(happened, "{moment:?}");
            counted.wait_for(|count| *count == 4).await.unwrap();
            assert!(
                ask(&mut other, "SELECT append($1)").await,
                "only one connection was cut"
            );
        }
    }

    #[tokio::test]
    async fn only_the_requested_connection_is_cut() {
        let (proxy, _counted) = started().await;
        let mut stream = connect(&proxy).await;
        assert!(
            !proxy
                .cut_next(WireRequest::Commit, CutAt::Done, Duration::from_millis(10))
                .await
        );
        assert!(ask(&mut stream, "COMMIT").await, "it came too late");
    }

    #[tokio::test]
    async fn all_connections_are_cut_and_new_ones_let_through() {
        let (proxy, _counted) = started().await;
        let (mut one, mut other) = (connect(&proxy).await, connect(&proxy).await);
        assert_eq!(proxy.cut_all(), 2);
        assert!(!ask(&mut one, "SELECT 1").await && !ask(&mut other, "SELECT 1").await);
        connect(&proxy).await;
    }

    #[tokio::test]
    async fn a_connection_to_nobody_is_closed() {
        let relay = TcpRelay::start(|| None).await.unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", relay.port)).await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_stall_holds_the_bytes_back_and_loses_none() {
        let (proxy, counted) = started().await;
        let mut stream = connect(&proxy).await;
        proxy.stall(true);
        let mut asked = Box::pin(ask(&mut stream, "SELECT 1"));
        assert!(
            tokio::time::timeout(Duration::from_millis(50), &mut asked)
                .await
                .is_err()
        );
        assert_eq!(*counted.borrow(), 1, "nothing was passed on");
        proxy.stall(false);
        assert!(asked.await);
    }
}
