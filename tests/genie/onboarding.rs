//! Onboarding: the upload, the job that imports it, uploads that must be refused, and leftovers
//! that must go.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use flate2::{Compression, write::DeflateEncoder};
use genie_log::testing::{TestStore, both_stores};
use rawzip::{CompressionMethod, ZipArchiveWriter, path::EntryPath};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Connection;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    test_genie::{Answer, SECRET, TestGenie, TestUser, outcome, text_of},
    until::until,
};

pub const MIB: usize = 1 << 20;
pub const BOUNDARY: &str = "----genie";

/// A zip archive with one file.
pub fn zip(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut archive = ZipArchiveWriter::new(Vec::new());
    let path = EntryPath::verbatim(name.as_bytes().to_vec());
    let (mut entry, config) = archive
        .new_file(path)
        .compression_method(CompressionMethod::DEFLATE)
        .start()
        .unwrap();
    let mut packed = config.wrap(DeflateEncoder::new(&mut entry, Compression::fast()));
    packed.write_all(bytes).unwrap();
    let (packed, said) = packed.finish().unwrap();
    packed.finish().unwrap();
    entry.finish(said).unwrap();
    archive.finish().unwrap()
}

/// Bytes that do not compress.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length / 8).flat_map(|_| next()).collect()
}

/// A multipart form of file fields.
pub fn form(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, bytes) in fields {
        let about = format!(
            "Content-Disposition: form-data; name=\"{name}\"; filename=\"docs/my diary.zip\""
        );
        body.extend_from_slice(
            format!("--{BOUNDARY}\r\n{about}\r\nContent-Type: application/zip\r\n\r\n").as_bytes(),
        );
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    body
}

async fn send_form(genie: &TestGenie, user: &TestUser, body: Vec<u8>, key: Option<&str>) -> Answer {
    let url = format!("{}/api/onboarding/zip-upload", genie.base);
    // An unoptimised build on a busy machine seals and opens a large upload slowly.
    let request = genie
        .http
        .post(url)
        .timeout(Duration::from_secs(300))
        .bearer_auth(&user.token)
        .body(body);
    let request = request.header(
        "Content-Type",
        format!("multipart/form-data; boundary={BOUNDARY}"),
    );
    crate::test_genie::answer(key.into_iter().fold(request, |request, key| {
        request.header("Idempotency-Key", key)
    }))
    .await
}

pub async fn upload(genie: &TestGenie, user: &TestUser, archive: &[u8]) -> Answer {
    send_form(genie, user, form(&[("file", archive)]), None).await
}

async fn step(genie: &TestGenie, user: &TestUser, body: Value) -> Answer {
    genie
        .send(
            Method::PATCH,
            "/api/onboarding/state",
            &user.headers(),
            Some(body),
        )
        .await
}

async fn state(genie: &TestGenie, user: &TestUser) -> String {
    user.get(genie, "/api/onboarding/state").await.ok()["state"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// The administrator, and a user who may upload.
pub async fn two(genie: &mut TestGenie) -> (TestUser, TestUser) {
    let (admin, ada) = (genie.user("admin").await, genie.user("ada").await);
    step(genie, &ada, json!({"state": "DATA_COLLECTION"}))
        .await
        .ok();
    (admin, ada)
}

async fn claim(genie: &TestGenie) -> Value {
    let claim = json!({"queues": ["onboarding-jobs"], "worker_id": "w", "wait_ms": 10_000});
    let mut claimed = genie.server("/api/worker/claim", claim).await.ok();
    assert_eq!(claimed["jobs"].as_array().unwrap().len(), 1, "{claimed}");
    claimed["jobs"][0].take()
}

async fn end(genie: &TestGenie, job: &Value, how: &str, mut body: Value) -> Answer {
    body["lease"] = job["lease"].clone();
    genie
        .server(
            &format!("/api/worker/jobs/{}/{how}", job["jobId"].as_str().unwrap()),
            body,
        )
        .await
}

/// All files in the blob store. Hidden files belong to the server that plays the bucket.
pub fn objects(genie: &TestGenie) -> Vec<PathBuf> {
    fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.path() {
                path if path.is_dir() => collect(&path, found),
                path if path.file_name().unwrap().to_string_lossy().starts_with('.') => {}
                path => found.push(path),
            }
        }
    }
    let mut found = Vec::new();
    collect(&genie.store.folder().join("blobs"), &mut found);
    found
}

