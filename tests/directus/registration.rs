//! A registration has three places that must agree: the invite, the address, and Directus. Wherever
//! genie dies, in the end all of it happened or nothing.

use std::time::Duration;

use genie_log::testing::{TestStore, both_stores};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    proxy::Does,
    test_directus::{Directus, PASSWORD, Pair, Site},
    test_genie::{Answer, SECRET},
    until::until_within,
};

const CREATE: (&str, &str) = ("POST", "/users");

impl Site {
    async fn register(&self, email: &str, invite: &str) -> Answer {
        let body =
            json!({"email": email, "password": PASSWORD, "firstName": "Ada", "inviteCode": invite});
        self.genie
            .send(Method::POST, "/api/register", &[], Some(body))
            .await
    }

    /// A registration whose server is killed before it answers.
    async fn register_and_die(
        &mut self,
        email: &str,
        invite: &str,
        line: (&str, &str),
        does: Does,
    ) {
        self.proxy.on(line.0, line.1, does);
        let body =
            json!({"email": email, "password": PASSWORD, "firstName": "Ada", "inviteCode": invite});
        let request = self
            .genie
            .http
            .post(format!("{}/api/register", self.genie.base))
            .json(&body);
        let sent = tokio::spawn(request.send());
        self.proxy.until_held(1).await;
        self.genie.kill().await;
        assert!(sent.await.unwrap().is_err(), "the client got no answer");
        self.proxy.pass_all();
        self.genie.launch_again().await;
    }

    /// Waits until the answer to a registration is no longer that one is under way.
    async fn until_settled(&self, email: &str, invite: &str) -> Answer {
        until_within(Duration::from_secs(120), "it is settled", async || {
            let answer = self.register(email, invite).await;
            (answer.json["code"] != "registration_under_way").then_some(answer)
        })
        .await
    }

    /// Asserts that a user is registered in full: in Directus, here, and with the invite's grant.
    async fn is_registered(&self, email: &str) {
        let found = self.directus.found(email).await;
        assert_eq!(found.len(), 1);
        let pair = Pair::of(&self.log_in(email, PASSWORD).await);
        let usage = self.get(&pair.access, "/api/usage").await.ok();
        assert_eq!(usage["tier"], "pro");
        let state = self.get(&pair.access, "/api/onboarding/state").await.ok();
        assert_eq!(state["userId"].as_str(), Some(found[0].as_str()));
    }
}

fn address(name: &str) -> String {
    format!(
        "{name}+x-{}@example.com",
        genie_log::Clock::system().new_uuid().simple()
    )
}

/// Short enough that a test can wait for it, on a store where other processes may be alive.
const SOON: [(&str, &str); 1] = [("GENIE_RESERVATION_SECONDS", "30")];

async fn start(store: TestStore) -> Site {
    Site::with_process(store, Directus::shared().await, &SOON).await
}

both_stores!(
    a_registered_user_is_known_in_both_places,
    async |store: TestStore| {
        let site = start(store).await;
        let email = address("Ada");
        let invite = site.invite().await;
        site.register(&email, &invite).await.ok();
        site.is_registered(&email).await;
        site.register(&address("bob"), &invite)
            .await
            .refused(400, "invalid_field");
        site.register(&email, &site.invite().await)
            .await
            .refused(409, "email_taken");
        assert!(!site.genie.store.holds(PASSWORD).await);
    }
);

both_stores!(
    a_user_who_was_deleted_in_directus_frees_the_address,
    async |store: TestStore| {
        let site = start(store).await;
        let email = address("ada");
        site.register(&email, &site.invite().await).await.ok();
        let former = site.directus.found(&email).await.remove(0);
        let invite = site.invite().await;
        site.register(&email, &invite)
            .await
            .refused(409, "email_taken");
        site.directus
            .admin(Method::DELETE, &format!("/users/{former}"), Value::Null)
            .await;
        site.register(&email, &invite).await.ok();
        site.is_registered(&email).await;
        assert_ne!(site.directus.found(&email).await, [former]);
    }
);

both_stores!(
    a_registration_that_directus_refuses_is_released_at_once,
    async |store: TestStore| {
        let site = start(store).await;
        let there = site.directus.person("there", "creator").await;
        let invite = site.invite().await;
        site.register(&there.email, &invite)
            .await
            .refused(409, "email_taken");
        site.proxy.on(
            CREATE.0,
            CREATE.1,
            Does::Answer(400, refusal("FAILED_VALIDATION")),
        );
        let told = site
            .register(&address("ada"), &invite)
            .await
            .refused(400, "invalid_field");
        assert!(!told.to_string().contains("canary"), "{told}");
        site.proxy.on(
            CREATE.0,
            CREATE.1,
            Does::Answer(429, refusal("REQUESTS_EXCEEDED")),
        );
        let email = address("ada");
        site.register(&email, &invite)
            .await
            .refused(429, "too_many_requests");
        site.proxy
            .on(CREATE.0, CREATE.1, Does::Answer(403, refusal("FORBIDDEN")));
        site.register(&email, &invite)
            .await
            .refused(502, "directus_away");
        site.proxy.pass_all();
        site.register(&email, &invite).await.ok();
        site.is_registered(&email).await;
    }
);

fn refusal(code: &str) -> String {
    json!({"errors": [{"message": "canary", "extensions": {"code": code, "invalid": "canary"}}]})
        .to_string()
}

