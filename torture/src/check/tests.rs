//! A small run with a correct log, and the findings when it is not correct: each counter can rise.

#![allow(clippy::too_many_lines)] // a story is read from its beginning to its end

use genie_events::{
    JobId, TurnId,
    chat::{TurnAnswer, TurnMetrics, TurnOutcome},
    invite::{Grant, InviteEvent},
    job::JobSpec,
    tier::Tier,
};
use serde_json::Value;

use super::*;
use crate::{chat::tests::shown, ledger::INVITES};

const ADA: u128 = 1;
const JOB: &str = "0192d4e0-7f3a-7c3b-8f4e-0123456789ab";

/// A ledger and the log that goes with it.
struct TortureRun {
    books: Books,
    log: Vec<SeenFact>,
}

fn spec() -> JobSpec {
    JobSpec {
        name: None,
        operation: "resize_image".into(),
        queue: "media-jobs".into(),
        params: Value::Null,
        input_file_id: None,
        input_url: None,
        creator_profile_id: None,
        priority: 10,
        run_at: None,
        max_attempts: 3,
        mark: None,
    }
}

/// The log's id of a request, as far as these tests have one.
fn id_of(mark: &str) -> Uuid {
    let number = mark
        .rsplit('-')
        .next()
        .and_then(|number| number.parse().ok());
    Uuid::from_u128(number.unwrap_or(u128::MAX))
}

fn claimed(attempt: u32) -> JobEvent {
    JobEvent::Claimed {
        attempt,
        worker: "w".into(),
        lease: "l".into(),
    }
}

fn completed(attempt: u32) -> JobEvent {
    JobEvent::Completed {
        attempt,
        result: Value::Null,
        outputs: Value::Null,
    }
}

fn turn(n: u128) -> TurnId {
    TurnId(Uuid::from_u128(n))
}

fn asked(n: u128) -> ChatEvent {
    ChatEvent::Asked {
        turn: turn(n),
        session: "s".into(),
        message: "m".into(),
    }
}

fn answered(n: u128) -> ChatEvent {
    let content = "a".into();
    let model = "m".into();
    let metrics = TurnMetrics::default();
    ChatEvent::Answered {
        turn: turn(n),
        answer: TurnAnswer {
            content,
            outcome: TurnOutcome::Completed,
            failure: None,
            model,
            metrics,
            tool_calls: vec![],
        },
    }
}

impl TortureRun {
    fn new() -> Self {
        let books = Books {
            ledger: Ledger::new("t1"),
            held: HashMap::new(),
            shown: HashMap::new(),
            gone: HashMap::new(),
        };
        Self {
            books,
            log: Vec::new(),
        }
    }

    /// Acknowledges a command and appends its fact.
    fn yes(&mut self, kind: CommandKind, stream: &str, event: impl Into<Event>) -> CommandMark {
        let mark = self.begin(kind, stream);
        self.fact(Some(mark), stream, event);
        self.books.ledger.settle(
            mark,
            CommandOutcome::Acknowledged {
                position: self.log.len() as u64,
            },
        );
        mark
    }

    fn begin(&mut self, kind: CommandKind, stream: &str) -> CommandMark {
        let mark = self.books.ledger.begin(kind, stream_hash("job", stream));
        self.books.ledger.sending(mark);
        mark
    }

    /// Appends a fact of Ada to the log.
    fn fact(&mut self, mark: Option<CommandMark>, stream: &str, event: impl Into<Event>) {
        let event = event.into();
        let position = self.log.len() as u64 + 1;
        let before = self
            .log
            .iter()
            .filter(|seen| seen.kind == event.kind().as_str() && seen.stream == stream)
            .count() as u64;
        self.log.push(SeenFact {
            position,
            event_id: Uuid::from_u128(u128::from(position)),
            kind: event.kind().as_str(),
            stream: stream.to_owned(),
            sequence: before + 1,
            user: Some(UserId(Uuid::from_u128(ADA))),
            owner_seq: position,
            slice: 5,
            caller: if mark.is_some() {
                CallerKind::User
            } else {
                CallerKind::System
            },
            request_id: mark.map(|mark| id_of(&self.books.ledger.text(mark)).to_string()),
            event_type: event.type_name().to_owned(),
            event: Some(event),
        });
    }

    fn verdict(&self) -> RunVerdict {
        let mut checker = Checker::new(&self.books, self.books.ledger.request_ids(id_of));
        self.log.iter().for_each(|fact| checker.see(fact));
        checker.finish().0
    }

    /// The findings after the log was doctored.
    fn doctored(mut self, doctor: impl FnOnce(&mut Vec<SeenFact>)) -> RunVerdict {
        doctor(&mut self.log);
        self.verdict()
    }