pub async fn rows(genie: &TestGenie) -> i64 {
    sqlx::any::install_default_drivers();
    let embedded = || {
        format!(
            "sqlite://{}/genie.db?mode=ro",
            genie.store.folder().display()
        )
    };
    let mut inside =
        sqlx::AnyConnection::connect(&genie.store.database_url().unwrap_or_else(embedded))
            .await
            .unwrap();
    sqlx::query_scalar("SELECT count(*) FROM blobs")
        .fetch_one(&mut inside)
        .await
        .unwrap()
}

/// Checks that a refused upload left nothing.
async fn nothing_left(genie: &TestGenie, user: &TestUser, facts: &Value) {
    until("the blob store to be empty", async || {
        objects(genie).is_empty().then_some(())
    })
    .await;
    assert_eq!(
        (rows(genie).await, state(genie, user).await.as_str()),
        (0, "DATA_COLLECTION")
    );
    assert_eq!(
        user.get(genie, "/api/me/events").await.ok()["data"],
        *facts,
        "no fact"
    );
}

/// Begins an upload with a declared length and sends less.
pub async fn send_half(genie: &TestGenie, user: &TestUser) -> TcpStream {
    let mut body = form(&[("file", &zip("video", &noise(5 * MIB)))]);
    let whole = body.len();
    let before = objects(genie).len();
    body.truncate(3 * MIB);
    let address = genie.base.strip_prefix("http://").unwrap();
    let head = format!(
        "POST /api/onboarding/zip-upload HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\n\
         Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {whole}\r\n\r\n",
        user.token
    );
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all(head.as_bytes()).await.unwrap();
    connection.write_all(&body).await.unwrap();
    until("a part of the upload to be in the blob store", async || {
        (objects(genie).len() > before).then_some(())
    })
    .await;
    connection
}

both_stores!(
    an_upload_is_imported_by_a_worker_and_completes_onboarding,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let (_, bob) = (genie.user("admin").await, genie.user("bob").await);
        let archive = zip(
            "posts/1.json",
            &[b"a canary in the clear ".repeat(50), noise(2 * MIB)].concat(),
        );
        upload(&genie, &bob, &archive)
            .await
            .refused(409, "onboarding_order");
        step(&genie, &bob, json!({"state": "DATA_COLLECTION"}))
            .await
            .ok();
        let uploaded = upload(&genie, &bob, &archive).await.ok();
        let file = uploaded["fileId"].as_str().unwrap();
        assert_eq!(uploaded["filePath"], format!("/api/files/{file}"));
        assert_eq!(state(&genie, &bob).await, "PROCESSING");
        upload(&genie, &bob, &archive)
            .await
            .refused(409, "onboarding_order");
        assert_eq!((objects(&genie).len(), rows(&genie).await), (3, 1));

        genie.restart().await;
        let job = claim(&genie).await;
        assert_eq!(
            (&job["jobId"], &job["operation"]),
            (&uploaded["jobId"], &json!("onboarding_import"))
        );
        assert_eq!(
            (&job["input_file_id"], &job["userId"]),
            (&json!(file), &json!(bob.id))
        );
        let path = format!("/api/files/{file}");
        let carol = genie.user("carol").await;
        let [token] = bob.headers();
        for header in [token, ("X-RBAC-SYNC-SECRET", SECRET.to_owned())] {
            let download = genie
                .http
                .get(format!("{}{path}", genie.base))
                .header(header.0, header.1)
                .send()
                .await
                .unwrap();
            assert_eq!(
                (download.status().as_u16(), download.content_length()),
                (200, Some(archive.len() as u64))
            );
            assert_eq!(
                download.headers()["content-disposition"],
                "attachment; filename=\"my diary.zip\""
            );
            assert!(
                download.bytes().await.unwrap() == archive,
                "the download must have the same bytes"
            );
        }
        carol.get(&genie, &path).await.refused(404, "not_found");
        genie
            .send(Method::GET, &path, &[], None)
            .await
            .refused(401, "invalid_token");
        bob.get(&genie, "/api/files/nonsense")
            .await
            .refused(404, "not_found");

        assert!(!genie.store.holds("diary").await);
        for object in objects(&genie) {
            let bytes = fs::read(object).unwrap();
            assert!(
                !bytes.windows(12).any(|window| window == b"posts/1.json"),
                "sealed"
            );
        }
        end(&genie, &job, "complete", json!({"result": {"posts": 1}}))
            .await
            .ok();
        assert_eq!(state(&genie, &bob).await, "COMPLETE");
        end(&genie, &job, "complete", json!({"result": {"posts": 1}}))
            .await
            .ok();
        upload(&genie, &bob, &archive)
            .await
            .refused(409, "onboarding_order");
        genie.restart().await;
        assert_eq!(state(&genie, &bob).await, "COMPLETE");
    }
);

