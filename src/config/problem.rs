//! Says what is wrong with a configuration, where, and what to write instead.

use std::fmt;
use std::sync::Arc;

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In the file; both count from 1.
    File {
        /// Line.
        line: usize,
        /// Column, in characters.
        column: usize,
    },
    /// In an environment variable of this name.
    Variable(Arc<str>),
    /// Nowhere in particular: the file as a whole.
    Whole,
}

impl Place {
    /// Sorts problems: the file as a whole, then in file order, then by variable.
    fn rank(&self) -> (u8, usize, usize, &str) {
        match self {
            Self::Whole => (0, 0, 0, ""),
            Self::File { line, column } => (1, *line, *column, ""),
            Self::Variable(name) => (2, 0, 0, name),
        }
    }
}

/// One thing that is wrong, or worth a warning. Never holds a secret, nor any line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// File the configuration was read from.
    pub file: Arc<str>,
    /// Where in it.
    pub place: Place,
    /// Path of the key, such as `routes[2].upstream`; empty for the file as a whole.
    pub path: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::File { line, column } => write!(f, "{}:{line}:{column}: ", self.file)?,
            Place::Variable(name) => write!(f, "{name}: ")?,
            Place::Whole => write!(f, "{}: ", self.file)?,
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong, in file order; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    /// What must change.
    pub problems: Vec<Problem>,
    /// What was noticed besides.
    pub warnings: Vec<Problem>,
    /// Files that were read or asked for, with what they held: a change of any may mend it.
    pub files: super::watch::Prints,
}

impl Problems {
    /// A single problem of the file as a whole.
    pub(super) fn whole(file: &str, message: impl Into<String>) -> Self {
        Self {
            problems: vec![Problem {
                file: file.into(),
                place: Place::Whole,
                path: String::new(),
                message: message.into(),
            }],
            warnings: Vec::new(),
            files: super::watch::Prints::new(),
        }
    }
}

impl fmt::Display for Problems {
    /// One problem a line and a last line that counts them; warnings are left to the caller.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        match self.problems.len() {
            1 => f.write_str("1 problem"),
            many => write!(f, "{many} problems"),
        }
    }
}

impl std::error::Error for Problems {}

/// Puts problems in the order a reader of the file meets them; a second report of the same is dropped.
pub(super) fn in_file_order(problems: &mut Vec<Problem>) {
    // Stable: at one place, in the order found.
    problems.sort_by(|a, b| a.place.rank().cmp(&b.place.rank()));
    problems.dedup();
}
