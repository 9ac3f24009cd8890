//! The log's invariants, on both stores: each has a test that tries to break it.

use std::{collections::HashSet, sync::Arc, time::Duration};

use genie_events::{
    EmailAddress, Event, JobId, Metadata, StreamId, StreamKind, Timestamp, UserId,
    account::{Account, AccountEvent, ForgottenBy},
    email::{Email, EmailEvent},
    job::{Job, JobEvent, JobSpec},
    usage::UsageEvent,
};
use genie_log::forgetting::ForgettingRow;
use genie_log::leases::LeaseRow;
use genie_log::turn_journal::JournalRow;
use genie_log::{
    AppendError, AppendRequest, FactBody, Group, Log, LogError, MasterKeys, NewFact, Owner,
    Remember, Work,
    follow::Following,
    idempotency::Remembered,
    leases::{LeaseKind, Renewal},
    load_users::Waking,
    testing::{Kind, TestStore, both_stores},
};

fn submitted(secret: &str) -> Event {
    let spec = JobSpec {
        name: None,
        operation: "resize_image".into(),
        queue: "media-jobs".into(),
        params: serde_json::json!({"note": secret}),
        input_file_id: None,
        input_url: None,
        creator_profile_id: None,
        priority: 10,
        run_at: None,
        max_attempts: 3,
        mark: None,
    };
    Event::Job(JobEvent::Submitted {
        spec,
        counted: None,
    })
}

fn new_job(log: &Log) -> JobId {
    JobId(log.clock().new_uuid())
}

fn job_fact(job: JobId, sequence: u64, event: Event) -> NewFact {
    NewFact {
        stream: StreamId::new(StreamKind::Job, job),
        sequence,
        event,
    }
}

fn append(groups: Vec<Group>, work: Vec<Work>) -> AppendRequest {
    AppendRequest {
        groups,
        work,
        metadata: Metadata::system(),
        remember: None,
    }
}

async fn submit(log: &Log, user: UserId, after: u64) -> Result<u64, AppendError> {
    let job = new_job(log);
    let group = Group::of_user(user, after, vec![job_fact(job, 1, submitted("x"))]);
    genie_log::testing::append(log, append(vec![group], vec![]))
        .await
        .map(|at| at.last)
}

both_stores!(
    positions_are_dense_and_in_commit_order_for_all_writers,
    async |store: TestStore| {
        let opened = store.open().await;
        let second = store.open().await; // A second node on the same store.
        let mut follower = opened.log.reader().follow(0);
        let mut users = Vec::new();
        for n in 0..20 {
            users.push(store.register(&opened.log, &format!("user{n}")).await);
        }
        let writers = users.iter().enumerate().map(|(n, user)| {
            let log = if n % 2 == 0 {
                opened.log.clone()
            } else {
                second.log.clone()
            };
            let user = *user;
            tokio::spawn(async move {
                let mut positions = Vec::new();
                for after in 1..=10 {
                    positions.push(submit(&log, user, after).await.unwrap());
                }
                positions
            })
        });
        let mut acknowledged = HashSet::new();
        for writer in writers.collect::<Vec<_>>() {
            let positions = writer.await.unwrap();
            assert!(positions.is_sorted());
            acknowledged.extend(positions);
        }
        let mut seen = Vec::new();
        while seen.len() < 220 {
            seen.extend(
                follower
                    .next(64)
                    .await
                    .unwrap()
                    .iter()
                    .map(|row| row.position),
            );
        }
        assert_eq!(seen, (1..=220).collect::<Vec<u64>>());
        assert_eq!(acknowledged.len(), 200);
    }
);

both_stores!(
    a_stale_append_is_refused_and_writes_nothing,
    async |store: TestStore| {
        let opened = store.open().await;
        let (ada, bob) = (
            store.register(&opened.log, "ada").await,
            store.register(&opened.log, "bob").await,
        );
        submit(&opened.log, ada, 1).await.unwrap();
        assert!(
            matches!(submit(&opened.log, ada, 1).await, Err(AppendError::Stale)),
            "Ada has two events by now"
        );

        // Bob's part is good, Ada's is stale: neither is written.
        let job = new_job(&opened.log);
        let groups = vec![
            Group::of_user(bob, 1, vec![job_fact(job, 1, submitted("x"))]),
            Group::of_user(
                ada,
                1,
                vec![job_fact(new_job(&opened.log), 1, submitted("x"))],
            ),
        ];
        assert!(matches!(
            genie_log::testing::append(&opened.log, append(groups, vec![])).await,
            Err(AppendError::Stale)
        ));
        assert!(
            opened
                .log
                .reader()
                .stream::<Job>(&Owner::User(bob), job.0)
                .await
                .unwrap()
                .is_none()
        );
    }
);

