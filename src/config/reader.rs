//! Settings of each form, read and checked; what is wrong is gathered, so that all of it is told at once.

use std::{collections::BTreeMap, time::Duration};

use ipnet::IpNet;
use secrecy::SecretString;

use super::SETTINGS;
use crate::{identity::directus, rate_limiter::Rate, roles};

pub(super) struct Reader<'a> {
    pub given: &'a BTreeMap<String, String>,
    pub wrong: Vec<String>,
}

impl Reader<'_> {
    /// An empty value counts as absent, as in most `.env` files.
    pub(super) fn text(&self, name: &'static str) -> String {
        let default = SETTINGS
            .iter()
            .find(|setting| setting.name == name)
            .and_then(|setting| setting.default)
            .unwrap_or_default();
        self.given
            .get(name)
            .filter(|value| !value.is_empty())
            .cloned()
            .unwrap_or_else(|| default.to_owned())
    }

    pub(super) fn secret(
        &mut self,
        name: &'static str,
        is_good: impl Fn(&str) -> bool,
        must: &str,
    ) -> Option<SecretString> {
        let value = self.given.get(name).filter(|value| !value.is_empty())?;
        if !is_good(value) {
            self.wrong.push(format!("{name} {must}"));
        }
        Some(SecretString::from(value.clone()))
    }

    pub(super) fn number(&mut self, name: &'static str, least: u64, most: u64) -> u64 {
        match self.text(name).parse::<u64>() {
            Ok(number) if (least..=most).contains(&number) => number,
            _ => {
                self.wrong.push(format!(
                    "{name} must be a whole number from {least} to {most}"
                ));
                least
            }
        }
    }

    /// `0`, or a whole number of seconds, minutes, hours or days, up to ten years.
    pub(super) fn duration(&mut self, name: &'static str) -> Duration {
        let text = self.text(name);
        let seconds = match text.char_indices().last() {
            _ if text == "0" => Some(0),
            Some((end, unit)) => [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)]
                .into_iter()
                .find(|(known, _)| *known == unit)
                .and_then(|(_, seconds)| text[..end].parse::<u64>().ok()?.checked_mul(seconds)),
            None => None,
        };
        match seconds.filter(|seconds| *seconds <= 3650 * 86_400) {
            Some(seconds) => Duration::from_secs(seconds),
            None => {
                self.wrong.push(format!("{name} must be 0, or a number and a unit such as 7d, with s, m, h or d, up to 3650d"));
                Duration::ZERO
            }
        }
    }

    pub(super) fn one_of(&mut self, name: &'static str, words: &[&'static str]) -> String {
        let value = self.text(name);
        if !words.contains(&value.as_str()) {
            self.wrong
                .push(format!("{name} must be one of: {}", words.join(", ")));
        }
        value
    }

    /// `*` alone, or origins as browsers send them: scheme and host, no path.
    pub(super) fn origins(&mut self, name: &'static str) -> Vec<String> {
        let text = self.text(name);
        let origins: Vec<String> = text
            .split(',')
            .map(str::trim)
            .filter(|one| !one.is_empty())
            .map(str::to_owned)
            .collect();
        let is_origin = |origin: &String| {
            let rest = origin
                .strip_prefix("https://")
                .or_else(|| origin.strip_prefix("http://"));
            rest.is_some_and(|host| {
                !host.is_empty()
                    && host
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b))
            })
        };
        if origins.is_empty() || !(origins == ["*"] || origins.iter().all(is_origin)) {
            self.wrong.push(format!(
                "{name} must be * or a list of origins such as https://app.example.com"
            ));
        }
        origins
    }

    pub(super) fn roles(&mut self, name: &'static str) -> Vec<String> {
        let text = self.text(name);
        let roles: Vec<String> = text
            .split(',')
            .map(str::trim)
            .filter(|role| !role.is_empty())
            .map(str::to_owned)
            .collect();
        if !roles.iter().all(|role| roles::has_the_form_of_one(role)) {
            self.wrong.push(format!(
                "{name} must be a list of names of at most 64 bytes, separated by commas"
            ));
        }
        roles
    }

    /// All about Directus, which is there when it has an address.
    pub(super) fn directus(&mut self) -> Option<directus::DirectusSettings> {
        let settings = directus::DirectusSettings {
            url: self.text("DIRECTUS_URL"),
            admin_token: self.secret(
                "DIRECTUS_ADMIN_TOKEN",
                |token| !token.chars().any(char::is_control),
                "must be one line",
            ),
            secret: self.secret("DIRECTUS_SECRET", |_| true, ""),
            creator_role: self.text("DIRECTUS_CREATOR_ROLE"),
            reservation: Duration::from_secs(self.number("GENIE_RESERVATION_SECONDS", 30, 86_400)),
        };
        if settings.url.is_empty() {
            return None;
        }
        if !is_http(&settings.url) {
            self.wrong
                .push("DIRECTUS_URL must begin with http:// or https://".to_owned());
        }
        Some(settings)
    }

    pub(super) fn bucket(&mut self, name: &'static str) -> String {
        let value = self.text(name);
        let has_bucket = value
            .strip_prefix("s3://")
            .is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'));
        if !(value.is_empty() || has_bucket) {
            self.wrong
                .push(format!("{name} must be s3://BUCKET or s3://BUCKET/PREFIX"));
        }
        value
    }

    /// `off` is none.
    pub(super) fn rate(&mut self, name: &'static str) -> Option<Rate> {
        let text = self.text(name);
        let rate = Rate::read(&text);
        if rate.is_none() && text != "off" {
            self.wrong.push(format!("{name} must be off, or a number and a time such as 300/1m, with s, m or h, up to 24h"));
        }
        rate
    }

    pub(super) fn networks(&mut self, name: &'static str) -> Vec<IpNet> {
        let text = self.text(name);
        let read = |one: &str| {
            one.parse::<IpNet>()
                .ok()
                .or_else(|| one.parse::<std::net::IpAddr>().ok().map(IpNet::from))
        };
        let networks: Option<Vec<IpNet>> = text
            .split(',')
            .map(str::trim)
            .filter(|one| !one.is_empty())
            .map(read)
            .collect();
        networks.unwrap_or_else(|| {
            self.wrong.push(format!(
                "{name} must be a list of addresses or networks such as 10.0.0.0/8"
            ));
            Vec::new()
        })
    }

    pub(super) fn url(&mut self, name: &'static str) -> String {
        let value = self.text(name);
        if !is_http(&value) {
            self.wrong
                .push(format!("{name} must begin with http:// or https://"));
        }
        value
    }
}

/// Names that begin with `GENIE_` and are none of ours: a typing error must not go unnoticed.
pub(super) fn unknown_names(given: &BTreeMap<String, String>) -> Vec<String> {
    let known = || SETTINGS.iter().map(|setting| setting.name);
    let ours = |name: &&String| name.starts_with("GENIE_") && !name.starts_with("GENIE_TEST_");
    let unknown = given
        .keys()
        .filter(ours)
        .filter(|name| !known().any(|known| known == name.as_str()));
    let sentence = |name: &String| {
        let distance = |known: &&'static str| strsim::damerau_levenshtein(known, name);
        let nearest = known().min_by_key(distance).unwrap_or_default();
        format!("{name} is not a setting; did you mean {nearest}? `genie config` lists them all")
    };
    unknown.map(sentence).collect()
}

pub(super) fn is_http(url: &str) -> bool {
    url.starts_with("http://") || url.starts_with("https://")
}
