//! All commands and their outcomes, kept outside of the servers. Each command has a mark. The mark is sent as the request's id, and
//! the log's own id of that request stands in the metadata of every fact of the command, so that the log can be compared with the ledger.
//!
//! A command takes some thirty bytes, so that a run may last for hours.

use std::{
    collections::{BTreeMap, HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
};

use uuid::Uuid;

/// Invites made by one command.
pub const INVITES: u32 = 20;

/// Jobs submitted by one command.
pub const BATCH: u32 = 3;

/// One command, however often it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CommandMark(pub u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CommandKind {
    MakeInvites,
    Register,
    LogIn,
    AdvanceOnboarding,
    StoreCredential,
    RevealCredential,
    SubmitJob,
    /// With a `jobId` of the client's own.
    SubmitNamedJob,
    CancelJob,
    RetryJob,
    ClaimJob,
    CompleteJob,
    FailJob,
    ReleaseJob,
    /// Several jobs, all or none.
    SubmitBatch,
    RescheduleJob,
    Caption,
    Ask,
}

/// The facts that must be in the log once a command was acknowledged.
pub struct Leaves {
    /// A fact of one of these types.
    pub types: &'static [&'static str],
    /// True when an earlier fact of another command on the same stream is enough.
    pub or_was_so: bool,
}

