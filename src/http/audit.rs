//! Proofs (contract, section 9): that a fact stands in the log under a signed head, and that the log only grew.

use actix_web::{
    HttpResponse,
    web::{Data, Query},
};
use serde::Deserialize;

use crate::{
    app::App,
    audit::proof,
    http::{
        caller::{Operator, ReadsAudit},
        error::ApiError,
        response,
    },
};

#[derive(Debug, Deserialize)]
pub struct ProofQuery {
    position: String,
    from: Option<u64>,
}

impl ProofQuery {
    /// As the server answered it in `Genie-Position`, or the plain number that `genie audit` shows.
    fn position(&self) -> Result<u64, ApiError> {
        self.position
            .parse()
            .or_else(|_| response::position(&self.position))
    }
}

/// `GET /api/admin/audit/proof`
pub async fn show_proof(
    app: Data<App>,
    _: Operator<ReadsAudit>,
    query: Query<ProofQuery>,
) -> Result<HttpResponse, ApiError> {
    let proof = app.log.prove(query.position()?, query.from).await?;
    Ok(response::ok(proof::json(&proof)))
}
