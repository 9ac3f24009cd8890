//! `PATCH /users/me`: a new password, a new address, other names.

use actix_web::{HttpRequest, web::Data};
use genie_actors::{
    WriteError,
    accounts::{NameChange, change_login::LoginChange},
};
use genie_events::{EmailAddress, UserName, account::NamePart};
use secrecy::SecretString;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{AccountFields, FieldsQuery, check_password, prove_again};
use crate::{
    app::App,
    http::{
        body::PatchBody,
        caller::{DirectusUser, UserCaller},
        error::{ApiError, DirectusError},
        input,
        response::DirectusData,
    },
};

#[derive(Deserialize, ToSchema)]
pub struct AccountChanges {
    /// Needs `old_password`.
    email: Option<String>,
    /// 8 to 1024 bytes. Needs `old_password`.
    #[schema(value_type = Option<String>, format = Password)]
    #[serde(default, deserialize_with = "input::whole")]
    password: Option<SecretString>,
    #[schema(value_type = Option<String>, format = Password)]
    #[serde(default, deserialize_with = "input::whole")]
    old_password: Option<SecretString>,
    /// At most 200 characters. Null removes it.
    #[schema(max_length = 200)]
    first_name: Option<String>,
    /// At most 200 characters. Null removes it.
    #[schema(max_length = 200)]
    last_name: Option<String>,
}

/// Changes that were read.
struct CheckedChanges {
    names: Vec<NameChange>,
    /// True when the password or the address changes.
    of_login: bool,
    email: Option<EmailAddress>,
    password: Option<SecretString>,
    old_password: Option<SecretString>,
}

impl CheckedChanges {
    fn read(PatchBody { body, cleared }: PatchBody<AccountChanges>) -> Result<Self, ApiError> {
        let mut names = Vec::new();
        for (part, field, given) in [
            (NamePart::First, "first_name", body.first_name),
            (NamePart::Last, "last_name", body.last_name),
        ] {
            let is_cleared = cleared.iter().any(|name| name == field);
            let wanted = given.or_else(|| is_cleared.then(String::new));
            if let Some(text) = wanted {
                let name = UserName::read(field, &text)?;
                names.push(NameChange { part, name });
            }
        }
        let of_login = body.email.is_some() || body.password.is_some();
        if names.is_empty() && !of_login {
            return Err(ApiError::field(
                "`email`, `password`, `first_name` or `last_name` must be given; nothing else can be changed here",
            ));
        }
        body.password.as_ref().map_or(Ok(()), check_password)?;
        let email = body.email.as_deref().map(EmailAddress::read).transpose()?;
        Ok(Self {
            names,
            of_login,
            email,
            password: body.password,
            old_password: body.old_password,
        })
    }
}

/// `PATCH /users/me`
pub async fn change_me(
    app: Data<App>,
    request: HttpRequest,
    DirectusUser(caller): DirectusUser,
    body: Result<PatchBody<AccountChanges>, ApiError>,
) -> Result<DirectusData<AccountFields>, DirectusError> {
    let changes = CheckedChanges::read(body?)?;
    let id = caller.account.user;
    let position = if changes.of_login {
        change_login(&app, &request, &caller, changes).await?
    } else {
        let names = app
            .write
            .accounts
            .change_names(id, changes.names, caller.caller.metadata());
        names.await?.position
    };
    // The change stands, however slow the read side is.
    let _ = app
        .reads
        .wait_for("accounts", position, app.config.read_wait)
        .await;
    let account = app
        .reads
        .accounts
        .get(id)
        .await?
        .ok_or(DirectusError(ApiError::NoCaller))?;
    Ok(DirectusData {
        data: AccountFields::asked_for(&account, &FieldsQuery::of(&request))?,
        position: Some(position),
    })
}

/// A change of the password or the address, which the old password proves.
async fn change_login(
    app: &App,
    request: &HttpRequest,
    caller: &UserCaller,
    changes: CheckedChanges,
) -> Result<u64, DirectusError> {
    let old = changes
        .old_password
        .ok_or_else(|| ApiError::field("`old_password` is missing"))?;
    let from = prove_again(app, request, caller, old).await?;
    let password_hash = match changes.password {
        Some(password) => Some(app.passwords.hash(password).await?),
        None => None,
    };
    let revision = LoginChange {
        from,
        password_hash,
        email: changes.email,
        names: changes.names,
        keep: caller.login.map(|login| login.to_string()),
    };
    let user = caller.account.user;
    let changed = app
        .write
        .accounts
        .change_login(user, &revision, caller.caller.metadata());
    changed.await.map_err(|error| match error {
        WriteError::Refused(refusal) if refusal.code == "wrong_password" => {
            DirectusError(ApiError::NoCaller)
        }
        error => error.into(),
    })
}
