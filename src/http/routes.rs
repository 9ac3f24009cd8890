//! Every route of the port, one a row: method, path, who may call it, and the handler. The router, the rates, the
//! shared secret and the published document all read this table, so a route is added here only.
//!
//! A row may end in notes:
//! - `.original()`: the original opened it to the shared secret, so a narrowed secret opens it too.
//! - `.uncounted()`: no rate applies.
//! - `.bulk()`: the body may be larger, because it holds many things.
//! - `.with_directus(handler)`: another handler when a Directus is the identity.
//! - `.not_with_directus()`: the route is absent when a Directus is the identity.
//! - `.api()`, `.chat()`, `.mcp()`: the scope with which a user's own key opens the route. Each route of `ActingUser` and
//!   `UserOrServer` has one; those of `User` are closed to keys.

use actix_web::{Handler, Route, http::Method, web};
use genie_events::api_key::ApiScope;
use tracing::{Instrument, Span, info_span, instrument::Instrumented};

#[cfg(test)]
use crate::http::openapi::describe::{self, Operation};
use crate::http::{
    access::RouteAccess,
    account_export, accounts, agui, api_keys, audit,
    caller::{NoScope, Opens, ReadsAudit, ReadsEvents, RevealsCredentials, WorksOnJobs},
    captions, chats, credentials, directus,
    error::no_such_route,
    events, files, forgetting, health, identity, impersonation, invites, jobs, marks, mcp,
    onboarding, openai, openapi, pages, persona,
    route_rules::{RouteRule, RouteRules},
    service_keys, skills, usage, workers,
};

pub struct Endpoint {
    pub method: Method,
    pub path: &'static str,
    pub access: RouteAccess,
    handler: RoutedHandler,
    with_directus: WithDirectus,
    is_original: bool,
    is_counted: bool,
    is_bulk: bool,
    own_key: Option<ApiScope>,
}

/// How a route differs when a Directus is the identity.
enum WithDirectus {
    Same,
    Another(RoutedHandler),
    Absent,
}

/// A handler as the router takes it.
struct RoutedHandler {
    register: fn(Route) -> Route,
    #[cfg(test)]
    path: &'static str,
    #[cfg(test)]
    describe: fn(&mut Operation),
}

/// A handler that runs in a span of its own.
#[derive(Clone)]
struct InSpan<F> {
    handler: F,
    span: fn() -> Span,
}

impl<F: Handler<Args>, Args> Handler<Args> for InSpan<F> {
    type Output = F::Output;
    type Future = Instrumented<F::Future>;

    fn call(&self, args: Args) -> Self::Future {
        self.handler.call(args).instrument((self.span)())
    }
}

macro_rules! handler {
    ($($part:ident)::+) => {
        RoutedHandler {
            register: |route| route.to(InSpan {
                handler: $($part)::+,
                span: || info_span!(concat!("http" $(, ".", stringify!($part))+)),
            }),
            #[cfg(test)]
            path: concat!($("::", stringify!($part)),+),
            #[cfg(test)]
            describe: |operation| describe::handler(&$($part)::+, operation),
        }
    };
}

macro_rules! routes {
    ($(
        $method:ident $path:literal $access:ident $(($opens:ident))?, $($handler:ident)::+
        $( . $note:ident ( $($($other:ident)::+)? ) )*;
    )+) => {
        &[ $(
            Endpoint::new(
                Method::$method,
                $path,
                RouteAccess::$access $((<$opens as Opens>::SCOPES))?,
                handler!($($handler)::+),
            ) $( .$note($(handler!($($other)::+))?) )*
        ),+ ]
    };
}

impl Endpoint {
    const fn new(
        method: Method,
        path: &'static str,
        access: RouteAccess,
        handler: RoutedHandler,
    ) -> Self {
        Self {
            method,
            path,
            access,
            handler,
            with_directus: WithDirectus::Same,
            is_original: false,
            is_counted: true,
            is_bulk: false,
            own_key: None,
        }
    }

    const fn original(mut self) -> Self {
        self.is_original = true;
        self
    }

