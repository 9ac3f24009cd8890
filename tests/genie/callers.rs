//! Tokens that are none, and too many of them: one status, one sentence.

use genie_log::testing::{TestStore, both_stores};
use reqwest::Method;
use serde_json::json;

use crate::genie::{SECRET, TestGenie};

both_stores!(a_token_that_is_none_is_401_and_two_are_400, async |store: TestStore| {
    let mut genie = TestGenie::start(store).await;
    let ada = genie.user("ada").await;
    let parts: Vec<&str> = ada.token.split('.').collect();
    let (header, claims) = (parts[0], parts[1]);
    // {"alg":"none","typ":"JWT"}, in both ways that such a token ends.
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    for bad in [
        format!("{none}.{claims}."),
        format!("{none}.{claims}.{}", parts[2]),
        format!("{header}.{claims}."),
        format!("{header}.{claims}.{}", "A".repeat(43)),
        format!("{header}.{claims}"),
        "a-static-token".to_owned(),
        "gk_".to_owned(),
        "é".to_owned(),
        String::new(),
    ] {
        let headers = [("Authorization", format!("Bearer {bad}"))];
        let refused = genie.send(Method::GET, "/api/jobs", &headers, None).await.refused(401, "invalid_token");
        assert_eq!(refused["error"], "Invalid or expired token", "{bad}");
    }
    let bearer = ("Authorization", format!("Bearer {}", ada.token));
    genie.send(Method::GET, "/api/jobs", &[("Authorization", format!("bearer   {}", ada.token))], None).await.ok();

    let twice = [bearer.clone(), bearer.clone()];
    genie.send(Method::GET, "/api/jobs", &twice, None).await.refused(400, "two_tokens");
    let in_address = format!("/api/jobs?access_token={}", ada.token);
    genie.send(Method::GET, &in_address, std::slice::from_ref(&bearer), None).await.refused(400, "two_tokens");
    genie.send(Method::GET, &in_address, &[], None).await.refused(401, "invalid_token");
    let me = genie.send(Method::GET, "/users/me", &twice, None).await;
    assert_eq!((me.status.as_u16(), me.json["errors"][0]["extensions"]["code"].as_str()), (400, Some("INVALID_PAYLOAD")));
    let secret = ("X-RBAC-SYNC-SECRET", SECRET.to_owned());
    genie.send(Method::GET, "/api/events", &[secret.clone(), secret.clone()], None).await.refused(400, "two_tokens");
    // A secret beside a token is no second token: it goes first where it is one of the ways in.
    genie.send(Method::GET, "/api/events", &[secret, bearer], None).await.ok();
    genie.server("/api/credentials/reveal", json!({})).await.refused(400, "invalid_field");
});
