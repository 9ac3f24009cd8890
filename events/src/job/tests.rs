use cqrs_es::test::TestFramework;

use super::*;

type Given = TestFramework<Job>;

fn spec() -> JobSpec {
    JobSpec {
        name: None,
        operation: "resize_image".into(),
        queue: "media-jobs".into(),
        params: serde_json::json!({"width": 10}),
        input_file_id: None,
        input_url: None,
        creator_profile_id: None,
        priority: 10,
        run_at: None,
        max_attempts: 2,
        mark: None,
    }
}
fn submitted() -> JobEvent {
    JobEvent::Submitted {
        spec: spec(),
        counted: None,
    }
}
fn submit(spec: JobSpec) -> JobCommand {
    JobCommand::Submit {
        spec,
        counted: None,
    }
}
fn claimed(attempt: u32, lease: &str) -> JobEvent {
    JobEvent::Claimed {
        attempt,
        worker: "w".into(),
        lease: lease.into(),
    }
}
fn complete(lease: &str) -> JobCommand {
    JobCommand::Complete {
        lease: lease.into(),
        result: Value::Null,
        outputs: Value::Null,
    }
}
fn completed() -> JobEvent {
    JobEvent::Completed {
        attempt: 1,
        result: Value::Null,
        outputs: Value::Null,
    }
}
const SOON: Timestamp = Timestamp(5);

#[test]
fn submitting_the_same_again_is_no_error_but_another_body_is() {
    Given::with(())
        .given(vec![submitted()])
        .when(submit(spec()))
        .then_expect_events(vec![]);
    let other = JobSpec {
        operation: "crop_image".into(),
        ..spec()
    };
    let refused = Given::with(())
        .given(vec![submitted()])
        .when(submit(other))
        .inspect_result();
    assert_eq!(refused.unwrap_err().code, "job_exists");
}

#[test]
fn submitting_the_same_again_keeps_the_first_number_of_a_mark() {
    let marked = |number| JobSpec {
        mark: Some(MarkNumber(number)),
        ..spec()
    };
    let first = JobEvent::Submitted {
        spec: marked(1),
        counted: None,
    };
    Given::with(())
        .given(vec![first])
        .when(submit(marked(2)))
        .then_expect_events(vec![]);
}

#[test]
fn a_claim_before_its_time_is_refused() {
    let later = JobEvent::Submitted {
        spec: JobSpec {
            run_at: Some(Timestamp(10)),
            ..spec()
        },
        counted: None,
    };
    let claim = JobCommand::Claim {
        worker: "w".into(),
        lease: "l".into(),
        now: Timestamp(9),
    };
    let refused = Given::with(())
        .given(vec![later])
        .when(claim)
        .inspect_result()
        .unwrap_err();
    assert_eq!(refused.code, "not_waiting");
}

#[test]
fn only_the_present_lease_completes_and_completing_twice_is_no_error() {
    let running = vec![submitted(), claimed(1, "mine")];
    Given::with(())
        .given(running.clone())
        .when(complete("mine"))
        .then_expect_events(vec![completed()]);
    let stale = Given::with(())
        .given(running.clone())
        .when(complete("other"))
        .inspect_result()
        .unwrap_err();
    assert_eq!(stale.code, "stale_lease");
    let done = [running, vec![completed()]].concat();
    Given::with(())
        .given(done)
        .when(complete("mine"))
        .then_expect_events(vec![]);
}

#[test]
fn a_lapsed_lease_ends_nothing_and_the_last_lapse_fails_the_job() {
    let lapsed = JobEvent::Lapsed {
        attempt: 1,
        retry_at: Some(SOON),
    };
    let again = vec![submitted(), claimed(1, "a"), lapsed, claimed(2, "b")];
    let stale = Given::with(())
        .given(again.clone())
        .when(complete("a"))
        .inspect_result()
        .unwrap_err();
    assert_eq!(stale.code, "stale_lease");
    Given::with(())
        .given(again)
        .when(JobCommand::Lapse {
            lease: "b".into(),
            retry_at: SOON,
        })
        .then_expect_events(vec![JobEvent::Lapsed {
            attempt: 2,
            retry_at: None,
        }]);
}

