//! Says whether a path of the configuration is in the form that requests are matched in.
//!
//! A pattern that no canonical path can equal would never match, or worse, leave a route unguarded. This is the only place
//! where the configuration asks.

use crate::web::path::CanonicalPath;

/// Checks a path; the complaint names the canonical form when there is one.
pub(super) fn check(text: &str) -> Result<(), String> {
    if !text.starts_with('/') {
        return Err("a path starts with `/`: write it so".into());
    }
    if text.contains(['?', '#']) {
        return Err("a path has no query and no fragment: write what stands before".into());
    }
    match CanonicalPath::parse(text.as_bytes()) {
        Ok(form) if form.as_str() == text => Ok(()),
        Ok(form) => Err(format!("not in canonical form: write `{}`", form.as_str())),
        Err(_) => Err(
            "no canonical form exists, requests like this are refused: write it without `%2F`, `%5C`, `\\`, control characters, bad escapes and `..` above the root"
                .into(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_names_the_form_to_write() {
        for (name, text, want) in [
            ("canonical", "/a/b", Ok(())),
            ("the root", "/", Ok(())),
            ("doubled slash", "/a//b", Err("write `/a/b`")),
            ("dot segments", "/a/../b", Err("write `/b`")),
            ("needless escape", "/%61", Err("write `/a`")),
            ("relative", "a", Err("starts with `/`")),
            ("query", "/a?b", Err("no query")),
            ("escaped slash", "/a%2fb", Err("no canonical form")),
            ("above the root", "/../a", Err("no canonical form")),
        ] {
            match (check(text), want) {
                (Ok(()), Ok(())) => {}
                (Err(complaint), Err(part)) if complaint.contains(part) => {}
                (got, _) => panic!("{name}: {got:?}"),
            }
        }
    }
}
