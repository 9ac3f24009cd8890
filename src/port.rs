//! The port: accepts connections within their limits, and serves HTTP on them.

use std::{
    io,
    net::{TcpListener, ToSocketAddrs},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix_http::{HttpService, Protocol};
use actix_service::{IntoServiceFactory, ServiceFactoryExt, apply_fn_factory, map_config};
use actix_web::{
    dev::{AppConfig, Server, Service},
    web,
};
use tokio::net::TcpStream;

use crate::{
    app::App,
    connections::{
        ClientConnections, ConnectionLimits,
        refusal::{self, Refusals},
        stream::WatchedStream,
        watch::Watched,
    },
    file_limit,
    http::{self, RecentAnswers},
};

/// How long running requests may take at shutdown, in seconds.
const SHUTDOWN_SECONDS: u64 = 3;
/// The time for the head of a connection's first request.
const FIRST_HEAD: Duration = Duration::from_secs(5);
/// The time between two requests of a connection.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// The time for a client to take the end of a connection. A refused body is read on and dropped meanwhile: closing before that would
/// reset the connection, and the client would lose the answer.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Listens on all addresses of the host that can be had.
pub fn bind(host: &str, port: u16) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    let mut failure = io::Error::other("the host has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpListener::bind(address) {
            Ok(listener) => listeners.push(listener),
            Err(error) => failure = error,
        }
    }
    if listeners.is_empty() {
        return Err(failure);
    }
    Ok(listeners)
}

/// Serves HTTP on the listeners. The server runs when it is polled.
pub fn serve(app: &Arc<App>, listeners: Vec<TcpListener>, signals: bool) -> io::Result<Server> {
    let connections = ClientConnections::new(limits(app));
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    // The acceptor rests before the files run out, even while refusals are written.
    let at_once = connections.limits.in_all + refusal::AT_ONCE;
    let mut server = Server::build()
        .workers(workers)
        .max_concurrent_connections(at_once.div_ceil(workers))
        .shutdown_timeout(SHUTDOWN_SECONDS);
    if !signals {
        server = server.disable_signals();
    }
    let refusals = Refusals::default();
    let recent = RecentAnswers::new(app.config.probe_age);
    for listener in listeners {
        let app = Arc::clone(app);
        let connections = connections.clone();
        let refusals = refusals.clone();
        let recent = recent.clone();
        let stopping = server.graceful_shutdown_signal();
        server = server.listen("genie", listener, move || {
            let stopping = stopping.clone();
            let data = web::Data::from(Arc::clone(&app));
            let service = http::service(data, recent.clone())
                .into_factory()
                .map_err(|error: actix_web::Error| error.error_response());
            let http = HttpService::build()
                .graceful_shutdown_signal(move || {
                    let stopping = stopping.clone();
                    async move { stopping.notified().await }
                })
                .keep_alive(KEEP_ALIVE)
                .client_request_timeout(FIRST_HEAD)
                .client_disconnect_timeout(LAST_WORDS)
                // A worker that has gone must not be handed the job that it waited for.
                .h1_allow_half_closed(false)
                .on_connect_ext(|stream: &WatchedStream<TcpStream>, data| {
                    data.insert(Rc::clone(&stream.activity));
                })
                .finish(map_config(service, |()| AppConfig::default()));
            let door = Door {
                app: Arc::clone(&app),
                connections: connections.clone(),
                refusals: refusals.clone(),
            };
            apply_fn_factory(http, move |stream: TcpStream, http: &_| {
                door.clone().pass(stream, http)
            })
        })?;
    }
    Ok(server.run())
}

fn limits(app: &App) -> ConnectionLimits {
    ConnectionLimits {
        per_address: app.config.connections_per_address,
        in_all: app.config.connections_in_all.min(file_limit::connections()),
        proxies: app.config.trusted_proxies.clone(),
        stall: app.config.client_stall,
    }
}

/// What each connection passes through.
#[derive(Clone)]
struct Door {
    app: Arc<App>,
    connections: ClientConnections,
    refusals: Refusals,
}

impl Door {
    fn pass<H>(
        self,
        stream: TcpStream,
        http: &H,
    ) -> impl Future<Output = Result<(), H::Error>> + use<H>
    where
        H: Service<(
            WatchedStream<TcpStream>,
            Protocol,
            Option<std::net::SocketAddr>,
        )>,
    {
        let _ = stream.set_nodelay(true); // a short event must not wait for the next
        let peer = stream.peer_addr().ok();
        // A peer without an address has gone.
        let admitted = peer.map(|peer| self.connections.admit(peer.ip()));
        let accepted = match admitted {
            None => None,
            Some(Err(reason)) => Some(Err((stream, reason))),
            Some(Ok(slot)) => {
                let stream = WatchedStream::new(stream);
                let activity = Rc::clone(&stream.activity);
                let connection = http.call((stream, Protocol::Http1, peer));
                let stall = self.connections.limits.stall;
                Some(Ok((slot, Watched::new(connection, activity, stall))))
            }
        };
        async move {
            match accepted {
                None => {}
                Some(Err((stream, reason))) => {
                    let request_id = self.app.log.clock().new_uuid();
                    self.refusals.refuse(stream, reason, request_id).await;
                }
                Some(Ok((slot, connection))) => {
                    let ended = connection.await;
                    drop(slot);
                    if let Ok(Err(error)) = ended {
                        return Err(error);
                    }
                }
            }
            Ok(())
        }
    }
}
