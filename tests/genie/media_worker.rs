//! The media worker as a process of the real binary: it imports, it reads pages with yt-dlp, it is cancelled, stopped and
//! killed.

use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, Instant},
};

use genie_log::testing::{TestStore, both_stores};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::Child,
};

use crate::{
    onboarding::{two, upload, zip},
    secret_search::{Hunt, Secrets},
    test_genie::{TestGenie, TestUser, answer},
    until::{until, until_within},
};

/// A page that answers when the test lets it.
struct Page {
    listener: TcpListener,
}

impl Page {
    async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { listener }
    }

    fn url(&self) -> String {
        format!("http://{}/film.mp4", self.listener.local_addr().unwrap())
    }

    /// The next request, with its head read.
    async fn asked(&self) -> TcpStream {
        let asked = tokio::time::timeout(Duration::from_secs(60), self.listener.accept());
        let (mut client, _) = asked.await.expect("yt-dlp asks for the page").unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await.unwrap());
        }
        client
    }

    /// Answers all requests from now on.
    fn answer(self) {
        self.answer_with(b"\0\0\0\x08ftyp".to_vec());
    }

    /// Answers all requests from now on by this film.
    fn answer_with(self, film: Vec<u8>) {
        let length = film.len();
        let head = format!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: video/mp4\r\nContent-Length: {length}\r\n\r\n"
        );
        self.answer_as_it_is([head.as_bytes(), &film].concat());
    }

    /// Answers all requests from now on by these bytes.
    fn answer_as_it_is(self, whole: Vec<u8>) {
        tokio::spawn(async move {
            loop {
                let mut client = self.asked().await;
                let _ = client.write_all(&whole).await; // yt-dlp may have seen enough
            }
        });
    }
}

/// Waits until the other side is gone, and returns how long that took.
async fn gone(client: &mut TcpStream, since: Instant) -> Duration {
    let mut rest = Vec::new();
    let _ = client.read_to_end(&mut rest).await; // a reset is an end, too
    since.elapsed()
}

