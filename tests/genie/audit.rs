//! Proofs that the log can be trusted: signed heads kept outside, proofs for others, and a check of
//! the whole log beside the server.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use genie_log::{
    merkle_tree::{self, Hash},
    signed_heads::PublicHeadKey,
    testing::{Kind, TestStore, both_stores},
};
use reqwest::Method;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};

use crate::{
    test_genie::{SECRET, TestGenie},
    until::until,
};

fn secret() -> [(&'static str, String); 1] {
    [("X-RBAC-SYNC-SECRET", SECRET.into())]
}

/// The answer of `/readyz` once a signed head covers the whole log.
async fn sealed(genie: &TestGenie) -> Value {
    until("a signed head that covers everything", async || {
        let ready = genie.readiness().await.json;
        (ready["sealing"]["lag"] == 0).then_some(ready)
    })
    .await
}

/// Waits for the first signed head. The next one is not due before `GENIE_SEAL_SECONDS`.
async fn first_head(genie: &TestGenie) {
    until("the first signed head", async || {
        let ready = genie.readiness().await.json;
        ready["sealing"]["signed"]
            .as_u64()
            .filter(|signed| *signed > 0)
    })
    .await;
}

/// The number of heads in a file that verify against the log; `None` while they don't.
async fn pinned(genie: &TestGenie, file: &str) -> Option<u64> {
    let verified = audit(genie, &["verify", "--heads", file]).await.ok()?;
    verified.lines().nth(1)?.split_once(' ')?.0.parse().ok()
}

/// Standard output if the command succeeds, standard error if it fails.
async fn audit(genie: &TestGenie, arguments: &[&str]) -> Result<String, String> {
    let done = genie
        .command(&[&["audit"], arguments].concat())
        .output()
        .await
        .unwrap();
    let (out, error) = (
        String::from_utf8(done.stdout).unwrap(),
        String::from_utf8(done.stderr).unwrap(),
    );
    if done.status.success() {
        Ok(out)
    } else {
        Err(error)
    }
}

fn hash(base64: &Value) -> Hash {
    Hash(
        BASE64
            .decode(base64.as_str().unwrap())
            .unwrap()
            .try_into()
            .unwrap(),
    )
}

fn hashes(list: &Value) -> Vec<Hash> {
    list.as_array().unwrap().iter().map(hash).collect()
}

/// Verifies a proof as an outsider would, from the public key alone.
#[track_caller]
fn assert_proves(proof: &Value, key: &str, position: u64) {
    let head = PublicHeadKey::parse(key)
        .unwrap()
        .open(proof["head"].as_str().unwrap())
        .unwrap();
    let hex = proof["digest"].as_str().unwrap();
    let digest: Vec<u8> = (0..32)
        .map(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).unwrap())
        .collect();
    assert_eq!(
        (proof["position"].as_u64(), proof["tree_size"].as_u64()),
        (Some(position), Some(head.size))
    );
    assert_eq!(
        (hash(&proof["root"]), hash(&proof["leaf_hash"])),
        (head.root, merkle_tree::leaf_hash(&digest))
    );
    assert!(
        merkle_tree::is_included(
            &hashes(&proof["proof"]),
            head.size,
            head.root,
            position,
            &digest
        ),
        "{proof}"
    );
}

