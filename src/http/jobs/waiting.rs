//! The reason why a job waits, as the server that is asked knows it.

use genie_actors::jobs::queues::JobWait;
use genie_events::Timestamp;
use genie_projections::jobs::JobRow;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    app::App,
    http::words::{self, Time},
};

/// The reason why a job waits.
#[derive(Clone, Serialize, ToSchema)]
pub struct WaitsBecause {
    /// `run_at`: its time has not come. `backoff`: an attempt has failed. `turn`: other jobs of its queue go first.
    /// `no_worker`: no worker for its operation has asked for jobs for a minute. `paused`: its queue is paused.
    /// `user_suspended`: its user may not act.
    #[schema(value_type = words::WaitReason)]
    reason: &'static str,
    /// With `turn`: the job's place in its queue, 1 for the next.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    place: Option<u64>,
    /// With `run_at` and `backoff`: the time at which the job may go.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<Time>,
}

impl WaitsBecause {
    fn reason(reason: &'static str) -> Self {
        Self {
            reason,
            place: None,
            at: None,
        }
    }

    fn until(at: Timestamp, row: &JobRow) -> Self {
        let reason = if row.attempt == 0 {
            "run_at"
        } else {
            "backoff"
        };
        Self {
            at: Some(at.into()),
            ..Self::reason(reason)
        }
    }
}

/// `None` for a job that does not wait.
pub fn waits_because(app: &App, row: &JobRow) -> Option<WaitsBecause> {
    if !matches!(row.status.as_str(), "queued" | "delayed") {
        return None;
    }
    let because = match (app.write.jobs.wait(&row.id), row.run_at) {
        (Some(JobWait::UserSuspended), _) => WaitsBecause::reason("user_suspended"),
        (Some(JobWait::Until(at)), _) => WaitsBecause::until(at, row),
        (Some(JobWait::NoWorker), _) => WaitsBecause::reason("no_worker"),
        (Some(JobWait::Turn { place }), _) => WaitsBecause {
            place: Some(place as u64),
            ..WaitsBecause::reason("turn")
        },
        // The board has not read the job yet, or a worker is being given it.
        (None, Some(at)) if row.status == "delayed" => WaitsBecause::until(at, row),
        (None, _) => WaitsBecause::reason("turn"),
    };
    Some(because)
}
