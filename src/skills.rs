//! Skills (docs/api.md, Skills): texts that tell a model or a program how something is done. Each is a Markdown file with
//! front matter in `GENIE_SKILLS_DIR`. They are read once, when the server starts.

use std::{
    cmp::Ordering,
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use genie_events::Timestamp;
use serde::Deserialize;
use tracing::warn;

/// The most bytes of one file.
const MAX_FILE: u64 = 64 << 10;
/// The most skills of a folder.
const MAX_SKILLS: usize = 1000;
/// The file of a skill that has a folder of its own.
const FOLDER_FILE: &str = "SKILL.md";
/// What each tag counts that a query names.
const TAG_SCORE: f64 = 0.3;
/// What it counts when the name and the description have all words of a query.
const WORDS_SCORE: f64 = 0.7;

#[derive(Debug, Clone, PartialEq)]
pub struct Skill {
    /// The file's name without its ending, or its folder's.
    pub id: String,
    pub name: String,
    pub description: String,
    pub category: Option<String>,
    pub tags: Vec<String>,
    /// Markdown, without the front matter.
    pub content: String,
    /// When the file was changed.
    pub changed: Timestamp,
}

/// All skills of a server, by id.
#[derive(Debug, Default)]
pub struct Skills(Vec<Skill>);

#[derive(Deserialize)]
struct FrontMatter {
    name: Option<String>,
    #[serde(default)]
    description: String,
    category: Option<String>,
    #[serde(default)]
    tags: Tags,
}

/// A list, or words separated by commas.
#[derive(Deserialize)]
#[serde(untagged)]
enum Tags {
    List(Vec<String>),
    Line(String),
}

impl Default for Tags {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

impl Tags {
    fn each_once(self) -> Vec<String> {
        let all = match self {
            Self::List(all) => all,
            Self::Line(line) => line.split(',').map(str::to_owned).collect(),
        };
        let mut once = Vec::new();
        for tag in all {
            let tag = tag.trim().to_owned();
            if !tag.is_empty() && !once.contains(&tag) {
                once.push(tag);
            }
        }
        once
    }
}

/// The order of a list of skills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkillOrder {
    Name,
    Category,
    Changed,
}

impl Skills {
    /// Reads all skills of a folder. A file that can't be read as one is left out, and the log says so.
    pub fn read(folder: &Path) -> io::Result<Self> {
        let mut files: Vec<PathBuf> = fs::read_dir(folder)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<_>>()?;
        files.sort();
        let mut skills: Vec<Skill> = Vec::new();
        for path in files {
            let Some((id, file)) = named(&path) else {
                continue;
            };
            if skills.len() == MAX_SKILLS {
                warn!(
                    most = MAX_SKILLS,
                    "skills: the folder has more; the rest are left out"
                );
                break;
            }
            match skill(&id, &file) {
                Ok(_) if skills.iter().any(|skill| skill.id == id) => {
                    warn!(file = %file.display(), "skills: left out, since another has the same id");
                }
                Ok(skill) => skills.push(skill),
                Err(error) => {
                    warn!(file = %file.display(), %error, "skills: left out, since it can't be read")
                }
            }
        }
        skills.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(Self(skills))
    }

    pub fn all(&self) -> &[Skill] {
        &self.0
    }

    /// The skill with this id, or else with this name.
    pub fn find(&self, wanted: &str) -> Option<&Skill> {
        let by_id = self.0.iter().find(|skill| skill.id == wanted);
        by_id.or_else(|| self.0.iter().find(|skill| skill.name == wanted))
    }

    /// The skills for a task, best first, each with its score from above 0 to 1.
    pub fn search(&self, query: &str) -> Vec<(&Skill, f64)> {
        let wanted = words(query);
        let scored = self.0.iter().map(|skill| (skill, skill.score(&wanted)));
        let mut found: Vec<_> = scored.filter(|(_, score)| *score > 0.0).collect();
        found.sort_by(|(_, one), (_, other)| other.total_cmp(one)); // stable: by id among equals
        found
    }

    /// The others with the same category or a tag in common, those with most in common first.
    pub fn related(&self, to: &Skill) -> Vec<&Skill> {
        let common = |other: &Skill| {
            let tags = other.tags.iter().filter(|tag| to.tags.contains(tag));
            let same = to.category.is_some() && other.category == to.category;
            tags.count() + usize::from(same)
        };
        let others = self.0.iter().filter(|skill| skill.id != to.id);
        let mut related: Vec<_> = others
            .map(|skill| (skill, common(skill)))
            .filter(|(_, common)| *common > 0)
            .collect();
        related.sort_by_key(|(_, common)| std::cmp::Reverse(*common));
        related.into_iter().map(|(skill, _)| skill).collect()
    }
}

impl SkillOrder {
    pub fn compare(self, one: &Skill, other: &Skill) -> Ordering {
        match self {
            Self::Name => one.name.cmp(&other.name),
            Self::Category => one.category.cmp(&other.category),
            Self::Changed => one.changed.cmp(&other.changed),
        }
    }
}

impl Skill {
    fn score(&self, wanted: &BTreeSet<String>) -> f64 {
        if wanted.is_empty() {
            return 0.0;
        }
        let is_wanted = |tag: &&String| {
            let of_tag = words(tag);
            !of_tag.is_empty() && of_tag.is_subset(wanted)
        };
        let tags = self.tags.iter().filter(is_wanted).count();
        let mut own = words(&self.name);
        own.extend(words(&self.description));
        let share = wanted.intersection(&own).count() as f64 / wanted.len() as f64;
        (TAG_SCORE * tags as f64 + WORDS_SCORE * share).min(1.0)
    }
}

/// Words in small letters.
fn words(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

/// The id and the file of a skill; `None` for a file that is none.
fn named(path: &Path) -> Option<(String, PathBuf)> {
    if path.is_dir() {
        let file = path.join(FOLDER_FILE);
        let id = path.file_name()?.to_str()?.to_owned();
        return file.is_file().then_some((id, file));
    }
    let is_markdown = path.extension().is_some_and(|ending| ending == "md");
    let id = path.file_stem()?.to_str()?.to_owned();
    is_markdown.then(|| (id, path.to_owned()))
}

fn skill(id: &str, file: &Path) -> Result<Skill, String> {
    let told = fs::metadata(file).map_err(|error| error.to_string())?;
    if told.len() > MAX_FILE {
        return Err(format!("it has more than {MAX_FILE} bytes"));
    }
    let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
    let (front, content) = parts(&text).ok_or("it has no front matter between two lines ---")?;
    let front: FrontMatter = serde_saphyr::from_str(front).map_err(|error| error.to_string())?;
    let changed = told
        .modified()
        .ok()
        .and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let micros = changed.map_or(0, |since| since.as_micros());
    Ok(Skill {
        id: id.to_owned(),
        name: front.name.unwrap_or_else(|| id.to_owned()),
        description: front.description,
        category: front.category,
        tags: front.tags.each_once(),
        content: content.trim().to_owned(),
        changed: Timestamp(i64::try_from(micros).unwrap_or(i64::MAX)),
    })
}

/// The front matter and the content.
fn parts(text: &str) -> Option<(&str, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let rest = text.strip_prefix("---")?;
    let rest = rest
        .strip_prefix("\r\n")
        .or_else(|| rest.strip_prefix('\n'))?;
    let mut at = 0;
    for line in rest.split_inclusive('\n') {
        if line.trim_end() == "---" {
            return Some((&rest[..at], &rest[at + line.len()..]));
        }
        at += line.len();
    }
    None
}

#[cfg(test)]
mod tests;
