//! Files: uploads, lists, ranges, limits, workers under their leases, and that nothing is left of what was deleted.

use std::time::Duration;

use genie_log::testing::{TestStore, both_stores};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    onboarding::{BOUNDARY, MIB, form, noise, objects, rows},
    service_keys::Key,
    test_genie::{Answer, SECRET, TestGenie, TestUser, answer},
    until::until,
};

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The beginning of a PNG of 7 by 5 pixels, and bytes behind it.
pub fn png(length: usize) -> Vec<u8> {
    let head = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x07\0\0\0\x05\x08\x06\0\0\0";
    [&head[..], &noise(length)].concat()
}

fn post(genie: &TestGenie, query: &str) -> RequestBuilder {
    let url = format!("{}/api/files{query}", genie.next_base());
    // An unoptimised build on a busy machine seals a large upload slowly.
    genie.http.post(url).timeout(Duration::from_secs(300))
}

/// Sends the bytes themselves as the body.
pub async fn upload(genie: &TestGenie, user: &TestUser, name: &str, bytes: &[u8]) -> Answer {
    let request = post(genie, &format!("?name={name}"));
    let request = request
        .bearer_auth(&user.token)
        .header("Content-Type", "image/x-nonsense")
        .body(bytes.to_vec());
    answer(request).await
}

async fn read(
    genie: &TestGenie,
    user: &TestUser,
    path: &str,
    headers: &[(&str, &str)],
) -> Response {
    let url = format!("{}{path}", genie.next_base());
    let request = genie.http.get(url).bearer_auth(&user.token);
    let request = headers.iter().fold(request, |request, (name, value)| {
        request.header(*name, *value)
    });
    request.send().await.unwrap()
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    let header = response.headers().get(name);
    header.map_or("", |value| value.to_str().unwrap())
}

