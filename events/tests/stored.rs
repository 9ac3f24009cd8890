//! A stored event is a promise: every release reads what earlier releases wrote. Each file in
//! `stored/` is one event as it lies in a log, named `<type>.<version>.json` or
//! `<type>.<version>.<variation>.json`. A sample is never edited. A change adds a sample and, if
//! needed, an upcast.

use std::{collections::BTreeSet, fs, path::Path};

use genie_events::{Event, StreamKind, event::CLEAR_FIELDS};
use serde_json::{Value, json};

/// The personal fields. In every sample their text holds the word [`CANARY`], so that a test can
/// look for it where it must not be.
const PERSONAL: [&str; 23] = [
    "email",
    "first_name",
    "own_name",
    "persona",
    "reset_url",
    "platform_username",
    "purpose",
    "params",
    "input_url",
    "error",
    "result",
    "outputs",
    "session",
    "message",
    "content",
    "tone",
    "topic",
    "text",
    "file_name",
    "stated_reason",
    "title",
    "tool_calls",
    "key_name",
];
const CANARY: &str = "canary";

/// The places of the words of stored enums: sample, field, words.
const WORDS: &[(&str, &str, &[&str])] = &[
    (
        "account.registered.1",
        "tier",
        &["starter", "creator", "pro", "studio"],
    ),
    (
        "account.tier_changed.1",
        "tier",
        &["starter", "creator", "pro", "studio"],
    ),
    (
        "account.met.1",
        "onboarding",
        &[
            "EXTENSION_INSTALL",
            "DATA_COLLECTION",
            "PROCESSING",
            "COMPLETE",
        ],
    ),
    (
        "account.onboarding_advanced.1",
        "to",
        &[
            "EXTENSION_INSTALL",
            "DATA_COLLECTION",
            "PROCESSING",
            "COMPLETE",
        ],
    ),
    ("account.name_changed.1", "part", &["first", "last"]),
    (
        "account.password_request_answered.1",
        "by",
        &["mail", "administrator"],
    ),
    (
        "account.forgotten.1",
        "by",
        &["user", "administrator", "operator", "ledger"],
    ),
    (
        "usage.counted.1",
        "counter",
        &[
            "posts_ai_assisted",
            "posts_published",
            "scheduled_queue_size",
            "platforms_connected",
            "taxonomy_ai_calls",
            "watermark_ops",
            "ai_clip_ops",
            "thumbnail_ops",
            "team_seats",
        ],
    ),
    // Profiles came first and do not name their kind.
    (
        "credential.stored.1.session",
        "kind",
        &["password", "cookies", "session"],
    ),
    (
        "credential.refused.1",
        "reason",
        &[
            "not_held",
            "removed",
            "other_kind",
            "session_expired",
            "stale_lease",
            "not_named",
            "scope_needed",
            "suspended",
            "damaged",
        ],
    ),
    (
        "access.credential_refused.1",
        "reason",
        &["unknown", "forgotten"],
    ),
    (
        "chat.answered.1",
        "outcome",
        &["completed", "stopped", "failed", "interrupted"],
    ),
    (
        "caption.requested.1",
        "platform",
        &[
            "onlyfans",
            "fansly",
            "x",
            "reddit",
            "tiktok",
            "instagram",
            "youtube",
            "snapchat",
        ],
    ),
    (
        "caption.requested.1",
        "length",
        &["short", "medium", "long"],
    ),
    ("file.removed.1", "reason", &["asked", "old"]),
    (
        "invite.created.1",
        "tier",
        &["starter", "creator", "pro", "studio"],
    ),
];

struct Sample {
    /// The file's name without `.json`.
    name: String,
    /// The type in the file's name, such as `job.submitted`.
    type_name: String,
    version: i16,
    json: Value,
}

impl Sample {
    fn event(&self) -> Event {
        self.read(self.json.clone())
    }

    fn read(&self, json: Value) -> Event {
        let word = self.type_name.split('.').next().unwrap_or_default();
        let kind = StreamKind::parse(word)
            .unwrap_or_else(|| panic!("{}: there is no kind of stream `{word}`", self.name));
        Event::read(
            kind,
            &self.type_name,
            self.version,
            json.to_string().as_bytes(),
        )
        .unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }
}

