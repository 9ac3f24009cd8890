//! The settings, read once and checked. They come from the environment and from `.env`, which the
//! environment overrides. Only this file reads the environment.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    fmt,
    path::PathBuf,
    time::Duration,
};

use genie_actors::{ModelProfile, outbound::ProxyUse};
use genie_events::InviteCode;
use genie_log::store::Target;
use genie_media::{fetch::PrivateNetworks, mark_secret::MarkSecret};
use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};

use crate::{
    blobs::BlobLocation, credential_import::original::OriginalKey, identity::directus,
    origins::AllowedOrigins, password_mail::MailServer, rate_limiter::Rate,
    reset_pages::ResetPages,
};

/// `docs/operating/configuration.md`, as `genie config --markdown` prints it.
pub mod markdown;
/// Reads and checks values, by the form of their setting.
mod model_options;
mod reader;
/// The table of all settings.
mod settings;

use reader::{Reader, unknown_names};
use settings::{SETTINGS, Setting};

#[derive(Clone)]
pub struct Config {
    pub host: String,
    pub port: u16,
    pub data_dir: PathBuf,
    database_url: Option<SecretString>,
    blobs_url: String,
    pub max_upload: u64,
    pub file_max_bytes: u64,
    pub files_max_bytes_per_user: u64,
    pub files_min_free: u64,
    /// `None`: for ever.
    pub files_keep: Option<Duration>,
    /// `None`: jobs are kept for ever.
    pub jobs_keep: Option<Duration>,
    pub master_keys: Option<SecretString>,
    pub master_keys_file: Option<PathBuf>,
    pub first_invite: Option<InviteCode>,
    pub export_passphrase: Option<SecretString>,
    original_key: Option<SecretString>,
    pub shared_secret: Option<SecretString>,
    /// True when the shared secret opens only the routes of the original.
    pub secret_is_narrow: bool,
    pub directus: Option<directus::DirectusSettings>,
    /// The mail server for links to set a new password.
    pub mail: Option<MailServer>,
    /// The pages that such a link may lead to.
    pub reset_pages: ResetPages,
    /// Roles besides genie's own two.
    pub roles: Vec<String>,
    /// The time between `DELETE /api/me` and forgetting.
    pub forget_grace: Duration,
    /// The ledger of the forgotten.
    pub forgotten_file: PathBuf,
    pub ollama_urls: Vec<String>,
    pub ollama_model: String,
    /// The models that programs may ask for; at least one.
    pub chat_models: Vec<String>,
    pub caption_model: String,
    pub ollama_concurrency: usize,
    pub model_queue: usize,
    pub chat_context_tokens: u32,
    pub chat_max_tokens: u32,
    pub chat_max_time: Duration,
    pub chat_system_prompt: String,
    pub skills_folder: Option<PathBuf>,
    pub chat_model_options: HashMap<String, ModelProfile>,
    pub first_token: Duration,
    pub next_token: Duration,
    pub onboarding_gate: bool,
    pub tiers_file: Option<PathBuf>,
    pub queue_stats_public: bool,
    pub cors_origins: AllowedOrigins,
    pub rate_limit_user: Option<Rate>,
    pub rate_limit_address: Option<Rate>,
    /// The most facts that a user's own commands may add in a day.
    pub facts_per_user_day: u64,
    pub trusted_proxies: Vec<IpNet>,
    /// What the proxy of the environment is used for.
    pub proxies: ProxyUse,
    pub connections_per_address: Option<usize>,
    pub connections_in_all: usize,
    /// How long a client may leave an answer unread, or a request unfinished.
    pub client_stall: Duration,
    pub answer_bytes_in_flight: usize,
    pub body_bytes_in_flight: usize,
    pub streams_per_user: usize,
    pub streams_in_all: usize,
    /// How old an answer of `/readyz` or `/api/queue/stats` may be.
    pub probe_age: Duration,
    /// What a media worker of this process works with.
    pub worker: WorkerConfig,
    pub job_lease: Duration,
    pub read_wait: Duration,
    /// How long a read without `Genie-Min-Position` waits for its caller's last write.
    pub own_writes_wait: Duration,
    /// How long the outcome of a request with an `Idempotency-Key` is kept.
    pub keep_outcomes: Duration,
    pub login_stall: Duration,
    pub seal_every: Duration,
    pub heads_file: Option<PathBuf>,
    pub heads_webhook: Option<SecretString>,
    pub log: String,
    pub log_json: bool,
    /// One warning for each `GENIE_*` that is not a setting.
    pub unknown: Vec<String>,
    given: BTreeMap<String, String>,
}

