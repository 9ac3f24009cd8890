//! What an export holds.

use genie_events::{BlobId, UserId};
use genie_projections::accounts::AccountRow;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::http::{
    accounts::LoginSession,
    api_keys::ApiKeyAnswer,
    captions::CaptionAnswer,
    chats::{ChatSession, Message},
    credentials::CredentialAnswer,
    events::cloud_event::CloudEvent,
    jobs::JobAnswer,
    usage::UsageAnswer,
    words::{FormatOne, Time, True},
};

#[derive(ToSchema)]
#[schema(as = Export)]
#[expect(
    dead_code,
    reason = "an export is written piece by piece; this describes the whole"
)]
pub struct ExportDocument {
    #[serde(flatten)]
    head: ExportHead,
    /// The logins.
    sessions: Vec<LoginSession>,
    /// The user's own keys, without the keys.
    keys: Vec<ApiKeyAnswer>,
    credentials: Vec<ExportedCredential>,
    /// The jobs, newest first, with their requests and results.
    jobs: Vec<ExportedJob>,
    /// The chats, the latest used first.
    chats: Vec<ChatSession>,
    /// All messages, chat by chat.
    messages: Vec<ExportedMessage>,
    /// The captions, newest first.
    captions: Vec<CaptionAnswer>,
    /// The uploaded files. Their bytes are at `path`.
    uploads: Vec<ExportedUpload>,
    /// All facts up to this export, in order, decrypted.
    events: Vec<CloudEvent>,
    /// The last members are this and the two flags. An export that has them is complete.
    complete: True,
}

/// The members before the lists.
#[derive(Serialize, ToSchema)]
pub struct ExportHead {
    pub format: FormatOne,
    pub exported_at: Time,
    /// True when it has the secrets.
    pub secrets: bool,
    pub account: ExportedAccount,
    pub usage: UsageAnswer,
}

#[derive(Serialize, ToSchema)]
pub struct ExportedAccount {
    #[schema(value_type = Uuid)]
    id: UserId,
    #[schema(required)]
    email: Option<String>,
    #[schema(required)]
    first_name: Option<String>,
    #[schema(required)]
    last_name: Option<String>,
    role: String,
    admin: bool,
    status: String,
    tier: String,
    onboarding: String,
    two_factor: bool,
    /// What the model is told about the user.
    #[schema(required)]
    persona: Option<String>,
    created_at: Time,
}

impl ExportedAccount {
    pub fn new(account: &AccountRow, persona: Option<String>) -> Self {
        Self {
            id: account.user,
            email: account.email.clone(),
            first_name: account.first_name.clone(),
            last_name: account.last_name.clone(),
            role: account.role.clone(),
            admin: account.admin,
            status: account.status.clone(),
            tier: account.tier.clone(),
            onboarding: account.onboarding.clone(),
            two_factor: account.two_factor,
            persona,
            created_at: account.created_at.into(),
        }
    }
}

/// A credential, with its `secret` when the export has secrets.
#[derive(Serialize, ToSchema)]
pub struct ExportedCredential {
    #[serde(flatten)]
    pub credential: CredentialAnswer,
    /// Null when it cannot be shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<HashMap<String, Value>>)]
    pub secret: Option<Value>,
    /// The code of the reason why the secret cannot be shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub secret_refused: Option<String>,
}

impl ExportedCredential {
    pub fn refuse(&mut self, code: &str) {
        self.secret = Some(Value::Null);
        self.secret_refused = Some(code.to_owned());
    }
}

#[derive(Serialize, ToSchema)]
pub struct ExportedJob {
    #[serde(flatten)]
    pub job: JobAnswer,
    #[serde(flatten)]
    #[schema(value_type = JobRequest)]
    pub asked: Option<JobRequest>,
}

/// What the job was submitted with.
#[derive(Serialize, ToSchema)]
pub struct JobRequest {
    pub params: Value,
    #[schema(required)]
    pub input_file_id: Option<String>,
    #[schema(required)]
    pub input_url: Option<String>,
    #[schema(required)]
    pub creator_profile_id: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct ExportedMessage {
    #[serde(flatten)]
    pub message: Message,
    /// The `id` of its chat.
    pub session: String,
}

#[derive(Serialize, ToSchema)]
pub struct ExportedUpload {
    #[schema(value_type = Uuid)]
    pub id: BlobId,
    /// The file's name when it was uploaded.
    pub name: String,
    #[schema(minimum = 0)]
    pub bytes: u64,
    pub mime: String,
    pub path: String,
    pub created_at: Time,
}
