//! Master keys: opening the store demands the needed ones, a rotation wraps all data keys by
//! another while the servers run, and a key that wraps nothing can be retired.

use genie_events::{Event, Metadata, StreamId, StreamKind, UserId, account::AccountEvent};
use genie_log::{
    AppendRequest, Group, Log, LogError, MasterKeys, NewFact, Opened,
    keys::rotation::{RotationCursor, RotationError, RotationStep},
    load_users::Waking,
    testing::{Kind, TestStore, both_stores},
};

/// The store's own ring, `m1`, with a new key before it.
fn grown(store: &TestStore) -> String {
    format!("{},{}", *MasterKeys::new_entry("m2"), store.masters())
}

fn ring(text: &str) -> MasterKeys {
    MasterKeys::parse(text).unwrap()
}

async fn wraps(log: &Log) -> Vec<(String, u64)> {
    log.keys()
        .rotation()
        .wraps()
        .await
        .unwrap()
        .into_iter()
        .map(|wraps| (wraps.master, wraps.keys))
        .collect()
}

/// Rotates to the end.
async fn rotate(log: &Log) -> RotationStep {
    let to = log.keys().rotation().begin().await.unwrap();
    let mut all = RotationStep::default();
    let mut place = RotationCursor::default();
    loop {
        let step = log.keys().rotation().rotate(&to, place).await.unwrap();
        all.wrapped += step.wrapped;
        all.unreadable.extend(step.unreadable);
        match step.next {
            Some(next) => place = next,
            None => return all,
        }
    }
}

async fn sign_in(log: &Log, user: UserId, after: u64) {
    let event = Event::Account(AccountEvent::SignedIn);
    let fact = NewFact {
        stream: StreamId::new(StreamKind::Account, user),
        sequence: after + 1,
        event,
    };
    let groups = vec![Group::of_user(user, after, vec![fact])];
    genie_log::testing::append(
        log,
        AppendRequest {
            groups,
            work: vec![],
            metadata: Metadata::system(),
            remember: None,
        },
    )
    .await
    .unwrap();
}

/// Asserts that all of a user's events can be read.
async fn reads(log: &Log, user: UserId, events: u64) {
    let Waking::Awake(awake) = log.users().wake(user).await.unwrap() else {
        panic!("forgotten")
    };
    assert_eq!(awake.user.seq(), events);
}

#[track_caller]
fn refused<T: std::fmt::Debug>(asked: Result<T, RotationError>, words: &str) {
    match asked {
        Err(RotationError::Refused(sentence)) => assert!(sentence.contains(words), "{sentence}"),
        other => panic!("not refused: {other:?}"),
    }
}

both_stores!(
    a_new_key_wraps_nothing_before_the_rotation_and_everything_after_it,
    async |store: TestStore| {
        let log = store.open().await.log;
        let ada = store.register(&log, "ada").await;
        let grown = grown(&store);
        log.keys().rings().take(ring(&grown)).await.unwrap();
        let bob = store.register(&log, "bob").await;
        assert_eq!(wraps(&log).await, [("m1".to_owned(), 3)]);
        refused(log.keys().rotation().retire("m1").await, "is current");

        assert_eq!(
            rotate(&log).await.wrapped,
            2,
            "the system's key was rewrapped before"
        );
        assert_eq!(rotate(&log).await.wrapped, 0);
        let cyd = store.register(&log, "cyd").await;
        assert_eq!(wraps(&log).await, [("m2".to_owned(), 4)]);
        log.keys().rotation().retire("m1").await.unwrap();

        let only_new = store
            .open_with(grown.split_once(',').unwrap().0)
            .await
            .unwrap();
        for user in [ada, bob, cyd] {
            reads(&only_new.log, user, 1).await;
        }
        assert_eq!(
            only_new
                .log
                .proofs()
                .head_key()
                .await
                .unwrap()
                .public()
                .to_string(),
            log.proofs().head_key().await.unwrap().public().to_string()
        );
    }
);

