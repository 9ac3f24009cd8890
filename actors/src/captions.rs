//! One caption, from its turn at the model server to its end: what the model is asked, and what is made of its reply.

use std::time::Duration;

use genie_events::{
    CaptionId, Metadata, User, UserCommand, UserId,
    caption::{Brief, WrittenCaption},
    chat::Failure,
};
use genie_log::leases::LeaseRow;
use genie_log::{Epoch, Work, leases::LeaseKind};
use tracing::error;

use crate::{
    chats::{died, drop_own_lease, fitting, interrupted, keep_asking, took_too_long},
    model_queue::Class,
    ollama::{Frame, Message},
    supervisor::{Run, Supervisor},
    users::{Done, Plan},
};

/// The longest caption that is read, in bytes; far above any platform's cap.
const MAX_CAPTION_BYTES: usize = 16 * 1024;
/// Tokens that a model may write for a caption; eight long sentences take half of them.
const CAPTION_TOKENS: u32 = 512;
/// How long a caption may take once it is its turn, in both its tries.
const CAPTION_DEADLINE: Duration = Duration::from_secs(300);

#[derive(Debug, Clone)]
pub(crate) struct CaptionTask {
    pub caption: CaptionId,
    pub user: UserId,
    pub metadata: Metadata,
    pub run: Run,
    /// The epoch in which alone it may be ended, when it was another node's.
    pub office: Option<Epoch>,
}

/// Writes a caption, once more when the first one is too long, and cuts what is too long even then.
pub(crate) async fn write_caption(
    supervisor: Supervisor,
    task: CaptionTask,
    brief: Brief,
) -> Result<WrittenCaption, Failure> {
    let mut place = supervisor.line_up(&task.caption.to_string(), Class::Caption, task.user);
    let _pass = tokio::select! {
        () = task.run.over() => return Err(interrupted()),
        pass = &mut place.go => pass.map_err(|_| died())?,
    };
    tokio::select! {
        () = task.run.over() => Err(interrupted()),
        () = tokio::time::sleep(CAPTION_DEADLINE) => Err(took_too_long()),
        written = ask_for_caption(&supervisor, &brief) => written,
    }
}

async fn ask_for_caption(
    supervisor: &Supervisor,
    brief: &Brief,
) -> Result<WrittenCaption, Failure> {
    let model = &supervisor.0.settings.caption_model;
    let conversation = prompt(brief);
    let mut text = clean(&whole_answer(supervisor, model, &conversation).await?);
    let cap = brief.platform.cap();
    if let Some(cap) = cap.filter(|cap| is_too_long(&text, *cap)) {
        let shorter = shorter(conversation, &text, cap);
        let again = clean(&whole_answer(supervisor, model, &shorter).await?);
        if !again.is_empty() {
            text = again;
        }
    }
    let cut = cap.map_or_else(|| text.clone(), |cap| cut(&text, cap));
    match cut.is_empty() {
        true => Err(Failure {
            code: "ollama_failed".into(),
            sentence: "The model wrote nothing; try again".into(),
        }),
        false => Ok(WrittenCaption {
            truncated: cut != text,
            text: cut,
            model: model.clone(),
        }),
    }
}

async fn whole_answer(
    supervisor: &Supervisor,
    model: &str,
    conversation: &[Message],
) -> Result<String, Failure> {
    let mut stream = supervisor
        .0
        .ollama
        .chat(model, conversation, CAPTION_TOKENS)
        .await?;
    let (mut whole, mut room) = (String::new(), MAX_CAPTION_BYTES);
    loop {
        let (text, is_done) = match stream.next().await? {
            Frame::Text(text) => (text, false),
            Frame::Done { text, .. } => (text, true),
        };
        let fitting = fitting(&text, &mut room);
        whole.push_str(fitting);
        if is_done || fitting.len() < text.len() {
            return Ok(whole); // dropping the stream stops the model
        }
    }
}

/// Writes a caption's end, however long the store is away, and tells who waits for it.
pub(crate) async fn end_caption(
    supervisor: &Supervisor,
    task: &CaptionTask,
    written: Result<WrittenCaption, Failure>,
) {
    let (caption, id, office) = (task.caption, task.caption.to_string(), task.office);
    if task.run.lost.is_cancelled() {
        return supervisor.forsake_caption(caption); // another node has it
    }
    let command = UserCommand::FinishCaption(caption, written.clone());
    let plan = {
        let id = id.clone();
        move |state: &User, now| {
            let changes = state.decide(now, command.clone())?;
            let mut work = vec![Work::Lease(LeaseRow::Drop {
                kind: LeaseKind::Caption,
                id: id.clone(),
            })];
            work.extend(office.map(Work::OnlyInEpoch));
            Ok(Plan {
                changes,
                work,
                ..Plan::default()
            })
        }
    };
    match keep_asking(supervisor, task.user, &task.metadata, plan).await {
        Ok(Done { changes, .. }) if changes.is_empty() => {
            // It had an end already, which is not this one.
            supervisor.forsake_caption(caption);
            drop_own_lease(supervisor, LeaseKind::Caption, &id).await;
        }
        Ok(Done { position, .. }) => {
            let end = written
                .map(|written| (written, position))
                .map_err(|failure| (failure, position));
            supervisor.tell_caption(caption, end);
        }
        Err(error) => {
            error!(%error, caption.id = %caption, "the end of caption `{caption}` can't be written");
            supervisor.forsake_caption(caption);
        }
    }
}

