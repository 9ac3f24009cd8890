//! Searches for secrets in each form that a careless line of code might give them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use aho_corasick::AhoCorasick;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

/// Secrets by name.
#[derive(Default)]
pub struct Secrets(BTreeMap<String, Vec<u8>>);

impl Secrets {
    /// Makes a secret that looks like nothing else. It has only letters and digits, so no escaping
    /// changes it.
    pub fn make(&mut self, name: &str) -> String {
        let random = hex::encode(genie_log::clock::random_bytes::<10>());
        let name_in_it: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        let secret = format!("zq{name_in_it}{random}");
        self.know(name, &secret);
        secret
    }

    /// Adds a secret that the server made.
    pub fn know(&mut self, name: &str, secret: &str) {
        assert!(secret.len() >= 12, "{name} is too short for a search");
        self.0.insert(name.to_owned(), secret.as_bytes().to_vec());
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// A search for all secrets at once.
    pub fn hunt(&self) -> Hunt {
        let mut patterns = Vec::new();
        for (name, secret) in &self.0 {
            patterns.extend(
                forms(secret)
                    .into_iter()
                    .map(|(form, pattern)| (format!("{name} ({form})"), pattern)),
            );
        }
        let automaton = AhoCorasick::new(patterns.iter().map(|(_, pattern)| pattern)).unwrap();
        Hunt {
            automaton,
            found_as: patterns.into_iter().map(|(name, _)| name).collect(),
        }
    }
}

/// All forms of one secret.
fn forms(secret: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let hexadecimal = hex::encode(secret);
    let percent: String = secret.iter().map(|byte| format!("%{byte:02x}")).collect();
    let decimal: Vec<String> = secret.iter().map(u8::to_string).collect();
    let mut forms = vec![
        ("as it is", secret.to_vec()),
        ("upper case", secret.to_ascii_uppercase()),
        ("backwards", secret.iter().rev().copied().collect()),
        ("hexadecimal", hexadecimal.clone().into_bytes()),
        (
            "hexadecimal, upper case",
            hexadecimal.to_uppercase().into_bytes(),
        ),
        ("per cent", percent.clone().into_bytes()),
        ("per cent, upper case", percent.to_uppercase().into_bytes()),
        ("a list of bytes", decimal.join(", ").into_bytes()),
        ("a list of bytes, as JSON", decimal.join(",").into_bytes()),
    ];
    // A secret inside a longer text can fall into groups of three bytes in three ways. Its
    // outermost base64 characters depend on the neighbouring bytes and are left out.
    for lead in 0..3 {
        let encoded = BASE64.encode([vec![0; lead], secret.to_vec()].concat());
        let inner = &encoded[if lead == 0 { 0 } else { 4 }..encoded.len() - 4];
        forms.push(("base64", inner.as_bytes().to_vec()));
        forms.push((
            "base64 for addresses",
            inner.replace('+', "-").replace('/', "_").into_bytes(),
        ));
    }
    forms.sort_by(|one, other| one.1.cmp(&other.1));
    forms.dedup_by(|one, other| one.1 == other.1); // a secret without letters equals its upper case
    forms
}

pub struct Hunt {
    automaton: AhoCorasick,
    found_as: Vec<String>,
}

impl Hunt {
    /// The secrets found, as "name (form)".
    pub fn find(&self, bytes: &[u8]) -> BTreeSet<&str> {
        self.automaton
            .find_overlapping_iter(bytes)
            .map(|found| self.found_as[found.pattern().as_usize()].as_str())
            .collect()
    }

    /// The first secret found that is not in `may`, with the text around it.
    pub fn first(&self, bytes: &[u8], may: &[&str]) -> Option<String> {
        let found = self.automaton.find_overlapping_iter(bytes).find(|found| {
            let name = &self.found_as[found.pattern().as_usize()];
            !may.iter().any(|may| name.starts_with(&format!("{may} (")))
        })?;
        let around =
            &bytes[found.start().saturating_sub(300)..(found.end() + 100).min(bytes.len())];
        Some(format!(
            "{}: ...{}...",
            self.found_as[found.pattern().as_usize()],
            String::from_utf8_lossy(around)
        ))
    }
}

/// The bytes of all files in and below a folder, with the names of files and folders.
pub fn bytes_below(folder: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        all.extend(path.to_string_lossy().as_bytes());
        if path.is_dir() {
            all.extend(bytes_below(&path));
        } else {
            all.extend(fs::read(&path).unwrap_or_default()); // sockets can't be read
        }
    }
    all
}

#[test]
fn every_form_of_a_secret_is_found_anywhere_in_a_text() {
    let mut secrets = Secrets::default();
    let secret = secrets.make("a_secret");
    let hunt = secrets.hunt();
    let json = serde_json::json!({"a": format!("\"{secret}\n")}).to_string();
    let debug = format!("{:?}", secret.as_bytes());
    let shown = ["as it is", "as it is", "a list of bytes"];
    for (bytes, form) in [secret.clone(), json, debug].iter().zip(shown) {
        assert!(
            hunt.find(bytes.as_bytes())
                .contains(format!("a_secret ({form})").as_str()),
            "{bytes}"
        );
    }
    for lead in 0..7 {
        let basic = BASE64.encode(format!("{}:{secret}:after", "u".repeat(lead)));
        assert!(
            hunt.find(basic.as_bytes()).contains("a_secret (base64)"),
            "{basic}"
        );
    }
    for (_, form) in forms(secret.as_bytes()) {
        assert!(
            !hunt
                .find(&[b"before", form.as_slice(), b"after"].concat())
                .is_empty()
        );
        assert!(hunt.first(&form, &["a_secret"]).is_none() && hunt.first(&form, &["a"]).is_some());
    }
    assert!(hunt.find(b"nothing").is_empty());
}
