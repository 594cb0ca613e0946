//! Finds the route of a request, first match wins, with all that is known beforehand worked out once per configuration.

mod claims;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use http::Method;
use http::header::{AUTHORIZATION, HeaderName};

use crate::config::model::{self, Access, Config, HostPattern, PathPattern, TokenKind};
use crate::web::headers::Owned;
use crate::web::path::CanonicalPath;

pub use claims::{Denied, claims_match, lookup};

/// The routes of one configuration.
#[derive(Debug)]
pub struct Table {
    routes: Vec<Arc<CompiledRoute>>,
    /// By first path segment, the routes that may match, in order; those that may match any path are in each list.
    by_segment: HashMap<Box<str>, Box<[usize]>>,
    /// Routes that may match a path whose first segment is in no pattern.
    anywhere: Box<[usize]>,
}

/// A route, ready for use on the hot path.
#[derive(Debug)]
pub struct CompiledRoute {
    /// As configured.
    pub config: Arc<model::Route>,
    /// Position in the file.
    pub index: usize,
    /// Header names a client cannot speak under on this route: the token's, `authorization` wherever a session may be
    /// used, those set by the route, and those that carry claims on *any* route, for the upstream may be the same (HDR-03).
    pub owned: Owned,
    /// Label of the upstream in metrics and logs; empty only with [`Access::Deny`].
    pub upstream_label: Arc<str>,
    /// Whether a session is looked at.
    pub uses_session: bool,
    /// Header that carries the token, when one is shown.
    pub token_header: Option<HeaderName>,
    /// Whether a signed-in user must have claims or scopes.
    pub has_requirements: bool,
    path: Matcher,
}

/// A path pattern whose text is canonical.
#[derive(Debug)]
enum Matcher {
    Exact(Box<str>),
    /// Without trailing slash; the empty text matches all.
    Prefix(Box<str>),
    Regex(regex::Regex),
    /// The pattern has no canonical form, so that no path can match.
    Never,
}

impl Table {
    /// Works out everything that does not depend on the request.
    pub fn compile(config: &Config) -> Self {
        let claim_names: Vec<&HeaderName> = config
            .routes
            .iter()
            .flat_map(|route| route.claims_to_headers.iter().map(|(name, _)| name))
            .collect();
        let routes: Vec<Arc<CompiledRoute>> = config
            .routes
            .iter()
            .enumerate()
            .map(|(index, route)| Arc::new(CompiledRoute::new(config, index, route, &claim_names)))
            .collect();
        let keys: Vec<Option<&str>> = routes
            .iter()
            .map(|route| route.path.first_segment())
            .collect();
        let fitting = |segment: Option<&str>| -> Box<[usize]> {
            let fits = |at: &usize| keys[*at].is_none() || keys[*at] == segment;
            (0..keys.len()).filter(fits).collect()
        };
        let by_segment = keys
            .iter()
            .flatten()
            .map(|segment| (Box::from(*segment), fitting(Some(segment))))
            .collect();
        let anywhere = fitting(None);
        Self {
            routes,
            by_segment,
            anywhere,
        }
    }

    /// The first route that takes the request; `host` is lower case, without port. `None` is a 404.
    ///
    /// A path with `;parameters` or with escaped delimiters (`%3A`, `%40`, ...) is read by some servers as if they were cut
    /// or unescaped. It must lead to the same route in every reading, or it has none: otherwise `/admin;x` would pass by the
    /// route of `/admin` (PATH-01).
    pub fn find(
        &self,
        host: &str,
        method: &Method,
        path: &CanonicalPath<'_>,
    ) -> Option<&Arc<CompiledRoute>> {
        let text = path.as_str();
        let found = self.first(host, method, text)?;
        if text.bytes().any(|byte| byte == b'%' || byte == b';') {
            let same = |reading: &str| {
                self.first(host, method, reading)
                    .is_some_and(|other| other.index == found.index)
            };
            let plain = unescape_delimiters(text);
            if !(same(&plain) && same(&cut_parameters(text)) && same(&cut_parameters(&plain))) {
                return None;
            }
        }
        Some(found)
    }

    /// All routes in order.
    pub fn routes(&self) -> &[Arc<CompiledRoute>] {
        &self.routes
    }

    fn first(&self, host: &str, method: &Method, path: &str) -> Option<&Arc<CompiledRoute>> {
        self.by_segment
            .get(first_segment(path))
            .unwrap_or(&self.anywhere)
            .iter()
            .map(|index| &self.routes[*index])
            .find(|route| route.takes(host, method, path))
    }
}

