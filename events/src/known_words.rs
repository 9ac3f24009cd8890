//! Platforms and roles that genie knows. Others are words that somebody chose: they may be personal, so the log
//! shows a keyed hash of them.

use crate::{caption::Platform, tier::Tier};

/// The last is Directus' own name for it.
const ROLES: [&str; 3] = ["creator", "administrator", "Administrator"];

/// True when the readable part of the log may hold the word in this field.
pub fn is_known(field: &str, word: &str) -> bool {
    match field {
        "platform" => Platform::parse(word).is_some(),
        "role" => ROLES.contains(&word) || Tier::parse(word).is_some(),
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
        ] {
            assert!(!is_known(field, word), "{field} {word}");
        }
    }
}
