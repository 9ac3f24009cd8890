//! Identity: genie itself keeps users, passwords and tokens, or a Directus server does. Clients see
//! the same routes and tokens either way.

/// The callers whom this server knows.
pub mod callers;
/// Identity by a Directus server.
pub mod directus;
/// Tokens of administrators who act for a user.
pub mod impersonation;
/// Counts wrong passwords and one-time codes.
pub mod login_limiter;
/// Hashes and checks passwords with Argon2id.
pub mod password;
/// genie's own refresh tokens.
pub mod refresh;
/// Counts requests for a new password.
pub mod reset_limiter;
/// Counts wrong secrets, keys and tokens by address.
pub mod secret_limiter;
/// Checks the signature of a token.
pub mod signature;
/// genie's own access tokens.
pub mod token;
/// Time-based one-time codes.
pub mod two_factor;