fn samples() -> Vec<Sample> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("stored");
    let mut samples = Vec::new();
    for entry in fs::read_dir(&folder).expect("the folder of samples is there") {
        let path = entry
            .expect("a folder that was opened can be listed")
            .path();
        let file = path
            .file_name()
            .and_then(|name| name.to_str())
            .expect("file names are plain text");
        let name = file
            .strip_suffix(".json")
            .unwrap_or_else(|| panic!("{file} is no sample: it does not end in .json"));
        let parts: Vec<&str> = name.split('.').collect();
        let [kind, what, version, ..] = parts[..] else {
            panic!("{file} must be named <type>.<version>.json")
        };
        let json = fs::read_to_string(&path).expect("samples are text");
        samples.push(Sample {
            name: name.to_owned(),
            type_name: format!("{kind}.{what}"),
            version: version.parse().expect("the name holds a version"),
            json: serde_json::from_str(&json).unwrap_or_else(|error| panic!("{file}: {error}")),
        });
    }
    samples
}

#[test]
fn every_type_has_a_sample_of_its_present_version_and_every_sample_a_type() {
    let known: BTreeSet<String> = Event::all_types().into_iter().map(str::to_owned).collect();
    let samples = samples();
    let named: BTreeSet<String> = samples
        .iter()
        .map(|sample| sample.type_name.clone())
        .collect();
    assert_eq!(
        named, known,
        "left: the types that `stored/` has samples of; right: the types there are"
    );
    let present: BTreeSet<String> = samples
        .iter()
        .filter(|sample| sample.version == sample.event().version())
        .map(|sample| sample.type_name.clone())
        .collect();
    assert_eq!(
        present, known,
        "left: the types with a sample of their present version; right: the types there are"
    );
}

#[test]
fn every_sample_reads_as_its_type_and_a_present_one_is_written_again_as_it_was() {
    for sample in samples() {
        let event = sample.event();
        assert_eq!(event.type_name(), sample.type_name, "{}", sample.name);
        if event.version() == sample.version {
            assert_eq!(event.to_json(), sample.json, "{}", sample.name);
        }
    }
}

#[test]
fn every_word_that_was_ever_stored_reads_back() {
    let samples = samples();
    for (name, field, words) in WORDS.iter().copied() {
        let sample = samples
            .iter()
            .find(|sample| sample.name == name)
            .unwrap_or_else(|| panic!("there is no sample {name}"));
        for word in words {
            let mut json = sample.json.clone();
            json[field] = Value::from(*word);
            assert_eq!(sample.read(json.clone()).to_json(), json, "{name}: {field}");
        }
    }
}

#[test]
fn the_clear_fields_hold_nothing_personal() {
    let mut looked_for = BTreeSet::new();
    for sample in samples() {
        for (field, value) in sample.json.as_object().into_iter().flatten() {
            let says_something =
                !matches!(value, Value::Null) && *value != json!([]) && *value != json!("");
            if let Some(personal) = PERSONAL.iter().find(|personal| *personal == field)
                && says_something
            {
                assert!(
                    value.to_string().contains(CANARY),
                    "{}: put the word `{CANARY}` into `{field}`",
                    sample.name
                );
                looked_for.insert(*personal);
            }
        }
        let clear = sample.event().clear(|_, _| String::new());
        for (field, value) in &clear {
            assert!(
                !value.to_string().contains(CANARY),
                "{}: the clear field `{field}` is personal",
                sample.name
            );
        }
    }
    assert_eq!(
        looked_for,
        PERSONAL.into_iter().collect(),
        "left: the personal fields that samples have; right: all of them"
    );
}

#[test]
fn a_chosen_word_is_hashed_unless_genie_knows_it() {
    let samples = samples();
    for (type_name, field, known) in [
        ("account.registered", "role", "creator"),
        ("account.met", "role", "Administrator"),
        ("account.role_changed", "role", "pro"),
        ("invite.created", "role", "administrator"),
        ("credential.stored", "platform", "onlyfans"),
    ] {
        let sample = samples.iter().find(|one| one.type_name == type_name);
        let sample = sample.expect("every type has a sample");
        let clear = |word: &str| {
            let mut json = sample.json.clone();
            json[field] = word.into();
            let hash = |field: &str, word: &str| format!("hash of {field} with {}", word.len());
            sample.read(json).clear(hash)[field].clone()
        };
        assert_eq!(clear(known), known, "{type_name}");
        let hash = format!("hash of {field} with {}", CANARY.len());
        assert_eq!(clear(CANARY), hash, "{type_name}");
    }
}

#[test]
fn the_names_of_clear_fields_are_listed() {
    let samples = samples();
    let clear = samples.iter().flat_map(|sample| {
        let clear = sample.event().clear(|_, _| String::new());
        clear.into_keys().collect::<Vec<_>>()
    });
    assert_eq!(
        clear.collect::<BTreeSet<_>>(),
        CLEAR_FIELDS.map(str::to_owned).into(),
        "left: the clear fields of the samples; right: the list"
    );
    assert!(CLEAR_FIELDS.is_sorted());
}
