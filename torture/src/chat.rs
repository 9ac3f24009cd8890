//! One question in a chat. Two readers read the answer as it comes. Each goes on at any server where it broke off, and what each
//! was shown is compared with the kept answer at the end.
//!
//! Invariant: what a reader was shown is the beginning of the kept answer: no token is lost, and none comes twice.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use crate::{
    client::{Arena, position_of},
    ledger::{CommandKind, CommandMark, CommandOutcome},
    simulated_users::SimulatedUser,
    stream::EventStream,
    verdict::Mistake,
};

/// How long one question is followed: a turn whose server died is taken over when its lease of 15 s has lapsed.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the first sign of an answer may take.
const OPENS: Duration = Duration::from_secs(15);
/// How long the kept answer may take to appear.
const KEPT: Duration = Duration::from_secs(15);
/// The share of events after which a reader goes away, to come back elsewhere.
const LEAVES: f64 = 0.1;

/// The part of an answer that a reader has seen.
#[derive(Debug, Default)]
pub struct ShownAnswer {
    text: String,
    last_id: String,
    ended: bool,
}

impl ShownAnswer {
    fn take(&mut self, id: Option<String>, data: &Value) {
        if data["type"] == "textResponseChunk" {
            self.text
                .push_str(data["textResponse"].as_str().unwrap_or_default());
        }
        self.last_id = id.unwrap_or(std::mem::take(&mut self.last_id));
        self.ended |= data["type"] == "finalizeResponseStream";
    }

    /// Returns a finding if the shown text is not the beginning of the kept one, or not all of it although its end was shown.
    pub fn judge(&self, turn: &str, kept: &str) -> Option<(Mistake, String)> {
        let length = self.text.len();
        let kept_length = kept.len();
        if !kept.starts_with(&self.text) {
            let sentence = format!(
                "turn {turn}: a reader was shown {length} bytes which are not how the {kept_length} that are kept begin"
            );
            Some((Mistake::NeverSent, sentence))
        } else if self.ended && kept_length != length {
            Some((
                Mistake::Missing,
                format!(
                    "turn {turn}: its end was shown after {length} bytes; {kept_length} are kept"
                ),
            ))
        } else {
            None
        }
    }
}

/// Asks, reads and compares. A question is sent once: twice would be two.
pub async fn talk(arena: &Arena, chance: &mut StdRng, user: &SimulatedUser, session: &str) {
    let mark = arena.ledger().begin(CommandKind::Ask, 0);
    let Some((node, base)) = arena.any_node(chance) else {
        return arena.ledger().settle(mark, CommandOutcome::Unknown);
    };
    let name = {
        let mut ledger = arena.ledger();
        ledger.sending(mark);
        ledger.text(mark)
    };
    let body = json!({"message": format!("Question {name}"), "sessionId": session});
    let request = arena
        .request(Method::POST, &base, "/api/genie/stream-chat", user.by())
        .header("X-Request-Id", &name)
        .json(&body);
    let sent = Instant::now();
    let answered = tokio::time::timeout(OPENS, request.send()).await;
    let Ok(Ok(response)) = answered else {
        return arena.ledger().settle(mark, CommandOutcome::Unknown);
    };
    if response.status() == 500 {
        arena.note_internal(|| format!("the question of command {name}"));
    }
    let Some(turn) = begun(arena, mark, &response) else {
        return;
    };
    if response.status() != 200 {
        return; // the model server failed, and the question is kept
    }
    arena.recovery().good_answer(node, sent, Instant::now());
    // The second reader is another device of the user.
    let mut other_chance = StdRng::seed_from_u64(chance.random());
    let (shown, other) = tokio::join!(
        read_to_the_end(arena, chance, user, &turn, Some(response)),
        read_to_the_end(arena, &mut other_chance, user, &turn, None)
    );
    compare(arena, chance, user, session, turn, [shown, other]).await;
}

