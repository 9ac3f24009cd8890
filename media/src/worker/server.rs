//! The server, over its HTTP API.

use std::{fmt, path::Path, time::Duration};

use futures_util::TryStreamExt;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use reqwest::{
    Client, RequestBuilder, Response, StatusCode,
    header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE},
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use tokio::{
    fs::File,
    io::AsyncWriteExt,
    time::{sleep, timeout},
};
use tokio_util::io::ReaderStream;
use url::{Host, Url};

use crate::operations::OutputFile;

/// How long a claim waits for a job, in milliseconds.
const CLAIM_WAIT_MS: u64 = 20_000;
/// The time for an answer beside such a wait.
const ANSWER_TIME: Duration = Duration::from_secs(30);
const HEARTBEAT_TIME: Duration = Duration::from_secs(5);
/// The most time for a file, up or down.
const FILE_TIME: Duration = Duration::from_secs(2 * 3600);
/// The waits before a request is sent again whose loss would cost the job's work.
const AGAIN: [Duration; 6] = [
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(20),
];

pub(super) struct JobServer {
    base: String,
    key: SecretString,
    client: Client,
}

/// A job that this worker holds.
#[derive(Deserialize)]
pub(super) struct WorkerJob {
    #[serde(rename = "jobId")]
    pub id: String,
    pub operation: String,
    #[serde(default)]
    pub params: Map<String, Value>,
    pub input_file_id: Option<String>,
    pub input_url: Option<String>,
    /// The number of an invisible mark.
    pub mark: Option<u32>,
    pub attempt: u32,
    lease: String,
}

impl WorkerJob {
    pub fn lease(&self) -> &str {
        &self.lease
    }
}

/// One heartbeat.
pub(super) struct LeaseBeat<'a> {
    pub job: &'a str,
    pub lease: &'a str,
    /// In percent.
    pub progress: f64,
}

/// What a heartbeat came to.
pub(super) enum LeaseAfterBeat {
    Kept,
    /// Somebody else has the job, it was cancelled, or it is gone.
    Lost,
    /// The server says why it could not renew the lease.
    Unknown(String),
}

/// How an attempt ended.
pub(super) enum JobEnd<'a> {
    Complete {
        result: &'a Value,
        outputs: &'a [Value],
    },
    Fail {
        error: &'a str,
        code: &'a str,
        is_retryable: bool,
    },
    /// The job is given back. The attempt does not count.
    Release,
}

impl JobEnd<'_> {
    fn report(&self, job: &WorkerJob) -> Value {
        let mut report = json!({"jobId": job.id, "lease": job.lease});
        match self {
            Self::Complete { result, outputs } => {
                report["complete"] = json!({"result": result, "outputs": outputs});
            }
            Self::Fail {
                error,
                code,
                is_retryable,
            } => {
                report["fail"] = json!({"error": error, "code": code, "retryable": is_retryable});
            }
            Self::Release => report["release"] = json!({}),
        }
        report
    }
}

/// What a worker asks for.
pub(super) struct WantedJobs<'a> {
    pub queues: &'a [&'a str],
    pub operations: &'a [&'static str],
    /// The worker's name for itself.
    pub name: &'a str,
}

impl WantedJobs<'_> {
    fn claim(&self, most: usize, wait_ms: u64) -> Value {
        json!({
            "queues": self.queues, "operations": self.operations, "worker_id": self.name,
            "max": most.clamp(1, 100), "wait_ms": wait_ms,
        })
    }
}

/// The answer to reports, and to a claim beside them.
#[derive(Deserialize)]
struct ReportsAnswer {
    reports: Vec<ReportAnswer>,
    #[serde(default)]
    jobs: Vec<WorkerJob>,
}

#[derive(Deserialize)]
struct ReportAnswer {
    ok: bool,
    #[serde(default)]
    code: String,
    #[serde(default)]
    error: String,
    #[serde(default)]
    cancel: bool,
}

