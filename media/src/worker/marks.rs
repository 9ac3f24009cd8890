//! Invisible marks: the number comes with the job, the secret is the worker's own.

use genie_marks::MarkKey;
use serde_json::json;

use super::{
    attempt::{AttemptFailure, Done},
    server::WorkerJob,
};
use crate::{
    ffmpeg::Workbench,
    mark_secret::MarkSecret,
    operations::{MarkOrder, MediaOutcome, mark_invisibly, read_mark},
};

pub(super) struct WorkerMarks {
    secret: MarkSecret,
    pattern: MarkKey,
}

impl WorkerMarks {
    pub fn new(secret: MarkSecret) -> Self {
        Self {
            pattern: secret.pattern(),
            secret,
        }
    }

    /// Marks the job's first input with the job's number.
    pub async fn mark(
        &self,
        job: &WorkerJob,
        bench: Workbench<'_>,
        keep_metadata: bool,
    ) -> Result<MediaOutcome, AttemptFailure> {
        let number = job.mark.ok_or_else(|| {
            AttemptFailure::lasting("no_mark_number", "the job has no number for its mark")
        })?;
        let order = MarkOrder {
            key: &self.pattern,
            number,
        };
        Ok(mark_invisibly(bench, &order, keep_metadata).await?)
    }

    /// Looks for a mark in the job's first input. Only the server can open what was found.
    pub async fn read(
        &self,
        job: &WorkerJob,
        bench: Workbench<'_>,
    ) -> Result<Done, AttemptFailure> {
        let found = read_mark(bench, &self.pattern).await?;
        Ok(Done {
            result: json!({"sealed": self.secret.seal_reading(&job.id, found)}),
            files: Vec::new(),
        })
    }
}
