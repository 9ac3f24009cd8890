//! Compares appending and reading with a model, on both stores. Two nodes append for a few users,
//! with good and stale fences, at the same time, with keys used twice, and after being reopened.
//! The log must equal the model.

use genie_events::{Event, Metadata, StreamId, StreamKind, UserId, account::AccountEvent};
use genie_log::{
    AppendError, AppendRequest, Group, Log, NewFact, Remember,
    idempotency::Remembered,
    load_users::Waking,
    testing::{Kind, TestStore},
};
use proptest::{prelude::*, test_runner::TestRunner};
use serde_json::json;

const USERS: usize = 3;
const NODES: usize = 2;

#[derive(Debug, Clone)]
enum Step {
    /// A node appends some facts for a user; the fence is `behind` events old.
    Append {
        node: usize,
        user: usize,
        facts: usize,
        behind: u64,
    },
    /// A node appends one fact for a request with a key.
    AppendOnce { node: usize, user: usize, key: u8 },
    /// Both nodes append for the same user at the same time.
    Race { user: usize },
    /// A node is opened anew.
    Reopen { node: usize },
    /// A node loads a user and keeps a snapshot.
    Wake { node: usize, user: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let node = 0..NODES;
    let user = 0..USERS;
    prop_oneof![
        4 => (node.clone(), user.clone(), 1..6_usize, prop_oneof![3 => Just(0), 1 => 1..3_u64])
            .prop_map(|(node, user, facts, behind)| Step::Append { node, user, facts, behind }),
        2 => (node.clone(), user.clone(), 0..4_u8).prop_map(|(node, user, key)| Step::AppendOnce { node, user, key }),
        1 => user.clone().prop_map(|user| Step::Race { user }),
        1 => node.clone().prop_map(|node| Step::Reopen { node }),
        1 => (node, user).prop_map(|(node, user)| Step::Wake { node, user }),
    ]
}

/// The expected log: the owner at each position, and the used keys with the position of their
/// outcome.
#[derive(Default)]
struct Model {
    owners: Vec<usize>,
    keys: Vec<(usize, u8, u64)>,
}

impl Model {
    fn count(&self, user: usize) -> u64 {
        self.owners.iter().filter(|owner| **owner == user).count() as u64
    }
}

struct Nodes {
    store: TestStore,
    logs: Vec<Log>,
    users: Vec<UserId>,
    model: Model,
}

impl Nodes {
    async fn start(kind: Kind) -> Self {
        let store = TestStore::new(kind).await;
        let mut nodes = Self {
            logs: vec![],
            users: vec![],
            model: Model::default(),
            store,
        };
        for _ in 0..NODES {
            nodes.logs.push(nodes.store.open().await.log);
        }
        for user in 0..USERS {
            nodes.users.push(
                nodes
                    .store
                    .register(&nodes.logs[0], &format!("user{user}"))
                    .await,
            );
            nodes.model.owners.push(user);
        }
        nodes
    }

