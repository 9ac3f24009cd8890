//! Words in answers and bodies, as the published document lists them. Each list is the one that the rules use.

use genie_events::{
    CallerKind, Event, Timestamp,
    account::Onboarding,
    api_key,
    caption::Platform,
    credential::CredentialKind,
    job_operation::{self, QUEUES},
    service_key,
    tier::{self, Counter},
};
use serde::{Serialize, Serializer};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        KnownFormat, ObjectBuilder, Ref, RefOr, Schema, SchemaFormat, Type,
        extensions::Extensions,
        schema::{AdditionalProperties, SchemaType},
    },
};

pub const JOB_STATUSES: [&str; 6] = [
    "queued",
    "delayed",
    "processing",
    "completed",
    "failed",
    "cancelled",
];

const WAIT_REASONS: [&str; 6] = [
    "run_at",
    "backoff",
    "no_worker",
    "turn",
    "paused",
    "user_suspended",
];

const CALLERS: [CallerKind; 5] = [
    CallerKind::User,
    CallerKind::Impersonator,
    CallerKind::SharedSecret,
    CallerKind::ServiceKey,
    CallerKind::System,
];

const DIRECTUS_CODES: [&str; 11] = [
    "INVALID_CREDENTIALS",
    "TOKEN_EXPIRED",
    "INVALID_TOKEN",
    "INVALID_OTP",
    "INVALID_PAYLOAD",
    "RECORD_NOT_UNIQUE",
    "FORBIDDEN",
    "ROUTE_NOT_FOUND",
    "REQUESTS_EXCEEDED",
    "SERVICE_UNAVAILABLE",
    "INTERNAL_SERVER_ERROR",
];

fn key_scopes() -> Vec<&'static str> {
    let of_users = api_key::ApiScope::ALL.map(api_key::ApiScope::as_str);
    let of_servers = service_key::Scope::ALL.map(service_key::Scope::as_str);
    [&of_servers[..], &of_users[..]].concat()
}

/// A time in an answer: RFC 3339 UTC with milliseconds.
#[derive(Clone, Copy)]
pub struct Time(Timestamp);

impl From<Timestamp> for Time {
    fn from(at: Timestamp) -> Self {
        Self(at)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.rfc3339())
    }
}

impl PartialSchema for Time {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
            .into()
    }
}

impl ToSchema for Time {}

/// Types of one value each. The published document shows the value where the type is used.
macro_rules! constants {
    ($( $name:ident = $value:expr; )+) => {
        $(
            #[derive(Clone, Copy)]
            pub struct $name;

            impl Serialize for $name {
                fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    $value.serialize(serializer)
                }
            }

            impl PartialSchema for $name {
                fn schema() -> RefOr<Schema> {
                    // utoipa has no word for `const`.
                    ObjectBuilder::new()
                        .schema_type(SchemaType::AnyValue)
                        .extensions(Some(Extensions::from_iter([("const", $value)])))
                        .into()
                }
            }

            impl ToSchema for $name {}
        )+
    };
}
constants! {
    True = true;
    False = false;
    TierLimitReached = "tier_limit_reached";
    StageUpdate = "stage_update";
    TextResponseChunk = "textResponseChunk";
    TextResponse = "textResponse";
    ErrorEvent = "error";
    Finalized = "finalizeResponseStream";
    ApplicationJson = "application/json";
    CloudEvents1 = "1.0";
    Genie = "/genie";
    FormatOne = 1;
    CompletionObject = "chat.completion";
    ChunkObject = "chat.completion.chunk";
    FunctionWord = "function";
    ListObject = "list";
    ModelObject = "model";
    GenieWord = "genie";
}

