use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn user_id(n: u128) -> UserId {
    UserId(Uuid::from_u128(n))
}

fn operation(n: usize) -> OperationNumber {
    OperationNumber::all().nth(n).unwrap()
}

fn all() -> OperationSet {
    OperationNumber::all().collect()
}

fn job(n: u64, priority: i64, operation_number: usize) -> ReadyJob {
    ReadyJob {
        job: JobId(Uuid::from_u128(n.into())),
        operation: operation(operation_number),
        priority,
        submitted: n,
    }
}

/// A queue in which each of these users has put so many jobs, one user after the other.
fn line(jobs_of_users: &[u64], weight: impl Fn(u128) -> u32) -> QueueLine {
    let mut line = QueueLine::default();
    let mut n = 0;
    for (user, jobs) in (0..).zip(jobs_of_users) {
        for _ in 0..*jobs {
            n += 1;
            line.put(user_id(user), job(n, 10, 0), weight(user), false);
        }
    }
    line
}

fn users_of(line: &mut QueueLine, starts: usize) -> Vec<u128> {
    let taken = std::iter::from_fn(|| line.take(all()));
    taken
        .take(starts)
        .map(|(user, _)| user.0.as_u128())
        .collect()
}

/// Jain's index: 1 when all have the same, 1/n when one of n has all.
fn jain(shares: &[usize]) -> f64 {
    let sum: f64 = shares.iter().map(|share| *share as f64).sum();
    let squares: f64 = shares.iter().map(|share| (*share as f64).powi(2)).sum();
    sum * sum / (shares.len() as f64 * squares)
}

#[test]
fn a_user_with_thousands_of_jobs_hardly_delays_the_others() {
    let many = [&[5000][..], &[100; 9]].concat();
    let starts = users_of(&mut line(&many, |_| 1), 1000);
    let shares: Vec<usize> = (0..10)
        .map(|user| starts.iter().filter(|start| **start == user).count())
        .collect();
    assert!(jain(&shares) >= 0.95, "{shares:?}");
    // The wait of a job is the number of starts before its own.
    let waits = |starts: &[u128], user: u128| -> usize {
        let own = starts
            .iter()
            .enumerate()
            .filter(|(_, start)| **start == user);
        own.map(|(place, _)| place + 1).sum()
    };
    let alone = users_of(&mut line(&[&[0][..], &[100; 9]].concat(), |_| 1), 900);
    for user in 1..10 {
        let (with, without) = (waits(&starts, user), waits(&alone, user));
        assert!(
            with as f64 <= 1.5 * without as f64,
            "{with} beside {without}"
        );
    }
}

#[test]
fn a_tier_has_so_many_jobs_in_a_turn() {
    let mut two = line(&[100, 100], |user| [1, 4][user as usize]);
    assert_eq!(users_of(&mut two, 10), [0, 1, 1, 1, 1, 0, 1, 1, 1, 1]);
    two.set_weight(user_id(1), 2);
    assert_eq!(
        users_of(&mut two, 9),
        [0, 1, 1, 1, 1, 0, 1, 1, 0],
        "from the next turn on"
    );
}

#[test]
fn the_last_priority_starts_within_its_bound() {
    let mut line = QueueLine::default();
    let user = user_id(1);
    // Two older jobs wait before the one that nobody hurries for.
    for n in 1..=3 {
        line.put(user, job(n, 1_000_000, 0), 1, false);
    }
    let mut n = 3;
    for start in 1.. {
        // The user goes on and on with urgent jobs.
        n += 1;
        line.put(user, job(n, 0, 1), 1, false);
        let (_, started) = line.take(all()).unwrap();
        if started.0.as_u128() == 3 {
            assert_eq!(start, STARTS_BY_AGE * 3);
            break;
        }
        assert!(start < STARTS_BY_AGE * 3);
    }
}

#[test]
fn who_comes_back_at_once_does_not_overtake() {
    let mut line = line(&[10, 1], |_| 1);
    let mut order = Vec::new();
    for n in 100..110 {
        let (user, _) = line.take(all()).unwrap();
        order.push(user.0.as_u128());
        if user == user_id(1) {
            line.put(user, job(n, 0, 0), 1, false);
        }
    }
    assert_eq!(order, [0, 1, 0, 1, 0, 1, 0, 1, 0, 1]);
}

#[derive(Debug, Clone)]
enum Change {
    Put {
        user: u128,
        priority: i64,
        operation: usize,
        weight: u32,
    },
    Remove(usize),
    Take(Vec<usize>),
    Hold(u128),
    Resume(u128),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => (0..5_u128, 0..3_i64, 0..3_usize, 1..4_u32)
            .prop_map(|(user, priority, operation, weight)| Change::Put { user, priority, operation, weight }),
        1 => any::<usize>().prop_map(Change::Remove),
        3 => prop::collection::vec(0..3_usize, 1..3).prop_map(Change::Take),
        1 => (0..5_u128).prop_map(Change::Hold),
        1 => (0..5_u128).prop_map(Change::Resume),
    ]
}

