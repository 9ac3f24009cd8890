//! Admits requests: headers within their limit, and requests within their rates.
//!
//! A proven user is counted by user, whatever the address. An address is counted for requests without a proven
//! caller: those without credentials, those to a route that asks for none, and those whose credentials are refused.
//! So one client does not hold up an office behind one address, and servers with the right secret are not counted at
//! all.

use actix_web::{
    Error, HttpMessage, HttpRequest, HttpResponse, ResponseError,
    body::{EitherBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        StatusCode,
        header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue},
    },
    middleware::Next,
    web::Data,
};
use genie_events::UserId;

use crate::{
    app::App,
    http::{
        caller::SECRET_HEADER,
        error::{ApiError, DirectusError, OpenAiError},
        request, route_rules,
    },
    rate_limiter::RateStanding,
};

/// The most bytes of all headers together. The HTTP parser refuses far larger ones before they get here, without a
/// body.
const MAX_HEADERS: usize = 32 * 1024;

/// Call this once in a request, for a user who was proven.
pub fn count_user(app: &App, request: &HttpRequest, user: UserId) -> Result<(), ApiError> {
    if request.extensions().contains::<RateStanding>() {
        return Ok(()); // a handler may ask for its caller in two ways
    }
    match app.request_limits.count_user(user) {
        Some(standing) => note(request, standing),
        None => Ok(()),
    }
}

fn count_address(app: &App, request: &HttpRequest) -> Result<(), ApiError> {
    let address = request::client_address(request);
    match app.request_limits.count_address(address) {
        Some(standing) => note(request, standing),
        None => Ok(()),
    }
}

/// Left in the request's extensions for the headers.
fn note(request: &HttpRequest, standing: RateStanding) -> Result<(), ApiError> {
    request.extensions_mut().insert(standing);
    standing
        .retry_after
        .map_or(Ok(()), |retry_after| Err(ApiError::TooFast { retry_after }))
}

/// The middleware.
pub async fn admit<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let Some(app) = request.app_data::<Data<App>>().cloned() else {
        return next
            .call(request)
            .await
            .map(ServiceResponse::map_into_left_body);
    };
    let rule = route_rules::of(request.request());
    // A probe that names a caller has it checked, which costs something.
    let is_uncounted =
        rule.is_some_and(|rule| rule.is_uncounted) && !shows_credentials(request.headers());
    let asks_for_a_caller = rule.is_some_and(|rule| !rule.is_public);
    let has_credentials = asks_for_a_caller && shows_credentials(request.headers());
    let is_by_address = !(is_uncounted || has_credentials);
    let admitted = match bytes(request.headers()) {
        ..=MAX_HEADERS if is_by_address => count_address(&app, request.request()),
        ..=MAX_HEADERS => Ok(()),
        _ => Err(ApiError::HeadersTooLarge(MAX_HEADERS)),
    };
    let mut response = match admitted {
        Err(error) => refused(request, error),
        Ok(()) => {
            let response = next.call(request).await?;
            match response.status() {
                StatusCode::UNAUTHORIZED if !is_by_address => {
                    match count_address(&app, response.request()) {
                        Err(error) => refused(
                            ServiceRequest::from_request(response.request().clone()),
                            error,
                        ),
                        Ok(()) => response.map_into_left_body(),
                    }
                }
                _ => response.map_into_left_body(),
            }
        }
    };
    let standing = response
        .request()
        .extensions()
        .get::<RateStanding>()
        .copied();
    if let Some(standing) = standing {
        for (name, value) in [
            ("ratelimit-policy", standing.policy()),
            ("ratelimit", standing.limit()),
        ] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response
                    .headers_mut()
                    .insert(HeaderName::from_static(name), value);
            }
        }
    }
    Ok(response)
}

/// The refusal, in Directus' shape on Directus' own routes, and in OpenAI's on those of its dialect.
fn refused<B>(request: ServiceRequest, error: ApiError) -> ServiceResponse<EitherBody<B>> {
    let is_directus = request.path().starts_with("/auth/") || request.path().starts_with("/users/");
    let response: HttpResponse = if is_directus {
        DirectusError(error).error_response()
    } else if request.path().starts_with("/v1/") {
        OpenAiError::from(error).error_response()
    } else {
        error.error_response()
    };
    request.into_response(response).map_into_right_body()
}

/// True when the request names a caller, right or wrong.
pub fn shows_credentials(headers: &HeaderMap) -> bool {
    headers.contains_key(AUTHORIZATION) || headers.contains_key(SECRET_HEADER)
}

fn bytes(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum()
}
