//! Impersonations: an administrator acts for a user, for a limited time. The beginning is a fact of the user before
//! the row exists, and the end is a fact before the row goes. So a crash in between leaves a token that opens
//! nothing, or one that can still be ended.

use std::sync::Arc;

use genie_events::{
    Now, Refusal, User, UserCommand, UserId,
    account::{LifecycleCommand, ProfileCommand},
};
use genie_log::{Log, impersonations::Impersonation};
use uuid::Uuid;

use crate::{
    Caller, WriteError,
    caller::CommandContext,
    users::{Plan, Users},
};

#[derive(Debug, Clone)]
pub struct Impersonations {
    log: Log,
    users: Users,
}

impl Impersonations {
    pub fn new(log: Log, users: Users) -> Self {
        Self { log, users }
    }

    /// Begins an impersonation. Answers it and the position that reads must reach to see it.
    pub async fn begin(
        &self,
        caller: &Caller,
        by: UserId,
        user: UserId,
        seconds: i64,
    ) -> Result<(Impersonation, u64), WriteError> {
        let now = self.log.clock().now();
        let impersonation = Impersonation {
            session: self.log.clock().new_uuid(),
            user,
            by,
            expires_at: now.plus_seconds(seconds),
        };
        let start = UserCommand::account(ProfileCommand::StartImpersonation {
            by,
            impersonation: impersonation.session,
        });
        let receipt = self.users.ask(user, caller.metadata(), start).await?;
        self.log.impersonations().open(impersonation, now).await?;
        Ok((impersonation, receipt.position))
    }

    /// Ends an impersonation: its token opens nothing from then on. Answers the position that reads must reach to see
    /// it.
    pub async fn end(
        &self,
        session: Uuid,
        context: impl Into<CommandContext>,
    ) -> Result<u64, WriteError> {
        let context = context.into();
        let open = self
            .log
            .impersonations()
            .get(session, self.log.clock().now())
            .await?;
        let user = match (open, &context.key) {
            (Some(open), _) => Some(open.user),
            // The impersonation is over. Only a repetition of the same request gets its answer again.
            (None, Some(key)) => self.log.outcomes().owner_of(key).await?,
            (None, None) => None,
        };
        let user = user.ok_or_else(not_there)?;
        let end = move |state: &User, now: Now| {
            let end = LifecycleCommand::EndImpersonation {
                by: open.ok_or_else(not_there)?.by,
                impersonation: session,
            };
            state.decide(now, UserCommand::account(end)).map(Plan::from)
        };
        let receipt = self.users.plan(user, None, context, Arc::new(end)).await?;
        self.log.impersonations().end(session).await?;
        Ok(receipt.position)
    }
}

fn not_there() -> Refusal {
    Refusal::not_found("impersonation")
}
