//! Reads a mapping by its table of keys: unknown keys, missing keys and defaults.

use std::path::PathBuf;
use std::time::Duration;

use zeroize::Zeroizing;

use super::problem::Place;
use super::read::{At, Pairs, Reader, Spot, Value, alternatives, nearest, presentable};
use super::scalar;
use super::table::{Key, Need, Shape, Table};
use super::tree::{self, Entry, Kind, Node};

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

    /// A section of which nothing is written: all its keys take their defaults.
    pub(super) fn defaults(reader: &'a Reader<'a>, table: &'static Table, spot: Spot) -> Self {
        Self {
            reader,
            table,
            entries: Vec::new(),
            spot,
        }
    }

    /// A section that is not in the file.
    fn absent(&self, table: &'static Table, key: &str) -> Self {
        Self::defaults(self.reader, table, self.spot.join(key, &Place::Whole))
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

    /// Whether a missing key is a problem by itself.
    pub(super) fn requires(&self, name: &'static str) -> bool {
        matches!(self.key(name).need, Need::Required(_))
    }

    /// Whether all keys are known: else something is wrong already.
    pub(super) fn all_known(&self) -> bool {
        self.entries
            .iter()
            .all(|entry| self.table.keys.iter().any(|key| key.name == entry.key))
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

    pub(super) fn map(&self, name: &'static str) -> Option<At<Pairs>> {
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