impl ReportAnswer {
    fn is_lost(&self) -> bool {
        ["stale_lease", "not_found"].contains(&self.code.as_str())
    }

    fn ended(self) -> Result<(), ServerError> {
        match self.code.as_str() {
            _ if self.ok => Ok(()),
            _ if self.is_lost() => Err(ServerError::LeaseLost),
            "invalid_field" | "body_too_large" | "too_large" => Err(ServerError::Refused {
                status: 400,
                code: self.code,
                sentence: self.error,
            }),
            _ => Err(ServerError::Away(format!("{} {}", self.code, self.error))),
        }
    }

    fn after_beat(self) -> LeaseAfterBeat {
        if self.cancel || self.is_lost() {
            LeaseAfterBeat::Lost
        } else if self.ok {
            LeaseAfterBeat::Kept
        } else {
            LeaseAfterBeat::Unknown(self.error)
        }
    }
}

/// Why the server did not do what it was asked.
#[derive(Debug)]
pub(super) enum ServerError {
    /// The lease is not the job's present one: somebody else has the job, or it ended.
    LeaseLost,
    Refused {
        status: u16,
        code: String,
        sentence: String,
    },
    /// No answer, or that of a server that is busy or broken.
    Away(String),
    /// A file on this machine.
    Disk(String),
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeaseLost => f.write_str("the lease is lost"),
            Self::Refused {
                status,
                code,
                sentence,
            } => write!(f, "the server answered {status} {code}: {sentence}"),
            Self::Away(why) => write!(f, "the server is away: {why}"),
            Self::Disk(why) => write!(f, "a file of the job: {why}"),
        }
    }
}

/// A file in the server.
#[derive(Debug, Deserialize)]
pub(super) struct StoredFile {
    pub id: String,
    pub name: String,
    pub mime: String,
    pub bytes: u64,
    pub sha256: String,
}

