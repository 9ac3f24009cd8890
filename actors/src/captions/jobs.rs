//! Jobs that ask for a caption (`caption_generation`). The server works on them itself, as a worker does: it claims
//! them, renews their leases and ends them. So a job whose server was killed goes back when its lease has lapsed. No
//! worker gets such a job.

use std::{sync::Arc, time::Duration};

use genie_events::{
    Metadata,
    caption::{Brief, BriefWords, WrittenCaption},
    chat::Failure,
};
use serde_json::json;
use tokio::sync::Semaphore;
use tracing::warn;

use super::task::write_in_turn;
use crate::{
    WriteError,
    jobs::{AttemptEnd, JobBoard, JobClaim, operation_set::ClaimScope},
    model_queue::QueueClass,
    supervisor::Supervisor,
};

/// The wait of one claim.
const WAIT: Duration = Duration::from_secs(30);
/// The pause after the store was away.
const AWAY: Duration = Duration::from_millis(500);
/// A lease is renewed this often in its time.
const RENEWALS: u32 = 3;

/// Works on such jobs for ever, as many at once as the model answers. Spawn it on the runtime that owns the store's
/// connections.
pub(crate) async fn work(supervisor: Supervisor, board: JobBoard) {
    let slots = Arc::new(Semaphore::new(supervisor.0.settings.concurrency.max(1)));
    let worker = format!("server {}", supervisor.0.node);
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return; // the slots are never closed
        };
        let claim = board.claim(
            ClaimScope::of_captions(),
            worker.clone(),
            1,
            WAIT,
            Metadata::system(),
        );
        match claim.await {
            Ok(handed) => {
                if let Some(job) = handed.take().pop() {
                    let working = work_on(supervisor.clone(), board.clone(), job);
                    tokio::spawn(async move {
                        working.await;
                        drop(slot);
                    });
                }
            }
            Err(error) => {
                warn!(%error, "caption jobs: claiming a job failed; trying again");
                tokio::time::sleep(AWAY).await;
            }
        }
    }
}

async fn work_on(supervisor: Supervisor, board: JobBoard, job: JobClaim) {
    let end = tokio::select! {
        () = lease_is_lost(&board, &job) => return,
        end = write(&supervisor, &job) => end,
    };
    // While the store is away the lease is kept.
    tokio::select! {
        () = lease_is_lost(&board, &job) => {}
        () = tell_end(&board, &job, end) => {}
    }
}

async fn write(supervisor: &Supervisor, job: &JobClaim) -> AttemptEnd {
    let words = serde_json::from_str::<BriefWords>(job.params.get());
    let brief = words.map_err(|error| format!("`params` can't be read: {error}"));
    let brief = match brief.and_then(Brief::try_from) {
        Ok(brief) => brief,
        Err(error) => {
            return AttemptEnd::Failed {
                error,
                code: Some("invalid_params".to_owned()),
                retryable: false,
            };
        }
    };
    let written = write_in_turn(
        supervisor,
        &job.job.to_string(),
        QueueClass::Job,
        job.user,
        &brief,
    )
    .await;
    end_of(&brief, written)
}

fn end_of(brief: &Brief, written: Result<WrittenCaption, Failure>) -> AttemptEnd {
    match written {
        Ok(written) => {
            let mut result = json!({
                "caption": written.text,
                "model": written.model,
                "platform": brief.platform.as_str(),
            });
            if written.truncated {
                result["truncated"] = json!(true);
            }
            AttemptEnd::Completed {
                result,
                outputs: json!([]),
            }
        }
        Err(failure) => AttemptEnd::Failed {
            error: failure.sentence,
            code: Some(failure.code),
            retryable: true,
        },
    }
}

/// Renews the job's lease. Ends when the job was cancelled, or is no longer this server's.
async fn lease_is_lost(board: &JobBoard, job: &JobClaim) {
    loop {
        tokio::time::sleep(board.lease_time() / RENEWALS).await;
        match board.heartbeat(&job.job, &job.lease, None, None).await {
            Ok(Some(lease)) if !lease.cancelled => {}
            Ok(_) => return,
            Err(error) => {
                warn!(%error, job.id = %job.job, "caption jobs: renewing a lease failed; trying again")
            }
        }
    }
}

/// Ends the attempt, again and again while the store is away.
async fn tell_end(board: &JobBoard, job: &JobClaim, end: AttemptEnd) {
    loop {
        let system = Metadata::system();
        let told = board.end_attempt(job.user, job.job, &job.lease, end.clone(), system);
        match told.await {
            // Refused: it was cancelled, or another one has it.
            Ok(_) | Err(WriteError::Refused(_) | WriteError::Forgotten) => return,
            Err(error) => {
                warn!(%error, job.id = %job.job, "caption jobs: ending a job failed; trying again")
            }
        }
        tokio::time::sleep(AWAY).await;
    }
}
