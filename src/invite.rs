//! `genie invite`: makes invites, through the running server when there is one.

use genie_actors::invites::Invites;
use genie_events::Metadata;
use genie_log::{Clock, Opened};
use serde_json::Value;

use crate::{
    cli::{output::say, runtime},
    config::Config,
    roles,
    socket::{client, requests::InviteRequest},
    store::{lock_store, open_log},
};

/// Makes invites and prints their codes, one per line.
pub fn make(config: Config, wanted: InviteRequest) -> Result<(), String> {
    let codes = runtime::run(async {
        match client::ask(&config, "/invites", &wanted).await? {
            Some(answer) => codes_of(&answer),
            None => make_here(&config, wanted).await,
        }
    })?;
    codes.iter().for_each(|code| say(code));
    Ok(())
}

fn codes_of(answer: &Value) -> Result<Vec<String>, String> {
    let code = |invite: &Value| invite["code"].as_str().map(str::to_owned);
    let codes = answer["data"]
        .as_array()
        .and_then(|invites| invites.iter().map(code).collect());
    codes.ok_or_else(|| client::NOT_UNDERSTOOD.to_owned())
}

async fn make_here(config: &Config, wanted: InviteRequest) -> Result<Vec<String>, String> {
    let (count, mut grant) = wanted.read()?;
    grant.role = roles::expect_set(config, &grant.role)?;
    let _only_process = lock_store(config)?;
    let Opened { log, append, .. } = open_log(config, Clock::system(), false).await?;
    let invites = Invites::new(append);
    // A server's start does the same: on an empty store the first invite must come first.
    invites
        .first(config.first_invite.as_ref())
        .await
        .map_err(|error| error.to_string())?;
    let made = invites
        .make(count, grant, Metadata::system())
        .await
        .map_err(|error| error.to_string())?;
    log.store().close().await;
    let codes = made.codes.iter();
    Ok(codes.map(|code| code.written().to_owned()).collect())
}