    /// Closes the gap after a removed fact, so that only the content is wrong.
    fn closed_up(log: &mut [SeenFact]) {
        for (n, fact) in log.iter_mut().enumerate() {
            fact.position = n as u64 + 1;
            fact.owner_seq = fact.position;
        }
    }
}

/// A job is submitted, worked on and completed; a question is asked and answered.
fn a_good_run() -> TortureRun {
    let mut run = TortureRun::new();
    run.yes(
        CommandKind::SubmitNamedJob,
        JOB,
        JobEvent::Submitted {
            spec: spec(),
            counted: None,
        },
    );
    run.yes(CommandKind::ClaimJob, JOB, claimed(1));
    let end = run.yes(CommandKind::CompleteJob, JOB, completed(1));
    run.books.held.insert(end, 2);
    run.yes(CommandKind::Ask, "s", asked(7));
    run.fact(None, "s", answered(7));
    run
}

/// Compares the whole verdict, so that one finding is not taken for another.
#[track_caller]
fn only(verdict: &RunVerdict, count: Mistake, n: u64) {
    for each in Mistake::ALL {
        let expected = if each == count { n } else { 0 };
        assert_eq!(
            verdict.count(each),
            expected,
            "{}: {:?}",
            each.as_str(),
            verdict.examples(each)
        );
    }
}

#[test]
fn a_good_run_is_clean() {
    assert!(JOB.parse::<JobId>().is_ok());
    let verdict = a_good_run().verdict();
    assert!(verdict.is_clean(), "{verdict:?}");
}

#[test]
fn an_acknowledged_fact_that_was_removed_is_missing() {
    // Removes the last fact of its stream and of the log, so that nothing else is wrong.
    let mut run = TortureRun::new();
    run.yes(
        CommandKind::SubmitNamedJob,
        JOB,
        JobEvent::Submitted {
            spec: spec(),
            counted: None,
        },
    );
    run.yes(
        CommandKind::StoreCredential,
        "c",
        genie_events::credential::CredentialEvent::Removed,
    );
    let wrong_type = run.verdict();
    only(&wrong_type, Mistake::Missing, 1);
    only(&run.doctored(|log| log.truncate(0)), Mistake::Missing, 2);
}

#[test]
fn a_fact_behind_the_position_it_was_acknowledged_at_is_missing_there() {
    let mut run = TortureRun::new();
    let mark = run.yes(
        CommandKind::SubmitJob,
        JOB,
        JobEvent::Submitted {
            spec: spec(),
            counted: None,
        },
    );
    run.books
        .ledger
        .settle(mark, CommandOutcome::Acknowledged { position: 0 });
    only(&run.verdict(), Mistake::Missing, 1);
}

#[test]
fn a_question_without_an_end_is_found() {
    only(
        &a_good_run().doctored(|log| drop(log.pop())),
        Mistake::Missing,
        1,
    );
}

#[test]
fn a_job_that_is_held_for_ever_is_found() {
    let mut run = TortureRun::new();
    run.yes(
        CommandKind::SubmitNamedJob,
        JOB,
        JobEvent::Submitted {
            spec: spec(),
            counted: None,
        },
    );
    run.yes(CommandKind::ClaimJob, JOB, claimed(1));
    only(&run.verdict(), Mistake::Missing, 1);
}

#[test]
fn a_duplicate_is_found_where_one_fact_was_promised() {
    let twice = |kind, sent| {
        let mut run = TortureRun::new();
        let mark = run.yes(
            kind,
            JOB,
            JobEvent::Submitted {
                spec: spec(),
                counted: None,
            },
        );
        (1..sent).for_each(|_| run.books.ledger.sending(mark));
        run.fact(
            Some(mark),
            "another",
            JobEvent::Submitted {
                spec: spec(),
                counted: None,
            },
        );
        run.verdict()
    };
    only(&twice(CommandKind::SubmitJob, 1), Mistake::Twice, 1);
    only(&twice(CommandKind::SubmitNamedJob, 2), Mistake::Twice, 1);
    only(&twice(CommandKind::SubmitJob, 2), Mistake::Twice, 1);
    let mut run = a_good_run();
    run.fact(None, "s", answered(7));
    only(&run.verdict(), Mistake::Twice, 1);
}

