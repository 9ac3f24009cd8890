//! Checks that the files which jobs name are their user's: files here, or files in the Directus that keeps the users,
//! which the user's own token may read.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use actix_web::HttpRequest;
use futures_util::future::try_join_all;
use genie_events::{BlobId, Refusal, UserId, job::JobSpec};

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
/// The files that are looked up at the same time.
const LOOK_UPS: usize = 8;
/// The files that Directus is asked about at once.
const ASKED_AT_ONCE: usize = 20;

/// Where a file is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FilePlace {
    Own,
    /// Another user has it, or nobody.
    Foreign,
    /// genie does not know it; a Directus may.
    Elsewhere,
}

/// The right of a user to read files in Directus: the token that Directus gave the user.
#[derive(Clone, Copy)]
pub struct DirectusReader<'a> {
    token: &'a str,
    /// The user's.
    address: IpAddr,
}

impl<'a> DirectusReader<'a> {
    /// `None` when Directus does not know what the request shows, so that it cannot say what the user may read.
    pub fn of(request: &'a HttpRequest, user: &ActingUser) -> Result<Option<Self>, ApiError> {
        if !user.caller.shows_user_token() {
            return Ok(None);
        }
        Ok(caller::token(request)?.map(|token| Self {
            token,
            address: request::client_address(request),
        }))
    }
}

/// For each job the refusal, if it names a file which is not the user's.
pub async fn foreign(
    app: &App,
    reader: Option<DirectusReader<'_>>,
    user: &ActingUser,
    specs: &[&JobSpec],
) -> Result<Vec<Option<Refusal>>, ApiError> {
    let mut named: BTreeSet<BlobId> = BTreeSet::new();
    for spec in specs {
        let files = spec.named_files();
        if files.len() <= MAX_FILES {
            named.extend(
                files
                    .iter()
                    .filter_map(|(_, text)| text.parse::<BlobId>().ok()),
            );
        }
    }
    let mut places = places(app, user, named).await?;
    ask_directus(app, reader, &mut places).await?;
    let refusal = |spec: &&JobSpec| {
        let files = spec.named_files();
        if files.len() > MAX_FILES {
            let sentence = format!("A job may name at most {MAX_FILES} files");
            return Some(Refusal::invalid("params", sentence));
        }
        let is_own = |text: &str| {
            let place = text.parse().ok().and_then(|id: BlobId| places.get(&id));
            place == Some(&FilePlace::Own)
        };
        let foreign = files.into_iter().find(|(_, text)| !is_own(text));
        foreign.map(|(field, _)| JobSpec::foreign_file(field))
    };
    Ok(specs.iter().map(refusal).collect())
}

async fn places(
    app: &App,
    user: &ActingUser,
    named: BTreeSet<BlobId>,
) -> Result<BTreeMap<BlobId, FilePlace>, ApiError> {
    let named: Vec<BlobId> = named.into_iter().collect();
    let mut places = BTreeMap::new();
    for some in named.chunks(LOOK_UPS) {
        let looks = some.iter().map(|id| place(app, user.account.user, *id));
        places.extend(try_join_all(looks).await?);
    }
    Ok(places)
}

async fn place(app: &App, user: UserId, id: BlobId) -> Result<(BlobId, FilePlace), ApiError> {
    let place = match app.log.blobs().get(id).await? {
        Some(blob) if blob.user == user => FilePlace::Own,
        Some(_) => FilePlace::Foreign,
        None => FilePlace::Elsewhere,
    };
    Ok((id, place))
}

/// Makes the files that the user may read in Directus their own.
async fn ask_directus(
    app: &App,
    reader: Option<DirectusReader<'_>>,
    places: &mut BTreeMap<BlobId, FilePlace>,
) -> Result<(), ApiError> {
    let elsewhere = places
        .iter()
        .filter(|(_, place)| **place == FilePlace::Elsewhere);
    let elsewhere: Vec<BlobId> = elsewhere.map(|(id, _)| *id).collect();
    let Some(directus) = app.directus.as_ref().filter(|_| !elsewhere.is_empty()) else {
        return Ok(());
    };
    let Some(DirectusReader { token, address }) = reader else {
        return Ok(());
    };
    for some in elsewhere.chunks(ASKED_AT_ONCE) {
        let wanted = some.iter().copied().collect();
        for id in readable(directus, token, address, &wanted).await? {
            places.insert(id, FilePlace::Own);
        }
    }
    Ok(())
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
