//! Exports and imports, on both stores and in both directions.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use genie_events::{Event, Metadata, StreamId, StreamKind, UserId, account::AccountEvent};
use genie_log::leases::LeaseRow;
use genie_log::secrets::SecretRow;
use genie_log::sessions::SessionRow;
use genie_log::{
    AppendRequest, Export, Group, Log, LogError, MasterKeys, NewFact, Opened, Owner, TransferError,
    Work, export,
    export::Exported,
    import,
    import::Imported,
    leases::LeaseKind,
    sessions::NewSession,
    testing::{Kind, TestStore, both_stores},
};
use secrecy::SecretString;
use sqlx::Row;

fn passphrase() -> SecretString {
    SecretString::from("correct horse battery")
}

fn folder(store: &TestStore) -> PathBuf {
    store.folder().join("export")
}

async fn exported(log: &Log, dir: &Path) -> Exported {
    export(log, dir, &passphrase()).await.unwrap()
}

async fn imported(store: &TestStore, masters: &str, dir: &Path) -> Result<Imported, TransferError> {
    let export = Export::open(dir, &passphrase())?;
    import(&store.target, &MasterKeys::parse(masters).unwrap(), &export).await
}

/// Appends `count` facts of a user.
async fn sign_in(log: &Log, user: UserId, after: u64, count: u64, work: Vec<Work>) {
    let facts = (after + 1..=after + count)
        .map(|sequence| {
            let event = Event::Account(AccountEvent::SignedIn);
            NewFact {
                stream: StreamId::new(StreamKind::Account, user),
                sequence,
                event,
            }
        })
        .collect();
    let group = Group {
        owner: Owner::User(user),
        after,
        facts,
        keys: None,
    };
    genie_log::testing::append(
        log,
        AppendRequest {
            groups: vec![group],
            work,
            metadata: Metadata::system(),
            remember: None,
        },
    )
    .await
    .unwrap();
}

/// A log with rows in every table that an export carries.
async fn filled(store: &TestStore) -> Log {
    let log = store.open().await.log;
    let ada = store.register(&log, "ada").await;
    let bob = store.register(&log, "bob").await;
    let turn = store.clock.new_uuid().to_string();
    let expires_at = store.clock.now();
    let work = vec![
        Work::Secret(SecretRow::Put {
            user: ada,
            secret_id: "s".into(),
            version: 3,
            sealed: vec![0, 1, 255],
        }),
        Work::Session(SessionRow::Open(NewSession {
            user: ada,
            family: "f".into(),
            token_hash: "t".into(),
            agent_sealed: Some(vec![0, 255]),
            now: expires_at,
            expires_at,
        })),
        Work::Lease(LeaseRow::Put {
            kind: LeaseKind::Turn,
            id: turn.clone(),
            user: ada,
            stream_id: "c".into(),
            holder: "h".into(),
            expires_at,
        }),
    ];
    sign_in(&log, ada, 1, 600, work).await;
    sign_in(&log, bob, 1, 700, vec![]).await;
    for sql in [
        format!(
            "INSERT INTO journal (turn_id, upto, user_id, sealed) VALUES ('{turn}', 1, '{ada}', {})",
            blob(store)
        ),
        format!(
            "INSERT INTO journal (turn_id, upto, user_id, sealed) VALUES ('over', 1, '{ada}', {})",
            blob(store)
        ),
        format!(
            "INSERT INTO idempotency VALUES ('k', '{ada}', 'r', 'e', 1, {}, 1)",
            blob(store)
        ),
        format!(
            "UPDATE user_keys SET state = 'destroyed', wrapped = NULL, destroyed_at = 5 WHERE user_id = '{bob}'"
        ),
    ] {
        store.try_sql(&sql).await.unwrap();
    }
    log
}

fn blob(store: &TestStore) -> &'static str {
    match store.kind {
        Kind::Sqlite => "x'00ff'",
        Kind::Postgres => "'\\x00ff'::bytea",
    }
}

