//! genie-events: commands, facts, and the rules between them.
//!
//! Everything here is pure: no clock, no chance, no SQL, no HTTP, no actor. Times, ids and the caller arrive in the command;
//! `decide` turns a command into facts or a refusal. `evolve` folds facts into state and cannot fail.

/// Ids as types, and the names of streams.
pub mod ids;
/// The operations of jobs, with the queue of each.
pub mod job_operation;
/// Platforms and roles that genie knows.
pub mod known_words;
/// The number of an invisible mark.
pub mod mark_number;
/// The caller and the reason of each event.
pub mod metadata;
/// The name of a platform.
pub mod platform_name;
/// Positions in the shards of the log.
pub mod positions;
/// Refusals, in kinds that the HTTP layer maps to statuses.
pub mod refusal;
/// Text that never prints itself.
pub mod secret_text;
/// Tiers and counters.
pub mod tier;
/// The limits of tiers, as data.
pub mod tier_limits;
/// Moments, as integer microseconds.
pub mod timestamp;
/// Text that people type, or paste from pages and other screens.
pub mod typed_text;
/// The names of users.
pub mod user_name;

/// `access`: reads of personal data and refused secrets.
pub mod access;
/// `account`: identity, rights and onboarding of one user.
pub mod account;
/// `api_key`: a user's own keys, for programs that act for the user.
pub mod api_key;
/// `caption`: one caption that the model was asked for.
pub mod caption;
/// `chat`: the turns of a session.
pub mod chat;
/// Cookies in the forms that people and browsers have them.
pub mod cookies;
/// `credential`: a secret is stored, changed, revealed or removed. Never the secret itself.
pub mod credential;
/// `email`: the fence that makes an address unique.
pub mod email;
/// `file`: bytes that a user uploaded or a job made.
pub mod file;
/// `invite`: a code that lets one person register.
pub mod invite;
/// `job`: a piece of work, from its submission to its end.
pub mod job;
/// `service_key`: keys that callers use instead of the shared secret.
pub mod service_key;
/// `usage`: the units counted against a tier.
pub mod usage;

/// Any event of any stream, as the log stores it.
pub mod event;
/// Lifts events of earlier shapes to the present one.
pub mod upcast;
/// A user: one state folded from all of that user's streams, and the commands to it.
pub mod user;

pub use email::EmailAddress;
pub use event::{Change, Event};
pub use ids::{
    BlobId, CaptionId, CredentialId, EventId, JobId, JobName, ServiceKeyId, SessionId, StreamId,
    StreamKind, TurnId, UserId,
};
pub use invite::InviteCode;
pub use mark_number::MarkNumber;
pub use metadata::{CallerKind, Metadata};
pub use platform_name::PlatformName;
pub use positions::{Positions, Shard};
pub use refusal::{Refusal, RefusalKind};
pub use secret_text::SecretText;
pub use tier_limits::{Limits, Now};
pub use timestamp::Timestamp;
pub use user::{User, UserCommand};
pub use user_name::UserName;

/// Wires an aggregate with pure `decide` and `evolve` to cqrs-es. `handle` only passes the decided events to the sink.
macro_rules! aggregate {
    ($state:ty, $kind:literal, $command:ty, $event:ty) => {
        impl cqrs_es::Aggregate for $state {
            const TYPE: &'static str = $kind;
            type Command = $command;
            type Event = $event;
            type Error = $crate::Refusal;
            type Services = ();

            async fn handle(
                &mut self,
                command: Self::Command,
                _services: &Self::Services,
                sink: &cqrs_es::event_sink::EventSink<Self>,
            ) -> Result<(), Self::Error> {
                for event in self.decide(command)? {
                    sink.write(event, self).await;
                }
                Ok(())
            }

            fn apply(&mut self, event: Self::Event) {
                self.evolve(event);
            }
        }
    };
}
pub(crate) use aggregate;

/// Gives each variant of an event its stored type (`job.submitted`) and version.
macro_rules! domain_event {
    ($event:ty, $( $pattern:pat => $name:literal ),+ $(,)?) => {
        impl $event {
            /// The stored types of this stream, one for each variant.
            pub const TYPES: &'static [&'static str] = &[$($name),+];

            /// The stored type of this event.
            pub fn type_name(&self) -> &'static str {
                match self { $( $pattern => $name ),+ }
            }
        }
        impl cqrs_es::DomainEvent for $event {
            fn event_type(&self) -> String {
                self.type_name().to_owned()
            }
            fn event_version(&self) -> String {
                $crate::upcast::present_version(self.type_name(), $crate::upcast::STEPS).to_string()
            }
        }
    };
}
pub(crate) use domain_event;
