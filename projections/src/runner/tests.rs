use std::collections::{BTreeMap, HashMap};

use genie_events::{
    Event, JobId, Metadata, StreamId, Timestamp, UserId,
    caption::{Brief, CaptionEvent, Length, Platform},
    job::{JobEvent, JobSpec},
    tier::Counter,
};
use genie_log::{
    AppendRequest, Group, NewFact, Owner,
    testing::{TestStore, append, both_stores},
};
use serde_json::json;
use sqlx::Row;
use uuid::Uuid;

use super::*;
use crate::{ReadError, ReadSide, jobs::JobFilter};

mod together;

const LIMIT: Duration = Duration::from_secs(20);
const HOUR: i64 = 3_600_000_000;

/// A user whose facts a test writes.
struct Writer {
    log: Log,
    user: UserId,
    written: u64,
    sequences: HashMap<Uuid, u64>,
}

impl Writer {
    async fn new(store: &TestStore, log: &Log, name: &str) -> Self {
        Self {
            log: log.clone(),
            user: store.register(log, name).await,
            written: 1,
            sequences: HashMap::new(),
        }
    }

    /// Writes the facts in one append.
    async fn write(&mut self, facts: Vec<(Uuid, Event)>) {
        let after = self.written;
        self.written += facts.len() as u64;
        let facts = facts.into_iter().map(|(id, event)| {
            let sequence = self.sequences.entry(id).or_default();
            *sequence += 1;
            NewFact {
                stream: StreamId::new(event.kind(), id),
                sequence: *sequence,
                event,
            }
        });
        let group = Group {
            owner: Owner::User(self.user),
            after,
            facts: facts.collect(),
            keys: None,
        };
        let request = AppendRequest {
            groups: vec![group],
            work: vec![],
            metadata: Metadata::system(),
            remember: None,
        };
        append(&self.log, request).await.unwrap();
    }
}

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn submitted(operation: &str, run_at: Option<Timestamp>) -> Event {
    let queue = genie_events::job_operation::queue_of(operation).unwrap();
    let spec = JobSpec {
        name: None,
        operation: operation.into(),
        queue: queue.into(),
        params: json!({}),
        input_file_id: None,
        input_url: None,
        creator_profile_id: None,
        priority: 10,
        run_at,
        max_attempts: 3,
        mark: None,
    };
    Event::Job(JobEvent::Submitted {
        spec,
        counted: None,
    })
}

fn claimed() -> Event {
    Event::Job(JobEvent::Claimed {
        attempt: 1,
        worker: "w".into(),
        lease: "l".into(),
    })
}

fn failed(retry_at: Option<Timestamp>) -> Event {
    Event::Job(JobEvent::Failed {
        attempt: 1,
        error: "no luck".into(),
        code: None,
        retry_at,
    })
}

fn completed() -> Event {
    Event::Job(JobEvent::Completed {
        attempt: 1,
        result: json!({"n": 1}),
        outputs: json!([]),
    })
}

/// Lives of jobs: waiting, delayed, running, to be tried again, completed, failed, cancelled.
fn lives(now: Timestamp) -> Vec<(Uuid, Event)> {
    let later = Some(Timestamp(now.0 + HOUR));
    let soon = Some(Timestamp(now.0 + HOUR / 2));
    let begins = |n, operation, at| (id(n), submitted(operation, at));
    vec![
        begins(1, "resize_image", None),
        begins(2, "publish_post", later),
        begins(3, "resize_image", None),
        (id(3), claimed()),
        begins(4, "thumbnail", None),
        (id(4), claimed()),
        (id(4), failed(soon)),
        begins(5, "thumbnail", soon),
        (id(3), completed()),
        begins(6, "scrape_profile", None),
        (id(6), claimed()),
        (id(6), failed(None)),
        begins(7, "scrape_profile", later),
        (id(7), Event::Job(JobEvent::Cancelled)),
        begins(8, "thumbnail", None),
        (id(8), claimed()),
        begins(9, "publish_post", soon),
    ]
}

async fn start(log: &Log) -> ReadSide {
    let election = log.elections().stand("test").await.unwrap();
    ReadSide::start(log.clone(), election)
}

/// Begins another term. The embedded store knows no second candidate; on Postgres the same node is
/// elected again.
async fn elect_again(store: &TestStore, log: &Log, reads: ReadSide) -> ReadSide {
    if store.database_url().is_none() {
        return start(log).await;
    }
    let sql = "UPDATE elections SET epoch = epoch + 1, node = 'nobody'";
    store.try_sql(sql).await.unwrap();
    reads
}

