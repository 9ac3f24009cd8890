//! One test program for the whole server on a real port, on both stores, with a scripted Ollama. In
//! most stories the server runs inside the test.

#![allow(clippy::unwrap_used)] // a test program
#![allow(clippy::too_many_lines)] // a story is read from its beginning to its end

/// As in the binary, for servers inside the tests.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod disk_search;
mod fake_ollama;
mod fake_smtp;
mod identity;
mod imports;
mod raw_connection;
mod secret_search;
mod test_genie;
mod until;

mod account_export;
mod accounts;
mod agui;
mod api_keys;
mod arrows;
mod audit;
mod bad_input;
mod browser_files;
mod callers;
mod captions;
mod chat_clients;
mod chat_continue;
mod chat_prompts;
mod chat_sessions;
mod chat_stops;
mod chat_tickets;
mod chats;
mod chosen_words;
mod connections;
mod credential_import;
mod credentials;
mod data_folder;
mod directus_wire;
mod documents;
mod events;
mod files;
mod forgetting;
mod idempotency;
mod impersonation;
mod inputs;
mod invite_to_answer;
mod invites;
mod job_batches;
mod job_board;
mod job_leases;
mod jobs;
mod keys;
mod limits;
mod log_transfer;
mod logs;
mod marks;
mod mcp;
mod media_worker;
mod names;
mod onboarding;
mod openai;
mod origins;
mod outside_workers;
mod ownership;
mod passwords;
mod probes;
mod proxies;
mod read_your_writes;
mod registration;
mod routes;
mod s3_uploads;
mod secret_leaks;
mod serve;
mod service_keys;
mod several_servers;
mod skills;
mod store_away;
mod story;
mod streams;
mod tus;
mod typed_text;
mod usage;
mod worker_reports;
