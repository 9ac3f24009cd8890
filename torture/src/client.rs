//! Sends commands to the servers. A command without an answer is sent again, to any server, as the same request under the same
//! mark, until there is a definite answer or the client's patience ends.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    chat::ShownAnswer,
    clocks::Recovery,
    ledger::{CommandKind, CommandMark, CommandOutcome, Ledger},
    position,
    servers::ServerProcess,
    verdict::{Mistake, RunVerdict},
    worker_line::WorkerConnections,
};

/// How long a command is sent again and again before it is given up as unknown.
const PATIENCE: Duration = Duration::from_secs(45);
/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(10);
/// The share of requests whose client goes away after a moment, without waiting for the answer.
const HASTY: f64 = 0.03;
/// The most answers that may wait until the end to be compared. A healthy run has few.
const COMPARED_LATER: usize = 10_000;
/// Answers with status 500 that the report shows.
const SHOWN: usize = 10;

#[derive(Clone, Copy)]
pub enum By<'a> {
    Token(&'a str),
    Secret,
    Anybody,
}

pub struct ClientRequest<'a> {
    pub kind: CommandKind,
    pub method: Method,
    pub path: String,
    pub body: Value,
    pub by: By<'a>,
    /// The stream it is about, where that is known beforehand.
    pub stream: u64,
    /// True when the request may be sent again; else a lost answer counts as unknown.
    pub again: bool,
    /// The position of the claim under which a job is ended.
    pub held: Option<u64>,
    /// The sender's own connections; else those that all clients share.
    pub through: Option<&'a WorkerConnections>,
}

impl<'a> ClientRequest<'a> {
    /// A POST that may be sent again.
    pub fn post(kind: CommandKind, path: impl Into<String>, by: By<'a>, body: Value) -> Self {
        Self {
            kind,
            method: Method::POST,
            path: path.into(),
            body,
            by,
            stream: 0,
            again: true,
            held: None,
            through: None,
        }
    }
}

#[derive(Debug)]
pub enum ClientAnswer {
    Yes { json: Value, position: u64 },
    No { status: u16, json: Value },
    Unknown,
}

/// Everything that is compared with the log at the end.
pub struct Books {
    pub ledger: Ledger,
    /// For each request to end a job, the position of the claim under which it was sent.
    pub held: HashMap<CommandMark, u64>,
    /// By turn: the shown answers that have not been compared yet.
    pub shown: HashMap<String, Vec<ShownAnswer>>,
    /// Workers that were killed while they waited: nothing after this position may be given to them.
    pub gone: HashMap<String, u64>,
}

/// State that all clients share.
pub struct Arena {
    pub nodes: Vec<Arc<ServerProcess>>,
    pub http: reqwest::Client,
    pub secret: String,
    ledger: Mutex<Ledger>,
    held: Mutex<HashMap<CommandMark, u64>>,
    /// By turn: the shown answers that could not be compared in time.
    shown: Mutex<HashMap<String, Vec<ShownAnswer>>>,
    /// Workers that were killed while they waited, each with a position after that.
    gone: Mutex<HashMap<String, u64>>,
    recovery: Mutex<Recovery>,
    /// Mistakes that clients saw themselves.
    seen: Mutex<RunVerdict>,
    pub requests: AtomicU64,
    /// Requests whose outcome nobody could say at first.
    pub lost: AtomicU64,
    /// Readers of answers that went away in the middle, and such that were cut off.
    pub turns_left: AtomicU64,
    pub turns_cut: AtomicU64,
    internal: Mutex<(u64, Vec<String>)>,
    /// Clients stop when they have a definite answer to what they asked last.
    pub stop: CancellationToken,
}

enum OneAnswer {
    Yes { json: Value, position: u64 },
    No { status: u16, json: Value },
    Lost,
}

/// The answer to a report that was refused in a request which was not.
fn of_report(code: &str, json: Value) -> OneAnswer {
    match code {
        "busy" | "store_away" | "internal" | "position_not_reached" => OneAnswer::Lost,
        "not_found" => OneAnswer::No { status: 404, json },
        _ => OneAnswer::No { status: 409, json },
    }
}

impl Arena {
    pub fn new(
        nodes: Vec<Arc<ServerProcess>>,
        secret: String,
        ledger: Ledger,
    ) -> Result<Self, String> {
        let http = reqwest::Client::builder().connect_timeout(REQUEST).build();
        Ok(Self {
            nodes,
            http: http.map_err(|error| format!("the HTTP client can't be made: {error}"))?,
            secret,
            ledger: Mutex::new(ledger),
            held: Mutex::default(),
            shown: Mutex::default(),
            gone: Mutex::default(),
            recovery: Mutex::default(),
            seen: Mutex::default(),
            requests: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            turns_left: AtomicU64::new(0),
            turns_cut: AtomicU64::new(0),
            internal: Mutex::default(),
            stop: CancellationToken::new(),
        })
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock()
    }