/// Asserts that both logs hold the same, without printing all of it.
async fn assert_same(one: &Log, other: &Log) {
    let (one, other) = (contents(one).await, contents(other).await);
    for (table, rows) in &one {
        assert!(!rows.is_empty(), "{table} has no rows");
        assert_eq!(rows.len(), other[table].len(), "{table}");
        if let Some((one, other)) = rows
            .iter()
            .zip(&other[table])
            .find(|(one, other)| one != other)
        {
            panic!("{table}: {one}, but the other has {other}");
        }
    }
}

/// Everything that an export carries, as text.
async fn contents(log: &Log) -> BTreeMap<String, Vec<String>> {
    let mut contents = BTreeMap::new();
    let mut rows = Vec::new();
    while let Ok(page) = log.reader().rows(rows.len() as u64, 1000).await
        && !page.is_empty()
    {
        rows.extend(page.into_iter().map(|row| format!("{row:?}")));
    }
    contents.insert("events".to_owned(), rows);
    for (table, columns) in [
        (
            "user_keys",
            "user_id, key_id, master_id, wrapped, state, destroyed_at",
        ),
        ("secrets", "secret_id, version, user_id, sealed"),
        ("sessions", "token_hash, family, user_id, expires_at"),
        (
            "leases",
            "kind, id, user_id, stream_id, holder, expires_at, cancelled, progress",
        ),
        ("journal", "turn_id, upto, user_id, sealed"),
        (
            "idempotency",
            "key_hash, user_id, request_hash, fact_owner, fact_seq, sealed",
        ),
    ] {
        let filter = if table == "journal" {
            "WHERE turn_id <> 'over'"
        } else {
            ""
        };
        let sql = format!("SELECT {columns} FROM {table} {filter}");
        let rows = sqlx::query(&sql)
            .fetch_all(log.store().reads())
            .await
            .unwrap();
        let cell = |row: &sqlx::any::AnyRow, n: usize| {
            let text = row
                .try_get::<Option<String>, _>(n)
                .map(|value| format!("{value:?}"));
            let number = || {
                row.try_get::<Option<i64>, _>(n)
                    .map(|value| format!("{value:?}"))
            };
            let bytes = || {
                row.try_get::<Option<Vec<u8>>, _>(n)
                    .map(|value| format!("{value:?}"))
            };
            text.or_else(|_| number()).or_else(|_| bytes()).unwrap()
        };
        let line = |row| {
            (0..sqlx::Row::len(row))
                .map(|n| cell(row, n))
                .collect::<Vec<_>>()
                .join(" ")
        };
        let mut lines: Vec<String> = rows.iter().map(line).collect();
        lines.sort_unstable(); // The stores sort NULL differently.
        contents.insert(format!("{table} {columns}"), lines);
    }
    contents
}

/// Closes a store as the end of a process does: all connections are gone, even those of a pool that
/// is still closing.
async fn ended(store: &TestStore, opened: Opened) {
    opened.log.store().close().await;
    drop(opened);
    if store.kind == Kind::Postgres {
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND application_name = 'genie'";
        store.try_sql(sql).await.unwrap();
    }
}

async fn other(store: &TestStore) -> TestStore {
    TestStore::new(match store.kind {
        Kind::Sqlite => Kind::Postgres,
        Kind::Postgres => Kind::Sqlite,
    })
    .await
}

both_stores!(
    every_row_and_table_arrives_in_the_other_store_and_returns,
    async |store: TestStore| {
        let log = filled(&store).await;
        let dir = folder(&store);
        assert_eq!(exported(&log, &dir).await, Exported { head: 1302, had: 0 });
        let there = other(&store).await;
        let done = imported(&there, store.masters(), &dir).await.unwrap();
        assert_eq!(done, Imported { head: 1302, had: 0 });
        let copy = there.open_with(store.masters()).await.unwrap().log;
        assert_same(&copy, &log).await;
        assert!(
            there
                .try_sql("UPDATE events SET sequence = 9")
                .await
                .is_err(),
            "the imported log is append-only"
        );

        let back_dir = folder(&there);
        exported(&copy, &back_dir).await;
        let back = TestStore::new(store.kind).await;
        imported(&back, store.masters(), &back_dir).await.unwrap();
        let back = back.open_with(store.masters()).await.unwrap().log;
        assert_same(&back, &log).await;
        // It is the same log, for ledgers and blob stores, too; another one has another name.
        for same in [&copy, &back] {
            assert_eq!(same.hashes().log_name(), log.hashes().log_name());
        }
        let another = TestStore::new(store.kind).await.open().await.log;
        assert_ne!(another.hashes().log_name(), log.hashes().log_name());
        // The next append gets the next position.
        let user = store.register(&back, "eve").await;
        assert_eq!(
            back.reader().user_rows(user, 0).await.unwrap()[0].position,
            1303
        );
    }
);

