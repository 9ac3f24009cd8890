//! Reads what the servers show of a user, as lines that are compared with a fresh replay.

use std::{str::FromStr, time::Duration};

use genie_events::tier::Counter;
use rand::rngs::StdRng;
use serde_json::Value;

use crate::{
    client::{Arena, By},
    replay::{ShownLines, credential_line, job_line},
};

/// The time limit of one page.
const LIMIT: Duration = Duration::from_secs(15);

/// Everything that is shown to the user with this token, at or after a position. `None` when it can't be read.
pub async fn shown(arena: &Arena, chance: &mut StdRng, token: &str, at: u64) -> Option<ShownLines> {
    let mut reader = ReadSideReader {
        arena,
        chance,
        token,
        at,
    };
    let mut lines = ShownLines::new();
    let onboarding = reader.one("/api/onboarding/state").await?;
    lines.insert("onboarding".into(), text(&onboarding["state"]));
    for job in reader.all("/api/jobs").await? {
        lines.insert(
            format!("job {}", text(&job["id"])),
            job_line(&text(&job["status"]), job["attempt"].as_u64().unwrap_or(0)),
        );
    }
    for credential in reader.all("/api/credentials").await? {
        let line = credential_line(
            &text(&credential["platform"]),
            credential["platform_username"].as_str(),
        );
        lines.insert(format!("credential {}", text(&credential["id"])), line);
    }
    let usage = reader.one("/api/usage").await?;
    for (counter, count) in usage["usage"].as_object()? {
        if Counter::parse(counter).is_some_and(|counter| !counter.is_present_count()) {
            lines.insert(format!("usage {counter}"), count.to_string());
        }
    }
    for caption in reader.all("/api/captions").await? {
        lines.insert(
            format!("caption {}", text(&caption["id"])),
            text(&caption["status"]),
        );
    }
    for session in reader.all("/api/genie/sessions").await? {
        let name = text(&session["id"]);
        let messages = reader
            .all(&format!("/api/genie/sessions/{name}/messages"))
            .await?;
        for (n, message) in messages.iter().enumerate() {
            let said = format!("{}: {}", text(&message["role"]), text(&message["content"]));
            lines.insert(format!("message {n} of {name}"), said);
        }
    }
    Some(lines)
}

struct ReadSideReader<'a> {
    arena: &'a Arena,
    chance: &'a mut StdRng,
    token: &'a str,
    at: u64,
}

impl ReadSideReader<'_> {
    async fn one(&mut self, path: &str) -> Option<Value> {
        let read = self
            .arena
            .read(
                self.chance,
                path,
                By::Token(self.token),
                Some(self.at),
                LIMIT,
            )
            .await?;
        Some(read)
            .filter(|(status, _)| *status == 200)
            .map(|(_, json)| json)
    }

    async fn all(&mut self, path: &str) -> Option<Vec<Value>> {
        let mut all = Vec::new();
        let mut cursor = String::new();
        loop {
            let mut page = self.one(&format!("{path}?limit=500{cursor}")).await?;
            all.append(page["data"].as_array_mut()?);
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Some(all),
            }
        }
    }
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

pub fn id<T: FromStr>(value: &Value) -> Option<T> {
    value.as_str()?.parse().ok()
}
