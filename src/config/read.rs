//! Walks the tree with the tables, and collects problems instead of stopping at the first.
//!
//! A getter answers `None` when there is nothing to work with; the problem, if it is one, is then already recorded.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::environment::Environment;
use super::problem::{Place, Problem};
use super::scalar;
use super::source::{self, Files};
use super::table::{Key, Need, Shape, Table};
use super::tree::{self, Entry, Kind, Node};

/// What all parts of the reader share.
pub(super) struct Reader<'a> {
    pub(super) file: Arc<str>,
    /// Folder of the configuration file: relative paths count from here.
    pub(super) base: PathBuf,
    pub(super) environment: &'a Environment,
    pub(super) files: &'a dyn Files,
    pub(super) found: RefCell<Found>,
}

/// What was noticed so far.
#[derive(Default)]
pub(super) struct Found {
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
    pub(super) files: Vec<PathBuf>,
    /// Keys asked for, to prove that the tables hold no key that nobody reads.
    #[cfg(test)]
    pub(super) asked: std::collections::BTreeSet<(&'static str, &'static str)>,
}

/// A place with the path of the key.
#[derive(Debug, Clone)]
pub(super) struct Spot {
    pub(super) place: Place,
    pub(super) path: String,
}

impl Spot {
    fn join(&self, key: &str, place: &Place) -> Self {
        let path = match (self.path.is_empty(), presentable(key)) {
            (_, false) => self.path.clone(),
            (true, true) => key.to_owned(),
            (false, true) => format!("{}.{key}", self.path),
        };
        // A default has no place of its own.
        let place = if *place == Place::Whole {
            &self.place
        } else {
            place
        };
        Self {
            place: place.clone(),
            path,
        }
    }

    fn index(&self, index: usize, place: &Place) -> Self {
        let place = if *place == Place::Whole {
            &self.place
        } else {
            place
        };
        Self {
            place: place.clone(),
            path: format!("{}[{index}]", self.path),
        }
    }
}

/// Keys are repeated in messages only when they look like keys: a slip of the pen may put a secret there.
fn presentable(key: &str) -> bool {
    !key.is_empty()
        && key.len() <= 40
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

/// Something read, and where it was written.
#[derive(Clone)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) spot: Spot,
}

/// A value not yet read.
pub(super) type Value = At<Node>;