both_stores!(
    a_file_is_uploaded_listed_read_in_ranges_and_deleted,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let (_, ada, bob) = (
            genie.user("root").await,
            genie.user("ada").await,
            genie.user("bob").await,
        );
        let film = png(2 * MIB + 9);
        let first = upload(&genie, &ada, "my%20film%20100%25%3A%C3%BC.mp4", &film)
            .await
            .ok();
        let id = text(&first["id"]);
        let shown = json!({
            "id": id, "name": "my film 100%:ü.mp4", "mime": "image/png", "bytes": film.len(),
            "sha256": sha256(&film), "created_at": first["created_at"], "width": 7, "height": 5,
            "ok": true, "success": true,
        });
        assert_eq!(first, shown);
        let request = post(&genie, "").bearer_auth(&ada.token);
        let request = request
            .header(
                "Content-Type",
                format!("multipart/form-data; boundary={BOUNDARY}"),
            )
            .body(form(&[("file", b"<svg onload='alert(1)'/>")]));
        let second = answer(request).await.ok();
        let name_and_kind = (&second["name"], &second["mime"]);
        assert_eq!(
            name_and_kind,
            (&json!("my diary.zip"), &json!("text/plain"))
        );
        let empty = upload(&genie, &ada, "..", b"").await.ok();
        assert_eq!(
            (&empty["name"], &empty["bytes"]),
            (&json!("file"), &json!(0))
        );
        genie.restart().await;

        let mut listed = Vec::new();
        let mut path = "/api/files?limit=2".to_owned();
        loop {
            let page = ada.get(&genie, &path).await.ok();
            listed.extend(
                page["data"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|file| file["id"].clone()),
            );
            match page["next_cursor"].as_str() {
                Some(cursor) => path = format!("/api/files?limit=2&cursor={cursor}"),
                None => break,
            }
        }
        let newest = [&empty, &second, &first].map(|file| file["id"].clone());
        assert_eq!(listed, newest);
        assert_eq!(bob.get(&genie, "/api/files").await.ok()["data"], json!([]));

        let path = format!("/api/files/{id}");
        let whole = read(&genie, &ada, &path, &[]).await;
        let tag = format!("\"{}\"", sha256(&film));
        for (name, value) in [
            ("etag", tag.as_str()),
            ("content-type", "image/png"),
            ("x-content-type-options", "nosniff"),
            ("accept-ranges", "bytes"),
            ("content-length", &film.len().to_string()),
        ] {
            assert_eq!(header(&whole, name), value, "{name}");
        }
        let shown = "inline; filename=\"my film 100%:_.mp4\"; filename*=UTF-8''my%20film%20100%25%3A%C3%BC.mp4";
        assert_eq!(header(&whole, "content-disposition"), shown);
        assert!(header(&whole, "content-security-policy").starts_with("sandbox"));
        assert!(whole.bytes().await.unwrap() == film);
        for (range, from, to) in [
            ("bytes=0-0", 0, 1),
            ("bytes=1048570-1048580", 1_048_570, 1_048_581),
            ("bytes=1048576-", MIB, film.len()),
            ("bytes=-10", film.len() - 10, film.len()),
            ("bytes=5-3000000", 5, film.len()),
        ] {
            let part = read(&genie, &ada, &path, &[("Range", range)]).await;
            let told = format!("bytes {from}-{}/{}", to - 1, film.len());
            assert_eq!(
                (part.status().as_u16(), header(&part, "content-range")),
                (206, &*told)
            );
            assert_eq!(part.content_length(), Some((to - from) as u64), "{range}");
            assert!(part.bytes().await.unwrap() == film[from..to], "{range}");
        }
        let behind = read(&genie, &ada, &path, &[("Range", "bytes=9000000-")]).await;
        let told = format!("bytes */{}", film.len());
        assert_eq!(
            (behind.status().as_u16(), header(&behind, "content-range")),
            (416, &*told)
        );
        let known = read(&genie, &ada, &path, &[("If-None-Match", &tag)]).await;
        assert_eq!(
            (known.status().as_u16(), known.bytes().await.unwrap().len()),
            (304, 0)
        );
        let other = [("Range", "bytes=0-0"), ("If-Range", "\"other\"")];
        let other = read(&genie, &ada, &path, &other).await;
        assert_eq!(
            (other.status(), other.bytes().await.unwrap().len()),
            (200.try_into().unwrap(), film.len())
        );
        let head = genie
            .http
            .head(format!("{}{path}", genie.base))
            .bearer_auth(&ada.token);
        let head = head.header("Range", "bytes=0-9").send().await.unwrap();
        assert_eq!(
            (head.status().as_u16(), header(&head, "content-length")),
            (206, "10")
        );
        let saved = read(&genie, &ada, &format!("{path}?download"), &[]).await;
        assert!(header(&saved, "content-disposition").starts_with("attachment"));
        let page = read(
            &genie,
            &ada,
            &format!("/api/files/{}", text(&second["id"])),
            &[],
        )
        .await;
        assert!(header(&page, "content-disposition").starts_with("attachment"));

        bob.get(&genie, &path).await.refused(404, "not_found");
        bob.delete(&genie, &path).await.refused(404, "not_found");
        ada.delete(&genie, "/api/files/nonsense")
            .await
            .refused(404, "not_found");
        assert_eq!((objects(&genie).len(), rows(&genie).await), (5, 3));
        for _ in 0..2 {
            let removed = ada.delete(&genie, &path).await.ok();
            assert_eq!(removed["removed"], json!(true));
        }
        ada.get(&genie, &path).await.refused(404, "not_found");
        assert_eq!((objects(&genie).len(), rows(&genie).await), (2, 2));
        let facts = ada
            .get(&genie, "/api/me/events?types=file.stored,file.removed")
            .await
            .ok();
        let types: Vec<&Value> = facts["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|fact| &fact["type"])
            .collect();
        assert_eq!(
            types,
            ["file.stored", "file.stored", "file.stored", "file.removed"]
        );
    }
);

