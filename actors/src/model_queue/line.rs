//! The order of those who wait: the class first, then the users in turn by their weights, then the arrival. It is
//! start-time fair queueing (Goyal, Vin and Cheng, 1996) with one unit of cost for each answer. A change and a question
//! cost O(log n).

use std::collections::{BTreeSet, HashMap};

use genie_events::UserId;
use indexset::BTreeSet as RankedSet;

use super::QueueClass;

/// The cost of an answer for a user of weight 1. It can be divided by each weight.
const UNIT: u64 = 840;

/// The most users of a class of whom nobody waits and whose turns are remembered.
const MOST_RESTING: usize = 1024;

/// The place of one who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LinePlace {
    class: QueueClass,
    /// The fair time at which the answer starts.
    start: u64,
    pub number: u64,
}

/// All classes.
#[derive(Debug, Default)]
pub(super) struct ModelLine {
    classes: [FairClass; QueueClass::ALL.len()],
}

/// One class.
#[derive(Debug, Default)]
struct FairClass {
    order: RankedSet<LinePlace>,
    /// The fair time: the start of the answer that left the line last.
    now: u64,
    users: HashMap<UserId, UserShare>,
    /// Users of whom nobody waits, by the fair time at which they are even with the others.
    resting: BTreeSet<(u64, UserId)>,
}

/// A user's share of a class.
#[derive(Debug, Default)]
struct UserShare {
    /// The fair time at which the user's next answer starts.
    next: u64,
    waiting: usize,
}

impl ModelLine {
    pub fn len(&self) -> usize {
        self.classes.iter().map(|class| class.order.len()).sum()
    }

    pub fn join(&mut self, class: QueueClass, user: UserId, weight: u64, number: u64) -> LinePlace {
        let start = self.classes[class as usize].join(user, weight);
        let place = LinePlace {
            class,
            start,
            number,
        };
        self.classes[class as usize].order.insert(place);
        place
    }

    /// Takes out one who goes to the model.
    pub fn start(&mut self, place: LinePlace, user: UserId) {
        let class = &mut self.classes[place.class as usize];
        if class.order.remove(&place) {
            class.now = class.now.max(place.start);
            class.left(user);
            class.forget_even_users();
        }
    }

    /// Takes out one who stopped waiting. It costs its user nothing, when it was the user's last.
    pub fn leave(&mut self, place: LinePlace, user: UserId, weight: u64) {
        let class = &mut self.classes[place.class as usize];
        if class.order.remove(&place) {
            if let Some(share) = class.users.get_mut(&user)
                && share.next == place.start + UNIT / weight
            {
                share.next = place.start;
            }
            class.left(user);
            class.forget_even_users();
        }
    }

    /// Those who go first, of the first class in which somebody waits.
    pub fn first(&self) -> impl Iterator<Item = LinePlace> {
        let class = self.classes.iter().find(|class| !class.order.is_empty());
        class
            .into_iter()
            .flat_map(|class| class.order.iter().copied())
    }

    /// From 1, in the order of the turns to come.
    pub fn rank(&self, place: LinePlace) -> usize {
        let before = &self.classes[..place.class as usize];
        let before: usize = before.iter().map(|class| class.order.len()).sum();
        before + self.classes[place.class as usize].order.rank(&place) + 1
    }

    /// Forgets who had a turn. Called when nobody waits and nothing runs.
    pub fn rest(&mut self) {
        *self = Self::default();
    }
}

impl FairClass {
    /// The fair time at which the user's new answer starts.
    fn join(&mut self, user: UserId, weight: u64) -> u64 {
        let share = self.users.entry(user).or_default();
        if share.waiting == 0 {
            self.resting.remove(&(share.next, user));
        }
        let start = share.next.max(self.now);
        share.next = start + UNIT / weight;
        share.waiting += 1;
        start
    }

    fn left(&mut self, user: UserId) {
        if let Some(share) = self.users.get_mut(&user) {
            share.waiting = share.waiting.saturating_sub(1);
            if share.waiting == 0 {
                self.resting.insert((share.next, user));
            }
        }
    }

