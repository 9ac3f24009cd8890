//! Checks that the files which a job names are its user's: files here, or files in the Directus that keeps the users,
//! which the user's own token may read.

use std::{collections::BTreeSet, net::IpAddr};

use actix_web::HttpRequest;
use genie_events::{BlobId, Refusal, job::JobSpec};

use crate::{
    app::App,
    http::{
        caller::{self, ActingUser},
        error::ApiError,
        request,
    },
    identity::directus::Directus,
};

/// The most files that a job may name.
const MAX_FILES: usize = 20;

/// The refusal of a job that names a file which is not the user's.
pub async fn foreign(
    app: &App,
    request: &HttpRequest,
    user: &ActingUser,
    spec: &JobSpec,
) -> Result<Option<Refusal>, ApiError> {
    let named = spec.named_files();
    if named.len() > MAX_FILES {
        return Err(ApiError::field(format!(
            "A job may name at most {MAX_FILES} files"
        )));
    }
    let mut elsewhere = Vec::new();
    for (field, text) in named {
        let Ok(id) = text.parse::<BlobId>() else {
            return Ok(Some(not_yours(field)));
        };
        match app.log.blobs().get(id).await? {
            Some(blob) if blob.user == user.account.user => {}
            Some(_) => return Ok(Some(not_yours(field))),
            None => elsewhere.push((field, id)),
        }
    }
    let (Some(&(first, _)), Some(directus)) = (elsewhere.first(), &app.directus) else {
        return Ok(elsewhere.first().map(|(field, _)| not_yours(field)));
    };
    if user.caller.is_impersonator() {
        // Directus does not know this token, so it cannot say what the user may read.
        return Ok(Some(not_yours(first)));
    }
    let token = caller::token(request)?.ok_or(ApiError::NoCaller)?;
    let address = request::client_address(request);
    let wanted: BTreeSet<BlobId> = elsewhere.iter().map(|(_, id)| *id).collect();
    let readable = readable(directus, token, address, &wanted).await?;
    let foreign = elsewhere.iter().find(|(_, id)| !readable.contains(id));
    Ok(foreign.map(|(field, _)| not_yours(field)))
}

async fn readable(
    directus: &Directus,
    token: &str,
    address: IpAddr,
    wanted: &BTreeSet<BlobId>,
) -> Result<BTreeSet<BlobId>, ApiError> {
    let files = directus.readable_files(token, Some(address), wanted);
    files.await.map_err(ApiError::Directus)
}

fn not_yours(field: &str) -> Refusal {
    // The other fields are in `params`.
    let place = if field == "input_file_id" {
        ""
    } else {
        "params."
    };
    let sentence = format!("`{place}{field}` names no file of yours; check the id");
    Refusal::gone("not_found", sentence)
}