both_stores!(
    a_log_verifies_beside_its_server_and_a_changed_fact_is_named,
    async |store: TestStore| {
        let heads = store.folder().join("heads");
        let kept = heads.to_str().unwrap().to_owned();
        let settings = [
            ("GENIE_SEAL_SECONDS", "1".to_owned()),
            ("GENIE_HEADS_FILE", kept.clone()),
        ];
        let mut genie = TestGenie::start_with(store, &settings).await;
        let ada = genie.user("ada").await;
        ada.submit_job(&genie).await;
        let ready = sealed(&genie).await;
        assert_eq!(ready["sealing"]["state"], "sealing", "{ready}");
        let first = ready["sealing"]["signed"].as_u64().unwrap();

        genie.restart().await; // the server continues the same tree and the same file of heads
        for _ in 0..3 {
            ada.submit_job(&genie).await;
        }
        let signed = sealed(&genie).await["sealing"]["signed"].as_u64().unwrap();
        assert!(signed > first);
        until("both heads to be in the file", async || {
            pinned(&genie, &kept).await.filter(|heads| *heads >= 2)
        })
        .await;
        let verified = audit(&genie, &["verify", "--heads", &kept]).await.unwrap();
        assert!(
            verified.starts_with(&format!("verified {signed} facts, "))
                && verified.lines().count() == 2,
            "{verified}"
        );

        // Callers who may see a proof get it on the command line and over HTTP.
        let key = audit(&genie, &["key"]).await.unwrap().trim().to_owned();
        let printed: Value =
            serde_json::from_str(&audit(&genie, &["proof", "--position", "3"]).await.unwrap())
                .unwrap();
        assert_proves(&printed, &key, 3);
        let path = format!("/api/admin/audit/proof?position=3&from={first}");
        let proof = genie.send(Method::GET, &path, &secret(), None).await.ok();
        assert_proves(&proof, &key, 3);
        let grown = &proof["consistency"];
        let root = hash(&proof["root"]);
        let old = (grown["from"].as_u64().unwrap(), hash(&grown["root"]));
        assert_eq!(old.0, first);
        assert!(merkle_tree::is_consistent(
            &hashes(&grown["proof"]),
            old,
            (signed, root)
        ));
        ada.get(&genie, &path).await.ok();
        let bob = genie.user("bob").await;
        bob.get(&genie, &path).await.refused(403, "forbidden");
        let asked = async |query: &str| {
            genie
                .send(
                    Method::GET,
                    &format!("/api/admin/audit/proof{query}"),
                    &secret(),
                    None,
                )
                .await
        };
        for nowhere in ["0", "1000000", "18446744073709551615"] {
            asked(&format!("?position={nowhere}"))
                .await
                .refused(404, "not_found");
        }
        for not_understood in ["", "?position=x", "?position=1&from=1000000"] {
            asked(not_understood).await.refused(400, "invalid_field");
        }

        sealed(&genie).await;
        assert!(genie.terminate().await);
        let sql = "UPDATE events SET metadata = '{\"caller\":\"system\"}' WHERE position = 4";
        genie.store.tamper(sql).await;
        let told = audit(&genie, &["verify", "--heads", &kept])
            .await
            .unwrap_err();
        assert!(
            told.contains("position 4: ") && told.contains("digest"),
            "{told}"
        );
        let told = audit(&genie, &["proof", "--position", "4"])
            .await
            .unwrap_err();
        assert!(told.contains("position 4"), "{told}");
    }
);

both_stores!(
    a_position_that_no_head_covers_yet_is_reported_as_such,
    async |store: TestStore| {
        let mut genie =
            TestGenie::start_with(store, &[("GENIE_SEAL_SECONDS", "86400".to_owned())]).await;
        let ada = genie.user("ada").await;
        first_head(&genie).await;
        let job = ada
            .post(
                &genie,
                "/api/queue/media",
                serde_json::json!({"operation": "thumbnail", "input_url": "http://a/b"}),
            )
            .await;
        let position = job.headers["Genie-Position"].to_str().unwrap().to_owned();
        let path = format!("/api/admin/audit/proof?position={position}");
        let told = genie.send(Method::GET, &path, &secret(), None).await;
        assert_eq!(told.headers["Retry-After"], "1");
        let told = told.refused(409, "not_sealed");
        assert!(
            told["error"].as_str().unwrap().contains("not sealed yet"),
            "{told}"
        );
        let verified = audit(&genie, &["verify"]).await.unwrap();
        assert!(
            verified.contains("no signed head covers the last"),
            "{verified}"
        );
    }
);