both_stores!(
    a_failed_import_leads_back_and_can_be_queued_again,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let (_, ada) = two(&mut genie).await;
        let uploaded = upload(&genie, &ada, &zip("a", b"text")).await.ok();
        let path =
            |what: &str| format!("/api/queue/{what}/{}", uploaded["jobId"].as_str().unwrap());
        let failed = json!({"error": "no posts in it", "retryable": false});
        end(&genie, &claim(&genie).await, "fail", failed.clone())
            .await
            .ok();
        assert_eq!(state(&genie, &ada).await, "DATA_COLLECTION");
        ada.post(&genie, &path("retry"), Value::Null).await.ok();
        assert_eq!(state(&genie, &ada).await, "PROCESSING");
        ada.post(&genie, &path("cancel"), Value::Null).await.ok();
        assert_eq!(state(&genie, &ada).await, "DATA_COLLECTION");

        let second = upload(&genie, &ada, &zip("a", b"better")).await.ok();
        ada.post(&genie, &path("retry"), Value::Null)
            .await
            .refused(409, "onboarding_order");
        let job = claim(&genie).await;
        assert_eq!(job["jobId"], second["jobId"]);
        end(&genie, &job, "complete", json!({})).await.ok();
        assert_eq!(state(&genie, &ada).await, "COMPLETE");
        ada.post(&genie, &path("retry"), Value::Null)
            .await
            .refused(409, "onboarding_order");
    }
);

both_stores!(
    a_bad_upload_is_refused_and_leaves_nothing,
    async |store: TestStore| {
        let most = 2 * MIB;
        let mut genie =
            TestGenie::start_with(store, &[("MAX_UPLOAD_BYTES", most.to_string())]).await;
        let (_, ada) = two(&mut genie).await;
        let facts = ada.get(&genie, "/api/me/events").await.ok()["data"].take();
        let good = zip("a", &noise(MIB + MIB / 2));
        let file = |bytes: &[u8]| form(&[("file", bytes)]);
        let mut early = file(&good);
        early.truncate(MIB);
        let bad = [
            (file(b""), 400, "bad_archive"),
            (file(b"%PDF-1.7 and so on"), 400, "bad_archive"),
            (
                file(&[b"%PDF-1.7", noise(MIB).as_slice()].concat()),
                400,
                "bad_archive",
            ),
            (file(&good[..good.len() - 30]), 400, "bad_archive"),
            (file(&zip("../../etc/passwd", b"root")), 400, "bad_archive"),
            (file(&zip("/etc/passwd", b"root")), 400, "bad_archive"),
            (file(&zip("..\\boot.ini", b"x")), 400, "bad_archive"),
            (file(&zip("zeros", &vec![0; 64 * MIB])), 400, "bad_archive"),
            (file(&zip("a\0b", b"x")), 400, "bad_archive"),
            (file(&zip("a", &noise(most))), 413, "body_too_large"),
            (file(&zip("a", &noise(3 * most))), 413, "body_too_large"),
            (form(&[("other", b"x")]), 400, "invalid_field"),
            (form(&[]), 400, "invalid_field"),
            (
                form(&[("file", &zip("a", b"x")), ("file", &zip("a", b"x"))]),
                400,
                "invalid_field",
            ),
            (
                form(&[("other", &noise(100_000)), ("file", &zip("a", b"x"))]),
                400,
                "invalid_field",
            ),
            (early, 400, "invalid_field"),
            (b"no form at all".to_vec(), 400, "invalid_field"),
        ];
        for (n, (body, status, code)) in bad.into_iter().enumerate() {
            println!("number {n}"); // printed if the test fails
            let told = send_form(&genie, &ada, body, None)
                .await
                .refused(status, code);
            assert!(
                !told["error"].as_str().unwrap().contains("passwd"),
                "{told}"
            );
            let names_an_entry = [4, 5, 6, 8].contains(&n);
            assert_eq!(
                told["error"].as_str().unwrap().starts_with("Entry 1 of "),
                names_an_entry,
                "{told}"
            );
            nothing_left(&genie, &ada, &facts).await;
        }
        ada.post(&genie, "/api/onboarding/zip-upload", json!({}))
            .await
            .refused(415, "not_a_form");
        let nobody = TestUser {
            token: "x".into(),
            ..ada.clone()
        };
        send_form(&genie, &nobody, file(&good), None)
            .await
            .refused(401, "invalid_token");
        nothing_left(&genie, &ada, &facts).await;
        // An upload without a declared length.
        let pieces = form(&[("file", &zip("a", &noise(3 * most)))]);
        let pieces = futures_util::stream::iter(
            pieces
                .chunks(50_000)
                .map(|piece| Ok::<_, std::io::Error>(piece.to_vec()))
                .collect::<Vec<_>>(),
        );
        let request = genie
            .http
            .post(format!("{}/api/onboarding/zip-upload", genie.base))
            .bearer_auth(&ada.token);
        let request = request.header(
            "Content-Type",
            format!("multipart/form-data; boundary={BOUNDARY}"),
        );
        crate::test_genie::answer(request.body(reqwest::Body::wrap_stream(pieces)))
            .await
            .refused(413, "body_too_large");
        nothing_left(&genie, &ada, &facts).await;
        upload(&genie, &ada, &good).await.ok();
    }
);

