//! Makes the request that goes upstream and the response that goes back: what is ours never passes as theirs.
//!
//! The upstream's header is rebuilt after pingora's own hop-by-hop removal, so a client cannot name our additions away in
//! `Connection` (PROXY-02).

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{StatusCode, Uri, Version};
use pingora::http::{RequestHeader, ResponseHeader};

use crate::config::model::{Access, CrossSite, TokenKind};
use crate::route::{CompiledRoute, lookup};
use crate::session::Session;
use crate::web::headers::Edit;
use crate::web::trace::Trace;
use crate::web::{cookie, forwarded, headers};

use super::context::Context;

const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Rewrites the head of a request on its way upstream.
///
/// # Errors
/// When the target cannot be set: the request must not go out with another one than was decided on.
pub(super) fn request(
    upstream: &mut RequestHeader,
    ctx: &Context,
    route: &CompiledRoute,
) -> pingora::Result<()> {
    let mut parts: Parts = std::mem::replace(upstream, RequestHeader::from(nothing())).into();
    let version = parts.version;
    let head = &mut parts.headers;
    head.reserve(ADDED);
    let config = &ctx.live.config;

    let cookie_names = &config.session.cookie;
    cookie::strip(head, &[&cookie_names.name, &cookie_names.login_name]);
    route.owned.strip(head);
    // pingora does this for HTTP/1.1 only.
    headers::strip_hop_by_hop(head, ctx.upgrade);
    let authority = &ctx.live.authorities[ctx.origin];
    // TLS may end before us: the origin tells, or a trusted proxy.
    let secure = config.public_origins[ctx.origin].secure || ctx.client.proto_https;
    forwarded::apply(head, &ctx.client, secure, authority.clone());
    if ctx.client.host.is_some() {
        // The trusted proxy's word decided whose request this is: the upstream must not read another host.
        head.set(header::HOST, authority.clone());
    }
    via(head, version);
    head.set(X_REQUEST_ID, ctx.request_id.to_value());
    Trace::of(head).apply(head);

    for name in &route.config.headers.request_remove {
        head.remove(name);
    }
    for (name, value) in &route.config.headers.request_set {
        head.set(name.clone(), value.clone());
    }
    if let Some(session) = &ctx.session {
        if let Some(token) = token(session, route) {
            head.set(route.config.token.header.clone(), token);
        }
        for (name, path) in &route.config.claims_to_headers {
            if let Some(value) = lookup(path, &session.claims).and_then(headers::claim_value) {
                head.set(name.clone(), value);
            }
        }
    }
    // Without the spelling of the names: they mean the same in any case, and keeping both costs as much as all the rest.
    *upstream = RequestHeader::from(parts);
    match &ctx.target {
        None => Ok(()),
        Some(target) if upstream.uri.authority().is_none() => upstream.set_raw_path(target),
        Some(target) => {
            // HTTP/2 carries the authority in the URI.
            let mut uri = upstream.uri.clone().into_parts();
            uri.path_and_query = PathAndQuery::try_from(target.as_slice()).ok();
            let uri = Uri::from_parts(uri).map_err(|_| {
                pingora::Error::explain(pingora::ErrorType::HTTPStatus(400), "target")
            })?;
            upstream.set_uri(uri);
            Ok(())
        }
    }
}

/// Fields that a request commonly gets from us.
const ADDED: usize = 12;

fn nothing() -> Parts {
    http::Request::new(()).into_parts().0
}

/// Adds us to the hops (RFC 9110 §7.6.3; PROXY-03).
fn via(head: &mut HeaderMap, version: Version) {
    let own = if version == Version::HTTP_2 {
        "2.0 daypass"
    } else {
        "1.1 daypass"
    };
    let before = head.get(header::VIA).and_then(|via| via.to_str().ok());
    let value = match before {
        None => HeaderValue::from_static(own),
        Some(before) => match HeaderValue::try_from(format!("{before}, {own}")) {
            Ok(value) => value,
            Err(_) => return,
        },
    };
    head.insert(header::VIA, value);
}

/// What is shown at the upstream's door. The configuration names the header; the bearer form is made once per token.
fn token(session: &Session, route: &CompiledRoute) -> Option<HeaderValue> {
    let as_bearer = route.config.token.header == header::AUTHORIZATION;
    let tokens = &session.tokens;
    match route.config.token.kind {
        TokenKind::Access if as_bearer => tokens.bearer.clone(),
        TokenKind::Access => sensitive(tokens.access.expose().to_owned()),
        TokenKind::Id => {
            let id = tokens.id.as_ref()?.expose();
            sensitive(if as_bearer {
                format!("Bearer {id}")
            } else {
                id.to_owned()
            })
        }
        TokenKind::None => None,
    }
}

