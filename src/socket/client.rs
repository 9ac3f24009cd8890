//! The command's end of the socket.

use std::{io, os::unix::net::UnixStream, time::Duration};

use serde::Serialize;
use serde_json::Value;

use super::{LONGEST_PATH, path};
use crate::config::Config;

/// The error for an unexpected answer of the server.
pub const NOT_UNDERSTOOD: &str =
    "the server's answer is not understood; are the command and the server of one release?";
/// How long a command waits for the server's answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks the server on this data folder; `None` when none runs there.
pub async fn ask(
    config: &Config,
    route: &str,
    body: &impl Serialize,
) -> Result<Option<Value>, String> {
    let path = path(config);
    let shown = path.display();
    if path.as_os_str().len() > LONGEST_PATH {
        return Ok(None); // no server can listen there
    }
    match UnixStream::connect(&path) {
        Ok(_) => {}
        // The socket is absent, or a server that was killed left it.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(format!("{shown} can't be reached: {error}")),
    }
    let client = reqwest::Client::builder()
        .unix_socket(path.as_path())
        .timeout(PATIENCE)
        .build();
    let client = client.map_err(|error| format!("{shown} can't be reached: {error}"))?;
    // The command may be done all the same; the server's log shows it.
    let unheard = |error: reqwest::Error| {
        format!(
            "the server at {shown} did not answer to the end: {}",
            error.without_url()
        )
    };
    let response = client
        .post(format!("http://genie{route}"))
        .json(body)
        .send()
        .await
        .map_err(unheard)?;
    let is_done = response.status().is_success();
    let answer: Value = response.json().await.map_err(unheard)?;
    if is_done {
        return Ok(Some(answer));
    }
    let reason = answer["error"].as_str();
    Err(reason
        .unwrap_or("the server refused and did not say why")
        .to_owned())
}