impl Reader<'_> {
    pub(super) fn problem(&self, spot: &Spot, message: impl Into<String>) {
        let problem = self.compose(spot, message.into());
        self.found.borrow_mut().problems.push(problem);
    }

    pub(super) fn warning(&self, spot: &Spot, message: impl Into<String>) {
        let problem = self.compose(spot, message.into());
        self.found.borrow_mut().warnings.push(problem);
    }

    fn compose(&self, spot: &Spot, message: String) -> Problem {
        Problem {
            file: self.file.clone(),
            place: spot.place.clone(),
            path: spot.path.clone(),
            message,
        }
    }

    /// Records the complaint of a parser, if any.
    pub(super) fn accept<T>(&self, spot: &Spot, result: Result<T, impl Into<String>>) -> Option<T> {
        result.map_err(|message| self.problem(spot, message)).ok()
    }

    pub(super) fn text(&self, value: Value) -> Option<At<String>> {
        let message = match value.value.kind {
            Kind::Scalar { text, plain } => {
                let from_file = !matches!(value.value.place, Place::Variable(_));
                if !(plain && from_file && is_word(&text)) {
                    return Some(At {
                        value: text,
                        spot: value.spot,
                    });
                }
                "expected a text: put the value in quotes"
            }
            Kind::Sequence(_) => "expected a text, not a list: write a single value",
            Kind::Mapping(_) => "expected a text, not a mapping: write a single value",
        };
        self.problem(&value.spot, message);
        None
    }

    /// A text that may also be written as a number or boolean.
    pub(super) fn loose_text(&self, value: Value) -> Option<At<String>> {
        match value.value.kind {
            Kind::Scalar { text, .. } => Some(At {
                value: text,
                spot: value.spot,
            }),
            _ => self.text(value),
        }
    }

    /// A text, number or boolean as JSON.
    pub(super) fn json(&self, value: Value) -> Option<serde_json::Value> {
        match &value.value.kind {
            Kind::Scalar { text, plain: true } => Some(match text.as_str() {
                "true" => true.into(),
                "false" => false.into(),
                text => match text.parse::<i64>() {
                    Ok(number) if number.to_string() == text => number.into(),
                    _ => text.into(),
                },
            }),
            Kind::Scalar { text, plain: false } => Some(text.as_str().into()),
            _ => self.text(value).map(|text| text.value.into()),
        }
    }

    pub(super) fn one_of(
        &self,
        value: Value,
        choices: &'static [&'static str],
        later: &[&str],
    ) -> Option<At<&'static str>> {
        let value = self.loose_text(value)?;
        if let Some(choice) = choices.iter().find(|choice| **choice == value.value) {
            return Some(At {
                value: choice,
                spot: value.spot,
            });
        }
        let message = if later.contains(&value.value.as_str()) {
            format!(
                "this value is not supported yet: write {}",
                alternatives(choices)
            )
        } else {
            match nearest(&value.value, choices) {
                Some(near) => format!("not one of the choices: did you mean `{near}`?"),
                None => format!("not one of the choices: write {}", alternatives(choices)),
            }
        };
        self.problem(&value.spot, message);
        None
    }

    pub(super) fn list(&self, value: Value) -> Option<At<Vec<Value>>> {
        let At { value: node, spot } = value;
        match node.kind {
            Kind::Sequence(nodes) => {
                let values = nodes
                    .into_iter()
                    .enumerate()
                    .map(|(index, node)| At {
                        spot: spot.index(index, &node.place),
                        value: node,
                    })
                    .collect();
                Some(At {
                    value: values,
                    spot,
                })
            }
            Kind::Scalar { .. } | Kind::Mapping(_) => {
                self.problem(
                    &spot,
                    "expected a list: write `[a, b]`, or one `- item` a line",
                );
                None
            }
        }
    }

    /// Texts of a list; those that are none are left out after a problem.
    pub(super) fn texts(&self, value: Value) -> Option<At<Vec<At<String>>>> {
        let At { value, spot } = self.list(value)?;
        let texts = value
            .into_iter()
            .filter_map(|value| self.text(value))
            .collect();
        Some(At { value: texts, spot })
    }

    /// A mapping whose keys the user chose.
    pub(super) fn map(&self, value: Value) -> Option<At<Vec<(At<String>, Value)>>> {
        let At { value: node, spot } = value;
        match node.kind {
            Kind::Mapping(entries) => {
                let entries = entries
                    .into_iter()
                    .map(|Entry { key, place, value }| {
                        let below = spot.join(&key, &place);
                        let within = Spot {
                            place: value.place.clone(),
                            path: below.path.clone(),
                        };
                        (
                            At {
                                value: key,
                                spot: below,
                            },
                            At {
                                value,
                                spot: within,
                            },
                        )
                    })
                    .collect();
                Some(At {
                    value: entries,
                    spot,
                })
            }
            Kind::Scalar { .. } | Kind::Sequence(_) => {
                self.problem(
                    &spot,
                    "expected a mapping: write `{key: value}`, or one `key: value` a line",
                );
                None
            }
        }
    }

    /// A secret: inline, from a file, or from the environment.
    pub(super) fn secret(&self, value: Value) -> Option<At<Zeroizing<String>>> {
        const FORMS: &str = "expected a secret: write `{file: PATH}` or `{env: NAME}`";
        let At { value: node, spot } = value;
        let text = match node.kind {
            Kind::Scalar { .. } if node.is_null() => {
                self.problem(&spot, FORMS);
                return None;
            }
            Kind::Scalar { text, .. } => {
                if !matches!(node.place, Place::Variable(_)) {
                    self.warning(
                        &spot,
                        "a secret stands in the file itself: write `{file: PATH}` or `{env: NAME}`",
                    );
                }
                Zeroizing::new(text)
            }
            Kind::Mapping(mut entries) if entries.len() == 1 => {
                let Entry { key, value, .. } = entries.remove(0);
                // The key is not repeated: braces around an inline secret make it one.
                let within = Spot {
                    place: value.place.clone(),
                    path: spot.path.clone(),
                };
                let value = At {
                    value,
                    spot: within,
                };
                match key.as_str() {
                    "file" => {
                        let bytes = Zeroizing::new(self.file(value)?.1);
                        match std::str::from_utf8(&bytes) {
                            Ok(text) => {
                                Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned())
                            }
                            Err(_) => {
                                self.problem(&spot, "the file is not text: store the secret as UTF-8, binary keys as base64");
                                return None;
                            }
                        }
                    }
                    "env" => {
                        let name = self.text(value)?;
                        let Some(text) = self.environment.get(&name.value) else {
                            self.problem(
                                &name.spot,
                                "the environment variable is not set: set it, or name another",
                            );
                            return None;
                        };
                        Zeroizing::new(text.to_owned())
                    }
                    _ => {
                        self.problem(&spot, FORMS);
                        return None;
                    }
                }
            }
            Kind::Mapping(_) | Kind::Sequence(_) => {
                self.problem(&spot, FORMS);
                return None;
            }
        };
        if text.trim().is_empty() {
            self.problem(
                &spot,
                "the secret is empty: put a value where it comes from",
            );
            return None;
        }
        Some(At { value: text, spot })
    }

    /// Path and content of a file.
    pub(super) fn file(&self, value: Value) -> Option<(PathBuf, Vec<u8>)> {
        let At { value: path, spot } = self.text(value)?;
        if path.is_empty() || path.contains('\0') {
            self.problem(
                &spot,
                "expected the path of a file: write, for example, `/run/secrets/name`",
            );
            return None;
        }
        let path = self.base.join(Path::new(&path));
        let content = self.files.read(&path);
        self.found.borrow_mut().files.push(path.clone());
        match content {
            Ok(bytes) => Some((path, bytes)),
            Err(error) => {
                // The path is not repeated: a slip of the pen may put the secret there.
                self.problem(
                    &spot,
                    format!(
                        "the file cannot be read ({}): write a path that can, counted from the configuration file's folder",
                        source::why(&error)
                    ),
                );
                None
            }
        }
    }
}