/// The server takes addresses of this machine.
fn here() -> [(&'static str, String); 1] {
    [("GENIE_PRIVATE_NETWORKS", "127.0.0.1".into())]
}

async fn worker(genie: &TestGenie, key: &str) -> Child {
    let base = genie.base.clone();
    let mut command = genie.command(&["worker", "--url", &base]);
    command
        .env("GENIE_WORKER_KEY", key)
        .env("GENIE_PRIVATE_NETWORKS", "127.0.0.1")
        .env("GENIE_WORKER_JOBS", "2")
        .env("GENIE_LOG", "info");
    command.spawn().unwrap()
}

async fn key(genie: &TestGenie, admin: &TestUser) -> String {
    let wanted = json!({"name": "worker", "scopes": ["jobs:work"]});
    let made = admin
        .post(genie, "/api/admin/service-keys", wanted)
        .await
        .ok();
    made["key"].as_str().unwrap().to_owned()
}

async fn look_at(genie: &TestGenie, user: &TestUser, url: &str) -> String {
    let job = json!({"operation": "ytdlp_info", "input_url": url});
    let queued = user.post(genie, "/api/queue/media", job).await.ok();
    queued["jobId"].as_str().unwrap().to_owned()
}

async fn job(genie: &TestGenie, user: &TestUser, id: &str) -> Value {
    user.get(genie, &format!("/api/jobs/{id}")).await.ok()
}

/// The job when it has this status.
async fn ended(genie: &TestGenie, user: &TestUser, id: &str, status: &str) -> Value {
    until_within(Duration::from_secs(60), "the job ends", async || {
        let job = job(genie, user, id).await;
        (job["status"] == status).then_some(job)
    })
    .await
}

/// The facts of all jobs of this type.
async fn facts(genie: &TestGenie, kind: &str) -> usize {
    let path = format!("/api/events?types={kind}");
    let headers = [("X-RBAC-SYNC-SECRET", crate::test_genie::SECRET.to_owned())];
    let page = genie
        .send(reqwest::Method::GET, &path, &headers, None)
        .await;
    page.ok()["data"].as_array().unwrap().len()
}

both_stores!(
    an_upload_is_imported_by_the_worker_beside_the_server,
    async |store: TestStore| {
        let mut genie = TestGenie::start_with_worker(store, &[]).await;
        let (admin, ada) = two(&mut genie).await;
        let queued = upload(&genie, &ada, &zip("posts/1.json", b"{}")).await.ok();
        let id = queued["jobId"].as_str().unwrap();
        let job = ended(&genie, &ada, id, "completed").await;
        assert_eq!(
            job["result"]["found"],
            json!({"files": 1, "folders": 0, "bytes": 2, "kinds": {"data": {"files": 1, "bytes": 2}}})
        );
        assert_eq!(job["attempt"], 1);
        until("the upload is imported", async || {
            let state = ada.get(&genie, "/api/onboarding/state").await.ok();
            (state["state"] == "COMPLETE").then_some(())
        })
        .await;
        let worker = genie.readiness().await.ok()["worker"].take();
        assert_eq!(
            (
                &worker["sandbox"],
                &worker["sandbox_lacks"],
                &worker["state"]
            ),
            (&json!("full"), &json!([]), &json!("ok"))
        );
        let operations = worker["operations"].as_array().unwrap();
        assert!(operations.contains(&json!("onboarding_import")));
        let left = genie.store.folder().join("worker/jobs");
        assert_eq!(std::fs::read_dir(left).unwrap().count(), 0, "files of jobs");
        // Its key ends with it.
        assert!(genie.terminate().await);
        genie.launch_again().await;
        let keys = until("the keys are listed", async || {
            let keys = admin.get(&genie, "/api/admin/service-keys").await.ok();
            let keys = keys["data"].as_array().unwrap().clone();
            (keys.len() == 2).then_some(keys)
        })
        .await;
        let live = keys.iter().filter(|key| key["revoked_at"].is_null());
        assert_eq!(live.count(), 1, "{keys:?}");
    }
);

both_stores!(
    a_killed_workers_job_ends_exactly_once,
    async |store: TestStore| {
        let mut genie = TestGenie::start_with(store, &here()).await;
        let (admin, ada) = two(&mut genie).await;
        let key = key(&genie, &admin).await;
        let page = Page::open().await;
        let mut first = worker(&genie, &key).await;
        let id = look_at(&genie, &ada, &page.url()).await;
        let mut client = page.asked().await;
        let killed = Instant::now();
        first.kill().await.unwrap(); // SIGKILL
        // yt-dlp dies with its worker.
        let took = gone(&mut client, killed).await;
        assert!(took < Duration::from_secs(10), "{took:?}");
        page.answer();
        let _second = worker(&genie, &key).await;
        genie.clock.advance_millis(31_000);
        let job = ended(&genie, &ada, &id, "completed").await;
        assert_eq!(
            (&job["attempt"], &job["result"]["title"]),
            (&json!(2), &json!("film"))
        );
        assert_eq!(facts(&genie, "job.completed").await, 1);
    }
);

both_stores!(
    cancelling_a_job_kills_its_program,
    async |store: TestStore| {
        let mut genie = TestGenie::start_with(store, &here()).await;
        let (admin, ada) = two(&mut genie).await;
        let key = key(&genie, &admin).await;
        let page = Page::open().await;
        let _worker = worker(&genie, &key).await;
        let id = look_at(&genie, &ada, &page.url()).await;
        let mut client = page.asked().await;
        let cancelled = Instant::now();
        let cancel = format!("/api/queue/cancel/{id}");
        ada.post(&genie, &cancel, json!({})).await.ok();
        let took = gone(&mut client, cancelled).await;
        println!("the program ended {took:?} after the request to cancel");
        assert!(took < Duration::from_secs(5), "{took:?}");
        assert_eq!(job(&genie, &ada, &id).await["status"], "cancelled");
    }
);

both_stores!(
    a_page_in_a_private_network_is_not_opened,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let (admin, ada) = two(&mut genie).await;
        let key = key(&genie, &admin).await;
        let base = genie.base.clone();
        let mut command = genie.command(&["worker", "--url", &base]);
        let _worker = command.env("GENIE_WORKER_KEY", &key).spawn().unwrap();
        // A literal address is refused at the door.
        for url in [
            "http://169.254.169.254/",
            "http://[::ffff:10.0.0.1]/",
            "http://0x7f.1/",
        ] {
            let wanted = json!({"operation": "ytdlp_info", "input_url": url});
            ada.post(&genie, "/api/queue/media", wanted.clone())
                .await
                .refused(400, "invalid_field");
            let batch = json!({"jobs": [wanted]});
            let answer = ada.post(&genie, "/api/queue/media/batch", batch).await.ok();
            assert_eq!(answer["jobs"][0]["ok"], false, "{answer}");
        }
        let page = Page::open().await;
        let port = page.listener.local_addr().unwrap().port();
        let id = look_at(&genie, &ada, &format!("http://localhost:{port}/film.mp4")).await;
        let job = ended(&genie, &ada, &id, "failed").await;
        let error = job["error"].as_str().unwrap();
        assert!(error.contains("private or special network"), "{error}");
        assert_eq!(job["attempt"], 1, "another attempt would end the same");
        let asked = tokio::time::timeout(Duration::from_millis(1), page.listener.accept()).await;
        assert!(asked.is_err(), "no connection was made");
    }
);

