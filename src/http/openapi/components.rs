//! The document's components beside schemas: security schemes, headers, and the refusals that several routes share.

use serde_json::{Map, Value, json};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, Http, HttpAuthScheme, HttpBuilder, SecurityScheme,
};

const REFUSALS: &str = include_str!("refusals.md");

const USER_TOKEN: &str = "The access token of a login, good for 15 minutes, or the token of an impersonation, which is 403 for credentials and for administrators' routes. A request carries one token, in the header: two are 400 `two_tokens`.";
const SERVICE_KEY: &str = "A service key, made by an administrator. Without the scope it is 403 `scope_needed`, and `error` names the scope.";
const USER_KEY: &str = "A user's own key, for a program that acts for the user: `POST /api/me/keys`. Each route names the scope that opens it, and `api` does so, too. It is 401 once it is revoked, has expired, or its user may not act.";
const SHARED_SECRET: &str = "The server's `RBAC_SYNC_WEBHOOK_SECRET`, for servers and workers. On routes that take a token, too, this header goes first. With `SHARED_SECRET_ROUTES=original` it opens only the routes that the original opened to it; elsewhere it is 403.";

pub fn security_schemes() -> Value {
    let secret = ApiKeyValue::with_description("X-RBAC-SYNC-SECRET", SHARED_SECRET);
    json!({
        "userToken": SecurityScheme::Http(bearer("JWT", USER_TOKEN)),
        "serviceKey": SecurityScheme::Http(bearer("gk_", SERVICE_KEY)),
        "userKey": SecurityScheme::Http(bearer("gk_", USER_KEY)),
        "sharedSecret": SecurityScheme::ApiKey(ApiKey::Header(secret)),
    })
}

fn bearer(format: &str, description: &str) -> Http {
    HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format(format)
        .description(Some(description))
        .build()
}

pub fn headers() -> Value {
    json!({
        "RequestId": {
            "description": "The request's id, as sent or as made. If it was sent, `Genie-Request-Id` has the id of the server's log.",
            "required": true,
            "schema": {"type": "string"},
        },
        "GeniePosition": {
            "description": "The position that reads must have reached to see the write. Opaque: send it back as `Genie-Min-Position`.",
            "schema": {"type": "string"},
        },
        "GenieTurn": {
            "description": "The turn.",
            "schema": {"type": "string", "format": "uuid"},
        },
        "RetryAfter": {
            "description": "The wait before another try, in seconds.",
            "schema": {"type": "integer", "minimum": 1},
        },
    })
}

/// A reference to the header of this name.
pub fn header(name: &str) -> Value {
    let component = name.trim_start_matches("X-").replace('-', "");
    json!({"$ref": format!("#/components/headers/{component}")})
}

/// A failure with a body of this schema.
pub fn failure(schema: &Value) -> Value {
    json!({
        "headers": {"X-Request-Id": header("X-Request-Id")},
        "content": {"application/json": {"schema": schema}},
    })
}

/// The refusals, by name. A heading of `refusals.md` is a name, the shape, and more headers.
pub fn refusals() -> Map<String, Value> {
    REFUSALS
        .split("\n## ")
        .skip(1)
        .map(|section| {
            let (heading, description) = section.split_once('\n').unwrap();
            let mut words = heading.split(' ');
            let name = words.next().unwrap().to_owned();
            let mut refusal = failure(&shape(words.next().unwrap()));
            refusal["description"] = description.trim().into();
            for word in words {
                refusal["headers"][word] = header(word);
            }
            (name, refusal)
        })
        .collect()
}

/// A schema, or several with a bar between.
fn shape(names: &str) -> Value {
    let mut shapes: Vec<Value> = names
        .split('|')
        .map(|name| json!({"$ref": format!("#/components/schemas/{name}")}))
        .collect();
    match shapes.len() {
        1 => shapes.remove(0),
        _ => json!({"anyOf": shapes}),
    }
}
