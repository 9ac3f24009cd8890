//! No secret leaks. The whole story runs with secrets that look like nothing else, at the most
//! verbose log level. Then the test searches everything that genie wrote for those secrets. A decoy
//! word proves that each place is really searched.

use std::{
    fs::{self, File},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    sync::Mutex,
    time::Duration,
};

use genie_log::testing::{TestStore, both_stores};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::process::Child;

use crate::{
    accounts::Codes,
    credential_import,
    onboarding::{BOUNDARY, form, zip},
    secret_search::{Hunt, Secrets, bytes_below},
    test_genie::TestGenie,
    until::until,
};

/// Logs and facts hold a request's id in the clear, so the search must find this word everywhere it
/// looks for secrets.
const DECOY: &str = "decoy-7f3a91c2e5";
/// Personal texts that are not secret. The owner sees them, and so does a caller who may read
/// personal data.
const PERSONAL: [&str; 14] = [
    "key_name",
    "email",
    "name",
    "platform_username",
    "purpose",
    "message",
    "prompt",
    "session",
    "topic",
    "params",
    "result",
    "job_error",
    "file",
    "file_name",
];

/// Output of the server, with the names of the secrets that it may contain.
struct Heard {
    what: String,
    bytes: Vec<u8>,
    may: Vec<&'static str>,
}

struct Story {
    genie: TestGenie,
    process: Child,
    secrets: Secrets,
    heard: Mutex<Vec<Heard>>,
    logs: PathBuf,
}

fn output_file(logs: &std::path::Path, name: &str) -> File {
    File::options()
        .append(true)
        .create(true)
        .open(logs.join(name))
        .unwrap()
}

/// Starts the server and writes its log to a file in this format.
pub async fn start(genie: &mut TestGenie, logs: &std::path::Path, format: &str) -> Child {
    let said = logs.join("stdout");
    let before = fs::read_to_string(&said).unwrap_or_default().len();
    let mut serve = genie.command(&["serve"]);
    serve.env("GENIE_LOG_FORMAT", format);
    let process = serve
        .stdout(output_file(logs, "stdout"))
        .stderr(output_file(logs, "stderr"))
        .spawn()
        .unwrap();
    genie.base = until("the server to start", async || {
        let said = fs::read_to_string(&said).unwrap();
        let mut lines = said[before..].lines();
        lines
            .find_map(|line| line.strip_prefix("genie listens on "))
            .map(str::to_owned)
    })
    .await;
    process
}

impl Story {
    async fn begin(store: TestStore) -> Self {
        let mut secrets = Secrets::default();
        let mut settings = vec![
            ("GENIE_LOG", "trace".to_owned()),
            ("RUST_LOG", "trace".to_owned()),
            ("OLLAMA_MODEL", DECOY.to_owned()),
            credential_import::setting(),
        ];
        secrets.know("original_key", &credential_import::setting().1);
        for (name, setting) in [
            ("shared_secret", "RBAC_SYNC_WEBHOOK_SECRET"),
            ("export_passphrase", "GENIE_EXPORT_PASSPHRASE"),
        ] {
            settings.push((setting, secrets.make(name)));
        }
        // Nothing listens at this address, so sending fails and the server logs it.
        settings.push((
            "GENIE_HEADS_WEBHOOK",
            format!("http://127.0.0.1:9/{}", secrets.make("webhook")),
        ));
        settings.push(("GENIE_SEAL_SECONDS", "1".to_owned()));
        let (id, key) = store.masters().split_once(':').unwrap();
        secrets.know("master_key", key);
        settings.push(("GENIE_MASTER_KEYS", format!("{id}:{key}")));
        if let Some(url) = store.database_url() {
            let password = secrets.make("database_password");
            settings.push((
                "DATABASE_URL",
                url.replacen("postgres@", &format!("postgres:{password}@"), 1),
            ));
        }
        let mut genie = TestGenie::not_started(store, &settings).await;
        let logs = genie.store.folder().join("logs");
        fs::create_dir(&logs).unwrap();
        let process = start(&mut genie, &logs, "text").await;
        Self {
            genie,
            process,
            secrets,
            heard: Mutex::default(),
            logs,
        }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.genie
            .http
            .request(method, format!("{}{path}", self.genie.base))
            .header("X-Request-Id", DECOY)
    }

