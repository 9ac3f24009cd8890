//! The turnstile before the model servers: so many answers at once on each, and so many that may wait. Interactive chat
//! goes before captions, and captions before jobs. Within a class the users take turns, by the weights of their tiers.

use std::{collections::HashMap, sync::Arc, time::Duration};

use genie_events::{UserId, tier::Tier};
use parking_lot::{Mutex, MutexGuard};
use tokio::{sync::oneshot, time::Instant};

use crate::turn_feed::TurnStage;

mod line;
mod servers;

use line::{LinePlace, ModelLine};
use servers::ModelServers;

/// Of the waiters who go first, so many are looked at for one whose model is loaded.
const LOOKED_AT: usize = 8;
/// A waiter lets others with a loaded model go before it so often. Loading a model takes seconds to minutes.
const LET_BY: usize = 4;
/// How often one who waits looks at its place.
const LOOK: Duration = Duration::from_secs(1);
/// The guess at the duration of an answer before there was one.
const TYPICAL: Duration = Duration::from_secs(5);

/// The classes, in the order of their turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum QueueClass {
    /// A user reads along.
    Chat,
    /// A user waits for the whole text.
    Caption,
    /// Nobody waits.
    Job,
}

impl QueueClass {
    pub const ALL: [Self; 3] = [Self::Chat, Self::Caption, Self::Job];
}

/// What a request asks for.
#[derive(Debug, Clone)]
pub struct ModelRequest {
    pub class: QueueClass,
    pub user: UserId,
    pub tier: Tier,
    pub model: String,
}

#[derive(Debug, Clone)]
pub struct ModelQueue(Arc<Mutex<QueueState>>);

#[derive(Debug)]
struct QueueState {
    servers: ModelServers,
    /// How many may wait.
    room: usize,
    /// Admitted and not yet in line.
    coming: usize,
    line: ModelLine,
    /// By their numbers.
    waiting: HashMap<u64, Waiter>,
    /// Answers whose server failed before their first token. They have had their turn, so they go first.
    moving: Vec<MovingAnswer>,
    /// The number of the next waiter.
    next: u64,
    /// The smoothed duration of the latest runs.
    typical: Option<Duration>,
}

#[derive(Debug)]
struct Waiter {
    place: LinePlace,
    request: ModelRequest,
    /// How often another went first because its model was loaded.
    let_by: usize,
    go: oneshot::Sender<QueuePass>,
}

#[derive(Debug)]
struct MovingAnswer {
    model: String,
    /// Servers that failed.
    tried: Vec<usize>,
    go: oneshot::Sender<QueuePass>,
}

/// The right to use one model server. It is given back when dropped.
#[derive(Debug)]
pub struct QueuePass {
    /// `None` once nothing is to be given back.
    queue: Option<ModelQueue>,
    server: usize,
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
    number: u64,
    /// Resolves at the turn.
    pass: oneshot::Receiver<QueuePass>,
}

impl ModelQueue {
    /// `servers` with `places` answers at once and `room` waiting on each.
    pub fn new(servers: usize, places: usize, room: usize) -> Self {
        let servers = ModelServers::new(servers, places);
        Self(Arc::new(Mutex::new(QueueState {
            room: room.saturating_mul(servers.count()),
            servers,
            coming: 0,
            line: ModelLine::default(),
            waiting: HashMap::new(),
            moving: Vec::new(),
            next: 0,
            typical: None,
        })))
    }

    /// Admits one more; `None` when the line is full. An admitted request is never turned away later.
    pub fn admit(&self) -> Option<QueueAdmission> {
        let mut state = self.lock();
        let inside = state.servers.running() + state.coming + state.line.len();
        if inside >= state.servers.places() + state.room {
            return None;
        }
        state.coming += 1;
        Some(QueueAdmission(self.clone()))
    }

    /// The estimated wait of one more, for `Retry-After`.
    pub fn wait_estimate(&self) -> Duration {
        let state = self.lock();
        let waiting = state.line.len() + state.coming;
        let typical = state.typical.unwrap_or(TYPICAL);
        state.wait_for(waiting.max(1), typical)
    }

    pub fn enqueue(&self, request: ModelRequest) -> QueueTicket {
        let (go, pass) = oneshot::channel();
        let mut state = self.lock();
        state.next += 1;
        let number = state.next;
        let weight = request.tier.jobs_in_a_turn().into();
        let place = state.line.join(request.class, request.user, weight, number);
        let waiter = Waiter {
            place,
            request,
            let_by: 0,
            go,
        };
        state.waiting.insert(number, waiter);
        self.start_next(&mut state);
        QueueTicket {
            queue: self.clone(),
            number,
            pass,
        }
    }

