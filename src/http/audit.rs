//! Proofs (docs/api.md, Audit and proofs): a fact stands in the log under a signed head, and the log only grew.

use actix_web::web::Data;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::{
    app::App,
    audit::proof::ProofAnswer,
    http::{
        caller::{Operator, ReadsAudit},
        error::ApiError,
        input::Query,
        response::{self, Answer},
    },
};

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ProofQuery {
    /// A `Genie-Position`, or the number that `genie audit` shows.
    #[param(example = "cDI6MC4xMg")]
    position: String,
    /// Also prove that the log only grew since it had this many facts: the size of a head that was kept.
    #[param(minimum = 1)]
    from: Option<u64>,
}

impl ProofQuery {
    /// Reads a `Genie-Position`, or the plain number that `genie audit` shows.
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
    Query(query): Query<ProofQuery>,
) -> Result<Answer<ProofAnswer>, ApiError> {
    let proof = app
        .log
        .proofs()
        .prove(query.position()?, query.from)
        .await?;
    Ok(Answer(ProofAnswer::from(&proof)))
}
