//! The persona: what a user tells the model about themselves (docs/api.md, Chat).

use actix_web::web::Data;
use genie_events::account::MAX_PERSONA;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    app::App,
    http::{
        body::Body,
        caller::ActingUser,
        error::ApiError,
        idempotency::IdempotencyKey,
        response::{Answer, Written},
    },
};

#[derive(Deserialize, ToSchema)]
pub struct PersonaRequest {
    /// At most 4096 bytes. Blank removes it.
    #[schema(max_length = 4096)]
    text: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Persona)]
pub struct PersonaAnswer {
    /// Empty when there is none.
    text: String,
}

/// `GET /api/me/persona`
pub async fn show(app: Data<App>, user: ActingUser) -> Result<Answer<PersonaAnswer>, ApiError> {
    let persona = app.write.accounts.persona(user.account.user).await?;
    Ok(Answer(PersonaAnswer {
        text: persona.unwrap_or_default(),
    }))
}

/// `PUT /api/me/persona`
pub async fn change(
    app: Data<App>,
    idempotency_key: IdempotencyKey,
    user: ActingUser,
    Body(body): Body<PersonaRequest>,
) -> Result<Written<PersonaAnswer>, ApiError> {
    let text = body.text.trim().to_owned();
    if text.len() > MAX_PERSONA {
        return Err(ApiError::field(format!(
            "`text` must have at most {MAX_PERSONA} bytes"
        )));
    }
    let context = idempotency_key.asking(&app, &user.caller)?;
    let persona = Some(text.clone()).filter(|text| !text.is_empty());
    let accounts = &app.write.accounts;
    let done = accounts
        .change_persona(user.account.user, persona, context)
        .await?;
    Ok(Written(PersonaAnswer { text }, done.position))
}
