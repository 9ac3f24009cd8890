//! The server as its users see it: started, killed and restarted, with users and workers who speak
//! HTTP to it. It runs inside the test, with a clock that the test moves. A test of the process
//! itself runs the real binary.

use std::{
    collections::BTreeMap,
    process::Stdio,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use genie::{config::Config, serve::Server};
use genie_log::{Clock, testing::TestStore};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::{
    fake_ollama::FakeOllama,
    identity,
    until::{until, until_within},
};

pub const SECRET: &str = "a shared secret";
pub const FIRST_INVITE: &str = "the-first-invite";

/// The place where a server runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Inside the test.
    Here,
    /// As a process of the real binary.
    Process,
}

/// A running genie with its store, its model server and its clock.
pub struct TestGenie {
    pub store: TestStore,
    /// The clock of servers inside the test.
    pub clock: Clock,
    pub ollama: FakeOllama,
    pub base: String,
    pub http: reqwest::Client,
    /// Lines that the server printed to standard output.
    pub said: Vec<String>,
    settings: Vec<(&'static str, String)>,
    place: Place,
    /// The arguments of the binary.
    serve: &'static [&'static str],
    server: Option<Running>,
    admin: Option<TestUser>,
    /// A second server on the same store. Requests then alternate between the two.
    beside: Option<Node>,
    sent: AtomicUsize,
    /// The position of the last write. With two servers, reads ask for it.
    written: Mutex<Option<String>>,
}

/// A running server, which ends when this is dropped.
enum Running {
    Here(Server),
    Process(Child),
}

impl Running {
    /// kill -9, or the closest thing to it inside the test.
    async fn kill(self) {
        match self {
            Self::Here(server) => server.kill().await,
            Self::Process(mut process) => process.kill().await.unwrap(), // sends SIGKILL and waits
        }
    }

    /// Asks the server to stop. Returns whether it ended by itself.
    async fn terminate(self) -> bool {
        let stopped = async {
            match self {
                Self::Here(server) => server.stop().await.is_ok(),
                Self::Process(mut process) => {
                    signal(process.id().expect("it runs"), "TERM").await;
                    process.wait().await.unwrap().success()
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(15), stopped)
            .await
            .unwrap_or(false)
    }
}

async fn signal(pid: u32, name: &str) {
    let arguments = [format!("-{name}"), pid.to_string()];
    let sent = Command::new("kill").args(arguments).status().await;
    assert!(sent.unwrap().success());
}

/// Another server on the same store.
pub struct Node {
    pub base: String,
    said: Vec<String>,
    server: Option<Running>,
}

impl Node {
    /// kill -9 without a restart.
    pub async fn kill(&mut self) {
        self.server.take().expect("it runs").kill().await;
    }
}

/// An answer with any status.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub json: Value,
}

impl Answer {
    /// Expects a success and returns the body.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{:?}", self.json);
        assert_eq!(
            (&self.json["ok"], &self.json["success"]),
            (&json!(true), &json!(true)),
            "{:?}",
            self.json
        );
        self.json
    }

    /// Expects a refusal in the form of Directus' own routes.
    #[track_caller]
    pub fn refused_by_identity(&self, status: u16, code: &str) {
        let told = self.json["errors"][0]["extensions"]["code"].as_str();
        assert_eq!(
            (self.status.as_u16(), told),
            (status, Some(code)),
            "{:?}",
            self.json
        );
    }

    /// Expects a refusal in genie's one form and returns the body.
    #[track_caller]
    pub fn refused(self, status: u16, code: &str) -> Value {
        assert_eq!(
            (self.status.as_u16(), self.json["code"].as_str()),
            (status, Some(code)),
            "{:?}",
            self.json
        );
        assert_eq!(
            (&self.json["ok"], &self.json["success"]),
            (&json!(false), &json!(false))
        );
        assert!(
            self.json["request_id"]
                .as_str()
                .is_some_and(|id| !id.is_empty()),
            "{:?}",
            self.json
        );
        assert!(
            self.json["error"]
                .as_str()
                .is_some_and(|error| !error.is_empty())
        );
        self.json
    }
}

