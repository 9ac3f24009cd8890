//! The queue before a model server: so many at once, interactive chat before captions. Within a class the users take
//! turns.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use genie_events::UserId;
use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use crate::turn_feed::TurnStage;

/// The classes, in the order of their turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueClass {
    /// A user reads along.
    Chat,
    /// A user waits for the whole text.
    Caption,
}

#[derive(Debug, Clone)]
pub struct ModelQueue(Arc<Mutex<QueueState>>);

#[derive(Debug)]
struct QueueState {
    slots: usize,
    /// How many may wait.
    room: usize,
    running: usize,
    /// Admitted and not yet in line.
    coming: usize,
    classes: [ClassQueue; 2],
    /// The number of the next waiter.
    next: u64,
    /// The smoothed duration of the latest runs.
    typical: Option<Duration>,
}

/// One class: its users in turn, and each user's waiters in order.
#[derive(Debug, Default)]
struct ClassQueue {
    turns: VecDeque<UserId>,
    waiting: HashMap<UserId, VecDeque<Waiter>>,
    /// How many wait, of all users.
    count: usize,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    go: oneshot::Sender<QueuePass>,
    stage: watch::Sender<TurnStage>,
}

/// The right to use the model server. It is given back when dropped.
#[derive(Debug)]
pub struct QueuePass {
    queue: Option<ModelQueue>,
    since: Instant,
}

/// The place of a request that is admitted and not in line yet. It is given back when dropped.
#[derive(Debug)]
pub struct QueueAdmission(ModelQueue);

impl Drop for QueueAdmission {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.coming = state.coming.saturating_sub(1);
    }
}

/// A place in the line. It is given back when dropped.
#[derive(Debug)]
pub struct QueueTicket {
    queue: ModelQueue,
    class: QueueClass,
    user: UserId,
    number: u64,
    /// Resolves at the turn.
    pub pass: oneshot::Receiver<QueuePass>,
    /// The place in the line.
    pub stage: watch::Receiver<TurnStage>,
}

impl ModelQueue {
    /// `slots` at once, `room` waiting.
    pub fn new(slots: usize, room: usize) -> Self {
        let state = QueueState {
            slots: slots.max(1),
            room,
            running: 0,
            coming: 0,
            classes: [ClassQueue::default(), ClassQueue::default()],
            next: 0,
            typical: None,
        };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Admits one more; `None` when the line is full. An admitted request is never turned away later.
    pub fn admit(&self) -> Option<QueueAdmission> {
        let mut state = self.lock();
        let inside = state.running + state.coming + state.waiting();
        if inside >= state.slots + state.room {
            return None;
        }
        state.coming += 1;
        Some(QueueAdmission(self.clone()))
    }

    /// The estimated wait, for `Retry-After`.
    pub fn wait_estimate(&self) -> Duration {
        let state = self.lock();
        let waiting = state.waiting() + state.coming;
        state.typical.unwrap_or(Duration::from_secs(5))
            * u32::try_from(waiting.max(1)).unwrap_or(u32::MAX).min(720)
    }

    pub fn enqueue(&self, class: QueueClass, user: UserId) -> QueueTicket {
        let (go, going) = oneshot::channel();
        let (stage, staged) = watch::channel(TurnStage::Accepted);
        let mut state = self.lock();
        state.next += 1;
        let number = state.next;
        state.classes[class as usize].push(user, Waiter { number, go, stage });
        self.start_next(&mut state);
        QueueTicket {
            queue: self.clone(),
            class,
            user,
            number,
            pass: going,
            stage: staged,
        }
    }

    fn start_next(&self, state: &mut QueueState) {
        while state.running < state.slots {
            let Some(waiter) = state.classes.iter_mut().find_map(ClassQueue::pop) else {
                break;
            };
            let pass = QueuePass {
                queue: Some(self.clone()),
                since: Instant::now(),
            };
            match waiter.go.send(pass) {
                Ok(()) => state.running += 1,
                // The waiter is gone. The pass must not give back a slot that it never took.
                Err(mut unused) => unused.queue = None,
            }
        }
        state.tell_places();
    }

    fn give_back(&self, took: Duration) {
        let mut state = self.lock();
        state.running = state.running.saturating_sub(1);
        state.typical = Some(
            state
                .typical
                .map_or(took, |typical| (typical * 3 + took) / 4),
        );
        self.start_next(&mut state);
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.0.lock()
    }
}

impl Drop for QueueTicket {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        if state.classes[self.class as usize].remove(self.user, self.number) {
            state.tell_places();
        }
    }
}

impl Drop for QueuePass {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.give_back(self.since.elapsed());
        }
    }
}

impl QueueState {
    fn waiting(&self) -> usize {
        self.classes.iter().map(|class| class.count).sum()
    }

