//! Counts what an uploaded archive holds. Nothing of it is unpacked to the disk.

use std::{fs::File, io};

use rawzip::{FileReader, ReaderAt};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::attempt::{AttemptFailure, Done};
use crate::{ffmpeg::InputFile, zip_check};

pub(super) async fn import(
    archive: InputFile,
    cancel: CancellationToken,
) -> Result<Done, AttemptFailure> {
    let name = archive.name;
    let look = move || -> io::Result<_> {
        let file = File::open(archive.path)?;
        let size = file.metadata()?.len();
        let reader = Stoppable {
            file: FileReader::from(file),
            stop: cancel,
        };
        Ok(zip_check::check(reader, size))
    };
    let looked = tokio::task::spawn_blocking(look).await;
    let contents = looked
        .map_err(|stopped| AttemptFailure::passing("worker", stopped.to_string()))?
        .map_err(|error| AttemptFailure::passing("disk", error.to_string()))?
        .map_err(|bad| AttemptFailure::lasting("bad_archive", bad.to_string()))?;
    Ok(Done {
        result: json!({ "name": name, "found": contents }),
        files: Vec::new(),
    })
}

/// A file that reads as broken once the job is to stop.
struct Stoppable {
    file: FileReader,
    stop: CancellationToken,
}

impl ReaderAt for Stoppable {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::Error::other("the job has stopped"));
        }
        self.file.read_at(buffer, offset)
    }
}
