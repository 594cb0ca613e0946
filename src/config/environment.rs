//! Lays `DAYPASS__A__B` variables over the tree of the file.
//!
//! The merging itself is the `config` crate's: file, then environment. This module gives it the file with every
//! scalar as written, then each variable as a source of its own in a fixed order, and turns the result back into a
//! tree that remembers which values a variable set.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ::config::{Config, ConfigError, Map, Source, Value, ValueKind};

use super::problem::Place;
use super::tree::{Entry, Kind, Node, SyntaxError};

/// The environment, as an argument.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The environment of this process. Variables that are not UTF-8 are left out.
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        Self(variables.into_iter().collect())
    }
}

impl std::fmt::Debug for Environment {
    /// Values may be secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Variables that start so override the file.
const PREFIX: &str = "DAYPASS__";
/// The tree travels under this one key, so that the `config` crate never takes a key of the file for a path.
const ROOT: &str = "root";

/// One step of a path into the tree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Step {
    Index(usize),
    Key(String),
}

/// Applies the overrides to `file`.
pub(super) fn overlay(file: Node, environment: &Environment) -> (Node, Vec<SyntaxError>) {
    let mut errors = Vec::new();
    let mut overrides = Vec::new();
    for (name, value) in &environment.0 {
        let Some(rest) = name.strip_prefix(PREFIX) else {
            continue;
        };
        match resolve(&file, rest) {
            Ok(steps) => overrides.push((steps, name.as_str(), value.as_str())),
            Err(message) => errors.push(SyntaxError {
                place: variable(name),
                message: message.into(),
            }),
        }
    }
    if overrides.is_empty() {
        return (file, errors);
    }
    // Sorted by path: a whole value before its parts, lists from their start.
    overrides.sort();
    let mut lengths = HashMap::new();
    overrides.retain(|(steps, name, _)| {
        let fits = in_bounds(&file, steps, &mut lengths);
        if !fits {
            errors.push(SyntaxError {
                place: variable(name),
                message: "an index past the end of the list: the next free one is its length, counted from 0".into(),
            });
        }
        fits
    });
    let Ok(merged) = merge(&file, &overrides) else {
        // Its sources cannot fail; were they to, the file alone would be the wrong configuration.
        errors.push(SyntaxError {
            place: Place::Whole,
            message: "the environment could not be laid over the file".into(),
        });
        return (file, errors);
    };
    (remember(Some(&file), &merged), errors)
}

fn variable(name: &str) -> Place {
    Place::Variable(Arc::from(name))
}

/// Finds the way `SESSION__IDLE_TIMEOUT` points to: existing keys first, in any case and with `_` for `-`.
fn resolve(root: &Node, text: &str) -> Result<Vec<Step>, &'static str> {
    let mut steps = Vec::new();
    let mut node = Some(root);
    for part in text.split("__") {
        let proper = part
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if part.is_empty() || !proper {
            return Err(
                "no path of keys: write the keys in capitals with two underscores between them",
            );
        }
        if let Some(Node {
            kind: Kind::Mapping(entries),
            ..
        }) = node
            && let Some(entry) = entries.iter().find(|entry| spelt_alike(&entry.key, part))
        {
            steps.push(Step::Key(entry.key.clone()));
            node = Some(&entry.value);
            continue;
        }
        let in_mapping = matches!(
            node,
            Some(Node {
                kind: Kind::Mapping(_),
                ..
            })
        );
        match part.parse::<usize>() {
            Ok(index) if !in_mapping => {
                node = match node {
                    Some(Node {
                        kind: Kind::Sequence(nodes),
                        ..
                    }) => nodes.get(index),
                    _ => None,
                };
                steps.push(Step::Index(index));
            }
            _ => {
                steps.push(Step::Key(part.to_ascii_lowercase()));
                node = None;
            }
        }
        if steps.len() > 16 {
            return Err("deeper than any key of the configuration");
        }
    }
    Ok(steps)
}

fn spelt_alike(key: &str, part: &str) -> bool {
    let fold = |b: u8| {
        if b == b'-' {
            b'_'
        } else {
            b.to_ascii_lowercase()
        }
    };
    // Only keys that the merge can address.
    key.len() == part.len()
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        && key
            .bytes()
            .zip(part.bytes())
            .all(|(a, b)| fold(a) == fold(b))
}