/// A mapping with fixed keys, being read.
pub(super) struct Section<'a> {
    pub(super) reader: &'a Reader<'a>,
    table: &'static Table,
    entries: Vec<Entry>,
    pub(super) spot: Spot,
}

impl<'a> Section<'a> {
    /// Starts reading; unknown keys are problems at once.
    pub(super) fn open(
        reader: &'a Reader<'a>,
        table: &'static Table,
        value: Value,
    ) -> Option<Self> {
        let At { value: node, spot } = value;
        let Kind::Mapping(entries) = node.kind else {
            let names: Vec<_> = table.keys.iter().map(|key| key.name).collect();
            reader.problem(
                &spot,
                format!(
                    "expected a mapping: write keys such as {}",
                    alternatives(&names[..names.len().min(4)])
                ),
            );
            return None;
        };
        let section = Self {
            reader,
            table,
            entries,
            spot,
        };
        for entry in &section.entries {
            section.check_known(entry);
        }
        Some(section)
    }

    /// A section that is not in the file: all its keys take their defaults.
    fn absent(&self, table: &'static Table, key: &str) -> Self {
        Self {
            reader: self.reader,
            table,
            entries: Vec::new(),
            spot: self.spot.join(key, &Place::Whole),
        }
    }

    fn check_known(&self, entry: &Entry) {
        if self.table.keys.iter().any(|key| key.name == entry.key) {
            return;
        }
        let spot = self.spot.join(&entry.key, &entry.place);
        let names: Vec<_> = self.table.keys.iter().map(|key| key.name).collect();
        let message = if self.table.later.contains(&entry.key.as_str()) {
            "unknown key: it is not supported yet; remove it".to_owned()
        } else if !presentable(&entry.key) {
            format!(
                "unknown key, and no proper one: write one of {}",
                alternatives(&names)
            )
        } else if let Some(near) = nearest(&entry.key, &names) {
            format!("unknown key: did you mean `{near}`?")
        } else {
            format!("unknown key: write one of {}", alternatives(&names))
        };
        self.reader.problem(&spot, message);
    }

