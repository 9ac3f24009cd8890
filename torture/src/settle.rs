//! The end of a run: nothing is broken any more, and everything has to come to rest. The log is read from its beginning, and
//! every user's read side is held against a fresh replay of that user's facts until they are equal.

use std::{sync::Arc, time::Duration};

use genie_log::{Body, Log, LogError};
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
    verdict::{Finding, Verdict},
};

/// How long it may take until one thing more has come to rest: longer than any lease of a turn, a caption or a job.
const REST: Duration = Duration::from_secs(60);
/// How long everything together may take.
const LONGEST: Duration = Duration::from_secs(900);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// Rows read at once.
const PAGE: usize = 1000;

/// What everything came to.
pub struct Settled {
    pub verdict: Verdict,
    /// The last position.
    pub head: u64,
    /// From the last fault or command until the read side was what a fresh replay gives; `None` when it never was.
    pub took: Option<Duration>,
    pub feeds_resumed: u64,
    /// Users whose read side was compared.
    pub compared: usize,
    /// Subscribers without notes.
    pub broken: Vec<String>,
}

/// What is still to be compared.
pub struct Rest<'a> {
    pub arena: Arc<Arena>,
    pub log: &'a Log,
    pub users: Vec<SimulatedUser>,
    pub subscribers: Vec<JoinHandle<FeedNotes>>,
    pub last: watch::Sender<Option<u64>>,
    pub chance: StdRng,
}

impl Rest<'_> {
    /// Waits, reads, compares. `since` is when the last fault was mended and the last command answered.
    pub async fn settle(mut self, books: &Books, since: Instant) -> Settled {
        let mut checker = Checker::new(books);
        let mut verdict = Verdict::default();
        let (mut head, mut took) = (0, None);
        let (began, mut progressed) = (Instant::now(), Instant::now());
        let mut restless: Vec<usize> = (0..self.users.len()).collect();
        loop {
            let is_over = progressed.elapsed() >= REST || began.elapsed() >= LONGEST;
            let before = head;
            let read = read_on(self.log, &mut checker, &mut head).await;
            if let Err(error) = &read
                && (is_over || !matches!(error, LogError::Away(_)))
            {
                verdict.add(
                    Finding::Missing,
                    format!("after position {head} the log can't be read: {error}"),
                );
                break;
            }
            if head > before {
                restless = (0..self.users.len()).collect(); // what happened meanwhile may be anybody's
            }
            if is_over || (read.is_ok() && checker.unfinished() == 0) {
                let compared = restless.len();
                let found = self.compare(&mut restless, head).await;
                if restless.len() < compared {
                    progressed = Instant::now();
                }
                let grown = self
                    .log
                    .rows(head, 1)
                    .await
                    .map_or(true, |rows| !rows.is_empty());
                if found.is_empty() && !grown {
                    took = Some(since.elapsed());
                    break;
                }
                if is_over {
                    found
                        .into_iter()
                        .for_each(|sentence| verdict.add(Finding::Order, sentence));
                    break;
                }
            }
            sleep(LOOK).await;
        }
        let until = head;
        let (feeds, feeds_resumed, broken) = self.end_feeds(until).await;
        // What the subscribers may have seen beyond it.
        if let Err(error) = read_on(self.log, &mut checker, &mut head).await {
            verdict.add(
                Finding::Missing,
                format!("after position {head} the log can't be read: {error}"),
            );
        }
        let (found, expected) = checker.finish();
        verdict.join(found);
        feeds
            .into_iter()
            .for_each(|notes| verdict.join(notes.check(&expected, until)));
        Settled {
            verdict,
            head,
            took,
            feeds_resumed,
            compared: self.users.len(),
            broken,
        }
    }

    async fn end_feeds(&mut self, head: u64) -> (Vec<FeedNotes>, u64, Vec<String>) {
        self.last.send_replace(Some(head));
        let (mut feeds, mut resumed, mut broken) = (Vec::new(), 0, Vec::new());
        for subscriber in self.subscribers.drain(..) {
            match subscriber.await {
                Ok(notes) => {
                    resumed += notes.resumed;
                    feeds.push(notes);
                }
                Err(error) => broken.push(format!("a subscriber's task ended by itself: {error}")),
            }
        }
        (feeds, resumed, broken)
    }

    /// What differs between the read side at a position and a fresh replay, of those who did not rest yet. Who does, leaves them.
    async fn compare(&mut self, restless: &mut Vec<usize>, head: u64) -> Vec<String> {
        let (mut found, mut still) = (Vec::new(), Vec::new());
        for n in restless.drain(..) {
            let user = &self.users[n];
            let mut replay = Replay::default();
            let read = self.log.user_facts(user.id, |fact| {
                if let Body::Open(event, _) = fact.body {
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
        *restless = still;
        found
    }
}

/// Shows the checker everything after `head`, which moves on.
async fn read_on(log: &Log, checker: &mut Checker<'_>, head: &mut u64) -> Result<(), LogError> {
    loop {
        let rows = log.rows(*head, PAGE).await?;
        for row in &rows {
            let fact = log.open_row(row).await?;
            checker.see(&SeenFact::of(&fact, row.slice));
            *head = row.position;
        }
        if rows.len() < PAGE {
            return Ok(());
        }
    }
}