/// The settings of the media worker.
#[derive(Clone)]
pub struct WorkerConfig {
    /// The server of a worker that runs alone.
    pub url: String,
    pub key: Option<SecretString>,
    /// The secret of the server's invisible marks, for a worker that runs alone.
    pub mark_key: Option<SecretString>,
    /// How many jobs run at once.
    pub jobs: usize,
    pub folder: PathBuf,
    pub must_confine: bool,
    pub private_networks: PrivateNetworks,
    /// The folders of programs.
    pub search_path: OsString,
}

impl WorkerConfig {
    fn read(read: &mut Reader<'_>) -> Self {
        let jobs = match read.number(settings::GENIE_WORKER_JOBS) as usize {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            jobs => jobs,
        };
        let data_dir = PathBuf::from(read.text(settings::GENIE_DATA_DIR));
        Self {
            url: read.url(settings::GENIE_WORKER_URL),
            key: read.secret(
                settings::GENIE_WORKER_KEY,
                |key| key.starts_with("gk_"),
                "must begin with gk_",
            ),
            mark_key: read.secret(
                settings::GENIE_MARK_KEY,
                |key| MarkSecret::read(key).is_some(),
                "must be a key that `genie mark-key` printed",
            ),
            jobs,
            folder: read
                .path(settings::GENIE_WORKER_DIR)
                .unwrap_or_else(|| data_dir.join("worker")),
            must_confine: read.is(settings::GENIE_SANDBOX, "require"),
            private_networks: read.networks(settings::GENIE_PRIVATE_NETWORKS).into(),
            search_path: read
                .given
                .get("PATH")
                .map_or("/usr/local/bin:/usr/bin:/bin", String::as_str)
                .into(),
        }
    }
}

/// Why the configuration is refused. Each line names a setting.
#[derive(Debug, PartialEq, Eq)]
pub struct BadConfig(Vec<String>);

impl fmt::Display for BadConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// True when the log is to be JSON, by what can be read of the environment and of `.env`. For the time before all
/// settings are read and checked.
pub fn asks_for_json() -> bool {
    let name = settings::GENIE_LOG_FORMAT.name;
    let in_file = || {
        let lines = dotenvy::dotenv_iter().ok()?.filter_map(Result::ok);
        lines.filter(|line| line.0 == name).last()
    };
    let format = match std::env::var_os(name) {
        Some(format) => format.into_string().ok(),
        None => in_file().map(|(_, format)| format),
    };
    format.is_some_and(|format| format == "json")
}

