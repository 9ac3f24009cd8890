//! `POST /credentials/import` on the socket: lines of `genie import credentials`. Secrets that the original sealed
//! arrive sealed and are opened here. Only the operator at the machine reaches the socket.

use std::collections::BTreeSet;

use actix_web::{HttpResponse, web::Data};
use genie_actors::WriteError;
use genie_events::UserId;
use serde_json::json;
use tracing::warn;

use crate::{
    app::App,
    credential_import::{KEY_MISSING, importer::Importer},
    http::{body::Body, directus, error::ApiError, response},
    socket::requests::CredentialBatch,
};

pub async fn credentials(
    app: Data<App>,
    Body(batch): Body<CredentialBatch>,
) -> Result<HttpResponse, ApiError> {
    let key = app
        .config
        .original_key()
        .ok_or_else(|| ApiError::NotConfigured {
            code: "original_key_missing",
            sentence: format!("{KEY_MISSING}, also for the server that runs, and start it again"),
        })?;
    let users: BTreeSet<UserId> = batch.lines.iter().map(|line| line.user).collect();
    for user in users {
        match directus::meet_unseen(&app, user).await {
            // Only this user's lines are rejected, as those of an unknown user.
            Err(ApiError::Write(WriteError::Refused(refusal))) => {
                warn!(user.id = %user, %refusal, "import: a user can't be introduced; their lines are rejected")
            }
            met => met?,
        }
    }
    let importer = Importer {
        log: &app.log,
        credentials: &app.write.credentials,
        key: &key,
    };
    Ok(response::ok(
        json!({"data": importer.take(batch.lines).await}),
    ))
}
