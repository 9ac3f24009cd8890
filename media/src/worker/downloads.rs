//! What yt-dlp does: fetches a film from a page, or tells what a page has. It runs in the sandbox, and reaches only
//! the worker's own proxy, where every connection passes the guard.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::attempt::{AttemptFailure, Done};
use crate::{
    fetch::{Guard, proxy::GuardedProxy},
    ffmpeg::{JobFolder, Programs, Workbench},
    kind::MediaKind,
    operations::OutputFile,
    probe::{self, MediaMeasure},
    sandbox::{Tool, ToolError, ToolLimits, ToolNetwork, ToolOutput},
};

/// The largest film that is fetched, in bytes.
const MAX_FILM: u64 = 2 << 30;
const INFO_TIME: Duration = Duration::from_secs(120);
/// What a page has, as JSON, is at most so long.
const MAX_INFO: usize = 16 << 20;
const MAX_FORMATS: usize = 200;
/// The name of the film in the job's folder, without its ending.
const FILM: &str = "film";

/// A page of somebody else.
pub(super) struct FilmPage<'a> {
    pub yt_dlp: &'a Path,
    /// Joins pictures and sound that come apart, and looks at the film. Without it only whole films are fetched.
    pub ffmpeg: Option<&'a Programs>,
    pub url: &'a str,
    pub folder: PathBuf,
}

