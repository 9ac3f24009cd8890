//! The pages on which a user may set a new password (`PASSWORD_RESET_URL_ALLOW_LIST`). A client may choose one of them for
//! its mail's link, and no other address: otherwise a mail from here could lead anywhere.

use secrecy::{ExposeSecret, SecretString};
use url::Url;

/// In bytes.
const LONGEST: usize = 2048;

#[derive(Debug, Clone, Default)]
pub struct ResetPages(Vec<Url>);

impl ResetPages {
    /// Reads a list of addresses, separated by commas. The error completes the setting's name.
    pub fn read(text: &str) -> Result<Self, String> {
        let entries = text
            .split(',')
            .map(str::trim)
            .filter(|entry| !entry.is_empty());
        let pages = (1..).zip(entries).map(|(n, entry)| {
            page(entry)
                .filter(|page| page.query().is_none())
                .ok_or_else(|| {
                    format!(
                        "has an entry, number {n}, that is no address such as https://app.example.com/reset"
                    )
                })
        });
        Ok(Self(pages.collect::<Result<_, _>>()?))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The address, if it is one of the pages. Like Directus it may have a query of its own.
    pub fn allowed(&self, address: &str) -> Option<String> {
        let wanted = page(address)?;
        let mut bare = wanted.clone();
        bare.set_query(None);
        self.0.contains(&bare).then(|| wanted.into())
    }

    /// The address of the link that goes into a mail. `None` when no page is left to lead to.
    pub fn link(&self, chosen: Option<&str>, token: &SecretString) -> Option<SecretString> {
        let page = match chosen {
            Some(chosen) => self.allowed(chosen)?,
            None => self.0.first()?.to_string(),
        };
        let mut link = Url::parse(&page).ok()?;
        link.query_pairs_mut()
            .append_pair("token", token.expose_secret());
        Some(String::from(link).into())
    }
}

/// A web page's address, without a fragment and without a user in it.
fn page(address: &str) -> Option<Url> {
    let url = Url::parse(address)
        .ok()
        .filter(|_| address.len() <= LONGEST)?;
    let is_web = matches!(url.scheme(), "http" | "https");
    let is_plain =
        url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    Some(url).filter(|_| is_web && is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_listed_page_is_a_page_to_lead_to() {
        let pages =
            ResetPages::read("https://app.example/reset, http://localhost:5173/new").unwrap();
        for (asked, page) in [
            ("https://app.example/reset", "https://app.example/reset"),
            ("HTTPS://APP.example:443/reset", "https://app.example/reset"),
            (
                "https://app.example/reset?lang=de",
                "https://app.example/reset?lang=de",
            ),
            (
                "https://app.example/x/../reset",
                "https://app.example/reset",
            ),
            ("http://localhost:5173/new", "http://localhost:5173/new"),
        ] {
            assert_eq!(pages.allowed(asked).as_deref(), Some(page), "{asked}");
        }
        for foreign in [
            "https://evil.example/reset",
            "https://app.example.evil.example/reset",
            "https://app.example@evil.example/reset",
            "https://user@app.example/reset",
            "https://app.example/reset/",
            "https://app.example/reset/../../other",
            "https://app.example/reset#x",
            "http://app.example/reset",
            "https://app.example:8443/reset",
            "//app.example/reset",
            "https:\\\\evil.example\\reset",
            "javascript:alert(1)//https://app.example/reset",
            "/reset",
            "",
            &format!("https://app.example/reset?{}", "x".repeat(LONGEST)),
        ] {
            assert_eq!(pages.allowed(foreign), None, "{foreign}");
        }
        let link = |chosen| {
            pages
                .link(chosen, &"t/k n".into())
                .map(|link| link.expose_secret().to_owned())
        };
        assert_eq!(
            link(None).unwrap(),
            "https://app.example/reset?token=t%2Fk+n"
        );
        assert_eq!(
            link(Some("https://app.example/reset?lang=de")).unwrap(),
            "https://app.example/reset?lang=de&token=t%2Fk+n"
        );
        assert_eq!(link(Some("https://evil.example/")), None);
        assert!(ResetPages::read("").unwrap().is_empty());
        for bad in [
            "reset",
            "ftp://app.example/",
            "https://app.example/?a=b",
            "https://a.example/,x",
        ] {
            assert!(ResetPages::read(bad).is_err(), "{bad}");
        }
    }
}
