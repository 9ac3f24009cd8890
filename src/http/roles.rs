//! Roles that somebody asks for: those there are, and no others.

use crate::{app::App, http::error::ApiError, roles};

/// Refuses a role that there is not. Without an administrator's token for Directus nobody can tell.
pub async fn check(app: &App, role: &str) -> Result<(), ApiError> {
    roles::expect_set(&app.config, role).map_err(ApiError::field)?;
    let Some(directus) = &app.directus else {
        return Ok(());
    };
    match directus.roles().await.map_err(ApiError::Directus)? {
        // `creator` is whatever DIRECTUS_CREATOR_ROLE names.
        Some(there) => roles::expect_one_of(
            ["creator"]
                .into_iter()
                .chain(there.iter().map(String::as_str)),
            role,
        )
        .map_err(ApiError::field),
        None => Ok(()),
    }
}