both_stores!(
    an_upload_that_breaks_off_leaves_nothing_and_the_next_is_accepted,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let (_, ada) = two(&mut genie).await;
        let facts = ada.get(&genie, "/api/me/events").await.ok()["data"].take();
        let connection = send_half(&genie, &ada).await;
        upload(&genie, &ada, &zip("a", b"text"))
            .await
            .refused(409, "upload_running");
        drop(connection);
        nothing_left(&genie, &ada, &facts).await;
        // The server gives up the broken upload a moment after its bytes are gone.
        until("the next upload to be accepted", async || {
            let answer = upload(&genie, &ada, &zip("a", b"text")).await;
            (answer.json["code"] != "upload_running").then_some(answer)
        })
        .await
        .ok();
    }
);

both_stores!(
    leftovers_of_a_killed_server_are_swept_and_nothing_else_is,
    async |store: TestStore| {
        let mut genie = TestGenie::start_process(store).await;
        let (_, ada) = two(&mut genie).await;
        let bob = genie.user("bob").await;
        step(&genie, &bob, json!({"state": "DATA_COLLECTION"}))
            .await
            .ok();
        let uploaded = upload(&genie, &ada, &zip("a", b"text")).await.ok();
        let kept = objects(&genie);
        let _connection = send_half(&genie, &bob).await;
        genie.kill().await;
        let long_ago = "UPDATE uploads SET expires_at = 0";
        assert_eq!(genie.store.try_sql(long_ago).await.unwrap(), 1);
        let orphan = objects(&genie)
            .into_iter()
            .find(|path| !kept.contains(path))
            .unwrap();
        let staged = orphan.with_file_name("00000001#1");
        fs::write(&staged, b"half a part").unwrap();
        let others = orphan.parent().unwrap().with_file_name(&ada.id);
        let others = others.join("00000000");
        fs::create_dir_all(others.parent().unwrap()).unwrap();
        fs::write(&others, b"of another installation").unwrap();
        genie.launch_again().await;
        until(
            "all but kept objects and those of others to be gone",
            async || {
                let mut left = objects(&genie);
                left.retain(|path| !kept.contains(path));
                (left == [others.clone()]).then_some(())
            },
        )
        .await;
        let download = genie.http.get(format!(
            "{}{}",
            genie.base,
            uploaded["filePath"].as_str().unwrap()
        ));
        let download = download.bearer_auth(&ada.token).send().await.unwrap();
        assert!(download.bytes().await.unwrap() == zip("a", b"text"));
        assert_eq!(
            (rows(&genie).await, state(&genie, &bob).await.as_str()),
            (1, "DATA_COLLECTION")
        );
    }
);

