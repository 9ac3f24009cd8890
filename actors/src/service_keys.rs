//! Service keys: made, looked up, revoked. A key is looked up in the log itself, however far the read side is.

use genie_events::{
    Metadata, ServiceKeyId, StreamKind,
    service_key::{ServiceKey, ServiceKeyCommand, ServiceKeyGrant},
};
use genie_log::{Append, Log, clock};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    WriteError,
    caller::CommandContext,
    system_stream::{self, SystemStream},
};

/// The beginning of every service key, and of every key of a user's own.
pub const PREFIX: &str = "gk_";
/// The random bytes of a key.
const KEY_BYTES: usize = 32;

#[derive(Debug, Clone)]
pub struct ServiceKeys {
    log: Log,
    append: Append,
}

/// A new service key, or a user's own. It is shown once: only its hash is kept.
#[derive(Debug)]
pub struct NewServiceKey {
    pub key: SecretString,
    /// A hash of the key, which names it in facts and lists.
    pub id: ServiceKeyId,
    /// The position that reads must have reached to see it.
    pub position: u64,
}

impl ServiceKeys {
    pub fn new(append: Append) -> Self {
        Self {
            log: append.log().clone(),
            append,
        }
    }

    pub async fn make(
        &self,
        wanted: ServiceKeyGrant,
        metadata: Metadata,
    ) -> Result<NewServiceKey, WriteError> {
        let (key, id) = new_key(&self.log);
        let create = |state: &ServiceKey| state.decide(ServiceKeyCommand::Create(wanted.clone()));
        let position = system_stream::ask(
            &self.append,
            StreamKind::ServiceKey,
            id,
            metadata.into(),
            create,
        )
        .await?;
        Ok(NewServiceKey { key, id, position })
    }

    /// The hash that names a key; `None` for a text that cannot be one.
    pub fn id_of(&self, key: &str) -> Option<ServiceKeyId> {
        has_the_form_of_one(key).then(|| self.log.hashes().service_key(key))
    }

    /// The state of a key; `None` when it never existed.
    pub async fn find(&self, id: &ServiceKeyId) -> Result<Option<ServiceKey>, WriteError> {
        let stream: SystemStream<ServiceKey> =
            SystemStream::load(&self.log, StreamKind::ServiceKey, id).await?;
        Ok(Some(stream.state).filter(|state| *state != ServiceKey::Absent))
    }

    /// Revokes a key. Answers the position that reads must have reached to see it.
    pub async fn revoke(
        &self,
        id: &ServiceKeyId,
        context: impl Into<CommandContext>,
    ) -> Result<u64, WriteError> {
        let revoke = |state: &ServiceKey| state.decide(ServiceKeyCommand::Revoke);
        system_stream::ask(
            &self.append,
            StreamKind::ServiceKey,
            id,
            context.into(),
            revoke,
        )
        .await
    }
}

/// A new key, and the hash that names it. A user's own key has the same form.
pub(crate) fn new_key(log: &Log) -> (SecretString, ServiceKeyId) {
    let key = SecretString::from(format!(
        "{PREFIX}{}",
        hex::encode(clock::random_bytes::<KEY_BYTES>())
    ));
    let id = log.hashes().service_key(key.expose_secret());
    (key, id)
}

/// True when the key may exist, so that looking into the log is worth it.
fn has_the_form_of_one(key: &str) -> bool {
    let digits = key.strip_prefix(PREFIX).unwrap_or_default();
    digits.len() == 2 * KEY_BYTES
        && digits
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
