//! Reads a request's head strictly: what is ambiguous is refused before anything is decided on it.
//!
//! pingora reads leniently in places where two servers may disagree on where a message ends or whom it is for
//! (RFC 9112 §6.3, §3.2; PROXY-05, PROXY-07). Those are refused here, from the raw bytes.

use http::{Method, Version, header};
use pingora::proxy::Session;

use super::refusal::Refusal;

/// Refuses heads that are ambiguous or too large.
///
/// # Errors
/// [`Refusal::Malformed`] with the rule, or [`Refusal::HeaderTooLarge`].
pub(super) fn inspect(session: &Session, header_bytes: usize) -> Result<(), Refusal> {
    let head = session.req_header();
    match session.as_downstream().as_http1() {
        Some(http1) => {
            let raw = http1.get_headers_raw_bytes();
            if raw.len() > header_bytes {
                return Err(Refusal::HeaderTooLarge);
            }
            http1_head(&raw, head)?;
        }
        None => {
            // The list size that HTTP/2 counts (RFC 9113 §6.5.2).
            let size: usize = head
                .headers
                .iter()
                .map(|(name, value)| name.as_str().len() + value.len() + 32)
                .sum();
            if size + head.uri.path().len() > header_bytes {
                return Err(Refusal::HeaderTooLarge);
            }
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

fn http1_head(raw: &[u8], head: &pingora::http::RequestHeader) -> Result<(), Refusal> {
    let mut lines = 0_usize;
    let mut host = 0_usize;
    let mut content_length = 0_usize;
    let mut start = 0;
    for (end, _) in raw.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
        // RFC 9112 §2.2 lets a reader take a bare LF; a server behind or before us may not.
        if end == start || raw[end - 1] != b'\r' {
            return Err(Refusal::Malformed("End each line with CR LF."));
        }
        let line = &raw[start..end - 1];
        if lines == 0 && line.is_empty() {
            // Allowed before a request (RFC 9112 §2.2).
            start = end + 1;
            continue;
        }
        if lines == 0 {
            request_line(line)?;
        } else if let Some(colon) = line.iter().position(|b| *b == b':') {
            let name = &line[..colon];
            host += usize::from(name.eq_ignore_ascii_case(b"host"));
            content_length += usize::from(name.eq_ignore_ascii_case(b"content-length"));
        }
        lines += 1;
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
