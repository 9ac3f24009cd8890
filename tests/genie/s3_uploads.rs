//! Uploads in a bucket instead of the blob store's folder. An S3 server runs in this process: the
//! crates `s3s` and `s3s-fs` check each signature and keep objects as files.

use std::path::Path;

use genie_log::testing::{TestStore, both_stores};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use s3s_fs::FileSystem;
use serde_json::json;
use tokio::{net::TcpListener, task::JoinSet};

use crate::{
    onboarding::{MIB, noise, objects, rows, send_half, two, upload, zip},
    test_genie::TestGenie,
    until::until,
};

const SECRET_KEY: &str = "the bucket's secret key";

struct Bucket {
    address: String,
    connections: tokio::task::JoinHandle<()>,
}

impl Bucket {
    async fn start(folder: &Path, address: &str) -> Self {
        std::fs::create_dir_all(folder.join("uploads")).unwrap();
        let mut service = S3ServiceBuilder::new(FileSystem::new(folder).unwrap());
        service.set_auth(SimpleAuth::from_single("genie", SECRET_KEY));
        let service = service.build().into_shared();
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let connections = tokio::spawn(async move {
            let mut open = JoinSet::new(); // connections close when this task ends
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let service = service.clone();
                open.spawn(async move {
                    let _ = Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(socket), service)
                        .await;
                });
            }
        });
        Self {
            address,
            connections,
        }
    }

    async fn stop(&mut self) {
        self.connections.abort();
        let _ = (&mut self.connections).await;
    }

    fn settings(&self, secret_key: &str) -> Vec<(&'static str, String)> {
        vec![
            ("GENIE_BLOBS_URL", "s3://uploads/of/genie".into()),
            ("AWS_ENDPOINT", format!("http://{}", self.address)),
            ("AWS_ALLOW_HTTP", "true".into()),
            ("AWS_REGION", "us-east-1".into()),
            ("AWS_ACCESS_KEY_ID", "genie".into()),
            ("AWS_SECRET_ACCESS_KEY", secret_key.into()),
        ]
    }
}

both_stores!(
    uploads_go_through_a_bucket_and_broken_ones_leave_nothing_there,
    async |store: TestStore| {
        let folder = store.folder().join("blobs");
        let mut bucket = Bucket::start(&folder, "127.0.0.1:0").await;
        let mut genie = TestGenie::start_with(store, &bucket.settings(SECRET_KEY)).await;
        let (_, ada) = two(&mut genie).await;

        drop(send_half(&genie, &ada).await);
        until("the broken upload to be deleted", async || {
            objects(&genie).is_empty().then_some(())
        })
        .await;
        assert_eq!(rows(&genie).await, 0);

        let archive = zip(
            "posts/1.json",
            &[b"a canary in the clear ".repeat(50), noise(2 * MIB)].concat(),
        );
        bucket.stop().await;
        upload(&genie, &ada, &archive)
            .await
            .refused(503, "blob_store_away");
        let mut bucket = Bucket::start(&folder, &bucket.address).await;

        let uploaded = upload(&genie, &ada, &archive).await.ok();
        let kept = objects(&genie);
        assert_eq!((kept.len(), rows(&genie).await), (3, 1));
        for object in kept {
            assert!(
                object.starts_with(folder.join("uploads/of/genie").join(&ada.id)),
                "{object:?}"
            );
            let bytes = std::fs::read(object).unwrap();
            assert!(
                !bytes.windows(12).any(|window| window == b"posts/1.json"),
                "sealed"
            );
        }
        let file = format!(
            "{}/api/files/{}",
            genie.base,
            uploaded["fileId"].as_str().unwrap()
        );
        let download = || genie.http.get(&file).bearer_auth(&ada.token).send();
        assert!(
            download().await.unwrap().bytes().await.unwrap() == archive,
            "the download must have the same bytes"
        );
        bucket.stop().await;
        assert_eq!(download().await.unwrap().status(), 503);
    }
);

both_stores!(
    a_bucket_that_refuses_the_key_stores_nothing,
    async |store: TestStore| {
        let bucket = Bucket::start(&store.folder().join("blobs"), "127.0.0.1:0").await;
        let mut genie = TestGenie::start_with(store, &bucket.settings("another key")).await;
        let (_, ada) = two(&mut genie).await;
        let refused = upload(&genie, &ada, &zip("a", b"text"))
            .await
            .refused(503, "blob_store_away");
        assert!(!refused.to_string().contains("another key"), "{refused}");
        assert_eq!((objects(&genie).len(), rows(&genie).await), (0, 0));
        assert_eq!(
            ada.get(&genie, "/api/onboarding/state").await.ok()["state"],
            json!("DATA_COLLECTION")
        );
    }
);
