//! Uploads by tus: broken off and gone on with, by the official client and by hand.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use genie_log::testing::{TestStore, both_stores};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::{io::AsyncWriteExt, net::TcpStream, process::Command};

use crate::{
    files::{png, sha256},
    onboarding::{MIB, objects, rows},
    test_genie::{TestGenie, TestUser},
    until::until,
};

const DAY: i64 = 24 * 3600 * 1000;

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    let header = response.headers().get(name);
    header.map_or("", |value| value.to_str().unwrap())
}

fn request(genie: &TestGenie, user: &TestUser, method: Method, path: &str) -> RequestBuilder {
    let url = format!("{}{path}", genie.next_base());
    // An unoptimised build on a busy machine seals a large upload slowly.
    let request = genie
        .http
        .request(method, url)
        .timeout(Duration::from_secs(300));
    request
        .bearer_auth(&user.token)
        .header("Tus-Resumable", "1.0.0")
}

/// Announces an upload and returns its path.
async fn create(genie: &TestGenie, user: &TestUser, length: usize) -> String {
    let name = BASE64.encode("my film.png");
    let created = request(genie, user, Method::POST, "/api/files/tus")
        .header("Upload-Length", length)
        .header(
            "Upload-Metadata",
            format!("filename {name},filetype dmlkZW8="),
        );
    let created = created.send().await.unwrap();
    assert_eq!(created.status(), 201);
    assert_eq!(header(&created, "tus-resumable"), "1.0.0");
    assert!(header(&created, "upload-expires").ends_with("GMT"));
    header(&created, "location").to_owned()
}

fn patch(
    genie: &TestGenie,
    user: &TestUser,
    path: &str,
    offset: usize,
    bytes: &[u8],
) -> RequestBuilder {
    request(genie, user, Method::PATCH, path)
        .header("Content-Type", "application/offset+octet-stream")
        .header("Upload-Offset", offset)
        .body(bytes.to_vec())
}

async fn add(
    genie: &TestGenie,
    user: &TestUser,
    path: &str,
    offset: usize,
    bytes: &[u8],
) -> Response {
    patch(genie, user, path, offset, bytes)
        .send()
        .await
        .unwrap()
}

/// The offset that HEAD tells, and the file if the upload is whole.
async fn head(genie: &TestGenie, user: &TestUser, path: &str) -> (usize, String) {
    let told = request(genie, user, Method::HEAD, path)
        .send()
        .await
        .unwrap();
    assert_eq!(told.status(), 200);
    assert_eq!(header(&told, "cache-control"), "no-store");
    let offset = header(&told, "upload-offset").parse().unwrap();
    (offset, header(&told, "genie-file").to_owned())
}

async fn refused(request: RequestBuilder, status: u16, code: &str) {
    let answer = request.send().await.unwrap();
    assert_eq!(header(&answer, "tus-resumable"), "1.0.0", "{code}");
    let told = (
        answer.status().as_u16(),
        answer.json::<Value>().await.unwrap(),
    );
    assert_eq!(
        (told.0, &told.1["code"]),
        (status, &json!(code)),
        "{}",
        told.1
    );
}

/// Begins a PATCH and sends less than it announced. The connection stays open and hangs.
async fn hanging(
    genie: &TestGenie,
    user: &TestUser,
    path: &str,
    offset: usize,
    bytes: &[u8],
    announced: usize,
) -> TcpStream {
    let address = genie.base.strip_prefix("http://").unwrap();
    let head = format!(
        "PATCH {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\nTus-Resumable: 1.0.0\r\n\
         Content-Type: application/offset+octet-stream\r\nUpload-Offset: {offset}\r\nContent-Length: {announced}\r\n\r\n",
        user.token
    );
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all(head.as_bytes()).await.unwrap();
    connection.write_all(bytes).await.unwrap();
    connection
}