    const fn uncounted(mut self) -> Self {
        self.is_counted = false;
        self
    }

    const fn bulk(mut self) -> Self {
        self.is_bulk = true;
        self
    }

    const fn api(self) -> Self {
        self.own_key(ApiScope::Api)
    }

    const fn chat(self) -> Self {
        self.own_key(ApiScope::Chat)
    }

    const fn mcp(self) -> Self {
        self.own_key(ApiScope::Mcp)
    }

    const fn own_key(mut self, scope: ApiScope) -> Self {
        self.own_key = Some(scope);
        self
    }

    const fn with_directus(mut self, handler: RoutedHandler) -> Self {
        self.with_directus = WithDirectus::Another(handler);
        self
    }

    const fn not_with_directus(mut self) -> Self {
        self.with_directus = WithDirectus::Absent;
        self
    }

    /// True when a rate applies.
    #[cfg(test)]
    pub fn is_counted(&self) -> bool {
        self.is_counted
    }

    /// The scope of a user's own key that opens the route.
    #[cfg(test)]
    pub fn opening_scope(&self) -> Option<ApiScope> {
        self.own_key
    }

    /// The route's description, from the types of its handler.
    #[cfg(test)]
    pub fn told_by_types(&self) -> Operation {
        let mut operation = Operation::default();
        (self.handler.describe)(&mut operation);
        operation
    }

    fn route(&self, has_directus: bool) -> Route {
        let route = web::method(self.method.clone());
        let absent = handler!(no_such_route);
        let registration = match &self.with_directus {
            WithDirectus::Another(handler) if has_directus => handler,
            WithDirectus::Absent if has_directus => &absent,
            _ => &self.handler,
        };
        (registration.register)(route)
    }
}