#[test]
fn invites_are_as_many_as_were_asked_for() {
    let made = |sent, count| {
        let mut run = TortureRun::new();
        let mark = run.begin(CommandKind::MakeInvites, "");
        (1..sent).for_each(|_| run.books.ledger.sending(mark));
        let grant = Grant {
            tier: Tier::Studio,
            role: "user".into(),
            admin: false,
            expires_at: None,
        };
        let created = InviteEvent::Created {
            grant,
            sealed_code: None,
        };
        (0..count).for_each(|n| run.fact(Some(mark), &n.to_string(), created.clone()));
        run.books.ledger.settle(
            mark,
            CommandOutcome::Acknowledged {
                position: u64::from(count),
            },
        );
        run.verdict()
    };
    only(&made(1, INVITES), Mistake::Twice, 0);
    only(&made(1, INVITES + 1), Mistake::Twice, 1);
    only(&made(1, INVITES - 1), Mistake::Missing, 1);
    only(&made(2, 2 * INVITES), Mistake::Twice, 0);
    only(&made(2, 2 * INVITES + 1), Mistake::Twice, 1);
}

#[test]
fn a_shown_answer_that_differs_from_the_kept_one_is_found() {
    for (text, ended, count, n) in [
        ("a", true, Mistake::Missing, 0),
        ("", true, Mistake::Missing, 1),
        ("b", false, Mistake::NeverSent, 1),
    ] {
        let mut run = a_good_run();
        run.books.shown.insert(
            turn(7).to_string(),
            vec![shown("a", true), shown(text, ended)],
        );
        only(&run.verdict(), count, n);
    }
}

#[test]
fn facts_of_refused_or_unsent_commands_are_found() {
    let mut run = a_good_run();
    run.fact(
        None,
        "x",
        JobEvent::Submitted {
            spec: spec(),
            counted: None,
        },
    );
    run.log[5].caller = CallerKind::User;
    run.log[5].request_id = Some("somebody-else".into());
    only(&run.verdict(), Mistake::NeverSent, 1);

    let mut run = a_good_run();
    let mark = run.begin(CommandKind::SubmitJob, "x");
    run.fact(
        Some(mark),
        "x",
        JobEvent::Submitted {
            spec: spec(),
            counted: None,
        },
    );
    run.books
        .ledger
        .settle(mark, CommandOutcome::Refused { clean: true });
    only(&run.verdict(), Mistake::NeverSent, 1);
    run.books
        .ledger
        .settle(mark, CommandOutcome::Refused { clean: false });
    assert!(
        run.verdict().is_clean(),
        "an earlier try may have been heard"
    );
    run.books.ledger.settle(mark, CommandOutcome::Unknown);
    assert!(run.verdict().is_clean(), "nobody knows");
}

#[test]
fn a_suspended_user_must_not_act() {
    let mut run = a_good_run();
    run.fact(None, "ada", AccountEvent::Suspended);
    run.yes(
        CommandKind::SubmitJob,
        "x",
        JobEvent::Submitted {
            spec: spec(),
            counted: None,
        },
    );
    only(&run.verdict(), Mistake::NeverSent, 1);
}

#[test]
fn two_facts_that_changed_places_are_out_of_order() {
    let renumbered = a_good_run().doctored(|log| {
        log.swap(0, 1);
        TortureRun::closed_up(log);
    });
    assert!(
        renumbered.count(Mistake::Order) >= 2,
        "within their stream, although positions are dense: {renumbered:?}"
    );
    let verdict = a_good_run().doctored(|log| log.swap(2, 3));
    assert!(
        verdict.count(Mistake::Order) >= 2,
        "within the log: {verdict:?}"
    );
    let verdict = a_good_run().doctored(|log| drop(log.remove(1)));
    assert!(verdict.count(Mistake::Order) > 0, "a hole: {verdict:?}");
}

#[test]
fn a_job_ended_under_a_lapsed_lease_is_found() {
    // The lease has lapsed, and nobody holds the job.
    let lapsed = || JobEvent::Lapsed {
        attempt: 1,
        retry_at: Some(genie_events::Timestamp(1)),
    };
    let mut run = TortureRun::new();
    run.yes(
        CommandKind::SubmitNamedJob,
        JOB,
        JobEvent::Submitted {
            spec: spec(),
            counted: None,
        },
    );
    run.yes(CommandKind::ClaimJob, JOB, claimed(1));
    run.fact(None, JOB, lapsed());
    let end = run.yes(CommandKind::CompleteJob, JOB, completed(1));
    run.books.held.insert(end, 2);
    only(&run.verdict(), Mistake::Lapsed, 1);

    // Another worker holds the job meanwhile, in an attempt of the same number after a retry.
    let mut run = TortureRun::new();
    run.yes(
        CommandKind::SubmitNamedJob,
        JOB,
        JobEvent::Submitted {
            spec: spec(),
            counted: None,
        },
    );
    run.yes(CommandKind::ClaimJob, JOB, claimed(1));
    run.fact(None, JOB, JobEvent::Cancelled);
    run.yes(
        CommandKind::RetryJob,
        JOB,
        JobEvent::Retried {
            queue: "q".into(),
            operation: "thumbnail".into(),
            files: vec![],
            priority: 5,
            counted: None,
        },
    );
    run.yes(CommandKind::ClaimJob, JOB, claimed(1));
    let end = run.yes(CommandKind::CompleteJob, JOB, completed(1));
    run.books.held.insert(end, 5);
    assert!(run.verdict().is_clean());
    run.books.held.insert(end, 2);
    only(&run.verdict(), Mistake::Lapsed, 1);

    // The job was handed out while another worker held it.
    let mut run = TortureRun::new();
    run.yes(
        CommandKind::SubmitNamedJob,
        JOB,
        JobEvent::Submitted {
            spec: spec(),
            counted: None,
        },
    );
    run.yes(CommandKind::ClaimJob, JOB, claimed(1));
    run.yes(CommandKind::ClaimJob, JOB, claimed(2));
    run.fact(None, JOB, JobEvent::Cancelled);
    only(&run.verdict(), Mistake::Lapsed, 1);

    // A completion was acknowledged that belongs to another worker.
    let mut run = a_good_run();
    let other = run.begin(CommandKind::CompleteJob, JOB);
    run.books.held.insert(other, 1);
    run.books
        .ledger
        .settle(other, CommandOutcome::Acknowledged { position: 5 });
    only(&run.verdict(), Mistake::Lapsed, 1);
}

