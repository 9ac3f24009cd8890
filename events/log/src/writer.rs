//! The one task that writes: group commit. It takes all appends that wait, without a timer, and
//! commits those of many users in one round trip and one fsync. Meanwhile the next batch gathers by
//! itself.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::Instant,
};
use tracing::{Span, debug, error, warn};

use crate::{
    StoredRow,
    append::{AppendError, Appended, Request, Verdict, Work},
    append_postgres, append_sqlite,
    health::{Health, Trouble},
    store::Writing,
    tail_cache::Tail,
    wal_scrub::Scrub,
};

/// The appends that may wait; one more is refused as overload.
const QUEUE: usize = 4096;
/// The most bytes of all of them together, and of those that are being written.
const QUEUE_BYTES: usize = 128 << 20;
/// The most requests of a batch.
const BATCH_REQUESTS: usize = 256;
/// The most bytes of a batch; a single larger request goes alone.
const BATCH_BYTES: usize = 4 << 20;
/// How long an append is tried while the store is away, before the caller is told.
const DEADLINE: Duration = Duration::from_secs(8);
/// The longest time for one statement; then its connection is given up, and the same rows are
/// appended on another. Longer than the server's own limit, which ends a statement that merely
/// waits.
const STATEMENT: Duration = Duration::from_secs(12);
/// The pauses between attempts while the store is away; the last one repeats.
const PAUSES_MS: [u64; 5] = [20, 50, 100, 250, 500];

struct Pending {
    request: Request,
    /// The caller's, so that what becomes of its rows is logged with its request.
    span: Span,
    deadline: Instant,
    reply: oneshot::Sender<Result<Appended, AppendError>>,
    _bytes: OwnedSemaphorePermit,
}

/// The queue of the writer's task.
#[derive(Debug, Clone)]
pub(crate) struct LogWriter {
    queue: mpsc::Sender<Pending>,
    bytes: Arc<Semaphore>,
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pending({} rows)", self.request.rows.len())
    }
}

impl LogWriter {
    /// Starts the task on the current runtime. The tail gets the committed rows; the watch has the
    /// last position. The third value tells of the task's end.
    pub fn start(
        store: Writing,
        tail: Arc<Tail>,
        health: Health,
        scrub: Scrub,
    ) -> (Self, watch::Receiver<u64>, WriterEnd) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let (tell, written) = watch::channel(0);
        let (running, end) = watch::channel(());
        tokio::spawn(
            Task {
                store,
                held_postgres: None,
                held_sqlite: None,
                tail,
                health,
                scrub,
                written: tell,
                waiting,
                carried: Vec::new(),
                _running: running,
            }
            .run(),
        );
        let bytes = Arc::new(Semaphore::new(QUEUE_BYTES));
        (Self { queue, bytes }, written, WriterEnd(end))
    }

    /// Waits until the request is written or refused, at most `DEADLINE`.
    pub async fn append(&self, request: Request) -> Result<Appended, AppendError> {
        let size = u32::try_from(request.bytes()).map_err(|_| AppendError::Overloaded)?;
        let bytes = Arc::clone(&self.bytes)
            .try_acquire_many_owned(size)
            .map_err(|_| AppendError::Overloaded)?;
        let (reply, answer) = oneshot::channel();
        let pending = Pending {
            request,
            span: Span::current(),
            deadline: Instant::now() + DEADLINE,
            reply,
            _bytes: bytes,
        };
        self.queue.try_send(pending).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => AppendError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => {
                AppendError::Unknown("the writer has stopped".into())
            }
        })?;
        match tokio::time::timeout(DEADLINE, answer).await {
            Ok(Ok(outcome)) => {
                outcome.inspect(|at| debug!(position = at.last, "writer: facts appended"))
            }
            Ok(Err(_)) => Err(AppendError::Unknown("the writer has stopped".into())),
            Err(_) => Err(AppendError::Unknown("no answer in time".into())),
        }
    }
}

struct Task {
    store: Writing,
    held_postgres: append_postgres::HeldPostgres,
    held_sqlite: append_sqlite::HeldSqlite,
    tail: Arc<Tail>,
    health: Health,
    scrub: Scrub,
    written: watch::Sender<u64>,
    waiting: mpsc::Receiver<Pending>,
    /// Requests that wait for the next batch, because they share an owner with a request of this
    /// one.
    carried: Vec<Pending>,
    _running: watch::Sender<()>,
}

