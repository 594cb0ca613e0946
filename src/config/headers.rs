//! Checks the header names that routes set, remove and own.

use http::header::{HeaderName, HeaderValue};

use super::model::Headers;
use super::read::{At, Reader};
use super::section::Section;

/// Belong to a connection, not to a message (RFC 9110 §7.6.1), or frame it.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Set by daypass on every request.
const OURS: &[&str] = &[
    "cookie",
    "forwarded",
    "traceparent",
    "tracestate",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-request-id",
];

/// Set by daypass on responses.
const OURS_DOWN: &[&str] = &["set-cookie", "x-request-id"];

/// Whether servers that turn headers into variables cannot tell the two apart.
pub(super) fn alike(a: &HeaderName, b: &HeaderName) -> bool {
    fold(a.as_str()) == fold(b.as_str())
}

fn fold(name: &str) -> String {
    name.replace(['_', '.'], "-")
}

fn among(list: &[&str], name: &HeaderName) -> bool {
    list.contains(&fold(name.as_str()).as_str())
}

fn parse(reader: &Reader<'_>, text: &At<String>) -> Option<HeaderName> {
    reader.accept(
        &text.spot,
        HeaderName::from_bytes(text.value.as_bytes())
            .map_err(|_| "no header name: write, for example, `x-user`"),
    )
}

/// A header that daypass fills on a route and takes away from clients.
pub(super) fn owned(reader: &Reader<'_>, text: &At<String>) -> Option<HeaderName> {
    let name = parse(reader, text)?;
    if among(HOP_BY_HOP, &name) || among(OURS, &name) {
        reader.problem(&text.spot, "this header has a meaning of its own between proxies: write another name, such as `x-user`");
        return None;
    }
    Some(name)
}

/// The section `headers` of a route; `owned` are the headers that claims and the token take.
pub(super) fn changes(route: &Section<'_>, owned: &[HeaderName]) -> Option<Headers> {
    let section = route.section("headers")?;
    let request = section.section("request");
    let response = section.section("response");
    let request_set = request
        .as_ref()
        .and_then(|request| set(request, OURS, owned));
    let request_remove = request.as_ref().and_then(remove);
    let response_set = response
        .as_ref()
        .and_then(|response| set(response, OURS_DOWN, &[]));
    let response_remove = response.as_ref().and_then(remove);
    Some(Headers {
        request_set: request_set?,
        request_remove: request_remove?,
        response_set: response_set?,
        response_remove: response_remove?,
    })
}

fn set(
    section: &Section<'_>,
    ours: &[&str],
    owned: &[HeaderName],
) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let reader = section.reader;
    let map = section.map("set")?;
    let mut result: Vec<(HeaderName, HeaderValue)> = Vec::new();
    let mut good = true;
    for (name, value) in map.value {
        let header = parse(reader, &name);
        let text = reader.loose_text(value);
        let (Some(header), Some(text)) = (header, text) else {
            good = false;
            continue;
        };
        let complaint = if among(HOP_BY_HOP, &header) {
            "belongs to the connection: remove it"
        } else if among(ours, &header) {
            "daypass sets this header itself: remove it"
        } else if owned.iter().any(|other| alike(other, &header)) {
            "the route's token or a claim travels in this header, in some spelling: remove one of them"
        } else if result.iter().any(|(other, _)| *other == header) {
            "the same header twice: keep one"
        } else {
            ""
        };
        if !complaint.is_empty() {
            reader.problem(&name.spot, complaint);
            good = false;
        }
        let Ok(mut value) = HeaderValue::from_str(&text.value) else {
            reader.problem(
                &text.spot,
                "no header value: write a single line of visible ASCII characters",
            );
            good = false;
            continue;
        };
        // It may be a credential: kept out of `Debug` and of compression tables.
        value.set_sensitive(true);
        result.push((header, value));
    }
    good.then_some(result)
}

fn remove(section: &Section<'_>) -> Option<Vec<HeaderName>> {
    let reader = section.reader;
    let texts = section.texts("remove")?;
    let mut result = Vec::new();
    let mut good = true;
    for text in texts.value {
        let Some(name) = parse(reader, &text) else {
            good = false;
            continue;
        };
        if among(HOP_BY_HOP, &name) {
            reader.problem(
                &text.spot,
                "belongs to the connection: remove it from the list",
            );
            good = false;
        }
        result.push(name);
    }
    good.then_some(result)
}
