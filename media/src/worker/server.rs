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
        queues: &[&str],
        operations: &[&str],
        name: &str,
        most: usize,
        waits: bool,
    ) -> Result<Vec<WorkerJob>, ServerError> {
        #[derive(Deserialize)]
        struct ClaimedByUs {
            jobs: Vec<WorkerJob>,
        }
        let wait_ms = if waits { CLAIM_WAIT_MS } else { 0 };
        let body = json!({
            "queues": queues, "operations": operations, "worker_id": name,
            "max": most.clamp(1, 100), "wait_ms": wait_ms,
        });
        let wait = Duration::from_millis(wait_ms) + ANSWER_TIME;
        let request = self.post("/api/worker/claim").timeout(wait).json(&body);
        let claimed: ClaimedByUs = answered(request).await?;
        Ok(claimed.jobs)
    }

    /// Keeps the lease. True: the job was cancelled.
    pub async fn heartbeat(&self, job: &WorkerJob, progress: f64) -> Result<bool, ServerError> {
        #[derive(Deserialize)]
        struct Renewed {
            #[serde(default)]
            cancel: bool,
        }
        let body = json!({"lease": job.lease, "progress": progress});
        let path = format!("/api/worker/jobs/{}/heartbeat", job.id);
        let request = self.post(&path).timeout(HEARTBEAT_TIME).json(&body);
        let renewed: Renewed = answered(request).await?;
        Ok(renewed.cancel)
    }

    pub async fn complete(
        &self,
        job: &WorkerJob,
        result: &Value,
        outputs: &[Value],
    ) -> Result<(), ServerError> {
        let body = json!({"lease": job.lease, "result": result, "outputs": outputs});
        self.report(job, "complete", &body).await
    }

    pub async fn fail(
        &self,
        job: &WorkerJob,
        error: &str,
        code: &str,
        is_retryable: bool,
    ) -> Result<(), ServerError> {
        let body = json!({
            "lease": job.lease, "error": error, "code": code, "retryable": is_retryable,
        });
        self.report(job, "fail", &body).await
    }

    /// Gives the job back. The attempt does not count.
    pub async fn release(&self, job: &WorkerJob) -> Result<(), ServerError> {
        self.report(job, "release", &json!({"lease": job.lease}))
            .await
    }

    /// Says how an attempt ended, again and again while the server is away.
    async fn report(&self, job: &WorkerJob, end: &str, body: &Value) -> Result<(), ServerError> {
        let path = format!("/api/worker/jobs/{}/{end}", job.id);
        let mut waits = AGAIN.iter();
        loop {
            let request = self.post(&path).timeout(ANSWER_TIME).json(body);
            match (answered::<Value>(request).await, waits.next()) {
                (Err(ServerError::Away(_)), Some(wait)) => sleep(*wait).await,
                (Ok(_), _) => return Ok(()),
                (Err(error), _) => return Err(error),
            }
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
        _ if is_passing => ServerError::Away(format!("status {status} {}", told.code)),
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