/// The counts as a look at all jobs gives them.
async fn counted(log: &Log, now: Timestamp) -> (String, i64) {
    let sql = "SELECT queue, status, run_at, attempt FROM jobs";
    let rows = sqlx::query(sql).fetch_all(log.store().reads()).await;
    let mut queues: BTreeMap<String, crate::jobs::QueueStats> = genie_events::job_operation::QUEUES
        .map(|queue| (queue.to_owned(), Default::default()))
        .into();
    let mut scheduled = 0;
    for row in rows.unwrap() {
        let stats = queues.get_mut(&row.get::<String, _>("queue")).unwrap();
        let is_later = row.get::<Option<i64>, _>("run_at") > Some(now.0);
        match row.get::<String, _>("status").as_str() {
            "queued" if is_later => {
                stats.delayed += 1;
                scheduled += i64::from(row.get::<i64, _>("attempt") == 0);
            }
            "queued" => stats.waiting += 1,
            "processing" => stats.active += 1,
            "completed" => stats.completed += 1,
            "failed" => stats.failed += 1,
            _ => {}
        }
    }
    (format!("{queues:?}"), scheduled)
}

/// The counts as they are shown.
async fn shown(reads: &ReadSide, users: &[UserId], now: Timestamp) -> (String, i64) {
    let stats = reads.jobs.stats(now).await.unwrap();
    let mut scheduled = 0;
    for user in users {
        let counts = reads.usage.of(*user, now.month(), now).await.unwrap();
        scheduled += counts
            .get(&Counter::ScheduledQueueSize)
            .copied()
            .unwrap_or(0) as i64;
    }
    (format!("{stats:?}"), scheduled)
}

both_stores!(
    kept_counts_agree_with_the_jobs_at_every_moment,
    async |store: TestStore| {
        let log = store.open().await.log;
        let now = log.clock().now();
        let mut ada = Writer::new(&store, &log, "ada").await;
        let mut bob = Writer::new(&store, &log, "bob").await;
        ada.write(lives(now)).await;
        bob.write(vec![(
            id(20),
            submitted("publish_post", Some(Timestamp(now.0 + HOUR))),
        )])
        .await;
        let reads = start(&log).await;
        reads
            .wait_for_all(log.reader().head(), LIMIT)
            .await
            .unwrap();
        let users = [ada.user, bob.user];
        let moments = [-1, 0, HOUR / 2 - 1, HOUR / 2, HOUR, 9 * HOUR].map(|t| Timestamp(now.0 + t));
        let agree = async || {
            for moment in moments {
                assert_eq!(
                    shown(&reads, &users, moment).await,
                    counted(&log, moment).await,
                    "at {moment:?}"
                );
            }
        };
        agree().await;
        let jobs = crate::jobs::Projector;
        // Part of the way, to the end, and back, as when a clock was set.
        for to in [moments[3], moments[5], moments[1]] {
            assert!(jobs.is_due(to, log.store()).await.unwrap());
            let mut tx = log.store().relaxed().await.unwrap();
            jobs.pass_time(to, &mut tx).await.unwrap();
            tx.commit().await.unwrap();
            assert!(!jobs.is_due(to, log.store()).await.unwrap());
            agree().await;
        }
        ada.write(vec![
            (id(2), claimed()),
            (id(2), completed()),
            (id(5), Event::Job(JobEvent::Cancelled)),
            (
                id(6),
                Event::Job(JobEvent::Retried {
                    queue: "scrape-jobs".into(),
                    operation: "scrape_post".into(),
                    files: vec![],
                    priority: 1,
                    counted: None,
                }),
            ),
        ])
        .await;
        reads
            .wait_for_all(log.reader().head(), LIMIT)
            .await
            .unwrap();
        agree().await;
        ada.write(vec![
            (id(2), Event::Job(JobEvent::Removed)),
            (id(5), Event::Job(JobEvent::Removed)),
        ])
        .await;
        let head = log.reader().head();
        reads.wait_for_all(head, LIMIT).await.unwrap();
        let gone = reads.jobs.get(&JobId(id(2)), moments[1]).await.unwrap();
        assert!(gone.is_none(), "{gone:?}");
        agree().await;
        let mut tx = log.store().relaxed().await.unwrap();
        let erased = jobs.erase(ada.user, 3, &mut tx).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(erased, 3);
        for moment in moments {
            let (stats, _) = shown(&reads, &[], moment).await;
            assert_eq!(stats, counted(&log, moment).await.0);
        }
    }
);

