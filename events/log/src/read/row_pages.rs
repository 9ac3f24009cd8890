//! Pages of the log, and of one user's events. Each ends at a number of rows or at [`crate::pages::PAGE_BYTES`].

use genie_events::UserId;
use sqlx::Row;

use super::PAGE;
use crate::{
    LogError, LogReader, StoredRow,
    pages::{PageEnd, PageSql, Paged, paged},
    store::Store,
    stored_row::{BYTES, CLEAR_BYTES},
};

/// The part of the rows that a reader needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// Everything but the payloads, which are not read.
    Clear,
    Whole,
}

impl Shown {
    fn columns(self, store: &Store) -> &'static str {
        match self {
            Self::Clear => store.clear_columns(),
            Self::Whole => store.columns(),
        }
    }

    fn bytes(self) -> &'static str {
        match self {
            Self::Clear => CLEAR_BYTES,
            Self::Whole => BYTES,
        }
    }
}

/// The rows after a position, in order and without a hole.
pub(crate) async fn read_rows(
    store: &Store,
    after: u64,
    limit: usize,
) -> Result<Vec<StoredRow>, LogError> {
    let end = PageEnd::from(limit);
    Ok(read_page(store, after, end, Shown::Whole).await?.rows)
}

async fn read_page(
    store: &Store,
    after: u64,
    end: PageEnd,
    shown: Shown,
) -> Result<Paged<StoredRow>, LogError> {
    let sql = PageSql {
        table: "events",
        columns: shown.columns(store),
        key: "position",
        bytes: shown.bytes(),
        condition: "position > $1",
        order: &["position"],
        descending: false,
        limit: "$2",
    }
    .text_within(store, end.bytes);
    let query = sqlx::query(&sql).bind(after as i64).bind(end.rows as i64);
    let page = paged(query.fetch_all(store.reads()).await?)?;
    let page = page.try_map(|row| StoredRow::read(&row))?;
    match (after + 1..)
        .zip(&page.rows)
        .find(|(expected, row)| row.position != *expected)
    {
        Some((missing, _)) => Err(LogError::Hole { missing }),
        None => Ok(page),
    }
}

async fn read_user_page(
    store: &Store,
    user: UserId,
    after: u64,
    end: PageEnd,
    shown: Shown,
) -> Result<Paged<StoredRow>, LogError> {
    let sql = PageSql {
        table: "events",
        columns: shown.columns(store),
        key: "position",
        bytes: shown.bytes(),
        condition: "owner = unhex($1, '-') AND owner_seq > $2",
        order: &["owner_seq"],
        descending: false,
        limit: "$3",
    }
    .text_within(store, end.bytes);
    let query = sqlx::query(&sql)
        .bind(user.to_string())
        .bind(after as i64)
        .bind(end.rows as i64);
    let page = paged(query.fetch_all(store.reads()).await?)?;
    Ok(page.try_map(|row| StoredRow::read(&row))?)
}

impl LogReader {
    /// The rows after a position, in order: a page of at most `limit` and [`PAGE`]. Empty only at the end. A missing
    /// position is an error, not a wait.
    pub async fn rows(&self, after: u64, limit: usize) -> Result<Vec<StoredRow>, LogError> {
        Ok(self.page(after, limit, Shown::Whole).await?.rows)
    }

    /// The same; says whether more follow, and reads no more than what is shown.
    pub async fn page(
        &self,
        after: u64,
        end: impl Into<PageEnd>,
        shown: Shown,
    ) -> Result<Paged<StoredRow>, LogError> {
        let mut end = end.into();
        end.rows = end.rows.min(PAGE);
        let turn = self.log().store().page_turn().await;
        let read = async move |store: Store| {
            let _turn = turn;
            read_page(&store, after, end, shown).await
        };
        self.log().store().run(read).await
    }

