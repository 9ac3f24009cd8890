//! genie-actors: the write side. It takes commands, lets the rules of `genie-events` decide, appends what happened, and acts on
//! the world for facts that ask for it. It writes no SQL and knows no read table.

/// Looks at what is not one's own, put on record.
pub mod access;
/// Accounts, after they came into being.
pub mod accounts;
/// Who asks: made by whoever authenticated the request.
pub mod caller;
/// One caption, from its turn at the model server to its end.
mod captions;
/// One answer, from its turn at the model server to its end.
mod chats;
/// Seals secrets and opens them, after the fact is durable.
pub mod credentials;
/// What was put on record a moment ago, and need not be again.
mod dedupe;
/// What can come of a command.
pub mod error;
/// Forgetting: the fact, the key and the address, one append.
pub mod forgetting;
/// Which jobs wait, and who may have one.
pub mod jobs;
/// Who may use the model server now, and who is next.
mod model_queue;
/// The model server's wire.
pub mod ollama;
/// Registration: three owners, one append.
pub mod registration;
/// Service keys: made, looked at, revoked.
pub mod service_keys;
/// Running answers: queued, streamed, journalled, ended.
pub mod supervisor;
/// The system's own streams.
mod system_stream;
/// What readers of a running turn are shown.
pub mod turn_feed;
/// One user's actor: order, admission and cached state, not truth.
mod user;
/// Finds, starts, replaces and passivates users' actors.
pub mod users;
/// All of the above, wired.
pub mod write_side;

pub use caller::{Asking, Caller};
pub use error::WriteError;
pub use write_side::{Settings, WriteSide};
