//! Reads a request's head strictly: what is ambiguous is refused before anything is decided on it.
//!
//! pingora reads leniently in places where two servers may disagree on where a message ends or whom it is for
//! (RFC 9112 §6.3, §3.2; PROXY-05, PROXY-07). Those are refused here, from the raw bytes.

use http::{Method, Version, header};
use pingora::http::RequestHeader;
use pingora::proxy::Session;

use crate::web::forwarded::Client;
use crate::web::host::Authority;
use crate::web::path::CanonicalPath;
use crate::web::trace::RequestId;

use super::context::Context;
use super::endpoints::Endpoint;
use super::refusal::Refusal;

/// Whose a request is.
pub(super) enum Taken {
    /// One of our endpoints.
    Own(Endpoint),
    /// A route's.
    Routed,
}

/// Reads the head; what is ambiguous ends here.
pub(super) fn take_in(session: &Session, ctx: &mut Context) -> Result<Taken, Refusal> {
    let live = &ctx.live;
    let config = &live.config;
    let head = session.req_header();
    let peer = session
        .client_addr()
        .and_then(|address| address.as_inet())
        .map(std::net::SocketAddr::ip);
    let tls = session
        .digest()
        .is_some_and(|digest| digest.ssl_digest.is_some());
    ctx.client = Client::of(peer, &config.trusted_proxies, &head.headers, tls);
    ctx.request_id = RequestId::of(&head.headers, ctx.client.trusted);
    inspect(session, config.limits.header_bytes)?;

    // Method, host and path are what routes are matched on: each in one form only.
    let sent_host = ctx
        .client
        .host
        .as_deref()
        .or_else(|| {
            head.headers
                .get(header::HOST)
                .and_then(|value| value.to_str().ok())
        })
        .or_else(|| head.uri.authority().map(http::uri::Authority::as_str));
    let named = sent_host
        .and_then(Authority::parse)
        .ok_or(Refusal::Malformed("Send a valid Host field."))?;
    let ours = |secure: Option<bool>| {
        let mut origins = config.public_origins.iter();
        origins.position(|origin| {
            named.is(origin) && secure.is_none_or(|secure| secure == origin.secure)
        })
    };
    // `Host` does not tell the scheme: of two origins at one host the one the connection speaks for is meant.
    ctx.origin = ours(Some(ctx.client.proto_https))
        .or_else(|| ours(None))
        .ok_or(Refusal::Misdirected)?;
    let (raw_path, raw_query) = split(head);
    let path = CanonicalPath::parse(raw_path)
        .map_err(|_| Refusal::Malformed("The path can be read in more than one way."))?;
    if config.logging.access_log {
        ctx.path = Some(path.as_str().to_owned());
    }
    if let Some(endpoint) = Endpoint::of(path.as_str(), &config.base_path) {
        return Ok(Taken::Own(endpoint));
    }
    let route = live
        .table
        .find(named.host(), &head.method, &path)
        .ok_or(Refusal::NoRoute)?;
    ctx.route = Some(route.index);
    // The upstream gets the path that was matched, in origin-form, and the query byte for byte.
    let sent = route.rewrite(&path);
    let as_sent = head.raw_path().starts_with(b"/") && head.raw_path_is_utf8();
    if sent.as_bytes() != raw_path || !as_sent {
        ctx.target = Some([sent.as_bytes(), raw_query].concat());
    }
    // Exactly what pingora forwards as an upgrade; it takes any other away and forwards the rest.
    ctx.upgrade = session.is_upgrade_req()
        && head
            .headers
            .get(header::UPGRADE)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    ctx.events = head
        .headers
        .get(header::ACCEPT)
        .is_some_and(|accept| accept.as_bytes().starts_with(b"text/event-stream"));
    // In HTTP/2 the end of the stream tells, which is not known yet.
    ctx.has_body = head.version == Version::HTTP_2
        || head.headers.contains_key(header::CONTENT_LENGTH)
        || head.headers.contains_key(header::TRANSFER_ENCODING);
    let limit = route.config.limits.body;
    if head
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse::<u64>().ok())
        .is_some_and(|length| length > limit)
    {
        return Err(Refusal::BodyTooLarge);
    }
    Ok(Taken::Routed)
}

/// Path and query (with its `?`) of the target as sent; of an absolute-form, those within it (RFC 9112 §3.2.2).
fn split(head: &RequestHeader) -> (&[u8], &[u8]) {
    let raw = head.raw_path();
    let raw = if raw.starts_with(b"/") {
        raw
    } else {
        let target = head.uri.path_and_query();
        target.map_or(&b""[..], |target| target.as_str().as_bytes())
    };
    raw.split_at(
        raw.iter()
            .position(|byte| *byte == b'?')
            .unwrap_or(raw.len()),
    )
}

