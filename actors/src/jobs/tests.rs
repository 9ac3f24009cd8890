use futures_util::FutureExt;
use genie_events::Metadata;
use genie_log::testing::{TestStore, both_stores};
use uuid::Uuid;

use super::{operation_set::OperationNumber, *};
use crate::users::tests::{node, node_of_two_threads};

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

async fn submit(board: &JobBoard, owner: UserId) -> JobId {
    let job = JobId(board.0.log.clock().new_uuid());
    let spec = serde_json::from_value(json!({
        "operation": "thumbnail", "queue": "media-jobs", "priority": 10, "max_attempts": 3,
        "input_url": "http://a/b",
    }));
    let submission = NewSubmission {
        job,
        spec: spec.unwrap(),
        foreign: None,
    };
    let submitted = board.submit(owner, submission, Metadata::system()).await;
    submitted.unwrap().job
}

/// Claims what there is, without waiting.
async fn claim(board: &JobBoard) -> Vec<JobId> {
    let scope = ClaimScope::of_worker(&["media-jobs"], None);
    let claim = board.claim(scope, "w".into(), 10, Duration::ZERO, Metadata::system());
    let claimed = claim.await.unwrap().take();
    claimed.iter().map(|claimed| claimed.job).collect()
}

async fn until_waiting(board: &JobBoard, count: usize) {
    while board.all_waiting() != count {
        tokio::task::yield_now().await;
    }
}

both_stores!(
    an_owner_that_is_busy_is_passed_over_and_the_others_go_on,
    async |store: TestStore| {
        let log = store.open().await.log;
        let ada = store.register(&log, "ada").await;
        let bob = store.register(&log, "bob").await;
        let users = node_of_two_threads(&log);
        let board = JobBoard::new(log.clone(), users.clone(), Duration::from_secs(30));
        let following = tokio::spawn(board.clone().follow());
        let adas = submit(&board, ada).await;
        let bobs = submit(&board, bob).await;
        until_waiting(&board, 2).await;

        // Ada's actor decides on something for ever, until it is told.
        let (tell, told) = std::sync::mpsc::channel::<()>();
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let (told, begun) = (Mutex::new(told), Mutex::new(Some(begun)));
        let long = move |_: &User, _| {
            if let Some(begun) = begun.lock().take() {
                begun.send(()).unwrap();
                let _ = told.lock().recv();
            }
            Ok(Plan::default())
        };
        let asking = users.clone();
        let long = tokio::spawn(async move {
            let asked = asking.plan(ada, None, Metadata::system(), Arc::new(long));
            asked.await.map(drop)
        });
        has_begun.await.unwrap();
        assert_eq!(claim(&board).await, [bobs]);
        // What was called off never happens.
        tell.send(()).unwrap();
        long.await.unwrap().unwrap();
        let state = users.look(ada, move |ada| {
            json!(ada.job(&adas).map(|job| job.attempts()))
        });
        assert_eq!(state.await.unwrap(), json!(0));
        store.clock.advance_millis(1000);
        assert_eq!(claim(&board).await, [adas]);
        following.abort();
    }
);
