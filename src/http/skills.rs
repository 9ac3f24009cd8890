//! Skills (docs/api.md, Skills).

use actix_web::web::{Data, Path};
use genie_log::pages::PAGE_BYTES;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use crate::{
    app::App,
    http::{
        body::Body,
        caller::ActingUser,
        error::ApiError,
        input::Query,
        response::{Answer, json},
        words::Time,
    },
    skills::{Skill, SkillOrder},
};

const LIMIT: usize = 50;
const MAX_LIMIT: usize = 500;
/// The skills that a task activates.
const ACTIVATED: usize = 5;
/// In characters.
const MAX_QUERY: usize = 4096;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct SkillsQuery {
    /// Only those of this category.
    category: Option<String>,
    /// Only those with all of these tags; separated by commas.
    tags: Option<String>,
    /// The most skills of the answer, which also ends at a mebibyte.
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<usize>,
    /// So many are passed over.
    #[param(minimum = 0)]
    offset: Option<usize>,
    /// `name`, `category` or `date_updated`, with `-` before it for the opposite order. By `id` without it.
    sort: Option<String>,
}

impl SkillsQuery {
    fn limit(&self) -> Result<usize, ApiError> {
        match self.limit.unwrap_or(LIMIT) {
            limit @ 1..=MAX_LIMIT => Ok(limit),
            _ => Err(ApiError::field(format!("`limit` must be 1 to {MAX_LIMIT}"))),
        }
    }

    /// The order, and whether it is the opposite.
    fn order(&self) -> Result<Option<(SkillOrder, bool)>, ApiError> {
        let Some(sort) = self.sort.as_deref().filter(|sort| !sort.is_empty()) else {
            return Ok(None);
        };
        let (field, is_opposite) = match sort.strip_prefix('-') {
            Some(field) => (field, true),
            None => (sort, false),
        };
        let order = match field {
            "name" => SkillOrder::Name,
            "category" => SkillOrder::Category,
            "date_updated" => SkillOrder::Changed,
            _ => {
                let must = "`sort` must be name, category or date_updated, or one of them with - before it";
                return Err(ApiError::field(must));
            }
        };
        Ok(Some((order, is_opposite)))
    }

    fn wants(&self, skill: &Skill) -> bool {
        let of_category = self
            .category
            .as_ref()
            .is_none_or(|wanted| skill.category.as_ref() == Some(wanted));
        let tags = self
            .tags
            .as_deref()
            .unwrap_or_default()
            .split(',')
            .map(str::trim);
        of_category
            && tags
                .filter(|tag| !tag.is_empty())
                .all(|wanted| skill.tags.iter().any(|tag| tag == wanted))
    }
}

#[derive(Deserialize, ToSchema)]
pub struct SkillSearch {
    /// In free words.
    #[schema(min_length = 1, max_length = 4096)]
    query: String,
}

#[derive(Deserialize, ToSchema)]
pub struct SkillActivation {
    /// What is to be done, in free words.
    #[schema(min_length = 1, max_length = 4096)]
    task: String,
    /// 5 by default.
    #[schema(minimum = 1, maximum = 500)]
    max_results: Option<usize>,
}

/// A skill as it is answered.
#[derive(Serialize, ToSchema)]
#[schema(as = Skill)]
pub struct ShownSkill<'a> {
    id: &'a str,
    name: &'a str,
    #[schema(required)]
    category: Option<&'a str>,
    description: &'a str,
    tags: &'a [String],
    /// Markdown.
    content: &'a str,
    /// How well it fits the task, above 0 to 1. Null where nothing was searched for.
    #[schema(required, minimum = 0, maximum = 1)]
    activation_score: Option<f64>,
    /// When the skill's file was changed.
    date_updated: Time,
}

impl<'a> ShownSkill<'a> {
    fn new(skill: &'a Skill, activation_score: Option<f64>) -> Self {
        Self {
            id: &skill.id,
            name: &skill.name,
            category: skill.category.as_deref(),
            description: &skill.description,
            tags: &skill.tags,
            content: &skill.content,
            activation_score,
            date_updated: skill.changed.into(),
        }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = Skills)]
pub struct SkillList {
    #[schema(value_type = Vec<ShownSkill>)]
    data: Vec<Box<RawValue>>,
    meta: SkillCounts,
}

