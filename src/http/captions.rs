//! Captions (docs/api.md, Captions).

use actix_web::web::Data;
use genie_events::caption::{Brief, BriefWords};
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
    let brief = body.brief()?;
    let platform = brief.platform;
    match app
        .write
        .captions
        .write(user.account.user, brief, asking)
        .await?
    {
        Ok((written, position)) => {
            let caption = GeneratedCaption {
                caption: written.text,
                model: written.model,
                platform: platform.as_str(),
                truncated: written.truncated,
            };
            Ok(Written(caption, position))
        }
        Err((failure, position)) => Err(ApiError::Model {
            failure,
            turn: None,
            position,
        }),
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
