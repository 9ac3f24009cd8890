use genie_events::{Event, Metadata, StreamId, StreamKind, account::AccountEvent};

use super::*;
use crate::sessions::SessionRow;
use crate::{
    AppendRequest, Group, NewFact, Work,
    testing::{TestStore, both_stores},
};

/// Appends a fact of the user with these working rows.
async fn append(log: &Log, user: UserId, work: Vec<Work>) {
    let seq = log.reader().user_seq(user).await.unwrap();
    let event = Event::Account(AccountEvent::SignedIn);
    let fact = NewFact {
        stream: StreamId::new(StreamKind::Account, user),
        sequence: seq + 1,
        event,
    };
    let groups = vec![Group::of_user(user, seq, vec![fact])];
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
    .unwrap();
}

fn session(log: &Log, user: UserId, family: &str) -> NewSession {
    let now = log.clock().now();
    let family = family.to_owned();
    let token_hash = "token 0".to_owned();
    NewSession {
        user,
        family,
        token_hash,
        agent_sealed: None,
        now,
        expires_at: now.plus_seconds(3600),
    }
}

async fn open(log: &Log, user: UserId, family: &str) {
    append(
        log,
        user,
        vec![Work::Session(SessionRow::Open(session(log, user, family)))],
    )
    .await;
}

/// The answer to a token that was replaced a moment ago, when token `n` is the good one.
fn in_grace(user: UserId, n: u32) -> Refreshed {
    Refreshed::InGrace {
        user,
        newest: format!("token {n}"),
    }
}

/// Presents token `n` of a family at a time, in seconds after its login.
async fn present(log: &Log, from: Timestamp, n: u32, at: i64) -> Refreshed {
    let now = from.plus_seconds(at);
    let (old_hash, new_hash) = (format!("token {n}"), format!("token {}", n + 1));
    let refresh = Refresh {
        family: "f".into(),
        old_hash,
        new_hash,
        now,
        expires_at: now.plus_seconds(3600),
    };
    log.sessions().refresh(refresh).await.unwrap()
}

both_stores!(
    a_replaced_token_leads_to_its_successor_for_ten_seconds,
    async |store: TestStore| {
        let log = store.open().await.log;
        let ada = store.register(&log, "ada").await;
        let from = log.clock().now();
        open(&log, ada, "f").await;
        assert_eq!(present(&log, from, 0, 1).await, Refreshed::Good(ada));
        assert_eq!(
            present(&log, from, 0, 10).await,
            in_grace(ada, 1),
            "the same token again"
        );
        assert_eq!(
            present(&log, from, 1, 10).await,
            Refreshed::Good(ada),
            "its successor is good"
        );
        assert_eq!(
            present(&log, from, 0, 10).await,
            in_grace(ada, 2),
            "a slow tab gets the newest, which its own successor is not"
        );
        assert_eq!(present(&log, from, 0, 11).await, Refreshed::Reused(ada));
        assert_eq!(
            present(&log, from, 7, 11).await,
            Refreshed::Reused(ada),
            "a token that is not among the last ones"
        );
        assert_eq!(
            present(&log, from, 2, 11).await,
            Refreshed::Good(ada),
            "reuse changes nothing"
        );
        assert_eq!(
            present(&log, from, 3, 12 + 3600).await,
            Refreshed::Over,
            "the session has expired"
        );
        log.sessions()
            .sweep(from.plus_seconds(11 + 3600))
            .await
            .unwrap();
        assert_eq!(
            present(&log, from, 3, 12).await,
            Refreshed::Over,
            "the session was swept"
        );
    }
);

both_stores!(
    one_of_many_requests_rotates_and_all_get_its_successor,
    async |store: TestStore| {
        let (one, two) = (store.open().await.log, store.open().await.log);
        let ada = store.register(&one, "ada").await;
        let from = one.clock().now();
        open(&one, ada, "f").await;
        let mut all = tokio::task::JoinSet::new();
        for n in 0..100 {
            let log = if n % 2 == 0 { one.clone() } else { two.clone() };
            all.spawn(async move { present(&log, from, 0, 1).await });
        }
        assert!(
            all.join_all()
                .await
                .iter()
                .all(|refreshed| [Refreshed::Good(ada), in_grace(ada, 1)].contains(refreshed))
        );
        assert_eq!(present(&two, from, 1, 2).await, Refreshed::Good(ada));
    }
);

both_stores!(
    sessions_are_bounded_listed_and_ended,
    async |store: TestStore| {
        let log = store.open().await.log;
        let (ada, bob) = (
            store.register(&log, "ada").await,
            store.register(&log, "bob").await,
        );
        open(&log, bob, "of bob").await;
        let families = async |user| {
            let listed = log
                .sessions()
                .of_user(user, log.clock().now())
                .await
                .unwrap();
            listed
                .into_iter()
                .map(|session| session.family)
                .collect::<Vec<_>>()
        };
        for n in 0..MAX_SESSIONS + 2 {
            open(&log, ada, &format!("{n:03}")).await;
        }
        let left = families(ada).await;
        assert_eq!(left.len() as i64, MAX_SESSIONS);
        assert!(
            !left.contains(&"000".into()) && !left.contains(&"001".into()),
            "the longest unused sessions ended: {left:?}"
        );

        assert_eq!(log.sessions().user_of("003").await.unwrap(), Some(ada));
        append(
            &log,
            ada,
            vec![Work::Session(SessionRow::End {
                family: "003".into(),
            })],
        )
        .await;
        assert_eq!(log.sessions().user_of("003").await.unwrap(), None);
        assert_eq!(families(ada).await.len() as i64, MAX_SESSIONS - 1);
        append(
            &log,
            ada,
            vec![Work::Session(SessionRow::EndAll {
                user: ada,
                but: Some("010".into()),
            })],
        )
        .await;
        assert_eq!(families(ada).await, ["010"]);
        append(
            &log,
            ada,
            vec![Work::Session(SessionRow::EndAll {
                user: ada,
                but: None,
            })],
        )
        .await;
        assert_eq!(
            (families(ada).await.len(), families(bob).await.len()),
            (0, 1)
        );
    }
);

both_stores!(
    the_clients_user_agent_is_kept_sealed,
    async |store: TestStore| {
        let log = store.open().await.log;
        let ada = store.register(&log, "ada").await;
        let agent_sealed = Some(
            log.keys()
                .live(ada)
                .await
                .unwrap()
                .seal_text("sessions.agent", "canary/1.0"),
        );
        append(
            &log,
            ada,
            vec![Work::Session(SessionRow::Open(NewSession {
                agent_sealed,
                ..session(&log, ada, "f")
            }))],
        )
        .await;
        let listed = log
            .sessions()
            .of_user(ada, log.clock().now())
            .await
            .unwrap();
        assert_eq!(listed[0].agent.as_deref(), Some("canary/1.0"));
        assert!(!store.holds("canary/1.0").await);
    }
);