macro_rules! words {
    ($( $(#[doc = $doc:literal])* $name:ident = $words:expr; )+) => {
        $(
            $(#[doc = $doc])*
            pub enum $name {}

            impl PartialSchema for $name {
                fn schema() -> RefOr<Schema> {
                    let description: &[&str] = &[$($doc.trim_ascii()),*];
                    let description = Some(description.join(" ")).filter(|text| !text.is_empty());
                    ObjectBuilder::new()
                        .schema_type(Type::String)
                        .description(description)
                        .enum_values(Some($words))
                        .into()
                }
            }

            impl ToSchema for $name {}
        )+
    };
}
words! {
    Queue = QUEUES;
    /// The operations that clients may queue.
    Operation = job_operation::all();
    /// The job's work. Only the upload queues `onboarding_import`, and only `POST /api/media/verify-mark` queues
    /// `verify_mark`.
    JobOperation = job_operation::of_jobs();
    JobStatus = JOB_STATUSES;
    WaitReason = WAIT_REASONS;
    Tier = tier::Tier::ALL.map(tier::Tier::as_str);
    /// Clients count `taxonomy_ai_calls` only.
    CounterName = Counter::ALL.map(Counter::as_str);
    /// In this order.
    OnboardingState = Onboarding::ALL.map(Onboarding::as_str);
    CaptionPlatform = Platform::ALL.map(Platform::as_str);
    CaptionLength = ["short", "medium", "long"];
    /// A connected platform, a name and password or cookies to download with, or a browser's session.
    KindOfCredential = CredentialKind::ALL.map(CredentialKind::as_str);
    DownloadKind = ["password", "cookies"];
    /// The rights of a user's own key. `chat`: the chats. `mcp`: the tools for agents. `api`: these and everything else
    /// that the user may do, but credentials, keys, logins, passwords, forgetting and administrating.
    ApiScope = api_key::ApiScope::ALL.map(api_key::ApiScope::as_str);
    /// A service key's rights. `events:read`: the feed without personal fields. `events:read:personal`: the feed with
    /// them. `jobs:work`: the workers' routes, and the credentials of the owner of a job that the key holds.
    /// `audit:read`: proofs. `credentials:reveal`: everybody's credentials. The last three are those of a user's own key.
    KeyScope = key_scopes();
    DirectusCode = DIRECTUS_CODES;
    Mood = ["thinking", "focused", "idle", "error"];
    EventType = Event::all_types();
    CallerWord = CALLERS.map(CallerKind::as_str);
    SandboxWord = ["full", "partial", "none"];
    PartState = ["ok", "away"];
    BoardState = ["starting", "ready", "away"];
    StoreState = ["ok", "away", "read-only", "full"];
    ProjectionState = ["following", "left damaged streams behind", "stopped"];
    SealingState = ["sealing", "stopped", "on another node"];
    CircuitWord = ["closed", "open", "half_open"];
    DirectusSecretState = ["unset", "in use", "differs"];
    /// Whether the model server has a model. The next answer of one that is `on_disk` waits until it is loaded.
    ModelState = ["missing", "on_disk", "loaded"];
    /// Why a model ended its answer.
    FinishReason = ["stop", "length", "tool_calls"];
    /// How a turn ended.
    Outcome = ["completed", "stopped", "failed", "interrupted"];
}

/// Any fields, at most 64 KiB. Stored encrypted, never logged, never part of an error.
pub enum Secret {}

impl PartialSchema for Secret {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .description(Some(
                "Any fields, at most 64 KiB. Stored encrypted, never logged, never part of an error.",
            ))
            .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(true)))
            .into()
    }
}

impl ToSchema for Secret {}

/// A cookie in the words of browser extensions, Playwright and Puppeteer.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "the rules parse cookies; this only describes one")]
#[schema(as = SessionCookie)]
pub struct SessionCookieForm {
    name: String,
    value: String,
    domain: String,
    path: Option<String>,
    /// Seconds since 1970. Absent or not above 0, the cookie ends with the browser session. `expirationDate` and `expiry`
    /// are other names; milliseconds, and times as text, are read as seconds.
    expires: Option<f64>,
    http_only: Option<bool>,
    secure: Option<bool>,
    /// `Strict`, `Lax`, `None`, `no_restriction` or `unspecified`, in any case. Any other counts as absent.
    same_site: Option<String>,
}

/// A name and password, or a cookie file.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "secrets are answered as they were sealed; this only describes one"
)]
pub struct DownloadSecret {
    username: Option<String>,
    password: Option<String>,
    /// The cookie file.
    cookies: Option<String>,
}

#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "secrets are answered as they were sealed; this only describes one"
)]
pub struct SessionSecret {
    cookies: Vec<SessionCookieForm>,
    #[schema(required)]
    user_agent: Option<String>,
    captured_at: Time,
}

/// The counts of each queue, by its name.
pub enum EachQueue {}

impl PartialSchema for EachQueue {
    fn schema() -> RefOr<Schema> {
        let counts = Ref::from_schema_name("QueueCounts");
        let object = QUEUES
            .into_iter()
            .fold(ObjectBuilder::new(), |object, queue| {
                object.property(queue, counts.clone()).required(queue)
            });
        object.into()
    }
}

impl ToSchema for EachQueue {}

macro_rules! per_counter {
    ($( #[doc = $doc:literal] $name:ident from $least:literal; )+) => {
        $(
            #[doc = $doc]
            pub enum $name {}

            impl PartialSchema for $name {
                fn schema() -> RefOr<Schema> {
                    let number = ObjectBuilder::new()
                        .schema_type(Type::Integer)
                        .minimum(Some($least))
                        .build();
                    let object = ObjectBuilder::new().description(Some($doc.trim_ascii()));
                    let counters = Counter::ALL.map(Counter::as_str).into_iter();
                    let object = counters.fold(object, |object, counter| {
                        object.property(counter, number.clone()).required(counter)
                    });
                    object.into()
                }
            }

            impl ToSchema for $name {}
        )+
    };
}
per_counter! {
    /// Present counts of `scheduled_queue_size`, `platforms_connected`, `team_seats`. Others: this month (UTC).
    Counts from 0;
    /// By counter. -1 is unlimited. As a limit, 0 is not part of the tier.
    Limits from -1;
}