both_stores!(
    a_worker_with_a_wrong_key_or_none_says_so,
    async |store: TestStore| {
        let genie = TestGenie::start(store).await;
        let base = genie.base.clone();
        let none = genie
            .command(&["worker", "--url", &base])
            .output()
            .await
            .unwrap();
        assert!(!none.status.success());
        let told = String::from_utf8_lossy(&none.stderr).into_owned();
        assert!(told.contains("GENIE_WORKER_KEY"), "{told}");
    }
);

/// A picture, made by ffmpeg's own source.
async fn picture(genie: &TestGenie) -> Vec<u8> {
    let path = genie.store.folder().join("made.png");
    let made = tokio::process::Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", "testsrc=size=64x48"])
        .args(["-frames:v", "1"])
        .arg(&path)
        .status();
    assert!(made.await.unwrap().success());
    std::fs::read(path).unwrap()
}

both_stores!(
    a_picture_is_uploaded_worked_on_and_downloaded,
    async |store: TestStore| {
        let mut genie = TestGenie::start_with_worker(store, &[]).await;
        let (_admin, ada) = two(&mut genie).await;
        let request = genie
            .http
            .post(format!("{}/api/files?name=a%25b%3Ac.png", genie.base))
            .bearer_auth(&ada.token)
            .body(picture(&genie).await);
        let file = answer(request).await.ok();
        let wanted = json!({
            "operation": "thumbnail", "input_file_id": file["id"],
            "params": {"width": 32, "format": "png"},
        });
        // Its tier has no thumbnails.
        let tier = json!({"userId": ada.id, "tier": "studio"});
        genie.server("/api/rbac-sync", tier).await.ok();
        let queued = ada.post(&genie, "/api/queue/media", wanted).await.ok();
        let id = queued["jobId"].as_str().unwrap();
        let job = ended(&genie, &ada, id, "completed").await;
        let output = &job["outputs"][0];
        assert_eq!(
            [
                &output["name"],
                &output["mime"],
                &output["width"],
                &output["height"]
            ],
            [
                &json!("a%b:c.png"),
                &json!("image/png"),
                &json!(32),
                &json!(24)
            ]
        );
        let path = format!("/api/files/{}", output["file_id"].as_str().unwrap());
        let bytes = genie
            .http
            .get(format!("{}{path}", genie.base))
            .bearer_auth(&ada.token)
            .send()
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap();
        assert_eq!(output["bytes"], bytes.len());
        // The width and the height stand behind the name of the first chunk (PNG, section 11.2.2).
        assert_eq!(&bytes[12..24], b"IHDR\0\0\0\x20\0\0\0\x18");
    }
);

/// One second of pictures with this title, made by ffmpeg's own source.
async fn film(genie: &TestGenie, title: &str) -> Vec<u8> {
    let path = genie.store.folder().join("made.mp4");
    let made = tokio::process::Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i"])
        .arg("testsrc=size=64x48:rate=25:duration=1")
        .args(["-c:v", "libx264", "-pix_fmt", "yuv420p"])
        .args(["-movflags", "+faststart", "-metadata"])
        .arg(format!("title={title}"))
        .arg(&path)
        .status();
    assert!(made.await.unwrap().success());
    std::fs::read(path).unwrap()
}