both_stores!(
    a_kill_before_directus_was_asked_releases_everything,
    async |store: TestStore| {
        let mut site = start(store).await;
        let email = address("ada");
        let invite = site.invite().await;
        site.register_and_die(&email, &invite, CREATE, Does::HoldRequest)
            .await;
        assert_eq!(site.directus.found(&email).await, [""; 0]);
        site.until_settled(&email, &invite).await.ok();
        site.is_registered(&email).await;
    }
);

both_stores!(
    a_kill_after_directus_created_the_user_completes_everything,
    async |store: TestStore| {
        let mut site = start(store).await;
        let email = address("ada");
        let invite = site.invite().await;
        site.register_and_die(&email, &invite, CREATE, Does::HoldAnswer)
            .await;
        assert_eq!(site.directus.found(&email).await.len(), 1);
        let settled = site.until_settled(&email, &invite).await;
        assert!(
            settled.status == 409 || settled.status == 400,
            "the invite is spent, the address taken: {:?}",
            settled.json
        );
        site.is_registered(&email).await;
        site.register(&address("bob"), &invite)
            .await
            .refused(400, "invalid_field");
    }
);

both_stores!(
    a_kill_after_everything_was_spent_leaves_a_complete_registration,
    async |store: TestStore| {
        let mut site = start(store).await;
        let email = address("ada");
        let invite = site.invite().await;
        let body =
            json!({"email": email, "password": PASSWORD, "firstName": "Ada", "inviteCode": invite})
                .to_string();
        let host = site.genie.base.strip_prefix("http://").unwrap();
        let request = format!(
            "POST /api/register HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut unheard = TcpStream::connect(host).await.unwrap(); // Nobody reads the answer.
        unheard.write_all(request.as_bytes()).await.unwrap();
        let secret = [("X-RBAC-SYNC-SECRET", SECRET.to_owned())];
        let spent = async || {
            let facts = site
                .genie
                .send(Method::GET, "/api/events?types=invite.spent", &secret, None)
                .await
                .ok();
            facts["data"].as_array().unwrap().len()
        };
        let began = std::time::Instant::now();
        while spent().await == 0 {
            assert!(began.elapsed().as_secs() < 30);
        }
        site.genie.kill().await;
        site.genie.launch_again().await;
        let again = site.register(&email, &invite).await;
        assert!(
            [400, 409].contains(&again.status.as_u16()),
            "the invite is spent, the address taken: {:?}",
            again.json
        );
        site.is_registered(&email).await;
    }
);

both_stores!(
    a_login_completes_a_registration_that_was_killed_after_directus_created_the_user,
    async |store: TestStore| {
        let mut site = start(store).await;
        let email = address("ada");
        let invite = site.invite().await;
        site.register_and_die(&email, &invite, CREATE, Does::HoldAnswer)
            .await;
        site.is_registered(&email).await; // At once, before anybody sweeps.
    }
);

both_stores!(
    a_kill_before_the_reservation_leaves_nothing_reserved,
    async |store: TestStore| {
        let mut site = start(store).await;
        let email = address("ada");
        let invite = site.invite().await;
        site.register_and_die(&email, &invite, ("GET", "/roles"), Does::HoldRequest)
            .await;
        site.register(&email, &invite).await.ok();
        site.is_registered(&email).await;
    }
);

both_stores!(
    a_lost_answer_is_asked_for_again,
    async |store: TestStore| {
        let site = start(store).await;
        let email = address("ada");
        let invite = site.invite().await;
        site.proxy.on(CREATE.0, CREATE.1, Does::HoldAnswer);
        site.register(&email, &invite).await.ok(); // It succeeds after the time-out.
        site.is_registered(&email).await;

        // When nobody can say whether the user was created: first unknown, then released.
        let email = address("bob");
        let invite = site.invite().await;
        site.proxy.on(CREATE.0, CREATE.1, Does::HoldRequest);
        site.register(&email, &invite)
            .await
            .refused(502, "registration_unknown");
        site.proxy.pass_all();
        site.register(&email, &invite)
            .await
            .refused(409, "registration_under_way");
        site.until_settled(&email, &invite).await.ok();
        site.is_registered(&email).await;
    }
);

both_stores!(
    a_missing_role_or_token_on_the_server_is_named,
    async |store: TestStore| {
        let directus = Directus::shared().await;
        let site = Site::with(
            store,
            directus,
            &[("DIRECTUS_CREATOR_ROLE", "no such role")],
        )
        .await;
        let invite = site.invite().await;
        let told = site
            .register(&address("ada"), &invite)
            .await
            .refused(500, "directus_role_missing");
        assert!(
            told["error"]
                .as_str()
                .unwrap()
                .contains("DIRECTUS_CREATOR_ROLE"),
            "{told}"
        );
        for (body, code) in [
            (
                json!({"email": "ada@example.com", "password": "short", "inviteCode": invite}),
                "invalid_field",
            ),
            (
                json!({"email": "no address", "password": PASSWORD, "inviteCode": "none"}),
                "invalid_field",
            ),
        ] {
            site.genie
                .send(Method::POST, "/api/register", &[], Some(body))
                .await
                .refused(400, code);
        }
        let Site {
            genie, directus, ..
        } = site;
        let mut genie = genie;
        genie.kill().await;
        let store = std::mem::replace(
            &mut genie.store,
            TestStore::new(genie_log::testing::Kind::Sqlite).await,
        );
        let site = Site::with(store, directus, &[("DIRECTUS_ADMIN_TOKEN", "")]).await;
        let told: Value = site
            .register(&address("ada"), &invite)
            .await
            .refused(500, "directus_admin_token_missing");
        assert!(
            told["error"]
                .as_str()
                .unwrap()
                .contains("DIRECTUS_ADMIN_TOKEN"),
            "{told}"
        );
    }
);
