//! Identity, by one of two makers with the same wire: genie itself (passwords, and the tokens that stand for a login), or a Directus
//! server.

/// Accounts that were read a moment ago.
pub mod account_cache;
/// The other maker of identity: a Directus server.
pub mod directus;
/// Tokens of administrators who act for a user.
pub mod impersonation;
/// Wrong passwords, counted.
pub mod login_limiter;
/// Argon2id, off the actor threads, so many at once.
pub mod password;
/// Refresh tokens.
pub mod refresh;
/// Wrong secrets, keys and tokens, counted.
pub mod secret_limiter;
/// The check of a signed token.
pub mod signature;
/// Access tokens.
pub mod token;
/// One-time codes by time.
pub mod two_factor;
