//! The built-in identity: passwords, and the tokens that stand for a login. Same wire as Directus.

/// Tokens of administrators who act for a user.
pub mod impersonation;
/// Argon2id, off the actor threads, so many at once.
pub mod password;
/// Access and refresh tokens.
pub mod token;
