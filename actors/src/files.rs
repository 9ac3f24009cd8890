//! Files: whole bytes in the blob store become files of a user, and files go.

use std::sync::Arc;

use genie_events::{
    BlobId, Metadata, User, UserCommand, UserId,
    file::{NewFile, RemovedBecause},
    user::Recall,
};
use genie_log::{Work, blobs};
use serde_json::json;

use crate::{
    WriteError,
    caller::CommandContext,
    users::{Plan, Receipt, Users},
};

#[derive(Debug, Clone)]
pub struct Files {
    users: Users,
}

impl Files {
    pub fn new(users: Users) -> Self {
        Self { users }
    }

    /// Refuses so many bytes more when they would not be kept, so that nobody sends them in vain. [`Self::store`]
    /// decides again.
    pub async fn check_room(
        &self,
        user: UserId,
        bytes: u64,
        metadata: Metadata,
    ) -> Result<(), WriteError> {
        let planner = move |state: &User, now| {
            state.check_room_for_bytes(&now, bytes)?;
            Ok(Plan::default())
        };
        let checked = self.users.plan(user, None, metadata, Arc::new(planner));
        checked.await.map(drop)
    }

    /// Makes bytes a file of the user. `row` is the file's row. Answers the file and the position that reads must
    /// reach to see it. The same request again answers the first file.
    pub async fn store(
        &self,
        user: UserId,
        id: BlobId,
        file: NewFile,
        row: Work,
        context: impl Into<CommandContext>,
    ) -> Result<(BlobId, u64), WriteError> {
        let planner = move |state: &User, now| {
            let changes = state.decide(now, UserCommand::StoreFile(id, file.clone()))?;
            Ok(Plan {
                changes,
                work: vec![row.clone()],
                outcome: json!(id),
                ..Plan::default()
            })
        };
        let recall = Some(Recall::File(id));
        let stored = self
            .users
            .plan_recalling(
                user,
                recall.into_iter().collect(),
                context,
                Arc::new(planner),
            )
            .await?;
        Ok((stored.outcome("a stored file")?, stored.position))
    }

    /// From then on nobody can read the file. Its bytes have to be deleted afterwards.
    pub async fn remove(
        &self,
        user: UserId,
        id: BlobId,
        because: RemovedBecause,
        context: impl Into<CommandContext>,
    ) -> Result<Receipt, WriteError> {
        let planner = move |state: &User, now| {
            let changes = state.decide(now, UserCommand::RemoveFile(id, because))?;
            Ok(Plan {
                changes,
                work: vec![blobs::doom(id, user)],
                outcome: json!(id),
                ..Plan::default()
            })
        };
        let recall = Some(Recall::File(id));
        self.users
            .plan_recalling(
                user,
                recall.into_iter().collect(),
                context,
                Arc::new(planner),
            )
            .await
    }
}