#[derive(Serialize, ToSchema)]
pub struct SkillCounts {
    /// All skills.
    total_count: usize,
    /// Those that were asked for, on this page or not.
    filter_count: usize,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SkillAnswer)]
pub struct OneSkill {
    #[schema(value_type = ShownSkill)]
    data: Box<RawValue>,
}

/// As many of these as a page may hold: at least one, if there is one.
fn page<'a>(
    app: &App,
    filter_count: usize,
    found: impl Iterator<Item = ShownSkill<'a>>,
) -> Result<Answer<SkillList>, ApiError> {
    let mut data: Vec<Box<RawValue>> = Vec::new();
    let mut bytes = 0;
    for skill in found {
        let skill = json(&skill)?;
        bytes += skill.get().len();
        if bytes > PAGE_BYTES as usize && !data.is_empty() {
            break;
        }
        data.push(skill);
    }
    let total_count = app.skills.all().len();
    Ok(Answer(SkillList {
        data,
        meta: SkillCounts {
            total_count,
            filter_count,
        },
    }))
}

fn found<'a>(app: &'a App, wanted: &str) -> Result<&'a Skill, ApiError> {
    app.skills.find(wanted).ok_or(ApiError::NotFound("skill"))
}

/// `GET /api/skills`
pub async fn list(
    app: Data<App>,
    _user: ActingUser,
    Query(query): Query<SkillsQuery>,
) -> Result<Answer<SkillList>, ApiError> {
    let limit = query.limit()?;
    let order = query.order()?;
    let mut skills: Vec<&Skill> = app
        .skills
        .all()
        .iter()
        .filter(|skill| query.wants(skill))
        .collect();
    if let Some((order, is_opposite)) = order {
        skills.sort_by(|one, other| {
            let compared = order.compare(one, other);
            if is_opposite {
                compared.reverse()
            } else {
                compared
            }
        });
    }
    let count = skills.len();
    let some = skills
        .into_iter()
        .skip(query.offset.unwrap_or(0))
        .take(limit);
    page(&app, count, some.map(|skill| ShownSkill::new(skill, None)))
}

/// `GET /api/skills/{id}`
pub async fn show(
    app: Data<App>,
    _user: ActingUser,
    id: Path<String>,
) -> Result<Answer<OneSkill>, ApiError> {
    let skill = ShownSkill::new(found(&app, &id)?, None);
    Ok(Answer(OneSkill {
        data: json(&skill)?,
    }))
}

/// `GET /api/skills/{id}/related`
pub async fn related(
    app: Data<App>,
    _user: ActingUser,
    id: Path<String>,
) -> Result<Answer<SkillList>, ApiError> {
    let related = app.skills.related(found(&app, &id)?);
    let count = related.len();
    let some = related.into_iter().take(LIMIT);
    page(&app, count, some.map(|skill| ShownSkill::new(skill, None)))
}

/// `POST /api/skills/search`
pub async fn search(
    app: Data<App>,
    _user: ActingUser,
    Body(body): Body<SkillSearch>,
) -> Result<Answer<SkillList>, ApiError> {
    best(&app, "query", &body.query, LIMIT)
}

/// `POST /api/skills/activate`
pub async fn activate(
    app: Data<App>,
    _user: ActingUser,
    Body(body): Body<SkillActivation>,
) -> Result<Answer<SkillList>, ApiError> {
    match body.max_results.unwrap_or(ACTIVATED) {
        most @ 1..=MAX_LIMIT => best(&app, "task", &body.task, most),
        _ => Err(ApiError::field(format!(
            "`max_results` must be 1 to {MAX_LIMIT}"
        ))),
    }
}

fn best(app: &App, field: &str, wanted: &str, most: usize) -> Result<Answer<SkillList>, ApiError> {
    if wanted.trim().is_empty() || wanted.chars().count() > MAX_QUERY {
        let must =
            format!("`{field}` must have 1 to {MAX_QUERY} characters, and must not be blank");
        return Err(ApiError::field(must));
    }
    let found = app.skills.search(wanted);
    let count = found.len();
    let some = found.into_iter().take(most);
    page(
        app,
        count,
        some.map(|(skill, score)| ShownSkill::new(skill, Some(score))),
    )
}
