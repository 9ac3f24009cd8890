//! Everything from the environment (and `.env`, which the environment overrides), read once and checked.
//! This is the only file that knows the environment.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use genie_log::store::Target;
use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};

use crate::{blobs::Place, identity::directus, import::original::OriginalKey, rate::Rate, roles};

/// One setting: its name, its default, what it is for.
pub struct Setting {
    pub name: &'static str,
    default: Option<&'static str>,
    is_secret: bool,
    pub about: &'static str,
}

const fn plain(name: &'static str, default: &'static str, about: &'static str) -> Setting {
    Setting { name, default: Some(default), is_secret: false, about }
}

const fn secret(name: &'static str, about: &'static str) -> Setting {
    Setting { name, default: None, is_secret: true, about }
}

/// All settings, in the order that `genie config` prints them.
pub const SETTINGS: &[Setting] = &[
    plain("HOST", "127.0.0.1", "address to listen on"),
    plain("SERVER_PORT", "3001", "port to listen on; 0 takes a free one"),
    secret("DATABASE_URL", "postgres://... ; without it an SQLite file in GENIE_DATA_DIR"),
    plain("GENIE_DATA_DIR", "data", "folder of the embedded store and the master key"),
    plain(
        "GENIE_BLOBS_URL",
        "",
        "bucket for uploaded files, as s3://BUCKET/PREFIX, reached by AWS_*; without it a folder in GENIE_DATA_DIR",
    ),
    plain("MAX_UPLOAD_BYTES", "536870912", "the largest upload"),
    secret(
        "GENIE_MASTER_KEYS",
        "ring of master keys, `id:base64` separated by commas; `genie keys rotate` makes the first current",
    ),
    plain("GENIE_MASTER_KEYS_FILE", "", "file of the ring, mode 0600; without either, GENIE_DATA_DIR/master.key"),
    secret("GENIE_FIRST_INVITE", "fixes the code of the first invite"),
    secret("GENIE_EXPORT_PASSPHRASE", "the passphrase of `genie log export` and `genie log import`"),
    secret("CREDENTIALS_ENC_KEY_B64", "the key of the original's credentials, for `genie import credentials`"),
    secret("RBAC_SYNC_WEBHOOK_SECRET", "the shared secret of servers and workers; without it their routes answer 503"),
    plain(
        "SHARED_SECRET_ROUTES",
        "all",
        "`original` opens only the original's routes to the shared secret; workers then need keys",
    ),
    plain("DIRECTUS_URL", "", "the Directus that says who is who; without it genie keeps passwords itself"),
    secret(
        "DIRECTUS_ADMIN_TOKEN",
        "static token of an administrator of that Directus; without it nobody can register, and no forgetting ends",
    ),
    secret("DIRECTUS_SECRET", "that Directus' SECRET; with it tokens are checked without asking"),
    plain("DIRECTUS_CREATOR_ROLE", "creator", "name of the role in Directus that a registration gives"),
    plain("GENIE_RESERVATION_SECONDS", "600", "how long a registration that broke off keeps its invite and address (Directus)"),
    plain("GENIE_ROLES", "", "roles beside `creator` and `administrator`, separated by commas; a Directus has its own"),
    plain(
        "FORGET_GRACE",
        "7d",
        "how long after `DELETE /api/me` a user is forgotten, such as 7d, 12h or 0; until then it can be undone",
    ),
    plain("GENIE_FORGOTTEN_FILE", "", "ledger of the forgotten, for restores from a backup; without it GENIE_DATA_DIR/forgotten"),
    plain("OLLAMA_URL", "http://127.0.0.1:11434", "the model server"),
    plain("OLLAMA_MODEL", "qwen2.5:latest", "the model that chats"),
    plain("CAPTION_MODEL", "dolphin-mistral:7b", "the model that writes captions"),
    plain("OLLAMA_CONCURRENCY", "1", "answers at once"),
    plain("GENIE_MODEL_QUEUE", "64", "answers that may wait; one more is 429"),
    plain("CHAT_CONTEXT_TOKENS", "4096", "how much of a conversation the model is given"),
    plain("ONBOARDING_GATE", "on", "`off` lets users chat before they are onboarded"),
    plain("GENIE_TIERS_FILE", "", "file with the limits of all tiers; without it those of the contract"),
    plain("QUEUE_STATS_PUBLIC", "true", "`false` asks for a token on /api/queue/stats"),
    plain("CORS_ORIGINS", "*", "origins that browsers may call from, separated by commas"),
    plain("RATE_LIMIT_USER", "3000/1m", "requests of one user, such as 300/1m; `off` for any number"),
    plain("RATE_LIMIT_ADDRESS", "3000/1m", "requests of one address without a proven caller; `off` for any number"),
    plain("TRUSTED_PROXIES", "", "networks whose X-Forwarded-For is believed, such as 10.0.0.0/8, separated by commas"),
    plain("GENIE_JOB_LEASE_MS", "30000", "how long a worker holds a job without a heartbeat"),
    plain("GENIE_READ_WAIT_MS", "5000", "how long a read waits for the position it asks for"),
    plain("GENIE_LOGIN_STALL_MS", "500", "how long a login takes at least, so that its time tells nothing"),
    plain("GENIE_SEAL_SECONDS", "10", "how often a head of the log is signed, at most, while there are new facts"),
    plain("GENIE_HEADS_FILE", "", "file that signed heads are appended to; one for each server, best on another machine"),
    secret("GENIE_HEADS_WEBHOOK", "URL that signed heads are sent to"),
    plain("GENIE_LOG", "info", "what is logged, as tracing filters say it"),
    plain("GENIE_LOG_FORMAT", "text", "`text` or `json`"),
];

