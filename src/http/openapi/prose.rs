//! The prose about each route, from a Markdown file for each tag.
//!
//! A route is a heading of method, path and operation id, then a paragraph that is its summary, paragraphs that
//! describe it, and a list. List items are `- 409: sentence` for an answer, `- 404: [NotFound]` for an answer that
//! several routes share, `- {id} uuid: sentence` for a part of the path, and `- example: {}` for a body of JSON.

use std::collections::BTreeMap;

/// In the order of the document.
const TAGS: [&str; 14] = [
    include_str!("identity.md"),
    include_str!("onboarding.md"),
    include_str!("files.md"),
    include_str!("credentials.md"),
    include_str!("queue.md"),
    include_str!("workers.md"),
    include_str!("captions.md"),
    include_str!("chat.md"),
    include_str!("dialects.md"),
    include_str!("tools.md"),
    include_str!("skills.md"),
    include_str!("usage.md"),
    include_str!("feed.md"),
    include_str!("operations.md"),
];

pub struct Tag {
    pub name: &'static str,
    pub description: &'static str,
}

/// The prose about one route.
pub struct Prose {
    pub tag: &'static str,
    pub operation_id: &'static str,
    pub summary: &'static str,
    pub description: Vec<&'static str>,
    /// By status.
    pub answers: BTreeMap<&'static str, &'static str>,
    pub path: Vec<PathPart>,
    /// A body, as JSON.
    pub example: Option<&'static str>,
}

/// A part of a path that the caller fills in.
pub struct PathPart {
    pub name: &'static str,
    pub format: &'static str,
    pub description: &'static str,
}

/// All tags, and the prose of each route by method and path.
pub fn read() -> (Vec<Tag>, BTreeMap<(&'static str, &'static str), Prose>) {
    let mut tags = Vec::new();
    let mut all = BTreeMap::new();
    for file in TAGS {
        let mut sections = file.split("\n## ");
        let head = sections.next().unwrap().trim_start_matches("# ");
        let (name, description) = head.split_once('\n').unwrap();
        let description = description.trim();
        tags.push(Tag { name, description });
        for section in sections {
            let (heading, text) = section.split_once('\n').unwrap();
            let heading: Vec<&str> = heading.split(' ').collect();
            let [method, path, operation_id] = heading[..] else {
                panic!("a heading is method, path and operation id: {heading:?}");
            };
            let is_new = all
                .insert((method, path), parse(name, operation_id, text))
                .is_none();
            assert!(is_new, "{method} {path} is described twice");
        }
    }
    (tags, all)
}

fn parse(tag: &'static str, operation_id: &'static str, text: &'static str) -> Prose {
    let is_item = |line: &&str| line.starts_with("- ");
    let mut paragraphs = text
        .split("\n\n")
        .map(str::trim)
        .filter(|paragraph| !paragraph.is_empty() && !is_item(paragraph));
    let mut prose = Prose {
        tag,
        operation_id,
        summary: paragraphs.next().unwrap_or_default(),
        description: paragraphs.collect(),
        answers: BTreeMap::new(),
        path: Vec::new(),
        example: None,
    };
    for item in text.lines().filter(is_item) {
        let (what, sentence) = item["- ".len()..]
            .split_once(": ")
            .unwrap_or_else(|| panic!("{operation_id}: an item has a colon: {item}"));
        match what.split_once(' ') {
            Some((name, format)) => prose.path.push(PathPart {
                name: name.trim_matches(['{', '}']),
                format,
                description: sentence,
            }),
            None if what == "example" => prose.example = Some(sentence),
            None => drop(prose.answers.insert(what, sentence)),
        }
    }
    prose
}