    fn key(&self, name: &'static str) -> &'static Key {
        #[cfg(test)]
        self.reader
            .found
            .borrow_mut()
            .asked
            .insert((self.table.title, name));
        self.table.keys.iter().find(|key| key.name == name).expect(
            "each key the reader asks for is in its table: a test reads a file with all of them",
        )
    }

    /// Whether the file or a variable gives the key a value.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries
            .iter()
            .any(|entry| entry.key == name && !entry.value.is_null())
    }

    /// Where the key stands, or the section when it is absent.
    pub(super) fn spot_of(&self, name: &str) -> Spot {
        let place = self
            .entries
            .iter()
            .find(|entry| entry.key == name)
            .map(|entry| &entry.place);
        self.spot.join(name, place.unwrap_or(&Place::Whole))
    }

    /// The value as written; nothing when absent.
    pub(super) fn given(&self, name: &'static str) -> Option<Value> {
        self.key(name);
        let entry = self.entries.iter().find(|entry| entry.key == name)?;
        if entry.value.is_null() {
            return None;
        }
        Some(At {
            value: entry.value.clone(),
            spot: self.spot.join(name, &entry.value.place),
        })
    }

    /// The value as written, or its default.
    fn value(&self, name: &'static str) -> Option<Value> {
        let key = self.key(name);
        if let Some(value) = self.given(name) {
            return Some(value);
        }
        let spot = self.spot_of(name);
        match key.need {
            Need::Required(example) => {
                self.reader
                    .problem(&spot, format!("missing: write, for example, `{example}`"));
                None
            }
            Need::Default(text) => {
                let mut node = tree::parse(text.as_bytes()).ok()?.0;
                unplace(&mut node);
                Some(At { value: node, spot })
            }
            Need::Optional => None,
        }
    }

    pub(super) fn text(&self, name: &'static str) -> Option<At<String>> {
        self.reader.text(self.value(name)?)
    }

    pub(super) fn texts(&self, name: &'static str) -> Option<At<Vec<At<String>>>> {
        self.reader.texts(self.value(name)?)
    }

    pub(super) fn list(&self, name: &'static str) -> Option<At<Vec<Value>>> {
        self.reader.list(self.value(name)?)
    }

    pub(super) fn map(&self, name: &'static str) -> Option<At<Vec<(At<String>, Value)>>> {
        self.reader.map(self.value(name)?)
    }

    pub(super) fn any(&self, name: &'static str) -> Option<Value> {
        self.value(name)
    }

    pub(super) fn secret(&self, name: &'static str) -> Option<At<Zeroizing<String>>> {
        self.reader.secret(self.given(name)?)
    }

    pub(super) fn file(&self, name: &'static str) -> Option<At<(PathBuf, Vec<u8>)>> {
        let value = self.value(name)?;
        let spot = value.spot.clone();
        Some(At {
            value: self.reader.file(value)?,
            spot,
        })
    }

