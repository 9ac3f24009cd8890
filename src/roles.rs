//! The known roles: the configured ones, or those of the Directus that keeps the users. Any other
//! name is a typing error or belongs to another system, and must not become a fact.

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

/// True when a text can name a role, in genie or in Directus.
pub fn has_the_form_of_one(role: &str) -> bool {
    (1..=MAX_NAME).contains(&role.len()) && !role.chars().any(char::is_control)
}

/// Refuses a role that is not in the settings. With a Directus the settings name no roles, so only
/// the form is checked.
pub fn expect_set(config: &Config, role: &str) -> Result<(), String> {
    match config.directus {
        None => expect_one_of(
            BUILT_IN
                .into_iter()
                .chain(config.roles.iter().map(String::as_str)),
            role,
        ),
        Some(_) if has_the_form_of_one(role) => Ok(()),
        Some(_) => Err(format!(
            "`role` must have 1 to {MAX_NAME} bytes, none of them control characters"
        )),
    }
}

/// Refuses a role that is not among the known ones, and lists these.
pub fn expect_one_of<'a>(
    known: impl Iterator<Item = &'a str> + Clone,
    role: &str,
) -> Result<(), String> {
    if known.clone().any(|known| known == role) {
        Ok(())
    } else {
        Err(format!(
            "`role` must be one of: {}",
            known.take(MAX_TOLD).collect::<Vec<_>>().join(", ")
        ))
    }
}