both_stores!(
    a_large_upload_takes_little_memory,
    async |store: TestStore| {
        let mut genie = TestGenie::start_process(store).await;
        let (_, ada) = two(&mut genie).await;
        let bob = genie.user("bob").await;
        step(&genie, &bob, json!({"state": "DATA_COLLECTION"}))
            .await
            .ok();
        upload(&genie, &bob, &zip("a", &noise(3 * MIB))).await.ok(); // runs all code once, so that only the upload counts below
        let most_kib = || {
            let status = fs::read_to_string(format!("/proc/{}/status", genie.pid())).unwrap();
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("VmHWM:"))
                .unwrap();
            line.trim()
                .trim_end_matches(" kB")
                .parse::<usize>()
                .unwrap()
        };
        // Resets the peak that logins caused (proc(5)). Where only root may reset it, the old peak
        // hides a part of the growth.
        let _ = fs::write(format!("/proc/{}/clear_refs", genie.pid()), "5");
        let before = most_kib();
        upload(&genie, &ada, &zip("video", &noise(50 * MIB)))
            .await
            .ok();
        let grown = most_kib().saturating_sub(before); // the kernel counts in steps and may report a little less than before
        println!("a 50 MiB upload took {grown} KiB more than one of 3 MiB");
        assert!(grown < 16 * 1024, "{grown} KiB");
    }
);

both_stores!(
    an_upload_under_a_key_can_be_sent_again,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let (_, ada) = two(&mut genie).await;
        let body = form(&[("file", &zip("a", b"text"))]);
        let first = send_form(&genie, &ada, body.clone(), Some("k1")).await.ok();
        genie.restart().await;
        let again = send_form(&genie, &ada, body, Some("k1")).await.ok();
        assert_eq!(
            (&again["jobId"], &again["fileId"]),
            (&first["jobId"], &first["fileId"])
        );
        let other = form(&[("file", &zip("a", b"other text"))]);
        send_form(&genie, &ada, other.clone(), Some("k1"))
            .await
            .refused(422, "idempotency_key_reused");
        send_form(&genie, &ada, other, Some("k2"))
            .await
            .refused(409, "onboarding_order");
        assert_eq!((objects(&genie).len(), rows(&genie).await), (1, 1));
    }
);

both_stores!(
    only_an_administrator_moves_others_on,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let (admin, ada) = two(&mut genie).await;
        let bob = genie.user("bob").await;
        let complete = |user: &TestUser| json!({"state": "COMPLETE", "userId": user.id});
        step(&genie, &ada, complete(&ada))
            .await
            .refused(409, "onboarding_order");
        step(&genie, &bob, complete(&ada))
            .await
            .refused(403, "forbidden");
        step(&genie, &admin, complete(&ada))
            .await
            .refused(409, "onboarding_order");
        upload(&genie, &ada, &zip("a", b"text")).await.ok();
        step(&genie, &ada, json!({"state": "COMPLETE"}))
            .await
            .refused(409, "onboarding_order");
        let done = step(&genie, &admin, complete(&ada)).await.ok();
        assert_eq!(
            (&done["state"], &done["userId"]),
            (&json!("COMPLETE"), &json!(ada.id))
        );
        assert_eq!(state(&genie, &ada).await, "COMPLETE");
        end(
            &genie,
            &claim(&genie).await,
            "fail",
            json!({"error": "e", "retryable": false}),
        )
        .await
        .ok();
        assert_eq!(
            state(&genie, &ada).await,
            "COMPLETE",
            "the administrator's step stands"
        );
        step(&genie, &ada, json!({"state": "PROCESSING"}))
            .await
            .refused(409, "onboarding_order");
        let nobody = json!({"state": "COMPLETE", "userId": "00000000-0000-7000-8000-000000000000"});
        step(&genie, &admin, nobody).await.refused(404, "not_found");
        step(&genie, &admin, json!({"state": "COMPLETE", "userId": "x"}))
            .await
            .refused(400, "invalid_field");
    }
);

