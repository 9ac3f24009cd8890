//! What servers and workers are shown: the plaintext leaves only after the fact is durable, and a refusal is a fact too.

use actix_web::{HttpRequest, HttpResponse, web::Data};
use genie_actors::{
    Caller,
    credentials::{CredentialRef, RevealRequest, Revealed},
};
use genie_events::{
    Timestamp, credential::CredentialKind, service_key::Scope, user::reveal::RevealRight,
};
use genie_log::keys::sha256_hex;
use serde::Deserialize;
use serde_json::json;

use super::{checked_platform, credential_id, secret::Opened};
use crate::{
    app::App,
    http::{
        body::Body,
        caller::{RevealsCredentials, ServerCaller},
        error::ApiError,
        jobs::job_id,
        read_your_writes,
    },
};

/// The longest purpose, in characters.
const MAX_PURPOSE: usize = 500;

/// What to be shown, why and by what right.
#[derive(Deserialize)]
pub struct Wanted {
    #[serde(rename = "creatorProfileId")]
    profile: Option<String>,
    id: Option<String>,
    #[serde(rename = "userId")]
    user: Option<String>,
    platform: Option<String>,
    kind: Option<String>,
    purpose: Option<String>,
    #[serde(rename = "jobId")]
    job: Option<String>,
    lease: Option<String>,
}

impl Wanted {
    /// A key that only works on jobs is shown the credentials of those it works for, while it does.
    fn right(&self, caller: &Caller) -> Result<RevealRight, ApiError> {
        if caller.has_scope(Scope::CredentialsReveal) {
            return Ok(RevealRight::Every);
        }
        match (&self.job, &self.lease) {
            (Some(job), Some(lease)) => Ok(RevealRight::WorksOn {
                job: job_id(job)?,
                lease: sha256_hex(lease.as_bytes()),
            }),
            _ => Ok(RevealRight::None),
        }
    }

    fn for_platform(&self) -> Result<CredentialRef, ApiError> {
        let missing = |field| ApiError::field(format!("`{field}` is missing"));
        let user = self.user.as_ref().ok_or_else(|| missing("userId"))?;
        let user = user.parse().map_err(|_| ApiError::NotFound("credential"))?;
        Ok(CredentialRef::For {
            user,
            platform: checked_platform(self.platform.as_ref().ok_or_else(|| missing("platform"))?)?,
        })
    }
}

async fn shown(
    app: &App,
    request: &HttpRequest,
    caller: &Caller,
    wanted: Wanted,
    named: CredentialRef,
    kinds: &'static [CredentialKind],
) -> Result<(Revealed, Opened), ApiError> {
    if wanted
        .purpose
        .as_ref()
        .is_some_and(|purpose| purpose.chars().count() > MAX_PURPOSE)
    {
        return Err(ApiError::field(format!(
            "`purpose` must be at most {MAX_PURPOSE} characters"
        )));
    }
    let right = wanted.right(caller)?;
    read_your_writes::wait_for_log(app, request).await?;
    let ask = RevealRequest {
        named,
        kinds,
        right,
        purpose: wanted.purpose,
    };
    let revealed = app.write.credentials.reveal(caller, ask).await?;
    let opened = Opened::of(&revealed.plaintext)?;
    Ok((revealed, opened))
}

/// `POST /api/credentials/reveal`
pub async fn profile(
    app: Data<App>,
    request: HttpRequest,
    server: ServerCaller<RevealsCredentials>,
    Body(wanted): Body<Wanted>,
) -> Result<HttpResponse, ApiError> {
    let id = wanted
        .profile
        .as_ref()
        .ok_or_else(|| ApiError::field("`creatorProfileId` is missing"))?;
    let named = CredentialRef::Id(credential_id(id)?);
    let (revealed, opened) = shown(
        &app,
        &request,
        &server.caller,
        wanted,
        named,
        &[CredentialKind::Profile],
    )
    .await?;
    let fields = json!({
        "creatorProfileId": revealed.id, "platform": revealed.platform, "platform_username": revealed.platform_username,
    });
    Ok(opened.answer(fields, Some("credentials"), revealed.position))
}

/// `POST /api/credentials/reveal-download-cred`
pub async fn download(
    app: Data<App>,
    request: HttpRequest,
    server: ServerCaller<RevealsCredentials>,
    Body(wanted): Body<Wanted>,
) -> Result<HttpResponse, ApiError> {
    let kinds: &[CredentialKind] = match wanted.kind.as_deref() {
        // Platforms ask whoever logs in with a password for more; cookies of a browser that is logged in they take.
        None => &[CredentialKind::Cookies, CredentialKind::Password],
        Some("cookies") => &[CredentialKind::Cookies],
        Some("password") => &[CredentialKind::Password],
        Some(_) => return Err(ApiError::field("`kind` must be `password` or `cookies`")),
    };
    let named = match &wanted.id {
        Some(id) => CredentialRef::Id(credential_id(id)?),
        None => wanted.for_platform()?,
    };
    let (revealed, opened) = shown(&app, &request, &server.caller, wanted, named, kinds).await?;
    let fields = json!({"id": revealed.id, "kind": revealed.kind, "platform": revealed.platform});
    Ok(opened.answer(fields, None, revealed.position))
}

/// `POST /api/credentials/get-platform-session`
pub async fn session(
    app: Data<App>,
    request: HttpRequest,
    server: ServerCaller<RevealsCredentials>,
    Body(wanted): Body<Wanted>,
) -> Result<HttpResponse, ApiError> {
    let named = wanted.for_platform()?;
    let (revealed, opened) = shown(
        &app,
        &request,
        &server.caller,
        wanted,
        named,
        &[CredentialKind::Session],
    )
    .await?;
    let fields = json!({
        "id": revealed.id, "platform": revealed.platform, "expires_at": revealed.expires_at.map(Timestamp::rfc3339),
    });
    Ok(opened.answer(fields, None, revealed.position))
}