    /// A user whose next answer would start now is as good as a new one. So is the first of too many.
    fn forget_even_users(&mut self) {
        while let Some((next, user)) = self.resting.first().copied()
            && (next <= self.now || self.resting.len() > MOST_RESTING)
        {
            self.resting.pop_first();
            self.users.remove(&user);
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn user(n: u64) -> UserId {
        UserId(Uuid::from_u128(n.into()))
    }

    /// Lines with the users of those who wait.
    #[derive(Default)]
    struct Waiting {
        line: ModelLine,
        users: HashMap<u64, (UserId, u64)>,
    }

    impl Waiting {
        fn join(&mut self, class: QueueClass, of: u64, weight: u64) -> LinePlace {
            let number = self.users.len() as u64;
            self.users.insert(number, (user(of), weight));
            self.line.join(class, user(of), weight, number)
        }

        /// Starts the first. Returns its user.
        fn start(&mut self) -> UserId {
            let first = self.line.first().next().unwrap();
            assert_eq!(self.line.rank(first), 1);
            let (of, _) = self.users[&first.number];
            self.line.start(first, of);
            of
        }
    }

    #[test]
    fn a_user_with_many_questions_holds_nobody_up() {
        let mut waiting = Waiting::default();
        for _ in 0..100 {
            waiting.join(QueueClass::Chat, 1, 1);
        }
        assert_eq!(waiting.start(), user(1));
        assert_eq!(waiting.start(), user(1));
        let bob = waiting.join(QueueClass::Chat, 2, 1);
        assert_eq!(waiting.line.rank(bob), 1);
        waiting.join(QueueClass::Chat, 2, 1);
        let next: Vec<_> = (0..4).map(|_| waiting.start()).collect();
        assert_eq!(next, [user(2), user(1), user(2), user(1)]);
    }

    #[test]
    fn who_runs_already_comes_after_who_does_not() {
        let mut waiting = Waiting::default();
        waiting.join(QueueClass::Chat, 1, 1);
        waiting.start();
        waiting.join(QueueClass::Chat, 1, 1);
        waiting.join(QueueClass::Chat, 2, 1);
        assert_eq!(waiting.start(), user(2));
        waiting.start();
        waiting.line.rest();
        waiting.join(QueueClass::Chat, 1, 1);
        waiting.join(QueueClass::Chat, 2, 1);
        assert_eq!(waiting.start(), user(1));
    }

    #[test]
    fn weights_are_shares() {
        let mut waiting = Waiting::default();
        for _ in 0..200 {
            waiting.join(QueueClass::Chat, 1, 1);
            waiting.join(QueueClass::Chat, 4, 4);
        }
        let started: Vec<_> = (0..100).map(|_| waiting.start()).collect();
        let of_four = started.iter().filter(|of| **of == user(4)).count();
        assert!((79..=81).contains(&of_four), "{of_four}");
    }

    #[test]
    fn chat_comes_before_captions_and_captions_before_jobs() {
        let mut waiting = Waiting::default();
        let job = waiting.join(QueueClass::Job, 1, 1);
        let caption = waiting.join(QueueClass::Caption, 2, 1);
        let chat = waiting.join(QueueClass::Chat, 3, 1);
        let ranks = [chat, caption, job].map(|place| waiting.line.rank(place));
        assert_eq!(ranks, [1, 2, 3]);
        let started: Vec<_> = (0..3).map(|_| waiting.start()).collect();
        assert_eq!(started, [user(3), user(2), user(1)]);
    }

    #[test]
    fn leaving_costs_nothing_and_leaves_nothing() {
        let mut waiting = Waiting::default();
        waiting.join(QueueClass::Chat, 9, 1);
        for _ in 0..100 {
            let place = waiting.join(QueueClass::Chat, 1, 1);
            waiting.line.leave(place, user(1), 1);
        }
        let ada = waiting.join(QueueClass::Chat, 1, 1);
        waiting.join(QueueClass::Chat, 2, 1);
        assert_eq!(waiting.line.rank(ada), 2);
        for n in 0..3000 {
            waiting.join(QueueClass::Chat, n, 1);
            waiting.start();
        }
        let class = &waiting.line.classes[0];
        let (known, resting) = (class.users.len(), class.resting.len());
        assert!(resting <= MOST_RESTING, "{resting}");
        assert!(known <= resting + waiting.line.len(), "{known}");
    }
}