async fn stored(genie: &TestGenie, user: &TestUser, id: &str) -> Vec<u8> {
    let file = user.get(genie, "/api/files").await.ok()["data"][0].take();
    assert_eq!(
        (&file["id"], &file["name"]),
        (&json!(id), &json!("my film.png"))
    );
    let url = format!("{}/api/files/{id}", genie.base);
    let bytes = genie
        .http
        .get(url)
        .bearer_auth(&user.token)
        .send()
        .await
        .unwrap();
    let bytes = bytes.bytes().await.unwrap().to_vec();
    assert_eq!(file["sha256"], sha256(&bytes));
    bytes
}

both_stores!(
    an_upload_goes_on_after_every_kind_of_end,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let (_, ada, bob) = (
            genie.user("root").await,
            genie.user("ada").await,
            genie.user("bob").await,
        );
        let film = png(3 * MIB + 100);
        let path = create(&genie, &ada, film.len()).await;
        assert_eq!(head(&genie, &ada, &path).await, (0, String::new()));
        let added = add(&genie, &ada, &path, 0, &film[..700_000]).await;
        assert_eq!(
            (added.status().as_u16(), header(&added, "upload-offset")),
            (204, "700000")
        );
        assert_eq!(header(&added, "genie-file"), "");

        // Killed: what was told is durable.
        genie.restart().await;
        assert_eq!(head(&genie, &ada, &path).await.0, 700_000);
        let other = request(&genie, &bob, Method::HEAD, &path)
            .send()
            .await
            .unwrap();
        assert_eq!(other.status(), 404);
        for (offset, length) in [(0, 10), (700_001, 10)] {
            let wrong = patch(&genie, &ada, &path, offset, &film[offset..offset + length]);
            refused(wrong, 409, "other_offset").await;
        }
        let beyond = patch(&genie, &ada, &path, 700_000, &film[..film.len() - 1]);
        refused(beyond, 413, "body_too_large").await;

        let has_part = async |name: &str| {
            until("a whole part", async || {
                let is_it = |path: &PathBuf| path.ends_with(name);
                objects(&genie).iter().any(is_it).then_some(())
            })
            .await;
        };
        // One that hangs is ended by HEAD, and what it sent counts.
        let bytes = &film[700_000..1_500_000];
        let hangs = hanging(&genie, &ada, &path, 700_000, bytes, 2_000_000).await;
        has_part("00000000").await;
        let (at, _) = head(&genie, &ada, &path).await;
        assert!((MIB..=1_500_000).contains(&at), "{at}");
        drop(hangs);
        // One that hangs is ended by a newer one, here one at a place that is past.
        let bytes = &film[at..2_200_000];
        let hangs = hanging(&genie, &ada, &path, at, bytes, film.len() - at).await;
        has_part("00000001").await;
        let newer = patch(&genie, &ada, &path, at, bytes);
        refused(newer, 409, "other_offset").await;
        drop(hangs);
        let (offset, _) = head(&genie, &ada, &path).await;
        assert!((2 * MIB..=2_200_000).contains(&offset), "{offset}");

        // Whole: on the last PATCH, on HEAD after it, and when the last PATCH is sent again.
        let last = add(&genie, &ada, &path, offset, &film[offset..]).await;
        let id = header(&last, "genie-file").to_owned();
        assert_eq!((last.status().as_u16(), path.ends_with(&id)), (204, true));
        assert_eq!(header(&last, "upload-offset"), film.len().to_string());
        genie.restart().await;
        assert_eq!(head(&genie, &ada, &path).await, (film.len(), id.clone()));
        let again = add(&genie, &ada, &path, film.len(), b"").await;
        assert_eq!(
            (again.status().as_u16(), header(&again, "genie-file")),
            (204, &*id)
        );
        assert!(stored(&genie, &ada, &id).await == film);
        until("nothing but the file's parts", async || {
            (objects(&genie).len() == 4 && rows(&genie).await == 1).then_some(())
        })
        .await;
        ada.delete(&genie, &format!("/api/files/{id}")).await.ok();
        assert_eq!(objects(&genie), [] as [PathBuf; 0]);
    }
);

