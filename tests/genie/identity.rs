//! The identity is genie itself. The tests with a Directus put another file in the place of this
//! one. A story for both identities uses only what both offer.

use reqwest::Method;
use serde_json::json;

use crate::test_genie::{FIRST_INVITE, TestGenie, TestUser, password};

/// The settings that the server needs for this identity.
pub async fn settings() -> Vec<(&'static str, String)> {
    vec![]
}

/// The address of the user with this name.
pub fn email(_: &TestGenie, name: &str) -> String {
    format!("{name}@example.com")
}

pub async fn administrator(genie: &TestGenie, name: &str) -> TestUser {
    genie.register(name, FIRST_INVITE).await
}

/// Suspends a user or activates the user again.
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

/// Makes a user an administrator or a creator again. The user has to log in anew for the role to
/// take effect.
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

/// Replaces the user's first password.
pub async fn set_password(genie: &TestGenie, name: &str, user: &TestUser, new: &str) {
    let change = json!({"old_password": password(name), "password": new});
    let changed = genie
        .send(Method::PATCH, "/users/me", &user.headers(), Some(change))
        .await;
    assert_eq!(changed.status, 200, "{:?}", changed.json);
}
