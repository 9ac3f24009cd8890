//! The job that a worker says it holds. Files are opened, and credentials revealed, for the work of that job alone.

use std::{
    convert::Infallible,
    future::{Ready, ready},
};

use actix_web::{FromRequest, HttpRequest, dev::Payload};
use genie_actors::jobs::HeldJob;
use genie_events::JobId;

use crate::{
    app::App,
    http::{error::ApiError, jobs::job_id, workers},
};

const JOB: &str = "Genie-Job";
const LEASE: &str = "Genie-Lease";

/// The headers `Genie-Job` and `Genie-Lease` of a request.
pub struct LeaseHeaders(HttpRequest);

/// A job, and the lease by which a worker says that it holds the job.
pub struct ShownLease {
    pub job: JobId,
    /// In the clear.
    pub lease: String,
}

impl FromRequest for LeaseHeaders {
    type Error = Infallible;
    type Future = Ready<Result<Self, Infallible>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(Self(request.clone())))
    }
}

impl LeaseHeaders {
    /// The job and its lease; `None` when the request has neither header.
    pub fn shown(&self) -> Result<Option<ShownLease>, ApiError> {
        match (self.header(JOB)?, self.header(LEASE)?) {
            (Some(job), Some(lease)) => Ok(Some(ShownLease {
                job: job_id(job)?,
                lease: lease.to_owned(),
            })),
            (None, None) => Ok(None),
            (Some(_), None) => Err(missing(LEASE)),
            (None, Some(_)) => Err(missing(JOB)),
        }
    }

    fn header(&self, name: &str) -> Result<Option<&str>, ApiError> {
        let mut values = self.0.headers().get_all(name);
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => value
                .to_str()
                .map(Some)
                .map_err(|_| ApiError::field(format!("`{name}` must be visible ASCII"))),
            (Some(_), Some(_)) => Err(ApiError::field(format!("`{name}` may be there once"))),
        }
    }
}

fn missing(header: &str) -> ApiError {
    ApiError::field(format!(
        "`{header}` is missing; send `{JOB}` and `{LEASE}` together"
    ))
}

impl ShownLease {
    /// The job, if the lease is its present one.
    pub async fn held(&self, app: &App) -> Result<HeldJob, ApiError> {
        if let Some(held) = app.write.jobs.held(self.job, &self.lease).await? {
            return Ok(held);
        }
        workers::owner(app, &self.job).await?; // An unknown job is 404.
        Err(workers::stale_lease())
    }
}
