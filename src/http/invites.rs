//! Invites (docs/api.md, Identity): administrators make them, and each lets one user register.

use actix_web::web::{Data, Path};
use genie_events::{InviteCode, Metadata, Timestamp};
use genie_log::pages::Paged;
use genie_projections::invites::InviteRow;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    app::App,
    http::{
        body::Body,
        caller::AdminCaller,
        error::ApiError,
        idempotency::IdempotencyKey,
        input::Query,
        read_your_writes::MinPosition,
        request,
        response::{ListPage, PageQuery, Written},
        roles,
        words::{self, Time},
    },
    socket::requests::InviteRequest,
};

#[derive(Serialize, ToSchema)]
pub struct MadeInvites {
    data: Vec<InviteAnswer>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Invite)]
pub struct InviteAnswer {
    /// Null for an invite that was made before codes were kept.
    #[schema(required)]
    code: Option<String>,
    /// `open`, `used` or `expired`.
    status: &'static str,
    #[schema(value_type = words::Tier)]
    tier: String,
    role: String,
    #[schema(required)]
    expires_at: Option<Time>,
    /// The user who registered with it. Null until then, and again when that user was forgotten.
    #[schema(required, format = Uuid)]
    used_by: Option<String>,
    #[schema(required)]
    used_at: Option<Time>,
    created_at: Time,
}

impl InviteAnswer {
    fn new(row: &InviteRow, now: Timestamp) -> Self {
        Self {
            code: row.code.clone(),
            // `used_by` says less: that user may have been forgotten since.
            status: match (row.used_at, row.expires_at) {
                (Some(_), _) => "used",
                (None, Some(at)) if at <= now => "expired",
                (None, _) => "open",
            },
            tier: row.tier.clone(),
            role: row.role.clone(),
            expires_at: row.expires_at.map(Time::from),
            used_by: row.used_by.clone(),
            used_at: row.used_at.map(Time::from),
            created_at: row.created_at.into(),
        }
    }
}

#[derive(Serialize, ToSchema)]
pub struct RevokedInvite {
    code: String,
    revoked: bool,
}

/// `POST /api/admin/invites`
pub async fn create(
    app: Data<App>,
    AdminCaller(caller): AdminCaller,
    Body(body): Body<InviteRequest>,
) -> Result<Written<MadeInvites>, ApiError> {
    make(&app, body, caller.metadata()).await
}

/// `POST /invites` on the socket. Only the operator at the machine reaches it.
pub async fn create_as_operator(
    app: Data<App>,
    Body(body): Body<InviteRequest>,
) -> Result<Written<MadeInvites>, ApiError> {
    make(
        &app,
        body,
        Metadata {
            request_id: Some(request::current_id()),
            ..Metadata::system()
        },
    )
    .await
}

async fn make(
    app: &App,
    body: InviteRequest,
    metadata: Metadata,
) -> Result<Written<MadeInvites>, ApiError> {
    let (count, mut grant) = body.read().map_err(ApiError::field)?;
    grant.role = roles::check(app, &grant.role).await?;
    let created_at = app.log.clock().now();
    let made = app
        .write
        .invites
        .make(count, grant.clone(), metadata)
        .await?;
    let row = |code: &InviteCode| InviteRow {
        code: Some(code.written().to_owned()),
        tier: grant.tier.as_str().to_owned(),
        role: grant.role.clone(),
        expires_at: grant.expires_at,
        created_at,
        ..InviteRow::default()
    };
    let invites = made.codes.iter();
    let invites = MadeInvites {
        data: invites
            .map(|code| InviteAnswer::new(&row(code), created_at))
            .collect(),
    };
    Ok(Written(invites, made.position))
}

/// `GET /api/admin/invites`
pub async fn list(
    app: Data<App>,
    min_position: MinPosition,
    _: AdminCaller,
    Query(page): Query<PageQuery>,
) -> Result<ListPage<InviteAnswer>, ApiError> {
    let limit = page.limit()?;
    min_position.wait_for_all(&app, "invites").await?;
    let rows = app
        .reads
        .invites
        .list(page.after_pair()?, limit + 1)
        .await?;
    let now = app.log.clock().now();
    ListPage::of(
        &Paged::cut(rows, limit as usize),
        |row| format!("{}/{}", row.created_at.0, row.id),
        |row| InviteAnswer::new(row, now),
    )
}

/// `DELETE /api/admin/invites/{code}`
pub async fn revoke(
    app: Data<App>,
    idempotency_key: IdempotencyKey,
    AdminCaller(caller): AdminCaller,
    code: Path<String>,
) -> Result<Written<RevokedInvite>, ApiError> {
    let asking = idempotency_key.asking(&app, &caller)?;
    let read = InviteCode::read(&code).map_err(|_| ApiError::NotFound("invite"))?;
    let position = app.write.invites.revoke(&read, asking).await?;
    let invite = RevokedInvite {
        code: code.into_inner(),
        revoked: true,
    };
    Ok(Written(invite, position))
}