    /// A pass to another server for an answer whose server failed before its first token; `None` when all failed.
    pub async fn elsewhere(
        &self,
        pass: QueuePass,
        model: &str,
        tried: &mut Vec<usize>,
    ) -> Option<QueuePass> {
        let moved = {
            let mut state = self.lock();
            state.servers.failed(pass.server, Instant::now());
            tried.push(pass.server);
            if tried.len() >= state.servers.count() {
                return None;
            }
            let (go, moved) = oneshot::channel();
            state.moving.push(MovingAnswer {
                model: model.to_owned(),
                tried: tried.clone(),
                go,
            });
            moved
        };
        drop(pass); // the place becomes free, and the next waiters go
        moved.await.ok()
    }

    fn start_next(&self, state: &mut QueueState) {
        let now = Instant::now();
        self.start_moving(state, now);
        loop {
            let Some(first) = state.line.first().next() else {
                break;
            };
            let Some(waiter) = state.waiting.get(&first.number) else {
                break;
            };
            let model = &waiter.request.model;
            let Some(server) = state.servers.free_for(model, &[], now) else {
                break;
            };
            let number = state.chosen(first, server);
            let Some(waiter) = state.waiting.remove(&number) else {
                break;
            };
            state.line.start(waiter.place, waiter.request.user);
            self.hand_out(state, server, &waiter.request.model, waiter.go);
        }
        if state.line.len() == 0 && state.servers.running() == 0 {
            state.line.rest();
        }
    }

    fn start_moving(&self, state: &mut QueueState, now: Instant) {
        for moving in std::mem::take(&mut state.moving) {
            if moving.go.is_closed() {
                continue; // it was stopped
            }
            match state.servers.free_for(&moving.model, &moving.tried, now) {
                Some(server) => self.hand_out(state, server, &moving.model, moving.go),
                None => state.moving.push(moving),
            }
        }
    }

    fn hand_out(
        &self,
        state: &mut QueueState,
        server: usize,
        model: &str,
        go: oneshot::Sender<QueuePass>,
    ) {
        let pass = QueuePass {
            queue: Some(self.clone()),
            server,
            since: Instant::now(),
        };
        match go.send(pass) {
            Ok(()) => state.servers.begin(server, model),
            // The waiter is gone. The pass must not give back a place that it never took.
            Err(mut unused) => unused.queue = None,
        }
    }

    fn give_back(&self, server: usize, took: Duration) {
        let mut state = self.lock();
        state.servers.end(server);
        let typical = state.typical;
        state.typical = Some(typical.map_or(took, |typical| (typical * 3 + took) / 4));
        self.start_next(&mut state);
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.0.lock()
    }
}

