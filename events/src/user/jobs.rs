//! Jobs of a user: what is decided by the tier and by the other jobs beside each one's own state.

use super::{User, changes, quota::counted_unit};
use crate::{
    Now,
    credential::{Credential, CredentialKind},
    event::Change,
    ids::{CredentialId, JobId},
    job::{Job, JobCommand, JobSpec},
    job_operation,
    refusal::Refusal,
    tier::Counter,
    timestamp::Timestamp,
    usage::Unit,
};

/// The most jobs of one user that have not ended: a user's state stays within memory.
pub const MAX_UNFINISHED_JOBS: usize = 5000;

impl User {
    pub(super) fn submit_job(
        &self,
        now: &Now,
        job: &JobId,
        spec: &JobSpec,
    ) -> Result<Vec<Change>, Refusal> {
        let changes = self.queue_job(now, job, &spec.operation, spec.run_at, |counted| {
            JobCommand::Submit {
                spec: spec.clone(),
                counted,
            }
        })?;
        // What a job named when it was first submitted may be gone by now.
        if !changes.is_empty() {
            self.check_profile(spec.creator_profile_id.as_deref())?;
            self.check_named_files(spec)?;
        }
        Ok(changes)
    }

    /// Refuses a job that names anything but a profile of the user.
    fn check_profile(&self, named: Option<&str>) -> Result<(), Refusal> {
        let Some(named) = named else {
            return Ok(());
        };
        let held = named
            .parse()
            .ok()
            .and_then(|id: CredentialId| self.credentials.get(&id));
        match held {
            Some(Credential::Held {
                kind: CredentialKind::Profile,
                ..
            }) => Ok(()),
            Some(Credential::Held { kind, .. }) => {
                let kind = kind.as_str();
                let sentence = format!(
                    "`creator_profile_id` must be the id of a profile; this credential is a `{kind}`"
                );
                Err(Refusal::invalid("creator_profile_id", sentence))
            }
            _ => Err(Refusal::gone(
                "not_found",
                "`creator_profile_id` names no profile of yours; GET /api/credentials lists them",
            )),
        }
    }

    pub(super) fn retry_job(&self, now: &Now, id: &JobId) -> Result<Vec<Change>, Refusal> {
        let outline = self.known_job(id).outline();
        let operation = outline.map_or("", |outline| &outline.operation);
        self.queue_job(now, id, operation, None, |counted| JobCommand::Retry {
            counted,
        })
    }

    pub(super) fn reschedule_job(
        &self,
        now: &Now,
        id: &JobId,
        priority: Option<i64>,
        run_at: Option<Timestamp>,
    ) -> Result<Vec<Change>, Refusal> {
        let job = self.known_job(id);
        let command = JobCommand::Reschedule {
            priority,
            run_at: run_at.map(|at| at.max(now.moment)),
            now: now.moment,
        };
        let events = job.decide(command)?;
        let is_put_off = run_at.is_some_and(|at| at > now.moment);
        if is_put_off && !events.is_empty() && !job.is_scheduled(now.moment) {
            self.can_perform(now, Counter::ScheduledQueueSize, 1)?;
        }
        Ok(changes(id, events))
    }

    /// Queues a job, for the first time or again: each time it is allowed and counted, in the same append.
    pub(super) fn queue_job(
        &self,
        now: &Now,
        id: &JobId,
        operation: &str,
        run_at: Option<Timestamp>,
        command: impl Fn(Option<Unit>) -> JobCommand,
    ) -> Result<Vec<Change>, Refusal> {
        let job = self.known_job(id);
        if job.decide(command(None))?.is_empty() {
            return Ok(vec![]); // asked twice, counted once
        }
        self.check_room_for_a_job()?;
        if run_at.is_some_and(|at| at > now.moment) {
            self.can_perform(now, Counter::ScheduledQueueSize, 1)?;
        }
        let mut all = match job_operation::counter_of(operation) {
            Some(counter) => self.can_perform(now, counter, 1)?,
            None => vec![],
        };
        let queued = job.decide(command(counted_unit(&all)))?;
        let onboarding = self.onboarding_after(job, &queued)?;
        all.extend(changes(id, queued));
        all.extend(onboarding);
        Ok(all)
    }

    /// Something about a job that was queued; what was counted for it goes back when it comes to nothing.
    pub(super) fn job_changes(
        &self,
        id: &JobId,
        command: JobCommand,
    ) -> Result<Vec<Change>, Refusal> {
        let job = self.known_job(id);
        let events = job.decide(command)?;
        let back: Vec<Unit> = events
            .iter()
            .filter_map(|event| job.gives_back(event))
            .collect();
        let onboarding = self.onboarding_after(job, &events)?;
        let mut all = changes(id, events);
        all.extend(onboarding);
        for unit in back {
            all.extend(self.give_back(unit)?);
        }
        Ok(all)
    }

    pub(super) fn known_job(&self, job: &JobId) -> &Job {
        self.jobs.get(job).unwrap_or(&Job::Absent)
    }

    pub(super) fn check_room_for_a_job(&self) -> Result<(), Refusal> {
        if self.jobs.len() < MAX_UNFINISHED_JOBS {
            return Ok(()); // counting them takes longer than the rest of an enqueue
        }
        let unfinished = self.jobs.values().filter(|job| !job.has_ended()).count();
        if unfinished < MAX_UNFINISHED_JOBS {
            return Ok(());
        }
        let sentence = format!(
            "You have {MAX_UNFINISHED_JOBS} jobs that have not ended; wait for some to end, or cancel some"
        );
        Err(Refusal::conflict("too_many_jobs", sentence))
    }
}
