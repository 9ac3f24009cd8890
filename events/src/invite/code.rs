//! Invite codes, read in one place.

use std::fmt;

use crate::{refusal::Refusal, typed_text};

/// An invite's code. White space, hyphens, and upper and lower case make no difference.
#[derive(Clone)]
pub struct InviteCode {
    written: String,
    normal: String,
}

impl InviteCode {
    /// Reads a code as people type and paste it.
    pub fn read(text: &str) -> Result<Self, Refusal> {
        let normal = typed_text::code(text).to_lowercase();
        if normal.is_empty() {
            return Err(Refusal::invalid(
                "inviteCode",
                "`inviteCode` must hold the invite's code",
            ));
        }
        let written = typed_text::cleaned(text);
        Ok(Self { written, normal })
    }

    /// A code that was made, in its normal form.
    pub fn made(code: String) -> Self {
        Self {
            written: code.clone(),
            normal: code,
        }
    }

    /// The code as its maker writes it, to show it to administrators.
    pub fn written(&self) -> &str {
        &self.written
    }

    /// The form in which codes are compared.
    pub fn normal(&self) -> &str {
        &self.normal
    }
}

/// A code lets its holder register: it does not print itself.
impl fmt::Debug for InviteCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[invite code]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_taken_as_screens_and_keyboards_give_it() {
        for text in [
            "k7q23m9x",
            " K7Q2-3M9X\n",
            "k7q2 3m9x",
            "k7q2\u{2013}3m9x",
            "k7q2\u{a0}3m9x",
            "\u{feff}k7q2\u{ad}3m9x",
            "\u{ff4b}7\u{ff51}2\u{2011}3m9x",
            "K\u{667}q\u{662}\u{663}m\u{669}x",
        ] {
            assert_eq!(
                InviteCode::read(text).unwrap().normal(),
                "k7q23m9x",
                "{text:?}"
            );
        }
        for empty in ["", " - ", "\u{200b}"] {
            assert!(InviteCode::read(empty).is_err());
        }
        assert_eq!(
            format!("{:?}", InviteCode::read("canary").unwrap()),
            "[invite code]"
        );
    }
}