impl JobServer {
    pub fn new(base: &str, key: SecretString) -> Result<Self, String> {
        let wrong = || "the server's address must begin with http:// or https://".to_owned();
        let url = Url::parse(base).map_err(|_| wrong())?;
        if !["http", "https"].contains(&url.scheme()) {
            return Err(wrong());
        }
        let is_here = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(v4)) => v4.is_loopback(),
            Some(Host::Ipv6(v6)) => v6.is_loopback(),
            None => return Err(wrong()),
        };
        let mut client = Client::builder()
            .user_agent(concat!("genie-worker/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10));
        if is_here {
            client = client.no_proxy();
        }
        let client = client
            .build()
            .map_err(|error| format!("the client of the media worker can't be made: {error}"))?;
        Ok(Self {
            base: base.trim_end_matches('/').to_owned(),
            key,
            client,
        })
    }

    fn post(&self, path: &str) -> RequestBuilder {
        self.client
            .post(format!("{}{path}", self.base))
            .bearer_auth(self.key.expose_secret())
    }

    /// Claims jobs, and waits for them when `waits` says so. None came within the time: an empty list.
    pub async fn claim(
        &self,
        wanted: &WantedJobs<'_>,
        most: usize,
        waits: bool,
    ) -> Result<Vec<WorkerJob>, ServerError> {
        #[derive(Deserialize)]
        struct ClaimedByUs {
            jobs: Vec<WorkerJob>,
        }
        let wait_ms = if waits { CLAIM_WAIT_MS } else { 0 };
        let wait = Duration::from_millis(wait_ms) + ANSWER_TIME;
        let request = self.post("/api/worker/claim").timeout(wait);
        let request = request.json(&wanted.claim(most, wait_ms));
        let claimed: ClaimedByUs = answered(request).await?;
        Ok(claimed.jobs)
    }

    /// Renews leases. Each has its answer, in the same order.
    pub async fn heartbeats(
        &self,
        beats: &[LeaseBeat<'_>],
    ) -> Result<Vec<LeaseAfterBeat>, ServerError> {
        let reports = beats.iter().map(|beat| {
            json!({
                "jobId": beat.job, "lease": beat.lease,
                "heartbeat": {"progress": beat.progress},
            })
        });
        let body = json!({"reports": reports.collect::<Vec<Value>>()});
        let answer = self.report(&body, beats.len(), HEARTBEAT_TIME).await?;
        let renewed = answer.reports.into_iter().map(ReportAnswer::after_beat);
        Ok(renewed.collect())
    }

    /// Says how an attempt ended, again and again while the server is away. `wanted` claims the next job by the same
    /// request.
    pub async fn end(
        &self,
        job: &WorkerJob,
        end: &JobEnd<'_>,
        mut wanted: Option<WantedJobs<'_>>,
    ) -> (Result<(), ServerError>, Option<WorkerJob>) {
        let mut next = None;
        let mut waits = AGAIN.iter();
        loop {
            let mut body = json!({"reports": [end.report(job)]});
            // Only once: an answer that was lost on its way may have had a job.
            if let Some(wanted) = wanted.take() {
                body["claim"] = wanted.claim(1, 0);
            }
            let ended = match self.report(&body, 1, ANSWER_TIME).await {
                Ok(mut answer) => {
                    next = next.or(answer.jobs.pop());
                    let answer = answer.reports.pop();
                    answer.map_or(Ok(()), ReportAnswer::ended)
                }
                Err(error) => Err(error),
            };
            match (ended, waits.next()) {
                (Err(ServerError::Away(_)), Some(wait)) => sleep(*wait).await,
                (ended, _) => return (ended, next),
            }
        }
    }

    /// Sends so many reports by one request.
    async fn report(
        &self,
        body: &Value,
        count: usize,
        time: Duration,
    ) -> Result<ReportsAnswer, ServerError> {
        let request = self.post("/api/worker/report").timeout(time).json(body);
        let answer: ReportsAnswer = answered(request).await?;
        if answer.reports.len() == count {
            Ok(answer)
        } else {
            Err(ServerError::Away("it did not answer each report".into()))
        }
    }

    /// Copies a file that the job names into a new file, and returns its name.
    pub async fn download(
        &self,
        job: &WorkerJob,
        file: &str,
        to: &Path,
        most: u64,
    ) -> Result<String, ServerError> {
        let id = utf8_percent_encode(file, NON_ALPHANUMERIC);
        let request = self
            .client
            .get(format!("{}/api/files/{id}", self.base))
            .bearer_auth(self.key.expose_secret())
            .header("Genie-Job", &job.id)
            .header("Genie-Lease", &job.lease);
        let copy = async {
            let answer = checked(request.send().await).await?;
            let name = name_of(&answer).unwrap_or_else(|| "file".into());
            copy(answer, to, most).await?;
            Ok(name)
        };
        timeout(FILE_TIME, copy)
            .await
            .unwrap_or_else(|_| Err(ServerError::Away("a file took too long".into())))
    }

    /// Stores a file for the job's owner.
    pub async fn upload(
        &self,
        job: &WorkerJob,
        output: &OutputFile,
    ) -> Result<StoredFile, ServerError> {
        let name = utf8_percent_encode(&output.name, NON_ALPHANUMERIC);
        let mut path_and_query = format!("/api/files?name={name}");
        for (field, value) in [
            ("width", output.width.map(f64::from)),
            ("height", output.height.map(f64::from)),
            ("duration", output.duration),
        ] {
            if let Some(value) = value {
                path_and_query += &format!("&{field}={value}");
            }
        }
        let mut waits = AGAIN.iter().take(3);
        loop {
            let file = File::open(&output.path).await.map_err(disk)?;
            let size = file.metadata().await.map_err(disk)?.len();
            let request = self
                .post(&path_and_query)
                .timeout(FILE_TIME)
                .header("Genie-Job", &job.id)
                .header("Genie-Lease", &job.lease)
                .header(CONTENT_TYPE, output.mime)
                .header(CONTENT_LENGTH, size)
                .body(reqwest::Body::wrap_stream(ReaderStream::new(file)));
            match (answered(request).await, waits.next()) {
                (Err(ServerError::Away(_)), Some(wait)) => sleep(*wait).await,
                (done, _) => return done,
            }
        }
    }
}

fn disk(error: std::io::Error) -> ServerError {
    ServerError::Disk(error.to_string())
}

fn away(error: reqwest::Error) -> ServerError {
    let mut cause: &dyn std::error::Error = &error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    ServerError::Away(cause.to_string())
}

async fn answered<T: DeserializeOwned>(request: RequestBuilder) -> Result<T, ServerError> {
    let answer = checked(request.send().await).await?;
    answer.json().await.map_err(away)
}

async fn checked(answer: reqwest::Result<Response>) -> Result<Response, ServerError> {
    #[derive(Deserialize, Default)]
    struct ToldByServer {
        #[serde(default)]
        code: String,
        #[serde(default)]
        error: String,
    }
    let answer = answer.map_err(away)?;
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let told: ToldByServer = answer.json().await.unwrap_or_default();
    let is_passing = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
    Err(match (status, told.code.as_str()) {
        (StatusCode::CONFLICT, "stale_lease") => ServerError::LeaseLost,
        _ if is_passing => {
            ServerError::Away(format!("status {status} {}: {}", told.code, told.error))
        }
        _ => ServerError::Refused {
            status: status.as_u16(),
            code: told.code,
            sentence: told.error,
        },
    })
}

async fn copy(answer: Response, to: &Path, most: u64) -> Result<(), ServerError> {
    let mut file = File::create_new(to).await.map_err(disk)?;
    let mut written = 0_u64;
    let mut pieces = answer.bytes_stream();
    while let Some(piece) = pieces.try_next().await.map_err(away)? {
        written += piece.len() as u64;
        if written > most {
            return Err(ServerError::Refused {
                status: 413,
                code: "input_too_large".into(),
                sentence: format!("the file has more than {most} bytes"),
            });
        }
        file.write_all(&piece).await.map_err(disk)?;
    }
    file.flush().await.map_err(disk)
}

fn name_of(answer: &Response) -> Option<String> {
    let header = answer.headers().get(CONTENT_DISPOSITION)?.to_str().ok()?;
    read_name(header)
}

/// The name in `Content-Disposition`: the one of all characters (RFC 8187) before the one of ASCII.
fn read_name(header: &str) -> Option<String> {
    let extended = header.split(';').find_map(|part| {
        let (_, name) = part.trim().strip_prefix("filename*=")?.rsplit_once('\'')?;
        let name = percent_decode_str(name).decode_utf8().ok()?;
        Some(name.into_owned())
    });
    let plain = || {
        let (_, rest) = header.split_once("filename=\"")?;
        let mut name = String::new();
        let mut letters = rest.chars();
        while let Some(letter) = letters.next() {
            match letter {
                '"' => return Some(name),
                '\\' => name.extend(letters.next()),
                other => name.push(other),
            }
        }
        None
    };
    extended.or_else(plain).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_file_is_read_in_both_forms() {
        for (header, name) in [
            ("attachment; filename=\"a b.mp4\"", Some("a b.mp4")),
            (r#"attachment; filename="a\"b;c.mp4""#, Some("a\"b;c.mp4")),
            (
                "inline; filename=\"_.mp4\"; filename*=UTF-8''%C3%A4%2520.mp4",
                Some("ä%20.mp4"),
            ),
            ("attachment", None),
            ("attachment; filename=\"\"", None),
        ] {
            assert_eq!(read_name(header).as_deref(), name, "{header}");
        }
    }
}
