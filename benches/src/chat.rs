//! Answers of a model through the server, beside reading the model directly in the same run: what the server adds to
//! the first token and to each one after it, its CPU time and its memory.

use std::{fs, time::Duration};

use futures_util::future::try_join_all;
use genie_log::testing::Kind;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep},
};

mod listen;
/// The scripted model server.
pub mod model;

use listen::{HeardAnswer, listen};
use model::{SILENT, ScriptedModel};

use crate::{
    http::{
        server::{BenchServer, JSON, bearer, request},
        spent::Spent,
    },
    setup::{Measured, name_on},
    statistics::{median, millis, percentile},
    table::{Bound, Row},
};

/// Rounds of each load. In each the model is read directly, and then through the server. The first one warms up and
/// does not count.
const ROUNDS: usize = 5;
/// Readers who wait for a token that does not come.
const IDLE: usize = 2000;
/// Idle readers that come at once.
const AT_ONCE: usize = 100;
const IDLE_FIGURE: &str = "idle_reader_kib";
/// The time after which everything has come to rest.
const CALM: Duration = Duration::from_secs(2);

/// Streams at once, each of another user, and what they may cost.
struct ChatLoad {
    streams: usize,
    /// Answers of each stream in a round.
    answers: usize,
    /// The percentile that is held against the bounds.
    percent: usize,
    /// The most that is added to the first token, and to any, in milliseconds.
    first: f64,
    token: f64,
    /// The most CPU time of a token, in microseconds.
    cpu: f64,
    /// The most resident memory, in MiB.
    memory: Option<f64>,
}

const LOADS: [ChatLoad; 3] = [
    ChatLoad {
        streams: 1,
        answers: 10,
        percent: 50,
        first: 2.0,
        token: 0.3,
        cpu: 150.0,
        memory: None,
    },
    ChatLoad {
        streams: 50,
        answers: 2,
        percent: 99,
        first: 20.0,
        token: 5.0,
        cpu: 60.0,
        memory: None,
    },
    ChatLoad {
        streams: 200,
        answers: 2,
        percent: 99,
        first: 60.0,
        token: 15.0,
        cpu: 40.0,
        memory: Some(100.0),
    },
];

impl ChatLoad {
    fn name(&self, figure: &str) -> String {
        format!("streams_{}_{figure}", self.streams)
    }

    fn first_name(&self) -> String {
        self.name(&format!("first_token_p{}_ms", self.percent))
    }

    fn token_name(&self) -> String {
        self.name(&format!("token_p{}_ms", self.percent))
    }

    fn figures(&self) -> Vec<String> {
        let mut figures = vec![
            self.first_name(),
            self.token_name(),
            self.name("cpu_us_a_token"),
        ];
        figures.extend(self.memory.map(|_| self.name("memory_mib")));
        figures
    }
}

/// The names of the figures on a store.
pub fn figures(kind: Kind) -> Vec<String> {
    let mut figures: Vec<String> = LOADS.iter().flat_map(ChatLoad::figures).collect();
    figures.push(IDLE_FIGURE.to_owned());
    let named = figures.iter().map(|figure| name_on("chat", kind, figure));
    named.collect()
}

/// Measures the loads and the idle readers whose figures are wanted.
pub async fn measure(kind: Kind, is_wanted: impl Fn(&[String]) -> bool) -> Measured<Vec<Row>> {
    let wanted = |figures: Vec<String>| {
        let named = figures.iter().map(|figure| name_on("chat", kind, figure));
        is_wanted(&named.collect::<Vec<_>>())
    };
    let mut rows = Vec::new();
    for load in &LOADS {
        if wanted(load.figures()) {
            rows.extend(measure_load(kind, load).await?);
        }
    }
    if wanted(vec![IDLE_FIGURE.to_owned()]) {
        rows.push(measure_idle(kind).await?);
    }
    Ok(rows)
}

/// A server whose model is the scripted one, with room for every stream.
async fn start(kind: Kind, model: &ScriptedModel) -> Measured<BenchServer> {
    let settings = [
        ("OLLAMA_URL", format!("http://{}", model.address)),
        ("OLLAMA_MODEL", "m".to_owned()),
        ("OLLAMA_CONCURRENCY", "1024".to_owned()),
        ("GENIE_MODEL_QUEUE", "1024".to_owned()),
        ("ONBOARDING_GATE", "off".to_owned()),
    ];
    BenchServer::start_with(kind, &settings).await
}

