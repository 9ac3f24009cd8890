//! All routes, and what every request passes through.

use actix_cors::Cors;
use actix_web::{
    App as ActixApp, Error,
    body::MessageBody,
    dev::{ServiceFactory, ServiceRequest, ServiceResponse},
    middleware::from_fn,
    web::{self, delete, get, patch, post},
};

use crate::app::App;

/// Who is let in: rates and the size of headers.
pub mod admission;
/// Bodies: JSON, within a limit, with sentences that name the field.
mod body;
/// Who is calling.
mod caller;
/// All status codes.
mod error;
/// Commands that may be sent again.
mod idempotency;
/// Reads wait for what their caller wrote.
mod read_your_writes;
/// Request ids, logging, security headers.
mod request;
/// What a success looks like; positions and cursors.
pub mod response;
/// Roles that somebody asks for.
mod roles;
/// Server-sent events.
mod sse;

/// `/api/me/export`.
pub mod account_export;
/// `/api/me/sessions`, `/api/rbac-sync`, `/api/admin/users/*`.
mod accounts;
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
/// `/api/onboarding/*`.
mod onboarding;
/// `/api/openapi.json`.
mod openapi;
/// A password asked for once more.
mod password_check;
/// `/api/admin/service-keys`.
mod service_keys;
/// `/api/usage`, `/api/usage/increment`.
mod usage;
/// `/api/worker/*`.
mod workers;