both_stores!(
    a_film_is_downloaded_from_a_page_and_its_formats_are_told,
    async |store: TestStore| {
        let mut genie = TestGenie::start_with(store, &here()).await;
        let (admin, ada) = two(&mut genie).await;
        let key = key(&genie, &admin).await;
        let page = Page::open().await;
        let url = page.url();
        let film = film(&genie, "a film").await;
        page.answer_with(film.clone());
        let _worker = worker(&genie, &key).await;
        let looked = look_at(&genie, &ada, &url).await;
        let wanted =
            json!({"operation": "download_video", "input_url": url, "params": {"max_height": 720}});
        let queued = ada.post(&genie, "/api/queue/media", wanted).await.ok();
        let downloaded = queued["jobId"].as_str().unwrap();
        let job = ended(&genie, &ada, downloaded, "completed").await;
        assert_eq!(
            (&job["attempt"], &job["result"]["title"]),
            (&json!(1), &json!("film"))
        );
        let output = &job["outputs"][0];
        assert_eq!(
            [
                &output["name"],
                &output["mime"],
                &output["bytes"],
                &output["width"],
                &output["height"]
            ],
            [
                &json!("film.mp4"),
                &json!("video/mp4"),
                &json!(film.len()),
                &json!(64),
                &json!(48)
            ],
            "{output}"
        );
        assert_eq!(output["duration"], 1.0);
        let path = format!("/api/files/{}", output["file_id"].as_str().unwrap());
        let request = genie
            .http
            .get(format!("{}{path}", genie.base))
            .bearer_auth(&ada.token);
        assert_eq!(request.send().await.unwrap().bytes().await.unwrap(), film);
        let job = ended(&genie, &ada, &looked, "completed").await;
        assert_eq!(job["result"]["formats"][0]["ext"], "mp4", "{job}");
        assert_eq!(job["outputs"], json!([]));
    }
);

both_stores!(
    one_place_does_all_jobs_by_reports,
    async |store: TestStore| {
        let genie_settings = [here()[0].clone(), ("GENIE_WORKER_JOBS", "1".into())];
        let mut genie = TestGenie::start_with_worker(store, &genie_settings).await;
        let (_admin, ada) = two(&mut genie).await;
        let request = genie
            .http
            .post(format!("{}/api/files?name=a.png", genie.base))
            .bearer_auth(&ada.token)
            .body(picture(&genie).await);
        let file = answer(request).await.ok();
        let strip = |file: &Value| json!({"operation": "strip_metadata", "input_file_id": file});
        let convert = json!({"operation": "convert_image", "input_file_id": file["id"], "params": {"format": "jpeg"}});
        let film = json!({"operation": "compress_video", "input_file_id": file["id"]});
        let jobs = json!({"jobs": [strip(&file["id"]), convert, film, strip(&file["id"])]});
        let queued = ada.post(&genie, "/api/queue/media/batch", jobs).await.ok();
        for (number, status) in ["completed", "completed", "failed", "completed"]
            .iter()
            .enumerate()
        {
            let id = queued["jobs"][number]["jobId"].as_str().unwrap();
            let job = ended(&genie, &ada, id, status).await;
            assert_eq!(job["attempt"], 1, "{job}");
        }
        assert_eq!(facts(&genie, "job.claimed").await, 4);
    }
);

both_stores!(
    a_worker_that_is_stopped_gives_its_job_back,
    async |store: TestStore| {
        let mut genie = TestGenie::start_with(store, &here()).await;
        let (admin, ada) = two(&mut genie).await;
        let key = key(&genie, &admin).await;
        let page = Page::open().await;
        let mut first = worker(&genie, &key).await;
        let id = look_at(&genie, &ada, &page.url()).await;
        let mut client = page.asked().await;
        let stopped = Instant::now();
        let pid = first.id().unwrap().to_string();
        let signal = tokio::process::Command::new("kill")
            .args(["-TERM", &pid])
            .status();
        assert!(signal.await.unwrap().success());
        gone(&mut client, stopped).await;
        assert!(first.wait().await.unwrap().success());
        let waiting = job(&genie, &ada, &id).await;
        assert_eq!(waiting["status"], "queued", "{waiting}");
        page.answer();
        let _second = worker(&genie, &key).await;
        // No lease has to run out: the server's clock stands still.
        let job = ended(&genie, &ada, &id, "completed").await;
        assert_eq!(
            job["attempt"], 1,
            "an attempt that was given back does not count"
        );
        assert_eq!(facts(&genie, "job.completed").await, 1);
    }
);

