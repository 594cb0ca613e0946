//! Keeps the direction of the modules: reads the tables in `docs/architecture.md` and holds the sources to them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Cells of the table rows in `docs/architecture.md` under `heading`, without the table's head.
fn table(heading: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(root().join("docs/architecture.md")).expect("architecture.md");
    let section = text.split(&format!("## {heading}\n")).nth(1);
    section
        .unwrap_or_else(|| panic!("architecture.md has no section {heading:?}"))
        .lines()
        .take_while(|line| !line.starts_with("## "))
        .filter(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| {
            let cells = line.trim_matches('|').split('|');
            cells.map(|cell| cell.trim().to_owned()).collect()
        })
        .collect()
}

/// Names in backticks.
fn names(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every source file as module path (`session::redis`) and code without comment lines.
fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("readable folder") {
            let path = entry.expect("readable entry").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let src = root().join("src");
    let mut files = Vec::new();
    walk(&src, &mut files);
    let code = |path: &Path| {
        let text = fs::read_to_string(path).expect("readable source");
        let lines = text.lines().filter(|l| !l.trim_start().starts_with("//"));
        lines.collect::<Vec<_>>().join("\n")
    };
    let name = |path: &Path| {
        let path = path.strip_prefix(&src).expect("below src");
        path.with_extension("")
            .display()
            .to_string()
            .replace('/', "::")
    };
    files.iter().map(|p| (name(p), code(p))).collect()
}

/// Modules of this crate that `code` names, also in `use crate::{a, b::c}`.
fn modules_named(code: &str) -> BTreeSet<&str> {
    let ours = code.split("crate::").skip(1);
    let paths = ours.chain(code.split("daypass::").skip(1));
    let modules = paths.flat_map(|path| match path.strip_prefix('{') {
        Some(group) => members(group),
        None => vec![path],
    });
    let ends = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    modules
        .map(|path| path.trim_start().split(ends).next().unwrap_or_default())
        .filter(|name| name.starts_with(|c: char| c.is_ascii_lowercase()))
        .collect()
}

/// Members of a `use` group, nested groups left whole; `group` starts behind the opening brace.
fn members(group: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let (mut depth, mut from) = (0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                found.push(&group[from..at]);
                from = at + 1;
                if c == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    found
}

/// Whether `code` names the external crate: `redis::…`, but not `session::redis::…`.
fn names_crate(code: &str, krate: &str) -> bool {
    code.match_indices(&format!("{krate}::")).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
    })
}

#[test]
fn modules_name_only_lower_layers() {
    let mut layers = BTreeMap::new();
    for row in table("Layers") {
        for module in names(&row[1]) {
            layers.insert(module.to_owned(), row[0].parse::<u8>().expect("a layer"));
        }
    }
    let exceptions: BTreeSet<(String, String)> = table("Exceptions")
        .iter()
        .map(|row| (names(&row[0]).collect(), names(&row[1]).collect()))
        .collect();
    let mut wrong = Vec::new();
    for (file, code) in sources() {
        let module = file
            .split("::")
            .next()
            .expect("split yields one")
            .to_owned();
        if module == "lib" {
            continue;
        }
        let Some(layer) = layers.get(&module) else {
            wrong.push(format!("{module} has no layer"));
            continue;
        };
        for other in modules_named(&code) {
            let lower = layers.get(other).is_none_or(|below| below < layer);
            if other != module
                && !lower
                && !exceptions.contains(&(module.clone(), other.to_owned()))
            {
                wrong.push(format!("{file} names {other}, which is not below it"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "see docs/architecture.md:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn external_crates_stay_behind_their_modules() {
    let mut wrong = Vec::new();
    let sources = sources();
    for row in table("External crates") {
        for krate in names(&row[0]) {
            for (file, code) in &sources {
                let home = names(&row[1]).any(|m| {
                    let rest = file.strip_prefix(m);
                    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
                });
                if !home && names_crate(code, krate) {
                    wrong.push(format!("{file} names the crate {krate}"));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "see docs/architecture.md:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn named_modules_are_found_in_every_spelling() {
    for (code, want) in [
        ("use crate::a::B;", vec!["a"]),
        (
            "use crate::{\n    a, b::C, d::{E, F}, g_h,\n};",
            vec!["a", "b", "d", "g_h"],
        ),
        ("let x = crate::a::b(crate::c::D);", vec!["a", "c"]),
        ("use daypass::app::{App, Bound};", vec!["app"]),
        ("use crate::Thing;", vec![]),
    ] {
        let found: Vec<_> = modules_named(code).into_iter().collect();
        assert_eq!(found, want, "{code}");
    }
    assert!(names_crate("use redis::Client;", "redis"));
    assert!(!names_crate("use crate::session::redis::X;", "redis"));
    assert!(!names_crate("my_redis::X", "redis"));
}
