//! Any event of any stream, as the log stores it: its type, its version, its JSON, and which of its fields are not personal.

use std::collections::BTreeMap;

use cqrs_es::DomainEvent;
use serde_json::{Value, json};

use crate::{
    access::AccessEvent,
    account::AccountEvent,
    caption::CaptionEvent,
    chat::ChatEvent,
    credential::CredentialEvent,
    email::EmailEvent,
    ids::{StreamId, StreamKind},
    invite::InviteEvent,
    job::JobEvent,
    service_key::ServiceKeyEvent,
    upcast::{self, UnknownVersion},
    usage::UsageEvent,
};

/// Any event.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Of an account.
    Account(AccountEvent),
    /// Of usage.
    Usage(UsageEvent),
    /// Of a credential.
    Credential(CredentialEvent),
    /// Of a job.
    Job(JobEvent),
    /// Of a chat session.
    Chat(ChatEvent),
    /// Of a caption.
    Caption(CaptionEvent),
    /// Of an e-mail address.
    Email(EmailEvent),
    /// Of an invite.
    Invite(InviteEvent),
    /// Of a service key.
    ServiceKey(ServiceKeyEvent),
    /// Of a look at what is not one's own.
    Access(AccessEvent),
}

/// An event and the stream that it happens to.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// To which stream.
    pub stream: StreamId,
    /// What.
    pub event: Event,
}

