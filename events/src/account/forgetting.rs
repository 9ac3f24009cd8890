//! The words of the last event of every forgotten user.

use serde::{Deserialize, Serialize};

/// At whose request the user was forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForgottenBy {
    User,
    Administrator,
    /// The operator, on the server's command line.
    Operator,
    /// The ledger of the forgotten, because the user came back with a backup.
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

/// The only event of a user that is sealed under the system's key, because it is read after the
/// user's key is gone.
pub const FORGOTTEN: &str = "account.forgotten";
