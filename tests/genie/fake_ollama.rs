//! A scripted Ollama with the real wire format. `POST /api/chat` streams NDJSON frames in chunks.
//! The status line comes with the first frame, and nothing comes before it. An error before the
//! first frame has a status and `{"error": "text"}`; an error in the middle is a line without
//! `done`. A client cancels an answer by closing the connection.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
    task::JoinHandle,
};

use crate::until::until;

/// A step of the model's answer. The fake plays the first script whose word stands in the last
/// message.
#[derive(Debug, Clone)]
pub enum Step {
    /// Sends a frame with this text.
    Say(&'static str),
    /// Sends nothing for this many milliseconds.
    Pause(u64),
    /// Sends nothing until [`FakeOllama::go_on`].
    Hold,
    /// Sends a frame with a thought.
    Think(&'static str),
    /// Sends a frame that calls a tool, with these arguments as JSON.
    Call(&'static str, &'static str),
    /// Sends this line as it is.
    Raw(&'static str),
    /// Sends the last frame.
    Done,
    /// Sends the last frame, with this reason.
    DoneBecause(&'static str),
    /// Answers with a status and an error instead of a stream.
    Refuse(u16, &'static str),
    /// Sends an error line in the middle and ends the stream.
    ErrorLine(&'static str),
    /// Ends the stream cleanly without a last frame.
    EndWithoutDone,
    /// Breaks the connection in the middle.
    Break,
    /// Breaks the connection when it is asked for the first time, as a server that closes a kept connection.
    BreakOnce,
}

#[derive(Default)]
struct State {
    scripts: Mutex<Vec<(&'static str, Vec<Step>)>>,
    requests: Mutex<Vec<Value>>,
    headers: Mutex<Vec<String>>,
    go_on: Notify,
    cancelled: Mutex<usize>,
    broken_once: AtomicBool,
    /// The models are on disk and not loaded.
    unloaded: AtomicBool,
}

pub struct FakeOllama {
    pub url: String,
    state: Arc<State>,
    task: JoinHandle<()>,
    requested: mpsc::UnboundedReceiver<()>,
}

impl Drop for FakeOllama {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeOllama {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State::default());
        let (tell, requested) = mpsc::unbounded_channel();
        let task = tokio::spawn({
            let state = Arc::clone(&state);
            async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    tokio::spawn(serve(stream, Arc::clone(&state), tell.clone()));
                }
            }
        });
        Self {
            url,
            state,
            task,
            requested,
        }
    }

    /// Plays these steps for questions that contain the word. Later scripts win.
    pub fn script(&self, word: &'static str, steps: &[Step]) {
        self.state
            .scripts
            .lock()
            .unwrap()
            .insert(0, (word, steps.to_vec()));
    }

    /// From now on the models are on disk alone, until one is asked.
    pub fn unload(&self) {
        self.state.unloaded.store(true, Ordering::SeqCst);
    }

    /// Lets one held answer go on.
    pub fn go_on(&self) {
        self.state.go_on.notify_one();
    }

    pub async fn asked(&mut self) {
        tokio::time::timeout(Duration::from_secs(60), self.requested.recv())
            .await
            .expect("a question reaches the model")
            .unwrap();
    }

    pub fn requests(&self) -> Vec<Value> {
        self.state.requests.lock().unwrap().clone()
    }

    pub fn headers(&self) -> Vec<String> {
        self.state.headers.lock().unwrap().clone()
    }

    /// Waits until the client closes the connection of an answer.
    pub async fn cancelled(&self) {
        until("the client to close the connection", async || {
            (*self.state.cancelled.lock().unwrap() > 0).then_some(())
        })
        .await;
    }
}

fn frame(text: &str) -> Value {
    json!({
        "model": "fake", "created_at": "2026-01-02T03:04:05.678901Z",
        "message": {"role": "assistant", "content": text}, "done": false,
    })
}

fn thinking(thought: &str) -> Value {
    json!({
        "model": "fake", "created_at": "2026-01-02T03:04:05.678901Z",
        "message": {"role": "assistant", "content": "", "thinking": thought}, "done": false,
    })
}

fn call(name: &str, arguments: &str) -> Value {
    let arguments: Value = serde_json::from_str(arguments).unwrap();
    json!({
        "model": "fake", "created_at": "2026-01-02T03:04:05.678901Z",
        "message": {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": name, "arguments": arguments}}]},
        "done": false,
    })
}

fn last_frame(reason: &str) -> Value {
    json!({
        "model": "fake", "created_at": "2026-01-02T03:04:05.678901Z", "message": {"role": "assistant", "content": ""},
        "done": true, "done_reason": reason, "total_duration": 5_000_000_000_u64, "load_duration": 1_000_000, "eval_count": 4,
    })
}

/// What Ollama says of itself and its models.
fn about(request_line: &str, state: &State) -> Option<Value> {
    let path = request_line.split(' ').nth(1)?;
    Some(match path {
        "/api/version" => json!({"version": "0.33.0"}),
        "/api/tags" => json!({"models": [{"name": "qwen2.5:latest"}, {"name": "other:7b"}]}),
        "/api/ps" if state.unloaded.load(Ordering::SeqCst) => json!({"models": []}),
        "/api/ps" => json!({"models": [{"name": "qwen2.5:latest"}]}),
        _ => return None,
    })
}

async fn serve(stream: TcpStream, state: Arc<State>, tell: mpsc::UnboundedSender<()>) {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut request_line = String::new();
        if read.read_line(&mut request_line).await.unwrap_or(0) == 0 {
            return;
        }
        let mut length = 0;
        loop {
            let mut line = String::new();
            if read.read_line(&mut line).await.unwrap_or(0) == 0 || line == "\r\n" {
                break;
            }
            let line = line.trim().to_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            state.headers.lock().unwrap().push(line);
        }
        let mut body = vec![0; length];
        read.read_exact(&mut body).await.unwrap();
        if let Some(told) = about(&request_line, &state) {
            respond(&mut write, 200, &told).await;
            continue;
        }
        let body: Value = serde_json::from_slice(&body).unwrap();
        let question = body["messages"]
            .as_array()
            .and_then(|all| all.last())
            .map(|last| last["content"].to_string());
        state.requests.lock().unwrap().push(body);
        state.unloaded.store(false, Ordering::SeqCst);
        let _ = tell.send(());
        let question = question.unwrap_or_default();
        let steps = {
            let scripts = state.scripts.lock().unwrap();
            let found = scripts
                .iter()
                .find(|(word, _)| question.contains(word))
                .map(|(_, steps)| steps.clone());
            found.unwrap_or_else(|| vec![Step::Say("Hello"), Step::Say(" there"), Step::Done])
        };
        if !play(steps, &state, &mut read, &mut write).await {
            return;
        }
    }
}

/// Plays a script. Returns `false` if the connection can't be used again.
async fn play(
    steps: Vec<Step>,
    state: &State,
    read: &mut BufReader<tokio::net::tcp::OwnedReadHalf>,
    write: &mut tokio::net::tcp::OwnedWriteHalf,
) -> bool {
    let mut streaming = false;
    for step in steps {
        let line = match step {
            Step::Refuse(status, text) => {
                respond(write, status, &json!({"error": text})).await;
                return true;
            }
            Step::Pause(millis) => {
                let paused = tokio::time::sleep(Duration::from_millis(millis));
                if closed_before(paused, read).await {
                    *state.cancelled.lock().unwrap() += 1;
                    return false;
                }
                continue;
            }
            Step::Hold => {
                if closed_before(state.go_on.notified(), read).await {
                    *state.cancelled.lock().unwrap() += 1;
                    return false;
                }
                continue;
            }
            Step::Break => return false,
            Step::BreakOnce => {
                if !state.broken_once.swap(true, Ordering::SeqCst) {
                    return false;
                }
                continue;
            }
            Step::EndWithoutDone => None,
            Step::Say(text) => Some(frame(text).to_string()),
            Step::Think(thought) => Some(thinking(thought).to_string()),
            Step::Call(name, arguments) => Some(call(name, arguments).to_string()),
            Step::Raw(line) => Some(line.to_owned()),
            Step::Done => Some(last_frame("stop").to_string()),
            Step::DoneBecause(reason) => Some(last_frame(reason).to_string()),
            Step::ErrorLine(text) => Some(json!({"error": text}).to_string()),
        };
        if !streaming {
            streaming = true;
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
            if write.write_all(head.as_bytes()).await.is_err() {
                return false;
            }
        }
        if let Some(line) = line {
            let line = format!("{line}\n");
            let chunk = format!("{:x}\r\n{line}\r\n", line.len());
            if write.write_all(chunk.as_bytes()).await.is_err() {
                *state.cancelled.lock().unwrap() += 1;
                return false;
            }
        }
    }
    write.write_all(b"0\r\n\r\n").await.is_ok()
}

/// Whether the client closed the connection before the event.
async fn closed_before(
    something: impl Future<Output = ()>,
    read: &mut BufReader<tokio::net::tcp::OwnedReadHalf>,
) -> bool {
    let mut byte = [0];
    tokio::select! {
        () = something => false,
        read = read.read(&mut byte) => !matches!(read, Ok(1..)),
    }
}

async fn respond(write: &mut tokio::net::tcp::OwnedWriteHalf, status: u16, body: &Value) {
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let _ = write.write_all(head.as_bytes()).await; // the client may be gone
}
