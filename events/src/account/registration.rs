//! The two beginnings of an account: a registration, and a first visit of a user from another
//! identity provider.

use serde::{Deserialize, Serialize};

use super::Onboarding;
use crate::{
    ids::{EmailId, InviteId},
    tier::Tier,
};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Registration {
    /// The address as given; personal.
    pub email: String,
    pub email_id: EmailId,
    /// The name as given; personal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_name: Option<String>,
    /// The invite that the registration used.
    pub invite: InviteId,
    pub tier: Tier,
    pub role: String,
    /// True when the invite makes an administrator.
    pub admin: bool,
}

/// A user as another identity provider describes them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExternalAccount {
    /// Personal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// The stream of the address, if the same append claims the address for the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email_id: Option<EmailId>,
    /// Personal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_name: Option<String>,
    pub tier: Tier,
    pub role: String,
    pub admin: bool,
    pub onboarding: Onboarding,
    /// True when the user may act.
    pub active: bool,
}

impl From<Registration> for ExternalAccount {
    fn from(r: Registration) -> Self {
        let email = Some(r.email);
        let email_id = Some(r.email_id);
        let onboarding = Onboarding::default();
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