both_stores!(
    an_upload_past_a_limit_leaves_nothing,
    async |store: TestStore| {
        let settings = [
            ("FILE_MAX_BYTES", "1500000".to_owned()),
            ("FILES_MAX_BYTES_PER_USER", "2000000".to_owned()),
        ];
        let mut genie = TestGenie::start_with(store, &settings).await;
        let (_, ada) = (genie.user("root").await, genie.user("ada").await);
        upload(&genie, &ada, "a", &noise(1_600_000))
            .await
            .refused(413, "body_too_large");
        let kept = upload(&genie, &ada, "a", &noise(1_400_000)).await.ok();
        let refused = upload(&genie, &ada, "b", &noise(700_000)).await;
        assert_eq!(refused.status, 403);
        let shape = ["error", "code", "reason"].map(|field| refused.json[field].clone());
        assert_eq!(
            shape,
            ["tier_limit_reached", "tier_limit_reached", "limit_reached"]
        );
        assert!(
            text(&refused.json["message"]).contains("1400000 of 2000000"),
            "{:?}",
            refused.json
        );
        // Without a length that says so before, the bytes come and go again.
        let chunks = noise(700_000)
            .chunks(50_000)
            .map(<[u8]>::to_vec)
            .collect::<Vec<_>>();
        let body = futures_util::stream::iter(chunks.into_iter().map(Ok::<_, std::io::Error>));
        let request = post(&genie, "?name=c").bearer_auth(&ada.token);
        let request = request.body(reqwest::Body::wrap_stream(body));
        answer(request).await.refused_by_quota();
        until("only the first file to be left", async || {
            (objects(&genie).len() == 2 && rows(&genie).await == 1).then_some(())
        })
        .await;
        let path = format!("/api/files/{}", text(&kept["id"]));
        ada.delete(&genie, &path).await.ok();
        upload(&genie, &ada, "b", &noise(700_000)).await.ok();
        for (body, code) in [
            (form(&[("other", b"x")]), "invalid_field"),
            (form(&[("file", b"x"), ("file", b"y")]), "invalid_field"),
            (b"nonsense".to_vec(), "invalid_field"),
        ] {
            let kind = format!("multipart/form-data; boundary={BOUNDARY}");
            let request = post(&genie, "").bearer_auth(&ada.token).body(body);
            let request = request.header("Content-Type", kind);
            answer(request).await.refused(400, code);
        }
        let request = post(&genie, "").body("x");
        answer(request).await.refused(401, "invalid_token");

        genie.set("FILES_MIN_FREE", (1_u64 << 50).to_string());
        genie.restart().await;
        let low = upload(&genie, &ada, "d", b"x").await;
        assert!(low.headers.contains_key("retry-after"));
        low.refused(503, "disk_low");
        let listed = ada.get(&genie, "/api/files").await.ok();
        assert_eq!(
            listed["data"].as_array().unwrap().len(),
            1,
            "the store goes on"
        );
    }
);

impl Answer {
    #[track_caller]
    fn refused_by_quota(self) {
        let shape = (self.status.as_u16(), &self.json["reason"]);
        assert_eq!(shape, (403, &json!("limit_reached")), "{:?}", self.json);
    }
}

both_stores!(
    the_same_upload_again_is_the_same_file,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let (_, ada) = (genie.user("root").await, genie.user("ada").await);
        let send = async |bytes: Vec<u8>| {
            let request = post(&genie, "?name=a").bearer_auth(&ada.token);
            answer(request.header("Idempotency-Key", "k").body(bytes)).await
        };
        let first = send(png(100)).await.ok();
        assert_eq!(send(png(100)).await.ok(), first);
        send(png(200)).await.refused(422, "idempotency_key_reused");
        until("one file to be left", async || {
            (objects(&genie).len() == 1 && rows(&genie).await == 1).then_some(())
        })
        .await;
    }
);

