//! genie-projections: the read side. Its tables follow the log and can be thrown away. Nothing here
//! decides anything or calls anybody. The crate links no actor, no HTTP client and no cryptography:
//! `genie-log`'s types seal and open personal text.

#[cfg(test)]
mod plans;
/// How far the projections have come, whichever node moves them.
pub mod progress;
/// The trait of every projection.
pub mod projection;
/// Starts all projections, and serves the reads that wait for them.
pub mod read_side;
mod rows;
/// The task that moves all projections.
mod runner;

/// The registered users.
pub mod accounts;
pub mod captions;
pub mod chats;
/// The credentials, never their secrets.
pub mod credentials;
pub mod invites;
pub mod jobs;
/// The numbers of invisible marks.
pub mod marks;
pub mod service_keys;
/// Counts by counter and month.
pub mod usage;

pub use read_side::{ReadError, ReadSide};
