//! Rules that apply to a route beside its handler, found by the pattern that a request matched. `http/routes.rs`
//! makes them from its table. Code that runs for every request imports this file and not the table, which imports all
//! handlers.

use std::collections::HashMap;

use actix_web::{HttpMessage, HttpRequest, web::Data};
use genie_events::api_key::ApiScope;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RouteRule {
    /// The route asks for no caller. So the address is counted, whatever credentials the request shows.
    pub is_public: bool,
    /// No rate applies: probes must always be answered.
    pub is_uncounted: bool,
    /// A narrowed shared secret opens the route.
    pub is_original: bool,
    /// The route takes many things at once, in a larger body.
    pub is_bulk: bool,
    /// The scope of a user's own key that opens the route; `api` does it, too. `None`: no such key opens it.
    pub own_key: Option<ApiScope>,
}

/// The rules, by path.
pub struct RouteRules(HashMap<&'static str, RouteRule>);

impl FromIterator<(&'static str, RouteRule)> for RouteRules {
    /// A flag of one method of a path holds for all its methods.
    fn from_iter<I: IntoIterator<Item = (&'static str, RouteRule)>>(rules: I) -> Self {
        let mut all: HashMap<&'static str, RouteRule> = HashMap::new();
        for (path, rule) in rules {
            let known = all.entry(path).or_default();
            known.is_public |= rule.is_public;
            known.is_uncounted |= rule.is_uncounted;
            known.is_original |= rule.is_original;
            known.is_bulk |= rule.is_bulk;
            known.own_key = known.own_key.or(rule.own_key);
        }
        Self(all)
    }
}

/// The route that a request matched.
#[derive(Debug, Clone, Copy)]
pub struct MatchedRoute {
    /// The path in the table, such as `/api/jobs/{id}`.
    pub path: &'static str,
    pub rule: RouteRule,
}

/// Left in a request's extensions: the router finds a pattern by trying all of them.
#[derive(Clone, Copy)]
struct SearchedRoute(Option<MatchedRoute>);

/// The route that a request matched; `None` when none matched.
pub fn matched(request: &HttpRequest) -> Option<MatchedRoute> {
    let searched = request.extensions().get::<SearchedRoute>().copied();
    if let Some(SearchedRoute(route)) = searched {
        return route;
    }
    let route = search(request);
    request.extensions_mut().insert(SearchedRoute(route));
    route
}

fn search(request: &HttpRequest) -> Option<MatchedRoute> {
    let rules = request.app_data::<Data<RouteRules>>()?;
    // Nearly all requests are for a path without a pattern, which needs no search.
    let found = match rules.0.get_key_value(request.path()) {
        Some(found) => found,
        None => rules.0.get_key_value(request.match_pattern()?.as_str())?,
    };
    let (path, rule) = found;
    Some(MatchedRoute { path, rule: *rule })
}

/// The rule of the route that a request matched; `None` when none matched.
pub fn of(request: &HttpRequest) -> Option<RouteRule> {
    matched(request).map(|route| route.rule)
}
