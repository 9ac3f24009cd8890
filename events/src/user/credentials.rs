//! Credentials of a user: what is decided by the tier and by the other credentials beside each one's own state.

use super::{User, changes};
use crate::{
    Now,
    credential::{Credential, CredentialCommand, CredentialKind, RefusedFor, SealedSecret},
    event::Change,
    ids::CredentialId,
    platform_name::PlatformName,
    refusal::Refusal,
    tier::Counter,
    user_name::UserName,
};

/// The most credentials that a user holds beside profiles, which the tier limits: each platform's login, cookies and session.
pub const MAX_LOGINS: usize = 300;

impl User {
    pub(super) fn credential_changes(
        &self,
        id: CredentialId,
        command: CredentialCommand,
    ) -> Result<Vec<Change>, Refusal> {
        let events = self
            .credentials
            .get(&id)
            .unwrap_or(&Credential::Absent)
            .decide(command)?;
        Ok(changes(id, events))
    }

    pub(super) fn store_credential(
        &self,
        now: &Now,
        id: CredentialId,
        kind: CredentialKind,
        command: CredentialCommand,
    ) -> Result<Vec<Change>, Refusal> {
        let is_new = !matches!(self.credentials.get(&id), Some(Credential::Held { .. }));
        match kind {
            _ if !is_new => {}
            CredentialKind::Profile => {
                drop(self.can_perform(now, Counter::PlatformsConnected, 1)?)
            }
            CredentialKind::Password | CredentialKind::Cookies | CredentialKind::Session => {
                self.check_room_for_a_login()?
            }
        }
        self.credential_changes(id, command)
    }

    pub(super) fn refuse_credential(
        &self,
        id: CredentialId,
        reason: RefusedFor,
        platform: Option<PlatformName>,
        purpose: Option<String>,
    ) -> Result<Vec<Change>, Refusal> {
        let command = CredentialCommand::Refuse {
            reason,
            platform,
            purpose,
        };
        self.credential_changes(id, command)
    }

    pub(super) fn check_room_for_a_login(&self) -> Result<(), Refusal> {
        let is_login = |held: &&Credential| matches!(held, Credential::Held { kind, .. } if *kind != CredentialKind::Profile);
        if self.credentials.values().filter(is_login).count() < MAX_LOGINS {
            return Ok(());
        }
        let sentence =
            format!("You hold {MAX_LOGINS} logins, cookie files and sessions; remove some");
        Err(Refusal::conflict("too_many_credentials", sentence))
    }

    pub(super) fn import_credential(
        &self,
        id: CredentialId,
        over: Option<u32>,
        platform: PlatformName,
        platform_username: Option<UserName>,
        sealed: SealedSecret,
    ) -> Result<Vec<Change>, Refusal> {
        self.account
            .profile()
            .ok_or_else(|| Refusal::not_found("user"))?;
        let refused = |sentence: String| Err(Refusal::conflict("not_imported", sentence));
        let kind = CredentialKind::Profile;
        if let Some(other) = self
            .credential_for(kind, &platform, platform_username.as_ref())
            .filter(|other| *other != id)
        {
            return refused(format!(
                "The user's credentials for this platform and name are held under the id {other} already"
            ));
        }
        let command = CredentialCommand::Store {
            kind,
            platform,
            platform_username,
            expires_at: None,
            sealed,
        };
        match self.credentials.get(&id) {
            None | Some(Credential::Absent) => self.credential_changes(id, command),
            Some(Credential::Held { version, .. }) if over == Some(*version) => {
                self.credential_changes(id, command)
            }
            Some(Credential::Held { .. }) => {
                refused("This credential was changed here and is kept".to_owned())
            }
            Some(Credential::Removed) => {
                refused("This credential was removed here and stays removed".to_owned())
            }
        }
    }
}
