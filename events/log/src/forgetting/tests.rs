use genie_events::{
    Event, Metadata, StreamId, StreamKind,
    account::{AccountEvent, ForgottenBy},
};

use super::*;
use crate::forgetting::ForgettingRow;
use crate::{
    AppendError, AppendRequest, Appended, FactBody, Group, NewFact, Work,
    append::AppendError::KeyNotLive,
    keys::KeyState,
    load_users::Waking,
    testing::{TestStore, both_stores},
};

async fn forget(
    store: &TestStore,
    log: &Log,
    user: UserId,
    after: u64,
) -> Result<Appended, AppendError> {
    let event = Event::Account(AccountEvent::Forgotten {
        by: ForgottenBy::User,
    });
    let fact = NewFact {
        stream: StreamId::new(StreamKind::Account, user),
        sequence: after + 1,
        event,
    };
    let groups = vec![Group::of_user(user, after, vec![fact])];
    let work = vec![Work::Forgetting(ForgettingRow::Forget {
        user,
        at: store.clock.now(),
    })];
    crate::testing::append(
        log,
        AppendRequest {
            groups,
            work,
            metadata: Metadata::system(),
            remember: None,
        },
    )
    .await
}

both_stores!(
    only_the_fact_of_the_forgetting_can_be_read_of_a_forgotten_user,
    async |store: TestStore| {
        let (log, warm) = (store.open().await.log, store.open().await.log);
        let (ada, bob) = (
            store.register(&log, "ada").await,
            store.register(&log, "bob").await,
        );
        warm.keys().live(ada).await.unwrap();
        let at = forget(&store, &log, ada, 1).await.unwrap();
        log.keys().drop_of(ada);

        let key = log.forgettings().destroyed_key(ada).await.unwrap().unwrap();
        assert_eq!(key.master_id, "m1");
        assert!(
            log.forgettings()
                .destroyed_key(bob)
                .await
                .unwrap()
                .is_none()
        );
        assert_eq!(
            log.forgettings()
                .with_live_keys(vec![ada, bob])
                .await
                .unwrap(),
            [bob]
        );
        let due = log.forgettings().due(store.clock.now(), 10).await.unwrap();
        assert_eq!(
            due.iter()
                .map(|one| (one.user, one.stage, one.position))
                .collect::<Vec<_>>(),
            [(ada, Stage::Forgotten, at.last)]
        );

        for log in [log.clone(), store.open().await.log] {
            let mut bodies = Vec::new();
            log.reader()
                .user_facts(ada, |fact| bodies.push(fact.body))
                .await
                .unwrap();
            assert!(matches!(
                &bodies[..],
                [
                    FactBody::Forgotten,
                    FactBody::Open(Event::Account(AccountEvent::Forgotten { .. }), _)
                ]
            ));
            assert!(matches!(
                log.users().wake(ada).await.unwrap(),
                Waking::Forgotten
            ));
            assert!(log.keys().live(ada).await.is_err());
        }
        for log in [&log, &warm] {
            assert!(
                matches!(forget(&store, log, ada, 2).await, Err(KeyNotLive)),
                "no node can append after it"
            );
        }
        assert_eq!(
            log.keys()
                .live(bob)
                .await
                .unwrap()
                .open_text(
                    "c",
                    &log.keys().live(bob).await.unwrap().seal_text("c", "x")
                )
                .unwrap(),
            "x"
        );
    }
);

both_stores!(
    a_key_that_was_restored_without_its_log_opens_nothing,
    async |store: TestStore| {
        let log = store.open().await.log;
        let (ada, bob) = (
            store.register(&log, "ada").await,
            store.register(&log, "bob").await,
        );
        store
            .try_sql("CREATE TABLE backup AS SELECT * FROM user_keys")
            .await
            .unwrap();
        forget(&store, &log, ada, 1).await.unwrap();
        store
        .tamper(&format!(
            "UPDATE user_keys SET state = 'live', wrapped = (SELECT b.wrapped FROM backup b WHERE b.user_id = '{ada}') \
             WHERE user_id = '{ada}'"
        ))
        .await;
        let fresh = store.open().await.log;
        assert!(matches!(
            fresh.users().wake(ada).await.unwrap(),
            Waking::Forgotten
        ));
        assert!(
            matches!(fresh.keys().of(ada.0).await.unwrap(), KeyState::Live(_)),
            "only the ledger of the forgotten finds such a key"
        );
        let live = fresh
            .forgettings()
            .with_live_keys(vec![ada, bob])
            .await
            .unwrap();
        assert!(
            live.len() == 2 && [ada, bob].iter().all(|user| live.contains(user)),
            "{live:?}"
        );
        for user in [ada, bob] {
            fresh
                .forgettings()
                .forget_restored_key(user, store.clock.now())
                .await
                .unwrap();
        }
        assert_eq!(
            fresh
                .forgettings()
                .with_live_keys(vec![ada, bob])
                .await
                .unwrap(),
            [bob]
        );
        assert_eq!(
            fresh.forgettings().get(ada).await.unwrap().unwrap().stage,
            Stage::Forgotten
        );
        assert!(fresh.forgettings().get(bob).await.unwrap().is_none());
    }
);

