//! Loads many facts of a user, faster than commands could: as sealed rows, in large appends. A server
//! that follows the log treats them as its own.

use genie_events::{Event, Metadata, StreamId, UserId};

use crate::{Append, AppendError, AppendRequest, Group, Log, NewFact, testing::appender};

/// The most facts and, approximately, bytes of one append.
const FACTS: usize = 500;
const BYTES: usize = 2 << 20;

/// Appends the facts of one user. Nobody else may append for this user meanwhile.
pub struct BulkLoader {
    append: Append,
    user: UserId,
    /// The events that the user has in the log.
    seq: u64,
    waiting: Vec<NewFact>,
    bytes: usize,
}

impl BulkLoader {
    pub async fn of(log: &Log, user: UserId) -> Result<Self, crate::LogError> {
        Ok(Self {
            append: appender(log),
            user,
            seq: log.reader().user_seq(user).await?,
            waiting: Vec::new(),
            bytes: 0,
        })
    }

    /// The events that the user has, those that wait for an append included.
    pub fn seq(&self) -> u64 {
        self.seq + self.waiting.len() as u64
    }

    /// Adds a fact of about this many bytes. `sequence` is its number in its stream.
    pub async fn add(
        &mut self,
        stream: StreamId,
        sequence: u64,
        event: impl Into<Event>,
        bytes: usize,
    ) -> Result<(), AppendError> {
        self.waiting.push(NewFact {
            stream,
            sequence,
            event: event.into(),
        });
        self.bytes += bytes;
        if self.waiting.len() >= FACTS || self.bytes >= BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    /// Appends what waits. Call it after the last fact.
    pub async fn flush(&mut self) -> Result<(), AppendError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let facts = std::mem::take(&mut self.waiting);
        let count = facts.len() as u64;
        let request = AppendRequest {
            groups: vec![Group::of_user(self.user, self.seq, facts)],
            work: vec![],
            metadata: Metadata::system(),
            remember: None,
        };
        self.append.append(request).await?;
        self.seq += count;
        self.bytes = 0;
        Ok(())
    }
}
