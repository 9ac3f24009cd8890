//! Folds a user's facts afresh into what the read side must show. Pure: facts come in, lines come out. `read_side.rs` makes the
//! same lines of what the servers show.

use std::collections::{BTreeMap, HashMap};

use genie_events::{
    Event, PlatformName, StreamId, UserName, account::AccountEvent, caption::CaptionEvent,
    chat::ChatEvent, credential::CredentialEvent, job::JobEvent, tier::Counter, timestamp::Month,
    usage::UsageEvent,
};

/// By name of a thing: what is shown of it.
pub type ShownLines = BTreeMap<String, String>;

/// A job as it is shown. A waiting job is `delayed` or `queued` depending on the time of the look, so both count as one.
pub fn job_line(status: &str, attempt: u64) -> String {
    let status = if status == "delayed" {
        "queued"
    } else {
        status
    };
    format!("{status}, attempt {attempt}")
}

/// One user's facts folded.
#[derive(Debug, Default)]
pub struct Replay {
    onboarding: Option<&'static str>,
    jobs: HashMap<String, (&'static str, u64)>,
    credentials: HashMap<String, (PlatformName, Option<UserName>)>,
    usage: HashMap<(Counter, Month), i64>,
    captions: HashMap<String, &'static str>,
    /// For each session: its name, and its messages in order.
    chats: HashMap<String, (String, Vec<String>)>,
}

impl Replay {
    /// The user's next fact.
    pub fn see(&mut self, stream: &StreamId, event: Event) {
        let id = stream.id.to_string();
        match event {
            Event::Account(AccountEvent::Registered(_)) => {
                self.onboarding = Some("EXTENSION_INSTALL")
            }
            Event::Account(AccountEvent::OnboardingAdvanced { to }) => {
                self.onboarding = Some(to.as_str())
            }
            Event::Account(_)
            | Event::Email(_)
            | Event::Invite(_)
            | Event::ServiceKey(_)
            | Event::ApiKey(_)
            | Event::File(_)
            | Event::Access(_) => {}
            Event::Usage(UsageEvent::Counted {
                counter,
                amount,
                month,
            }) => {
                *self.usage.entry((counter, month)).or_default() += amount as i64;
            }
            Event::Usage(UsageEvent::GivenBack {
                counter,
                amount,
                month,
            }) => {
                *self.usage.entry((counter, month)).or_default() -= amount as i64;
            }
            Event::Credential(event) => self.credential(id, event),
            Event::Job(event) => self.job(id, event),
            Event::Caption(event) => {
                let status = match event {
                    CaptionEvent::Requested { .. } => "writing",
                    CaptionEvent::Completed(_) => "completed",
                    CaptionEvent::Failed(_) => "failed",
                };
                self.captions.insert(id, status);
            }
            Event::Chat(event) => self.chat(id, event),
        }
    }

    fn chat(&mut self, id: String, event: ChatEvent) {
        match event {
            ChatEvent::Asked {
                session, message, ..
            }
            | ChatEvent::Prompted {
                session, message, ..
            } => {
                self.chats
                    .entry(id)
                    .or_insert((session, Vec::new()))
                    .1
                    .push(format!("user: {message}"));
            }
            ChatEvent::Answered { answer, .. } => {
                if let Some((_, messages)) = self.chats.get_mut(&id) {
                    messages.push(format!("assistant: {}", answer.content));
                }
            }
            ChatEvent::Removed { .. } => {
                self.chats.remove(&id);
            }
            ChatEvent::Renamed { .. } | ChatEvent::Reopened | ChatEvent::Continued { .. } => {}
        }
    }

    fn credential(&mut self, id: String, event: CredentialEvent) {
        match event {
            CredentialEvent::Stored {
                platform,
                platform_username,
                ..
            } => {
                self.credentials.insert(id, (platform, platform_username));
            }
            CredentialEvent::Changed {
                platform_username, ..
            } => {
                if let Some(held) = self.credentials.get_mut(&id) {
                    held.1 = platform_username;
                }
            }
            CredentialEvent::Revealed { .. } | CredentialEvent::Refused { .. } => {}
            CredentialEvent::Removed => drop(self.credentials.remove(&id)),
        }
    }

    fn job(&mut self, id: String, event: JobEvent) {
        if event == JobEvent::Removed {
            self.jobs.remove(&id);
            return;
        }
        let before = self.jobs.get(&id).map_or(0, |(_, attempt)| *attempt);
        let now = match event {
            JobEvent::Submitted { .. } | JobEvent::Retried { .. } => ("queued", 0),
            JobEvent::Claimed { attempt, .. } => ("processing", u64::from(attempt)),
            JobEvent::Lapsed { retry_at, .. } | JobEvent::Failed { retry_at, .. } => match retry_at
            {
                Some(_) => ("queued", before),
                None => ("failed", before),
            },
            JobEvent::Released { attempt } => ("queued", u64::from(attempt).saturating_sub(1)),
            JobEvent::Rescheduled { .. } => ("queued", before),
            JobEvent::Completed { .. } => ("completed", before),
            JobEvent::Cancelled | JobEvent::Removed => ("cancelled", before),
        };
        self.jobs.insert(id, now);
    }