    pub(super) fn flag(&self, name: &'static str) -> Option<bool> {
        let value = self.value(name)?;
        match &value.value.kind {
            Kind::Scalar { text, plain: true } if text == "true" => Some(true),
            Kind::Scalar { text, plain: true } if text == "false" => Some(false),
            _ => {
                self.reader.problem(
                    &value.spot,
                    "expected a boolean: write `true` or `false`, without quotes",
                );
                None
            }
        }
    }

    pub(super) fn duration(&self, name: &'static str) -> Option<Duration> {
        let zero = matches!(self.key(name).shape, Shape::Duration { zero: true });
        let text = self.reader.loose_text(self.value(name)?)?;
        self.reader
            .accept(&text.spot, scalar::duration(&text.value, zero))
    }

    pub(super) fn size(&self, name: &'static str) -> Option<u64> {
        let Shape::Size(min, max) = self.key(name).shape else {
            return None;
        };
        let text = self.reader.loose_text(self.value(name)?)?;
        self.reader
            .accept(&text.spot, scalar::size(&text.value, min, max))
    }

    pub(super) fn count(&self, name: &'static str) -> Option<u64> {
        let Shape::Count(min, max) = self.key(name).shape else {
            return None;
        };
        let text = self.reader.loose_text(self.value(name)?)?;
        self.reader
            .accept(&text.spot, scalar::count(&text.value, min, max))
    }

    /// One of the choices in the table; `later` are values of the product's plan.
    pub(super) fn choice(&self, name: &'static str, later: &[&str]) -> Option<At<&'static str>> {
        let Shape::OneOf(choices) = self.key(name).shape else {
            return None;
        };
        self.reader.one_of(self.value(name)?, choices, later)
    }

    /// A section below; an empty one when it is absent.
    pub(super) fn section(&self, name: &'static str) -> Option<Self> {
        let Shape::Table(table) = self.key(name).shape else {
            return None;
        };
        match self.given(name) {
            Some(value) => Self::open(self.reader, table, value),
            None => Some(self.absent(table, name)),
        }
    }

    /// A section below, when there is one.
    pub(super) fn optional_section(&self, name: &'static str) -> Option<Self> {
        if self.has(name) {
            self.section(name)
        } else {
            self.key(name);
            None
        }
    }
}

/// Whether a plain scalar means something else than its letters.
fn is_word(text: &str) -> bool {
    matches!(
        text,
        "" | "~"
            | "null"
            | "Null"
            | "NULL"
            | "true"
            | "True"
            | "TRUE"
            | "false"
            | "False"
            | "FALSE"
    )
}

/// Defaults stand nowhere.
fn unplace(node: &mut Node) {
    node.place = Place::Whole;
    match &mut node.kind {
        Kind::Scalar { .. } => {}
        Kind::Sequence(nodes) => nodes.iter_mut().for_each(unplace),
        Kind::Mapping(entries) => entries.iter_mut().for_each(|entry| {
            entry.place = Place::Whole;
            unplace(&mut entry.value);
        }),
    }
}

/// The choice that a misspelt text most likely means.
pub(super) fn nearest<'c>(text: &str, choices: &[&'c str]) -> Option<&'c str> {
    if text.len() > 60 {
        return None;
    }
    let text = text.to_ascii_lowercase().replace('-', "_");
    choices
        .iter()
        .map(|choice| {
            (
                strsim::damerau_levenshtein(&text, &choice.to_ascii_lowercase()),
                *choice,
            )
        })
        .filter(|(distance, choice)| *distance <= 1 + choice.len() / 5 && *distance < choice.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, choice)| choice)
}

/// `a`, `b` or `c`.
pub(super) fn alternatives(choices: &[&str]) -> String {
    let mut quoted: Vec<_> = choices.iter().map(|choice| format!("`{choice}`")).collect();
    match quoted.pop() {
        Some(last) if quoted.is_empty() => last,
        Some(last) => format!("{} or {last}", quoted.join(", ")),
        None => String::new(),
    }
}