both_stores!(
    a_fact_changed_before_it_was_signed_stops_the_head_signer_and_not_the_server,
    async |store: TestStore| {
        let mut genie =
            TestGenie::start_with(store, &[("GENIE_SEAL_SECONDS", "86400".to_owned())]).await;
        genie.user("ada").await; // the administrator, whose own facts stay undamaged
        let bob = genie.user("bob").await;
        first_head(&genie).await;
        let job = bob.submit_job(&genie).await;
        genie.kill().await;
        genie
            .store
            .tamper(&format!(
                "UPDATE events SET metadata = '{{}}' WHERE stream = unhex('{job}', '-')"
            ))
            .await;
        genie.launch_again().await;
        let ready = until("the head signer to stop", async || {
            let ready = genie.readiness().await.json;
            (ready["sealing"]["state"] == "stopped").then_some(ready)
        })
        .await;
        let reason = ready["sealing"]["reason"].as_str().unwrap();
        assert!(
            reason.contains(&format!("job/{job} at position ")) && reason.contains("digest"),
            "{ready}"
        );
        assert_eq!(ready["ready"], true, "the server stays ready");
        genie.user("carol").await.submit_job(&genie).await;
    }
);

/// A webhook that refuses the first request.
async fn webhook() -> (String, mpsc::UnboundedReceiver<(String, bool)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/heads", listener.local_addr().unwrap());
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut takes = false;
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut request = String::new();
            while !request.contains("\r\n\r\n") || !request.ends_with("=\n") {
                let mut some = [0; 4096];
                let count = connection.read(&mut some).await.unwrap();
                request.push_str(std::str::from_utf8(&some[..count]).unwrap());
            }
            let status = if takes {
                "204 No Content"
            } else {
                "500 Not Now"
            };
            let answer =
                format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            connection.write_all(answer.as_bytes()).await.unwrap();
            tell.send((request, takes)).unwrap();
            takes = true;
        }
    });
    (url, told)
}

both_stores!(
    signed_heads_are_sent_to_a_webhook_until_it_accepts_them,
    async |store: TestStore| {
        let (url, mut told) = webhook().await;
        let mut genie = TestGenie::start_with(
            store,
            &[
                ("GENIE_HEADS_WEBHOOK", url),
                ("GENIE_SEAL_SECONDS", "1".into()),
            ],
        )
        .await;
        genie.user("ada").await;
        let mut next = async || {
            tokio::time::timeout(Duration::from_secs(30), told.recv())
                .await
                .expect("the webhook gets a head")
                .unwrap()
        };
        let (refused, taken) = next().await;
        assert!(
            !taken
                && refused.starts_with("POST /heads HTTP/1.1\r\n")
                && refused.contains("text/plain"),
            "{refused}"
        );
        let (request, taken) = next().await;
        assert!(taken);
        let key = audit(&genie, &["key"]).await.unwrap();
        let note = request.split_once("\r\n\r\n").unwrap().1;
        assert!(
            PublicHeadKey::parse(key.trim())
                .unwrap()
                .open(note)
                .unwrap()
                .size
                > 0
        );
    }
);

