//! The table of routes says who may call each; the running server agrees.

use genie::http::{
    access::RouteAccess,
    routes::{API, PAGES},
};
use genie_log::testing::{TestStore, both_stores};
use reqwest::Method;
use serde_json::json;

use crate::test_genie::TestGenie;

/// A path of this pattern, for ids that there are not.
fn path(pattern: &str) -> String {
    pattern
        .replace("{id}", "00000000-0000-4000-8000-000000000000")
        .replace("{turn}", "00000000-0000-4000-8000-000000000000")
        .replace("{session}", "00000000-0000-4000-8000-000000000000")
        .replace("{code}", "none")
        .replace("{file:.*}", "swagger-ui.css")
}

both_stores!(
    who_may_call_a_route_is_what_the_table_says,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        genie.user("admin").await; // the first user administers
        let ada = genie.user("ada").await;
        for route in API {
            let of = format!("{} {}", route.method, route.path);
            let method = || Method::from_bytes(route.method.as_str().as_bytes()).unwrap();
            let body = (route.method != "GET").then(|| json!({}));
            let path = path(route.path);
            let nobody = genie.send(method(), &path, &[], body.clone()).await.status;
            let is_public = matches!(
                route.access,
                RouteAccess::Public | RouteAccess::PublicByDefault
            );
            assert_eq!(nobody != 401, is_public, "{of} without a caller: {nobody}");
            assert_ne!(nobody, 403, "{of} without a caller");
            // Not those that a user may call: one of them ends the account.
            if let RouteAccess::Admin
            | RouteAccess::SharedSecret
            | RouteAccess::Server(_)
            | RouteAccess::Operator(_) = route.access
            {
                let user = genie.send(method(), &path, &ada.headers(), body).await;
                assert_eq!(user.status, 403, "{of} for a user who may not");
            }
        }
        ada.get(&genie, "/api/jobs").await.ok();
    }
);

both_stores!(pages_are_for_anybody, async |store: TestStore| {
    let genie = TestGenie::start(store).await;
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    for page in PAGES {
        let method = Method::from_bytes(page.method.as_str().as_bytes()).unwrap();
        let address = format!("{}{}", genie.next_base(), path(page.path));
        let answer = client.request(method, address).send().await.unwrap();
        let expected = if page.path == "/docs" { 308 } else { 200 };
        assert_eq!(answer.status(), expected, "{} {}", page.method, page.path);
        let is_head = page.method == "HEAD";
        let body = answer.text().await.unwrap();
        assert_eq!(body.is_empty(), is_head || expected == 308, "{}", page.path);
    }
    let docs = format!("{}/docs/", genie.next_base());
    let docs = reqwest::get(docs).await.unwrap().text().await.unwrap();
    assert!(docs.contains("swagger-ui"), "{docs}");
    let settings = format!("{}/docs/swagger-initializer.js", genie.next_base());
    let settings = reqwest::get(settings).await.unwrap().text().await.unwrap();
    assert!(settings.contains("/api/openapi.json"), "{settings}");
});
