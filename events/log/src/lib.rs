//! genie-log: how facts are kept, on Postgres and on SQLite, and the working tables beside them.
//!
//! It appends in groups, pages and follows in commit order, and seals everything of a user under that user's key.
//! It never decides anything: what may happen is said in `genie-events`.

/// What is to be appended, and what became of it.
pub mod append;
mod append_postgres;
mod append_sqlite;
mod batcher;
/// Time, ids and chance, which come in as arguments everywhere else.
pub mod clock;
/// Which one node runs timers, projections and the sealer.
pub mod election;
/// Sealed text: XChaCha20-Poly1305 with commitment.
pub mod encryption;
/// What can go wrong, and which of it means that the store is away.
pub mod error;
/// An export: the log and its working tables in a folder of sealed files.
pub mod export;
/// Following the log in order, live.
pub mod follow;
/// Whether the store takes writes.
pub mod health;
/// Taking an export into a store.
pub mod import;
/// Master keys, user keys and what is derived from them.
pub mod keys;
/// Waking users: snapshot and tail, many at once.
pub mod load_users;
/// Everything above, as one handle.
pub mod log;
mod migrations;
mod notify;
/// Pages of the log, a user's events, single streams.
pub mod read;
/// The opened store: pools, migrations and the runtime that owns them.
pub mod store;
/// A row of the log as stored, its digest, and the fact inside.
pub mod stored_row;
mod tail_cache;
/// What was deleted goes from SQLite's files too.
mod wal_scrub;
/// The one task that writes: group commit.
pub mod writer;

/// The elected node's task that keeps the tree and signs heads.
pub mod head_signer;
/// Proofs for others: a fact is in the log, and the log only grew.
pub mod merkle_proof;
/// The Merkle tree over all digests.
pub mod merkle_tree;
/// Its signed heads, and the key that signs them.
pub mod signed_heads;
/// Checking the whole log against its digests, its tree and its heads.
pub mod verify;

/// Working table: uploaded files; and how their bytes are sealed.
pub mod blobs;
/// Working table: what Directus answered to a refresh token, for the tabs that come with the same one.
pub mod directus_refresh;
/// Working table: who is to be forgotten and who was; and what is erased of them.
pub mod forgetting;
/// Working table: outcomes of requests that may be sent again.
pub mod idempotency;
/// Working table: who acts for whom now.
pub mod impersonations;
/// Working table: leases of running jobs, turns and captions.
pub mod leases;
/// Working table: sealed secrets, behind a door that only the write side's vault is handed.
pub mod secrets;
/// Working table: refresh tokens.
pub mod sessions;
/// Working table: one snapshot of each user's state.
mod snapshots;
/// Working table: tokens of running turns.
pub mod turn_journal;

/// What `genie torture` does to a Postgres behind the servers' backs.
pub mod torture;

/// A fresh real store for each test.
#[cfg(feature = "testing")]
pub mod testing;

pub use append::{AppendError, AppendRequest, Appended, Group, NewFact, Owner, Work};
pub use clock::Clock;
pub use election::{Election, Epoch};
pub use error::{Damaged, LogError};
pub use export::{Export, TransferError, export};
pub use idempotency::{Remember, RequestKey};
pub use import::import;
pub use keys::{MasterKeys, UserKeys};
pub use log::{Append, Log, Opened, Settings};
pub use secrets::VaultDoor;
pub use stored_row::{Body, Fact, StoredRow};