/// The read tables' columns that depend on the facts alone.
async fn rows_of_tables(log: &Log) -> Vec<String> {
    let columns = "hex(job_id) AS job_hex, queue, operation, status, priority, attempt, max_attempts, created_at, run_at, started_at, \
                   finished_at, position, error_sealed IS NULL AS e, result_sealed IS NULL AS r";
    let mut all = Vec::new();
    for sql in [
        format!("SELECT {columns} FROM jobs ORDER BY job_id"),
        "SELECT queue, status, n FROM job_counts WHERE n <> 0 ORDER BY queue, status".into(),
        "SELECT month, counter, counted FROM usage WHERE counted <> 0 ORDER BY counter".into(),
    ] {
        for row in sqlx::query(&sql)
            .fetch_all(log.store().reads())
            .await
            .unwrap()
        {
            let cell = |n| {
                let text = row.try_get::<Option<String>, _>(n).ok().flatten();
                let number = row.try_get::<Option<i64>, _>(n).ok().flatten();
                let is = row.try_get::<Option<bool>, _>(n).ok().flatten();
                format!("{text:?} {:?}", number.or(is.map(i64::from)))
            };
            all.push((0..row.len()).map(cell).collect::<Vec<_>>().join(", "));
        }
    }
    all
}

both_stores!(
    facts_in_one_batch_leave_the_rows_that_single_facts_leave,
    async |store: TestStore| {
        let other = TestStore::new(store.kind).await;
        let mut tables = Vec::new();
        for (store, is_single) in [(&store, false), (&other, true)] {
            let log = store.open().await.log;
            let mut ada = Writer::new(store, &log, "ada").await;
            let reads = start(&log).await;
            let facts = lives(log.clock().now());
            let batches: Vec<_> = if is_single {
                facts.into_iter().map(|fact| vec![fact]).collect()
            } else {
                vec![facts]
            };
            for facts in batches {
                ada.write(facts).await;
                reads
                    .wait_for_all(log.reader().head(), LIMIT)
                    .await
                    .unwrap();
            }
            tables.push(rows_of_tables(&log).await);
        }
        assert_eq!(tables[0].len(), 8 + 1 + 7 + 1, "{:?}", tables[0]);
        assert_eq!(tables[0], tables[1]);
    }
);

both_stores!(
    a_batch_of_many_jobs_is_one_transaction,
    async |store: TestStore| {
        let log = store.open().await.log;
        let mut ada = Writer::new(&store, &log, "ada").await;
        let jobs = (0..200).map(|n| (id(n), submitted("resize_image", None)));
        ada.write(jobs.collect()).await;
        // Counts the moves of the checkpoint: each transaction has one.
        let trigger = match store.database_url() {
            None => vec![
                "CREATE TABLE moves (name TEXT)",
                "CREATE TRIGGER counting AFTER UPDATE ON checkpoints BEGIN INSERT INTO moves VALUES (NEW.name); END",
            ],
            Some(_) => vec![
                "CREATE TABLE moves (name text)",
                "CREATE FUNCTION note_move() RETURNS trigger LANGUAGE plpgsql AS \
                 $$ BEGIN INSERT INTO moves VALUES (NEW.name); RETURN NEW; END $$",
                "CREATE TRIGGER counting AFTER UPDATE ON checkpoints FOR EACH ROW EXECUTE FUNCTION note_move()",
            ],
        };
        for sql in trigger {
            store.try_sql(sql).await.unwrap();
        }
        let reads = start(&log).await;
        reads
            .wait_for_all(log.reader().head(), LIMIT)
            .await
            .unwrap();
        let sql = "SELECT count(*) FROM moves WHERE name = 'projections'";
        let moves: i64 = sqlx::query_scalar(sql)
            .fetch_one(log.store().reads())
            .await
            .unwrap();
        assert_eq!(moves, 1);
        let stats = reads.jobs.stats(log.clock().now()).await.unwrap();
        assert_eq!(stats["media-jobs"].waiting, 200);
    }
);

fn requested() -> Event {
    Event::Caption(CaptionEvent::Requested {
        brief: Brief {
            platform: Platform::Instagram,
            tone: "calm".into(),
            topic: "tea".into(),
            length: Length::Short,
            platform_username: None,
        },
        month: Timestamp(0).month(),
    })
}

