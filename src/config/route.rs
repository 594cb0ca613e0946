//! Reads `routes`, and checks them against each other and against the rest.

use std::collections::HashSet;
use std::sync::Arc;

use super::headers;
use super::matcher::{Matcher, check_prefix, hosts_of, matcher};
use super::model::{
    Access, ClaimPath, CrossSite, OnUnauthenticated, Origin, PathPattern, Provider, Require, Route,
    RouteLimits, Token, TokenKind,
};
use super::read::{At, Reader, nearest};
use super::scalar;
use super::section::Section;
use super::shadow::Taken;
use super::table::ROUTE;
use super::tree::Kind;
use super::upstream::Pool;

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
    let mut names = HashSet::new();
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
        let name = section.text("name").filter(|name| check_name(reader, name));
        if let Some(name) = name
            .as_ref()
            .filter(|name| !names.insert(name.value.clone()))
        {
            reader.problem(
                &name.spot,
                "another route has this name: write a different one",
            );
        }
        all.push(route(&section, around, pool, matcher).map(|route| Draft { name, route }));
    }
    let routes = all.into_iter().collect::<Option<Vec<Draft>>>()?;
    Some(name_all(routes, names))
}

/// A route whose name may still have to be made up.
struct Draft {
    name: Option<At<String>>,
    route: Route,
}

fn route(
    section: &Section<'_>,
    around: &Around<'_>,
    pool: &mut Pool,
    matcher: Option<Matcher>,
) -> Option<Route> {
    let reader = section.reader;
    let access = section.choice("access", &["bearer", "session_or_bearer"]);
    let access = access.map(|access| match access.value {
        "public" => Access::Public,
        "optional" => Access::Optional,
        "deny" => Access::Deny,
        _ => Access::Session,
    });
    let consistent = access.is_some_and(|access| check_access(section, access));
    if !section.has("upstream") && access.is_some_and(|access| access != Access::Deny) {
        reader.problem(
            &section.spot_of("upstream"),
            "missing: write the name of an upstream, or a URL such as `http://127.0.0.1:3000`",
        );
    }
    let upstream = section
        .text("upstream")
        .and_then(|text| pool.find(reader, &text));
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
    if !consistent {
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
        provider,
    };
    Some(route)
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
    if !require.has("scopes") && !require.has("claims") && require.all_known() {
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

/// The provider a route names, if any.
fn provider(section: &Section<'_>, around: &Around<'_>) -> Option<usize> {
    let name = section.text("provider")?;
    let providers = around.providers?;
    if let Some(index) = providers
        .iter()
        .position(|provider| *provider.name == *name.value)
    {
        return Some(index);
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
fn name_all(drafts: Vec<Draft>, mut taken: HashSet<String>) -> Vec<Arc<Route>> {
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
