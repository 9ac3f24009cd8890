//! A file's bytes, whole or a range of them (RFC 9110, section 14), and whether the client has them already (section 13).

use std::ops::Range;

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        StatusCode,
        header::{
            ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY,
            Charset, ContentDisposition, DispositionParam, DispositionType, ETAG, EntityTag,
            ExtendedValue, HeaderMap, HeaderName, IF_NONE_MATCH, IF_RANGE, RANGE,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
    web::{Data, Path},
};
use futures_util::StreamExt;
use genie_actors::Caller;
use genie_events::{BlobId, Refusal, UserId};
use genie_log::blobs::Blob;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{file_id, live_keys};
use crate::{
    app::App,
    blobs::BlobError,
    file_kind::is_shown_in_browsers,
    http::{
        caller::{
            ActingUser, AnyCaller, WorksOnJobs, look_at_another_s, short_reason, stated_reason,
        },
        error::ApiError,
        held_job::LeaseHeaders,
        input::Query,
        request::{in_span, is_head},
        response::RawAnswer,
    },
};

/// A file that Directus holds.
mod directus;

/// A browser that opens the file by itself runs nothing of it.
const SANDBOX: &str =
    "sandbox; default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'";

/// The bytes of a file.
pub enum FileBytes {}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DownloadQuery {
    /// Anything: the file is to be saved rather than shown.
    download: Option<String>,
    /// `true`: an administrator reads another user's file. That is a fact (`access.personal_read`).
    personal: Option<bool>,
    /// With `personal=true`, of an administrator: why. It is kept on record.
    #[param(min_length = 1, max_length = 500)]
    #[serde(default, deserialize_with = "short_reason")]
    reason: Option<String>,
}

/// `GET /api/files/{id}`
pub async fn download(
    app: Data<App>,
    request: HttpRequest,
    caller: AnyCaller<WorksOnJobs>,
    lease: LeaseHeaders,
    id: Path<String>,
    Query(query): Query<DownloadQuery>,
) -> Result<RawAnswer<FileBytes>, ApiError> {
    let nothing = || ApiError::NotFound("file");
    let id = file_id(&id)?;
    let reader = match &caller {
        AnyCaller::User(user) => FileReader::User(user),
        AnyCaller::Server(server) => server_reader(&app, &server.caller, &lease, id).await?,
    };
    let Some(blob) = app.log.blobs().get(id).await? else {
        return match reader {
            FileReader::Job(_) => directus::answer(&app, &request, id).await,
            FileReader::User(_) | FileReader::Secret => Err(nothing()),
        };
    };
    match reader {
        FileReader::User(user) if user.account.user != blob.user => {
            let looks = query.personal == Some(true) && user.caller.is_admin();
            let admin = looks.then_some(&user.caller).ok_or_else(nothing)?;
            let reason = stated_reason(admin, query.reason.as_deref())?;
            let reader = user.account.user;
            look_at_another_s(&app, admin, reader, blob.user, "file", reason).await?;
        }
        FileReader::Job(owner) if owner != blob.user => return Err(nothing()),
        FileReader::User(_) | FileReader::Job(_) | FileReader::Secret => {}
    }
    let is_download = query.download.is_some() || is_to_be_saved(&request);
    let answer = answer(&app, &request, &blob, is_download).await?;
    Ok(RawAnswer::new(answer))
}

/// True with `?download`. Elsewhere a parameter without a value counts as absent.
pub(super) fn is_to_be_saved(request: &HttpRequest) -> bool {
    let mut query = form_urlencoded::parse(request.query_string().as_bytes());
    query.any(|(name, _)| name == "download")
}

/// For whom a file is read.
enum FileReader<'a> {
    User(&'a ActingUser),
    /// The owner of the job that a worker holds and that names the file.
    Job(UserId),
    /// The shared secret without a job reads every user's file.
    Secret,
}

