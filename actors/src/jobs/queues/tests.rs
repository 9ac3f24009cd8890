use serde_json::json;
use uuid::Uuid;

use super::*;

const NOW: Timestamp = Timestamp(100);

struct Board(JobQueues, u64);

fn job_id(n: u64) -> JobId {
    JobId(Uuid::from_u128(n.into()))
}

fn user_id(n: u128) -> UserId {
    UserId(Uuid::from_u128(n))
}

fn number_of(operation: &str) -> OperationNumber {
    OperationNumber::parse(operation).unwrap()
}

fn media() -> ClaimScope {
    ClaimScope::of_worker(&["media-jobs"], None)
}

fn only(operation: &str) -> ClaimScope {
    ClaimScope::of_worker(&["media-jobs"], Some(&[number_of(operation)]))
}

/// A time in seconds after the board's start.
fn at(seconds: i64) -> Timestamp {
    NOW.plus_seconds(seconds)
}

impl Board {
    fn new() -> Self {
        Self(JobQueues::new(NOW), 0)
    }

    fn see(&mut self, user: u128, job: u64, sequence: u64, event_type: &str, clear: Value) -> bool {
        self.1 += 1;
        let step = JobStep {
            owner_seq: self.1,
            job: job_id(job),
            user: user_id(user),
            sequence,
            event_type: event_type.into(),
            clear: serde_json::from_value(clear).unwrap(),
        };
        self.0.see(&step, NOW).is_some()
    }

    fn submit(&mut self, user: u128, job: u64, priority: i64) {
        self.submit_for(
            user,
            job,
            json!({"operation": "thumbnail", "priority": priority}),
        );
    }

    fn submit_for(&mut self, user: u128, job: u64, clear: Value) {
        assert!(self.see(user, job, 1, "job.submitted", clear));
    }

    fn take(&mut self) -> Option<JobId> {
        self.0.take(&media()).map(|offer| offer.job)
    }

    fn wait(&self, job: u64) -> Option<JobWait> {
        self.0.wait(&job_id(job), NOW)
    }
}

#[test]
fn users_take_turns_and_within_a_user_priority_goes_first() {
    let mut board = Board::new();
    for job in 1..=3 {
        board.submit(1, job, 10);
    }
    board.submit(1, 4, 1);
    board.submit(2, 5, 10);
    let order: Vec<JobId> = std::iter::from_fn(|| board.take()).collect();
    assert_eq!(order, [4, 5, 1, 2, 3].map(job_id));
}

#[test]
fn a_claim_gets_only_what_it_asks_for() {
    let mut board = Board::new();
    board.submit_for(1, 1, json!({"operation": "join_videos", "priority": 1}));
    board.submit_for(1, 2, json!({"operation": "thumbnail", "priority": 10}));
    board.submit_for(2, 3, json!({"operation": "join_videos", "priority": 10}));
    board.submit_for(
        1,
        4,
        json!({"operation": "caption_generation", "priority": 1}),
    );
    board.submit_for(1, 5, json!({"operation": "publish_post", "priority": 1}));
    let mut next = |scope: &ClaimScope| board.0.take(scope).map(|offer| offer.job);
    assert_eq!(next(&only("crop_video")), None);
    assert_eq!(next(&only("thumbnail")), Some(job_id(2)));
    assert_eq!(next(&only("thumbnail")), None);
    // The user who had a turn goes after the other one.
    assert_eq!(next(&media()), Some(job_id(3)));
    assert_eq!(next(&media()), Some(job_id(1)));
    assert_eq!(next(&media()), None, "the server writes captions itself");
    assert_eq!(next(&ClaimScope::of_captions()), Some(job_id(4)));
    assert_eq!(
        next(&ClaimScope::of_worker(&["scrape-jobs"], None)),
        Some(job_id(5))
    );
}

