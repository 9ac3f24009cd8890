use std::{sync::Arc, time::Duration};

use genie_events::{
    Change, CredentialId, Event, Metadata, PlatformName, StreamId, StreamKind,
    account::AccountEvent,
    credential::{CredentialEvent, CredentialKind, SealedSecret},
};
use sqlx::Row;

use super::*;
use crate::secrets::SecretRow;
use crate::{
    AppendRequest, Group, NewFact, Opened,
    keys::sha256_hex,
    testing::{Kind, TestStore, both_stores},
};

fn sealed_bytes(work: &Work) -> Vec<u8> {
    let Work::Secret(SecretRow::Put { sealed, .. }) = work else {
        panic!("{work:?}")
    };
    sealed.clone()
}

fn name(user: UserId, id: u128, version: u32) -> SecretName {
    SecretName {
        user,
        secret_id: Uuid::from_u128(id).to_string(),
        kind: "profile",
        version,
    }
}

both_stores!(
    a_secret_opens_for_its_own_name_and_key_only,
    async |store: TestStore| {
        let opened = store.open().await;
        let (user, other) = (
            store.register(&opened.log, "ada").await,
            store.register(&opened.log, "bob").await,
        );
        let mine = name(user, 1, 1);
        let (key, others) = (
            opened.vault.key(user).await.unwrap(),
            opened.vault.key(other).await.unwrap(),
        );
        let sealed = sealed_bytes(&key.seal(&mine, b"hunter2"));
        assert_eq!(key.open(&mine, &sealed).unwrap().as_slice(), b"hunter2");

        let refused = |key: &VaultKey, name: &SecretName| key.open(name, &sealed).unwrap_err();
        assert_eq!(
            refused(&others, &name(other, 1, 1)),
            CantOpen::OtherKey,
            "of another user, with that user's key"
        );
        assert_eq!(
            refused(&key, &name(other, 1, 1)),
            CantOpen::Changed,
            "of another user, with the same key"
        );
        assert_eq!(
            refused(&key, &name(user, 2, 1)),
            CantOpen::Changed,
            "of another credential"
        );
        assert_eq!(
            refused(&key, &name(user, 1, 2)),
            CantOpen::Changed,
            "of another version"
        );
        assert_eq!(
            refused(
                &key,
                &SecretName {
                    kind: "session",
                    ..mine.clone()
                }
            ),
            CantOpen::Changed,
            "of another kind"
        );
        assert!(
            opened.vault.open(&mine).await.unwrap().is_none(),
            "sealed, but not yet appended"
        );
    }
);

#[test]
fn a_keys_id_is_part_of_the_sealed_bytes() {
    let mine = name(UserId(Uuid::from_u128(7)), 1, 1);
    let keys = [8, 9].map(|id| SealingKey::derive(Uuid::from_u128(id), &[1; 32], "vault"));
    let own = keys[0].seal(&[7; 32], &mine.place("key", &keys[0]));
    assert!(keys[0].open(&own, &mine.place("key", &keys[0])).is_ok());
    assert_eq!(
        keys[1]
            .open(&own, &mine.place("key", &keys[1]))
            .unwrap_err(),
        CantOpen::Changed,
        "the same root key with another id"
    );
}

both_stores!(
    any_flipped_bit_any_cut_and_any_other_form_is_refused,
    async |store: TestStore| {
        let opened = store.open().await;
        let user = store.register(&opened.log, "ada").await;
        let name = name(user, 1, 1);
        let key = opened.vault.key(user).await.unwrap();
        let sealed = sealed_bytes(&key.seal(&name, b"hunter2"));
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(key.open(&name, &flipped).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(
                key.open(&name, &sealed[..length]).is_err(),
                "cut to {length} bytes"
            );
        }
        assert!(
            key.open(&name, &[&sealed[..], b"x"].concat()).is_err(),
            "longer than it was"
        );
        let mut unknown = sealed.clone();
        unknown[2] = 9; // The form's version stands after the length of the wrapped key.
        assert_eq!(key.open(&name, &unknown).unwrap_err(), CantOpen::Form);
    }
);

