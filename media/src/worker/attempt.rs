//! One attempt at a job: fetch its files, do the work, store what came of it, and tell the server. The lease is kept
//! meanwhile. When it is lost, the work stops within a second.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    WorkerParts, downloads,
    folders::AttemptFolder,
    import,
    server::{ServerError, WorkerJob},
};
use crate::{
    fetch::{FetchError, FetchLimits},
    ffmpeg::{InputFile, JobFolder, MediaFailure, Workbench},
    operations::{self, Edit, Input, MediaOperation, MediaSource, MediaWork, OutputFile},
    sandbox::ToolLimits,
};

/// A cancelled job is told by the next heartbeat, and its program is to end within a second.
const HEARTBEAT: Duration = Duration::from_millis(700);
const INPUT_TIME: Duration = Duration::from_secs(3600);

pub(super) struct Attempt<'a> {
    shared: &'a WorkerParts,
    job: WorkerJob,
    /// In percent, as the bits of an `f64`.
    progress: AtomicU64,
}

/// What the work left behind.
pub(super) struct Done {
    pub result: Value,
    pub files: Vec<OutputFile>,
}

/// Why the work was not done, as its owner is told.
#[derive(Debug)]
pub(super) struct AttemptFailure {
    sentence: String,
    code: String,
    is_retryable: bool,
}

/// How an attempt ended on this side.
enum AttemptOutcome {
    Reported(Result<(), ServerError>),
    /// Somebody else has the job, it was cancelled, or it is gone.
    LeaseLost,
    ShutDown,
}

impl AttemptFailure {
    /// Another attempt may end otherwise.
    pub fn passing(code: impl Into<String>, sentence: impl Into<String>) -> Self {
        Self {
            sentence: sentence.into(),
            code: code.into(),
            is_retryable: true,
        }
    }

    /// Another attempt would end the same.
    pub fn lasting(code: impl Into<String>, sentence: impl Into<String>) -> Self {
        Self {
            is_retryable: false,
            ..Self::passing(code, sentence)
        }
    }
}

impl From<FetchError> for AttemptFailure {
    fn from(error: FetchError) -> Self {
        Self {
            is_retryable: error.is_retryable(),
            ..Self::passing(error.code(), format!("`input_url`: {error}"))
        }
    }
}

impl From<MediaFailure> for AttemptFailure {
    fn from(failure: MediaFailure) -> Self {
        Self {
            sentence: failure.sentence,
            code: failure.code.into(),
            is_retryable: failure.retryable,
        }
    }
}

impl From<ServerError> for AttemptFailure {
    fn from(error: ServerError) -> Self {
        match error {
            ServerError::Refused {
                status: 404,
                sentence,
                ..
            } => Self::lasting("file_missing", format!("a file of the job: {sentence}")),
            ServerError::Refused { code, sentence, .. } => Self::lasting(code, sentence),
            error => Self::passing("worker", error.to_string()),
        }
    }
}

impl<'a> Attempt<'a> {
    pub fn new(shared: &'a WorkerParts, job: WorkerJob) -> Self {
        Self {
            shared,
            job,
            progress: AtomicU64::new(0),
        }
    }

    /// Ends the attempt one way or another.
    pub async fn run(self, stop: CancellationToken) {
        let (job, attempt, operation) = (&self.job.id, self.job.attempt, &self.job.operation);
        info!(job, attempt, operation, "media worker: job started");
        let end = tokio::select! {
            reported = self.work_and_report() => AttemptOutcome::Reported(reported),
            () = self.keep_lease() => AttemptOutcome::LeaseLost,
            () = stop.cancelled() => AttemptOutcome::ShutDown,
        };
        // The future of the work is dropped by now, and with it all programs and files of the job.
        match end {
            AttemptOutcome::Reported(Ok(())) => info!(job, attempt, "media worker: job ended"),
            AttemptOutcome::Reported(Err(ServerError::LeaseLost)) | AttemptOutcome::LeaseLost => {
                info!(job, attempt, "media worker: job cancelled or lost; stopped");
            }
            AttemptOutcome::Reported(Err(error)) => {
                warn!(job, attempt, %error, "media worker: the end of a job is not reported; its lease runs out");
            }
            AttemptOutcome::ShutDown => match self.shared.server.release(&self.job).await {
                Ok(()) => info!(job, attempt, "media worker: job given back"),
                Err(error) => {
                    warn!(job, attempt, %error, "media worker: job not given back; its lease runs out");
                }
            },
        }
    }

