use genie_events::{
    CaptionId, Change, Event, Metadata, PlatformName, RefusalKind, TurnId,
    account::AccountEvent,
    caption::{Brief, Length, Platform},
    chat::{ChatCommand, TurnAnswer, TurnMetrics, TurnOutcome},
    job::{JobCommand, JobSpec},
    tier::Counter,
};
use genie_log::{
    AppendRequest, Group, NewFact,
    testing::{TestStore, appender, both_stores},
};
use serde_json::Value;

use super::*;

/// A thread that actors live on, as a node has them.
fn arbiter() -> ArbiterHandle {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        actix::System::new().block_on(async move {
            let arbiter = actix::Arbiter::new();
            tell.send(arbiter.handle()).unwrap();
            std::future::pending::<()>().await;
        });
    });
    told.recv().unwrap()
}

/// A node whose users' actors take turns on two threads.
pub fn node_of_two_threads(log: &Log) -> Users {
    let threads = vec![arbiter(), arbiter()];
    Users::new(appender(log), Limits::built_in(), threads)
}

pub fn node(log: &Log) -> Users {
    Users::new(appender(log), Limits::built_in(), vec![arbiter()])
}

fn caption(log: &Log) -> UserCommand {
    let brief = Brief {
        platform: Platform::X,
        tone: "t".into(),
        topic: "t".into(),
        length: Length::Short,
        platform_username: None,
    };
    UserCommand::RequestCaption(CaptionId(log.clock().new_uuid()), brief)
}

async fn count(log: &Log, user: UserId) -> usize {
    let mut facts = 0;
    log.reader().user_facts(user, |_| facts += 1).await.unwrap();
    facts
}

both_stores!(
    a_warm_actor_obeys_the_writes_of_another_node,
    async |store: TestStore| {
        let opened = store.open().await;
        let ada = store.register(&opened.log, "ada").await;
        let (one, two) = (node(&opened.log), node(&opened.log));
        one.ask(ada, Metadata::system(), UserCommand::SignIn)
            .await
            .unwrap();
        two.ask(ada, Metadata::system(), UserCommand::SignIn)
            .await
            .unwrap(); // warm on both
        let change = Change::new(ada, Event::Account(AccountEvent::Suspended));
        let fact = NewFact {
            stream: change.stream,
            sequence: 4,
            event: change.event,
        };
        let group = Group::of_user(ada, 3, vec![fact]);
        opened
            .append
            .append(AppendRequest {
                groups: vec![group],
                work: vec![],
                metadata: Metadata::system(),
                remember: None,
            })
            .await
            .unwrap();
        for users in [one, two] {
            let refused = users
                .ask(ada, Metadata::system(), UserCommand::SignIn)
                .await
                .unwrap_err();
            assert!(matches!(refused, WriteError::Refused(refusal) if refusal.code == "suspended"));
        }
    }
);

both_stores!(
    a_no_is_only_said_on_the_present_state,
    async |store: TestStore| {
        let opened = store.open().await;
        let ada = store.register(&opened.log, "ada").await;
        let (one, two) = (node(&opened.log), node(&opened.log));
        let ask = async |users: &Users, command| users.ask(ada, Metadata::system(), command).await;
        ask(&one, UserCommand::SignIn).await.unwrap(); // warm, and soon behind
        let job = JobId(opened.log.clock().new_uuid());
        let spec: JobSpec = serde_json::from_value(serde_json::json!({
            "operation": "thumbnail", "queue": "media-jobs", "priority": 10, "max_attempts": 3,
        }))
        .unwrap();
        let claim = JobCommand::Claim {
            worker: "w".into(),
            lease: "l".into(),
            now: opened.log.clock().now(),
        };
        ask(&two, UserCommand::SubmitJob(job, spec)).await.unwrap();
        ask(&two, UserCommand::Job(job, claim)).await.unwrap();
        let done = JobCommand::Complete {
            lease: "l".into(),
            result: Value::Null,
            outputs: Value::Null,
        };
        assert_eq!(
            ask(&one, UserCommand::Job(job, done))
                .await
                .unwrap()
                .changes
                .len(),
            1,
            "not a stale lease"
        );

        let session = opened.log.hashes().session(ada, "s");
        let turn = TurnId(opened.log.clock().new_uuid());
        let begin = |turn| {
            UserCommand::Chat(
                session,
                ChatCommand::Ask {
                    turn,
                    session: "s".into(),
                    message: "m".into(),
                },
            )
        };
        ask(&one, begin(turn)).await.unwrap();
        let answer = TurnAnswer {
            content: "a".into(),
            outcome: TurnOutcome::Completed,
            failure: None,
            model: "m".into(),
            metrics: TurnMetrics::default(),
            tool_calls: vec![],
        };
        let end = UserCommand::Chat(session, ChatCommand::Answer { turn, answer });
        assert_eq!(
            ask(&two, end).await.unwrap().changes.len(),
            1,
            "not an unknown turn"
        );
        ask(&one, begin(TurnId(opened.log.clock().new_uuid())))
            .await
            .unwrap(); // and not a turn that still runs
    }
);

