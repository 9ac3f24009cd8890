//! How far somebody has got before the first chat.

use serde::{Deserialize, Serialize};

/// The steps of onboarding, in order (contract, section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Onboarding {
    /// The browser extension is to be installed.
    #[default]
    ExtensionInstall,
    /// Data is to be uploaded.
    DataCollection,
    /// Data is being read in.
    Processing,
    /// Done.
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

    /// The stored word back.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }
}
