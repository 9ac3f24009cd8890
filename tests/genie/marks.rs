//! Invisible marks: made and read by the media worker of the real binary, and what their numbers mean to whom.

use std::{path::PathBuf, time::Duration};

use genie_log::testing::{TestStore, both_stores};
use serde_json::{Value, json};

use crate::{
    files::{png, upload},
    onboarding::two,
    test_genie::{Answer, TestGenie, TestUser},
    until::{until, until_within},
};

const MARK: &str = "apply_steganographic_watermark";
const VERIFY: &str = "/api/media/verify-mark";

/// A file in the store's folder, made by ffmpeg.
async fn made(genie: &TestGenie, name: &str, arguments: &[&str]) -> Vec<u8> {
    let path: PathBuf = genie.store.folder().join(name);
    let made = tokio::process::Command::new("ffmpeg")
        .args(["-v", "error", "-y"])
        .args(arguments)
        .arg(&path)
        .status();
    assert!(made.await.unwrap().success());
    std::fs::read(path).unwrap()
}

/// A picture or a film with texture, by ffmpeg's own source.
async fn textured(genie: &TestGenie, name: &str, options: &[&str]) -> Vec<u8> {
    let source = "testsrc2=s=320x256:r=10:d=1,noise=alls=12:allf=t";
    let source = ["-f", "lavfi", "-i", source];
    made(genie, name, &[&source[..], options].concat()).await
}

async fn stored(genie: &TestGenie, user: &TestUser, bytes: &[u8]) -> String {
    let file = upload(genie, user, "file", bytes).await.ok();
    file["id"].as_str().unwrap().to_owned()
}

async fn content(genie: &TestGenie, user: &TestUser, file: &str) -> Vec<u8> {
    let request = genie
        .http
        .get(format!("{}/api/files/{file}", genie.base))
        .bearer_auth(&user.token);
    request
        .send()
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap()
        .to_vec()
}

/// Marks a file for somebody, and returns the finished job.
async fn marked(genie: &TestGenie, user: &TestUser, file: &str, recipient: &str) -> Value {
    let wanted = json!({
        "operation": MARK, "input_file_id": file, "params": {"recipient": recipient},
    });
    let queued = user.post(genie, "/api/queue/media", wanted).await.ok();
    let path = format!("/api/jobs/{}", queued["jobId"].as_str().unwrap());
    until_within(Duration::from_secs(60), "the mark is made", async || {
        let job = user.get(genie, &path).await.ok();
        assert_ne!(job["status"], "failed", "{job}");
        (job["status"] == "completed").then_some(job)
    })
    .await
}

async fn verify(genie: &TestGenie, user: &TestUser, file: &str) -> Answer {
    user.post(genie, VERIFY, json!({"file_id": file})).await
}

fn output(job: &Value) -> &str {
    job["outputs"][0]["file_id"].as_str().unwrap()
}

/// The facts of a type, with all their fields for an administrator who asks for them.
async fn facts(genie: &TestGenie, reader: &TestUser, path: &str) -> Vec<Value> {
    let mut page = reader.get(genie, path).await.ok();
    std::mem::take(page["data"].as_array_mut().unwrap())
}

