//! Reads values of the tree, and collects problems instead of stopping at the first.
//!
//! A getter answers `None` when there is nothing to work with; the problem, if it is one, is then already recorded.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;

use super::environment::Environment;
use super::problem::{Place, Problem};
use super::source::Files;
use super::tree::{Entry, Kind, Node};

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
    pub(super) files: super::watch::Prints,
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
    pub(super) fn join(&self, key: &str, place: &Place) -> Self {
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
pub(super) fn presentable(key: &str) -> bool {
    !key.is_empty()
        && key.len() <= 40
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

/// Longest list or mapping: some checks compare each entry with each other.
const MAX_ENTRIES: usize = 1000;
const TOO_MANY: &str = "more than 1000 entries: write fewer";

/// Something read, and where it was written.
#[derive(Clone)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) spot: Spot,
}

/// A value not yet read.
pub(super) type Value = At<Node>;

/// Entries of a mapping whose keys the user chose.
pub(super) type Pairs = Vec<(At<String>, Value)>;

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
            Kind::Sequence(nodes) if nodes.len() > MAX_ENTRIES => {
                self.problem(&spot, TOO_MANY);
                None
            }
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
    pub(super) fn map(&self, value: Value) -> Option<At<Pairs>> {
        let At { value: node, spot } = value;
        match node.kind {
            Kind::Mapping(entries) if entries.len() > MAX_ENTRIES => {
                self.problem(&spot, TOO_MANY);
                None
            }
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
