//! The arrows between the crates, read from their manifests: a new one fails here.

use std::{collections::BTreeSet, fs, path::Path};

fn dependencies(manifest: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(manifest);
    let manifest: toml::Table = fs::read_to_string(&path).unwrap().parse().unwrap();
    manifest["dependencies"].as_table().unwrap().keys().cloned().collect()
}

fn ours(manifest: &str) -> Vec<String> {
    dependencies(manifest).into_iter().filter(|name| name.starts_with("genie-")).collect()
}

#[test]
fn crates_point_downwards_only() {
    assert_eq!(ours("Cargo.toml"), ["genie-actors", "genie-events", "genie-log", "genie-projections"]);
    assert_eq!(ours("actors/Cargo.toml"), ["genie-events", "genie-log"]);
    assert_eq!(ours("projections/Cargo.toml"), ["genie-events", "genie-log"]);
    assert_eq!(ours("events/log/Cargo.toml"), ["genie-events"]);
    assert_eq!(ours("events/Cargo.toml"), [""; 0]);
}

#[test]
fn each_crate_keeps_to_its_trade() {
    for (manifest, forbidden) in [
        ("events/Cargo.toml", vec!["sqlx", "actix", "actix-web", "reqwest", "tokio", "rand", "chacha20poly1305", "postgres-es"]),
        ("events/log/Cargo.toml", vec!["actix", "actix-web", "reqwest"]),
        ("actors/Cargo.toml", vec!["sqlx", "postgres-es", "actix-web", "chacha20poly1305"]),
        ("projections/Cargo.toml", vec!["actix", "actix-web", "reqwest", "chacha20poly1305", "hkdf", "hmac", "sha2", "argon2"]),
        ("Cargo.toml", vec!["sqlx", "postgres-es", "chacha20poly1305"]),
    ] {
        let linked = dependencies(manifest);
        for name in forbidden {
            assert!(!linked.contains(name), "{manifest} links {name}");
        }
    }
}

/// All Rust files in a folder, with their paths.
fn sources(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => found.push((path.display().to_string(), fs::read_to_string(&path).unwrap())),
            }
        }
    }
    assert!(found.len() > 5, "{folder} has its files");
    found
}

/// That they could do nothing with the log alone is the compiler's to say: the doc tests of `VaultDoor`.
#[test]
fn only_the_write_side_knows_the_way_to_secrets() {
    for folder in ["projections/src", "src", "benches/src"] {
        for (path, text) in sources(folder) {
            for word in ["VaultDoor", "VaultKey"] {
                assert!(!text.contains(word), "{path} knows {word}");
            }
        }
    }
    for (path, text) in sources("projections/src") {
        assert!(!text.contains("vault"), "{path} knows of the vault");
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
        for word in ["SystemTime", "Instant", "now_utc", "now_v7", "async fn decide"] {
            assert!(!text.contains(word), "{path} has {word}");
        }
    }
}