both_stores!(
    a_file_of_heads_belongs_to_its_log_and_survives_a_power_cut,
    async |store: TestStore| {
        let (heads, alien) = (store.folder().join("heads"), store.folder().join("alien"));
        let kept = heads.to_str().unwrap().to_owned();
        let other = TestStore::new(store.kind)
            .await
            .open()
            .await
            .log
            .proofs()
            .head_key()
            .await
            .unwrap();
        let note = other
            .sign(1, merkle_tree::leaf_hash(b"other"))
            .unwrap()
            .note;
        std::fs::write(&alien, format!("{note}\n")).unwrap();

        let settings = [
            ("GENIE_SEAL_SECONDS", "1".to_owned()),
            ("GENIE_HEADS_FILE", kept.clone()),
        ];
        let mut genie = TestGenie::start_with(store, &settings).await;
        let before = until("a head to be in the file", async || {
            pinned(&genie, &kept).await.filter(|heads| *heads >= 1)
        })
        .await;
        let told = audit(&genie, &["verify", "--heads", alien.to_str().unwrap()])
            .await
            .unwrap_err();
        assert!(
            told.contains("pinned head 1") && told.contains("another log"),
            "{told}"
        );

        if genie.store.kind == Kind::Postgres {
            let done = genie.command(&["serve"]).output().await.unwrap();
            let told = String::from_utf8(done.stderr).unwrap();
            assert!(
                !done.status.success() && told.contains("each server needs its own file"),
                "{told}"
            );
        }

        // A power cut leaves a part of a head at the file's end. The next start cuts it off and
        // keeps the heads before it.
        genie.kill().await;
        let whole = std::fs::read(&heads).unwrap();
        std::fs::write(&heads, [&whole[..], &whole[..150]].concat()).unwrap();
        let told = audit(&genie, &["verify", "--heads", &kept])
            .await
            .unwrap_err();
        assert!(told.contains("breaks off"), "{told}");
        genie.launch_again().await;
        assert!(pinned(&genie, &kept).await >= Some(before));
        assert!(std::fs::read(&heads).unwrap().starts_with(&whole));

        genie.kill().await;
        let done = genie
            .command(&["serve"])
            .env("GENIE_HEADS_FILE", &alien)
            .output()
            .await
            .unwrap();
        let told = String::from_utf8(done.stderr).unwrap();
        assert!(
            !done.status.success()
                && told.contains("GENIE_HEADS_FILE")
                && told.contains("name another file"),
            "{told}"
        );
    }
);

both_stores!(
    an_export_verifies_without_its_store_and_with_heads_kept_outside,
    async |store: TestStore| {
        let (heads, export) = (store.folder().join("heads"), store.folder().join("export"));
        let kept = heads.to_str().unwrap().to_owned();
        let export = export.to_str().unwrap().to_owned();
        let settings = [
            ("GENIE_SEAL_SECONDS", "1".to_owned()),
            ("GENIE_HEADS_FILE", kept.clone()),
            ("GENIE_EXPORT_PASSPHRASE", "a long passphrase".to_owned()),
        ];
        let mut genie = TestGenie::start_with(store, &settings).await;
        let ada = genie.user("ada").await;
        ada.submit_job(&genie).await;
        sealed(&genie).await;
        until("a head to be in the file", async || {
            pinned(&genie, &kept).await.filter(|heads| *heads >= 1)
        })
        .await;
        let key = audit(&genie, &["key"]).await.unwrap().trim().to_owned();
        let exported = genie
            .command(&["log", "export", &export])
            .output()
            .await
            .unwrap();
        assert!(exported.status.success(), "{exported:?}");

        let verified = audit(
            &genie,
            &[
                "verify", "--export", &export, "--heads", &kept, "--key", &key,
            ],
        )
        .await
        .unwrap();
        assert!(
            verified.starts_with("verified ") && verified.contains("heads kept outside agree"),
            "{verified}"
        );
        assert!(!verified.contains("\n0 heads"), "{verified}");
        let wants_key = audit(&genie, &["verify", "--export", &export, "--heads", &kept])
            .await
            .unwrap_err();
        assert!(wants_key.contains("--key"), "{wants_key}");

        // Changes one byte in the file of rows.
        let file = std::fs::read_dir(&export)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let file = file.filter(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("log-")
        });
        let file = file.min().expect("the export has a file of rows");
        let mut bytes = std::fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        let broken = audit(&genie, &["verify", "--export", &export])
            .await
            .unwrap_err();
        assert!(
            broken.contains(file.file_name().unwrap().to_str().unwrap()),
            "{broken}"
        );
    }
);
