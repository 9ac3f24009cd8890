//! An administrator's look at the data of another user.

use genie_actors::Caller;
use genie_events::UserId;
use genie_log::{LogError, keys::KeyState};

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
) -> Result<(), ApiError> {
    administers_another_s(app, caller, reader, owner, what).await?;
    Ok(app.write.access.personal_read(caller, Some(owner)).await?)
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
