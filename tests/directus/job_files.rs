//! Jobs that name files of Directus: the user's own token says which of them are the user's, and the worker of such a job
//! gets them through genie.

use std::time::Duration;

use genie_log::testing::{TestStore, both_stores};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::{
    test_directus::{Directus, Site},
    test_genie::{Answer, SECRET, answer},
    until::until_within,
};

/// A role whose users read the files that have the user's id as their title.
async fn role_with_files(directus: &Directus, app_access: bool) -> String {
    let name = format!("files-{}", genie_log::Clock::system().new_uuid());
    let own = json!({"title": {"_eq": "$CURRENT_USER"}});
    let permission = json!({"collection": "directus_files", "action": "read", "permissions": own, "fields": ["*"]});
    let policy = json!({"name": name, "app_access": app_access, "permissions": [permission]});
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
        let role = role_with_files(&site.directus, false).await;
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

/// A file with these bytes, which the user may read.
async fn upload(directus: &Directus, user: &str, name: &str, bytes: &[u8]) -> String {
    let head = "--part\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.png\"\r\nContent-Type: image/png\r\n\r\n";
    let body = [head.as_bytes(), bytes, b"\r\n--part--\r\n"].concat();
    let request = reqwest::Client::new()
        .post(format!("{}/files", directus.url))
        .bearer_auth(&directus.admin_token)
        .header("Content-Type", "multipart/form-data; boundary=part")
        .body(body);
    let made = answer(request).await.json;
    let id = made["data"]["id"]
        .as_str()
        .expect("Directus takes the file");
    let named = json!({"title": user, "filename_download": name});
    directus
        .admin(Method::PATCH, &format!("/files/{id}"), named)
        .await;
    id.to_owned()
}

/// A picture of 64 by 48 pixels, made by ffmpeg's own source.
async fn picture() -> Vec<u8> {
    let made = tokio::process::Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", "testsrc=size=64x48"])
        .args(["-frames:v", "1", "-f", "image2pipe", "-c:v", "png", "-"])
        .output()
        .await
        .unwrap();
    assert!(made.status.success());
    made.stdout
}

async fn file(site: &Site, method: Method, id: &str, headers: &[(&str, &str)]) -> Response {
    let url = format!("{}/api/files/{id}", site.genie.base);
    let mut request = site.genie.http.request(method, url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

async fn key(site: &Site) -> String {
    let wanted = json!({"name": "worker", "scopes": ["jobs:work"]});
    let admin = [("Authorization", format!("Bearer {}", site.admin().await))];
    let path = "/api/admin/service-keys";
    let made = site.genie.send(Method::POST, path, &admin, Some(wanted));
    made.await.ok()["key"].as_str().unwrap().to_owned()
}

both_stores!(
    a_file_in_directus_is_read_under_the_lease_alone_and_worked_on,
    async |store: TestStore| {
        let site = Site::with(
            store,
            Directus::shared().await,
            &[("FILE_MAX_BYTES", "50000")],
        )
        .await;
        let role = role_with_files(&site.directus, false).await;
        let ada = site.directus.person("ada", &role).await;
        let token = site.pair(&ada).await.access;
        let picture = picture().await;
        let own = upload(&site.directus, &ada.id, "my ä picture.png", &picture).await;
        let other = upload(&site.directus, &ada.id, "b.png", &picture).await;
        let large = upload(&site.directus, &ada.id, "c.png", &[7; 50_001]).await;
        let gone = upload(&site.directus, &ada.id, "d.png", &picture).await;
        let input = |id: &str| json!({"operation": "strip_metadata", "input_file_id": id});
        let job = submit(&site, &token, input(&own)).await.ok();
        let claimed = site.genie.claim().await;
        let (id, lease) = (&claimed["jobId"], &claimed["lease"]);
        assert_eq!(*id, job["id"]);
        let held = [
            ("Genie-Job", id.as_str().unwrap()),
            ("Genie-Lease", lease.as_str().unwrap()),
        ];
        let key = format!("Bearer {}", key(&site).await);
        let by_key = [("Authorization", key.as_str())];
        let by_secret = [("X-RBAC-SYNC-SECRET", SECRET)];
        for door in [by_key, by_secret] {
            let headers = [&door[..], &held[..]].concat();
            let answer = file(&site, Method::GET, &own, &headers).await;
            assert_eq!(answer.status(), 200);
            let told = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
            assert_eq!(told("content-type"), "image/png");
            assert_eq!(told("content-length"), picture.len().to_string());
            let disposition = told("content-disposition");
            assert!(disposition.starts_with("attachment"), "{disposition}");
            assert!(
                disposition.contains("my%20%C3%A4%20picture.png"),
                "{disposition}"
            );
            assert_eq!(answer.bytes().await.unwrap(), picture);
            let head = file(&site, Method::HEAD, &own, &headers).await;
            assert_eq!(
                (
                    head.status().as_u16(),
                    head.headers()["content-length"].to_str().unwrap()
                ),
                (200, picture.len().to_string().as_str())
            );
            // Not a file that the job does not name.
            assert_eq!(
                file(&site, Method::GET, &other, &headers).await.status(),
                404
            );
        }
        // Not without the lease, neither by the user nor by the secret.
        let by_user = format!("Bearer {token}");
        for (door, status) in [
            (("Authorization", by_user.as_str()), 404),
            (by_key[0], 403),
            (by_secret[0], 404),
        ] {
            assert_eq!(
                file(&site, Method::GET, &own, &[door]).await.status(),
                status
            );
        }
        let complete = format!("/api/worker/jobs/{}/complete", id.as_str().unwrap());
        site.genie
            .server(&complete, json!({"lease": lease}))
            .await
            .ok();
        let headers = [&by_key[..], &held[..]].concat();
        assert_eq!(file(&site, Method::GET, &own, &headers).await.status(), 409);

        // The worker does such a job from end to end.
        let thumbnail = json!({"operation": "convert_image", "input_file_id": own, "params": {"format": "jpeg"}});
        let done = submit(&site, &token, thumbnail).await.ok();
        let too_large = submit(&site, &token, input(&large)).await.ok();
        let missing = submit(&site, &token, input(&gone)).await.ok();
        site.directus
            .admin(Method::DELETE, &format!("/files/{gone}"), Value::Null)
            .await;
        let base = site.genie.base.clone();
        let mut worker = site.genie.command(&["worker", "--url", &base]);
        worker.env("GENIE_WORKER_KEY", key.trim_start_matches("Bearer "));
        let _worker = worker.spawn().unwrap();
        let ended = async |job: &Value| {
            let path = format!("/api/jobs/{}", job["id"].as_str().unwrap());
            until_within(Duration::from_secs(60), "the job ends", async || {
                let job = site.get(&token, &path).await.ok();
                (job["finished_at"].is_string()).then_some(job)
            })
            .await
        };
        let done = ended(&done).await;
        assert_eq!(done["status"], "completed", "{done}");
        let output = &done["outputs"][0];
        assert_eq!(
            (
                &output["name"],
                &output["mime"],
                &output["width"],
                &output["height"]
            ),
            (
                &json!("my ä picture.jpg"),
                &json!("image/jpeg"),
                &json!(64),
                &json!(48)
            )
        );
        let output = output["file_id"].as_str().unwrap();
        let jpeg = file(&site, Method::GET, output, &[("Authorization", &by_user)]).await;
        assert!(jpeg.bytes().await.unwrap().starts_with(b"\xff\xd8\xff"));
        for (job, told) in [
            (too_large, "FILE_MAX_BYTES"),
            (missing, "a file of the job"),
        ] {
            let job = ended(&job).await;
            let error = job["error"].as_str().unwrap();
            assert!(error.contains(told), "{error}");
            assert_eq!(
                (&job["status"], &job["attempt"]),
                (&json!("failed"), &json!(1))
            );
        }
    }
);

both_stores!(
    a_file_in_directus_is_not_fetched_without_an_administrators_token,
    async |store: TestStore| {
        let site = Site::with(
            store,
            Directus::shared().await,
            &[("DIRECTUS_ADMIN_TOKEN", "")],
        )
        .await;
        // genie can't ask for the user's status itself.
        let role = role_with_files(&site.directus, true).await;
        let ada = site.directus.person("ada", &role).await;
        let token = site.pair(&ada).await.access;
        let own = file_of(&site.directus, &ada.id).await;
        let job = json!({"operation": "strip_metadata", "input_file_id": own});
        submit(&site, &token, job).await.ok();
        let claimed = site.genie.claim().await;
        let headers = [
            ("X-RBAC-SYNC-SECRET", SECRET.to_owned()),
            ("Genie-Job", claimed["jobId"].as_str().unwrap().to_owned()),
            ("Genie-Lease", claimed["lease"].as_str().unwrap().to_owned()),
        ];
        let path = format!("/api/files/{own}");
        let answer = site.genie.send(Method::GET, &path, &headers, None).await;
        answer.refused(500, "directus_admin_token_missing");
    }
);