impl Config {
    /// Reads the environment, and `.env` in the current folder for what the environment lacks.
    pub fn from_env() -> Result<Self, BadConfig> {
        let mut given = BTreeMap::new();
        match dotenvy::dotenv_iter() {
            Ok(lines) => {
                for line in lines {
                    let (name, value) = line.map_err(|_| {
                        BadConfig(vec!["`.env` has a line that is not NAME=value".into()])
                    })?;
                    given.insert(name, value);
                }
            }
            Err(error) if error.not_found() => {}
            Err(_) => return Err(BadConfig(vec!["`.env` is there and can't be read".into()])),
        }
        given.extend(std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        }));
        Self::read(given)
    }

    /// Reads settings from a map, by name.
    pub fn read(given: BTreeMap<String, String>) -> Result<Self, BadConfig> {
        let mut read = Reader {
            given: &given,
            wrong: Vec::new(),
        };
        let config = Self::from_reader(&mut read);
        if config.master_keys.is_some() && config.master_keys_file.is_some() {
            read.wrong.push(
                "GENIE_MASTER_KEYS and GENIE_MASTER_KEYS_FILE are both set; set one of them".into(),
            );
        }
        if read.wrong.is_empty() {
            Ok(Self { given, ..config })
        } else {
            Err(BadConfig(read.wrong))
        }
    }

    #[expect(clippy::too_many_lines, reason = "a table with a row for each setting")]
    fn from_reader(read: &mut Reader<'_>) -> Self {
        Self {
            host: read.text(settings::HOST),
            port: read.number(settings::SERVER_PORT) as u16,
            data_dir: PathBuf::from(read.text(settings::GENIE_DATA_DIR)),
            database_url: read.postgres(settings::DATABASE_URL),
            blobs_url: read.bucket(settings::GENIE_BLOBS_URL),
            max_upload: read.number(settings::MAX_UPLOAD_BYTES),
            file_max_bytes: read.number(settings::FILE_MAX_BYTES),
            files_max_bytes_per_user: read.number(settings::FILES_MAX_BYTES_PER_USER),
            files_min_free: read.number(settings::FILES_MIN_FREE),
            files_keep: read.days_or_off(settings::FILES_KEEP_DAYS),
            jobs_keep: read.days_or_off(settings::JOBS_KEEP_DAYS),
            master_keys: read.secret(settings::GENIE_MASTER_KEYS, |_| true, ""),
            master_keys_file: read.path(settings::GENIE_MASTER_KEYS_FILE),
            first_invite: read.invite(settings::GENIE_FIRST_INVITE),
            export_passphrase: read.secret(settings::GENIE_EXPORT_PASSPHRASE, |_| true, ""),
            original_key: read.original_key(settings::CREDENTIALS_ENC_KEY_B64),
            shared_secret: read.shared_secret(),
            proxies: read.proxies(),
            secret_is_narrow: read.is(settings::SHARED_SECRET_ROUTES, "original"),
            directus: read.directus(),
            mail: read.mail(),
            reset_pages: read.reset_pages(),
            roles: read.roles(settings::GENIE_ROLES),
            forget_grace: read.duration(settings::FORGET_GRACE),
            forgotten_file: read.forgotten_file(),
            ollama_urls: read.urls(settings::OLLAMA_URL),
            ollama_model: read.text(settings::OLLAMA_MODEL),
            chat_models: read.models(),
            caption_model: read.text(settings::CAPTION_MODEL),
            ollama_concurrency: read.number(settings::OLLAMA_CONCURRENCY) as usize,
            model_queue: read.number(settings::GENIE_MODEL_QUEUE) as usize,
            chat_context_tokens: read.number(settings::CHAT_CONTEXT_TOKENS) as u32,
            chat_max_tokens: read.number(settings::CHAT_MAX_TOKENS) as u32,
            chat_max_time: Duration::from_secs(read.number(settings::CHAT_MAX_SECONDS)),
            chat_system_prompt: read.system_prompt(),
            skills_folder: read.path(settings::GENIE_SKILLS_DIR),
            chat_model_options: read.model_options(),
            first_token: Duration::from_secs(read.number(settings::OLLAMA_FIRST_TOKEN_SECONDS)),
            next_token: Duration::from_secs(read.number(settings::OLLAMA_NEXT_TOKEN_SECONDS)),
            onboarding_gate: read.is(settings::ONBOARDING_GATE, "on"),
            tiers_file: read.path(settings::GENIE_TIERS_FILE),
            queue_stats_public: read.is(settings::QUEUE_STATS_PUBLIC, "true"),
            cors_origins: read.origins(settings::CORS_ORIGINS),
            rate_limit_user: read.rate(settings::RATE_LIMIT_USER),
            rate_limit_address: read.rate(settings::RATE_LIMIT_ADDRESS),
            facts_per_user_day: read.number(settings::FACTS_PER_USER_DAY),
            trusted_proxies: read.networks(settings::TRUSTED_PROXIES),
            connections_per_address: read.count(settings::CONNECTIONS_PER_ADDRESS),
            connections_in_all: read.number(settings::CONNECTIONS_IN_ALL) as usize,
            client_stall: read.millis(settings::CLIENT_STALL_MS),
            answer_bytes_in_flight: read.number(settings::ANSWER_BYTES_IN_FLIGHT) as usize,
            body_bytes_in_flight: read.number(settings::BODY_BYTES_IN_FLIGHT) as usize,
            streams_per_user: read.number(settings::STREAMS_PER_USER) as usize,
            streams_in_all: read.number(settings::STREAMS_IN_ALL) as usize,
            probe_age: read.millis(settings::PROBE_AGE_MS),
            worker: WorkerConfig::read(read),
            job_lease: read.millis(settings::GENIE_JOB_LEASE_MS),
            read_wait: read.millis(settings::GENIE_READ_WAIT_MS),
            own_writes_wait: read.millis(settings::GENIE_OWN_WRITES_WAIT_MS),
            keep_outcomes: read.days(settings::GENIE_IDEMPOTENCY_DAYS),
            login_stall: read.millis(settings::GENIE_LOGIN_STALL_MS),
            seal_every: read.seconds(settings::GENIE_SEAL_SECONDS),
            heads_file: read.path(settings::GENIE_HEADS_FILE),
            heads_webhook: read.secret_url(settings::GENIE_HEADS_WEBHOOK),
            log: read.text(settings::GENIE_LOG),
            log_json: read.is(settings::GENIE_LOG_FORMAT, "json"),
            unknown: unknown_names(read.given),
            given: BTreeMap::new(),
        }
    }

    /// The location of the store.
    pub fn target(&self) -> Target {
        match &self.database_url {
            Some(url) => Target::Postgres(url.expose_secret().to_owned()),
            None => Target::Sqlite(self.data_dir.join("genie.db")),
        }
    }

    /// The location of the blob store.
    pub fn blobs(&self) -> BlobLocation {
        if self.blobs_url.is_empty() {
            return BlobLocation::Folder(self.data_dir.join("blobs"));
        }
        let aws = self
            .given
            .iter()
            .filter(|(name, value)| name.starts_with("AWS_") && !value.is_empty());
        let aws = aws
            .map(|(name, value)| (name.clone(), SecretString::from(value.clone())))
            .collect();
        BlobLocation::Bucket {
            url: self.blobs_url.clone(),
            aws,
        }
    }

    /// The key that the original sealed credentials with.
    pub fn original_key(&self) -> Option<OriginalKey> {
        self.original_key.as_ref().and_then(OriginalKey::read)
    }

    /// True when the store is SQLite, which only one server can use.
    pub fn is_embedded(&self) -> bool {
        self.database_url.is_none()
    }

    /// All settings in force, one per line, with secrets masked.
    pub fn in_force(&self) -> String {
        let line = |setting: &Setting| {
            let given = self
                .given
                .get(setting.name)
                .filter(|value| !value.is_empty());
            let (value, from) = match given {
                Some(_) if setting.is_secret() => ("********", "set"),
                Some(value) => (value.as_str(), "set"),
                None if setting.is_secret() => ("", "unset"),
                None => (setting.default, "default"),
            };
            format!(
                "{:<26} {:<28} {:<8} {}",
                setting.name, value, from, setting.about
            )
        };
        let mut lines: Vec<String> = SETTINGS.iter().map(line).collect();
        lines.extend(self.reached_by_proxy());
        lines.join("\n")
    }

    /// A line for each address that is reached through a proxy of the environment. The proxy's own address may hold a password.
    fn reached_by_proxy(&self) -> Vec<String> {
        let webhook = self
            .heads_webhook
            .as_ref()
            .map_or("", |url| url.expose_secret());
        let directus = self.directus.as_ref().map_or("", |directus| &directus.url);
        let is_reached = |url: &str| self.proxies.applies_to(url);
        let addresses = [
            (
                "OLLAMA_URL",
                self.ollama_urls.iter().any(|url| is_reached(url)),
            ),
            ("DIRECTUS_URL", is_reached(directus)),
            ("GENIE_HEADS_WEBHOOK", is_reached(webhook)),
        ];
        let reached = addresses.into_iter().filter(|(_, is_reached)| *is_reached);
        reached
            .map(|(name, _)| {
                format!("{name} is reached through the proxy that the environment names (HTTP_PROXY, HTTPS_PROXY or ALL_PROXY); NO_PROXY lists exceptions")
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Config, BadConfig> {
        Config::read(
            pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        )
    }

    #[test]
    fn defaults_are_good_and_empty_is_absent() {
        let config = read(&[("SERVER_PORT", ""), ("PATH", "/bin")]).ok().unwrap();
        assert_eq!((config.port, config.is_embedded()), (3001, true));
    }

    #[test]
    fn an_unknown_name_is_a_warning_that_names_the_nearest_setting() {
        let config = read(&[("GENIE_DATADIR", "x"), ("GENIE_TEST_POSTGRES", "x")])
            .ok()
            .unwrap();
        let [told] = &config.unknown[..] else {
            panic!("one warning, not {:?}", config.unknown);
        };
        assert!(
            told.contains("GENIE_DATADIR") && told.contains("did you mean GENIE_DATA_DIR?"),
            "{told}"
        );
    }

    #[test]
    fn all_wrong_values_are_reported_at_once_without_secrets() {
        let wrong = read(&[
            ("SERVER_PORT", "x"),
            ("ONBOARDING_GATE", "maybe"),
            ("DATABASE_URL", "mysql://canary"),
        ]);
        let wrong = wrong.err().unwrap().to_string();
        assert_eq!(wrong.lines().count(), 3, "{wrong}");
        assert!(!wrong.contains("canary"));
    }

    #[test]
    fn origins_are_what_browsers_send() {
        let good = read(&[("CORS_ORIGINS", "https://a.example, tauri://localhost,")])
            .ok()
            .unwrap();
        for origin in ["https://a.example", "tauri://localhost"] {
            assert!(good.cors_origins.allows(origin.as_bytes()), "{origin}");
        }
        assert!(!good.cors_origins.allows(b"https://b.example"));
        for bad in [
            "a.example",
            "*,https://a.example",
            "https://a.example/path",
            "not a uri",
            ",",
        ] {
            assert!(read(&[("CORS_ORIGINS", bad)]).is_err(), "{bad}");
        }
    }

    #[test]
    fn rates_and_networks_are_checked() {
        let good = read(&[
            ("RATE_LIMIT_USER", "off"),
            ("TRUSTED_PROXIES", "10.0.0.0/8, ::1"),
        ])
        .ok()
        .unwrap();
        assert_eq!(
            (good.rate_limit_user, good.rate_limit_address),
            (None, Rate::read("3000/1m"))
        );
        assert_eq!(
            good.trusted_proxies,
            ["10.0.0.0/8", "::1/128"].map(|network| network.parse::<IpNet>().unwrap())
        );
        for bad in [
            ("RATE_LIMIT_USER", "300"),
            ("RATE_LIMIT_ADDRESS", "on"),
            ("TRUSTED_PROXIES", "proxy.example.com"),
        ] {
            assert!(read(&[bad]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_time_has_a_unit() {
        let grace =
            |text| read(&[("FORGET_GRACE", text)]).map(|config| config.forget_grace.as_secs());
        assert_eq!(
            ["", "0", "90s", "2h", "7d"].map(|text| grace(text).ok()),
            [604_800, 0, 90, 7200, 604_800].map(Some)
        );
        for bad in ["7", "d", "-1d", "1w", "4000d", "7 d", "1€"] {
            assert!(grace(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_short_shared_secret_is_refused_unless_a_test_asks_for_it() {
        let given = |secret: &str, allowed: &str| {
            read(&[
                ("RBAC_SYNC_WEBHOOK_SECRET", secret),
                ("GENIE_ALLOW_SHORT_SECRET", allowed),
            ])
        };
        let refused = given("canary", "").err().unwrap().to_string();
        assert!(
            refused.contains("RBAC_SYNC_WEBHOOK_SECRET must have at least 32 characters,"),
            "{refused}"
        );
        assert!(!refused.contains("canary"));
        assert!(given(&"c".repeat(31), "").is_err());
        assert!(given(&"c".repeat(32), "").is_ok());
        assert!(given("canary", "on").is_ok());
        assert!(given("", "").is_ok());
        let long = "c".repeat(40);
        for broken in [
            format!(" {long}"),
            format!("{long}\n"),
            format!("{long}\t{long}"),
            " ".repeat(40),
        ] {
            for allowed in ["", "on"] {
                assert!(given(&broken, allowed).is_err(), "{broken:?}");
            }
        }
    }

    #[test]
    fn the_printed_settings_mask_secrets() {
        let config = read(&[
            (
                "RBAC_SYNC_WEBHOOK_SECRET",
                "canary canary canary canary canary",
            ),
            ("OLLAMA_MODEL", "m"),
        ])
        .ok()
        .unwrap();
        let printed = config.in_force();
        assert!(!printed.contains("canary") && printed.contains("********"));
        assert_eq!(printed.lines().count(), SETTINGS.len());
    }
}
