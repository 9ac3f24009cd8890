//! genie: a self-hosted back end for creator platforms. This crate has HTTP, the command line,
//! configuration and wiring. The rules are in the crates below it.

/// The state that handlers are given.
pub mod app;
/// `genie audit`: prints and verifies the log.
mod audit;
/// The blob store: uploaded files, encrypted.
mod blobs;
/// Tells the job board at a start how its users stand.
mod board_owners;
/// Bounds bytes in memory.
mod byte_budget;
pub mod cli;
/// The settings, read from the environment once and checked.
pub mod config;
/// The connections of the port, and what each may cost.
mod connections;
pub mod core_dumps;
/// `genie import`: credentials from the original.
mod credential_import;
/// The data folder, which only its owner may enter.
pub mod data_folder;
/// Limits each user to one account export at a time.
mod exports;
/// What bytes are, told by their beginning.
mod file_kind;
/// The limit of open files.
mod file_limit;
/// Deletes old files of jobs.
mod file_retention;
/// Erases forgotten users; `genie forget`, `genie restore-check`.
mod forgetting;
/// Deletes old outcomes of requests and old signed heads.
mod housekeeping;
/// Routes, requests and answers.
pub mod http;
/// Logins, passwords and tokens, by genie itself or by Directus.
mod identity;
/// `genie invite`.
mod invite;
/// Removes old jobs.
mod job_retention;
/// `genie keys`, and the ring of master keys.
mod keys;
/// Counts wrong tries by key, and makes a guesser wait.
mod limiter;
/// `genie log export`, `genie log import`.
mod log_transfer;
/// Starts logging.
mod logging;
/// The numbers of invisible marks.
mod mark_numbers;
/// The media worker of this process.
mod media_worker;
/// The network of a client, by which clients are counted.
mod network;
/// Checks an upload, and queues the job that imports it.
mod onboarding;
/// The origins that browsers may call from.
mod origins;
/// Counts answers with status 503 for the log.
mod outages;
/// Sends mails with a link to set a new password.
mod password_mail;
/// Accepts connections, and serves HTTP on them.
mod port;
/// Copies signed heads to a file and to a webhook, outside the store.
mod publish_heads;
/// Limits the requests of a key, and reports what is left.
mod rate_limiter;
/// The two rates of requests: by user and by address.
mod request_limits;
/// The pages that a mail's link may lead to.
mod reset_pages;
/// The resumable uploads that are being received.
mod resumable_uploads;
mod roles;
/// Builds a server and starts listening.
pub mod serve;
/// Counts what is held at once, by holder and in all.
mod shares;
/// Texts that tell how something is done.
mod skills;
/// The socket through which commands reach a running server.
mod socket;
/// Opens the log, and locks an embedded store.
mod store;
/// Limits the streams that are open at once.
mod streams;
mod tier_limits;
/// Limits the uploads that this server receives and checks at once.
mod uploads;
