//! A user's own keys: made, looked up, revoked. A key is looked up in the log itself, however far the read side is.

use genie_events::{ServiceKeyId, UserCommand, UserId, api_key::ApiKeyGrant};
use genie_log::{Log, load_users::Waking};

use crate::{
    WriteError,
    caller::CommandContext,
    service_keys::{self, NewServiceKey},
    users::Users,
};

#[derive(Debug, Clone)]
pub struct ApiKeys {
    log: Log,
    users: Users,
}

impl ApiKeys {
    pub fn new(log: Log, users: Users) -> Self {
        Self { log, users }
    }

    pub async fn make(
        &self,
        user: UserId,
        wanted: ApiKeyGrant,
        context: impl Into<CommandContext>,
    ) -> Result<NewServiceKey, WriteError> {
        let (key, id) = service_keys::new_key(&self.log);
        let create = UserCommand::CreateApiKey(id, wanted);
        let done = self.users.ask(user, context, create).await?;
        Ok(NewServiceKey {
            key,
            id,
            position: done.position,
        })
    }

    /// What a user's key opens now; `None` once it was revoked or its user is forgotten.
    pub async fn find(
        &self,
        user: UserId,
        key: &ServiceKeyId,
    ) -> Result<Option<ApiKeyGrant>, WriteError> {
        match self.log.users().wake(user).await? {
            Waking::Awake(awake) => Ok(awake.user.api_key(key).cloned()),
            Waking::Forgotten => Ok(None),
        }
    }

    /// Revokes a key. Answers the position that reads must have reached to see it.
    pub async fn revoke(
        &self,
        user: UserId,
        key: ServiceKeyId,
        context: impl Into<CommandContext>,
    ) -> Result<u64, WriteError> {
        let revoke = UserCommand::RevokeApiKey(key);
        let done = self.users.ask(user, context, revoke).await?;
        Ok(done.position)
    }
}
