//! Reads without `Genie-Min-Position` wait for their own caller's writes, and for nobody else's.

use std::time::{Duration, Instant};

use genie_log::testing::{TestStore, both_stores};

use crate::{
    test_genie::{TestGenie, TestUser},
    until::until,
};

/// Longer than three reads take on a busy machine.
const OWN_WRITES_WAIT: Duration = Duration::from_secs(6);

async fn jobs_of(genie: &TestGenie, user: &TestUser) -> usize {
    let listed = user.get(genie, "/api/jobs").await.ok();
    listed["data"].as_array().unwrap().len()
}

both_stores!(
    after_a_start_a_read_waits_for_its_own_callers_writes_only,
    async |store: TestStore| {
        let millis = OWN_WRITES_WAIT.as_millis().to_string();
        let settings = [("GENIE_OWN_WRITES_WAIT_MS", millis)];
        let mut genie = TestGenie::start_with(store, &settings).await;
        let ada = genie.user("ada").await;
        let bob = genie.user("bob").await;
        bob.submit_job(&genie).await;
        genie.settle().await;
        let rename = "ALTER TABLE job_counts RENAME TO job_counts_away";
        genie.store.try_sql(rename).await.unwrap();
        ada.submit_job(&genie).await;
        genie.restart().await;
        until("the projection of jobs to stop", async || {
            let ready = genie.readiness().await;
            (ready.json["projections"]["jobs"]["state"] == "stopped").then_some(())
        })
        .await;

        let began = Instant::now();
        for _ in 0..3 {
            assert_eq!(jobs_of(&genie, &bob).await, 1);
        }
        let bobs = began.elapsed();
        let began = Instant::now();
        assert_eq!(jobs_of(&genie, &ada).await, 0, "the projection stopped");
        let adas = began.elapsed();
        assert!(
            bobs < OWN_WRITES_WAIT && adas >= OWN_WRITES_WAIT,
            "{bobs:?}, {adas:?}"
        );
    }
);
