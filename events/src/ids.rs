//! Ids as types: `fn cancel(user: UserId, job: JobId)` cannot be called the wrong way round.
//!
//! Ids are UUIDs (v7 when genie makes them) or keyed hashes, never words of a person.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The text is not an id of this kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{what}` must be {wanted}")]
pub struct NotAnId {
    what: &'static str,
    wanted: &'static str,
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$name> for Uuid {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl From<&$name> for Uuid {
            fn from(id: &$name) -> Self {
                id.0
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;
            fn from_str(text: &str) -> Result<Self, NotAnId> {
                Uuid::try_parse(text).map(Self).map_err(|_| NotAnId { what: $what, wanted: "a UUID" })
            }
        }
    };
}

uuid_id!(UserId, "user id");
uuid_id!(EventId, "event id");
uuid_id!(CredentialId, "credential id");
uuid_id!(
    /// One question and its answer.
    TurnId,
    "turn id"
);
uuid_id!(
    /// An uploaded file.
    BlobId,
    "file id"
);
uuid_id!(CaptionId, "caption id");

uuid_id!(
    /// A job: a UUID of genie's own, or the keyed hash of its user and of the name that the client
    /// gave it.
    JobId,
    "job id"
);

/// The most characters of a job's name.
const MAX_JOB_NAME: usize = 100;

/// A client's own id of a job, a name within its user. A whole number is its digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobName(String);

impl JobName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for JobName {
    type Err = NotAnId;
    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let may_stand = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if !(1..=MAX_JOB_NAME).contains(&text.len()) || !text.bytes().all(may_stand) {
            return Err(NotAnId {
                what: "jobId",
                wanted: "a whole number, or 1 to 100 of the characters A-Z, a-z, 0-9, `.`, `_`, `-`",
            });
        }
        Ok(Self(text.to_owned()))
    }
}

// Keyed hashes, in the form of a UUID (version 8, RFC 9562).
uuid_id!(
    /// A chat session: keyed hash of its user and its name.
    SessionId,
    "session id"
);
uuid_id!(
    /// An e-mail address: keyed hash of its normal form.
    EmailId,
    "e-mail id"
);
uuid_id!(
    /// An invite: keyed hash of its code.
    InviteId,
    "invite id"
);
uuid_id!(
    /// A service key, or a user's own: keyed hash of it.
    ServiceKeyId,
    "key id"
);
uuid_id!(
    /// A caller's network: keyed hash of an IPv4 address, or of the first 64 bits of an IPv6
    /// address.
    NetworkId,
    "network id"
);

/// The kinds of streams. The word is also the prefix of the stream's event types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StreamKind {
    /// One per user.
    Account,
    /// One per user.
    Usage,
    /// One per credential.
    Credential,
    /// One per job.
    Job,
    /// One per chat session.
    Chat,
    /// One per caption.
    Caption,
    /// One per address; the system's.
    Email,
    /// One per code; the system's.
    Invite,
    /// One per key; the system's.
    ServiceKey,
    /// One per look; the system's.
    Access,
    /// One per file.
    File,
    /// One per key of a user's own.
    ApiKey,
}

impl StreamKind {
    pub const ALL: [Self; 12] = [
        Self::Account,
        Self::Usage,
        Self::Credential,
        Self::Job,
        Self::Chat,
        Self::Caption,
        Self::Email,
        Self::Invite,
        Self::ServiceKey,
        Self::Access,
        Self::File,
        Self::ApiKey,
    ];

    /// As stored in `kind`. A number is never given to another kind.
    pub fn code(self) -> i16 {
        match self {
            Self::Account => 1,
            Self::Usage => 2,
            Self::Credential => 3,
            Self::Job => 4,
            Self::Chat => 5,
            Self::Caption => 6,
            Self::Email => 7,
            Self::Invite => 8,
            Self::ServiceKey => 9,
            Self::Access => 10,
            Self::File => 11,
            Self::ApiKey => 12,
        }
    }

    /// Reads the stored number; `None` for a kind that this release does not know.
    pub fn of_code(code: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// The kind's word: the aggregate's type, and the prefix of its event types.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Usage => "usage",
            Self::Credential => "credential",
            Self::Job => "job",
            Self::Chat => "chat",
            Self::Caption => "caption",
            Self::Email => "email",
            Self::Invite => "invite",
            Self::ServiceKey => "service_key",
            Self::Access => "access",
            Self::File => "file",
            Self::ApiKey => "api_key",
        }
    }

    /// Reads the word; `None` for a kind that this release does not know.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// True when a user has one stream of this kind, whose id is the user's.
    pub fn is_one_per_user(self) -> bool {
        matches!(self, Self::Account | Self::Usage)
    }

    /// True when streams of this kind belong to the system rather than to a user.
    pub fn is_system(self) -> bool {
        matches!(
            self,
            Self::Email | Self::Invite | Self::ServiceKey | Self::Access
        )
    }
}

/// A stream: its kind and its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    pub kind: StreamKind,
    pub id: Uuid,
}

impl StreamId {
    pub fn new(kind: StreamKind, id: impl Into<Uuid>) -> Self {
        Self {
            kind,
            id: id.into(),
        }
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.as_str(), self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_name_is_short_and_fits_into_a_path() {
        let longest = "a".repeat(MAX_JOB_NAME);
        for good in ["0", "42", "post_7.v2-final", &longest] {
            assert!(good.parse::<JobName>().is_ok(), "{good}");
        }
        let too_long = "a".repeat(MAX_JOB_NAME + 1);
        for bad in ["", "my secret project", "a/b", "é", &too_long] {
            assert!(bad.parse::<JobName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn every_stream_kind_reads_back() {
        for kind in StreamKind::ALL {
            assert_eq!(StreamKind::parse(kind.as_str()), Some(kind));
            assert_eq!(StreamKind::of_code(kind.code()), Some(kind));
        }
        assert_eq!(StreamKind::parse("nonsense"), None);
        assert_eq!(StreamKind::of_code(0), None);
    }
}
