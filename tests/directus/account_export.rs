//! The export of one's own data with secrets: Directus checks the password.

use genie_log::testing::{TestStore, both_stores};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    test_directus::{PASSWORD, Site},
    test_genie::Answer,
};

both_stores!(
    an_export_with_secrets_asks_directus_about_the_password,
    async |store: TestStore| {
        let site = Site::shared(store).await;
        let ada = site.directus.person("ada", "creator").await;
        let pair = site.pair(&ada).await;
        let post = async |path: &str, body: Value| -> Answer {
            let headers = [("Authorization", format!("Bearer {}", pair.access))];
            site.genie
                .send(Method::POST, path, &headers, Some(body))
                .await
        };
        let profile = json!({"platform": "x", "credentials": {"password": "canary"}});
        post("/api/credentials/create-profile", profile).await.ok();
        let without = site.get(&pair.access, "/api/me/export").await.ok();
        assert_eq!(
            (&without["account"]["email"], &without["complete"]),
            (&json!(ada.email), &json!(true))
        );
        assert!(!without.to_string().contains("canary"));
        post("/api/me/export", json!({"password": "wrong"}))
            .await
            .refused(403, "wrong_password");
        let ended = site.proxy.count("POST /auth/logout");
        let whole = post("/api/me/export", json!({"password": PASSWORD}))
            .await
            .ok();
        assert_eq!(
            whole["credentials"][0]["secret"],
            json!({"password": "canary"})
        );
        assert_eq!(
            site.proxy.count("POST /auth/logout"),
            ended + 1,
            "the login that checked the password is ended"
        );
        assert_eq!(
            site.opens(&pair.access).await,
            200,
            "the user's own login is not ended"
        );
    }
);