/// The routes for programs. Order matters where a pattern covers another path: the exact path comes first.
pub static API: &[Endpoint] = routes! {
    POST   "/auth/login"                           Public, identity::log_in                 .with_directus(directus::log_in);
    POST   "/auth/refresh"                         Public, identity::refresh                .with_directus(directus::refresh);
    POST   "/auth/logout"                          Public, identity::log_out                .with_directus(directus::log_out);
    GET    "/auth"                                 Public, identity::providers              .with_directus(directus::providers);
    POST   "/auth/password/request"                Public, identity::passwords::request     .with_directus(directus::pass_password_on);
    POST   "/auth/password/reset"                  Public, identity::passwords::reset       .with_directus(directus::pass_password_on);
    GET    "/users/me"                             ActingUser, identity::show_me            .with_directus(directus::show_me).api();
    PATCH  "/users/me"                             User, identity::change_me                .with_directus(directus::change_me);
    POST   "/users/me/tfa/generate"                User, identity::two_factor::generate     .with_directus(directus::change_me);
    POST   "/users/me/tfa/enable"                  User, identity::two_factor::enable       .with_directus(directus::change_me);
    POST   "/users/me/tfa/disable"                 User, identity::two_factor::disable      .with_directus(directus::change_me);
    POST   "/users/{id}/tfa/disable"               Admin, identity::two_factor::remove      .not_with_directus();
    POST   "/api/register"                         Public, identity::register               .with_directus(directus::register);

    DELETE "/api/me"                               User, forgetting::forget_me;
    GET    "/api/me/sessions"                      User, accounts::sessions                 .not_with_directus();
    DELETE "/api/me/sessions"                      User, accounts::end_sessions             .not_with_directus();
    DELETE "/api/me/sessions/{id}"                 User, accounts::end_session              .not_with_directus();
    GET    "/api/me/export"                        User, account_export::without_secrets;
    POST   "/api/me/export"                        User, account_export::with_secrets;
    GET    "/api/me/keys"                          User, api_keys::list;
    POST   "/api/me/keys"                          User, api_keys::create;
    DELETE "/api/me/keys/{id}"                     User, api_keys::revoke;
    GET    "/api/me/persona"                       ActingUser, persona::show .api();
    PUT    "/api/me/persona"                       ActingUser, persona::change .api();
    POST   "/api/rbac-sync"                        SharedSecret, accounts::sync             .original();

    GET    "/api/admin/password-requests"          Admin, identity::passwords::list_requests   .not_with_directus();
    POST   "/api/admin/users/{id}/password-reset"  Admin, accounts::offer_reset             .not_with_directus();
    POST   "/api/admin/users/{id}/forget"          Admin, forgetting::forget_user;
    DELETE "/api/admin/users/{id}/forget"          Admin, forgetting::keep_user;
    GET    "/api/admin/users/{id}/forgotten"       Admin, forgetting::show;
    POST   "/api/admin/invites"                    Admin, invites::create;
    GET    "/api/admin/invites"                    Admin, invites::list;
    DELETE "/api/admin/invites/{code}"             Admin, invites::revoke;
    POST   "/api/admin/service-keys"               Admin, service_keys::create;
    GET    "/api/admin/service-keys"               Admin, service_keys::list;
    DELETE "/api/admin/service-keys/{id}"          Admin, service_keys::revoke;
    POST   "/api/admin/users/{id}/impersonate"     Admin, impersonation::begin;
    DELETE "/api/admin/impersonations/{session}"   Admin, impersonation::end;
    GET    "/api/admin/audit/proof"                Operator(ReadsAudit), audit::show_proof;

    GET    "/api/onboarding/state"                 ActingUser, onboarding::show_state .api();
    PATCH  "/api/onboarding/state"                 ActingUser, onboarding::advance .api();
    POST   "/api/onboarding/zip-upload"            ActingUser, onboarding::upload .api();
    POST   "/api/files"                            UserOrServer(WorksOnJobs), files::upload .api();
    GET    "/api/files"                            ActingUser, files::list .api();
    OPTIONS "/api/files/tus"                       Public, files::tus::options;
    POST   "/api/files/tus"                        ActingUser, files::tus::create .api();
    GET    "/api/files/tus/{id}"                   ActingUser, files::tus::show .api();
    PATCH  "/api/files/tus/{id}"                   ActingUser, files::tus::add .api();
    DELETE "/api/files/tus/{id}"                   ActingUser, files::tus::terminate .api();
    GET    "/api/files/{id}"                       UserOrServer(WorksOnJobs), files::download .api();
    POST   "/api/files/{id}/link"                  ActingUser, files::link::make .api();
    GET    "/api/files/{id}/linked"                Public, files::link::linked;
    DELETE "/api/files/{id}"                       ActingUser, files::remove .api();

    POST   "/api/credentials/create-profile"       User, credentials::create_profile;
    POST   "/api/credentials/update-profile-creds" User, credentials::update_profile;
    POST   "/api/credentials/store"                SharedSecret, credentials::store         .original();
    POST   "/api/credentials/reveal"               Server(RevealsCredentials), credentials::reveal::profile   .original();
    POST   "/api/credentials/download-cred"        User, credentials::download::store;
    POST   "/api/credentials/reveal-download-cred" Server(RevealsCredentials), credentials::reveal::download  .original();
    POST   "/api/credentials/platform-session"     User, credentials::session::store;
    POST   "/api/credentials/get-platform-session" Server(RevealsCredentials), credentials::reveal::session   .original();
    GET    "/api/credentials"                      User, credentials::list;
    GET    "/api/credentials/reveals"              User, credentials::history::reveals;
    GET    "/api/credentials/{id}/history"         User, credentials::history::of_one;
    GET    "/api/credentials/{id}"                 User, credentials::show;
    DELETE "/api/credentials/{id}"                 User, credentials::remove;

    GET    "/api/queue/stats"                      PublicByDefault, jobs::stats;
    POST   "/api/queue/taxonomy/invalidate"        Operator(NoScope), jobs::invalidate_taxonomy  .original();
    POST   "/api/queue/media"                      ActingUser, jobs::submit .api();
    POST   "/api/queue/media/batch"                ActingUser, jobs::batch::submit          .bulk().api();
    POST   "/api/queue/retry/{id}"                 ActingUser, jobs::retry .api();
    POST   "/api/queue/cancel/{id}"                ActingUser, jobs::cancel .api();
    GET    "/api/jobs"                             ActingUser, jobs::list .api();
    GET    "/api/jobs/{id}"                        ActingUser, jobs::show .api();
    PATCH  "/api/jobs/{id}"                        ActingUser, jobs::reschedule .api();
    GET    "/api/jobs/{id}/stream"                 ActingUser, jobs::stream::stream .api();
    POST   "/api/jobs/{id}/ticket"                 User, jobs::stream::ticket;
    POST   "/api/media/verify-mark"                ActingUser, marks::verify .api();
    POST   "/api/worker/claim"                     Server(WorksOnJobs), workers::claim;
    POST   "/api/worker/report"                    Server(WorksOnJobs), workers::bulk_report::report  .bulk();
    POST   "/api/worker/jobs/{id}/heartbeat"       Server(WorksOnJobs), workers::heartbeat;
    POST   "/api/worker/jobs/{id}/complete"        Server(WorksOnJobs), workers::complete;
    POST   "/api/worker/jobs/{id}/fail"            Server(WorksOnJobs), workers::fail;
    POST   "/api/worker/jobs/{id}/release"         Server(WorksOnJobs), workers::release;

    POST   "/api/captions/generate"                ActingUser, captions::generate .api();
    GET    "/api/captions"                         ActingUser, captions::list .api();
    POST   "/api/genie/stream-chat"                ActingUser, chats::ask .chat();
    GET    "/api/genie/turns/{turn}/stream"        ActingUser, chats::resume .chat();
    POST   "/api/genie/turns/{turn}/continue"      ActingUser, chats::continue_turn .chat();
    POST   "/api/genie/turns/{turn}/ticket"        User, chats::ticket;
    DELETE "/api/genie/turns/{turn}"               ActingUser, chats::stop .chat();
    GET    "/api/genie/sessions"                   ActingUser, chats::sessions .chat();
    PATCH  "/api/genie/sessions/{session}"         ActingUser, chats::rename .chat();
    DELETE "/api/genie/sessions/{session}"         ActingUser, chats::delete .chat();
    GET    "/api/genie/sessions/{session}/messages" ActingUser, chats::messages .chat();
    POST   "/api/genie/agui"                       ActingUser, agui::run                    .bulk().chat();
    POST   "/v1/chat/completions"                  ActingUser, openai::complete             .bulk().chat();
    GET    "/v1/models"                            ActingUser, openai::models .chat();
    GET    "/v1/models/{id}"                       ActingUser, openai::model .chat();
    GET    "/api/usage"                            ActingUser, usage::show .api();
    POST   "/api/usage/increment"                  UserOrServer(NoScope), usage::increment  .original().api();

    GET    "/api/skills"                           ActingUser, skills::list .api();
    POST   "/api/skills/search"                    ActingUser, skills::search .api();
    POST   "/api/skills/activate"                  ActingUser, skills::activate .api();
    GET    "/api/skills/{id}"                      ActingUser, skills::show .api();
    GET    "/api/skills/{id}/related"              ActingUser, skills::related .api();

    POST   "/mcp"                                  ActingUser, mcp::post                    .mcp();

    GET    "/api/events"                           Operator(ReadsEvents), events::all;
    GET    "/api/me/events"                        ActingUser, events::mine .api();
    POST   "/api/me/events/ticket"                 User, events::ticket;
    GET    "/healthz"                              Public, health::alive                    .uncounted();
    GET    "/readyz"                               Public, health::ready                    .uncounted();
    GET    "/api/openapi.json"                     Public, openapi::document;
};