both_stores!(
    all_working_rows_of_a_forgotten_user_are_erased_and_no_others,
    async |store: TestStore| {
        let log = store.open().await.log;
        let (ada, bob) = (
            store.register(&log, "ada").await,
            store.register(&log, "bob").await,
        );
        let x = if store.database_url().is_some() {
            "'\\x00'"
        } else {
            "x'00'"
        };
        for user in [ada, bob] {
            for sql in [
                format!(
                    "INSERT INTO secrets (secret_id, version, user_id, sealed) VALUES ('s{user}', 1, '{user}', {x})"
                ),
                format!(
                    "INSERT INTO sessions (family, user_id, token_hash, created_at, used_at, expires_at) VALUES ('{user}', '{user}', 'h', 0, 0, 9)"
                ),
                format!(
                    "INSERT INTO leases (kind, id, user_id, stream_id, holder, expires_at) VALUES ('job', '{user}', '{user}', 's', 'h', 9)"
                ),
                format!(
                    "INSERT INTO journal (turn_id, upto, user_id, sealed) VALUES ('{user}', 1, '{user}', {x})"
                ),
                format!(
                    "INSERT INTO idempotency (key_hash, user_id, request_hash, fact_owner, fact_seq, sealed, kept_at) VALUES ('{user}', '{user}', 'r', 'e', 1, {x}, 1)"
                ),
                format!(
                    "INSERT INTO snapshots (user_id, version, user_seq, position, sealed) VALUES ('{user}', 1, 1, 1, {x})"
                ),
                format!(
                    "INSERT INTO impersonations (session, user_id, by_admin, expires_at) VALUES ('a{user}', '{user}', 'z', 9)"
                ),
                format!(
                    "INSERT INTO impersonations (session, user_id, by_admin, expires_at) VALUES ('b{user}', 'z', '{user}', 9)"
                ),
            ] {
                store.try_sql(&sql).await.unwrap();
            }
        }
        log.forgettings().erase_working_rows(ada).await.unwrap();
        assert_eq!(
            log.forgettings()
                .working_rows_left(ada)
                .await
                .unwrap()
                .len(),
            7,
            "the rows of a user who was not forgotten stay"
        );
        forget(&store, &log, ada, 1).await.unwrap();
        log.forgettings().erase_working_rows(ada).await.unwrap();
        assert_eq!(
            log.forgettings().working_rows_left(ada).await.unwrap(),
            BTreeMap::new()
        );
        assert_eq!(
            log.forgettings()
                .working_rows_left(bob)
                .await
                .unwrap()
                .values()
                .sum::<u64>(),
            8
        );
        log.forgettings().empty_wal().await.unwrap();

        let now = store.clock.now();
        log.forgettings()
            .note_erased(ada, now, "note".into(), now.plus_seconds(60))
            .await
            .unwrap();
        assert_eq!(log.forgettings().due(now, 10).await.unwrap(), []);
        let again = log
            .forgettings()
            .due(now.plus_seconds(60), 10)
            .await
            .unwrap();
        assert_eq!(
            (
                again[0].stage,
                again[0].erased_at,
                again[0].certificate.as_deref()
            ),
            (Stage::Erased, Some(now), Some("note"))
        );
        log.forgettings().close(ada).await.unwrap();
        assert_eq!(
            log.forgettings()
                .due(now.plus_seconds(60), 10)
                .await
                .unwrap(),
            []
        );
        assert_eq!(
            log.forgettings().forgotten_after(None).await.unwrap().len(),
            1
        );
    }
);

both_stores!(
    a_request_to_be_forgotten_waits_and_can_be_withdrawn,
    async |store: TestStore| {
        let log = store.open().await.log;
        let ada = store.register(&log, "ada").await;
        let due = store.clock.now().plus_seconds(10);
        let wish = async |after: u64, event, work| {
            let stream = StreamId::new(StreamKind::Account, ada);
            let fact = NewFact {
                stream,
                sequence: after + 1,
                event: Event::Account(event),
            };
            let groups = vec![Group::of_user(ada, after, vec![fact])];
            crate::testing::append(
                &log,
                AppendRequest {
                    groups,
                    work: vec![work],
                    metadata: Metadata::system(),
                    remember: None,
                },
            )
            .await
            .unwrap();
        };
        wish(
            1,
            AccountEvent::ForgetRequested { due },
            Work::Forgetting(ForgettingRow::Await { user: ada, due }),
        )
        .await;
        assert_eq!(
            log.forgettings().due(store.clock.now(), 10).await.unwrap(),
            []
        );
        assert_eq!(
            log.forgettings().due(due, 10).await.unwrap()[0].stage,
            Stage::Requested
        );
        assert_eq!(log.forgettings().forgotten_after(None).await.unwrap(), []);
        wish(
            2,
            AccountEvent::ForgetWithdrawn { active: true },
            Work::Forgetting(ForgettingRow::Stay { user: ada }),
        )
        .await;
        assert_eq!(log.forgettings().get(ada).await.unwrap(), None);
        forget(&store, &log, ada, 3).await.unwrap();
        let stay = AppendRequest {
            groups: vec![Group::of_system(
                &StreamId::new(StreamKind::Access, store.clock.new_uuid()),
                0,
                vec![Event::Access(
                    genie_events::access::AccessEvent::PersonalRead {
                        user: None,
                        stated_reason: None,
                    },
                )],
            )],
            work: vec![Work::Forgetting(ForgettingRow::Stay { user: ada })],
            metadata: Metadata::system(),
            remember: None,
        };
        crate::testing::append(&log, stay).await.unwrap();
        assert_eq!(
            log.forgettings().get(ada).await.unwrap().unwrap().stage,
            Stage::Forgotten,
            "a forgotten user cannot withdraw"
        );
    }
);