    /// The lines that the servers must show; counts are those of `month`.
    pub fn lines(self, month: Month) -> ShownLines {
        let mut lines = ShownLines::new();
        if let Some(onboarding) = self.onboarding {
            lines.insert("onboarding".into(), onboarding.into());
        }
        lines.extend(
            self.jobs
                .into_iter()
                .map(|(id, (status, attempt))| (format!("job {id}"), job_line(status, attempt))),
        );
        for (id, (platform, name)) in self.credentials {
            lines.insert(
                format!("credential {id}"),
                credential_line(platform.as_str(), name.as_ref().map(UserName::as_str)),
            );
        }
        for counter in Counter::ALL
            .into_iter()
            .filter(|counter| !counter.is_present_count())
        {
            let count = self
                .usage
                .get(&(counter, month))
                .copied()
                .unwrap_or(0)
                .max(0);
            lines.insert(format!("usage {counter}"), count.to_string());
        }
        lines.extend(
            self.captions
                .into_iter()
                .map(|(id, status)| (format!("caption {id}"), status.to_owned())),
        );
        for (session, messages) in self.chats.into_values() {
            for (n, message) in messages.into_iter().enumerate() {
                lines.insert(format!("message {n} of {session}"), message);
            }
        }
        lines
    }
}

pub fn credential_line(platform: &str, name: Option<&str>) -> String {
    format!("{platform} of {}", name.unwrap_or("nobody"))
}

/// The differences, in sentences. None if both sides agree.
pub fn differences(expected: &ShownLines, shown: &ShownLines) -> Vec<String> {
    let mut found = Vec::new();
    for (name, wanted) in expected {
        match shown.get(name) {
            None => found.push(format!("{name} is not shown; by the log it is: {wanted}")),
            Some(shown) if shown != wanted => found.push(format!(
                "{name} is shown as: {shown}; by the log it is: {wanted}"
            )),
            Some(_) => {}
        }
    }
    let unknown = shown.keys().filter(|name| !expected.contains_key(*name));
    found.extend(unknown.map(|name| format!("{name} is shown and is not in the log")));
    found
}

#[cfg(test)]
mod tests {
    use genie_events::{StreamKind, Timestamp, job::JobSpec};
    use serde_json::Value;

    use super::*;

    fn spec() -> JobSpec {
        JobSpec {
            name: None,
            operation: "thumbnail".into(),
            queue: "media-jobs".into(),
            params: Value::Null,
            input_file_id: None,
            input_url: None,
            creator_profile_id: None,
            priority: 10,
            run_at: None,
            max_attempts: 3,
            mark: None,
        }
    }

    const JOB: uuid::Uuid = uuid::Uuid::from_u128(1);

    fn lines(events: Vec<JobEvent>) -> ShownLines {
        let mut replay = Replay::default();
        let job = StreamId::new(StreamKind::Job, JOB);
        events
            .into_iter()
            .for_each(|event| replay.see(&job, event.into()));
        replay.lines(Month(202_611))
    }

    #[test]
    fn a_job_is_folded_to_the_line_that_clients_see() {
        let claimed = || JobEvent::Claimed {
            attempt: 1,
            worker: "w".into(),
            lease: "l".into(),
        };
        let lapsed = |retry_at| JobEvent::Lapsed {
            attempt: 1,
            retry_at,
        };
        for (events, shown) in [
            (vec![], "queued, attempt 0"),
            (vec![claimed()], "processing, attempt 1"),
            (
                vec![claimed(), lapsed(Some(Timestamp(5)))],
                "queued, attempt 1",
            ),
            (vec![claimed(), lapsed(None)], "failed, attempt 1"),
            (
                vec![
                    claimed(),
                    lapsed(None),
                    JobEvent::Retried {
                        queue: "q".into(),
                        operation: "thumbnail".into(),
                        files: vec![],
                        priority: 5,
                        counted: None,
                    },
                ],
                "queued, attempt 0",
            ),
            (vec![JobEvent::Cancelled], "cancelled, attempt 0"),
        ] {
            let all = [
                vec![JobEvent::Submitted {
                    spec: spec(),
                    counted: None,
                }],
                events,
            ]
            .concat();
            assert_eq!(lines(all)[&format!("job {JOB}")], shown);
        }
        assert_eq!(job_line("delayed", 1), "queued, attempt 1");
    }

    #[test]
    fn every_difference_is_found() {
        let expected = lines(vec![JobEvent::Submitted {
            spec: spec(),
            counted: None,
        }]);
        assert_eq!(differences(&expected, &expected), [""; 0]);
        assert_eq!(
            differences(&expected, &ShownLines::new()).len(),
            expected.len()
        );
        let shown: ShownLines = [
            (format!("job {JOB}"), "completed, attempt 1".to_owned()),
            ("job 2".into(), "x".into()),
        ]
        .into();
        let found = differences(
            &lines(vec![JobEvent::Submitted {
                spec: spec(),
                counted: None,
            }]),
            &shown,
        );
        assert!(
            found.contains(&"job 2 is shown and is not in the log".to_owned()),
            "{found:?}"
        );
        assert!(
            found
                .iter()
                .any(|one| one.starts_with(&format!("job {JOB} is shown as: completed"))),
            "{found:?}"
        );
    }
}
