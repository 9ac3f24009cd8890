//! The official SDK of Directus (`@directus/sdk`) against a real Directus, against genie with its own identity, and against
//! genie in front of that Directus: everything in it that logs in or is about one's own account. The answers are compared one
//! by one. `scripts/directus sdk` installs the releases; `GENIE_TEST_SDK` names their major numbers.

use std::{collections::BTreeMap, path::PathBuf, process::Stdio};

use genie_log::{
    both_stores,
    testing::{Kind, TestStore},
};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, process::Command};

use crate::{
    identity,
    test_directus::{Directus, PASSWORD},
    test_genie::{FIRST_INVITE, TestGenie, password},
};

/// The first and the last release that the contract names.
const ENDS: &str = "17 26";

#[expect(
    clippy::disallowed_methods,
    reason = "scripts/test says by the environment which releases are tried"
)]
fn majors() -> Vec<String> {
    let majors = std::env::var("GENIE_TEST_SDK").unwrap_or_else(|_| ENDS.to_owned());
    majors.split_whitespace().map(str::to_owned).collect()
}

/// Node, and the folder with the releases.
struct Sdk {
    node: PathBuf,
    folder: PathBuf,
}

impl Sdk {
    async fn install(majors: &[String]) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/directus");
        let installed = Command::new(script).arg("sdk").args(majors).output().await;
        let installed = installed.unwrap();
        let told = String::from_utf8_lossy(&installed.stderr);
        assert!(installed.status.success(), "scripts/directus sdk: {told}");
        let lines = String::from_utf8(installed.stdout).unwrap();
        let path = |name: &str| {
            let line = lines.lines().find_map(|line| line.strip_prefix(name));
            PathBuf::from(line.unwrap())
        };
        Self {
            node: path("NODE="),
            folder: path("SDK="),
        }
    }

    /// All calls against one server; the answers by the calls' names.
    async fn call(&self, major: &str, server: &Tried) -> BTreeMap<String, Value> {
        let entry = self
            .folder
            .join(format!("node_modules/sdk-{major}/dist/index.js"));
        let input = json!({
            "sdk": entry, "url": server.url, "email": server.email, "password": server.password, "skew": server.skew,
        });
        let calls = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/directus/sdk/surface.mjs"
        );
        let mut node = Command::new(&self.node)
            .arg(calls)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdin = node.stdin.take().unwrap();
        stdin.write_all(input.to_string().as_bytes()).await.unwrap();
        drop(stdin);
        let done = node.wait_with_output().await.unwrap();
        assert!(
            done.status.success(),
            "release {major} of the SDK broke off"
        );
        let lines = String::from_utf8(done.stdout).unwrap();
        let answers = lines.lines().map(|line| {
            let answer: Value = serde_json::from_str(line).unwrap();
            (answer["name"].as_str().unwrap().to_owned(), answer)
        });
        answers.collect()
    }
}

/// A server, and a user of it who administers.
struct Tried {
    url: String,
    email: String,
    password: String,
    /// The time steps of the three one-time codes, from now. genie takes each code once.
    skew: [i64; 3],
}

/// An answer in brief.
fn brief(answer: &Value) -> String {
    let ended = answer["ended"].as_str();
    let known = ended.filter(|ended| ["value", "errors"].contains(ended));
    let ended = known.unwrap_or("another error");
    match answer["codes"][0].as_str() {
        Some(code) => format!("{} {code} as {ended}", answer["status"]),
        None => format!("{} as {ended}", answer["status"]),
    }
}

/// How our answer differs from that of Directus. More fields than there are no difference, nor is a null of one of both.
fn difference(theirs: &Value, ours: &Value) -> Option<String> {
    let (there, here) = (brief(theirs), brief(ours));
    if there != here {
        return Some(format!("{there}; here {here}"));
    }
    let fields = theirs["fields"].as_object().into_iter().flatten();
    for (name, kind) in fields {
        match &ours["fields"][name] {
            Value::Null => return Some(format!("`{name}` is missing here")),
            here if here != kind && here != "null" && kind != "null" => {
                return Some(format!("`{name}` is {kind}; here {here}"));
            }
            _ => {}
        }
    }
    (theirs["named"] != ours["named"]
        || theirs["text"] != ours["text"]
        || theirs["data"] != ours["data"])
        .then(|| "another value".to_owned())
}

