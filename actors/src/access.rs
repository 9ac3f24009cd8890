//! Looks at what is not one's own are put on record before they are answered. A reader who asks page after page is not put on
//! record for each: once a minute is enough to tell that they read, and a feed must not fill with its own reading.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use genie_events::{
    StreamId, StreamKind, UserId,
    access::{Access as Looked, AccessCommand},
};
use genie_log::{Append, Group, Log};
use tokio::time::Instant;

use crate::{Caller, WriteError};

/// How long a look that is on record stands for the same reader's next ones, on this node.
const STANDS: Duration = Duration::from_secs(60);
/// The most readers remembered; past it each look is put on record.
const MAX_REMEMBERED: usize = 10_000;

/// Puts looks on record.
#[derive(Debug, Clone)]
pub struct Access {
    log: Log,
    noted: Arc<Mutex<HashMap<Reading, Instant>>>,
}

/// Who reads, and whose.
type Reading = (String, Option<UserId>);

impl Access {
    /// On this log.
    pub fn new(log: Log) -> Self {
        Self { log, noted: Arc::default() }
    }

    /// To be called before events are answered with what is personal in them: of one user, or of everybody. When this answers
    /// `Ok`, that it was read is durable.
    pub async fn personal_read(&self, caller: &Caller, user: Option<UserId>) -> Result<(), WriteError> {
        let reading = (caller.scope(), user);
        if self.stands(&reading) {
            return Ok(());
        }
        let stream = StreamId::new(StreamKind::Access, self.log.clock().new_uuid());
        let noted = Looked::Absent.decide(AccessCommand::ReadPersonal { user })?;
        let group = Group::of_system(&stream, 0, noted.into_iter().map(Into::into).collect());
        self.log.append(Append { groups: vec![group], work: vec![], metadata: caller.metadata(), remember: None }).await?;
        self.remember(reading);
        Ok(())
    }

    fn stands(&self, reading: &Reading) -> bool {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.get(reading).is_some_and(|at| at.elapsed() < STANDS)
    }

    fn remember(&self, reading: Reading) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.len() >= MAX_REMEMBERED {
            noted.retain(|_, at| at.elapsed() < STANDS);
        }
        if noted.len() < MAX_REMEMBERED {
            noted.insert(reading, Instant::now());
        }
    }
}
