//! Onboarding goes on with the job that does it: the upload queues it, its end ends the step (contract, section 3). Both are
//! decided here as one, so that an account is never in `PROCESSING` for a job that nobody will run, nor left there by one that ended.

use super::User;
use crate::{
    account::{AccountEvent, Onboarding},
    event::Change,
    ids::{BlobId, JobId},
    job::{Job, JobEvent, JobSpec},
    refusal::Refusal,
};

/// What the job does. Clients can't queue it: the upload does.
pub const OPERATION: &str = "onboarding_import";
/// Where it waits.
const QUEUE: &str = "onboarding-jobs";
/// As for jobs of clients that say nothing else (contract, section 5).
const PRIORITY: i64 = 10;
const MAX_ATTEMPTS: u32 = 3;

fn is_under_way(job: &Job) -> bool {
    !matches!(job, Job::Finished { .. })
        && job.spec().is_some_and(|spec| spec.operation == OPERATION)
}

impl User {
    /// Whether an upload would be taken now; if not, what to do instead.
    pub fn may_upload(&self) -> Result<(), Refusal> {
        let sentence = match self.account.active()?.onboarding {
            Onboarding::DataCollection => return Ok(()),
            Onboarding::ExtensionInstall => {
                "Install the browser extension first, then set the onboarding state to DATA_COLLECTION; then upload"
            }
            // Set by hand, and nothing is being read in.
            Onboarding::Processing if !self.jobs.values().any(is_under_way) => return Ok(()),
            Onboarding::Processing => {
                "Your data is being read in already; wait for it to end, or cancel its job"
            }
            Onboarding::Complete => "Onboarding is complete; there is nothing more to upload",
        };
        Err(Refusal::conflict("onboarding_order", sentence))
    }

    /// The uploaded file is queued to be read in, and the account waits for that.
    pub(super) fn begin_onboarding(
        &self,
        job: &JobId,
        file: BlobId,
    ) -> Result<Vec<Change>, Refusal> {
        self.may_upload()?;
        self.check_room_for_a_job()?;
        let spec = JobSpec {
            operation: OPERATION.into(),
            queue: QUEUE.into(),
            params: serde_json::json!({}),
            input_file_id: Some(file.to_string()),
            input_url: None,
            creator_profile_id: None,
            priority: PRIORITY,
            run_at: None,
            max_attempts: MAX_ATTEMPTS,
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

    /// What the steps of a job mean for its owner's onboarding; nothing, unless it is the job of an onboarding.
    pub(super) fn onboarding_after(
        &self,
        job: &Job,
        steps: &[JobEvent],
    ) -> Result<Vec<Change>, Refusal> {
        let is_onboarding = job.spec().is_some_and(|spec| spec.operation == OPERATION);
        let (true, Some(profile), Some(step)) =
            (is_onboarding, self.account.profile(), steps.last())
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
            | JobEvent::Lapsed { .. } => {
                return Ok(vec![]);
            }
        };
        match (profile.onboarding, to) {
            (Onboarding::DataCollection, Onboarding::Processing)
            | (Onboarding::Processing, Onboarding::DataCollection | Onboarding::Complete) => {
                Ok(vec![self.onboarding_is(to)])
            }
            // Of two jobs that read in data at once, the first to end would decide for the other.
            (from, Onboarding::Processing) => {
                let sentence = format!(
                    "This job belongs to an onboarding, which is now at {}; there is no way back",
                    from.as_str()
                );
                Err(Refusal::conflict("onboarding_order", sentence))
            }
            // An administrator moved it on meanwhile.
            _ => Ok(vec![]),
        }
    }

    fn onboarding_is(&self, to: Onboarding) -> Change {
        Change::new(self.id, AccountEvent::OnboardingAdvanced { to })
    }
}
