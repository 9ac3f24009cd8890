//! Who says who is who: genie itself. The tests with a Directus have another file in the place of this one; stories that run with
//! either ask only for what both have.

use reqwest::Method;
use serde_json::json;

use crate::test_genie::{FIRST_INVITE, TestGenie, TestUser, password};

/// What the server has to be told.
pub async fn settings() -> Vec<(&'static str, String)> {
    vec![]
}

/// The address of somebody of that name.
pub fn email(_: &TestGenie, name: &str) -> String {
    format!("{name}@example.com")
}

/// The first administrator.
pub async fn administrator(genie: &TestGenie, name: &str) -> TestUser {
    genie.register(name, FIRST_INVITE).await
}

/// Takes somebody the right to act, or gives it back.
pub async fn set_active(genie: &TestGenie, user: &TestUser, active: bool) {
    let status = if active { "active" } else { "suspended" };
    genie
        .server(
            "/api/rbac-sync",
            json!({"userId": user.id, "status": status}),
        )
        .await
        .ok();
    genie.settle().await;
}

/// Makes somebody an administrator, or a creator again; they have to log in anew to know of it.
pub async fn set_administrator(
    genie: &TestGenie,
    name: &str,
    user: &TestUser,
    administers: bool,
) -> TestUser {
    let role = if administers {
        "administrator"
    } else {
        "creator"
    };
    genie
        .server("/api/rbac-sync", json!({"userId": user.id, "role": role}))
        .await
        .ok();
    genie.settle().await;
    genie.user_again(name, &user.id).await
}

/// Gives somebody another password than their first.
pub async fn set_password(genie: &TestGenie, name: &str, user: &TestUser, new: &str) {
    let change = json!({"old_password": password(name), "password": new});
    let changed = genie
        .send(Method::PATCH, "/users/me", &user.headers(), Some(change))
        .await;
    assert_eq!(changed.status, 200, "{:?}", changed.json);
}