both_stores!(
    a_marked_picture_names_its_recipient_to_its_user_alone,
    async |store: TestStore| {
        let mut genie = TestGenie::start_with_worker(store, &[]).await;
        let (admin, ada) = two(&mut genie).await;
        let bob = genie.user("bob").await;
        let plain = textured(&genie, "plain.png", &["-frames:v", "1"]).await;
        let file = stored(&genie, &ada, &plain).await;
        let job = marked(&genie, &ada, &file, "Bea, 12 May").await;
        let number = job["result"]["mark"].as_u64().unwrap();
        assert!(job["result"]["note"].as_str().unwrap().contains("evidence"));
        let usage = ada.get(&genie, "/api/usage").await.ok();
        assert_eq!(usage["usage"]["watermark_ops"], 1);

        // Smaller, and as JPEG.
        let copy = content(&genie, &ada, output(&job)).await;
        std::fs::write(genie.store.folder().join("marked.png"), &copy).unwrap();
        let path = genie.store.folder().join("marked.png");
        let smaller = [
            "-i",
            path.to_str().unwrap(),
            "-vf",
            "scale=240:192",
            "-q:v",
            "4",
        ];
        let smaller = made(&genie, "smaller.jpg", &smaller).await;
        let smaller_file = stored(&genie, &ada, &smaller).await;
        let submitted = facts(&genie, &ada, "/api/me/events?types=job.submitted").await;
        for file in [output(&job), &smaller_file] {
            let found = verify(&genie, &ada, file).await.ok();
            assert_eq!(
                [&found["found"], &found["mark"], &found["recipient"]],
                [&json!(true), &json!(number), &json!("Bea, 12 May")]
            );
            assert_eq!(
                [&found["fact"], &found["job_id"], &found["user_id"]],
                [&submitted[0]["id"], &job["id"], &json!(ada.id)]
            );
            assert_eq!(found["marked_at"], job["finished_at"]);
            let confidence = found["confidence"].as_f64().unwrap();
            assert!(confidence > 0.0 && confidence <= 1.0, "{found}");
            assert!(found["note"].as_str().unwrap().contains("evidence"));
        }
        let nothing = verify(&genie, &ada, &file).await.ok();
        assert_eq!(
            nothing,
            json!({"ok": true, "success": true, "found": false})
        );

        // Another user sees nothing, neither in the answer nor in the job that read it.
        verify(&genie, &bob, output(&job))
            .await
            .refused(404, "not_found");
        let with_bob = stored(&genie, &bob, &copy).await;
        let nothing = verify(&genie, &bob, &with_bob).await.ok();
        assert_eq!(
            nothing,
            json!({"ok": true, "success": true, "found": false})
        );
        let jobs = bob
            .get(&genie, "/api/jobs?operation=verify_mark")
            .await
            .ok();
        let [read] = &jobs["data"].as_array().unwrap()[..] else {
            panic!("one reading, not {jobs}");
        };
        assert_eq!(read["status"], "completed");
        assert!(!jobs.to_string().contains(&number.to_string()), "{jobs}");

        // An administrator sees whose it is, and its recipient by a fact.
        let with_admin = stored(&genie, &admin, &copy).await;
        let found = verify(&genie, &admin, &with_admin).await.ok();
        assert_eq!(
            [&found["mark"], &found["user_id"], &found["recipient"]],
            [&json!(number), &json!(ada.id), &Value::Null]
        );
        let looks = "/api/events?types=access.personal_read";
        let seen = admin.get(&genie, looks).await.ok();
        assert_eq!(seen["data"], json!([]));
        let body = json!({"file_id": with_admin});
        let personal = format!("{VERIFY}?personal=true&reason=a%20test");
        let found = admin.post(&genie, &personal, body).await.ok();
        assert_eq!(found["recipient"], "Bea, 12 May");
        let seen = admin.get(&genie, looks).await.ok();
        assert_eq!(seen["data"][0]["data"]["user"], json!(ada.id));
        assert!(!genie.store.holds("Bea, 12 May").await, "it is sealed");

        // The number of a forgotten user means nothing.
        let path = format!("/api/admin/users/{}/forget", ada.id);
        admin.post(&genie, &path, json!({})).await.ok();
        until("the number to mean nothing", async || {
            let found = verify(&genie, &admin, &with_admin).await.ok();
            (found["found"] == false).then_some(())
        })
        .await;
    }
);

both_stores!(
    a_marked_film_gives_its_number_after_a_rotation_of_the_master_key,
    async |store: TestStore| {
        let mut genie = TestGenie::start_with_worker(store, &[]).await;
        let (_, ada) = two(&mut genie).await;
        let options = ["-c:v", "libx264", "-pix_fmt", "yuv420p"];
        let plain = textured(&genie, "plain.mp4", &options).await;
        let file = stored(&genie, &ada, &plain).await;
        let job = marked(&genie, &ada, &file, "").await;
        let printed = async || {
            let printed = genie.command(&["mark-key"]).output().await.unwrap();
            assert!(printed.status.success());
            String::from_utf8(printed.stdout).unwrap()
        };
        let key = printed().await;
        for arguments in [["keys", "add"], ["keys", "rotate"]] {
            let done = genie.command(&arguments).output().await.unwrap();
            assert!(done.status.success(), "{done:?}");
        }
        assert_eq!(printed().await, key);
        let found = verify(&genie, &ada, output(&job)).await.ok();
        assert_eq!(found["mark"], job["result"]["mark"]);
        let nothing = verify(&genie, &ada, &file).await.ok();
        assert_eq!(nothing["found"], false);
    }
);

