//! What applies to a route beside its handler, by the pattern that a request matched. `http/routes.rs` makes it of its table; what
//! is read by every request imports this and not the table, which imports all handlers.

use std::collections::HashMap;

use actix_web::{HttpRequest, web::Data};

/// The rule of one path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RouteRule {
    /// No caller is asked for. There the address is counted, whatever credentials are shown.
    pub is_public: bool,
    /// No rate applies: probes must always be answered.
    pub is_uncounted: bool,
    /// A narrowed shared secret opens the route.
    pub is_original: bool,
}

/// The rules of all paths.
pub struct RouteRules(HashMap<&'static str, RouteRule>);

impl FromIterator<(&'static str, RouteRule)> for RouteRules {
    /// What one method of a path says holds for all of them.
    fn from_iter<I: IntoIterator<Item = (&'static str, RouteRule)>>(rules: I) -> Self {
        let mut all: HashMap<&'static str, RouteRule> = HashMap::new();
        for (path, rule) in rules {
            let known = all.entry(path).or_default();
            known.is_public |= rule.is_public;
            known.is_uncounted |= rule.is_uncounted;
            known.is_original |= rule.is_original;
        }
        Self(all)
    }
}

/// The rule of the route that a request matched; `None` without one.
pub fn of(request: &HttpRequest) -> Option<RouteRule> {
    let rules = request.app_data::<Data<RouteRules>>()?;
    rules.0.get(request.match_pattern()?.as_str()).copied()
}
