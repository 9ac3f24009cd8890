//! Positions of the log as clients see them (docs/api.md, Everywhere): opaque text. Torture looks inside, to compare them with
//! the log. It has its own copy of the form, so that a server that changes it by mistake is found out.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};

/// The header in which a write answers with its position.
pub const HEADER: &str = "Genie-Position";

pub fn opaque(position: u64) -> String {
    BASE64.encode(format!("p2:0.{position}"))
}

pub fn parse(text: &str) -> Option<u64> {
    let decoded = String::from_utf8(BASE64.decode(text).ok()?).ok()?;
    decoded.strip_prefix("p2:0.")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_survives_its_opaque_form() {
        assert_eq!(opaque(7), "cDI6MC43");
        assert_eq!(parse("cDI6MC43"), Some(7));
        assert_eq!(parse("7"), None);
    }
}
