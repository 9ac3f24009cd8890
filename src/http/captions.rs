//! Captions (contract, section 6).

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Data, Query},
};
use genie_events::caption::{Brief, Length, Platform};
use genie_projections::captions::CaptionRow;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    app::App,
    http::{
        body::Body,
        caller::ActingUser,
        error::ApiError,
        idempotency, read_your_writes,
        response::{self, PageQuery},
    },
};

#[derive(Deserialize)]
pub struct Wanted {
    platform: Option<String>,
    tone: Option<String>,
    topic: Option<String>,
    length: Option<String>,
    platform_username: Option<String>,
}

impl Wanted {
    fn brief(self) -> Result<Brief, ApiError> {
        let platform = match &self.platform {
            None => Platform::default(),
            Some(word) => Platform::parse(&word.to_lowercase()).ok_or_else(|| {
                ApiError::field("`platform` must be one of: onlyfans, fansly, x, reddit, tiktok, instagram, youtube, snapchat")
            })?,
        };
        let length = match &self.length {
            None => Length::default(),
            Some(word) => Length::parse(word)
                .ok_or_else(|| ApiError::field("`length` must be one of: short, medium, long"))?,
        };
        let text = |name: &str, given: Option<String>, default: &str| match given
            .filter(|text| !text.trim().is_empty())
        {
            Some(text) if text.chars().count() > 500 => Err(ApiError::field(format!(
                "`{name}` must be at most 500 characters"
            ))),
            Some(text) => Ok(text),
            None => Ok(default.to_owned()),
        };
        Ok(Brief {
            platform,
            tone: text("tone", self.tone, "playful")?,
            topic: text("topic", self.topic, "new content drop")?,
            length,
            platform_username: Some(text("platform_username", self.platform_username, "")?)
                .filter(|name| !name.is_empty()),
        })
    }
}

/// `POST /api/captions/generate`
pub async fn generate(
    app: Data<App>,
    request: HttpRequest,
    user: ActingUser,
    Body(body): Body<Wanted>,
) -> Result<HttpResponse, ApiError> {
    let asking = idempotency::asking(&app, &request, &user.caller)?;
    let brief = body.brief()?;
    let platform = brief.platform;
    match app
        .write
        .captions
        .write(user.account.user, brief, asking)
        .await?
    {
        Ok((written, position)) => {
            let mut fields = json!({"caption": written.text, "model": written.model, "platform": platform.as_str()});
            if written.truncated {
                fields["truncated"] = true.into();
            }
            Ok(response::written(fields, position))
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
    request: HttpRequest,
    user: ActingUser,
    page: Query<PageQuery>,
) -> Result<HttpResponse, ApiError> {
    let (id, limit) = (user.account.user, page.limit()?);
    read_your_writes::wait(&app, &request, "captions", Some(id)).await?;
    let rows = app
        .reads
        .captions
        .list(id, page.after_number()?, limit)
        .await?;
    let next = response::next_cursor(&rows, limit, |row| row.position.to_string());
    Ok(response::list(rows.iter().map(shown).collect(), next))
}

/// As its user sees it.
pub fn shown(row: &CaptionRow) -> Value {
    json!({
        "id": row.id, "status": row.status, "platform": row.platform, "caption": row.caption, "model": row.model,
        "truncated": row.truncated, "created_at": row.created_at.rfc3339(),
    })
}
