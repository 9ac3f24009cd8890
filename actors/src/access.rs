//! Records reads of other users' data, before the data are answered. A reader who asks page after page is recorded
//! once a minute: that is enough to tell that they read, and a feed must not fill with its own reading.

use genie_events::{
    Metadata, StreamId, StreamKind, UserId,
    access::{Access, AccessCommand, RefusedCounts},
    ids::NetworkId,
};
use genie_log::{Append, AppendRequest, Group};

use crate::{Caller, WriteError, dedupe::Dedupe};

/// Records reads and refusals.
#[derive(Debug, Clone)]
pub struct AccessLog {
    append: Append,
    noted: Dedupe<Reading>,
}

/// The reader, the user whose data are read (`None` stands for everybody's), and the reader's reason.
type Reading = (String, Option<UserId>, Option<String>);

impl AccessLog {
    pub fn new(append: Append) -> Self {
        Self {
            append,
            noted: Dedupe::new(),
        }
    }

    /// Call this before answering personal data, of one user or of everybody. After `Ok` the fact of the read is
    /// durable.
    pub async fn personal_read(
        &self,
        caller: &Caller,
        user: Option<UserId>,
        reason: Option<String>,
    ) -> Result<(), WriteError> {
        let reading = (caller.scope(), user, reason.clone());
        if self.noted.stands(&reading) {
            return Ok(());
        }
        let read = AccessCommand::ReadPersonal { user, reason };
        note(&self.append, vec![read], caller.metadata()).await?;
        self.noted.remember(reading);
        Ok(())
    }

    /// Records the wrong secrets, keys and tokens that nobody owns, by network. There must be at least one, and at
    /// most as many as one append may hold.
    pub async fn refused(
        &self,
        refused: Vec<(Option<NetworkId>, RefusedCounts)>,
    ) -> Result<(), WriteError> {
        let commands = refused
            .into_iter()
            .map(|(network, wrong)| AccessCommand::NoteRefused { network, wrong });
        note(&self.append, commands.collect(), Metadata::system()).await
    }
}

/// Records all of it or nothing.
pub(crate) async fn note(
    append: &Append,
    commands: Vec<AccessCommand>,
    metadata: Metadata,
) -> Result<(), WriteError> {
    let mut groups = Vec::new();
    for command in commands {
        let stream = StreamId::new(StreamKind::Access, append.log().clock().new_uuid());
        let noted = Access::Absent.decide(command)?;
        groups.push(Group::of_system(
            &stream,
            0,
            noted.into_iter().map(Into::into).collect(),
        ));
    }
    append
        .append(AppendRequest {
            groups,
            work: vec![],
            metadata,
            remember: None,
        })
        .await?;
    Ok(())
}
