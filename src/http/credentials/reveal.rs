//! Reveals to servers and workers. Invariant: the plaintext leaves only after the fact is durable. A refusal is a
//! fact, too.

use actix_web::web::Data;
use genie_actors::{
    Caller,
    credentials::{CredentialRef, Revealed, SecretRequest},
};
use genie_events::{
    CredentialId, PlatformName, UserName, credential::CredentialKind, service_key::Scope,
    user::reveal::RevealRight,
};
use genie_log::keys::sha256_hex;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{credential_id, secret::OpenedSecret};
use crate::{
    app::App,
    http::{
        body::Body,
        caller::{RevealsCredentials, ServerCaller},
        error::ApiError,
        held_job::{LeaseHeaders, ShownLease},
        jobs::job_id,
        read_your_writes::MinPosition,
        response::Written,
        words::{self, Time},
    },
};

/// In characters.
const MAX_PURPOSE: usize = 500;

/// The credential to reveal, the purpose and the right to it. Each route reads some of the fields.
#[derive(Deserialize, ToSchema)]
pub struct RevealRequest {
    /// The id of a profile's credential.
    #[serde(rename = "creatorProfileId")]
    #[schema(format = Uuid)]
    profile: Option<String>,
    /// The id of a login or a cookie file to download with.
    #[schema(format = Uuid)]
    id: Option<String>,
    /// The owner's id. With `platform`, where the credential's id is not given.
    #[serde(rename = "userId")]
    #[schema(format = Uuid)]
    user: Option<String>,
    platform: Option<String>,
    /// Reveals this kind only.
    #[schema(value_type = Option<words::DownloadKind>)]
    kind: Option<String>,
    /// The reason, kept with the fact. At most 500 characters.
    #[schema(max_length = 500)]
    purpose: Option<String>,
    /// A job of the credential's owner that needs the credential. The header `Genie-Job` says the same.
    #[serde(rename = "jobId")]
    job: Option<String>,
    /// The lease under which the caller holds the job. The header `Genie-Lease` says the same.
    lease: Option<String>,
}

impl RevealRequest {
    /// A field is well-formed even where the route does not read it.
    fn check(&self) -> Result<(), ApiError> {
        let ids = [
            ("creatorProfileId", &self.profile),
            ("id", &self.id),
            ("userId", &self.user),
        ];
        for (field, given) in ids {
            let is_wrong = |id: &String| id.parse::<Uuid>().is_err();
            if given.as_ref().is_some_and(is_wrong) {
                return Err(ApiError::field(format!("`{field}` must be a UUID")));
            }
        }
        self.download_kinds().map(drop)
    }

    /// The kinds of a login or cookie file to download with, in the order in which they are preferred.
    fn download_kinds(&self) -> Result<&'static [CredentialKind], ApiError> {
        match self.kind.as_deref() {
            // Platforms ask more of a login with a password; they accept the cookies of a browser that is logged in.
            None => Ok(&[CredentialKind::Cookies, CredentialKind::Password]),
            Some("cookies") => Ok(&[CredentialKind::Cookies]),
            Some("password") => Ok(&[CredentialKind::Password]),
            Some(_) => Err(ApiError::field("`kind` must be `password` or `cookies`")),
        }
    }
}

/// The credentials of a profile, in the clear.
#[derive(Serialize, ToSchema)]
pub struct RevealedProfile {
    #[serde(rename = "creatorProfileId")]
    #[schema(value_type = Uuid)]
    profile: CredentialId,
    #[schema(value_type = String)]
    platform: PlatformName,
    #[schema(required, value_type = Option<String>)]
    platform_username: Option<UserName>,
    #[schema(value_type = words::Secret)]
    credentials: OpenedSecret,
}

/// A login or a cookie file to download with, in the clear.
#[derive(Serialize, ToSchema)]
pub struct RevealedDownload {
    #[schema(value_type = Uuid)]
    id: CredentialId,
    #[schema(value_type = words::DownloadKind)]
    kind: CredentialKind,
    #[schema(value_type = String)]
    platform: PlatformName,
    #[serde(flatten)]
    #[schema(value_type = words::DownloadSecret)]
    secret: OpenedSecret,
}

/// A browser's session, in the clear.
#[derive(Serialize, ToSchema)]
pub struct RevealedSession {
    #[schema(value_type = Uuid)]
    id: CredentialId,
    #[schema(value_type = String)]
    platform: PlatformName,
    #[schema(required)]
    expires_at: Option<Time>,
    #[serde(flatten)]
    #[schema(value_type = words::SessionSecret)]
    secret: OpenedSecret,
}

