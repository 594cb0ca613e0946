//! Decides what a request path says, so that route matching and the upstream cannot read it differently.
//!
//! There is one canonical spelling of every path; what has none is refused. Only [`CanonicalPath::parse`] makes one.

use std::borrow::Cow;
use std::fmt;

/// Longest path taken or made, in bytes.
pub const MAX_PATH: usize = 8 * 1024;

/// A path in canonical form: what routes match on is what the upstream gets.
///
/// It starts with `/`, is ASCII, holds no empty segment (but may end in `/`), no dot segment, no escape of an unreserved
/// character (RFC 3986 §6.2.2.2), and every escape in upper case. Escaped characters are well-formed UTF-8 and none is a
/// control character, a slash or a backslash.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CanonicalPath<'a>(Cow<'a, str>);

/// Why a path has no canonical form. The answer to all of them is 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Origin-form starts with a slash (RFC 9112 §3.2.1).
    #[error("path does not start with a slash")]
    NoLeadingSlash,
    /// Longer than [`MAX_PATH`], as sent or in canonical form.
    #[error("path is too long")]
    TooLong,
    /// `%` without two hexadecimal digits.
    #[error("path holds a malformed escape")]
    BadEscape,
    /// A character that servers disagree about, raw or escaped: `\`, NUL, other controls, `%2f`, raw `#` or `?`.
    #[error("path holds a forbidden character")]
    Forbidden,
    /// Neither raw nor escaped UTF-8; among them overlong forms of `.` and `/`.
    #[error("path is not UTF-8")]
    NotUtf8,
    /// `..` above the root.
    #[error("path leaves the root")]
    EscapesRoot,
    /// A dot segment with parameters (`..;x`), which some servers resolve and some do not.
    #[error("path holds a dot segment with parameters")]
    DottedParameters,
}

impl<'a> CanonicalPath<'a> {
    /// Puts the path component of a request target into canonical form. A path that is canonical already is borrowed.
    ///
    /// # Errors
    /// [`PathError`] when the path can be read in two ways.
    pub fn parse(raw: &'a [u8]) -> Result<Self, PathError> {
        if raw.len() > MAX_PATH {
            return Err(PathError::TooLong);
        }
        if raw.first() != Some(&b'/') {
            return Err(PathError::NoLeadingSlash);
        }
        if is_canonical(raw)
            && let Ok(text) = std::str::from_utf8(raw)
        {
            return Ok(Self(Cow::Borrowed(text)));
        }
        rebuild(raw).map(|text| Self(Cow::Owned(text)))
    }

    /// The path itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Detaches the path from the request it came with.
    pub fn into_owned(self) -> CanonicalPath<'static> {
        CanonicalPath(Cow::Owned(self.0.into_owned()))
    }

    /// What follows `prefix` when the path is `prefix` or lies below it: empty, or starting with `/`. Whole segments only.
    pub fn below(&self, prefix: &str) -> Option<&str> {
        let rest = self.0.strip_prefix(prefix.trim_end_matches('/'))?;
        (rest.is_empty() || rest.starts_with('/')).then_some(rest)
    }
}

impl fmt::Debug for CanonicalPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl AsRef<str> for CanonicalPath<'_> {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// One character in its canonical spelling: at most four escapes.
struct Spelling {
    text: [u8; 12],
    len: usize,
}

impl Spelling {
    fn plain(byte: u8) -> Self {
        let mut text = [0; 12];
        text[0] = byte;
        Self { text, len: 1 }
    }

    fn escaped(bytes: &[u8]) -> Self {
        let mut spelling = Self {
            text: [0; 12],
            len: 0,
        };
        for (to, byte) in spelling.text.chunks_exact_mut(3).zip(bytes) {
            to[0] = b'%';
            to[1] = HEX[usize::from(byte >> 4)];
            to[2] = HEX[usize::from(byte & 15)];
            spelling.len += 3;
        }
        spelling
    }

    fn as_bytes(&self) -> &[u8] {
        &self.text[..self.len]
    }
}

/// Whether rebuilding would change nothing; says no too where rebuilding would fail.
fn is_canonical(raw: &[u8]) -> bool {
    let mut start = 1;
    let mut at = 1;
    while let Some(&byte) = raw.get(at) {
        if byte == b'/' {
            if at == start || is_dotted(&raw[start..at]) {
                return false;
            }
            at += 1;
            start = at;
        } else if is_pchar(byte) {
            at += 1;
        } else {
            match read(&raw[at..]) {
                Ok((spelling, taken)) if spelling.as_bytes() == &raw[at..at + taken] => at += taken,
                _ => return false,
            }
        }
    }
    !is_dotted(&raw[start..])
}

