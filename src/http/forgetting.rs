//! Forgetting (docs/api.md, Forgetting and export): at the user's own wish after a grace in which it can be undone,
//! or at once by an administrator.

use std::time::Duration;

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Data, Path},
};
use genie_events::{Metadata, Refusal, UserId, account::ForgottenBy};
use genie_log::forgetting::{Forgetting, Stage};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tracing::Instrument;
use utoipa::ToSchema;

use crate::{
    app::App,
    http::{
        body::{Body, OptionalBody},
        caller::{AdminCaller, UserCaller},
        error::ApiError,
        input,
        password_check::Password,
        request,
        response::{self, Answer, Written},
        words::Time,
    },
    socket::requests::ForgetRequest,
};

/// A login younger than this needs no password.
const FRESH_LOGIN_SECONDS: i64 = 5 * 60;
/// The answer waits this long for the rest to be erased and for the certificate. Erasing goes on afterwards.
const PATIENCE: Duration = Duration::from_secs(2);

/// Proof that the user, and no thief of a token, wants to go.
#[derive(Default, Deserialize, ToSchema)]
pub struct Farewell {
    #[schema(value_type = Option<String>, format = Password)]
    #[serde(default, deserialize_with = "input::whole")]
    password: Option<SecretString>,
    /// With a Directus, when the user has a second factor there.
    #[schema(value_type = Option<String>)]
    #[serde(default, deserialize_with = "input::whole")]
    otp: Option<SecretString>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Forgetting)]
pub struct ForgettingState {
    #[serde(rename = "userId")]
    #[schema(value_type = Uuid)]
    user: UserId,
    /// `requested`: due at `due_at`. `forgotten`: done, and the rest is being erased. `erased`: nothing is left.
    state: &'static str,
    #[schema(required)]
    due_at: Option<Time>,
    #[schema(required)]
    forgotten_at: Option<Time>,
    /// The position of the fact in the log, as in the certificate.
    #[schema(required)]
    position: Option<u64>,
    #[schema(required)]
    erased_at: Option<Time>,
    /// A C2SP signed note by the key of the log's heads: what was erased, when, and which master key still opens
    /// backups.
    #[schema(required)]
    certificate: Option<String>,
}

impl From<Forgetting> for ForgettingState {
    fn from(one: Forgetting) -> Self {
        let is_requested = one.stage == Stage::Requested;
        Self {
            user: one.user,
            state: match one.stage {
                Stage::Requested => "requested",
                Stage::Forgotten => "forgotten",
                Stage::Erased | Stage::Closed => "erased",
            },
            due_at: is_requested.then(|| one.due.into()),
            forgotten_at: one.forgotten_at.map(Time::from),
            position: (one.position > 0).then_some(one.position),
            erased_at: one.erased_at.map(Time::from),
            certificate: one.certificate,
        }
    }
}

#[derive(Serialize, ToSchema)]
pub struct KeptUser {
    #[serde(rename = "userId")]
    #[schema(value_type = Uuid)]
    user: UserId,
    /// True when there was a wish to withdraw.
    withdrawn: bool,
}

/// `DELETE /api/me`
pub async fn forget_me(
    app: Data<App>,
    request: HttpRequest,
    user: UserCaller,
    OptionalBody(farewell): OptionalBody<Farewell>,
) -> Result<Written<ForgettingState>, ApiError> {
    let farewell = farewell.unwrap_or_default();
    let id = user.account.user;
    prove(&app, &request, &user, farewell).await?;
    let others = if user.caller.is_admin() {
        who_may_remain(&app, id).await?
    } else {
        None
    };
    let due = app
        .log
        .clock()
        .now()
        .plus_millis(i64::try_from(app.config.forget_grace.as_millis()).unwrap_or(i64::MAX));
    let done = app
        .write
        .accounts
        .request_forget(id, due, others.as_deref(), user.caller.metadata())
        .await?;
    // From here on the user's commands are refused. The token stops working when the read side has caught up, perhaps
    // a moment later.
    let _ = app
        .reads
        .wait_for("accounts", done.position, app.config.read_wait)
        .await;
    if app.config.forget_grace.is_zero() {
        app.write
            .forgetting
            .when_due(id, user.caller.metadata())
            .await?;
        erase(&app, id).await;
    }
    let forgetting = app
        .log
        .forgettings()
        .get(id)
        .await?
        .ok_or_else(|| ApiError::Internal("a wish was not noted".into()))?;
    let position = forgetting.position.max(done.position);
    Ok(Written(forgetting.into(), position))
}

/// A token may have been stolen, so the password is required unless the login is fresh. Directus' tokens do not say
/// when their login was.
async fn prove(
    app: &App,
    request: &HttpRequest,
    user: &UserCaller,
    farewell: Farewell,
) -> Result<(), ApiError> {
    let Farewell { password, otp } = farewell;
    match password {
        Some(password) => Password { password, otp }.prove(app, request, user).await,
        None if app.directus.is_none() && is_fresh(app, user).await? => Ok(()),
        None => Err(ApiError::Forbidden(
            "`password` is required, because a token may have been stolen; or log in again first",
        )),
    }
}