both_stores!(
    exports_and_imports_continue_where_the_last_one_ended,
    async |store: TestStore| {
        let log = filled(&store).await;
        let dir = folder(&store);
        exported(&log, &dir).await;
        let there = other(&store).await;
        imported(&there, store.masters(), &dir).await.unwrap();
        // A run broke off: it left a file without its name, and segments beyond the newest tables.
        fs::write(dir.join("log-1303.part"), "half").unwrap();
        store.register(&log, "cyd").await;
        let older = dir.join(format!("tables-{:020}.sealed", 1302));
        let older_bytes = fs::read(&older).unwrap();
        exported(&log, &dir).await;
        assert!(!older.exists());
        let tables = dir.join(format!("tables-{:020}.sealed", 1303));
        fs::rename(&tables, dir.join("away")).unwrap();
        assert!(
            matches!(
                Export::open(&dir, &passphrase()),
                Err(TransferError::File { .. })
            ),
            "a folder without tables is not an export"
        );
        // Rows beyond the newest tables are not part of the export yet.
        fs::write(&older, older_bytes).unwrap();
        let open = Export::open(&dir, &passphrase()).unwrap();
        assert_eq!((open.head(), open.rows(1300).count()), (1302, 2));
        store.register(&log, "dan").await;
        assert_eq!(
            exported(&log, &dir).await,
            Exported {
                head: 1304,
                had: 1303
            }
        );
        assert!(!dir.join("log-1303.part").exists());
        assert_eq!(
            exported(&log, &dir).await,
            Exported {
                head: 1304,
                had: 1304
            }
        );
        let names: Vec<String> = Export::open(&dir, &passphrase())
            .unwrap()
            .rows(1301)
            .map(|row| row.unwrap().position.to_string())
            .collect();
        assert_eq!(names, ["1302", "1303", "1304"]);

        assert_eq!(
            imported(&there, store.masters(), &dir).await.unwrap(),
            Imported {
                head: 1304,
                had: 1302
            }
        );
        assert_eq!(
            imported(&there, store.masters(), &dir).await.unwrap(),
            Imported {
                head: 1304,
                had: 1304
            }
        );
        let copy = there.open_with(store.masters()).await.unwrap().log;
        assert_same(&copy, &log).await;
    }
);

both_stores!(
    an_import_that_broke_off_continues_and_no_server_starts_before_its_end,
    async |store: TestStore| {
        let log = filled(&store).await;
        let dir = folder(&store);
        exported(&log, &dir).await;
        // The last file is damaged: the batches before it are imported, and nothing of it.
        store.register(&log, "cyd").await;
        exported(&log, &dir).await;
        let last = dir.join(format!("log-{0:020}-{0:020}.sealed", 1303));
        let whole = fs::read(&last).unwrap();
        let mut damaged = whole.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        fs::write(&last, &damaged).unwrap();
        let there = TestStore::new(store.kind).await;
        let error = imported(&there, store.masters(), &dir).await.unwrap_err();
        assert!(
            error.to_string().contains(last.to_str().unwrap()),
            "{error}"
        );
        let begun = there.open_with(store.masters()).await.map(drop);
        assert!(
            matches!(begun, Err(LogError::ImportUnfinished)),
            "{begun:?}"
        );
        fs::write(&last, &whole).unwrap();
        assert_eq!(
            imported(&there, store.masters(), &dir).await.unwrap(),
            Imported {
                head: 1303,
                had: 1000
            }
        );
        let copy = there.open_with(store.masters()).await.unwrap().log;
        assert_same(&copy, &log).await;
    }
);

