//! Captions: a user asks for one and waits for its end, which another node may write.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::future::try_join_all;
use genie_events::{
    CaptionId, Refusal, User, UserCommand, UserId,
    caption::{Brief, Caption, CaptionEvent, WrittenCaption},
    chat::Failure,
};
use genie_log::{Owner, Work, leases::LeaseKind};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::oneshot;

use crate::{
    WriteError,
    caller::CommandContext,
    supervisor::Supervisor,
    users::{Plan, Planner, Receipt},
};

/// Jobs that ask for a caption.
pub(crate) mod jobs;
mod reply;
pub(crate) mod task;
mod text;

/// How often a waiting request checks that the caption is still this node's.
const LEASE_CHECK: Duration = Duration::from_secs(5);

/// The end of a caption, with the position of its fact.
pub type CaptionEnd = Result<(WrittenCaption, u64), (Failure, u64)>;

#[derive(Debug, Clone)]
pub struct Captions {
    supervisor: Supervisor,
}

impl Captions {
    pub(crate) fn new(supervisor: Supervisor) -> Self {
        Self { supervisor }
    }

    /// Writes so many captions and waits for their ends. Either all are counted or none. Whatever happens to the request,
    /// each caption is written or its quota unit is given back.
    pub async fn write(
        &self,
        user: UserId,
        brief: Brief,
        count: usize,
        context: impl Into<CommandContext>,
    ) -> Result<Vec<CaptionEnd>, WriteError> {
        let supervisor = &self.supervisor;
        let clock = supervisor.0.log.clock();
        let new: Vec<CaptionId> = (0..count).map(|_| CaptionId(clock.new_uuid())).collect();
        let waiters = new.iter().map(|id| supervisor.0.caption_waiters.add(*id));
        let waiters: Vec<_> = waiters.collect();
        let planner = self.planner(new.clone(), user, brief);
        let receipt = self
            .plan(new.clone(), user, context.into(), planner)
            .await
            .map_err(|error| supervisor.with_retry_after(error))?;
        let asked: Vec<CaptionId> = receipt.outcome("captions")?;
        if asked == new {
            let ends = new.into_iter().zip(waiters);
            try_join_all(ends.map(|(caption, waiter)| self.wait(caption, waiter))).await
        } else {
            try_join_all(
                asked
                    .into_iter()
                    .map(|caption| self.answer_again(user, caption)),
            )
            .await
        }
    }

    fn planner(&self, captions: Vec<CaptionId>, user: UserId, brief: Brief) -> Planner {
        let supervisor = self.supervisor.clone();
        let lease = |id: &CaptionId| {
            let id = id.to_string();
            supervisor.lease(LeaseKind::Caption, id.clone(), user, id)
        };
        let leases: Vec<Work> = captions.iter().map(lease).collect();
        Arc::new(move |state: &User, now| {
            // The tier comes first: a user without captions left must hear that, not that the queue is full.
            let request = UserCommand::RequestCaptions(captions.clone(), brief.clone());
            let changes = state.decide(now, request)?;
            for caption in &captions {
                supervisor.admit(&caption.to_string())?;
            }
            Ok(Plan {
                changes,
                work: leases.clone(),
                outcome: json!(captions),
                ..Plan::default()
            })
        })
    }

    /// Runs on a task of its own. So a refusal still closes what was opened for the caption when the client goes
    /// away.
    async fn plan(
        &self,
        captions: Vec<CaptionId>,
        user: UserId,
        context: CommandContext,
        planner: Planner,
    ) -> Result<Receipt, WriteError> {
        let supervisor = self.supervisor.clone();
        let asking = async move {
            let asked = supervisor.0.users.plan(user, None, context, planner).await;
            let starts = asked
                .as_ref()
                .is_ok_and(|receipt| receipt.outcome == json!(captions));
            if !starts {
                captions
                    .iter()
                    .for_each(|caption| supervisor.release_caption(*caption));
            }
            asked
        };
        self.supervisor.0.users.run_to_end(asking).await
    }

    /// The end of the caption that the first request with this key asked for.
    async fn answer_again(
        &self,
        user: UserId,
        caption: CaptionId,
    ) -> Result<CaptionEnd, WriteError> {
        let log = &self.supervisor.0.log;
        let events = log
            .reader()
            .stream_events::<Caption>(&Owner::User(user), caption.0)
            .await?;
        let position = log.reader().head(); // at or after the caption's end
        match events.into_iter().next_back() {
            Some(CaptionEvent::Completed(written)) => Ok(Ok((written, position))),
            Some(CaptionEvent::Failed(failure)) => Ok(Err((failure, position))),
            _ => {
                let sentence = "The request with this Idempotency-Key is still being answered; ask again in a moment";
                Err(Refusal::conflict("idempotency_in_progress", sentence).into())
            }
        }
    }

    /// Waits for a caption's end, for as long as this node has to write it.
    async fn wait(
        &self,
        caption: CaptionId,
        mut waiter: oneshot::Receiver<CaptionEnd>,
    ) -> Result<CaptionEnd, WriteError> {
        let gone = || WriteError::Away("the caption's end is not known here".into());
        loop {
            match tokio::time::timeout(LEASE_CHECK, &mut waiter).await {
                Ok(end) => return end.map_err(|_| gone()),
                Err(_) if self.is_here(caption).await => {}
                // The caption ended this very moment, or another node took it.
                Err(_) => {
                    let end = tokio::time::timeout(LEASE_CHECK, &mut waiter).await;
                    self.supervisor.0.caption_waiters.drop_one(caption);
                    return end.ok().and_then(Result::ok).ok_or_else(gone);
                }
            }
        }
    }

    async fn is_here(&self, caption: CaptionId) -> bool {
        self.supervisor
            .holds_lease(LeaseKind::Caption, &caption.to_string())
            .await
            .unwrap_or(true)
    }
}

/// The requests that wait for captions on this node.
#[derive(Debug, Default)]
pub(crate) struct CaptionWaiters(Mutex<HashMap<CaptionId, oneshot::Sender<CaptionEnd>>>);

impl CaptionWaiters {
    fn add(&self, caption: CaptionId) -> oneshot::Receiver<CaptionEnd> {
        let (tell, told) = oneshot::channel();
        self.0.lock().insert(caption, tell);
        told
    }

    fn tell(&self, caption: CaptionId, end: CaptionEnd) {
        if let Some(waiter) = self.0.lock().remove(&caption) {
            let _ = waiter.send(end); // the client may have gone
        }
    }

    /// Tells the waiting request that this node does not know the end.
    pub fn drop_one(&self, caption: CaptionId) {
        self.0.lock().remove(&caption);
    }
}
