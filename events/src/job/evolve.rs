//! What an event makes of a job.

use super::{EndReport, EndedAttempt, Ending, Job, JobEvent, JobOutline};
use crate::{timestamp::Timestamp, usage::Unit};

impl Job {
    pub fn evolve(&mut self, event: JobEvent) {
        *self = match std::mem::take(self) {
            Self::Absent => Self::first(event),
            Self::Waiting {
                outline,
                attempts,
                counted,
                ended,
                ..
            } => JobBefore {
                attempts,
                counted,
                ended,
                ..JobBefore::of(outline)
            }
            .then(event),
            Self::Running {
                outline,
                attempt,
                lease,
                counted,
                ended,
            } => JobBefore {
                attempts: attempt,
                lease: Some(lease),
                counted,
                ended,
                ..JobBefore::of(outline)
            }
            .then(event),
            Self::Finished {
                outline, ending, ..
            } if matches!(event, JobEvent::Removed) => Self::Removed { outline, ending },
            removed @ Self::Removed { .. } => removed,
            Self::Finished { outline, lease, .. } => JobBefore {
                lease,
                ..JobBefore::of(outline)
            }
            .then(event),
        };
    }

    fn first(event: JobEvent) -> Self {
        match event {
            JobEvent::Submitted { spec, counted } => Self::Waiting {
                not_before: spec.run_at,
                outline: JobOutline::of(&spec),
                attempts: 0,
                counted,
                ended: None,
            },
            _ => Self::Absent,
        }
    }
}

/// What an event finds of a job that was submitted.
struct JobBefore {
    outline: JobOutline,
    attempts: u32,
    /// The hash of the present lease.
    lease: Option<String>,
    counted: Option<Unit>,
    ended: Option<EndedAttempt>,
}

impl JobBefore {
    fn of(outline: JobOutline) -> Self {
        Self {
            outline,
            attempts: 0,
            lease: None,
            counted: None,
            ended: None,
        }
    }

    /// The state after the event.
    fn then(self, event: JobEvent) -> Job {
        match event {
            JobEvent::Submitted { counted, .. } => Self { counted, ..self }.waiting(None),
            JobEvent::Claimed { attempt, lease, .. } => Job::Running {
                outline: self.outline,
                attempt,
                lease,
                counted: self.counted,
                ended: self.ended,
            },
            JobEvent::Lapsed {
                retry_at: Some(at), ..
            } => Self {
                ended: None,
                ..self
            }
            .waiting(Some(at)),
            JobEvent::Failed {
                retry_at: Some(at), ..
            } => self.reported(EndReport::Failed).waiting(Some(at)),
            JobEvent::Released { attempt } => Self {
                attempts: attempt.saturating_sub(1),
                ..self.reported(EndReport::Released)
            }
            .waiting(None),
            JobEvent::Rescheduled { priority, run_at } => Self {
                outline: self.outline.with_priority(priority),
                ..self
            }
            .waiting(run_at),
            JobEvent::Lapsed { retry_at: None, .. } => Self {
                lease: None,
                ..self
            }
            .finished(Ending::Failed),
            JobEvent::Failed { retry_at: None, .. } => self.finished(Ending::Failed),
            JobEvent::Completed { .. } => self.finished(Ending::Completed),
            JobEvent::Retried {
                priority, counted, ..
            } => Self {
                counted,
                ..Self::of(self.outline.with_priority(priority))
            }
            .waiting(None),
            // Only a job that has ended is removed.
            JobEvent::Removed => self.finished(Ending::Cancelled),
            JobEvent::Cancelled => Self {
                lease: None,
                ..self
            }
            .finished(Ending::Cancelled),
        }
    }

    /// Notes that the worker ended the running attempt.
    fn reported(self, report: EndReport) -> Self {
        let ended = self.lease.map(|lease| EndedAttempt { lease, report });
        Self {
            lease: None,
            ended,
            ..self
        }
    }

    fn waiting(self, not_before: Option<Timestamp>) -> Job {
        Job::Waiting {
            outline: self.outline,
            attempts: self.attempts,
            not_before,
            counted: self.counted,
            ended: self.ended,
        }
    }

    fn finished(self, ending: Ending) -> Job {
        Job::Finished {
            outline: self.outline,
            ending,
            lease: self.lease,
        }
    }
}
