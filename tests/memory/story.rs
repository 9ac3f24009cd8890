use std::time::Duration;

use genie_log::testing::{TestStore, both_stores};

use crate::{
    bystander::Bystander,
    large_store::{self, SESSION, StoreSize},
    peak::MemoryPeaks,
    silent_clients::{readers, workers},
    test_genie::{TestGenie, TestUser, outcome},
};

/// Readers of each of the five kinds.
const READERS: usize = 100;
const WORKERS: usize = 64;
/// The projections follow a long log for so long at most.
const FOLLOWED: Duration = Duration::from_secs(600);

/// Reads an export to its end without keeping it. Returns its bytes.
async fn export(genie: &TestGenie, user: &TestUser) -> usize {
    let asked = genie
        .http
        .get(format!("{}/api/me/export", genie.base))
        .bearer_auth(&user.token)
        .timeout(FOLLOWED);
    let mut answer = asked.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let (mut bytes, mut end) = (0, Vec::new());
    while let Some(chunk) = answer.chunk().await.unwrap() {
        bytes += chunk.len();
        end = chunk.to_vec();
    }
    assert!(end.ends_with(b"\"complete\":true,\"ok\":true,\"success\":true}\n"));
    bytes
}

both_stores!(
    a_large_store_and_silent_clients_take_little_memory,
    async |store: TestStore| {
        let size = StoreSize::asked_for();
        let settings = [
            ("GENIE_MASTER_KEYS", store.masters().to_owned()),
            // One user may have all the streams, and nobody is cut off before the end.
            ("STREAMS_PER_USER", "1000".to_owned()),
            ("CLIENT_STALL_MS", "3600000".to_owned()),
            ("GENIE_JOB_LEASE_MS", "3600000".to_owned()),
        ];
        let mut genie = TestGenie::start_process_with(store, &settings).await;
        let ada = genie.user("ada").await;
        let bob = genie.user("bob").await;
        assert!(genie.terminate().await);
        let turns = large_store::fill(&genie, ada.id.parse().unwrap(), size).await;

        genie.launch_again().await;
        let mut memory = MemoryPeaks::of(genie.pid());
        let mut bystander = Bystander::start(&genie, &bob);
        genie.settle_within(FOLLOWED).await;
        memory.note("at the start").await;
        bystander.p99().await;

        let readers = readers(&genie, &ada, &turns, size.of(READERS)).await;
        memory.note("with silent readers").await;
        let mut slowest = bystander.p99().await;

        let workers = workers(&genie, size.of(WORKERS)).await;
        memory.note("with silent workers").await;
        slowest = slowest.max(bystander.p99().await);

        let events = ada.ask(&genie, SESSION, "And now?").await.rest().await;
        assert_eq!(outcome(&events), "completed");
        memory.note("in a turn of the long chat").await;
        slowest = slowest.max(bystander.p99().await);

        let bytes = export(&genie, &ada).await;
        assert!(
            bytes > size.of(large_store::TURNS) * 2 * 2 * 90_000,
            "{bytes}"
        );
        memory.note("in an export").await;
        slowest = slowest.max(bystander.p99().await);

        drop((readers, workers));
        memory.check(size.most_mib());
        if let Some(most) = size.longest_read() {
            assert!(slowest < most, "the p99 of small reads: {slowest:?}");
        }
    }
);
