//! Captions: asked for and waited for, begun, and ended. Whoever asks waits for the end, which another node may come to.

use std::{sync::Arc, time::Duration};

use genie_events::{
    CaptionId, Metadata, Refusal, User, UserCommand, UserId,
    caption::{Brief, Caption, CaptionEvent, WrittenCaption},
    chat::Failure,
};
use genie_log::{Epoch, Owner, leases::LeaseKind};
use serde_json::json;
use tokio::sync::oneshot;
use tracing::error;

use super::{Supervisor, lock};
use crate::{
    WriteError,
    caller::Asking,
    captions::{self, CaptionTask},
    chats,
    users::Plan,
};

/// How often who waits for a caption looks whether it is still this node's.
const CAPTION_LOOK: Duration = Duration::from_secs(5);

/// What came of a caption.
pub type CaptionEnd = Result<(WrittenCaption, u64), (Failure, u64)>;

impl Supervisor {
    /// Writes a caption and waits for it. It is written, or its quota unit given back, whatever happens to the asker.
    pub async fn caption(
        &self,
        user: UserId,
        brief: Brief,
        asking: impl Into<Asking>,
    ) -> Result<CaptionEnd, WriteError> {
        let asking = asking.into();
        let caption = CaptionId(self.0.log.clock().new_uuid());
        let (tell, told) = oneshot::channel();
        lock(&self.0.awaited).insert(caption, tell);
        let lease = self.lease(
            LeaseKind::Caption,
            caption.to_string(),
            user,
            caption.to_string(),
        );
        let door = self.clone();
        let planner = move |state: &User, now| {
            // The tier first: whoever may have no more captions is told that, not to come again when the line is shorter.
            let changes = state.decide(now, UserCommand::RequestCaption(caption, brief.clone()))?;
            door.let_in(&caption.to_string())?;
            Ok(Plan {
                changes,
                work: vec![lease.clone()],
                outcome: json!(caption),
                ..Plan::default()
            })
        };
        let supervisor = self.clone();
        let asking = self.0.log.store().io().spawn(async move {
            let asked = supervisor
                .0
                .users
                .plan(user, None, asking, Arc::new(planner))
                .await;
            if !asked
                .as_ref()
                .is_ok_and(|done| done.outcome == json!(caption))
            {
                supervisor.leave_alone(&caption.to_string(), None, Some(caption));
            }
            asked
        });
        let done = asking
            .await
            .map_err(|stopped| WriteError::Internal(stopped.to_string()))?;
        let done = done.map_err(|error| self.turned_away(error))?;
        match serde_json::from_value(done.outcome) {
            Ok(asked) if asked == caption => self.await_caption(caption, told).await,
            Ok(earlier) => self.caption_again(user, earlier).await,
            Err(error) => Err(WriteError::Internal(format!(
                "a caption has no outcome: {error}"
            ))),
        }
    }

    /// The same request once more: the end of the caption that it asked for the first time.
    async fn caption_again(
        &self,
        user: UserId,
        caption: CaptionId,
    ) -> Result<CaptionEnd, WriteError> {
        let events = self
            .0
            .log
            .stream_events::<Caption>(&Owner::User(user), &caption.to_string())
            .await?;
        let position = self.0.log.head(); // at or after its end
        match events.into_iter().next_back() {
            Some(CaptionEvent::Completed(written)) => Ok(Ok((written, position))),
            Some(CaptionEvent::Failed(failure)) => Ok(Err((failure, position))),
            _ => {
                let sentence = "The request with this Idempotency-Key is still being answered; ask again in a moment";
                Err(Refusal::conflict("idempotency_in_progress", sentence).into())
            }
        }
    }

    /// Waits for a caption's end, for as long as it is this node's to write.
    async fn await_caption(
        &self,
        caption: CaptionId,
        mut told: oneshot::Receiver<CaptionEnd>,
    ) -> Result<CaptionEnd, WriteError> {
        let gone = || WriteError::Away("the caption's end is not known here".into());
        loop {
            match tokio::time::timeout(CAPTION_LOOK, &mut told).await {
                Ok(end) => return end.map_err(|_| gone()),
                Err(_)
                    if self
                        .is_mine(LeaseKind::Caption, &caption.to_string())
                        .await
                        .unwrap_or(true) => {}
                // Ended in this very moment, or taken by another node.
                Err(_) => {
                    let end = tokio::time::timeout(CAPTION_LOOK, &mut told).await;
                    self.forsake_caption(caption);
                    return end.ok().and_then(Result::ok).ok_or_else(gone);
                }
            }
        }
    }

    pub(super) fn start_caption(
        &self,
        caption: CaptionId,
        user: UserId,
        brief: Brief,
        metadata: Metadata,
    ) {
        let Some(run) = self.begin(caption.to_string(), user) else {
            return;
        };
        let (supervisor, task) = (
            self.clone(),
            CaptionTask {
                caption,
                user,
                metadata,
                run,
                office: None,
            },
        );
        tokio::spawn(async move {
            let writing = tokio::spawn(captions::write_caption(
                supervisor.clone(),
                task.clone(),
                brief,
            ));
            let written = writing.await.unwrap_or_else(|stopped| {
                error!(caption.id = %caption, error = %stopped, "the task of caption `{caption}` died");
                Err(chats::died())
            });
            captions::end_caption(&supervisor, &task, written).await;
            supervisor.done(&caption.to_string());
        });
    }

    /// Ends, in office, a caption that had begun on a node that died.
    pub(super) fn end_caption(&self, epoch: Epoch, caption: CaptionId, user: UserId) {
        let Some(run) = self.begin(caption.to_string(), user) else {
            return;
        };
        let task = CaptionTask {
            caption,
            user,
            metadata: Metadata::system(),
            run,
            office: Some(epoch),
        };
        let supervisor = self.clone();
        tokio::spawn(async move {
            captions::end_caption(&supervisor, &task, Err(chats::interrupted())).await;
            supervisor.done(&caption.to_string());
        });
    }

    pub(crate) fn tell_caption(&self, caption: CaptionId, end: CaptionEnd) {
        if let Some(waiting) = lock(&self.0.awaited).remove(&caption) {
            let _ = waiting.send(end); // the asker may have gone
        }
    }

    /// Who waits for a caption is told that its end is not known here.
    pub(crate) fn forsake_caption(&self, caption: CaptionId) {
        lock(&self.0.awaited).remove(&caption);
    }
}