both_stores!(
    bytes_with_another_checksum_do_not_count,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let (_, ada) = (genie.user("root").await, genie.user("ada").await);
        let film = png(2 * MIB);
        let path = create(&genie, &ada, film.len()).await;
        let sum = |bytes: &[u8]| format!("sha256 {}", BASE64.encode(Sha256::digest(bytes)));
        let half = MIB + 5000;
        let send = |offset: usize, to: usize, sum: String| {
            patch(&genie, &ada, &path, offset, &film[offset..to]).header("Upload-Checksum", sum)
        };
        refused(send(0, half, sum(b"other")), 460, "checksum_mismatch").await;
        assert_eq!(head(&genie, &ada, &path).await.0, 0);
        for wrong in ["md5 AAAA", "sha256", "sha256 *"] {
            refused(send(0, half, wrong.to_owned()), 400, "invalid_field").await;
        }
        let kept = send(0, half, sum(&film[..half])).send().await.unwrap();
        assert_eq!(kept.status(), 204);
        refused(
            send(half, film.len(), sum(b"other")),
            460,
            "checksum_mismatch",
        )
        .await;
        assert_eq!(head(&genie, &ada, &path).await.0, half);
        let last = send(half, film.len(), sum(&film[half..]))
            .send()
            .await
            .unwrap();
        let id = header(&last, "genie-file").to_owned();
        assert!(stored(&genie, &ada, &id).await == film);
    }
);

both_stores!(
    an_upload_is_bounded_ends_by_delete_and_expires,
    async |store: TestStore| {
        let settings = [
            ("FILE_MAX_BYTES", "1000000".to_owned()),
            ("FILES_MAX_BYTES_PER_USER", "1500000".to_owned()),
        ];
        let mut genie = TestGenie::start_with(store, &settings).await;
        let (_, ada) = (genie.user("root").await, genie.user("ada").await);
        let post = || request(&genie, &ada, Method::POST, "/api/files/tus");
        refused(
            post().header("Upload-Length", 1_000_001),
            413,
            "body_too_large",
        )
        .await;
        refused(post(), 400, "invalid_field").await;
        refused(post().header("Upload-Length", "-1"), 400, "invalid_field").await;
        let metadata = post()
            .header("Upload-Length", 1)
            .header("Upload-Metadata", "filename *");
        refused(metadata, 400, "invalid_field").await;
        let path = create(&genie, &ada, 900_000).await;
        refused(
            post().header("Upload-Length", 700_000),
            403,
            "tier_limit_reached",
        )
        .await;
        let no_version = genie
            .http
            .head(format!("{}{path}", genie.base))
            .bearer_auth(&ada.token);
        let no_version = no_version.send().await.unwrap();
        assert_eq!(
            (
                no_version.status().as_u16(),
                header(&no_version, "tus-version")
            ),
            (412, "1.0.0")
        );
        let json = request(&genie, &ada, Method::PATCH, &path).header("Upload-Offset", 0);
        let json = json.header("Content-Type", "application/json").body("{}");
        assert_eq!(json.send().await.unwrap().status(), 415);

        assert_eq!(
            add(&genie, &ada, &path, 0, &png(10_000)).await.status(),
            204
        );
        assert_eq!(objects(&genie).len(), 1);
        let ended = request(&genie, &ada, Method::DELETE, &path)
            .send()
            .await
            .unwrap();
        assert_eq!(ended.status(), 204);
        assert_eq!(objects(&genie), [] as [PathBuf; 0]);
        refused(
            request(&genie, &ada, Method::DELETE, &path),
            404,
            "not_found",
        )
        .await;
        refused(patch(&genie, &ada, &path, 0, b"x"), 404, "not_found").await;

        let path = create(&genie, &ada, 700_000).await;
        assert_eq!(
            add(&genie, &ada, &path, 0, &png(10_000)).await.status(),
            204
        );
        genie.clock.advance_millis(DAY / 2);
        let at = head(&genie, &ada, &path).await.0;
        genie.clock.advance_millis(DAY / 2 + 60_000);
        assert_eq!(objects(&genie).len(), 1, "{at}: somebody went on with it");
        genie.clock.advance_millis(DAY + 60_000);
        until("the upload to be swept", async || {
            genie.clock.advance_millis(15 * 60 * 1000);
            objects(&genie).is_empty().then_some(())
        })
        .await;
        let ada = genie.user_again("ada", &ada.id).await;
        refused(
            request(&genie, &ada, Method::DELETE, &path),
            404,
            "not_found",
        )
        .await;

        let empty =
            request(&genie, &ada, Method::POST, "/api/files/tus").header("Upload-Length", 0);
        let empty = empty.send().await.unwrap();
        let path = format!("/api/files/{}", header(&empty, "genie-file"));
        assert_eq!(
            (
                empty.status().as_u16(),
                ada.get(&genie, &path).await.status.as_u16()
            ),
            (201, 200)
        );
    }
);

