//! E-mail addresses, read in one place.

use std::fmt;

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

use crate::{refusal::Refusal, typed_text};

/// The longest address, in bytes (RFC 5321, section 4.5.3.1.3).
const MAX_BYTES: usize = 254;
/// Characters that stand in a local part only between quotation marks, which no mailbox of today has. They come
/// from lists and from names around an address.
const NOT_IN_LOCAL_PART: [char; 12] = ['(', ')', '<', '>', '[', ']', ':', ';', ',', '\\', '"', '@'];
/// All of ASCII but letters, digits, `-`, `.` and `_`, which some internal domains have.
const NOT_IN_DOMAIN: AsciiDenyList = AsciiDenyList::new(true, "!\"#$%&'()*+,/:;<=>?@[\\]^`{|}~");

/// An e-mail address. Two spellings of one address are equal in [`EmailAddress::normal`].
#[derive(Clone, PartialEq, Eq)]
pub struct EmailAddress {
    written: String,
    normal: String,
}

impl EmailAddress {
    /// Reads an address as people type and paste it. Refuses text that is none, with the reason.
    pub fn read(text: &str) -> Result<Self, Refusal> {
        let wide: String = text.chars().map(typed_text::ascii_width).collect();
        let address = typed_text::cleaned(&wide);
        let address = bare(&address);
        if address
            .chars()
            .any(|c| typed_text::is_blank(c) || c.is_control())
        {
            return Err(refused("must hold no white space or control characters"));
        }
        let (local, domain) = address
            .rsplit_once('@')
            .filter(|(local, domain)| !local.is_empty() && !domain.is_empty())
            .ok_or_else(|| refused("must be an e-mail address, such as name@example.com"))?;
        if local.contains(NOT_IN_LOCAL_PART) {
            return Err(refused(
                "must be one e-mail address, without a name or brackets around it",
            ));
        }
        let domain = domain.strip_suffix(['.', '\u{3002}']).unwrap_or(domain);
        let ascii = Uts46::new()
            .to_ascii(
                domain.as_bytes(),
                NOT_IN_DOMAIN,
                Hyphens::CheckFirstLast,
                DnsLength::Verify,
            )
            .map_err(|_| refused("must end with a domain, such as example.com, after the `@`"))?;
        let read = Self {
            written: format!("{local}@{domain}"),
            normal: format!("{}@{ascii}", typed_text::cleaned_lower_case(local)),
        };
        if read.written.len() > MAX_BYTES || read.normal.len() > MAX_BYTES {
            return Err(refused("must be at most 254 bytes"));
        }
        Ok(read)
    }

    /// The address as its user writes it, to show and to send mail to.
    pub fn written(&self) -> &str {
        &self.written
    }

    /// The form in which the address is unique: in lower case, with the domain in ASCII (IDNA, UTS 46).
    pub fn normal(&self) -> &str {
        &self.normal
    }

    /// True when the domain has a second spelling, in letters beyond ASCII.
    pub fn has_international_domain(&self) -> bool {
        let domain = self
            .normal
            .rsplit_once('@')
            .map_or("", |(_, domain)| domain);
        domain.split('.').any(|label| label.starts_with("xn--"))
    }

    /// True when both are spellings of one address.
    pub fn is_same(&self, other: &Self) -> bool {
        self.normal == other.normal
    }
}

/// An address is personal: it does not print itself.
impl fmt::Debug for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[e-mail address]")
    }
}

/// The address in a link, or between the brackets that mail programs copy with it.
fn bare(text: &str) -> &str {
    let inner = text
        .strip_prefix('<')
        .and_then(|text| text.strip_suffix('>'));
    let text = inner.unwrap_or(text);
    match text.split_at_checked("mailto:".len()) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("mailto:") => rest,
        _ => text,
    }
}

