//! Liveness, and readiness with the state of each part: the store, the projections, the tree over the log, the model
//! server.

use std::{collections::BTreeMap, convert::Infallible};

use actix_web::{FromRequest, HttpRequest, HttpResponse, Responder, body::BoxBody, web::Data};
use genie_log::{head_signer::HeadSignerState, health::Trouble};
use genie_media::worker::WorkerStatus;
use genie_projections::progress::ProjectionStatus;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    app::App,
    http::{
        admission::shows_credentials,
        caller::{Operator, ReadsAudit},
        error::FailureBody,
        recent::Recent,
        response::Answer,
        words::{self, Time},
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

// The fields of all parts are sorted by name, as in [`Probe`].
#[derive(Clone, Serialize, ToSchema)]
pub struct Readiness {
    board: BoardHealth,
    /// The Directus that is the identity; null without one. genie is ready while it is away, too.
    #[schema(required)]
    directus: Option<DirectusHealth>,
    /// The leader, which runs timers and projections for all servers. Null while none is elected, which takes
    /// seconds.
    #[schema(required)]
    elected: Option<Leader>,
    /// Users whose state is in memory.
    live_users: usize,
    log: LogHealth,
    /// The id of a master key that other servers wrap by and this server lacks. Null when all is well.
    #[schema(required)]
    missing_master_key: Option<String>,
    /// The models that this server asks, by name. Empty while the model server is away.
    #[schema(value_type = BTreeMap<String, words::ModelState>)]
    models: BTreeMap<String, &'static str>,
    /// The model server.
    #[schema(value_type = words::PartState)]
    ollama: &'static str,
    /// By name.
    projections: BTreeMap<&'static str, ProjectionHealth>,
    ready: bool,
    /// The head signer: the Merkle tree over the log and its signed heads. When it stopped, that is an alarm, but
    /// genie stays ready.
    sealing: SealingHealth,
    /// The state of the store's writes.
    #[schema(value_type = words::StoreState)]
    store: &'static str,
    /// The media worker beside this server; null without one. Workers elsewhere are not known here.
    #[schema(required)]
    worker: Option<WorkerHealth>,
}

/// The job board. genie is ready without it: jobs are accepted, and other servers hand them out.
#[derive(Clone, Serialize, ToSchema)]
struct BoardHealth {
    #[schema(value_type = words::BoardState)]
    state: &'static str,
    /// The number of jobs that a worker may claim now.
    waiting: usize,
}

/// The media worker of `genie serve --with-worker`. genie is ready without it: jobs wait.
#[derive(Clone, Serialize, ToSchema)]
struct WorkerHealth {
    /// Programs that this machine lacks. Each takes operations with it.
    missing_programs: Vec<&'static str>,
    /// The operations that it asks for.
    operations: Vec<&'static str>,
    /// The number of jobs that it works on.
    running: usize,
    /// How far it can confine the programs that touch users' files.
    #[schema(value_type = words::SandboxWord)]
    sandbox: &'static str,
    /// What the sandbox lacks to be full.
    sandbox_lacks: Vec<String>,
    /// `away`: its last claim was not answered.
    #[schema(value_type = words::PartState)]
    state: &'static str,
}

#[derive(Clone, Serialize, ToSchema)]
struct LogHealth {
    /// The last known position.
    head: u64,
    /// The first missing position: rows were removed, or the store was restored badly.
    #[schema(required)]
    missing_position: Option<u64>,
}

#[derive(Clone, Serialize, ToSchema)]
struct Leader {
    /// Raised by each election.
    #[schema(value_type = u64, minimum = 1)]
    epoch: i64,
    /// True when it is the server that answers.
    here: bool,
    /// Its name, new with each start.
    node: String,
}

#[derive(Clone, Serialize, ToSchema)]
struct ProjectionHealth {
    /// The log positions of damaged events, as `genie audit` names them, at most 20.
    damaged_at: Vec<u64>,
    damaged_streams: u64,
    /// The number of facts that it has yet to read.
    lag: u64,
    #[schema(value_type = words::ProjectionState)]
    state: &'static str,
}

#[derive(Clone, Serialize, ToSchema)]
struct SealingHealth {
    /// The number of facts that the newest head covers which this server keeps outside of the store. Null: no place is
    /// configured, so whoever controls the store can change the past.
    #[schema(required)]
    kept_outside: Option<u64>,
    /// The number of facts that no signed head covers yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    lag: Option<u64>,
    /// The reason why it stopped, with the position if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<String>,
    /// The number of facts that the newest signed head covers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    signed: Option<u64>,
    #[schema(value_type = words::SealingState)]
    state: &'static str,
}

#[derive(Clone, Serialize, ToSchema)]
struct DirectusHealth {
    /// The state of the circuit breaker. `open`: Directus failed several times and is not asked for a while.
    circuit: CircuitHealth,
    /// The state of `DIRECTUS_SECRET`: whether Directus signs with it.
    secret: SecretHealth,
    /// `ok`: it answers.
    #[schema(value_type = words::PartState)]
    state: &'static str,
}

#[derive(Clone, Serialize, ToSchema)]
struct CircuitHealth {
    since: Time,
    #[schema(value_type = words::CircuitWord)]
    state: &'static str,
}

#[derive(Clone, Serialize, ToSchema)]
struct SecretHealth {
    #[schema(required)]
    since: Option<Time>,
    #[schema(value_type = words::DirectusSecretState)]
    state: &'static str,
}

/// What strangers are told.
#[derive(Serialize, ToSchema)]
pub struct ReadyOnly {
    ready: bool,
}

/// The answer of `/readyz`: 200 or 503, whole or for strangers.
pub struct Probe {
    readiness: Readiness,
    is_whole: bool,
}

impl Probe {
    fn fields(&self) -> serde_json::Result<Value> {
        if self.is_whole {
            return serde_json::to_value(&self.readiness);
        }
        serde_json::to_value(ReadyOnly {
            ready: self.readiness.ready,
        })
    }
}

impl Responder for Probe {
    type Body = BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        #[derive(Serialize)]
        struct Failed<'a> {
            #[serde(flatten)]
            failure: FailureBody<'a>,
            #[serde(flatten)]
            fields: Value,
        }
        let fields = self
            .fields()
            .expect("a struct with names for fields is JSON");
        if self.readiness.ready {
            return Answer(fields).respond_to(request);
        }
        let sentence = "The store takes no writes, a position is missing from the log, a projection has stopped, or a master key is missing; the fields say which to those who may see them";
        let failed = Failed {
            failure: FailureBody::new("not_ready", sentence.to_owned(), None),
            fields,
        };
        let sorted = serde_json::to_value(failed).expect("a struct with names for fields is JSON");
        HttpResponse::ServiceUnavailable().json(sorted)
    }
}

