//! The turnstile of a model server: so many at once, interactive chat before captions, and within a class the users take turns.

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

use crate::turn_feed::Stage;

/// Who goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Somebody reads along.
    Chat,
    /// Somebody waits for the whole.
    Caption,
}

#[derive(Debug, Clone)]
pub struct Turnstile(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    slots: usize,
    /// How many may wait.
    room: usize,
    running: usize,
    /// Let in at the door and not yet in line.
    coming: usize,
    classes: [Line; 2],
    /// How long one took lately, smoothed.
    typical: Option<Duration>,
}

/// One class: its users in turn, each with those who wait in order.
#[derive(Debug, Default)]
struct Line {
    turns: VecDeque<UserId>,
    waiting: HashMap<UserId, VecDeque<Waiter>>,
}

#[derive(Debug)]
struct Waiter {
    go: oneshot::Sender<Pass>,
    stage: watch::Sender<Stage>,
}

/// The right to use the model server; given back when dropped.
#[derive(Debug)]
pub struct Pass {
    turnstile: Option<Turnstile>,
    since: Instant,
}

/// One who was let in at the door and is not in line yet; the place is given back when dropped.
#[derive(Debug)]
pub struct Admission(Turnstile);

impl Drop for Admission {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.coming = state.coming.saturating_sub(1);
    }
}

/// A place in the line.
#[derive(Debug)]
pub struct Place {
    /// Resolves when it is one's turn.
    pub go: oneshot::Receiver<Pass>,
    /// Where one stands.
    pub stage: watch::Receiver<Stage>,
}

impl Turnstile {
    /// `slots` at once, `room` waiting.
    pub fn new(slots: usize, room: usize) -> Self {
        let state = State {
            slots: slots.max(1),
            room,
            running: 0,
            coming: 0,
            classes: [Line::default(), Line::default()],
            typical: None,
        };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Lets one more in at the door; `None` when the line is full. What was let in is never turned away later.
    pub fn let_in(&self) -> Option<Admission> {
        let mut state = self.lock();
        let inside = state.running + state.coming + state.waiting();
        if inside >= state.slots + state.room {
            return None;
        }
        state.coming += 1;
        Some(Admission(self.clone()))
    }

    /// How long the line is likely to take, for `Retry-After`.
    pub fn wait_estimate(&self) -> Duration {
        let state = self.lock();
        let waiting = state.waiting() + state.coming;
        state.typical.unwrap_or(Duration::from_secs(5))
            * u32::try_from(waiting.max(1)).unwrap_or(u32::MAX).min(720)
    }

    /// Gets in line.
    pub fn line_up(&self, class: Class, user: UserId) -> Place {
        let (go, going) = oneshot::channel();
        let (stage, staged) = watch::channel(Stage::Accepted);
        let mut state = self.lock();
        state.classes[class as usize].push(user, Waiter { go, stage });
        self.admit(&mut state);
        Place {
            go: going,
            stage: staged,
        }
    }

    fn admit(&self, state: &mut State) {
        while state.running < state.slots {
            let Some(waiter) = state.classes.iter_mut().find_map(Line::pop) else {
                break;
            };
            let pass = Pass {
                turnstile: Some(self.clone()),
                since: Instant::now(),
            };
            match waiter.go.send(pass) {
                Ok(()) => state.running += 1,
                // It stopped waiting. The pass must not give back a slot that it never took.
                Err(mut unused) => unused.turnstile = None,
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
        self.admit(&mut state);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(turnstile) = self.turnstile.take() {
            turnstile.give_back(self.since.elapsed());
        }
    }
}

impl State {
    fn waiting(&self) -> usize {
        self.classes.iter().map(Line::len).sum()
    }

    /// Tells everybody where they stand, in the order in which they would be let in.
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
                        waiter.stage.send_replace(Stage::Queued {
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

impl Line {
    fn push(&mut self, user: UserId, waiter: Waiter) {
        let waiters = self.waiting.entry(user).or_default();
        if waiters.is_empty() {
            self.turns.push_back(user);
        }
        waiters.push_back(waiter);
    }

    fn pop(&mut self) -> Option<Waiter> {
        let user = self.turns.pop_front()?;
        let waiters = self.waiting.get_mut(&user)?;
        let first = waiters.pop_front();
        match waiters.is_empty() {
            true => {
                self.waiting.remove(&user);
            }
            false => self.turns.push_back(user),
        }
        first
    }

    fn len(&self) -> usize {
        // Those who stopped waiting are still in line until it is their turn.
        self.waiting
            .values()
            .flatten()
            .filter(|waiter| !waiter.go.is_closed())
            .count()
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
        let turnstile = Turnstile::new(1, 10);
        let mut running = turnstile.line_up(Class::Caption, user(9));
        let pass = running.go.try_recv().unwrap();
        let mut caption = turnstile.line_up(Class::Caption, user(1));
        let mut ada_1 = turnstile.line_up(Class::Chat, user(1));
        let mut ada_2 = turnstile.line_up(Class::Chat, user(1));
        let mut bob = turnstile.line_up(Class::Chat, user(2));
        let place = |place: &Place| match *place.stage.borrow() {
            Stage::Queued { place, .. } => place,
            _ => 0,
        };
        assert_eq!(
            [place(&ada_1), place(&bob), place(&ada_2), place(&caption)],
            [1, 2, 3, 4]
        );
        drop(pass);
        let pass = ada_1.go.try_recv().unwrap();
        assert!(bob.go.try_recv().is_err(), "one at a time");
        drop(pass);
        let pass = bob.go.try_recv().unwrap();
        drop(pass);
        drop(ada_2.go.try_recv().unwrap());
        drop(caption.go.try_recv().unwrap());
    }

    #[test]
    fn who_leaves_the_line_holds_nobody_up() {
        let turnstile = Turnstile::new(1, 10);
        let pass = turnstile
            .line_up(Class::Chat, user(1))
            .go
            .try_recv()
            .unwrap();
        drop(turnstile.line_up(Class::Chat, user(2)));
        let mut bob = turnstile.line_up(Class::Chat, user(3));
        drop(pass);
        let _pass = bob.go.try_recv().unwrap();
        assert!(
            turnstile
                .line_up(Class::Chat, user(4))
                .go
                .try_recv()
                .is_err()
        );
    }

    #[test]
    fn a_pass_that_was_granted_and_never_taken_comes_back() {
        let turnstile = Turnstile::new(1, 10);
        drop(turnstile.line_up(Class::Chat, user(1))); // granted into a channel that nobody reads
        assert!(
            turnstile
                .line_up(Class::Chat, user(2))
                .go
                .try_recv()
                .is_ok()
        );
    }

    #[test]
    fn the_line_has_an_end() {
        let turnstile = Turnstile::new(1, 1);
        let first = turnstile.let_in().unwrap();
        let second = turnstile.let_in().unwrap();
        assert!(
            turnstile.let_in().is_none(),
            "a burst at the door is counted too"
        );
        let _running = turnstile.line_up(Class::Chat, user(1));
        drop(first);
        let waiting = turnstile.line_up(Class::Chat, user(2));
        drop(second);
        assert!(turnstile.let_in().is_none());
        drop(waiting);
        assert!(
            turnstile.let_in().is_some(),
            "who stopped waiting takes no place"
        );
    }
}
