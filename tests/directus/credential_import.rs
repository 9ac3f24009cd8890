//! The import of credentials that the original sealed, for users whom only Directus knows so far.

use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use genie_log::testing::{TestStore, both_stores};
use serde_json::json;

use crate::test_directus::{Directus, Site};

const KEY: [u8; 32] = [42; 32];

both_stores!(
    an_import_begins_the_account_of_a_user_whom_only_directus_knows,
    async |store: TestStore| {
        let setting = BASE64.encode(KEY);
        let site = Site::with(
            store,
            Directus::shared().await,
            &[("CREDENTIALS_ENC_KEY_B64", &setting)],
        )
        .await;
        let (ada, bob) = (
            site.directus.person("ada", "creator").await,
            site.directus.person("bob", "creator").await,
        );
        site.directus
            .change(&bob, json!({"status": "suspended"}))
            .await;
        let mut bytes = json!({"password": "canary"}).to_string().into_bytes();
        Aes256Gcm::new(&KEY.into())
            .encrypt_in_place(&[7; 12].into(), &[], &mut bytes)
            .unwrap();
        let (ciphertext, tag) = bytes.split_at(bytes.len() - 16);
        let sealed = format!(
            "v1:{}:{}:{}",
            hex::encode([7; 12]),
            hex::encode(tag),
            hex::encode(ciphertext)
        );
        let nobody = "0192f0c1-2345-7000-8000-000000000001";
        let ids = ["0192f0c1-2345-4000-8000-000000000001", "2", "3"];
        let lines = [ada.id.as_str(), &bob.id, nobody]
        .into_iter()
        .zip(ids)
        .map(|(user, id)| json!({"userId": user, "creatorProfileId": id, "platform": "x", "credentials": sealed}).to_string());
        let file = site.genie.store.folder().join("credentials.jsonl");
        std::fs::write(&file, lines.collect::<Vec<_>>().join("\n")).unwrap();
        let output = site
            .genie
            .command(&["import", "credentials", file.to_str().unwrap()])
            .output()
            .await
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            text.contains("line 1: imported\nline 2: not imported: genie does not know this user"),
            "{text}"
        );
        assert!(
            text.contains("line 3: not imported: genie does not know this user"),
            "{text}"
        );
        let revealed = site
            .genie
            .server(
                "/api/credentials/reveal",
                json!({"creatorProfileId": ids[0]}),
            )
            .await
            .ok();
        assert_eq!(revealed["credentials"], json!({"password": "canary"}));
        // Ada logs in later and finds the credential.
        let pair = site.pair(&ada).await;
        let held = site.get(&pair.access, "/api/credentials").await.ok();
        assert_eq!(held["data"][0]["id"], ids[0]);
    }
);
