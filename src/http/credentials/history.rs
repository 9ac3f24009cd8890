//! The history of credentials: stored, changed, shown or refused to somebody, with the reason. Read from the log,
//! newest first.

use actix_web::web::{Data, Path};
use genie_events::{Event, credential::CredentialEvent};
use genie_log::{Fact, FactBody, LogError, StoredRow, pages::Paged};
use serde::Serialize;
use utoipa::ToSchema;

use super::credential_id;
use crate::{
    app::App,
    http::{
        caller::{UserCaller, look_at_another_s},
        error::ApiError,
        input::Query,
        read_your_writes::MinPosition,
        response::{ListPage, PageQuery},
        words::Time,
    },
};

/// `GET /api/credentials/{id}/history`: for the owner and for administrators. An administrator's look is a fact.
pub async fn of_one(
    app: Data<App>,
    min_position: MinPosition,
    user: UserCaller,
    id: Path<String>,
    Query(page): Query<PageQuery>,
) -> Result<ListPage<CredentialFact>, ApiError> {
    let id = credential_id(&id)?;
    let limit = page.limit()?;
    let before = page.after_number()?;
    min_position.wait_for_log(&app).await?;
    let owner = app
        .log
        .lookups()
        .owner_of(id)
        .await?
        .ok_or(ApiError::NotFound("credential"))?;
    if owner != user.account.user {
        look_at_another_s(
            &app,
            &user.caller,
            user.account.user,
            owner,
            "credential",
            None,
        )
        .await?;
    }
    let rows = app
        .log
        .lookups()
        .credential_rows(owner, id, before, limit as usize)
        .await?;
    page_of(&app, rows, |row| row.sequence.to_string()).await
}

/// `GET /api/credentials/reveals`: everybody to whom the caller's credentials were shown or refused. A page looks at a
/// bounded number of the caller's facts, so it may be empty and have a next one.
pub async fn reveals(
    app: Data<App>,
    min_position: MinPosition,
    user: UserCaller,
    Query(page): Query<PageQuery>,
) -> Result<ListPage<CredentialFact>, ApiError> {
    let limit = page.limit()?;
    let before = page.after_number()?;
    min_position.wait_for_log(&app).await?;
    let (rows, floor) = app
        .log
        .lookups()
        .revealed_rows(user.account.user, before, limit as usize)
        .await?;
    let page = page_of(&app, rows, |row| row.owner_seq.to_string()).await?;
    Ok(page.going_on_from(floor.map(|before| before.to_string())))
}

async fn page_of(
    app: &App,
    page: Paged<StoredRow>,
    key: impl Fn(&StoredRow) -> String,
) -> Result<ListPage<CredentialFact>, ApiError> {
    let mut told = Vec::with_capacity(page.rows.len());
    for row in &page.rows {
        match app.log.reader().open_row(row).await {
            Ok(fact) => {
                if let FactBody::Open(Event::Credential(event), _) = &fact.body {
                    told.push((key(row), CredentialFact::new(&fact, event)));
                }
            }
            // A damaged row does not hide the rows after it.
            Err(LogError::Damaged { .. }) => {
                told.push((key(row), CredentialFact::damaged(row)));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let told = Paged {
        rows: told,
        has_more: page.has_more,
    };
    ListPage::of(&told, |(key, _)| key.clone(), |(_, fact)| fact.clone())
}

/// A fact of a credential's history.
#[derive(Clone, Serialize, ToSchema)]
pub struct CredentialFact {
    /// The credential's id.
    #[schema(format = Uuid)]
    id: String,
    /// `stored`, `changed`, `revealed`, `refused`, `removed` or `damaged`.
    event: String,
    at: Time,
    /// The kind of caller: `user`, `impersonator`, `shared_secret`, `service_key` or `system`. Null when the row is
    /// damaged.
    #[schema(required)]
    by: Option<&'static str>,
    /// The id of the user or the service key.
    #[schema(required)]
    by_id: Option<String>,
    /// The id of the request, as its answer's `X-Request-Id` or `Genie-Request-Id` told it.
    #[schema(required)]
    request_id: Option<String>,
    /// The version that was stored or shown.
    #[schema(required)]
    version: Option<u32>,
    /// The platform that the credential was stored or asked for.
    #[schema(required)]
    platform: Option<String>,
    /// The purpose, in the caller's words.
    #[schema(required)]
    purpose: Option<String>,
    /// Why it was refused: `not_held`, `removed`, `other_kind`, `session_expired`, `stale_lease`, `scope_needed`,
    /// `suspended` or `damaged`.
    #[schema(required)]
    reason: Option<&'static str>,
}

impl CredentialFact {
    fn damaged(row: &StoredRow) -> Self {
        Self {
            id: row.stream.to_string(),
            event: "damaged".to_owned(),
            at: row.recorded_at.into(),
            by: None,
            by_id: None,
            request_id: None,
            version: None,
            platform: None,
            purpose: None,
            reason: None,
        }
    }

    fn new(fact: &Fact, event: &CredentialEvent) -> Self {
        let metadata = &fact.metadata;
        let key = metadata.key.map(|key| key.to_string());
        let mut told = Self {
            id: fact.stream.id.to_string(),
            event: fact.event_type.trim_start_matches("credential.").to_owned(),
            at: fact.recorded_at.into(),
            by: Some(metadata.caller.as_str()),
            by_id: metadata.by.map(|user| user.to_string()).or(key),
            request_id: metadata.request_id.clone(),
            version: None,
            platform: None,
            purpose: None,
            reason: None,
        };
        match event {
            CredentialEvent::Stored {
                platform, sealed, ..
            } => {
                told.platform = Some(platform.as_str().to_owned());
                told.version = Some(sealed.version);
            }
            CredentialEvent::Changed { sealed, .. } => told.version = Some(sealed.version),
            CredentialEvent::Revealed { version, purpose } => {
                told.version = Some(*version);
                told.purpose = purpose.clone();
            }
            CredentialEvent::Refused {
                reason,
                platform,
                purpose,
            } => {
                told.reason = Some(reason.as_str());
                told.platform = platform.as_ref().map(|name| name.as_str().to_owned());
                told.purpose = purpose.clone();
            }
            CredentialEvent::Removed => {}
        }
        told
    }
}
