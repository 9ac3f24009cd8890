//! The id of a session is the sealed name of the agent. So any server knows the agent by it, and nothing is kept.

use actix_web::http::header::HeaderValue;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};

use crate::app::App;

/// The place in which the name is sealed. A text that was sealed elsewhere is no session.
const PLACE: &str = "mcp.session";
/// In characters. A longer name is cut.
const MAX_NAME: usize = 64;

pub fn id(app: &App, agent: &str) -> String {
    let agent: String = agent.chars().take(MAX_NAME).collect();
    BASE64.encode(app.log.keys().system().seal_text(PLACE, &agent))
}

/// The agent of a session; `None` if genie did not make this id.
pub fn agent(app: &App, id: &HeaderValue) -> Option<String> {
    let sealed = BASE64.decode(id.as_bytes()).ok()?;
    app.log.keys().system().open_text(PLACE, &sealed).ok()
}
