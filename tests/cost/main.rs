//! Counts what an operation takes from its store: rows, statements and transactions. The cost must
//! not depend on how much there is, so a store with thousands of everything must not cost more than one
//! with a hundred. Counts do not depend on the machine, as times do.
//!
//! With `GENIE_TEST_LONG` the large store has ten times as much.
//!
//! `scripts/test --test cost -- --nocapture` prints a table.

#![allow(clippy::unwrap_used)] // a test program

/// As in the binary, for servers inside the tests.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[allow(dead_code)] // The other test program uses the rest.
#[path = "../genie/fake_ollama.rs"]
mod fake_ollama;
#[allow(dead_code)]
#[path = "../genie/identity.rs"]
mod identity;
#[allow(dead_code)]
#[path = "../genie/test_genie.rs"]
mod test_genie;
#[allow(dead_code)]
#[path = "../genie/until.rs"]
mod until;

/// Statements that a server sends by itself.
mod background;
/// A store with a past.
mod grown;
/// Counts operations on either store.
mod meter;
/// What an operation took, and the comparison of two sizes.
mod operation_cost;
/// The operations that are counted.
mod operations;
/// What Postgres did, from its log.
mod postgres_log;
/// What SQLite did, and its plans.
mod sqlite_statements;

use std::time::Duration;

use genie_log::testing::{Kind, TestStore, both_stores, store_of};

use crate::{
    meter::{CountedStore, Meter},
    operations::{BOARD, OWNERS, Subject},
    test_genie::TestGenie,
};

const SMALL: usize = 100;
/// The projections' time for the whole past.
const PROJECTING: Duration = Duration::from_secs(90);
/// Readers of one turn beside a grown store, and other turns that run.
const READERS: usize = 20;
/// Callers at once, each a user with a connection.
const CALLERS: usize = 64;
/// Enqueues of each caller.
const EACH: usize = 20;

/// The size of the large store.
fn large_size() -> usize {
    match std::env::var_os("GENIE_TEST_LONG") {
        Some(_) => 20_000,
        None => 2000,
    }
}

both_stores!(
    no_operation_costs_more_in_a_grown_store,
    async |store: TestStore| {
        let kind = store.kind;
        let size = large_size();
        let small = counted(store, SMALL).await;
        let large = counted(TestStore::new(kind).await, size).await;
        let mut dearer = Vec::new();
        println!("{kind:?}: rows, statements and transactions at {SMALL} and at {size}");
        for ((name, few), (_, many)) in small.counts.iter().zip(&large.counts) {
            println!("{name:24} {few} {many}");
            // The board reads what is unfinished and its owners, which grow with its users.
            if ![BOARD, OWNERS].contains(name) && !many.is_no_more_than(few) {
                let (few, many) = (&small.details[name], &large.details[name]);
                dearer.push(format!("{name}\n  at {SMALL}\n{few}  at {size}\n{many}"));
            }
        }
        let dearer = dearer.join("\n");
        assert!(dearer.is_empty(), "dearer at {size}:\n{dearer}");
        let scans = large.scans;
        assert!(scans.is_empty(), "read as a whole: {scans:#?}");
    }
);

/// Counts on a store of this size.
async fn counted(store: TestStore, size: usize) -> CountedStore {
    let settings = settings(&store);
    let mut genie = TestGenie::start_with(store, &settings).await;
    let subject = Subject::register(&mut genie).await;
    assert!(genie.terminate().await);
    grown::grow(&genie.store, &subject, size).await;
    genie.launch_again().await;
    genie.settle_within(PROJECTING).await;
    assert!(genie.terminate().await);

    let mut meter = Meter::start(&genie.store).await;
    genie.launch_again().await;
    operations::load(&genie, &subject).await;
    operations::count_all(&mut meter, &genie, &subject).await;

    operations::count_starts(&mut meter, &mut genie, &subject).await;
    // Twenty times as many readers of one turn, and as many other turns that run, at the larger size.
    let readers = if size == SMALL { 1 } else { READERS };
    operations::count_turns(&mut meter, &genie, &subject, readers).await;
    assert!(genie.terminate().await);
    meter.finish().await
}

/// The test appends beside the server, with the same master key, more than a user may in a day.
fn settings(store: &TestStore) -> [(&'static str, String); 3] {
    [
        // All turns run at once.
        ("OLLAMA_CONCURRENCY", "64".to_owned()),
        ("GENIE_MASTER_KEYS", store.masters().to_owned()),
        ("FACTS_PER_USER_DAY", "100000000".to_owned()),
    ]
}

both_stores!(
    an_enqueue_takes_an_append_and_a_projection,
    async |store: TestStore| {
        let mut meter = Meter::start(&store).await;
        let mut genie = TestGenie::start(store).await;
        let users = operations::users(&mut genie, CALLERS).await;
        for (callers, most) in [(1, 2.0), (CALLERS, 0.3)] {
            let users = &users[..callers];
            operations::enqueue(&genie, users, 2).await;
            meter.all_done().await;
            operations::enqueue(&genie, users, EACH).await;
            let transactions = meter.all_done().await.counts().transactions as f64;
            let each = transactions / (callers * EACH) as f64;
            println!("{callers} callers: {each:.2} transactions an enqueue");
            assert!(each <= most, "{callers} callers: {each} transactions a job");
        }
    }
);

// The counters themselves: a statement that reads a whole table, and a table that grows.
both_stores!(
    a_statement_that_reads_a_table_is_found,
    async |store: TestStore| {
        let mut meter = Meter::start(&store).await;
        let log = store.open().await.log;
        let count = async || {
            let sql = "SELECT count(*) FROM user_keys WHERE wrapped IS NULL";
            let reads = store_of(&log).reads();
            sqlx::query(sql).fetch_all(reads).await.unwrap();
        };
        for (name, users) in [("few", 10), ("many", 20)] {
            for n in 0..users {
                store.register(&log, &format!("{name}-{n}")).await;
            }
            meter.all_done().await;
            meter.count(name, count).await;
        }
        let found = meter.finish().await;
        let [(_, few), (_, many)] = found.counts[..] else {
            panic!("{:?}", found.counts);
        };
        assert_eq!((few.statements, many.statements), (1, 1));
        assert!(many.rows >= few.rows + 20, "{few} {many}");
        assert!(!many.is_no_more_than(&few));
        if store.kind == Kind::Sqlite {
            let scanned = found.scans.iter().any(|(_, part)| part == "SCAN user_keys");
            assert!(scanned, "{:?}", found.scans);
        }
    }
);
