//! Makes genie's account of a user follow Directus. The account begins when the user is first seen
//! (`account.met`).

use actix_web::HttpRequest;
use genie_actors::{WriteError, registration::reservation::ProvidedUser};
use genie_events::{
    CallerKind, EmailAddress, Metadata, StreamId, StreamKind, UserId,
    account::{AccountSync, ExternalAccount},
    tier::Tier,
};
use genie_projections::accounts::AccountRow;
use tracing::warn;

use super::address;
use crate::{
    app::App,
    http::{
        admission,
        caller::{ACCOUNT_WAIT, account_of, not_issued},
        error::ApiError,
    },
    identity::directus::{
        Authenticated, Directus, NotAuthenticated, NotRegistered, Person, Standing,
    },
};

impl From<NotAuthenticated> for ApiError {
    fn from(not: NotAuthenticated) -> Self {
        match not {
            NotAuthenticated::Expired => Self::Expired,
            NotAuthenticated::Forged => Self::Forged,
            NotAuthenticated::Invalid | NotAuthenticated::Inactive(_) => Self::NoCaller,
            NotAuthenticated::Trouble(trouble) => Self::Directus(trouble),
        }
    }
}

/// The account of a token's holder. It begins now if this is the first time, and takes over what
/// Directus says of the user.
pub async fn authenticate(
    app: &App,
    directus: &Directus,
    request: &HttpRequest,
    token: &str,
) -> Result<AccountRow, ApiError> {
    let Authenticated { person, admin } = match directus.authenticate(token, address(request)).await
    {
        Ok(authenticated) => authenticated,
        Err(NotAuthenticated::Inactive(user)) => {
            suspend(app, user).await;
            return Err(ApiError::NoCaller);
        }
        Err(not @ (NotAuthenticated::Forged | NotAuthenticated::Invalid)) => {
            return Err(not_issued(app, request, not.into()));
        }
        Err(not) => return Err(not.into()),
    };
    // Before anything is read or written for the user: a user who is suspended here holds a good
    // token, too.
    admission::count_user(app, request, person.user)?;
    let account = match app.callers.account(person.user).await? {
        Some(account) => account,
        None => {
            meet(app, directus, &person, admin).await?;
            account_of(app, person.user, ACCOUNT_WAIT)
                .await?
                .ok_or(ApiError::NoCaller)?
        }
    };
    sync(app, AccountRow::clone(&account), &person, admin).await
}

/// Checks by Directus that a user whose token is not at hand is still as the account says: an
/// administrator who acts for another user, and that user. The rights of a new role show only
/// when the user sends a token; until then the impersonation is refused.
pub async fn expect_unchanged(
    app: &App,
    request: &HttpRequest,
    account: &AccountRow,
) -> Result<(), ApiError> {
    let Some(directus) = &app.directus else {
        return Ok(());
    };
    match directus
        .standing(account.user, address(request))
        .await
        .map_err(ApiError::Directus)?
    {
        None => Ok(()), // Without an administrator's token nobody can ask.
        Some(Standing::Known(person)) if person.active => match &person.role_name {
            Some(role) if *role != account.role => Err(ApiError::NoCaller),
            _ => Ok(()),
        },
        Some(_) => {
            suspend(app, account.user).await;
            Err(ApiError::NoCaller)
        }
    }
}

/// Begins the account of a user who has sent no token yet, so that something can be kept for the
/// user. The user's own token says later whether the role administers.
pub async fn meet_unseen(app: &App, user: UserId) -> Result<(), ApiError> {
    let Some(directus) = &app.directus else {
        return Ok(());
    };
    if app.log.reader().user_seq(user).await? > 0 {
        return Ok(());
    }
    match directus.look_up(user).await.map_err(ApiError::Directus)? {
        Some(person) => Ok(meet(app, directus, &person, false).await?),
        None => Ok(()),
    }
}

/// Completes a registration of the user that broke off; otherwise begins an account as Directus
/// describes the user.
async fn meet(
    app: &App,
    directus: &Directus,
    person: &Person,
    admin: bool,
) -> Result<(), WriteError> {
    if app.log.reader().user_seq(person.user).await? > 0 {
        return Ok(()); // Another request began the account meanwhile.
    }
    if let Some((email, address)) = address_of(person) {
        let made = ProvidedUser {
            email: email.to_owned(),
            first_name: person.first_name.clone(),
            role: person.role_word(),
        };
        directus
            .registrations()
            .complete_for(person.user, &address, &made)
            .await?;
        or_stays(
            directus
                .registrations()
                .free_for(&address, person.user)
                .await,
        );
    }
    let who = ExternalAccount {
        email: person.email.clone(),
        email_id: None,
        first_name: person.first_name.clone(),
        tier: person.tier.unwrap_or(Tier::Starter),
        role: person.role_word(),
        admin,
        onboarding: person.onboarding.unwrap_or_default(),
        active: true,
    };
    app.write
        .registration
        .register_external(person.user, who, Metadata::system())
        .await
        .map(drop)
}

