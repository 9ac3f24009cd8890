//! The caller's account with the fields of Directus' users, and the choice of fields by a query.

use std::{
    borrow::Cow,
    convert::Infallible,
    future::{Ready, ready},
};

use actix_web::{FromRequest, HttpRequest, dev::Payload, web::Query};
use genie_events::UserId;
use genie_projections::accounts::AccountRow;
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

use crate::http::{
    error::{ApiError, DirectusError},
    words::{self, Time},
};

/// Directus shows that there is a secret, and never the secret.
const CONCEALED: &str = "**********";
/// The icon that Directus gives to a role.
const ROLE_ICON: &str = "supervised_user_circle";

/// The fields of a user of Directus that genie has no use for are null, or have Directus' own default.
#[derive(Serialize, ToSchema)]
#[schema(as = Account)]
pub struct AccountAnswer {
    #[schema(value_type = Uuid)]
    id: UserId,
    email: Option<String>,
    first_name: Option<String>,
    last_name: Option<String>,
    /// The role's name. With `fields=role.name` or another field of the role it is an object.
    #[schema(value_type = Value)]
    role: String,
    /// Always `active`: other users cannot ask.
    status: String,
    #[schema(value_type = words::Tier)]
    tier: String,
    #[schema(value_type = words::OnboardingState)]
    onboarding: String,
    /// Asterisks when a login asks for a one-time code.
    tfa_secret: Option<&'static str>,
    created_at: Time,
    /// Always asterisks.
    password: &'static str,
    provider: &'static str,
    email_notifications: bool,
    text_direction: &'static str,
    policies: [String; 0],
    appearance: Option<String>,
    auth_data: Option<String>,
    avatar: Option<String>,
    description: Option<String>,
    external_identifier: Option<String>,
    language: Option<String>,
    last_access: Option<String>,
    last_page: Option<String>,
    location: Option<String>,
    tags: Option<Vec<String>>,
    theme_dark: Option<String>,
    theme_dark_overrides: Option<String>,
    theme_light: Option<String>,
    theme_light_overrides: Option<String>,
    title: Option<String>,
    token: Option<String>,
}

impl From<&AccountRow> for AccountAnswer {
    fn from(account: &AccountRow) -> Self {
        Self {
            id: account.user,
            email: account.email.clone(),
            first_name: account.first_name.clone(),
            last_name: account.last_name.clone(),
            role: account.role.clone(),
            status: account.status.clone(),
            tier: account.tier.clone(),
            onboarding: account.onboarding.clone(),
            tfa_secret: account.two_factor.then_some(CONCEALED),
            created_at: account.created_at.into(),
            password: CONCEALED,
            provider: "default",
            email_notifications: true,
            text_direction: "auto",
            policies: [],
            appearance: None,
            auth_data: None,
            avatar: None,
            description: None,
            external_identifier: None,
            language: None,
            last_access: None,
            last_page: None,
            location: None,
            tags: None,
            theme_dark: None,
            theme_dark_overrides: None,
            theme_light: None,
            theme_light_overrides: None,
            title: None,
            token: None,
        }
    }
}

/// The query of `GET /users/me`. Of Directus' parameters only `fields` chooses anything here; the others are ignored,
/// because one account has nothing to filter or sort.
pub struct FieldsQuery(String);

impl FieldsQuery {
    pub fn of(request: &HttpRequest) -> Self {
        Self(request.query_string().to_owned())
    }

    /// The paths that were asked for, such as `["role", "name"]`. A client may repeat `fields`, call it `fields[]`, or
    /// number it.
    fn paths(&self) -> Result<Vec<Vec<String>>, DirectusError> {
        let query = Query::<Vec<(String, String)>>::from_query(&self.0).map_err(|_| {
            DirectusError(ApiError::field(
                "The query cannot be read: a field has the wrong form",
            ))
        })?;
        let asked = query.iter().filter(|(name, _)| is_fields(name));
        let paths = asked
            .flat_map(|(_, fields)| fields.split(','))
            .map(str::trim)
            .filter(|path| !path.is_empty())
            .map(|path| path.split('.').map(str::to_owned).collect());
        Ok(paths.collect())
    }
}

