//! Fills a store with a past, by appends of up to a thousand facts. The server projects them when it
//! starts.

use std::sync::Arc;

use genie_events::{
    BlobId, CaptionId, Event, JobId, MarkNumber, Metadata, ServiceKeyId, StreamId, StreamKind,
    TurnId, UserId,
    account::{AccountEvent, Registration},
    caption::{Brief, CaptionEvent, WrittenCaption},
    chat::{ChatEvent, TurnAnswer, TurnMetrics, TurnOutcome},
    credential::CredentialEvent,
    file::{FileEvent, NewFile},
    ids::InviteId,
    invite::{Grant, InviteEvent},
    job::{JobEvent, JobSpec},
    service_key::{ServiceKeyEvent, ServiceKeyGrant},
    tier::Tier,
};
use genie_log::{
    AppendRequest, Group, Log, NewFact, Owner, UserKeys, Work,
    blobs::row_of,
    load_users::Waking,
    sessions::{NewSession, SessionRow},
    testing::{TestStore, append},
};
use serde_json::json;
use uuid::Uuid;

use crate::operations::{LONG_SESSION, Subject};

/// The most facts of one append.
const PART: usize = 1000;
/// The smallest and the largest number of what is less often made. The smallest fills a page.
const RARELY: std::ops::RangeInclusive<usize> = 100..=5000;
/// One unfinished job for this many users.
const UNFINISHED: usize = 20;

/// Makes `size` users with a login each, and gives the subject as many finished jobs and messages in
/// one session. Everything else there is grows with it.
pub async fn grow(store: &TestStore, subject: &Subject, size: usize) {
    let rarely = size.clamp(*RARELY.start(), *RARELY.end());
    let log = store.open().await.log;
    users(&log, size).await;
    of_the_system(&log, rarely, |log| {
        let id = InviteId(hash_like(log));
        let created = Event::Invite(InviteEvent::Created {
            grant: Grant {
                tier: Tier::Pro,
                role: "creator".into(),
                admin: false,
                expires_at: None,
            },
            sealed_code: None,
        });
        (StreamId::new(StreamKind::Invite, id), created)
    })
    .await;
    of_the_system(&log, rarely, |log| {
        let id = ServiceKeyId(hash_like(log));
        let created = Event::ServiceKey(ServiceKeyEvent::Created(ServiceKeyGrant {
            name: "reader".into(),
            scopes: vec![],
            expires_at: None,
        }));
        (StreamId::new(StreamKind::ServiceKey, id), created)
    })
    .await;
    past_of(&log, subject, size, rarely).await;
    log.store().close().await;
}

/// An id of the form of a keyed hash.
fn hash_like(log: &Log) -> Uuid {
    Uuid::new_v8(log.clock().new_uuid().into_bytes())
}

async fn write(log: &Log, groups: Vec<Group>, work: Vec<Work>) {
    let request = AppendRequest {
        groups,
        work,
        metadata: Metadata::system(),
        remember: None,
    };
    append(log, request).await.unwrap();
}

async fn users(log: &Log, count: usize) {
    let numbers: Vec<usize> = (0..count).collect();
    // Some of them have two facts.
    for part in numbers.chunks(PART / 2) {
        let mut groups = Vec::new();
        let mut work = Vec::new();
        for n in part {
            let user = UserId(log.clock().new_uuid());
            let (keys, new_key) = log.keys().new_for(user);
            work.push(new_key);
            work.push(Work::Session(SessionRow::Open(login(log, user))));
            let mut group = registered(log, user, keys, *n);
            if n % UNFINISHED == 0 {
                let [submitted, ..] = job(log, *n);
                group.facts.push(submitted);
            }
            groups.push(group);
        }
        write(log, groups, work).await;
    }
}

fn login(log: &Log, user: UserId) -> NewSession {
    let now = log.clock().now();
    NewSession {
        user,
        family: log.clock().new_uuid().to_string(),
        token_hash: log.clock().new_uuid().to_string(),
        agent_sealed: None,
        now,
        expires_at: now.plus_seconds(86_400),
    }
}

fn registered(log: &Log, user: UserId, keys: Arc<UserKeys>, n: usize) -> Group {
    let event = Event::Account(AccountEvent::Registered(Registration {
        email: format!("user{n}@example.com"),
        email_id: log
            .hashes()
            .email(&genie_events::EmailAddress::read(&format!("user{n}@example.com")).unwrap()),
        first_name: None,
        invite: log
            .hashes()
            .invite(&genie_events::InviteCode::made("bulk".into())),
        tier: Tier::Pro,
        role: "creator".into(),
        admin: false,
    }));
    let stream = StreamId::new(StreamKind::Account, user);
    Group {
        owner: Owner::User(user),
        after: 0,
        facts: vec![NewFact {
            stream,
            sequence: 1,
            event,
        }],
        keys: Some(keys),
    }
}

async fn of_the_system(log: &Log, count: usize, make: impl Fn(&Log) -> (StreamId, Event)) {
    let numbers: Vec<usize> = (0..count).collect();
    for part in numbers.chunks(PART) {
        let groups = part.iter().map(|_| {
            let (stream, event) = make(log);
            Group::of_system(&stream, 0, vec![event])
        });
        write(log, groups.collect(), vec![]).await;
    }
}