/// Tells when the writer is gone, and with it the log.
#[derive(Debug, Clone)]
pub(crate) struct WriterEnd(watch::Receiver<()>);

impl WriterEnd {
    pub async fn reached(&mut self) {
        while self.0.changed().await.is_ok() {}
    }
}

impl Task {
    async fn run(mut self) {
        let mut received = Vec::with_capacity(BATCH_REQUESTS);
        loop {
            received.append(&mut self.carried);
            let room = BATCH_REQUESTS.saturating_sub(received.len()).max(1);
            let nothing_yet = received.is_empty();
            if nothing_yet {
                tokio::select! {
                    count = self.waiting.recv_many(&mut received, room) => if count == 0 {
                        return; // Every handle is gone.
                    },
                    // The kept connection goes back to its pool.
                    () = closed(&self.store) => return,
                }
            } else {
                while received.len() < BATCH_REQUESTS
                    && let Ok(pending) = self.waiting.try_recv()
                {
                    received.push(pending);
                }
            }
            let batch = self.choose(&mut received);
            self.commit(batch).await;
        }
    }

    /// Takes requests in order, within the limits of a batch. No two of them share an owner.
    fn choose(&mut self, received: &mut Vec<Pending>) -> Vec<Pending> {
        let mut owners = HashSet::new();
        let mut bytes = 0;
        let mut batch = Vec::with_capacity(received.len());
        for pending in received.drain(..) {
            let size = pending.request.bytes();
            let fits = batch.is_empty() || bytes + size <= BATCH_BYTES;
            if fits
                && pending
                    .request
                    .concerned()
                    .all(|owner| !owners.contains(&owner))
            {
                owners.extend(pending.request.concerned());
                bytes += size;
                batch.push(pending);
            } else {
                // Later requests of these owners must not overtake it.
                owners.extend(pending.request.concerned());
                self.carried.push(pending);
            }
        }
        batch
    }

    /// Commits a batch. While the store is away, the same rows are appended again: "already" then
    /// means written, so a statement that was cut off while it waited for the lock cannot write
    /// anything twice. A row that breaks the statement is found by bisection, and only its request
    /// fails.
    async fn commit(&mut self, batch: Vec<Pending>) {
        let mut parts = vec![batch];
        let mut tries = 0;
        while let Some(mut part) = parts.pop() {
            part = give_up_the_overdue(part);
            if part.is_empty() {
                continue;
            }
            let requests: Vec<&Request> = part.iter().map(|pending| &pending.request).collect();
            let error = match self.append(&requests).await {
                Ok(outcomes) => {
                    self.health.tell(None);
                    self.answer(part, outcomes);
                    continue;
                }
                Err(error) => error,
            };
            if let Some(trouble) = Trouble::of(&error) {
                let pause = PAUSES_MS[tries.min(PAUSES_MS.len() - 1)];
                if tries == 0 {
                    warn!(%error, requests = part.len(), "writer: the store takes no writes; appending the same rows until it does");
                }
                self.health.tell(Some(trouble));
                tries += 1;
                tokio::time::sleep(Duration::from_millis(pause)).await;
                parts.push(part);
            } else if part.len() == 1 {
                for pending in part {
                    pending
                        .span
                        .in_scope(|| error!(%error, "writer: the store refuses the rows of an append; its command fails"));
                    let _ = pending
                        .reply
                        // The caller may have gone.
                        .send(Err(AppendError::Broken(error.to_string())));
                }
            } else {
                let second = part.split_off(part.len() / 2);
                parts.push(second);
                parts.push(part);
            }
        }
    }

    async fn append(&mut self, requests: &[&Request]) -> Result<Vec<Verdict>, sqlx::Error> {
        match &self.store {
            Writing::Postgres(pool) => {
                let known = self.tail.head();
                append_postgres::append(pool, &mut self.held_postgres, requests, known, STATEMENT)
                    .await
            }
            Writing::Sqlite(pool, turns) => {
                let _turn = turns.next().await?;
                append_sqlite::append(pool, &mut self.held_sqlite, requests).await
            }
        }
    }