    pub fn recovery(&self) -> MutexGuard<'_, Recovery> {
        self.recovery.lock()
    }

    /// Keeps a shown answer until it can be compared with the log itself.
    pub fn compare_later(&self, turn: String, answer: ShownAnswer) {
        let mut shown = self.shown.lock();
        if shown.len() < COMPARED_LATER {
            shown.entry(turn).or_default().push(answer);
        } else {
            let sentence = format!("turn {turn}: too many answers before it are not kept yet");
            self.accuse(Mistake::Missing, sentence);
        }
    }

    pub fn close_books(&self) -> Books {
        Books {
            ledger: std::mem::replace(&mut *self.ledger(), Ledger::new("over")),
            held: std::mem::take(&mut *self.held.lock()),
            shown: std::mem::take(&mut *self.shown.lock()),
            gone: std::mem::take(&mut *self.gone.lock()),
        }
    }

    /// These workers were gone when the fact at this position was written.
    pub fn were_gone(&self, workers: Vec<String>, position: u64) {
        let mut gone = self.gone.lock();
        gone.extend(workers.into_iter().map(|worker| (worker, position)));
    }

    pub fn take_seen(&self) -> RunVerdict {
        std::mem::take(&mut self.seen.lock())
    }

    /// How many answers had status 500, and some of them.
    pub fn internal(&self) -> (u64, Vec<String>) {
        self.internal.lock().clone()
    }

    /// An answer with status 500: no fault explains one.
    pub fn note_internal(&self, to_what: impl FnOnce() -> String) {
        let mut internal = self.internal.lock();
        internal.0 += 1;
        if internal.1.len() < SHOWN {
            internal.1.push(to_what());
        }
    }

    pub fn accuse(&self, count: Mistake, sentence: impl Into<String>) {
        self.seen.lock().add(count, sentence);
    }

    /// A running server, chosen at random; `None` while all are down.
    pub fn any_node(&self, chance: &mut StdRng) -> Option<(usize, String)> {
        let up: Vec<(usize, String)> = self
            .nodes
            .iter()
            .enumerate()
            .filter_map(|(n, node)| Some((n, node.base()?)))
            .collect();
        up.choose(chance).cloned()
    }

    pub fn request(&self, method: Method, base: &str, path: &str, by: By<'_>) -> RequestBuilder {
        self.request_by(&self.http, method, base, path, by)
    }

    /// The same over these connections.
    pub fn request_by(
        &self,
        http: &reqwest::Client,
        method: Method,
        base: &str,
        path: &str,
        by: By<'_>,
    ) -> RequestBuilder {
        let request = http.request(method, format!("{base}{path}"));
        match by {
            By::Token(token) => request.bearer_auth(token),
            By::Secret => request.header("X-RBAC-SYNC-SECRET", &self.secret),
            By::Anybody => request,
        }
    }

    /// Tells a command to any server until there is a definite answer.
    pub async fn tell(&self, chance: &mut StdRng, ask: ClientRequest<'_>) -> ClientAnswer {
        self.tell_to(None, chance, ask).await
    }

    /// The same to one server, or to any.
    pub async fn tell_to(
        &self,
        only: Option<usize>,
        chance: &mut StdRng,
        ask: ClientRequest<'_>,
    ) -> ClientAnswer {
        let mark = self.ledger().begin(ask.kind, ask.stream);
        if let Some(claimed_at) = ask.held {
            self.held.lock().insert(mark, claimed_at);
        }
        let text = self.ledger().text(mark);
        let deadline = Instant::now() + PATIENCE;
        let mut sent = 0_u32;
        while Instant::now() < deadline {
            // Nobody knows to which server a worker's own connection leads.
            let node = match (ask.through, only) {
                (Some(own), _) => Some((None, own.base.clone())),
                (None, Some(n)) => self.nodes[n].base().map(|base| (Some(n), base)),
                (None, None) => self.any_node(chance).map(|(n, base)| (Some(n), base)),
            };
            let Some((node, base)) = node else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            self.ledger().sending(mark);
            sent += 1;
            match self.send_once(node, &base, &ask, &text, chance).await {
                OneAnswer::Yes { json, .. }
                    if ask.kind == CommandKind::ClaimJob && json["jobs"][0].is_null() =>
                {
                    self.ledger()
                        .settle(mark, CommandOutcome::Refused { clean: false });
                    return ClientAnswer::No { status: 200, json }; // there was nothing to do
                }
                OneAnswer::Yes { json, position } => {
                    self.ledger()
                        .settle(mark, CommandOutcome::Acknowledged { position });
                    return ClientAnswer::Yes { json, position };
                }
                OneAnswer::No { status, json } => {
                    // A reveal that is refused because the credential changed meanwhile has left its fact already.
                    let left_its_fact = ask.kind == CommandKind::RevealCredential && status == 409;
                    self.ledger().settle(
                        mark,
                        CommandOutcome::Refused {
                            clean: sent == 1 && !left_its_fact,
                        },
                    );
                    return ClientAnswer::No { status, json };
                }
                OneAnswer::Lost if !ask.again => break,
                OneAnswer::Lost => {
                    self.lost.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(chance.random_range(10..400))).await;
                }
            }
        }
        self.ledger().settle(mark, CommandOutcome::Unknown);
        ClientAnswer::Unknown
    }

    fn good_answer(&self, node: Option<usize>, sent: Instant) {
        if let Some(node) = node {
            self.recovery().good_answer(node, sent, Instant::now());
        }
    }

    async fn send_once(
        &self,
        node: Option<usize>,
        base: &str,
        ask: &ClientRequest<'_>,
        mark: &str,
        chance: &mut StdRng,
    ) -> OneAnswer {
        let limit = if chance.random_bool(HASTY) {
            Duration::from_millis(chance.random_range(1..40))
        } else {
            REQUEST
        };
        let http = ask.through.map_or(&self.http, |own| &own.http);
        let mut request = self
            .request_by(http, ask.method.clone(), base, &ask.path, ask.by)
            .header("X-Request-Id", mark)
            .timeout(limit);
        if ask.again {
            request = request.header("Idempotency-Key", mark);
        }
        if !ask.body.is_null() {
            request = request.json(&ask.body);
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        let sent = Instant::now();
        let Ok(response) = request.send().await else {
            return OneAnswer::Lost;
        };
        let status = response.status();
        let position = position_of(response.headers());
        let Ok(body) = response.bytes().await else {
            return OneAnswer::Lost;
        };
        let json: Value = serde_json::from_slice(&body).unwrap_or_default();
        let is_running = status == StatusCode::CONFLICT
            && json["code"]
                .as_str()
                .is_some_and(|code| code.starts_with("idempotency"));
        match status {
            StatusCode::OK => {
                self.good_answer(node, sent);
                if let Some(code) = json["reports"][0]["code"].as_str() {
                    return of_report(code, json.clone());
                }
                OneAnswer::Yes {
                    json,
                    position: position.unwrap_or(0),
                }
            }
            // The model server failed, and that is a fact.
            StatusCode::BAD_GATEWAY if position.is_some() => OneAnswer::Yes {
                json,
                position: position.unwrap_or(0),
            },
            StatusCode::INTERNAL_SERVER_ERROR => {
                self.note_internal(|| format!("{} of command {mark}", ask.kind.as_str()));
                OneAnswer::Lost
            }
            StatusCode::REQUEST_TIMEOUT => OneAnswer::Lost,
            _ if status.is_server_error() || is_running => OneAnswer::Lost,
            _ => OneAnswer::No {
                status: status.as_u16(),
                json,
            },
        }
    }

    /// Waits for a good answer of each server, so that a fault without one means that a server never came back.
    pub async fn call_the_roll(&self, by: By<'_>, limit: Duration) {
        let deadline = Instant::now() + limit;
        for (number, node) in self.nodes.iter().enumerate() {
            while Instant::now() < deadline {
                if let Some(base) = node.base() {
                    let sent = Instant::now();
                    let asked = self
                        .request(Method::GET, &base, "/users/me", by)
                        .timeout(REQUEST)
                        .send()
                        .await;
                    if asked.is_ok_and(|response| response.status() == StatusCode::OK) {
                        self.recovery().good_answer(number, sent, Instant::now());
                        break;
                    }
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// Reads from any server until one answers with success or a definite no, within a limit.
    pub async fn read(
        &self,
        chance: &mut StdRng,
        path: &str,
        by: By<'_>,
        at: Option<u64>,
        limit: Duration,
    ) -> Option<(u16, Value)> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some((node, base)) = self.any_node(chance) {
                let mut request = self.request(Method::GET, &base, path, by).timeout(REQUEST);
                if let Some(at) = at {
                    request = request.header("Genie-Min-Position", position::opaque(at));
                }
                let sent = Instant::now();
                if let Ok(response) = request.send().await {
                    let status = response.status();
                    if status == StatusCode::INTERNAL_SERVER_ERROR {
                        self.note_internal(|| format!("a read of {path}"));
                    }
                    let is_definite =
                        !status.is_server_error() && status != StatusCode::PRECONDITION_FAILED;
                    if let (true, Ok(json)) = (is_definite, response.json::<Value>().await) {
                        if status == StatusCode::OK {
                            self.recovery().good_answer(node, sent, Instant::now());
                        }
                        return Some((status.as_u16(), json));
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        None
    }
}

/// The position that a write answered with.
pub fn position_of(headers: &reqwest::header::HeaderMap) -> Option<u64> {
    position::parse(headers.get(position::HEADER)?.to_str().ok()?)
}