/// The routes for people. The published document does not list them.
pub static PAGES: &[Endpoint] = routes! {
    GET    "/"             Public, pages::home;
    HEAD   "/"             Public, pages::home;
    GET    "/docs"         Public, pages::docs;
    HEAD   "/docs"         Public, pages::docs;
    GET    "/docs/{file:.*}" Public, pages::docs_file;
    HEAD   "/docs/{file:.*}" Public, pages::docs_file;
};

/// Methods that another protocol has and genie refuses in its words. The published document does not list them.
static REFUSED: &[Endpoint] = routes! {
    GET    "/mcp" ActingUser, mcp::only_post .mcp();
    DELETE "/mcp" ActingUser, mcp::only_post .mcp();
};

/// The paths that are asked for most.
const BUSY: [&str; 8] = [
    "/api/queue/media",
    "/api/worker/claim",
    "/users/me",
    "/api/usage",
    "/api/jobs",
    "/healthz",
    "/api/queue/stats",
    "/api/credentials/reveal",
];

/// The router tries one route after the other, so the busiest come first, and those with a pattern last: comparing a
/// path costs less than matching one.
pub fn register(routes: &mut web::ServiceConfig, has_directus: bool) {
    let rank = |endpoint: &&Endpoint| {
        let busy = BUSY.iter().position(|path| *path == endpoint.path);
        (endpoint.path.contains('{'), busy.unwrap_or(BUSY.len()))
    };
    let mut endpoints: Vec<&Endpoint> = all().collect();
    endpoints.sort_by_key(rank); // stable: the order of the table stays
    for endpoint in endpoints {
        routes.route(endpoint.path, endpoint.route(has_directus));
    }
}

