//! The end of a run. Nothing is broken any more, and everything has to come to rest. The log is read from its beginning, and the
//! read side of every user is compared with a fresh replay of that user's facts until both are equal.

use std::{sync::Arc, time::Duration};

use genie_log::{FactBody, Log, LogError};
use rand::rngs::StdRng;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{
    check::{Checker, SeenFact},
    client::{Arena, Books},
    feed_notes::FeedNotes,
    read_side,
    replay::{Replay, differences},
    simulated_users::SimulatedUser,
    verdict::{Mistake, RunVerdict},
};

/// The longest wait for the next sign of progress: longer than any lease of a turn, a caption or a job.
const REST: Duration = Duration::from_secs(60);
/// The longest wait for everything together.
const LONGEST: Duration = Duration::from_secs(900);
/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// Rows read at once.
const PAGE: usize = 1000;

/// The result of a run.
pub struct Settled {
    pub verdict: RunVerdict,
    pub head: u64,
    /// The time from the last fault or command until the read side equalled a fresh replay; `None` when it never did.
    pub took: Option<Duration>,
    pub feeds_resumed: u64,
    /// Users whose read side was compared.
    pub compared: usize,
    /// Subscribers without notes.
    pub broken: Vec<String>,
}

/// A run that comes to rest, and what has to be compared.
pub struct Rest<'a> {
    pub arena: Arc<Arena>,
    pub log: &'a Log,
    pub users: Vec<SimulatedUser>,
    pub subscribers: Vec<JoinHandle<FeedNotes>>,
    pub last: watch::Sender<Option<u64>>,
    pub chance: StdRng,
}

impl Rest<'_> {
    /// Waits, reads and compares. `since` is when the last fault was mended and the last command answered.
    pub async fn settle(mut self, books: &Books, since: Instant) -> Settled {
        let hashes = self.log.hashes();
        let request_ids = books.ledger.request_ids(|text| hashes.request_id(text));
        let mut checker = Checker::new(books, request_ids);
        let mut verdict = RunVerdict::default();
        let mut head = 0;
        let took = self
            .come_to_rest(&mut checker, &mut verdict, &mut head)
            .await
            .map(|at| at - since);
        let until = head;
        let (feeds, feeds_resumed, broken) = self.end_feeds(until).await;
        // Subscribers may have seen rows beyond it.
        if let Err(error) = read_on(self.log, &mut checker, &mut head).await {
            verdict.add(Mistake::Missing, unreadable(head, &error));
        }
        let (found, expected) = checker.finish();
        verdict.join(found);
        for notes in feeds {
            verdict.join(notes.check(&expected, until));
        }
        Settled {
            verdict,
            head,
            took,
            feeds_resumed,
            compared: self.users.len(),
            broken,
        }
    }

    /// Returns when the read side was seen to equal a fresh replay; `None` when it did not come to that in time.
    async fn come_to_rest(
        &mut self,
        checker: &mut Checker<'_>,
        verdict: &mut RunVerdict,
        head: &mut u64,
    ) -> Option<Instant> {
        let began = Instant::now();
        let mut progressed = began;
        let mut unequal: Vec<usize> = (0..self.users.len()).collect();
        loop {
            let is_over = progressed.elapsed() >= REST || began.elapsed() >= LONGEST;
            let before = *head;
            let read = read_on(self.log, checker, head).await;
            if let Err(error) = &read
                && (is_over || !matches!(error, LogError::Away(_)))
            {
                verdict.add(Mistake::Missing, unreadable(*head, error));
                return None;
            }
            if *head > before {
                unequal = (0..self.users.len()).collect(); // the new facts may be anybody's
            }
            if is_over || (read.is_ok() && checker.unfinished() == 0) {
                let compared = unequal.len();
                let found = self.compare(&mut unequal, *head).await;
                if unequal.len() < compared {
                    progressed = Instant::now();
                }
                if found.is_empty() && !self.has_grown(*head).await {
                    return Some(Instant::now());
                }
                if is_over {
                    for sentence in found {
                        verdict.add(Mistake::Order, sentence);
                    }
                    return None;
                }
            }
            sleep(LOOK).await;
        }
    }

    /// True when there are rows after `head`, or the log cannot be read.
    async fn has_grown(&self, head: u64) -> bool {
        let rows = self.log.reader().rows(head, 1).await;
        rows.map_or(true, |rows| !rows.is_empty())
    }

    async fn end_feeds(&mut self, head: u64) -> (Vec<FeedNotes>, u64, Vec<String>) {
        self.last.send_replace(Some(head));
        let mut feeds = Vec::new();
        let mut resumed = 0;
        let mut broken = Vec::new();
        for subscriber in self.subscribers.drain(..) {
            match subscriber.await {
                Ok(notes) => {
                    resumed += notes.resumed;
                    feeds.push(notes);
                }
                Err(error) => broken.push(format!("a subscriber's task failed: {error}")),
            }
        }
        (feeds, resumed, broken)
    }

    /// Compares the read side of the users that were not equal yet with a fresh replay. Removes those that are now.
    async fn compare(&mut self, unequal: &mut Vec<usize>, head: u64) -> Vec<String> {
        let mut found = Vec::new();
        let mut still = Vec::new();
        for n in unequal.drain(..) {
            let user = &self.users[n];
            let mut replay = Replay::default();
            let reader = self.log.reader();
            let read = reader.user_facts(user.id, |fact| {
                if let FactBody::Open(event, _) = fact.body {
                    replay.see(&fact.stream, event);
                }
            });
            let read = read.await;
            let shown = read_side::shown(&self.arena, &mut self.chance, &user.token, head).await;
            let differing = match (read, shown) {
                (Ok(()), Some(shown)) => {
                    differences(&replay.lines(self.log.clock().now().month()), &shown)
                }
                (Err(error), _) => vec![format!("their facts can't be read: {error}")],
                (_, None) => vec!["the read side does not answer".to_owned()],
            };
            if !differing.is_empty() {
                still.push(n);
            }
            found.extend(
                differing
                    .into_iter()
                    .map(|sentence| format!("user {}: {sentence}", user.id)),
            );
        }
        *unequal = still;
        found
    }
}

fn unreadable(head: u64, error: &LogError) -> String {
    format!("after position {head} the log can't be read: {error}")
}

/// Shows the checker everything after `head`, which moves on.
async fn read_on(log: &Log, checker: &mut Checker<'_>, head: &mut u64) -> Result<(), LogError> {
    loop {
        let rows = log.reader().rows(*head, PAGE).await?;
        for row in &rows {
            let fact = log.reader().open_row(row).await?;
            checker.see(&SeenFact::of(&fact, row.slice));
            *head = row.position;
        }
        if rows.len() < PAGE {
            return Ok(());
        }
    }
}
