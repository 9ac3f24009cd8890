//! How somebody comes into being: by registering, or by being met.

use serde::{Deserialize, Serialize};

use super::Onboarding;
use crate::{
    ids::{EmailId, InviteId},
    tier::Tier,
};

/// What a registration says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Registration {
    /// The address as given; personal.
    pub email: String,
    /// The address's stream.
    pub email_id: EmailId,
    /// As given; personal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_name: Option<String>,
    /// The invite that was spent.
    pub invite: InviteId,
    /// The invite's tier.
    pub tier: Tier,
    /// The invite's role.
    pub role: String,
    /// Whether the invite makes an administrator.
    pub admin: bool,
}

/// Somebody whom another identity provider knows, as it says they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExternalAccount {
    /// The address; personal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// The address's stream, when it is claimed for them in the same append.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email_id: Option<EmailId>,
    /// Personal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_name: Option<String>,
    /// The tier.
    pub tier: Tier,
    /// The role's name.
    pub role: String,
    /// Whether they administer.
    pub admin: bool,
    /// How far onboarding is.
    pub onboarding: Onboarding,
    /// Whether they may act.
    pub active: bool,
}

impl From<Registration> for ExternalAccount {
    fn from(r: Registration) -> Self {
        let (email, email_id, onboarding) =
            (Some(r.email), Some(r.email_id), Onboarding::default());
        Self {
            email,
            email_id,
            first_name: r.first_name,
            tier: r.tier,
            role: r.role,
            admin: r.admin,
            onboarding,
            active: true,
        }
    }
}