#[test]
fn a_failure_is_tried_again_until_the_attempts_are_used_up() {
    let fail = |lease: &str| JobCommand::Fail {
        lease: lease.into(),
        error: "e".into(),
        code: None,
        retryable: true,
        retry_at: SOON,
    };
    let failed = |attempt, retry_at| JobEvent::Failed {
        attempt,
        error: "e".into(),
        code: None,
        retry_at,
    };
    let first = vec![submitted(), claimed(1, "a")];
    Given::with(())
        .given(first.clone())
        .when(fail("a"))
        .then_expect_events(vec![failed(1, Some(SOON))]);
    let second = [first, vec![failed(1, Some(SOON)), claimed(2, "b")]].concat();
    Given::with(())
        .given(second.clone())
        .when(fail("b"))
        .then_expect_events(vec![failed(2, None)]);
    let for_good = [second, vec![failed(2, None)]].concat();
    Given::with(())
        .given(for_good)
        .when(JobCommand::Retry { counted: None })
        .then_expect_events(vec![JobEvent::Retried {
            queue: "media-jobs".into(),
            operation: "resize_image".into(),
            files: vec![],
            priority: 5,
            counted: None,
        }]);
}

#[test]
fn a_counted_unit_goes_back_once_when_the_work_comes_to_nothing() {
    let unit = Unit {
        counter: crate::tier::Counter::AiClipOps,
        month: crate::timestamp::Month(202_611),
    };
    let submitted = JobEvent::Submitted {
        spec: spec(),
        counted: Some(unit),
    };
    let failed = |attempt, retry_at| JobEvent::Failed {
        attempt,
        error: "e".into(),
        code: None,
        retry_at,
    };
    let lapsed = |attempt, retry_at| JobEvent::Lapsed { attempt, retry_at };
    let again = JobEvent::Retried {
        queue: "q".into(),
        operation: "resize_image".into(),
        files: vec![],
        priority: 5,
        counted: Some(unit),
    };
    let before_a_claim = vec![submitted.clone()];
    let running = vec![submitted.clone(), claimed(1, "a")];
    let between = [running.clone(), vec![failed(1, Some(SOON))]].concat();
    let last = [between.clone(), vec![claimed(2, "b")]].concat();
    let retried = [before_a_claim.clone(), vec![JobEvent::Cancelled, again]].concat();
    for (given, event, expected) in [
        (&before_a_claim, JobEvent::Cancelled, Some(unit)),
        (&between, JobEvent::Cancelled, Some(unit)),
        (&retried, JobEvent::Cancelled, Some(unit)),
        (&last, failed(2, None), Some(unit)),
        (&last, lapsed(2, None), Some(unit)),
        (&running, JobEvent::Cancelled, None), // cancelled while a worker had it
        (&running, failed(1, Some(SOON)), None),
        (&running, lapsed(1, Some(SOON)), None),
        (&running, completed(), None),
    ] {
        let mut job = Job::Absent;
        given.iter().for_each(|event| job.evolve(event.clone()));
        assert_eq!(job.gives_back(&event), expected, "{given:?}, {event:?}");
        job.evolve(event.clone());
        assert!(
            job.gives_back(&event).is_none() || matches!(job, Job::Waiting { .. }),
            "once"
        );
    }
}

#[test]
fn back_off_doubles_up_to_ten_minutes() {
    assert_eq!(backoff_millis(1, 1.0), 2000);
    assert_eq!(backoff_millis(3, 1.0), 8000);
    assert_eq!(backoff_millis(3, 0.0), 4000);
    assert_eq!(backoff_millis(u32::MAX, 1.0), 600_000);
}

#[test]
fn a_released_job_has_spent_no_attempt() {
    let release = || JobCommand::Release { lease: "a".into() };
    let released = JobEvent::Released { attempt: 1 };
    let running = vec![submitted(), claimed(1, "a")];
    Given::with(())
        .given(running.clone())
        .when(release())
        .then_expect_events(vec![released.clone()]);
    let back = [running, vec![released]].concat();
    Given::with(())
        .given(back.clone())
        .when(JobCommand::Claim {
            worker: "w".into(),
            lease: "b".into(),
            now: Timestamp(0),
        })
        .then_expect_events(vec![claimed(1, "b")]);
    Given::with(())
        .given(back.clone())
        .when(release())
        .then_expect_events(vec![]);
    let stale = Given::with(())
        .given(back)
        .when(complete("a"))
        .inspect_result();
    assert_eq!(stale.unwrap_err().code, "stale_lease");
}