/// The whole service.
pub fn service(
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
    let cors = cors(&app.config.cors_origins);
    let with_directus = app.directus.is_some();
    ActixApp::new()
        .app_data(app)
        .app_data(web::QueryConfig::default().error_handler(error::bad_query))
        .configure(|config| {
            if with_directus {
                directus::routes(config); // before the same routes of the built-in identity, which are never reached then
            }
        })
        .configure(routes)
        .default_service(web::to(error::no_such_route))
        .wrap(from_fn(admission::admit))
        .wrap(cors)
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

fn routes(routes: &mut web::ServiceConfig) {
    routes
        .route("/auth/login", post().to(identity::log_in))
        .route("/auth/refresh", post().to(identity::refresh))
        .route("/auth/logout", post().to(identity::log_out))
        .route("/auth/password/reset", post().to(identity::reset_password))
        .route("/users/me", get().to(identity::show_me))
        .route("/users/me", patch().to(identity::change_me))
        .route(
            "/users/me/tfa/generate",
            post().to(identity::two_factor::generate),
        )
        .route(
            "/users/me/tfa/enable",
            post().to(identity::two_factor::enable),
        )
        .route(
            "/users/me/tfa/disable",
            post().to(identity::two_factor::disable),
        )
        .route(
            "/users/{id}/tfa/disable",
            post().to(identity::two_factor::remove),
        )
        .route("/api/register", post().to(identity::register))
        .route("/api/me", delete().to(forgetting::forget_me))
        .route("/api/me/sessions", get().to(accounts::sessions))
        .route("/api/me/sessions", delete().to(accounts::end_sessions))
        .route("/api/me/sessions/{id}", delete().to(accounts::end_session))
        .route("/api/me/export", get().to(account_export::without_secrets))
        .route("/api/me/export", post().to(account_export::with_secrets))
        .route("/api/rbac-sync", post().to(accounts::sync))
        .route(
            "/api/admin/users/{id}/password-reset",
            post().to(accounts::offer_reset),
        )
        .route(
            "/api/admin/users/{id}/forget",
            post().to(forgetting::forget_user),
        )
        .route(
            "/api/admin/users/{id}/forget",
            delete().to(forgetting::keep_user),
        )
        .route(
            "/api/admin/users/{id}/forgotten",
            get().to(forgetting::show),
        )
        .route("/api/admin/invites", post().to(invites::create))
        .route("/api/admin/invites", get().to(invites::list))
        .route("/api/admin/invites/{code}", delete().to(invites::revoke))
        .route("/api/admin/service-keys", post().to(service_keys::create))
        .route("/api/admin/service-keys", get().to(service_keys::list))
        .route(
            "/api/admin/service-keys/{id}",
            delete().to(service_keys::revoke),
        )
        .route(
            "/api/admin/users/{id}/impersonate",
            post().to(impersonation::begin),
        )
        .route(
            "/api/admin/impersonations/{session}",
            delete().to(impersonation::end),
        )
        .route("/api/admin/audit/proof", get().to(audit::show_proof))
        .route("/api/onboarding/state", get().to(onboarding::show_state))
        .route("/api/onboarding/state", patch().to(onboarding::advance))
        .route("/api/onboarding/zip-upload", post().to(onboarding::upload))
        .route("/api/files/{id}", get().to(files::download))
        .route(
            "/api/credentials/create-profile",
            post().to(credentials::create_profile),
        )
        .route(
            "/api/credentials/update-profile-creds",
            post().to(credentials::update_profile),
        )
        .route("/api/credentials/store", post().to(credentials::store))
        .route(
            "/api/credentials/reveal",
            post().to(credentials::reveal::profile),
        )
        .route(
            "/api/credentials/download-cred",
            post().to(credentials::download::store),
        )
        .route(
            "/api/credentials/reveal-download-cred",
            post().to(credentials::reveal::download),
        )
        .route(
            "/api/credentials/platform-session",
            post().to(credentials::session::store),
        )
        .route(
            "/api/credentials/get-platform-session",
            post().to(credentials::reveal::session),
        )
        .route("/api/credentials", get().to(credentials::list))
        .route(
            "/api/credentials/reveals",
            get().to(credentials::history::reveals),
        )
        .route(
            "/api/credentials/{id}/history",
            get().to(credentials::history::of_one),
        )
        .route("/api/credentials/{id}", get().to(credentials::show))
        .route("/api/credentials/{id}", delete().to(credentials::remove))
        .route("/api/queue/stats", get().to(jobs::stats))
        .route("/api/queue/media", post().to(jobs::submit))
        .route("/api/queue/retry/{id}", post().to(jobs::retry))
        .route("/api/queue/cancel/{id}", post().to(jobs::cancel))
        .route("/api/jobs", get().to(jobs::list))
        .route("/api/jobs/{id}", get().to(jobs::show))
        .route("/api/worker/claim", post().to(workers::claim))
        .route(
            "/api/worker/jobs/{id}/heartbeat",
            post().to(workers::heartbeat),
        )
        .route(
            "/api/worker/jobs/{id}/complete",
            post().to(workers::complete),
        )
        .route("/api/worker/jobs/{id}/fail", post().to(workers::fail))
        .route("/api/captions/generate", post().to(captions::generate))
        .route("/api/captions", get().to(captions::list))
        .route("/api/genie/stream-chat", post().to(chats::ask))
        .route("/api/genie/turns/{turn}/stream", get().to(chats::resume))
        .route("/api/genie/turns/{turn}", delete().to(chats::stop))
        .route("/api/genie/sessions", get().to(chats::sessions))
        .route(
            "/api/genie/sessions/{session}/messages",
            get().to(chats::messages),
        )
        .route("/api/usage", get().to(usage::show))
        .route("/api/usage/increment", post().to(usage::increment))
        .route("/api/events", get().to(events::all))
        .route("/api/me/events", get().to(events::mine))
        .route("/healthz", get().to(health::alive))
        .route("/readyz", get().to(health::ready))
        .route("/api/openapi.json", get().to(openapi::document));
}

fn cors(origins: &[String]) -> Cors {
    let exposed = [
        "Genie-Position",
        "Genie-Turn",
        "X-Request-Id",
        "Retry-After",
        "RateLimit",
        "RateLimit-Policy",
    ];
    let cors = Cors::default()
        .allow_any_method()
        .allow_any_header()
        .expose_headers(exposed)
        .max_age(3600);
    match origins {
        [any] if any == "*" => cors.allow_any_origin(),
        some => some
            .iter()
            .fold(cors, |cors, origin| cors.allowed_origin(origin)),
    }
}