    /// Returns when the lease is lost.
    async fn keep_lease(&self) {
        let mut beats = interval(HEARTBEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beats.tick().await;
            let progress = f64::from_bits(self.progress.load(Ordering::Relaxed));
            match self.shared.server.heartbeat(&self.job, progress).await {
                Ok(false) => {}
                Ok(true) | Err(ServerError::LeaseLost | ServerError::Refused { .. }) => return,
                // The server says when it is over.
                Err(error) => {
                    warn!(job = self.job.id, %error, "media worker: heartbeat not answered; trying again")
                }
            }
        }
    }

    fn set_progress(&self, percent: f64) {
        self.progress.store(percent.to_bits(), Ordering::Relaxed);
    }

    async fn work_and_report(&self) -> Result<(), ServerError> {
        let server = &self.shared.server;
        let cancel = CancellationToken::new();
        // Work on threads of its own sees it when this future is dropped.
        let _stop = cancel.clone().drop_guard();
        let done = async {
            let folder = self.shared.folders.attempt(&self.job.id, self.job.attempt);
            let folder =
                folder.map_err(|error| AttemptFailure::passing("disk", error.to_string()))?;
            let done = self.work(&folder, cancel).await?;
            let outputs = self.store(&done.files).await?;
            Ok::<_, AttemptFailure>((done.result, outputs))
        };
        match done.await {
            Ok((result, outputs)) => server.complete(&self.job, &result, &outputs).await,
            Err(failure) => {
                let job = &self.job.id;
                warn!(job, code = failure.code, "media worker: job failed");
                let AttemptFailure {
                    sentence,
                    code,
                    is_retryable,
                } = failure;
                server.fail(&self.job, &sentence, &code, is_retryable).await
            }
        }
    }

    async fn work(
        &self,
        folder: &AttemptFolder,
        cancel: CancellationToken,
    ) -> Result<Done, AttemptFailure> {
        let input = Input {
            file_id: self.job.input_file_id.as_deref(),
            url: self.job.input_url.as_deref(),
        };
        let operation = MediaOperation::read(&self.job.operation, input, &self.job.params)
            .map_err(|wrong| AttemptFailure::lasting("wrong_params", wrong.to_string()))?;
        let programs = &self.shared.watched.programs;
        let progress = |percent: f64| self.set_progress(percent);
        match operation {
            MediaOperation::Media(work) => self.edit(&work, folder, cancel).await,
            MediaOperation::OnboardingImport { file_id } => {
                let source = MediaSource::File(file_id);
                let archive = self.fetch(&source, folder, 0).await?;
                import::import(archive, cancel).await
            }
            MediaOperation::ReadMark { file_id } => {
                let source = MediaSource::File(file_id);
                let job = self.folder_of(&[source], folder).await?;
                let mut progress = |part: f64| self.set_progress(100.0 * part);
                let bench = self.bench(&job, &mut progress, cancel)?;
                let marks = self.shared.marks.as_ref();
                let marks = marks.ok_or_else(|| lacks("secret of invisible marks"))?;
                marks.read(&self.job, bench).await
            }
            MediaOperation::Download { url, max_height } => {
                let yt_dlp = programs.yt_dlp().ok_or_else(|| lacks("yt-dlp"))?;
                let page = downloads::FilmPage {
                    yt_dlp,
                    ffmpeg: programs.ffmpeg().map(|programs| programs.ffmpeg.as_path()),
                    url: &url,
                    folder: folder.work(),
                };
                page.download(&self.shared.guard, max_height, progress, cancel)
                    .await
            }
            MediaOperation::DownloadFormats { url } => {
                let yt_dlp = programs.yt_dlp().ok_or_else(|| lacks("yt-dlp"))?;
                let page = downloads::FilmPage {
                    yt_dlp,
                    ffmpeg: None,
                    url: &url,
                    folder: folder.work(),
                };
                page.formats(&self.shared.guard, cancel).await
            }
            MediaOperation::Outside => {
                let sentence = "this worker does not do this operation";
                Err(AttemptFailure::passing("no_worker", sentence))
            }
        }
    }