    /// Tells every waiter its place, in the order of the turns to come.
    fn tell_places(&self) {
        let mut place = 0;
        for line in &self.classes {
            for round in 0.. {
                let mut anybody = false;
                for user in &line.turns {
                    if let Some(waiter) = line
                        .waiting
                        .get(user)
                        .and_then(|waiters| waiters.get(round))
                    {
                        anybody = true;
                        place += 1;
                        let eta = self.typical.map(|typical| {
                            typical * place / u32::try_from(self.slots).unwrap_or(1)
                        });
                        let eta_ms =
                            eta.map(|eta| u64::try_from(eta.as_millis()).unwrap_or(u64::MAX));
                        waiter.stage.send_replace(TurnStage::Queued {
                            place: place as usize,
                            eta_ms,
                        });
                    }
                }
                if !anybody {
                    break;
                }
            }
        }
    }
}

impl ClassQueue {
    fn push(&mut self, user: UserId, waiter: Waiter) {
        let waiters = self.waiting.entry(user).or_default();
        if waiters.is_empty() {
            self.turns.push_back(user);
        }
        waiters.push_back(waiter);
        self.count += 1;
    }

    /// Takes a waiter who leaves out of the line. Returns whether it was there.
    fn remove(&mut self, user: UserId, number: u64) -> bool {
        let Some(waiters) = self.waiting.get_mut(&user) else {
            return false;
        };
        let before = waiters.len();
        waiters.retain(|waiter| waiter.number != number);
        let left = before - waiters.len();
        if waiters.is_empty() {
            self.waiting.remove(&user);
            self.turns.retain(|turn| *turn != user);
        }
        self.count -= left;
        left > 0
    }

    fn pop(&mut self) -> Option<Waiter> {
        let user = self.turns.pop_front()?;
        let waiters = self.waiting.get_mut(&user)?;
        let first = waiters.pop_front()?;
        self.count -= 1;
        if waiters.is_empty() {
            self.waiting.remove(&user);
        } else {
            self.turns.push_back(user);
        }
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn user(n: u128) -> UserId {
        UserId(Uuid::from_u128(n))
    }

    #[test]
    fn one_at_a_time_chat_first_users_in_turn() {
        let queue = ModelQueue::new(1, 10);
        let mut running = queue.enqueue(QueueClass::Caption, user(9));
        let pass = running.pass.try_recv().unwrap();
        let mut caption = queue.enqueue(QueueClass::Caption, user(1));
        let mut ada_1 = queue.enqueue(QueueClass::Chat, user(1));
        let mut ada_2 = queue.enqueue(QueueClass::Chat, user(1));
        let mut bob = queue.enqueue(QueueClass::Chat, user(2));
        let place = |place: &QueueTicket| match *place.stage.borrow() {
            TurnStage::Queued { place, .. } => place,
            _ => 0,
        };
        assert_eq!(
            [place(&ada_1), place(&bob), place(&ada_2), place(&caption)],
            [1, 2, 3, 4]
        );
        drop(pass);
        let pass = ada_1.pass.try_recv().unwrap();
        assert!(bob.pass.try_recv().is_err(), "one at a time");
        drop(pass);
        let pass = bob.pass.try_recv().unwrap();
        drop(pass);
        drop(ada_2.pass.try_recv().unwrap());
        drop(caption.pass.try_recv().unwrap());
    }

    #[test]
    fn a_waiter_that_leaves_holds_nobody_up() {
        let queue = ModelQueue::new(1, 10);
        let pass = queue
            .enqueue(QueueClass::Chat, user(1))
            .pass
            .try_recv()
            .unwrap();
        let leaving = queue.enqueue(QueueClass::Chat, user(2));
        let mut bob = queue.enqueue(QueueClass::Chat, user(3));
        drop(leaving);
        let place = *bob.stage.borrow();
        assert!(
            matches!(place, TurnStage::Queued { place: 1, .. }),
            "{place:?}"
        );
        for _ in 0..1000 {
            drop(queue.enqueue(QueueClass::Chat, user(2)));
        }
        assert_eq!(queue.lock().classes[0].waiting.len(), 1);
        assert_eq!(queue.lock().waiting(), 1);
        drop(pass);
        let _pass = bob.pass.try_recv().unwrap();
        assert!(
            queue
                .enqueue(QueueClass::Chat, user(4))
                .pass
                .try_recv()
                .is_err()
        );
    }

    #[test]
    fn a_pass_that_was_granted_and_never_taken_comes_back() {
        let queue = ModelQueue::new(1, 10);
        drop(queue.enqueue(QueueClass::Chat, user(1))); // granted into a channel that nobody reads
        assert!(
            queue
                .enqueue(QueueClass::Chat, user(2))
                .pass
                .try_recv()
                .is_ok()
        );
    }

    #[test]
    fn the_line_has_an_end() {
        let queue = ModelQueue::new(1, 1);
        let first = queue.admit().unwrap();
        let second = queue.admit().unwrap();
        assert!(
            queue.admit().is_none(),
            "a burst at the door is counted too"
        );
        let _running = queue.enqueue(QueueClass::Chat, user(1));
        drop(first);
        let waiting = queue.enqueue(QueueClass::Chat, user(2));
        drop(second);
        assert!(queue.admit().is_none());
        drop(waiting);
        assert!(
            queue.admit().is_some(),
            "who stopped waiting takes no place"
        );
    }
}