    fn append(&self, user: usize, after: u64, facts: usize) -> AppendRequest {
        let stream = StreamId::new(StreamKind::Account, self.users[user]);
        let event = || Event::Account(AccountEvent::SignedIn);
        let facts = (1..=facts as u64).map(|n| NewFact {
            stream,
            sequence: after + n,
            event: event(),
        });
        let groups = vec![Group::of_user(self.users[user], after, facts.collect())];
        AppendRequest {
            groups,
            work: vec![],
            metadata: Metadata::system(),
            remember: None,
        }
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Append {
                node,
                user,
                facts,
                behind,
            } => {
                let seen = self.model.count(user).saturating_sub(behind);
                let is_stale = seen != self.model.count(user);
                match genie_log::testing::append(&self.logs[node], self.append(user, seen, facts))
                    .await
                {
                    Ok(at) => {
                        assert!(!is_stale);
                        let first = self.model.owners.len() as u64 + 1;
                        assert_eq!((at.first, at.last), (first, first + facts as u64 - 1));
                        self.model.owners.extend(std::iter::repeat_n(user, facts));
                    }
                    Err(AppendError::Stale) => assert!(is_stale),
                    Err(error) => panic!("{error}"),
                }
            }
            Step::AppendOnce { node, user, key } => {
                let log = &self.logs[node];
                let request =
                    log.hashes()
                        .request("caller", &user.to_string(), &key.to_string(), &["asked"]);
                let known = self
                    .model
                    .keys
                    .iter()
                    .find(|(u, k, _)| (*u, *k) == (user, key))
                    .map(|(_, _, position)| *position);
                let outcome = json!({"key": key});
                let expected = known.map(|position| Remembered::Same {
                    outcome: outcome.clone(),
                    position,
                });
                assert_eq!(
                    log.outcomes()
                        .get(self.users[user], &request)
                        .await
                        .unwrap(),
                    expected
                );
                let remember = Some(Remember {
                    request,
                    user: self.users[user],
                    outcome,
                });
                match genie_log::testing::append(
                    log,
                    AppendRequest {
                        remember,
                        ..self.append(user, self.model.count(user), 1)
                    },
                )
                .await
                {
                    Ok(at) => {
                        assert_eq!((known, at.last), (None, self.model.owners.len() as u64 + 1));
                        self.model.owners.push(user);
                        self.model.keys.push((user, key, at.last));
                    }
                    Err(AppendError::KeyUsed) => assert!(known.is_some()),
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Race { user } => {
                let after = self.model.count(user);
                let (one, other) = tokio::join!(
                    genie_log::testing::append(&self.logs[0], self.append(user, after, 2)),
                    genie_log::testing::append(&self.logs[1], self.append(user, after, 2))
                );
                let won = [&one, &other]
                    .into_iter()
                    .filter(|outcome| outcome.is_ok())
                    .count();
                let lost = [&one, &other]
                    .into_iter()
                    .filter(|outcome| matches!(outcome, Err(AppendError::Stale)))
                    .count();
                assert_eq!((won, lost), (1, 1), "{one:?} {other:?}");
                self.model.owners.extend([user, user]);
            }
            Step::Reopen { node } => self.logs[node] = self.store.open().await.log,
            Step::Wake { node, user } => {
                let Waking::Awake(awake) = self.logs[node]
                    .users()
                    .wake(self.users[user])
                    .await
                    .unwrap()
                else {
                    panic!("forgotten")
                };
                assert_eq!(awake.user.seq(), self.model.count(user));
                self.logs[node]
                    .users()
                    .keep_snapshot(&awake.user, awake.position)
                    .await;
            }
        }
    }

    /// Checks the table, each user's own order, and the rows that followers get on both nodes.
    async fn check(&self) {
        let id = |owner: &usize| self.users[*owner].0;
        let expected: Vec<_> = (1_u64..).zip(self.model.owners.iter().map(id)).collect();
        for log in &self.logs {
            let rows = log.reader().rows(0, 1000).await.unwrap();
            assert_eq!(
                rows.iter()
                    .map(|row| (row.position, row.owner))
                    .collect::<Vec<_>>(),
                expected
            );
            assert!(rows.iter().all(|row| row.verified_stream().is_ok()));
            let mut follower = log.reader().follow(0);
            let mut followed = Vec::new();
            while followed.len() < expected.len() {
                followed.extend(
                    follower
                        .next(7)
                        .await
                        .unwrap()
                        .iter()
                        .map(|row| (row.position, row.owner)),
                );
            }
            assert_eq!(followed, expected);
            for (n, user) in self.users.iter().enumerate() {
                let own: Vec<u64> = log
                    .reader()
                    .user_rows(*user, 0)
                    .await
                    .unwrap()
                    .iter()
                    .map(|row| row.owner_seq)
                    .collect();
                assert_eq!(own, (1..=self.model.count(n)).collect::<Vec<_>>());
            }
        }
    }
}

fn run(kind: Kind) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 16,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let property = |steps: Vec<Step>| {
        runtime.block_on(async {
            let mut nodes = Nodes::start(kind).await;
            for step in steps {
                nodes.take(step).await;
            }
            nodes.check().await;
        });
        Ok(())
    };
    runner
        .run(&proptest::collection::vec(step(), 1..30), property)
        .unwrap();
}

mod the_log_equals_the_appends_whatever_nodes_do {
    use super::*;

    #[test]
    fn sqlite() {
        run(Kind::Sqlite);
    }

    #[test]
    fn postgres() {
        run(Kind::Postgres);
    }
}
