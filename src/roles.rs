//! The known roles: the configured ones, or those of the Directus that keeps the users. Any other
//! name is a typing error or belongs to another system, and must not become a fact.

use genie_events::typed_text;

use crate::config::Config;

const BUILT_IN: [&str; 2] = ["creator", "administrator"];
/// In bytes.
const MAX_NAME: usize = 64;
/// The most names that a refusal lists.
const MAX_TOLD: usize = 50;

/// True when users with this role administer by default. Directus calls it `Administrator`.
pub fn administers(role: &str) -> bool {
    role.eq_ignore_ascii_case("administrator")
}

/// A role's name as it looks; `None` when the text can name no role, in genie or in Directus.
pub fn read(text: &str) -> Option<String> {
    let role = typed_text::cleaned(text);
    let has_length = (1..=MAX_NAME).contains(&role.len());
    Some(role).filter(|role| has_length && !role.chars().any(char::is_control))
}

/// The role of this name in the settings. With a Directus the settings name no roles, so only the
/// form is checked.
pub fn expect_set(config: &Config, role: &str) -> Result<String, String> {
    match config.directus {
        None => expect_one_of(
            BUILT_IN
                .into_iter()
                .chain(config.roles.iter().map(String::as_str)),
            role,
        ),
        Some(_) => read(role).ok_or_else(|| {
            format!("`role` must have 1 to {MAX_NAME} bytes, none of them control characters")
        }),
    }
}

/// The known role that looks like this name, as the known one is spelled. Refuses any other name, and
/// lists the known ones.
pub fn expect_one_of<'a>(
    known: impl Iterator<Item = &'a str> + Clone,
    role: &str,
) -> Result<String, String> {
    let wanted = read(role);
    let is_wanted = |known: &&str| wanted.is_some() && read(known) == wanted;
    match known.clone().find(is_wanted) {
        Some(known) => Ok(known.to_owned()),
        None => Err(format!(
            "`role` must be one of: {}",
            known.take(MAX_TOLD).collect::<Vec<_>>().join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_the_known_one_that_looks_the_same() {
        let known = ["creator", "Cre\u{301}atrice", "VIP club"];
        for (role, expected) in [
            ("creator", Some("creator")),
            (" creator\n", Some("creator")),
            ("\u{feff}creator\u{200b}", Some("creator")),
            ("Cr\u{e9}atrice", Some("Cre\u{301}atrice")),
            ("VIP\u{a0}\u{2003}club", Some("VIP club")),
            ("Creator", None),
            ("\u{200b}", None),
            ("", None),
        ] {
            let found = expect_one_of(known.into_iter(), role).ok();
            assert_eq!(found.as_deref(), expected, "{role:?}");
        }
        assert_eq!(read(&"r".repeat(MAX_NAME + 1)), None);
        assert_eq!(read("a\u{7}b"), None);
    }
}
