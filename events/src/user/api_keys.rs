//! The user's own keys. The state holds those that were not revoked.

use super::{User, changes};
use crate::{
    api_key::{ApiKey, ApiKeyCommand, ApiKeyEvent, ApiKeyGrant, MAX_KEYS},
    event::Change,
    ids::{ServiceKeyId, StreamId, StreamKind},
    refusal::Refusal,
};

impl User {
    /// A key that was not revoked. It may have expired.
    pub fn api_key(&self, key: &ServiceKeyId) -> Option<&ApiKeyGrant> {
        self.api_keys.get(key)
    }

    /// A revoked key is left out of the state; that its stream has events says that it was there.
    fn api_key_state(&self, key: ServiceKeyId) -> ApiKey {
        match self.api_keys.get(&key) {
            Some(grant) => ApiKey::Live(grant.clone()),
            None if self.sequence(&StreamId::new(StreamKind::ApiKey, key)) > 0 => ApiKey::Revoked,
            None => ApiKey::Absent,
        }
    }

    pub(super) fn create_api_key(
        &self,
        key: ServiceKeyId,
        grant: ApiKeyGrant,
    ) -> Result<Vec<Change>, Refusal> {
        if self.api_keys.len() >= MAX_KEYS {
            let sentence = format!("There are {MAX_KEYS} keys of this user; delete one first");
            return Err(Refusal::conflict("too_many_keys", sentence));
        }
        let made = self
            .api_key_state(key)
            .decide(ApiKeyCommand::Create(grant))?;
        Ok(changes(key, made))
    }

    pub(super) fn revoke_api_key(&self, key: ServiceKeyId) -> Result<Vec<Change>, Refusal> {
        let revoked = self.api_key_state(key).decide(ApiKeyCommand::Revoke)?;
        Ok(changes(key, revoked))
    }

    pub(super) fn evolve_api_key(&mut self, key: ServiceKeyId, event: ApiKeyEvent) {
        match event {
            ApiKeyEvent::Created(grant) => drop(self.api_keys.insert(key, grant)),
            ApiKeyEvent::Revoked => drop(self.api_keys.remove(&key)),
        }
    }
}