impl QueueTicket {
    /// Waits for the turn, and tells the place whenever it has changed.
    pub async fn wait(&mut self, mut tell: impl FnMut(TurnStage)) -> Option<QueuePass> {
        let mut told = None;
        let mut looks = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                biased;
                pass = &mut self.pass => return pass.ok(),
                _ = looks.tick() => {
                    // A server that was away may be back, which nobody tells.
                    self.queue.start_next(&mut self.queue.lock());
                    let stage = self.stage();
                    if told != Some(stage) {
                        tell(stage);
                        told = Some(stage);
                    }
                }
            }
        }
    }

    /// The place in the line, and the estimated wait. A user with a higher claim may still come before.
    fn stage(&self) -> TurnStage {
        let state = self.queue.lock();
        let Some(waiter) = state.waiting.get(&self.number) else {
            return TurnStage::Running; // its pass is under way
        };
        let place = state.line.rank(waiter.place);
        let eta = state.typical.map(|typical| state.wait_for(place, typical));
        TurnStage::Queued {
            place,
            eta_ms: eta.map(|eta| u64::try_from(eta.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

impl Drop for QueueTicket {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        if let Some(waiter) = state.waiting.remove(&self.number) {
            let weight = waiter.request.tier.jobs_in_a_turn().into();
            state.line.leave(waiter.place, waiter.request.user, weight);
        }
    }
}

impl QueuePass {
    /// The number of the server, from 0.
    pub fn server(&self) -> usize {
        self.server
    }

    /// A token came: the server is well.
    pub fn answered(&self) {
        if let Some(queue) = &self.queue {
            queue.lock().servers.answered(self.server);
        }
    }
}

impl Drop for QueuePass {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.give_back(self.server, self.since.elapsed());
        }
    }
}

impl QueueState {
    /// The wait of one at this place, from 1.
    fn wait_for(&self, place: usize, typical: Duration) -> Duration {
        let rounds = place.div_ceil(self.servers.places());
        typical * u32::try_from(rounds).unwrap_or(u32::MAX).min(720)
    }

    /// Who goes to this server: the first, or one shortly after it whose model is loaded there.
    fn chosen(&mut self, first: LinePlace, server: usize) -> u64 {
        let Some(loaded) = self.servers.model(server) else {
            return first.number;
        };
        let model_of = |place: LinePlace| {
            let waiter = self.waiting.get(&place.number);
            waiter.map(|waiter| waiter.request.model.as_str())
        };
        if model_of(first) == Some(loaded) {
            return first.number;
        }
        let nearest = self.line.first().take(LOOKED_AT);
        let mut fitting = nearest.filter(|place| model_of(*place) == Some(loaded));
        let Some(fitting) = fitting.next() else {
            return first.number;
        };
        match self.waiting.get_mut(&first.number) {
            Some(waiter) if waiter.let_by < LET_BY => {
                waiter.let_by += 1;
                fitting.number
            }
            _ => first.number,
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn request(class: QueueClass, user: u128, model: &str) -> ModelRequest {
        ModelRequest {
            class,
            user: UserId(Uuid::from_u128(user)),
            tier: Tier::Starter,
            model: model.to_owned(),
        }
    }

    fn chat(queue: &ModelQueue, user: u128) -> QueueTicket {
        queue.enqueue(request(QueueClass::Chat, user, "m"))
    }

    fn place(ticket: &QueueTicket) -> usize {
        match ticket.stage() {
            TurnStage::Queued { place, .. } => place,
            _ => 0,
        }
    }

    #[test]
    fn one_at_a_time_chat_first_users_in_turn() {
        let queue = ModelQueue::new(1, 1, 10);
        let mut running = queue.enqueue(request(QueueClass::Caption, 9, "m"));
        let pass = running.pass.try_recv().unwrap();
        let mut caption = queue.enqueue(request(QueueClass::Caption, 1, "m"));
        let mut ada_1 = chat(&queue, 1);
        let mut ada_2 = chat(&queue, 1);
        let mut bob = chat(&queue, 2);
        let places = [&ada_1, &bob, &ada_2, &caption].map(place);
        assert_eq!(places, [1, 2, 3, 4]);
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
        let queue = ModelQueue::new(1, 1, 10);
        let pass = chat(&queue, 1).pass.try_recv().unwrap();
        let leaving = chat(&queue, 2);
        let mut bob = chat(&queue, 3);
        assert_eq!(place(&bob), 2);
        drop(leaving);
        assert_eq!(place(&bob), 1);
        for _ in 0..1000 {
            drop(chat(&queue, 2));
        }
        assert_eq!(queue.lock().waiting.len(), 1);
        assert_eq!(queue.lock().line.len(), 1);
        drop(pass);
        let _pass = bob.pass.try_recv().unwrap();
        assert!(chat(&queue, 4).pass.try_recv().is_err());
    }

    #[test]
    fn a_pass_that_was_granted_and_never_taken_comes_back() {
        let queue = ModelQueue::new(1, 1, 10);
        drop(chat(&queue, 1)); // granted into a channel that nobody reads
        assert!(chat(&queue, 2).pass.try_recv().is_ok());
    }

    #[test]
    fn the_line_has_an_end() {
        let queue = ModelQueue::new(1, 1, 1);
        let first = queue.admit().unwrap();
        let second = queue.admit().unwrap();
        assert!(
            queue.admit().is_none(),
            "a burst at the door is counted too"
        );
        let _running = chat(&queue, 1);
        drop(first);
        let waiting = chat(&queue, 2);
        drop(second);
        assert!(queue.admit().is_none());
        drop(waiting);
        assert!(
            queue.admit().is_some(),
            "who stopped waiting takes no place"
        );
    }

    #[test]
    fn a_loaded_model_goes_before_a_few_times() {
        let queue = ModelQueue::new(1, 1, 100);
        let mut pass = chat(&queue, 1).pass.try_recv().unwrap();
        let mut other = queue.enqueue(request(QueueClass::Chat, 2, "n"));
        let mut of_loaded: Vec<_> = (3..12).map(|user| chat(&queue, user)).collect();
        for ticket in &mut of_loaded[..LET_BY] {
            assert_eq!(place(&other), 1);
            drop(pass);
            pass = ticket.pass.try_recv().unwrap();
        }
        drop(pass);
        pass = other.pass.try_recv().unwrap();
        drop(pass);
        assert!(of_loaded[LET_BY].pass.try_recv().is_ok());
    }

    #[tokio::test]
    async fn an_answer_moves_to_another_server_before_its_first_token() {
        let queue = ModelQueue::new(2, 1, 10);
        let first = chat(&queue, 1).pass.try_recv().unwrap();
        let second = chat(&queue, 2).pass.try_recv().unwrap();
        assert_eq!((first.server(), second.server()), (0, 1));
        let mut waiting = chat(&queue, 3);
        let mut tried = vec![];
        let mut moving = Box::pin(queue.elsewhere(first, "m", &mut tried));
        assert!(futures_util::poll!(&mut moving).is_pending(), "both run");
        assert!(waiting.pass.try_recv().is_err(), "the free server is away");
        drop(second);
        let moved = moving.await.unwrap();
        assert_eq!(moved.server(), 1, "it goes before who waits");
        assert!(queue.elsewhere(moved, "m", &mut tried).await.is_none());
        assert_eq!(tried, [0, 1]);
        assert!(
            waiting.pass.try_recv().is_ok(),
            "all are away, so they are asked"
        );
    }
}
