//! Reads `routes`, and checks them against each other and against the rest.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use http::Method;
use regex::{Regex, RegexBuilder};
use url::Host;

use super::headers;
use super::model::{
    Access, ClaimPath, CrossSite, HostPattern, OnUnauthenticated, Origin, PathPattern, Provider,
    Require, Route, RouteLimits, Token, TokenKind,
};
use super::read::{At, Reader, Section, Spot, nearest};
use super::shadow::{self, Taken};
use super::table::ROUTE;
use super::tree::Kind;
use super::upstream::Pool;
use super::{canonical, scalar};

/// What routes refer to; parts that could not be read are left out of the checks.
pub(super) struct Around<'a> {
    pub(super) origins: Option<&'a [Origin]>,
    pub(super) base_path: Option<&'a str>,
    pub(super) providers: Option<&'a [Arc<Provider>]>,
}

/// All routes in the order of the file.
pub(super) fn routes(
    root: &Section<'_>,
    around: &Around<'_>,
    pool: &mut Pool,
) -> Option<Vec<Arc<Route>>> {
    let reader = root.reader;
    let list = root.list("routes")?;
    if list.value.is_empty() {
        reader.problem(
            &list.spot,
            "no route, so every request would get 404: write at least one",
        );
        return None;
    }
    let mut all = Vec::with_capacity(list.value.len());
    let mut earlier: Vec<(usize, Taken)> = Vec::new();
    for (index, value) in list.value.into_iter().enumerate() {
        let Some(section) = Section::open(reader, &ROUTE, value) else {
            all.push(None);
            continue;
        };
        let matcher = matcher(&section, around);
        if let Some(matcher) = &matcher
            && let Some(hosts) = hosts_of(matcher.host.as_ref(), around)
        {
            let taken = Taken {
                hosts,
                methods: matcher.methods.clone(),
                path: matcher.path.clone(),
            };
            match earlier.iter().find(|(_, other)| other.covers(&taken)) {
                Some((other, _)) => reader.problem(
                    &matcher.spot,
                    format!("can never match, `routes[{other}]` above takes all its requests: move this one before it, or remove it"),
                ),
                None => earlier.push((index, taken)),
            }
        }
        all.push(route(&section, around, pool, matcher));
    }
    let routes = all.into_iter().collect::<Option<Vec<Draft>>>()?;
    Some(name_all(reader, routes))
}

/// A route whose name may still have to be made up.
struct Draft {
    name: Option<At<String>>,
    route: Route,
}

/// What a route matches on.
struct Matcher {
    host: Option<HostPattern>,
    methods: Vec<Method>,
    path: PathPattern,
    spot: Spot,
}