async fn measure_load(kind: Kind, load: &ChatLoad) -> Measured<Vec<Row>> {
    let model = ScriptedModel::start().await?;
    let genie = start(kind, &model).await?;
    let admin = genie.log_in().await?;
    let users = genie.users(&admin, load.streams).await?;
    let mut added = AddedTimes::default();
    let mut cpu = Vec::new();
    for round in 0..ROUNDS {
        let direct = all_streams(load, &model.address, |_, _| ask_the_model()).await?;
        sleep(CALM).await;
        let before = Spent::so_far(&genie).await?;
        let ask = |stream: usize, answer: usize| {
            ask_genie(
                &users[stream],
                &format!("s{round}-{answer}"),
                "Say something",
            )
        };
        let through = all_streams(load, &genie.address, ask).await?;
        sleep(CALM).await;
        let spent = Spent::so_far(&genie).await?.less(&before);
        if round > 0 {
            added.note(&direct, &through, load.percent);
            let tokens = through.iter().map(|heard| heard.lags.len()).sum::<usize>() as f64;
            let seconds = [spent.server_seconds, spent.store_seconds];
            cpu.push(seconds.map(|seconds| seconds / tokens * 1e6));
        }
    }
    let memory = memory_mib(&genie, "VmHWM:")?;
    eprintln!(
        "{kind:?}, {} streams: {added}; CPU of a token {:.0} µs in the server and {:.0} µs in Postgres; {memory:.0} MiB at most",
        load.streams,
        median_of(&cpu, |[server, _]| server),
        median_of(&cpu, |[_, store]| store)
    );
    Ok(rows_of(kind, load, &added, &cpu, memory))
}

/// The middle of a number of each round.
fn median_of(cpu: &[[f64; 2]], number: impl Fn([f64; 2]) -> f64) -> f64 {
    let numbers: Vec<f64> = cpu.iter().map(|one| number(*one)).collect();
    median(&numbers)
}

/// `cpu` has the microseconds of a token in the server and in the store, of each round.
fn rows_of(
    kind: Kind,
    load: &ChatLoad,
    added: &AddedTimes,
    cpu: &[[f64; 2]],
    memory: f64,
) -> Vec<Row> {
    let row = |figure: String, value, unit, bound| {
        Row::new(
            name_on("chat", kind, &figure),
            value,
            unit,
            Bound::AtMost(bound),
        )
    };
    let both = median_of(cpu, |[server, store]| server + store);
    let mut rows = vec![
        row(load.first_name(), added.first(), "ms", load.first),
        row(load.token_name(), added.token(), "ms", load.token),
        row(load.name("cpu_us_a_token"), both, "µs", load.cpu),
    ];
    if let Some(bound) = load.memory {
        rows.push(row(load.name("memory_mib"), memory, "MiB", bound));
    }
    rows
}

/// What the server added to the times of the same percentile, in each round.
#[derive(Default)]
struct AddedTimes {
    first: Vec<f64>,
    token: Vec<f64>,
    /// The longest time of each kind that any round saw, read directly.
    direct: [f64; 2],
}

impl AddedTimes {
    fn note(&mut self, direct: &[HeardAnswer], through: &[HeardAnswer], percent: usize) {
        let first = |heard: &[HeardAnswer]| {
            let times: Vec<Duration> = heard.iter().map(|heard| heard.first).collect();
            millis(percentile(&times, percent))
        };
        let token = |heard: &[HeardAnswer]| {
            let times: Vec<Duration> = heard.iter().flat_map(|heard| heard.lags.clone()).collect();
            millis(percentile(&times, percent))
        };
        let [direct_first, direct_token] = [first(direct), token(direct)];
        self.first.push(first(through) - direct_first);
        self.token.push(token(through) - direct_token);
        self.direct = [
            self.direct[0].max(direct_first),
            self.direct[1].max(direct_token),
        ];
    }

    fn first(&self) -> f64 {
        median(&self.first)
    }

    fn token(&self) -> f64 {
        median(&self.token)
    }
}

impl std::fmt::Display for AddedTimes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [first, token] = self.direct;
        write!(
            f,
            "{:.2} ms added to the first token and {:.2} ms to each (directly at most {first:.2} and {token:.2} ms)",
            self.first(),
            self.token()
        )
    }
}

