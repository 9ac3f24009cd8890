//! The state that handlers get. `serve.rs` builds it.

use std::sync::Arc;

use genie_actors::WriteSide;
use genie_events::Limits;
use genie_log::{Election, Log};
use genie_media::worker::WorkerWatch;
use genie_projections::ReadSide;

use crate::{
    blobs::Blobs,
    byte_budget::{BodyBytes, ByteBudget},
    config::Config,
    exports::Exports,
    forgetting::Eraser,
    identity::{
        callers::Callers, directus::Directus, impersonation::ImpersonationTokens,
        login_limiter::LoginLimiter, password::Passwords, refresh::RefreshTokens,
        reset_limiter::ResetLimiter, secret_limiter::SecretLimiter, token::Tokens,
    },
    keys::server::Ring,
    outages::Outages,
    publish_heads::PublishedHeads,
    request_limits::RequestLimits,
    resumable_uploads::ResumableUploads,
    skills::Skills,
    streams::Streams,
    uploads::Uploads,
};

pub struct App {
    pub config: Config,
    pub log: Log,
    /// The last position when this server started.
    pub head_at_start: u64,
    pub election: Election,
    pub write: WriteSide,
    pub reads: ReadSide,
    pub heads: PublishedHeads,
    pub ring: Arc<Ring>,
    pub tokens: Tokens,
    pub impersonations: ImpersonationTokens,
    pub refresh_tokens: RefreshTokens,
    pub passwords: Passwords,
    pub login_limiter: LoginLimiter,
    pub secret_limiter: SecretLimiter,
    pub reset_limiter: ResetLimiter,
    /// `None` when genie keeps the users itself.
    pub directus: Option<Directus>,
    pub blobs: Blobs,
    pub uploads: Uploads,
    pub resumable_uploads: ResumableUploads,
    pub eraser: Eraser,
    pub callers: Callers,
    pub request_limits: RequestLimits,
    /// The large answers that clients have not read yet.
    pub large_answers: ByteBudget,
    pub exports: Exports,
    pub outages: Outages,
    pub streams: Streams,
    pub body_bytes: BodyBytes,
    /// The media worker beside this server, if there is one.
    pub worker: WorkerWatch,
    pub limits: Limits,
    pub skills: Skills,
}
