//! An administrator's look at the data of another user.

use genie_actors::Caller;
use genie_events::UserId;
use genie_log::{LogError, keys::KeyState};
use serde::{Deserialize, Deserializer, de::Error};

use super::still_administers;
use crate::{app::App, http::error::ApiError};

/// Records that an administrator looks at something of another user, before it is answered. For anybody but an
/// administrator it does not exist. For an administrator it does not either when its owner was forgotten.
pub async fn look_at_another_s(
    app: &App,
    caller: &Caller,
    reader: UserId,
    owner: UserId,
    what: &'static str,
    reason: Option<String>,
) -> Result<(), ApiError> {
    administers_another_s(app, caller, reader, owner, what).await?;
    let read = app.write.access.personal_read(caller, Some(owner), reason);
    Ok(read.await?)
}

/// In characters.
const MAX_REASON: usize = 500;

/// Reads a `reason`. One that is too long is refused even where none is asked for, as the document says.
pub fn short_reason<'de, D: Deserializer<'de>>(query: D) -> Result<Option<String>, D::Error> {
    let reason = Option::<String>::deserialize(query)?;
    match &reason {
        Some(text) if text.chars().count() > MAX_REASON => Err(D::Error::custom(format!(
            "`reason` must have at most {MAX_REASON} characters"
        ))),
        _ => Ok(reason),
    }
}

/// The words for which a caller reads what is personal. An administrator must say some; servers and keys need not.
pub fn stated_reason(caller: &Caller, reason: Option<&str>) -> Result<Option<String>, ApiError> {
    let reason = reason.map(str::trim).filter(|reason| !reason.is_empty());
    let sentence = format!(
        "`reason` must say in 1 to {MAX_REASON} characters why you read what is personal; it is kept on record"
    );
    match reason {
        Some(reason) if reason.chars().count() <= MAX_REASON => Ok(Some(reason.to_owned())),
        None if !caller.is_admin() => Ok(None),
        _ => Err(ApiError::field(sentence)),
    }
}

/// The same for what is not personal, which leaves no fact.
pub async fn administers_another_s(
    app: &App,
    caller: &Caller,
    reader: UserId,
    owner: UserId,
    what: &'static str,
) -> Result<(), ApiError> {
    if !caller.is_admin() {
        return Err(ApiError::NotFound(what));
    }
    still_administers(app, reader).await?;
    match app.log.keys().of(owner.0).await {
        Ok(KeyState::Live(_)) => Ok(()),
        Ok(KeyState::Destroyed) | Err(LogError::KeyAbsent { .. }) => Err(ApiError::NotFound(what)),
        Err(error) => Err(error.into()),
    }
}
