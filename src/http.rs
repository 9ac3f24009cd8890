//! The HTTP services: all routes, and what every request passes through.

use std::time::Duration;

use actix_web::{
    App as ActixApp, Error,
    body::MessageBody,
    dev::{ServiceFactory, ServiceRequest, ServiceResponse},
    middleware::from_fn,
    web::{self, post},
};

use genie_log::long_pages;

use crate::app::App;

/// Who may call a route.
pub mod access;
/// Who is let in: rates and the size of headers.
pub mod admission;
/// The bodies of answers, on their way out.
mod answer_body;
/// Bodies: JSON and forms, within limits.
mod body;
/// Who is calling.
mod caller;
/// Which pages in browsers may call.
mod cors;
/// All status codes.
mod error;
/// The job that a worker says it holds.
mod held_job;
/// Commands that may be sent again.
mod idempotency;
/// What clients send, read by one reader.
mod input;
/// Reads wait for what their caller wrote.
mod read_your_writes;
/// Answers that everybody may share for a moment.
mod recent;
/// Request ids, logging, security headers.
mod request;
/// What a success looks like; positions and cursors.
pub mod response;
/// Roles that somebody asks for.
mod roles;
/// What applies to a route beside its handler.
mod route_rules;
/// Every route, one a row.
pub mod routes;
/// Server-sent events.
mod sse;
/// Tickets that open streams for browsers.
mod stream_ticket;

/// `/api/me/export`.
pub mod account_export;
/// `/api/me/sessions`, `/api/rbac-sync`, `/api/admin/users/*`.
mod accounts;
/// `/api/genie/agui`: AG-UI's dialect of a chat's turn.
mod agui;
/// `/api/me/keys`.
mod api_keys;
/// `/api/admin/audit/*`.
mod audit;
/// `/api/captions/*`.
mod captions;
/// `/api/genie/*`.
mod chats;
/// Credentials of the original, by the socket.
mod credential_import;
/// `/api/credentials/*`.
mod credentials;
/// `/auth/*`, `/users/me`, `/api/register` where a Directus says who is who.
mod directus;
/// `/api/events`, `/api/me/events`.
mod events;
/// `/api/files/*`.
mod files;
/// `DELETE /api/me`, `/api/admin/users/{id}/forget`, and forgetting by the socket.
pub mod forgetting;
/// `/healthz`, `/readyz`.
mod health;
/// `/auth/*`, `/users/me`, `/api/register`.
mod identity;
/// `/api/admin/users/{id}/impersonate`, `/api/admin/impersonations/*`.
mod impersonation;
/// `/api/admin/invites`, and invites by the socket.
pub mod invites;
/// `/api/queue/*`, `/api/jobs/*`.
mod jobs;
/// Master keys, by the socket.
mod keys;
/// `/api/media/verify-mark`.
mod marks;
/// `/mcp`.
mod mcp;
/// `/api/onboarding/*`.
mod onboarding;
/// `/v1/*`: OpenAI's dialect of a chat's turn.
mod openai;
/// `/api/openapi.json`.
mod openapi;
/// `/` and `/docs`.
mod pages;
/// A password asked for once more.
mod password_check;
/// `/api/me/persona`.
mod persona;
/// `/api/admin/service-keys`.
mod service_keys;
/// `/api/skills/*`.
mod skills;
/// What programs and models may do for a user, by name.
pub mod tools;
/// `/api/usage`, `/api/usage/increment`.
mod usage;
/// Lists of words, for the published document.
mod words;
/// `/api/worker/*`.
mod workers;

use recent::Recent;

/// The answers that all threads of a server share.
#[derive(Clone)]
pub struct RecentAnswers {
    readiness: Recent<health::Readiness>,
    queue_stats: Recent<jobs::QueueStatsAnswer>,
}

impl RecentAnswers {
    /// `age` is how old an answer may be.
    pub fn new(age: Duration) -> Self {
        Self {
            readiness: Recent::new(age),
            queue_stats: Recent::new(age),
        }
    }
}

/// The whole service.
pub fn service(
    app: web::Data<App>,
    recent: RecentAnswers,
) -> ActixApp<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<impl MessageBody>,
        Error = Error,
        InitError = (),
    >,
> {
    let cors = cors::cors(app.config.cors_origins.clone());
    let has_directus = app.directus.is_some();
    ActixApp::new()
        .app_data(app)
        .app_data(web::Data::new(recent.readiness))
        .app_data(web::Data::new(recent.queue_stats))
        .app_data(web::Data::new(routes::rules()))
        .configure(|config| routes::register(config, has_directus))
        .default_service(web::to(error::no_such_route))
        .wrap(from_fn(admission::admit))
        .wrap(cors)
        .wrap(from_fn(cors::tell_refusals))
        .wrap(from_fn(request::pass))
}

/// What the command line may ask of a running server, by its socket: who reaches that is the operator at the machine. None of it
/// is on the port, nor in the published document.
pub fn operator_service(
    app: web::Data<App>,
) -> ActixApp<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<impl MessageBody>,
        Error = Error,
        InitError = (),
    >,
> {
    ActixApp::new()
        .app_data(app)
        .service(web::resource("/invites").route(post().to(invites::create_as_operator)))
        .service(
            web::resource("/credentials/import").route(post().to(credential_import::credentials)),
        )
        .service(web::resource("/keys").route(post().to(keys::ask)))
        .service(web::resource("/forget").route(post().to(forgetting::forget_as_operator)))
        .service(web::resource("/restore-check").route(post().to(forgetting::check_restored)))
        .default_service(web::to(error::no_such_route))
        .wrap(from_fn(request::pass))
}