impl TestGenie {
    pub async fn start(store: TestStore) -> Self {
        Self::start_with(store, &[]).await
    }

    pub async fn start_with(store: TestStore, settings: &[(&'static str, String)]) -> Self {
        let mut genie = Self::not_started(store, settings).await;
        genie.launch().await;
        genie
    }

    /// Starts a process of the real binary, for tests that kill it or look at it from outside.
    pub async fn start_process(store: TestStore) -> Self {
        Self::start_process_with(store, &[]).await
    }

    pub async fn start_process_with(store: TestStore, settings: &[(&'static str, String)]) -> Self {
        let mut genie = Self::not_started(store, settings).await;
        genie.place = Place::Process;
        genie.launch().await;
        genie
    }

    /// The same, with a media worker beside the server.
    pub async fn start_with_worker(store: TestStore, settings: &[(&'static str, String)]) -> Self {
        let mut genie = Self::not_started(store, settings).await;
        genie.place = Place::Process;
        genie.serve = &["serve", "--with-worker"];
        genie.launch().await;
        genie
    }

    /// Everything but the server, for commands and [`TestGenie::launch_again`].
    pub async fn not_started(store: TestStore, settings: &[(&'static str, String)]) -> Self {
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        let ollama = FakeOllama::start().await;
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(60))
            .build()
            .unwrap();
        Self {
            store,
            clock: Clock::ahead(),
            ollama,
            base: String::new(),
            http,
            said: vec![],
            settings: [identity::settings().await.as_slice(), settings].concat(),
            place: Place::Here,
            serve: &["serve"],
            server: None,
            admin: None,
            beside: None,
            sent: AtomicUsize::new(0),
            written: Mutex::default(),
        }
    }

    /// Changes a setting from the next start on.
    pub fn set(&mut self, name: &'static str, value: String) {
        self.settings.retain(|(known, _)| *known != name);
        self.settings.push((name, value));
    }

    /// The value that a setting was given.
    pub fn setting(&self, name: &str) -> &str {
        self.settings
            .iter()
            .find(|(given, _)| *given == name)
            .map_or("", |(_, value)| value)
    }

    /// A command of the real binary on the same store.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_genie"));
        command
            .args(arguments)
            .current_dir(self.store.folder())
            .env_clear()
            .envs(self.all_settings())
            .kill_on_drop(true);
        command
    }

    /// The environment of servers and commands.
    fn all_settings(&self) -> BTreeMap<String, String> {
        let folder = self.store.folder();
        let mut settings = BTreeMap::from(
            [
                ("SERVER_PORT", "0"),
                ("GENIE_DATA_DIR", folder.to_str().unwrap()),
                ("GENIE_FIRST_INVITE", FIRST_INVITE),
                ("GENIE_LOGIN_STALL_MS", "0"),
                ("RBAC_SYNC_WEBHOOK_SECRET", SECRET),
                ("GENIE_ALLOW_SHORT_SECRET", "on"),
                // Many tests send crowds from one address. Tests of the rates set their own.
                ("RATE_LIMIT_USER", "off"),
                ("RATE_LIMIT_ADDRESS", "off"),
                ("CONNECTIONS_PER_ADDRESS", "off"),
                // Tests check that reads wait, not that a busy machine is quick.
                ("GENIE_READ_WAIT_MS", "15000"),
                // A machine for tests may have a small disk.
                ("FILES_MIN_FREE", "0"),
                // Tests look at what has just changed.
                ("PROBE_AGE_MS", "0"),
                ("GENIE_OWN_WRITES_WAIT_MS", "15000"),
                ("OLLAMA_URL", &self.ollama.url),
                ("GENIE_LOG", "warn"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        let url = self.store.database_url();
        settings.extend(url.map(|url| ("DATABASE_URL".to_owned(), url)));
        let others = self.settings.iter().cloned();
        settings.extend(others.map(|(name, value)| (name.to_owned(), value)));
        settings
    }

    async fn launch(&mut self) {
        let node = self.another_node().await;
        self.base = node.base;
        self.said = node.said;
        self.server = node.server;
    }

    /// Starts another server on the same store.
    pub async fn another_node(&self) -> Node {
        match self.place {
            Place::Here => self.start_here().await,
            Place::Process => self.start_a_process().await,
        }
    }

    async fn start_here(&self) -> Node {
        // A process that another test starts holds this process' open files until it runs its
        // program, the lock of a store included.
        let mut server = until("the lock of the store", async || {
            let config = Config::read(self.all_settings()).unwrap();
            match Server::start(config, self.clock.clone()).await {
                Err(error) if error.contains("another genie runs on") => None,
                started => Some(started.unwrap()),
            }
        })
        .await;
        Node {
            base: format!("http://{}", server.address()),
            said: server.lines(),
            server: Some(Running::Here(server)),
        }
    }

    async fn start_a_process(&self) -> Node {
        let mut process = self
            .command(self.serve)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut said = Vec::new();
        loop {
            let line = tokio::time::timeout(Duration::from_secs(30), lines.next_line())
                .await
                .expect("the server starts")
                .unwrap();
            let line = line.expect("the server stays up");
            said.push(line.clone());
            if let Some(base) = line.strip_prefix("genie listens on ") {
                return Node {
                    base: base.to_owned(),
                    said,
                    server: Some(Running::Process(process)),
                };
            }
        }
    }

    /// Starts a second server. From then on requests alternate between the two.
    pub async fn launch_beside(&mut self) {
        self.beside = Some(self.another_node().await);
    }

    /// The server for the next request.
    pub fn next_base(&self) -> &str {
        let n = self.sent.fetch_add(1, Ordering::SeqCst);
        self.beside
            .as_ref()
            .filter(|_| n % 2 == 1)
            .map_or(&self.base, |beside| &beside.base)
    }

    /// Sends the process a signal, such as `STOP`.
    pub async fn signal(&self, name: &str) {
        signal(self.pid(), name).await;
    }

    pub fn pid(&self) -> u32 {
        match &self.server {
            Some(Running::Process(process)) => process.id().expect("it runs"),
            _ => panic!("no process runs: start it by `start_process`"),
        }
    }

    /// kill -9 without a restart.
    pub async fn kill(&mut self) {
        self.server.take().expect("it runs").kill().await;
    }

    /// kill -9, and a new server on the same store.
    pub async fn restart(&mut self) {
        self.kill().await;
        self.launch().await;
    }

    /// Asks the server to stop. Returns whether it ended by itself.
    pub async fn terminate(&mut self) -> bool {
        self.server.take().expect("it runs").terminate().await
    }

    pub async fn launch_again(&mut self) {
        self.launch().await;
    }

    /// Sends a request with any method and headers.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, String)],
        body: Option<Value>,
    ) -> Answer {
        let written = self
            .beside
            .as_ref()
            .filter(|_| method == Method::GET)
            .and_then(|_| self.written.lock().unwrap().clone());
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.next_base()));
        if let Some(written) = written {
            request = request.header("Genie-Min-Position", written);
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = answer(request).await;
        if let Some(position) = answer.headers.get("Genie-Position") {
            *self.written.lock().unwrap() = Some(position.to_str().unwrap().to_owned());
        }
        answer
    }

    /// Posts as a worker or another server, with the shared secret.
    pub async fn server(&self, path: &str, body: Value) -> Answer {
        self.send(
            Method::POST,
            path,
            &[("X-RBAC-SYNC-SECRET", SECRET.into())],
            Some(body),
        )
        .await
    }

    /// A user who has logged in. The first user is the administrator; the others register with an
    /// invite.
    pub async fn user(&mut self, name: &str) -> TestUser {
        let Some(admin) = &self.admin else {
            let admin = identity::administrator(self, name).await;
            self.admin = Some(admin.clone());
            return admin;
        };
        let invites = admin
            .post(self, "/api/admin/invites", json!({"tier": "pro"}))
            .await
            .ok();
        self.register(name, invites["data"][0]["code"].as_str().unwrap())
            .await
    }

    pub async fn register(&self, name: &str, invite: &str) -> TestUser {
        let email = identity::email(self, name);
        let password = password(name);
        let body =
            json!({"email": email, "password": password, "firstName": name, "inviteCode": invite});
        let registered = self
            .send(Method::POST, "/api/register", &[], Some(body))
            .await
            .ok();
        self.user_again(name, registered["userId"].as_str().unwrap())
            .await
    }

    /// The user of this name after another login.
    pub async fn user_again(&self, name: &str, id: &str) -> TestUser {
        TestUser::of(id, self.log_in(name, &password(name)).await)
    }

    pub async fn log_in(&self, name: &str, password: &str) -> Answer {
        let login = json!({"email": identity::email(self, name), "password": password});
        self.send(Method::POST, "/auth/login", &[], Some(login))
            .await
    }

    /// Exchanges a refresh token for a new pair of tokens.
    pub async fn refresh(&self, token: &str) -> Answer {
        self.send(
            Method::POST,
            "/auth/refresh",
            &[],
            Some(json!({"refresh_token": token})),
        )
        .await
    }

    /// The state of each part of the server.
    pub async fn readiness(&self) -> Answer {
        let secret = match self.setting("RBAC_SYNC_WEBHOOK_SECRET") {
            "" => SECRET,
            given => given,
        };
        let secret = [("X-RBAC-SYNC-SECRET", secret.to_owned())];
        self.send(Method::GET, "/readyz", &secret, None).await
    }

    /// Waits until all projections have reached the head.
    pub async fn settle(&self) {
        self.settle_within(Duration::from_secs(20)).await;
    }

    /// Like [`TestGenie::settle`], for writes that take longer to follow.
    pub async fn settle_within(&self, limit: Duration) {
        until_within(limit, "all projections to reach the head", async || {
            let ready = self.readiness().await.json;
            let mut projections = ready["projections"].as_object()?.values();
            projections.all(|one| one["lag"] == 0).then_some(())
        })
        .await;
    }

    /// Claims one job of the queue `media-jobs`.
    pub async fn claim(&self) -> Value {
        let claim = json!({"queues": ["media-jobs"], "worker_id": "worker-1", "wait_ms": 10_000});
        let mut claimed = self.server("/api/worker/claim", claim).await.ok();
        assert_eq!(claimed["jobs"].as_array().unwrap().len(), 1, "{claimed}");
        claimed["jobs"][0].take()
    }
}

pub async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let status = response.status();
    let headers = response.headers().clone();
    let text = response.text().await.unwrap();
    let json = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Answer {
        status,
        headers,
        json,
    }
}

/// The first password of the user with this name.
pub fn password(name: &str) -> String {
    format!("{name}'s password")
}

/// A user with a token.
#[derive(Debug, Clone)]
pub struct TestUser {
    pub id: String,
    pub token: String,
    pub refresh: String,
}

impl TestUser {
    /// Takes the tokens from the answer of a login.
    #[track_caller]
    pub fn of(id: &str, login: Answer) -> Self {
        assert_eq!(login.status, 200, "{:?}", login.json);
        let text = |name: &str| login.json["data"][name].as_str().unwrap().to_owned();
        Self {
            id: id.to_owned(),
            token: text("access_token"),
            refresh: text("refresh_token"),
        }
    }

    pub fn headers(&self) -> [(&'static str, String); 1] {
        [("Authorization", format!("Bearer {}", self.token))]
    }

    pub async fn get(&self, genie: &TestGenie, path: &str) -> Answer {
        genie.send(Method::GET, path, &self.headers(), None).await
    }

    pub async fn post(&self, genie: &TestGenie, path: &str, body: Value) -> Answer {
        genie
            .send(Method::POST, path, &self.headers(), Some(body))
            .await
    }

    pub async fn patch(&self, genie: &TestGenie, path: &str, body: Value) -> Answer {
        genie
            .send(Method::PATCH, path, &self.headers(), Some(body))
            .await
    }

    pub async fn delete(&self, genie: &TestGenie, path: &str) -> Answer {
        genie
            .send(Method::DELETE, path, &self.headers(), None)
            .await
    }

    /// Queues a job and returns its id.
    pub async fn submit_job(&self, genie: &TestGenie) -> String {
        let job = json!({"operation": "resize_image", "input_url": "http://a/b", "params": {"width": 100}});
        self.post(genie, "/api/queue/media", job).await.ok()["jobId"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// Asks a question and returns the open stream.
    pub async fn ask(&self, genie: &TestGenie, session: &str, message: &str) -> Events {
        let body = json!({"message": message, "sessionId": session});
        let request = genie
            .http
            .post(format!("{}/api/genie/stream-chat", genie.next_base()))
            .bearer_auth(&self.token)
            .json(&body);
        Events::open(request).await
    }

    /// Role and content of all messages of a chat session.
    pub async fn messages(&self, genie: &TestGenie, session: &str) -> Vec<(String, String)> {
        let path = format!("/api/genie/sessions/{session}/messages");
        let messages = self.get(genie, &path).await.ok();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        messages["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| (text(&one["role"]), text(&one["content"])))
            .collect()
    }
}

/// Server-sent events, as a client reads them.
pub struct Events {
    pub turn: String,
    /// The position that a read on another node has to ask for.
    pub position: String,
    response: reqwest::Response,
    buffer: String,
}

#[derive(Debug, Clone)]
pub struct Event {
    pub id: String,
    pub data: Value,
}

impl Events {
    pub async fn open(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        let status = response.status();
        let is_stream = response
            .headers()
            .get("content-type")
            .is_some_and(|kind| kind == "text/event-stream");
        if status != 200 || !is_stream {
            panic!("{status}: {}", response.text().await.unwrap());
        }
        let header = |name: &str| {
            response
                .headers()
                .get(name)
                .map(|value| value.to_str().unwrap().to_owned())
                .unwrap_or_default()
        };
        Self {
            turn: header("Genie-Turn"),
            position: header("Genie-Position"),
            response,
            buffer: String::new(),
        }
    }

    /// The next event; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.buffer.find("\n\n") {
                let block: String = self.buffer.drain(..end + 2).collect();
                let field = |name: &str| {
                    block
                        .lines()
                        .find_map(|line| line.strip_prefix(name))
                        .map(str::trim)
                };
                if let Some(data) = field("data:") {
                    let data = serde_json::from_str(data).unwrap();
                    return Some(Event {
                        id: field("id:").unwrap().to_owned(),
                        data,
                    });
                }
                continue;
            }
            let chunk = tokio::time::timeout(Duration::from_secs(30), self.response.chunk())
                .await
                .expect("the stream goes on");
            // A killed server breaks the stream off.
            self.buffer
                .push_str(std::str::from_utf8(&chunk.ok()??).unwrap());
        }
    }

    /// The next piece of text.
    pub async fn text(&mut self) -> Event {
        loop {
            let event = self.next().await.expect("more of the answer");
            if event.data["type"] == "textResponseChunk" {
                return event;
            }
        }
    }

    /// All events to the end.
    pub async fn rest(mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

/// The answer's text in these events.
pub fn text_of(events: &[Event]) -> String {
    events
        .iter()
        .filter(|event| event.data["type"] == "textResponseChunk")
        .map(|event| event.data["textResponse"].as_str().unwrap())
        .collect()
}

/// The outcome of a stream, from its last event, which must be `finalizeResponseStream`.
#[track_caller]
pub fn outcome(events: &[Event]) -> String {
    let last = events.last().expect("events");
    assert_eq!(last.data["type"], "finalizeResponseStream", "{events:?}");
    last.data["outcome"].as_str().unwrap().to_owned()
}
