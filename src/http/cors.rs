//! Which pages in browsers may call, and what they may read (CORS).

use actix_cors::{Cors, CorsError};
use actix_web::{
    Error, ResponseError,
    body::{EitherBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    middleware::Next,
};

use crate::{http::error::ApiError, origins::AllowedOrigins};

/// The headers that pages may read.
const EXPOSED: [&str; 21] = [
    "Genie-Position",
    "Genie-Request-Id",
    "Genie-Turn",
    "X-Request-Id",
    "Retry-After",
    "RateLimit",
    "RateLimit-Policy",
    "Genie-File",
    "Mcp-Session-Id",
    "Location",
    "ETag",
    "Accept-Ranges",
    "Content-Range",
    "Upload-Offset",
    "Upload-Length",
    "Upload-Expires",
    "Tus-Resumable",
    "Tus-Version",
    "Tus-Extension",
    "Tus-Max-Size",
    "Tus-Checksum-Algorithm",
];

pub fn cors(origins: AllowedOrigins) -> Cors {
    let cors = Cors::default()
        .allow_any_method()
        .allow_any_header()
        .expose_headers(EXPOSED)
        .max_age(3600);
    match origins {
        AllowedOrigins::Any => cors.allow_any_origin(),
        listed => cors.allowed_origin_fn(move |origin, _| listed.allows(origin.as_bytes())),
    }
}

/// Answers a refused preflight in genie's one form. A browser shows it to the page's developer.
pub async fn tell_refusals<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let response = next.call(request).await?;
    let refused = response
        .response()
        .error()
        .and_then(|error| error.as_error::<CorsError>())
        .map(|error| match error {
            CorsError::OriginNotAllowed => ApiError::OriginRefused,
            _ => ApiError::field(
                "A preflight must name a usual method as `Access-Control-Request-Method`",
            ),
        });
    Ok(match refused {
        None => response.map_into_left_body(),
        Some(error) => {
            let answer = error.error_response().map_into_right_body();
            response.into_response(answer)
        }
    })
}