both_stores!(
    the_gate_opens_with_the_upload_and_closes_when_its_import_fails,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let (admin, ada) = two(&mut genie).await;
        let told = ada.ask(&genie, "s", "hello").await.rest().await;
        let types: Vec<_> = told
            .iter()
            .map(|event| event.data["type"].as_str().unwrap())
            .collect();
        assert_eq!(
            (types, outcome(&told).as_str()),
            (vec!["textResponse", "finalizeResponseStream"], "completed")
        );
        assert!(
            told[0].data["textResponse"]
                .as_str()
                .unwrap()
                .contains("upload"),
            "{told:?}"
        );
        assert_eq!(genie.ollama.requests().len(), 0);
        upload(&genie, &ada, &zip("a", b"text")).await.ok();
        assert_eq!(
            text_of(&ada.ask(&genie, "s", "hello").await.rest().await),
            "Hello there"
        );
        end(
            &genie,
            &claim(&genie).await,
            "fail",
            json!({"error": "e", "retryable": false}),
        )
        .await
        .ok();
        genie.settle().await;
        assert_eq!(
            ada.ask(&genie, "s", "hello").await.rest().await[0].data["type"],
            "textResponse"
        );
        assert_eq!(genie.ollama.requests().len(), 1);
        assert_eq!(
            text_of(&admin.ask(&genie, "s", "hello").await.rest().await),
            "Hello there"
        );
    }
);

both_stores!(a_late_row_sends_nobody_away, async |store: TestStore| {
    let mut genie = TestGenie::start(store).await;
    let (admin, bob) = (genie.user("admin").await, genie.user("bob").await);
    for state in ["DATA_COLLECTION", "PROCESSING", "COMPLETE"] {
        let step = json!({"state": state, "userId": bob.id});
        admin
            .patch(&genie, "/api/onboarding/state", step)
            .await
            .ok();
    }
    genie.settle().await;
    genie.kill().await;
    genie
        .store
        .try_sql("UPDATE accounts SET onboarding = 'DATA_COLLECTION'")
        .await
        .unwrap();
    genie.launch_again().await;
    assert_eq!(
        text_of(&bob.ask(&genie, "s", "hello").await.rest().await),
        "Hello there"
    );
});

both_stores!(the_gate_can_be_switched_off, async |store: TestStore| {
    let mut genie = TestGenie::start_with(store, &[("ONBOARDING_GATE", "off".into())]).await;
    let (_, bob) = (genie.user("admin").await, genie.user("bob").await);
    assert_eq!(
        text_of(&bob.ask(&genie, "s", "hello").await.rest().await),
        "Hello there"
    );
});

/// Archives that unzip or Python takes and that are seldom made.
fn seldom() -> Vec<Vec<u8>> {
    let mut twice = ZipArchiveWriter::new(Vec::new());
    for text in [b"first", b"later"] {
        let (mut entry, config) = twice.new_file("posts.json").start().unwrap();
        let mut inside = config.wrap(&mut entry);
        inside.write_all(text).unwrap();
        let (_, said) = inside.finish().unwrap();
        entry.finish(said).unwrap();
    }
    // Deflate64, as Windows packs large files. Without long runs its bytes are those of Deflate.
    let mut deflate64 = zip("a", b"dear diary, dear diary");
    let record = deflate64
        .windows(4)
        .position(|bytes| bytes == b"PK\x01\x02");
    deflate64[record.unwrap() + 10] = 9;
    deflate64[8] = 9;
    vec![
        zip("inner.zip", &zip("a", b"text")),
        twice.finish().unwrap(),
        deflate64,
    ]
}

both_stores!(
    archives_that_are_seldom_made_come_back_the_same,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let (_, ada) = two(&mut genie).await;
        for archive in seldom() {
            let uploaded = upload(&genie, &ada, &archive).await.ok();
            let path = uploaded["filePath"].as_str().unwrap();
            let download = genie.http.get(format!("{}{path}", genie.base));
            let download = download.bearer_auth(&ada.token).send().await.unwrap();
            assert!(download.bytes().await.unwrap() == archive);
            let job = uploaded["jobId"].as_str().unwrap();
            ada.post(&genie, &format!("/api/queue/cancel/{job}"), json!({}))
                .await
                .ok();
            until("another upload to be possible", async || {
                (state(&genie, &ada).await == "DATA_COLLECTION").then_some(())
            })
            .await;
        }
    }
);