/// A fail-over to a standby that lagged, or a backup that was put back under a running server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_went_back_in_time_takes_no_appends() {
    let store = TestStore::new(Kind::Postgres).await;
    let opened = store.open().await;
    let ada = store.register(&opened.log, "ada").await;
    store.register(&opened.log, "bob").await;
    store.tamper("DELETE FROM events WHERE position = 2").await;
    let refused = submit(&opened.log, ada, 1).await.unwrap_err().to_string();
    assert!(refused.contains("went back in time"), "{refused}");
    let fresh = store.open().await;
    assert_eq!(submit(&fresh.log, ada, 1).await.unwrap(), 2);
}

both_stores!(
    one_append_writes_several_streams_of_a_user,
    async |store: TestStore| {
        let opened = store.open().await;
        let ada = store.register(&opened.log, "ada").await;
        let job = new_job(&opened.log);
        let counted = UsageEvent::Counted {
            counter: genie_events::tier::Counter::ThumbnailOps,
            amount: 1,
            month: genie_events::timestamp::Month(202_611),
        };
        let facts = vec![
            NewFact {
                stream: StreamId::new(StreamKind::Usage, ada),
                sequence: 1,
                event: counted.into(),
            },
            job_fact(job, 1, submitted("x")),
        ];
        let at = genie_log::testing::append(
            &opened.log,
            append(vec![Group::of_user(ada, 1, facts)], vec![]),
        )
        .await
        .unwrap();
        assert_eq!(at.last, at.first + 1);
        let mut kinds = Vec::new();
        opened
            .log
            .reader()
            .user_facts(ada, |fact| kinds.push(fact.event_type))
            .await
            .unwrap();
        assert_eq!(
            kinds,
            ["account.registered", "usage.counted", "job.submitted"]
        );
    }
);

both_stores!(
    the_last_caller_can_be_read_without_a_key,
    async |store: TestStore| {
        let opened = store.open().await;
        let (ada, bob) = (
            store.register(&opened.log, "ada").await,
            store.register(&opened.log, "bob").await,
        );
        let account = |user| StreamId::new(StreamKind::Account, user);
        assert!(
            opened
                .log
                .lookups()
                .last_asked(account(ada), "account.signed_in")
                .await
                .unwrap()
                .is_none()
        );
        for (sequence, request) in [(2, "first"), (3, "second")] {
            let fact = NewFact {
                stream: account(ada),
                sequence,
                event: Event::Account(AccountEvent::SignedIn),
            };
            let mut append = append(vec![Group::of_user(ada, sequence - 1, vec![fact])], vec![]);
            append.metadata.request_id = Some(request.into());
            genie_log::testing::append(&opened.log, append)
                .await
                .unwrap();
        }
        let asked = opened
            .log
            .lookups()
            .last_asked(account(ada), "account.signed_in")
            .await
            .unwrap()
            .unwrap();
        assert_eq!(asked.request_id.as_deref(), Some("second"));
        assert!(
            opened
                .log
                .lookups()
                .last_asked(account(bob), "account.signed_in")
                .await
                .unwrap()
                .is_none()
        );
    }
);

both_stores!(
    a_stream_of_another_owner_is_taken,
    async |store: TestStore| {
        let opened = store.open().await;
        let (ada, bob) = (
            store.register(&opened.log, "ada").await,
            store.register(&opened.log, "bob").await,
        );
        let job = new_job(&opened.log);
        let take = |user| Group::of_user(user, 1, vec![job_fact(job, 1, submitted("x"))]);
        genie_log::testing::append(&opened.log, append(vec![take(ada)], vec![]))
            .await
            .unwrap();
        let refused =
            genie_log::testing::append(&opened.log, append(vec![take(bob)], vec![])).await;
        assert!(
            matches!(refused, Err(AppendError::StreamTaken)),
            "{refused:?}"
        );
        assert!(
            opened
                .log
                .reader()
                .stream::<Job>(&Owner::User(bob), job.0)
                .await
                .unwrap()
                .is_none(),
            "Bob cannot read it"
        );
    }
);