    /// A user's rows after a `user_seq`, in order: a page of at most [`PAGE`]. Empty only at the end.
    pub async fn user_rows(&self, user: UserId, after: u64) -> Result<Vec<StoredRow>, LogError> {
        let page = self.user_page(user, after, PAGE, Shown::Whole).await?;
        Ok(page.rows)
    }

    /// The same, up to `end`; says whether more follow, and reads no more than what is shown.
    pub async fn user_page(
        &self,
        user: UserId,
        after: u64,
        end: impl Into<PageEnd>,
        shown: Shown,
    ) -> Result<Paged<StoredRow>, LogError> {
        let mut end = end.into();
        end.rows = end.rows.min(PAGE);
        let turn = self.log().store().page_turn().await;
        let read = async move |store: Store| {
            let _turn = turn;
            read_user_page(&store, user, after, end, shown).await
        };
        self.log().store().run(read).await
    }

    /// The number of a user's events up to a position. A cursor of the user's own feed is found by its row. For any
    /// other position the place is halved down to, in as many look-ups as the number has bits.
    pub async fn user_seq_at(&self, user: UserId, position: u64) -> Result<u64, LogError> {
        if position == 0 {
            return Ok(0);
        }
        let read = async move |store: Store| {
            let owner = user.to_string();
            let sql = "SELECT owner_seq FROM events WHERE position = $1 AND owner = unhex($2, '-')";
            let there = sqlx::query(sql)
                .bind(position as i64)
                .bind(&owner)
                .fetch_optional(store.reads())
                .await?;
            if let Some(row) = there {
                return Ok(row.try_get::<i64, _>("owner_seq")? as u64);
            }
            let newest = "SELECT owner_seq, position FROM events WHERE owner = unhex($1, '-') ORDER BY owner_seq DESC LIMIT 1";
            let newest = sqlx::query(newest)
                .bind(&owner)
                .fetch_optional(store.reads())
                .await?;
            let Some(newest) = newest else {
                return Ok(0);
            };
            let last = newest.try_get::<i64, _>("owner_seq")?;
            if newest.try_get::<i64, _>("position")? <= position as i64 {
                return Ok(last as u64);
            }
            // Invariant: the event `low` is not after the position, and the event `high` is.
            let (mut low, mut high) = (0, last);
            while low + 1 < high {
                let middle = low + (high - low) / 2;
                let sql =
                    "SELECT position FROM events WHERE owner = unhex($1, '-') AND owner_seq = $2";
                let at: i64 = sqlx::query_scalar(sql)
                    .bind(&owner)
                    .bind(middle)
                    .fetch_one(store.reads())
                    .await?;
                if at <= position as i64 {
                    low = middle;
                } else {
                    high = middle;
                }
            }
            Ok(low as u64)
        };
        self.log().store().run(read).await
    }
}

#[cfg(test)]
mod tests {
    use genie_events::{Metadata, StreamId, StreamKind, TurnId, chat::ChatEvent};
    use uuid::Uuid;

    use super::*;
    use crate::{
        AppendRequest, Group, Log, NewFact,
        pages::PAGE_BYTES,
        testing::{TestStore, both_stores},
    };

    const BYTES_OF_ONE: usize = 100_000;

    /// Appends the `n`th question of a user who has one event before them.
    async fn ask(log: &Log, user: UserId, n: u64) {
        let event = ChatEvent::Asked {
            turn: TurnId(Uuid::from_u128(u128::from(n))),
            session: "s".into(),
            message: "x".repeat(BYTES_OF_ONE),
        };
        let fact = NewFact {
            stream: StreamId::new(StreamKind::Chat, log.hashes().session(user, "s")),
            sequence: n,
            event: event.into(),
        };
        let request = AppendRequest {
            groups: vec![Group::of_user(user, n, vec![fact])],
            work: vec![],
            metadata: Metadata::system(),
            remember: None,
        };
        crate::testing::append(log, request).await.unwrap();
    }

