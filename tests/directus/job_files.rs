//! Jobs that name files of Directus: the user's own token says which of them are the user's.

use genie_log::testing::{TestStore, both_stores};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    test_directus::{Directus, Site},
    test_genie::Answer,
};

/// A role whose users read the files that have the user's id as their title.
async fn role_with_files(directus: &Directus) -> String {
    let name = format!("files-{}", genie_log::Clock::system().new_uuid());
    let own = json!({"title": {"_eq": "$CURRENT_USER"}});
    let permission = json!({"collection": "directus_files", "action": "read", "permissions": own, "fields": ["*"]});
    let policy = json!({"name": name, "permissions": [permission]});
    let role = json!({"name": name, "policies": [{"policy": policy}]});
    directus.admin(Method::POST, "/roles", role).await;
    name
}

async fn file_of(directus: &Directus, user: &str) -> String {
    let file = json!({"title": user, "type": "image/png", "storage": "local", "filename_download": "a.png"});
    let made = directus.admin(Method::POST, "/files", file).await;
    made["id"].as_str().unwrap().to_owned()
}

async fn submit(site: &Site, token: &str, job: Value) -> Answer {
    let headers = [("Authorization", format!("Bearer {token}"))];
    site.genie
        .send(Method::POST, "/api/queue/media", &headers, Some(job))
        .await
}

both_stores!(
    a_job_names_what_its_users_own_token_may_read,
    async |store: TestStore| {
        let site = Site::shared(store).await;
        let role = role_with_files(&site.directus).await;
        let ada = site.directus.person("ada", &role).await;
        let bob = site.directus.person("bob", &role).await;
        let eve = site.directus.person("eve", "creator").await;
        let own = file_of(&site.directus, &ada.id).await;
        let more = file_of(&site.directus, &ada.id).await;
        let bobs = file_of(&site.directus, &bob.id).await;
        let eves = file_of(&site.directus, &eve.id).await;
        let nobodys = "0192d4e0-7f3a-7c3b-8f4e-0123456789ab";
        let token = site.pair(&ada).await.access;
        let input = |id: &str| json!({"operation": "strip_metadata", "input_file_id": id});
        let mark = |id: &str, mark: &str| json!({"operation": "apply_watermark", "input_file_id": id, "params": {"watermark_file_id": mark}});
        for (job, refused) in [
            (input(&own), None),
            (input(&own.to_uppercase()), None),
            (mark(&own, &more), None),
            (mark(&own, &own), None),
            (input(&bobs), Some("`input_file_id`")),
            (input(nobodys), Some("`input_file_id`")),
            (input("a.png"), Some("`input_file_id`")),
            (mark(&own, &bobs), Some("`params.watermark_file_id`")),
            (mark(&bobs, &own), Some("`input_file_id`")),
        ] {
            let answer = submit(&site, &token, job.clone()).await;
            match refused {
                None => drop(answer.ok()),
                Some(field) => {
                    let error = answer.refused(404, "not_found")["error"].to_string();
                    assert!(error.contains(field), "{job}: {error}");
                }
            }
        }
        // A user who may read no files in Directus has none.
        let token = site.pair(&eve).await.access;
        let job = json!({"operation": "strip_metadata", "input_file_id": eves});
        submit(&site, &token, job).await.refused(404, "not_found");
        let jobs = site.get(&token, "/api/jobs").await.ok();
        assert_eq!(jobs["data"], json!([]));
    }
);
