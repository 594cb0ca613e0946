//! Tells when a route can never match because an earlier one takes all its requests.
//!
//! Only certainty counts: an answer of `true` is a proof, so that no working configuration is refused. It is exact
//! for hosts, methods, `path` and `path_prefix` of two routes; of regular expressions it understands literal
//! beginnings, `.*` and `(/.*)?` at the end, and equality.

use std::collections::BTreeSet;

use super::model::PathPattern;

/// What a route takes.
#[derive(Debug, Clone)]
pub(super) struct Taken {
    /// The public hosts it matches; nothing when they are not known.
    pub(super) hosts: BTreeSet<String>,
    /// Methods; empty means all.
    pub(super) methods: Vec<http::Method>,
    pub(super) path: PathPattern,
}

impl Taken {
    /// Whether every request that `later` matches is matched by `self` too.
    pub(super) fn covers(&self, later: &Self) -> bool {
        let methods = self.methods.is_empty()
            || !later.methods.is_empty()
                && later
                    .methods
                    .iter()
                    .all(|method| self.methods.contains(method));
        methods && later.hosts.is_subset(&self.hosts) && covers_path(&self.path, &later.path)
    }
}

/// Whether `path` lies in the prefix, by whole segments.
pub(super) fn within(prefix: &str, path: &str) -> bool {
    prefix == "/"
        || path
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn covers_path(earlier: &PathPattern, later: &PathPattern) -> bool {
    match (earlier, later) {
        (PathPattern::Exact(a), PathPattern::Exact(b)) => a == b,
        (PathPattern::Exact(a), PathPattern::Regex(b)) => {
            understand(source(b)) == Meaning::Exact(a.clone())
        }
        (PathPattern::Exact(_), PathPattern::Prefix(_)) => false,
        (PathPattern::Prefix(a), PathPattern::Exact(b) | PathPattern::Prefix(b)) => within(a, b),
        (PathPattern::Prefix(a), PathPattern::Regex(b)) => match understand(source(b)) {
            Meaning::Exact(path) | Meaning::Below(path) => within(a, &path),
            // All begin so: enough when the prefix ends at a slash of it.
            Meaning::Begins(start) | Meaning::BeginsAtLeast(start) => {
                a == "/" || start.starts_with(&format!("{a}/"))
            }
        },
        (PathPattern::Regex(a), PathPattern::Exact(b)) => a.is_match(b),
        (PathPattern::Regex(a), PathPattern::Prefix(b)) => match understand(source(a)) {
            Meaning::Begins(start) => b.starts_with(&start),
            Meaning::Below(prefix) => within(&prefix, b),
            Meaning::Exact(_) | Meaning::BeginsAtLeast(_) => false,
        },
        (PathPattern::Regex(a), PathPattern::Regex(b)) => {
            a.as_str() == b.as_str()
                || match (understand(source(a)), understand(source(b))) {
                    (_, Meaning::Exact(path)) => a.is_match(&path),
                    (
                        Meaning::Begins(start),
                        Meaning::Begins(other)
                        | Meaning::BeginsAtLeast(other)
                        | Meaning::Below(other),
                    ) => other.starts_with(&start),
                    (Meaning::Below(prefix), Meaning::Below(other)) => within(&prefix, &other),
                    (
                        Meaning::Below(prefix),
                        Meaning::Begins(other) | Meaning::BeginsAtLeast(other),
                    ) => other.starts_with(&format!("{prefix}/")),
                    _ => false,
                }
        }
    }
}

/// The expression as the file has it, without our anchors.
fn source(regex: &regex::Regex) -> &str {
    let text = regex.as_str();
    text.strip_prefix("^(?:")
        .and_then(|text| text.strip_suffix(")$"))
        .unwrap_or(text)
}

/// What is certain about a regular expression.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    /// It is this path and no other.
    Exact(String),
    /// It is all paths that begin so.
    Begins(String),
    /// It is this path and all below it.
    Below(String),
    /// Its paths all begin so; which ones it takes is not known.
    BeginsAtLeast(String),
}

