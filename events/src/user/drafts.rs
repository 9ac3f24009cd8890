//! Commands that come together: each is decided on what the commands before it leave behind, and may be refused alone.

use std::collections::{HashMap, HashSet};

use super::{User, UserCommand};
use crate::{
    Now,
    event::Change,
    ids::{JobId, StreamId, StreamKind},
    job::JobCommand,
    metadata::Metadata,
    refusal::Refusal,
};

impl User {
    /// Decides commands one after the other. The state itself does not change.
    pub fn decide_in_turn(
        &self,
        now: &Now,
        metadata: &Metadata,
        commands: Vec<UserCommand>,
    ) -> Vec<Result<Vec<Change>, Refusal>> {
        let mut draft = self.draft_for(&commands);
        let decide = |command| {
            let changes = draft.decide(now.clone(), command)?;
            draft.check_day(now, metadata, &changes)?;
            for change in &changes {
                let sequence = draft.sequence(&change.stream) + 1;
                let event = change.event.clone();
                draft.evolve_counted(&change.stream, sequence, event, metadata, now.moment);
            }
            Ok(changes)
        };
        commands.into_iter().map(decide).collect()
    }

    fn draft_for(&self, commands: &[UserCommand]) -> Self {
        let jobs = commands.iter().map(|command| match command {
            UserCommand::Job(job, command) if is_of_a_worker(command) => Some(*job),
            _ => None,
        });
        match jobs.collect::<Option<Vec<JobId>>>() {
            Some(jobs) => self.excerpt(&jobs),
            None => self.clone(),
        }
    }

    /// The part of the state that commands of workers on these jobs are decided on. A user may have thousands of
    /// other jobs.
    fn excerpt(&self, jobs: &[JobId]) -> Self {
        let own = [StreamKind::Account, StreamKind::Usage].map(|kind| StreamId::new(kind, self.id));
        let theirs = jobs.iter().map(|job| StreamId::new(StreamKind::Job, job));
        let sequence_of = |stream: StreamId| Some((stream, *self.sequences.get(&stream)?));
        let state_of = |job: &JobId| Some((*job, self.jobs.get(job)?.clone()));
        Self {
            id: self.id,
            seq: self.seq,
            account: self.account.clone(),
            usage: self.usage.clone(),
            credentials: HashMap::new(),
            jobs: jobs.iter().filter_map(state_of).collect(),
            chats: HashMap::new(),
            sessions: self.sessions,
            captions: HashMap::new(),
            files: self.files,
            files_of_left_out: HashMap::new(),
            api_keys: HashMap::new(),
            recalled_file: None,
            removed_files: HashSet::new(),
            sequences: own
                .into_iter()
                .chain(theirs)
                .filter_map(sequence_of)
                .collect(),
            today: self.today,
        }
    }
}

/// True for the commands that need nothing of the user's other jobs.
fn is_of_a_worker(command: &JobCommand) -> bool {
    matches!(
        command,
        JobCommand::Claim { .. }
            | JobCommand::Complete { .. }
            | JobCommand::Fail { .. }
            | JobCommand::Release { .. }
            | JobCommand::Remove
    )
}
