//! `file`: bytes that a user uploaded, or that a worker made for one of the user's jobs. The bytes are in the blob
//! store; the facts say that they are there, and that they went.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{aggregate, domain_event, ids::JobId, refusal::Refusal};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum File {
    #[default]
    Absent,
    Kept {
        bytes: u64,
    },
    Removed,
}

/// A whole file. All of its bytes are in the blob store by then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewFile {
    /// Personal.
    pub file_name: String,
    pub bytes: u64,
    /// The kind of the bytes as they were found, as in HTTP's `Content-Type`.
    pub mime: String,
    /// The SHA-256 of the bytes, in hexadecimal; personal, since it tells the content to those who have it.
    pub sha256: String,
    /// The job that made the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// In pixels, of a picture or film.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// In pixels, of a picture or film.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// In seconds, of a film or sound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RemovedBecause {
    /// Its user asked for it.
    Asked,
    /// The file was made by a job and had been kept for as long as the operator said.
    Old,
}

#[derive(Debug, Clone, PartialEq)]
pub enum FileCommand {
    Store(NewFile),
    Remove(RemovedBecause),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum FileEvent {
    Stored(NewFile),
    Removed {
        /// The bytes that its user has room for again.
        bytes: u64,
        reason: RemovedBecause,
    },
}

domain_event!(FileEvent,
    Self::Stored(_) => "file.stored",
    Self::Removed { .. } => "file.removed",
);
aggregate!(File, "file", FileCommand, FileEvent);

/// The number of the fact that a file is gone: the first one stored it.
pub const REMOVED_AT: u64 = 2;

impl FileEvent {
    /// The fields that are not personal and are stored readable.
    pub(crate) fn clear(&self) -> Value {
        match self {
            Self::Stored(file) => {
                json!({"bytes": file.bytes, "mime": file.mime, "job": file.job})
            }
            Self::Removed { bytes, reason } => json!({"bytes": bytes, "reason": reason}),
        }
    }
}

impl File {
    pub fn decide(&self, command: FileCommand) -> Result<Vec<FileEvent>, Refusal> {
        match (self, command) {
            (Self::Absent, FileCommand::Store(file)) => Ok(vec![FileEvent::Stored(file)]),
            (Self::Absent, FileCommand::Remove(_)) => Err(Refusal::not_found("file")),
            (Self::Kept { bytes }, FileCommand::Remove(reason)) => Ok(vec![FileEvent::Removed {
                bytes: *bytes,
                reason,
            }]),
            (Self::Kept { .. }, FileCommand::Store(_)) | (Self::Removed, _) => Ok(vec![]),
        }
    }

    pub fn evolve(&mut self, event: FileEvent) {
        *self = match event {
            FileEvent::Stored(file) => Self::Kept { bytes: file.bytes },
            FileEvent::Removed { .. } => Self::Removed,
        };
    }
}

#[cfg(test)]
mod tests {
    use cqrs_es::test::TestFramework;

    use super::*;

    fn holiday() -> NewFile {
        NewFile {
            file_name: "holiday.jpg".into(),
            bytes: 7,
            mime: "image/jpeg".into(),
            sha256: "00".into(),
            job: None,
            width: Some(4),
            height: Some(3),
            duration: None,
        }
    }

    #[test]
    fn a_file_is_stored_once_and_removed_once() {
        let stored = FileEvent::Stored(holiday());
        let removed = FileEvent::Removed {
            bytes: 7,
            reason: RemovedBecause::Asked,
        };
        let remove = || FileCommand::Remove(RemovedBecause::Asked);
        TestFramework::<File>::with(())
            .given_no_previous_events()
            .when(FileCommand::Store(holiday()))
            .then_expect_events(vec![stored.clone()]);
        TestFramework::<File>::with(())
            .given(vec![stored.clone()])
            .when(FileCommand::Store(holiday()))
            .then_expect_events(vec![]);
        TestFramework::<File>::with(())
            .given(vec![stored.clone()])
            .when(remove())
            .then_expect_events(vec![removed.clone()]);
        TestFramework::<File>::with(())
            .given(vec![stored, removed])
            .when(remove())
            .then_expect_events(vec![]);
    }
}