fn sensitive(text: String) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Rewrites the head of a response on its way back.
///
/// # Errors
/// When a header cannot be inserted, which is a bug.
pub(super) fn response(
    head: &mut ResponseHeader,
    ctx: &Context,
    route: &CompiledRoute,
) -> pingora::Result<()> {
    let upgraded = head.status == StatusCode::SWITCHING_PROTOCOLS;
    if !upgraded {
        strip_hop_by_hop(head);
    }
    let cookie_names = &ctx.live.config.session.cookie;
    let ours = [&*cookie_names.name, &*cookie_names.login_name];
    if head
        .headers
        .get_all(header::SET_COOKIE)
        .iter()
        .any(|value| cookie::names_cookie(value.as_bytes(), &ours))
    {
        let kept: Vec<_> = head
            .headers
            .get_all(header::SET_COOKIE)
            .iter()
            .filter(|value| !cookie::names_cookie(value.as_bytes(), &ours))
            .cloned()
            .collect();
        head.remove_header(&header::SET_COOKIE);
        for value in kept {
            head.append_header(header::SET_COOKIE, value)?;
        }
    }
    // It could take our cookies along with its own (those of the whole registrable domain, even).
    let clears = |value: &HeaderValue| {
        let value = value.as_bytes();
        [&b"\"cookies\""[..], b"\"*\""].iter().any(|wanted| {
            value
                .windows(wanted.len())
                .any(|part| part.eq_ignore_ascii_case(wanted))
        })
    };
    if head.headers.get_all(CLEAR_SITE_DATA).iter().any(clears) {
        head.remove_header(&CLEAR_SITE_DATA);
    }
    let depends_on_session = matches!(route.config.access, Access::Session | Access::Optional);
    if depends_on_session && !upgraded {
        if route.config.cross_site == CrossSite::Deny {
            let cors: Vec<_> = head
                .headers
                .keys()
                .filter(|name| name.as_str().starts_with("access-control-"))
                .cloned()
                .collect();
            for name in cors {
                head.remove_header(&name);
            }
        }
        if ctx.session.is_some()
            && let Some(value) = private(&head.headers)
        {
            head.insert_header(header::CACHE_CONTROL, value)?;
        }
        head.append_header(header::VARY, HeaderValue::from_static("Cookie"))?;
    }
    for name in &route.config.headers.response_remove {
        head.remove_header(name);
    }
    for (name, value) in &route.config.headers.response_set {
        head.insert_header(name.clone(), value.clone())?;
    }
    head.insert_header(X_REQUEST_ID, ctx.request_id.to_value())?;
    Ok(())
}

/// Removes what concerns the upstream's connection only (RFC 9110 §7.6.1). Framing is pingora's.
fn strip_hop_by_hop(head: &mut ResponseHeader) {
    let connection = head.headers.get_all(header::CONNECTION);
    let mut odd: Vec<HeaderName> = connection
        .iter()
        // What nearly all say names no field.
        .filter(|value| !matches!(value.as_bytes(), b"keep-alive" | b"close"))
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|token| HeaderName::from_bytes(token.trim().as_bytes()).ok())
        .filter(|name| {
            ![
                header::CONTENT_LENGTH,
                header::TRANSFER_ENCODING,
                header::CONNECTION,
                header::SET_COOKIE,
                header::CACHE_CONTROL,
            ]
            .contains(name)
        })
        .collect();
    let of_the_hop = |name: &&HeaderName| {
        matches!(
            name.as_str(),
            "keep-alive" | "proxy-connection" | "proxy-authenticate" | "upgrade"
        )
    };
    odd.extend(head.headers.keys().filter(of_the_hop).cloned());
    for name in &odd {
        head.remove_header(name);
    }
}

/// The `Cache-Control` to set so that no shared cache keeps the answer (RFC 9111 §5.2.2.7; CACHE-02), if it needs one.
fn private(map: &HeaderMap) -> Option<HeaderValue> {
    let mut kept = Vec::new();
    let mut present = false;
    for directive in map
        .get_all(header::CACHE_CONTROL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
    {
        present = true;
        let name = directive
            .split('=')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        match name.as_str() {
            // `private="field"` protects one field only.
            "private" if directive.contains('=') => {}
            "private" | "no-store" => return None,
            "public" | "s-maxage" | "" => {}
            _ => kept.push(directive),
        }
    }
    let fresh_by_itself = map.contains_key(header::EXPIRES);
    if !present && !fresh_by_itself {
        return Some(HeaderValue::from_static("private, no-cache"));
    }
    kept.insert(0, "private");
    HeaderValue::try_from(kept.join(", ")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_caches_are_kept_out() {
        for (name, given, want) in [
            ("nothing said", None, Some("private, no-cache")),
            (
                "public is taken back",
                Some("public, max-age=60"),
                Some("private, max-age=60"),
            ),
            (
                "s-maxage is taken back",
                Some("s-maxage=600"),
                Some("private"),
            ),
            (
                "max-age stays",
                Some("max-age=60"),
                Some("private, max-age=60"),
            ),
            ("private is enough", Some("private, max-age=5"), None),
            ("no-store is more", Some("no-store"), None),
            (
                "private of one field is not enough",
                Some("private=\"set-cookie\", max-age=5"),
                Some("private, max-age=5"),
            ),
        ] {
            let mut map = HeaderMap::new();
            if let Some(given) = given {
                map.insert(header::CACHE_CONTROL, HeaderValue::from_static(given));
            }
            let got = private(&map);
            assert_eq!(
                got.as_ref().map(|v| v.to_str().expect("ASCII")),
                want,
                "{name}"
            );
        }
    }
}