async fn server_reader<'a>(
    app: &App,
    caller: &Caller,
    lease: &LeaseHeaders,
    file: BlobId,
) -> Result<FileReader<'a>, ApiError> {
    let Some(shown) = lease.shown()? else {
        if caller.is_service_key() {
            return Err(Refusal::forbidden(
                "lease_needed",
                "A worker's key opens a file for a job that names it; send `Genie-Job` and `Genie-Lease`",
            )
            .into());
        }
        return Ok(FileReader::Secret);
    };
    let held = shown.held(app).await?;
    let files = held.spec.named_files();
    let is_named = files.iter().any(|(_, id)| id.parse() == Ok(file));
    is_named
        .then_some(FileReader::Job(held.owner))
        .ok_or(ApiError::NotFound("file"))
}

/// The answer to a read that is allowed.
pub(super) async fn answer(
    app: &App,
    request: &HttpRequest,
    blob: &Blob,
    is_download: bool,
) -> Result<HttpResponse, ApiError> {
    let keys = live_keys(app, blob.user, "file").await?;
    let details = blob.details(&keys)?;
    let tag = EntityTag::new_strong(details.sha256.clone());
    let mut response = HttpResponse::Ok();
    response
        .content_type(blob.media_type.as_str())
        .insert_header(disposition(&blob.media_type, details.name, is_download))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((CONTENT_SECURITY_POLICY, SANDBOX))
        // The bytes of an id never change, but whether its reader may have them does.
        .insert_header((CACHE_CONTROL, "private, no-cache"))
        .insert_header((ACCEPT_RANGES, "bytes"))
        .insert_header((ETAG, tag.to_string()));
    let wanted = match wanted(request.headers(), &tag, blob.size) {
        WantedBytes::Nothing => {
            return Ok(response.status(StatusCode::NOT_MODIFIED).finish());
        }
        WantedBytes::NoSuchRange => {
            let size = format!("bytes */{}", blob.size);
            response.status(StatusCode::RANGE_NOT_SATISFIABLE);
            return Ok(response.insert_header((CONTENT_RANGE, size)).finish());
        }
        WantedBytes::Whole => 0..blob.size,
        WantedBytes::Part(range) => {
            let told = format!("bytes {}-{}/{}", range.start, range.end - 1, blob.size);
            response
                .status(StatusCode::PARTIAL_CONTENT)
                .insert_header((CONTENT_RANGE, told));
            range
        }
    };
    let length = wanted.end - wanted.start;
    if is_head(request) {
        let head = response.insert_header((CONTENT_LENGTH, length));
        let nothing = futures_util::stream::empty::<Result<_, ApiError>>();
        return Ok(head.no_chunking(length).streaming(nothing));
    }
    let mut parts = Box::pin(app.blobs.read(blob, keys, wanted));
    // Read the first part now: a failure can still become a status.
    let first = parts
        .next()
        .await
        .unwrap_or_else(|| Err(BlobError::Away("a file has no parts".into())))?;
    let body = futures_util::stream::once(std::future::ready(Ok(first))).chain(parts);
    Ok(response
        .no_chunking(length)
        .streaming(in_span(body.map(|part| part.map_err(ApiError::from)))))
}

fn disposition(mime: &str, name: String, is_download: bool) -> ContentDisposition {
    let disposition = if is_download || !is_shown_in_browsers(mime) {
        DispositionType::Attachment
    } else {
        DispositionType::Inline
    };
    let ascii: String = name
        .chars()
        .map(|char| if char.is_ascii() { char } else { '_' })
        .collect();
    let is_ascii = ascii == name;
    let mut parameters = vec![DispositionParam::Filename(ascii)];
    if !is_ascii {
        // A header has no other letters; RFC 6266 has both forms beside each other.
        parameters.push(DispositionParam::FilenameExt(ExtendedValue {
            charset: Charset::Ext("UTF-8".to_owned()),
            language_tag: None,
            value: name.into_bytes(),
        }));
    }
    ContentDisposition {
        disposition,
        parameters,
    }
}

/// What of a file a request is answered with.
#[derive(Debug, PartialEq, Eq)]
enum WantedBytes {
    Whole,
    Part(Range<u64>),
    /// The client has the bytes already.
    Nothing,
    /// The range begins behind the end.
    NoSuchRange,
}