/// The checked configuration.
#[derive(Clone)]
pub struct Config {
    pub host: String,
    pub port: u16,
    pub data_dir: PathBuf,
    database_url: Option<SecretString>,
    blobs_url: String,
    pub max_upload: u64,
    pub master_keys: Option<SecretString>,
    pub master_keys_file: Option<PathBuf>,
    pub first_invite: Option<SecretString>,
    pub export_passphrase: Option<SecretString>,
    original_key: Option<SecretString>,
    pub shared_secret: Option<SecretString>,
    /// Whether the shared secret opens only the routes of the original.
    pub secret_is_narrow: bool,
    pub directus: Option<directus::Settings>,
    /// Roles beside those that genie itself gives.
    pub roles: Vec<String>,
    /// How long a user who asked to be forgotten may still be kept.
    pub forget_grace: Duration,
    /// Where ids of forgotten users are kept outside the store.
    pub forgotten_file: PathBuf,
    pub ollama_url: String,
    pub ollama_model: String,
    pub caption_model: String,
    pub ollama_concurrency: usize,
    pub model_queue: usize,
    pub chat_context_tokens: usize,
    pub onboarding_gate: bool,
    pub tiers_file: Option<PathBuf>,
    pub queue_stats_public: bool,
    pub cors_origins: Vec<String>,
    pub rate_limit_user: Option<Rate>,
    pub rate_limit_address: Option<Rate>,
    pub trusted_proxies: Vec<IpNet>,
    pub job_lease: Duration,
    pub read_wait: Duration,
    pub login_stall: Duration,
    pub seal_every: Duration,
    pub heads_file: Option<PathBuf>,
    pub heads_webhook: Option<SecretString>,
    pub log: String,
    pub log_json: bool,
    given: BTreeMap<String, String>,
}

/// Why the configuration is refused; each line is a sentence that names the setting.
#[derive(Debug, PartialEq, Eq)]
pub struct BadConfig(Vec<String>);