/// True when the token is from a login of the last minutes.
async fn is_fresh(app: &App, user: &UserCaller) -> Result<bool, ApiError> {
    let Some(login) = user.login.map(|login| login.to_string()) else {
        return Ok(false);
    };
    let now = app.log.clock().now();
    let logins = app.log.sessions().of_user(user.account.user, now).await?;
    Ok(logins
        .iter()
        .any(|one| one.family == login && one.created_at.plus_seconds(FRESH_LOGIN_SECONDS) > now))
}

/// The administrators of whom one must remain when this user goes. With a Directus, Directus decides who
/// administers.
async fn who_may_remain(app: &App, user: UserId) -> Result<Option<Vec<UserId>>, ApiError> {
    if app.directus.is_some() {
        return Ok(None);
    }
    Ok(Some(app.reads.accounts.other_administrators(user).await?))
}

/// `POST /api/admin/users/{id}/forget`: at once, and not to be undone.
pub async fn forget_user(
    app: Data<App>,
    AdminCaller(caller): AdminCaller,
    id: Path<String>,
) -> Result<Written<ForgettingState>, ApiError> {
    let user: UserId = id.parse().map_err(|_| ApiError::NotFound("user"))?;
    let by = ForgottenBy::Administrator;
    match who_may_remain(&app, user).await? {
        Some(others) => {
            app.write
                .forgetting
                .now_unless_last(user, by, others, caller.metadata())
                .await?;
        }
        None => {
            app.write
                .forgetting
                .now(user, by, caller.metadata())
                .await?
        }
    }
    forgotten(&app, user).await
}

/// The answer about a user who is forgotten since a moment.
async fn forgotten(app: &App, user: UserId) -> Result<Written<ForgettingState>, ApiError> {
    erase(app, user).await;
    let forgetting = app
        .log
        .forgettings()
        .get(user)
        .await?
        .ok_or_else(|| ApiError::Internal("a forgotten user was not noted".into()))?;
    let position = forgetting.position;
    Ok(Written(forgetting.into(), position))
}

/// Erases on a task of its own, so that the erasing goes on when the client does not wait. The leader erases what is
/// left.
async fn erase(app: &App, user: UserId) {
    let eraser = app.eraser.clone();
    let erasing = app
        .log
        .store()
        .io()
        .spawn(async move { eraser.finish_within(user, PATIENCE).await }.in_current_span());
    let _ = erasing.await; // A panic is logged, and the leader tries again.
}

/// `DELETE /api/admin/users/{id}/forget`: the user asked to be forgotten, and stays after all.
pub async fn keep_user(
    app: Data<App>,
    AdminCaller(caller): AdminCaller,
    id: Path<String>,
) -> Result<Written<KeptUser>, ApiError> {
    let user: UserId = id.parse().map_err(|_| ApiError::NotFound("user"))?;
    if app
        .log
        .forgettings()
        .get(user)
        .await?
        .is_some_and(|one| one.stage != Stage::Requested)
    {
        return Err(Refusal::conflict(
            "already_forgotten",
            "This user was forgotten, which cannot be undone",
        )
        .into());
    }
    let done = app
        .write
        .accounts
        .withdraw_forget(user, caller.metadata())
        .await?;
    let kept = KeptUser {
        user,
        withdrawn: !done.changes.is_empty(),
    };
    Ok(Written(kept, done.position))
}

/// `GET /api/admin/users/{id}/forgotten`
pub async fn show(
    app: Data<App>,
    _: AdminCaller,
    id: Path<String>,
) -> Result<Answer<ForgettingState>, ApiError> {
    let user: UserId = id.parse().map_err(|_| ApiError::NotFound("user"))?;
    let forgetting = app
        .log
        .forgettings()
        .get(user)
        .await?
        .ok_or(ApiError::NotFound("forgotten user"))?;
    Ok(Answer(forgetting.into()))
}

/// `POST /forget` on the socket. Only the operator at the machine reaches it, who may forget anybody.
pub async fn forget_as_operator(
    app: Data<App>,
    Body(ForgetRequest { user }): Body<ForgetRequest>,
) -> Result<Written<ForgettingState>, ApiError> {
    let metadata = Metadata {
        request_id: Some(request::current_id()),
        ..Metadata::system()
    };
    let by = ForgottenBy::Operator;
    app.write.forgetting.now(user, by, metadata).await?;
    forgotten(&app, user).await
}

/// `POST /restore-check` on the socket
pub async fn check_restored(app: Data<App>) -> Result<HttpResponse, ApiError> {
    let back = app
        .eraser
        .apply_ledger()
        .await
        .map_err(ApiError::Internal)?;
    Ok(response::ok(json!({"data": back})))
}
