//! Directus takes a refresh token once, but a thousand tabs send it.

use std::time::Duration;

use futures_util::future::join_all;
use genie_log::testing::{Kind, TestStore, both_stores};
use reqwest::Method;
use serde_json::json;

use crate::{
    test_directus::{Pair, Site},
    test_genie::Answer,
    until::until,
};

impl Site {
    async fn refresh(&self, token: &str) -> Answer {
        self.genie
            .send(
                Method::POST,
                "/auth/refresh",
                &[],
                Some(json!({"refresh_token": token})),
            )
            .await
    }

    async fn refresh_at_once(&self, token: &str, times: usize) -> Vec<Answer> {
        join_all((0..times).map(|_| self.refresh(token))).await
    }
}

fn all_the_same(answers: &[Answer]) -> Pair {
    let pair = Pair::of(&answers[0]);
    for answer in answers {
        assert_eq!(Pair::of(answer).refresh, pair.refresh);
    }
    pair
}

both_stores!(
    a_thousand_tabs_ask_directus_once,
    async |store: TestStore| {
        let site = Site::shared(store).await;
        let ada = site.directus.person("ada", "creator").await;
        let first = site.pair(&ada).await;
        let second = all_the_same(&site.refresh_at_once(&first.refresh, 1000).await);
        assert_eq!(site.proxy.count("POST /auth/refresh"), 1);
        assert_ne!(second.refresh, first.refresh);
        assert_eq!(site.opens(&second.access).await, 200);
        let third = all_the_same(&site.refresh_at_once(&second.refresh, 3).await);
        assert_eq!(site.proxy.count("POST /auth/refresh"), 2);
        assert!(
            !site.genie.store.holds(&third.refresh).await
                && !site.genie.store.holds(&second.refresh).await
        );

        // Once the grace is over, a used token is refused.
        until("the grace to be over", async || {
            (site.refresh(&first.refresh).await.status != 200).then_some(())
        })
        .await;
        let refused = site.refresh(&first.refresh).await;
        assert_eq!(
            (
                refused.status.as_u16(),
                &refused.json["errors"][0]["extensions"]["code"]
            ),
            (401, &json!("INVALID_CREDENTIALS"))
        );
        Pair::of(&site.refresh(&third.refresh).await);
    }
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_ask_directus_once_and_so_does_a_restarted_one() {
    let mut site = Site::shared(TestStore::new(Kind::Postgres).await).await;
    let ada = site.directus.person("ada", "creator").await;
    let first = site.pair(&ada).await;
    site.genie.launch_beside().await;
    let second = all_the_same(&site.refresh_at_once(&first.refresh, 200).await);
    assert_eq!(site.proxy.count("POST /auth/refresh"), 1);
    site.genie.restart().await;
    assert_eq!(
        Pair::of(&site.refresh(&first.refresh).await).refresh,
        second.refresh,
        "within the grace"
    );
    assert_eq!(site.proxy.count("POST /auth/refresh"), 1);
}

both_stores!(
    a_client_that_went_away_loses_nothing,
    async |store: TestStore| {
        let site = Site::shared(store).await;
        let ada = site.directus.person("ada", "creator").await;
        let first = site.pair(&ada).await;
        let gone =
            tokio::time::timeout(Duration::from_millis(3), site.refresh(&first.refresh)).await;
        drop(gone);
        Pair::of(&site.refresh(&first.refresh).await);
        assert!(
            site.proxy.count("POST /auth/refresh") <= 1,
            "one request to Directus serves both"
        );
    }
);

both_stores!(
    a_refresh_that_is_refused_is_refused_to_all,
    async |store: TestStore| {
        let site = Site::shared(store).await;
        for answer in site.refresh_at_once("no-such-token", 20).await {
            assert_eq!(answer.status, 401, "{:?}", answer.json);
        }
        let headers = site.proxy.last("POST /auth/refresh").headers;
        assert!(
            headers
                .iter()
                .any(|(name, value)| name == "x-forwarded-for" && value == "127.0.0.1"),
            "{headers:?}"
        );
        let ada = site.directus.person("ada", "creator").await;
        let pair = site.pair(&ada).await;
        let with_token = [
            ("Authorization", "Bearer expired".to_owned()),
            ("X-Forwarded-For", "6.6.6.6".to_owned()),
        ];
        let body = json!({"refresh_token": pair.refresh});
        Pair::of(
            &site
                .genie
                .send(Method::POST, "/auth/refresh", &with_token, Some(body))
                .await,
        );
        let headers = site.proxy.last("POST /auth/refresh").headers;
        assert!(
            !headers
                .iter()
                .any(|(name, value)| name == "authorization" || value.contains("6.6.6.6")),
            "{headers:?}"
        );
    }
);

both_stores!(
    a_tab_that_lags_gets_the_newest_pair_and_a_late_one_ends_nothing,
    async |store: TestStore| {
        let site = Site::shared(store).await;
        let ada = site.directus.person("ada", "creator").await;
        let first = site.pair(&ada).await;
        let second = Pair::of(&site.refresh(&first.refresh).await);
        let third = Pair::of(&site.refresh(&second.refresh).await);
        let fourth = Pair::of(&site.refresh(&third.refresh).await);
        assert_eq!(site.proxy.count("POST /auth/refresh"), 3);
        for old in [&first, &second, &third] {
            let newest = Pair::of(&site.refresh(&old.refresh).await);
            assert_eq!(newest.refresh, fourth.refresh);
        }
        assert_eq!(site.proxy.count("POST /auth/refresh"), 3);

        // A tab that slept past the grace is told to log in. The others go on.
        until("the grace to be over", async || {
            (site.refresh(&first.refresh).await.status == 401).then_some(())
        })
        .await;
        let fifth = Pair::of(&site.refresh(&fourth.refresh).await);
        assert_eq!(site.opens(&fifth.access).await, 200);
    }
);
