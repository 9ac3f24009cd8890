//! genie-projections: the read side. Tables that follow the log and can be thrown away; nothing here decides anything or calls
//! anybody. It links no actor, no HTTP client and no crypto: personal text is sealed and opened by `genie-log`'s types.

/// How far the projections are, whichever node moves them.
pub mod progress;
/// What every projection is, and the task that drives one: rows and checkpoint in one transaction.
pub mod projection;
/// All projections, started, and the reads that wait for them.
pub mod read_side;

/// Who is registered.
pub mod accounts;
/// Who did what when, readable without anybody's key.
pub mod audit;
/// Captions.
pub mod captions;
/// Chat sessions and their messages.
pub mod chats;
/// Which credentials are held, never what they are.
pub mod credentials;
/// Invites.
pub mod invites;
/// Jobs and their queues.
pub mod jobs;
/// Which service keys there are.
pub mod service_keys;
/// What was counted.
pub mod usage;

pub use read_side::{ReadError, ReadSide};
