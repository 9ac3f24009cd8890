//! The names of types, read from the sources. A name that is used twice fails here.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Names that convention uses in many files: see `docs/style.md`.
const CONVENTIONS: [&str; 4] = ["Error", "Inner", "Projector", "Row"];

const CRATES: [&str; 9] = [
    "src",
    "actors/src",
    "benches/src",
    "events/log/src",
    "events/src",
    "media/marks/src",
    "media/src",
    "projections/src",
    "torture/src",
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs")
            && !path.ends_with("tests.rs")
        {
            found.push(path);
        }
    }
    found
}

/// The name of the type that a line defines. An indented `type` belongs to a trait.
fn defined(line: &str) -> Option<&str> {
    let mut words = line
        .split_whitespace()
        .skip_while(|word| word.starts_with("pub") || *word == "unsafe");
    let is_definition = match words.next()? {
        "struct" | "enum" | "trait" | "union" => true,
        "type" => !line.starts_with(' '),
        _ => false,
    };
    let name = words.next().filter(|_| is_definition)?;
    let end = name.find(|letter: char| !letter.is_alphanumeric() && letter != '_');
    Some(&name[..end.unwrap_or(name.len())]).filter(|name| !name.is_empty())
}

/// The types that a source defines, its tests left out.
fn types(source: &str) -> impl Iterator<Item = &str> {
    source
        .lines()
        .take_while(|line| !line.starts_with("mod tests {"))
        .filter_map(defined)
}

#[test]
fn the_search_finds_types() {
    for line in [
        "struct Pie;",
        "pub struct Pie(u64);",
        "pub(crate) enum Pie<'a> {",
        "        struct Pie<T> {",
        "pub unsafe trait Pie: Send {",
        "type Pie<V> = Vec<V>;",
    ] {
        assert_eq!(defined(line), Some("Pie"), "{line}");
    }
    for line in [
        "",
        "    type Pie = Vec<u8>;",
        "/// struct Pie",
        "pub struct $name(u64);",
        "impl Pie {",
    ] {
        assert_eq!(defined(line), None, "{line}");
    }
    let with_tests = "enum Pie {}\n#[cfg(test)]\nmod tests {\n    enum Cake {}\n}\n";
    assert!(types(with_tests).eq(["Pie"]));
}

#[test]
fn a_type_name_is_used_once() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut places = BTreeMap::<String, Vec<String>>::new();
    for path in CRATES.iter().flat_map(|folder| sources(&root.join(folder))) {
        let source = fs::read_to_string(&path).unwrap();
        let file = path.strip_prefix(root).unwrap().display().to_string();
        for name in types(&source) {
            places.entry(name.into()).or_default().push(file.clone());
        }
    }
    assert!(places.len() > 500, "only {} types found", places.len());
    places.retain(|name, files| files.len() > 1 && !CONVENTIONS.contains(&name.as_str()));
    assert!(
        places.is_empty(),
        "two types have one name; rename one of each: {places:#?}"
    );
}
