//! `service_key`: keys of subscribers, workers and dashboards, used instead of the shared secret
//! (docs/api.md, Service keys). The id of the stream is a keyed hash of the key. So genie finds the
//! key that a caller shows without a table, and stores no key.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{aggregate, domain_event, refusal::Refusal, timestamp::Timestamp, typed_text};

/// In characters.
pub const MAX_NAME: usize = 100;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceKey {
    #[default]
    Absent,
    /// The key opens what its scopes say, until it expires.
    Live(ServiceKeyGrant),
    Revoked,
}

/// The name, the scopes and the end of a key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceKeyGrant {
    /// The administrator's name for the key.
    pub name: String,
    pub scopes: Vec<Scope>,
    /// The key opens nothing from this time on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

impl ServiceKeyGrant {
    /// Lists each scope once, in order.
    pub fn new(
        name: &str,
        scopes: Vec<Scope>,
        expires_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Self, Refusal> {
        Ok(Self {
            name: checked_name(name)?,
            scopes: checked_scopes(scopes)?,
            expires_at: checked_end(expires_at, now)?,
        })
    }
}

/// The name of a key, as a person sees it.
pub(crate) fn checked_name(name: &str) -> Result<String, Refusal> {
    let name = typed_text::cleaned(name);
    if !(1..=MAX_NAME).contains(&name.chars().count()) || name.chars().any(char::is_control) {
        let sentence = format!(
            "`name` must have 1 to {MAX_NAME} characters that are seen, none of them control characters"
        );
        return Err(Refusal::invalid("name", sentence));
    }
    Ok(name)
}

/// Each scope once, in order.
pub(crate) fn checked_scopes<S: Ord>(mut scopes: Vec<S>) -> Result<Vec<S>, Refusal> {
    if scopes.is_empty() {
        return Err(Refusal::invalid(
            "scopes",
            "`scopes` must have at least one scope",
        ));
    }
    scopes.sort_unstable();
    scopes.dedup();
    Ok(scopes)
}

/// The end of a new key, which must be to come.
pub(crate) fn checked_end(
    expires_at: Option<Timestamp>,
    now: Timestamp,
) -> Result<Option<Timestamp>, Refusal> {
    if expires_at.is_some_and(|at| at <= now) {
        return Err(Refusal::invalid(
            "expires_at",
            "`expires_at` must lie in the future",
        ));
    }
    Ok(expires_at)
}

/// A right of a service key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// Reads the feed without personal fields.
    #[serde(rename = "events:read")]
    EventsRead,
    /// Reads the feed with personal fields.
    #[serde(rename = "events:read:personal")]
    EventsReadPersonal,
    /// Claims jobs and ends them.
    #[serde(rename = "jobs:work")]
    JobsWork,
    /// Reads the audit trail and its proofs.
    #[serde(rename = "audit:read")]
    AuditRead,
    /// Reads every user's credentials in the clear.
    #[serde(rename = "credentials:reveal")]
    CredentialsReveal,
}