#[test]
fn a_delayed_job_waits_for_its_time() {
    let mut board = Board::new();
    board.submit_for(
        1,
        1,
        json!({"operation": "thumbnail", "priority": 10, "run_at": 200}),
    );
    assert_eq!(
        (board.take(), board.0.pass_time(Timestamp(199))),
        (None, vec![])
    );
    assert_eq!(board.0.next_due(), Some(Timestamp(200)));
    assert_eq!(board.wait(1), Some(JobWait::Until(Timestamp(200))));
    assert_eq!(board.0.pass_time(Timestamp(200)), [number_of("thumbnail")]);
    assert_eq!((board.take(), board.0.next_due()), (Some(job_id(1)), None));
}

#[test]
fn a_claimed_job_is_gone_and_a_lapsed_one_comes_back() {
    let mut board = Board::new();
    board.submit(1, 1, 10);
    board.see(1, 1, 2, "job.claimed", json!({"attempt": 1}));
    assert_eq!(board.take(), None);
    let lapsed = json!({"attempt": 1, "retry_at": 50});
    assert!(board.see(1, 1, 3, "job.lapsed", lapsed.clone()));
    assert!(!board.see(1, 1, 3, "job.lapsed", lapsed), "seen before");
    board.0.pass_time(NOW);
    assert_eq!(board.take(), Some(job_id(1)));
    board.see(1, 1, 4, "job.claimed", json!({"attempt": 2}));
    board.see(1, 1, 5, "job.failed", json!({"attempt": 2}));
    assert_eq!(board.take(), None);
    let retried = json!({"operation": "thumbnail", "priority": 5});
    assert!(board.see(1, 1, 6, "job.retried", retried));
    assert_eq!(board.take(), Some(job_id(1)));
}

#[test]
fn a_released_job_waits_in_its_old_place_and_a_rescheduled_one_in_its_new() {
    let mut board = Board::new();
    for job in 1..=3 {
        board.submit(1, job, 10);
    }
    board.see(1, 1, 2, "job.claimed", json!({"attempt": 1}));
    assert!(board.see(1, 1, 3, "job.released", json!({"attempt": 1})));
    assert!(board.see(1, 3, 2, "job.rescheduled", json!({"priority": 2})));
    assert!(board.see(
        1,
        2,
        2,
        "job.rescheduled",
        json!({"priority": 10, "run_at": 200})
    ));
    let order: Vec<JobId> = std::iter::from_fn(|| board.take()).collect();
    assert_eq!(order, [3, 1].map(job_id));
    board.0.pass_time(Timestamp(200));
    assert_eq!(board.take(), Some(job_id(2)));
}

#[test]
fn nothing_waits_for_who_was_forgotten() {
    let mut board = Board::new();
    board.submit(1, 1, 10);
    board.submit(2, 2, 10);
    board.submit_for(
        1,
        3,
        json!({"operation": "thumbnail", "priority": 10, "run_at": 200}),
    );
    board.0.suspend(user_id(1), NOW);
    board.0.drop_user(user_id(1), NOW);
    assert_eq!((board.take(), board.take()), (Some(job_id(2)), None));
    assert_eq!(
        board.0.pass_time(at(3600)),
        [],
        "nor when its time has come"
    );
    let left: Vec<&UserId> = board.0.owners.keys().collect();
    assert_eq!((left, board.0.next_due()), (vec![&user_id(2)], None));
}

#[test]
fn a_job_that_could_not_be_handed_out_goes_back_once() {
    let mut board = Board::new();
    board.submit(1, 1, 10);
    let offer = board.0.take(&media()).unwrap();
    board.0.put_back(&offer);
    board.0.put_back(&offer);
    assert_eq!(board.take(), Some(job_id(1)));
    assert_eq!(board.take(), None);
    board.see(1, 1, 2, "job.claimed", json!({"attempt": 1}));
    board.0.put_back(&offer);
    assert_eq!(board.take(), None, "it was claimed meanwhile");
}

