//! The plans of all statements over read tables: none reads a table from its beginning.

use genie_log::{
    Log,
    store::Store,
    testing::{TestStore, both_stores},
};
use sqlx::Row;

fn statements(store: &Store) -> Vec<String> {
    [
        crate::accounts::statements(),
        crate::usage::statements(),
        crate::credentials::statements(),
        crate::jobs::statements(store),
        crate::marks::statements(),
        crate::chats::statements(store),
        crate::captions::statements(store),
        crate::invites::statements(),
        crate::service_keys::statements(),
        crate::progress::statements(),
    ]
    .concat()
}

/// The tables, and the names that statements give them.
const TABLES: [&str; 16] = [
    "accounts",
    "usage",
    "credentials",
    "jobs",
    "job_counts",
    "jobs_due",
    "marks",
    "chats",
    "messages",
    "captions",
    "invites",
    "service_keys",
    "projections",
    "checkpoints",
    "p",
    "c",
];

/// The plan of a statement, whatever values it is given.
async fn plan(log: &Log, is_sqlite: bool, sql: &str) -> Vec<String> {
    let mut tx = log.store().relaxed().await.unwrap();
    let (explain, column) = if is_sqlite {
        (format!("EXPLAIN QUERY PLAN {sql}"), "detail")
    } else {
        // A plan that still has a sequential scan then has no index to use.
        for setting in [
            "SET LOCAL enable_seqscan = off",
            "SET LOCAL plan_cache_mode = force_generic_plan",
            "DEALLOCATE ALL",
        ] {
            sqlx::raw_sql(setting).execute(&mut *tx).await.unwrap();
        }
        let prepare = format!("PREPARE planned AS {sql}");
        sqlx::raw_sql(&prepare).execute(&mut *tx).await.unwrap();
        let count = (1..40)
            .take_while(|n| sql.contains(&format!("${n}")))
            .count();
        let nulls = vec!["NULL"; count].join(", ");
        let values = if count == 0 {
            String::new()
        } else {
            format!("({nulls})")
        };
        (format!("EXPLAIN EXECUTE planned{values}"), "QUERY PLAN")
    };
    let rows = sqlx::raw_sql(&explain).fetch_all(&mut *tx).await.unwrap();
    rows.iter().map(|row| row.get(column)).collect()
}

both_stores!(
    no_statement_reads_a_whole_table,
    async |store: TestStore| {
        let log = store.open().await.log;
        let is_sqlite = store.database_url().is_none();
        for sql in statements(log.store()) {
            // Postgres infers no types for VALUES, and an insertion plans no scan.
            if !is_sqlite && sql.starts_with("INSERT") {
                continue;
            }
            let plan = plan(&log, is_sqlite, &sql).await;
            assert!(!plan.is_empty(), "{sql}");
            for step in plan {
                // Parts of the statement itself, such as VALUES, are read from their beginning, too.
                let scanned = step.trim_start().strip_prefix("SCAN ").unwrap_or_default();
                let scanned = scanned.split(' ').next().unwrap_or_default();
                let is_scan = TABLES.contains(&scanned) || step.contains("Seq Scan");
                assert!(!is_scan, "{step}: {sql}");
            }
        }
    }
);