/// A list grows by one element at a time, so that no variable can ask for a million empty ones.
fn in_bounds(root: &Node, steps: &[Step], lengths: &mut HashMap<Vec<Step>, usize>) -> bool {
    let mut node = Some(root);
    for (depth, step) in steps.iter().enumerate() {
        node = match (step, node) {
            (Step::Index(index), node) => {
                let nodes = match node {
                    Some(Node {
                        kind: Kind::Sequence(nodes),
                        ..
                    }) => nodes.as_slice(),
                    _ => &[],
                };
                let length = lengths
                    .entry(steps[..depth].to_vec())
                    .or_insert(nodes.len());
                if *index > *length {
                    return false;
                }
                *length = (*length).max(index + 1);
                nodes.get(*index)
            }
            (
                Step::Key(key),
                Some(Node {
                    kind: Kind::Mapping(entries),
                    ..
                }),
            ) => entries
                .iter()
                .find(|entry| entry.key == *key)
                .map(|entry| &entry.value),
            (Step::Key(_), _) => None,
        };
    }
    true
}

/// A source of one value.
#[derive(Debug, Clone)]
struct One {
    path: String,
    value: Value,
}

impl Source for One {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok([(self.path.clone(), self.value.clone())]
            .into_iter()
            .collect())
    }
}

fn merge(file: &Node, overrides: &[(Vec<Step>, &str, &str)]) -> Result<Value, ConfigError> {
    let mut builder = Config::builder().add_source(One {
        path: ROOT.into(),
        value: to_value(file),
    });
    for (steps, name, value) in overrides {
        let mut path = ROOT.to_owned();
        for step in steps {
            match step {
                Step::Key(key) => {
                    path.push('.');
                    path.push_str(key);
                }
                Step::Index(index) => path.extend(["[", &index.to_string(), "]"]),
            }
        }
        let origin = (*name).to_owned();
        builder = builder.add_source(One {
            path,
            value: Value::new(Some(&origin), ValueKind::String((*value).to_owned())),
        });
    }
    // Not `get`: it rebuilds the value and forgets where its parts came from.
    let mut merged = builder.build()?.collect()?;
    merged
        .remove(ROOT)
        .ok_or_else(|| ConfigError::NotFound(ROOT.into()))
}

fn to_value(node: &Node) -> Value {
    let kind = match &node.kind {
        Kind::Scalar { text, .. } => ValueKind::String(text.clone()),
        Kind::Sequence(nodes) => ValueKind::Array(nodes.iter().map(to_value).collect()),
        Kind::Mapping(entries) => ValueKind::Table(
            entries
                .iter()
                .map(|entry| (entry.key.clone(), to_value(&entry.value)))
                .collect(),
        ),
    };
    Value::new(None, kind)
}

/// Rebuilds the tree: what came from the file is taken from `original`, the rest from variables.
fn remember(original: Option<&Node>, merged: &Value) -> Node {
    match &merged.kind {
        ValueKind::Table(table) => {
            let (place, entries) = match original {
                Some(Node {
                    place,
                    kind: Kind::Mapping(entries),
                }) => (place.clone(), entries.as_slice()),
                _ => (first_variable(merged), &[][..]),
            };
            let mut result: Vec<Entry> = entries
                .iter()
                .filter_map(|entry| {
                    let value = remember(Some(&entry.value), table.get(&entry.key)?);
                    Some(Entry {
                        key: entry.key.clone(),
                        place: entry.place.clone(),
                        value,
                    })
                })
                .collect();
            let mut added: Vec<_> = table
                .iter()
                .filter(|(key, _)| !entries.iter().any(|entry| entry.key == **key))
                .collect();
            added.sort_by_key(|(key, _)| key.as_str());
            result.extend(added.into_iter().map(|(key, value)| {
                let value = remember(None, value);
                Entry {
                    key: key.clone(),
                    place: value.place.clone(),
                    value,
                }
            }));
            Node {
                place,
                kind: Kind::Mapping(result),
            }
        }
        ValueKind::Array(values) => {
            let (place, nodes) = match original {
                Some(Node {
                    place,
                    kind: Kind::Sequence(nodes),
                }) => (place.clone(), nodes.as_slice()),
                _ => (first_variable(merged), &[][..]),
            };
            let values = values
                .iter()
                .enumerate()
                .map(|(index, value)| remember(nodes.get(index), value))
                .collect();
            Node {
                place,
                kind: Kind::Sequence(values),
            }
        }
        kind => match (merged.origin(), original) {
            (None, Some(node)) => node.clone(),
            (origin, _) => Node {
                place: origin.map_or(Place::Whole, variable),
                kind: Kind::Scalar {
                    text: match kind {
                        ValueKind::String(text) => text.clone(),
                        _ => String::new(),
                    },
                    plain: true,
                },
            },
        },
    }
}