/// `GET /readyz`: 503 when the store takes no writes, the log has a hole, a projection stopped or a master key is
/// missing. genie is ready without a model server. Strangers learn no more than that.
pub async fn ready(app: Data<App>, recent: Data<Recent<Readiness>>, request: HttpRequest) -> Probe {
    let is_whole = shows_credentials(request.headers())
        && Operator::<ReadsAudit>::extract(&request).await.is_ok();
    let Ok(readiness) = recent.get(0, readiness(&app)).await;
    Probe {
        readiness,
        is_whole,
    }
}

async fn readiness(app: &App) -> Result<Readiness, Infallible> {
    let (store, models, directus, statuses, elected) = tokio::join!(
        app.log.store().ping(),
        app.write.models(&app.config.chat_models),
        directus(app),
        app.reads.statuses(),
        leader(app)
    );
    let head = app.log.reader().head();
    let all_follow = statuses
        .as_ref()
        .is_ok_and(|all| all.values().all(|status| status.stopped.is_none()));
    let projections = statuses.unwrap_or_default().into_iter();
    let trouble = app
        .log
        .trouble()
        .or(store.is_err().then_some(Trouble::Away));
    let hole = app.log.reader().hole();
    let missing_master_key = app.log.keys().lacking_master();
    let is_ready =
        trouble.is_none() && hole.is_none() && all_follow && missing_master_key.is_none();
    Ok(Readiness {
        board: BoardHealth {
            state: app.write.jobs.state().as_str(),
            waiting: app.write.jobs.all_waiting(),
        },
        directus,
        elected,
        live_users: app.write.users.live_count(),
        log: LogHealth {
            head,
            missing_position: hole,
        },
        missing_master_key,
        ollama: state(models.is_ok()),
        models: models
            .into_iter()
            .flatten()
            .map(|(name, presence)| (name, presence.as_str()))
            .collect(),
        projections: projections
            .map(|(name, status)| (name, projection(head, status)))
            .collect(),
        ready: is_ready,
        sealing: sealing(app),
        store: trouble.map_or("ok", Trouble::as_str),
        worker: app.worker.report().map(worker),
    })
}