impl CommandKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MakeInvites => "make invites",
            Self::Register => "register",
            Self::LogIn => "log in",
            Self::AdvanceOnboarding => "advance onboarding",
            Self::StoreCredential => "store a credential",
            Self::RevealCredential => "reveal a credential",
            Self::SubmitJob => "submit a job",
            Self::SubmitNamedJob => "submit a job with a jobId",
            Self::CancelJob => "cancel a job",
            Self::RetryJob => "retry a job",
            Self::ClaimJob => "claim a job",
            Self::CompleteJob => "complete a job",
            Self::FailJob => "fail a job",
            Self::ReleaseJob => "give a job back",
            Self::SubmitBatch => "submit jobs together",
            Self::RescheduleJob => "reschedule a job",
            Self::Caption => "write a caption",
            Self::Ask => "ask in a chat",
        }
    }

    pub fn leaves(self) -> Leaves {
        let (types, or_was_so): (&[&str], bool) = match self {
            Self::MakeInvites => (&["invite.created"], false),
            Self::Register => (&["account.registered"], false),
            Self::LogIn => (&["account.signed_in"], false),
            Self::AdvanceOnboarding => (&["account.onboarding_advanced"], true),
            Self::StoreCredential => (&["credential.stored", "credential.changed"], false),
            Self::RevealCredential => (&["credential.revealed"], false),
            Self::SubmitJob | Self::SubmitNamedJob | Self::SubmitBatch => {
                (&["job.submitted"], false)
            }
            Self::CancelJob => (&["job.cancelled"], true),
            Self::RetryJob => (&["job.retried"], false),
            Self::ClaimJob => (&["job.claimed"], false),
            Self::CompleteJob => (&["job.completed"], true),
            Self::FailJob => (&["job.failed"], false),
            Self::ReleaseJob => (&["job.released"], false),
            // A job that has this priority already keeps it.
            Self::RescheduleJob => (&["job.rescheduled"], true),
            Self::Caption => (&["caption.requested"], false),
            Self::Ask => (&["chat.asked"], false),
        };
        Leaves { types, or_was_so }
    }

    /// A type of fact, or the first of those of which the command leaves one or another: they count as one.
    pub fn counted_as(self, event_type: &'static str) -> &'static str {
        let types = self.leaves().types;
        if types.contains(&event_type) {
            types[0]
        } else {
            event_type
        }
    }

    /// How many of its facts must be there once it was acknowledged.
    pub fn makes(self) -> u32 {
        match self {
            Self::MakeInvites => INVITES,
            Self::SubmitBatch => BATCH,
            _ => 1,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandOutcome {
    Open,
    /// A success, and the position that reads must have reached to see it.
    Acknowledged {
        position: u64,
    },
    /// A definite no. `clean`: it was the answer to the first attempt, so no fact can be there.
    Refused {
        clean: bool,
    },
    /// Given up without a definite answer. It may have taken effect or not.
    Unknown,
}

#[derive(Debug, Clone, Copy)]
pub struct LedgerEntry {
    pub kind: CommandKind,
    pub outcome: CommandOutcome,
    /// How often it was sent.
    pub sent: u16,
    /// The stream it is about, where that is known beforehand; see [`stream_hash`].
    pub stream: u64,
}

impl LedgerEntry {
    /// The most facts of one type that it may have left. Sent again it is the same command, by its `Idempotency-Key` or by what
    /// it is about; only invites have no key (the answer holds secrets, and is never kept), so each sending may make its own.
    pub fn at_most(&self) -> u32 {
        match self.kind {
            CommandKind::MakeInvites => INVITES * u32::from(self.sent.max(1)),
            kind => kind.makes(),
        }
    }
}

/// The commands of a run, by the ids that the log has of their requests.
pub struct MarksByRequest(HashMap<Uuid, CommandMark>);

impl MarksByRequest {
    /// The command of a request; `None` when no client of this run sent it.
    pub fn find(&self, request_id: &str) -> Option<CommandMark> {
        self.0.get(&request_id.parse().ok()?).copied()
    }
}

/// A stream as a number; 0 is none.
pub fn stream_hash(kind: &str, id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (kind, id).hash(&mut hasher);
    hasher.finish() | 1
}

/// All commands of a run.
#[derive(Debug)]
pub struct Ledger {
    run: String,
    entries: Vec<LedgerEntry>,
}

impl Ledger {
    /// `run` is the id of the run, of letters and digits only.
    pub fn new(run: &str) -> Self {
        Self {
            run: run.to_owned(),
            entries: Vec::new(),
        }
    }

    /// Notes a command before it is sent for the first time.
    pub fn begin(&mut self, kind: CommandKind, stream: u64) -> CommandMark {
        let mark = CommandMark(u32::try_from(self.entries.len()).unwrap_or(u32::MAX));
        self.entries.push(LedgerEntry {
            kind,
            outcome: CommandOutcome::Open,
            sent: 0,
            stream,
        });
        mark
    }

    /// To be called before each attempt.
    pub fn sending(&mut self, mark: CommandMark) {
        if let Some(entry) = self.entries.get_mut(mark.0 as usize) {
            entry.sent = entry.sent.saturating_add(1);
        }
    }

    pub fn settle(&mut self, mark: CommandMark, outcome: CommandOutcome) {
        if let Some(entry) = self.entries.get_mut(mark.0 as usize) {
            entry.outcome = outcome;
        }
    }

    /// A mark as it travels: fit for `X-Request-Id` and `Idempotency-Key`.
    pub fn text(&self, mark: CommandMark) -> String {
        format!("{}-{}", self.run, mark.0)
    }

    /// The commands by the ids that the log has of their requests. `id_of` makes such an id of a mark as it travels.
    pub fn request_ids(&self, id_of: impl Fn(&str) -> Uuid) -> MarksByRequest {
        let marks = self.entries().map(|(mark, _)| mark);
        MarksByRequest(marks.map(|mark| (id_of(&self.text(mark)), mark)).collect())
    }

    pub fn entry(&self, mark: CommandMark) -> Option<&LedgerEntry> {
        self.entries.get(mark.0 as usize)
    }

    pub fn entries(&self) -> impl Iterator<Item = (CommandMark, &LedgerEntry)> {
        (0..).map(CommandMark).zip(&self.entries)
    }

    /// By kind: the numbers of acknowledged, refused and unknown commands.
    pub fn tally(&self) -> BTreeMap<CommandKind, [u64; 3]> {
        let mut tally = BTreeMap::<CommandKind, [u64; 3]>::new();
        for entry in &self.entries {
            let column = match entry.outcome {
                CommandOutcome::Acknowledged { .. } => 0,
                CommandOutcome::Refused { .. } => 1,
                CommandOutcome::Open | CommandOutcome::Unknown => 2,
            };
            tally.entry(entry.kind).or_default()[column] += 1;
        }
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_read_back_and_foreign_ones_do_not() {
        let mut ledger = Ledger::new("t1");
        let mark = ledger.begin(CommandKind::CancelJob, 0);
        let known = ledger.request_ids(|text| Uuid::from_u128(text.len() as u128));
        let id = |n| Uuid::from_u128(n).to_string();
        assert_eq!(known.find(&id(ledger.text(mark).len() as u128)), Some(mark));
        for other in [id(1), ledger.text(mark), String::new()] {
            assert_eq!(known.find(&other), None, "{other}");
        }
    }

    #[test]
    fn all_but_invites_happen_once_however_often_they_are_sent() {
        let mut ledger = Ledger::new("t1");
        for (kind, sent, at_most) in [
            (CommandKind::SubmitJob, 1, 1),
            (CommandKind::SubmitJob, 3, 1),
            (CommandKind::SubmitNamedJob, 2, 1),
            (CommandKind::MakeInvites, 1, INVITES),
            (CommandKind::MakeInvites, 2, 2 * INVITES),
        ] {
            let mark = ledger.begin(kind, 0);
            (0..sent).for_each(|_| ledger.sending(mark));
            assert_eq!(
                ledger.entry(mark).unwrap().at_most(),
                at_most,
                "{kind:?} {sent}"
            );
        }
    }

    #[test]
    fn the_tally_counts_open_commands_as_unknown() {
        let mut ledger = Ledger::new("t1");
        for outcome in [
            CommandOutcome::Open,
            CommandOutcome::Unknown,
            CommandOutcome::Acknowledged { position: 1 },
            CommandOutcome::Refused { clean: true },
        ] {
            let mark = ledger.begin(CommandKind::Ask, 0);
            ledger.settle(mark, outcome);
        }
        assert_eq!(ledger.tally()[&CommandKind::Ask], [1, 1, 2]);
    }
}
