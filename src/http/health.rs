//! Liveness, and readiness with the state of each part: the store, the projections, the tree over the log, the model
//! server.

use std::collections::BTreeMap;

use actix_web::{HttpResponse, web::Data};
use genie_events::Timestamp;
use genie_log::{head_signer::HeadSignerState, health::Trouble};
use genie_projections::progress::ProjectionStatus;
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::{
    app::App,
    http::{
        request,
        response::{self, Answer},
    },
};

/// `GET /healthz`
pub async fn alive() -> Answer<Liveness> {
    Answer(Liveness { status: "alive" })
}

#[derive(Serialize, ToSchema)]
pub struct Liveness {
    /// Always `alive`.
    status: &'static str,
}

/// `GET /readyz`: 503 when the store takes no writes, the log has a hole, a projection stopped or a master key is
/// missing. genie is ready without a model server.
pub async fn ready(app: Data<App>) -> HttpResponse {
    let elections = app.log.elections();
    let (store, model, directus, statuses, elected) = tokio::join!(
        app.log.store().ping(),
        app.write.ping_model(),
        directus(&app),
        app.reads.statuses(),
        elections.elected()
    );
    let head = app.log.reader().head();
    let all_follow = statuses
        .as_ref()
        .is_ok_and(|all| all.values().all(|status| status.stopped.is_none()));
    let projections = projections(head, statuses.unwrap_or_default());
    let elected = elected.ok().flatten().map(|elected| {
        let here = app.election.now() == Some(elected.epoch);
        json!({"node": elected.node, "epoch": elected.epoch.number(), "here": here})
    });
    let trouble = app
        .log
        .trouble()
        .or(store.is_err().then_some(Trouble::Away));
    let hole = app.log.reader().hole();
    let missing_master_key = app.log.keys().lacking_master();
    let is_ready =
        trouble.is_none() && hole.is_none() && all_follow && missing_master_key.is_none();
    let state = |is_well: bool| if is_well { "ok" } else { "away" };
    let fields = json!({
        "ready": is_ready,
        "store": trouble.map_or("ok", Trouble::as_str),
        "log": {"head": head, "missing_position": hole},
        "missing_master_key": missing_master_key,
        "projections": projections,
        "elected": elected,
        "sealing": sealing(&app),
        "ollama": state(model.is_ok()),
        "directus": directus,
        "live_users": app.write.users.live_count(),
    });
    if is_ready {
        return response::ok(fields);
    }
    let failure = json!({
        "ok": false, "success": false, "code": "not_ready", "request_id": request::current_id(),
        "error": "The store takes no writes, a position is missing from the log, a projection has stopped, or a master key is missing; the fields say which",
    });
    let mut all = failure.as_object().cloned().unwrap_or_default();
    all.extend(fields.as_object().cloned().unwrap_or_default());
    HttpResponse::ServiceUnavailable().json(all)
}

fn projections(
    head: u64,
    statuses: BTreeMap<&'static str, ProjectionStatus>,
) -> Map<String, Value> {
    let fields = |status: ProjectionStatus| {
        let state = match &status.stopped {
            Some(_) => "stopped",
            None if status.damaged_streams == 0 => "following",
            None => "left damaged streams behind",
        };
        json!({
            "state": state, "lag": head.saturating_sub(status.position),
            "damaged_streams": status.damaged_streams, "damaged_at": status.damaged_at,
        })
    };
    statuses
        .into_iter()
        .map(|(name, status)| (name.to_owned(), fields(status)))
        .collect()
}

/// The state of Directus, where one is the identity. genie is ready without it: tokens that genie has seen still
/// serve.
async fn directus(app: &App) -> Value {
    let Some(directus) = &app.directus else {
        return Value::Null;
    };
    let (answers, (circuit, since)) = directus.state().await;
    let (secret, differs_since) = directus.secret_state();
    json!({
        "state": if answers { "ok" } else { "away" },
        "circuit": {"state": circuit, "since": since.rfc3339()},
        "secret": {"state": secret, "since": differs_since.map(Timestamp::rfc3339)},
    })
}

/// The state of the head signer. A stopped head signer is an alarm for the operator, but genie still keeps and serves facts.
fn sealing(app: &App) -> Value {
    let status = app.sealing.status.borrow().clone();
    let lag = app.log.reader().head().saturating_sub(status.signed);
    match status.state {
        HeadSignerState::Waiting => json!({"state": "on another node"}),
        HeadSignerState::Sealing => {
            json!({"state": "sealing", "signed": status.signed, "lag": lag})
        }
        HeadSignerState::Stopped(reason) => {
            json!({"state": "stopped", "signed": status.signed, "lag": lag, "reason": reason})
        }
    }
}