/// The conversation that asks for a caption.
pub fn prompt(brief: &Brief) -> Vec<Message> {
    let mut wanted = format!(
        "Write one caption for {}: {}. Tone: {}. Topic: {}. Length: {}.",
        brief.platform.as_str(),
        brief.platform.style(),
        brief.tone,
        brief.topic,
        brief.length.sentences(),
    );
    if let Some(username) = &brief.platform_username {
        wanted.push_str(&format!(" It is posted by {username}."));
    }
    if let Some(cap) = brief.platform.cap() {
        wanted.push_str(&format!(
            " Never more than {cap} characters, whatever the length above says."
        ));
    }
    vec![
        Message {
            role: "system",
            content: "You write captions for creators. Answer with the caption alone.".into(),
        },
        Message {
            role: "user",
            content: wanted,
        },
    ]
}

/// The same conversation after a reply that was too long.
pub fn shorter(mut conversation: Vec<Message>, reply: &str, cap: usize) -> Vec<Message> {
    conversation.push(Message {
        role: "assistant",
        content: reply.to_owned(),
    });
    let content = format!("That is too long. Write it again with at most {cap} characters.");
    conversation.push(Message {
        role: "user",
        content,
    });
    conversation
}

/// Takes away what small models put around a caption: white space, a preamble that ends in a colon, quotes.
pub fn clean(reply: &str) -> String {
    let mut text = reply.trim();
    if let Some((first, rest)) = text.split_once(':')
        && is_preamble(first)
        && !rest.trim().is_empty()
    {
        text = rest.trim();
    }
    for (open, close) in [('"', '"'), ('“', '”'), ('\'', '\''), ('«', '»'), ('`', '`')] {
        let inner = text
            .strip_prefix(open)
            .and_then(|rest| rest.strip_suffix(close));
        if let Some(inner) = inner.filter(|inner| !inner.contains([open, close])) {
            text = inner.trim();
        }
    }
    text.to_owned()
}

fn is_preamble(words: &str) -> bool {
    let words = words.trim().to_lowercase();
    let opening = [
        "sure",
        "here",
        "certainly",
        "of course",
        "okay",
        "caption",
        "absolutely",
    ];
    words.len() <= 100
        && !words.contains('\n')
        && opening.iter().any(|opening| words.starts_with(opening))
}

/// Whether the text passes the cap, in characters.
pub fn is_too_long(text: &str, cap: usize) -> bool {
    text.chars().count() > cap
}

/// Cuts at a word, so that at most `cap` characters stay; inside the word when the first one is longer than that.
pub fn cut(text: &str, cap: usize) -> String {
    if !is_too_long(text, cap) {
        return text.to_owned();
    }
    let end = text
        .char_indices()
        .nth(cap)
        .map_or(text.len(), |(at, _)| at);
    let kept = &text[..end];
    let at_word_end = text[end..].starts_with(char::is_whitespace);
    let kept = match kept.rfind(char::is_whitespace) {
        Some(space) if !at_word_end => &kept[..space],
        _ => kept,
    };
    kept.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use genie_events::caption::{Length, Platform};

    use super::*;

    #[test]
    fn quotes_and_preambles_go_and_the_words_stay() {
        for (reply, caption) in [
            ("  \"Hello there\"\n", "Hello there"),
            ("Sure! Here's a playful caption: \"Hi you\"", "Hi you"),
            (
                "Here is your caption:\nLine one\nLine two",
                "Line one\nLine two",
            ),
            ("Tonight: something new", "Tonight: something new"),
            ("She said \"hi\" and \"bye\"", "She said \"hi\" and \"bye\""),
            ("\"hi\" and \"bye\"", "\"hi\" and \"bye\""),
            ("Sure:", "Sure:"),
        ] {
            assert_eq!(clean(reply), caption);
        }
    }

    #[test]
    fn a_cut_is_at_a_word_and_never_inside_a_character() {
        assert_eq!(cut("one two three", 9), "one two");
        assert_eq!(cut("one two three", 7), "one two");
        assert_eq!(cut("one two", 7), "one two");
        assert_eq!(cut("你好世界", 2), "你好");
        assert_eq!(cut("", 3), "");
    }

    #[test]
    fn the_platforms_cap_is_told() {
        let brief = Brief {
            platform: Platform::Snapchat,
            tone: "playful".into(),
            topic: "news".into(),
            length: Length::Long,
            platform_username: None,
        };
        assert!(prompt(&brief)[1].content.contains("30 characters"));
    }
}