#[test]
fn an_attempt_that_nobody_began_is_found() {
    let mut run = TortureRun::new();
    let submitted = JobEvent::Submitted {
        spec: spec(),
        counted: None,
    };
    run.yes(CommandKind::SubmitNamedJob, JOB, submitted);
    run.yes(CommandKind::ClaimJob, JOB, claimed(1));
    let end = run.yes(
        CommandKind::ReleaseJob,
        JOB,
        JobEvent::Released { attempt: 1 },
    );
    run.books.held.insert(end, 2);
    run.yes(CommandKind::ClaimJob, JOB, claimed(1));
    run.fact(None, JOB, JobEvent::Cancelled);
    assert!(run.verdict().is_clean(), "it was given back");
    for attempt in [0, 2] {
        run.log[3].event = Some(claimed(attempt).into());
        only(&run.verdict(), Mistake::NeverSent, 1);
    }
}

#[test]
fn a_job_that_is_given_to_a_dead_worker_is_found() {
    let mut run = a_good_run();
    run.books.gone.insert("w".into(), 2);
    assert!(run.verdict().is_clean(), "it was killed after the claim");
    run.books.gone.insert("w".into(), 1);
    only(&run.verdict(), Mistake::NeverSent, 1);
}

#[test]
fn a_job_ends_once_unless_it_is_queued_again() {
    let mut run = a_good_run();
    run.fact(None, JOB, JobEvent::Cancelled);
    only(&run.verdict(), Mistake::Twice, 1);
    let retried = || JobEvent::Retried {
        queue: "q".into(),
        operation: "thumbnail".into(),
        files: vec![],
        priority: 5,
        counted: None,
    };
    let mut run = a_good_run();
    run.fact(None, JOB, retried());
    run.fact(None, JOB, JobEvent::Cancelled);
    assert!(run.verdict().is_clean());

    let mut run = a_good_run();
    run.fact(None, JOB, claimed(2));
    run.fact(
        None,
        JOB,
        JobEvent::Failed {
            attempt: 2,
            error: "e".into(),
            code: None,
            retry_at: Some(genie_events::Timestamp(1)),
        },
    );
    only(&run.verdict(), Mistake::Twice, 1);
}

#[test]
fn a_command_whose_wish_is_fulfilled_needs_no_fact() {
    let mut run = TortureRun::new();
    run.yes(
        CommandKind::SubmitNamedJob,
        JOB,
        JobEvent::Submitted {
            spec: spec(),
            counted: None,
        },
    );
    run.yes(CommandKind::CancelJob, JOB, JobEvent::Cancelled);
    let again = run.begin(CommandKind::CancelJob, JOB);
    run.books
        .ledger
        .settle(again, CommandOutcome::Acknowledged { position: 2 });
    assert!(run.verdict().is_clean());
    run.books
        .ledger
        .settle(again, CommandOutcome::Acknowledged { position: 1 });
    only(&run.verdict(), Mistake::Missing, 1);
}

#[test]
fn held_jobs_and_running_turns_are_unfinished() {
    let run = a_good_run();
    let mut checker = Checker::new(&run.books, run.books.ledger.request_ids(id_of));
    let open: Vec<usize> = run
        .log
        .iter()
        .map(|fact| {
            checker.see(fact);
            checker.unfinished()
        })
        .collect();
    assert_eq!(open, [0, 1, 0, 1, 0]);
}