impl fmt::Display for BadConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl Config {
    /// Reads the environment over `.env` in the current folder.
    pub fn from_env() -> Result<Self, BadConfig> {
        let mut given = BTreeMap::new();
        match dotenvy::dotenv_iter() {
            Ok(lines) => {
                for line in lines {
                    let (name, value) = line.map_err(|_| BadConfig(vec!["`.env` has a line that is not NAME=value".into()]))?;
                    given.insert(name, value);
                }
            }
            Err(error) if error.not_found() => {}
            Err(_) => return Err(BadConfig(vec!["`.env` is there and can't be read".into()])),
        }
        given.extend(std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))));
        Self::read(given)
    }

    fn read(given: BTreeMap<String, String>) -> Result<Self, BadConfig> {
        let mut read = Reader { given: &given, wrong: unknown_names(&given) };
        let config = Self {
            host: read.text("HOST"),
            port: read.number("SERVER_PORT", 0, 65535) as u16,
            data_dir: PathBuf::from(read.text("GENIE_DATA_DIR")),
            database_url: read.secret(
                "DATABASE_URL",
                |url| url.starts_with("postgres://") || url.starts_with("postgresql://"),
                "must begin with postgres://",
            ),
            blobs_url: read.bucket("GENIE_BLOBS_URL"),
            max_upload: read.number("MAX_UPLOAD_BYTES", 1, 1 << 40),
            master_keys: read.secret("GENIE_MASTER_KEYS", |_| true, ""),
            master_keys_file: Some(read.text("GENIE_MASTER_KEYS_FILE")).filter(|path| !path.is_empty()).map(PathBuf::from),
            first_invite: read.secret(
                "GENIE_FIRST_INVITE",
                |code| (4..=200).contains(&code.len()),
                "must have 4 to 200 characters",
            ),
            export_passphrase: read.secret("GENIE_EXPORT_PASSPHRASE", |_| true, ""),
            original_key: read.secret(
                "CREDENTIALS_ENC_KEY_B64",
                |key| OriginalKey::read(&SecretString::from(key)).is_some(),
                "must be 32 bytes in base64",
            ),
            shared_secret: read.secret("RBAC_SYNC_WEBHOOK_SECRET", |_| true, ""),
            secret_is_narrow: read.one_of("SHARED_SECRET_ROUTES", &["original", "all"]) == "original",
            directus: read.directus(),
            roles: read.roles("GENIE_ROLES"),
            forget_grace: read.duration("FORGET_GRACE"),
            forgotten_file: match read.text("GENIE_FORGOTTEN_FILE") {
                none if none.is_empty() => PathBuf::from(read.text("GENIE_DATA_DIR")).join("forgotten"),
                path => PathBuf::from(path),
            },
            ollama_url: read.url("OLLAMA_URL"),
            ollama_model: read.text("OLLAMA_MODEL"),
            caption_model: read.text("CAPTION_MODEL"),
            ollama_concurrency: read.number("OLLAMA_CONCURRENCY", 1, 1024) as usize,
            model_queue: read.number("GENIE_MODEL_QUEUE", 0, 100_000) as usize,
            chat_context_tokens: read.number("CHAT_CONTEXT_TOKENS", 256, 10_000_000) as usize,
            onboarding_gate: read.one_of("ONBOARDING_GATE", &["on", "off"]) == "on",
            tiers_file: Some(read.text("GENIE_TIERS_FILE")).filter(|path| !path.is_empty()).map(PathBuf::from),
            queue_stats_public: read.one_of("QUEUE_STATS_PUBLIC", &["true", "false"]) == "true",
            cors_origins: read.origins("CORS_ORIGINS"),
            rate_limit_user: read.rate("RATE_LIMIT_USER"),
            rate_limit_address: read.rate("RATE_LIMIT_ADDRESS"),
            trusted_proxies: read.networks("TRUSTED_PROXIES"),
            job_lease: Duration::from_millis(read.number("GENIE_JOB_LEASE_MS", 100, 3_600_000)),
            read_wait: Duration::from_millis(read.number("GENIE_READ_WAIT_MS", 0, 60_000)),
            login_stall: Duration::from_millis(read.number("GENIE_LOGIN_STALL_MS", 0, 10_000)),
            seal_every: Duration::from_secs(read.number("GENIE_SEAL_SECONDS", 1, 86_400)),
            heads_file: Some(read.text("GENIE_HEADS_FILE")).filter(|path| !path.is_empty()).map(PathBuf::from),
            heads_webhook: read.secret("GENIE_HEADS_WEBHOOK", is_http, "must begin with http:// or https://"),
            log: read.text("GENIE_LOG"),
            log_json: read.one_of("GENIE_LOG_FORMAT", &["text", "json"]) == "json",
            given: BTreeMap::new(),
        };
        if config.master_keys.is_some() && config.master_keys_file.is_some() {
            read.wrong.push("GENIE_MASTER_KEYS and GENIE_MASTER_KEYS_FILE are both set; the ring is in one of them".into());
        }
        match read.wrong.is_empty() {
            true => Ok(Self { given, ..config }),
            false => Err(BadConfig(read.wrong)),
        }
    }

    /// Where facts are kept.
    pub fn target(&self) -> Target {
        match &self.database_url {
            Some(url) => Target::Postgres(url.expose_secret().to_owned()),
            None => Target::Sqlite(self.data_dir.join("genie.db")),
        }
    }

    /// Where the bytes of uploaded files are kept.
    pub fn blobs(&self) -> Place {
        if self.blobs_url.is_empty() {
            return Place::Folder(self.data_dir.join("blobs"));
        }
        let aws = self.given.iter().filter(|(name, value)| name.starts_with("AWS_") && !value.is_empty());
        let aws = aws.map(|(name, value)| (name.clone(), SecretString::from(value.clone()))).collect();
        Place::Bucket { url: self.blobs_url.clone(), aws }
    }

    /// The key that the original sealed credentials with.
    pub fn original_key(&self) -> Option<OriginalKey> {
        self.original_key.as_ref().and_then(OriginalKey::read)
    }

    /// Whether this is the only process on its store.
    pub fn is_embedded(&self) -> bool {
        self.database_url.is_none()
    }

    /// What is in force, a line each, secrets masked.
    pub fn in_force(&self) -> String {
        let line = |setting: &Setting| {
            let given = self.given.get(setting.name).filter(|value| !value.is_empty());
            let (value, from) = match (given, setting.default) {
                (Some(_), _) if setting.is_secret => ("********", "set"),
                (Some(value), _) => (value.as_str(), "set"),
                (None, Some(default)) => (default, "default"),
                (None, None) => ("", "unset"),
            };
            format!("{:<26} {:<28} {:<8} {}", setting.name, value, from, setting.about)
        };
        SETTINGS.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// Names that begin with `GENIE_` and are none of ours: a typing error must not go unnoticed.
fn unknown_names(given: &BTreeMap<String, String>) -> Vec<String> {
    let known = || SETTINGS.iter().map(|setting| setting.name);
    let ours = |name: &&String| name.starts_with("GENIE_") && !name.starts_with("GENIE_TEST_");
    let unknown = given.keys().filter(ours).filter(|name| !known().any(|known| known == name.as_str()));
    let sentence = |name: &String| {
        let distance = |known: &&'static str| strsim::damerau_levenshtein(known, name);
        let nearest = known().min_by_key(distance).unwrap_or_default();
        format!("{name} is not a setting; did you mean {nearest}? `genie config` lists them all")
    };
    unknown.map(sentence).collect()
}

fn is_http(url: &str) -> bool {
    url.starts_with("http://") || url.starts_with("https://")
}

struct Reader<'a> {
    given: &'a BTreeMap<String, String>,
    wrong: Vec<String>,
}

