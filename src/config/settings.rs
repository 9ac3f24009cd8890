//! All settings: names, defaults, the form of their values, and their purpose.

#[derive(Clone, Copy)]
pub struct Setting {
    pub name: &'static str,
    /// Empty when the setting has no default.
    pub default: &'static str,
    pub form: Form,
    pub about: &'static str,
}

/// How a value is written, and how it is checked.
#[derive(Clone, Copy)]
pub enum Form {
    /// Free text. The word describes it for people.
    Text(&'static str),
    /// A whole number within bounds.
    Number {
        least: u64,
        most: u64,
        unit: &'static str,
    },
    Words(&'static [&'static str]),
    /// A secret. The word describes it for people. It has no default and is never printed.
    Secret(&'static str),
}

impl Setting {
    pub fn is_secret(&self) -> bool {
        matches!(self.form, Form::Secret(_))
    }

    /// The form, as the documents describe it.
    pub fn form_in_words(&self) -> String {
        match self.form {
            Form::Text(words) | Form::Secret(words) => words.to_owned(),
            Form::Number { least, most, unit } => {
                format!("{least} to {most} {unit}").trim_end().to_owned()
            }
            Form::Words(words) => {
                let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
                quoted.join(" or ")
            }
        }
    }
}

const fn text(default: &'static str, words: &'static str, about: &'static str) -> Setting {
    new(default, Form::Text(words), about)
}

const fn number(
    default: &'static str,
    (least, most): (u64, u64),
    unit: &'static str,
    about: &'static str,
) -> Setting {
    new(default, Form::Number { least, most, unit }, about)
}

const fn words(
    default: &'static str,
    words: &'static [&'static str],
    about: &'static str,
) -> Setting {
    new(default, Form::Words(words), about)
}

const fn secret(words: &'static str, about: &'static str) -> Setting {
    new("", Form::Secret(words), about)
}

const fn new(default: &'static str, form: Form, about: &'static str) -> Setting {
    Setting {
        name: "",
        default,
        form,
        about,
    }
}

/// Makes a constant for each setting, named like the setting, and the list `SETTINGS`.
macro_rules! settings {
    ($( $name:ident = $setting:expr; )+) => {
        $( pub const $name: Setting = Setting { name: stringify!($name), ..$setting }; )+

        /// All settings, in the order in which `genie config` prints them.
        pub const SETTINGS: &[Setting] = &[$($name),+];
    };
}

