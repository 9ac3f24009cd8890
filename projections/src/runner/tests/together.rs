//! Facts that are taken together, and reads that are answered together.

use futures_util::future::join_all;
use genie_events::usage::UsageEvent;

use super::*;

both_stores!(
    lists_and_counts_that_are_asked_for_at_once_are_each_users_own,
    async |store: TestStore| {
        let log = store.open().await.log;
        let now = log.clock().now();
        let reads = start(&log).await;
        let mut users = Vec::new();
        for n in 0..12_u128 {
            let mut writer = Writer::new(&store, &log, &format!("user {n}")).await;
            let jobs = (0..n).map(|job| (id(1000 * (n + 1) + job), submitted("thumbnail", None)));
            let usage = counted(writer.user, n, now);
            writer.write(jobs.chain([usage]).collect()).await;
            users.push(writer.user);
        }
        reads
            .wait_for_all(log.reader().head(), LIMIT)
            .await
            .unwrap();
        let users = users.iter().enumerate();
        let lists = users.clone().flat_map(|(n, user)| {
            [(2, None), (50, None), (50, Some(0))].map(|(limit, before)| {
                let list = reads
                    .jobs
                    .list(*user, JobFilter::default(), before, limit, now);
                async move { (n, *user, limit, before, list.await.unwrap().page) }
            })
        });
        for (n, user, limit, before, page) in join_all(lists).await {
            let expected = if before.is_some() { 0 } else { n };
            assert_eq!(page.rows.len(), expected.min(limit as usize), "{user}");
            assert_eq!(page.has_more, expected > limit as usize, "{user}");
            let positions: Vec<u64> = page.rows.iter().map(|job| job.position).collect();
            assert!(positions.is_sorted_by(|newer, older| newer > older));
            assert!(page.rows.iter().all(|job| job.user == user));
        }
        let counts = users.map(|(n, user)| {
            let counts = reads.usage.of(*user, now.month(), now);
            async move { (n, counts.await.unwrap()) }
        });
        for (n, counts) in join_all(counts).await {
            let expected = Some(n as u64).filter(|n| *n > 0);
            let count = counts.get(&Counter::TaxonomyAiCalls).copied();
            assert_eq!(count.filter(|count| *count > 0), expected);
        }
    }
);

fn counted(user: UserId, amount: u128, now: Timestamp) -> (Uuid, Event) {
    let event = UsageEvent::Counted {
        counter: Counter::TaxonomyAiCalls,
        amount: amount as u64,
        month: now.month(),
    };
    (user.0, Event::Usage(event))
}

both_stores!(
    facts_that_come_one_after_another_share_batches,
    async |store: TestStore| {
        let log = store.open().await.log;
        let mut ada = Writer::new(&store, &log, "ada").await;
        let reads = start(&log).await;
        let caught_up = async || {
            let head = log.reader().head();
            reads.wait_for_all(head, LIMIT).await.unwrap();
        };
        caught_up().await;
        count_batches(&store).await;
        let began = Instant::now();
        for n in 0..200 {
            ada.write(vec![(id(n), submitted("thumbnail", None))]).await;
        }
        let took = began.elapsed();
        caught_up().await;
        let batches: i64 = sqlx::query_scalar("SELECT n FROM batches")
            .fetch_one(log.store().reads())
            .await
            .unwrap();
        let most = took.as_millis() / PACE.as_millis() + 3;
        assert!(
            (1..=most as i64).contains(&batches),
            "{batches} in {took:?}"
        );
    }
);

/// Counts from now on, in a table of its own, how often the checkpoint moves.
async fn count_batches(store: &TestStore) {
    let count = match store.database_url() {
        Some(_) => {
            "CREATE RULE counting AS ON UPDATE TO checkpoints WHERE NEW.name = 'projections' \
                    DO ALSO UPDATE batches SET n = n + 1"
        }
        None => {
            "CREATE TRIGGER counting AFTER UPDATE ON checkpoints WHEN NEW.name = 'projections' \
                 BEGIN UPDATE batches SET n = n + 1; END"
        }
    };
    for sql in [
        "CREATE TABLE batches (n bigint NOT NULL)",
        "INSERT INTO batches VALUES (0)",
        count,
    ] {
        store.try_sql(sql).await.unwrap();
    }
}
