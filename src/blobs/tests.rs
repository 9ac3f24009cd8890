use futures_util::TryStreamExt;
use genie_events::{
    Event, Metadata, StreamId, StreamKind, Timestamp, account::AccountEvent, file::NewFile,
};
use genie_log::{
    AppendRequest, Group, NewFact,
    testing::{TestStore, both_stores},
};
use rawzip::ReaderAt;

use super::*;

struct Site {
    store: TestStore,
    log: Log,
    blobs: Blobs,
    ada: UserId,
    keys: Arc<UserKeys>,
}

impl Site {
    async fn new(store: TestStore) -> Self {
        let log = store.open().await.log;
        let blobs = Blobs::open(
            log.clone(),
            BlobLocation::Folder(store.folder().join("blobs")),
            0,
        )
        .unwrap();
        let ada = store.register(&log, "ada").await;
        let keys = log.keys().live(ada).await.unwrap();
        Self {
            store,
            log,
            blobs,
            ada,
            keys,
        }
    }

    async fn write(&self, bytes: &[u8]) -> Upload {
        let mut upload = self.blobs.upload(self.ada, Arc::clone(&self.keys));
        for piece in bytes.chunks(300_000) {
            upload.write(piece).await.unwrap();
        }
        upload.finish().await.unwrap();
        upload
    }

    /// Appends Ada's fact number `n` with the upload's row.
    async fn keep(&self, upload: Upload, n: u64) -> Blob {
        let id = upload.id();
        let file = NewFile {
            file_name: "name".into(),
            bytes: upload.size(),
            mime: "application/zip".into(),
            sha256: "00".into(),
            job: None,
            width: None,
            height: None,
            duration: None,
        };
        let work = upload.row(&file, self.store.clock.now());
        let stream = StreamId::new(StreamKind::Account, self.ada);
        let fact = NewFact {
            stream,
            sequence: n,
            event: Event::Account(AccountEvent::SignedIn),
        };
        let groups = vec![Group::of_user(self.ada, n - 1, vec![fact])];
        genie_log::testing::append(
            &self.log,
            AppendRequest {
                groups,
                work: vec![work],
                metadata: Metadata::system(),
                remember: None,
            },
        )
        .await
        .unwrap();
        upload.keep();
        self.log.blobs().get(id).await.unwrap().unwrap()
    }

    async fn read(&self, blob: &Blob) -> Result<Vec<u8>, BlobError> {
        let parts: Vec<Bytes> = self
            .blobs
            .read(blob, Arc::clone(&self.keys), 0..blob.size)
            .try_collect()
            .await?;
        Ok(parts.concat())
    }

    /// True while the store knows of the upload that it has begun and is no file.
    async fn begun(&self, upload: &Upload) -> bool {
        let uploads = self.log.blobs().uploads_of(self.ada, None).await.unwrap();
        uploads.iter().any(|begun| begun.file == upload.id())
    }

    async fn sweep(&self) -> usize {
        let now = self.store.clock.now();
        self.blobs.sweep_expired(now).await.unwrap()
    }

    /// The paths of all files in the folder, sorted.
    fn objects(&self) -> Vec<PathBuf> {
        let root = self.store.folder().join("blobs");
        let under = |folder: PathBuf| {
            let entries = fs::read_dir(folder).into_iter().flatten();
            entries.map(|entry| entry.unwrap().path())
        };
        let mut found: Vec<_> = under(root).flat_map(under).flat_map(under).collect();
        found.sort();
        found
    }
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n % 251) as u8).collect()
}

both_stores!(
    written_bytes_are_read_back_and_are_stored_encrypted,
    async |store: TestStore| {
        let site = Site::new(store).await;
        for length in [0, 1, PART, PART + 1] {
            let wanted = bytes(length);
            let upload = site.write(&wanted).await;
            let reader = upload.reader();
            let wanted_here = wanted.clone();
            tokio::task::spawn_blocking(move || {
                for offset in [
                    0,
                    length / 2,
                    length.saturating_sub(1),
                    length,
                    length + 1,
                    PART - 1,
                    PART,
                    0,
                ] {
                    let mut buffer = vec![0; 100];
                    let rest = wanted_here.get(offset..).unwrap_or_default();
                    let read = reader.read_at(&mut buffer, offset as u64).unwrap();
                    assert!(read > 0 || rest.is_empty(), "{offset} of {length}");
                    assert_eq!(buffer[..read], rest[..read], "{offset} of {length}");
                }
            })
            .await
            .unwrap();
            upload.discard().await;
            assert_eq!(site.objects(), [] as [PathBuf; 0]);
        }
        let blob = site.keep(site.write(&bytes(2 * PART + 5)).await, 2).await;
        assert_eq!(site.read(&blob).await.unwrap(), bytes(2 * PART + 5));
        let plain = bytes(64);
        for object in site.objects() {
            let sealed = fs::read(object).unwrap();
            assert!(
                !sealed[..sealed.len().min(10_000)]
                    .windows(64)
                    .any(|window| window == plain)
            );
        }
    }
);