fn is_fields(parameter: &str) -> bool {
    let Some(rest) = parameter.strip_prefix("fields") else {
        return false;
    };
    let number = rest
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    rest.is_empty() || number.is_some_and(|number| number.bytes().all(|b| b.is_ascii_digit()))
}

impl FromRequest for FieldsQuery {
    type Error = Infallible;
    type Future = Ready<Result<Self, Infallible>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(Self::of(request)))
    }
}

/// The fields of an [`Account`] that were asked for.
#[derive(Serialize)]
#[serde(untagged)]
pub enum AccountFields {
    All(Box<AccountAnswer>),
    Some(Map<String, Value>),
}

/// The schema of `Account`, with every field optional.
impl PartialSchema for AccountFields {
    fn schema() -> RefOr<Schema> {
        let mut schema = AccountAnswer::schema();
        if let RefOr::T(Schema::Object(object)) = &mut schema {
            object.required.clear();
        }
        schema
    }
}

impl ToSchema for AccountFields {
    fn name() -> Cow<'static, str> {
        AccountAnswer::name()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        AccountAnswer::schemas(schemas);
    }
}

impl AccountFields {
    /// As in Directus, unknown names are left out, and a query without any known name gives the id.
    pub fn asked_for(account: &AccountRow, fields: &FieldsQuery) -> Result<Self, DirectusError> {
        let all = AccountAnswer::from(account);
        let paths = fields.paths()?;
        if paths.is_empty() {
            return Ok(Self::All(Box::new(all)));
        }
        let all = object(serde_json::to_value(all));
        let role = role_of(account);
        let mut shown = Map::new();
        for path in &paths {
            let (first, rest) = path
                .split_first()
                .expect("a text that was split has a first part");
            let names = all.iter().filter(|(name, _)| is_named(first, name));
            for (name, value) in names {
                match (name.as_str(), rest) {
                    ("role", [within, ..]) => show_role(&mut shown, &role, within),
                    (_, []) => drop(shown.entry(name).or_insert_with(|| value.clone())),
                    // `*.*` asks for the plain fields, too. `email.x` asks for what there is not.
                    _ if first == "*" => {
                        shown.entry(name).or_insert_with(|| value.clone());
                    }
                    _ => {}
                }
            }
        }
        if shown.is_empty() {
            shown.insert("id".to_owned(), json!(account.user));
        }
        Ok(Self::Some(shown))
    }
}

fn is_named(asked: &str, name: &str) -> bool {
    asked == "*" || asked == name
}

fn object(value: Result<Value, serde_json::Error>) -> Map<String, Value> {
    match value.expect("a struct with names for fields is JSON") {
        Value::Object(fields) => fields,
        _ => unreachable!("a struct is a JSON object"),
    }
}

/// The role as Directus shows one of its own. genie knows a role by its name alone.
fn role_of(account: &AccountRow) -> Map<String, Value> {
    object(Ok(json!({
        "id": account.role,
        "name": account.role,
        "icon": ROLE_ICON,
        "description": null,
        "parent": null,
        "children": [],
        "users": [account.user],
    })))
}

/// Shows the role as an object, with these fields of it.
fn show_role(shown: &mut Map<String, Value>, role: &Map<String, Value>, within: &str) {
    let fields = role.iter().filter(|(name, _)| is_named(within, name));
    let mut fields = fields.map(|(name, value)| (name.clone(), value.clone()));
    let Some(first) = fields.next() else {
        return;
    };
    if !shown.get("role").is_some_and(Value::is_object) {
        shown.insert("role".to_owned(), json!({}));
    }
    if let Some(Value::Object(of_role)) = shown.get_mut("role") {
        of_role.insert(first.0, first.1);
        of_role.extend(fields);
    }
}