both_stores!(
    two_nodes_together_never_pass_a_limit,
    async |store: TestStore| {
        let opened = store.open().await;
        let other = store.open().await;
        let ada = store
            .register_with(&opened.log, "ada", genie_events::tier::Tier::Starter)
            .await;
        let nodes = [node(&opened.log), node(&other.log)];
        let asked = (0..30).map(|n| {
            let users = nodes[n % 2].clone();
            let log = opened.log.clone();
            tokio::spawn(async move { users.ask(ada, Metadata::system(), caption(&log)).await })
        });
        let mut good = 0;
        for answer in asked.collect::<Vec<_>>() {
            match answer.await.unwrap() {
                Ok(_) => good += 1,
                Err(WriteError::Refused(refusal)) => {
                    assert_eq!(
                        refusal.kind,
                        RefusalKind::Quota {
                            counter: Counter::PostsAiAssisted,
                            in_tier: true
                        }
                    );
                }
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(good, 3);
        assert_eq!(count(&opened.log, ada).await, 1 + 3 * 2);
    }
);

both_stores!(passivation_loses_nothing, async |store: TestStore| {
    let opened = store.open().await;
    let ada = store.register(&opened.log, "ada").await;
    let users = node(&opened.log);
    let asked = (0..50).map(|_| {
        let users = users.clone();
        tokio::spawn(async move {
            let answer = users
                .ask(ada, Metadata::system(), UserCommand::SignIn)
                .await;
            users.passivate(Duration::ZERO, 0);
            answer
        })
    });
    for answer in asked.collect::<Vec<_>>() {
        answer.await.unwrap().unwrap();
    }
    assert_eq!(count(&opened.log, ada).await, 1 + 50);
    users.passivate(Duration::ZERO, 0);
    assert_eq!(users.live_count(), 0);
});

both_stores!(an_actor_that_died_is_replaced, async |store: TestStore| {
    let opened = store.open().await;
    let ada = store.register(&opened.log, "ada").await;
    let users = node(&opened.log);
    let died = users
        .plan(
            ada,
            None,
            Metadata::system(),
            Arc::new(|_, _| panic!("on purpose")),
        )
        .await;
    assert!(matches!(died, Err(WriteError::Away(_))), "{died:?}");
    users
        .ask(ada, Metadata::system(), UserCommand::SignIn)
        .await
        .unwrap();
    assert_eq!(count(&opened.log, ada).await, 2);
});

both_stores!(
    a_full_mailbox_is_busy_and_nothing_more,
    async |store: TestStore| {
        let opened = store.open().await;
        let ada = store.register(&opened.log, "ada").await;
        let users = node(&opened.log);
        let asked = (0..400).map(|_| {
            let users = users.clone();
            tokio::spawn(async move {
                users
                    .ask(ada, Metadata::system(), UserCommand::SignIn)
                    .await
            })
        });
        let (mut good, mut busy) = (0, 0);
        for answer in asked.collect::<Vec<_>>() {
            match answer.await.unwrap() {
                Ok(_) => good += 1,
                Err(WriteError::Busy) => busy += 1,
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(good + busy, 400);
        assert_eq!(count(&opened.log, ada).await, 1 + good);
    }
);

both_stores!(
    a_state_does_not_grow_with_what_has_ended,
    async |store: TestStore| {
        let opened = store.open().await;
        let log = &opened.log;
        let ada = store.register(log, "ada").await;
        let users = node(log);
        let ask = async |command| users.ask(ada, Metadata::system(), command).await;
        let size = async || match log.users().wake(ada).await.unwrap() {
            genie_log::load_users::Waking::Awake(awake) => awake.user.to_snapshot().len(),
            genie_log::load_users::Waking::Forgotten => panic!("forgotten"),
        };
        let chat = |n: usize, command| {
            UserCommand::Chat(log.hashes().session(ada, &n.to_string()), command)
        };
        let question = |turn| ChatCommand::Ask {
            turn,
            session: "s".into(),
            message: "m".into(),
        };
        let stop = |turn| {
            let answer = TurnAnswer {
                content: String::new(),
                outcome: TurnOutcome::Stopped,
                failure: None,
                model: "m".into(),
                metrics: TurnMetrics::default(),
                tool_calls: vec![],
            };
            ChatCommand::Answer { turn, answer }
        };
        let mut sizes = Vec::new();
        for round in 0..2 {
            for n in 0..20 {
                // The second round goes on in the sessions of the first, which the state has left out.
                let turn = TurnId(log.clock().new_uuid());
                ask(chat(n, question(turn))).await.unwrap();
                ask(chat(n, stop(turn))).await.unwrap();
                let credential = genie_events::CredentialId(log.clock().new_uuid());
                let stored = UserCommand::StoreCredential {
                    credential,
                    kind: genie_events::credential::CredentialKind::Profile,
                    platform: PlatformName::read("x").unwrap(),
                    platform_username: None,
                    expires_at: None,
                    sealed: genie_events::credential::SealedSecret {
                        version: 1,
                        hash: "00".into(),
                    },
                };
                ask(stored).await.unwrap();
                let remove = UserCommand::RemoveCredential(credential);
                assert_eq!(ask(remove.clone()).await.unwrap().changes.len(), 1);
                assert_eq!(
                    ask(remove).await.unwrap().changes.len(),
                    0,
                    "removed before"
                );
            }
            sizes.push(size().await);
            if round == 0 {
                users.passivate(Duration::ZERO, 0);
            }
        }
        assert!(sizes[1] <= sizes[0] + 4, "{sizes:?}");
    }
);

both_stores!(
    a_session_that_another_node_went_on_with_is_gone_on_with_here,
    async |store: TestStore| {
        let opened = store.open().await;
        let log = &opened.log;
        let ada = store.register(log, "ada").await;
        let (one, two) = (node(log), node(log));
        let session = log.hashes().session(ada, "s");
        for n in 0..6 {
            let users = if n % 2 == 0 { &one } else { &two };
            let turn = TurnId(log.clock().new_uuid());
            let question = ChatCommand::Ask {
                turn,
                session: "s".into(),
                message: "m".into(),
            };
            let answer = TurnAnswer {
                content: "a".into(),
                outcome: TurnOutcome::Completed,
                failure: None,
                model: "m".into(),
                metrics: TurnMetrics::default(),
                tool_calls: vec![],
            };
            for command in [question, ChatCommand::Answer { turn, answer }] {
                let command = UserCommand::Chat(session, command);
                let done = users.ask(ada, Metadata::system(), command).await.unwrap();
                assert_eq!(done.changes.len(), 1);
            }
        }
        assert_eq!(count(log, ada).await, 1 + 12);
    }
);

#[test]
fn a_mailbox_is_bounded_in_commands_and_in_bytes() {
    let taken = Arc::default();
    let take = |bytes| WaitingPlace::take(&taken, MAILBOX, bytes);
    let half = MAILBOX.bytes / 2;
    let large = [half, half].map(|bytes| take(bytes).unwrap());
    assert!(take(1).is_none() && take(0).is_some());
    drop(large);
    let small: Vec<_> = (0..MAILBOX.commands).map(|_| take(1).unwrap()).collect();
    assert!(take(0).is_none());
    drop(small);
    assert_eq!(*taken.lock(), WaitingCommands::default());
}
