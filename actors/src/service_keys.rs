//! Service keys: made, looked at, revoked. Whoever shows one is looked up in the log itself, at each request: so what was revoked
//! opens nothing from the next request on, on every node, however far the read side is.

use genie_events::{
    Metadata, ServiceKeyId, StreamKind,
    service_key::{Key, ServiceKey, ServiceKeyCommand},
};
use genie_log::{Log, clock, keys::hex};
use secrecy::{ExposeSecret, SecretString};

use crate::{WriteError, system_stream};

/// What every service key begins with.
pub const PREFIX: &str = "gk_";

/// Makes, checks and revokes service keys.
#[derive(Debug, Clone)]
pub struct ServiceKeys {
    log: Log,
}

/// A service key that was made. It is shown once: only its hash is kept.
#[derive(Debug)]
pub struct NewKey {
    /// The key.
    pub key: SecretString,
    /// What it is known by.
    pub id: ServiceKeyId,
    /// The position that reads must have reached to see it.
    pub position: u64,
}

impl ServiceKeys {
    /// On this log.
    pub fn new(log: Log) -> Self {
        Self { log }
    }

    /// Makes one.
    pub async fn make(&self, wanted: Key, metadata: Metadata) -> Result<NewKey, WriteError> {
        let key = SecretString::from(format!("{PREFIX}{}", hex(&clock::random_bytes::<32>())));
        let id = self.log.hashes().service_key(key.expose_secret());
        let create = |state: &ServiceKey| state.decide(ServiceKeyCommand::Create(wanted.clone()));
        let position = system_stream::ask(&self.log, StreamKind::ServiceKey, &id.0, metadata, create).await?;
        Ok(NewKey { key, id, position })
    }

    /// What a key opens now; `None` when nothing, or when it never was one.
    pub async fn check(&self, key: &str) -> Result<Option<(ServiceKeyId, Key)>, WriteError> {
        let id = self.log.hashes().service_key(key);
        let (state, _, _) = system_stream::load::<ServiceKey>(&self.log, StreamKind::ServiceKey, &id.0).await?;
        Ok(state.opens(self.log.clock().now()).cloned().map(|key| (id, key)))
    }

    /// Revokes one; answers the position that reads must have reached to see it.
    pub async fn revoke(&self, id: &ServiceKeyId, metadata: Metadata) -> Result<u64, WriteError> {
        let revoke = |state: &ServiceKey| state.decide(ServiceKeyCommand::Revoke);
        system_stream::ask(&self.log, StreamKind::ServiceKey, &id.0, metadata, revoke).await
    }
}
