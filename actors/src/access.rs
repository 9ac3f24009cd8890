//! Looks at what is not one's own are put on record before they are answered. A reader who asks page after page is not put on
//! record for each: once a minute is enough to tell that they read, and a feed must not fill with its own reading.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use genie_events::{
    Metadata, StreamId, StreamKind, UserId,
    access::{Access as Looked, AccessCommand, Wrong},
    ids::NetworkId,
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
        self.note(vec![AccessCommand::ReadPersonal { user }], caller.metadata()).await?;
        self.remember(reading);
        Ok(())
    }

    /// What was refused to nobody in particular, by where it came from: at most as many as one append may hold, and at least one.
    pub async fn refused(&self, refused: Vec<(Option<NetworkId>, Wrong)>) -> Result<(), WriteError> {
        let commands = refused.into_iter().map(|(network, wrong)| AccessCommand::NoteRefused { network, wrong });
        self.note(commands.collect(), Metadata::system()).await
    }

    /// All of it or nothing.
    async fn note(&self, commands: Vec<AccessCommand>, metadata: Metadata) -> Result<(), WriteError> {
        let mut groups = Vec::new();
        for command in commands {
            let stream = StreamId::new(StreamKind::Access, self.log.clock().new_uuid());
            let noted = Looked::Absent.decide(command)?;
            groups.push(Group::of_system(&stream, 0, noted.into_iter().map(Into::into).collect()));
        }
        self.log.append(Append { groups, work: vec![], metadata, remember: None }).await?;
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
