//! `api_key`: a user's own keys, for programs that act for the user longer than a token lives
//! (docs/api.md, API keys). The id of the stream is a keyed hash of the key, as of service keys.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{aggregate, domain_event, refusal::Refusal, service_key, timestamp::Timestamp};

/// The most keys of one user, expired ones included.
pub const MAX_KEYS: usize = 50;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiKey {
    #[default]
    Absent,
    /// The key opens what its scopes say, until it expires.
    Live(ApiKeyGrant),
    Revoked,
}

/// The name, the scopes and the end of a key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApiKeyGrant {
    /// The user's name for the key.
    pub key_name: String,
    pub scopes: Vec<ApiScope>,
    /// The key opens nothing from this time on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

impl ApiKeyGrant {
    /// Lists each scope once, in order.
    pub fn new(
        name: &str,
        scopes: Vec<ApiScope>,
        expires_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Self, Refusal> {
        Ok(Self {
            key_name: service_key::checked_name(name)?,
            scopes: service_key::checked_scopes(scopes)?,
            expires_at: service_key::checked_end(expires_at, now)?,
        })
    }

    /// True until the key expires.
    pub fn is_open(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|at| now < at)
    }
}

/// A right of a user's own key. None of them opens credentials, keys, logins, passwords or the
/// forgetting of the user, and none administers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiScope {
    /// Everything else that the user may do.
    Api,
    /// Chats.
    Chat,
    /// The tools for agents.
    Mcp,
}

impl ApiScope {
    pub const ALL: [Self; 3] = [Self::Api, Self::Chat, Self::Mcp];

    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Chat => "chat",
            Self::Mcp => "mcp",
        }
    }

    /// Reads the shown word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == word)
    }
}

impl std::fmt::Display for ApiScope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum ApiKeyCommand {
    Create(ApiKeyGrant),
    Revoke,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ApiKeyEvent {
    Created(ApiKeyGrant),
    Revoked,
}

domain_event!(ApiKeyEvent,
    Self::Created(_) => "api_key.created",
    Self::Revoked => "api_key.revoked",
);
aggregate!(ApiKey, "api_key", ApiKeyCommand, ApiKeyEvent);

impl ApiKeyEvent {
    /// The fields that are not personal and are stored readable.
    pub(crate) fn clear(&self) -> Value {
        match self {
            Self::Created(key) => json!({"scopes": key.scopes, "expires_at": key.expires_at}),
            Self::Revoked => json!({}),
        }
    }
}

impl ApiKey {
    pub fn decide(&self, command: ApiKeyCommand) -> Result<Vec<ApiKeyEvent>, Refusal> {
        match (command, self) {
            (ApiKeyCommand::Create(key), Self::Absent) => Ok(vec![ApiKeyEvent::Created(key)]),
            (ApiKeyCommand::Create(_), _) => {
                Err(Refusal::conflict("key_exists", "This key is there already"))
            }
            (ApiKeyCommand::Revoke, Self::Live(_)) => Ok(vec![ApiKeyEvent::Revoked]),
            (ApiKeyCommand::Revoke, Self::Revoked) => Ok(vec![]),
            (ApiKeyCommand::Revoke, Self::Absent) => Err(Refusal::not_found("key")),
        }
    }

    pub fn evolve(&mut self, event: ApiKeyEvent) {
        *self = match event {
            ApiKeyEvent::Created(key) => Self::Live(key),
            ApiKeyEvent::Revoked => Self::Revoked,
        };
    }
}

#[cfg(test)]
mod tests {
    use cqrs_es::test::TestFramework;

    use super::*;

    fn key(expires_at: Option<Timestamp>) -> ApiKeyGrant {
        let scopes = vec![ApiScope::Mcp, ApiScope::Chat, ApiScope::Mcp];
        ApiKeyGrant::new(" my\u{200b} agent ", scopes, expires_at, Timestamp(10)).unwrap()
    }
    fn given(events: Vec<ApiKeyEvent>) -> cqrs_es::test::AggregateTestExecutor<ApiKey> {
        TestFramework::<ApiKey>::with(()).given(events)
    }

    #[test]
    fn a_key_is_made_with_each_scope_once() {
        let made = key(None);
        assert_eq!(made.key_name, "my agent");
        assert_eq!(made.scopes, [ApiScope::Chat, ApiScope::Mcp]);
        given(vec![])
            .when(ApiKeyCommand::Create(made.clone()))
            .then_expect_events(vec![ApiKeyEvent::Created(made)]);
    }

    #[test]
    fn a_key_without_name_or_scope_or_time_left_is_not_made() {
        for (name, scopes, expires_at, field) in [
            ("", vec![ApiScope::Api], None, "name"),
            ("agent", vec![], None, "scopes"),
            (
                "agent",
                vec![ApiScope::Api],
                Some(Timestamp(10)),
                "expires_at",
            ),
        ] {
            let refused = ApiKeyGrant::new(name, scopes, expires_at, Timestamp(10)).unwrap_err();
            assert!(
                refused.sentence.contains(&format!("`{field}`")),
                "{refused}"
            );
        }
    }

    #[test]
    fn a_key_is_open_until_it_expires() {
        assert!(key(None).is_open(Timestamp(i64::MAX)));
        let short = key(Some(Timestamp(20)));
        assert!(short.is_open(Timestamp(19)));
        assert!(!short.is_open(Timestamp(20)));
    }

    #[test]
    fn a_revoked_key_stays_revoked_and_an_absent_one_cant_be_revoked() {
        let made = ApiKeyEvent::Created(key(None));
        given(vec![made.clone()])
            .when(ApiKeyCommand::Revoke)
            .then_expect_events(vec![ApiKeyEvent::Revoked]);
        given(vec![made, ApiKeyEvent::Revoked])
            .when(ApiKeyCommand::Revoke)
            .then_expect_events(vec![]);
        let refused = given(vec![])
            .when(ApiKeyCommand::Revoke)
            .inspect_result()
            .unwrap_err();
        assert_eq!(refused.code, "not_found");
    }

    #[test]
    fn every_scope_reads_back_as_it_is_stored() {
        for scope in ApiScope::ALL {
            assert_eq!(ApiScope::parse(scope.as_str()), Some(scope));
            assert_eq!(serde_json::to_value(scope).unwrap(), scope.as_str());
        }
        assert_eq!(ApiScope::parse("jobs:work"), None);
    }
}