#[test]
fn the_same_failure_under_the_lease_that_ended_the_attempt_is_no_error() {
    let fail = |lease: &str| JobCommand::Fail {
        lease: lease.into(),
        error: "e".into(),
        code: Some("no_space".into()),
        retryable: true,
        retry_at: SOON,
    };
    let failed = |attempt, retry_at| JobEvent::Failed {
        attempt,
        error: "e".into(),
        code: Some("no_space".into()),
        retry_at,
    };
    let once = vec![submitted(), claimed(1, "a"), failed(1, Some(SOON))];
    let again = [once.clone(), vec![claimed(2, "b")]].concat();
    let for_good = [again.clone(), vec![failed(2, None)]].concat();
    for (given, lease) in [(&once, "a"), (&again, "a"), (&for_good, "b")] {
        Given::with(())
            .given(given.clone())
            .when(fail(lease))
            .then_expect_events(vec![]);
    }
    let lapsed = JobEvent::Lapsed {
        attempt: 1,
        retry_at: Some(SOON),
    };
    let lapsed_for_good = JobEvent::Lapsed {
        attempt: 1,
        retry_at: None,
    };
    let begun = vec![submitted(), claimed(1, "a")];
    for (given, lease) in [
        (&[begun.clone(), vec![lapsed]].concat(), "a"),
        (&[begun, vec![lapsed_for_good]].concat(), "a"),
        (&for_good, "a"),
    ] {
        let refused = Given::with(())
            .given(given.clone())
            .when(fail(lease))
            .inspect_result();
        assert_eq!(refused.unwrap_err().code, "stale_lease", "{given:?}");
    }
}

#[test]
fn only_a_job_that_waits_is_rescheduled_and_asking_twice_is_no_error() {
    let reschedule = |priority, run_at: Option<i64>| JobCommand::Reschedule {
        priority,
        run_at: run_at.map(Timestamp),
        now: Timestamp(100),
    };
    let rescheduled = |priority, run_at: Option<i64>| JobEvent::Rescheduled {
        priority,
        run_at: run_at.map(Timestamp),
    };
    let expect = |given: Vec<JobEvent>, command, expected: Vec<JobEvent>| {
        Given::with(())
            .given(given)
            .when(command)
            .then_expect_events(expected);
    };
    let waiting = vec![submitted()];
    let moved = |priority, run_at| vec![submitted(), rescheduled(priority, run_at)];
    expect(
        waiting.clone(),
        reschedule(Some(2), None),
        vec![rescheduled(2, None)],
    );
    expect(
        waiting.clone(),
        reschedule(None, Some(200)),
        vec![rescheduled(10, Some(200))],
    );
    expect(moved(2, Some(200)), reschedule(Some(2), Some(200)), vec![]);
    expect(
        moved(2, Some(200)),
        reschedule(Some(3), None),
        vec![rescheduled(3, Some(200))],
    );
    expect(
        moved(2, Some(200)),
        reschedule(None, Some(100)),
        vec![rescheduled(2, Some(100))],
    );
    expect(waiting.clone(), reschedule(Some(10), Some(100)), vec![]);
    // The same submission is the same job, whatever its priority is now.
    expect(moved(2, None), submit(spec()), vec![]);
    let running = [waiting, vec![claimed(1, "a")]].concat();
    let ended = [running.clone(), vec![completed()]].concat();
    for (given, code) in [
        (vec![], "not_found"),
        (running, "not_waiting"),
        (ended, "not_waiting"),
    ] {
        let refused = Given::with(())
            .given(given)
            .when(reschedule(Some(1), None))
            .inspect_result();
        assert_eq!(refused.unwrap_err().code, code);
    }
}

#[test]
fn only_a_job_that_has_ended_is_removed_and_its_name_stays_taken() {
    let of = |events: Vec<JobEvent>| {
        events.into_iter().fold(Job::Absent, |mut job, event| {
            job.evolve(event);
            job
        })
    };
    let waiting = of(vec![submitted()]);
    let refused = waiting.decide(JobCommand::Remove).unwrap_err();
    assert_eq!(refused.code, "not_finished");
    let ended = of(vec![submitted(), JobEvent::Cancelled]);
    assert_eq!(
        ended.decide(JobCommand::Remove),
        Ok(vec![JobEvent::Removed])
    );
    let removed = of(vec![submitted(), JobEvent::Cancelled, JobEvent::Removed]);
    assert!(removed.has_ended() && removed.status(SOON) == "cancelled");
    assert_eq!(removed.decide(JobCommand::Remove), Ok(vec![]));
    for command in [JobCommand::Cancel, JobCommand::Retry { counted: None }] {
        assert_eq!(removed.decide(command).unwrap_err().code, "not_found");
    }
    let again = removed.decide(submit(spec())).unwrap_err();
    assert_eq!(again.code, "job_exists");
    assert_eq!(
        removed.decide(complete("l")).unwrap_err().code,
        "stale_lease"
    );
}
