//! Compares the log with the ledger, fact by fact. Every acknowledged fact is there, once and in order, and no worker ended a job
//! after its lease. Pure: facts come in, a verdict comes out.

use std::collections::{HashMap, HashSet};

use genie_events::{
    Event, UserId, account::AccountEvent, caption::CaptionEvent, chat::ChatEvent, job::JobEvent,
    metadata::CallerKind,
};
use genie_log::{Fact, FactBody};
use uuid::Uuid;

use crate::{
    chat::ShownAnswer,
    client::Books,
    feed_notes::{Expected, event_hash},
    ledger::{
        CommandKind, CommandMark, CommandOutcome, Ledger, LedgerEntry, MarksByRequest, stream_hash,
    },
    verdict::{Mistake, RunVerdict},
};

/// The parts of a fact that are checked.
#[derive(Debug, Clone)]
pub struct SeenFact {
    pub position: u64,
    pub event_id: Uuid,
    pub kind: &'static str,
    pub stream: String,
    pub sequence: u64,
    pub user: Option<UserId>,
    pub owner_seq: u64,
    pub slice: u16,
    pub caller: CallerKind,
    pub request_id: Option<String>,
    /// `None` when its user was forgotten.
    pub event: Option<Event>,
    pub event_type: String,
}

impl SeenFact {
    pub fn of(fact: &Fact, slice: u16) -> Self {
        Self {
            position: fact.position,
            event_id: fact.event_id.0,
            kind: fact.stream.kind.as_str(),
            stream: fact.stream.id.to_string(),
            sequence: fact.sequence,
            user: fact.user,
            owner_seq: fact.owner_seq,
            slice,
            caller: fact.metadata.caller,
            request_id: fact.metadata.request_id.clone(),
            event: match &fact.body {
                FactBody::Open(event, _) => Some(event.clone()),
                FactBody::Forgotten => None,
            },
            event_type: fact.event_type.clone(),
        }
    }