fn matcher(section: &Section<'_>, around: &Around<'_>) -> Option<Matcher> {
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
fn hosts_of(pattern: Option<&HostPattern>, around: &Around<'_>) -> Option<BTreeSet<String>> {
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

fn check_prefix(text: &str) -> Result<(), String> {
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
            .size_limit(1 << 20)
            .dfa_size_limit(1 << 20)
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

fn route(
    section: &Section<'_>,
    around: &Around<'_>,
    pool: &mut Pool,
    matcher: Option<Matcher>,
) -> Option<Draft> {
    let reader = section.reader;
    let name = section.text("name");
    let name_good = name.as_ref().is_none_or(|name| check_name(reader, name));
    let access = section.choice("access", &["bearer", "session_or_bearer"]);
    let access = access.map(|access| match access.value {
        "public" => Access::Public,
        "optional" => Access::Optional,
        "deny" => Access::Deny,
        _ => Access::Session,
    });
    let consistent = access.is_some_and(|access| check_access(section, access));
    let upstream = match section.text("upstream") {
        Some(text) => pool.find(reader, &text),
        None => {
            if !section.has("upstream") && access.is_some_and(|access| access != Access::Deny) {
                reader.problem(&section.spot_of("upstream"), "missing: write the name of an upstream, or a URL such as `http://127.0.0.1:3000`");
            }
            None
        }
    };
    let prefix = matcher
        .as_ref()
        .map(|matcher| matches!(matcher.path, PathPattern::Prefix(_)));
    let rewrite_prefix = match section.text("rewrite_prefix") {
        Some(text) => {
            if prefix == Some(false) {
                reader.problem(
                    &text.spot,
                    "there is no prefix to replace: write `path_prefix`, or remove it",
                );
            }
            reader
                .accept(&text.spot, check_prefix(&text.value))
                .map(|()| Some(text.value))
        }
        None => Some(None),
    };
    let require = require(section);
    let token = token(section, access.unwrap_or(Access::Session));
    let claims = claims_to_headers(section, token.as_ref());
    let owned: Vec<_> = claims
        .iter()
        .flatten()
        .map(|(name, _)| name.clone())
        .chain(
            token
                .as_ref()
                .filter(|token| token.kind != TokenKind::None)
                .map(|token| token.header.clone()),
        )
        .collect();
    let headers = headers::changes(section, &owned);
    let on_unauthenticated =
        section
            .choice("on_unauthenticated", &[])
            .map(|choice| match choice.value {
                "redirect" => OnUnauthenticated::Redirect,
                "unauthorized" => OnUnauthenticated::Unauthorized,
                _ => OnUnauthenticated::Auto,
            });
    let cross_site = cross_site(section);
    let limits = section.section("limits").and_then(|limits| {
        let (body, timeout) = (limits.size("body"), limits.duration("timeout"));
        Some(RouteLimits {
            body: body?,
            timeout: timeout?,
        })
    });
    let provider = provider(section, around);
    if !(name_good && consistent) {
        return None;
    }
    let matcher = matcher?;
    let access = access?;
    if access != Access::Deny && upstream.is_none() {
        return None;
    }
    let route = Route {
        name: "".into(),
        host: matcher.host,
        methods: matcher.methods,
        path: matcher.path,
        access,
        upstream,
        rewrite_prefix: rewrite_prefix?,
        require: require?,
        token: token?,
        claims_to_headers: claims?,
        on_unauthenticated: on_unauthenticated?,
        headers: headers?,
        cross_site: cross_site?,
        limits: limits?,
        provider: provider?,
    };
    Some(Draft { name, route })
}

/// Keys that would be accepted and ignored are refused: whoever writes them believes that they protect something.
fn check_access(section: &Section<'_>, access: Access) -> bool {
    let (useless, why): (&[&'static str], _) = match access {
        Access::Session => (&[], ""),
        Access::Optional => (
            &["require", "on_unauthenticated"],
            "`access: optional` lets everyone pass: write `access: session`, or remove this key",
        ),
        Access::Public => (
            &[
                "require",
                "token",
                "claims_to_headers",
                "on_unauthenticated",
                "cross_site",
                "provider",
            ],
            "`access: public` looks at no session, so there is no user and no token: write `access: session` or `optional`, or remove this key",
        ),
        Access::Deny => (
            &[
                "upstream",
                "rewrite_prefix",
                "require",
                "token",
                "claims_to_headers",
                "on_unauthenticated",
                "headers",
                "cross_site",
                "limits",
                "provider",
            ],
            "`access: deny` forwards nothing: remove this key, or change the access",
        ),
    };
    let mut good = true;
    for key in useless.iter().filter(|key| section.has(key)) {
        section.reader.problem(&section.spot_of(key), why);
        good = false;
    }
    good
}

fn require(section: &Section<'_>) -> Option<Require> {
    let reader = section.reader;
    let Some(require) = section.optional_section("require") else {
        return (!section.has("require")).then(Require::default);
    };
    if !require.has("scopes") && !require.has("claims") {
        reader.problem(
            &require.spot,
            "demands nothing: write `scopes` or `claims`, or remove `require`",
        );
    }
    let mut scopes = Vec::new();
    if let Some(texts) = require.texts("scopes") {
        if texts.value.is_empty() {
            reader.problem(
                &texts.spot,
                "an empty list demands nothing: write the scopes, or remove the key",
            );
        }
        for text in texts.value {
            if !scalar::is_scope(&text.value) {
                reader.problem(
                    &text.spot,
                    "no scope: write one a list item, without spaces",
                );
            }
            scopes.push(text.value);
        }
    }
    let mut claims = Vec::new();
    if let Some(map) = require.map("claims") {
        if map.value.is_empty() {
            reader.problem(
                &map.spot,
                "an empty mapping demands nothing: write the claims, or remove the key",
            );
        }
        for (path, value) in map.value {
            let path = claim_path(reader, &path);
            let values: Vec<_> = match &value.value.kind {
                Kind::Sequence(nodes) => {
                    // STANDARDS OIDC-20: an empty set could only mean "nobody" or "everybody".
                    if nodes.is_empty() {
                        reader.problem(
                            &value.spot,
                            "an empty list matches no value: write the values that are accepted",
                        );
                    }
                    reader
                        .list(value)?
                        .value
                        .into_iter()
                        .filter_map(|value| reader.json(value))
                        .collect()
                }
                _ => reader.json(value).into_iter().collect(),
            };
            if let Some(path) = path {
                claims.push((path, values));
            }
        }
    }
    Some(Require { scopes, claims })
}

fn claim_path(reader: &Reader<'_>, text: &At<String>) -> Option<ClaimPath> {
    let segments: Vec<Box<str>> = text.value.split('.').map(Into::into).collect();
    if segments.len() > 16
        || text.value.len() > 256
        || segments.iter().any(|segment| segment.is_empty())
    {
        reader.problem(
            &text.spot,
            "no claim: write its name, or a dotted path such as `realm_access.roles`",
        );
        return None;
    }
    Some(ClaimPath {
        text: text.value.as_str().into(),
        segments,
    })
}

fn token(section: &Section<'_>, access: Access) -> Option<Token> {
    let token = section.section("token")?;
    let kind = token.choice("kind", &["client_credentials"]);
    let header = token.text("header");
    let header = headers::owned(section.reader, &header?)?;
    let kind = match (access, kind?.value) {
        (Access::Public | Access::Deny, _) | (_, "none") => TokenKind::None,
        (_, "id") => TokenKind::Id,
        _ => TokenKind::Access,
    };
    Some(Token { kind, header })
}

fn claims_to_headers(
    section: &Section<'_>,
    token: Option<&Token>,
) -> Option<Vec<(http::HeaderName, ClaimPath)>> {
    let reader = section.reader;
    let map = section.map("claims_to_headers")?;
    let mut result: Vec<(http::HeaderName, ClaimPath)> = Vec::new();
    let mut good = true;
    for (name, value) in map.value {
        let header = headers::owned(reader, &name);
        let path = reader
            .text(value)
            .and_then(|path| claim_path(reader, &path));
        let (Some(header), Some(path)) = (header, path) else {
            good = false;
            continue;
        };
        // Servers that turn headers into variables take `x-user` and `x_user` for the same.
        if token.is_some_and(|token| {
            token.kind != TokenKind::None && headers::alike(&token.header, &header)
        }) {
            reader.problem(
                &name.spot,
                "the token travels in this header, in some spelling: write another name",
            );
        } else if result
            .iter()
            .any(|(other, _)| headers::alike(other, &header))
        {
            reader.problem(&name.spot, "another claim travels in this header, in some spelling of `-`, `_` and `.`: write another name");
        }
        result.push((header, path));
    }
    good.then_some(result)
}

fn cross_site(section: &Section<'_>) -> Option<CrossSite> {
    let reader = section.reader;
    let value = section.any("cross_site")?;
    if !matches!(value.value.kind, Kind::Sequence(_)) {
        let choice = reader.one_of(value, &["deny", "allow"], &[])?;
        return Some(if choice.value == "allow" {
            CrossSite::Allow
        } else {
            CrossSite::Deny
        });
    }
    let texts = reader.texts(value)?;
    if texts.value.is_empty() {
        reader.problem(&texts.spot, "no origin: write some, or `deny`");
    }
    let origins = texts
        .value
        .iter()
        .map(|text| reader.accept(&text.spot, scalar::origin(&text.value)));
    Some(CrossSite::Origins(
        origins
            .collect::<Vec<_>>()
            .into_iter()
            .collect::<Option<_>>()?,
    ))
}

fn provider(section: &Section<'_>, around: &Around<'_>) -> Option<Option<usize>> {
    let Some(name) = section.text("provider") else {
        return (!section.has("provider")).then_some(None);
    };
    let providers = around.providers?;
    if let Some(index) = providers
        .iter()
        .position(|provider| *provider.name == *name.value)
    {
        return Some(Some(index));
    }
    let names: Vec<&str> = providers.iter().map(|provider| &*provider.name).collect();
    let message = match nearest(&name.value, &names) {
        Some(near) => format!("no provider of this name: did you mean `{near}`?"),
        None => "no provider of this name: declare it under `providers`, or remove the key".into(),
    };
    section.reader.problem(&name.spot, message);
    None
}

fn check_name(reader: &Reader<'_>, name: &At<String>) -> bool {
    let proper = (1..=64).contains(&name.value.len())
        && name
            .value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if !proper {
        reader.problem(&name.spot, "a route's name is a label in metrics: write letters, digits, `-`, `_` and `.`, at most 64");
    }
    proper
}

/// Gives each route its name: the one written, else one made from the path and told apart by a number.
fn name_all(reader: &Reader<'_>, drafts: Vec<Draft>) -> Vec<Arc<Route>> {
    let mut taken: HashSet<String> = HashSet::new();
    for name in drafts.iter().filter_map(|draft| draft.name.as_ref()) {
        if !taken.insert(name.value.clone()) {
            reader.problem(
                &name.spot,
                "another route has this name: write a different one",
            );
        }
    }
    drafts
        .into_iter()
        .map(|Draft { name, mut route }| {
            let name = name.map_or_else(
                || {
                    let base = derive_name(&route.path);
                    let numbered = (2..).map(|number| format!("{base}-{number}"));
                    let name = std::iter::once(base.clone())
                        .chain(numbered)
                        .find(|name| !taken.contains(name))
                        .unwrap_or_default();
                    taken.insert(name.clone());
                    name
                },
                |name| name.value,
            );
            route.name = name.into();
            Arc::new(route)
        })
        .collect()
}

fn derive_name(path: &PathPattern) -> String {
    let text = match path {
        PathPattern::Exact(path) | PathPattern::Prefix(path) => path.as_str(),
        PathPattern::Regex(regex) => regex.as_str(),
    };
    let words: Vec<&str> = text
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    let mut name = words.join("-").to_ascii_lowercase();
    name.truncate(48);
    let name = name.trim_end_matches('-');
    if name.is_empty() {
        "root".into()
    } else {
        name.into()
    }
}
