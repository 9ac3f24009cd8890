//! Dependencies between crates and between files, read from manifests and sources. A new one in the
//! wrong direction fails here.

use std::{collections::BTreeSet, fs, path::Path};

use crate::imports::Imports;

/// The largest allowed circle of files that import each other.
const LARGEST_CIRCLE: usize = 8;

fn dependencies(manifest: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(manifest);
    let manifest: toml::Table = fs::read_to_string(&path).unwrap().parse().unwrap();
    manifest["dependencies"]
        .as_table()
        .unwrap()
        .keys()
        .cloned()
        .collect()
}

fn ours(manifest: &str) -> Vec<String> {
    dependencies(manifest)
        .into_iter()
        .filter(|name| name.starts_with("genie-"))
        .collect()
}

#[test]
fn crates_point_downwards_only() {
    assert_eq!(
        ours("Cargo.toml"),
        [
            "genie-actors",
            "genie-events",
            "genie-log",
            "genie-media",
            "genie-projections"
        ]
    );
    assert_eq!(ours("actors/Cargo.toml"), ["genie-events", "genie-log"]);
    assert_eq!(
        ours("projections/Cargo.toml"),
        ["genie-events", "genie-log"]
    );
    assert_eq!(ours("events/log/Cargo.toml"), ["genie-events"]);
    assert_eq!(ours("events/Cargo.toml"), [""; 0]);
    // The worker talks to the server over HTTP alone.
    assert_eq!(ours("media/Cargo.toml"), ["genie-marks"]);
    // Marks are arithmetic on pixels.
    assert_eq!(ours("media/marks/Cargo.toml"), [""; 0]);
    // Torture talks to the server over HTTP and starts it as a child process.
    assert_eq!(ours("torture/Cargo.toml"), ["genie-events", "genie-log"]);
}

fn imports() -> Imports {
    Imports::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
}

#[test]
fn files_import_each_other_in_small_circles_only() {
    let imports = imports();
    let circles = imports.circles();
    let largest = circles.first().expect("http has a circle");
    assert!(
        largest.len() <= LARGEST_CIRCLE,
        "{} files import each other in a circle:\n{}",
        largest.len(),
        imports.show(largest)
    );
}

#[test]
fn nothing_that_the_app_is_made_of_imports_http() {
    let reached = imports().reach("app");
    assert!(
        reached.len() > 20,
        "too few files reached from the app: {reached:?}"
    );
    let above: Vec<_> = ["http", "serve", "socket::server"]
        .into_iter()
        .filter(|above| {
            reached
                .iter()
                .any(|name| name == above || name.starts_with(&format!("{above}::")))
        })
        .collect();
    assert!(above.is_empty(), "the app imports {above:?}: {reached:?}");
}

#[test]
fn no_crate_depends_on_what_others_do() {
    for (manifest, forbidden) in [
        (
            "events/Cargo.toml",
            vec![
                "sqlx",
                "actix",
                "actix-web",
                "reqwest",
                "tokio",
                "rand",
                "chacha20poly1305",
                "postgres-es",
            ],
        ),
        (
            "events/log/Cargo.toml",
            vec!["actix", "actix-web", "reqwest"],
        ),
        (
            "actors/Cargo.toml",
            vec!["sqlx", "postgres-es", "actix-web", "chacha20poly1305"],
        ),
        (
            "projections/Cargo.toml",
            vec![
                "actix",
                "actix-web",
                "reqwest",
                "chacha20poly1305",
                "hkdf",
                "hmac",
                "sha2",
                "argon2",
            ],
        ),
        ("media/Cargo.toml", vec!["actix", "actix-web", "sqlx"]),
        (
            "media/marks/Cargo.toml",
            vec!["tokio", "rand", "rustix", "libc"],
        ),
        (
            "Cargo.toml",
            vec!["sqlx", "postgres-es", "chacha20poly1305"],
        ),
    ] {
        let linked = dependencies(manifest);
        for name in forbidden {
            assert!(!linked.contains(name), "{manifest} depends on {name}");
        }
    }
}

/// The path and text of all files below a folder.
fn sources(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.display().to_string(), text));
            }
        }
    }
    assert!(found.len() > 5, "too few files in {folder}");
    found
}

/// True when the text has the word whole: an `AppendError` is no `Append`.
fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let next = text[at + word.len()..].chars().next();
        next.is_none_or(|next| !next.is_alphanumeric() && next != '_')
    })
}