fn wanted(headers: &HeaderMap, tag: &EntityTag, size: u64) -> WantedBytes {
    if let Some(tags) = text(headers, &IF_NONE_MATCH)
        && names(tags, tag)
    {
        return WantedBytes::Nothing;
    }
    let is_same = text(headers, &IF_RANGE).is_none_or(|known| {
        let known = known.trim().parse::<EntityTag>();
        known.is_ok_and(|known| known.strong_eq(tag)) // a date tells too little
    });
    match text(headers, &RANGE).filter(|_| is_same) {
        Some(range) => one_range(range, size),
        None => WantedBytes::Whole,
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// True when a list of tags has this one.
fn names(list: &str, tag: &EntityTag) -> bool {
    let is_it = |one: &str| {
        let one = one.trim();
        one == "*" || one.parse().is_ok_and(|one: EntityTag| one.weak_eq(tag))
    };
    list.split(',').any(is_it) // no tag of ours has a comma
}

/// Several ranges, or what is none, get the whole file, which is always allowed.
fn one_range(header: &str, size: u64) -> WantedBytes {
    let range = header.trim().strip_prefix("bytes=");
    let Some((first, last)) = range.and_then(|range| range.split_once('-')) else {
        return WantedBytes::Whole;
    };
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    let (first, last) = (first.trim(), last.trim());
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first > last => WantedBytes::Whole,
        (Some(first), _) if first >= size && (last.is_empty() || number(last).is_some()) => {
            WantedBytes::NoSuchRange
        }
        (Some(first), Some(last)) => WantedBytes::Part(first..last.saturating_add(1).min(size)),
        (Some(first), None) if last.is_empty() => WantedBytes::Part(first..size),
        (None, Some(0)) if first.is_empty() => WantedBytes::NoSuchRange,
        (None, Some(_)) if first.is_empty() && size == 0 => WantedBytes::NoSuchRange,
        (None, Some(count)) if first.is_empty() => {
            WantedBytes::Part(size.saturating_sub(count)..size)
        }
        _ => WantedBytes::Whole,
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn asked(given: &[(HeaderName, &'static str)]) -> WantedBytes {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.insert(name.clone(), HeaderValue::from_static(value));
        }
        wanted(&headers, &EntityTag::new_strong("aa".into()), 10)
    }

    #[test]
    fn one_range_is_answered_and_others_get_the_whole() {
        use WantedBytes::{NoSuchRange, Part, Whole};
        for (range, expected) in [
            ("bytes=0-0", Part(0..1)),
            ("bytes=2-4", Part(2..5)),
            ("bytes=2-", Part(2..10)),
            ("bytes=2-99999999999999999999999", Part(2..10)),
            ("bytes=-3", Part(7..10)),
            ("bytes=-30", Part(0..10)),
            ("bytes=10-", NoSuchRange),
            ("bytes=10-12", NoSuchRange),
            ("bytes=-0", NoSuchRange),
            ("bytes=4-2", Whole),
            ("bytes=0-1,3-4", Whole),
            ("bytes=a-b", Whole),
            ("bytes=+1-2", Whole),
            ("bytes=-", Whole),
            ("lines=0-1", Whole),
            ("", Whole),
        ] {
            assert_eq!(asked(&[(RANGE, range)]), expected, "{range}");
        }
        assert_eq!(one_range("bytes=0-", 0), NoSuchRange);
        assert_eq!(one_range("bytes=-1", 0), NoSuchRange);
    }

    #[test]
    fn a_client_that_has_the_bytes_gets_none() {
        use WantedBytes::{Nothing, Part, Whole};
        for (tags, expected) in [
            ("\"aa\"", Nothing),
            ("W/\"aa\"", Nothing),
            ("\"bb\", \"aa\"", Nothing),
            ("*", Nothing),
            ("\"bb\"", Whole),
            ("aa", Whole),
        ] {
            assert_eq!(asked(&[(IF_NONE_MATCH, tags)]), expected, "{tags}");
        }
        let of = |tag| asked(&[(RANGE, "bytes=1-1"), (IF_RANGE, tag)]);
        assert_eq!(of("\"aa\""), Part(1..2));
        for other in ["\"bb\"", "W/\"aa\"", "Sun, 06 Nov 1994 08:49:37 GMT"] {
            assert_eq!(of(other), Whole, "{other}");
        }
    }
}
