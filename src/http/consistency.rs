//! Reads wait for what their caller wrote: for the position in `Genie-Min-Position`, which must be reached or the read is
//! refused; and, without any header, for what was last written for the caller on this node, for a moment only, so that clients
//! which know nothing of positions read what they wrote.

use std::time::Duration;

use actix_web::HttpRequest;
use genie_events::UserId;

use crate::{
    app::App,
    http::{answer, error::ApiError},
};

const HEADER: &str = "Genie-Min-Position";
/// How long a read without the header waits for its caller's own writes.
const OWN_WRITES: Duration = Duration::from_secs(1);

/// To be called before a read of that projection.
pub async fn wait(app: &App, request: &HttpRequest, projection: &'static str, user: Option<UserId>) -> Result<(), ApiError> {
    if let Some(asked) = request.headers().get(HEADER) {
        let asked = asked.to_str().map_err(|_| ApiError::field("`Genie-Min-Position` must be a `Genie-Position`"))?;
        return Ok(app.reads.wait_for(projection, answer::position(asked)?, app.config.read_wait).await?);
    }
    if let Some(written) = user.and_then(|user| app.write.users.last_written(user)) {
        // Not reached: the read is a little old, which a caller without the header accepts.
        let _ = app.reads.wait_for(projection, written, OWN_WRITES).await;
    }
    Ok(())
}