fn state(is_well: bool) -> &'static str {
    if is_well { "ok" } else { "away" }
}

fn worker(report: WorkerStatus) -> WorkerHealth {
    WorkerHealth {
        missing_programs: report.missing,
        operations: report.operations.into_iter().collect(),
        running: report.running,
        sandbox: report.sandbox.level.as_str(),
        sandbox_lacks: report.sandbox.missing,
        state: state(report.is_connected),
    }
}

async fn leader(app: &App) -> Option<Leader> {
    let elected = app.log.elections().elected().await.ok()??;
    Some(Leader {
        epoch: elected.epoch.number(),
        here: app.election.now() == Some(elected.epoch),
        node: elected.node,
    })
}

fn projection(head: u64, status: ProjectionStatus) -> ProjectionHealth {
    let state = match &status.stopped {
        Some(_) => "stopped",
        None if status.damaged_streams == 0 => "following",
        None => "left damaged streams behind",
    };
    ProjectionHealth {
        damaged_at: status.damaged_at,
        damaged_streams: status.damaged_streams,
        lag: head.saturating_sub(status.position),
        state,
    }
}

/// The state of Directus, where one is the identity. genie is ready without it: tokens that genie has seen still
/// serve.
async fn directus(app: &App) -> Option<DirectusHealth> {
    let directus = app.directus.as_ref()?;
    let (answers, (circuit, since)) = directus.state().await;
    let (secret, differs_since) = directus.secret_state();
    Some(DirectusHealth {
        circuit: CircuitHealth {
            since: since.into(),
            state: circuit,
        },
        secret: SecretHealth {
            since: differs_since.map(Time::from),
            state: secret,
        },
        state: state(answers),
    })
}

/// The state of the head signer. A stopped head signer is an alarm for the operator, but genie still keeps and serves facts.
fn sealing(app: &App) -> SealingHealth {
    let status = app.heads.sealing.status.borrow().clone();
    let lag = app.log.reader().head().saturating_sub(status.signed);
    let kept_outside = app.heads.kept_outside.as_ref().map(|kept| *kept.borrow());
    let (state, reason) = match status.state {
        HeadSignerState::Waiting => {
            return SealingHealth {
                kept_outside,
                lag: None,
                reason: None,
                signed: None,
                state: "on another node",
            };
        }
        HeadSignerState::Sealing => ("sealing", None),
        HeadSignerState::Stopped(reason) => ("stopped", Some(reason)),
    };
    SealingHealth {
        kept_outside,
        lag: Some(lag),
        reason,
        signed: Some(status.signed),
        state,
    }
}

#[cfg(test)]
mod tests {
    use actix_web::{body::to_bytes, test::TestRequest};
    use genie_events::Timestamp;

    use super::*;

