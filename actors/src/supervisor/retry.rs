//! Retries while the store is away: the end of an answer must be written.

use std::{sync::Arc, time::Duration};

use genie_events::{Metadata, Now, Refusal, User, UserId};
use genie_log::leases::LeaseKind;
use tracing::warn;

use super::Supervisor;
use crate::{
    WriteError,
    users::{Plan, Receipt},
};

/// Pauses between tries; the last one repeats.
const PAUSES_MS: [u64; 5] = [100, 250, 500, 1000, 3000];

/// The most tries of work that others wait for: with the pauses, about 15 s.
const TRIES: usize = 8;

/// The pauses of work that is tried a bounded number of times.
pub(crate) fn bounded_pauses() -> impl Iterator<Item = Duration> {
    pauses().take(TRIES)
}

/// The pauses between tries. They never end.
pub(crate) fn pauses() -> impl Iterator<Item = Duration> {
    let last = PAUSES_MS[PAUSES_MS.len() - 1];
    PAUSES_MS
        .into_iter()
        .chain(std::iter::repeat(last))
        .map(Duration::from_millis)
}

impl Supervisor {
    /// Asks a user until the store takes the plan, or a rule or a forgotten user refuses it.
    pub(crate) async fn plan_until_settled(
        &self,
        user: UserId,
        metadata: &Metadata,
        plan: impl Fn(&User, Now) -> Result<Plan, Refusal> + Clone + Send + Sync + 'static,
    ) -> Result<Receipt, WriteError> {
        for pause in pauses() {
            let users = &self.0.users;
            match users
                .plan(user, None, metadata.clone(), Arc::new(plan.clone()))
                .await
            {
                Err(WriteError::Away(_) | WriteError::Busy) => tokio::time::sleep(pause).await,
                settled => return settled,
            }
        }
        unreachable!("the pauses never end")
    }

    /// Drops a lease of this node whose work has ended. If the store is away, the lease expires by itself.
    pub(crate) async fn drop_own_lease(&self, kind: LeaseKind, id: &str) {
        if let Err(error) = self.0.log.leases().remove(kind, id, &self.0.node).await {
            warn!(%error, lease.id = id, "supervisor: dropping a used lease failed; it expires by itself");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_others_wait_for_is_tried_for_a_quarter_of_a_minute() {
        let longest: Duration = bounded_pauses().sum();
        assert!(longest < Duration::from_secs(15), "{longest:?}");
        assert_eq!(bounded_pauses().count(), TRIES);
    }
}