/// Refuses heads that are ambiguous or too large.
///
/// # Errors
/// [`Refusal::Malformed`] with the rule, or [`Refusal::HeaderTooLarge`].
fn inspect(session: &Session, header_bytes: usize) -> Result<(), Refusal> {
    let head = session.req_header();
    if let Some(http1) = session.as_downstream().as_http1() {
        let raw = http1.get_headers_raw_bytes();
        if raw.len() > header_bytes {
            return Err(Refusal::HeaderTooLarge);
        }
        http1_head(&raw, head)?;
    } else {
        // The list size that HTTP/2 counts (RFC 9113 §6.5.2).
        let fields = head.headers.iter();
        let size: usize = fields
            .map(|(name, value)| name.as_str().len() + value.len() + 32)
            .sum();
        if size + head.uri.path().len() > header_bytes {
            return Err(Refusal::HeaderTooLarge);
        }
    }
    if head.method == Method::TRACE || head.method == Method::CONNECT {
        // TRACE would echo what we add; CONNECT asks for a tunnel (PROXY-14).
        return Err(Refusal::Method {
            allow: "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
        });
    }
    if head.method.as_str().bytes().any(|b| b.is_ascii_lowercase()) {
        // Methods are case-sensitive (RFC 9110 §9.1): `get` would slip past a route's list of methods in a lenient upstream.
        return Err(Refusal::Malformed("Write the method in capitals."));
    }
    Ok(())
}

/// pingora takes spaces in the target, and makes `/` of a target in none of the forms: what was asked for is then anybody's
/// guess (RFC 9112 §3, §3.2; PATH-02).
fn request_line(line: &[u8]) -> Result<(), Refusal> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Refusal::Malformed(
            "Send method, target and version with one space between.",
        ));
    };
    if target.contains(&b'#') {
        return Err(Refusal::Malformed(
            "Send no fragment in the request target.",
        ));
    }
    let absolute = |scheme: &[u8]| {
        target
            .get(..scheme.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    // CONNECT has a form of its own, and is refused for what it is.
    let known = target.starts_with(b"/")
        || absolute(b"http://")
        || absolute(b"https://")
        || method == b"CONNECT";
    if known {
        Ok(())
    } else {
        Err(Refusal::Malformed(
            "Send the path, from the slash on, as the request target.",
        ))
    }
}

fn http1_head(raw: &[u8], head: &RequestHeader) -> Result<(), Refusal> {
    let mut request_line_read = false;
    let mut host = 0_usize;
    let mut content_length = 0_usize;
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', raw) {
        // RFC 9112 §2.2 lets a reader take a bare LF; a server behind or before us may not.
        if end == start || raw[end - 1] != b'\r' {
            return Err(Refusal::Malformed("End each line with CR LF."));
        }
        let line = &raw[start..end - 1];
        if !request_line_read {
            // An empty line is allowed before a request (RFC 9112 §2.2).
            if !line.is_empty() {
                request_line(line)?;
                request_line_read = true;
            }
        } else if let Some(colon) = line.iter().position(|b| *b == b':') {
            let name = &line[..colon];
            host += usize::from(name.eq_ignore_ascii_case(b"host"));
            content_length += usize::from(name.eq_ignore_ascii_case(b"content-length"));
        }
        start = end + 1;
    }
    if host != 1 && head.version >= Version::HTTP_11 {
        return Err(Refusal::Malformed("Send exactly one Host field."));
    }
    if host > 1 {
        return Err(Refusal::Malformed("Send exactly one Host field."));
    }
    if content_length > 1 {
        return Err(Refusal::Malformed("Send one Content-Length field."));
    }
    let mut codings = head.headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        // pingora drops the Content-Length then; the raw bytes still show it.
        if content_length > 0 {
            return Err(Refusal::Malformed(
                "Send either Content-Length or Transfer-Encoding.",
            ));
        }
        // Any other coding is taken off the header by pingora but not off the body.
        if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err(Refusal::Malformed(
                "The only transfer coding taken is chunked.",
            ));
        }
    }
    if let Some(length) = head.headers.get(header::CONTENT_LENGTH)
        && !length.as_bytes().iter().all(u8::is_ascii_digit)
    {
        return Err(Refusal::Malformed("Content-Length must be one number."));
    }
    Ok(())
}