impl FilmPage<'_> {
    pub async fn download(
        &self,
        guard: &Guard,
        max_height: u32,
        progress: impl Fn(f64) + Send + Sync,
        cancel: CancellationToken,
    ) -> Result<Done, AttemptFailure> {
        let height = format!("[height<=?{max_height}]");
        let mut arguments = vec![
            "--newline".into(),
            "--no-mtime".into(),
            "--no-part".into(),
            "--write-info-json".into(),
            "--max-filesize".into(),
            MAX_FILM.to_string(),
            "--progress-template".into(),
            "download:%(progress._percent_str)s".into(),
            "--output".into(),
            format!("{FILM}.%(ext)s"),
            "--format".into(),
        ];
        let mut inputs = Vec::new();
        if let Some(Programs { ffmpeg, .. }) = self.ffmpeg {
            arguments.push(format!("bv*{height}+ba/b{height}/b"));
            arguments.extend(["--merge-output-format".into(), "mp4".into()]);
            arguments.extend(["--ffmpeg-location".into(), ffmpeg.display().to_string()]);
            inputs.push(ffmpeg.to_owned());
        } else {
            arguments.push(format!("b{height}/b"));
        }
        let limits = ToolLimits {
            file_bytes: MAX_FILM,
            ..ToolLimits::default()
        };
        let mut on_line = |line: &str| {
            if let Ok(percent) = line.trim().trim_end_matches('%').parse() {
                progress(percent);
            }
        };
        let stop = cancel.clone();
        self.run(guard, arguments, inputs, limits, &mut on_line, stop)
            .await?;
        self.collect(cancel).await
    }

    /// What the film is, as far as this machine can tell.
    async fn measure(&self, film: &Path, cancel: CancellationToken) -> Option<MediaMeasure> {
        let job = JobFolder {
            folder: self.folder.clone(),
            inputs: Vec::new(),
        };
        let mut bench = Workbench {
            programs: self.ffmpeg?,
            job: &job,
            progress: &mut |_| (),
            cancel,
            limits: ToolLimits::default(),
        };
        bench.measure(film).await.ok()
    }

    /// What yt-dlp left in the folder.
    async fn collect(&self, cancel: CancellationToken) -> Result<Done, AttemptFailure> {
        let disk = |error: std::io::Error| AttemptFailure::passing("disk", error.to_string());
        let about = tokio::fs::read(self.folder.join(format!("{FILM}.info.json"))).await;
        let about: Value = about
            .ok()
            .and_then(|about| serde_json::from_slice(&about).ok())
            .unwrap_or_default();
        let mut entries = tokio::fs::read_dir(&self.folder).await.map_err(disk)?;
        let mut film = None;
        while let Some(entry) = entries.next_entry().await.map_err(disk)? {
            let is_file = entry.file_type().await.map_err(disk)?.is_file();
            let path = entry.path();
            let is_film = path.file_stem().is_some_and(|stem| stem == FILM);
            if is_file && is_film {
                film = Some(path);
            }
        }
        let Some(path) = film else {
            let sentence = "the page has no film that can be fetched, or one that is too large";
            return Err(AttemptFailure::lasting("nothing_to_download", sentence));
        };
        let title = about["title"].as_str().unwrap_or(FILM);
        let title = title.replace(['/', '\\'], "_");
        let ending = path.extension().and_then(|ending| ending.to_str());
        let name = format!("{title}.{}", ending.unwrap_or("bin"));
        let kind = probe::kind_of(&path).ok();
        let measured = self.measure(&path, cancel).await;
        let size = measured.as_ref().and_then(|measured| measured.size);
        let (width, height) = size.unzip();
        let duration = measured.and_then(|measured| measured.duration);
        let file = OutputFile {
            name: kind.map_or(name.clone(), |kind| kind.rename(&name)),
            mime: kind.map_or("application/octet-stream", MediaKind::mime),
            width: width.or_else(|| side(&about["width"])),
            height: height.or_else(|| side(&about["height"])),
            duration: duration.or_else(|| about["duration"].as_f64()),
            path,
        };
        Ok(Done {
            result: json!({"title": about["title"], "duration": about["duration"]}),
            files: vec![file],
        })
    }

    pub async fn formats(
        &self,
        guard: &Guard,
        cancel: CancellationToken,
    ) -> Result<Done, AttemptFailure> {
        let limits = ToolLimits {
            time: INFO_TIME,
            output: MAX_INFO,
            ..ToolLimits::default()
        };
        let arguments = vec!["--dump-single-json".into()];
        let output = self
            .run(guard, arguments, Vec::new(), limits, &mut |_| (), cancel)
            .await?;
        let about: Value = serde_json::from_slice(&output.stdout).map_err(|_| {
            AttemptFailure::passing("yt_dlp", "yt-dlp told nothing that can be read")
        })?;
        let formats = about["formats"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let fields = [
            "format_id",
            "ext",
            "width",
            "height",
            "fps",
            "vcodec",
            "acodec",
            "filesize",
            "tbr",
            "format_note",
        ];
        let formats: Vec<Value> = formats
            .iter()
            .take(MAX_FORMATS)
            .map(|format| {
                let present = fields.iter().filter(|field| !format[**field].is_null());
                present
                    .map(|field| ((*field).to_owned(), format[*field].clone()))
                    .collect()
            })
            .collect();
        Ok(Done {
            result: json!({
                "title": about["title"], "duration": about["duration"],
                "extractor": about["extractor"], "formats": formats,
            }),
            files: Vec::new(),
        })
    }

    /// Runs yt-dlp on the page. An error of yt-dlp is the job's.
    async fn run(
        &self,
        guard: &Guard,
        wanted: Vec<String>,
        inputs: Vec<PathBuf>,
        limits: ToolLimits,
        on_line: &mut (dyn FnMut(&str) + Send),
        cancel: CancellationToken,
    ) -> Result<ToolOutput, AttemptFailure> {
        let proxy = GuardedProxy::start(guard.clone())
            .await
            .map_err(|error| AttemptFailure::passing("worker", error.to_string()))?;
        let always = [
            "--ignore-config",
            "--no-cache-dir",
            "--no-playlist",
            "--no-warnings",
            "--socket-timeout",
            "30",
            "--proxy",
            &proxy.url(),
        ];
        let mut arguments: Vec<OsString> = always.map(Into::into).to_vec();
        arguments.extend(wanted.into_iter().map(Into::into));
        // An address that begins with a dash is no option.
        arguments.extend(["--".into(), self.url.into()]);
        let tool = Tool {
            program: self.yt_dlp.to_owned(),
            arguments,
            folder: self.folder.clone(),
            inputs,
            limits,
            network: ToolNetwork::Loopback(proxy.port()),
        };
        let output = tool
            .run(on_line, cancel)
            .await
            .map_err(|error| match error {
                ToolError::TooSlow => {
                    AttemptFailure::passing("too_slow", "the download took too long")
                }
                error => AttemptFailure::passing("worker", error.to_string()),
            })?;
        if output.status.success() {
            return Ok(output);
        }
        if let Some(refused) = proxy.refused() {
            return Err(refused.into());
        }
        // The last line is the error.
        let told = output.stderr.lines().rfind(|line| !line.trim().is_empty());
        let told = told.unwrap_or("yt-dlp failed and gave no reason");
        Err(AttemptFailure::passing(
            "yt_dlp",
            told.chars().take(1000).collect::<String>(),
        ))
    }
}

fn side(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|side| u32::try_from(side).ok())
}