fn understand(source: &str) -> Meaning {
    // Users may anchor too; a `|` may separate anything from the rest.
    let source = source.strip_prefix('^').unwrap_or(source);
    let source = match source.strip_suffix('$') {
        Some(rest) if !rest.ends_with('\\') => rest,
        _ => source,
    };
    if source.contains('|') {
        return Meaning::BeginsAtLeast(String::new());
    }
    let mut literal = String::new();
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let (c, taken) = match c {
            '\\' => match rest[1..].chars().next() {
                Some(c) if c.is_ascii_punctuation() => (c, 2),
                _ => break,
            },
            c if c.is_ascii_alphanumeric()
                || matches!(
                    c,
                    '/' | '-' | '_' | '~' | '%' | '@' | ':' | ',' | ';' | '=' | '!' | '&' | '\''
                ) =>
            {
                (c, 1)
            }
            _ => break,
        };
        let next = &rest[taken..];
        // A repeated character may be missing altogether.
        if next.starts_with(['*', '?', '+', '{']) {
            break;
        }
        literal.push(c);
        rest = next;
    }
    match rest {
        "" => Meaning::Exact(literal),
        ".*" => Meaning::Begins(literal),
        "(/.*)?" | "(?:/.*)?" if !literal.is_empty() && !literal.ends_with('/') => {
            Meaning::Below(literal)
        }
        _ => Meaning::BeginsAtLeast(literal),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn regex(source: &str) -> PathPattern {
        PathPattern::Regex(regex::Regex::new(&format!("^(?:{source})$")).unwrap())
    }

    fn exact(path: &str) -> PathPattern {
        PathPattern::Exact(path.into())
    }

    fn prefix(path: &str) -> PathPattern {
        PathPattern::Prefix(path.into())
    }

    #[test]
    fn paths_are_covered_only_when_it_is_certain() {
        for (name, earlier, later, want) in [
            ("same path", exact("/a"), exact("/a"), true),
            ("everything", prefix("/"), regex(".*"), true),
            ("segment below", prefix("/a"), prefix("/a/b"), true),
            (
                "same letters, other segment",
                prefix("/a"),
                prefix("/ab"),
                false,
            ),
            (
                "prefix after its own path",
                exact("/a"),
                prefix("/a"),
                false,
            ),
            ("literal expression", exact("/a.b"), regex(r"/a\.b"), true),
            ("dot is any character", exact("/a.b"), regex("/a.b"), false),
            (
                "expression below a prefix",
                prefix("/a"),
                regex("/a/[0-9]+"),
                true,
            ),
            (
                "expression beside a prefix",
                prefix("/a"),
                regex("/a[0-9]+"),
                false,
            ),
            (
                "last letter may be missing",
                prefix("/a"),
                regex("/a/?b"),
                false,
            ),
            ("alternatives", prefix("/a"), regex("/a/b|/c"), false),
            (
                "expression takes a path",
                regex("/a/[0-9]+"),
                exact("/a/7"),
                true,
            ),
            (
                "all below by expression",
                regex("/a/.*"),
                prefix("/a/b"),
                true,
            ),
            (
                "all below by expression, not itself",
                regex("/a/.*"),
                prefix("/a"),
                false,
            ),
            (
                "itself and below by expression",
                regex("/a(/.*)?"),
                prefix("/a"),
                true,
            ),
            (
                "same expression",
                regex("/x[a-c]+"),
                regex("/x[a-c]+"),
                true,
            ),
            ("case-insensitive", prefix("/a"), regex("(?i)/a/b"), false),
        ] {
            assert_eq!(covers_path(&earlier, &later), want, "{name}");
        }
    }

    fn segments(depth: usize) -> impl Strategy<Value = String> {
        proptest::collection::vec("[ab]{1,2}", 0..=depth)
            .prop_map(|parts| format!("/{}", parts.join("/")))
    }

    fn pattern() -> impl Strategy<Value = PathPattern> {
        prop_oneof![
            segments(3).prop_map(PathPattern::Exact),
            segments(2).prop_map(PathPattern::Prefix),
            "(/[ab]{1,2}){0,2}(/|\\.\\*|/\\.\\*|\\(/\\.\\*\\)\\?|[ab]\\*|/\\?a|/\\[ab\\]\\+|b\\|/a|/a\\+)?"
                .prop_filter_map("an expression", |source| {
                    regex::Regex::new(&format!("^(?:{source})$")).ok().map(PathPattern::Regex)
                }),
        ]
    }

    fn taken() -> impl Strategy<Value = Taken> {
        (
            proptest::collection::btree_set("[xy]", 1..=2),
            proptest::sample::subsequence(vec![http::Method::GET, http::Method::POST], 0..=2),
            pattern(),
        )
            .prop_map(|(hosts, methods, path)| Taken {
                hosts,
                methods,
                path,
            })
    }

    fn takes(taken: &Taken, host: &str, method: &http::Method, path: &str) -> bool {
        taken.hosts.contains(host)
            && (taken.methods.is_empty() || taken.methods.contains(method))
            && match &taken.path {
                PathPattern::Exact(exact) => exact == path,
                PathPattern::Prefix(prefix) => within(prefix, path),
                PathPattern::Regex(regex) => regex.is_match(path),
            }
    }

    /// All paths of up to three segments of one or two letters, with and without a slash at the end, a few with a third letter.
    fn universe() -> Vec<String> {
        let names = ["a", "b", "aa", "ab", "ba", "bb", "c"];
        let mut all = vec![String::new()];
        let mut last = all.clone();
        for _ in 0..3 {
            last = last
                .iter()
                .flat_map(|path| names.iter().map(move |name| format!("{path}/{name}")))
                .collect();
            all.extend(last.iter().cloned());
        }
        all.iter()
            .flat_map(|path| [path.clone(), format!("{path}/")])
            .filter(|path| !path.is_empty())
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn agrees_with_trying_every_request(earlier in taken(), later in taken()) {
            static UNIVERSE: std::sync::LazyLock<Vec<String>> = std::sync::LazyLock::new(universe);
            let methods = [http::Method::GET, http::Method::POST, http::Method::PUT];
            let missed = ["x", "y"].iter().any(|host| methods.iter().any(|method| {
                UNIVERSE.iter().any(|path| takes(&later, host, method, path) && !takes(&earlier, host, method, path))
            }));
            let covers = earlier.covers(&later);
            prop_assert!(!(covers && missed), "a route that still matches was called shadowed");
            let simple = !matches!(earlier.path, PathPattern::Regex(_)) && !matches!(later.path, PathPattern::Regex(_));
            if simple {
                prop_assert_eq!(covers, !missed);
            }
        }
    }
}
