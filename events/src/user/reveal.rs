//! Decides whether a caller may be shown a credential. Each outcome becomes a fact of the owner
//! before anybody hears it.

use crate::{
    credential::{Credential, CredentialKind, RefusedFor},
    ids::{CredentialId, JobId},
    job::Job,
    job_operation,
    platform_name::PlatformName,
    timestamp::Timestamp,
    user::User,
    user_name::UserName,
};

#[derive(Debug, Clone, PartialEq)]
pub enum CredentialSelector {
    Id(CredentialId),
    /// The credential for a platform: of the first of the requested kinds that the user holds.
    For(PlatformName),
}

/// The right by which a caller asks.
#[derive(Debug, Clone, PartialEq)]
pub enum RevealRight {
    /// The caller is the owner, who may also see an expired session.
    Own,
    /// The caller may see every credential.
    Every,
    /// The caller holds a job of the user and may see the credentials that the job needs.
    WorksOn {
        job: JobId,
        /// SHA-256 of the lease that the caller shows, as a running job stores it.
        lease: String,
        /// The profile that the job names.
        profile: Option<CredentialId>,
    },
    None,
}

#[derive(Debug, Clone)]
pub struct RevealCriteria {
    pub which: CredentialSelector,
    /// The kinds that the caller's route may show.
    pub kinds: Vec<CredentialKind>,
    pub right: RevealRight,
}

/// A credential that may be shown.
#[derive(Debug, Clone, PartialEq)]
pub struct RevealableCredential {
    pub id: CredentialId,
    pub kind: CredentialKind,
    pub platform: PlatformName,
    pub platform_username: Option<UserName>,
    /// The version that is held.
    pub version: u32,
    /// The expiry of a session.
    pub expires_at: Option<Timestamp>,
}

/// The reason for a refusal, and the stream that records it. A credential that the user never held
/// has no stream. Such refusals share one stream, named by the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RevealDenial {
    /// The credential whose stream records the refusal.
    pub id: CredentialId,
    pub reason: RefusedFor,
}

impl User {
    /// Checks that the credential may be shown now.
    pub fn check_reveal(
        &self,
        now: Timestamp,
        wanted: &RevealCriteria,
    ) -> Result<RevealableCredential, RevealDenial> {
        let id = match &wanted.which {
            CredentialSelector::Id(id) => Some(*id),
            CredentialSelector::For(platform) => wanted
                .kinds
                .iter()
                .find_map(|kind| self.credential_for(*kind, platform, None)),
        };
        let id = id.unwrap_or(CredentialId(self.id.0));
        let refused = |reason| Err(RevealDenial { id, reason });
        if !self.has_right(&wanted.right) {
            return refused(if wanted.right == RevealRight::None {
                RefusedFor::ScopeNeeded
            } else {
                RefusedFor::StaleLease
            });
        }
        if self.account.active().is_err() {
            return refused(RefusedFor::Suspended);
        }
        match self.credentials.get(&id) {
            Some(Credential::Held { kind, .. }) if !wanted.kinds.contains(kind) => {
                refused(RefusedFor::OtherKind)
            }
            Some(Credential::Held { kind, platform, .. })
                if !self.needs(&wanted.right, id, *kind, platform) =>
            {
                refused(RefusedFor::NotNamed)
            }
            Some(Credential::Held {
                expires_at: Some(end),
                ..
            }) if *end <= now && wanted.right != RevealRight::Own => {
                refused(RefusedFor::SessionExpired)
            }
            Some(Credential::Held {
                kind,
                platform,
                platform_username,
                version,
                expires_at,
            }) => Ok(RevealableCredential {
                id,
                kind: *kind,
                platform: platform.clone(),
                platform_username: platform_username.clone(),
                version: *version,
                expires_at: *expires_at,
            }),
            Some(Credential::Removed) => refused(RefusedFor::Removed),
            Some(Credential::Absent) | None => refused(RefusedFor::NotHeld),
        }
    }

    fn has_right(&self, right: &RevealRight) -> bool {
        match right {
            RevealRight::Own | RevealRight::Every => true,
            RevealRight::WorksOn { job, lease, .. } => {
                matches!(self.job(job), Some(Job::Running { lease: held, .. }) if held == lease)
            }
            RevealRight::None => false,
        }
    }

