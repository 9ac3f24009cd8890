//! The requests that commands send to a running server. Its answers are those of HTTP.

use clap::Args;
use genie_events::{Timestamp, UserId, invite::Grant, tier::Tier};
use genie_log::keys::rotation::{Place, Wraps};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{credential_import::line::CredentialLine, roles::administers};

/// The most invites of one request.
const MAX_COUNT: usize = 100;

/// Invites as they are asked for: in a body, or on the command line.
#[derive(Default, Serialize, Deserialize, Args, ToSchema)]
pub struct InviteRequest {
    /// How many; 1 by default
    #[arg(long)]
    #[schema(minimum = 1, maximum = 100)]
    count: Option<usize>,
    /// Until when they may be used, as an RFC 3339 time; for ever without it
    #[arg(long)]
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    /// The tier of the new user: starter (the default), creator, pro or studio
    #[arg(long)]
    tier: Option<String>,
    /// The role of the new user, `creator` by default; `administrator` makes an administrator
    #[arg(long)]
    #[schema(min_length = 1, max_length = 64)]
    role: Option<String>,
}

impl InviteRequest {
    /// How many, and what their users become.
    pub fn read(self) -> Result<(usize, Grant), String> {
        let count = self.count.unwrap_or(1);
        if !(1..=MAX_COUNT).contains(&count) {
            return Err(format!("`count` must be 1 to {MAX_COUNT}"));
        }
        let tier = match &self.tier {
            None => Tier::default(),
            Some(word) => {
                Tier::parse(word).ok_or("`tier` must be one of: starter, creator, pro, studio")?
            }
        };
        let expires_at = match &self.expires_at {
            None => None,
            Some(text) => Some(
                Timestamp::parse_rfc3339(text).ok_or("`expires_at` must be an RFC 3339 time")?,
            ),
        };
        let role = self.role.unwrap_or_else(|| "creator".to_owned());
        Ok((
            count,
            Grant {
                tier,
                admin: administers(&role),
                role,
                expires_at,
            },
        ))
    }
}

/// Lines as they are sent to a server.
#[derive(Serialize, Deserialize)]
pub struct CredentialBatch {
    /// In order.
    pub lines: Vec<CredentialLine>,
}

/// Requests about master keys.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum KeyRequest {
    /// The state: a [`KeyList`].
    List,
    /// Read the file again: a [`KeyList`].
    Reload,
    /// Make the first key current: its id.
    Begin,
    /// Go on with a rotation: a [`Step`].
    Step { to: String, from: Place },
    /// Never use a key again that nothing needs: since when.
    Retire { id: String },
}

/// The master keys, and what they wrap.
#[derive(Debug, Serialize, Deserialize)]
pub struct KeyList {
    /// The ids of the ring, in order.
    pub ring: Vec<String>,
    /// The one that new data keys are wrapped by.
    pub current: String,
    /// How many data keys each master key wraps.
    pub wraps: Vec<Wraps>,
    /// Those that were retired, and when.
    pub retired: Vec<(String, String)>,
    /// The servers that run, and what they have in their rings; none on an embedded store.
    pub servers: Vec<(String, Vec<String>)>,
}

impl KeyList {
    /// How many data keys a master key wraps.
    pub fn wrapped_by(&self, id: &str) -> u64 {
        self.wraps
            .iter()
            .filter(|wraps| wraps.master == id)
            .map(|wraps| wraps.keys)
            .sum()
    }

    /// How many any other wraps.
    pub fn wrapped_by_others(&self, id: &str) -> u64 {
        self.wraps
            .iter()
            .filter(|wraps| wraps.master != id)
            .map(|wraps| wraps.keys)
            .sum()
    }
}

/// The user to be forgotten.
#[derive(Serialize, Deserialize)]
pub struct ForgetRequest {
    pub user: UserId,
}
