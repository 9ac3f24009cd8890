//! Stories that hold with any model: their texts are not known beforehand.

use genie_log::testing::{TestStore, both_stores};

use crate::{
    PeerModel,
    test_genie::{Event, Events, TestGenie, TestUser, outcome, text_of},
    until::until,
};

const SHORT: &str = "Say hello";
const LONG: &str = "Count slowly from one to one hundred, in words";

async fn resume(genie: &TestGenie, user: &TestUser, turn: &str, last: Option<&Event>) -> Events {
    let url = format!("{}/api/genie/turns/{turn}/stream", genie.base);
    let mut request = genie.http.get(url).bearer_auth(&user.token);
    if let Some(last) = last {
        request = request.header("Last-Event-ID", &last.id);
    }
    Events::open(request).await
}

/// The kept text of the last answer of a session.
async fn kept(genie: &TestGenie, user: &TestUser, session: &str) -> String {
    genie.settle().await;
    let messages = user.messages(genie, session).await;
    let (role, content) = messages.last().expect("the answer is kept").clone();
    assert_eq!(role, "assistant");
    content
}

both_stores!(
    what_is_shown_is_what_is_kept_wherever_a_reader_goes_on,
    async |store: TestStore| {
        let kind = store.kind;
        let mut store = Some(store);
        for model in PeerModel::ALL {
            let store = match store.take() {
                Some(store) => store,
                None => TestStore::new(kind).await,
            };
            let mut genie = model.genie(store).await;
            let ada = genie.user("ada").await;
            let asked = ada.ask(&genie, "s", SHORT).await;
            let turn = asked.turn.clone();
            let events = asked.rest().await;
            assert_eq!(outcome(&events), "completed", "{model:?}");
            let text = text_of(&events);
            assert!(!text.trim().is_empty(), "{model:?}");
            assert_eq!(kept(&genie, &ada, "s").await, text, "{model:?}");
            // From each place, one reader gets exactly the rest.
            for seen in 1..events.len() - 1 {
                let rest = resume(&genie, &ada, &turn, Some(&events[seen])).await;
                let rest = text_of(&rest.rest().await);
                let before = text_of(&events[..=seen]);
                assert_eq!(before + &rest, text, "{model:?} after event {seen}");
            }
            let whole = resume(&genie, &ada, &turn, None).await.rest().await;
            assert_eq!(text_of(&whole), text, "{model:?}");
        }
    }
);

both_stores!(
    a_stopped_answer_keeps_what_was_shown_and_the_next_is_answered,
    async |store: TestStore| {
        let kind = store.kind;
        let mut store = Some(store);
        for model in PeerModel::ALL {
            let store = match store.take() {
                Some(store) => store,
                None => TestStore::new(kind).await,
            };
            let mut genie = model.genie(store).await;
            let ada = genie.user("ada").await;
            let mut asked = ada.ask(&genie, "s", LONG).await;
            let first = asked.text().await;
            let path = format!("/api/genie/turns/{}", asked.turn);
            ada.delete(&genie, &path).await.ok();
            let mut events = vec![first];
            events.extend(asked.rest().await);
            assert_eq!(outcome(&events), "stopped", "{model:?}");
            assert_eq!(kept(&genie, &ada, "s").await, text_of(&events), "{model:?}");
            let next = ada.ask(&genie, "s", SHORT).await.rest().await;
            assert_eq!(outcome(&next), "completed", "{model:?}");
        }
    }
);

both_stores!(
    a_killed_server_loses_nothing_that_was_shown,
    async |store: TestStore| {
        let kind = store.kind;
        let mut store = Some(store);
        for model in PeerModel::ALL {
            let store = match store.take() {
                Some(store) => store,
                None => TestStore::new(kind).await,
            };
            let mut genie = model.genie_process(store).await;
            let ada = genie.user("ada").await;
            let mut asked = ada.ask(&genie, "s", LONG).await;
            let turn = asked.turn.clone();
            let mut shown = vec![asked.text().await, asked.text().await];
            genie.kill().await;
            shown.extend(asked.rest().await);
            genie.launch_again().await;
            let url = format!("{}/api/genie/turns/{turn}/stream", genie.base);
            // The read side may not know the turn yet.
            let status = async || {
                let request = genie.http.get(&url).bearer_auth(&ada.token);
                (request.send().await.unwrap().status() == 200).then_some(())
            };
            until("the turn", status).await;
            let rest = resume(&genie, &ada, &turn, shown.last()).await.rest().await;
            assert_eq!(outcome(&rest), "interrupted", "{model:?}");
            let text = text_of(&shown) + &text_of(&rest);
            assert_eq!(kept(&genie, &ada, "s").await, text, "{model:?}");
        }
    }
);
