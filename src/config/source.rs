//! Reads what a configuration names outside of itself: secrets, keys, certificates.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::problem::Place;
use super::read::{At, Reader, Spot, Value};
use super::tree::{Entry, Kind, MAX_BYTES};
use super::watch::Print;

/// Where files are read from; tests and fuzzers bring their own.
pub trait Files {
    /// Reads a whole file.
    ///
    /// # Errors
    /// Whatever the system says; a file over 1 MiB is [`io::ErrorKind::FileTooLarge`].
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
}

/// The file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let limit = u64::try_from(MAX_BYTES)
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        let mut bytes = Vec::new();
        File::open(path)?.take(limit).read_to_end(&mut bytes)?;
        if bytes.len() > MAX_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(bytes)
    }
}

/// No files at all: every read fails.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoFiles;

impl Files for NoFiles {
    fn read(&self, _: &Path) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Says why a file could not be read, without its path.
pub(super) fn why(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file",
        io::ErrorKind::PermissionDenied => "permission denied",
        io::ErrorKind::IsADirectory => "it is a directory",
        io::ErrorKind::FileTooLarge => "it is larger than 1 MiB",
        _ => "the system reports an error",
    }
}

impl Reader<'_> {
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
                    "file" => self.text_of_file(value, &spot)?,
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

    /// A file's text without the line breaks at its end.
    fn text_of_file(&self, value: Value, spot: &Spot) -> Option<Zeroizing<String>> {
        let bytes = Zeroizing::new(self.file(value)?.1);
        let text = self.accept(
            spot,
            std::str::from_utf8(&bytes).map_err(
                |_| "the file is not text: store the secret as UTF-8, binary keys as base64",
            ),
        )?;
        Some(Zeroizing::new(
            text.trim_end_matches(['\r', '\n']).to_owned(),
        ))
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
        let print = Print::of(content.as_deref().ok());
        self.found.borrow_mut().files.insert(path.clone(), print);
        match content {
            Ok(bytes) => Some((path, bytes)),
            Err(error) => {
                // The path is not repeated: a slip of the pen may put the secret there.
                self.problem(
                    &spot,
                    format!(
                        "the file cannot be read ({}): write a path that can, counted from the configuration file's folder",
                        why(&error)
                    ),
                );
                None
            }
        }
    }
}
