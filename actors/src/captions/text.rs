//! The prompts for a caption.

use genie_events::caption::Brief;

use crate::ollama::ModelMessage;

/// The conversation that asks for a caption.
pub fn prompt(brief: &Brief) -> Vec<ModelMessage> {
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
            " Never more than {} characters, whatever the length above says.",
            cap.most(),
        ));
    }
    vec![
        ModelMessage::new(
            "system",
            "You write captions for creators. Answer with the caption alone.",
        ),
        ModelMessage::new("user", wanted),
    ]
}

/// The same conversation after a reply that was too long.
pub fn shorter(mut conversation: Vec<ModelMessage>, reply: &str, cap: usize) -> Vec<ModelMessage> {
    conversation.push(ModelMessage::new("assistant", reply));
    let content = format!("That is too long. Write it again with at most {cap} characters.");
    conversation.push(ModelMessage::new("user", content));
    conversation
}

#[cfg(test)]
mod tests {
    use genie_events::caption::{Length, Platform};

    use super::*;

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
