//! genie-log: stores facts on Postgres and on SQLite, with the working tables beside them.
//!
//! It appends in groups, pages and follows in commit order, and seals everything of a user under
//! that user's key. It never decides anything: `genie-events` holds the rules.

/// Appends and their outcomes.
pub mod append;
mod append_postgres;
mod append_sqlite;
/// Time, ids and chance, which come in as arguments everywhere else.
pub mod clock;
/// Connections that are lent without a ping.
pub mod connections;
/// Elects the node that runs timers, projections and the head signer.
pub mod election;
/// Sealed bytes: XChaCha20-Poly1305 with a commitment to the key.
pub mod encryption;
/// Errors of the store, and the distinction between a store that is away and a fault of genie.
pub mod error;
/// Exports the log and its working tables into a folder of sealed files.
pub mod export;
/// Follows the log in order, live.
pub mod follow;
/// The store's health: it takes writes, or is in trouble.
pub mod health;
/// Imports an export into a store.
pub mod import;
/// Master keys, data keys, and the keys derived from them.
pub mod keys;
/// Loads users: snapshot and tail, many at once.
pub mod load_users;
/// All of the above as one handle.
pub mod log;
/// Long work, apart from the threads that serve short answers.
pub mod long_pages;
mod migrations;
mod notify;
/// Pages that end at a number of rows or of bytes.
pub mod pages;
mod postgres_probe;
mod postgres_records;
mod postgres_streams;
/// Reads pages of the log, a user's events, and single streams.
pub mod read;
/// One task reads for many, in batches.
pub mod read_batcher;
/// Rows in pieces of few sizes.
mod row_chunks;
/// The opened store: pools, migrations and the runtime that owns them.
pub mod store;
/// The clock that leases are judged by.
pub mod store_clock;
/// A row of the log as stored, its digest, and the fact inside.
pub mod stored_row;
mod tail_cache;
/// Removes deleted bytes from SQLite's files, too.
mod wal_scrub;
/// The one task that writes: group commit.
pub mod writer;

/// The leader's task that keeps the tree and signs heads.
pub mod head_signer;
/// Proofs for others: a fact is in the log, and the log only grew.
pub mod merkle_proof;
/// The Merkle tree over all digests.
pub mod merkle_tree;
/// The tree's signed heads, and the key that signs them.
pub mod signed_heads;
/// Checks the whole log against its digests, its tree and its heads.
pub mod verify;

/// Deletes what would otherwise grow for ever: old outcomes of requests, and most signed heads.
pub mod retention;

/// A working table: uploaded files. Also seals their bytes.
pub mod blobs;
/// A working table: Directus' answers to refresh tokens, for browser tabs that send the same token.
pub mod directus_refresh;
/// A working table: the users to be forgotten and those who were. Also erases their rows.
pub mod forgetting;
/// A working table: the outcomes of requests that may be sent again.
pub mod idempotency;
/// A working table: the impersonations that run now.
pub mod impersonations;
/// A working table: the leases of running jobs, turns and captions.
pub mod leases;
/// A working table: the e-mail addresses that are reserved for registrations.
pub mod reservations;
/// A working table: uploads that may be gone on with.
pub mod resumable;
/// A working table: sealed secrets, behind a door that only the write side's vault gets.
pub mod secrets;
/// A working table: sessions and their refresh tokens.
pub mod sessions;
/// A working table: a snapshot of each user's state.
mod snapshots;
/// A working table: the text of running turns.
pub mod turn_journal;
/// A working table: jobs that have not ended.
pub mod unfinished;

/// The form in which a table holds its ids.
pub mod stored_ids;
/// Who writes into an embedded store next.
mod write_turns;

/// Counts what SQLite does, for tests of what an operation costs.
#[cfg(any(test, feature = "testing"))]
pub mod sqlite_counters;
/// A fresh real store for each test.
#[cfg(feature = "testing")]
pub mod testing;

pub use append::{AppendError, AppendRequest, Appended, Group, NewFact, Owner, Work};
pub use clock::Clock;
pub use connections::StoreTransaction;
pub use election::{Election, Epoch};
pub use error::{Damaged, LogError};
pub use export::{Export, TransferError, export};
pub use idempotency::{Remember, RequestKey};
pub use import::import;
pub use keys::{MasterKeys, UserKeys};
pub use load_users::UserStates;
pub use log::{Append, Keys, Log, Opened, Settings};
pub use merkle_proof::Proofs;
pub use read::{KeyKind, LogReader, Lookups};
pub use secrets::VaultDoor;
pub use stored_row::{DigestCheck, Fact, FactBody, StoredRow};
