//! A real Directus, by `scripts/directus`. Most tests share one that `scripts/test` has started.
//! Tests that stop or change a Directus have their own.

use std::path::PathBuf;

use genie_log::testing::TestStore;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    process::Command,
    sync::{OnceCell, Semaphore, SemaphorePermit},
};

use crate::{
    proxy::Proxy,
    test_genie::{Answer, TestGenie},
    until::until,
};

const ADMIN_EMAIL: &str = "admin@example.com";
const ADMIN_PASSWORD: &str = "admin-password-1";
pub const PASSWORD: &str = "correct horse battery";

pub struct Directus {
    pub url: String,
    pub admin_token: String,
    pub secret: String,
    folder: PathBuf,
    process: String,
    http: reqwest::Client,
    /// Held by one of a test's own.
    own: Option<SemaphorePermit<'static>>,
}

/// A Directus takes 300 MB, and a core while it starts: so many may be tests' own at once.
static OWN: Semaphore = Semaphore::const_new(2);

/// A user in Directus.
#[derive(Debug, Clone)]
pub struct Person {
    pub id: String,
    pub email: String,
}

#[expect(
    clippy::disallowed_methods,
    reason = "the Directus to test on is named by the environment"
)]
fn folder() -> PathBuf {
    let folder = std::env::var("GENIE_TEST_DIRECTUS");
    PathBuf::from(folder.expect(
        "GENIE_TEST_DIRECTUS names a folder for the data of Directus; run scripts/test directus",
    ))
}

fn unique() -> String {
    genie_log::Clock::system().new_uuid().simple().to_string()
}

async fn script(command: &str, folder: &std::path::Path, settings: &[(&str, &str)]) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/directus");
    let output = Command::new(script)
        .arg(command)
        .arg(folder)
        .envs(settings.iter().copied())
        .output()
        .await
        .unwrap();
    assert!(
        output.status.success(),
        "scripts/directus {command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

impl Directus {
    /// The Directus that all tests share.
    pub async fn shared() -> Self {
        static LINES: OnceCell<String> = OnceCell::const_new();
        let folder = folder().join("shared");
        let lines = LINES
            .get_or_init(async || script("start", &folder, &[]).await)
            .await;
        Self::known_by(lines, folder, None)
    }

    /// A test's own Directus, with these settings.
    pub async fn own(settings: &[(&str, &str)]) -> Self {
        let own = OWN.acquire().await.unwrap();
        let folder = folder().join(unique());
        let lines = script("start", &folder, settings).await;
        script("seed", &folder, settings).await;
        Self::known_by(&lines, folder, Some(own))
    }

    /// `lines`: what the script says of a Directus that it started.
    fn known_by(lines: &str, folder: PathBuf, own: Option<SemaphorePermit<'static>>) -> Self {
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        let value = |name: &str| {
            lines
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap()
                .to_owned()
        };
        Self {
            url: value("DIRECTUS_URL="),
            admin_token: value("DIRECTUS_ADMIN_TOKEN="),
            secret: value("DIRECTUS_SECRET="),
            process: value("DIRECTUS_PID="),
            folder,
            // Each test has its own runtime, and a connection does not outlive the runtime that
            // opened it.
            http: reqwest::Client::builder()
                .pool_max_idle_per_host(0)
                .build()
                .unwrap(),
            own,
        }
    }

    /// Stops Directus and starts it again on the same data with other settings. It sends no
    /// request.
    pub async fn restart(&mut self, settings: &[(&str, &str)]) {
        assert!(self.own.is_some());
        script("stop", &self.folder, &[]).await;
        let lines = script("start", &self.folder, settings).await;
        let again = Self::known_by(&lines, self.folder.clone(), None);
        self.process.clone_from(&again.process);
        self.secret.clone_from(&again.secret);
    }

    /// Sends a signal, such as `STOP`, to the process.
    pub async fn signal(&self, name: &str) {
        assert!(self.own.is_some());
        assert!(
            Command::new("kill")
                .args([&format!("-{name}"), &self.process])
                .status()
                .await
                .unwrap()
                .success()
        );
    }

    /// Sends a request as the administrator; answers `data`.
    pub async fn admin(&self, method: Method, path: &str, body: Value) -> Value {
        let request = self
            .http
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(&self.admin_token);
        let answer = if body.is_null() {
            request
        } else {
            request.json(&body)
        }
        .send()
        .await
        .unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str::<Value>(&text)
            .map(|mut whole| whole["data"].take())
            .unwrap_or_default()
    }

    pub async fn role(&self, name: &str) -> String {
        let found = self
            .admin(
                Method::GET,
                &format!("/roles?filter[name][_eq]={name}&fields=id"),
                Value::Null,
            )
            .await;
        found[0]["id"]
            .as_str()
            .unwrap_or_else(|| panic!("no role {name}"))
            .to_owned()
    }

    /// A new user with this role.
    pub async fn person(&self, name: &str, role: &str) -> Person {
        let email = format!("{name}-{}@example.com", unique());
        let body = json!({"email": email, "password": PASSWORD, "role": self.role(role).await, "status": "active"});
        let id = self.admin(Method::POST, "/users", body).await["id"]
            .as_str()
            .unwrap()
            .to_owned();
        Person { id, email }
    }

    pub async fn change(&self, person: &Person, body: Value) {
        self.admin(Method::PATCH, &format!("/users/{}", person.id), body)
            .await;
    }

    /// The ids of the users with this address.
    pub async fn found(&self, email: &str) -> Vec<String> {
        let email = email.replace('+', "%2B");
        let found = self
            .admin(
                Method::GET,
                &format!("/users?filter[email][_eq]={email}&fields=id"),
                Value::Null,
            )
            .await;
        found
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["id"].as_str().unwrap().to_owned())
            .collect()
    }

    /// genie's settings for this Directus, reached at that address.
    pub fn settings(&self, url: &str) -> Vec<(&'static str, String)> {
        vec![
            ("DIRECTUS_URL", url.to_owned()),
            ("DIRECTUS_ADMIN_TOKEN", self.admin_token.clone()),
            ("DIRECTUS_SECRET", self.secret.clone()),
        ]
    }
}

