use tempfile::TempDir;

use super::*;

const HOOKS: &str = "---\nname: Hook writer\ndescription: Writes first lines that stop the thumb\n\
                     category: writing\ntags: [hooks, captions]\n---\n\n# Hooks\nBegin with a question.\n";
const PRICES: &str = "---\r\ndescription: Sets prices\r\ncategory: money\r\ntags: prices, captions, prices\r\n---\r\nAsk less.\r\n";

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

fn read(files: &[(&str, &str)]) -> Skills {
    Skills::read(folder(files).path()).unwrap()
}

fn ids<'a>(skills: impl IntoIterator<Item = &'a Skill>) -> Vec<&'a str> {
    skills.into_iter().map(|skill| skill.id.as_str()).collect()
}

#[test]
fn a_skill_is_a_file_or_a_folder_with_front_matter() {
    let skills = read(&[("hooks.md", HOOKS), ("prices/SKILL.md", PRICES)]);
    assert_eq!(ids(skills.all()), ["hooks", "prices"]);
    let hooks = skills.find("Hook writer").unwrap();
    assert_eq!(hooks, skills.find("hooks").unwrap());
    assert_eq!(hooks.content, "# Hooks\nBegin with a question.");
    assert_eq!(hooks.category.as_deref(), Some("writing"));
    assert!(hooks.changed.0 > 0);
    let prices = skills.find("prices").unwrap();
    assert_eq!(
        (prices.name.as_str(), prices.content.as_str()),
        ("prices", "Ask less.")
    );
    assert_eq!(prices.tags, ["prices", "captions"]);
}

#[test]
fn a_file_that_is_no_skill_is_left_out() {
    let long = format!("---\nname: long\n---\n{}", "x".repeat(MAX_FILE as usize));
    let skills = read(&[
        ("hooks.md", HOOKS),
        ("notes.txt", HOOKS),
        ("empty/other.md", HOOKS),
        ("bare.md", "# No front matter"),
        ("open.md", "---\nname: never closed\n"),
        ("broken.md", "---\nname: [\n---\n"),
        ("long.md", &long),
        ("hooks/SKILL.md", PRICES),
    ]);
    assert_eq!(ids(skills.all()), ["hooks"]);
    assert!(Skills::read(Path::new("/there/is/no/such/folder")).is_err());
}

#[test]
fn a_search_finds_tags_and_words_best_first() {
    let skills = read(&[("hooks.md", HOOKS), ("prices.md", PRICES)]);
    let found = |query| {
        let found = skills.search(query);
        found
            .into_iter()
            .map(|(skill, score)| (skill.id.as_str(), score))
            .collect::<Vec<_>>()
    };
    assert_eq!(found("captions"), [("hooks", 0.3), ("prices", 0.3)]);
    assert_eq!(found("Prices!"), [("prices", 1.0)], "a tag and all words");
    assert_eq!(found("writes lines"), [("hooks", 0.7)]);
    assert_eq!(found("writes poems"), [("hooks", 0.35)]);
    assert_eq!(found("poems"), []);
    assert_eq!(found(" , "), []);
}

#[test]
fn related_skills_have_a_tag_or_the_category_in_common() {
    let skills = read(&[
        ("hooks.md", HOOKS),
        ("prices.md", PRICES),
        ("twin.md", HOOKS),
        ("alone.md", "---\nname: alone\n---\n"),
    ]);
    let related = |id| ids(skills.related(skills.find(id).unwrap()));
    assert_eq!(related("hooks"), ["twin", "prices"]);
    assert!(related("alone").is_empty());
}