both_stores!(
    a_rotation_misses_nobody_while_users_register_and_read,
    async |store: TestStore| {
        let Opened { log, vault, .. } = store.open().await;
        let mut users = Vec::new();
        for n in 0..1200 {
            users.push(store.register(&log, &format!("u{n}")).await);
        }
        log.keys().rings().take(ring(&grown(&store))).await.unwrap();
        let busy = {
            let log = log.clone();
            let users = users.clone();
            let store = &store;
            async move {
                let mut new = Vec::new();
                for (n, user) in users.into_iter().take(60).enumerate() {
                    new.push(store.register(&log, &format!("new{n}")).await);
                    sign_in(&log, user, 1).await;
                    reads(&log, user, 2).await;
                }
                new
            }
        };
        let (rotated, new) = tokio::join!(rotate(&log), busy);
        // Keys of users who were registering when the current key changed.
        let late = rotate(&log).await.wrapped;
        assert_eq!(
            wraps(&log).await,
            [("m2".to_owned(), 1261)],
            "{} and {late}",
            rotated.wrapped
        );
        for user in users.iter().skip(60).chain(&new).take(300) {
            reads(&log, *user, 1).await;
            vault.key(*user).await.unwrap();
        }
    }
);

both_stores!(
    a_rotation_that_broke_off_starts_again,
    async |store: TestStore| {
        let log = store.open().await.log;
        for n in 0..5 {
            store.register(&log, &format!("u{n}")).await;
        }
        let grown = grown(&store);
        log.keys().rings().take(ring(&grown)).await.unwrap();
        // The rotation goes no further, as when its process is killed.
        log.keys().rotation().begin().await.unwrap();
        drop(log);
        let without = store
            .open_with(store.masters())
            .await
            .map(drop)
            .unwrap_err()
            .to_string();
        assert!(
            without.contains("`m2` is wanted by 1 data keys"),
            "{without}"
        );
        let log = store.open_with(&grown).await.unwrap().log;
        assert_eq!(
            wraps(&log).await,
            [("m1".to_owned(), 5), ("m2".to_owned(), 1)]
        );
        store.register(&log, "late").await;
        refused(
            log.keys().rotation().retire("m1").await,
            "5 data keys are wrapped by master key `m1`",
        );
        assert_eq!(rotate(&log).await.wrapped, 5);
        log.keys().rotation().retire("m1").await.unwrap();
    }
);

both_stores!(
    nothing_is_wrapped_by_a_retired_key_again,
    async |store: TestStore| {
        let log = store.open().await.log;
        let ada = store.register(&log, "ada").await;
        // Another server does not hear of the rotation, as if it were stopped meanwhile.
        let late = store.open().await.log;
        log.keys().rings().take(ring(&grown(&store))).await.unwrap();
        rotate(&log).await;
        let since = log.keys().rotation().retire("m1").await.unwrap();
        store.clock.advance_millis(1000);
        assert_eq!(log.keys().rotation().retire("m1").await.unwrap(), since);
        assert_eq!(
            log.keys().rotation().retired().await.unwrap(),
            [("m1".to_owned(), since)]
        );

        let stream = StreamId::new(StreamKind::Account, ada);
        let (keys, work) = late.keys().new_for(UserId(store.clock.new_uuid()));
        let fact = NewFact {
            stream,
            sequence: 2,
            event: Event::Account(AccountEvent::SignedIn),
        };
        let group = Group {
            keys: Some(keys),
            ..Group::of_user(ada, 1, vec![fact])
        };
        let append = AppendRequest {
            groups: vec![group],
            work: vec![work],
            metadata: Metadata::system(),
            remember: None,
        };
        assert!(genie_log::testing::append(&late, append).await.is_err());
        assert_eq!(wraps(&log).await, [("m2".to_owned(), 2)]);
        sign_in(&log, ada, 1).await;

        // The retired key cannot come back as the first of a ring, either.
        let back = format!("{},{}", store.masters(), *MasterKeys::new_entry("m3"));
        let late_ring = late.keys().rings().take(ring(&back)).await;
        assert!(
            matches!(late_ring, Err(LogError::MasterKeysMissing(wanted)) if wanted.contains("`m2` is wanted by 2"))
        );
        assert_eq!(late.keys().rings().follow_current().await.unwrap(), "m2");
        assert_eq!(late.keys().lacking_master().as_deref(), Some("m2"));
    }
);