both_stores!(
    a_worker_uploads_what_its_job_made,
    async |store: TestStore| {
        let settings = [("FILES_MAX_BYTES_PER_USER", "1000".to_owned())];
        let mut genie = TestGenie::start_with(store, &settings).await;
        let (admin, ada, bob) = (
            genie.user("root").await,
            genie.user("ada").await,
            genie.user("bob").await,
        );
        let input = upload(&genie, &ada, "in.png", &png(800)).await.ok();
        let bobs = upload(&genie, &bob, "bob.png", &png(8)).await.ok();
        let input = text(&input["id"]);
        let job =
            json!({"operation": "resize_image", "input_file_id": input, "params": {"width": 9}});
        ada.post(&genie, "/api/queue/media", job).await.ok();
        let path = format!("/api/files/{input}");
        ada.delete(&genie, &path).await.refused(409, "file_in_use");
        let job = genie.claim().await;
        let key = Key::make(&genie, &admin, &["jobs:work"]).await.header();
        let output = png(3 * MIB);
        let send = async |query: &str, headers: &[(&str, String)]| {
            let request = headers
                .iter()
                .fold(post(&genie, query), |request, (name, value)| {
                    request.header(*name, value)
                });
            answer(request.body(output.clone())).await
        };
        let lease = [
            key.clone(),
            ("Genie-Job", text(&job["jobId"])),
            ("Genie-Lease", text(&job["lease"])),
        ];
        send("", &lease[..1]).await.refused(403, "lease_needed");
        let secret = ("X-RBAC-SYNC-SECRET", SECRET.to_owned());
        send("", &[secret]).await.refused(403, "lease_needed");
        let stale = [
            lease[0].clone(),
            lease[1].clone(),
            ("Genie-Lease", "x".to_owned()),
        ];
        send("", &stale).await.refused(409, "stale_lease");
        send("?width=0&height=4", &lease)
            .await
            .refused(400, "invalid_field");
        send("?duration=-1", &lease)
            .await
            .refused(400, "invalid_field");
        let made = send("?name=out.png&width=1280&height=720&duration=12.5", &lease)
            .await
            .ok();
        let measures = (&made["width"], &made["height"], &made["duration"]);
        assert_eq!(measures, (&json!(1280), &json!(720), &json!(12.5)));
        assert_eq!(made["job"], job["jobId"]);
        // The user has no room left, and the output is kept all the same.
        let listed = ada.get(&genie, "/api/files").await.ok();
        assert_eq!(listed["data"][0]["id"], made["id"]);
        upload(&genie, &ada, "more.png", b"x")
            .await
            .refused_by_quota();

        let complete = format!("/api/worker/jobs/{}/complete", text(&job["jobId"]));
        let body = |file: &Value| json!({"lease": job["lease"], "outputs": [{"file_id": file, "name": "out.png"}]});
        for foreign in [&bobs["id"], &job["jobId"], &json!("nonsense"), &json!(7)] {
            genie
                .server(&complete, body(foreign))
                .await
                .refused(400, "invalid_field");
        }
        genie.server(&complete, body(&made["id"])).await.ok();
        send("", &lease).await.refused(409, "stale_lease");
        ada.delete(&genie, &path).await.ok();
        let path = format!("/api/files/{}", text(&made["id"]));
        assert!(read(&genie, &ada, &path, &[]).await.bytes().await.unwrap() == output);
        bob.get(&genie, &path).await.refused(404, "not_found");
        let personal = format!("{path}?personal=true&reason=a%20complaint");
        bob.get(&genie, &personal).await.refused(404, "not_found");
        admin.get(&genie, &path).await.refused(404, "not_found");
        assert_eq!(read(&genie, &admin, &personal, &[]).await.status(), 200);
        let facts = genie
            .send(
                Method::GET,
                "/api/events?types=access.personal_read",
                &[("X-RBAC-SYNC-SECRET", SECRET.to_owned())],
                None,
            )
            .await
            .ok();
        assert!(!facts["data"].as_array().unwrap().is_empty(), "{facts}");
    }
);

both_stores!(
    a_link_shows_a_file_until_it_is_over_or_the_file_is_gone,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let (_, ada, bob) = (
            genie.user("root").await,
            genie.user("ada").await,
            genie.user("bob").await,
        );
        let film = png(100);
        let file = upload(&genie, &ada, "film.png", &film).await.ok();
        let path = format!("/api/files/{}", text(&file["id"]));
        let make = format!("{path}/link");
        bob.post(&genie, &make, json!({}))
            .await
            .refused(404, "not_found");
        for seconds in [json!(0), json!(86_401), json!("1h")] {
            let body = json!({"expires_in": seconds});
            ada.post(&genie, &make, body)
                .await
                .refused(400, "invalid_field");
        }
        let short = ada
            .post(&genie, &make, json!({"expires_in": 60}))
            .await
            .ok();
        let long = ada.post(&genie, &make, json!({})).await.ok();
        let (short, long) = (text(&short["url"]), text(&long["url"]));
        let get = async |path: &str, range: &str| {
            let request = genie.http.get(format!("{}{path}", genie.base));
            request.header("Range", range).send().await.unwrap()
        };
        let part = get(&short, "bytes=1-3").await;
        assert_eq!(
            (part.status().as_u16(), header(&part, "content-range")),
            (206, &*format!("bytes 1-3/{}", film.len()))
        );
        assert_eq!(header(&part, "referrer-policy"), "no-referrer");
        assert!(part.bytes().await.unwrap() == film[1..4]);
        let other = upload(&genie, &ada, "other.png", &film).await.ok();
        let of_other = short.replace(&text(&file["id"]), &text(&other["id"]));
        let later = short.replace("until=", "until=9");
        let unsigned = short.split("&signature").next().unwrap();
        for (path, status) in [
            (&*of_other, 403),
            (&later, 403),
            (unsigned, 400),
            (&short, 206),
        ] {
            assert_eq!(get(path, "bytes=0-0").await.status(), status, "{path}");
        }
        genie.clock.advance_millis(61_000);
        assert_eq!(get(&short, "").await.status(), 403);
        assert!(get(&long, "").await.bytes().await.unwrap() == film);
        ada.delete(&genie, &path).await.ok();
        assert_eq!(get(&long, "").await.status(), 404);
    }
);

