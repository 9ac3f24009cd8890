//! Pages for people: a home page, and Swagger UI over the published document.

use std::sync::{Arc, LazyLock};

use actix_web::{
    HttpResponse,
    http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, LOCATION},
    web::Path,
};
use utoipa_swagger_ui::Config;

use crate::http::error::ApiError;

const HOME: &str = include_str!("pages/home.html");
/// Swagger UI sets styles from its scripts and embeds its pictures in them.
const POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                      frame-ancestors 'none'";
static SWAGGER_UI: LazyLock<Arc<Config<'static>>> =
    LazyLock::new(|| Arc::new(Config::from("/api/openapi.json")));

/// `GET /`
pub async fn home() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header((CONTENT_SECURITY_POLICY, POLICY))
        .body(HOME)
}

/// `GET /docs` redirects, because the files of Swagger UI name each other relative to `/docs/`.
pub async fn docs() -> HttpResponse {
    HttpResponse::PermanentRedirect()
        .insert_header((LOCATION, "/docs/"))
        .finish()
}

/// `GET /docs/{file}`
pub async fn docs_file(file: Path<String>) -> Result<HttpResponse, ApiError> {
    let served = utoipa_swagger_ui::serve(&file, Arc::clone(&SWAGGER_UI))
        .map_err(|error| ApiError::Internal(format!("Swagger UI: {error}")))?
        .ok_or(ApiError::NotFound("page"))?;
    Ok(HttpResponse::Ok()
        .content_type(served.content_type)
        .insert_header((CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((CACHE_CONTROL, "public, max-age=3600"))
        .body(served.bytes.into_owned()))
}