/// The first variable that set anything inside.
fn first_variable(value: &Value) -> Place {
    fn names<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        found.extend(value.origin());
        match &value.kind {
            ValueKind::Table(table) => table.values().for_each(|value| names(value, found)),
            ValueKind::Array(values) => values.iter().for_each(|value| names(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    names(value, &mut found);
    found.into_iter().min().map_or(Place::Whole, variable)
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;

    fn set(yaml: &str, variables: &[(&str, &str)]) -> (Node, Vec<SyntaxError>) {
        let (file, errors) = tree::parse(yaml.as_bytes()).unwrap();
        assert_eq!(errors, []);
        let environment = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        overlay(file, &environment)
    }

    fn show(node: &Node) -> String {
        match &node.kind {
            Kind::Scalar { text, .. } => match &node.place {
                Place::Variable(_) => format!("${text}"),
                _ => text.clone(),
            },
            Kind::Sequence(nodes) => {
                format!("[{}]", nodes.iter().map(show).collect::<Vec<_>>().join(" "))
            }
            Kind::Mapping(entries) => format!(
                "{{{}}}",
                entries
                    .iter()
                    .map(|entry| format!("{}={}", entry.key, show(&entry.value)))
                    .collect::<Vec<_>>()
                    .join(" ")
            ),
        }
    }

    #[test]
    fn variables_replace_add_and_remember_where_they_came_from() {
        let yaml = "session: {idle_timeout: 1h, store: memory}\nroutes: [{path: /a}, {path: /b}]\nMy-Idp: {x.y: 1}\n";
        for (name, variables, want) in [
            (
                "nothing",
                &[][..],
                "{session={idle_timeout=1h store=memory} routes=[{path=/a} {path=/b}] My-Idp={x.y=1}}",
            ),
            (
                "a scalar",
                &[("DAYPASS__SESSION__IDLE_TIMEOUT", "30m")][..],
                "{session={idle_timeout=$30m store=memory} routes=[{path=/a} {path=/b}] My-Idp={x.y=1}}",
            ),
            (
                "an element, a new element, a list's second step",
                &[
                    ("DAYPASS__ROUTES__1__UPSTREAM", "u"),
                    ("DAYPASS__ROUTES__2__PATH", "/c"),
                ][..],
                "{session={idle_timeout=1h store=memory} routes=[{path=/a} {path=/b upstream=$u} {path=$/c}] My-Idp={x.y=1}}",
            ),
            (
                "a scalar becomes a mapping, a key with another spelling",
                &[
                    ("DAYPASS__SESSION__STORE__REDIS__URL", "r"),
                    ("DAYPASS__MY_IDP__Z", "2"),
                ][..],
                "{session={idle_timeout=1h store={redis={url=$r}}} routes=[{path=/a} {path=/b}] My-Idp={x.y=1 z=$2}}",
            ),
            (
                "a scalar takes the place of a list",
                &[("DAYPASS__ROUTES", "x"), ("DAYPASS_CONFIG", "not ours")][..],
                "{session={idle_timeout=1h store=memory} routes=$x My-Idp={x.y=1}}",
            ),
        ] {
            let (node, errors) = set(yaml, variables);
            assert_eq!(errors, [], "{name}");
            assert_eq!(show(&node), want, "{name}");
        }
    }

    #[test]
    fn variables_that_point_nowhere_are_errors() {
        for name in [
            "DAYPASS__",
            "DAYPASS__A____B",
            "DAYPASS__A.B",
            "DAYPASS__ROUTES__4000000000__PATH",
            "DAYPASS__ROUTES__2__PATH",
        ] {
            let (_, errors) = set("routes: [{path: /a}]", &[(name, "x")]);
            assert_eq!(errors.len(), 1, "{name}");
            assert_eq!(errors[0].place, variable(name));
        }
    }

    #[test]
    fn debug_of_the_environment_shows_no_value() {
        let environment: Environment = [("SECRET".to_owned(), "hunter2".to_owned())]
            .into_iter()
            .collect();
        assert_eq!(format!("{environment:?}"), r#"{"SECRET"}"#);
    }
}
