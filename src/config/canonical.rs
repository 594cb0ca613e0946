//! Says whether a path of the configuration is in the form that requests are matched in.
//!
//! Requests are normalised by `web::path::CanonicalPath::parse`; a pattern that no normalised path can equal would
//! never match, or worse, leave a route unguarded. This is the only place where the configuration asks.

/// Checks a path; the complaint names the canonical form when there is one.
pub(super) fn check(text: &str) -> Result<(), String> {
    if !text.starts_with('/') {
        return Err("a path starts with `/`: write it so".into());
    }
    if text.contains(['?', '#']) {
        return Err("a path has no query and no fragment: write what stands before".into());
    }
    match canonical(text.as_bytes()) {
        Some(form) if form == text => Ok(()),
        Some(form) => Err(format!("not in canonical form: write `{form}`")),
        None => Err(
            "no canonical form exists, requests like this are refused: write it without `%2F`, `%5C`, `\\`, control characters, bad escapes and `..` above the root"
                .into(),
        ),
    }
}

/// The canonical form of an absolute path.
fn canonical(path: &[u8]) -> Option<String> {
    let mut plain = String::with_capacity(path.len());
    let mut bytes = path.iter().copied();
    while let Some(byte) = bytes.next() {
        let (byte, escaped) = if byte == b'%' {
            (hex(bytes.next()?)? << 4 | hex(bytes.next()?)?, true)
        } else {
            (byte, false)
        };
        match byte {
            b'\\' | 0..=0x1f | 0x7f => return None,
            b'/' | b'#' if escaped => return None,
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                plain.push(char::from(byte));
            }
            // Sub-delimiters mean the same only when written the same (RFC 3986 §6.2.2.2).
            b'/' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'='
            | b':' | b'@'
                if !escaped =>
            {
                plain.push(char::from(byte));
            }
            _ => {
                plain.push('%');
                for digit in [byte >> 4, byte & 0xf] {
                    plain
                        .extend(char::from_digit(digit.into(), 16).map(|c| c.to_ascii_uppercase()));
                }
            }
        }
    }
    let mut segments: Vec<&str> = Vec::new();
    let mut folder = true;
    for segment in plain.split('/').filter(|segment| !segment.is_empty()) {
        folder = false;
        match segment {
            "." => folder = true,
            ".." => {
                segments.pop()?;
                folder = true;
            }
            _ => segments.push(segment),
        }
    }
    let mut form = String::with_capacity(plain.len());
    for segment in &segments {
        form.push('/');
        form.push_str(segment);
    }
    if folder || plain.ends_with('/') || form.is_empty() {
        form.push('/');
    }
    Some(form)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_are_not_canonical_are_told_what_is() {
        for (name, path, want) in [
            ("root", "/", Some("/")),
            ("plain", "/a/b", Some("/a/b")),
            ("trailing slash stays", "/a/", Some("/a/")),
            ("double slash", "/a//b", Some("/a/b")),
            ("dot", "/a/./b", Some("/a/b")),
            ("dot dot", "/a/../b", Some("/b")),
            ("final dot dot", "/a/b/..", Some("/a/")),
            ("escaped dots", "/%2e%2E/a", None),
            ("escaped dots below", "/b/%2e%2E/a", Some("/a")),
            ("needless escape", "/%61", Some("/a")),
            ("lower-case escape", "/%c3%a4", Some("/%C3%A4")),
            ("raw letter beyond ASCII", "/ä", Some("/%C3%A4")),
            ("escape that must stay", "/%3B", Some("/%3B")),
            ("escaped slash", "/a%2Fb", None),
            ("escaped backslash", "/a%5cb", None),
            ("backslash", "/a\\b", None),
            ("NUL", "/%00", None),
            ("bad escape", "/%4", None),
            ("above the root", "/../a", None),
        ] {
            assert_eq!(canonical(path.as_bytes()).as_deref(), want, "{name}");
            assert_eq!(check(path).is_ok(), want == Some(path), "{name}");
        }
        assert!(check("a").is_err());
        assert!(check("/a?b").is_err());
    }
}