fn differences(theirs: &BTreeMap<String, Value>, ours: &BTreeMap<String, Value>) -> Vec<String> {
    let pairs = theirs
        .iter()
        .map(|(name, answer)| (name, answer, &ours[name]));
    pairs
        .filter_map(|(name, theirs, ours)| Some(format!("{name}: {}", difference(theirs, ours)?)))
        .collect()
}

/// The differences on purpose. genie sets no cookies, and has no routes for what its contract leaves out: users who invite
/// users or register without an invite, and the rest of Directus' API, where clients go to Directus itself.
const WITH_DIRECTUS: [&str; 14] = [
    "acceptUserInvite: 403 INVALID_TOKEN as errors; here 404 ROUTE_NOT_FOUND as errors",
    "authentication in cookies: login: 200 as value; here 400 INVALID_PAYLOAD as errors",
    "inviteUser: 400 INVALID_PAYLOAD as errors; here 404 ROUTE_NOT_FOUND as errors",
    "login: cookie: 200 as value; here 400 INVALID_PAYLOAD as errors",
    "login: session: 200 as value; here 400 INVALID_PAYLOAD as errors",
    "readPolicies: 200 as value; here 404 as another error",
    "readPolicyGlobals: 200 as value; here 404 as another error",
    "readRolesMe: 200 as value; here 404 as another error",
    "readUserPermissions: 200 as value; here 404 as another error",
    "registerUser: 403 FORBIDDEN as errors; here 404 ROUTE_NOT_FOUND as errors",
    "registerUserVerify: 403 INVALID_TOKEN as errors; here 404 ROUTE_NOT_FOUND as errors",
    "serverHealth: 200 as value; here 404 as another error",
    "serverInfo: 200 as value; here 404 as another error",
    "serverPing: 200 as value; here 404 as another error",
];

/// Beside them, without a Directus: what is no address is a wrong login like any other, and what is wrong with a body has one
/// code.
const BUILT_IN: [&str; 2] = [
    "login: no address: 400 INVALID_PAYLOAD as errors; here 401 INVALID_CREDENTIALS as errors",
    "updateMe: a wrong kind: 400 FAILED_VALIDATION as errors; here 400 INVALID_PAYLOAD as errors",
];

both_stores!(
    the_sdk_of_directus_gets_the_answers_of_directus,
    async |store: TestStore| {
        let majors = majors();
        let sdk = Sdk::install(&majors).await;
        let directus = Directus::shared().await;
        let own = [
            ("DIRECTUS_URL", String::new()),
            ("DIRECTUS_ADMIN_TOKEN", String::new()),
            ("DIRECTUS_SECRET", String::new()),
            ("GENIE_LOGIN_STALL_MS", "100".to_owned()),
        ];
        let built_in = TestGenie::start_process_with(store, &own).await;
        let admin = built_in.register("admin", FIRST_INVITE).await;
        let beside = TestStore::new(Kind::Sqlite).await;
        let in_front = TestGenie::start_process_with(beside, &[]).await;
        for major in &majors {
            let mut people = Vec::new();
            for name in ["direct", "through"] {
                let person = directus.person(name, "Administrator").await;
                directus.change(&person, json!({"first_name": "ada"})).await;
                people.push(person);
            }
            let of_directus = |url: &str, n: usize| Tried {
                url: url.to_owned(),
                email: people[n].email.clone(),
                password: PASSWORD.to_owned(),
                skew: [0, 0, 0],
            };
            let name = format!("ada-{major}");
            let invite = json!({"role": "administrator"});
            let invited = admin
                .post(&built_in, "/api/admin/invites", invite)
                .await
                .ok();
            let code = invited["data"][0]["code"].as_str().unwrap();
            built_in.register(&name, code).await;
            let ours = Tried {
                url: built_in.base.clone(),
                email: identity::email(&built_in, &name),
                password: password(&name),
                skew: [-1, 0, 1],
            };
            let (direct, through) = (
                of_directus(&directus.url, 0),
                of_directus(&in_front.base, 1),
            );
            let (theirs, passed_on, ours) = tokio::join!(
                sdk.call(major, &direct),
                sdk.call(major, &through),
                sdk.call(major, &ours),
            );
            assert!(theirs.len() > 70, "{}", theirs.len());
            let mut wanted = WITH_DIRECTUS.to_vec();
            assert_eq!(
                differences(&theirs, &passed_on),
                wanted,
                "release {major}, in front"
            );
            wanted.extend(BUILT_IN);
            wanted.sort_unstable();
            assert_eq!(
                differences(&theirs, &ours),
                wanted,
                "release {major}, built in"
            );
        }
    }
);