fn refused(what: &str) -> Refusal {
    Refusal::invalid("email", format!("`email` {what}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normal(text: &str) -> Option<String> {
        EmailAddress::read(text).ok().map(|read| read.normal)
    }

    #[test]
    fn addresses_have_one_normal_form() {
        for (text, expected) in [
            (" Ada+Work@Example.COM ", "ada+work@example.com"),
            ("\u{feff}ada@example.com\n", "ada@example.com"),
            ("\u{202a}ada@example.com\u{202c}", "ada@example.com"),
            ("a\u{200b}d\u{ad}a@exa\u{2060}mple.com", "ada@example.com"),
            ("a\u{200d}da@exam\u{200c}ple.com", "ada@example.com"),
            ("ada\u{3164}@example\u{fe0f}.com", "ada@example.com"),
            ("jose\u{301}@example.com", "jos\u{e9}@example.com"),
            ("JOS\u{c9}@example.com", "jos\u{e9}@example.com"),
            ("ada@b\u{fc}cher.example", "ada@xn--bcher-kva.example"),
            ("ada@bu\u{308}cher.example", "ada@xn--bcher-kva.example"),
            ("ada@XN--BCHER-KVA.example", "ada@xn--bcher-kva.example"),
            ("ada@stra\u{df}e.example", "ada@xn--strae-oqa.example"),
            ("ada@\u{4f8b}\u{3048}\u{3002}jp", "ada@xn--r8jz45g.jp"),
            ("\u{ff41}da\u{ff20}example\u{ff0e}com", "ada@example.com"),
            ("mailto:ada@example.com", "ada@example.com"),
            ("<ada@example.com>", "ada@example.com"),
            ("ada@example.com.", "ada@example.com"),
            ("root@localhost", "root@localhost"),
            ("a..b.@my_host.example", "a..b.@my_host.example"),
        ] {
            assert_eq!(normal(text).as_deref(), Some(expected), "{text:?}");
        }
        let kept = "\u{646}\u{627}\u{645}\u{647}\u{200c}\u{627}\u{6cc}";
        assert_ne!(
            normal(&format!("a@{kept}.example")),
            normal(&format!("a@{}.example", kept.replace('\u{200c}', ""))),
            "a non-joiner that is seen makes another domain"
        );
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason_and_without_the_text() {
        for (text, reason) in [
            ("", "such as name@example.com"),
            ("canary", "such as name@example.com"),
            ("@canary.com", "such as name@example.com"),
            ("canary@", "such as name@example.com"),
            ("\u{200b}@canary.com", "such as name@example.com"),
            ("ca nary@example.com", "no white space"),
            ("canary@exam\u{a0}ple.com", "no white space"),
            ("canary@exam\u{2800}ple.com", "no white space"),
            ("can\0ary@example.com", "control characters"),
            ("a@canary@c", "one e-mail address"),
            ("a@example.com,canary@example.com", "one e-mail address"),
            ("Canary<canary@example.com>", "one e-mail address"),
            ("canary@-.", "domain"),
            ("canary@..", "domain"),
            ("canary@a..b", "domain"),
            ("canary@exa/mple.com", "domain"),
            ("canary@xn--a", "domain"),
            ("canary@\u{202e}", "such as name@example.com"),
            (&format!("canary@{}.com", "a".repeat(64)), "domain"),
            (&format!("{}@example.com", "canary".repeat(50)), "254 bytes"),
        ] {
            let sentence = EmailAddress::read(text).unwrap_err().sentence;
            assert!(sentence.contains(reason), "{text:?}: {sentence}");
            assert!(!sentence.contains("canary"), "{sentence}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}") {
            let _ = EmailAddress::read(&text);
        }

        /// Both forms of an address are the same address.
        #[test]
        fn a_read_address_reads_back(local in "\\PC{1,12}", domain in "[\\PC.]{1,16}") {
            if let Ok(read) = EmailAddress::read(&format!("{local}@{domain}")) {
                for form in [read.written(), read.normal()] {
                    let again = EmailAddress::read(form).unwrap();
                    prop_assert_eq!(again.normal(), read.normal());
                }
                let again = EmailAddress::read(read.written()).unwrap();
                prop_assert_eq!(again.written(), read.written());
            }
        }

        /// Characters that nobody sees make no other address.
        #[test]
        fn invisible_characters_make_no_difference(
            local in "[a-zA-Z0-9.+_-]{1,10}",
            label in "[a-z0-9]{1,10}",
            places in prop::collection::vec((any::<prop::sample::Index>(), invisible()), 1..6),
        ) {
            let plain = format!("{local}@{label}.example");
            let mut text: Vec<char> = plain.chars().collect();
            for (place, c) in places {
                text.insert(place.index(text.len() + 1), c);
            }
            let text: String = text.into_iter().collect();
            prop_assert_eq!(normal(&text), normal(&plain), "{:?}", text);
        }
    }

    fn invisible() -> impl Strategy<Value = char> {
        prop::sample::select(vec![
            '\u{ad}',
            '\u{34f}',
            '\u{61c}',
            '\u{115f}',
            '\u{1160}',
            '\u{17b4}',
            '\u{180e}',
            '\u{200b}',
            '\u{200c}',
            '\u{200d}',
            '\u{200e}',
            '\u{200f}',
            '\u{202a}',
            '\u{202c}',
            '\u{202e}',
            '\u{2060}',
            '\u{2064}',
            '\u{2066}',
            '\u{2069}',
            '\u{206a}',
            '\u{3164}',
            '\u{fe0e}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{ffa0}',
            '\u{fff9}',
            '\u{1d173}',
            '\u{e0001}',
            '\u{e0061}',
            '\u{e0100}',
        ])
    }
}
