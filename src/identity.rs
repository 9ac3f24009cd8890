//! The built-in identity: passwords, and the tokens that stand for a login. Same wire as Directus.

/// Argon2id, off the actor threads, so many at once.
pub mod password;
/// Refresh tokens.
pub mod refresh;
/// Wrong passwords, counted.
pub mod throttle;
/// Access tokens.
pub mod token;
/// One-time codes by time.
pub mod two_factor;
