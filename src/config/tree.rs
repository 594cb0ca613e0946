//! Turns YAML text into a tree that knows where each of its parts was written.
//!
//! The tree keeps scalars as text with their style, so that `yes` stays a text and `007` keeps its zeros. Input is
//! hostile as far as memory goes: size, depth and the expansion of aliases are bounded.

use std::collections::{HashMap, HashSet};

use serde_saphyr::granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Span};

use super::problem::Place;

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) kind: Kind,
}

/// What a value is.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A text; `plain` when it was not quoted, so that it may mean a number, a boolean or nothing.
    Scalar {
        text: String,
        plain: bool,
    },
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

impl std::fmt::Debug for Kind {
    /// Any scalar may be a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Scalar { .. } => f.write_str("Scalar(..)"),
            Self::Sequence(nodes) => write!(f, "Sequence({})", nodes.len()),
            Self::Mapping(entries) => write!(f, "Mapping({})", entries.len()),
        }
    }
}

/// One key of a mapping, with the place of the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) value: Node,
}

impl Node {
    /// Whether the value is absent: `null`, `~` or nothing at all.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar { text, plain: true }
            if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }
}

/// Why there is no tree.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SyntaxError {
    pub(super) place: Place,
    pub(super) message: String,
}

/// Largest file that is read.
pub(super) const MAX_BYTES: usize = 1024 * 1024;
const MAX_NODES: usize = 100_000;
const MAX_TEXT: usize = 4 * MAX_BYTES;
const MAX_DEPTH: usize = 32;

/// Parses one document. Keys that occur twice and the like are errors that do not stop the parser: they are in the list.
pub(super) fn parse(bytes: &[u8]) -> Result<(Node, Vec<SyntaxError>), SyntaxError> {
    if bytes.len() > MAX_BYTES {
        return Err(whole(
            "the file is larger than 1 MiB: this is no configuration of daypass",
        ));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = bytes[..error.valid_up_to()]
            .split(|byte| *byte == b'\n')
            .count();
        SyntaxError {
            place: Place::File {
                line: before,
                column: 1,
            },
            message: "the file is not UTF-8 text: save it as UTF-8".into(),
        }
    })?;
    if let Some(at) = text.find('\0') {
        return Err(SyntaxError {
            place: Place::File {
                line: text[..at].matches('\n').count() + 1,
                column: 1,
            },
            message: "the file is binary, not YAML text".into(),
        });
    }
    Builder::default().build(text)
}

#[derive(Default)]
struct Builder {
    stack: Vec<Open>,
    anchors: HashMap<usize, Node>,
    root: Option<Node>,
    nodes: usize,
    text: usize,
    errors: Vec<SyntaxError>,
}

/// A collection whose end has not come yet.
struct Open {
    place: Place,
    anchor: usize,
    content: Content,
}

enum Content {
    Sequence(Vec<Node>),
    /// Entries, and the key that waits for its value.
    Mapping {
        entries: Vec<Entry>,
        seen: HashSet<String>,
        waiting: Option<Key>,
    },
}

struct Key {
    text: String,
    place: Place,
    /// Dropped, because it is no proper key or came before.
    bad: bool,
}