/// Appends an event of a credential, with its working row.
async fn append(opened: &Opened, user: UserId, event: CredentialEvent, sequence: u64, work: Work) {
    let change = Change::new(CredentialId(Uuid::from_u128(1)), Event::from(event));
    let fact = NewFact {
        stream: change.stream,
        sequence,
        event: change.event,
    };
    let after = opened.log.reader().user_seq(user).await.unwrap();
    let groups = vec![Group::of_user(user, after, vec![fact])];
    let append = AppendRequest {
        groups,
        work: vec![work],
        metadata: Metadata::system(),
        remember: None,
    };
    crate::testing::append(&opened.log, append).await.unwrap();
}

async fn store_version(opened: &Opened, user: UserId, version: u32) -> Vec<u8> {
    let key = opened.vault.key(user).await.unwrap();
    let work = key.seal(
        &name(user, 1, version),
        format!("hunter{version}").as_bytes(),
    );
    let bytes = sealed_bytes(&work);
    let sealed = SealedSecret {
        version,
        hash: sha256_hex(&bytes),
    };
    let event = match version {
        1 => {
            let kind = CredentialKind::Profile;
            let platform = PlatformName::read("x").unwrap();
            CredentialEvent::Stored {
                kind,
                platform,
                platform_username: None,
                expires_at: None,
                sealed,
            }
        }
        _ => CredentialEvent::Changed {
            platform_username: None,
            expires_at: None,
            sealed,
        },
    };
    append(opened, user, event, u64::from(version), work).await;
    bytes
}

/// True when the bytes are in the table, or anywhere in SQLite's files. A page may cut them in two,
/// so a piece from their middle is searched for; finding it alone is enough.
async fn is_anywhere(store: &TestStore, opened: &Opened, sealed: &[u8]) -> bool {
    let rows = sqlx::query("SELECT sealed FROM secrets")
        .fetch_all(opened.log.store().reads())
        .await
        .unwrap();
    let in_table = rows
        .iter()
        .any(|row| row.get::<Vec<u8>, _>("sealed") == sealed);
    let piece = &sealed[sealed.len() / 2..][..48];
    let in_files = store.database_url().is_none()
        && ["genie.db", "genie.db-wal"].iter().any(|file| {
            let bytes = std::fs::read(store.folder().join(file)).unwrap_or_default();
            bytes.windows(piece.len()).any(|window| window == piece)
        });
    in_table || in_files
}

async fn wait_until_gone(store: &TestStore, opened: &Opened, sealed: &[u8]) {
    let gone = async {
        while is_anywhere(store, opened, sealed).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone)
        .await
        .expect("the old bytes are gone within 30 s");
}