    fn place(&self) -> String {
        format!(
            "{} of {}/{} at position {}",
            self.event_type, self.kind, self.stream, self.position
        )
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum JobHolder {
    Nobody,
    /// The worker that was given the job at this position, as this attempt.
    Claim {
        claimed_at: u64,
        attempt: u32,
    },
}

/// A job, as far as its facts go.
#[derive(Debug, Clone, Copy)]
struct CheckedJob {
    holder: JobHolder,
    /// The attempts that were begun, without those that were given back.
    attempts: u32,
    has_ended: bool,
}

/// The facts of one type that a command left.
#[derive(Debug, Clone, Copy)]
struct Left {
    times: u32,
    first: u64,
}

/// Takes the facts of the whole log, in order.
pub struct Checker<'a> {
    ledger: &'a Ledger,
    request_ids: MarksByRequest,
    held: &'a HashMap<CommandMark, u64>,
    shown: &'a HashMap<String, Vec<ShownAnswer>>,
    gone: &'a HashMap<String, u64>,
    verdict: RunVerdict,
    expected: Vec<Expected>,
    streams: HashMap<u64, u64>,
    owners: HashMap<UserId, u64>,
    suspended: HashSet<UserId>,
    left: HashMap<(CommandMark, &'static str), Left>,
    /// The position of a stream's first fact of a type. Some commands are content with that.
    was_so: HashMap<(u64, &'static str), u64>,
    jobs: HashMap<u64, CheckedJob>,
    /// The claims under which jobs were completed.
    completed: HashMap<u64, u64>,
    /// Turns and captions that have not ended, with their place in words.
    open: HashMap<u64, String>,
    ended_turns: HashSet<u64>,
}

impl<'a> Checker<'a> {
    pub fn new(
        Books {
            ledger,
            held,
            shown,
            gone,
        }: &'a Books,
        request_ids: MarksByRequest,
    ) -> Self {
        Self {
            ledger,
            request_ids,
            held,
            shown,
            gone,
            verdict: RunVerdict::default(),
            expected: Vec::new(),
            streams: HashMap::new(),
            owners: HashMap::new(),
            suspended: HashSet::new(),
            left: HashMap::new(),
            was_so: HashMap::new(),
            jobs: HashMap::new(),
            completed: HashMap::new(),
            open: HashMap::new(),
            ended_turns: HashSet::new(),
        }
    }

    pub fn see(&mut self, fact: &SeenFact) {
        self.check_order(fact);
        self.check_suspended(fact);
        self.check_sender(fact);
        let stream = stream_hash(fact.kind, &fact.stream);
        match &fact.event {
            Some(Event::Account(event)) => self.account(fact, stream, event),
            Some(Event::Job(event)) => self.job(fact, stream, event),
            Some(Event::Chat(event)) => self.chat(fact, event),
            Some(Event::Caption(event)) => match event {
                CaptionEvent::Requested { .. } => drop(self.open.insert(stream, fact.place())),
                CaptionEvent::Completed(_) | CaptionEvent::Failed(_) => {
                    if self.open.remove(&stream).is_none() {
                        self.verdict.add(
                            Mistake::Twice,
                            format!(
                                "{}: this caption had ended, or was never asked for",
                                fact.place()
                            ),
                        );
                    }
                }
            },
            _ => {}
        }
    }

    fn check_order(&mut self, fact: &SeenFact) {
        let expected = self.expected.len() as u64 + 1;
        if fact.position != expected {
            self.verdict.add(
                Mistake::Order,
                format!("{}: position {expected} was next", fact.place()),
            );
        }
        let subject = format!("{}/{}", fact.kind, fact.stream);
        let hash = event_hash(
            fact.position,
            &fact.event_id.to_string(),
            &fact.event_type,
            &subject,
            fact.sequence,
        );
        self.expected.push(Expected {
            hash,
            is_job: fact.event_type.starts_with("job."),
            slice: fact.slice,
        });

        let last = self
            .streams
            .entry(stream_hash(fact.kind, &fact.stream))
            .or_default();
        if fact.sequence != *last + 1 {
            let sentence = format!(
                "{}: it is number {} of its stream, after number {last}",
                fact.place(),
                fact.sequence
            );
            self.verdict.add(Mistake::Order, sentence);
        }
        *last = fact.sequence;
        if let Some(user) = fact.user {
            let last = self.owners.entry(user).or_default();
            if fact.owner_seq != *last + 1 {
                let sentence = format!(
                    "{}: it is number {} of its user, after number {last}",
                    fact.place(),
                    fact.owner_seq
                );
                self.verdict.add(Mistake::Order, sentence);
            }
            *last = fact.owner_seq;
        }
    }

    fn check_suspended(&mut self, fact: &SeenFact) {
        let is_an_outcome = matches!(
            fact.event_type.as_str(),
            "chat.answered" | "caption.completed" | "caption.failed"
        );
        if fact.caller == CallerKind::User
            && !is_an_outcome
            && fact.user.is_some_and(|user| self.suspended.contains(&user))
        {
            self.verdict.add(
                Mistake::NeverSent,
                format!(
                    "{}: its user was suspended before, and was let act",
                    fact.place()
                ),
            );
        }
    }

    fn check_sender(&mut self, fact: &SeenFact) {
        let mark = fact
            .request_id
            .as_deref()
            .and_then(|id| self.request_ids.find(id));
        let Some(mark) = mark else {
            // A fact without an id is genie's own. One with an unknown id was sent by nobody.
            if fact.request_id.as_deref().is_some_and(|id| !id.is_empty())
                && fact.caller != CallerKind::System
            {
                self.verdict.add(
                    Mistake::NeverSent,
                    format!("{}: no client sent it", fact.place()),
                );
            }
            return;
        };
        let Some(event_type) = fact.event.as_ref().map(Event::type_name) else {
            return;
        };
        let Some(entry) = self.ledger.entry(mark) else {
            return;
        };
        let left = self
            .left
            .entry((mark, entry.kind.counted_as(event_type)))
            .or_insert(Left {
                times: 0,
                first: fact.position,
            });
        left.times += 1;
        if left.times > entry.at_most() {
            let sentence = format!(
                "{}: command {} ({}) had left one at position {}",
                fact.place(),
                self.ledger.text(mark),
                entry.kind.as_str(),
                left.first
            );
            self.verdict.add(Mistake::Twice, sentence);
        }
        if entry.outcome == (CommandOutcome::Refused { clean: true })
            && !event_type.ends_with(".refused")
        {
            let sentence = format!(
                "{}: command {} ({}) was refused",
                fact.place(),
                self.ledger.text(mark),
                entry.kind.as_str()
            );
            self.verdict.add(Mistake::NeverSent, sentence);
        }
    }

    fn account(&mut self, fact: &SeenFact, stream: u64, event: &AccountEvent) {
        match event {
            AccountEvent::Suspended => self.suspended.extend(fact.user),
            AccountEvent::OnboardingAdvanced { .. } => {
                self.note_so(stream, "account.onboarding_advanced", fact)
            }
            _ => {}
        }
    }

    fn note_so(&mut self, stream: u64, event_type: &'static str, fact: &SeenFact) {
        self.was_so
            .entry((stream, event_type))
            .or_insert(fact.position);
    }

    fn job(&mut self, fact: &SeenFact, stream: u64, event: &JobEvent) {
        let before = self.jobs.get(&stream).copied();
        let held = before.map(|job| job.holder);
        let holder = match event {
            JobEvent::Submitted { .. } => {
                if held.is_some() {
                    self.verdict.add(
                        Mistake::Twice,
                        format!("{}: this job was submitted before", fact.place()),
                    );
                }
                JobHolder::Nobody
            }
            JobEvent::Claimed {
                attempt, worker, ..
            } => {
                self.check_claim(fact, before, *attempt, worker);
                self.check_free(fact, held, "given away");
                JobHolder::Claim {
                    claimed_at: fact.position,
                    attempt: *attempt,
                }
            }
            JobEvent::Completed { attempt, .. }
            | JobEvent::Failed { attempt, .. }
            | JobEvent::Released { attempt } => {
                self.check_ending(fact, stream, held, *attempt);
                JobHolder::Nobody
            }
            JobEvent::Rescheduled { .. } => {
                self.note_so(stream, "job.rescheduled", fact);
                self.check_free(fact, held, "put off");
                JobHolder::Nobody
            }
            JobEvent::Lapsed { .. } | JobEvent::Retried { .. } | JobEvent::Removed => {
                JobHolder::Nobody
            }
            JobEvent::Cancelled => {
                self.note_so(stream, "job.cancelled", fact);
                JobHolder::Nobody
            }
        };
        let has_ended = self.check_end(fact, before, event);
        let attempts = attempts_after(before, event);
        let now = CheckedJob {
            holder,
            attempts,
            has_ended,
        };
        self.jobs.insert(stream, now);
    }

    /// No worker holds a job that something was done with.
    fn check_free(&mut self, fact: &SeenFact, held: Option<JobHolder>, done: &str) {
        if let Some(JobHolder::Claim { claimed_at, .. }) = held {
            let sentence = format!(
                "{}: it was {done} while held since position {claimed_at}",
                fact.place()
            );
            self.verdict.add(Mistake::Lapsed, sentence);
        }
    }

    /// A claim is the next attempt of a job that has not ended, and its worker is there to take it.
    fn check_claim(
        &mut self,
        fact: &SeenFact,
        before: Option<CheckedJob>,
        attempt: u32,
        worker: &str,
    ) {
        let attempts = before.map_or(0, |job| job.attempts);
        if attempt != attempts + 1 {
            let sentence = format!(
                "{}: attempt {attempt} of a job of which {attempts} were begun",
                fact.place()
            );
            self.verdict.add(Mistake::NeverSent, sentence);
        }
        if before.is_some_and(|job| job.has_ended) {
            self.verdict.add(
                Mistake::Twice,
                format!("{}: this job had ended", fact.place()),
            );
        }
        if let Some(since) = self.gone.get(worker).filter(|gone| fact.position > **gone) {
            let sentence = format!(
                "{}: it was given to {worker}, who was killed before position {since}",
                fact.place()
            );
            self.verdict.add(Mistake::NeverSent, sentence);
        }
    }

    /// Returns whether the job has ended now. A job ends once, unless its owner queues it again.
    fn check_end(&mut self, fact: &SeenFact, before: Option<CheckedJob>, event: &JobEvent) -> bool {
        let had_ended = before.is_some_and(|job| job.has_ended);
        let ends = matches!(
            event,
            JobEvent::Completed { .. }
                | JobEvent::Cancelled
                | JobEvent::Failed { retry_at: None, .. }
                | JobEvent::Lapsed { retry_at: None, .. }
        );
        if ends && had_ended {
            self.verdict.add(
                Mistake::Twice,
                format!("{}: this job had ended", fact.place()),
            );
        }
        let is_queued_again = matches!(event, JobEvent::Retried { .. });
        (had_ended || ends) && !is_queued_again
    }

    fn check_ending(
        &mut self,
        fact: &SeenFact,
        stream: u64,
        held: Option<JobHolder>,
        attempt: u32,
    ) {
        let mark = fact
            .request_id
            .as_deref()
            .and_then(|id| self.request_ids.find(id));
        let asked_under = mark.and_then(|mark| self.held.get(&mark)).copied();
        match held {
            Some(JobHolder::Claim {
                claimed_at,
                attempt: running,
            }) => {
                let by_its_holder = asked_under.is_none_or(|asked_under| asked_under == claimed_at);
                if running != attempt || !by_its_holder {
                    let sentence = format!(
                        "{}: it ends attempt {attempt}, asked under the claim at {asked_under:?}, while attempt {running} runs \
                         under the claim at position {claimed_at}",
                        fact.place()
                    );
                    self.verdict.add(Mistake::Lapsed, sentence);
                }
                if fact.event_type == "job.completed" {
                    self.completed.insert(stream, claimed_at);
                    self.note_so(stream, "job.completed", fact);
                }
            }
            _ => self.verdict.add(
                Mistake::Lapsed,
                format!("{}: nobody held the job", fact.place()),
            ),
        }
    }

    fn chat(&mut self, fact: &SeenFact, event: &ChatEvent) {
        match event {
            ChatEvent::Asked { turn, .. }
            | ChatEvent::Continued { turn, .. }
            | ChatEvent::Prompted { turn, .. } => {
                self.open
                    .insert(stream_hash("turn", &turn.to_string()), fact.place());
            }
            ChatEvent::Answered { turn, answer } => {
                let name = turn.to_string();
                let content = &answer.content;
                if let Some((count, sentence)) = self
                    .shown
                    .get(&name)
                    .and_then(|shown| shown.iter().find_map(|one| one.judge(&name, content)))
                {
                    self.verdict.add(count, sentence);
                }
                let turn = stream_hash("turn", &turn.to_string());
                if self.open.remove(&turn).is_none() || !self.ended_turns.insert(turn) {
                    self.verdict.add(
                        Mistake::Twice,
                        format!("{}: this turn had ended, or was never asked", fact.place()),
                    );
                }
            }
            ChatEvent::Removed { turns } => {
                for turn in turns {
                    let turn = stream_hash("turn", &turn.to_string());
                    self.open.remove(&turn);
                    self.ended_turns.insert(turn);
                }
            }
            ChatEvent::Renamed { .. } | ChatEvent::Reopened => {}
        }
    }

    /// To be called after the last fact. Returns the verdict, and the events that every feed must have shown.
    pub fn finish(mut self) -> (RunVerdict, Vec<Expected>) {
        for (mark, entry) in self.ledger.entries() {
            if let CommandOutcome::Acknowledged { position } = entry.outcome {
                self.check_acknowledged(mark, entry, position);
            }
        }
        for place in self.open.values() {
            self.verdict.add(
                Mistake::Missing,
                format!("{place}: it never came to an end"),
            );
        }
        for job in self.jobs.values() {
            if let JobHolder::Claim {
                claimed_at,
                attempt,
            } = job.holder
            {
                let sentence = format!(
                    "the job claimed at position {claimed_at}, attempt {attempt}: it neither ended nor lapsed"
                );
                self.verdict.add(Mistake::Missing, sentence);
            }
        }
        (self.verdict, self.expected)
    }

    fn check_acknowledged(&mut self, mark: CommandMark, entry: &LedgerEntry, position: u64) {
        let leaves = entry.kind.leaves();
        let in_time = |at: &u64| *at <= position;
        let own = leaves
            .types
            .first()
            .and_then(|wanted| self.left.get(&(mark, *wanted)))
            .is_some_and(|left| in_time(&left.first) && left.times >= entry.kind.makes());
        let was_so = leaves.types.iter().any(|wanted| {
            let since = self.was_so.get(&(entry.stream, *wanted));
            since.is_some_and(in_time)
        });
        let command = format!(
            "command {} ({})",
            self.ledger.text(mark),
            entry.kind.as_str()
        );
        let is_there = own || (leaves.or_was_so && was_so);
        if !is_there {
            let wanted = leaves.types.join(" or ");
            let sentence = format!(
                "{command} was acknowledged at position {position}; not all its {wanted} are there by then"
            );
            self.verdict.add(Mistake::Missing, sentence);
            return;
        }
        let completed_by_another = !own
            && entry.kind == CommandKind::CompleteJob
            && self.completed.get(&entry.stream) != self.held.get(&mark);
        if completed_by_another {
            let sentence =
                format!("{command} was acknowledged; another lease had completed the job");
            self.verdict.add(Mistake::Lapsed, sentence);
        }
    }

    /// The number of turns, captions and held jobs that have not ended so far.
    pub fn unfinished(&self) -> usize {
        self.open.len()
            + self
                .jobs
                .values()
                .filter(|job| matches!(job.holder, JobHolder::Claim { .. }))
                .count()
    }
}

fn attempts_after(before: Option<CheckedJob>, event: &JobEvent) -> u32 {
    match event {
        JobEvent::Submitted { .. } | JobEvent::Retried { .. } => 0,
        JobEvent::Claimed { attempt, .. } => *attempt,
        JobEvent::Released { attempt } => attempt.saturating_sub(1),
        _ => before.map_or(0, |job| job.attempts),
    }
}

#[cfg(test)]
mod tests;
