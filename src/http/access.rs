//! Who may call a route, and what else of the table of routes is asked while a request is under way. It stands below the table,
//! which knows the handlers.

use std::collections::HashMap;

use actix_web::{HttpRequest, web::Data};
use genie_events::service_key::Scope;

/// Who may call a route. The handler's parameter decides it; this says the same where no handler is at hand, and a test
/// compares both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Public,
    /// Public unless the server is set to ask for a caller.
    PublicByDefault,
    /// A user in person.
    User,
    /// A user, or an administrator who acts for them.
    ActingUser,
    /// An administrator in person.
    Admin,
    SharedSecret,
    /// A holder of the shared secret, or of a service key with one of these scopes.
    Server(&'static [Scope]),
    /// As `ActingUser` or as `Server`.
    UserOrServer(&'static [Scope]),
    /// As `Admin` or as `Server`.
    Operator(&'static [Scope]),
}

/// The rules of all methods of a path.
#[derive(Debug, Default, Clone, Copy)]
pub struct PathRules {
    /// No caller is asked for. There the address is counted, whatever credentials are shown.
    pub is_public: bool,
    /// No rate applies: probes must always be answered.
    pub is_uncounted: bool,
    /// A narrowed shared secret opens it.
    pub is_original: bool,
}

/// The rules of all paths, by their patterns.
pub struct RouteRules(pub HashMap<&'static str, PathRules>);

impl RouteRules {
    /// Those of the path that a request matched; None where no route takes it.
    pub fn of(request: &HttpRequest) -> Option<PathRules> {
        let pattern = request.match_pattern()?;
        let rules = request.app_data::<Data<Self>>()?;
        rules.0.get(pattern.as_str()).copied()
    }
}