both_stores!(
    a_ring_with_a_missing_or_wrong_key_is_refused_at_opening,
    async |store: TestStore| {
        let log = store.open().await.log;
        let ada = store.register(&log, "ada").await;
        let bob = store.register(&log, "bob").await;
        let grown = grown(&store);
        log.keys().rings().take(ring(&grown)).await.unwrap();
        log.keys().rotation().begin().await.unwrap();
        let new = grown.split_once(',').unwrap().0;
        let lacking = store.open_with(new).await.map(drop).unwrap_err();
        assert!(
            matches!(&lacking, LogError::MasterKeysMissing(wanted) if wanted == "master key `m1` is wanted by 2 data keys"),
            "{lacking}"
        );
        let wrong = store
            .open_with(&format!("{new},{}", *MasterKeys::generate()))
            .await
            .map(drop)
            .unwrap_err();
        assert!(
            matches!(&wrong, LogError::MasterKeyWrong { master, .. } if master == "m1"),
            "{wrong}"
        );
        assert!(
            log.keys().rings().take(ring(new)).await.is_err(),
            "a running server refuses it, too"
        );

        // A damaged key concerns its owner only; the rotation reports it.
        store
            .tamper(&format!(
                "UPDATE user_keys SET key_id = '{bob}' WHERE user_id = '{ada}'"
            ))
            .await;
        let log = store.open_with(&grown).await.unwrap().log;
        let done = rotate(&log).await;
        assert_eq!((done.wrapped, done.unreadable), (1, vec![ada.to_string()]));
        refused(log.keys().rotation().retire("m1").await, "1 data keys");
        reads(&log, bob, 1).await;
    }
);

/// Only Postgres can have several servers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_waits_until_every_server_has_the_new_key() {
    let store = TestStore::new(Kind::Postgres).await;
    let (one, other) = (store.open().await.log, store.open().await.log);
    let ada = store.register(&one, "ada").await;
    let grown = grown(&store);
    one.keys().rings().take(ring(&grown)).await.unwrap();
    one.keys().rings().announce("one").await.unwrap();
    other.keys().rings().announce("other").await.unwrap();
    refused(
        one.keys().rotation().begin().await,
        "do not have master key `m2`: other;",
    );
    assert_eq!(
        wraps(&one).await,
        [("m1".to_owned(), 2)],
        "the refused rotation changed nothing"
    );

    other.keys().rings().take(ring(&grown)).await.unwrap();
    other.keys().rings().announce("other").await.unwrap();
    assert_eq!(rotate(&one).await.wrapped, 1);
    other.keys().rings().announce("other").await.unwrap(); // The announcement also looks up the current key.
    let bob = store.register(&other, "bob").await;
    assert_eq!(wraps(&one).await, [("m2".to_owned(), 3)]);
    for user in [ada, bob] {
        reads(&store.open_with(&grown).await.unwrap().log, user, 1).await;
    }
    // A server that is gone blocks nothing. When two servers rotate to different keys, the later
    // one stops the earlier.
    other.keys().rings().withdraw("other").await.unwrap();
    let (next, also) = (MasterKeys::new_entry("m3"), MasterKeys::new_entry("m4"));
    one.keys()
        .rings()
        .take(ring(&format!("{},{},{grown}", *next, *also)))
        .await
        .unwrap();
    other
        .keys()
        .rings()
        .take(ring(&format!("{},{},{grown}", *also, *next)))
        .await
        .unwrap();
    one.keys().rings().announce("one").await.unwrap();
    assert_eq!(one.keys().rotation().begin().await.unwrap(), "m3");
    assert_eq!(other.keys().rotation().begin().await.unwrap(), "m4");
    refused(
        one.keys()
            .rotation()
            .rotate("m3", RotationCursor::default())
            .await,
        "`m4` is current now",
    );
}
