//! The state of one job, from its stream. A job that is queued again for ever has an endless stream, so only two parts
//! of it are read: the submission, and what came after the job was last queued.

use genie_events::{
    Event, JobId, StreamId, StreamKind, UserId,
    job::{Job, JobEvent},
};
use genie_log::{LogError, LogReader};

/// The events read at once. A job has some two for each attempt.
const PAGE: usize = 16;

/// The job and the number of its events; `None` when the user has no such job.
pub(crate) async fn load(
    reader: &LogReader,
    user: UserId,
    job: JobId,
) -> Result<Option<(Job, u64)>, LogError> {
    let stream = StreamId::new(StreamKind::Job, job);
    let mut newest_first = Vec::new();
    let mut count = 0;
    let mut before = None;
    while !newest_first.last().is_some_and(queues_it) {
        let page = reader.newest_events(user, &stream, before, PAGE).await?;
        let Some((oldest, _)) = page.last() else {
            return Ok(None);
        };
        before = Some(*oldest);
        for (sequence, event) in page {
            count = count.max(sequence);
            let Event::Job(event) = event else {
                continue;
            };
            let is_last = queues_it(&event);
            newest_first.push(event);
            if is_last {
                break;
            }
        }
    }
    let mut state = Job::default();
    if let Some(JobEvent::Retried { .. }) = newest_first.last() {
        let first = reader.newest_events(user, &stream, Some(2), 1).await?;
        for (_, event) in first {
            if let Event::Job(event) = event {
                state.evolve(event);
            }
        }
    }
    newest_first
        .into_iter()
        .rev()
        .for_each(|event| state.evolve(event));
    Ok(Some((state, count)))
}

/// True for the events after which nothing but the job's outline comes from earlier ones.
fn queues_it(event: &JobEvent) -> bool {
    matches!(event, JobEvent::Submitted { .. } | JobEvent::Retried { .. })
}

#[cfg(test)]
mod tests {
    use genie_events::{Metadata, Timestamp, job::JobSpec};
    use genie_log::{
        AppendRequest, Group, NewFact, Owner,
        testing::{TestStore, both_stores},
    };
    use serde_json::Value;

    use super::*;

    fn claimed(attempt: u32) -> JobEvent {
        JobEvent::Claimed {
            attempt,
            worker: "w".into(),
            lease: format!("lease {attempt}"),
        }
    }

    fn failed(attempt: u32, retry_at: Option<Timestamp>) -> JobEvent {
        JobEvent::Failed {
            attempt,
            error: "e".into(),
            code: None,
            retry_at,
        }
    }

    /// The life of a job that its owner queues again and again.
    fn life() -> Vec<JobEvent> {
        let spec = JobSpec {
            name: None,
            operation: "resize_image".into(),
            queue: "media-jobs".into(),
            params: Value::Null,
            input_file_id: None,
            input_url: None,
            creator_profile_id: None,
            priority: 10,
            run_at: Some(Timestamp(5)),
            max_attempts: 12,
            mark: None,
        };
        let retried = || JobEvent::Retried {
            queue: "media-jobs".into(),
            operation: "resize_image".into(),
            files: vec![],
            priority: 5,
            counted: None,
        };
        let mut life = vec![JobEvent::Submitted {
            spec,
            counted: None,
        }];
        for _ in 0..3 {
            life.extend([claimed(1), failed(1, None), retried()]);
        }
        for attempt in 1..=12 {
            let retry_at = (attempt < 12).then_some(Timestamp(9));
            life.extend([claimed(attempt), failed(attempt, retry_at)]);
        }
        life.extend([retried(), JobEvent::Cancelled, retried()]);
        life
    }

    both_stores!(
        a_job_is_what_its_whole_stream_makes_of_it,
        async |store: TestStore| {
            let log = store.open().await.log;
            let ada = store.register(&log, "ada").await;
            let reader = log.reader();
            let job = JobId(log.clock().new_uuid());
            assert_eq!(load(&reader, ada, job).await.unwrap(), None);
            for (n, event) in (1..).zip(life()) {
                let fact = NewFact {
                    stream: StreamId::new(StreamKind::Job, job),
                    sequence: n,
                    event: event.into(),
                };
                let request = AppendRequest {
                    groups: vec![Group::of_user(ada, n, vec![fact])],
                    work: vec![],
                    metadata: Metadata::system(),
                    remember: None,
                };
                genie_log::testing::append(&log, request).await.unwrap();
                let whole = reader.stream::<Job>(&Owner::User(ada), job).await.unwrap();
                assert_eq!(load(&reader, ada, job).await.unwrap(), whole, "event {n}");
            }
            let bob = store.register(&log, "bob").await;
            assert_eq!(load(&reader, bob, job).await.unwrap(), None, "of another");
        }
    );
}