both_stores!(
    a_file_never_goes_from_under_a_job,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let (_, ada) = (genie.user("root").await, genie.user("ada").await);
        let mut queued = 0;
        for n in 0..12 {
            let file = upload(&genie, &ada, "in.png", &png(8)).await.ok();
            let path = format!("/api/files/{}", text(&file["id"]));
            let job = json!({"operation": "strip_metadata", "input_file_id": file["id"]});
            let submit = ada.post(&genie, "/api/queue/media", job);
            // Each goes first in turn; the other one is on its way.
            let delete = ada.delete(&genie, &path);
            let (submitted, deleted) = if n % 2 == 0 {
                tokio::join!(submit, delete)
            } else {
                let (deleted, submitted) = tokio::join!(delete, submit);
                (submitted, deleted)
            };
            match submitted.status.as_u16() {
                200 => {
                    queued += 1;
                    deleted.refused(409, "file_in_use");
                    let job = submitted.ok()["id"].take();
                    let cancel = format!("/api/queue/cancel/{}", text(&job));
                    ada.post(&genie, &cancel, json!({})).await.ok();
                    ada.delete(&genie, &path).await.ok();
                }
                _ => {
                    submitted.refused(404, "not_found");
                    deleted.ok();
                }
            }
        }
        assert!(queued > 0, "a job was first at least once");
        // A job that was queued again names its file, also to a server that reads it from the log.
        let file = upload(&genie, &ada, "in.png", &png(8)).await.ok();
        let path = format!("/api/files/{}", text(&file["id"]));
        let job = json!({"operation": "strip_metadata", "input_file_id": file["id"]});
        let job = ada.post(&genie, "/api/queue/media", job).await.ok();
        let post = async |genie: &TestGenie, verb: &str| {
            let path = format!("/api/queue/{verb}/{}", text(&job["id"]));
            ada.post(genie, &path, json!({})).await.ok();
        };
        post(&genie, "cancel").await;
        post(&genie, "retry").await;
        genie.restart().await;
        ada.delete(&genie, &path).await.refused(409, "file_in_use");
        post(&genie, "cancel").await;
        ada.delete(&genie, &path).await.ok();
    }
);

both_stores!(
    old_files_of_jobs_go_and_uploads_stay,
    async |store: TestStore| {
        let settings = [("FILES_KEEP_DAYS", "2".to_owned())];
        let mut genie = TestGenie::start_with(store, &settings).await;
        let (_, ada) = (genie.user("root").await, genie.user("ada").await);
        let input = upload(&genie, &ada, "in.png", &png(8)).await.ok();
        let name = |id: &Value| json!({"operation": "strip_metadata", "input_file_id": id});
        ada.post(&genie, "/api/queue/media", name(&input["id"]))
            .await
            .ok();
        let job = genie.claim().await;
        let lease = [
            ("X-RBAC-SYNC-SECRET", SECRET.to_owned()),
            ("Genie-Job", text(&job["jobId"])),
            ("Genie-Lease", text(&job["lease"])),
        ];
        let mut made = Vec::new();
        for _ in 0..2 {
            let request = lease
                .iter()
                .fold(post(&genie, ""), |request, (name, value)| {
                    request.header(*name, value)
                });
            made.push(answer(request.body(png(16))).await.ok()["id"].take());
        }
        let complete = format!("/api/worker/jobs/{}/complete", text(&job["jobId"]));
        genie
            .server(&complete, json!({"lease": job["lease"]}))
            .await
            .ok();
        // The second one is needed by a job that waits.
        ada.post(&genie, "/api/queue/media", name(&made[1]))
            .await
            .ok();
        genie.clock.advance_millis(3 * 24 * 3600 * 1000);
        until("the first file to go", async || {
            (rows(&genie).await == 2).then_some(())
        })
        .await;
        let ada = genie.user_again("ada", &ada.id).await;
        let listed = ada.get(&genie, "/api/files").await.ok();
        let left: Vec<&Value> = listed["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|file| &file["id"])
            .collect();
        assert_eq!(left, [&made[1], &input["id"]]);
        let facts = ada
            .get(&genie, "/api/me/events?types=file.removed")
            .await
            .ok();
        let facts = facts["data"].as_array().unwrap();
        assert_eq!(
            (
                facts.len(),
                &facts[0]["data"]["reason"],
                &facts[0]["caller"]
            ),
            (1, &json!("old"), &json!("system"))
        );
    }
);
