//! genie as an MCP server (docs/api.md, MCP): the tools of [`crate::http::tools`] for agents, over streamable HTTP. It is
//! stateless: each request is answered by itself, by any server. Two versions of the protocol differ in what comes with a
//! request; see [`version`].

use std::{future::Future, pin::Pin};

use actix_web::{
    FromRequest, HttpRequest, HttpResponse, ResponseError,
    dev::Payload,
    http::{
        StatusCode,
        header::{self, HeaderValue},
    },
    web::Data,
};
use serde_json::{Value, json};

use crate::{
    app::App,
    http::{
        body::JsonObject,
        caller::{ActingUser, app},
        error::ApiError,
        response::RawAnswer,
        tools::{self, ToolSpec},
    },
};

mod message;
/// The agent's name, as a session's id.
mod session;
mod version;

use message::{RpcError, RpcMessage};
use version::Version;

const SESSION_ID: &str = "Mcp-Session-Id";
const INSTRUCTIONS: &str = "Tools of genie, a back end for creators: media jobs, captions, files, connected platforms, usage and chat of one user. Jobs are done later by workers: queue_media_job answers at once, and job_status tells of the end.";
/// How long a client may keep the list of tools, in milliseconds. It changes with a release only.
const KEEP_MS: u64 = 300_000;

/// A user whose agent calls.
pub struct McpUser(pub ActingUser);

impl FromRequest for McpUser {
    type Error = McpRefusal;
    type Future = Pin<Box<dyn Future<Output = Result<Self, McpRefusal>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            check_origin(&request)?;
            Ok(Self(ActingUser::extract(&request).await?))
        })
    }
}

/// A page of a foreign origin must not reach genie with a name that leads to this machine (DNS rebinding).
fn check_origin(request: &HttpRequest) -> Result<(), ApiError> {
    let app = app(request)?;
    let mut origins = request.headers().get_all(header::ORIGIN);
    if origins.all(|origin| app.config.cors_origins.allows(origin.as_bytes())) {
        return Ok(());
    }
    Err(ApiError::OriginRefused)
}

/// A refusal before the protocol begins. Agents look for the scheme of the token that they need.
#[derive(Debug)]
pub struct McpRefusal(ApiError);

impl From<ApiError> for McpRefusal {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl std::fmt::Display for McpRefusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl ResponseError for McpRefusal {
    fn status_code(&self) -> StatusCode {
        self.0.status_code()
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = self.0.error_response();
        if response.status() == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

/// The answer to a message: JSON-RPC, or nothing.
pub enum McpReply {}

/// `POST /mcp`
pub async fn post(
    app: Data<App>,
    request: HttpRequest,
    McpUser(user): McpUser,
    body: Result<JsonObject, ApiError>,
) -> Result<RawAnswer<McpReply>, McpRefusal> {
    let message = match RpcMessage::read(body) {
        Ok(message) => message,
        Err(error) => return Ok(RawAnswer::new(error.answer(None))),
    };
    let answered = answer(&app, &request, user, &message).await;
    let response = answered.unwrap_or_else(|error| error.answer(message.id.as_ref()));
    Ok(RawAnswer::new(response))
}

/// `GET /mcp`, `DELETE /mcp`: there are no streams to open and no sessions to end.
pub async fn only_post(_: McpUser) -> HttpResponse {
    HttpResponse::MethodNotAllowed()
        .insert_header((header::ALLOW, "POST"))
        .finish()
}

async fn answer(
    app: &App,
    request: &HttpRequest,
    user: ActingUser,
    message: &RpcMessage,
) -> Result<HttpResponse, RpcError> {
    let version = Version::of(request, message)?;
    let Some(method) = message.method.as_deref().filter(|_| message.id.is_some()) else {
        return Ok(HttpResponse::Accepted().finish()); // a notification, or an answer to nothing
    };
    let result = match (method, version) {
        ("initialize", Version::WithSessions) => return Ok(initialized(app, message)),
        ("ping", Version::WithSessions) => json!({}),
        ("server/discover", Version::Stateless) => json!({
            "supportedVersions": version::SPOKEN,
            "capabilities": {"tools": {}},
            "instructions": INSTRUCTIONS,
            "ttlMs": KEEP_MS,
            "cacheScope": "public",
        }),
        ("tools/list", _) => listed(version),
        ("tools/call", _) => {
            let agent = agent(app, request, message, version)?;
            let user = ActingUser {
                caller: user.caller.with_agent(agent.as_deref()),
                ..user
            };
            called(app, &user, message).await?
        }
        _ => return Err(RpcError::no_such_method(method, version)),
    };
    Ok(message.result(version.completed(result)))
}

fn initialized(app: &App, message: &RpcMessage) -> HttpResponse {
    let mut response = message.result(json!({
        "protocolVersion": version::WITH_SESSIONS,
        "capabilities": {"tools": {}},
        "serverInfo": version::server_info(),
        "instructions": INSTRUCTIONS,
    }));
    let agent = message.params.get("clientInfo");
    let agent = agent.and_then(|agent| agent["name"].as_str());
    let id = session::id(app, agent.unwrap_or_default());
    if let Ok(id) = HeaderValue::from_str(&id) {
        let name = header::HeaderName::from_static("mcp-session-id");
        response.headers_mut().insert(name, id);
    }
    response
}

/// The name that the calling program gave itself.
fn agent(
    app: &App,
    request: &HttpRequest,
    message: &RpcMessage,
    version: Version,
) -> Result<Option<String>, RpcError> {
    match version {
        Version::Stateless => Ok(message
            .meta("clientInfo")
            .and_then(|agent| agent["name"].as_str())
            .map(str::to_owned)),
        Version::WithSessions => match request.headers().get(SESSION_ID) {
            None => Ok(None),
            Some(id) => session::agent(app, id)
                .map(Some)
                .ok_or_else(RpcError::no_such_session),
        },
    }
}

fn listed(version: Version) -> Value {
    let tools: Vec<Value> = tools::catalogue().iter().map(shown).collect();
    let mut listed = json!({"tools": tools});
    if version == Version::Stateless {
        listed["ttlMs"] = KEEP_MS.into();
        listed["cacheScope"] = "public".into();
    }
    listed
}

fn shown(tool: &ToolSpec) -> Value {
    json!({
        "name": tool.name,
        "description": tool.description,
        "inputSchema": tool.input_schema,
        "outputSchema": tool.output_schema,
        "annotations": {
            "readOnlyHint": tool.read_only,
            "idempotentHint": tool.idempotent,
            "destructiveHint": tool.destructive,
            "openWorldHint": false,
        },
    })
}

/// A tool's failure is a result, so that the model reads it and can mend its call.
async fn called(app: &App, user: &ActingUser, message: &RpcMessage) -> Result<Value, RpcError> {
    let name = message.params.get("name").and_then(Value::as_str);
    let name = name.ok_or_else(|| RpcError::wrong_params("`name` must name a tool"))?;
    if !tools::is_known(name) {
        return Err(RpcError::wrong_params(
            "There is no such tool; ask tools/list",
        ));
    }
    let arguments = message.params.get("arguments").cloned();
    let done = tools::call(app, user, name, arguments.unwrap_or_default()).await;
    let (text, is_error) = match &done {
        Ok(value) => (value.to_string(), false),
        Err(failure) => (format!("{} ({})", failure.sentence, failure.code), true),
    };
    let mut result = json!({"content": [{"type": "text", "text": text}], "isError": is_error});
    if let Ok(value) = done {
        result["structuredContent"] = value;
    }
    Ok(result)
}
