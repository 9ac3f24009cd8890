//! Identity, by one of two makers with the same wire: genie itself (passwords, and the tokens that stand for a login), or a Directus
//! server.

/// The other maker of identity: a Directus server.
pub mod directus;
/// Tokens of administrators who act for a user.
pub mod impersonation;
/// Accounts that were read a moment ago.
pub mod known;
/// Argon2id, off the actor threads, so many at once.
pub mod password;
/// Refresh tokens.
pub mod refresh;
/// Wrong secrets, keys and tokens, counted.
pub mod refused;
/// The check of a signed token.
pub mod signature;
/// Wrong passwords, counted.
pub mod throttle;
/// Access tokens.
pub mod token;
/// One-time codes by time.
pub mod two_factor;
