//! Captions (docs/api.md, Captions).

use actix_web::web::Data;
use genie_actors::{CommandContext, captions::CaptionEnd};
use genie_events::{
    UserId,
    caption::{Brief, BriefWords, WrittenCaption},
};
use genie_projections::captions::CaptionRow;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    app::App,
    http::{
        body::Body,
        caller::ActingUser,
        error::ApiError,
        idempotency::IdempotencyKey,
        input::Query,
        read_your_writes::MinPosition,
        response::{ListPage, PageQuery, Written},
        words::{self, Time},
    },
};

/// The most variants of one request.
const MAX_VARIANTS: u64 = 4;

/// The caption to write. A blank text counts as absent.
#[derive(Deserialize, ToSchema)]
pub struct CaptionRequest {
    /// `onlyfans` by default.
    #[schema(value_type = Option<words::CaptionPlatform>)]
    platform: Option<String>,
    /// `playful` by default.
    #[schema(max_length = 500)]
    tone: Option<String>,
    /// `new content drop` by default.
    #[schema(max_length = 500)]
    topic: Option<String>,
    /// `short` is 1 to 2 sentences, `medium` 2 to 4, `long` 4 to 8. `medium` by default. The platform's cap goes
    /// first.
    #[schema(value_type = Option<words::CaptionLength>)]
    length: Option<String>,
    /// The name under which the user posts on the platform.
    #[schema(max_length = 500)]
    platform_username: Option<String>,
    /// Several variants, each counted; all of them are counted, or none. 1 by default.
    #[schema(minimum = 1, maximum = 4)]
    n: Option<u64>,
}

#[derive(Serialize, ToSchema)]
pub struct GeneratedCaption {
    caption: String,
    model: String,
    #[schema(value_type = words::CaptionPlatform)]
    platform: &'static str,
    /// Present, and true, when the caption was cut at the platform's cap.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
    /// All variants that were asked for by `n` and written; the first is `caption`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    captions: Vec<CaptionVariant>,
}

#[derive(Serialize, ToSchema)]
pub struct CaptionVariant {
    caption: String,
    /// Present, and true, when it was cut at the platform's cap.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

/// A caption as its user sees it.
#[derive(Serialize, ToSchema)]
#[schema(as = Caption)]
pub struct CaptionAnswer {
    #[schema(format = Uuid)]
    id: String,
    /// `writing`, `completed` or `failed`.
    status: String,
    #[schema(value_type = words::CaptionPlatform)]
    platform: String,
    /// Null until it is written.
    #[schema(required)]
    caption: Option<String>,
    /// The model that wrote it.
    #[schema(required)]
    model: Option<String>,
    /// True when it was cut at the platform's cap.
    truncated: bool,
    created_at: Time,
}

impl From<&CaptionRow> for CaptionAnswer {
    fn from(row: &CaptionRow) -> Self {
        Self {
            id: row.id.clone(),
            status: row.status.clone(),
            platform: row.platform.clone(),
            caption: row.caption.clone(),
            model: row.model.clone(),
            truncated: row.truncated,
            created_at: row.created_at.into(),
        }
    }
}

impl CaptionRequest {
    fn brief(self) -> Result<Brief, ApiError> {
        let words = BriefWords {
            platform: self.platform,
            tone: self.tone,
            topic: self.topic,
            length: self.length,
            platform_username: self.platform_username,
        };
        Brief::try_from(words).map_err(ApiError::field)
    }
}

/// `POST /api/captions/generate`
pub async fn generate(
    app: Data<App>,
    idempotency_key: IdempotencyKey,
    user: ActingUser,
    Body(body): Body<CaptionRequest>,
) -> Result<Written<GeneratedCaption>, ApiError> {
    let asking = idempotency_key.asking(&app, &user.caller)?;
    generate_for(&app, user.account.user, body, asking).await
}

/// Writes captions for this user.
pub async fn generate_for(
    app: &App,
    user: UserId,
    wanted: CaptionRequest,
    asking: CommandContext,
) -> Result<Written<GeneratedCaption>, ApiError> {
    let count = match wanted.n.unwrap_or(1) {
        n @ 1..=MAX_VARIANTS => n as usize,
        _ => return Err(ApiError::field(format!("`n` must be 1 to {MAX_VARIANTS}"))),
    };
    let asks_for_variants = wanted.n.is_some();
    let brief = wanted.brief()?;
    let platform = brief.platform;
    let ends = app.write.captions.write(user, brief, count, asking).await?;
    let position = ends.iter().map(position_of).max().unwrap_or_default();
    let mut failed = None;
    let mut written = Vec::new();
    for end in ends {
        match end {
            Ok((caption, _)) => written.push(caption),
            Err((failure, _)) => failed = Some(failure),
        }
    }
    let Some(first) = written.first() else {
        let failure = failed.ok_or_else(|| ApiError::Internal("no caption has an end".into()))?;
        return Err(ApiError::Model {
            failure,
            turn: None,
            position,
        });
    };
    let mut answer = GeneratedCaption {
        caption: first.text.clone(),
        model: first.model.clone(),
        platform: platform.as_str(),
        truncated: first.truncated,
        captions: vec![],
    };
    if asks_for_variants {
        let variants = written.into_iter().map(CaptionVariant::from);
        answer.captions = variants.collect();
    }
    Ok(Written(answer, position))
}

fn position_of(end: &CaptionEnd) -> u64 {
    match end {
        Ok((_, position)) | Err((_, position)) => *position,
    }
}

impl From<WrittenCaption> for CaptionVariant {
    fn from(written: WrittenCaption) -> Self {
        Self {
            caption: written.text,
            truncated: written.truncated,
        }
    }
}

/// `GET /api/captions`
pub async fn list(
    app: Data<App>,
    min_position: MinPosition,
    user: ActingUser,
    Query(page): Query<PageQuery>,
) -> Result<ListPage<CaptionAnswer>, ApiError> {
    let id = user.account.user;
    let limit = page.limit()?;
    min_position.wait(&app, "captions", Some(id)).await?;
    let rows = app
        .reads
        .captions
        .list(id, page.after_number()?, limit)
        .await?;
    ListPage::of(&rows, |row| row.position.to_string(), CaptionAnswer::from)
}
