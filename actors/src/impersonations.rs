//! Impersonations: an administrator acts for a user, for a limited time. Beginning and end are facts of the user. The row
//! that makes a token good is written and deleted with them, so a crash leaves no token that the log knows not of.

use std::sync::Arc;

use genie_events::{
    Now, Refusal, User, UserCommand, UserId,
    account::{LifecycleCommand, ProfileCommand},
};
use genie_log::{
    Log, Work,
    impersonations::{Impersonation, ImpersonationRow},
};
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
        let start = move |state: &User, decided: Now| {
            let start = ProfileCommand::StartImpersonation {
                by,
                impersonation: impersonation.session,
            };
            Ok(Plan {
                changes: state.decide(decided, UserCommand::account(start))?,
                work: vec![Work::Impersonation(ImpersonationRow::Open {
                    impersonation,
                    now,
                })],
                ..Plan::default()
            })
        };
        let context = CommandContext::from(caller.metadata());
        let receipt = self
            .users
            .plan(user, None, context, Arc::new(start))
            .await?;
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
            Ok(Plan {
                changes: state.decide(now, UserCommand::account(end))?,
                work: vec![Work::Impersonation(ImpersonationRow::End { session })],
                ..Plan::default()
            })
        };
        let receipt = self.users.plan(user, None, context, Arc::new(end)).await?;
        Ok(receipt.position)
    }
}

fn not_there() -> Refusal {
    Refusal::not_found("impersonation")
}