both_stores!(
    a_faulty_projection_stops_alone_and_catches_up_later,
    async |store: TestStore| {
        let log = store.open().await.log;
        let mut ada = Writer::new(&store, &log, "ada").await;
        let reads = start(&log).await;
        reads
            .wait_for_all(log.reader().head(), LIMIT)
            .await
            .unwrap();
        store
            .try_sql("ALTER TABLE captions RENAME TO elsewhere")
            .await
            .unwrap();
        let before = log.reader().head();
        ada.write(vec![
            (id(1), submitted("resize_image", None)),
            (id(2), requested()),
            (id(3), submitted("resize_image", None)),
        ])
        .await;
        reads
            .wait_for("jobs", log.reader().head(), LIMIT)
            .await
            .unwrap();
        ada.write(vec![(id(4), submitted("resize_image", None))])
            .await;
        let head = log.reader().head();
        let others: Vec<&str> = all_names().filter(|name| *name != "captions").collect();
        reads.wait_for_each(&others, head, LIMIT).await.unwrap();
        let behind = reads
            .wait_for("captions", head, Duration::from_millis(50))
            .await;
        assert!(
            matches!(behind, Err(ReadError::Behind { .. })),
            "{behind:?}"
        );
        let statuses = reads.statuses().await.unwrap();
        let stopped: Vec<_> = statuses
            .iter()
            .filter(|(_, status)| status.stopped.is_some())
            .map(|(name, status)| (*name, status.position))
            .collect();
        assert_eq!(stopped, [("captions", before)]);
        assert_eq!(
            reads.jobs.stats(log.clock().now()).await.unwrap()["media-jobs"].waiting,
            3
        );

        store
            .try_sql("ALTER TABLE elsewhere RENAME TO captions")
            .await
            .unwrap();
        let reads = elect_again(&store, &log, reads).await;
        reads.wait_for_all(head, LIMIT).await.unwrap();
        ada.write(vec![(id(5), submitted("resize_image", None))])
            .await;
        reads.wait_for_all(head + 1, LIMIT).await.unwrap();
        assert_eq!(
            reads
                .captions
                .list(ada.user, None, 10)
                .await
                .unwrap()
                .rows
                .len(),
            1
        );
        let sql =
            "SELECT count(*) FROM projections WHERE position IS NOT NULL OR stopped IS NOT NULL";
        let apart: i64 = sqlx::query_scalar(sql)
            .fetch_one(log.store().reads())
            .await
            .unwrap();
        assert_eq!(apart, 0, "all are together again");
        assert_eq!(
            reads.jobs.stats(log.clock().now()).await.unwrap()["media-jobs"].waiting,
            4
        );
    }
);

fn all_names() -> impl Iterator<Item = &'static str> {
    crate::read_side::all().into_iter().map(|one| one.name())
}