/// Writes the path anew, segment by segment.
fn rebuild(raw: &[u8]) -> Result<String, PathError> {
    let mut out = Vec::with_capacity(raw.len() + 16);
    out.push(b'/');
    // Where the segment under way begins in `out`, which ends in a slash just before.
    let mut start = 1;
    let mut rest = &raw[1..];
    loop {
        let ends = rest.first().is_none_or(|&byte| byte == b'/');
        if !ends {
            let (spelling, taken) = read(rest)?;
            out.extend_from_slice(spelling.as_bytes());
            if out.len() > MAX_PATH {
                return Err(PathError::TooLong);
            }
            rest = &rest[taken..];
            continue;
        }
        let more = !rest.is_empty();
        match &out[start..] {
            b"" => {}
            b"." => out.truncate(start),
            b".." => {
                // Without the slash before the segment, back to the one before.
                let parent = out[..start - 1].iter().rposition(|&byte| byte == b'/');
                out.truncate(parent.ok_or(PathError::EscapesRoot)? + 1);
            }
            segment if is_dotted(segment) => return Err(PathError::DottedParameters),
            _ if more => out.push(b'/'),
            _ => {}
        }
        start = out.len();
        if !more {
            break;
        }
        rest = &rest[1..];
    }
    if out.len() > MAX_PATH {
        return Err(PathError::TooLong);
    }
    // All of it is ASCII by construction.
    String::from_utf8(out).map_err(|_| PathError::NotUtf8)
}

/// Reads one character, raw or escaped: its canonical spelling and the bytes it took. `raw` is not empty.
fn read(raw: &[u8]) -> Result<(Spelling, usize), PathError> {
    let (first, mut taken) = octet(raw)?;
    let escaped = taken > 1;
    if first.is_ascii() {
        let spelling = match first {
            b'\\' | b'/' => return Err(PathError::Forbidden),
            b'#' | b'?' if !escaped => return Err(PathError::Forbidden),
            _ if first.is_ascii_control() => return Err(PathError::Forbidden),
            _ if is_unreserved(first) || (!escaped && is_pchar(first)) => Spelling::plain(first),
            _ => Spelling::escaped(&[first]),
        };
        return Ok((spelling, taken));
    }
    // The first octet tells how many follow (RFC 3629 §3); `from_utf8` refuses overlong forms and surrogates.
    let width = match first {
        0xC2..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xF4 => 4,
        _ => return Err(PathError::NotUtf8),
    };
    let mut bytes = [first, 0, 0, 0];
    for byte in &mut bytes[1..width] {
        let rest = raw
            .get(taken..)
            .filter(|rest| !rest.is_empty())
            .ok_or(PathError::NotUtf8)?;
        let (next, more) = octet(rest)?;
        *byte = next;
        taken += more;
    }
    let text = std::str::from_utf8(&bytes[..width]).map_err(|_| PathError::NotUtf8)?;
    if text.chars().any(char::is_control) {
        return Err(PathError::Forbidden);
    }
    Ok((Spelling::escaped(text.as_bytes()), taken))
}

/// The octet at the front, raw or escaped, and the bytes it took.
fn octet(raw: &[u8]) -> Result<(u8, usize), PathError> {
    match *raw {
        [b'%', high, low, ..] => match (hex(high), hex(low)) {
            (Some(high), Some(low)) => Ok((high << 4 | low, 3)),
            _ => Err(PathError::BadEscape),
        },
        [b'%', ..] | [] => Err(PathError::BadEscape),
        [byte, ..] => Ok((byte, 1)),
    }
}

/// Whether a segment is a dot segment once its parameters are cut, also escaped ones: Tomcat and its like resolve `..;x`.
fn is_dotted(segment: &[u8]) -> bool {
    if segment.first() != Some(&b'.') {
        return false;
    }
    let rest = segment.strip_prefix(b"..").unwrap_or(&segment[1..]);
    rest.is_empty()
        || rest.starts_with(b";")
        || rest.starts_with(b"%3B")
        || rest.starts_with(b"%3b")
}

fn hex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// RFC 3986 §2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Whether the byte may stand in a path segment as it is (RFC 3986 §3.3), escapes aside.
fn is_pchar(byte: u8) -> bool {
    PCHAR[usize::from(byte)]
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

const PCHAR: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] = is_unreserved(byte)
            || matches!(
                byte,
                b'!' | b'$'
                    | b'&'
                    | b'\''
                    | b'('
                    | b')'
                    | b'*'
                    | b'+'
                    | b','
                    | b';'
                    | b'='
                    | b':'
                    | b'@'
            );
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests;
