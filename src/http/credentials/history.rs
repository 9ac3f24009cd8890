//! What happened to credentials: stored, changed, shown to whom and why, refused to whom and why. Read from the log, newest first.

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Data, Path, Query},
};
use genie_events::{Event, UserId, credential::CredentialEvent};
use genie_log::{Body, Fact, LogError, StoredRow, keys::KeyState};
use serde_json::{Value, json};

use super::credential_id;
use crate::{
    app::App,
    http::{
        caller::{UserCaller, still_administers},
        error::ApiError,
        read_your_writes,
        response::{self, PageQuery},
    },
};

/// `GET /api/credentials/{id}/history`: of one, for its owner and for administrators, whose looking is on record.
pub async fn of_one(
    app: Data<App>,
    request: HttpRequest,
    user: UserCaller,
    id: Path<String>,
    page: Query<PageQuery>,
) -> Result<HttpResponse, ApiError> {
    let (id, limit, before) = (credential_id(&id)?, page.limit()?, page.after_number()?);
    read_your_writes::wait_for_log(&app, &request).await?;
    let owner = app
        .log
        .owner_of(id)
        .await?
        .ok_or(ApiError::NotFound("credential"))?;
    if owner != user.account.user {
        look_at_another_s(&app, &user, owner).await?;
    }
    let rows = app
        .log
        .credential_rows(owner, id, before, limit as usize)
        .await?;
    let next = response::next_cursor(&rows, limit, |row| row.sequence.to_string());
    Ok(response::list(told(&app, &rows).await?, next))
}

/// `GET /api/credentials/reveals`: to whom the caller's own were shown or refused.
pub async fn reveals(
    app: Data<App>,
    request: HttpRequest,
    user: UserCaller,
    page: Query<PageQuery>,
) -> Result<HttpResponse, ApiError> {
    let (limit, before) = (page.limit()?, page.after_number()?);
    read_your_writes::wait_for_log(&app, &request).await?;
    let rows = app
        .log
        .revealed_rows(user.account.user, before, limit as usize)
        .await?;
    let next = response::next_cursor(&rows, limit, |row| row.owner_seq.to_string());
    Ok(response::list(told(&app, &rows).await?, next))
}

/// To anybody but an administrator there is no such credential; nor to one when its owner was forgotten.
async fn look_at_another_s(app: &App, user: &UserCaller, owner: UserId) -> Result<(), ApiError> {
    if !user.caller.is_admin() {
        return Err(ApiError::NotFound("credential"));
    }
    still_administers(app, user.account.user).await?;
    match app.log.keys(owner.0).await {
        Ok(KeyState::Live(_)) => Ok(app
            .write
            .access
            .personal_read(&user.caller, Some(owner))
            .await?),
        Ok(KeyState::Destroyed) | Err(LogError::KeyAbsent { .. }) => {
            Err(ApiError::NotFound("credential"))
        }
        Err(error) => Err(error.into()),
    }
}

async fn told(app: &App, rows: &[StoredRow]) -> Result<Vec<Value>, ApiError> {
    let mut told = Vec::with_capacity(rows.len());
    for row in rows {
        let fact = match app.log.open_row(row).await {
            Ok(fact) => fact,
            // What comes after it is still to be had.
            Err(LogError::Damaged { .. }) => {
                told.push(json!({
                    "id": row.id, "event": "damaged", "at": row.recorded_at.rfc3339(), "by": null, "by_id": null,
                    "request_id": null, "version": null, "platform": null, "purpose": null, "reason": null,
                }));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if let Body::Open(Event::Credential(event), _) = &fact.body {
            told.push(shown(&fact, event));
        }
    }
    Ok(told)
}

fn shown(fact: &Fact, event: &CredentialEvent) -> Value {
    let metadata = &fact.metadata;
    let by = metadata
        .by
        .map(|user| user.to_string())
        .or_else(|| metadata.key.as_ref().map(|key| key.0.clone()));
    let mut shown = json!({
        "id": fact.stream.id, "event": fact.event_type.trim_start_matches("credential."), "at": fact.recorded_at.rfc3339(),
        "by": metadata.caller.as_str(), "by_id": by, "request_id": metadata.request_id,
        "version": null, "platform": null, "purpose": null, "reason": null,
    });
    match event {
        CredentialEvent::Stored {
            platform, sealed, ..
        } => {
            shown["platform"] = platform.as_str().into();
            shown["version"] = sealed.version.into();
        }
        CredentialEvent::Changed { sealed, .. } => shown["version"] = sealed.version.into(),
        CredentialEvent::Revealed { version, purpose } => {
            shown["version"] = (*version).into();
            shown["purpose"] = purpose.clone().into();
        }
        CredentialEvent::Refused {
            reason,
            platform,
            purpose,
        } => {
            shown["reason"] = reason.as_str().into();
            shown["platform"] = platform.clone().into();
            shown["purpose"] = purpose.clone().into();
        }
        CredentialEvent::Removed => {}
    }
    shown
}