/// The compiler keeps a `Log` from appending; the doc tests of `Append` prove it. The server passes
/// `Append` on at its start, and only actors keep it.
#[test]
fn only_actors_append() {
    for folder in ["src/http", "src/identity", "projections/src"] {
        // Unit tests of projections write the facts that they read.
        let is_test = |path: &str| path.ends_with("/tests.rs");
        for (path, text) in sources(folder) {
            if is_test(&path) {
                continue;
            }
            for word in ["AppendRequest", "genie_log::Append", "genie_log::{Append"] {
                assert!(!has_word(&text, word), "{path} mentions {word}");
            }
        }
    }
}

/// The compiler keeps a `Log` alone from reading secrets; the doc tests of `VaultDoor` prove it.
#[test]
fn only_the_write_side_knows_the_way_to_secrets() {
    for folder in ["projections/src", "src", "benches/src"] {
        for (path, text) in sources(folder) {
            for word in ["VaultDoor", "VaultKey"] {
                assert!(!text.contains(word), "{path} mentions {word}");
            }
        }
    }
    for (path, text) in sources("projections/src") {
        assert!(!text.contains("vault"), "{path} mentions the vault");
    }
}

#[test]
fn the_write_side_writes_no_sql_and_the_rules_know_no_clock() {
    for (path, text) in sources("actors/src") {
        for word in ["SELECT ", "INSERT INTO", "DELETE FROM", "UPDATE "] {
            assert!(!text.contains(word), "{path} has SQL: {word}");
        }
    }
    for (path, text) in sources("events/src") {
        for word in [
            "SystemTime",
            "Instant",
            "now_utc",
            "now_v7",
            "async fn decide",
        ] {
            assert!(!text.contains(word), "{path} has {word}");
        }
    }
}

/// Fields that hold a plain secret, in types that derive `Debug`.
fn shown_secrets(text: &str) -> Vec<String> {
    let words = [
        "password",
        "secret",
        "token",
        "otp",
        "passphrase",
        "plaintext",
        "cookie",
        "cookies",
        "credentials",
    ];
    let shows = [
        "String",
        "Vec<u8>",
        "str",
        "[u8; ",
        "Bytes",
        "Value",
        "Map<String",
    ];
    let hides = [
        "SecretString",
        "Zeroizing",
        "SecretFields",
        "Plaintext",
        "SealedSecret",
    ];
    let mut found = Vec::new();
    let mut is_shown = false;
    for line in text.lines() {
        if line.trim().starts_with("#[derive(") {
            is_shown = line.contains("Debug");
        } else if line.starts_with('}') {
            is_shown = false;
        }
        for field in line.split(['{', '}', ',']).filter(|_| is_shown) {
            let Some((name, kind)) = field.split_once(": ") else {
                continue;
            };
            let name = name.split_whitespace().last().unwrap_or("");
            let is_word = |word: &str| {
                name == word
                    || name.starts_with(&format!("{word}_"))
                    || name.ends_with(&format!("_{word}"))
            };
            let is_secret = words.into_iter().any(is_word)
                && !name.ends_with("_hash")
                && !name.ends_with("_id");
            if is_secret
                && shows.iter().any(|one| kind.contains(one))
                && !hides.iter().any(|one| kind.contains(one))
            {
                found.push(field.trim().to_owned());
            }
        }
    }
    found
}

#[test]
fn types_that_hold_a_secret_do_not_print_it() {
    let seen = |fields: &str| {
        shown_secrets(&format!(
            "#[derive(Debug, Clone)]\npub struct A {{\n    {fields}\n}}\n"
        ))
    };
    assert_eq!(
        seen("pub password: String,"),
        ["pub password: String"],
        "the search must find a plain secret"
    );
    assert_eq!(seen("old_token: Option<Vec<u8>>,").len(), 1);
    for good in [
        "pub password: SecretString,",
        "token_hash: String,",
        "secret: Zeroizing<Vec<u8>>,",
        "name: String,",
        "secret_id: String,",
    ] {
        assert!(seen(good).is_empty(), "{good}");
    }
    assert!(
        shown_secrets("#[derive(Clone)]\nstruct A {\n    password: String,\n}\n").is_empty(),
        "a type without `Debug` prints nothing"
    );
    for folder in [
        "events/src",
        "events/log/src",
        "actors/src",
        "projections/src",
        "media/src",
        "media/marks/src",
        "src",
    ] {
        for (path, text) in sources(folder) {
            assert_eq!(
                shown_secrets(&text),
                [""; 0],
                "{path}: make it a `SecretString`, or write its `Debug` by hand"
            );
        }
    }
}