    async fn edit(
        &self,
        work: &MediaWork,
        folder: &AttemptFolder,
        cancel: CancellationToken,
    ) -> Result<Done, AttemptFailure> {
        let job = self.folder_of(&work.sources, folder).await?;
        let mut progress = |part: f64| self.set_progress(100.0 * part);
        let bench = self.bench(&job, &mut progress, cancel)?;
        let made = match &self.shared.marks {
            Some(marks) if matches!(work.edit, Edit::MarkInvisibly(_)) => {
                marks.mark(&self.job, bench, work.keep_metadata).await?
            }
            _ => {
                let (programs, progress, cancel) = (bench.programs, bench.progress, bench.cancel);
                operations::run(programs, bench.limits, work, &job, progress, cancel).await?
            }
        };
        Ok(Done {
            result: made.result,
            files: made.outputs,
        })
    }

    /// The folder of the job, with copies of its files.
    async fn folder_of(
        &self,
        sources: &[MediaSource],
        folder: &AttemptFolder,
    ) -> Result<JobFolder, AttemptFailure> {
        let mut inputs = Vec::new();
        for (number, source) in sources.iter().enumerate() {
            inputs.push(self.fetch(source, folder, number).await?);
        }
        Ok(JobFolder {
            folder: folder.work(),
            inputs,
        })
    }

    fn bench<'b>(
        &'b self,
        job: &'b JobFolder,
        progress: &'b mut (dyn FnMut(f64) + Send + Sync),
        cancel: CancellationToken,
    ) -> Result<Workbench<'b>, AttemptFailure> {
        let programs = self.shared.watched.programs.ffmpeg();
        Ok(Workbench {
            programs: programs.ok_or_else(|| lacks("ffmpeg"))?,
            job,
            progress,
            cancel,
            limits: ToolLimits::default(),
        })
    }

    /// Copies a file to the job's folder. Its name there is a number, because names of strangers are no names of
    /// files.
    async fn fetch(
        &self,
        source: &MediaSource,
        folder: &AttemptFolder,
        number: usize,
    ) -> Result<InputFile, AttemptFailure> {
        let path = folder.inputs().join(number.to_string());
        let name = match source {
            MediaSource::File(id) => {
                let server = &self.shared.server;
                server
                    .download(&self.job, id, &path, self.shared.max_input)
                    .await?
            }
            MediaSource::Url(url) => {
                let limits = FetchLimits {
                    bytes: self.shared.max_input,
                    time: INPUT_TIME,
                };
                self.shared.guard.fetch(url, &path, limits).await?;
                name_in(url)
            }
        };
        Ok(InputFile { path, name })
    }

    /// Stores the files, and returns what the job's outputs are told to be.
    async fn store(&self, files: &[OutputFile]) -> Result<Vec<Value>, AttemptFailure> {
        let mut outputs = Vec::new();
        for file in files {
            let server = &self.shared.server;
            let stored = server.upload(&self.job, file).await.map_err(not_stored)?;
            let mut output = json!({
                "file_id": stored.id, "name": stored.name, "mime": stored.mime,
                "bytes": stored.bytes, "sha256": stored.sha256,
            });
            for (field, value) in [
                ("width", file.width.map(Value::from)),
                ("height", file.height.map(Value::from)),
                ("duration", file.duration.map(Value::from)),
            ] {
                if let Some(value) = value {
                    output[field] = value;
                }
            }
            outputs.push(output);
        }
        Ok(outputs)
    }
}

/// Only for a server that hands out what was not asked for.
fn lacks(what: &str) -> AttemptFailure {
    AttemptFailure::passing("no_worker", format!("this worker has no {what}"))
}

fn not_stored(error: ServerError) -> AttemptFailure {
    let sentence = format!("an output can't be stored: {error}");
    match error {
        ServerError::Refused { .. } => AttemptFailure::lasting("not_stored", sentence),
        _ => AttemptFailure::passing("not_stored", sentence),
    }
}

/// The last part of an address' path, which names the file for people.
fn name_in(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    let (_, after_scheme) = path.split_once("://").unwrap_or(("", path));
    let name = match after_scheme.split_once('/') {
        Some((_, path)) => path.rsplit('/').next().unwrap_or(""),
        None => "",
    };
    let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy();
    let name: String = name
        .chars()
        .filter(|letter| !letter.is_control())
        .take(200)
        .collect();
    if name.is_empty() { "file".into() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_its_file() {
        for (url, name) in [
            ("https://a.example/films/one%20two.mp4?x=/y", "one two.mp4"),
            ("https://a.example", "file"),
            ("https://a.example/films/", "file"),
            ("https://a.example/a%0Ab%2Fc", "ab/c"),
        ] {
            assert_eq!(name_in(url), name, "{url}");
        }
    }
}
