//! Reads pages of users' jobs. One task takes all pages that are asked for at the same time, without
//! a timer. On Postgres one statement reads them.

use std::{collections::HashMap, sync::Arc};

use genie_events::UserId;
use genie_log::{
    Log, LogError,
    pages::{PageSql, Paged, paged},
    read_batcher::{BatchBounds, ReadBatcher, padded_size},
    store::Store,
};
use sqlx::{Row, any::AnyRow};

use super::{BYTES, COLUMNS, filter};

/// The pages that may wait. Beyond that a caller is told that the store is busy.
const QUEUE: usize = 4096;
/// Batches read at the same time; while they are, the next gathers.
const AT_ONCE: usize = 2;

/// A page of all of a user's jobs, newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PageOfJobs {
    pub user: UserId,
    /// The position before which to look.
    pub before: i64,
    /// The most jobs.
    pub limit: i64,
}

/// The way to the task. A user without jobs has no page.
pub(super) type JobPages = ReadBatcher<PageOfJobs, Option<Arc<Paged<AnyRow>>>>;

/// Starts the task on the current runtime, which must be the one that owns the store's connections.
pub(super) fn start(log: &Log) -> JobPages {
    let bounds = BatchBounds {
        waiting: QUEUE,
        at_once: AT_ONCE,
        overload: "too many lists of jobs are read at once",
    };
    ReadBatcher::start(log.store().clone(), bounds, read_pages)
}

type FoundPages = HashMap<PageOfJobs, Option<Arc<Paged<AnyRow>>>>;

async fn read_pages(store: Store, asked: Vec<PageOfJobs>) -> Result<FoundPages, LogError> {
    if store.is_postgres() {
        return read_together(store, asked).await;
    }
    let sql = filter::all_sql(&store);
    let mut found = FoundPages::with_capacity(asked.len());
    for page in asked {
        let query = sqlx::query(&sql)
            .bind(page.user.to_string())
            .bind(page.before)
            .bind(0_i64)
            .bind(page.limit);
        let rows = query.fetch_all(store.reads()).await?;
        found.insert(page, Some(Arc::new(paged(rows)?)));
    }
    Ok(found)
}

async fn read_together(store: Store, asked: Vec<PageOfJobs>) -> Result<FoundPages, LogError> {
    let size = padded_size(asked.len());
    let sql = together_sql(&store, size);
    let pages = asked.iter().map(Some).chain(std::iter::repeat(None));
    let query = pages.take(size).fold(sqlx::query(&sql), |query, page| {
        query
            .bind(page.map(|page| page.user.to_string()))
            .bind(page.map(|page| page.before))
            .bind(page.map(|page| page.limit))
    });
    let mut found: HashMap<PageOfJobs, Vec<AnyRow>> = HashMap::with_capacity(asked.len());
    for row in query.fetch_all(store.reads()).await? {
        let nth = usize::try_from(row.try_get::<i64, _>("nth")?).ok();
        let page = nth.and_then(|nth| asked.get(nth)).ok_or_else(|| {
            LogError::Statement("the store answered a page that nobody asked for".into())
        })?;
        found.entry(*page).or_default().push(row);
    }
    let found = found.into_iter();
    let pages = found.map(|(page, rows)| Ok((page, Some(Arc::new(paged(rows)?)))));
    pages.collect()
}

/// The statement for so many pages on Postgres. Each is read by the index, one after the other.
pub(super) fn together_sql(store: &Store, pages: usize) -> String {
    let page = PageSql {
        table: "jobs",
        columns: COLUMNS,
        key: "job_id",
        bytes: BYTES,
        condition: "user_id = asked.of_user AND position < asked.before",
        order: &["position"],
        descending: true,
        limit: "asked.most",
    };
    let values = (0..pages).map(|nth| {
        let first = 3 * nth + 1;
        let [user, before, most] = [first, first + 1, first + 2];
        format!("({nth}::bigint, unhex(${user}, '-'), ${before}::bigint, ${most}::bigint)")
    });
    let values: Vec<String> = values.collect();
    format!(
        "SELECT asked.nth, page.* FROM (VALUES {}) AS asked (nth, of_user, before, most) \
         CROSS JOIN LATERAL ({}) AS page ORDER BY asked.nth, page.position DESC",
        values.join(", "),
        page.text(store),
    )
}
