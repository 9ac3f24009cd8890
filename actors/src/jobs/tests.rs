use futures_util::FutureExt;
use genie_log::testing::{TestStore, both_stores};
use uuid::Uuid;

use super::*;
use crate::users::tests::node;

fn step(job: u128, sequence: u64, event_type: &str, queue: &str) -> JobStep {
    JobStep {
        owner_seq: sequence,
        job: JobId(Uuid::from_u128(job)),
        user: UserId(Uuid::from_u128(1)),
        sequence,
        event_type: event_type.into(),
        clear: [("queue".to_owned(), json!(queue))].into(),
    }
}

fn woken(waiting: &mut [impl Future<Output = ()> + Unpin]) -> usize {
    let woken = waiting.iter_mut().filter_map(FutureExt::now_or_never);
    woken.count()
}

both_stores!(
    a_job_wakes_the_claims_of_its_own_queue_only,
    async |store: TestStore| {
        let log = store.open().await.log;
        let users = node(&log);
        let board = JobBoard::new(log, users, Duration::from_secs(30));
        let [first, second, ..] = QUEUES;
        let (of_one, of_other, of_either) = ([first], [second], [first, second]);
        let mut of_first = Box::pin(board.news_of(&of_one));
        let mut of_second: Vec<_> = (0..1000)
            .map(|_| Box::pin(board.news_of(&of_other)))
            .collect();
        let mut of_both = Box::pin(board.news_of(&of_either));

        board.take_note(&[step(1, 1, "job.submitted", first)]);
        assert!((&mut of_first).now_or_never().is_some());
        assert!((&mut of_both).now_or_never().is_some());
        assert_eq!(woken(&mut of_second), 0);

        // Nothing to hand out comes of a claim or an end.
        let mut of_first = Box::pin(board.news_of(&of_one));
        board.take_note(&[
            step(1, 2, "job.claimed", first),
            step(1, 3, "job.completed", first),
        ]);
        assert!((&mut of_first).now_or_never().is_none());
        board.take_note(&[step(2, 1, "job.submitted", second)]);
        assert!((&mut of_first).now_or_never().is_none());
        assert_eq!(woken(&mut of_second), 1000);
    }
);