both_stores!(
    bad_input_is_refused_with_the_files_name_and_changes_nothing,
    async |store: TestStore| {
        let log = filled(&store).await;
        let dir = folder(&store);
        exported(&log, &dir).await;
        let first = dir.join(format!("log-{:020}-{:020}.sealed", 1, 1302));
        let tables = dir.join(format!("tables-{:020}.sealed", 1302));
        let there = TestStore::new(store.kind).await;

        let wrong = Export::open(&dir, &SecretString::from("something else"))
            .unwrap_err()
            .to_string();
        assert!(wrong.contains("passphrase is not the one"), "{wrong}");
        let other = imported(&there, there.masters(), &dir).await.unwrap_err();
        assert!(
            matches!(other, TransferError::Log(LogError::MasterKeyWrong { .. })),
            "{other}"
        );
        let unknown = imported(&there, &there.masters().replace("m1:", "m7:"), &dir)
            .await
            .unwrap_err();
        assert!(
            unknown.to_string().contains("master key `m1` is wanted"),
            "{unknown}"
        );

        let opened = Export::open(&dir, &passphrase()).unwrap();
        let masters = MasterKeys::parse(store.masters()).unwrap();
        for path in [&first, &tables] {
            let whole = fs::read(path).unwrap();
            for (name, bad) in [
                ("cut", whole[..whole.len() - 7].to_vec()),
                ("cut at a frame", cut_last_frame(&whole)),
                ("added", [&whole[..], b"x"].concat()),
                ("empty", vec![]),
            ] {
                fs::write(path, &bad).unwrap();
                let error = import(&there.target, &masters, &opened).await.unwrap_err();
                assert!(
                    error.to_string().starts_with(path.to_str().unwrap()),
                    "{name}: {error}"
                );
            }
            fs::write(path, &whole).unwrap();
            let elsewhere = path.with_extension("elsewhere");
            fs::rename(path, &elsewhere).unwrap();
            assert!(
                matches!(
                    Export::open(&dir, &passphrase()),
                    Err(TransferError::File { .. })
                ),
                "{} is missing",
                path.display()
            );
            fs::rename(&elsewhere, path).unwrap();
        }

        // A store with a log of its own is refused.
        let used = TestStore::new(store.kind).await;
        ended(&used, used.open().await).await;
        let error = imported(&used, store.masters(), &dir).await.unwrap_err();
        assert!(error.to_string().contains("in use by another"), "{error}");
    }
);

fn cut_last_frame(file: &[u8]) -> Vec<u8> {
    let mut at = 0;
    loop {
        let length = u32::from_be_bytes(file[at + 1..at + 5].try_into().unwrap()) as usize;
        if file[at] == 1 {
            return file[..at].to_vec();
        }
        at += 5 + length;
    }
}

both_stores!(
    a_store_that_was_used_since_stays_unchanged,
    async |store: TestStore| {
        let opened = store.open().await;
        store.register(&opened.log, "ada").await;
        let dir = folder(&store);
        exported(&opened.log, &dir).await;
        let there = TestStore::new(store.kind).await;
        imported(&there, store.masters(), &dir).await.unwrap();
        let copy = there.open_with(store.masters()).await.unwrap();
        there.register(&copy.log, "eve").await;
        ended(&there, copy).await;
        let error = imported(&there, store.masters(), &dir).await.unwrap_err();
        assert!(error.to_string().contains("used since"), "{error}");
        // Both logs continue separately.
        store.register(&opened.log, "bob").await;
        exported(&opened.log, &dir).await;
        let error = imported(&there, store.masters(), &dir).await.unwrap_err();
        assert!(
            error.to_string().contains("differ at position 2"),
            "{error}"
        );
        // Such a store cannot be exported into that folder, either.
        let copy = there.open_with(store.masters()).await.unwrap();
        let error = export(&copy.log, &dir, &passphrase()).await.unwrap_err();
        assert!(
            matches!(error, TransferError::Row { position: 2, .. }),
            "{error}"
        );
    }
);