/// Reads answers of all streams at once, those of one stream one after the other.
async fn all_streams(
    load: &ChatLoad,
    address: &str,
    ask: impl Fn(usize, usize) -> Vec<u8>,
) -> Measured<Vec<HeardAnswer>> {
    let streams = (0..load.streams).map(|stream| {
        let requests: Vec<Vec<u8>> = (0..load.answers)
            .map(|answer| ask(stream, answer))
            .collect();
        let address = address.to_owned();
        tokio::spawn(async move {
            let mut heard = Vec::with_capacity(requests.len());
            for request in requests {
                heard.push(listen(&address, &request).await?);
            }
            Measured::Ok(heard)
        })
    });
    let heard: Measured<Vec<_>> = try_join_all(streams).await?.into_iter().collect();
    Ok(heard?.into_iter().flatten().collect())
}

fn ask_the_model() -> Vec<u8> {
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "Say something"}]});
    request("POST", "/api/chat", JSON, &body.to_string())
}

fn ask_genie(token: &str, session: &str, message: &str) -> Vec<u8> {
    let body = json!({"message": message, "sessionId": session});
    let headers = format!("{JSON}{}", bearer(token));
    request(
        "POST",
        "/api/genie/stream-chat",
        &headers,
        &body.to_string(),
    )
}

/// The memory of each of many readers of one running turn whose model is silent.
async fn measure_idle(kind: Kind) -> Measured<Row> {
    let model = ScriptedModel::start().await?;
    let genie = start(kind, &model).await?;
    let ada = genie.log_in().await?;
    let (asker, turn) = begin_silent_turn(&genie, &ada).await?;
    let resume = request(
        "GET",
        &format!("/api/genie/turns/{turn}/stream"),
        &bearer(&ada),
        "",
    );
    // The first ones make what is made only once.
    let mut readers = open_readers(&genie, &resume, AT_ONCE).await?;
    sleep(CALM).await;
    let before = memory_mib(&genie, "VmRSS:")?;
    for _ in 0..IDLE / AT_ONCE {
        readers.extend(open_readers(&genie, &resume, AT_ONCE).await?);
    }
    sleep(CALM).await;
    let after = memory_mib(&genie, "VmRSS:")?;
    eprintln!("{kind:?}: {before:.1} MiB, with {IDLE} more idle readers {after:.1} MiB");
    for reader in &readers {
        let mut byte = [0];
        if let Ok(0) | Err(_) = tokio::time::timeout(Duration::ZERO, reader.peek(&mut byte))
            .await
            .unwrap_or(Ok(1))
        {
            return Err("a reader was sent away".into());
        }
    }
    drop((asker, readers));
    Ok(Row::new(
        name_on("chat", kind, IDLE_FIGURE),
        (after - before) * 1024.0 / IDLE as f64,
        "KiB",
        Bound::AtMost(64.0),
    ))
}

/// Asks a question whose answer stays silent after its first token. Returns the asker's connection and the turn.
async fn begin_silent_turn(genie: &BenchServer, token: &str) -> Measured<(TcpStream, String)> {
    let mut asker = TcpStream::connect(&genie.address).await?;
    asker.write_all(&ask_genie(token, "idle", SILENT)).await?;
    let received = read_until(&mut asker, "textResponseChunk").await?;
    let event = received
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .filter_map(|data| serde_json::from_str::<Value>(data).ok())
        .find(|event| event["uuid"].is_string());
    let turn = event.ok_or("the answer names no turn")?["uuid"].clone();
    Ok((asker, turn.as_str().unwrap_or_default().to_owned()))
}

/// Opens readers, each of which has got the first token.
async fn open_readers(
    genie: &BenchServer,
    resume: &[u8],
    count: usize,
) -> Measured<Vec<TcpStream>> {
    let opening = (0..count).map(|_| async {
        let mut reader = TcpStream::connect(&genie.address).await?;
        reader.write_all(resume).await?;
        read_until(&mut reader, "textResponseChunk").await?;
        Measured::Ok(reader)
    });
    try_join_all(opening).await
}

/// Reads until a word has come.
async fn read_until(server: &mut TcpStream, word: &str) -> Measured<String> {
    let limit = Instant::now() + Duration::from_secs(30);
    let mut received = Vec::new();
    loop {
        let read = tokio::time::timeout_at(limit, server.read_buf(&mut received)).await??;
        let text = String::from_utf8_lossy(&received).into_owned();
        if text.contains(word) {
            return Ok(text);
        }
        if read == 0 {
            return Err(text.into());
        }
    }
}

/// A line of the server's memory, in MiB.
fn memory_mib(genie: &BenchServer, line: &str) -> Measured<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", genie.pid()?))?;
    let kib = status
        .lines()
        .find_map(|text| text.strip_prefix(line))
        .ok_or("the kernel does not tell the memory")?;
    Ok(kib.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}