/// Appends facts of the changes in Directus. The answer counts at once, even when the read side is
/// behind.
async fn sync(
    app: &App,
    mut account: AccountRow,
    person: &Person,
    admin: bool,
) -> Result<AccountRow, ApiError> {
    // A role whose name may not be read does not show whether the role changed.
    let role = person
        .role_name
        .clone()
        .unwrap_or_else(|| account.role.clone());
    let is_active = account.status == "active";
    if is_active {
        follow_address(app, &mut account, person).await;
    }
    if (&account.role, account.admin, is_active) == (&role, admin, true) {
        return Ok(account);
    }
    // A user who asked to be forgotten can only be brought back by an administrator here.
    if account.status == "leaving" {
        return Err(ApiError::NoCaller);
    }
    if !is_active && !was_suspended_for_directus(app, person.user).await? {
        return Err(ApiError::NoCaller);
    }
    // Reactivates only an account that was seen suspended: another one may be suspended just now.
    let active = (!is_active).then_some(true);
    let wanted = AccountSync {
        role: Some(role.clone()),
        admin: Some(admin),
        tier: None,
        active,
    };
    app.write
        .accounts
        .sync(person.user, wanted, Metadata::system())
        .await?;
    account.role = role;
    account.admin = admin;
    account.status = "active".into();
    Ok(account)
}

/// Takes over a changed e-mail address. While another user has the address here, nothing changes:
/// that user's own change is taken over at the user's next request.
async fn follow_address(app: &App, account: &mut AccountRow, person: &Person) {
    let Some((email, address)) = address_of(person) else {
        return;
    };
    let known = account.email.as_deref().map(EmailAddress::read);
    if matches!(known, Some(Ok(known)) if known.is_same(&address)) {
        return;
    }
    if let Some(directus) = &app.directus {
        or_stays(directus.registrations().free_of_the_gone(&address).await);
    }
    match app
        .write
        .emails
        .change(person.user, &address, Metadata::system())
        .await
    {
        Ok(()) => account.email = Some(email.to_owned()),
        Err(error) => {
            warn!(user.id = %person.user, %error, "Directus: taking over a changed address failed; trying again with the user's next request")
        }
    }
}

/// The user's address, as Directus has it and as genie reads it. `None` when Directus has none, or text that is no
/// address: nobody can log in here with it.
fn address_of(person: &Person) -> Option<(&str, EmailAddress)> {
    let email = person.email.as_deref()?;
    Some((email, EmailAddress::read(email).ok()?))
}

/// The address of a user who was deleted in Directus is free again.
fn or_stays(freed: Result<(), NotRegistered>) {
    if let Err(error) = freed {
        warn!(%error, "Directus: asking whether an address is free failed; it stays reserved");
    }
}

/// True when genie suspended the user because Directus had. Then Directus may undo it; a suspension
/// made here stays.
async fn was_suspended_for_directus(app: &App, user: UserId) -> Result<bool, ApiError> {
    let asked = app
        .log
        .lookups()
        .last_asked(
            StreamId::new(StreamKind::Account, user),
            "account.suspended",
        )
        .await?;
    Ok(asked.is_some_and(|asked| asked.caller == CallerKind::System))
}

/// Suspends a user here, too, whom Directus suspended or deleted: the user's work ends, and actors
/// on other nodes refuse commands. The present request is refused either way.
async fn suspend(app: &App, user: UserId) {
    let suspended = async {
        match app.reads.accounts.get(user).await? {
            Some(account) if account.status == "active" => {
                let wanted = AccountSync {
                    active: Some(false),
                    ..AccountSync::default()
                };
                app.write
                    .accounts
                    .sync(user, wanted, Metadata::system())
                    .await
                    .map(drop)
                    .map_err(ApiError::from)
            }
            _ => Ok(()),
        }
    };
    if let Err(error) = suspended.await {
        warn!(user.id = %user, %error, "Directus: suspending a user who is not active there failed; trying again with the user's next request");
    }
}
