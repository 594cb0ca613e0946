//! Reads what a route matches on: host, methods and path.

use std::collections::BTreeSet;

use http::Method;
use regex::{Regex, RegexBuilder};
use url::Host;

use super::model::{HostPattern, PathPattern};
use super::read::{At, Reader, Spot};
use super::route::Around;
use super::section::Section;
use super::{canonical, shadow};

/// What a route matches on.
pub(super) struct Matcher {
    pub(super) host: Option<HostPattern>,
    pub(super) methods: Vec<Method>,
    pub(super) path: PathPattern,
    /// Where the path stands.
    pub(super) spot: Spot,
}

/// Reads what a route matches on, and whether a request can get there.
pub(super) fn matcher(section: &Section<'_>, around: &Around<'_>) -> Option<Matcher> {
    let host = match section.text("host") {
        Some(text) => Some(host(section.reader, &text, around)),
        None if section.has("host") => Some(None),
        None => None,
    };
    let methods = methods(section);
    let path = path(section, around);
    let (path, spot) = path?;
    Some(Matcher {
        host: match host {
            Some(host) => Some(host?),
            None => None,
        },
        methods: methods?,
        path,
        spot,
    })
}

fn host(reader: &Reader<'_>, text: &At<String>, around: &Around<'_>) -> Option<HostPattern> {
    const EXPECTED: &str =
        "no host: write a name without port, such as `shop.example.com` or `*.example.com`";
    let name = text.value.strip_prefix("*.").unwrap_or(&text.value);
    let Some(canonical) = Host::parse(name).ok().map(|host| host.to_string()) else {
        reader.problem(&text.spot, EXPECTED);
        return None;
    };
    if canonical != name || name.ends_with('.') || name.contains('*') {
        reader.problem(
            &text.spot,
            format!("{EXPECTED}, in lower case and without final dot"),
        );
        return None;
    }
    let pattern = if name.len() == text.value.len() {
        HostPattern::Exact(name.into())
    } else {
        HostPattern::Suffix(format!(".{name}").into())
    };
    // Requests for other hosts get 421 before any route is asked.
    if hosts_of(Some(&pattern), around).is_some_and(|hosts| hosts.is_empty()) {
        reader.problem(&text.spot, "no origin of `public_url` has such a host, so the route can never match: add the origin, or correct the host");
        return None;
    }
    Some(pattern)
}

/// The public hosts that match.
pub(super) fn hosts_of(
    pattern: Option<&HostPattern>,
    around: &Around<'_>,
) -> Option<BTreeSet<String>> {
    let matches = |host: &str| match pattern {
        None => true,
        Some(HostPattern::Exact(name)) => host == &**name,
        Some(HostPattern::Suffix(suffix)) => host.len() > suffix.len() && host.ends_with(&**suffix),
    };
    let hosts = around.origins?.iter().map(|origin| origin.host.to_string());
    Some(hosts.filter(|host| matches(host)).collect())
}

fn methods(section: &Section<'_>) -> Option<Vec<Method>> {
    let Some(value) = section.given("methods") else {
        return Some(Vec::new());
    };
    let texts = section.reader.texts(value)?;
    if texts.value.is_empty() {
        section.reader.problem(
            &texts.spot,
            "no method, so the route could never match: write some, or remove the key for all",
        );
        return None;
    }
    let mut methods = Vec::new();
    for text in texts.value {
        let method = Method::from_bytes(text.value.as_bytes()).ok();
        let complaint = match method {
            // CONNECT has no path to match on (RFC 9110 §9.3.6).
            None | Some(Method::CONNECT) => {
                "no method that can be forwarded: write, for example, `GET`"
            }
            Some(_) if text.value != text.value.to_ascii_uppercase() => {
                "methods are written in capitals: write, for example, `GET`"
            }
            Some(method) if methods.contains(&method) => "the same method twice: keep one",
            Some(method) => {
                methods.push(method);
                continue;
            }
        };
        section.reader.problem(&text.spot, complaint);
    }
    Some(methods)
}

fn path(section: &Section<'_>, around: &Around<'_>) -> Option<(PathPattern, Spot)> {
    let reader = section.reader;
    let (exact, prefix, regex) = (
        section.given("path"),
        section.given("path_prefix"),
        section.given("path_regex"),
    );
    let given =
        usize::from(exact.is_some()) + usize::from(prefix.is_some()) + usize::from(regex.is_some());
    if given != 1 {
        let message = if given == 0 {
            "no path to match"
        } else {
            "several paths to match"
        };
        reader.problem(
            &section.spot,
            format!("{message}: write exactly one of `path`, `path_prefix` and `path_regex`"),
        );
        return None;
    }
    let pattern = match (exact, prefix, regex) {
        (Some(value), _, _) => {
            let text = reader.text(value)?;
            reader.accept(&text.spot, canonical::check(&text.value))?;
            At {
                value: PathPattern::Exact(text.value),
                spot: text.spot,
            }
        }
        (_, Some(value), _) => {
            let text = reader.text(value)?;
            reader.accept(&text.spot, check_prefix(&text.value))?;
            At {
                value: PathPattern::Prefix(text.value),
                spot: text.spot,
            }
        }
        (_, _, value) => {
            let text = reader.text(value?)?;
            At {
                value: PathPattern::Regex(reader.accept(&text.spot, compile(&text.value))?),
                spot: text.spot,
            }
        }
    };
    let ours = around.base_path.is_some_and(|base| match &pattern.value {
        PathPattern::Exact(path) | PathPattern::Prefix(path) => shadow::within(base, path),
        PathPattern::Regex(_) => false,
    });
    if ours {
        reader.problem(&pattern.spot, "lies under `base_path`, where daypass answers itself: choose another path, or move `base_path`");
        return None;
    }
    Some((pattern.value, pattern.spot))
}

/// Checks a path prefix.
pub(super) fn check_prefix(text: &str) -> Result<(), String> {
    canonical::check(text)?;
    if text != "/" && text.ends_with('/') {
        return Err(format!(
            "a prefix takes whole segments: write `{}`, without the final slash",
            text.trim_end_matches('/')
        ));
    }
    Ok(())
}

/// Compiles an expression so that it must match the whole path; size and nesting are bounded.
fn compile(text: &str) -> Result<Regex, String> {
    if text.len() > 4096 {
        return Err("the expression is longer than 4096 bytes: write several routes".into());
    }
    // Alone first: `a)(b` would close our group.
    let build = |source: &str| {
        RegexBuilder::new(source)
            .size_limit(1 << 18)
            .dfa_size_limit(1 << 18)
            .nest_limit(50)
            .build()
    };
    let alone = build(text);
    let anchored = alone.and_then(|_| build(&format!("^(?:{text})$")));
    let regex = anchored.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => {
            "the expression is too large once compiled: write smaller repetitions".to_owned()
        }
        error => {
            // The crate draws the expression over several lines; the last one says what is wrong.
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default().trim();
            format!(
                "no regular expression ({}): correct it",
                last.strip_prefix("error: ").unwrap_or(last)
            )
        }
    })?;
    let first = text.trim_start_matches('^').bytes().next();
    if !text.contains('|') && first.is_none_or(|b| b.is_ascii_alphanumeric()) {
        return Err(
            "must match the whole path, which starts with `/`: write the expression so".into(),
        );
    }
    Ok(regex)
}