both_stores!(
    a_damaged_row_stops_the_export_and_is_reported,
    async |store: TestStore| {
        let log = filled(&store).await;
        store
            .tamper("UPDATE events SET recorded_at = recorded_at + 1 WHERE position = 700")
            .await;
        let dir = folder(&store);
        let error = export(&log, &dir, &passphrase()).await.unwrap_err();
        assert!(error.to_string().contains("position 700"), "{error}");
        assert!(
            Export::open(&dir, &passphrase()).is_err(),
            "a half-written folder is not an export"
        );
        let log_files = fs::read_dir(&dir)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().extension().unwrap() == "sealed");
        assert_eq!(log_files.count(), 0);
    }
);

both_stores!(
    the_files_are_sealed_and_only_their_owner_may_read_them,
    async |store: TestStore| {
        use std::os::unix::fs::PermissionsExt;
        let log = filled(&store).await;
        let dir = folder(&store);
        exported(&log, &dir).await;
        assert_eq!(
            fs::metadata(&dir).unwrap().permissions().mode() & 0o777,
            0o700
        );
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            for word in ["account.signed_in", "user_keys", "battery"] {
                assert!(
                    !bytes
                        .windows(word.len())
                        .any(|window| window == word.as_bytes()),
                    "{word} in {}",
                    path.display()
                );
            }
            assert_eq!(
                fs::metadata(&path).unwrap().permissions().mode() & 0o077,
                0,
                "{}",
                path.display()
            );
        }
    }
);

both_stores!(
    an_export_of_a_busy_log_shows_one_moment,
    async |store: TestStore| {
        use std::sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        };
        let log = store.open().await.log;
        let store = Arc::new(store);
        let done = Arc::new(AtomicBool::new(false));
        let writing = tokio::spawn({
            let log = log.clone();
            let store = Arc::clone(&store);
            let done = Arc::clone(&done);
            async move {
                while !done.load(Ordering::SeqCst) {
                    // One append writes the fact and the key.
                    store.register(&log, "somebody").await;
                }
            }
        });
        let dir = folder(&store);
        let mut head = 0;
        for _ in 0..4 {
            let mut watch = log.reader().watch_head();
            watch.wait_for(|now| *now > head + 20).await.unwrap();
            head = exported(&log, &dir).await.head;
        }
        done.store(true, Ordering::SeqCst);
        writing.await.unwrap();
        let there = other(&store).await;
        imported(&there, store.masters(), &dir).await.unwrap();
        let copy = there.open_with(store.masters()).await.unwrap().log;
        let rows = copy.reader().rows(0, 1000).await.unwrap();
        assert_eq!(rows.len() as u64, head.min(1000));
        for row in &rows {
            copy.reader().open_row(row).await.unwrap(); // A missing key would be an error.
        }
        let keys: i64 = sqlx::query_scalar("SELECT count(*) FROM user_keys")
            .fetch_one(copy.store().reads())
            .await
            .unwrap();
        assert_eq!(
            keys as u64,
            head + 1,
            "a key for each user of the log and one for the system, and no newer key"
        );
    }
);

both_stores!(
    files_of_two_logs_that_diverged_are_not_mixed,
    async |store: TestStore| {
        let log = store.open().await.log;
        store.register(&log, "ada").await;
        let dir = folder(&store);
        exported(&log, &dir).await;
        // A copy of the log continues separately and is exported under the same key.
        let there = TestStore::new(store.kind).await;
        imported(&there, store.masters(), &dir).await.unwrap();
        let elsewhere = folder(&there);
        fs::create_dir(&elsewhere).unwrap();
        for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            fs::copy(entry.path(), elsewhere.join(entry.file_name())).unwrap();
        }
        let copy = there.open_with(store.masters()).await.unwrap().log;
        there.register(&copy, "eve").await;
        exported(&copy, &elsewhere).await;
        for name in ["bob", "cyd"] {
            store.register(&log, name).await;
            exported(&log, &dir).await;
        }
        let second = format!("log-{0:020}-{0:020}.sealed", 2);
        fs::copy(elsewhere.join(&second), dir.join(&second)).unwrap();
        let rows: Vec<_> = Export::open(&dir, &passphrase()).unwrap().rows(0).collect();
        assert_eq!(rows.len(), 3);
        assert!(
            matches!(rows[2], Err(TransferError::Row { position: 3, .. })),
            "{:?}",
            rows[2]
        );
    }
);