both_stores!(
    what_holds_no_picture_is_refused_by_name,
    async |store: TestStore| {
        let mut genie = TestGenie::start_with_worker(store, &[]).await;
        let (_, ada) = two(&mut genie).await;
        let text = stored(&genie, &ada, b"a text, not a film").await;
        let refused = verify(&genie, &ada, &text).await;
        refused.refused(400, "unreadable_file");
        let cut = stored(&genie, &ada, &png(100)).await;
        verify(&genie, &ada, &cut)
            .await
            .refused(400, "unreadable_file");
        let small = made(
            &genie,
            "small.png",
            &["-f", "lavfi", "-i", "testsrc=s=64x48", "-frames:v", "1"],
        )
        .await;
        let small = stored(&genie, &ada, &small).await;
        let nothing = verify(&genie, &ada, &small).await.ok();
        assert_eq!(nothing["found"], false);
        let nobody = "00000000-0000-4000-8000-000000000000";
        for unknown in [nobody, "film.mp4"] {
            let refused = verify(&genie, &ada, unknown).await;
            refused.refused(404, "not_found");
        }
        for body in [json!({}), json!({"file_id": ""}), json!({"file_id": 7})] {
            let refused = ada.post(&genie, VERIFY, body).await;
            refused.refused(400, "invalid_field");
        }
    }
);

/// A server that makes jobs of marks for workers elsewhere, and a user with a picture.
async fn alone(store: TestStore) -> (TestGenie, TestUser, TestUser, String) {
    let mut genie = TestGenie::start(store).await;
    let (admin, ada) = two(&mut genie).await;
    let file = stored(&genie, &ada, &png(100)).await;
    (genie, admin, ada, file)
}

both_stores!(
    without_a_worker_a_request_ends_in_time_and_leaves_nothing,
    async |store: TestStore| {
        let (genie, _, ada, file) = alone(store).await;
        let jobs = async || {
            let jobs = ada.get(&genie, "/api/jobs?operation=verify_mark").await;
            jobs.ok()["data"].as_array().unwrap().clone()
        };
        let headers = [
            ada.headers().as_slice(),
            &[("Idempotency-Key", "the same".to_owned())],
        ]
        .concat();
        let ask = || {
            let body = Some(json!({"file_id": file}));
            genie.send(reqwest::Method::POST, VERIFY, &headers, body)
        };
        // The second time the job is there, and is tried again.
        for _ in 0..2 {
            let waits = async {
                until("the job waits", async || {
                    let jobs = jobs().await;
                    (jobs.len() == 1 && jobs[0]["status"] == "queued").then_some(())
                })
                .await;
                genie.clock.advance_millis(31_000);
            };
            let (answer, ()) = tokio::join!(ask(), waits);
            assert!(answer.headers.contains_key("Retry-After"));
            answer.refused(503, "no_worker");
            let jobs = jobs().await;
            assert_eq!((jobs.len(), &jobs[0]["status"]), (1, &json!("cancelled")));
        }
    }
);

