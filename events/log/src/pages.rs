//! Pages that end at a number of rows or of bytes, whichever comes first. The first row is always
//! part of the page, so that a reader gets on.

use sqlx::{Row, any::AnyRow};

use crate::store::Store;

/// The most bytes of a page as stored.
pub const PAGE_BYTES: i64 = 1 << 20;

/// The end of a page: a number of rows, or of bytes as stored. A number alone stands for rows, and
/// the page then ends at [`PAGE_BYTES`], too.
#[derive(Debug, Clone, Copy)]
pub struct PageEnd {
    pub rows: usize,
    pub bytes: i64,
}

impl From<usize> for PageEnd {
    fn from(rows: usize) -> Self {
        Self {
            rows,
            bytes: PAGE_BYTES,
        }
    }
}

/// The name of the column with the number of rows that were found, at most one more than asked for.
const FOUND: &str = "page_found";

/// The SQL of a page. Sizes are looked at first, so no row is read that is not on the page.
#[derive(Debug, Clone, Copy)]
pub struct PageSql<'a> {
    pub table: &'a str,
    /// The columns of the answer.
    pub columns: &'a str,
    /// A unique column, by which the rows are found again.
    pub key: &'a str,
    /// The size of a row: an expression that needs no column's content.
    pub bytes: &'a str,
    pub condition: &'a str,
    /// The columns of the order, which an index has.
    pub order: &'a [&'a str],
    pub descending: bool,
    /// The parameter that holds the most rows, such as `$3`.
    pub limit: &'a str,
}

impl PageSql<'_> {
    /// The statement. On Postgres the keys are gathered into an array first: so the rows are found by
    /// their key, whatever the statistics say.
    pub fn text(&self, store: &Store) -> String {
        self.text_within(store, PAGE_BYTES)
    }

    /// The statement of pages of several parts of the table, merged. A row is in one part; `parts` are their
    /// conditions, each with the common one. The order must have one column, and each part an index that ends with it.
    /// So the parts are read side by side, and no row is read but those of the page and one of each part; at worst, on
    /// Postgres, a page of each part.
    pub fn merged(&self, store: &Store, parts: &[String]) -> String {
        self.text_of(store, PAGE_BYTES, parts)
    }

    /// The statement of pages that end at a number of bytes.
    pub fn text_within(&self, store: &Store, most_bytes: i64) -> String {
        self.text_of(store, most_bytes, &[])
    }

    fn text_of(&self, store: &Store, most_bytes: i64, parts: &[String]) -> String {
        let Self {
            table,
            columns,
            key,
            bytes,
            condition,
            limit,
            ..
        } = self;
        let direction = if self.descending { " DESC" } else { "" };
        let order: Vec<String> = self
            .order
            .iter()
            .map(|column| format!("{column}{direction}"))
            .collect();
        let order = order.join(", ");
        let mut kept = self.order.to_vec();
        if !kept.contains(key) {
            kept.push(key);
        }
        let kept = kept.join(", ");
        let part = |more: &str| {
            format!("SELECT {kept}, {bytes} AS page_bytes FROM {table} WHERE {condition}{more}")
        };
        let ordered_part = |more: &String| {
            let part = part(&format!(" AND {more}"));
            if store.is_postgres() {
                // Else it may read the parts whole and sort them.
                format!("({part} ORDER BY {order} LIMIT {limit} + 1)")
            } else {
                part
            }
        };
        let parts = match parts {
            [] => part(""),
            [only] => part(&format!(" AND {only}")),
            parts => {
                let parts: Vec<String> = parts.iter().map(ordered_part).collect();
                parts.join(" UNION ALL ")
            }
        };
        let (open, close) = if store.is_postgres() {
            ("= ANY (ARRAY(", "))")
        } else {
            ("IN (", ")")
        };
        format!(
            "WITH page_sizes AS ( \
                 {parts} ORDER BY {order} LIMIT {limit} + 1 \
             ), page_sums AS ( \
                 SELECT {key}, row_number() OVER (ORDER BY {order}) AS page_nth, \
                     sum(page_bytes) OVER (ORDER BY {order} ROWS UNBOUNDED PRECEDING) AS page_upto FROM page_sizes \
             ) \
             SELECT {columns}, (SELECT count(*) FROM page_sizes) AS {FOUND} FROM {table} WHERE {key} {open} \
                 SELECT {key} FROM page_sums WHERE page_nth <= {limit} AND (page_nth = 1 OR page_upto <= {most_bytes}) \
             {close} ORDER BY {order}"
        )
    }
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paged<T> {
    pub rows: Vec<T>,
    /// True when more rows follow.
    pub has_more: bool,
}

impl<T> Paged<T> {
    pub fn empty() -> Self {
        Self {
            rows: vec![],
            has_more: false,
        }
    }

    /// Cuts a list that was read with one row more than `limit`.
    pub fn cut(mut rows: Vec<T>, limit: usize) -> Self {
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        Self { rows, has_more }
    }

    pub fn try_map<U, E>(self, each: impl FnMut(T) -> Result<U, E>) -> Result<Paged<U>, E> {
        Ok(Paged {
            rows: self.rows.into_iter().map(each).collect::<Result<_, _>>()?,
            has_more: self.has_more,
        })
    }
}

/// The answer to the statement of a [`PageSql`].
pub fn paged(rows: Vec<AnyRow>) -> Result<Paged<AnyRow>, sqlx::Error> {
    let found = match rows.first() {
        Some(row) => row.try_get::<i64, _>(FOUND)?,
        None => 0,
    };
    let has_more = found > rows.len() as i64;
    Ok(Paged { rows, has_more })
}
