//! Credentials (contract, section 4). Bodies that carry secrets are never logged and never in an error.

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Data, Path, Query},
};
use genie_actors::{
    Caller,
    vault::{HeldJob, Plaintext, Target},
};
use genie_events::{CredentialId, UserId, service_key::Scope};
use genie_projections::credentials::CredentialRow;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use zeroize::Zeroize;

use crate::{
    app::App,
    http::{
        answer::{self, PageQuery},
        body::Body,
        caller::{RevealsCredentials, SecretCaller, ServerCaller, UserCaller},
        consistency,
        error::ApiError,
        idempotency,
        jobs::job_id,
    },
};

/// The fields of a credential as they came in; wiped when they go.
#[derive(Deserialize)]
#[serde(transparent)]
pub struct SecretFields(Map<String, Value>);

impl Drop for SecretFields {
    fn drop(&mut self) {
        self.0.values_mut().for_each(wipe);
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(values) => values.iter_mut().for_each(wipe),
        Value::Object(map) => map.values_mut().for_each(wipe),
        _ => {}
    }
}

impl SecretFields {
    fn plaintext(&self) -> Result<Plaintext, ApiError> {
        match self.0.is_empty() {
            true => Err(ApiError::field("`credentials` must have at least one field")),
            false => Ok(Plaintext::of_fields(&self.0)?),
        }
    }
}

#[derive(Deserialize)]
pub struct NewProfile {
    platform: String,
    credentials: SecretFields,
    platform_username: Option<String>,
}

/// `POST /api/credentials/create-profile`
pub async fn create_profile(
    app: Data<App>,
    request: HttpRequest,
    user: UserCaller,
    Body(body): Body<NewProfile>,
) -> Result<HttpResponse, ApiError> {
    let asking = idempotency::asking(&app, &request, &user.caller)?;
    let platform = body.platform.trim().to_lowercase();
    if platform.is_empty() || platform.chars().count() > 64 || platform.chars().any(char::is_control) {
        return Err(ApiError::field("`platform` must have 1 to 64 characters"));
    }
    let platform_username = checked_username(body.platform_username)?;
    let target = Target::Profile { platform, platform_username };
    let secret = body.credentials.plaintext()?;
    let stored = app.write.vault.store(&app.write.users, user.account.user, asking, target, secret).await?;
    Ok(answer::written(json!({"id": stored.id, "updated": stored.updated}), stored.position))
}

fn checked_username(username: Option<String>) -> Result<Option<String>, ApiError> {
    match username {
        Some(name) if name.chars().count() > 200 || name.chars().any(char::is_control) => {
            Err(ApiError::field("`platform_username` must have at most 200 characters, none of them control characters"))
        }
        name => Ok(name.filter(|name| !name.is_empty())),
    }
}

#[derive(Deserialize)]
pub struct ChangedProfile {
    #[serde(alias = "creatorProfileId")]
    id: String,
    credentials: SecretFields,
    platform_username: Option<String>,
}

/// `POST /api/credentials/update-profile-creds`
pub async fn update_profile(
    app: Data<App>,
    request: HttpRequest,
    user: UserCaller,
    Body(body): Body<ChangedProfile>,
) -> Result<HttpResponse, ApiError> {
    let asking = idempotency::asking(&app, &request, &user.caller)?;
    let id = credential_id(&body.id)?;
    let target = Target::Existing { id, platform_username: checked_username(body.platform_username)? };
    let secret = body.credentials.plaintext()?;
    let stored = app.write.vault.store(&app.write.users, user.account.user, asking, target, secret).await?;
    Ok(answer::written(json!({"id": stored.id, "updated": true}), stored.position))
}

#[derive(Deserialize)]
pub struct ServerStore {
    #[serde(rename = "creatorProfileId")]
    id: String,
    credentials: SecretFields,
}

/// `POST /api/credentials/store`
pub async fn store(
    app: Data<App>,
    request: HttpRequest,
    SecretCaller(caller): SecretCaller,
    Body(body): Body<ServerStore>,
) -> Result<HttpResponse, ApiError> {
    let asking = idempotency::asking(&app, &request, &caller)?;
    let id = credential_id(&body.id)?;
    let owner = owner(&app, id).await?;
    let target = Target::Existing { id, platform_username: None };
    let secret = body.credentials.plaintext()?;
    let stored = app.write.vault.store(&app.write.users, owner, asking, target, secret).await?;
    Ok(answer::written(json!({"creatorProfileId": stored.id, "id": stored.id}), stored.position))
}

#[derive(Deserialize)]
pub struct Reveal {
    #[serde(rename = "creatorProfileId")]
    id: String,
    purpose: Option<String>,
    #[serde(rename = "jobId")]
    job: Option<String>,
    lease: Option<String>,
}

