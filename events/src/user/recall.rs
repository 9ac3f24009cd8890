//! What the state leaves out. A stream that has ended is not in the state, not even its number of events: the log knows
//! it. A command that needs it says so, and it is handed in for that command.

use std::{collections::HashMap, hash::Hash};

use super::User;
use crate::{
    caption::Caption,
    chat::Chat,
    credential::{Credential, CredentialEvent},
    file::File,
    ids::{BlobId, CaptionId, CredentialId, JobId, ServiceKeyId, SessionId, StreamId, StreamKind},
    job::{Job, JobEvent},
};

/// A thing that a command needs even when the state leaves it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recall {
    Job(JobId),
    /// A chat session without a running turn. The number of its events says whether it is new, and its newest event
    /// whether it was removed.
    Session(SessionId),
    /// The same, with the turn that ended last.
    LastTurn(SessionId),
    /// A removed credential. That it has events says that it was there.
    Credential(CredentialId),
    /// A file. The state holds none.
    File(BlobId),
    /// A file that a new job names. Whether it is gone is all that matters.
    NamedFile(BlobId),
    /// A revoked key of the user's own. That it has events says that it was there.
    ApiKey(ServiceKeyId),
}

impl Recall {
    pub fn stream(&self) -> StreamId {
        match self {
            Self::Job(job) => StreamId::new(StreamKind::Job, job),
            Self::Session(session) | Self::LastTurn(session) => {
                StreamId::new(StreamKind::Chat, session)
            }
            Self::Credential(credential) => StreamId::new(StreamKind::Credential, credential),
            Self::ApiKey(key) => StreamId::new(StreamKind::ApiKey, key),
            Self::File(file) | Self::NamedFile(file) => StreamId::new(StreamKind::File, file),
        }
    }
}

impl User {
    /// True when the state holds it, so that nothing has to be read.
    pub fn holds(&self, recall: &Recall) -> bool {
        self.sequences.contains_key(&recall.stream())
    }

    /// Hands in a finished job that was read from its stream.
    pub fn recall_job(&mut self, id: JobId, job: Job, sequence: u64) {
        self.sequences
            .insert(StreamId::new(StreamKind::Job, id), sequence);
        self.jobs.insert(id, job);
    }

    /// Hands in what the newest events of a chat session say.
    pub fn recall_chat(&mut self, id: SessionId, chat: Chat, sequence: u64) {
        self.sequences
            .insert(StreamId::new(StreamKind::Chat, id), sequence);
        self.chats.insert(id, chat);
    }

    /// Hands in a file that was read from its stream.
    pub fn recall_file(&mut self, id: BlobId, file: File, sequence: u64) {
        self.sequences
            .insert(StreamId::new(StreamKind::File, id), sequence);
        self.recalled_file = Some((id, file));
    }

    /// Hands in a file that a new job names and that is gone.
    pub fn recall_removed_file(&mut self, id: BlobId) {
        self.removed_files.insert(id);
    }

    /// Hands in the number of events of a stream that is left out, and the type of the newest.
    pub fn recall_stream(&mut self, recall: &Recall, sequence: u64, newest: &str) {
        match recall {
            Recall::Credential(id) => {
                self.credentials.insert(*id, Credential::Removed);
            }
            Recall::Session(id) => {
                self.chats.insert(*id, Chat::recalled(newest));
            }
            _ => {}
        }
        self.sequences.insert(recall.stream(), sequence);
    }

    /// Leaves out again what was recalled for a command that did not revive it.
    pub fn drop_recalled(&mut self, recall: &Recall) {
        let stream = recall.stream();
        self.leave_out_the_finished(&stream);
        self.recalled_file = None;
        self.removed_files.clear();
    }

    /// A job that was left out when it finished, and was queued again since, stays out until it is
    /// recalled. Only its stream knows its spec. A state that took the job for absent would refuse
    /// its worker and its lease.
    pub(super) fn evolve_job(&mut self, stream: &StreamId, id: JobId, event: JobEvent) {
        if event.ends_job() {
            self.files_of_left_out.remove(&id);
        }
        match self.jobs.get_mut(&id) {
            Some(job) => job.evolve(event),
            None if matches!(event, JobEvent::Submitted { .. }) => {
                self.jobs.entry(id).or_default().evolve(event)
            }
            None => {
                self.sequences.remove(stream);
                if let JobEvent::Retried { files, .. } = event
                    && !files.is_empty()
                {
                    self.files_of_left_out.insert(id, files);
                }
            }
        }
    }

    /// A removed credential stays out when it was asked for again.
    pub(super) fn evolve_credential(
        &mut self,
        stream: &StreamId,
        sequence: u64,
        id: CredentialId,
        event: CredentialEvent,
    ) {
        match self.credentials.get_mut(&id) {
            Some(credential) => credential.evolve(event),
            None if sequence == 1 => self.credentials.entry(id).or_default().evolve(event),
            None => drop(self.sequences.remove(stream)),
        }
    }

    /// Removes from the state what has ended. Its stream stays.
    pub(super) fn leave_out_the_finished(&mut self, stream: &StreamId) {
        let finished = match stream.kind {
            StreamKind::Job => remove_if(&mut self.jobs, &JobId(stream.id), |job| job.has_ended()),
            StreamKind::Caption => {
                remove_if(&mut self.captions, &CaptionId(stream.id), |caption| {
                    *caption == Caption::Ended
                })
            }
            StreamKind::Credential => {
                let credential = CredentialId(stream.id);
                remove_if(&mut self.credentials, &credential, |credential| {
                    *credential == Credential::Removed
                })
            }
            StreamKind::Chat => {
                let session = SessionId(stream.id);
                remove_if(&mut self.chats, &session, Chat::is_idle)
            }
            StreamKind::ApiKey => !self.api_keys.contains_key(&ServiceKeyId(stream.id)),
            StreamKind::File => true,
            _ => false,
        };
        if finished {
            self.sequences.remove(stream);
        }
    }
}

fn remove_if<K: Hash + Eq, V>(
    map: &mut HashMap<K, V>,
    key: &K,
    is_finished: impl Fn(&V) -> bool,
) -> bool {
    let finished = map.get(key).is_some_and(is_finished);
    if finished {
        map.remove(key);
    }
    finished
}