#[test]
fn a_job_that_had_ended_and_is_queued_again_is_on_a_board_that_never_knew_it() {
    let mut board = Board::new();
    let retried = json!({"operation": "thumbnail", "priority": 5});
    assert!(board.see(1, 1, 3, "job.retried", retried.clone()));
    assert_eq!(board.take(), Some(job_id(1)));
    board.see(1, 1, 4, "job.cancelled", json!({}));
    assert!(board.see(1, 1, 5, "job.retried", retried));
    board.see(1, 1, 6, "job.cancelled", json!({}));
    assert_eq!(
        (
            board.take(),
            board.0.jobs.len(),
            board.0.owners.len(),
            board.0.count("media-jobs")
        ),
        (None, 0, 0, 0),
        "what has ended is forgotten"
    );
}

#[test]
fn the_jobs_of_a_suspended_user_are_parked_until_the_user_is_back() {
    let mut board = Board::new();
    board.submit(1, 1, 10);
    board.submit(2, 2, 10);
    let offer = board.0.take(&media()).unwrap();
    board.0.suspend(user_id(1), NOW);
    board.0.put_back(&offer);
    board.submit(1, 3, 10);
    assert_eq!(
        (board.wait(1), board.wait(3)),
        (Some(JobWait::UserSuspended), Some(JobWait::UserSuspended))
    );
    assert_eq!(
        board.wait(2),
        Some(JobWait::Turn { place: 1 }),
        "parked jobs go before nobody"
    );
    assert_eq!((board.take(), board.take()), (Some(job_id(2)), None));
    let back: Vec<_> = board.0.resume(user_id(1)).iter().collect();
    assert_eq!(back, [number_of("thumbnail")]);
    assert_eq!(board.wait(3), Some(JobWait::Turn { place: 2 }));
    assert_eq!(
        (board.take(), board.take(), board.take()),
        (Some(job_id(1)), Some(job_id(3)), None)
    );
    assert_eq!(board.0.resume(user_id(1)).iter().count(), 0, "not on hold");
}

#[test]
fn an_owner_who_cannot_be_asked_is_passed_over_for_longer_each_time() {
    let mut board = Board::new();
    board.submit(1, 1, 10);
    board.submit(2, 2, 10);
    let mut now = NOW;
    let mut pauses = Vec::new();
    for _ in 0..4 {
        assert_eq!(
            board.0.take(&only("thumbnail")).map(|offer| {
                board.0.pass_over(offer.user, 1000, now);
                board.0.pass_over(offer.user, 1000, now);
                board.0.put_back(&offer);
                offer.user
            }),
            Some(user_id(1))
        );
        let due = board.0.next_due().unwrap();
        pauses.push((due.0 - now.0) / 1000);
        if pauses.len() == 1 {
            assert_eq!(
                (board.take(), board.take()),
                (Some(job_id(2)), None),
                "others go on"
            );
        }
        now = due;
        assert_eq!(board.0.pass_time(now), [number_of("thumbnail")]);
    }
    assert_eq!(pauses, [250, 500, 1000, 1000]);
    board.0.owner_answered(user_id(1), Tier::Starter);
    board.0.pass_over(user_id(1), 1000, now);
    assert_eq!(board.0.next_due(), Some(now.plus_millis(250)));
}

#[test]
fn a_job_that_cannot_be_read_does_not_hold_up_its_owners_others() {
    let mut board = Board::new();
    board.submit(1, 1, 10);
    board.submit(1, 2, 10);
    let offer = board.0.take(&media()).unwrap();
    board.0.pass_over(offer.user, 60_000, NOW);
    board.0.put_off(&offer, at(600));
    assert_eq!(board.take(), None);
    board.0.pass_time(at(1));
    assert_eq!((board.take(), board.take()), (Some(job_id(2)), None));
    board.0.pass_time(at(600));
    assert_eq!(board.take(), Some(job_id(1)));
}