settings! {
    HOST = text("127.0.0.1", "address", "the address to listen on");
    SERVER_PORT = number("3001", (0, 65_535), "", "the port to listen on; 0 takes a free one");
    DATABASE_URL = secret("`postgres://USER:PASSWORD@HOST:PORT/DATABASE`", "the Postgres; without it, an SQLite file in GENIE_DATA_DIR");
    GENIE_DATA_DIR = text("data", "folder", "the embedded store, the master key, uploads, and the ledger of the forgotten");
    GENIE_BLOBS_URL = text("", "`s3://BUCKET/PREFIX`", "the bucket for uploaded files, reached by the AWS_* variables; without it, GENIE_DATA_DIR/blobs");
    MAX_UPLOAD_BYTES = number("536870912", (1, 1 << 40), "bytes", "the largest archive of `/api/onboarding/zip-upload`");
    FILE_MAX_BYTES = number("2147483648", (1, 1 << 40), "bytes", "the largest file of `/api/files`");
    FILES_MAX_BYTES_PER_USER = number("21474836480", (0, 1 << 50), "bytes", "the files of one user together; one that does not fit is 403");
    FILES_MIN_FREE = number("2147483648", (0, 1 << 50), "bytes", "the free room on the disk of uploaded files below which an upload is 503; a bucket has no such bound");
    FILES_KEEP_DAYS = text("off", "number of days, or `off`", "how long files that jobs made are kept; then they are deleted, as facts");
    JOBS_KEEP_DAYS = text("off", "number of days, or `off`", "how long jobs are kept after their end; then they are removed, as facts");
    GENIE_MASTER_KEYS = secret("`ID:BASE64`, separated by commas", "the ring of master keys; `genie keys rotate` makes the first one current");
    GENIE_MASTER_KEYS_FILE = text("", "file of mode 0600", "the file of the ring; without either, GENIE_DATA_DIR/master.key");
    GENIE_FIRST_INVITE = secret("4 to 200 characters", "the code of the first invite of a new store");
    GENIE_EXPORT_PASSPHRASE = secret("at least 8 characters", "the passphrase of `genie log export` and `genie log import`");
    CREDENTIALS_ENC_KEY_B64 = secret("32 bytes in base64", "the key of the original's credentials, for `genie import credentials`");
    RBAC_SYNC_WEBHOOK_SECRET = secret("at least 32 characters", "the shared secret of servers and workers; without it, their routes answer 503");
    GENIE_ALLOW_SHORT_SECRET = words("off", &["on", "off"], "`on` takes a shorter shared secret, for tests");
    SHARED_SECRET_ROUTES = words("all", &["original", "all"], "`original` opens only the original's routes to the shared secret; workers then need keys");
    DIRECTUS_URL = text("", "URL", "the Directus that keeps users and passwords; without it, genie keeps them itself");
    DIRECTUS_ADMIN_TOKEN = secret("one line", "a static token of an administrator of that Directus; without it, nobody can register and no forgetting ends");
    DIRECTUS_SECRET = secret("text", "that Directus' `SECRET`; with it, tokens are checked without asking");
    DIRECTUS_CREATOR_ROLE = text("creator", "name", "the role in Directus that a registration gives");
    GENIE_RESERVATION_SECONDS = number("600", (30, 86_400), "seconds", "how long a registration that broke off keeps its invite and address (Directus)");
    SMTP_URL = secret("`smtp://USER:PASSWORD@HOST:587` or `smtps://USER:PASSWORD@HOST:465`", "the mail server for links to set a new password; without it, requests wait for an administrator. `smtp` needs STARTTLS, unless the address ends in `?tls=none`");
    MAIL_FROM = text("", "address such as `genie <genie@example.com>`", "the sender of mails; needed with SMTP_URL");
    PASSWORD_RESET_URL_ALLOW_LIST = text("", "addresses of pages, separated by commas", "the pages that a link to set a new password may lead to; the first unless the client names another; one is needed with SMTP_URL");
    GENIE_ROLES = text("", "names, separated by commas", "roles beside `creator` and `administrator`; a Directus has its own");
    FORGET_GRACE = text("7d", "duration: `0`, or a number with `s`, `m`, `h` or `d`", "how long after `DELETE /api/me` a user is forgotten; until then it can be undone");
    GENIE_FORGOTTEN_FILE = text("", "file", "the ledger of the forgotten, read at each start; without it, GENIE_DATA_DIR/forgotten");
    OLLAMA_URL = text("http://127.0.0.1:11434", "URLs, separated by commas", "the model servers; an answer whose server fails before the first token is asked of another");
    OLLAMA_MODEL = text("qwen2.5:latest", "name", "the model that chats");
    CHAT_MODELS = text("", "names, separated by commas", "the models that programs may ask for by `POST /v1/chat/completions`; empty: `OLLAMA_MODEL` alone");
    CAPTION_MODEL = text("dolphin-mistral:7b", "name", "the model that writes captions");
    OLLAMA_CONCURRENCY = number("1", (1, 1024), "answers", "how many answers each server runs at once");
    GENIE_MODEL_QUEUE = number("64", (0, 100_000), "answers", "how many answers may wait on each server; one more is 429");
    CHAT_CONTEXT_TOKENS = number("4096", (256, 10_000_000), "tokens", "how much of a conversation the model is given");
    CHAT_MAX_TOKENS = number("1024", (1, 1_000_000), "tokens", "the longest answer; a longer one ends there");
    CHAT_MAX_SECONDS = number("900", (1, 86_400), "seconds", "how long an answer may take once it is its turn; a longer one fails and keeps its text");
    CHAT_SYSTEM_PROMPT = text("You are Genie, a helpful assistant for content creators. Be brief and concrete.", "text of at most 16384 bytes", "what the model is told before each conversation; a user's persona follows");
    CHAT_MODEL_OPTIONS = text("", "JSON such as `{\"qwen2.5:latest\": {\"temperature\": 0.6, \"max_tokens\": 512}}`", "what differs for single models: `context_tokens` and `max_tokens` instead of CHAT_CONTEXT_TOKENS and CHAT_MAX_TOKENS, and `temperature`, `top_p`, `min_p`, `top_k`, `repeat_penalty`, `repeat_last_n`, `presence_penalty`, `frequency_penalty`, `seed`, `stop`");
    GENIE_SKILLS_DIR = text("", "folder", "the skills that clients are told of (`GET /api/skills`), read at each start; without it there are none");
    OLLAMA_FIRST_TOKEN_SECONDS = number("300", (1, 86_400), "seconds", "how long the model server may take to the first token of an answer: it loads the model and reads the prompt");
    OLLAMA_NEXT_TOKEN_SECONDS = number("60", (1, 86_400), "seconds", "how long it may take from one token to the next");
    ONBOARDING_GATE = words("on", &["on", "off"], "`off` lets users chat before they are onboarded");
    GENIE_TIERS_FILE = text("", "file of the form of `events/tiers.toml`", "the limits of all tiers; without it, the built-in ones");
    QUEUE_STATS_PUBLIC = words("true", &["true", "false"], "`false` asks for a token on /api/queue/stats");
    CORS_ORIGINS = text("*", "`*`, or origins separated by commas; `moz-extension://*` is every extension of Firefox", "the origins that browsers may call from");
    RATE_LIMIT_USER = text("3000/1m", "rate such as `300/1m`, or `off`", "requests of one user");
    RATE_LIMIT_ADDRESS = text("3000/1m", "rate such as `300/1m`, or `off`", "requests of one address without a proven caller");
    FACTS_PER_USER_DAY = number("100000", (1, 1 << 40), "facts", "the most facts that a user's own commands add in a day (UTC); one more is 429");
    TRUSTED_PROXIES = text("", "networks such as `10.0.0.0/8`, separated by commas", "the proxies whose X-Forwarded-For is believed");
    CONNECTIONS_PER_ADDRESS = text("512", "number, or `off`", "connections of one address; those of TRUSTED_PROXIES are not counted; one more is 429");
    CONNECTIONS_IN_ALL = number("10000", (1, 1_000_000), "connections", "connections in all, as far as the limit of open files allows; one more is 503");
    CLIENT_STALL_MS = number("30000", (100, 3_600_000), "milliseconds", "how long a client may leave an answer unread, or the head of a request unfinished, before it is cut off");
    STREAMS_PER_USER = number("64", (1, 1_000_000), "streams", "chats and feeds that one user has open at once; one more is 429");
    STREAMS_IN_ALL = number("4096", (1, 1_000_000), "streams", "chats, feeds and waiting claims that are open at once; one more is 503");
    BODY_BYTES_IN_FLIGHT = number("134217728", (2_097_152, 1 << 40), "bytes", "bodies of requests that are not answered yet; routes without a caller have an eighth of their own; one more is 503");
    ANSWER_BYTES_IN_FLIGHT = number("134217728", (4_194_304, 1 << 40), "bytes", "answers of over 64 KiB that clients have not read yet; a read beyond is 503");
    PROBE_AGE_MS = number("1000", (0, 60_000), "milliseconds", "how old an answer of /readyz or /api/queue/stats may be; 0 makes one for every request");
    GENIE_WORKER_URL = text("http://127.0.0.1:3001", "URL", "the server that `genie worker` works for");
    GENIE_WORKER_KEY = secret("`gk_...`", "the service key of `genie worker`, with the scope `jobs:work`");
    GENIE_MARK_KEY = secret("`gm_...`", "the key of invisible marks for `genie worker`, as `genie mark-key` prints it; without it, their jobs are for other workers");
    GENIE_WORKER_JOBS = number("0", (0, 1024), "jobs", "how many jobs a media worker runs at once; 0 is one for each core");
    GENIE_WORKER_DIR = text("", "folder", "the media worker's own folder, for one worker alone; without it, GENIE_DATA_DIR/worker");
    GENIE_SANDBOX = words("best", &["best", "require"], "`require` starts no media worker where the sandbox is less than full");
    GENIE_PRIVATE_NETWORKS = text("", "networks such as `10.0.0.0/8`, separated by commas", "private and special networks that a job's `input_url` may lead into");
    GENIE_JOB_LEASE_MS = number("30000", (100, 3_600_000), "milliseconds", "how long a worker holds a job without a heartbeat");
    GENIE_READ_WAIT_MS = number("5000", (0, 60_000), "milliseconds", "how long a read waits for the position in Genie-Min-Position");
    GENIE_OWN_WRITES_WAIT_MS = number("1000", (0, 60_000), "milliseconds", "how long a read without Genie-Min-Position waits for its caller's last write");
    GENIE_IDEMPOTENCY_DAYS = number("30", (1, 3650), "days", "how long a request with an Idempotency-Key is answered as the first time; a later one is a new request");
    GENIE_LOGIN_STALL_MS = number("500", (0, 10_000), "milliseconds", "how long a login takes at least, so that its time gives nothing away");
    GENIE_SEAL_SECONDS = number("10", (1, 86_400), "seconds", "the time between two signed heads of the log while there are new facts");
    GENIE_HEADS_FILE = text("", "file", "the file that signed heads are appended to; one for each server, best on another machine");
    GENIE_HEADS_WEBHOOK = secret("URL", "the address that signed heads are sent to");
    GENIE_PROXY_LOOPBACK = words("off", &["on", "off"], "`on` also asks servers on this machine through the proxy of HTTP_PROXY, HTTPS_PROXY or ALL_PROXY");
    GENIE_LOG = text("info", "filter such as `info` or `genie=debug`", "what is logged");
    GENIE_LOG_FORMAT = words("text", &["text", "json"], "the form of log lines");
}
