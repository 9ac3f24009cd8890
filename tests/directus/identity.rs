//! Identity by a Directus that all tests share. It stands in place of the other test program's file
//! of this name, so that the same stories run with either.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::{
    test_directus::Directus,
    test_genie::{TestGenie, TestUser, password},
    until::until,
};

async fn directus() -> &'static Directus {
    static SHARED: OnceCell<Directus> = OnceCell::const_new();
    SHARED.get_or_init(Directus::shared).await
}

/// The settings of the server.
pub async fn settings() -> Vec<(&'static str, String)> {
    let directus = directus().await;
    directus.settings(&directus.url)
}

/// The e-mail address of a user of that name; the folder's name makes it unique to the test.
pub fn email(genie: &TestGenie, name: &str) -> String {
    let folder = genie
        .store
        .folder()
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap()
        .to_lowercase();
    format!("{name}.{folder}@example.com")
}

/// An administrator whom Directus has and genie does not know yet.
pub async fn administrator(genie: &TestGenie, name: &str) -> TestUser {
    let directus = directus().await;
    let role = directus.role("Administrator").await;
    let body = json!({"email": email(genie, name), "password": password(name), "role": role, "status": "active"});
    let made = directus.admin(Method::POST, "/users", body).await;
    genie.user_again(name, made["id"].as_str().unwrap()).await
}

/// Suspends a user, or makes the user active again.
pub async fn set_active(genie: &TestGenie, user: &TestUser, active: bool) {
    let (status, code) = if active {
        ("active", 200)
    } else {
        ("suspended", 401)
    };
    change(user, json!({"status": status})).await;
    until_answered(genie, user, "/api/usage", code).await;
}

/// Makes a user an administrator, or a creator again. A new login is needed to use the role.
pub async fn set_administrator(
    genie: &TestGenie,
    name: &str,
    user: &TestUser,
    administers: bool,
) -> TestUser {
    let (role, code) = if administers {
        ("Administrator", 200)
    } else {
        ("creator", 403)
    };
    change(user, json!({"role": directus().await.role(role).await})).await;
    let user = genie.user_again(name, &user.id).await;
    until_answered(genie, &user, "/api/admin/invites", code).await;
    // A user who administers no more is refused at once, by the token. The role follows when Directus is asked again.
    until(&format!("{name} has the role {role}"), async || {
        (role_of(genie, &user).await == role).then_some(())
    })
    .await;
    genie.settle().await;
    user
}

/// The role that genie knows, by the user's own feed.
async fn role_of(genie: &TestGenie, user: &TestUser) -> String {
    let feed = user.get(genie, "/api/me/events?limit=500").await.ok();
    let facts = feed["data"].as_array().unwrap().iter().rev();
    let last = facts
        .filter_map(|fact| fact["data"]["role"].as_str())
        .next();
    last.unwrap().to_owned()
}

/// Replaces a user's first password.
pub async fn set_password(_: &TestGenie, _: &str, user: &TestUser, new: &str) {
    change(user, json!({"password": new})).await;
}

async fn change(user: &TestUser, what: Value) {
    directus()
        .await
        .admin(Method::PATCH, &format!("/users/{}", user.id), what)
        .await;
}

/// Waits for an answer, because genie asks Directus only every few seconds.
async fn until_answered(genie: &TestGenie, user: &TestUser, path: &str, status: u16) {
    until(&format!("{path} is answered with {status}"), async || {
        (user.get(genie, path).await.status == status).then_some(())
    })
    .await;
    genie.settle().await;
}
