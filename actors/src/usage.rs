//! Usage that clients count themselves. Counts by genie are part of its own commands.

use std::sync::Arc;

use genie_events::{Now, User, UserCommand, UserId, tier::Counter};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    WriteError,
    caller::CommandContext,
    users::{Plan, Users},
};

/// The answer to a count. It is kept in this form with the request, so that the same request gets the same answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UsageCount {
    pub new_value: u64,
    pub limit_reached: bool,
    /// True when this request was counted. Counters that genie counts itself stay unchanged.
    pub counted: bool,
}

#[derive(Debug, Clone)]
pub struct UsageCounter {
    users: Users,
}

impl UsageCounter {
    pub fn new(users: Users) -> Self {
        Self { users }
    }

    /// Counts against a user's tier. Answers the count and the position that reads must reach to see it.
    pub async fn count(
        &self,
        user: UserId,
        counter: Counter,
        amount: u64,
        context: impl Into<CommandContext>,
    ) -> Result<(UsageCount, u64), WriteError> {
        let planner = move |state: &User, now: Now| {
            let allowance = now.limits.allowance(state.tier()?, counter);
            let before = state.used(counter, now.moment);
            let changes = state.decide(now, UserCommand::CountUsage { counter, amount })?;
            let counted = !changes.is_empty();
            let new_value = if counted {
                before.saturating_add(amount)
            } else {
                before
            };
            let count = UsageCount {
                new_value,
                limit_reached: allowance.is_reached(new_value),
                counted,
            };
            Ok(Plan {
                changes,
                outcome: json!(count),
                ..Plan::default()
            })
        };
        let receipt = self
            .users
            .plan(user, None, context, Arc::new(planner))
            .await?;
        Ok((receipt.outcome("a usage count")?, receipt.position))
    }
}