    /// Sends a request and keeps the whole answer. The answer may contain the named secrets.
    async fn hear(
        &self,
        what: &str,
        request: RequestBuilder,
        may: &[&'static str],
    ) -> (u16, Value) {
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let headers = format!("{:?}", response.headers());
        let body = response.bytes().await.unwrap();
        let json = serde_json::from_slice(&body).unwrap_or(Value::Null);
        self.keep(
            format!("{what}: {status}"),
            [headers.as_bytes(), &body].concat(),
            may,
        );
        (status, json)
    }

    fn keep(&self, what: String, bytes: Vec<u8>, may: &[&'static str]) {
        self.heard.lock().unwrap().push(Heard {
            what,
            bytes,
            may: may.to_vec(),
        });
    }

    async fn post(&self, path: &str, token: &str, body: Value, may: &[&'static str]) -> Value {
        let (status, json) = self
            .hear(
                path,
                self.request(Method::POST, path)
                    .bearer_auth(token)
                    .json(&body),
                may,
            )
            .await;
        assert!(status < 300, "{path}: {status} {json}");
        json
    }

    async fn get(&self, path: &str, token: &str, may: &[&'static str]) -> Value {
        let (status, json) = self
            .hear(
                path,
                self.request(Method::GET, path).bearer_auth(token),
                may,
            )
            .await;
        assert!(status < 300, "{path}: {status} {json}");
        json
    }

    /// Posts as a server that has the shared secret.
    async fn server(&self, path: &str, body: Value, may: &[&'static str]) -> (u16, Value) {
        let secret = self.genie.setting("RBAC_SYNC_WEBHOOK_SECRET");
        let request = self
            .request(Method::POST, path)
            .header("X-RBAC-SYNC-SECRET", secret)
            .json(&body);
        self.hear(path, request, may).await
    }

    /// Runs a command and keeps its output.
    async fn command(&self, arguments: &[&str], may: &[&'static str]) -> bool {
        let output = self.genie.command(arguments).output().await.unwrap();
        self.keep(
            format!("genie {}", arguments.join(" ")),
            [output.stdout, output.stderr].concat(),
            may,
        );
        output.status.success()
    }

    async fn log_in(&mut self, email: &str, password: &str, otp: Option<String>) -> String {
        let body = json!({"email": email, "password": password, "otp": otp});
        let may = &["access", "refresh"];
        let (status, tokens) = self
            .hear(
                "login",
                self.request(Method::POST, "/auth/login").json(&body),
                may,
            )
            .await;
        assert_eq!(status, 200, "{tokens}");
        self.know_tokens(&tokens).0
    }

    /// The search looks for all tokens, including replaced ones.
    fn know_tokens(&mut self, tokens: &Value) -> (String, String) {
        let number = self.secrets.names().count();
        let text = |field: &str| tokens["data"][field].as_str().unwrap().to_owned();
        self.secrets
            .know(&format!("access (number {number})"), &text("access_token"));
        self.secrets.know(
            &format!("refresh (number {number})"),
            &text("refresh_token"),
        );
        (text("access_token"), text("refresh_token"))
    }

    /// Registers a new user: address, password, id and access token.
    async fn register(&mut self, invite: &str) -> Person {
        let number = self.secrets.names().count();
        let password = self.secrets.make(&format!("password (number {number})"));
        let (email, name) = (
            self.secrets.make(&format!("email (number {number})")),
            self.secrets.make(&format!("name (number {number})")),
        );
        let email = format!("{email}@example.com");
        let body =
            json!({"email": email, "password": password, "firstName": name, "inviteCode": invite});
        let (status, answer) = self
            .hear(
                "register",
                self.request(Method::POST, "/api/register").json(&body),
                &[],
            )
            .await;
        assert_eq!(status, 200, "{answer}");
        let token = self.log_in(&email, &password, None).await;
        Person {
            id: answer["userId"].as_str().unwrap().to_owned(),
            email,
            password,
            token,
        }
    }
}

struct Person {
    id: String,
    email: String,
    password: String,
    token: String,
}

both_stores!(no_secret_leaks, async |store: TestStore| {
    let mut story = Story::begin(store).await;
    let admin = story.register("the-first-invite").await;
    let mut ada = logins(&mut story, &admin).await;
    let credential = credentials(&mut story, &admin, &ada).await;
    work(&mut story, &ada).await;
    talk(&mut story, &admin).await;
    bad_input(&mut story, &admin, &ada).await;

    // Repeats everything after kill -9, to search what a start writes and finds.
    story.process.kill().await.unwrap();
    story.process = start(&mut story.genie, &story.logs, "json").await;
    ada.token = story
        .log_in(&ada.email.clone(), &ada.password.clone(), None)
        .await;
    let reveal = json!({"creatorProfileId": credential});
    assert_eq!(
        story
            .server(
                "/api/credentials/reveal",
                reveal,
                &["credential", "platform_username"]
            )
            .await
            .0,
        200
    );
    story.genie.settle_within(Duration::from_secs(60)).await;
    look_around(&story, &admin, &ada, &credential).await;
    let exported = story.genie.store.folder().join("export");
    assert!(
        story
            .command(&["log", "export", exported.to_str().unwrap()], &[])
            .await
    );
    core_dumps_are_off(&mut story).await;
    search(&story, &exported).await;
});

/// Refreshes, a new password, a link for a forgotten password, one-time codes.
async fn logins(story: &mut Story, admin: &Person) -> Person {
    let made = story
        .post(
            "/api/admin/invites",
            &admin.token,
            json!({"tier": "studio"}),
            &[],
        )
        .await;
    let mut ada = story
        .register(made["data"][0]["code"].as_str().unwrap())
        .await;
    let body = json!({"email": ada.email, "password": ada.password});
    let may = &["access", "refresh"];
    let (_, first) = story
        .hear(
            "login",
            story.request(Method::POST, "/auth/login").json(&body),
            may,
        )
        .await;
    let (_, mut refresh) = story.know_tokens(&first);
    for _ in 0..2 {
        let body = json!({"refresh_token": refresh, "mode": "json"});
        let (status, next) = story
            .hear(
                "refresh",
                story.request(Method::POST, "/auth/refresh").json(&body),
                may,
            )
            .await;
        assert_eq!(status, 200);
        refresh = story.know_tokens(&next).1;
    }
    story
        .hear(
            "logout",
            story
                .request(Method::POST, "/auth/logout")
                .json(&json!({"refresh_token": refresh})),
            &[],
        )
        .await;

    let changed = story.secrets.make("password (changed)");
    let body = json!({"old_password": ada.password, "password": changed});
    let request = story
        .request(Method::PATCH, "/users/me")
        .bearer_auth(&ada.token)
        .json(&body);
    assert_eq!(
        story
            .hear("a new password", request, &["email", "name"])
            .await
            .0,
        200
    );
    let path = format!("/api/admin/users/{}/password-reset", ada.id);
    let link = story
        .post(&path, &admin.token, json!({}), &["reset_token"])
        .await["token"]
        .as_str()
        .unwrap()
        .to_owned();
    story.secrets.know("reset_token", &link);
    ada.password = story.secrets.make("password (reset)");
    let body = json!({"token": link, "password": ada.password});
    assert_eq!(
        story
            .hear(
                "reset",
                story
                    .request(Method::POST, "/auth/password/reset")
                    .json(&body),
                &[]
            )
            .await
            .0,
        204
    );
    ada.token = story
        .log_in(&ada.email.clone(), &ada.password.clone(), None)
        .await;

    let body = json!({"password": ada.password});
    let made = story
        .post(
            "/users/me/tfa/generate",
            &ada.token,
            body,
            &["two_factor", "email"],
        )
        .await;
    let secret = made["data"]["secret"].as_str().unwrap().to_owned();
    story.secrets.know("two_factor", &secret);
    let codes = Codes::of_the_next_step(&secret).await;
    let body = json!({"secret": secret, "otp": codes.at(-1)});
    story
        .post("/users/me/tfa/enable", &ada.token, body, &[])
        .await;
    ada.token = story
        .log_in(&ada.email.clone(), &ada.password.clone(), Some(codes.at(0)))
        .await;
    story
        .post(
            "/users/me/tfa/disable",
            &ada.token,
            json!({"otp": codes.at(1)}),
            &[],
        )
        .await;
    ada
}

/// Credentials of every kind: stored, changed, imported, revealed, exported.
async fn credentials(story: &mut Story, admin: &Person, ada: &Person) -> String {
    let [one, two, three] =
        [1, 2, 3].map(|n| story.secrets.make(&format!("credential (number {n})")));
    let (username, purpose) = (
        story.secrets.make("platform_username"),
        story.secrets.make("purpose"),
    );
    let profile =
        json!({"platform": "x", "credentials": {"password": one}, "platform_username": username});
    let stored = story
        .post("/api/credentials/create-profile", &ada.token, profile, &[])
        .await;
    let id = stored["id"].as_str().unwrap().to_owned();
    let update = json!({"id": id, "credentials": {"password": two, "deep": [{"token": one}]}});
    story
        .post(
            "/api/credentials/update-profile-creds",
            &ada.token,
            update,
            &[],
        )
        .await;
    let (status, _) = story
        .server(
            "/api/credentials/store",
            json!({"creatorProfileId": id, "credentials": {"p": three}}),
            &[],
        )
        .await;
    assert_eq!(status, 200);
    let reveal = json!({"creatorProfileId": id, "purpose": purpose});
    assert_eq!(
        story
            .server(
                "/api/credentials/reveal",
                reveal.clone(),
                &["credential", "platform_username"]
            )
            .await
            .0,
        200
    );

    let key = json!({"name": "a key", "scopes": ["credentials:reveal", "events:read:personal"]});
    let key = story
        .post(
            "/api/admin/service-keys",
            &admin.token,
            key,
            &["service_key"],
        )
        .await["key"]
        .as_str()
        .unwrap()
        .to_owned();
    story.secrets.know("service_key", &key);
    let key_name = story.secrets.make("key_name");
    let own = json!({"name": key_name, "scopes": ["api"], "password": ada.password});
    let may = ["api_key", "key_name"];
    let own = story.post("/api/me/keys", &ada.token, own, &may).await;
    let own = own["key"].as_str().unwrap().to_owned();
    story.secrets.know("api_key", &own);
    story.get("/api/me/keys", &ada.token, &["key_name"]).await;
    story.get("/api/usage", &own, &[]).await;
    story
        .post(
            "/api/credentials/reveal",
            &key,
            reveal.clone(),
            &["credential", "platform_username"],
        )
        .await;
    story.get("/api/events?limit=500", &key, &PERSONAL).await;
    // Refused callers: no secret, a wrong secret, a user's token, an unknown service key.
    let wrong = story.secrets.make("wrong_secret");
    let asked = || story.request(Method::POST, "/api/credentials/reveal");
    for (request, status) in [
        (asked(), 401),
        (asked().header("X-RBAC-SYNC-SECRET", &wrong), 401),
        (asked().bearer_auth(&ada.token), 403),
        (asked().bearer_auth(format!("gk_{wrong}")), 401),
    ] {
        assert_eq!(
            story
                .hear("a refused reveal", request.json(&reveal), &[])
                .await
                .0,
            status
        );
    }
    let unknown = json!({"creatorProfileId": wrong, "purpose": purpose});
    assert_eq!(
        story
            .server("/api/credentials/reveal", unknown, &[])
            .await
            .0,
        404
    );

    // Credentials of the other kinds.
    let [password, cookie, session] = ["download_password", "download_cookie", "platform_session"]
        .map(|name| story.secrets.make(&format!("credential ({name})")));
    let file = format!(
        "# Netscape HTTP Cookie File\n.example.com\tTRUE\t/\tTRUE\t4102444800\tsid\t{cookie}\n"
    );
    let download = "/api/credentials/download-cred";
    let others = [
        (
            download,
            json!({"platform": "x", "kind": "password", "username": username, "password": password}),
        ),
        (
            download,
            json!({"platform": "reddit", "kind": "cookies", "cookies": file}),
        ),
        (
            download,
            json!({"platform": "reddit", "kind": "cookies", "cookies": format!("no cookie file {cookie}")}),
        ),
        (
            "/api/credentials/platform-session",
            json!({"platform": "x", "cookies": [{"name": "sid", "value": session, "domain": "x.com"}]}),
        ),
        (
            "/api/credentials/platform-session",
            json!({"platform": "x", "cookies": [{"name": session, "value": 7}]}),
        ),
    ];
    for (path, body) in others {
        story
            .hear(
                path,
                story
                    .request(Method::POST, path)
                    .bearer_auth(&ada.token)
                    .json(&body),
                &[],
            )
            .await;
    }
    for platform in ["x", "reddit"] {
        for path in [
            "/api/credentials/reveal-download-cred",
            "/api/credentials/get-platform-session",
        ] {
            let body = json!({"userId": ada.id, "platform": platform});
            story
                .server(path, body, &["credential", "platform_username"])
                .await;
        }
    }

    // Imports credentials of the original beside the server. One line is invalid.
    let old = story.secrets.make("credential (imported)");
    let line = credential_import::line(
        &ada.id,
        &credential_import::id(7),
        "fansly",
        json!(credential_import::sealed(&json!({"password": old}))),
    );
    let lines = story.genie.store.folder().join("import.jsonl");
    fs::write(&lines, format!("{line}\n{{\"{old}\n")).unwrap();
    assert!(
        !story
            .command(&["import", "credentials", lines.to_str().unwrap()], &[])
            .await
    );
    fs::remove_file(&lines).unwrap(); // the file is the operator's, not genie's
    let body = json!({"password": ada.password});
    let whole = [&["credential"], &PERSONAL[..]].concat();
    let export = story.post("/api/me/export", &ada.token, body, &whole).await;
    assert!(
        export.to_string().contains(&old) && export.to_string().contains(&three),
        "the export must hold the imported and the stored secret"
    );
    story.get("/api/me/export", &ada.token, &PERSONAL).await;
    id
}

async fn work(story: &mut Story, ada: &Person) {
    let [params, result, failure, name, inside] =
        ["params", "result", "job_error", "file_name", "file"].map(|name| story.secrets.make(name));
    for _ in 0..2 {
        let job = json!({"operation": "resize_image", "input_url": "http://a/b", "params": {"width": 1, "note": params}});
        story.post("/api/queue/media", &ada.token, job, &[]).await;
    }
    for (end, body) in [
        ("complete", json!({"result": {"note": result}})),
        ("fail", json!({"error": failure, "retryable": false})),
    ] {
        let claim = json!({"queues": ["media-jobs"], "worker_id": "w", "wait_ms": 10_000});
        let (_, claimed) = story
            .server("/api/worker/claim", claim, &["lease", "params"])
            .await;
        let job = &claimed["jobs"][0];
        story
            .secrets
            .know(&format!("lease ({end})"), job["lease"].as_str().unwrap());
        let mut body = body;
        body["lease"] = job["lease"].clone();
        let path = format!("/api/worker/jobs/{}", job["jobId"].as_str().unwrap());
        assert_eq!(
            story
                .server(
                    &format!("{path}/heartbeat"),
                    json!({"lease": job["lease"]}),
                    &[]
                )
                .await
                .0,
            200
        );
        assert_eq!(
            story.server(&format!("{path}/{end}"), body, &[]).await.0,
            200
        );
    }
    story
        .get("/api/jobs", &ada.token, &["params", "result", "job_error"])
        .await;
    let request = story
        .request(Method::PATCH, "/api/onboarding/state")
        .bearer_auth(&ada.token);
    story
        .hear(
            "onboarding",
            request.json(&json!({"state": "DATA_COLLECTION"})),
            &[],
        )
        .await;
    let path = format!("/api/files?name={name}.txt");
    let request = story.request(Method::POST, &path).bearer_auth(&ada.token);
    let (status, stored) = story
        .hear("file", request.body(inside.clone()), &["file_name"])
        .await;
    assert_eq!(status, 200, "{stored}");
    let path = format!("/api/files/{}", stored["id"].as_str().unwrap());
    story.get("/api/files", &ada.token, &["file_name"]).await;
    let link = story
        .post(
            &format!("{path}/link"),
            &ada.token,
            json!({}),
            &["file_link"],
        )
        .await;
    let link = link["url"].as_str().unwrap();
    let (_, signature) = link.split_once("signature=").unwrap();
    story.secrets.know("file_link", signature);
    let may = &["file", "file_name"];
    let request = story.request(Method::GET, link);
    assert_eq!(story.hear("linked", request, may).await.0, 200);
    let request = story.request(Method::GET, &path).bearer_auth(&ada.token);
    assert_eq!(story.hear(&path, request, may).await.0, 200);
    let archive = form(&[("file", &zip(&format!("{name}.txt"), inside.as_bytes()))]);
    let request = story
        .request(Method::POST, "/api/onboarding/zip-upload")
        .bearer_auth(&ada.token)
        .body(archive);
    let request = request.header(
        "Content-Type",
        format!("multipart/form-data; boundary={BOUNDARY}"),
    );
    let (status, uploaded) = story.hear("upload", request, &[]).await;
    assert_eq!(status, 200, "{uploaded}");
    story
        .get(
            uploaded["filePath"].as_str().unwrap(),
            &ada.token,
            &["file", "file_name"],
        )
        .await;
}

/// Chat and captions, also while impersonating. The model may see the questions and nothing else.
async fn talk(story: &mut Story, admin: &Person) {
    let [message, session, topic, prompt, history] =
        ["message", "session", "topic", "prompt", "history"].map(|name| story.secrets.make(name));
    let body = json!({"message": message, "sessionId": session});
    story
        .post("/api/genie/stream-chat", &admin.token, body, &[])
        .await;
    // The earlier messages of a program are kept nowhere.
    let messages = json!([
        {"role": "user", "content": history}, {"role": "assistant", "content": history}, {"role": "user", "content": prompt},
    ]);
    let body = json!({"model": DECOY, "messages": messages});
    story
        .post("/v1/chat/completions", &admin.token, body, &[])
        .await;
    story
        .post(
            "/api/captions/generate",
            &admin.token,
            json!({"platform": "x", "topic": topic}),
            &[],
        )
        .await;
    story
        .get(
            "/api/genie/sessions",
            &admin.token,
            &["session", "message", "prompt"],
        )
        .await;
    story
        .get(
            &format!("/api/genie/sessions/{session}/messages"),
            &admin.token,
            &["message"],
        )
        .await;
    let told = story
        .genie
        .ollama
        .requests()
        .iter()
        .map(Value::to_string)
        .collect::<String>();
    story.keep(
        "the model server".to_owned(),
        told.into_bytes(),
        &["message", "topic", "prompt", "history"],
    );

    let made = story
        .post("/api/admin/invites", &admin.token, json!({}), &[])
        .await;
    let bob = story
        .register(made["data"][0]["code"].as_str().unwrap())
        .await;
    let path = format!("/api/admin/users/{}/impersonate", bob.id);
    let acting = story
        .post(&path, &admin.token, json!({}), &["impersonation"])
        .await["access_token"]
        .as_str()
        .unwrap()
        .to_owned();
    story.secrets.know("impersonation", &acting);
    story.get("/users/me", &acting, &["email", "name"]).await;
    let request = story
        .request(Method::GET, "/api/me/export")
        .bearer_auth(&acting);
    assert_eq!(
        story
            .hear("an export in another's name", request, &[])
            .await
            .0,
        403
    );
}

/// Puts secrets into every part of a request where they do not belong.
async fn bad_input(story: &mut Story, admin: &Person, ada: &Person) {
    let stray = story.secrets.make("stray");
    let bodies = [
        format!("{{\"password\": \"{stray}\", "),
        format!("{{\"credentials\": {{\"password\": \"{stray}\"}}, \"platform\": [\"{stray}\"]}}"),
        format!("{{\"{stray}\": {stray}}}"),
        format!("\"{stray}\""),
        format!("password={stray}"),
        format!("\0{stray}"),
    ];
    let paths = [
        "/auth/login",
        "/auth/refresh",
        "/api/register",
        "/api/credentials/create-profile",
        "/api/credentials/reveal",
        "/api/me/export",
        "/api/queue/media",
        "/api/nonsense",
    ];
    for path in paths {
        for body in &bodies {
            for kind in ["application/json", "text/plain"] {
                let request = story
                    .request(Method::POST, path)
                    .bearer_auth(&ada.token)
                    .header("Content-Type", kind)
                    .body(body.clone());
                let (status, _) = story.hear(path, request, &[]).await;
                assert!((400..500).contains(&status), "{path}: {status}");
            }
        }
    }
    let wrong = json!({"email": ada.email, "password": stray});
    assert!(
        [401, 429].contains(
            &story
                .hear(
                    "a wrong password",
                    story.request(Method::POST, "/auth/login").json(&wrong),
                    &[]
                )
                .await
                .0
        )
    );
    let wrong = json!({"email": format!("{stray}@example.com"), "password": "a long password", "inviteCode": stray});
    assert_eq!(
        story
            .hear(
                "a wrong invite",
                story.request(Method::POST, "/api/register").json(&wrong),
                &[]
            )
            .await
            .0,
        400
    );
    for path in [
        format!("/api/events?access_token={stray}"),
        format!("/api/jobs?cursor={stray}&limit={stray}"),
        format!("/api/jobs/{stray}?{stray}={stray}"),
        format!("/api/credentials/{stray}"),
        format!("/api/genie/sessions/{stray}/messages"),
        format!("/users/me?fields={stray}"),
        format!("/{stray}/{stray}#{stray}"),
    ] {
        story
            .hear(
                "an address",
                story.request(Method::GET, &path).bearer_auth(&admin.token),
                &["email", "name"],
            )
            .await;
        story
            .hear("an address", story.request(Method::DELETE, &path), &[])
            .await;
    }
    for header in [
        "Authorization",
        "Cookie",
        "Idempotency-Key",
        "Genie-Min-Position",
        "Last-Event-ID",
        "Content-Type",
        "Origin",
        "Referer",
        "User-Agent",
        "X-Forwarded-For",
        "X-Anything",
        "Accept",
        "Traceparent",
        "Content-Encoding",
        "Expect",
        "Range",
    ] {
        for path in ["/api/usage", "/api/jobs", "/readyz"] {
            let request = story
                .genie
                .http
                .get(format!("{}{path}", story.genie.base))
                .header(header, format!("Bearer {stray}"));
            // With CORS open to any origin, the answer repeats the origin.
            let may: &[&'static str] = if header == "Origin" { &["stray"] } else { &[] };
            story
                .hear(header, request.header("X-RBAC-SYNC-SECRET", &stray), may)
                .await;
        }
    }
    let request = story
        .genie
        .http
        .get(format!("{}/readyz", story.genie.base))
        .header("X-Request-Id", format!("_{stray}"));
    story.hear("a bad request id", request, &[]).await;
    // Sends bytes that are not a whole HTTP request.
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    for bytes in [
        format!("{stray}\r\n\r\n"),
        format!("GET /{stray} HTTP/1.1\r\n{stray}\r\n\r\n"),
        format!(
            "POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n{{\"password\": \"{stray}"
        ),
    ] {
        let mut stream =
            tokio::net::TcpStream::connect(story.genie.base.trim_start_matches("http://"))
                .await
                .unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await; // the server may cut the connection
        story.keep("not HTTP".to_owned(), answer, &[]);
    }
}

/// Reads all routes and runs all commands that only read.
async fn look_around(story: &Story, admin: &Person, ada: &Person, credential: &str) {
    for path in [
        "/readyz",
        "/healthz",
        "/metrics",
        "/api/openapi.json",
        "/api/queue/stats",
        "/api/me/events?limit=500",
        "/api/me/sessions",
        "/api/credentials",
        "/api/captions",
        "/api/usage",
        "/api/admin/invites",
        "/api/admin/service-keys",
        "/api/events?limit=500",
    ] {
        let own = &["platform_username", "stray"]; // a client may choose its own name, and its user sees it
        for person in [admin, ada] {
            let may: &[&'static str] = if ["/api/credentials", "/api/me/sessions"].contains(&path) {
                own
            } else {
                &[]
            };
            story
                .hear(
                    path,
                    story.request(Method::GET, path).bearer_auth(&person.token),
                    may,
                )
                .await;
        }
    }
    let personal = story
        .get(
            "/api/events?limit=500&personal=true&reason=a%20search",
            &admin.token,
            &PERSONAL,
        )
        .await;
    assert_eq!(
        personal["data"].as_array().unwrap()[0]["requestid"],
        Value::Null,
        "the first fact is the system's and has no request"
    );
    for user in [&ada.id, &admin.id] {
        assert!(story.command(&["audit", "--user", user], &PERSONAL).await); // the operator may read personal data
        assert!(
            story
                .command(&["audit", "--user", user, "--json"], &PERSONAL)
                .await
        );
    }
    for path in [
        "/api/credentials/reveals".to_owned(),
        format!("/api/credentials/{credential}/history"),
    ] {
        story
            .get(&path, &ada.token, &["purpose", "platform_username"])
            .await;
    }
    assert!(story.command(&["config"], &[]).await);
    assert!(story.command(&["keys", "list"], &[]).await);
    assert!(story.command(&["audit", "verify"], &[]).await);
    assert!(story.command(&["invite"], &[]).await);
    assert!(!story.command(&["invite", "--tier", "gold"], &[]).await);
}

/// A crash leaves no core dump: the limit is zero, and a core handler that ignores the limit gets
/// none either.
async fn core_dumps_are_off(story: &mut Story) {
    let id = story.process.id().unwrap();
    let limits = fs::read_to_string(format!("/proc/{id}/limits")).unwrap();
    let cores: Vec<_> = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap()
        .split_whitespace()
        .collect();
    assert_eq!(cores[4..6], ["0", "0"], "{limits}");
    // Root owns the /proc files of a process that may not be dumped. Its own user owns those of any
    // other process (PR_SET_DUMPABLE, proc(5)).
    assert_eq!(
        std::os::unix::fs::MetadataExt::uid(&fs::metadata(format!("/proc/{id}/environ")).unwrap()),
        0
    );
    let killed = tokio::process::Command::new("kill")
        .args(["-ABRT", &id.to_string()])
        .status()
        .await
        .unwrap();
    assert!(killed.success());
    let status = story.process.wait().await.unwrap();
    assert_eq!((status.signal(), status.core_dumped()), (Some(6), false));
}

async fn search(story: &Story, exported: &std::path::Path) {
    let hunt = story.secrets.hunt();
    let mut decoys = Secrets::default();
    decoys.know("decoy", DECOY);
    // The log and facts have an id of genie's own in the place of the one that the client chose.
    let log = story.genie.store.open_to_read().await;
    let request = log.hashes().request_id(DECOY).to_string();
    decoys.know("decoy (request)", &request);
    let decoy = decoys.hunt();
    let folder = story.genie.store.folder();
    // An export is encrypted, so the test imports it and searches the store that took it.
    let taken = TestStore::new(story.genie.store.kind).await;
    let mut import = story
        .genie
        .command(&["log", "import", exported.to_str().unwrap()]);
    import.env("GENIE_DATA_DIR", taken.folder());
    if let Some(url) = taken.database_url() {
        import.env("DATABASE_URL", url);
    }
    let output = import.output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    story.keep(
        "genie log import".to_owned(),
        [output.stdout, output.stderr].concat(),
        &[],
    );
    let places = [
        (
            "the log on standard error",
            fs::read(story.logs.join("stderr")).unwrap(),
            true,
        ),
        (
            "standard output",
            fs::read(story.logs.join("stdout")).unwrap(),
            false,
        ),
        ("the store", story.genie.store.bytes().await, true),
        ("a store that took an export", taken.bytes().await, true),
        ("the export", bytes_below(exported), false),
        ("the data folder", bytes_below(&folder), true),
    ];
    let log = String::from_utf8_lossy(&places[0].1);
    for talkative in [
        "TRACE actix_http::",
        "TRACE hyper_util::",
        "DEBUG sqlx::query",
        "\"level\":\"TRACE\"",
        "WARN genie::publish_heads",
    ] {
        assert!(log.contains(talkative), "the log must have `{talkative}`");
    }
    let mut found = Vec::new();
    for (place, bytes, has_the_decoy) in &places {
        println!("{place}: {} KiB", bytes.len() / 1024);
        assert!(!bytes.is_empty(), "{place} must not be empty");
        assert!(
            !has_the_decoy || !decoy.find(bytes).is_empty(),
            "{place} must contain the decoy"
        );
        let planted = [bytes.as_slice(), b"-", DECOY.as_bytes()].concat();
        assert!(
            !decoy.find(&planted).is_empty(),
            "{place} must be searched to its end"
        );
        found.extend(
            hunt.first(bytes, &[])
                .map(|first| format!("{place}: {first}")),
        );
    }
    let heard = story.heard.lock().unwrap();
    println!("{} answers", heard.len());
    assert!(
        heard
            .iter()
            .filter(|one| !decoy.find(&one.bytes).is_empty())
            .count()
            > 100,
        "answers must name their request's id"
    );
    for Heard { what, bytes, may } in heard.iter() {
        found.extend(
            hunt.first(bytes, may)
                .map(|first| format!("{what}: {first}")),
        );
    }
    each_secret_reached_its_readers(&hunt, &heard);
    assert!(
        found.is_empty(),
        "{} places:\n{}",
        found.len(),
        found.join("\n\n")
    );
}

/// Each answer that may hold a secret does hold it. Otherwise the search would look for values that
/// never occur.
fn each_secret_reached_its_readers(hunt: &Hunt, heard: &[Heard]) {
    for secret in [
        "credential",
        "access",
        "refresh",
        "reset_token",
        "two_factor",
        "service_key",
        "api_key",
        "key_name",
        "impersonation",
        "lease",
    ] {
        let holds = |one: &&Heard| {
            hunt.find(&one.bytes)
                .iter()
                .any(|found| found.starts_with(&format!("{secret} (")))
        };
        let holders = heard
            .iter()
            .filter(|one| one.may.contains(&secret))
            .filter(holds)
            .count();
        assert!(holders > 0, "{secret}");
    }
    // Checks each kind of credential.
    for kind in [
        "download_password",
        "download_cookie",
        "platform_session",
        "imported",
    ] {
        let name = format!("credential ({kind}) (");
        assert!(
            heard.iter().any(|one| hunt
                .find(&one.bytes)
                .iter()
                .any(|found| found.starts_with(&name))),
            "{kind}"
        );
    }
}
