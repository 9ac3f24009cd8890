//! Reads and checks values, by the form of their setting. It collects all faults, so that one start
//! reports them all.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    time::Duration,
};

use genie_actors::{ModelProfile, outbound::ProxyUse};
use genie_events::InviteCode;
use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};

use super::{
    model_options,
    settings::{self, Form, SETTINGS, Setting},
};
use crate::{
    credential_import::original::OriginalKey, identity::directus, origins::AllowedOrigins,
    password_mail::MailServer, rate_limiter::Rate, reset_pages::ResetPages, roles,
};

/// Addresses of one setting.
const MAX_URLS: usize = 64;
/// The longest system prompt, in bytes.
const MAX_PROMPT: usize = 16_384;
/// A century.
const MAX_DAYS: u64 = 36_525;

pub(super) struct Reader<'a> {
    pub given: &'a BTreeMap<String, String>,
    pub wrong: Vec<String>,
}

impl Reader<'_> {
    /// An empty value counts as absent, as in most `.env` files.
    pub(super) fn text(&self, setting: Setting) -> String {
        self.given
            .get(setting.name)
            .filter(|value| !value.is_empty())
            .cloned()
            .unwrap_or_else(|| setting.default.to_owned())
    }

    pub(super) fn path(&self, setting: Setting) -> Option<PathBuf> {
        Some(self.text(setting))
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
    }

    fn wrong(&mut self, setting: Setting, must: &str) {
        self.wrong.push(format!("{} {must}", setting.name));
    }

    pub(super) fn secret(
        &mut self,
        setting: Setting,
        is_good: impl Fn(&str) -> bool,
        must: &str,
    ) -> Option<SecretString> {
        let value = self
            .given
            .get(setting.name)
            .filter(|value| !value.is_empty())?;
        if !is_good(value) {
            self.wrong(setting, must);
        }
        Some(SecretString::from(value.clone()))
    }

    pub(super) fn postgres(&mut self, setting: Setting) -> Option<SecretString> {
        let is_postgres =
            |url: &str| url.starts_with("postgres://") || url.starts_with("postgresql://");
        self.secret(setting, is_postgres, "must begin with postgres://")
    }

    pub(super) fn invite(&mut self, setting: Setting) -> Option<InviteCode> {
        let code = |text: &str| {
            let code = InviteCode::read(text).ok()?;
            (4..=200).contains(&code.normal().len()).then_some(code)
        };
        let must = "must have 4 to 200 letters and digits";
        let text = self.secret(setting, |text| code(text).is_some(), must)?;
        code(text.expose_secret())
    }

    pub(super) fn original_key(&mut self, setting: Setting) -> Option<SecretString> {
        let is_key = |key: &str| OriginalKey::read(&SecretString::from(key)).is_some();
        self.secret(setting, is_key, "must be 32 bytes in base64")
    }

    pub(super) fn secret_url(&mut self, setting: Setting) -> Option<SecretString> {
        self.secret(setting, is_http, "must begin with http:// or https://")
    }

    pub(super) fn forgotten_file(&self) -> PathBuf {
        self.path(settings::GENIE_FORGOTTEN_FILE)
            .unwrap_or_else(|| PathBuf::from(self.text(settings::GENIE_DATA_DIR)).join("forgotten"))
    }

    pub(super) fn number(&mut self, setting: Setting) -> u64 {
        let (least, most) = match setting.form {
            Form::Number { least, most, .. } => (least, most),
            _ => (0, u64::MAX),
        };
        match self.text(setting).parse::<u64>() {
            Ok(number) if (least..=most).contains(&number) => number,
            _ => {
                self.wrong(
                    setting,
                    &format!("must be a whole number from {least} to {most}"),
                );
                least
            }
        }
    }

    pub(super) fn millis(&mut self, setting: Setting) -> Duration {
        Duration::from_millis(self.number(setting))
    }

    pub(super) fn seconds(&mut self, setting: Setting) -> Duration {
        Duration::from_secs(self.number(setting))
    }

    pub(super) fn days(&mut self, setting: Setting) -> Duration {
        Duration::from_secs(self.number(setting) * 86_400)
    }

    /// `off`, or a whole number of days.
    pub(super) fn days_or_off(&mut self, setting: Setting) -> Option<Duration> {
        let days = self.count(setting)? as u64;
        Some(Duration::from_secs(days.min(MAX_DAYS) * 86_400))
    }

    /// `0`, or a whole number of seconds, minutes, hours or days, up to ten years.
    pub(super) fn duration(&mut self, setting: Setting) -> Duration {
        let text = self.text(setting);
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
                self.wrong(
                    setting,
                    "must be 0, or a number and a unit such as 7d, with s, m, h or d, up to 3650d",
                );
                Duration::ZERO
            }
        }
    }

    /// True when the value of a setting of two words is `word`.
    pub(super) fn is(&mut self, setting: Setting, word: &str) -> bool {
        let value = self.text(setting);
        if let Form::Words(words) = setting.form
            && !words.contains(&value.as_str())
        {
            self.wrong(setting, &format!("must be one of: {}", words.join(", ")));
        }
        value == word
    }

    pub(super) fn origins(&mut self, setting: Setting) -> AllowedOrigins {
        match AllowedOrigins::read(&self.text(setting)) {
            Ok(origins) => origins,
            Err(must) => {
                self.wrong(setting, &must);
                AllowedOrigins::Listed(vec![])
            }
        }
    }

    pub(super) fn roles(&mut self, setting: Setting) -> Vec<String> {
        let text = self.text(setting);
        let roles: Vec<String> = text
            .split(',')
            .map(str::trim)
            .filter(|role| !role.is_empty())
            .map(str::to_owned)
            .collect();
        if !roles.iter().all(|role| roles::read(role).is_some()) {
            self.wrong(
                setting,
                "must be a list of names of at most 64 bytes, separated by commas",
            );
        }
        roles
    }

    /// The settings of Directus; `None` without a URL.
    pub(super) fn directus(&mut self) -> Option<directus::DirectusSettings> {
        let settings = directus::DirectusSettings {
            proxies: self.proxies(),
            url: self.text(settings::DIRECTUS_URL),
            admin_token: self.secret(
                settings::DIRECTUS_ADMIN_TOKEN,
                |token| !token.chars().any(char::is_control),
                "must be one line",
            ),
            secret: self.secret(settings::DIRECTUS_SECRET, |_| true, ""),
            creator_role: self.text(settings::DIRECTUS_CREATOR_ROLE),
            reservation: self.seconds(settings::GENIE_RESERVATION_SECONDS),
        };
        if settings.url.is_empty() {
            return None;
        }
        if !is_http(&settings.url) {
            self.wrong(
                settings::DIRECTUS_URL,
                "must begin with http:// or https://",
            );
        }
        Some(settings)
    }

    /// A mail server is of use only with a sender and a page to lead to.
    pub(super) fn mail(&mut self) -> Option<MailServer> {
        let url = self.secret(settings::SMTP_URL, |_| true, "")?;
        if self
            .text(settings::PASSWORD_RESET_URL_ALLOW_LIST)
            .is_empty()
        {
            self.wrong(
                settings::PASSWORD_RESET_URL_ALLOW_LIST,
                "is missing; SMTP_URL needs a page that a mail's link leads to",
            );
        }
        match MailServer::read(&url, &self.text(settings::MAIL_FROM)) {
            Ok(server) => Some(server),
            Err(wrong) => {
                self.wrong.push(wrong);
                None
            }
        }
    }

    pub(super) fn reset_pages(&mut self) -> ResetPages {
        let setting = settings::PASSWORD_RESET_URL_ALLOW_LIST;
        ResetPages::read(&self.text(setting)).unwrap_or_else(|must| {
            self.wrong(setting, &must);
            ResetPages::default()
        })
    }

    pub(super) fn proxies(&mut self) -> ProxyUse {
        if self.is(settings::GENIE_PROXY_LOOPBACK, "on") {
            ProxyUse::Everything
        } else {
            ProxyUse::OtherMachines
        }
    }

    /// Whoever knows it may do nearly everything, and it may be guessed at for ever.
    pub(super) fn shared_secret(&mut self) -> Option<SecretString> {
        const LEAST: usize = 32;
        let may_be_short = self.is(settings::GENIE_ALLOW_SHORT_SECRET, "on");
        // As a header carries it.
        let is_whole =
            |secret: &str| secret.trim() == secret && !secret.chars().any(char::is_control);
        self.secret(
            settings::RBAC_SYNC_WEBHOOK_SECRET,
            |secret| is_whole(secret) && (may_be_short || secret.chars().count() >= LEAST),
            "must have at least 32 characters, and no white space at its ends and no control characters, which a header cannot carry; `openssl rand -hex 32` makes one (GENIE_ALLOW_SHORT_SECRET=on lets tests use a shorter one)",
        )
    }

    pub(super) fn bucket(&mut self, setting: Setting) -> String {
        let value = self.text(setting);
        let has_bucket = value
            .strip_prefix("s3://")
            .is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'));
        if !(value.is_empty() || has_bucket) {
            self.wrong(setting, "must be s3://BUCKET or s3://BUCKET/PREFIX");
        }
        value
    }

    /// A rate; `None` for `off`.
    pub(super) fn rate(&mut self, setting: Setting) -> Option<Rate> {
        let text = self.text(setting);
        let rate = Rate::read(&text);
        if rate.is_none() && text != "off" {
            self.wrong(
                setting,
                "must be off, or a number and a time such as 300/1m, with s, m or h, up to 24h",
            );
        }
        rate
    }

    /// A number from 1; `None` for `off`.
    pub(super) fn count(&mut self, setting: Setting) -> Option<usize> {
        let text = self.text(setting);
        if text == "off" {
            return None;
        }
        let count = text.parse().ok().filter(|count| *count > 0);
        if count.is_none() {
            self.wrong(setting, "must be off, or a whole number from 1");
        }
        count
    }

    pub(super) fn networks(&mut self, setting: Setting) -> Vec<IpNet> {
        let text = self.text(setting);
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
            self.wrong(
                setting,
                "must be a list of addresses or networks such as 10.0.0.0/8",
            );
            Vec::new()
        })
    }

    /// The names of models that programs may ask for.
    pub(super) fn models(&mut self) -> Vec<String> {
        let listed = self.text(settings::CHAT_MODELS);
        let names = listed.split(',').map(str::trim).map(str::to_owned);
        let names: Vec<String> = names.filter(|name| !name.is_empty()).collect();
        if names.is_empty() {
            return vec![self.text(settings::OLLAMA_MODEL)];
        }
        names
    }

    /// One address or more.
    pub(super) fn system_prompt(&mut self) -> String {
        let prompt = self.text(settings::CHAT_SYSTEM_PROMPT);
        if prompt.len() > MAX_PROMPT {
            self.wrong(
                settings::CHAT_SYSTEM_PROMPT,
                "must have at most 16384 bytes",
            );
        }
        prompt
    }

    pub(super) fn model_options(&mut self) -> HashMap<String, ModelProfile> {
        let setting = settings::CHAT_MODEL_OPTIONS;
        model_options::read(&self.text(setting)).unwrap_or_else(|wrong| {
            let must = format!("must be a JSON object of models and their options: {wrong}");
            self.wrong(setting, &must);
            HashMap::new()
        })
    }

    pub(super) fn urls(&mut self, setting: Setting) -> Vec<String> {
        let value = self.text(setting);
        let urls: Vec<String> = value.split(',').map(|url| url.trim().to_owned()).collect();
        if !urls.iter().all(|url| is_http(url)) {
            self.wrong(
                setting,
                "must be addresses that begin with http:// or https://, separated by commas",
            );
        }
        if urls.len() > MAX_URLS {
            self.wrong(setting, "must be at most 64 addresses");
        }
        urls
    }

    pub(super) fn url(&mut self, setting: Setting) -> String {
        let value = self.text(setting);
        if !is_http(&value) {
            self.wrong(setting, "must begin with http:// or https://");
        }
        value
    }
}

/// A warning for each `GENIE_*` that is not a setting, so that a misspelt name is noticed. The name
/// may belong to another program, such as a script's `GENIE_BIN`, so it does not stop the start.
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
        format!(
            "{name} is not a setting and is ignored; did you mean {nearest}? `genie config` lists them all"
        )
    };
    unknown.map(sentence).collect()
}

fn is_http(url: &str) -> bool {
    url.starts_with("http://") || url.starts_with("https://")
}
