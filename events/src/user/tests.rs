#![allow(clippy::too_many_lines)] // a story is read from its beginning to its end

use serde_json::Value;
use uuid::Uuid;

use super::*;
use crate::{
    Limits, RefusalKind,
    account::{Onboarding, Registration},
    api_key::{ApiScope, MAX_KEYS},
    caption::{Brief, Length, Platform, WrittenCaption},
    chat::{ChatCommand, Failure, TurnAnswer, TurnMetrics, TurnOutcome},
    credential::{CredentialEvent, RefusedFor, SealedSecret},
    file::{NewFile, RemovedBecause},
    ids::{BlobId, EmailId, InviteId},
    job::{JobCommand, JobEvent, JobSpec},
    metadata::Metadata,
    tier::{Counter, Tier},
    timestamp::{Month, Timestamp},
    usage::UsageEvent,
};

const NOW: Timestamp = Timestamp(1_795_000_000_000_000);
const NEXT_MONTH: Timestamp = Timestamp(1_797_000_000_000_000);

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn platform(name: &str) -> PlatformName {
    PlatformName::read(name).unwrap()
}

fn name(name: &str) -> UserName {
    UserName::read("name", name).unwrap().unwrap()
}

fn apply(user: &mut User, changes: Vec<Change>) {
    for change in changes {
        let sequence = user.sequence(&change.stream) + 1;
        user.evolve(&change.stream, sequence, change.event);
    }
}

fn ada() -> User {
    on_tier(Tier::Starter)
}

fn on_tier(tier: Tier) -> User {
    let registration = Registration {
        email: "ada@example.com".into(),
        email_id: EmailId(Uuid::from_u128(1)),
        first_name: None,
        invite: InviteId(Uuid::from_u128(1)),
        tier,
        role: "creator".into(),
        admin: false,
    };
    let mut user = User::new(UserId(id(1)));
    apply(
        &mut user,
        vec![registered(
            UserId(id(1)),
            AccountEvent::Registered(registration),
        )],
    );
    user
}

fn ask(user: &mut User, command: UserCommand) -> Result<usize, Refusal> {
    ask_at(user, NOW, command)
}

fn ask_at(user: &mut User, moment: Timestamp, command: UserCommand) -> Result<usize, Refusal> {
    let decided = user.decide(
        Now {
            moment,
            limits: Limits::built_in(),
        },
        command,
    )?;
    let count = decided.len();
    apply(user, decided);
    Ok(count)
}

