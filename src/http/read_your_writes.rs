//! Reads wait for their caller's writes. With `Genie-Min-Position` a read must reach that position, or it is refused.
//! Without the header a read waits a moment for what this node wrote last for the caller. So clients that know
//! nothing of positions read their own writes.

use std::{
    convert::Infallible,
    future::{Ready, ready},
};

use actix_web::{FromRequest, HttpRequest, dev::Payload};
use genie_events::UserId;
use genie_log::LogError;
use genie_projections::ReadError;
use tokio::time::timeout;

use crate::{
    app::App,
    http::{error::ApiError, response},
};

const HEADER: &str = "Genie-Min-Position";

pub struct MinPosition(HttpRequest);

impl FromRequest for MinPosition {
    type Error = Infallible;
    type Future = Ready<Result<Self, Infallible>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(Self(request.clone())))
    }
}

impl MinPosition {
    /// The position that the header asks for.
    pub fn asked(&self) -> Result<Option<u64>, ApiError> {
        let Some(asked) = self.0.headers().get(HEADER) else {
            return Ok(None);
        };
        let asked = asked
            .to_str()
            .map_err(|_| ApiError::field("`Genie-Min-Position` must be a `Genie-Position`"))?;
        response::position(asked).map(Some)
    }

    /// Call this before a read of the log itself.
    pub async fn wait_for_log(&self, app: &App) -> Result<(), ApiError> {
        let Some(wanted) = self.asked()? else {
            return Ok(());
        };
        let mut head = app.log.reader().watch_head();
        match timeout(app.config.read_wait, head.wait_for(|at| *at >= wanted)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(ReadError::Behind {
                at: app.log.reader().head(),
                wanted,
            }
            .into()),
        }
    }

    /// Call this before a read of a projection that belongs to no user: an administrator's list, which must show what
    /// an administrator did last.
    pub async fn wait_for_all(&self, app: &App, projection: &'static str) -> Result<(), ApiError> {
        if self.asked()?.is_some() {
            return self.wait(app, projection, None).await;
        }
        let _ = app
            .reads
            .wait_briefly(
                &[projection],
                app.log.reader().head(),
                app.config.own_writes_wait,
            )
            .await; // not reached: the list is a little old
        Ok(())
    }

    /// Call this before a read of this projection.
    pub async fn wait(
        &self,
        app: &App,
        projection: &'static str,
        user: Option<UserId>,
    ) -> Result<(), ApiError> {
        self.wait_for_each(app, &[projection], user).await
    }

    /// Call this before a read of several projections.
    pub async fn wait_for_each(
        &self,
        app: &App,
        projections: &[&'static str],
        user: Option<UserId>,
    ) -> Result<(), ApiError> {
        if let Some(wanted) = self.asked()? {
            return Ok(app
                .reads
                .wait_for_each(projections, wanted, app.config.read_wait)
                .await?);
        }
        match user {
            Some(user) => wait_for_own(app, projections, user).await,
            None => Ok(()),
        }
    }
}

/// Waits a moment for what the user last wrote on this server.
pub async fn wait_for_own(
    app: &App,
    projections: &[&'static str],
    user: UserId,
) -> Result<(), ApiError> {
    let written = last_written(app, projections, user).await?;
    // Not reached: the read is a little old, which a caller without the header accepts.
    let _ = app
        .reads
        .wait_briefly(projections, written, app.config.own_writes_wait)
        .await;
    Ok(())
}

/// The position of the user's last write, or an earlier one that these projections have reached. Writes before the
/// start of this process are looked up while the projections are behind them. So nobody waits for what others wrote.
async fn last_written(
    app: &App,
    projections: &[&'static str],
    user: UserId,
) -> Result<u64, LogError> {
    if let Some(written) = app.write.users.last_written(user) {
        return Ok(written);
    }
    let at_start = app.head_at_start;
    if app.reads.have_announced(projections, at_start) {
        return Ok(at_start);
    }
    let last = app.log.lookups().last_position_of(user).await?;
    Ok(last.min(at_start))
}
