//! Prepares a measurement: a fresh store, genie on it as the server builds it, and users.

use actix::ArbiterHandle;
use futures_util::future::{join_all, try_join_all};
use genie_actors::{credentials::Credentials, users::Users, vault::Vault};
use genie_events::{
    CredentialId, Limits, Metadata, PlatformName, UserCommand, UserId,
    credential::{CredentialKind, SealedSecret},
};
use genie_log::{
    Clock, Log, MasterKeys, Opened,
    store::Target,
    testing::{Kind, TestStore},
};
use sqlx::{Connection, PgConnection};

/// A measurement that can't be made ends the run with its reason.
pub type Measured<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Bytes of an event's JSON.
pub const EVENT_BYTES: usize = 400;
/// Bytes of the JSON of `credential.revealed` around its purpose.
const AROUND_THE_PURPOSE: usize = r#"{"event":"revealed","version":1,"purpose":""}"#.len();
/// Users that are made at once.
const AT_ONCE: usize = 1000;

/// A fresh store, and the threads of users' actors.
pub struct Ground {
    pub store: TestStore,
    pub masters: String,
    arbiters: Vec<ArbiterHandle>,
}

impl Ground {
    pub async fn new(kind: Kind, arbiters: &[ArbiterHandle]) -> Self {
        let mut store = TestStore::new(kind).await;
        // The machine's clock. With a stopped clock ids would not ascend, and the indexes would
        // behave differently.
        store.clock = Clock::system();
        Self {
            store,
            masters: MasterKeys::generate().to_string(),
            arbiters: arbiters.to_vec(),
        }
    }

    /// Refuses a Postgres that is not durable: it would be faster than a real one.
    pub async fn check_durability(&self) -> Measured<()> {
        let Target::Postgres(url) = &self.store.target else {
            return Ok(());
        };
        let mut connection = PgConnection::connect(url).await?;
        for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
            let value: String = sqlx::query_scalar(&format!("SHOW {setting}"))
                .fetch_one(&mut connection)
                .await?;
            if value != "on" {
                return Err(format!(
                    "this Postgres has {setting} = {value}; the comparison needs stock durability"
                )
                .into());
            }
        }
        Ok(())
    }

    /// `log.postgres.NAME` or `log.sqlite.NAME`.
    pub fn name(&self, figure: &str) -> String {
        name_on("log", self.store.kind, figure)
    }

    /// A log as another process would open it.
    pub async fn log(&self) -> Measured<Log> {
        Ok(self.store.open_with(&self.masters).await?.log)
    }

    /// A node: a log, and the users' actors on it.
    pub async fn node(&self) -> Measured<Node> {
        let Opened { log, append, .. } = self.store.open_with(&self.masters).await?;
        Ok(Node {
            users: Users::new(
                append,
                Limits::built_in().with_facts_per_day(u64::MAX),
                self.arbiters.clone(),
            ),
            log,
        })
    }

    /// The same with the write side of credentials.
    pub async fn node_with_vault(&self) -> Measured<(Node, Credentials)> {
        let Opened { log, append, vault } = self.store.open_with(&self.masters).await?;
        let node = Node {
            users: Users::new(
                append.clone(),
                Limits::built_in().with_facts_per_day(u64::MAX),
                self.arbiters.clone(),
            ),
            log,
        };
        let users = node.users.clone();
        Ok((node, Credentials::new(append, users, Vault::new(vault))))
    }

    pub async fn register(&self, log: &Log, count: usize) -> Vec<UserId> {
        let mut users = Vec::with_capacity(count);
        for first in (0..count).step_by(AT_ONCE) {
            let names: Vec<String> = (first..count.min(first + AT_ONCE))
                .map(|n| format!("creator-{n}"))
                .collect();
            users.extend(join_all(names.iter().map(|name| self.store.register(log, name))).await);
        }
        users
    }

    /// Registers users who each hold a credential.
    pub async fn creators(&self, node: &Node, count: usize) -> Measured<Vec<Creator>> {
        let users = self.register(&node.log, count).await;
        try_join_all(users.into_iter().map(|user| Creator::make(node, user))).await
    }
}

/// The name of a figure on a store.
pub fn name_on(part: &str, kind: Kind, figure: &str) -> String {
    match kind {
        Kind::Postgres => format!("{part}.postgres.{figure}"),
        Kind::Sqlite => format!("{part}.sqlite.{figure}"),
    }
}

/// The parts of one server.
#[derive(Clone)]
pub struct Node {
    pub log: Log,
    pub users: Users,
}

/// A user who holds a credential.
#[derive(Clone, Copy)]
pub struct Creator {
    pub id: UserId,
    pub credential: CredentialId,
}

impl Creator {
    async fn make(node: &Node, id: UserId) -> Measured<Self> {
        let creator = Self {
            id,
            credential: CredentialId(node.log.clock().new_uuid()),
        };
        let store = UserCommand::StoreCredential {
            credential: creator.credential,
            kind: CredentialKind::Profile,
            platform: PlatformName::read("onlyfans")?,
            platform_username: None,
            expires_at: None,
            sealed: SealedSecret {
                version: 1,
                hash: "0".repeat(64),
            },
        };
        node.users.ask(id, creator.metadata(), store).await?;
        Ok(creator)
    }

    /// The measured command appends one fact of [`EVENT_BYTES`], and can be repeated for ever.
    pub async fn ask(self, node: &Node) -> Measured<u64> {
        let command = UserCommand::RevealCredential {
            credential: self.credential,
            purpose: Some(purpose()),
        };
        let done = node.users.ask(self.id, self.metadata(), command).await?;
        match done.changes.len() {
            1 => Ok(done.position),
            n => Err(format!("a command appended {n} facts; the comparison needs 1").into()),
        }
    }

    /// As the HTTP layer builds it.
    fn metadata(self) -> Metadata {
        Metadata::user(self.id, "0192f0c1-2d3e-7f00-8000-0123456789ab")
    }
}

/// A purpose that makes the event's JSON [`EVENT_BYTES`] long.
pub fn purpose() -> String {
    "publishing the planned post "
        .chars()
        .cycle()
        .take(EVENT_BYTES - AROUND_THE_PURPOSE)
        .collect()
}

#[cfg(test)]
mod tests {
    use genie_events::{Event, credential::CredentialEvent};

    use super::*;

    #[test]
    fn the_measured_event_has_the_stated_size() {
        let event = Event::Credential(CredentialEvent::Revealed {
            version: 1,
            purpose: Some(purpose()),
        });
        assert_eq!(event.to_json().to_string().len(), EVENT_BYTES);
    }
}
