//! Reads wait for what their caller wrote: for the position in `Genie-Min-Position`, which must be reached or the read is
//! refused; and, without any header, for what was last written for the caller on this node, for a moment only, so that clients
//! which know nothing of positions read what they wrote.

use actix_web::HttpRequest;
use genie_events::UserId;
use genie_projections::ReadError;
use tokio::time::timeout;

use crate::{
    app::App,
    http::{error::ApiError, response},
};

const HEADER: &str = "Genie-Min-Position";
/// To be called before a read of the log itself.
pub async fn wait_for_log(app: &App, request: &HttpRequest) -> Result<(), ApiError> {
    let Some(wanted) = asked(request)? else {
        return Ok(());
    };
    let mut head = app.log.watch_head();
    match timeout(app.config.read_wait, head.wait_for(|at| *at >= wanted)).await {
        Ok(Ok(_)) => Ok(()),
        _ => Err(ReadError::Behind {
            at: app.log.head(),
            wanted,
        }
        .into()),
    }
}

fn asked(request: &HttpRequest) -> Result<Option<u64>, ApiError> {
    let Some(asked) = request.headers().get(HEADER) else {
        return Ok(None);
    };
    let asked = asked
        .to_str()
        .map_err(|_| ApiError::field("`Genie-Min-Position` must be a `Genie-Position`"))?;
    response::position(asked).map(Some)
}

/// To be called before a read of that projection that is of nobody in particular: an administrator's list, which is to show what
/// an administrator did last.
pub async fn wait_for_all(
    app: &App,
    request: &HttpRequest,
    projection: &'static str,
) -> Result<(), ApiError> {
    if asked(request)?.is_some() {
        return wait(app, request, projection, None).await;
    }
    let _ = app
        .reads
        .wait_for(projection, app.log.head(), app.config.own_writes_wait)
        .await; // not reached: the list is a little old
    Ok(())
}

/// To be called before a read of that projection.
pub async fn wait(
    app: &App,
    request: &HttpRequest,
    projection: &'static str,
    user: Option<UserId>,
) -> Result<(), ApiError> {
    if let Some(wanted) = asked(request)? {
        return Ok(app
            .reads
            .wait_for(projection, wanted, app.config.read_wait)
            .await?);
    }
    if let Some(user) = user {
        // Of what was written before this process began nothing is known: perhaps the caller did, a moment ago.
        let written = app
            .write
            .users
            .last_written(user)
            .unwrap_or(app.head_at_start);
        // Not reached: the read is a little old, which a caller without the header accepts.
        let _ = app
            .reads
            .wait_for(projection, written, app.config.own_writes_wait)
            .await;
    }
    Ok(())
}