fn all() -> impl Iterator<Item = &'static Endpoint> {
    API.iter().chain(PAGES).chain(REFUSED)
}

/// The rules that apply to the routes beside their handlers.
pub fn rules() -> RouteRules {
    let rule = |endpoint: &Endpoint| RouteRule {
        is_public: matches!(
            endpoint.access,
            RouteAccess::Public | RouteAccess::PublicByDefault
        ),
        is_uncounted: !endpoint.is_counted,
        is_original: endpoint.is_original,
        is_bulk: endpoint.is_bulk,
        own_key: endpoint.own_key,
    };
    all()
        .map(|endpoint| (endpoint.path, rule(endpoint)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY_PATHS: [&str; 4] = ["/auth/", "/users/", "/api/me/sessions", "/api/register"];

    fn is_of_identity(handler: &RoutedHandler) -> bool {
        handler.path.starts_with("::identity::")
    }

    #[test]
    fn the_busy_paths_are_routes_without_a_pattern() {
        for busy in BUSY {
            assert!(all().any(|route| route.path == busy), "{busy}");
            assert!(!busy.contains('{'), "{busy}");
        }
    }

    /// A new route has to say which of a user's own keys open it.
    #[test]
    fn a_route_that_others_may_use_for_a_user_says_which_keys_open_it() {
        let mut by_path = std::collections::BTreeMap::new();
        let mut seen = 0;
        for route in all() {
            let of = format!("{} {}", route.method, route.path);
            let is_for_programs = matches!(
                route.access,
                RouteAccess::ActingUser | RouteAccess::UserOrServer(_)
            );
            assert_eq!(
                route.own_key.is_some(),
                is_for_programs,
                "{of}: note `.api()`, `.chat()` or `.mcp()`, or close the route to keys by `User`"
            );
            if let Some(scope) = route.own_key {
                let others = by_path.entry(route.path).or_insert(scope);
                assert_eq!(*others, scope, "{of}: the methods of a path have one scope");
                seen += 1;
            }
        }
        assert!(seen > 20, "{seen} routes for keys");
    }

    /// With a Directus the built-in passwords, logins and second factors do not exist, so none of their handlers may
    /// be reached.
    #[test]
    fn a_route_of_the_built_in_identity_says_what_it_is_with_a_directus() {
        let mut seen = 0;
        for route in all() {
            let of = format!("{} {}", route.method, route.path);
            let is_on_its_paths = IDENTITY_PATHS
                .iter()
                .any(|path| route.path.starts_with(path));
            if !is_on_its_paths && !is_of_identity(&route.handler) {
                continue;
            }
            seen += 1;
            match &route.with_directus {
                WithDirectus::Same => {
                    panic!("{of}: note what the route is when a Directus is the identity")
                }
                WithDirectus::Another(handler) => {
                    assert!(!is_of_identity(handler), "{of}: {}", handler.path);
                }
                WithDirectus::Absent => {}
            }
        }
        assert!(seen > 10, "{seen} routes of the identity");
    }
}