    /// True when the work that gives the right needs the credential: the profile that the job names,
    /// the login, cookies and session of that profile's platform, and for a download any login and
    /// cookies. A right that no job gives needs no reason.
    fn needs(
        &self,
        right: &RevealRight,
        id: CredentialId,
        kind: CredentialKind,
        platform: &PlatformName,
    ) -> bool {
        let RevealRight::WorksOn { job, profile, .. } = right else {
            return true;
        };
        let of_named_platform = || {
            let named = profile.and_then(|profile| self.credentials.get(&profile));
            matches!(named, Some(Credential::Held { kind: CredentialKind::Profile, platform: named, .. }) if named == platform)
        };
        match kind {
            CredentialKind::Profile => *profile == Some(id),
            CredentialKind::Session => of_named_platform(),
            CredentialKind::Password | CredentialKind::Cookies => {
                self.downloads(job) || of_named_platform()
            }
        }
    }

    fn downloads(&self, job: &JobId) -> bool {
        let outline = self.job(job).and_then(Job::outline);
        outline.is_some_and(|outline| outline.operation == job_operation::DOWNLOAD)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{
        account::{AccountEvent, Registration},
        credential::{CredentialEvent, SealedSecret},
        event::Change,
        ids::{EmailId, InviteId, UserId},
        job::{JobEvent, JobSpec},
        tier::Tier,
        user::Recall,
    };

    const NOW: Timestamp = Timestamp(1_000_000);

    fn ada() -> User {
        let mut user = User::new(UserId(uuid::Uuid::from_u128(1)));
        let registration = Registration {
            email: "ada@example.com".into(),
            email_id: EmailId(uuid::Uuid::from_u128(1)),
            first_name: None,
            invite: InviteId(uuid::Uuid::from_u128(1)),
            tier: Tier::Pro,
            role: "creator".into(),
            admin: false,
        };
        let id = user.id();
        happen(&mut user, id, AccountEvent::Registered(registration));
        for (n, kind, expires_at) in [
            (2, CredentialKind::Profile, None),
            (3, CredentialKind::Password, None),
            (4, CredentialKind::Cookies, None),
            (5, CredentialKind::Session, Some(Timestamp(NOW.0 + 1))),
        ] {
            let platform = PlatformName::read("x").unwrap();
            let sealed = SealedSecret {
                version: 1,
                hash: "00".into(),
            };
            let stored = CredentialEvent::Stored {
                kind,
                platform,
                platform_username: None,
                expires_at,
                sealed,
            };
            happen(&mut user, credential(n), stored);
        }
        user
    }

    fn credential(n: u128) -> CredentialId {
        CredentialId(Uuid::from_u128(n))
    }

    fn happen(user: &mut User, id: impl Into<uuid::Uuid>, event: impl Into<crate::Event>) {
        let change = Change::new(id, event);
        let sequence = user.sequence(&change.stream) + 1;
        user.evolve(&change.stream, sequence, change.event);
    }

    fn wanted(which: CredentialSelector, kinds: &[CredentialKind]) -> RevealCriteria {
        RevealCriteria {
            which,
            kinds: kinds.to_vec(),
            right: RevealRight::Every,
        }
    }

    #[test]
    fn the_first_held_kind_of_several_is_shown() {
        let mut ada = ada();
        let both = [CredentialKind::Cookies, CredentialKind::Password];
        let download = wanted(
            CredentialSelector::For(PlatformName::read("x").unwrap()),
            &both,
        );
        assert_eq!(ada.check_reveal(NOW, &download).unwrap().id, credential(4));
        happen(&mut ada, credential(4), CredentialEvent::Removed);
        assert_eq!(ada.check_reveal(NOW, &download).unwrap().id, credential(3));
        let elsewhere = ada.check_reveal(
            NOW,
            &wanted(
                CredentialSelector::For(PlatformName::read("reddit").unwrap()),
                &both,
            ),
        );
        assert_eq!(
            elsewhere,
            Err(RevealDenial {
                id: CredentialId(ada.id().0),
                reason: RefusedFor::NotHeld
            })
        );
    }

    #[test]
    fn each_reason_has_its_word_and_stands_in_the_credentials_stream() {
        let mut ada = ada();
        happen(&mut ada, credential(3), CredentialEvent::Removed);
        ada.recall_stream(&Recall::Credential(credential(3)), 2, "credential.removed");
        let later = Timestamp(NOW.0 + 1);
        let ask = |user: &User, now, n, kind, right| {
            let wanted = RevealCriteria {
                right,
                ..wanted(CredentialSelector::Id(credential(n)), &[kind])
            };
            user.check_reveal(now, &wanted)
                .map(|shown| shown.id)
                .map_err(|refused| (refused.id, refused.reason))
        };
        let worker = || RevealRight::WorksOn {
            job: JobId(Uuid::from_u128(9)),
            lease: "l".into(),
            profile: Some(credential(2)),
        };
        let session = CredentialKind::Session;
        let profile = CredentialKind::Profile;
        assert_eq!(
            ask(&ada, NOW, 5, session, RevealRight::Every),
            Ok(credential(5))
        );
        assert_eq!(
            ask(&ada, later, 5, session, RevealRight::Every),
            Err((credential(5), RefusedFor::SessionExpired))
        );
        assert_eq!(
            ask(&ada, later, 5, session, RevealRight::Own),
            Ok(credential(5))
        );
        assert_eq!(
            ask(&ada, NOW, 5, profile, RevealRight::Every),
            Err((credential(5), RefusedFor::OtherKind))
        );
        assert_eq!(
            ask(&ada, NOW, 3, profile, RevealRight::Every),
            Err((credential(3), RefusedFor::Removed))
        );
        assert_eq!(
            ask(&ada, NOW, 7, profile, RevealRight::Every),
            Err((credential(7), RefusedFor::NotHeld))
        );
        assert_eq!(
            ask(&ada, NOW, 2, profile, RevealRight::None),
            Err((credential(2), RefusedFor::ScopeNeeded))
        );
        assert_eq!(
            ask(&ada, NOW, 2, profile, worker()),
            Err((credential(2), RefusedFor::StaleLease))
        );
        let id = ada.id();
        happen(&mut ada, id, AccountEvent::Suspended);
        assert_eq!(
            ask(&ada, NOW, 2, profile, RevealRight::Every),
            Err((credential(2), RefusedFor::Suspended))
        );
    }

    /// Ada with a running job.
    fn at_work(operation: &str) -> User {
        let mut ada = ada();
        let spec = JobSpec {
            name: None,
            operation: operation.into(),
            queue: "media-jobs".into(),
            params: serde_json::Value::Null,
            input_file_id: None,
            input_url: None,
            creator_profile_id: None,
            priority: 10,
            run_at: None,
            max_attempts: 3,
            mark: None,
        };
        let job = JobId(Uuid::from_u128(9));
        let submitted = JobEvent::Submitted {
            spec,
            counted: None,
        };
        happen(&mut ada, job, submitted);
        let claimed = JobEvent::Claimed {
            attempt: 1,
            worker: "w".into(),
            lease: "l".into(),
        };
        happen(&mut ada, job, claimed);
        ada
    }

    #[test]
    fn a_worker_sees_what_its_job_needs() {
        let [profile, password, cookies, session] = [2, 3, 4, 5].map(credential);
        for (operation, named, seen) in [
            (
                "publish_post",
                Some(profile),
                vec![profile, password, cookies, session],
            ),
            ("publish_post", None, vec![]),
            // A credential of another kind is no profile, and a stranger's names no platform here.
            ("publish_post", Some(session), vec![]),
            ("publish_post", Some(credential(8)), vec![]),
            ("download_video", None, vec![password, cookies]),
            ("ytdlp_info", None, vec![]),
        ] {
            let ada = at_work(operation);
            for (id, kind) in [profile, password, cookies, session]
                .into_iter()
                .zip(CredentialKind::ALL)
            {
                let worker = RevealCriteria {
                    right: RevealRight::WorksOn {
                        job: JobId(Uuid::from_u128(9)),
                        lease: "l".into(),
                        profile: named,
                    },
                    ..wanted(CredentialSelector::Id(id), &[kind])
                };
                let reason = ada
                    .check_reveal(NOW, &worker)
                    .err()
                    .map(|refused| refused.reason);
                let expected = (!seen.contains(&id)).then_some(RefusedFor::NotNamed);
                assert_eq!(reason, expected, "{operation}, {named:?}, {kind:?}");
            }
        }
    }
}
