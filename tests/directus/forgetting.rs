//! A user whom genie forgets is deleted in Directus, too.

use genie_log::testing::{TestStore, both_stores};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    test_directus::{Directus, PASSWORD, Site},
    until::until,
};

both_stores!(
    a_forgotten_user_is_deleted_in_directus_and_gets_no_new_account,
    async |store: TestStore| {
        let others = [("FORGET_GRACE", "1s"), ("GENIE_SEAL_SECONDS", "1")];
        let site = Site::with(store, Directus::shared().await, &others).await;
        let (ada, boss) = (
            site.directus.person("ada", "creator").await,
            site.directus.person("boss", "Administrator").await,
        );
        let (pair, boss) = (site.pair(&ada).await, site.pair(&boss).await);
        let authorization = |token: &str| [("Authorization", format!("Bearer {token}"))];
        site.get(&pair.access, "/api/usage").await.ok();
        let leave = async |body: Option<Value>| {
            site.genie
                .send(
                    Method::DELETE,
                    "/api/me",
                    &authorization(&pair.access),
                    body,
                )
                .await
        };
        leave(None).await.refused(403, "forbidden");
        leave(Some(json!({"password": "wrong"})))
            .await
            .refused(403, "wrong_password");
        assert_eq!(site.directus.found(&ada.email).await.len(), 1);
        leave(Some(json!({"password": PASSWORD}))).await.ok();
        assert_eq!(
            site.opens(&pair.access).await,
            401,
            "the account here is not active, whatever Directus says"
        );

        let path = format!("/api/admin/users/{}/forgotten", ada.id);
        let shown = until("the user to be erased", async || {
            let shown = site
                .genie
                .send(Method::GET, &path, &authorization(&boss.access), None)
                .await
                .ok();
            (shown["state"] == "erased").then_some(shown)
        })
        .await;
        let certificate = shown["certificate"].as_str().unwrap();
        assert!(certificate.contains("the user in Directus"), "{shown}");
        assert!(site.directus.found(&ada.email).await.is_empty());
        assert_eq!(
            site.opens(&pair.access).await,
            401,
            "the token is good for some minutes more, and begins no new account"
        );
        assert_eq!(site.log_in(&ada.email, PASSWORD).await.status, 401);
    }
);