both_stores!(
    a_number_is_a_fact_before_any_worker_has_it,
    async |store: TestStore| {
        let (genie, admin, ada, file) = alone(store).await;
        let job = json!({"operation": MARK, "input_file_id": file, "jobId": "one"});
        let other =
            json!({"operation": "resize_image", "input_file_id": file, "params": {"width": 9}});
        let batch = json!({"jobs": [job, {"operation": MARK, "input_file_id": file}, other]});
        let queued = ada.post(&genie, "/api/queue/media/batch", batch).await.ok();
        assert_eq!(queued["jobs"][2]["ok"], true, "{queued}");
        // The same again is the same job, with its first number.
        ada.post(&genie, "/api/queue/media", job).await.ok();
        let whole = "/api/events?types=job.submitted&personal=true&reason=a%20test";
        let numbers: Vec<Value> = facts(&genie, &admin, whole)
            .await
            .iter_mut()
            .map(|fact| fact["data"]["mark"].take())
            .collect();
        assert!(numbers[0].is_u64() && numbers[1].is_u64(), "{numbers:?}");
        assert!(
            numbers[0] != numbers[1] && numbers[2].is_null(),
            "{numbers:?}"
        );
        assert_eq!(numbers.len(), 3);
        // A worker that was killed leaves the job to another, which gets the same number.
        let claim = json!({
            "queues": ["media-jobs"], "operations": [MARK], "worker_id": "w", "max": 2,
            "wait_ms": 10_000,
        });
        for _ in 0..2 {
            let claimed = until("both jobs are claimed", async || {
                let claimed = genie.server("/api/worker/claim", claim.clone()).await.ok();
                let jobs = claimed["jobs"].as_array().unwrap().clone();
                (!jobs.is_empty()).then_some(jobs)
            })
            .await;
            for job in &claimed {
                let place = usize::from(job["clientJobId"].is_null());
                assert_eq!(job["mark"], numbers[place], "{job}");
            }
            let is_both = claimed.len() == 2;
            assert!(is_both, "{claimed:?}");
            for job in &claimed {
                let path = format!("/api/worker/jobs/{}/fail", job["jobId"].as_str().unwrap());
                let fail = json!({"lease": job["lease"], "error": "killed"});
                genie.server(&path, fail).await.ok();
            }
            genie.clock.advance_millis(10_000);
        }
        let others = json!({
            "queues": ["media-jobs"], "operations": ["resize_image"], "worker_id": "w",
            "wait_ms": 10_000,
        });
        let other = genie.server("/api/worker/claim", others).await.ok();
        let other = &other["jobs"][0];
        assert!(
            other["operation"] == "resize_image" && other.get("mark").is_none(),
            "{other}"
        );
    }
);

both_stores!(
    a_worker_elsewhere_needs_the_key_of_marks,
    async |store: TestStore| {
        let (mut genie, admin, ada, _) = alone(store).await;
        let plain = textured(&genie, "plain.png", &["-frames:v", "1"]).await;
        let file = stored(&genie, &ada, &plain).await;
        let wanted = json!({"name": "worker", "scopes": ["jobs:work"]});
        let made = admin.post(&genie, "/api/admin/service-keys", wanted).await;
        let key = made.ok()["key"].as_str().unwrap().to_owned();
        let base = genie.base.clone();
        let worker = |mark_key: &str| {
            let mut command = genie.command(&["worker", "--url", &base]);
            command
                .env("GENIE_WORKER_KEY", &key)
                .env("GENIE_MARK_KEY", mark_key);
            command
        };
        let wrong = worker("gm_short").output().await.unwrap();
        let told = String::from_utf8_lossy(&wrong.stderr).into_owned();
        assert!(
            !wrong.status.success() && told.contains("GENIE_MARK_KEY"),
            "{told}"
        );
        assert!(!told.contains("gm_short"), "{told}");

        let without = worker("").spawn().unwrap();
        let thumbnail = json!({"operation": "convert_image", "input_file_id": file, "params": {"format": "jpeg"}});
        let mark = json!({"operation": MARK, "input_file_id": file});
        let mark = ada.post(&genie, "/api/queue/media", mark).await.ok();
        let other = ada.post(&genie, "/api/queue/media", thumbnail).await.ok();
        let shown = async |job: &Value| {
            let path = format!("/api/jobs/{}", job["jobId"].as_str().unwrap());
            ada.get(&genie, &path).await.ok()
        };
        let limit = Duration::from_secs(60);
        until_within(limit, "the other job is done", async || {
            (shown(&other).await["status"] == "completed").then_some(())
        })
        .await;
        assert_eq!(shown(&mark).await["status"], "queued");
        drop(without);

        let printed = genie.command(&["mark-key"]).output().await.unwrap();
        let mark_key = String::from_utf8(printed.stdout).unwrap();
        let _with = worker(mark_key.trim()).spawn().unwrap();
        let done = until_within(limit, "the mark is made", async || {
            let job = shown(&mark).await;
            (job["status"] == "completed").then_some(job)
        })
        .await;
        let found = verify(&genie, &ada, output(&done)).await.ok();
        assert_eq!(found["mark"], done["result"]["mark"]);
        genie.kill().await;
    }
);