/// True when a file in or below this place has a secret. Files come and go meanwhile.
fn holds(place: &Path, hunt: &Hunt) -> bool {
    let Ok(entries) = std::fs::read_dir(place) else {
        let bytes = std::fs::read(place).unwrap_or_default();
        return !hunt.find(&bytes).is_empty();
    };
    let mut paths = entries.flatten().map(|entry| entry.path());
    paths.any(|path| holds(&path, hunt))
}

both_stores!(
    a_page_that_leads_into_a_special_network_is_not_followed,
    async |store: TestStore| {
        let mut genie = TestGenie::start_with(store, &here()).await;
        let (admin, ada) = two(&mut genie).await;
        let key = key(&genie, &admin).await;
        let page = Page::open().await;
        let url = page.url();
        page.answer_as_it_is(
            b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest/meta-data/\r\nContent-Length: 0\r\n\r\n"
                .to_vec(),
        );
        let _worker = worker(&genie, &key).await;
        let wanted = json!({"operation": "strip_metadata", "input_url": url});
        let queued = ada.post(&genie, "/api/queue/media", wanted).await.ok();
        let id = queued["jobId"].as_str().unwrap();
        let job = ended(&genie, &ada, id, "failed").await;
        let error = job["error"].as_str().unwrap();
        assert!(error.contains("private or special network"), "{error}");
        assert_eq!(job["attempt"], 1, "another attempt would end the same");
    }
);

both_stores!(
    a_file_of_a_job_is_in_the_workers_folder_alone_and_wiped,
    async |store: TestStore| {
        let mut secrets = Secrets::default();
        let canary = secrets.make("file");
        let mut genie = TestGenie::start_with(store, &here()).await;
        let (admin, ada) = two(&mut genie).await;
        let key = key(&genie, &admin).await;
        let page = Page::open().await;
        let film = film(&genie, &canary).await;
        let data = genie.store.folder().to_owned();
        // The test's own copy would be found, too.
        std::fs::remove_file(data.join("made.mp4")).unwrap();
        let hunt = secrets.hunt();
        let is_in = |place: &Path| holds(place, &hunt);
        let jobs = data.join("worker/jobs");
        let mut first = worker(&genie, &key).await;
        let wanted = json!({"operation": "strip_metadata", "input_url": page.url()});
        let queued = ada.post(&genie, "/api/queue/media", wanted).await.ok();
        let id = queued["jobId"].as_str().unwrap();
        // All but the end of the film comes.
        let mut client = page.asked().await;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", film.len());
        let part = [head.as_bytes(), &film[..film.len() - 100]].concat();
        client.write_all(&part).await.unwrap();
        until("the file is in the worker's folder", async || {
            is_in(&jobs).then_some(())
        })
        .await;
        for folder in [data.join("worker"), jobs.clone()] {
            let mode = std::fs::metadata(&folder).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{}", folder.display());
        }
        let elsewhere = |entry: &std::fs::DirEntry| entry.file_name() != "worker";
        let others = std::fs::read_dir(&data).unwrap().map(Result::unwrap);
        for other in others.filter(elsewhere) {
            assert!(!is_in(&other.path()), "{}", other.path().display());
        }
        first.kill().await.unwrap(); // SIGKILL
        assert!(is_in(&jobs), "nobody could wipe it");
        page.answer_with(film);
        let _second = worker(&genie, &key).await;
        until("the next start wipes it", async || {
            (!is_in(&jobs)).then_some(())
        })
        .await;
        genie.clock.advance_millis(31_000);
        let job = ended(&genie, &ada, id, "completed").await;
        assert_eq!(
            (&job["attempt"], &job["outputs"][0]["mime"]),
            (&json!(2), &json!("video/mp4"))
        );
        until("the end of the job wipes it", async || {
            (!is_in(&data)).then_some(())
        })
        .await;
    }
);