impl CompiledRoute {
    fn new(
        config: &Config,
        index: usize,
        route: &Arc<model::Route>,
        claim_names: &[&HeaderName],
    ) -> Self {
        let uses_session = matches!(route.access, Access::Optional | Access::Session);
        let token_header = (uses_session && route.token.kind != TokenKind::None)
            .then(|| route.token.header.clone());
        let owned = Owned::new(
            claim_names
                .iter()
                .copied()
                .chain(uses_session.then_some(&AUTHORIZATION))
                .chain(&token_header)
                .chain(route.headers.request_set.iter().map(|(name, _)| name)),
        );
        let upstream = route.upstream.and_then(|at| config.upstreams.get(at));
        Self {
            config: Arc::clone(route),
            index,
            owned,
            upstream_label: upstream
                .map_or_else(|| "".into(), |upstream| Arc::clone(&upstream.name)),
            uses_session,
            token_header,
            has_requirements: !route.require.scopes.is_empty() || !route.require.claims.is_empty(),
            path: Matcher::new(&route.path),
        }
    }

    /// The path as the upstream gets it.
    pub fn rewrite<'p>(&self, path: &'p CanonicalPath<'_>) -> Cow<'p, str> {
        let path = path.as_str();
        let Some(to) = &self.config.rewrite_prefix else {
            return Cow::Borrowed(path);
        };
        let rest = match &self.path {
            Matcher::Prefix(prefix) => path.strip_prefix(&**prefix),
            Matcher::Exact(whole) => (*path == **whole).then_some(""),
            Matcher::Regex(_) | Matcher::Never => None,
        };
        match (rest, to.trim_end_matches('/')) {
            (None, _) => Cow::Borrowed(path),
            (Some(""), "") => Cow::Borrowed("/"),
            (Some(rest), "") => Cow::Borrowed(rest),
            (Some(""), _) => Cow::Owned(to.clone()),
            (Some(rest), to) => Cow::Owned([to, rest].concat()),
        }
    }

    fn takes(&self, host: &str, method: &Method, path: &str) -> bool {
        self.path.matches(path)
            && (self.config.methods.is_empty() || self.config.methods.contains(method))
            && match &self.config.host {
                None => true,
                Some(HostPattern::Exact(name)) => **name == *host,
                Some(HostPattern::Suffix(suffix)) => {
                    host.len() > suffix.len() && host.ends_with(&**suffix)
                }
            }
    }
}

impl Matcher {
    fn new(pattern: &PathPattern) -> Self {
        let canonical = |text: &str| -> Option<Box<str>> {
            Some(CanonicalPath::parse(text.as_bytes()).ok()?.as_str().into())
        };
        match pattern {
            PathPattern::Exact(text) => canonical(text).map_or(Self::Never, Self::Exact),
            PathPattern::Prefix(text) => canonical(text).map_or(Self::Never, |text| {
                Self::Prefix(text.strip_suffix('/').unwrap_or(&text).into())
            }),
            PathPattern::Regex(regex) => Self::Regex(regex.clone()),
        }
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(whole) => **whole == *path,
            Self::Prefix(prefix) => path
                .strip_prefix(&**prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            Self::Regex(regex) => regex.is_match(path),
            Self::Never => false,
        }
    }

    /// The first segment of every path that can match; `None` when it may be any.
    fn first_segment(&self) -> Option<&str> {
        match self {
            Self::Prefix(prefix) if prefix.is_empty() => None,
            Self::Exact(text) | Self::Prefix(text) => Some(first_segment(text)),
            Self::Regex(_) | Self::Never => None,
        }
    }
}

/// What stands between the first slash and the second.
fn first_segment(path: &str) -> &str {
    let rest = path.strip_prefix('/').unwrap_or(path);
    rest.split_once('/').map_or(rest, |(first, _)| first)
}

/// The path as a server reads it that unescapes what may stand raw in a segment (RFC 3986 §3.3 sub-delims, `:`, `@`).
fn unescape_delimiters(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let plain = match escape.get(1..3) {
            Some("21") => '!',
            Some("24") => '$',
            Some("26") => '&',
            Some("27") => '\'',
            Some("28") => '(',
            Some("29") => ')',
            Some("2A") => '*',
            Some("2B") => '+',
            Some("2C") => ',',
            Some("3A") => ':',
            Some("3B") => ';',
            Some("3D") => '=',
            Some("40") => '@',
            _ => {
                out.push('%');
                rest = &escape[1..];
                continue;
            }
        };
        out.push(plain);
        rest = &escape[3..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// The path as a server reads it that cuts `;parameters` from every segment; segments left empty vanish.
fn cut_parameters(path: &str) -> Cow<'_, str> {
    if !path.contains(';') {
        return Cow::Borrowed(path);
    }
    let mut out = String::with_capacity(path.len());
    for segment in path.split('/') {
        let segment = segment.split_once(';').map_or(segment, |(name, _)| name);
        if !segment.is_empty() {
            out.push('/');
            out.push_str(segment);
        }
    }
    if out.is_empty() || path.ends_with('/') {
        out.push('/');
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests;
