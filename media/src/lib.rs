//! The media worker. It claims jobs over the HTTP API, so it runs beside the server or elsewhere, and
//! works on untrusted files in a sandbox. It knows no other crate of genie but the one of
//! marks, no store and no rule.

pub mod operations;
pub mod worker;

pub mod mark_secret;

pub mod ffmpeg;
pub mod kind;
pub mod picture;
pub mod probe;
pub mod sandbox;

pub mod fetch;
pub mod zip_check;