impl Reveal {
    /// A key that only works on jobs is shown the credentials of those it works for, while it does.
    fn only_for(&self, caller: &Caller) -> Result<Option<HeldJob>, ApiError> {
        if caller.has_scope(Scope::CredentialsReveal) {
            return Ok(None);
        }
        let (Some(job), Some(lease)) = (&self.job, &self.lease) else {
            return Err(ApiError::ScopeNeeded(Scope::CredentialsReveal));
        };
        Ok(Some(HeldJob { job: job_id(job)?, lease: lease.clone() }))
    }
}

/// `POST /api/credentials/reveal`. The plaintext leaves only after the fact is durable.
pub async fn reveal(
    app: Data<App>,
    request: HttpRequest,
    server: ServerCaller<RevealsCredentials>,
    Body(body): Body<Reveal>,
) -> Result<HttpResponse, ApiError> {
    let id = credential_id(&body.id)?;
    if body.purpose.as_ref().is_some_and(|purpose| purpose.chars().count() > 500) {
        return Err(ApiError::field("`purpose` must be at most 500 characters"));
    }
    let only_for = body.only_for(&server.caller)?;
    consistency::wait(&app, &request, "credentials", None).await?;
    let owner = owner(&app, id).await?;
    let metadata = server.caller.metadata();
    let revealed = app.write.vault.reveal(&app.write.users, owner, id, body.purpose, only_for, metadata).await?;
    let credentials: Value = serde_json::from_slice(revealed.plaintext.expose())
        .map_err(|_| ApiError::Internal("a stored credential is no JSON".into()))?;
    let response = answer::written(
        json!({
            "creatorProfileId": id, "platform": revealed.platform,
            "platform_username": revealed.platform_username, "credentials": credentials,
        }),
        revealed.position,
    );
    Ok(response)
}

async fn owner(app: &App, id: CredentialId) -> Result<UserId, ApiError> {
    if let Some(owner) = app.reads.credentials.owner(id).await? {
        return Ok(owner);
    }
    // Stored a moment ago, perhaps: nobody is told "unknown" of what was acknowledged.
    app.reads.wait_for("credentials", app.log.head(), app.config.read_wait).await?;
    app.reads.credentials.owner(id).await?.ok_or(ApiError::NotFound("credential"))
}

/// `GET /api/credentials`
pub async fn list(
    app: Data<App>,
    request: HttpRequest,
    user: UserCaller,
    page: Query<PageQuery>,
) -> Result<HttpResponse, ApiError> {
    let (id, limit) = (user.account.user, page.limit()?);
    consistency::wait(&app, &request, "credentials", Some(id)).await?;
    let rows = app.reads.credentials.list(id, page.after_pair()?, limit).await?;
    let next = answer::next_cursor(&rows, limit, |row| format!("{}/{}", row.created_at.0, row.id));
    Ok(answer::list(rows.iter().map(shown).collect(), next))
}

/// `GET /api/credentials/{id}`
pub async fn show(app: Data<App>, request: HttpRequest, user: UserCaller, id: Path<String>) -> Result<HttpResponse, ApiError> {
    let credential = id.parse().map_err(|_| ApiError::NotFound("credential"))?;
    consistency::wait(&app, &request, "credentials", Some(user.account.user)).await?;
    let row = app.reads.credentials.get(user.account.user, credential).await?;
    Ok(answer::ok(shown(&row.ok_or(ApiError::NotFound("credential"))?)))
}

/// `DELETE /api/credentials/{id}`
pub async fn remove(app: Data<App>, request: HttpRequest, user: UserCaller, id: Path<String>) -> Result<HttpResponse, ApiError> {
    let asking = idempotency::asking(&app, &request, &user.caller)?;
    let credential = id.parse().map_err(|_| ApiError::NotFound("credential"))?;
    let done = app.write.vault.remove(&app.write.users, user.account.user, credential, asking).await?;
    Ok(answer::written(json!({"id": credential, "removed": true}), done.position))
}

fn credential_id(text: &str) -> Result<CredentialId, ApiError> {
    text.parse().map_err(|_| ApiError::NotFound("credential"))
}

/// As its owner sees it: everything but the secret.
pub fn shown(row: &CredentialRow) -> Value {
    json!({
        "id": row.id, "kind": row.kind, "platform": row.platform, "platform_username": row.platform_username,
        "created_at": row.created_at.rfc3339(), "updated_at": row.updated_at.rfc3339(),
        "last_revealed_at": row.last_revealed_at.map(|at| at.rfc3339()), "last_revealed_by": row.last_revealed_by,
    })
}