#[test]
fn no_worker_is_known_when_none_has_asked_for_such_jobs_for_a_minute() {
    let mut board = Board::new();
    board.submit_for(1, 1, json!({"operation": "thumbnail", "priority": 10}));
    board.submit_for(2, 2, json!({"operation": "join_videos", "priority": 10}));
    board.submit_for(3, 3, json!({"operation": "join_videos", "priority": 10}));
    let wait = |board: &Board, job, seconds| board.0.wait(&job_id(job), at(seconds)).unwrap();
    // A server that has just started gives workers time to come back.
    assert_eq!(wait(&board, 1, 59), JobWait::Turn { place: 1 });
    assert_eq!(wait(&board, 1, 60), JobWait::NoWorker);
    board.0.claim_began(&only("join_videos"));
    assert_eq!(wait(&board, 1, 1000), JobWait::NoWorker);
    assert_eq!(wait(&board, 3, 1000), JobWait::Turn { place: 3 });
    board.0.claim_ended(&only("join_videos"), at(1000));
    assert_eq!(wait(&board, 3, 1059), JobWait::Turn { place: 3 });
    assert_eq!(wait(&board, 3, 1060), JobWait::NoWorker);
    // A worker that has a job does the other jobs that it asked for, too.
    let both = [number_of("thumbnail"), number_of("join_videos")];
    let both = ClaimScope::of_worker(&["media-jobs"], Some(&both));
    let offer = board.0.take(&both).unwrap();
    assert_eq!(offer.job, job_id(1));
    board.see(1, 1, 2, "job.claimed", json!({"attempt": 1}));
    assert_eq!(wait(&board, 3, 9000), JobWait::Turn { place: 2 });
    board.see(1, 1, 3, "job.completed", json!({"attempt": 1}));
    assert_eq!(wait(&board, 3, 9000), JobWait::NoWorker);
    // A worker of another server shows by the jobs that it holds.
    board.see(2, 2, 2, "job.claimed", json!({"attempt": 1}));
    assert_eq!(wait(&board, 3, 9000), JobWait::Turn { place: 1 });
    assert_eq!(board.0.wait(&job_id(2), NOW), None, "it runs");
}

#[test]
fn the_times_of_waiting_and_running_are_told() {
    let mut board = Board::new();
    let thumbnail = json!({"operation": "thumbnail", "priority": 10});
    let mut step = JobStep {
        owner_seq: 1,
        job: job_id(1),
        user: user_id(1),
        sequence: 1,
        event_type: "job.submitted".into(),
        clear: serde_json::from_value(thumbnail).unwrap(),
    };
    board.0.see(&step, at(1));
    for (sequence, event_type, seconds) in [
        (2, "job.claimed", 3),
        (3, "job.released", 4),
        (4, "job.claimed", 5),
        (5, "job.completed", 15),
    ] {
        step.sequence = sequence;
        step.event_type = event_type.into();
        board.0.see(&step, at(seconds));
    }
    let times = board.0.times(at(20));
    let of = |queue: &str| times.iter().find(|(name, _)| *name == queue).unwrap().1;
    let media = of("media-jobs");
    assert_eq!(
        (
            media.wait.count,
            media.run.count,
            of("scrape-jobs").wait.count
        ),
        (2, 1, 0)
    );
    assert!(
        media.wait.p50.abs_diff(1000) < 20 && media.wait.p99.abs_diff(2000) < 20,
        "{media:?}"
    );
    assert!(media.run.p99.abs_diff(10_000) < 100, "{media:?}");
}

#[test]
fn how_a_user_stood_is_learned_unless_more_is_known() {
    let mut board = Board::new();
    for n in [1, 2] {
        board.submit(n, n as u64, 10);
    }
    board.0.knows(user_id(2));
    for user in 1..=3 {
        let standing = OwnerStanding {
            user: user_id(user),
            may_act: false,
            tier: Tier::Studio,
        };
        board.0.learn(&standing, NOW);
    }
    assert_eq!(board.wait(1), Some(JobWait::UserSuspended));
    assert_ne!(board.wait(2), Some(JobWait::UserSuspended));
    assert_eq!(board.take(), Some(job_id(2)));
    assert_eq!(board.take(), None);
    assert_eq!(
        board.0.owners().len(),
        2,
        "a user without jobs has no entry"
    );
}