impl Scope {
    pub const ALL: [Self; 5] = [
        Self::EventsRead,
        Self::EventsReadPersonal,
        Self::JobsWork,
        Self::AuditRead,
        Self::CredentialsReveal,
    ];

    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EventsRead => "events:read",
            Self::EventsReadPersonal => "events:read:personal",
            Self::JobsWork => "jobs:work",
            Self::AuditRead => "audit:read",
            Self::CredentialsReveal => "credentials:reveal",
        }
    }

    /// Reads the shown word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == word)
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum ServiceKeyCommand {
    Create(ServiceKeyGrant),
    Revoke,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ServiceKeyEvent {
    Created(ServiceKeyGrant),
    Revoked,
}

domain_event!(ServiceKeyEvent,
    Self::Created(_) => "service_key.created",
    Self::Revoked => "service_key.revoked",
);
aggregate!(
    ServiceKey,
    "service_key",
    ServiceKeyCommand,
    ServiceKeyEvent
);

impl ServiceKeyEvent {
    /// The fields that are not personal and are stored readable.
    pub(crate) fn clear(&self) -> Value {
        match self {
            Self::Created(key) => {
                json!({"scopes": key.scopes, "expires_at": key.expires_at})
            }
            Self::Revoked => json!({}),
        }
    }
}

impl ServiceKey {
    /// The key's present scopes; `None` if it opens nothing.
    pub fn opens(&self, now: Timestamp) -> Option<&ServiceKeyGrant> {
        match self {
            Self::Live(key) if key.expires_at.is_none_or(|at| now < at) => Some(key),
            _ => None,
        }
    }

    pub fn decide(&self, command: ServiceKeyCommand) -> Result<Vec<ServiceKeyEvent>, Refusal> {
        match (command, self) {
            (ServiceKeyCommand::Create(key), Self::Absent) => {
                Ok(vec![ServiceKeyEvent::Created(key)])
            }
            (ServiceKeyCommand::Create(_), _) => Err(Refusal::conflict(
                "key_exists",
                "This service key is there already",
            )),
            (ServiceKeyCommand::Revoke, Self::Live(_)) => Ok(vec![ServiceKeyEvent::Revoked]),
            (ServiceKeyCommand::Revoke, Self::Revoked) => Ok(vec![]),
            (ServiceKeyCommand::Revoke, Self::Absent) => Err(Refusal::not_found("service key")),
        }
    }

    pub fn evolve(&mut self, event: ServiceKeyEvent) {
        *self = match event {
            ServiceKeyEvent::Created(key) => Self::Live(key),
            ServiceKeyEvent::Revoked => Self::Revoked,
        };
    }
}

#[cfg(test)]
mod tests {
    use cqrs_es::test::TestFramework;

    use super::*;

    fn key(scopes: &[Scope], expires_at: Option<Timestamp>) -> ServiceKeyGrant {
        ServiceKeyGrant {
            name: "dashboard".into(),
            scopes: scopes.to_vec(),
            expires_at,
        }
    }
    fn given(events: Vec<ServiceKeyEvent>) -> cqrs_es::test::AggregateTestExecutor<ServiceKey> {
        TestFramework::<ServiceKey>::with(()).given(events)
    }

    #[test]
    fn a_key_is_made_with_each_scope_once() {
        let twice = vec![Scope::JobsWork, Scope::EventsRead, Scope::JobsWork];
        let made = ServiceKeyGrant::new(
            " dash\u{200b}board\n",
            twice,
            Some(Timestamp(11)),
            Timestamp(10),
        )
        .unwrap();
        assert_eq!(
            made,
            key(&[Scope::EventsRead, Scope::JobsWork], Some(Timestamp(11)))
        );
        let created = ServiceKeyEvent::Created(made.clone());
        given(vec![])
            .when(ServiceKeyCommand::Create(made))
            .then_expect_events(vec![created]);
    }

    #[test]
    fn a_key_without_name_or_scope_or_time_left_is_not_made() {
        for (name, scopes, expires_at, field) in [
            ("", vec![Scope::JobsWork], None, "name"),
            ("two\nlines", vec![Scope::JobsWork], None, "name"),
            ("\u{feff}\u{3164} ", vec![Scope::JobsWork], None, "name"),
            ("dashboard", vec![], None, "scopes"),
            (
                "dashboard",
                vec![Scope::JobsWork],
                Some(Timestamp(10)),
                "expires_at",
            ),
        ] {
            let refused =
                ServiceKeyGrant::new(name, scopes, expires_at, Timestamp(10)).unwrap_err();
            assert!(
                refused.sentence.contains(&format!("`{field}`")),
                "{refused}"
            );
        }
    }

    #[test]
    fn a_key_opens_its_scopes_until_it_expires_or_is_revoked() {
        let mut state = ServiceKey::default();
        assert_eq!(state.opens(Timestamp(0)), None);
        state.evolve(ServiceKeyEvent::Created(key(
            &[Scope::AuditRead],
            Some(Timestamp(20)),
        )));
        assert_eq!(
            state.opens(Timestamp(19)).map(|key| key.scopes.as_slice()),
            Some([Scope::AuditRead].as_slice())
        );
        assert_eq!(state.opens(Timestamp(20)), None);
        state.evolve(ServiceKeyEvent::Revoked);
        assert_eq!(state.opens(Timestamp(0)), None);
    }

    #[test]
    fn a_revoked_key_stays_revoked_and_an_absent_one_cant_be_revoked() {
        let made = ServiceKeyEvent::Created(key(&[Scope::JobsWork], None));
        given(vec![made.clone()])
            .when(ServiceKeyCommand::Revoke)
            .then_expect_events(vec![ServiceKeyEvent::Revoked]);
        given(vec![made, ServiceKeyEvent::Revoked])
            .when(ServiceKeyCommand::Revoke)
            .then_expect_events(vec![]);
        let refused = given(vec![])
            .when(ServiceKeyCommand::Revoke)
            .inspect_result()
            .unwrap_err();
        assert_eq!(refused.code, "not_found");
    }

    #[test]
    fn every_scope_reads_back_as_it_is_stored() {
        for scope in Scope::ALL {
            assert_eq!(Scope::parse(scope.as_str()), Some(scope));
            assert_eq!(serde_json::to_value(scope).unwrap(), scope.as_str());
        }
        assert_eq!(Scope::parse("everything"), None);
    }
}