/// Reads an answer from its beginning, and goes on wherever the stream broke off.
async fn read_to_the_end(
    arena: &Arena,
    chance: &mut StdRng,
    user: &SimulatedUser,
    turn: &str,
    first: Option<Response>,
) -> ShownAnswer {
    let mut shown = ShownAnswer::default();
    let deadline = Instant::now() + PATIENCE;
    let mut response = first;
    loop {
        if let Some(response) = response {
            let count = match read(&mut shown, chance, response, deadline).await {
                StreamEnd::Ended => return shown,
                StreamEnd::Left => &arena.turns_left,
                StreamEnd::CutOff => &arena.turns_cut,
            };
            AtomicU64::fetch_add(count, 1, Ordering::Relaxed);
        }
        if Instant::now() >= deadline {
            return shown;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        response = resume(arena, chance, user, turn, &shown).await;
    }
}

/// Why a reader stopped reading.
enum StreamEnd {
    /// The turn's last event came.
    Ended,
    /// The reader went away.
    Left,
    CutOff,
}

/// Notes the outcome of the question. Returns the turn that it began.
fn begun(arena: &Arena, mark: CommandMark, response: &Response) -> Option<String> {
    let turn = response
        .headers()
        .get("Genie-Turn")
        .and_then(|turn| turn.to_str().ok())
        .map(str::to_owned);
    let outcome = match (response.status().as_u16(), position_of(response.headers())) {
        (200 | 502, Some(position)) => CommandOutcome::Acknowledged { position },
        (400..=499, _) => CommandOutcome::Refused { clean: true },
        _ => CommandOutcome::Unknown,
    };
    arena.ledger().settle(mark, outcome);
    turn.filter(|_| matches!(outcome, CommandOutcome::Acknowledged { .. }))
}

async fn read(
    shown: &mut ShownAnswer,
    chance: &mut StdRng,
    response: Response,
    deadline: Instant,
) -> StreamEnd {
    let mut stream = EventStream::of(response);
    while let Ok(Some(event)) = timeout_at(deadline, stream.next()).await {
        if let Some(data) = &event.data {
            shown.take(event.id, data);
        }
        if shown.ended {
            return StreamEnd::Ended;
        }
        if chance.random_bool(LEAVES) {
            return StreamEnd::Left;
        }
    }
    StreamEnd::CutOff
}

async fn resume(
    arena: &Arena,
    chance: &mut StdRng,
    user: &SimulatedUser,
    turn: &str,
    shown: &ShownAnswer,
) -> Option<Response> {
    let (_, base) = arena.any_node(chance)?;
    let mut request = arena.request(
        Method::GET,
        &base,
        &format!("/api/genie/turns/{turn}/stream"),
        user.by(),
    );
    if !shown.last_id.is_empty() {
        request = request.header("Last-Event-ID", &shown.last_id);
    }
    let response = tokio::time::timeout(OPENS, request.send())
        .await
        .ok()?
        .ok()?;
    Some(response).filter(|response| response.status() == 200)
}

async fn compare(
    arena: &Arena,
    chance: &mut StdRng,
    user: &SimulatedUser,
    session: &str,
    turn: String,
    shown: [ShownAnswer; 2],
) {
    let deadline = Instant::now() + KEPT;
    let path = format!("/api/genie/sessions/{session}/messages?limit=500");
    while Instant::now() < deadline {
        let read = arena.read(chance, &path, user.by(), None, KEPT).await;
        let kept = read.as_ref().and_then(|(_, json)| {
            let is_the_answer =
                |message: &&Value| message["turnId"] == *turn && message["role"] == "assistant";
            json["data"].as_array()?.iter().find(is_the_answer)?["content"].as_str()
        });
        if let Some(kept) = kept {
            for (count, sentence) in shown.iter().filter_map(|one| one.judge(&turn, kept)) {
                arena.accuse(count, sentence);
            }
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for shown in shown {
        arena.compare_later(turn.clone(), shown);
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// The text that a reader has seen.
    pub fn shown(text: &str, ended: bool) -> ShownAnswer {
        ShownAnswer {
            text: text.to_owned(),
            last_id: String::new(),
            ended,
        }
    }

    #[test]
    fn a_shown_answer_is_the_beginning_of_the_kept_one() {
        for (text, ended, found) in [
            ("", false, None),
            ("Some", false, None),
            ("Some words", true, None),
            ("Some", true, Some(Mistake::Missing)),
            ("Other", false, Some(Mistake::NeverSent)),
            ("Some words more", false, Some(Mistake::NeverSent)),
        ] {
            assert_eq!(
                shown(text, ended)
                    .judge("1", "Some words")
                    .map(|(count, _)| count),
                found,
                "{text} {ended}"
            );
        }
    }
}
