//! The built-in identity: passwords, and the tokens that stand for a login. Same wire as Directus.

/// Accounts that were read a moment ago.
pub mod known;
/// Argon2id, off the actor threads, so many at once.
pub mod password;
/// Access and refresh tokens.
pub mod token;