both_stores!(
    a_projection_that_the_store_does_not_know_begins_with_the_log,
    async |store: TestStore| {
        let log = store.open().await.log;
        let mut ada = Writer::new(&store, &log, "ada").await;
        ada.write(lives(log.clock().now())).await;
        let reads = start(&log).await;
        let head = log.reader().head();
        reads.wait_for_all(head, LIMIT).await.unwrap();
        let rows = rows_of_tables(&log).await;
        for sql in [
            "DELETE FROM jobs",
            "DELETE FROM job_counts",
            "DELETE FROM usage",
            "DELETE FROM projections WHERE name = 'jobs.v1'",
        ] {
            store.try_sql(sql).await.unwrap();
        }
        let reads = elect_again(&store, &log, reads).await;
        reads.wait_for_all(head, LIMIT).await.unwrap();
        // The runner may not have noticed yet that the store changed behind its back.
        let refilled = async {
            while rows_of_tables(&log).await != rows {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LIMIT, refilled)
            .await
            .expect("refilled");
        assert_eq!(reads.statuses().await.unwrap()["accounts"].position, head);
    }
);

both_stores!(
    a_page_of_delayed_jobs_among_many_that_wait_ends_and_goes_on,
    async |store: TestStore| {
        let log = store.open().await.log;
        let mut ada = Writer::new(&store, &log, "ada").await;
        let now = log.clock().now();
        let later = Some(now.plus_seconds(60));
        ada.write(vec![(id(1), submitted("thumbnail", later))])
            .await;
        for batch in 0..5 {
            let jobs = (0..500).map(|n| {
                let id = id(10 + 500 * batch + n);
                (id, submitted("resize_image", None))
            });
            ada.write(jobs.collect()).await;
        }
        let reads = start(&log).await;
        reads
            .wait_for_all(log.reader().head(), LIMIT)
            .await
            .unwrap();
        let list = async |filter: JobFilter, before| {
            let page = reads.jobs.list(ada.user, filter, before, 10, now);
            let page = page.await.unwrap();
            (page.page.rows.len(), page.floor)
        };
        let delayed = JobFilter {
            status: Some("delayed".into()),
            ..JobFilter::default()
        };
        let (found, next) = list(delayed.clone(), None).await;
        assert_eq!(found, 0);
        assert!(next.is_some());
        assert_eq!(list(delayed, next).await, (1, None));
        let rare = JobFilter {
            operation: Some("thumbnail".into()),
            ..JobFilter::default()
        };
        assert_eq!(
            list(rare, None).await,
            (1, None),
            "no other job is looked at"
        );
    }
);

/// Jobs in each state, of several operations, some with codes.
async fn write_jobs_of_all_kinds(ada: &mut Writer, now: Timestamp) {
    let operations = ["thumbnail", "resize_image", "publish_post"];
    let codes = [None, Some("no_space"), Some("damaged")];
    for n in 0..90_usize {
        let job = id(1000 + n as u128);
        let run_at = (n % 7 == 1).then(|| now.plus_seconds(60));
        let mut life = vec![submitted(operations[n % 3], run_at)];
        let claimed = || JobEvent::Claimed {
            attempt: 1,
            worker: "w".into(),
            lease: "l".into(),
        };
        let failed = |retry_at| JobEvent::Failed {
            attempt: 1,
            error: "e".into(),
            code: codes[n / 3 % 3].map(str::to_owned),
            retry_at,
        };
        let events = match n % 7 {
            2 => vec![claimed()],
            3 => vec![claimed(), failed(None)],
            4 => vec![claimed(), failed(Some(now.plus_seconds(9)))],
            5 => vec![claimed(), failed(Some(now)), claimed(), completed_later()],
            6 => vec![JobEvent::Cancelled],
            _ => vec![],
        };
        life.extend(events.into_iter().map(Event::Job));
        ada.write(life.into_iter().map(|event| (job, event)).collect())
            .await;
    }
}

fn completed_later() -> JobEvent {
    JobEvent::Completed {
        attempt: 2,
        result: json!({}),
        outputs: json!([]),
    }
}

both_stores!(
    a_filtered_list_is_what_the_whole_list_has_of_it,
    async |store: TestStore| {
        let log = store.open().await.log;
        let mut ada = Writer::new(&store, &log, "ada").await;
        let now = log.clock().now();
        write_jobs_of_all_kinds(&mut ada, now).await;
        let reads = start(&log).await;
        let head = log.reader().head();
        reads.wait_for_all(head, LIMIT).await.unwrap();
        let list = async |filter, before, limit| {
            let page = reads.jobs.list(ada.user, filter, before, limit, now);
            page.await.unwrap().page
        };
        let all = list(JobFilter::default(), None, 500).await.rows;
        assert_eq!(all.len(), 90);
        let word = |word: &str| (!word.is_empty()).then(|| word.to_owned());
        let mut matched = 0;
        for status in [
            "",
            "queued",
            "delayed",
            "processing",
            "completed",
            "failed",
            "cancelled",
        ] {
            for (queue, operation) in [
                ("", ""),
                ("media-jobs", ""),
                ("", "thumbnail"),
                ("scrape-jobs", "publish_post"),
                ("scrape-jobs", "thumbnail"),
            ] {
                for code in ["", "no_space", "unknown"] {
                    let filter = JobFilter {
                        status: word(status),
                        queue: word(queue),
                        operation: word(operation),
                        code: word(code),
                    };
                    let fits = |wanted: &Option<String>, found: &str| {
                        wanted.as_ref().is_none_or(|wanted| wanted == found)
                    };
                    let wanted: Vec<_> = all
                        .iter()
                        .filter(|row| fits(&filter.status, &row.status))
                        .filter(|row| fits(&filter.queue, &row.queue))
                        .filter(|row| fits(&filter.operation, &row.operation))
                        .filter(|row| fits(&filter.code, row.code.as_deref().unwrap_or_default()))
                        .map(|row| row.position)
                        .collect();
                    matched += wanted.len();
                    // In pages of two, to their end.
                    let mut found = Vec::new();
                    loop {
                        let before = found.last().copied();
                        let page = list(filter.clone(), before, 2).await;
                        found.extend(page.rows.iter().map(|row| row.position));
                        if !page.has_more {
                            break;
                        }
                    }
                    assert_eq!(found, wanted, "{filter:?}");
                }
            }
        }
        assert!(matched > 400, "{matched}");
    }
);
