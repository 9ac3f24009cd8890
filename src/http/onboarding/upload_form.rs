//! The form that carries an upload (RFC 7578): one field `file`, which goes to the blob store as it comes.

use std::time::Duration;

use actix_multipart::{Field, Multipart, MultipartError};
use futures_util::{Stream, StreamExt};
use genie_media::zip_check::{BadZip, MAGIC};
use sha2::{Digest, Sha256};
use tokio::time::timeout;
use utoipa::ToSchema;

use super::FORM;
use crate::{
    blobs::{FoundFile, Upload},
    http::{error::ApiError, idempotency::BodyHash},
};

/// The longest wait for the next bytes.
const NEXT: Duration = Duration::from_secs(30);
/// The longest time for the whole upload. Bytes without a row stay in the blob store for longer than that, so none is
/// deleted while it arrives.
const ALL: Duration = Duration::from_secs(30 * 60);
/// In characters.
const MAX_NAME: usize = 255;

#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "the form goes to the store as it comes; this only describes it"
)]
pub struct UploadForm {
    /// A ZIP archive of at most 20,000 files and folders, stored or packed by Deflate or Deflate64, and not encrypted. Its names stay within it. Unpacked it has at most 4 GiB and at most 100 times its own size.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
}

pub struct Received {
    /// The file's own name.
    pub name: String,
    /// The hash of name and bytes.
    pub hash: BodyHash,
    pub found: FoundFile,
}

/// The file of a form before the form has ended.
struct ReceivedFile {
    name: String,
    hash: BodyHash,
}

/// Receives the form to its end. Writes at most `most` bytes of the file to the upload, then finishes the upload.
pub async fn receive(
    form: &mut Multipart,
    upload: &mut Upload,
    most: u64,
) -> Result<Received, ApiError> {
    let received = timeout(ALL, async {
        let mut received = None;
        let mut other = 0;
        while let Some(mut field) = next(form).await? {
            match (field.name(), &received) {
                (Some("file"), None) => {
                    received = Some(receive_file(&mut field, upload, most).await?)
                }
                (Some("file"), Some(_)) => {
                    return Err(ApiError::field(
                        "The form must have one field `file`, not several",
                    ));
                }
                _ => skip(&mut field, &mut other).await?,
            }
        }
        received.ok_or_else(|| ApiError::field("The form must have a field `file`"))
    });
    let received = received.await.unwrap_or_else(|_| Err(too_slow()))?;
    let found = upload.finish().await?;
    let ReceivedFile { name, hash } = received;
    Ok(Received { name, hash, found })
}

async fn receive_file(
    field: &mut Field,
    upload: &mut Upload,
    most: u64,
) -> Result<ReceivedFile, ApiError> {
    let name = field
        .content_disposition()
        .and_then(|about| about.get_filename())
        .map_or_else(|| "upload.zip".into(), base_name);
    let mut hash = Sha256::new_with_prefix((name.len() as u64).to_be_bytes());
    hash.update(&name);
    let mut beginning = Vec::with_capacity(MAGIC.len());
    while let Some(bytes) = next(field).await? {
        if upload.size() + bytes.len() as u64 > most {
            return Err(ApiError::TooLarge(most));
        }
        // Seen with the first bytes, what is no ZIP is not received to its end.
        beginning.extend(bytes.iter().take(MAGIC.len() - beginning.len()));
        if !MAGIC.starts_with(&beginning) {
            return Err(BadZip::NotZip.into());
        }
        hash.update(&bytes);
        upload.write(&bytes).await?;
    }
    Ok(ReceivedFile {
        name,
        hash: BodyHash::known(hex::encode(hash.finalize())),
    })
}

/// Skips a field that the route does not read.
async fn skip(field: &mut Field, other: &mut u64) -> Result<(), ApiError> {
    while let Some(bytes) = next(field).await? {
        *other += bytes.len() as u64;
        if *other > FORM {
            return Err(ApiError::field(
                "The form has too much beside the field `file`",
            ));
        }
    }
    Ok(())
}

async fn next<T>(
    stream: &mut (impl Stream<Item = Result<T, MultipartError>> + Unpin),
) -> Result<Option<T>, ApiError> {
    match timeout(NEXT, stream.next()).await {
        Ok(next) => next.transpose().map_err(broken),
        Err(_) => Err(too_slow()),
    }
}

fn broken(error: MultipartError) -> ApiError {
    use MultipartError as E;
    match error {
        E::ContentTypeMissing
        | E::ContentTypeParse
        | E::ContentTypeIncompatible
        | E::BoundaryMissing => ApiError::NotForm,
        E::Incomplete | E::Payload(_) => ApiError::field("The upload broke off; send it again"),
        _ => ApiError::field(
            "The form cannot be read; it must be multipart/form-data with a field `file`",
        ),
    }
}

fn too_slow() -> ApiError {
    ApiError::field("The upload came too slowly; send it again")
}

/// Some browsers send a path; only its last part is a name.
fn base_name(sent: &str) -> String {
    let name = sent.rsplit(['/', '\\']).next().unwrap_or_default();
    name.chars()
        .filter(|char| !char.is_control())
        .take(MAX_NAME)
        .collect()
}