impl Drop for Directus {
    fn drop(&mut self) {
        if self.own.is_some() {
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/directus");
            std::process::Command::new(script)
                .arg("stop")
                .arg(&self.folder)
                .status()
                .ok();
        }
    }
}

/// genie in front of a proxy in front of a Directus.
pub struct Site {
    pub genie: TestGenie,
    pub proxy: Proxy,
    pub directus: Directus,
}

#[derive(Debug, Clone)]
pub struct Pair {
    pub access: String,
    pub refresh: String,
}

impl Pair {
    pub fn of(answer: &Answer) -> Self {
        assert_eq!(answer.status, 200, "{:?}", answer.json);
        let text = |name: &str| answer.json["data"][name].as_str().unwrap().to_owned();
        Self {
            access: text("access_token"),
            refresh: text("refresh_token"),
        }
    }
}

impl Site {
    pub async fn shared(store: TestStore) -> Self {
        Self::with(store, Directus::shared().await, &[]).await
    }

    /// `others` are settings of genie beside those for this Directus; an empty value removes one of
    /// those.
    pub async fn with(
        store: TestStore,
        directus: Directus,
        others: &[(&'static str, &str)],
    ) -> Self {
        let (proxy, settings) = Self::in_front_of(&directus, others).await;
        Self {
            genie: TestGenie::start_with(store, &settings).await,
            proxy,
            directus,
        }
    }

    /// The same with genie as a process, which kill -9 can end.
    pub async fn with_process(
        store: TestStore,
        directus: Directus,
        others: &[(&'static str, &str)],
    ) -> Self {
        let (proxy, settings) = Self::in_front_of(&directus, others).await;
        Self {
            genie: TestGenie::start_process_with(store, &settings).await,
            proxy,
            directus,
        }
    }

    async fn in_front_of(
        directus: &Directus,
        others: &[(&'static str, &str)],
    ) -> (Proxy, Vec<(&'static str, String)>) {
        let proxy = Proxy::start(&directus.url).await;
        let mut settings = directus.settings(&proxy.url);
        settings.extend(
            others
                .iter()
                .map(|(name, value)| (*name, (*value).to_owned())),
        );
        (proxy, settings)
    }

    pub async fn log_in(&self, email: &str, password: &str) -> Answer {
        let body = json!({"email": email, "password": password});
        self.genie
            .send(Method::POST, "/auth/login", &[], Some(body))
            .await
    }

    /// Logs a user in.
    pub async fn pair(&self, person: &Person) -> Pair {
        Pair::of(&self.log_in(&person.email, PASSWORD).await)
    }

    /// Sends a GET with a token.
    pub async fn get(&self, token: &str, path: &str) -> Answer {
        self.genie
            .send(
                Method::GET,
                path,
                &[("Authorization", format!("Bearer {token}"))],
                None,
            )
            .await
    }

    /// The status of one of genie's own routes with this token.
    pub async fn opens(&self, token: &str) -> u16 {
        self.get(token, "/api/usage").await.status.as_u16()
    }

    /// Waits until that status is answered.
    pub async fn until(&self, token: &str, status: u16) {
        until(
            &format!("the token is answered with {status}"),
            async || (self.opens(token).await == status).then_some(()),
        )
        .await;
    }

    pub async fn ready(&self) -> Value {
        self.genie.readiness().await.json["directus"].take()
    }

    /// An access token of Directus' own administrator.
    pub async fn admin(&self) -> String {
        Pair::of(&self.log_in(ADMIN_EMAIL, ADMIN_PASSWORD).await).access
    }

    /// A fresh invite, made by Directus' own administrator.
    pub async fn invite(&self) -> String {
        let headers = [("Authorization", format!("Bearer {}", self.admin().await))];
        let made = self
            .genie
            .send(
                Method::POST,
                "/api/admin/invites",
                &headers,
                Some(json!({"tier": "pro"})),
            )
            .await
            .ok();
        made["data"][0]["code"].as_str().unwrap().to_owned()
    }
}