async fn past_of(log: &Log, subject: &Subject, size: usize, rarely: usize) {
    let user = subject.id;
    let Ok(Waking::Awake(awake)) = log.users().wake(user).await else {
        panic!("the subject is there");
    };
    // The reveals are the newest facts in both sizes, because their list looks back from the newest.
    let mut facts: Vec<NewFact> = (0..size).map(|_| file(log)).collect();
    for n in 0..size {
        facts.extend(job(log, n));
    }
    let long = log.hashes().session(user, LONG_SESSION);
    for n in 0..size / 2 {
        facts.extend(turn(log, long.into(), LONG_SESSION, n));
    }
    for n in 0..rarely {
        let name = format!("session {n}");
        let session = log.hashes().session(user, &name);
        facts.extend(turn(log, session.into(), &name, 0));
    }
    for _ in 0..rarely {
        facts.extend(caption(log));
    }
    for n in 0..rarely as u64 {
        facts.push(NewFact {
            stream: StreamId::new(StreamKind::Credential, subject.credential),
            sequence: n + 2, // the first is that it was stored
            event: Event::Credential(CredentialEvent::Revealed {
                version: 1,
                purpose: Some("publish".into()),
            }),
        });
    }
    let keys = log.keys().live(user).await.unwrap();
    let mut after = awake.user.seq();
    let mut facts = facts.into_iter();
    loop {
        let part: Vec<NewFact> = facts.by_ref().take(PART).collect();
        if part.is_empty() {
            break;
        }
        let count = part.len() as u64;
        let work = part.iter().filter_map(|fact| match &fact.event {
            Event::File(FileEvent::Stored(file)) => {
                let id = BlobId(fact.stream.id);
                Some(row_of(id, user, file, log.clock().now(), &keys))
            }
            _ => None,
        });
        let work = work.collect();
        write(log, vec![Group::of_user(user, after, part)], work).await;
        after += count;
    }
}

/// A job that was cancelled.
fn job(log: &Log, n: usize) -> [NewFact; 2] {
    let stream = StreamId::new(StreamKind::Job, JobId(log.clock().new_uuid()));
    let spec = JobSpec {
        name: None,
        operation: "resize_image".into(),
        queue: "media-jobs".into(),
        params: json!({"width": 100 + n}),
        input_file_id: None,
        input_url: None,
        creator_profile_id: None,
        priority: 0,
        run_at: None,
        max_attempts: 3,
        mark: Some(MarkNumber(n as u32)), // so that there are as many numbers as jobs
    };
    let submitted = JobEvent::Submitted {
        spec,
        counted: None,
    };
    [(1, submitted), (2, JobEvent::Cancelled)].map(|(sequence, event)| NewFact {
        stream,
        sequence,
        event: Event::Job(event),
    })
}

/// A file without its bytes.
fn file(log: &Log) -> NewFact {
    let file = NewFile {
        file_name: "film.mp4".into(),
        bytes: 1000,
        mime: "video/mp4".into(),
        sha256: "00".into(),
        job: None,
        width: None,
        height: None,
        duration: None,
    };
    NewFact {
        stream: StreamId::new(StreamKind::File, log.clock().new_uuid()),
        sequence: 1,
        event: Event::File(FileEvent::Stored(file)),
    }
}

/// A hundred messages of these words fill the model's context.
fn words(n: usize) -> String {
    format!("The answer to question {n} is not easy. ").repeat(12)
}

/// The turn of this number in its session, from 0.
fn turn(log: &Log, session: Uuid, name: &str, n: usize) -> [NewFact; 2] {
    let turn = TurnId(log.clock().new_uuid());
    let sequence = 2 * n as u64 + 1;
    let stream = StreamId::new(StreamKind::Chat, session);
    let asked = ChatEvent::Asked {
        turn,
        session: name.to_owned(),
        message: words(n),
    };
    let answered = ChatEvent::Answered {
        turn,
        answer: TurnAnswer {
            content: words(n),
            outcome: TurnOutcome::Completed,
            failure: None,
            model: "fake".into(),
            metrics: TurnMetrics::default(),
            tool_calls: vec![],
        },
    };
    [(sequence, asked), (sequence + 1, answered)].map(|(sequence, event)| NewFact {
        stream,
        sequence,
        event: Event::Chat(event),
    })
}

fn caption(log: &Log) -> [NewFact; 2] {
    let stream = StreamId::new(StreamKind::Caption, CaptionId(log.clock().new_uuid()));
    let requested = CaptionEvent::Requested {
        brief: Brief {
            platform: genie_events::caption::Platform::X,
            tone: "warm".into(),
            topic: "a new video".into(),
            length: genie_events::caption::Length::Short,
            platform_username: None,
        },
        month: log.clock().now().month(),
    };
    let completed = CaptionEvent::Completed(WrittenCaption {
        text: "Look at this".into(),
        model: "fake".into(),
        truncated: false,
    });
    [(1, requested), (2, completed)].map(|(sequence, event)| NewFact {
        stream,
        sequence,
        event: Event::Caption(event),
    })
}