both_stores!(
    all_who_begin_one_stream_at_once_get_an_answer,
    async |store: TestStore| {
        let opened = store.open().await;
        let job = new_job(&opened.log);
        let mut asked = Vec::new();
        for n in 0..8 {
            let user = store.register(&opened.log, &format!("user{n}")).await;
            let group = Group::of_user(user, 1, vec![job_fact(job, 1, submitted("x"))]);
            let log = opened.log.clone();
            asked.push(tokio::spawn(async move {
                genie_log::testing::append(&log, append(vec![group], vec![])).await
            }));
        }
        let mut good = 0;
        for answer in asked {
            match answer.await.unwrap() {
                Ok(_) => good += 1,
                // Two in one batch break the statement; bisection then finds the second.
                Err(AppendError::StreamTaken) => {}
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(good, 1);
    }
);

both_stores!(
    rows_that_break_the_statement_fail_alone,
    async |store: TestStore| {
        let opened = store.open().await;
        let mut asked = Vec::new();
        for n in 0..10 {
            let user = store.register(&opened.log, &format!("user{n}")).await;
            let job = new_job(&opened.log);
            // Two facts have one number of one stream: a unique index refuses the statement.
            let facts = match n {
                3 => vec![
                    job_fact(job, 1, submitted("x")),
                    job_fact(job, 1, submitted("x")),
                ],
                _ => vec![job_fact(job, 1, submitted("x"))],
            };
            let log = opened.log.clone();
            let group = Group::of_user(user, 1, facts);
            asked.push(tokio::spawn(async move {
                genie_log::testing::append(&log, append(vec![group], vec![])).await
            }));
        }
        for (n, answer) in asked.into_iter().enumerate() {
            let answer = answer.await.unwrap();
            assert_eq!(
                matches!(answer, Err(AppendError::Broken(_))),
                n == 3,
                "{n}: {answer:?}"
            );
            assert_eq!(answer.is_ok(), n != 3);
        }
        assert_eq!(
            opened.log.reader().rows(0, 100).await.unwrap().len(),
            10 + 9
        );
    }
);

both_stores!(
    without_a_live_key_nothing_is_appended,
    async |store: TestStore| {
        let opened = store.open().await;
        let nobody = UserId(store.clock.new_uuid());
        assert!(matches!(
            submit(&opened.log, nobody, 0).await,
            Err(AppendError::KeyNotLive)
        ));
        let ada = store.register(&opened.log, "ada").await;
        opened.log.keys().live(ada).await.unwrap(); // This node has the key in its cache.
        let other_node = store.open().await;
        let forgotten = Event::Account(AccountEvent::Forgotten {
            by: ForgottenBy::User,
        });
        let fact = NewFact {
            stream: StreamId::new(StreamKind::Account, ada),
            sequence: 2,
            event: forgotten,
        };
        let work = Work::Forgetting(ForgettingRow::Forget {
            user: ada,
            at: store.clock.now(),
        });
        let forget = append(vec![Group::of_user(ada, 1, vec![fact])], vec![work]);
        genie_log::testing::append(&other_node.log, forget)
            .await
            .unwrap();
        assert!(
            matches!(
                submit(&opened.log, ada, 1).await,
                Err(AppendError::KeyNotLive)
            ),
            "the store refuses, although the cache has the key"
        );
        let fact = other_node
            .log
            .reader()
            .open_row(&other_node.log.reader().rows(0, 10).await.unwrap()[0])
            .await
            .unwrap();
        assert!(matches!(fact.body, FactBody::Forgotten));
    }
);

both_stores!(
    events_cannot_be_changed_or_removed,
    async |store: TestStore| {
        let opened = store.open().await;
        store.register(&opened.log, "ada").await;
        for sql in ["UPDATE events SET event_type = 'x'", "DELETE FROM events"] {
            assert!(
                store
                    .try_sql(sql)
                    .await
                    .unwrap_err()
                    .to_string()
                    .contains("events are facts"),
                "{sql}"
            );
        }
        if store.kind == Kind::Postgres {
            assert!(store.try_sql("TRUNCATE events").await.is_err());
        }
    }
);

both_stores!(
    personal_data_is_not_readable_in_the_store,
    async |store: TestStore| {
        let opened = store.open().await;
        let ada = store.register(&opened.log, "ada-canary").await;
        let group = Group::of_user(
            ada,
            1,
            vec![job_fact(new_job(&opened.log), 1, submitted("job-canary"))],
        );
        genie_log::testing::append(&opened.log, append(vec![group], vec![]))
            .await
            .unwrap();
        for row in opened.log.reader().rows(0, 10).await.unwrap() {
            let payload = String::from_utf8_lossy(&row.payload);
            let stored = format!("{row:?} {payload}");
            assert!(!stored.contains("canary"), "{stored}");
        }
        let mut found = 0;
        opened
            .log
            .reader()
            .user_facts(ada, |fact| {
                if let FactBody::Open(event, _) = fact.body {
                    found += usize::from(event.to_json().to_string().contains("canary"));
                }
            })
            .await
            .unwrap();
        assert_eq!(found, 2, "the owner's key opens both");
    }
);

both_stores!(
    a_damaged_row_fails_its_own_stream_with_its_position,
    async |store: TestStore| {
        let opened = store.open().await;
        let (ada, bob) = (
            store.register(&opened.log, "ada").await,
            store.register(&opened.log, "bob").await,
        );
        submit(&opened.log, ada, 1).await.unwrap();
        let emptied = match store.kind {
            Kind::Postgres => "payload = ''",
            Kind::Sqlite => "payload = X''",
        };
        for (damage, reason) in [
            (emptied, "digest"),
            ("event_type = 'job.cancelled'", "digest"),
            ("sequence = 9", "digest"),
        ] {
            let store = TestStore::new(store.kind).await;
            let opened = store.open().await;
            let (ada, bob) = (
                store.register(&opened.log, "ada").await,
                store.register(&opened.log, "bob").await,
            );
            submit(&opened.log, ada, 1).await.unwrap();
            store
                .tamper(&format!("UPDATE events SET {damage} WHERE position = 3"))
                .await;
            let error = opened.log.reader().user_facts(ada, drop).await.unwrap_err();
            let LogError::Damaged(damaged) = &error else {
                panic!("{error}")
            };
            assert_eq!(damaged.position, 3);
            assert!(damaged.reason.contains(reason), "{damaged}");
            opened.log.reader().user_facts(bob, drop).await.unwrap();
        }
        opened.log.reader().user_facts(ada, drop).await.unwrap();
        opened.log.reader().user_facts(bob, drop).await.unwrap();
    }
);

both_stores!(
    a_row_moved_to_another_place_does_not_open_even_with_a_good_digest,
    async |store: TestStore| {
        let opened = store.open().await;
        let ada = store.register(&opened.log, "ada").await;
        submit(&opened.log, ada, 1).await.unwrap();
        let mut row = opened.log.reader().rows(1, 1).await.unwrap().remove(0);
        row.sequence = 2;
        row.digest = row.computed_digest().to_vec();
        let error = opened.log.reader().open_row(&row).await.unwrap_err();
        assert!(error.to_string().contains("changed or moved"), "{error}");
    }
);

both_stores!(a_hole_is_an_alarm, async |store: TestStore| {
    let opened = store.open().await;
    for n in 0..3 {
        store.register(&opened.log, &format!("user{n}")).await;
    }
    // A row skips positions: a live follower finds the hole.
    let mut live = opened.log.reader().follow(3);
    store
        .tamper(
            "INSERT INTO events (position, owner, owner_seq, stream, sequence, kind, event_type, event_version, event_id, \
                                 slice, recorded_at, digest, metadata, payload) \
             SELECT position + 7, owner, owner_seq + 1, stream, sequence + 1, kind, event_type, event_version, event_id, \
                    slice, recorded_at, digest, metadata, payload FROM events WHERE position = 3",
        )
        .await;
    for _ in 0..2 {
        assert!(
            matches!(live.next(10).await, Err(LogError::Hole { missing: 4 })),
            "the follower stops for good"
        );
    }
    assert_eq!(
        (live.state(), opened.log.reader().hole()),
        (Following::Stopped { missing: 4 }, Some(4))
    );

    store.tamper("DELETE FROM events WHERE position = 2").await;
    assert!(matches!(
        opened.log.reader().rows(0, 10).await,
        Err(LogError::Hole { missing: 2 })
    ));
    let fresh = store.open().await.log;
    let mut behind = fresh.reader().follow(0);
    for _ in 0..2 {
        assert!(matches!(
            behind.next(10).await,
            Err(LogError::Hole { missing: 2 })
        ));
    }
    assert_eq!(behind.state(), Following::Stopped { missing: 2 });
});

both_stores!(
    followers_catch_up_and_then_share_one_reading_of_the_tail,
    async |store: TestStore| {
        let first = store.open().await.log;
        let ada = store.register(&first, "ada").await;
        for after in 1..=50 {
            submit(&first, ada, after).await.unwrap();
        }
        let second = store.open().await.log; // A second node.
        let (mut one, mut other) = (second.reader().follow(0), second.reader().follow(20));
        let mut caught_up = Vec::new();
        while one.position() < 51 {
            caught_up.extend(one.next(7).await.unwrap());
            assert_eq!(one.state(), Following::CatchingUp);
        }
        assert_eq!(
            caught_up.iter().map(|row| row.position).collect::<Vec<_>>(),
            (1..=51).collect::<Vec<_>>()
        );
        while other.position() < 51 {
            other.next(1000).await.unwrap();
        }
        // Rows of another node are read once for both followers.
        let waiting = tokio::spawn(async move { (one.next(10).await.unwrap(), one) });
        submit(&first, ada, 51).await.unwrap();
        let (ones, one) = waiting.await.unwrap();
        let others = other.next(10).await.unwrap();
        assert!(Arc::ptr_eq(&ones[0], &others[0]));
        assert_eq!((ones[0].position, one.state()), (52, Following::Live));
    }
);

both_stores!(
    another_master_key_is_refused_at_opening,
    async |store: TestStore| {
        drop(store.open().await);
        let other = MasterKeys::generate();
        assert!(matches!(
            store.open_with(&other).await.err(),
            Some(LogError::MasterKeyWrong { .. })
        ));
        let renamed = other.replace("m1:", "m2:");
        assert!(
            matches!(store.open_with(&renamed).await.err(), Some(LogError::MasterKeysMissing(wanted)) if wanted.contains("`m1`"))
        );
    }
);

both_stores!(
    a_stream_can_be_read_by_its_owner,
    async |store: TestStore| {
        let opened = store.open().await;
        let ada = store.register(&opened.log, "ada").await;
        let (account, events) = opened
            .log
            .reader()
            .stream::<Account>(&Owner::User(ada), ada.0)
            .await
            .unwrap()
            .unwrap();
        assert!(account.active().is_ok());
        assert_eq!(events, 1);

        let address = EmailAddress::read("ada@example.com").unwrap();
        let stream = StreamId::new(StreamKind::Email, opened.log.hashes().email(&address));
        let claimed = Event::Email(EmailEvent::Claimed { user: ada });
        let group = Group::of_system(&stream, 0, vec![claimed]);
        genie_log::testing::append(&opened.log, append(vec![group], vec![]))
            .await
            .unwrap();
        let (email, _) = opened
            .log
            .reader()
            .stream::<Email>(&Owner::System(stream), stream.id)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(email.holder(), Some(ada));
        let again = Group::of_system(
            &stream,
            0,
            vec![Event::Email(EmailEvent::Claimed { user: ada })],
        );
        assert!(matches!(
            genie_log::testing::append(&opened.log, append(vec![again], vec![])).await,
            Err(AppendError::Stale)
        ));
    }
);

both_stores!(
    working_rows_and_conditions_belong_to_the_transaction_of_the_facts,
    async |store: TestStore| {
        let opened = store.open().await;
        let log = &opened.log;
        let ada = store.register(log, "ada").await;
        let job = new_job(log);
        let lease = |expires_at| {
            Work::Lease(LeaseRow::Put {
                kind: LeaseKind::Job,
                id: job.to_string(),
                user: ada,
                stream_id: job.to_string(),
                holder: "worker".into(),
                expires_at,
            })
        };
        let now = store.clock.now();
        let soon = now.plus_seconds(30);
        let group = Group::of_user(ada, 1, vec![job_fact(job, 1, submitted("x"))]);
        genie_log::testing::append(log, append(vec![group], vec![lease(soon)]))
            .await
            .unwrap();
        assert_eq!(
            log.leases()
                .get(LeaseKind::Job, &job.to_string())
                .await
                .unwrap()
                .unwrap()
                .expires_at,
            soon
        );

        let lapse = |now: Timestamp| {
            let lapsed = Event::Job(JobEvent::Lapsed {
                attempt: 1,
                retry_at: None,
            });
            let condition = Work::Lease(LeaseRow::OnlyIfLapsed {
                kind: LeaseKind::Job,
                id: job.to_string(),
                holder: "worker".into(),
                now,
            });
            let drop_it = Work::Lease(LeaseRow::Drop {
                kind: LeaseKind::Job,
                id: job.to_string(),
            });
            append(
                vec![Group::of_user(ada, 2, vec![job_fact(job, 2, lapsed)])],
                vec![condition, drop_it],
            )
        };
        assert!(matches!(
            genie_log::testing::append(log, lapse(now)).await,
            Err(AppendError::LeaseHeld)
        ));
        let beat = |holder: &str, progress: Option<i64>| Renewal {
            id: job.to_string(),
            holder: holder.into(),
            progress,
            message: progress.map(|percent| percent.to_string().into_bytes()),
        };
        let renew = async |beats: Vec<Renewal>, until| {
            let leases = log.leases();
            leases.renew(LeaseKind::Job, beats, until).await.unwrap()
        };
        assert_eq!(
            renew(vec![beat("other", None)], soon).await,
            [],
            "another holder cannot renew"
        );
        // Three at once, of which one has the lease.
        let beats = [("other", None), ("nobody", Some(9)), ("worker", Some(40))];
        let beats = beats.map(|(holder, progress)| beat(holder, progress));
        let renewed = renew(beats.into(), soon.plus_seconds(9)).await;
        assert_eq!(renewed.len(), 1);
        assert_eq!(
            (renewed[0].expires_at, renewed[0].progress),
            (soon.plus_seconds(9), Some(40))
        );
        let again = renew(vec![beat("worker", None)], soon.plus_seconds(9)).await;
        assert_eq!(again[0].progress, Some(40), "it stays without a new one");
        assert_eq!(again[0].message, Some(b"40".to_vec()), "likewise");
        let of_these = vec![job.to_string(), "another".into()];
        assert_eq!(
            log.leases().of(LeaseKind::Job, of_these).await.unwrap(),
            again
        );
        assert!(
            matches!(
                genie_log::testing::append(log, lapse(soon)).await,
                Err(AppendError::LeaseHeld)
            ),
            "it was renewed meanwhile"
        );
        genie_log::testing::append(log, lapse(soon.plus_seconds(9)))
            .await
            .unwrap();
        assert!(
            log.leases()
                .get(LeaseKind::Job, &job.to_string())
                .await
                .unwrap()
                .is_none()
        );

        // A refused append leaves no working row behind.
        let group = Group::of_user(ada, 1, vec![job_fact(job, 3, submitted("x"))]);
        assert!(matches!(
            genie_log::testing::append(log, append(vec![group], vec![lease(soon)])).await,
            Err(AppendError::Stale)
        ));
        assert!(
            log.leases()
                .get(LeaseKind::Job, &job.to_string())
                .await
                .unwrap()
                .is_none()
        );
    }
);

both_stores!(
    a_requests_outcome_is_kept_with_its_facts_and_only_once,
    async |store: TestStore| {
        let opened = store.open().await;
        let (ada, bob) = (
            store.register(&opened.log, "ada").await,
            store.register(&opened.log, "bob").await,
        );
        let request =
            opened
                .log
                .hashes()
                .request("ada", "POST /jobs", "key", &["POST /jobs", "body"]);
        let asked = |user, after| {
            let remember = Remember {
                request: request.clone(),
                user,
                outcome: serde_json::json!({"job": "secret words"}),
            };
            let facts = vec![job_fact(new_job(&opened.log), 1, submitted("x"))];
            AppendRequest {
                remember: Some(remember),
                ..append(vec![Group::of_user(user, after, facts)], vec![])
            }
        };
        assert_eq!(
            opened.log.outcomes().get(ada, &request).await.unwrap(),
            None
        );
        let at = genie_log::testing::append(&opened.log, asked(ada, 1))
            .await
            .unwrap();
        let kept = Remembered::Same {
            outcome: serde_json::json!({"job": "secret words"}),
            position: at.last,
        };
        assert_eq!(
            opened.log.outcomes().get(ada, &request).await.unwrap(),
            Some(kept)
        );
        assert!(!store.holds("secret words").await);

        // The key is used: no other append may use it, for any user.
        for (user, after) in [(ada, 2), (bob, 1)] {
            assert!(matches!(
                genie_log::testing::append(&opened.log, asked(user, after)).await,
                Err(AppendError::KeyUsed)
            ));
        }
        assert_eq!(opened.log.reader().head(), at.last);
        let other = opened.log.hashes().request(
            "ada",
            "POST /jobs",
            "key",
            &["POST /jobs", "another body"],
        );
        assert_eq!(
            opened.log.outcomes().get(ada, &other).await.unwrap(),
            Some(Remembered::Other)
        );
        assert_eq!(
            opened.log.outcomes().get(bob, &request).await.unwrap(),
            Some(Remembered::Other)
        );
    }
);

both_stores!(
    one_of_two_takes_a_free_lease_and_a_deposed_leader_takes_none,
    async |store: TestStore| {
        let opened = store.open().await;
        let log = &opened.log;
        let ada = store.register(log, "ada").await;
        let turn = log.clock().new_uuid().to_string();
        let free = Work::Lease(LeaseRow::Put {
            kind: LeaseKind::Turn,
            id: turn.clone(),
            user: ada,
            stream_id: "s".into(),
            holder: String::new(),
            expires_at: Timestamp(0),
        });
        let group = Group::of_user(ada, 1, vec![job_fact(new_job(log), 1, submitted("x"))]);
        genie_log::testing::append(log, append(vec![group], vec![free]))
            .await
            .unwrap();
        let now = store.clock.now();
        let until = store.clock.now().plus_seconds(15);
        let mut election = log.elections().stand("a").await.unwrap();
        let epoch = election.elected().await;
        let leases = log.leases();
        let (a, b) = tokio::join!(
            leases.take(epoch, LeaseKind::Turn, &turn, "a", now, until),
            leases.take(epoch, LeaseKind::Turn, &turn, "b", now, until)
        );
        assert_eq!(
            usize::from(a.unwrap().is_some()) + usize::from(b.unwrap().is_some()),
            1
        );
        let later = until.plus_seconds(1);
        assert_eq!(
            log.leases()
                .lapsed(LeaseKind::Turn, later, 10)
                .await
                .unwrap()
                .len(),
            1
        );
        store
            .try_sql("UPDATE elections SET epoch = epoch + 1")
            .await
            .unwrap();
        let taken = log
            .leases()
            .take(
                epoch,
                LeaseKind::Turn,
                &turn,
                "c",
                later,
                later.plus_seconds(15),
            )
            .await;
        assert!(matches!(taken, Err(LogError::Deposed)), "{taken:?}");
        store
            .try_sql("UPDATE elections SET epoch = epoch - 1")
            .await
            .unwrap();
        assert!(
            log.leases()
                .take(
                    epoch,
                    LeaseKind::Turn,
                    &turn,
                    "c",
                    later,
                    later.plus_seconds(15)
                )
                .await
                .unwrap()
                .is_some()
        );
    }
);

both_stores!(
    the_journal_answers_the_committed_text,
    async |store: TestStore| {
        let opened = store.open().await;
        let ada = store.register(&opened.log, "ada").await;
        let journal = opened.log.journals().start("node");
        let keys = opened.log.keys().live(ada).await.unwrap();
        let turn = genie_events::TurnId(opened.log.clock().new_uuid());
        let lease = genie_log::testing::turn_lease(turn, ada, "node");
        store.tamper(&lease).await;
        for (upto, text) in [(3, "one"), (7, " two"), (11, " 你")] {
            journal.write(turn, &keys, upto, text).await.unwrap();
        }
        assert_eq!(
            opened.log.journals().text(turn, ada).await.unwrap(),
            "one two 你"
        );
        journal.write(turn, &keys, 7, " two").await.unwrap();
        assert_eq!(
            opened.log.journals().text(turn, ada).await.unwrap(),
            "one two 你",
            "the same piece again changes nothing"
        );
        let group = Group::of_user(
            ada,
            1,
            vec![job_fact(new_job(&opened.log), 1, submitted("x"))],
        );
        let prune = Work::Journal(JournalRow::Prune {
            turn_id: turn.to_string(),
        });
        genie_log::testing::append(&opened.log, append(vec![group], vec![prune]))
            .await
            .unwrap();
        assert_eq!(opened.log.journals().text(turn, ada).await.unwrap(), "");
    }
);

both_stores!(
    a_too_large_append_is_refused_before_it_is_sent,
    async |store: TestStore| {
        let opened = store.open().await;
        let ada = store.register(&opened.log, "ada").await;
        let huge = "x".repeat(genie_log::append::MAX_EVENT_BYTES + 1);
        let group = Group::of_user(
            ada,
            1,
            vec![job_fact(new_job(&opened.log), 1, submitted(&huge))],
        );
        let refused = genie_log::testing::append(&opened.log, append(vec![group], vec![])).await;
        assert!(matches!(refused, Err(AppendError::TooLarge(_))));
        let nul = Event::Account(AccountEvent::Suspended);
        let facts = vec![
            job_fact(new_job(&opened.log), 1, submitted("a\0b")),
            NewFact {
                stream: StreamId::new(StreamKind::Account, ada),
                sequence: 2,
                event: nul,
            },
        ];
        genie_log::testing::append(
            &opened.log,
            append(vec![Group::of_user(ada, 1, facts)], vec![]),
        )
        .await
        .unwrap();
    }
);

/// The lock of the function `append`.
const APPEND_LOCK: i64 = 7_340_991;

/// Waiting appends go in few commits, and a full queue refuses instead of growing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_appends_go_in_few_commits_and_a_full_queue_refuses() {
    use sqlx::{Connection, Executor, PgConnection};
    let store = TestStore::new(Kind::Postgres).await;
    let opened = store.open().await;
    let mut other = PgConnection::connect(&store.database_url().unwrap())
        .await
        .unwrap();
    let append_of = |n: usize| {
        let address = EmailAddress::read(&format!("{n}@example.com")).unwrap();
        let stream = StreamId::new(StreamKind::Email, opened.log.hashes().email(&address));
        let claimed = Event::Email(EmailEvent::Claimed {
            user: UserId(opened.log.clock().new_uuid()),
        });
        append(vec![Group::of_system(&stream, 0, vec![claimed])], vec![])
    };
    other
        .execute(format!("SELECT pg_advisory_lock({APPEND_LOCK})").as_str())
        .await
        .unwrap();
    let asked: Vec<_> = (0..5000)
        .map(|n| {
            let log = opened.log.clone();
            let append = append_of(n);
            tokio::spawn(async move { genie_log::testing::append(&log, append).await })
        })
        .collect();
    while !asked.iter().any(|one| one.is_finished()) {
        // Nothing can be written, so only a refusal ends a task.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    other
        .execute(format!("SELECT pg_advisory_unlock({APPEND_LOCK})").as_str())
        .await
        .unwrap();
    let (mut written, mut refused) = (0, 0);
    for answer in asked {
        match answer.await.unwrap() {
            Ok(_) => written += 1,
            Err(AppendError::Overloaded) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(
        refused > 0 && written + refused == 5000,
        "{written} written, {refused} refused"
    );
    let rows = "SELECT count(DISTINCT xmin::text), count(*) FROM events";
    let (commits, events): (i64, i64) = sqlx::query_as(rows).fetch_one(&mut other).await.unwrap();
    assert_eq!(events, written);
    assert!(
        commits < written / 50,
        "{commits} commits for {written} appends"
    );
}

/// A statement whose connection dies while it waits for the lock has an unknown outcome. Appending
/// the same rows again settles it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_dies_while_it_waits_for_the_lock_writes_nothing_twice() {
    use sqlx::{Connection, Executor, PgConnection};
    let store = TestStore::new(Kind::Postgres).await;
    let opened = store.open().await;
    let ada = store.register(&opened.log, "ada").await;
    let url = store.database_url().unwrap();
    let mut holder = PgConnection::connect(&url).await.unwrap();
    let mut killer = PgConnection::connect(&url).await.unwrap();
    holder
        .execute(format!("SELECT pg_advisory_lock({APPEND_LOCK})").as_str())
        .await
        .unwrap();
    let log = opened.log.clone();
    let asked = tokio::spawn(async move { submit(&log, ada, 1).await });
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_locks \
         WHERE locktype = 'advisory' AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let mut killed = 0;
    for _ in 0..100 {
        killed += sqlx::query_scalar::<_, i64>(kill)
            .fetch_one(&mut killer)
            .await
            .unwrap();
        if killed > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(killed > 0, "the append waited for the lock");
    holder
        .execute(format!("SELECT pg_advisory_unlock({APPEND_LOCK})").as_str())
        .await
        .unwrap();
    assert_eq!(asked.await.unwrap().unwrap(), 2);
    assert_eq!(opened.log.reader().rows(0, 10).await.unwrap().len(), 2);
}

both_stores!(
    numbers_that_no_store_can_hold_are_refused_and_nothing_is_written,
    async |store: TestStore| {
        let opened = store.open().await;
        let ada = store.register(&opened.log, "ada").await;
        let event = || Event::Account(AccountEvent::SignedIn);
        let job = new_job(&opened.log);
        let fact = |sequence| NewFact {
            stream: StreamId::new(StreamKind::Job, job),
            sequence,
            event: event(),
        };
        for (after, sequence) in [(1, u64::MAX), (u64::MAX, 1), (i64::MAX as u64, 1)] {
            let named = format!("event {sequence} of job/{job}");
            let fact = fact(sequence);
            let refused = genie_log::testing::append(
                &opened.log,
                append(vec![Group::of_user(ada, after, vec![fact])], vec![]),
            )
            .await
            .unwrap_err();
            assert!(
                matches!(refused, AppendError::Unstorable { .. }),
                "{refused}"
            );
            assert!(refused.to_string().contains(&named), "{refused}");
        }
        // An event may hold NULs: it is sealed.
        let job = new_job(&opened.log);
        let group = Group::of_user(ada, 1, vec![job_fact(job, 1, submitted("nul \0 nul"))]);
        genie_log::testing::append(&opened.log, append(vec![group], vec![]))
            .await
            .unwrap();
        let back = opened
            .log
            .reader()
            .stream_events::<Job>(&Owner::User(ada), job)
            .await
            .unwrap();
        assert!(
            matches!(&back[..], [JobEvent::Submitted { spec, .. }] if spec.params["note"] == "nul \0 nul")
        );
    }
);

both_stores!(
    a_clock_that_jumps_back_changes_no_order_and_skips_nothing,
    async |store: TestStore| {
        let opened = store.open().await;
        let ada = store.register(&opened.log, "ada").await;
        for after in 1..=5 {
            store.clock.advance_millis(-86_400_000);
            submit(&opened.log, ada, after).await.unwrap();
        }
        let rows = opened.log.reader().rows(0, 100).await.unwrap();
        assert!(
            rows.windows(2)
                .all(|pair| pair[0].position + 1 == pair[1].position
                    && pair[0].recorded_at > pair[1].recorded_at)
        );
        let Waking::Awake(awake) = store.open().await.log.users().wake(ada).await.unwrap() else {
            panic!("forgotten")
        };
        assert_eq!((awake.user.seq(), awake.position), (6, 6));
    }
);

both_stores!(
    a_missing_or_wrong_key_is_reported_with_the_position,
    async |store: TestStore| {
        let opened = store.open().await;
        let (ada, bob) = (
            store.register(&opened.log, "ada").await,
            store.register(&opened.log, "bob").await,
        );
        let fresh = store.open().await.log;
        store
            .tamper(&format!(
                "UPDATE user_keys SET master_id = 'lost' WHERE user_id = '{ada}'"
            ))
            .await;
        store
            .tamper(&format!(
                "UPDATE user_keys SET key_id = '{ada}' WHERE user_id = '{bob}'"
            ))
            .await;
        let rows = fresh.reader().rows(0, 10).await.unwrap();
        let locked = fresh.reader().open_row(&rows[0]).await.unwrap_err();
        assert!(
            matches!(&locked, LogError::Locked { position: 1, wanted, .. } if wanted == "lost"),
            "{locked}"
        );
        assert!(matches!(
            fresh.users().wake(ada).await,
            Err(LogError::MasterKeyMissing { .. })
        ));
        let wrong = fresh.reader().open_row(&rows[1]).await.unwrap_err();
        assert!(
            matches!(&wrong, LogError::Damaged(damaged) if damaged.position == 2),
            "{wrong}"
        );
        let other = store.open_to_read().await;
        store
            .tamper(&format!("DELETE FROM user_keys WHERE user_id = '{bob}'"))
            .await;
        let absent = other.reader().open_row(&rows[1]).await.unwrap_err();
        assert!(
            matches!(&absent, LogError::Damaged(damaged) if damaged.position == 2),
            "{absent}"
        );
    }
);
