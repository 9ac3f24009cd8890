//! The form in which a table holds its ids, in SQL that both stores understand.
//!
//! The tables that most commands write hold UUIDs as 16 bytes: a key of that size is found and kept at
//! less than half the cost of its text. The drivers hand over text either way.

/// The form of a table's ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdForm {
    /// The 36 characters.
    Text,
    /// 16 bytes: `uuid` on Postgres, a BLOB on SQLite.
    Binary,
}

impl IdForm {
    /// The value that an id given as text has in the table. `text` is a placeholder, such as `$1`.
    pub fn given(self, text: &str) -> String {
        match self {
            Self::Text => text.to_owned(),
            Self::Binary => format!("unhex({text}, '-')"),
        }
    }

    /// A column of ids as text, which [`Uuid`](uuid::Uuid) parses.
    pub fn shown(self, column: &str) -> String {
        match self {
            Self::Text => column.to_owned(),
            Self::Binary => format!("hex({column}) AS {column}"),
        }
    }
}
