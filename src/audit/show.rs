//! `genie audit --user`: a user's facts in order, opened with the user's key. It shows no secrets,
//! because facts hold only their hashes.

use std::io::{BufWriter, Write};

use genie_events::UserId;
use genie_log::{Fact, FactBody, Log};
use serde_json::{Value, json};

/// Prints the facts to standard output.
pub async fn print(log: Log, user: UserId, as_json: bool) -> Result<(), String> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut count = 0;
    let mut written = Ok(());
    let read = log
        .reader()
        .user_facts(user, |fact| {
            count += 1;
            if written.is_ok() {
                let line = if as_json {
                    json_line(&fact).to_string()
                } else {
                    text_line(&fact)
                };
                written = writeln!(out, "{line}");
            }
        })
        .await;
    let flushed = written.and_then(|()| out.flush());
    read.map_err(|error| error.to_string())?;
    match flushed {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.to_string()),
        _ if count == 0 => Err(format!("user {user} has no facts")),
        _ => Ok(()),
    }
}

fn fields(fact: &Fact) -> Value {
    match &fact.body {
        FactBody::Forgotten => Value::Null,
        FactBody::Open(event, _) => {
            let mut json = event.to_json();
            if let Some(map) = json.as_object_mut() {
                map.remove("event");
            }
            json
        }
    }
}

fn caller(fact: &Fact) -> String {
    let kind = fact.metadata.caller.as_str();
    let who = fact
        .metadata
        .by
        .map(|by| by.to_string())
        .or_else(|| fact.metadata.key.as_ref().map(ToString::to_string));
    let with_key = fact.metadata.key.filter(|_| fact.metadata.by.is_some());
    match (who, fact.metadata.on_behalf_of, with_key) {
        (Some(who), Some(user), _) => format!("{kind}:{who} for {user}"),
        (Some(who), None, Some(key)) => format!("{kind}:{who} with key {key}"),
        (Some(who), None, None) => format!("{kind}:{who}"),
        (None, _, _) => kind.to_owned(),
    }
}

fn text_line(fact: &Fact) -> String {
    format!(
        "{:>8} {} {:<24} {:<48} {:<42} {}",
        fact.position,
        fact.recorded_at.rfc3339(),
        fact.event_type,
        fact.stream.to_string(),
        caller(fact),
        fields(fact),
    )
}

fn json_line(fact: &Fact) -> Value {
    json!({
        "position": fact.position, "time": fact.recorded_at.rfc3339(), "type": fact.event_type,
        "stream": fact.stream.to_string(), "sequence": fact.sequence, "user_seq": fact.owner_seq,
        "id": fact.event_id, "caller": caller(fact), "request_id": fact.metadata.request_id, "data": fields(fact),
    })
}