impl RevealRequest {
    /// A caller that shows a job and its lease sees what that job needs. Without them a key with `jobs:work` alone sees
    /// nothing.
    async fn right(
        &self,
        app: &App,
        caller: &Caller,
        headers: &LeaseHeaders,
    ) -> Result<RevealRight, ApiError> {
        let shown = match (&self.job, &self.lease) {
            (Some(job), Some(lease)) => Some(ShownLease {
                job: job_id(job)?,
                lease: lease.clone(),
            }),
            _ => headers.shown()?,
        };
        let Some(shown) = shown else {
            let sees_all = caller.has_scope(Scope::CredentialsReveal);
            return Ok(if sees_all {
                RevealRight::Every
            } else {
                RevealRight::None
            });
        };
        let held = app.write.jobs.held(shown.job, &shown.lease).await?;
        let named = held.and_then(|held| held.spec.creator_profile_id);
        Ok(RevealRight::WorksOn {
            job: shown.job,
            lease: sha256_hex(shown.lease.as_bytes()),
            profile: named.and_then(|id| id.parse().ok()),
        })
    }

    fn for_platform(&self) -> Result<CredentialRef, ApiError> {
        let missing = |field| ApiError::field(format!("`{field}` is missing"));
        let user = self.user.as_ref().ok_or_else(|| missing("userId"))?;
        let user = user.parse().map_err(|_| ApiError::NotFound("credential"))?;
        Ok(CredentialRef::For {
            user,
            platform: PlatformName::read(
                self.platform.as_ref().ok_or_else(|| missing("platform"))?,
            )?,
        })
    }
}

async fn shown(
    app: &App,
    (min_position, lease): (&MinPosition, &LeaseHeaders),
    caller: &Caller,
    wanted: RevealRequest,
    named: CredentialRef,
    kinds: &'static [CredentialKind],
) -> Result<(Revealed, OpenedSecret), ApiError> {
    wanted.check()?;
    if wanted
        .purpose
        .as_ref()
        .is_some_and(|purpose| purpose.chars().count() > MAX_PURPOSE)
    {
        return Err(ApiError::field(format!(
            "`purpose` must be at most {MAX_PURPOSE} characters"
        )));
    }
    let right = wanted.right(app, caller, lease).await?;
    min_position.wait_for_log(app).await?;
    let ask = SecretRequest {
        named,
        kinds,
        right,
        purpose: wanted.purpose,
    };
    let revealed = app.write.credentials.reveal(caller, ask).await?;
    let opened = OpenedSecret::of(&revealed.plaintext)?;
    Ok((revealed, opened))
}

/// `POST /api/credentials/reveal`
pub async fn profile(
    app: Data<App>,
    min_position: MinPosition,
    lease: LeaseHeaders,
    server: ServerCaller<RevealsCredentials>,
    Body(wanted): Body<RevealRequest>,
) -> Result<Written<RevealedProfile>, ApiError> {
    let id = wanted
        .profile
        .as_ref()
        .ok_or_else(|| ApiError::field("`creatorProfileId` is missing"))?;
    let named = CredentialRef::Id(credential_id(id)?);
    let (revealed, opened) = shown(
        &app,
        (&min_position, &lease),
        &server.caller,
        wanted,
        named,
        &[CredentialKind::Profile],
    )
    .await?;
    let profile = RevealedProfile {
        profile: revealed.id,
        platform: revealed.platform,
        platform_username: revealed.platform_username,
        credentials: opened,
    };
    Ok(Written(profile, revealed.position))
}

/// `POST /api/credentials/reveal-download-cred`
pub async fn download(
    app: Data<App>,
    min_position: MinPosition,
    lease: LeaseHeaders,
    server: ServerCaller<RevealsCredentials>,
    Body(wanted): Body<RevealRequest>,
) -> Result<Written<RevealedDownload>, ApiError> {
    let kinds = wanted.download_kinds()?;
    let named = match &wanted.id {
        Some(id) => CredentialRef::Id(credential_id(id)?),
        None => wanted.for_platform()?,
    };
    let (revealed, opened) = shown(
        &app,
        (&min_position, &lease),
        &server.caller,
        wanted,
        named,
        kinds,
    )
    .await?;
    let download = RevealedDownload {
        id: revealed.id,
        kind: revealed.kind,
        platform: revealed.platform,
        secret: opened,
    };
    Ok(Written(download, revealed.position))
}

/// `POST /api/credentials/get-platform-session`
pub async fn session(
    app: Data<App>,
    min_position: MinPosition,
    lease: LeaseHeaders,
    server: ServerCaller<RevealsCredentials>,
    Body(wanted): Body<RevealRequest>,
) -> Result<Written<RevealedSession>, ApiError> {
    let named = wanted.for_platform()?;
    let (revealed, opened) = shown(
        &app,
        (&min_position, &lease),
        &server.caller,
        wanted,
        named,
        &[CredentialKind::Session],
    )
    .await?;
    let session = RevealedSession {
        id: revealed.id,
        platform: revealed.platform,
        expires_at: revealed.expires_at.map(Time::from),
        secret: opened,
    };
    Ok(Written(session, revealed.position))
}
