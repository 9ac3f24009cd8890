//! How many tokens a text has. Only the model knows, and tells it after the answer; so it is estimated, and the estimate
//! is corrected by what the model counted.

use parking_lot::Mutex;

/// The tokens of a message's role and marks.
pub(super) const PER_MESSAGE: usize = 4;
/// ASCII characters of a token, in English text.
const ASCII_PER_TOKEN: usize = 4;
/// A count below this part of the estimate tells nothing: some servers leave out what they had read before.
const LEAST: f64 = 0.5;
/// No tokenizer is so far above the estimate.
const MOST: f64 = 4.0;
/// The weight of a lower count against those before it. A higher one counts at once: a conversation that is too long
/// would lose its beginning at the model server without a word.
const WEIGHT: f64 = 0.25;

/// The estimated tokens of a text: a quarter of its ASCII characters, and each other character.
pub(super) fn estimate(text: &str) -> usize {
    let ascii = text.bytes().filter(u8::is_ascii).count();
    let others = text
        .chars()
        .filter(|character| !character.is_ascii())
        .count();
    ascii.div_ceil(ASCII_PER_TOKEN) + others
}

/// The tokens that a model counts for each estimated one.
#[derive(Debug)]
pub(crate) struct TokenScale(Mutex<f64>);

impl Default for TokenScale {
    fn default() -> Self {
        Self(Mutex::new(1.0))
    }
}

impl TokenScale {
    /// The estimated tokens that make so many of the model's.
    pub fn estimated(&self, tokens: u32) -> usize {
        (f64::from(tokens) / *self.0.lock()) as usize
    }

    /// Takes note of the model's count for a prompt.
    pub fn learn(&self, estimated: usize, counted: u64) {
        let ratio = counted as f64 / estimated.max(1) as f64;
        if ratio < LEAST {
            return;
        }
        let ratio = ratio.min(MOST);
        let mut scale = self.0.lock();
        let step = if ratio > *scale { 1.0 } else { WEIGHT };
        *scale += (ratio - *scale) * step;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_estimated_by_its_characters() {
        for (text, tokens) in [
            ("", 0),
            ("Hello", 2),
            ("Hello you", 3),
            ("你好", 2),
            ("你好!", 3),
        ] {
            assert_eq!(estimate(text), tokens, "{text}");
        }
    }

    #[test]
    fn the_estimate_is_corrected_by_what_the_model_counts() {
        let scale = TokenScale::default();
        assert_eq!(scale.estimated(1000), 1000);
        scale.learn(1000, 2000);
        assert_eq!(scale.estimated(1000), 500, "at once when there are more");
        scale.learn(1000, 1000);
        assert_eq!(
            scale.estimated(1750),
            1000,
            "step by step when there are fewer"
        );
        scale.learn(1000, 40);
        assert_eq!(scale.estimated(1750), 1000, "the rest was read before");
        scale.learn(0, u64::MAX);
        assert_eq!(scale.estimated(1000), 250);
    }
}
