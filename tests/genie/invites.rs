//! `genie invite` beside a running server and without one, and the socket between them.

use std::os::unix::fs::PermissionsExt;

use genie_log::testing::{TestStore, both_stores};
use reqwest::Method;
use serde_json::{Value, json};

use crate::test_genie::{SECRET, TestGenie};

/// The codes that `genie invite` prints.
async fn invite(genie: &TestGenie, arguments: &[&str]) -> Vec<String> {
    let output = genie
        .command(&[&["invite"], arguments].concat())
        .output()
        .await
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

async fn register(genie: &TestGenie, name: &str, code: &str) {
    let body = json!({"email": format!("{name}@example.com"), "password": "a long password", "inviteCode": code});
    genie
        .send(Method::POST, "/api/register", &[], Some(body))
        .await
        .ok();
}

both_stores!(
    invites_are_made_beside_a_server_and_without_one,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let socket = genie.store.folder().join("genie.sock");
        assert_eq!(
            std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let codes = invite(
            &genie,
            &[
                "--count",
                "3",
                "--tier",
                "pro",
                "--role",
                "creator",
                "--expires-at",
                "2999-01-01T00:00:00Z",
            ],
        )
        .await;
        assert_eq!(codes.len(), 3);
        register(&genie, "ada", &codes[0]).await;
        let secret = [("X-RBAC-SYNC-SECRET", SECRET.into())];
        let facts = genie
            .send(
                Method::GET,
                "/api/events?types=invite.created&limit=10",
                &secret,
                None,
            )
            .await
            .ok();
        assert_eq!(
            facts["data"].as_array().unwrap().len(),
            4,
            "the server made the first invite and these"
        );
        let refused = genie
            .command(&["invite", "--tier", "gold"])
            .output()
            .await
            .unwrap();
        assert!(
            String::from_utf8_lossy(&refused.stderr).contains("`tier` must be one of"),
            "{refused:?}"
        );
        let unknown_role = async |genie: &TestGenie| {
            let refused = genie
                .command(&["invite", "--role", "editor"])
                .output()
                .await
                .unwrap();
            assert!(
                String::from_utf8_lossy(&refused.stderr)
                    .contains("`role` must be one of: creator, administrator"),
                "{refused:?}"
            );
        };
        unknown_role(&genie).await;

        // The socket of a killed server does not disturb a command without a server.
        genie.kill().await;
        assert!(socket.exists());
        unknown_role(&genie).await;
        let codes = invite(&genie, &[]).await;
        // It does not disturb the next start either.
        genie.launch_again().await;
        register(&genie, "bob", &codes[0]).await;
        register(&genie, "cyd", &invite(&genie, &[]).await[0]).await;
        assert!(genie.terminate().await);
        assert!(!socket.exists(), "the socket goes with its server");
    }
);

both_stores!(
    an_invite_on_a_new_store_does_not_replace_the_first_invite,
    async |store: TestStore| {
        let mut genie = TestGenie::not_started(store, &[]).await;
        let codes = invite(&genie, &[]).await;
        genie.launch_again().await;
        assert!(
            genie.said.iter().any(|line| line.contains("first invite")),
            "{:?}",
            genie.said
        );
        register(&genie, "bob", &codes[0]).await;
        genie.user("ada").await;
    }
);

both_stores!(
    invites_are_listed_and_unused_ones_can_be_revoked,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let admin = genie.user("ada").await;
        let make = async |body: Value| {
            admin.post(&genie, "/api/admin/invites", body).await.ok()["data"][0].clone()
        };
        let used = make(json!({"tier": "pro"})).await;
        let open = make(json!({"tier": "studio", "expires_at": "2999-01-01T00:00:00.000Z"})).await;
        let expired = make(json!({"expires_at": "2001-01-01T00:00:00.000Z"})).await;
        assert_eq!(
            [&used["status"], &open["status"], &expired["status"]],
            ["open", "open", "expired"]
        );
        let code = |invite: &Value| invite["code"].as_str().unwrap().to_owned();
        register(&genie, "bob", &code(&used)).await;

        let listed = admin.get(&genie, "/api/admin/invites").await.ok();
        let rows = listed["data"].as_array().unwrap();
        let told: Vec<_> = rows
            .iter()
            .map(|row| (row["code"].clone(), row["status"].as_str().unwrap()))
            .collect();
        let first = json!("the-first-invite");
        let wanted = [
            (&first, "used"),
            (&used["code"], "used"),
            (&open["code"], "open"),
            (&expired["code"], "expired"),
        ];
        assert_eq!(told, wanted.map(|(code, status)| (code.clone(), status)));
        assert_eq!(
            (&rows[0]["used_by"], &rows[2]["tier"]),
            (&json!(admin.id), &json!("studio"))
        );
        assert!(
            rows[1]["used_at"].is_string() && rows[2]["used_at"].is_null(),
            "{listed}"
        );
        let page = admin.get(&genie, "/api/admin/invites?limit=3").await.ok();
        let rest = format!(
            "/api/admin/invites?limit=3&cursor={}",
            page["next_cursor"].as_str().unwrap()
        );
        assert_eq!(
            admin.get(&genie, &rest).await.ok()["data"],
            json!([rows[3]])
        );

        let revoke = async |code: String| {
            admin
                .delete(&genie, &format!("/api/admin/invites/{code}"))
                .await
        };
        revoke(code(&used)).await.refused(409, "invite_spent");
        revoke("nonsense".to_owned())
            .await
            .refused(404, "not_found");
        for _ in 0..2 {
            assert_eq!(revoke(code(&open)).await.ok()["revoked"], true);
        }
        revoke(code(&expired)).await.ok();
        let body = json!({"email": "cyd@example.com", "password": "a long password", "inviteCode": code(&open)});
        let refused = genie
            .send(Method::POST, "/api/register", &[], Some(body))
            .await
            .refused(400, "invalid_field");
        assert!(
            refused["error"].as_str().unwrap().contains("revoked"),
            "{refused}"
        );
        let facts = admin
            .get(&genie, "/api/events?types=invite.revoked")
            .await
            .ok();
        assert_eq!(facts["data"].as_array().unwrap().len(), 2, "each fact once");
        genie.restart().await;
        genie.settle().await;
        assert_eq!(
            admin.get(&genie, "/api/admin/invites").await.ok()["data"]
                .as_array()
                .unwrap()
                .len(),
            2
        );
    }
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_of_two_servers_in_one_folder_has_the_socket() {
    let mut genie =
        TestGenie::start(TestStore::new(genie_log::testing::Kind::Postgres).await).await;
    let second = genie.another_node().await;
    let codes = invite(&genie, &[]).await;
    drop(second); // kill -9
    register(&genie, "ada", &codes[0]).await;
    register(&genie, "bob", &invite(&genie, &[]).await[0]).await;
    assert!(genie.terminate().await);
}