    fn fits(rows: usize) -> bool {
        rows > 0 && rows * BYTES_OF_ONE <= PAGE_BYTES as usize
    }

    both_stores!(
        every_page_of_the_log_ends_at_a_mebibyte,
        async |store: TestStore| {
            let log = store.open().await.log;
            let ada = store.register(&log, "ada").await;
            let bob = store.register(&log, "bob").await;
            for n in 1..=25 {
                ask(&log, ada, n).await;
                ask(&log, bob, n).await;
            }
            let reader = log.reader();
            let head = reader.head();
            let (mut after, mut followed) = (2, reader.follow(2));
            while after < head {
                let page = reader.page(after, 500, Shown::Whole).await.unwrap();
                let same = followed.next(500).await.unwrap();
                assert!(fits(page.rows.len()) && fits(same.len()));
                after = page.rows.last().unwrap().position;
                assert_eq!(page.has_more, after < head);
            }
            while followed.position() < head {
                assert!(fits(followed.next(500).await.unwrap().len()));
            }
            // A reader that asks for smaller pages gets them, from the table and from the newest rows.
            let two = PageEnd {
                rows: 500,
                bytes: 2 * BYTES_OF_ONE as i64 + 10_000,
            };
            let small = reader.page(2, two, Shown::Whole).await.unwrap();
            assert_eq!((small.rows.len(), small.has_more), (2, true));
            let own_small = reader.user_page(ada, 1, two, Shown::Whole).await.unwrap();
            assert_eq!(own_small.rows.len(), 2);
            assert_eq!(reader.follow(2).next(two).await.unwrap().len(), 2);
            assert_eq!(reader.follow(head - 3).next(two).await.unwrap().len(), 2);
            let mut own = 1;
            while own < 26 {
                let page = reader.user_page(ada, own, 500, Shown::Whole).await.unwrap();
                assert!(fits(page.rows.len()));
                own = page.rows.last().unwrap().owner_seq;
                assert_eq!(page.has_more, own < 26);
            }
            // What is not shown is not read, and takes no room.
            let clear = reader.page(0, 500, Shown::Clear).await.unwrap();
            assert_eq!((clear.rows.len() as u64, clear.has_more), (head, false));
            assert!(clear.rows.iter().all(|row| !row.is_whole()));
            let part = reader.page(0, 52, Shown::Clear).await.unwrap();
            assert!(!part.has_more, "the last page says so even when it is full");
        }
    );

    both_stores!(
        a_position_is_a_place_among_a_users_events,
        async |store: TestStore| {
            let log = store.open().await.log;
            let ada = store.register(&log, "ada").await;
            let bob = store.register(&log, "bob").await;
            for n in 1..=9 {
                ask(&log, ada, n).await;
                if n % 3 == 0 {
                    ask(&log, bob, n / 3).await;
                }
            }
            let reader = log.reader();
            let mut seen = 0;
            for row in reader.page(0, 100, Shown::Clear).await.unwrap().rows {
                seen += u64::from(row.user() == Some(bob));
                let at = reader.user_seq_at(bob, row.position).await.unwrap();
                assert_eq!(at, seen, "at {}", row.position);
            }
            assert_eq!(reader.user_seq_at(bob, 0).await.unwrap(), 0);
            let nobody = UserId(log.clock().new_uuid());
            assert_eq!(reader.user_seq_at(nobody, 3).await.unwrap(), 0);
        }
    );

    both_stores!(
        a_user_with_long_events_wakes_whole,
        async |store: TestStore| {
            let log = store.open().await.log;
            let ada = store.register(&log, "ada").await;
            for n in 1..=25 {
                ask(&log, ada, n).await;
            }
            let fresh = store.open().await.log;
            match fresh.users().wake(ada).await.unwrap() {
                crate::load_users::Waking::Awake(awake) => assert_eq!(awake.user.seq(), 26),
                crate::load_users::Waking::Forgotten => panic!("forgotten"),
            }
        }
    );
}
