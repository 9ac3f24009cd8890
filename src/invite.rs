//! `genie invite`: invites from the command line, made by the running server when there is one.

use genie_actors::{credentials::Credentials, registration::Registrar};
use genie_events::Metadata;
use genie_log::Opened;
use serde_json::Value;

pub use crate::http::invites::NewInvites;
use crate::{app, config::Config, roles, socket};

/// Makes them and prints a code a line.
pub fn make(config: Config, wanted: NewInvites) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| format!("the runtime can't be started: {error}"))?;
    let codes = runtime.block_on(async {
        match socket::ask(&config, "/invites", &wanted).await? {
            Some(answer) => codes_of(&answer),
            None => make_here(&config, wanted).await,
        }
    })?;
    codes.iter().for_each(|code| app::say(code));
    Ok(())
}

fn codes_of(answer: &Value) -> Result<Vec<String>, String> {
    let code = |invite: &Value| invite["code"].as_str().map(str::to_owned);
    let codes = answer["data"]
        .as_array()
        .and_then(|invites| invites.iter().map(code).collect());
    codes.ok_or_else(|| socket::NOT_UNDERSTOOD.to_owned())
}

async fn make_here(config: &Config, wanted: NewInvites) -> Result<Vec<String>, String> {
    let (count, grant) = wanted.read().map_err(|error| error.to_string())?;
    roles::expect_set(config, &grant.role)?;
    let _only_process = app::lock_store(config)?;
    let Opened { log, vault } = app::open_log(config, false).await?;
    let register = Registrar::new(log.clone(), Credentials::new(log.clone(), vault));
    // As at a server's start: on a store that had no fact yet it must come first.
    register
        .first_invite(config.first_invite.as_ref())
        .await
        .map_err(|error| error.to_string())?;
    let made = register
        .make_invites(count, grant, Metadata::system())
        .await
        .map_err(|error| error.to_string())?;
    log.store().close().await;
    Ok(made.codes)
}
