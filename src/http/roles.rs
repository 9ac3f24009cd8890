//! Checks the roles that a request names against the roles that exist.

use crate::{app::App, http::error::ApiError, roles};

/// The role that a name means; an unknown one is refused. With a Directus but without its administrator's token, the
/// roles are unknown and every role passes.
pub async fn check(app: &App, role: &str) -> Result<String, ApiError> {
    let named = roles::expect_set(&app.config, role).map_err(ApiError::field)?;
    let Some(directus) = &app.directus else {
        return Ok(named);
    };
    match directus.roles().await.map_err(ApiError::Directus)? {
        // `creator` stands for the role that DIRECTUS_CREATOR_ROLE names.
        Some(there) => roles::expect_one_of(
            ["creator"]
                .into_iter()
                .chain(there.iter().map(String::as_str)),
            &named,
        )
        .map_err(ApiError::field),
        None => Ok(named),
    }
}
