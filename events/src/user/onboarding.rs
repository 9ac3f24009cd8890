//! Onboarding follows the job that does it: the upload queues the job, and the job's end ends the
//! step (docs/api.md, Onboarding). One decision covers both, so an account is never in `PROCESSING`
//! without a job that will run or is running.

use super::User;
use crate::{
    account::{AccountEvent, Onboarding},
    event::Change,
    ids::{BlobId, JobId},
    job::{Job, JobEvent, JobSpec},
    refusal::Refusal,
};

/// The job's operation. The upload queues it; clients can't.
pub const OPERATION: &str = "onboarding_import";
const QUEUE: &str = "onboarding-jobs";
/// The default priority of clients' jobs, too (docs/api.md, Jobs).
const PRIORITY: i64 = 10;
const MAX_ATTEMPTS: u32 = 3;

fn is_under_way(job: &Job) -> bool {
    !job.has_ended() && is_import(job)
}

fn is_import(job: &Job) -> bool {
    job.outline()
        .is_some_and(|outline| outline.operation == OPERATION)
}

impl User {
    /// Checks that an upload would be accepted now; the refusal says what to do instead.
    pub fn may_upload(&self) -> Result<(), Refusal> {
        let sentence = match self.account.active()?.onboarding {
            Onboarding::DataCollection => return Ok(()),
            Onboarding::ExtensionInstall => {
                "Install the browser extension first, then set the onboarding state to DATA_COLLECTION; then upload"
            }
            // An administrator set the step by hand, and no import is running.
            Onboarding::Processing if !self.jobs.values().any(is_under_way) => return Ok(()),
            Onboarding::Processing => {
                "Your data is being imported already; wait for the end of its job, or cancel it"
            }
            Onboarding::Complete => "Onboarding is complete; there is nothing more to upload",
        };
        Err(Refusal::conflict("onboarding_order", sentence))
    }

    /// Queues the import of the uploaded file and moves the account to the step that waits for it.
    pub(super) fn begin_onboarding(
        &self,
        job: &JobId,
        file: BlobId,
    ) -> Result<Vec<Change>, Refusal> {
        self.may_upload()?;
        self.check_room_for_a_job()?;
        let spec = JobSpec {
            name: None,
            operation: OPERATION.into(),
            queue: QUEUE.into(),
            params: serde_json::json!({}),
            input_file_id: Some(file.to_string()),
            input_url: None,
            creator_profile_id: None,
            priority: PRIORITY,
            run_at: None,
            max_attempts: MAX_ATTEMPTS,
            mark: None,
        };
        let queued = Change::new(
            job,
            JobEvent::Submitted {
                spec,
                counted: None,
            },
        );
        match self.account.active()?.onboarding {
            Onboarding::Processing => Ok(vec![queued]),
            _ => Ok(vec![queued, self.onboarding_is(Onboarding::Processing)]),
        }
    }

    /// The changes of the owner's onboarding that follow from a job's steps. None, unless the job
    /// is an import.
    pub(super) fn onboarding_after(
        &self,
        job: &Job,
        steps: &[JobEvent],
    ) -> Result<Vec<Change>, Refusal> {
        let (true, Some(profile), Some(step)) =
            (is_import(job), self.account.profile(), steps.last())
        else {
            return Ok(vec![]);
        };
        let to = match step {
            JobEvent::Completed { .. } => Onboarding::Complete,
            JobEvent::Failed { retry_at: None, .. }
            | JobEvent::Lapsed { retry_at: None, .. }
            | JobEvent::Cancelled => Onboarding::DataCollection,
            JobEvent::Retried { .. } => Onboarding::Processing,
            JobEvent::Submitted { .. }
            | JobEvent::Claimed { .. }
            | JobEvent::Failed { .. }
            | JobEvent::Released { .. }
            | JobEvent::Rescheduled { .. }
            | JobEvent::Lapsed { .. }
            | JobEvent::Removed => {
                return Ok(vec![]);
            }
        };
        match (profile.onboarding, to) {
            (Onboarding::DataCollection, Onboarding::Processing)
            | (Onboarding::Processing, Onboarding::DataCollection | Onboarding::Complete) => {
                Ok(vec![self.onboarding_is(to)])
            }
            // With two imports at once, the first to end would decide for the other.
            (from, Onboarding::Processing) => {
                let sentence = format!(
                    "This job belongs to an onboarding, which is now at {}; there is no way back",
                    from.as_str()
                );
                Err(Refusal::conflict("onboarding_order", sentence))
            }
            // An administrator moved the account on meanwhile.
            _ => Ok(vec![]),
        }
    }

    fn onboarding_is(&self, to: Onboarding) -> Change {
        Change::new(self.id, AccountEvent::OnboardingAdvanced { to })
    }
}
