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

use crate::torture::{
    check::{Checker, Seen},
    client::{Arena, Books},
    feed::Notes,
    people::Person,
    read_side,
    replay::{Replay, differences},
    verdict::{Count, Verdict},
};

/// How long everything may take to come to rest: longer than any lease of a turn, a caption or a job.
const REST: Duration = Duration::from_secs(60);
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
    pub people: Vec<Person>,
    pub subscribers: Vec<JoinHandle<Notes>>,
    pub last: watch::Sender<Option<u64>>,
    pub chance: StdRng,
}

impl Rest<'_> {
    /// Waits, reads, compares. `since` is when the last fault was mended and the last command answered.
    pub async fn settle(mut self, books: &Books, since: Instant) -> Settled {
        let mut checker = Checker::new(books);
        let mut verdict = Verdict::default();
        let (mut head, mut took) = (0, None);
        let deadline = Instant::now() + REST;
        loop {
            let read = read_on(self.log, &mut checker, &mut head).await;
            let is_over = Instant::now() >= deadline;
            if let Err(error) = &read
                && (is_over || !matches!(error, LogError::Away(_)))
            {
                verdict.add(Count::Missing, format!("after position {head} the log can't be read: {error}"));
                break;
            }
            if is_over || (read.is_ok() && checker.unfinished() == 0) {
                let found = self.compare(head).await;
                // What happened meanwhile may be why they differ.
                let grown = self.log.rows(head, 1).await.map_or(true, |rows| !rows.is_empty());
                if found.is_empty() && !grown {
                    took = Some(since.elapsed());
                    break;
                }
                if is_over {
                    found.into_iter().for_each(|sentence| verdict.add(Count::Order, sentence));
                    break;
                }
            }
            sleep(LOOK).await;
        }
        let until = head;
        let (feeds, feeds_resumed, broken) = self.end_feeds(until).await;
        // What the subscribers may have seen beyond it.
        if let Err(error) = read_on(self.log, &mut checker, &mut head).await {
            verdict.add(Count::Missing, format!("after position {head} the log can't be read: {error}"));
        }
        let (found, expected) = checker.finish();
        verdict.join(found);
        feeds.into_iter().for_each(|notes| verdict.join(notes.check(&expected, until)));
        Settled { verdict, head, took, feeds_resumed, compared: self.people.len(), broken }
    }

    async fn end_feeds(&mut self, head: u64) -> (Vec<Notes>, u64, Vec<String>) {
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

    /// What differs between the read side at a position and a fresh replay.
    async fn compare(&mut self, head: u64) -> Vec<String> {
        let mut found = Vec::new();
        for person in &self.people {
            let mut replay = Replay::default();
            let read = self.log.user_facts(person.id, |fact| {
                if let Body::Open(event, _) = fact.body {
                    replay.see(&fact.stream, event);
                }
            });
            let read = read.await;
            let shown = read_side::shown(&self.arena, &mut self.chance, &person.token, head).await;
            match (read, shown) {
                (Ok(()), Some(shown)) => {
                    let expected = replay.lines(self.log.clock().now().month());
                    let of_them = |sentence| format!("user {}: {sentence}", person.id);
                    found.extend(differences(&expected, &shown).into_iter().map(of_them));
                }
                (Err(error), _) => found.push(format!("user {}: their facts can't be read: {error}", person.id)),
                (_, None) => found.push(format!("user {}: the read side does not answer", person.id)),
            }
        }
        found
    }
}

/// Shows the checker everything after `head`, which moves on.
async fn read_on(log: &Log, checker: &mut Checker<'_>, head: &mut u64) -> Result<(), LogError> {
    loop {
        let rows = log.rows(*head, PAGE).await?;
        for row in &rows {
            let fact = log.open_row(row).await?;
            checker.see(&Seen::of(&fact, row.slice));
            *head = row.position;
        }
        if rows.len() < PAGE {
            return Ok(());
        }
    }
}
