//! Onboarding: its steps, and the upload whose job does one of them.

use std::sync::Arc;

use genie_events::{
    BlobId, JobId, Metadata, Now, User, UserCommand, UserId, account::Onboarding, file::NewFile,
};
use genie_log::{Log, Work};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    WriteError,
    caller::CommandContext,
    users::{Plan, Receipt, Users},
};

/// The answer to a queued upload. It is kept in this form with the request, so that the same request gets the same
/// answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QueuedUpload {
    pub job: JobId,
    pub file: BlobId,
}

#[derive(Debug, Clone)]
pub struct OnboardingSteps {
    log: Log,
    users: Users,
}

impl OnboardingSteps {
    pub fn new(log: Log, users: Users) -> Self {
        Self { log, users }
    }

    pub async fn advance(
        &self,
        user: UserId,
        to: Onboarding,
        privileged: bool,
        context: impl Into<CommandContext>,
    ) -> Result<Receipt, WriteError> {
        let command = UserCommand::AdvanceOnboarding { to, privileged };
        self.users.ask(user, context, command).await
    }

    /// The user's present step; `None` for a user who never registered.
    pub async fn step(&self, user: UserId) -> Result<Option<Onboarding>, WriteError> {
        let step = |state: &User| json!(state.account().profile().map(|known| known.onboarding));
        let step = self.users.look(user, step).await?;
        serde_json::from_value(step)
            .map_err(|error| WriteError::Internal(format!("a step of onboarding: {error}")))
    }

    /// Refuses an upload that would not be taken, so that nobody sends one in vain. [`Self::queue`] decides again.
    pub async fn check_upload(&self, user: UserId, metadata: Metadata) -> Result<(), WriteError> {
        let planner = |state: &User, _| state.may_upload().map(|()| Plan::default());
        self.users
            .plan(user, None, metadata, Arc::new(planner))
            .await
            .map(drop)
    }

    /// Makes an upload a file of the user and queues the job that reads it in. `row` is the file's row. Answers the
    /// position that reads must reach to see both. The same request again answers the first file.
    pub async fn queue(
        &self,
        user: UserId,
        (file, about): (BlobId, NewFile),
        row: Work,
        context: impl Into<CommandContext>,
    ) -> Result<(QueuedUpload, u64), WriteError> {
        let job = JobId(self.log.clock().new_uuid());
        let planner = move |state: &User, now: Now| {
            let store = UserCommand::StoreFile(file, about.clone());
            let mut changes = state.decide(now.clone(), store)?;
            changes.extend(state.decide(now, UserCommand::BeginOnboarding(job, file))?);
            let queued = QueuedUpload { job, file };
            Ok(Plan {
                changes,
                work: vec![row.clone()],
                outcome: json!(queued),
                ..Plan::default()
            })
        };
        let receipt = self
            .users
            .plan(user, None, context, Arc::new(planner))
            .await?;
        Ok((receipt.outcome("a queued upload")?, receipt.position))
    }
}
