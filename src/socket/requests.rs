//! The requests that commands send to a running server. It answers in the form of the HTTP API.

use clap::Args;
use genie_events::{Timestamp, UserId, invite::Grant, tier::Tier};
use genie_log::keys::rotation::{RotationCursor, Wraps};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{credential_import::line::CredentialLine, roles::administers};

/// The most invites of one request.
const MAX_COUNT: usize = 100;

/// A request for invites, as a body or as options of the command line.
#[derive(Default, Serialize, Deserialize, Args, ToSchema)]
pub struct InviteRequest {
    /// The number of invites; 1 by default
    #[arg(long)]
    #[schema(minimum = 1, maximum = 100)]
    count: Option<usize>,
    /// The time until which they may be used, as RFC 3339; for ever without it
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
    /// Checks the request; returns the number of invites, and the grant of each.
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

/// Lines of an import, in order.
#[derive(Serialize, Deserialize)]
pub struct CredentialBatch {
    pub lines: Vec<CredentialLine>,
}

/// Requests about master keys.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum KeyRequest {
    /// Answers a [`KeyList`].
    List,
    /// Reads the ring's file again. Answers a [`KeyList`].
    Reload,
    /// Makes the first key of the ring current. Answers its id.
    Begin,
    /// Continues a rotation. Answers a [`genie_log::keys::rotation::RotationStep`].
    Step { to: String, from: RotationCursor },
    /// Retires a key that no data key needs. Answers the time of retirement.
    Retire { id: String },
}

/// The master keys, and the number of data keys that each wraps.
#[derive(Debug, Serialize, Deserialize)]
pub struct KeyList {
    /// The ids of the ring, in order.
    pub ring: Vec<String>,
    /// The id of the key that wraps new data keys.
    pub current: String,
    pub wraps: Vec<Wraps>,
    /// Retired keys, each with its time.
    pub retired: Vec<(String, String)>,
    /// The running servers, each with the ids of its ring. Empty on an embedded store.
    pub servers: Vec<(String, Vec<String>)>,
}

impl KeyList {
    /// The number of data keys that a master key wraps.
    pub fn wrapped_by(&self, id: &str) -> u64 {
        self.wraps
            .iter()
            .filter(|wraps| wraps.master == id)
            .map(|wraps| wraps.keys)
            .sum()
    }

    /// The number of data keys that the other master keys wrap.
    pub fn wrapped_by_others(&self, id: &str) -> u64 {
        self.wraps
            .iter()
            .filter(|wraps| wraps.master != id)
            .map(|wraps| wraps.keys)
            .sum()
    }
}

#[derive(Serialize, Deserialize)]
pub struct ForgetRequest {
    pub user: UserId,
}
