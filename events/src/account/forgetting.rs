//! The words of the last event of every user who was forgotten.

use serde::{Deserialize, Serialize};

/// At whose wish somebody was forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForgottenBy {
    /// Their own.
    User,
    /// An administrator's.
    Administrator,
    /// Whoever runs the server, at its machine.
    Operator,
    /// Nobody's anew: they had been forgotten, and came back with a backup.
    Ledger,
}

impl ForgottenBy {
    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Administrator => "administrator",
            Self::Operator => "operator",
            Self::Ledger => "ledger",
        }
    }
}

/// The stored type of the one event of a user that is sealed under the system's key: it is read when theirs is gone.
pub const FORGOTTEN: &str = "account.forgotten";
