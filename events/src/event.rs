//! Any event of any stream, as the log stores it: its type, its version, its JSON, and the list of
//! its non-personal fields.

use std::collections::BTreeMap;

use serde_json::Value;
use uuid::Uuid;

use crate::{
    access::AccessEvent,
    account::{AccountEvent, ExternalAccount, Registration},
    api_key::ApiKeyEvent,
    caption::CaptionEvent,
    chat::ChatEvent,
    credential::CredentialEvent,
    email::EmailEvent,
    file::FileEvent,
    ids::{StreamId, StreamKind},
    invite::InviteEvent,
    job::JobEvent,
    known_words,
    service_key::ServiceKeyEvent,
    upcast::{self, UnknownVersion},
    usage::UsageEvent,
};

#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Account(AccountEvent),
    Usage(UsageEvent),
    Credential(CredentialEvent),
    Job(JobEvent),
    Chat(ChatEvent),
    Caption(CaptionEvent),
    Email(EmailEvent),
    Invite(InviteEvent),
    ServiceKey(ServiceKeyEvent),
    Access(AccessEvent),
    File(FileEvent),
    ApiKey(ApiKeyEvent),
}

/// An event and its stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub stream: StreamId,
    pub event: Event,
}

impl Change {
    /// Puts the event on the stream of its kind with this id.
    pub fn new(id: impl Into<Uuid>, event: impl Into<Event>) -> Self {
        let event = event.into();
        Self {
            stream: StreamId::new(event.kind(), id),
            event,
        }
    }
}

/// A stored event that this release cannot read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The fields do not fit the type.
    #[error("a stored `{kind}` event can't be read: {reason}")]
    Fields {
        kind: &'static str,
        /// The mistake in words.
        reason: serde_json::Error,
    },
    /// A newer release wrote it.
    #[error(transparent)]
    Version(#[from] UnknownVersion),
}

/// Why an event always serializes.
const JSON_CANNOT_FAIL: &str = "events hold only text, numbers and maps with text keys";

macro_rules! any_event {
    ($( $variant:ident($event:ty) ),+ $(,)?) => {
        $( impl From<$event> for Event {
            fn from(event: $event) -> Self {
                Self::$variant(event)
            }
        } )+

        impl Event {
            /// The kind of the event's stream.
            pub fn kind(&self) -> StreamKind {
                match self { $( Self::$variant(_) => StreamKind::$variant ),+ }
            }

            /// The stored type, such as `job.submitted`.
            pub fn type_name(&self) -> &'static str {
                match self { $( Self::$variant(event) => event.type_name() ),+ }
            }

            /// The version of the event's shape.
            pub fn version(&self) -> i16 {
                upcast::present_version(self.type_name(), upcast::STEPS)
            }

            /// The event as JSON.
            pub fn to_json(&self) -> Value {
                match self { $( Self::$variant(event) => serde_json::to_value(event).expect(JSON_CANNOT_FAIL) ),+ }
            }

            /// The event as JSON text.
            pub fn to_vec(&self) -> Vec<u8> {
                match self { $( Self::$variant(event) => serde_json::to_vec(event).expect(JSON_CANNOT_FAIL) ),+ }
            }

            fn clear_json(&self) -> Value {
                match self { $( Self::$variant(event) => event.clear() ),+ }
            }

            fn from_present(kind: StreamKind, json: &[u8]) -> Result<Self, serde_json::Error> {
                match kind { $( StreamKind::$variant => serde_json::from_slice(json).map(Self::$variant) ),+ }
            }

            pub fn all_types() -> Vec<&'static str> {
                [$( <$event>::TYPES ),+].concat()
            }
        }
    };
}

any_event!(
    Account(AccountEvent),
    Usage(UsageEvent),
    Credential(CredentialEvent),
    Job(JobEvent),
    Chat(ChatEvent),
    Caption(CaptionEvent),
    Email(EmailEvent),
    Invite(InviteEvent),
    ServiceKey(ServiceKeyEvent),
    Access(AccessEvent),
    File(FileEvent),
    ApiKey(ApiKeyEvent),
);

/// The names of all fields that [`Event::clear`] gives, sorted. The certificate of a forgetting lists them.
pub const CLEAR_FIELDS: [&str; 48] = [
    "active",
    "admin",
    "amount",
    "attempt",
    "by",
    "bytes",
    "code",
    "continues",
    "counted",
    "counter",
    "credential",
    "due_at",
    "expires_at",
    "failure",
    "family",
    "impersonation",
    "job",
    "kind",
    "length",
    "max_attempts",
    "mime",
    "model",
    "month",
    "onboarding",
    "operation",
    "outcome",
    "part",
    "platform",
    "priority",
    "queue",
    "reason",
    "requested_at",
    "retry_at",
    "role",
    "run_at",
    "scopes",
    "secrets",
    "service_keys",
    "stopped",
    "tier",
    "to",
    "tokens",
    "truncated",
    "turn",
    "turns",
    "until",
    "user",
    "version",
];

impl Event {
    /// Reads a stored event and lifts it from an earlier version to the present shape.
    pub fn read(
        kind: StreamKind,
        event_type: &str,
        version: i16,
        json: &[u8],
    ) -> Result<Self, Unreadable> {
        let fields = |reason| Unreadable::Fields {
            kind: kind.as_str(),
            reason,
        };
        if upcast::is_present(event_type, version, upcast::STEPS)? {
            return Self::from_present(kind, json).map_err(fields);
        }
        let mut value: Value = serde_json::from_slice(json).map_err(fields)?;
        upcast::lift(event_type, version, &mut value, upcast::STEPS)?;
        Self::from_present(kind, value.to_string().as_bytes()).map_err(fields)
    }

    /// The fields that are not personal. They are stored readable beside the sealed event, so that the feed, the audit and the
    /// job board can use them without anybody's key. Each event lists its own, beside its variants. Of a platform or role
    /// that genie does not know, the field has what `hash` makes of field and word.
    pub fn clear(&self, hash: impl FnOnce(&str, &str) -> String) -> BTreeMap<String, Value> {
        let Value::Object(fields) = self.clear_json() else {
            unreachable!("every event lists its clear fields as an object");
        };
        let mut fields: BTreeMap<String, Value> = fields
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .collect();
        if let Some((field, word)) = self.chosen_word()
            && !known_words::is_known(field, word)
        {
            fields.insert(field.to_owned(), hash(field, word).into());
        }
        fields
    }

    /// The clear field whose word somebody chose, with that word.
    fn chosen_word(&self) -> Option<(&'static str, &str)> {
        match self {
            Self::Account(
                AccountEvent::Registered(Registration { role, .. })
                | AccountEvent::Met(ExternalAccount { role, .. })
                | AccountEvent::RoleChanged { role, .. },
            ) => Some(("role", role)),
            Self::Invite(InviteEvent::Created { grant, .. }) => Some(("role", &grant.role)),
            Self::Credential(CredentialEvent::Stored { platform, .. }) => {
                Some(("platform", platform.as_str()))
            }
            _ => None,
        }
    }
}
