//! The imports between the files of a crate, read from `use` lines and from paths that begin with
//! `crate::`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// Modules by path, such as `http::jobs`, each with the modules that its file imports.
pub struct Imports(BTreeMap<String, BTreeSet<String>>);

impl Imports {
    /// Reads all files below a folder of sources, without the imports of their tests.
    pub fn read(folder: &Path) -> Self {
        let mut texts = BTreeMap::new();
        collect(folder, "", &mut texts);
        let names: BTreeSet<String> = texts.keys().cloned().collect();
        let imported_by = |(name, text): (&String, &String)| {
            let imported = paths(name, text)
                .iter()
                .filter_map(|path| module_of(path, &names))
                .filter(|imported| imported != name)
                .collect();
            (name.clone(), imported)
        };
        Self(texts.iter().map(imported_by).collect())
    }

    /// All modules that a module imports, directly or through others.
    pub fn reach(&self, name: &str) -> BTreeSet<String> {
        let mut reached = BTreeSet::new();
        let mut waiting = vec![name.to_owned()];
        while let Some(next) = waiting.pop() {
            for imported in self.0.get(&next).into_iter().flatten() {
                if reached.insert(imported.clone()) {
                    waiting.push(imported.clone());
                }
            }
        }
        reached
    }

    /// The circles of modules that import each other, the largest first.
    pub fn circles(&self) -> Vec<BTreeSet<String>> {
        let reach: BTreeMap<&String, BTreeSet<String>> =
            self.0.keys().map(|name| (name, self.reach(name))).collect();
        let circle_of = |(name, reached): (&&String, &BTreeSet<String>)| {
            let is_back = |other: &&String| reach[other].contains(*name);
            reached.iter().filter(is_back).cloned().collect()
        };
        let circles: BTreeSet<BTreeSet<String>> = reach.iter().map(circle_of).collect();
        let mut circles: Vec<_> = circles.into_iter().filter(|c| !c.is_empty()).collect();
        circles.sort_by_key(|circle| std::cmp::Reverse(circle.len()));
        circles
    }

    /// A circle as readable text: one module a line, with its imports from the circle.
    pub fn show(&self, circle: &BTreeSet<String>) -> String {
        let line = |name: &String| {
            let others: Vec<&str> = self.0[name]
                .intersection(circle)
                .map(String::as_str)
                .collect();
            format!("{name} imports {}", others.join(", "))
        };
        circle.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

fn collect(folder: &Path, prefix: &str, texts: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let module = format!("{prefix}{name}");
        if path.is_dir() {
            collect(&path, &format!("{module}::"), texts);
        } else if !["tests", "lib", "main"].contains(&name) {
            texts.insert(module, bare(&fs::read_to_string(&path).unwrap()));
        }
    }
}

/// The text without comments and without the tests at its end.
fn bare(text: &str) -> String {
    let product = text.split("#[cfg(test)]\nmod ").next().unwrap_or("");
    product
        .lines()
        .map(|line| line.split("//").next().unwrap_or(""))
        .collect::<Vec<_>>()
        .join("\n")
}

/// All paths that a module imports, from the root of the crate.
fn paths(module: &str, text: &str) -> Vec<String> {
    let declared: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.split_once("mod ")?.1.strip_suffix(';'))
        .collect();
    let uses = text.split("use ").skip(1);
    let imported = uses
        .filter_map(|rest| rest.split_once(';'))
        .flat_map(|(tree, _)| leaves(&tree.split_whitespace().collect::<String>()));
    let in_place = text.split("crate::").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != ':' && c != '_');
        format!("crate::{}", &rest[..end.unwrap_or(rest.len())])
    });
    imported
        .chain(in_place)
        .filter_map(|path| from_root(module, &path, &declared))
        .collect()
}

/// Turns `a::{b, c::{d, e}}` into `a::b`, `a::c::d`, `a::c::e`.
fn leaves(tree: &str) -> Vec<String> {
    let Some((stem, rest)) = tree.split_once('{') else {
        return vec![tree.to_owned()];
    };
    let inner = rest.strip_suffix('}').unwrap_or(rest);
    let mut depth = 0;
    let mut parts = vec![String::new()];
    for c in inner.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().unwrap().push(c);
    }
    parts
        .iter()
        .filter(|part| !part.is_empty())
        .flat_map(|part| leaves(&format!("{stem}{part}")))
        .collect()
}

fn from_root(module: &str, path: &str, declared: &BTreeSet<&str>) -> Option<String> {
    let (first, rest) = path.split_once("::").unwrap_or((path, ""));
    match first {
        "crate" => Some(rest.to_owned()),
        "self" => Some(format!("{module}::{rest}")),
        "super" => {
            let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
            from_root(parent, rest, &BTreeSet::new()).or_else(|| Some(format!("{parent}::{rest}")))
        }
        _ if declared.contains(first) => Some(format!("{module}::{path}")),
        _ => None,
    }
}

/// The longest beginning of a path that is a module with its own file.
fn module_of(path: &str, names: &BTreeSet<String>) -> Option<String> {
    let mut path = path.trim_start_matches("::");
    loop {
        if names.contains(path) {
            return Some(path.to_owned());
        }
        path = path.rsplit_once("::")?.0;
    }
}
