//! The last administrator stays: without one only the operator could make another.

use genie_events::{Refusal, UserId, account::Account};
use genie_log::{Log, LogError, Work, load_users::Waking};

use crate::WriteError;

const LAST: &str = "This is the last administrator: make another first, or ask the operator to call `genie forget`";

/// The condition that one of these users is an active administrator at the moment of the append. So two who
/// leave at once do not both count on the other.
pub(crate) async fn one_remains(
    log: &Log,
    leaving: UserId,
    others: &[UserId],
) -> Result<Work, WriteError> {
    for other in others.iter().filter(|other| **other != leaving) {
        match log.users().wake(*other).await {
            Ok(Waking::Awake(awake)) => {
                if let Account::Active(profile) = awake.user.account()
                    && profile.admin
                {
                    return Ok(Work::OnlyAt {
                        user: *other,
                        seq: awake.user.seq(),
                    });
                }
            }
            Err(LogError::Away(reason)) => return Err(WriteError::Away(reason)),
            Ok(Waking::Forgotten) | Err(_) => {} // nobody to count on
        }
    }
    Err(Refusal::conflict("last_administrator", LAST).into())
}
