//! genie-actors: the write side. It takes commands, lets the rules of `genie-events` decide, appends what happened, and acts on
//! the world for facts that ask for it. It writes no SQL and knows no read table.

/// Looks at what is not one's own, put on record.
pub mod access;
/// Accounts, after they came into being.
pub mod accounts;
/// One answer, from its turn at the model server to its end.
mod answer;
/// Who asks: made by whoever authenticated the request.
pub mod caller;
/// One caption, from its turn at the model server to its end.
mod captions;
/// What can come of a command.
pub mod error;
/// What readers of a running turn are shown.
pub mod feed;
/// Forgetting: the fact, the key and the address, one append.
pub mod forget;
/// Which jobs wait, and who may have one.
pub mod jobs;
/// What was put on record a moment ago, and need not be again.
mod lately;
/// The model server's wire.
pub mod ollama;
/// Registration: three owners, one append.
pub mod register;
/// Service keys: made, looked at, revoked.
pub mod service_keys;
/// Running answers: queued, streamed, journalled, ended.
pub mod supervisor;
/// The system's own streams.
mod system_stream;
/// Who may use the model server now, and who is next.
mod turnstile;
/// One user's actor: order, admission and cached state, not truth.
mod user;
/// Finds, starts, replaces and passivates users' actors.
pub mod users;
/// Seals secrets and opens them, after the fact is durable.
pub mod vault;
/// All of the above, wired.
pub mod write_side;

pub use caller::{Asking, Caller};
pub use error::WriteError;
pub use write_side::{Settings, WriteSide};
