//! A stopped answer frees the model: its own server says how many answers it is at.

use std::time::Duration;

use genie_log::testing::{TestStore, both_stores};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{PeerModel, setting, test_genie::TestGenie};

/// Answers that are stopped, and the longest time until the slot is free, p99.
const STOPS: usize = 40;
const LONGEST: Duration = Duration::from_millis(150);

/// The answers that the model is at.
async fn running(genie: &TestGenie) -> usize {
    let url = format!("{}/slots", setting("GENIE_TEST_MODEL_SERVER"));
    let slots: Value = genie
        .http
        .get(url)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let is_busy = |slot: &&Value| slot["is_processing"] == true;
    slots.as_array().unwrap().iter().filter(is_busy).count()
}

both_stores!(a_stopped_answer_frees_its_slot, async |store: TestStore| {
    let kind = store.kind;
    let mut genie = PeerModel::Real.genie(store).await;
    let ada = genie.user("ada").await;
    let mut took = Vec::with_capacity(STOPS);
    for n in 0..STOPS {
        while running(&genie).await > 0 {
            sleep(Duration::from_millis(5)).await;
        }
        let question = "Tell a very long story about the sea";
        let mut asked = ada.ask(&genie, &format!("s{n}"), question).await;
        asked.text().await;
        assert_eq!(running(&genie).await, 1);
        let path = format!("/api/genie/turns/{}", asked.turn);
        let began = Instant::now();
        let free = async {
            while running(&genie).await > 0 {
                sleep(Duration::from_millis(1)).await;
            }
            began.elapsed()
        };
        let (stopped, free) = tokio::join!(ada.delete(&genie, &path), free);
        stopped.ok();
        took.push(free);
    }
    took.sort();
    let p99 = took[(STOPS * 99).div_ceil(100) - 1];
    println!(
        "{kind:?}: from a stop to the free slot p50 {:?}, p99 {p99:?}",
        took[STOPS / 2]
    );
    assert!(p99 <= LONGEST, "{took:?}");
});
