//! Whoever comes with Directus' token has an account here: they are met at first sight, and it follows what Directus says of them.

use actix_web::HttpRequest;
use genie_actors::{WriteError, registration::reservation::ProvidedUser};
use genie_events::{
    CallerKind, Metadata, StreamId, StreamKind, UserId,
    account::{AccountSync, ExternalAccount},
    email::normalise,
    tier::Tier,
};
use genie_projections::accounts::AccountRow;
use tracing::warn;

use super::address;
use crate::{
    app::App,
    http::{
        admission,
        caller::{ACCOUNT_WAIT, account_of, forged},
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
            NotAuthenticated::Invalid | NotAuthenticated::Inactive(_) => Self::NoCaller,
            NotAuthenticated::Trouble(trouble) => Self::Directus(trouble),
        }
    }
}

/// The account of a token's holder, who is met if this is the first time, and made what Directus says that they are.
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
        Err(NotAuthenticated::Invalid) => return Err(forged(app, request)),
        Err(not) => return Err(not.into()),
    };
    // Before anything is read or written for them: also who is suspended here holds a good token.
    admission::count_user(app, request, person.user)?;
    let account = match app.reads.accounts.get(person.user).await? {
        Some(account) => account,
        None => {
            meet(app, directus, &person, admin).await?;
            account_of(app, person.user, ACCOUNT_WAIT)
                .await?
                .ok_or(ApiError::NoCaller)?
        }
    };
    sync(app, account, &person, admin).await
}

/// That somebody whose token is not shown is what their account says, in Directus, too: of those who act for another, and for whom
/// they act. Whether a role that they got meanwhile administers shows when they come by themselves; until then nobody acts.
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
        None => Ok(()), // nothing says otherwise
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

/// Somebody who has not come by is met, so that something can be kept for them. Whether they administer, their token will say.
pub async fn meet_unseen(app: &App, user: UserId) -> Result<(), ApiError> {
    let Some(directus) = &app.directus else {
        return Ok(());
    };
    if app.log.user_seq(user).await? > 0 {
        return Ok(());
    }
    match directus.look_up(user).await.map_err(ApiError::Directus)? {
        Some(person) => Ok(meet(app, directus, &person, false).await?),
        None => Ok(()),
    }
}

/// A registration of theirs that broke off is completed; else they are met as Directus describes them.
async fn meet(
    app: &App,
    directus: &Directus,
    person: &Person,
    admin: bool,
) -> Result<(), WriteError> {
    if app.log.user_seq(person.user).await? > 0 {
        return Ok(()); // by another request, meanwhile
    }
    if let Some(email) = &person.email {
        let made = ProvidedUser {
            email: email.clone(),
            first_name: person.first_name.clone(),
            role: person.role_word(),
        };
        directus
            .registrations()
            .complete_for(person.user, email, &made)
            .await?;
        or_stays(directus.registrations().free_for(email, person.user).await);
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
        .register
        .meet(person.user, who, Metadata::system())
        .await
        .map(drop)
}

/// Facts of what is otherwise in Directus now. Its answer counts at once, whether or not the read side has got there.
async fn sync(
    app: &App,
    mut account: AccountRow,
    person: &Person,
    admin: bool,
) -> Result<AccountRow, ApiError> {
    // A name that may not be read says nothing of whether the role changed.
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
    // Who asked to be forgotten is brought back by an administrator here, or not at all.
    if account.status == "leaving" {
        return Err(ApiError::NoCaller);
    }
    if !is_active && !was_suspended_for_directus(app, person.user).await? {
        return Err(ApiError::NoCaller);
    }
    // Only from what was seen to be suspended: somebody may be suspended just now.
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
    (account.role, account.admin, account.status) = (role, admin, "active".into());
    Ok(account)
}

/// Another address in Directus is another here. While somebody else is known under it, who will be followed when they come by, all
/// stays as it is.
async fn follow_address(app: &App, account: &mut AccountRow, person: &Person) {
    let Some(email) = &person.email else { return };
    if normalise(email) == account.email.as_deref().and_then(normalise) {
        return;
    }
    if let Some(directus) = &app.directus {
        or_stays(directus.registrations().free_of_the_gone(email).await);
    }
    match app
        .write
        .register
        .follow_address(person.user, email, Metadata::system())
        .await
    {
        Ok(()) => account.email = Some(email.clone()),
        Err(error) => {
            warn!(user.id = %person.user, %error, "an address that was changed in Directus could not be followed")
        }
    }
}

/// An address is free again when who had it here was deleted in Directus.
fn or_stays(freed: Result<(), NotRegistered>) {
    if let Err(error) = freed {
        warn!(%error, "whether an address is free again could not be asked; until then it is as it was");
    }
}

/// Whether genie suspended somebody because Directus had: then Directus may take it back. Whom somebody suspended here stays so.
async fn was_suspended_for_directus(app: &App, user: UserId) -> Result<bool, ApiError> {
    let asked = app
        .log
        .last_asked(
            StreamId::new(StreamKind::Account, user),
            "account.suspended",
        )
        .await?;
    Ok(asked.is_some_and(|asked| asked.caller == CallerKind::System))
}

/// Somebody whom Directus suspended or deleted is suspended here, too: their work ends, and other nodes' actors refuse them. They
/// are refused either way.
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
        warn!(user.id = %user, %error, "a user who is not active in Directus could not be suspended here");
    }
}