both_stores!(
    moved_cut_or_lost_parts_are_not_read,
    async |store: TestStore| {
        let site = Site::new(store).await;
        let blob = site.keep(site.write(&bytes(2 * PART + 5)).await, 2).await;
        let objects = site.objects();
        let kept: Vec<Vec<u8>> = objects
            .iter()
            .map(|object| fs::read(object).unwrap())
            .collect();
        let damaged = async || {
            assert!(matches!(
                site.read(&blob).await,
                Err(BlobError::Damaged { .. })
            ))
        };
        fs::write(&objects[0], &kept[1]).unwrap();
        damaged().await;
        fs::write(&objects[0], &kept[0]).unwrap();
        fs::write(&objects[1], &kept[1][..1000]).unwrap();
        damaged().await;
        fs::remove_file(&objects[1]).unwrap();
        damaged().await;
        fs::write(&objects[1], &kept[1]).unwrap();
        assert!(site.read(&blob).await.is_ok());
        // The row states a smaller size than the file has.
        site.store
            .tamper(&format!("UPDATE blobs SET size = {}", 2 * PART))
            .await;
        let shorter = site.log.blobs().get(blob.id).await.unwrap().unwrap();
        assert!(matches!(
            site.read(&shorter).await,
            Err(BlobError::Damaged { .. })
        ));
    }
);

both_stores!(
    all_files_of_a_user_are_deleted_and_none_of_others,
    async |store: TestStore| {
        let site = Site::new(store).await;
        let bob = site.store.register(&site.log, "bob").await;
        let blob = site.keep(site.write(&bytes(PART + 5)).await, 2).await;
        let under_way = site.write(&bytes(5)).await;
        let mut his = site
            .blobs
            .upload(bob, site.log.keys().live(bob).await.unwrap());
        his.write(b"his").await.unwrap();
        his.finish().await.unwrap();
        assert_eq!(site.objects().len(), 4);
        site.blobs.delete_of(site.ada).await.unwrap();
        site.blobs.delete_of(site.ada).await.unwrap();
        assert_eq!(site.objects().len(), 1);
        assert_eq!(site.log.blobs().get(blob.id).await.unwrap(), None);
        assert!(site.begun(&under_way).await, "the sweep looks once more");
        under_way.discard().await;
        his.keep();

        // A crash after the rows were doomed: the sweep continues.
        let blob = site.keep(site.write(&bytes(5)).await, 3).await;
        site.log.blobs().doom_of_user(site.ada).await.unwrap();
        site.blobs.sweep_expired(Timestamp(0)).await.unwrap();
        assert_eq!(site.objects().len(), 1);
        assert!(
            site.log
                .blobs()
                .known(vec![blob.id])
                .await
                .unwrap()
                .is_empty()
        );
    }
);

both_stores!(
    the_sweep_deletes_uploads_that_broke_off_and_nothing_else,
    async |store: TestStore| {
        let site = Site::new(store).await;
        let kept = site.keep(site.write(&bytes(PART + 5)).await, 2).await;
        let discarded = site.write(&bytes(5)).await;
        discarded.discard().await;
        let broken = site.write(&bytes(PART + 5)).await;
        site.store.clock.advance_millis(25 * 3600 * 1000);
        let under_way = site.write(&bytes(5)).await;
        let root = site.store.folder().join("blobs");
        let staged = root.join(format!("{}/{}/00000009#1", site.ada, broken.id()));
        fs::write(&staged, b"half a part").unwrap();
        // Another installation keeps a file of the same user, whom one Directus gave to both.
        let others = BlobId(site.store.clock.new_uuid());
        let others = root.join(format!("{}/{others}/00000000", site.ada));
        fs::create_dir_all(others.parent().unwrap()).unwrap();
        fs::write(&others, b"of another installation").unwrap();
        let stranger = root.join("not/ours/readme");
        fs::create_dir_all(stranger.parent().unwrap()).unwrap();
        fs::write(&stranger, b"x").unwrap();

        assert_eq!(site.sweep().await, 1);
        assert!(!staged.exists() && stranger.exists() && others.exists());
        assert_eq!(site.objects().len(), 5, "{:?}", site.objects());
        assert!(site.read(&kept).await.is_ok());
        assert!(!site.begun(&broken).await && site.begun(&under_way).await);
        assert_eq!(site.sweep().await, 0);
        site.blobs.delete_of(site.ada).await.unwrap();
        assert!(
            others.exists(),
            "forgetting deletes only what this log wrote"
        );
        for upload in [broken, under_way] {
            upload.keep();
        }
    }
);

both_stores!(
    nothing_is_swept_in_the_blob_store_of_another_log,
    async |store: TestStore| {
        let site = Site::new(store).await;
        let marker = site.store.folder().join("blobs/.genie-log");
        assert_eq!(
            site.blobs.owner().await.unwrap(),
            sweep::StoreOwner::ThisLog
        );
        let mine = fs::read_to_string(&marker).unwrap();
        assert_eq!(mine, site.log.hashes().log_name());
        let broken = site.write(&bytes(5)).await;
        site.store.clock.advance_millis(25 * 3600 * 1000);
        for other in [
            "genie/00112233445566778899aabbccddeeff",
            "",
            &"x".repeat(5000),
        ] {
            fs::write(&marker, other).unwrap();
            assert_eq!(site.sweep().await, 0);
            assert_eq!(site.objects().len(), 1);
            assert_eq!(
                fs::read_to_string(&marker).unwrap(),
                other,
                "it is left alone"
            );
        }
        fs::write(&marker, mine).unwrap();
        assert_eq!(site.sweep().await, 1);
        assert_eq!(site.objects().len(), 0);
        broken.keep();
    }
);