    fn answer(&self, part: Vec<Pending>, outcomes: Vec<Verdict>) {
        let mut written = Vec::new();
        let mut replies = Vec::with_capacity(part.len());
        for (pending, outcome) in part.into_iter().zip(outcomes) {
            if let Verdict::Written(at) = outcome {
                if pending.request.work.iter().any(Work::deletes_a_secret) {
                    self.scrub.deleted();
                }
                let positions = at.first..=at.last;
                written.extend(
                    positions
                        .zip(pending.request.rows)
                        .map(|(position, row)| StoredRow { position, ..row }),
                );
            }
            replies.push((pending.reply, outcome));
        }
        written.sort_unstable_by_key(|row| row.position);
        let last = written.last().map(|row| row.position);
        // Before the head rises: whoever sees it before the rows reads them from the table.
        self.tail.hand_in(written);
        if let Some(last) = last {
            self.written.send_replace(last);
        }
        for (reply, outcome) in replies {
            // The caller may have gone; the facts are written all the same.
            let _ = reply.send(outcome.into());
        }
    }
}

/// Waits until the store is closed.
async fn closed(store: &Writing) {
    match store {
        Writing::Postgres(pool) => pool.close_event().await,
        Writing::Sqlite(pool, _) => pool.close_event().await,
    }
}

fn give_up_the_overdue(part: Vec<Pending>) -> Vec<Pending> {
    let now = Instant::now();
    let (live, overdue): (Vec<_>, Vec<_>) =
        part.into_iter().partition(|pending| pending.deadline > now);
    for pending in overdue {
        let _ = pending
            .reply
            .send(Err(AppendError::Unknown("no answer in time".into()))); // its caller may have gone
    }
    live
}

#[cfg(test)]
mod tests {
    use genie_events::{
        Event, Metadata, StreamId, StreamKind,
        account::{AccountEvent, ForgottenBy},
    };

    use super::*;
    use crate::{
        AppendRequest, Group, Log, NewFact, Work,
        forgetting::ForgettingRow,
        testing::{TestStore, both_stores, store_of},
    };

    both_stores!(
        the_same_rows_appended_again_are_already_written,
        async |store: TestStore| {
            let opened = store.open().await;
            let ada = store.register(&opened.log, "ada").await;
            let facts = || {
                let event = Event::Account(AccountEvent::SignedIn);
                vec![NewFact {
                    stream: StreamId::new(StreamKind::Account, ada),
                    sequence: 2,
                    event,
                }]
            };
            let append = AppendRequest {
                groups: vec![Group::of_user(ada, 1, facts())],
                work: vec![],
                metadata: Metadata::system(),
                remember: None,
            };
            let request = opened.log.seal(append).await.unwrap();
            for _ in 0..3 {
                assert_eq!(
                    append_to(&opened.log, &request).await,
                    [Verdict::Written(Appended { first: 2, last: 2 })]
                );
            }
            assert_eq!(opened.log.reader().rows(0, 10).await.unwrap().len(), 2);
        }
    );

    both_stores!(
        the_fact_of_a_forgetting_is_already_written_although_the_key_is_gone,
        async |store: TestStore| {
            let opened = store.open().await;
            let ada = store.register(&opened.log, "ada").await;
            let event = Event::Account(AccountEvent::Forgotten {
                by: ForgottenBy::User,
            });
            let facts = vec![NewFact {
                stream: StreamId::new(StreamKind::Account, ada),
                sequence: 2,
                event,
            }];
            let work = vec![Work::Forgetting(ForgettingRow::Forget {
                user: ada,
                at: store.clock.now(),
            })];
            let append = AppendRequest {
                groups: vec![Group::of_user(ada, 1, facts)],
                work,
                metadata: Metadata::system(),
                remember: None,
            };
            let request = opened.log.seal(append).await.unwrap();
            for _ in 0..3 {
                assert_eq!(
                    append_to(&opened.log, &request).await,
                    [Verdict::Written(Appended { first: 2, last: 2 })]
                );
            }
            assert_eq!(
                opened
                    .log
                    .forgettings()
                    .get(ada)
                    .await
                    .unwrap()
                    .unwrap()
                    .position,
                2
            );
        }
    );

    async fn append_to(log: &Log, request: &Request) -> Vec<Verdict> {
        match &store_of(log).writing {
            Writing::Postgres(pool) => {
                append_postgres::append(pool, &mut None, &[request], 0, STATEMENT)
                    .await
                    .unwrap()
            }
            Writing::Sqlite(pool, _) => append_sqlite::append(pool, &mut None, &[request])
                .await
                .unwrap(),
        }
    }
}
