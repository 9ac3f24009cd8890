//! Compares the documents with the sources and with each other. Needs no server.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The folders of the product's own sources.
const SOURCES: [&str; 6] = [
    "src",
    "actors/src",
    "events/src",
    "events/log/src",
    "media/src",
    "projections/src",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a folder with this ending.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.to_str().unwrap().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<PathBuf> {
    SOURCES
        .iter()
        .flat_map(|folder| files(&root().join(folder), ".rs"))
        .collect()
}

fn documents() -> Vec<PathBuf> {
    let mut all = files(&root().join("docs"), ".md");
    all.push(root().join("README.md"));
    all
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

/// The first string literal in a piece of source, unchanged.
fn first_literal(source: &str) -> String {
    let mut literal = String::new();
    let mut characters = source[source.find('"').unwrap() + 1..].chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => break,
            '\\' => literal.extend(['\\', characters.next().unwrap()]),
            other => literal.push(other),
        }
    }
    literal
}

/// The constant part of a log line. `…` replaces each inserted value, and a literal that continues
/// on the next line becomes one line.
fn constant_part(literal: &str) -> String {
    let mut parts = literal.split("\\\n");
    let mut line = parts.next().unwrap_or_default().to_owned();
    parts.for_each(|part| line.push_str(part.trim_start()));
    let mut constant = String::new();
    let mut is_placeholder = false;
    for character in line.chars() {
        match character {
            '{' => {
                is_placeholder = true;
                constant.push('…');
            }
            '}' => is_placeholder = false,
            '`' => {}
            other if !is_placeholder => constant.push(other),
            _ => {}
        }
    }
    constant
}

fn error_lines(source: &str) -> impl Iterator<Item = String> {
    source.match_indices("error!(").filter_map(|(at, call)| {
        let before = source[..at].chars().next_back();
        let is_whole = before.is_none_or(|c| !c.is_alphanumeric() && c != '_');
        is_whole.then(|| constant_part(&first_literal(&source[at + call.len()..])))
    })
}

#[test]
fn a_log_line_is_known_by_its_constant_part() {
    let source = r#"
        directus_error!("not this");
        error!(%error, turn.id = %turn, "the task of turn `{turn}` died");
        return error!(
            "one \
             line", name);
    "#;
    let lines: Vec<String> = error_lines(source).collect();
    assert_eq!(lines, ["the task of turn … died", "one line"]);
}

#[test]
fn every_error_line_has_a_row_among_the_alarms() {
    let logged: BTreeSet<String> = sources()
        .iter()
        .flat_map(|path| error_lines(&read(path)).collect::<Vec<_>>())
        .collect();
    let page = read(&root().join("docs/operating/alarms.md"));
    let section = page.split("## Error lines").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let told: BTreeSet<String> = section
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `")?.split_once("` |")?.0.to_owned()))
        .collect();
    assert!(logged.len() > 20, "too few log lines found: {logged:?}");
    assert_eq!(
        told, logged,
        "left: docs/operating/alarms.md; right: the sources"
    );
}

/// The anchor by which links name a heading.
fn anchor(heading: &str) -> String {
    let kept = heading
        .trim()
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c))
        .collect::<String>();
    kept.replace(' ', "-")
}

/// The lines of a document outside blocks of code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text).filter(|line| line.starts_with('#'));
    headings
        .map(|line| anchor(line.trim_start_matches('#')))
        .collect()
}

fn links(text: &str) -> Vec<String> {
    let targets = |line: &str| {
        let after: Vec<String> = line
            .split("](")
            .skip(1)
            .filter_map(|rest| Some(rest.split_once(')')?.0.to_owned()))
            .collect();
        after
    };
    prose(text).flat_map(targets).collect()
}

#[test]
fn every_link_in_a_document_leads_somewhere() {
    let mut broken = Vec::new();
    for document in documents() {
        let text = read(&document);
        for link in links(&text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (path, wanted) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() {
                document.clone()
            } else {
                document.parent().unwrap().join(path)
            };
            let is_there =
                target.exists() && (wanted.is_empty() || anchors(&read(&target)).contains(wanted));
            if !is_there {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_route_is_on_the_api_page() {
    let table = read(&root().join("src/http/routes.rs"));
    let routes: BTreeSet<String> = table
        .lines()
        .filter_map(|line| {
            let (method, rest) = line.trim().split_once(' ')?;
            let path = rest.trim_start().strip_prefix('"')?.split_once('"')?.0;
            let is_route = ["GET", "POST", "PATCH", "DELETE", "PUT"].contains(&method);
            is_route.then(|| format!("{method} {path}"))
        })
        .collect();
    assert!(routes.len() > 50, "too few routes found: {routes:?}");
    let page = read(&root().join("docs/api.md"));
    let missing: Vec<&String> = routes
        .iter()
        .filter(|route| !page.contains(&format!("`{route}`")))
        .collect();
    assert!(missing.is_empty(), "not in docs/api.md: {missing:#?}");
}

#[test]
fn the_readme_is_short() {
    let lines = read(&root().join("README.md")).lines().count();
    assert!(lines <= 150, "README.md has {lines} lines");
}

#[test]
fn nothing_cites_a_page_that_is_not_in_the_repository() {
    let folders = [
        "src",
        "events",
        "actors",
        "media",
        "projections",
        "torture",
        "benches",
        "tests",
        "migrations",
        "docs",
    ];
    // In two pieces, because this file is read, too.
    let citations = [concat!("(con", "tract"), concat!("README", " tells")];
    let all = folders.iter().flat_map(|folder| {
        let endings = [".rs", ".sql", ".md"];
        endings.map(|ending| files(&root().join(folder), ending))
    });
    let citing: Vec<PathBuf> = all
        .flatten()
        .filter(|path| {
            let text = read(path);
            citations.iter().any(|citation| text.contains(citation))
        })
        .collect();
    assert!(citing.is_empty(), "{citing:#?}");
}