proptest! {
    /// Whatever happens: a claim gets a job exactly when one waits that it asks for, and each job is handed out once.
    #[test]
    fn each_job_is_handed_out_once(changes in prop::collection::vec(change(), 1..200)) {
        let mut line = QueueLine::default();
        let mut waiting: Vec<(u128, ReadyJob)> = Vec::new();
        let mut held = BTreeSet::new();
        for (n, change) in (1..).zip(changes) {
            match change {
                Change::Put { user, priority, operation, weight } => {
                    let job = job(n, priority, operation);
                    line.put(user_id(user), job, weight, held.contains(&user));
                    waiting.push((user, job));
                }
                Change::Remove(nth) if !waiting.is_empty() => {
                    let (user, job) = waiting.swap_remove(nth % waiting.len());
                    line.remove(user_id(user), &job);
                    line.remove(user_id(user), &job);
                }
                Change::Remove(_) => {}
                Change::Take(operations) => {
                    let set: OperationSet = operations.iter().map(|n| operation(*n)).collect();
                    let may_go = |(user, job): &&(u128, ReadyJob)| {
                        !held.contains(user) && set.contains(job.operation)
                    };
                    let wanted = waiting.iter().any(|entry| may_go(&entry));
                    prop_assert_eq!(wanted, line.ready(set).iter().next().is_some());
                    let taken = line.take(set);
                    prop_assert_eq!(taken.is_some(), wanted);
                    if let Some((user, taken)) = taken {
                        let at = waiting.iter().position(|(_, job)| job.job == taken).unwrap();
                        prop_assert!(may_go(&&waiting[at]));
                        prop_assert_eq!(user_id(waiting[at].0), user);
                        waiting.remove(at);
                    }
                }
                Change::Hold(user) => {
                    held.insert(user);
                    line.hold(user_id(user));
                }
                Change::Resume(user) => {
                    held.remove(&user);
                    line.resume(user_id(user));
                }
            }
            prop_assert_eq!(line.count(), waiting.len());
            // The line keeps a hold only of users who wait.
            held.retain(|user| waiting.iter().any(|(waits, _)| waits == user));
        }
    }

    /// The places of all jobs are the order in which they start.
    #[test]
    fn a_place_is_the_number_of_the_start(
        jobs in prop::collection::vec((0..6_u128, 0..3_usize), 1..80),
        taken in 0..20_usize,
        weights in prop::collection::vec(1..4_u32, 6),
    ) {
        let mut line = QueueLine::default();
        let mut waiting = BTreeMap::new();
        for (n, (user, operation)) in (1..).zip(jobs) {
            let job = job(n, 10, operation);
            line.put(user_id(user), job, weights[user as usize], false);
            waiting.insert(job.job, (user_id(user), job));
        }
        for _ in 0..taken {
            if let Some((_, job)) = line.take(all()) {
                waiting.remove(&job);
            }
        }
        let mut places: Vec<_> = waiting
            .values()
            .map(|(user, job)| (line.place(*user, job).unwrap(), job.job))
            .collect();
        places.sort();
        let order: Vec<_> = (1..).zip(std::iter::from_fn(|| line.take(all()).map(|(_, job)| job))).collect();
        prop_assert_eq!(places, order);
    }

    /// With several priorities of one user a place is never much too low.
    #[test]
    fn a_place_with_priorities_is_hardly_ever_too_low(
        priorities in prop::collection::vec(0..4_i64, 1..80),
    ) {
        let mut line = QueueLine::default();
        let user = user_id(1);
        let jobs: Vec<_> = (1..).zip(priorities).map(|(n, priority)| job(n, priority, 0)).collect();
        for job in &jobs {
            line.put(user, *job, 1, false);
        }
        let places: BTreeMap<_, _> =
            jobs.iter().map(|job| (job.job, line.place(user, job).unwrap())).collect();
        for start in 1..=jobs.len() {
            let (_, job) = line.take(all()).unwrap();
            let place = places[&job];
            let most = place + place.div_ceil(STARTS_BY_AGE as usize - 1);
            prop_assert!(start <= most, "place {place}, start {start}");
        }
    }
}

#[test]
fn with_very_many_users_a_place_is_an_estimate_that_looks_at_few() {
    let users = 10_000;
    let mut line = QueueLine::default();
    for user in 0..users {
        for n in 0..3 {
            line.put(user_id(user), job(user as u64 * 3 + n, 10, 0), 1, false);
        }
    }
    let place = |user: u128, n: u64| {
        line.place(user_id(user), &job(user as u64 * 3 + n, 10, 0))
            .unwrap()
    };
    for (user, n, right) in [
        (users / 2, 0, 5000),
        (users / 2, 1, 15_000),
        (users - 1, 2, 30_000),
    ] {
        let shown = place(user, n);
        assert!(shown.abs_diff(right) < 1500, "{shown} instead of {right}");
    }
    assert!(place(0, 0) == 1);
}