impl Change {
    /// `event` happens to the stream of its kind with this id.
    pub fn new(id: impl ToString, event: impl Into<Event>) -> Self {
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
    /// Its fields are not those of its type.
    #[error("a stored `{kind}` event can't be read: {reason}")]
    Fields {
        /// The kind of stream.
        kind: &'static str,
        /// What is wrong.
        reason: serde_json::Error,
    },
    /// A newer release wrote it.
    #[error(transparent)]
    Version(#[from] UnknownVersion),
}

macro_rules! any_event {
    ($( $variant:ident($event:ty) ),+ $(,)?) => {
        $( impl From<$event> for Event {
            fn from(event: $event) -> Self {
                Self::$variant(event)
            }
        } )+

        impl Event {
            /// Which kind of stream it happens to.
            pub fn kind(&self) -> StreamKind {
                match self { $( Self::$variant(_) => StreamKind::$variant ),+ }
            }

            /// Its stored type, such as `job.submitted`.
            pub fn type_name(&self) -> &'static str {
                match self { $( Self::$variant(event) => event.type_name() ),+ }
            }

            /// The version of its shape.
            pub fn version(&self) -> String {
                match self { $( Self::$variant(event) => event.event_version() ),+ }
            }

            /// Its JSON. Events hold only text, numbers and maps with text keys, which always serialize.
            pub fn to_json(&self) -> Value {
                match self { $( Self::$variant(event) => serde_json::to_value(event).unwrap_or(Value::Null) ),+ }
            }

            /// Its JSON as text.
            pub fn to_vec(&self) -> Vec<u8> {
                match self { $( Self::$variant(event) => serde_json::to_vec(event).unwrap_or_default() ),+ }
            }

            fn from_present(kind: StreamKind, json: &[u8]) -> Result<Self, serde_json::Error> {
                match kind { $( StreamKind::$variant => serde_json::from_slice(json).map(Self::$variant) ),+ }
            }

            /// Every stored type there is.
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
);

impl Event {
    /// Reads a stored event back, lifting one of an earlier version to the present shape.
    pub fn read(
        kind: StreamKind,
        event_type: &str,
        version: &str,
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

    /// The written list: for each type, the fields that are not personal. They are stored readable beside the sealed event,
    /// so that the feed, the audit and the job board can use them without anybody's key.
    pub fn clear(&self) -> BTreeMap<String, Value> {
        let fields = match self {
            Self::Account(event) => match event {
                AccountEvent::Registered(r) => {
                    json!({"tier": r.tier, "role": r.role, "admin": r.admin})
                }
                AccountEvent::OnboardingAdvanced { to } => json!({"to": to}),
                AccountEvent::Met(m) => json!({
                    "tier": m.tier, "role": m.role, "admin": m.admin, "onboarding": m.onboarding, "active": m.active,
                }),
                AccountEvent::RoleChanged { role, admin } => json!({"role": role, "admin": admin}),
                AccountEvent::TierChanged { tier } => json!({"tier": tier}),
                AccountEvent::PasswordChanged { version }
                | AccountEvent::PasswordReset { version } => {
                    json!({"version": version})
                }
                AccountEvent::PasswordResetOffered(link) => json!({"expires_at": link.expires_at}),
                AccountEvent::Exported { secrets } => json!({"secrets": secrets}),
                AccountEvent::SessionReuseDetected { family }
                | AccountEvent::SessionEnded { family } => {
                    json!({"family": family})
                }
                AccountEvent::ImpersonationStarted { by, impersonation }
                | AccountEvent::ImpersonationEnded { by, impersonation } => {
                    json!({"by": by, "impersonation": impersonation})
                }
                AccountEvent::ForgetRequested { due } => json!({"due_at": due}),
                AccountEvent::ForgetWithdrawn { active } => json!({"active": active}),
                AccountEvent::Forgotten { by } => json!({"by": by}),
                AccountEvent::SignedIn
                | AccountEvent::Suspended
                | AccountEvent::Reactivated
                | AccountEvent::EmailChanged { .. }
                | AccountEvent::TwoFactorEnabled { .. }
                | AccountEvent::TwoFactorUsed { .. }
                | AccountEvent::TwoFactorDisabled { .. }
                | AccountEvent::SessionsEnded => json!({}),
            },
            Self::Usage(event) => match event {
                UsageEvent::Counted {
                    counter,
                    amount,
                    month,
                }
                | UsageEvent::GivenBack {
                    counter,
                    amount,
                    month,
                } => {
                    json!({"counter": counter, "amount": amount, "month": month})
                }
            },
            Self::Credential(event) => match event {
                CredentialEvent::Stored {
                    kind,
                    platform,
                    expires_at,
                    sealed,
                    ..
                } => {
                    json!({"kind": kind, "platform": platform, "version": sealed.version, "expires_at": expires_at})
                }
                CredentialEvent::Changed {
                    expires_at, sealed, ..
                } => {
                    json!({"version": sealed.version, "expires_at": expires_at})
                }
                CredentialEvent::Revealed { version, .. } => json!({"version": version}),
                CredentialEvent::Refused { reason, .. } => json!({"reason": reason}),
                CredentialEvent::Removed => json!({}),
            },
            Self::Job(event) => match event {
                JobEvent::Submitted { spec, counted } => json!({
                    "operation": spec.operation, "queue": spec.queue, "priority": spec.priority,
                    "run_at": spec.run_at, "max_attempts": spec.max_attempts, "counted": counted,
                }),
                JobEvent::Claimed { attempt, .. } | JobEvent::Completed { attempt, .. } => {
                    json!({"attempt": attempt})
                }
                JobEvent::Lapsed { attempt, retry_at }
                | JobEvent::Failed {
                    attempt, retry_at, ..
                } => {
                    json!({"attempt": attempt, "retry_at": retry_at})
                }
                JobEvent::Retried {
                    queue,
                    priority,
                    counted,
                } => {
                    json!({"queue": queue, "priority": priority, "counted": counted})
                }
                JobEvent::Cancelled => json!({}),
            },
            Self::Chat(event) => match event {
                ChatEvent::Asked { turn, message, .. } => {
                    json!({"turn": turn, "bytes": message.len()})
                }
                ChatEvent::Answered { turn, answer } => json!({
                    "turn": turn, "outcome": answer.outcome, "model": answer.model, "bytes": answer.content.len(),
                    "failure": answer.failure.as_ref().map(|failure| &failure.code),
                }),
            },
            Self::Caption(event) => match event {
                CaptionEvent::Requested { brief, .. } => {
                    json!({"platform": brief.platform, "length": brief.length})
                }
                CaptionEvent::Completed(written) => {
                    json!({"model": written.model, "truncated": written.truncated})
                }
                CaptionEvent::Failed(failure) => json!({"failure": failure.code}),
            },
            Self::Email(EmailEvent::Claimed { user } | EmailEvent::Released { user }) => {
                json!({"user": user})
            }
            Self::Email(EmailEvent::Reserved(reservation)) => {
                json!({"user": reservation.user, "until": reservation.until})
            }
            Self::Invite(event) => match event {
                InviteEvent::Created { grant, .. } => {
                    json!({"tier": grant.tier, "role": grant.role, "admin": grant.admin})
                }
                InviteEvent::Reserved { user }
                | InviteEvent::Released { user }
                | InviteEvent::Spent { user } => {
                    json!({"user": user})
                }
                InviteEvent::Revoked => json!({}),
            },
            Self::ServiceKey(event) => match event {
                ServiceKeyEvent::Created(key) => {
                    json!({"scopes": key.scopes, "expires_at": key.expires_at})
                }
                ServiceKeyEvent::Revoked => json!({}),
            },
            Self::Access(event) => match event {
                AccessEvent::PersonalRead { user } => json!({"user": user}),
                // Not where it came from, whose hash anybody who has the key can look for.
                AccessEvent::Refused { wrong, .. } => json!(wrong),
                AccessEvent::CredentialRefused {
                    reason,
                    credential,
                    user,
                } => {
                    json!({"reason": reason, "credential": credential, "user": user})
                }
            },
        };
        match fields {
            Value::Object(map) => map
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .collect(),
            _ => BTreeMap::new(),
        }
    }
}