both_stores!(
    replaced_and_removed_secrets_are_gone_from_the_table_and_from_sqlites_files,
    async |store: TestStore| {
        let opened = store.open().await;
        let user = store.register(&opened.log, "ada").await;
        let first = store_version(&opened, user, 1).await;
        assert!(
            is_anywhere(&store, &opened, &first).await,
            "a stored secret is found"
        );
        let second = store_version(&opened, user, 2).await;
        wait_until_gone(&store, &opened, &first).await;
        assert!(
            is_anywhere(&store, &opened, &second).await,
            "a stored secret is found"
        );
        assert_eq!(
            opened
                .vault
                .open(&name(user, 1, 2))
                .await
                .unwrap()
                .unwrap()
                .as_slice(),
            b"hunter2"
        );

        let delete = Work::Secret(SecretRow::Delete {
            secret_id: name(user, 1, 2).secret_id,
        });
        append(&opened, user, CredentialEvent::Removed, 3, delete).await;
        assert!(
            opened
                .vault
                .open(&name(user, 1, 2))
                .await
                .unwrap()
                .is_none()
        );
        wait_until_gone(&store, &opened, &second).await;
    }
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_a_killed_process_left_in_sqlites_files_are_gone_after_the_next_start() {
    let store = TestStore::new(Kind::Sqlite).await;
    let opened = store.open().await;
    let user = store.register(&opened.log, "ada").await;
    let first = store_version(&opened, user, 1).await;
    // A reader within a transaction keeps the write-ahead log, as a killed process does.
    let mut reader = opened.log.store().reads().begin().await.unwrap();
    sqlx::query("SELECT * FROM secrets")
        .fetch_all(&mut *reader)
        .await
        .unwrap();
    store_version(&opened, user, 2).await;
    assert!(
        !opened.log.store().scrub().await.unwrap(),
        "the reader keeps the log"
    );
    assert!(is_anywhere(&store, &opened, &first).await);
    reader.rollback().await.unwrap();
    let next = store.open().await;
    wait_until_gone(&store, &next, &first).await;
}

both_stores!(
    many_secrets_are_read_together_and_each_opens_as_itself,
    async |store: TestStore| {
        let Opened { log, vault, .. } = store.open().await;
        let mut names = Vec::new();
        for n in 0..40 {
            let user = store.register(&log, &format!("u{n}")).await;
            for version in 1..=2 {
                let name = SecretName {
                    user,
                    secret_id: format!("secret-{n}"),
                    kind: "profile",
                    version,
                };
                let work = vec![
                    vault
                        .key(user)
                        .await
                        .unwrap()
                        .seal(&name, format!("{n}/{version}").as_bytes()),
                ];
                let event = Event::Account(AccountEvent::SignedIn);
                let sequence = u64::from(version) + 1;
                let fact = NewFact {
                    stream: StreamId::new(StreamKind::Account, user),
                    sequence,
                    event,
                };
                let groups = vec![Group::of_user(user, sequence - 1, vec![fact])];
                crate::testing::append(
                    &log,
                    AppendRequest {
                        groups,
                        work,
                        metadata: Metadata::system(),
                        remember: None,
                    },
                )
                .await
                .unwrap();
            }
            names.push(SecretName {
                user,
                secret_id: format!("secret-{n}"),
                kind: "profile",
                version: 2,
            });
        }
        let vault = Arc::new(vault);
        // Each name twice at once, and as many names that are not stored: of another user, of an
        // old version.
        let others = names
            .iter()
            .map(|name| SecretName {
                user: names[0].user,
                ..name.clone()
            })
            .skip(1);
        let old = names.iter().map(|name| SecretName {
            version: 1,
            ..name.clone()
        });
        let wrong: Vec<_> = others.chain(old).collect();
        let mut opening = tokio::task::JoinSet::new();
        for (n, name) in names
            .iter()
            .chain(&wrong)
            .chain(&names)
            .cloned()
            .enumerate()
        {
            let vault = Arc::clone(&vault);
            opening.spawn(async move { (n, vault.open(&name).await.unwrap()) });
        }
        for (n, opened) in opening.join_all().await {
            let n = n.checked_sub(names.len() + wrong.len()).unwrap_or(n);
            let wanted = (n < names.len()).then(|| format!("{n}/2").into_bytes());
            assert_eq!(opened.map(|opened| opened.to_vec()), wanted);
        }
        let user = names[7].user;
        let secret = "secret-7";
        assert_eq!(
            vault
                .open_held(user, secret, "profile")
                .await
                .unwrap()
                .map(|(version, _)| version),
            Some(2)
        );

        // A secret that was fetched before its owner was forgotten does not answer a later fetch.
        store
            .try_sql(&format!(
                "UPDATE user_keys SET state = 'destroyed', wrapped = NULL WHERE user_id = '{user}'"
            ))
            .await
            .unwrap();
        assert!(matches!(
            vault.open(&names[7]).await,
            Err(LogError::KeyAbsent { .. })
        ));
        assert!(matches!(
            vault.key(user).await,
            Err(LogError::KeyAbsent { .. })
        ));
    }
);
