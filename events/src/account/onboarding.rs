//! The progress of a user before the first chat.

use serde::{Deserialize, Serialize};

/// The steps of onboarding, in order (docs/api.md, Onboarding).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Onboarding {
    /// The user has to install the browser extension.
    #[default]
    ExtensionInstall,
    /// The user has to upload data.
    DataCollection,
    /// A job imports the data.
    Processing,
    Complete,
}

impl Onboarding {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [
        Self::ExtensionInstall,
        Self::DataCollection,
        Self::Processing,
        Self::Complete,
    ];

    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ExtensionInstall => "EXTENSION_INSTALL",
            Self::DataCollection => "DATA_COLLECTION",
            Self::Processing => "PROCESSING",
            Self::Complete => "COMPLETE",
        }
    }

    /// Reads the stored word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }
}