impl Builder {
    fn build(mut self, text: &str) -> Result<(Node, Vec<SyntaxError>), SyntaxError> {
        let mut documents = 0;
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| syntax(&error))?;
            let at = place(&span);
            match event {
                Event::DocumentStart(..) => {
                    documents += 1;
                    if documents > 1 {
                        return Err(SyntaxError {
                            place: at,
                            message: "a second YAML document: put all in one".into(),
                        });
                    }
                }
                Event::Alias(id) => {
                    let Some(node) = self.anchors.get(&id).cloned() else {
                        return Err(SyntaxError {
                            place: at,
                            message: "an alias inside what it stands for: write the value out"
                                .into(),
                        });
                    };
                    self.count_tree(&node, &at, self.stack.len())?;
                    self.place_node(node, 0)?;
                }
                Event::UnresolvedAlias(_) => {
                    return Err(SyntaxError {
                        place: at,
                        message: "an alias without an anchor: write the value out".into(),
                    });
                }
                Event::Scalar(text, style, anchor, tag) => {
                    self.refuse_tag(tag.is_some(), &at);
                    self.count(text.len(), &at)?;
                    let kind = Kind::Scalar {
                        text: text.into_owned(),
                        plain: style == ScalarStyle::Plain,
                    };
                    self.place_node(Node { place: at, kind }, anchor)?;
                }
                Event::SequenceStart(_, anchor, tag) => {
                    self.refuse_tag(tag.is_some(), &at);
                    self.open(at, anchor, Content::Sequence(Vec::new()))?;
                }
                Event::MappingStart(_, anchor, tag) => {
                    self.refuse_tag(tag.is_some(), &at);
                    self.open(
                        at,
                        anchor,
                        Content::Mapping {
                            entries: Vec::new(),
                            seen: HashSet::new(),
                            waiting: None,
                        },
                    )?;
                }
                Event::SequenceEnd | Event::MappingEnd => {
                    if let Some(open) = self.stack.pop() {
                        let kind = match open.content {
                            Content::Sequence(nodes) => Kind::Sequence(nodes),
                            Content::Mapping { entries, .. } => Kind::Mapping(entries),
                        };
                        let node = Node {
                            place: open.place,
                            kind,
                        };
                        self.place_node(node, open.anchor)?;
                    }
                }
                // Comments and the marks of stream and document carry no value.
                _ => {}
            }
        }
        match self.root {
            Some(root) if !root.is_null() => Ok((root, self.errors)),
            _ => Err(whole(
                "the file is empty: write at least `public_url`, `provider` and `routes`",
            )),
        }
    }

    fn open(&mut self, place: Place, anchor: usize, content: Content) -> Result<(), SyntaxError> {
        self.count(0, &place)?;
        if self.stack.len() >= MAX_DEPTH {
            return Err(too_deep(place));
        }
        self.stack.push(Open {
            place,
            anchor,
            content,
        });
        Ok(())
    }

    /// Hands a finished value to the collection it belongs to.
    fn place_node(&mut self, node: Node, anchor: usize) -> Result<(), SyntaxError> {
        if anchor != 0 {
            self.count_tree(&node, &node.place.clone(), self.stack.len())?;
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.stack.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.content {
            Content::Sequence(nodes) => nodes.push(node),
            Content::Mapping {
                entries,
                seen,
                waiting,
            } => {
                if let Some(key) = waiting.take() {
                    if !key.bad {
                        entries.push(Entry {
                            key: key.text,
                            place: key.place,
                            value: node,
                        });
                    }
                    return Ok(());
                }
                let place = node.place.clone();
                let (text, complaint) = match node.kind {
                    Kind::Scalar { text, plain: true } if text == "<<" => (
                        text,
                        Some("merge keys (`<<`) are not supported: write the keys out"),
                    ),
                    Kind::Scalar { text, .. } if !seen.insert(text.clone()) => {
                        (text, Some("the same key twice in one mapping: keep one"))
                    }
                    Kind::Scalar { text, .. } => (text, None),
                    Kind::Sequence(_) | Kind::Mapping(_) => (
                        String::new(),
                        Some("a key must be a text; braces inside braces need quotes"),
                    ),
                };
                if let Some(message) = complaint {
                    self.errors.push(SyntaxError {
                        place: place.clone(),
                        message: message.into(),
                    });
                }
                *waiting = Some(Key {
                    text,
                    place,
                    bad: complaint.is_some(),
                });
            }
        }
        Ok(())
    }

    fn refuse_tag(&mut self, tagged: bool, at: &Place) {
        if tagged {
            self.errors.push(SyntaxError {
                place: at.clone(),
                message: "YAML tags (`!name`) are not supported: write the plain value".into(),
            });
        }
    }

    /// Charges a node, or all nodes an alias stands for, to the budget.
    fn count(&mut self, text: usize, at: &Place) -> Result<(), SyntaxError> {
        self.nodes += 1;
        self.text += text;
        if self.nodes > MAX_NODES || self.text > MAX_TEXT {
            return Err(SyntaxError {
                place: at.clone(),
                message: "too many values, counting each use of an alias: write fewer".into(),
            });
        }
        Ok(())
    }

    fn count_tree(&mut self, node: &Node, at: &Place, level: usize) -> Result<(), SyntaxError> {
        if level > MAX_DEPTH {
            return Err(too_deep(at.clone()));
        }
        match &node.kind {
            Kind::Scalar { text, .. } => self.count(text.len(), at),
            Kind::Sequence(nodes) => {
                self.count(0, at)?;
                nodes
                    .iter()
                    .try_for_each(|node| self.count_tree(node, at, level + 1))
            }
            Kind::Mapping(entries) => {
                self.count(0, at)?;
                entries.iter().try_for_each(|entry| {
                    self.count(entry.key.len(), at)?;
                    self.count_tree(&entry.value, at, level + 1)
                })
            }
        }
    }
}

fn too_deep(place: Place) -> SyntaxError {
    SyntaxError {
        place,
        message: format!("nested deeper than {MAX_DEPTH} levels"),
    }
}

fn place(span: &Span) -> Place {
    Place::File {
        line: span.start.line(),
        column: span.start.col() + 1,
    }
}

fn whole(message: &str) -> SyntaxError {
    SyntaxError {
        place: Place::Whole,
        message: message.into(),
    }
}

fn syntax(error: &ScanError) -> SyntaxError {
    let what = match error.kind() {
        // Its own message quotes the character, which may be the first one of a secret.
        ErrorKind::UnexpectedCharacter { .. } => {
            "a character that cannot start a value here: put the value in quotes".to_owned()
        }
        kind => format!("not valid YAML: {kind}"),
    };
    SyntaxError {
        place: Place::File {
            line: error.marker().line(),
            column: error.marker().col() + 1,
        },
        message: what,
    }
}
