use futures_util::FutureExt;
use genie_log::testing::{TestStore, both_stores};
use uuid::Uuid;

use super::{operation_set::OperationNumber, *};
use crate::users::tests::node;

fn step(job: u128, sequence: u64, event_type: &str, operation: &str) -> JobStep {
    JobStep {
        owner_seq: sequence,
        job: JobId(Uuid::from_u128(job)),
        user: UserId(Uuid::from_u128(1)),
        sequence,
        event_type: event_type.into(),
        clear: [("operation".to_owned(), json!(operation))].into(),
    }
}

fn woken(waiting: &mut Vec<impl Future<Output = ()> + Unpin>) -> usize {
    let before = waiting.len();
    waiting.retain_mut(|claim| claim.now_or_never().is_none());
    before - waiting.len()
}

both_stores!(
    a_job_wakes_one_claim_that_asks_for_its_operation,
    async |store: TestStore| {
        let log = store.open().await.log;
        let users = node(&log);
        let board = JobBoard::new(log, users, Duration::from_secs(30));
        let waiting = |queue: &'static str, operation: Option<&str>, claims: usize| {
            let number = operation.map(|name| vec![OperationNumber::parse(name).unwrap()]);
            let scope = ClaimScope::of_worker(&[queue], number.as_deref());
            let one = |_| Box::pin(board.0.news.of(scope.operations()));
            let mut all: Vec<_> = (0..claims).map(one).collect();
            assert_eq!(woken(&mut all), 0);
            all
        };
        let mut thumbnails = waiting("media-jobs", Some("thumbnail"), 10);
        let mut teasers = waiting("media-jobs", Some("create_teaser"), 1000);
        let mut any_scrape = waiting("scrape-jobs", None, 1000);

        board.take_note(&[step(1, 1, "job.submitted", "thumbnail")]);
        assert_eq!(woken(&mut thumbnails), 1);
        board.take_note(&[
            step(2, 1, "job.submitted", "thumbnail"),
            step(3, 1, "job.submitted", "thumbnail"),
        ]);
        assert_eq!(woken(&mut thumbnails), 2);
        assert_eq!((woken(&mut teasers), woken(&mut any_scrape)), (0, 0));

        // Nothing to hand out comes of a claim or an end.
        board.take_note(&[
            step(1, 2, "job.claimed", "thumbnail"),
            step(1, 3, "job.completed", "thumbnail"),
        ]);
        assert_eq!(woken(&mut thumbnails), 0);
        board.take_note(&[step(4, 1, "job.submitted", "publish_post")]);
        assert_eq!((woken(&mut any_scrape), woken(&mut thumbnails)), (1, 0));

        // A claim that goes away after it was woken leaves its job to the next.
        let mut gone = waiting("scrape-jobs", None, 1);
        any_scrape.truncate(1);
        board.take_note(&[step(5, 1, "job.submitted", "publish_post")]);
        any_scrape.clear();
        assert_eq!(woken(&mut gone), 1);
    }
);
