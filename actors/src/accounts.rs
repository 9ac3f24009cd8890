//! Accounts, after they came into being: what is asked of them goes through the user's actor, and what has to be true with it
//! (sessions, secrets, addresses) is written in the same append.

use genie_events::{
    Refusal, UserCommand, UserId,
    account::{AccountCommand, Wanted},
};

use crate::{
    WriteError,
    caller::Asking,
    users::{Done, Users},
};

/// Takes what is asked of accounts.
#[derive(Debug, Clone)]
pub struct Accounts {
    users: Users,
}

impl Accounts {
    /// Whose commands go through these actors.
    pub fn new(users: Users) -> Self {
        Self { users }
    }

    /// Makes an account what another system says that it is. The same once more changes nothing.
    pub async fn sync(&self, user: UserId, wanted: Wanted, asking: impl Into<Asking>) -> Result<Done, WriteError> {
        self.users.ask(user, asking, UserCommand::Account(AccountCommand::Sync(wanted))).await.map_err(|error| match error {
            WriteError::Forgotten => Refusal::not_found("user").into(),
            error => error,
        })
    }
}
