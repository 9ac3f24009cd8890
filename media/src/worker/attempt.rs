//! One attempt at a job: fetch its files, do the work, store what came of it, and tell the server, which gives out the
//! next job by the same answer. The lease is kept meanwhile. When it is lost, the work stops within a second.

use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    WorkerParts, downloads,
    folders::AttemptFolder,
    import,
    leases::KeptLease,
    server::{JobEnd, ServerError, WantedJobs, WorkerJob},
};
use crate::{
    fetch::{FetchError, FetchLimits},
    ffmpeg::{InputFile, JobFolder, MediaFailure, Workbench},
    operations::{self, Edit, Input, MediaOperation, MediaSource, MediaWork, OutputFile},
    sandbox::ToolLimits,
};

const INPUT_TIME: Duration = Duration::from_secs(3600);

pub(super) struct Attempt<'a> {
    shared: &'a WorkerParts,
    job: WorkerJob,
    lease: KeptLease<'a>,
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
    /// With what the outputs are told to be.
    Done(Value, Vec<Value>),
    Failed(AttemptFailure),
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
            ServerError::Refused { code, .. } if code == "body_too_large" => {
                let sentence = "a file of the job is larger than the server takes (FILE_MAX_BYTES)";
                Self::lasting("input_too_large", sentence)
            }
            ServerError::Refused { code, sentence, .. } => Self::lasting(code, sentence),
            error => Self::passing("worker", error.to_string()),
        }
    }
}

impl<'a> Attempt<'a> {
    pub fn new(shared: &'a WorkerParts, job: WorkerJob) -> Self {
        Self {
            lease: shared.leases.keep(&job),
            shared,
            job,
        }
    }

    /// Ends the attempt one way or another. Returns the next job, which came with the answer to the last report.
    pub async fn run(self, stop: &CancellationToken) -> Option<WorkerJob> {
        let (job, attempt, operation) = (&self.job.id, self.job.attempt, &self.job.operation);
        info!(job, attempt, operation, "media worker: job started");
        let outcome = tokio::select! {
            done = self.work_and_store() => match done {
                Ok((result, outputs)) => AttemptOutcome::Done(result, outputs),
                Err(failure) => AttemptOutcome::Failed(failure),
            },
            () = self.lease.lost() => AttemptOutcome::LeaseLost,
            () = stop.cancelled() => AttemptOutcome::ShutDown,
        };
        // The future of the work is dropped by now, and with it all programs and files of the job. The lease is kept
        // until the end is reported.
        match outcome {
            AttemptOutcome::Done(result, outputs) => self.complete(&result, &outputs, stop).await,
            AttemptOutcome::Failed(failure) => {
                warn!(job, code = failure.code, "media worker: job failed");
                self.fail(&failure, self.shared.wanted(stop)).await
            }
            AttemptOutcome::LeaseLost => {
                info!(job, attempt, "media worker: job cancelled or lost; stopped");
                None
            }
            AttemptOutcome::ShutDown => self.release().await,
        }
    }

    async fn complete(
        &self,
        result: &Value,
        outputs: &[Value],
        stop: &CancellationToken,
    ) -> Option<WorkerJob> {
        let end = JobEnd::Complete { result, outputs };
        let wanted = self.shared.wanted(stop);
        let (ended, next) = self.shared.server.end(&self.job, &end, wanted).await;
        if let Err(ServerError::Refused { sentence, .. }) = &ended {
            let sentence = format!("the server refuses the result: {sentence}");
            let failure = AttemptFailure::lasting("result_refused", sentence);
            return match next {
                // One place does one job.
                Some(next) => self.fail(&failure, None).await.or(Some(next)),
                None => self.fail(&failure, self.shared.wanted(stop)).await,
            };
        }
        self.tell(&ended);
        next
    }

    async fn fail(
        &self,
        failure: &AttemptFailure,
        wanted: Option<WantedJobs<'_>>,
    ) -> Option<WorkerJob> {
        let end = JobEnd::Fail {
            error: &failure.sentence,
            code: &failure.code,
            is_retryable: failure.is_retryable,
        };
        let (ended, next) = self.shared.server.end(&self.job, &end, wanted).await;
        self.tell(&ended);
        next
    }

    async fn release(&self) -> Option<WorkerJob> {
        let (job, attempt) = (&self.job.id, self.job.attempt);
        let (ended, _) = self
            .shared
            .server
            .end(&self.job, &JobEnd::Release, None)
            .await;
        match ended {
            Ok(()) => info!(job, attempt, "media worker: job given back"),
            Err(error) => {
                warn!(job, attempt, %error, "media worker: job not given back; its lease runs out");
            }
        }
        None
    }

    fn tell(&self, ended: &Result<(), ServerError>) {
        let (job, attempt) = (&self.job.id, self.job.attempt);
        match ended {
            Ok(()) => info!(job, attempt, "media worker: job ended"),
            Err(ServerError::LeaseLost) => {
                info!(job, attempt, "media worker: job cancelled or lost; stopped");
            }
            Err(error) => {
                warn!(job, attempt, %error, "media worker: the end of a job is not reported; its lease runs out");
            }
        }
    }

    async fn work_and_store(&self) -> Result<(Value, Vec<Value>), AttemptFailure> {
        let cancel = CancellationToken::new();
        // Work on threads of its own sees it when this future is dropped.
        let _stop = cancel.clone().drop_guard();
        let folder = self.shared.folders.attempt(&self.job.id, self.job.attempt);
        let folder = folder.map_err(|error| AttemptFailure::passing("disk", error.to_string()))?;
        let done = self.work(&folder, cancel).await?;
        let outputs = self.store(&done.files).await?;
        Ok((done.result, outputs))
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
        let progress = |percent: f64| self.lease.set_progress(percent);
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
                let mut progress = |part: f64| self.lease.set_progress(100.0 * part);
                let bench = self.bench(&job, &mut progress, cancel)?;
                let marks = self.shared.marks.as_ref();
                let marks = marks.ok_or_else(|| lacks("secret of invisible marks"))?;
                marks.read(&self.job, bench).await
            }
            MediaOperation::Download { url, max_height } => {
                let yt_dlp = programs.yt_dlp().ok_or_else(|| lacks("yt-dlp"))?;
                let page = downloads::FilmPage {
                    yt_dlp,
                    ffmpeg: programs.ffmpeg(),
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
        let mut progress = |part: f64| self.lease.set_progress(100.0 * part);
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