both_stores!(
    pages_of_another_origin_may_upload,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("root").await;
        let url = format!("{}/api/files/tus", genie.base);
        let preflight = genie
            .http
            .request(Method::OPTIONS, &url)
            .header("Origin", "https://example.com");
        let preflight = preflight
            .header("Access-Control-Request-Method", "PATCH")
            .header(
                "Access-Control-Request-Headers",
                "tus-resumable,upload-offset,content-type,authorization",
            );
        let preflight = preflight.send().await.unwrap();
        assert_eq!(preflight.status(), 200);
        assert!(header(&preflight, "access-control-allow-methods").contains("PATCH"));
        let allowed = header(&preflight, "access-control-allow-headers").to_lowercase();
        assert!(allowed.contains("upload-offset"), "{allowed}");
        let options = genie
            .http
            .request(Method::OPTIONS, &url)
            .send()
            .await
            .unwrap();
        for (name, value) in [
            ("tus-version", "1.0.0"),
            ("tus-extension", "creation,termination,checksum,expiration"),
            ("tus-checksum-algorithm", "sha1,sha256"),
            ("tus-max-size", "2147483648"),
        ] {
            assert_eq!(header(&options, name), value);
        }
        let created = request(&genie, &ada, Method::POST, "/api/files/tus");
        let created = created
            .header("Upload-Length", 1)
            .header("Origin", "https://example.com");
        let created = created.send().await.unwrap();
        let exposed = header(&created, "access-control-expose-headers").to_lowercase();
        for name in [
            "location",
            "upload-offset",
            "upload-length",
            "upload-expires",
            "tus-resumable",
            "genie-file",
            "etag",
            "content-range",
            "retry-after",
        ] {
            assert!(exposed.contains(name), "{name}: {exposed}");
        }
    }
);

/// Runs the official client, which `scripts/test` installs.
async fn client(arguments: &[&str]) -> Value {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tus");
    let script = tools.join("client.mjs");
    assert!(
        script.exists(),
        "run this by scripts/test, which installs tus-js-client"
    );
    let output = Command::new("node")
        .arg(script)
        .args(arguments)
        .kill_on_drop(true)
        .output();
    let output = output.await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_str(said.lines().last().unwrap()).unwrap()
}

both_stores!(
    the_official_client_breaks_off_and_goes_on,
    async |store: TestStore| {
        let mut genie = TestGenie::start_process(store).await;
        let ada = genie.user("root").await;
        let film = png(12 * MIB);
        let path = genie.store.folder().join("film.png");
        std::fs::write(&path, &film).unwrap();
        let path = path.to_str().unwrap();
        let endpoint = format!("{}/api/files/tus", genie.base);
        let begun = client(&["begin", &endpoint, &ada.token, path, "5000000"]).await;
        let address = begun["address"].as_str().unwrap();
        let upload = address.strip_prefix(&genie.base).unwrap().to_owned();
        assert_eq!(
            (&begun["file"], &begun["asked"][0]),
            (&Value::Null, &json!("POST 201"))
        );
        let before = head(&genie, &ada, &upload).await.0;
        genie.restart().await;

        let address = format!("{}{upload}", genie.base);
        let ended = client(&["go-on", &address, &ada.token, path]).await;
        let offset = ended["offset"].as_u64().unwrap() as usize;
        assert!(
            offset >= before && offset > 0 && offset < film.len(),
            "{offset} of {}",
            film.len()
        );
        assert_eq!(ended["asked"], json!(["HEAD 200", "PATCH 204"]));
        let id = ended["file"].as_str().unwrap();
        assert!(stored(&genie, &ada, id).await == film);
    }
);
