//! Master keys, on the socket only: nobody but the operator at the machine reaches it.

use actix_web::{HttpResponse, web::Data};
use genie_events::Refusal;
use serde_json::json;

use crate::{
    app::App,
    http::{body::Body, error::ApiError, response},
    keys::server::perform,
    socket::requests::KeyRequest,
};

/// `POST /keys` on the socket. The answer gives the reason of a refusal, because the operator needs it.
pub async fn ask(app: Data<App>, Body(asked): Body<KeyRequest>) -> Result<HttpResponse, ApiError> {
    match perform(&app.log, Some(&app.ring), asked).await {
        Ok(done) => Ok(response::ok(json!({"data": done}))),
        Err(reason) => Err(Refusal::conflict("keys_refused", reason).into()),
    }
}