impl Reader<'_> {
    /// An empty value counts as absent, as in most `.env` files.
    fn text(&self, name: &'static str) -> String {
        let default =
            SETTINGS.iter().find(|setting| setting.name == name).and_then(|setting| setting.default).unwrap_or_default();
        self.given.get(name).filter(|value| !value.is_empty()).cloned().unwrap_or_else(|| default.to_owned())
    }

    fn secret(&mut self, name: &'static str, is_good: impl Fn(&str) -> bool, must: &str) -> Option<SecretString> {
        let value = self.given.get(name).filter(|value| !value.is_empty())?;
        if !is_good(value) {
            self.wrong.push(format!("{name} {must}"));
        }
        Some(SecretString::from(value.clone()))
    }

    fn number(&mut self, name: &'static str, least: u64, most: u64) -> u64 {
        match self.text(name).parse::<u64>() {
            Ok(number) if (least..=most).contains(&number) => number,
            _ => {
                self.wrong.push(format!("{name} must be a whole number from {least} to {most}"));
                least
            }
        }
    }

    /// `0`, or a whole number of seconds, minutes, hours or days, up to ten years.
    fn duration(&mut self, name: &'static str) -> Duration {
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

    fn one_of(&mut self, name: &'static str, words: &[&'static str]) -> String {
        let value = self.text(name);
        if !words.contains(&value.as_str()) {
            self.wrong.push(format!("{name} must be one of: {}", words.join(", ")));
        }
        value
    }

    /// `*` alone, or origins as browsers send them: scheme and host, no path.
    fn origins(&mut self, name: &'static str) -> Vec<String> {
        let text = self.text(name);
        let origins: Vec<String> = text.split(',').map(str::trim).filter(|one| !one.is_empty()).map(str::to_owned).collect();
        let is_origin = |origin: &String| {
            let rest = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
            rest.is_some_and(|host| !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b)))
        };
        if origins.is_empty() || !(origins == ["*"] || origins.iter().all(is_origin)) {
            self.wrong.push(format!("{name} must be * or a list of origins such as https://app.example.com"));
        }
        origins
    }

    fn roles(&mut self, name: &'static str) -> Vec<String> {
        let text = self.text(name);
        let roles: Vec<String> = text.split(',').map(str::trim).filter(|role| !role.is_empty()).map(str::to_owned).collect();
        if !roles.iter().all(|role| roles::has_the_form_of_one(role)) {
            self.wrong.push(format!("{name} must be a list of names of at most 64 bytes, separated by commas"));
        }
        roles
    }

    /// All about Directus, which is there when it has an address.
    fn directus(&mut self) -> Option<directus::Settings> {
        let settings = directus::Settings {
            url: self.text("DIRECTUS_URL"),
            admin_token: self.secret("DIRECTUS_ADMIN_TOKEN", |token| !token.chars().any(char::is_control), "must be one line"),
            secret: self.secret("DIRECTUS_SECRET", |_| true, ""),
            creator_role: self.text("DIRECTUS_CREATOR_ROLE"),
            reservation: Duration::from_secs(self.number("GENIE_RESERVATION_SECONDS", 30, 86_400)),
        };
        if settings.url.is_empty() {
            return None;
        }
        if !is_http(&settings.url) {
            self.wrong.push("DIRECTUS_URL must begin with http:// or https://".to_owned());
        }
        Some(settings)
    }

    fn bucket(&mut self, name: &'static str) -> String {
        let value = self.text(name);
        let has_bucket = value.strip_prefix("s3://").is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'));
        if !(value.is_empty() || has_bucket) {
            self.wrong.push(format!("{name} must be s3://BUCKET or s3://BUCKET/PREFIX"));
        }
        value
    }

    /// `off` is none.
    fn rate(&mut self, name: &'static str) -> Option<Rate> {
        let text = self.text(name);
        let rate = Rate::read(&text);
        if rate.is_none() && text != "off" {
            self.wrong.push(format!("{name} must be off, or a number and a time such as 300/1m, with s, m or h, up to 24h"));
        }
        rate
    }

    fn networks(&mut self, name: &'static str) -> Vec<IpNet> {
        let text = self.text(name);
        let read = |one: &str| one.parse::<IpNet>().ok().or_else(|| one.parse::<std::net::IpAddr>().ok().map(IpNet::from));
        let networks: Option<Vec<IpNet>> = text.split(',').map(str::trim).filter(|one| !one.is_empty()).map(read).collect();
        networks.unwrap_or_else(|| {
            self.wrong.push(format!("{name} must be a list of addresses or networks such as 10.0.0.0/8"));
            Vec::new()
        })
    }

    fn url(&mut self, name: &'static str) -> String {
        let value = self.text(name);
        if !is_http(&value) {
            self.wrong.push(format!("{name} must begin with http:// or https://"));
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Config, BadConfig> {
        Config::read(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn defaults_are_good_and_empty_is_absent() {
        let config = read(&[("SERVER_PORT", ""), ("PATH", "/bin")]).ok().unwrap();
        assert_eq!((config.port, config.is_embedded()), (3001, true));
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_nearest() {
        let wrong = read(&[("GENIE_DATADIR", "x")]).err().unwrap().to_string();
        assert!(wrong.contains("did you mean GENIE_DATA_DIR?"), "{wrong}");
    }

    #[test]
    fn every_wrong_value_is_told_at_once_and_secrets_are_not_repeated() {
        let wrong = read(&[("SERVER_PORT", "x"), ("ONBOARDING_GATE", "maybe"), ("DATABASE_URL", "mysql://canary")]);
        let wrong = wrong.err().unwrap().to_string();
        assert_eq!(wrong.lines().count(), 3, "{wrong}");
        assert!(!wrong.contains("canary"));
    }

    #[test]
    fn origins_are_what_browsers_send() {
        let good = read(&[("CORS_ORIGINS", "https://a.example, http://localhost:3000,")]).ok().unwrap();
        assert_eq!(good.cors_origins, ["https://a.example", "http://localhost:3000"]);
        for bad in ["a.example", "*,https://a.example", "https://a.example/path", "not a uri", ","] {
            assert!(read(&[("CORS_ORIGINS", bad)]).is_err(), "{bad}");
        }
    }

    #[test]
    fn rates_and_networks_are_checked() {
        let good = read(&[("RATE_LIMIT_USER", "off"), ("TRUSTED_PROXIES", "10.0.0.0/8, ::1")]).ok().unwrap();
        assert_eq!((good.rate_limit_user, good.rate_limit_address), (None, Rate::read("3000/1m")));
        assert_eq!(good.trusted_proxies, ["10.0.0.0/8", "::1/128"].map(|network| network.parse::<IpNet>().unwrap()));
        for bad in [("RATE_LIMIT_USER", "300"), ("RATE_LIMIT_ADDRESS", "on"), ("TRUSTED_PROXIES", "proxy.example.com")] {
            assert!(read(&[bad]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_time_has_a_unit() {
        let grace = |text| read(&[("FORGET_GRACE", text)]).map(|config| config.forget_grace.as_secs());
        assert_eq!(["", "0", "90s", "2h", "7d"].map(|text| grace(text).ok()), [604_800, 0, 90, 7200, 604_800].map(Some));
        for bad in ["7", "d", "-1d", "1w", "4000d", "7 d", "1€"] {
            assert!(grace(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_printed_masks_secrets() {
        let config = read(&[("RBAC_SYNC_WEBHOOK_SECRET", "canary"), ("OLLAMA_MODEL", "m")]).ok().unwrap();
        let printed = config.in_force();
        assert!(!printed.contains("canary") && printed.contains("********"));
        assert_eq!(printed.lines().count(), SETTINGS.len());
    }
}
