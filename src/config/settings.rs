//! All settings: their names, their defaults, what they are for.

/// One setting: its name, its default, what it is for.
pub struct Setting {
    pub name: &'static str,
    pub(super) default: Option<&'static str>,
    pub(super) is_secret: bool,
    pub about: &'static str,
}

const fn plain(name: &'static str, default: &'static str, about: &'static str) -> Setting {
    Setting {
        name,
        default: Some(default),
        is_secret: false,
        about,
    }
}

const fn secret(name: &'static str, about: &'static str) -> Setting {
    Setting {
        name,
        default: None,
        is_secret: true,
        about,
    }
}

/// All settings, in the order that `genie config` prints them.
pub const SETTINGS: &[Setting] = &[
    plain("HOST", "127.0.0.1", "address to listen on"),
    plain(
        "SERVER_PORT",
        "3001",
        "port to listen on; 0 takes a free one",
    ),
    secret(
        "DATABASE_URL",
        "postgres://... ; without it an SQLite file in GENIE_DATA_DIR",
    ),
    plain(
        "GENIE_DATA_DIR",
        "data",
        "folder of the embedded store and the master key",
    ),
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
    plain(
        "GENIE_MASTER_KEYS_FILE",
        "",
        "file of the ring, mode 0600; without either, GENIE_DATA_DIR/master.key",
    ),
    secret("GENIE_FIRST_INVITE", "fixes the code of the first invite"),
    secret(
        "GENIE_EXPORT_PASSPHRASE",
        "the passphrase of `genie log export` and `genie log import`",
    ),
    secret(
        "CREDENTIALS_ENC_KEY_B64",
        "the key of the original's credentials, for `genie import credentials`",
    ),
    secret(
        "RBAC_SYNC_WEBHOOK_SECRET",
        "the shared secret of servers and workers; without it their routes answer 503",
    ),
    plain(
        "SHARED_SECRET_ROUTES",
        "all",
        "`original` opens only the original's routes to the shared secret; workers then need keys",
    ),
    plain(
        "DIRECTUS_URL",
        "",
        "the Directus that says who is who; without it genie keeps passwords itself",
    ),
    secret(
        "DIRECTUS_ADMIN_TOKEN",
        "static token of an administrator of that Directus; without it nobody can register, and no forgetting ends",
    ),
    secret(
        "DIRECTUS_SECRET",
        "that Directus' SECRET; with it tokens are checked without asking",
    ),
    plain(
        "DIRECTUS_CREATOR_ROLE",
        "creator",
        "name of the role in Directus that a registration gives",
    ),
    plain(
        "GENIE_RESERVATION_SECONDS",
        "600",
        "how long a registration that broke off keeps its invite and address (Directus)",
    ),
    plain(
        "GENIE_ROLES",
        "",
        "roles beside `creator` and `administrator`, separated by commas; a Directus has its own",
    ),
    plain(
        "FORGET_GRACE",
        "7d",
        "how long after `DELETE /api/me` a user is forgotten, such as 7d, 12h or 0; until then it can be undone",
    ),
    plain(
        "GENIE_FORGOTTEN_FILE",
        "",
        "ledger of the forgotten, for restores from a backup; without it GENIE_DATA_DIR/forgotten",
    ),
    plain("OLLAMA_URL", "http://127.0.0.1:11434", "the model server"),
    plain("OLLAMA_MODEL", "qwen2.5:latest", "the model that chats"),
    plain(
        "CAPTION_MODEL",
        "dolphin-mistral:7b",
        "the model that writes captions",
    ),
    plain("OLLAMA_CONCURRENCY", "1", "answers at once"),
    plain(
        "GENIE_MODEL_QUEUE",
        "64",
        "answers that may wait; one more is 429",
    ),
    plain(
        "CHAT_CONTEXT_TOKENS",
        "4096",
        "how much of a conversation the model is given",
    ),
    plain(
        "ONBOARDING_GATE",
        "on",
        "`off` lets users chat before they are onboarded",
    ),
    plain(
        "GENIE_TIERS_FILE",
        "",
        "file with the limits of all tiers; without it those of the contract",
    ),
    plain(
        "QUEUE_STATS_PUBLIC",
        "true",
        "`false` asks for a token on /api/queue/stats",
    ),
    plain(
        "CORS_ORIGINS",
        "*",
        "origins that browsers may call from, separated by commas",
    ),
    plain(
        "RATE_LIMIT_USER",
        "3000/1m",
        "requests of one user, such as 300/1m; `off` for any number",
    ),
    plain(
        "RATE_LIMIT_ADDRESS",
        "3000/1m",
        "requests of one address without a proven caller; `off` for any number",
    ),
    plain(
        "TRUSTED_PROXIES",
        "",
        "networks whose X-Forwarded-For is believed, such as 10.0.0.0/8, separated by commas",
    ),
    plain(
        "GENIE_JOB_LEASE_MS",
        "30000",
        "how long a worker holds a job without a heartbeat",
    ),
    plain(
        "GENIE_READ_WAIT_MS",
        "5000",
        "how long a read waits for the position it asks for",
    ),
    plain(
        "GENIE_OWN_WRITES_WAIT_MS",
        "1000",
        "how long a read that asks for none waits for what its caller wrote last",
    ),
    plain(
        "GENIE_LOGIN_STALL_MS",
        "500",
        "how long a login takes at least, so that its time tells nothing",
    ),
    plain(
        "GENIE_SEAL_SECONDS",
        "10",
        "how often a head of the log is signed, at most, while there are new facts",
    ),
    plain(
        "GENIE_HEADS_FILE",
        "",
        "file that signed heads are appended to; one for each server, best on another machine",
    ),
    secret("GENIE_HEADS_WEBHOOK", "URL that signed heads are sent to"),
    plain(
        "GENIE_LOG",
        "info",
        "what is logged, as tracing filters say it",
    ),
    plain("GENIE_LOG_FORMAT", "text", "`text` or `json`"),
];