fn spec(operation: &str) -> JobSpec {
    JobSpec {
        name: None,
        operation: operation.into(),
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

fn brief() -> Brief {
    Brief {
        platform: Platform::X,
        tone: "t".into(),
        topic: "t".into(),
        length: Length::Short,
        platform_username: None,
    }
}

#[test]
fn a_caption_is_counted_with_its_request_and_given_back_when_it_fails() {
    let mut ada = ada();
    for n in 0..3 {
        assert_eq!(
            ask(
                &mut ada,
                UserCommand::RequestCaption(CaptionId(id(n)), brief())
            ),
            Ok(2)
        );
    }
    let refused = ask(
        &mut ada,
        UserCommand::RequestCaption(CaptionId(id(9)), brief()),
    )
    .unwrap_err();
    assert_eq!(
        refused.kind,
        RefusalKind::Quota {
            counter: Counter::PostsAiAssisted,
            in_tier: true
        }
    );
    let failure = Failure {
        code: "model_unavailable".into(),
        sentence: "away".into(),
    };
    assert_eq!(
        ask(
            &mut ada,
            UserCommand::FinishCaption(CaptionId(id(1)), Err(failure.clone()))
        ),
        Ok(2)
    );
    assert_eq!(
        ask(
            &mut ada,
            UserCommand::FinishCaption(CaptionId(id(1)), Err(failure))
        ),
        Ok(0),
        "once"
    );
    assert_eq!(
        ask(
            &mut ada,
            UserCommand::RequestCaption(CaptionId(id(9)), brief())
        ),
        Ok(2)
    );
}

#[test]
fn an_operation_that_the_tier_lacks_queues_nothing() {
    let mut ada = ada();
    let job = JobId(id(5));
    let refused = ask(&mut ada, UserCommand::SubmitJob(job, spec("trim_videos"))).unwrap_err();
    assert!(matches!(
        refused.kind,
        RefusalKind::Quota { in_tier: false, .. }
    ));
    assert_eq!(ada.job(&job), None);
}

#[test]
fn a_finished_job_leaves_the_state_and_can_be_recalled() {
    let mut ada = ada();
    let job = JobId(id(5));
    ask(&mut ada, UserCommand::SubmitJob(job, spec("resize_image"))).unwrap();
    let claim = JobCommand::Claim {
        worker: "w".into(),
        lease: "l".into(),
        now: NOW,
    };
    ask(&mut ada, UserCommand::Job(job, claim)).unwrap();
    let running = ada.job(&job).cloned().unwrap();
    let complete = JobCommand::Complete {
        lease: "l".into(),
        result: Value::Null,
        outputs: Value::Null,
    };
    assert_eq!(
        ask(&mut ada, UserCommand::Job(job, complete.clone())),
        Ok(1)
    );
    assert_eq!(ada.job(&job), None);
    assert_eq!(ada.sequence(&StreamId::new(StreamKind::Job, job)), 0);

    let mut finished = running;
    finished.evolve(crate::job::JobEvent::Completed {
        attempt: 1,
        result: Value::Null,
        outputs: Value::Null,
    });
    ada.recall_job(job, finished, 3);
    assert_eq!(
        ask(&mut ada, UserCommand::Job(job, complete)),
        Ok(0),
        "completing twice is no error"
    );
    ada.drop_recalled(&Recall::Job(job));
    assert_eq!(ada.job(&job), None);
}

fn question(turn: u128) -> ChatCommand {
    ChatCommand::Ask {
        turn: TurnId(id(turn)),
        session: "s".into(),
        message: "hello".into(),
    }
}

fn stop(turn: u128) -> ChatCommand {
    let answer = TurnAnswer {
        content: String::new(),
        outcome: TurnOutcome::Stopped,
        failure: None,
        model: "m".into(),
        metrics: TurnMetrics::default(),
        tool_calls: vec![],
    };
    ChatCommand::Answer {
        turn: TurnId(id(turn)),
        answer,
    }
}

#[test]
fn a_chat_is_in_the_state_only_while_a_turn_runs() {
    let mut ada = ada();
    let before = ada.to_snapshot().len();
    let session = SessionId(Uuid::from_u128(1));
    let recall = Recall::Session(session);
    let chat = |command| UserCommand::Chat(session, command);
    assert_eq!(ask(&mut ada, chat(question(1))), Ok(1));
    assert_eq!(ada.running_turn(&session), Some(TurnId(id(1))));
    assert_eq!(ask(&mut ada, chat(stop(1))), Ok(1));
    assert!(!ada.holds(&recall));
    assert!(ada.to_snapshot().len() <= before + 2, "nothing of it stays");
    assert_eq!(ask(&mut ada, chat(stop(1))), Ok(0), "answered once");
    // The log says how many events the session has. A command that changes nothing leaves no trace.
    ada.recall_stream(&recall, 2, "chat.answered");
    ada.drop_recalled(&recall);
    assert!(!ada.holds(&recall));
    ada.recall_stream(&recall, 2, "chat.answered");
    assert_eq!(ask(&mut ada, chat(question(2))), Ok(1));
    assert_eq!(ada.sequence(&recall.stream()), 3);
    ada.drop_recalled(&recall);
    assert_eq!(ada.running_turn(&session), Some(TurnId(id(2))));
}

#[test]
fn a_user_has_at_most_so_many_sessions_and_goes_on_in_each() {
    let mut ada = ada();
    let session = |n: u32| SessionId(Uuid::from_u128(u128::from(n)));
    for n in 0..MAX_SESSIONS {
        ask(&mut ada, UserCommand::Chat(session(n), question(1))).unwrap();
        ask(&mut ada, UserCommand::Chat(session(n), stop(1))).unwrap();
    }
    let one_more = UserCommand::Chat(session(MAX_SESSIONS), question(1));
    let refused = ask(&mut ada, one_more).unwrap_err();
    assert_eq!(refused.code, "too_many_sessions");
    ada.recall_stream(&Recall::Session(session(7)), 2, "chat.answered");
    assert_eq!(
        ask(&mut ada, UserCommand::Chat(session(7), question(2))),
        Ok(1)
    );
}

#[test]
fn a_removed_session_frees_its_place_and_its_name() {
    let mut ada = ada();
    let session = SessionId(Uuid::from_u128(1));
    let recall = Recall::Session(session);
    let chat = |command| UserCommand::Chat(session, command);
    let rename = ChatCommand::Rename {
        title: Some("t".into()),
    };
    for command in [rename.clone(), ChatCommand::Remove] {
        let refused = ask(&mut ada, chat(command)).unwrap_err();
        assert_eq!(refused.code, "not_found", "it was never begun");
    }
    assert_eq!(ask(&mut ada, chat(question(1))), Ok(1));
    assert_eq!(ask(&mut ada, chat(rename.clone())), Ok(1), "while it runs");
    assert_eq!(ada.running_turn(&session), Some(TurnId(id(1))));
    assert_eq!(
        (ada.sessions, ask(&mut ada, chat(ChatCommand::Remove))),
        (1, Ok(1))
    );
    assert_eq!((ada.sessions, ada.running_turn(&session)), (0, None));
    assert!(!ada.holds(&recall));
    ada.recall_stream(&recall, 3, "chat.removed");
    assert_eq!(ask(&mut ada, chat(ChatCommand::Remove)), Ok(0));
    assert_eq!(ask(&mut ada, chat(rename)).unwrap_err().code, "not_found");
    let now = Now {
        moment: NOW,
        limits: Limits::built_in(),
    };
    let begun = ada.decide(now, chat(question(2))).unwrap();
    assert_eq!(begun.len(), 2, "it begins anew");
    for (sequence, change) in (4..).zip(begun) {
        ada.evolve(&change.stream, sequence, change.event);
    }
    assert_eq!((ada.sessions, ada.sequence(&recall.stream())), (1, 5));
    assert_eq!(ada.running_turn(&session), Some(TurnId(id(2))));
}

#[test]
fn a_removed_credential_leaves_the_state_and_is_known_again_when_recalled() {
    let mut ada = ada();
    let credential = CredentialId(id(7));
    let recall = Recall::Credential(credential);
    let before = ada.to_snapshot().len();
    let store = UserCommand::StoreCredential {
        credential,
        kind: CredentialKind::Profile,
        platform: platform("x"),
        platform_username: None,
        expires_at: None,
        sealed: SealedSecret {
            version: 1,
            hash: "00".into(),
        },
    };
    ask(&mut ada, store).unwrap();
    let remove = UserCommand::RemoveCredential(credential);
    ask(&mut ada, remove.clone()).unwrap();
    assert!(!ada.holds(&recall));
    assert!(ada.to_snapshot().len() <= before + 2, "nothing of it stays");
    ada.recall_stream(&recall, 2, "credential.removed");
    assert_eq!(ask(&mut ada, remove), Ok(0), "removing twice is no error");
    let refuse = UserCommand::RefuseCredential {
        credential,
        reason: RefusedFor::Removed,
        platform: None,
        purpose: None,
    };
    assert_eq!(ask(&mut ada, refuse), Ok(1));
    assert!(!ada.holds(&recall), "it stays out");
    // A state folded from the log has left it out, too.
    let refused = CredentialEvent::Refused {
        reason: RefusedFor::Removed,
        platform: None,
        purpose: None,
    };
    ada.evolve(&recall.stream(), 4, refused.into());
    assert!(!ada.holds(&recall));
}

#[test]
fn one_credential_for_a_platform_and_name_and_the_tier_limits_their_number() {
    let mut ada = ada();
    let store = |n: u128, platform: &str, version| UserCommand::StoreCredential {
        credential: CredentialId(id(n)),
        kind: CredentialKind::Profile,
        platform: self::platform(platform),
        platform_username: Some(name("ada")),
        expires_at: None,
        sealed: SealedSecret {
            version,
            hash: "00".into(),
        },
    };
    ask(&mut ada, store(1, "x", 1)).unwrap();
    assert_eq!(
        ada.credential_for(CredentialKind::Profile, &platform("x"), Some(&name("ada"))),
        Some(CredentialId(id(1)))
    );
    assert_eq!(
        ada.credential_for(CredentialKind::Profile, &platform("x"), None),
        None
    );
    assert_eq!(
        ask(&mut ada, store(1, "x", 2)),
        Ok(1),
        "storing again is no new connection"
    );
    let refused = ask(&mut ada, store(2, "reddit", 1)).unwrap_err();
    assert_eq!(
        refused.kind,
        RefusalKind::Quota {
            counter: Counter::PlatformsConnected,
            in_tier: true
        }
    );
}

#[test]
fn other_kinds_than_profiles_are_one_per_platform_and_count_as_no_connection() {
    let mut ada = ada();
    let store = |n: u128, kind, username: &str| UserCommand::StoreCredential {
        credential: CredentialId(id(n)),
        kind,
        platform: platform("x"),
        platform_username: Some(name(username)),
        expires_at: None,
        sealed: SealedSecret {
            version: 1,
            hash: "00".into(),
        },
    };
    for (n, kind) in [
        (1, CredentialKind::Password),
        (2, CredentialKind::Cookies),
        (3, CredentialKind::Session),
    ] {
        ask(&mut ada, store(n, kind, "ada")).unwrap();
        assert_eq!(
            ada.credential_for(kind, &platform("x"), Some(&name("another"))),
            Some(CredentialId(id(n)))
        );
        assert_eq!(ada.credential_for(kind, &platform("reddit"), None), None);
    }
    assert_eq!(ada.used(Counter::PlatformsConnected, NOW), 0);
    ask(&mut ada, store(4, CredentialKind::Profile, "ada")).unwrap();
    assert_eq!(ada.used(Counter::PlatformsConnected, NOW), 1);
    for n in 5..=MAX_LOGINS as u128 + 1 {
        ask(&mut ada, store(n, CredentialKind::Session, "ada")).unwrap();
    }
    let one_more = ask(&mut ada, store(1000, CredentialKind::Password, "ada")).unwrap_err();
    assert_eq!(one_more.code, "too_many_credentials");
    ask(&mut ada, UserCommand::RemoveCredential(CredentialId(id(3)))).unwrap();
    ask(&mut ada, store(1000, CredentialKind::Password, "ada")).unwrap();
}

#[test]
fn an_imported_credential_is_counted_but_not_limited_and_replaces_nothing() {
    let mut ada = ada();
    let import_over = |n: u128, platform: &str, over: Option<u32>| UserCommand::ImportCredential {
        credential: CredentialId(id(n)),
        platform: self::platform(platform),
        platform_username: None,
        over,
        sealed: SealedSecret {
            version: over.map_or(1, |over| over + 1),
            hash: "h".into(),
        },
    };
    let import = |n: u128, platform: &str| import_over(n, platform, None);
    for n in 1..=3 {
        assert_eq!(
            ask(&mut ada, import(n, &format!("p{n}"))),
            Ok(1),
            "past the tier's limit of one"
        );
    }
    assert_eq!(ada.used(Counter::PlatformsConnected, NOW), 3);
    let store = UserCommand::StoreCredential {
        credential: CredentialId(id(9)),
        kind: CredentialKind::Profile,
        platform: platform("x"),
        platform_username: None,
        expires_at: None,
        sealed: SealedSecret {
            version: 1,
            hash: "h".into(),
        },
    };
    assert!(
        matches!(
            ask(&mut ada, store).unwrap_err().kind,
            RefusalKind::Quota { .. }
        ),
        "the tier has no room for other credentials"
    );
    ask(&mut ada, UserCommand::RemoveCredential(CredentialId(id(3)))).unwrap();
    // The state leaves a removed credential out. The actor brings it back for a command that names it.
    ada.recall_stream(
        &Recall::Credential(CredentialId(id(3))),
        2,
        "credential.removed",
    );
    for (again, why) in [
        (import(1, "p1"), "held"),
        (import(3, "p3"), "removed"),
        (import(4, "p1"), "held under another id"),
    ] {
        assert_eq!(
            ask(&mut ada, again).unwrap_err().code,
            "not_imported",
            "{why}"
        );
    }
    assert_eq!(
        ask(&mut ada, import_over(1, "p1", Some(1))),
        Ok(1),
        "an import replaces an earlier import"
    );
    assert_eq!(
        ask(&mut ada, import_over(1, "p1", Some(1)))
            .unwrap_err()
            .code,
        "not_imported",
        "the credential has changed since"
    );
    assert_eq!(
        ask(&mut ada, import_over(3, "p3", Some(1)))
            .unwrap_err()
            .code,
        "not_imported",
        "the credential was removed"
    );
    apply(
        &mut ada,
        vec![Change::new(UserId(id(1)), AccountEvent::Suspended)],
    );
    assert_eq!(
        ask(&mut ada, import(5, "p5")),
        Ok(1),
        "an import works for a suspended user"
    );
    let nobody = User::new(UserId(id(2))).decide(
        Now {
            moment: NOW,
            limits: Limits::built_in(),
        },
        import(1, "x"),
    );
    assert_eq!(nobody.unwrap_err().kind, RefusalKind::NotFound);
}

#[test]
fn a_suspended_user_may_ask_nothing_but_running_work_may_end() {
    let mut ada = ada();
    ask(
        &mut ada,
        UserCommand::RequestCaption(CaptionId(id(1)), brief()),
    )
    .unwrap();
    apply(
        &mut ada,
        vec![Change::new(UserId(id(1)), AccountEvent::Suspended)],
    );
    let refused = ask(
        &mut ada,
        UserCommand::SubmitJob(JobId(id(2)), spec("resize_image")),
    )
    .unwrap_err();
    assert_eq!(refused.code, "suspended");
    let (credential, reason) = (CredentialId(id(2)), RefusedFor::Suspended);
    assert_eq!(
        ask(
            &mut ada,
            UserCommand::RefuseCredential {
                credential,
                reason,
                platform: None,
                purpose: None
            }
        ),
        Ok(1)
    );
    let written = WrittenCaption {
        text: "t".into(),
        model: "m".into(),
        truncated: false,
    };
    assert_eq!(
        ask(
            &mut ada,
            UserCommand::FinishCaption(CaptionId(id(1)), Ok(written))
        ),
        Ok(1)
    );
}

fn file(bytes: u64) -> NewFile {
    NewFile {
        file_name: "holiday.jpg".into(),
        bytes,
        mime: "image/jpeg".into(),
        sha256: "00".into(),
        job: None,
        width: None,
        height: None,
        duration: None,
    }
}

fn store_file(n: u128, bytes: u64) -> UserCommand {
    UserCommand::StoreFile(BlobId(id(n)), file(bytes))
}

#[test]
fn files_are_counted_together_and_none_is_in_the_state() {
    let mut ada = ada();
    let before = ada.to_snapshot().len();
    assert_eq!(ask(&mut ada, store_file(1, 40)), Ok(1));
    assert_eq!(ask(&mut ada, store_file(2, 2)), Ok(1));
    let tally = |files, bytes| FileTally { files, bytes };
    assert_eq!(ada.files(), tally(2, 42));
    assert!(ada.to_snapshot().len() <= before + 2, "no file by itself");

    let asked = RemovedBecause::Asked;
    let remove = || UserCommand::RemoveFile(BlobId(id(1)), asked);
    let refused = ask(&mut ada, remove()).unwrap_err();
    assert_eq!(refused.kind, RefusalKind::NotFound, "not recalled");
    ada.recall_file(BlobId(id(1)), File::Kept { bytes: 40 }, 1);
    assert_eq!(ask(&mut ada, remove()), Ok(1));
    ada.drop_recalled(&Recall::File(BlobId(id(1))));
    assert_eq!(ada.files(), tally(1, 2));
    ada.recall_file(BlobId(id(1)), File::Removed, 2);
    assert_eq!(ask(&mut ada, remove()), Ok(0), "removed once");
    assert_eq!(ask(&mut ada, store_file(1, 40)), Ok(0), "and stored once");
    ada.drop_recalled(&Recall::File(BlobId(id(1))));
    assert_eq!(ada.files(), tally(1, 2));
}

#[test]
fn an_upload_past_the_limit_is_refused_and_an_output_is_kept() {
    let mut ada = ada();
    let limits = Limits::built_in().with_file_bytes(100);
    let now = || Now {
        moment: NOW,
        limits: limits.clone(),
    };
    let stored = ada.decide(now(), store_file(1, 100)).unwrap();
    apply(&mut ada, stored);
    let refused = ada.decide(now(), store_file(2, 1)).unwrap_err();
    assert_eq!(refused.kind, RefusalKind::FilesFull);
    assert!(ada.decide(now(), store_file(2, 0)).is_ok());
    assert_eq!(ada.check_room_for_bytes(&now(), 1), Err(refused));
    let output = NewFile {
        job: Some(JobId(id(3))),
        ..file(1)
    };
    let output = UserCommand::StoreFile(BlobId(id(2)), output);
    let kept = ada.decide(now(), output).unwrap();
    apply(&mut ada, kept);
    assert_eq!(ada.files().bytes, 101);
}

/// A user with everything that a state can hold.
fn busy_ada() -> User {
    let mut user = ada();
    let sealed = SealedSecret {
        version: 1,
        hash: "h".into(),
    };
    let store = UserCommand::StoreCredential {
        credential: CredentialId(id(2)),
        kind: CredentialKind::Session,
        platform: platform("x"),
        platform_username: Some(name("ada")),
        expires_at: Some(Timestamp(7)),
        sealed,
    };
    ask(&mut user, store).unwrap();
    ask(
        &mut user,
        UserCommand::SubmitJob(JobId(id(3)), spec("apply_watermark")),
    )
    .unwrap();
    let question = ChatCommand::Ask {
        turn: TurnId(id(4)),
        session: "s".into(),
        message: "m".into(),
    };
    ask(
        &mut user,
        UserCommand::Chat(SessionId(Uuid::from_u128(1)), question),
    )
    .unwrap();
    let brief = Brief {
        platform: Platform::X,
        tone: "t".into(),
        topic: "t".into(),
        length: Length::Short,
        platform_username: None,
    };
    ask(
        &mut user,
        UserCommand::RequestCaption(CaptionId(id(5)), brief),
    )
    .unwrap();
    ask(&mut user, store_file(6, 7)).unwrap();
    user
}

#[test]
fn a_snapshot_reads_back_as_the_same_user() {
    let user = busy_ada();
    assert_eq!(User::from_snapshot(&user.to_snapshot()), Some(user));
    assert_eq!(User::from_snapshot(b"{}"), None);
}

#[test]
fn several_captions_are_counted_each_and_all_or_none() {
    let mut ada = ada();
    let several = |ids: std::ops::Range<u128>| {
        let captions = ids.map(|n| CaptionId(id(n))).collect();
        UserCommand::RequestCaptions(captions, brief())
    };
    let limit = Limits::built_in().of(Tier::Starter, Counter::PostsAiAssisted);
    assert_eq!(limit, Some(3));
    assert_eq!(
        ask(&mut ada, several(1..3)),
        Ok(4),
        "two requests, each counted"
    );
    let refused = ask(&mut ada, several(3..5)).unwrap_err();
    assert!(matches!(refused.kind, RefusalKind::Quota { .. }));
    assert_eq!(ask(&mut ada, several(5..6)), Ok(2), "nothing was counted");
}

#[test]
fn a_user_has_a_bounded_number_of_keys_and_a_revoked_one_leaves_the_state() {
    let mut ada = ada();
    let key = |n: usize| ServiceKeyId(id(1000 + n as u128));
    let grant = ApiKeyGrant::new("bot", vec![ApiScope::Api], None, NOW).unwrap();
    let create = |n: usize| UserCommand::CreateApiKey(key(n), grant.clone());
    for n in 0..MAX_KEYS {
        assert_eq!(ask(&mut ada, create(n)), Ok(1));
    }
    let refused = ask(&mut ada, create(MAX_KEYS)).unwrap_err();
    assert_eq!(refused.code, "too_many_keys");

    let revoke = |n: usize| UserCommand::RevokeApiKey(key(n));
    assert_eq!(revoke(0).recall(), Some(Recall::ApiKey(key(0))));
    assert_eq!(ask(&mut ada, revoke(0)), Ok(1));
    assert_eq!(ada.api_key(&key(0)), None);
    assert!(!ada.holds(&Recall::ApiKey(key(0))));
    ada.recall_stream(&Recall::ApiKey(key(0)), 2, "api_key.revoked");
    assert_eq!(ask(&mut ada, revoke(0)), Ok(0), "revoked before");
    ada.drop_recalled(&Recall::ApiKey(key(0)));
    assert!(!ada.holds(&Recall::ApiKey(key(0))));
    assert_eq!(ask(&mut ada, revoke(900)).unwrap_err().code, "not_found");
    assert_eq!(
        ask(&mut ada, create(MAX_KEYS)),
        Ok(1),
        "there is room again"
    );
}

/// If this fails, the content of snapshots has changed: raise `snapshot::VERSION` and put the new
/// text here.
#[test]
fn the_shape_of_a_snapshot_has_a_version() {
    let mut json: Value = serde_json::from_slice(&busy_ada().to_snapshot()).unwrap();
    json["sequences"]
        .as_array_mut()
        .unwrap()
        .sort_by_key(Value::to_string);
    let kept = include_str!("snapshot.json");
    assert_eq!(
        (snapshot::VERSION, json),
        (10, serde_json::from_str(kept).unwrap())
    );
}

#[test]
fn a_file_stays_while_a_job_that_has_not_ended_names_it() {
    let (mut ada, file, job) = (ada(), BlobId(id(6)), JobId(id(9)));
    ask(&mut ada, store_file(6, 7)).unwrap();
    let naming = || JobSpec {
        input_file_id: Some(file.to_string()),
        ..spec("resize_image")
    };
    let remove = |user: &mut User| {
        user.recall_file(file, File::Kept { bytes: 7 }, 1);
        user.decide(
            Now {
                moment: NOW,
                limits: Limits::built_in(),
            },
            UserCommand::RemoveFile(file, RemovedBecause::Asked),
        )
        .map(|changes| changes.len())
    };
    assert_eq!(remove(&mut ada), Ok(1));
    ask(&mut ada, UserCommand::SubmitJob(job, naming())).unwrap();
    assert_eq!(remove(&mut ada).unwrap_err().code, "file_in_use");
    ask(&mut ada, UserCommand::Job(job, JobCommand::Cancel)).unwrap();
    assert_eq!(remove(&mut ada), Ok(1));

    // Queued again, and folded anew: the state leaves the job out, and still knows the file.
    let retried = JobEvent::Retried {
        queue: "media-jobs".into(),
        operation: "resize_image".into(),
        priority: 5,
        files: naming().file_ids(),
        counted: None,
    };
    apply(&mut ada, vec![Change::new(job, retried)]);
    assert_eq!(ada.job(&job), None);
    assert_eq!(remove(&mut ada).unwrap_err().code, "file_in_use");
    let kept = User::from_snapshot(&ada.to_snapshot()).unwrap();
    assert_eq!(remove(&mut kept.clone()).unwrap_err().code, "file_in_use");
    apply(&mut ada, vec![Change::new(job, JobEvent::Cancelled)]);
    assert_eq!(remove(&mut ada), Ok(1));

    // A job that was on its way when the file went.
    ada.recall_removed_file(file);
    let late = ask(&mut ada, UserCommand::SubmitJob(JobId(id(10)), naming()));
    assert_eq!(late.unwrap_err().code, "not_found");
}

#[test]
fn a_state_holds_little_of_a_job_whatever_the_job_was_submitted_with() {
    let (mut user, jobs) = (ada(), 100);
    let params = serde_json::json!({"a": vec![1; 32 << 10], "name": "x".repeat(100)});
    let before = user.to_snapshot().len();
    for n in 0..jobs {
        let spec = JobSpec {
            params: params.clone(),
            input_url: Some("u".repeat(2048)),
            ..spec("resize_image")
        };
        ask(&mut user, UserCommand::SubmitJob(JobId(id(n)), spec)).unwrap();
    }
    let each = (user.to_snapshot().len() - before) / jobs as usize;
    assert!(each < 400, "{each} bytes for each job of 64 KiB");
}

#[test]
fn a_job_queued_again_is_not_absent_to_a_state_that_left_it_out() {
    let (job, mut user, mut stream) = (JobId(id(9)), ada(), Job::Absent);
    let claimed = JobEvent::Claimed {
        attempt: 1,
        worker: "w".into(),
        lease: "l".into(),
    };
    let retried = JobEvent::Retried {
        queue: "media-jobs".into(),
        operation: "thumbnail".into(),
        files: vec![],
        priority: 5,
        counted: None,
    };
    for event in [
        JobEvent::Submitted {
            spec: spec("thumbnail"),
            counted: None,
        },
        JobEvent::Cancelled,
        retried,
        claimed,
    ] {
        stream.evolve(event.clone());
        apply(&mut user, vec![Change::new(job, event)]);
    }
    assert_eq!(user.job(&job), None, "the job has to be recalled");
    user.recall_job(job, stream, 4);
    let complete = JobCommand::Complete {
        lease: "l".into(),
        result: Value::Null,
        outputs: Value::Null,
    };
    assert_eq!(ask(&mut user, UserCommand::Job(job, complete)).unwrap(), 1);
}

fn onboarding(user: &User) -> Onboarding {
    user.account().profile().unwrap().onboarding
}

/// Claims the job and ends the attempt.
fn work_on(user: &mut User, job: &JobId, end: JobCommand) -> usize {
    let claim = JobCommand::Claim {
        worker: "w".into(),
        lease: "l".into(),
        now: NOW.plus_millis(3_600_000),
    };
    ask(user, UserCommand::Job(*job, claim)).unwrap();
    ask(user, UserCommand::Job(*job, end)).unwrap()
}

fn fail(retryable: bool) -> JobCommand {
    JobCommand::Fail {
        lease: "l".into(),
        error: "e".into(),
        code: None,
        retryable,
        retry_at: NOW,
    }
}

/// The stream of an import job that has ended in this way.
fn ended(user: &mut User, job: &JobId, end: JobEvent) {
    let mut stream = Job::Absent;
    let spec = JobSpec {
        name: None,
        operation: onboarding::OPERATION.into(),
        queue: "onboarding-jobs".into(),
        ..spec("")
    };
    for event in [
        JobEvent::Submitted {
            spec,
            counted: None,
        },
        end,
    ] {
        stream.evolve(event);
    }
    user.recall_job(*job, stream, 2);
}

#[test]
fn an_upload_queues_its_job_and_the_end_of_the_job_ends_the_step() {
    let (mut ada, file) = (ada(), BlobId(id(9)));
    let begin = |n| UserCommand::BeginOnboarding(JobId(id(n)), file);
    assert_eq!(
        ask(&mut ada, begin(1)).unwrap_err().code,
        "onboarding_order",
        "the extension comes first"
    );
    let to = Onboarding::DataCollection;
    ask(
        &mut ada,
        UserCommand::AdvanceOnboarding {
            to,
            privileged: false,
        },
    )
    .unwrap();

    let now = Now {
        moment: NOW,
        limits: Limits::built_in(),
    };
    let begun = ada.decide(now, begin(1)).unwrap();
    let Event::Job(JobEvent::Submitted { spec, .. }) = &begun[0].event else {
        panic!("{begun:?}");
    };
    assert_eq!(
        (spec.queue.as_str(), spec.input_file_id.as_deref()),
        ("onboarding-jobs", Some(file.to_string().as_str()))
    );
    assert_eq!(ask(&mut ada, begin(1)), Ok(2));
    assert_eq!(onboarding(&ada), Onboarding::Processing);
    assert_eq!(
        ask(&mut ada, begin(2)).unwrap_err().code,
        "onboarding_order",
        "one import at a time"
    );

    assert_eq!(
        work_on(&mut ada, &JobId(id(1)), fail(true)),
        1,
        "it will be tried again"
    );
    assert_eq!(onboarding(&ada), Onboarding::Processing);
    assert_eq!(work_on(&mut ada, &JobId(id(1)), fail(false)), 2);
    assert_eq!(onboarding(&ada), Onboarding::DataCollection);

    assert_eq!(ask(&mut ada, begin(2)), Ok(2));
    assert_eq!(
        ask(&mut ada, UserCommand::Job(JobId(id(2)), JobCommand::Cancel)),
        Ok(2)
    );
    assert_eq!(onboarding(&ada), Onboarding::DataCollection);

    assert_eq!(ask(&mut ada, begin(3)), Ok(2));
    for _ in 0..2 {
        let lapse = JobCommand::Lapse {
            lease: "l".into(),
            retry_at: NOW,
        };
        assert_eq!(work_on(&mut ada, &JobId(id(3)), lapse), 1);
    }
    let last = JobCommand::Lapse {
        lease: "l".into(),
        retry_at: NOW,
    };
    assert_eq!(work_on(&mut ada, &JobId(id(3)), last), 2);
    assert_eq!(onboarding(&ada), Onboarding::DataCollection);

    assert_eq!(ask(&mut ada, begin(4)), Ok(2));
    apply(
        &mut ada,
        vec![Change::new(UserId(id(1)), AccountEvent::Suspended)],
    );
    let complete = JobCommand::Complete {
        lease: "l".into(),
        result: Value::Null,
        outputs: Value::Null,
    };
    let claimed = JobEvent::Claimed {
        attempt: 1,
        worker: "w".into(),
        lease: "l".into(),
    };
    apply(&mut ada, vec![Change::new(JobId(id(4)), claimed)]);
    assert_eq!(
        ask(&mut ada, UserCommand::Job(JobId(id(4)), complete)),
        Ok(2),
        "work of a suspended user may end"
    );
    assert_eq!(onboarding(&ada), Onboarding::Complete);
}

#[test]
fn a_failed_import_queued_again_is_processing_again_but_never_beside_another() {
    let (mut ada, first) = (ada(), JobId(id(1)));
    let to = Onboarding::DataCollection;
    ask(
        &mut ada,
        UserCommand::AdvanceOnboarding {
            to,
            privileged: false,
        },
    )
    .unwrap();
    ended(&mut ada, &first, JobEvent::Cancelled);
    assert_eq!(ask(&mut ada, UserCommand::RetryJob(first)), Ok(2));
    assert_eq!(onboarding(&ada), Onboarding::Processing);

    let (second, third) = (JobId(id(2)), JobId(id(3)));
    for job in [&second, &third] {
        ended(&mut ada, job, JobEvent::Cancelled);
    }
    let refused = ask(&mut ada, UserCommand::RetryJob(second)).unwrap_err();
    assert_eq!(refused.code, "onboarding_order");
    ask(
        &mut ada,
        UserCommand::AdvanceOnboarding {
            to: Onboarding::Complete,
            privileged: true,
        },
    )
    .unwrap();
    assert_eq!(
        ask(&mut ada, UserCommand::RetryJob(third))
            .unwrap_err()
            .code,
        "onboarding_order"
    );
    assert_eq!(
        ask(&mut ada, UserCommand::Job(first, JobCommand::Cancel)),
        Ok(1),
        "completed onboarding stays completed"
    );
    assert_eq!(onboarding(&ada), Onboarding::Complete);
}

fn is_quota(refusal: &Refusal) -> bool {
    matches!(refusal.kind, RefusalKind::Quota { .. })
}

#[test]
fn every_operation_counts_against_its_documented_counter() {
    let mut ada = on_tier(Tier::Pro);
    for (n, (operation, counter)) in [
        ("caption_generation", Counter::PostsAiAssisted),
        ("create_teaser", Counter::AiClipOps),
        ("trim_videos", Counter::AiClipOps),
        ("join_videos", Counter::AiClipOps),
        ("apply_watermark", Counter::WatermarkOps),
        ("apply_steganographic_watermark", Counter::WatermarkOps),
        ("thumbnail", Counter::ThumbnailOps),
        ("publish_post", Counter::PostsPublished),
    ]
    .into_iter()
    .enumerate()
    {
        let (job, before) = (JobId(id(n as u128)), ada.used(counter, NOW));
        assert_eq!(
            ask(&mut ada, UserCommand::SubmitJob(job, spec(operation))),
            Ok(2),
            "{operation}"
        );
        assert_eq!(
            ask(&mut ada, UserCommand::SubmitJob(job, spec(operation))),
            Ok(0),
            "asked twice, counted once"
        );
        assert_eq!(ada.used(counter, NOW), before + 1, "{operation}");
    }
    assert_eq!(
        ask(
            &mut ada,
            UserCommand::SubmitJob(JobId(id(99)), spec("resize_image"))
        ),
        Ok(1),
        "this operation is not counted"
    );
    assert_eq!(ada.used(Counter::AiClipOps, NOW), 3);
}

#[test]
fn a_job_that_comes_to_nothing_gives_back_to_its_month_and_counts_again_when_queued_again() {
    let (mut ada, job) = (on_tier(Tier::Creator), JobId(id(1)));
    ask(&mut ada, UserCommand::SubmitJob(job, spec("create_teaser"))).unwrap();
    let cancelled = ada.decide(
        Now {
            moment: NEXT_MONTH,
            limits: Limits::built_in(),
        },
        UserCommand::Job(job, JobCommand::Cancel),
    );
    let mut stream = ada.job(&job).cloned().unwrap();
    let cancelled = cancelled.unwrap();
    let back = UsageEvent::GivenBack {
        counter: Counter::AiClipOps,
        amount: 1,
        month: Month(202_611),
    };
    assert_eq!(cancelled[1].event, Event::Usage(back));
    stream.evolve(JobEvent::Cancelled);
    apply(&mut ada, cancelled);
    assert_eq!(ada.used(Counter::AiClipOps, NOW), 0);

    ada.recall_job(job, stream, 2);
    assert_eq!(
        ask(&mut ada, UserCommand::Job(job, JobCommand::Cancel)),
        Ok(0),
        "given back once"
    );
    assert_eq!(
        ask_at(&mut ada, NEXT_MONTH, UserCommand::RetryJob(job)),
        Ok(2)
    );
    assert_eq!(
        (
            ada.used(Counter::AiClipOps, NOW),
            ada.used(Counter::AiClipOps, NEXT_MONTH)
        ),
        (1, 1),
        "a clock that jumps back opens no fresh month"
    );
    let claim = JobCommand::Claim {
        worker: "w".into(),
        lease: "l".into(),
        now: NEXT_MONTH,
    };
    ask_at(&mut ada, NEXT_MONTH, UserCommand::Job(job, claim)).unwrap();
    let fail = JobCommand::Fail {
        lease: "l".into(),
        error: "e".into(),
        code: None,
        retryable: false,
        retry_at: NEXT_MONTH,
    };
    assert_eq!(
        ask_at(&mut ada, NEXT_MONTH, UserCommand::Job(job, fail)),
        Ok(2)
    );
    assert_eq!(ada.used(Counter::AiClipOps, NEXT_MONTH), 0);
}

#[test]
fn a_job_is_queued_again_only_within_the_limit() {
    let mut ada = on_tier(Tier::Creator);
    let first = JobId(id(100));
    ask(&mut ada, UserCommand::SubmitJob(first, spec("join_videos"))).unwrap();
    let mut stream = ada.job(&first).cloned().unwrap();
    ask(&mut ada, UserCommand::Job(first, JobCommand::Cancel)).unwrap();
    stream.evolve(JobEvent::Cancelled);
    for n in 0..10 {
        ask(
            &mut ada,
            UserCommand::SubmitJob(JobId(id(n)), spec("join_videos")),
        )
        .unwrap();
    }
    ada.recall_job(first, stream, 2);
    assert!(is_quota(
        &ask(&mut ada, UserCommand::RetryJob(first)).unwrap_err()
    ));
    let running = JobId(id(1));
    assert_eq!(
        ask(&mut ada, UserCommand::RetryJob(running))
            .unwrap_err()
            .code,
        "not_failed",
        "the status is checked before any limit"
    );
}

#[test]
fn a_delayed_job_needs_room_among_the_delayed_jobs() {
    let mut ada = ada();
    let later = JobSpec {
        run_at: Some(NOW.plus_seconds(60)),
        ..spec("resize_image")
    };
    for n in 0..3 {
        assert_eq!(
            ask(
                &mut ada,
                UserCommand::SubmitJob(JobId(id(n)), later.clone())
            ),
            Ok(1)
        );
    }
    let one_more = UserCommand::SubmitJob(JobId(id(3)), later);
    let refused = ask(&mut ada, one_more.clone()).unwrap_err();
    assert_eq!(
        refused.kind,
        RefusalKind::Quota {
            counter: Counter::ScheduledQueueSize,
            in_tier: true
        }
    );
    ask(&mut ada, UserCommand::Job(JobId(id(0)), JobCommand::Cancel)).unwrap();
    assert_eq!(ask(&mut ada, one_more), Ok(1));
}

#[test]
fn clients_count_what_genie_does_not_and_never_past_the_limit() {
    let mut ada = ada();
    let count = |counter, amount| UserCommand::CountUsage { counter, amount };
    assert_eq!(ask(&mut ada, count(Counter::TaxonomyAiCalls, 4)), Ok(1));
    assert!(is_quota(
        &ask(&mut ada, count(Counter::TaxonomyAiCalls, 2)).unwrap_err()
    ));
    assert!(is_quota(
        &ask(&mut ada, count(Counter::TaxonomyAiCalls, u64::MAX)).unwrap_err()
    ));
    assert_eq!(ask(&mut ada, count(Counter::TaxonomyAiCalls, 1)), Ok(1));
    assert_eq!(ada.used(Counter::TaxonomyAiCalls, NOW), 5);
    for counter in Counter::ALL
        .into_iter()
        .filter(|counter| counter.is_counted_by_genie())
    {
        assert_eq!(ask(&mut ada, count(counter, 1)), Ok(0), "{counter}");
    }
}

fn now_at(moment: Timestamp) -> Now {
    Now {
        moment,
        limits: Limits::built_in(),
    }
}

#[test]
fn commands_that_come_together_are_each_decided_on_what_the_others_leave_behind() {
    let ada = on_tier(Tier::Creator);
    let submit = |n: u128, operation: &str| UserCommand::SubmitJob(JobId(id(n)), spec(operation));
    let trims = (1..=12).map(|n| submit(n, "trim_videos"));
    let commands = trims.chain([submit(1, "trim_videos"), submit(1, "resize_image")]);
    let me = Metadata::user(UserId(id(1)), "r");
    let decided = ada.decide_in_turn(&now_at(NOW), &me, commands.collect());
    assert!(
        decided[..10]
            .iter()
            .all(|one| one.as_ref().unwrap().len() == 2)
    );
    for refused in &decided[10..12] {
        let kind = &refused.as_ref().unwrap_err().kind;
        assert!(
            matches!(kind, RefusalKind::Quota { in_tier: true, .. }),
            "{kind:?}"
        );
    }
    assert_eq!(decided[12], Ok(vec![]), "the same job again");
    assert_eq!(decided[13].as_ref().unwrap_err().code, "job_exists");
    assert_eq!(ada.job(&JobId(id(1))), None, "the state has not changed");

    let changes: Vec<Change> = decided
        .into_iter()
        .filter_map(Result::ok)
        .flatten()
        .collect();
    let together = with_counts_together(changes.clone());
    assert_eq!((changes.len(), together.len()), (20, 11));
    let after = |changes| {
        let mut after = ada.clone();
        apply(&mut after, changes);
        after.used(Counter::AiClipOps, NOW)
    };
    assert_eq!((after(changes), after(together)), (10, 10));
}

#[test]
fn reports_of_workers_are_decided_without_the_other_jobs_of_the_user() {
    let mut ada = on_tier(Tier::Creator);
    for n in 1..=3 {
        let job = JobId(id(n));
        ask(&mut ada, UserCommand::SubmitJob(job, spec("trim_videos"))).unwrap();
        let claim = JobCommand::Claim {
            worker: "w".into(),
            lease: format!("lease {n}"),
            now: NOW,
        };
        ask(&mut ada, UserCommand::Job(job, claim)).unwrap();
    }
    let fail = |n: u128, lease: &str| {
        let fail = JobCommand::Fail {
            lease: lease.into(),
            error: "e".into(),
            code: None,
            retryable: false,
            retry_at: NOW,
        };
        UserCommand::Job(JobId(id(n)), fail)
    };
    let commands = vec![fail(1, "lease 1"), fail(2, "another"), fail(3, "lease 3")];
    let decided = ada.decide_in_turn(&now_at(NOW), &Metadata::system(), commands.clone());
    for (command, decided) in commands.into_iter().zip(&decided) {
        assert_eq!(ada.decide(now_at(NOW), command), *decided, "alone");
    }
    for made in decided.into_iter().filter_map(Result::ok) {
        apply(&mut ada, made);
    }
    assert_eq!(ada.used(Counter::AiClipOps, NOW), 1, "two units went back");
}

#[test]
fn a_job_that_is_put_off_needs_room_among_the_scheduled_ones() {
    let mut ada = ada();
    let later = Timestamp(NOW.0 + 1_000_000);
    let reschedule = |n: u128, run_at| UserCommand::RescheduleJob {
        job: JobId(id(n)),
        priority: None,
        run_at: Some(run_at),
    };
    for n in 1..=4 {
        ask(
            &mut ada,
            UserCommand::SubmitJob(JobId(id(n)), spec("resize_image")),
        )
        .unwrap();
    }
    for n in 1..=3 {
        assert_eq!(ask(&mut ada, reschedule(n, later)), Ok(1));
    }
    let refused = ask(&mut ada, reschedule(4, later)).unwrap_err();
    assert!(matches!(refused.kind, RefusalKind::Quota { .. }));
    let other_time = Timestamp(later.0 + 1);
    assert_eq!(
        ask(&mut ada, reschedule(1, other_time)),
        Ok(1),
        "it has its room"
    );
    assert_eq!(
        ask(&mut ada, reschedule(1, Timestamp(0))),
        Ok(1),
        "a past time is now"
    );
    assert_eq!(
        ask(&mut ada, reschedule(4, later)),
        Ok(1),
        "there is room again"
    );
}