    fn readiness() -> Readiness {
        let projection = ProjectionHealth {
            damaged_at: vec![7],
            damaged_streams: 1,
            lag: 2,
            state: "left damaged streams behind",
        };
        Readiness {
            board: BoardHealth {
                state: "ready",
                waiting: 2,
            },
            directus: Some(DirectusHealth {
                circuit: CircuitHealth {
                    since: Timestamp(0).into(),
                    state: "closed",
                },
                secret: SecretHealth {
                    since: None,
                    state: "unset",
                },
                state: "ok",
            }),
            elected: Some(Leader {
                epoch: 3,
                here: true,
                node: "n".into(),
            }),
            live_users: 4,
            log: LogHealth {
                head: 9,
                missing_position: None,
            },
            missing_master_key: None,
            models: BTreeMap::from([("m".into(), "on_disk")]),
            ollama: "away",
            projections: BTreeMap::from([("jobs", projection)]),
            ready: true,
            sealing: SealingHealth {
                kept_outside: None,
                lag: Some(1),
                reason: Some("r".into()),
                signed: Some(8),
                state: "stopped",
            },
            store: "ok",
            worker: Some(WorkerHealth {
                missing_programs: vec!["yt-dlp"],
                operations: vec!["onboarding_import"],
                running: 1,
                sandbox: "partial",
                sandbox_lacks: vec!["rules".into()],
                state: "ok",
            }),
        }
    }

    async fn bytes(answer: impl Responder<Body = BoxBody>) -> String {
        let response = answer.respond_to(&TestRequest::default().to_http_request());
        let bytes = to_bytes(response.into_body()).await.unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn readiness_has_these_bytes() {
        let fields_before_log = concat!(
            r#""elected":{"epoch":3,"here":true,"node":"n"},"#,
            r#""live_users":4,"log":{"head":9,"missing_position":null},"missing_master_key":null,"#,
            r#""models":{"m":"on_disk"}"#
        );
        let board = r#""board":{"state":"ready","waiting":2}"#;
        let directus = r#""directus":{"circuit":{"since":"1970-01-01T00:00:00.000Z","state":"closed"},"secret":{"since":null,"state":"unset"},"state":"ok"}"#;
        let projections = r#""projections":{"jobs":{"damaged_at":[7],"damaged_streams":1,"lag":2,"state":"left damaged streams behind"}},"ready":true"#;
        let sealing = r#""sealing":{"kept_outside":null,"lag":1,"reason":"r","signed":8,"state":"stopped"},"store":"ok""#;
        let worker = r#""worker":{"missing_programs":["yt-dlp"],"operations":["onboarding_import"],"running":1,"sandbox":"partial","sandbox_lacks":["rules"],"state":"ok"}"#;
        let probe = |ready, is_whole| Probe {
            readiness: Readiness {
                ready,
                ..readiness()
            },
            is_whole,
        };
        assert_eq!(
            bytes(probe(true, true)).await,
            format!(
                r#"{{"ok":true,"success":true,{board},{directus},{fields_before_log},"ollama":"away",{projections},{sealing},{worker}}}"#
            )
        );
        let sorted = bytes(probe(false, true)).await;
        let (begin, end) = sorted
            .split_once(r#","error":"The store takes no writes, "#)
            .unwrap();
        assert_eq!(
            begin,
            format!(
                r#"{{{board},"code":"not_ready",{directus},"elected":{{"epoch":3,"here":true,"node":"n"}}"#
            )
        );
        assert!(
            end.contains(r#""models":{"m":"on_disk"},"ok":false,"ollama":"away","#),
            "{end}"
        );
        assert!(end.contains(r#""request_id":"","sealing":"#), "{end}");
        let last = format!(r#""store":"ok","success":false,{worker}}}"#);
        assert!(end.ends_with(&last), "{end}");
        assert_eq!(
            bytes(probe(true, false)).await,
            r#"{"ok":true,"success":true,"ready":true}"#
        );
        let told: Value = serde_json::from_str(&bytes(probe(false, false)).await).unwrap();
        let names: Vec<_> = told.as_object().unwrap().keys().collect();
        assert_eq!(
            names,
            ["code", "error", "ok", "ready", "request_id", "success"]
        );
    }
}
