//! Platforms, roles and agents that genie knows. Others are words that somebody chose: they may be personal, so the log
//! shows a keyed hash of them.

use crate::{caption::Platform, tier::Tier};

/// The names that widespread programs for agents give themselves, in small letters and without a version.
const AGENTS: [&str; 20] = [
    "chatgpt",
    "claude",
    "claude-ai",
    "claude-code",
    "cline",
    "codex",
    "codex-mcp-client",
    "continue",
    "cursor",
    "cursor-vscode",
    "gemini-cli",
    "goose",
    "inspector",
    "librechat",
    "mcp-inspector",
    "n8n",
    "open-webui",
    "visual-studio-code",
    "windsurf",
    "zed",
];

/// The last is Directus' own name for it.
const ROLES: [&str; 3] = ["creator", "administrator", "Administrator"];

/// True when the readable part of the log may hold the word in this field.
pub fn is_known(field: &str, word: &str) -> bool {
    match field {
        "platform" => Platform::parse(word).is_some(),
        "role" => ROLES.contains(&word) || Tier::parse(word).is_some(),
        "agent" => AGENTS.contains(&word),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_known_in_its_own_field() {
        for (field, word) in [
            ("platform", "onlyfans"),
            ("role", "creator"),
            ("role", "Administrator"),
            ("role", "studio"),
            ("agent", "claude-code"),
        ] {
            assert!(is_known(field, word), "{field} {word}");
        }
        for (field, word) in [
            ("platform", "anna.schmidt@example.com"),
            ("platform", "creator"),
            ("role", "onlyfans"),
            ("role", "anna"),
            ("role", ""),
            ("operation", "creator"),
            ("agent", "anna-s-diary"),
        ] {
            assert!(!is_known(field, word), "{field} {word}");
        }
    }
}
