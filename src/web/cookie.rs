//! Finds and removes our cookies in requests, and writes them for browsers.
//!
//! Parsing follows what servers do, not what the grammar allows: pairs end at `;` whatever the quotes say, so that a
//! quoted neighbour cannot smuggle our cookie to the upstream (the "cookie sandwich").

use std::time::Duration;

use http::header::{COOKIE, HeaderMap, HeaderValue};

use super::headers::Edit;
use crate::config::model::{self, SameSite};

/// Longest `Max-Age` a browser honours (RFC 6265bis §5.5; COOKIE-09).
const MAX_AGE: Duration = Duration::from_secs(400 * 24 * 3600);

/// The values of all cookies of the name, in the order sent (COOKIE-07: there may be several), over all `Cookie` fields
/// (HTTP/2 splits them, RFC 9113 §8.2.3). Values that are no visible ASCII are passed over.
pub fn find<'h>(headers: &'h HeaderMap, name: &str) -> impl Iterator<Item = &'h str> {
    headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|value| pairs(value.as_bytes()))
        .filter_map(move |pair| {
            let pair = pair.trim_ascii();
            let value = pair.strip_prefix(name.as_bytes())?.trim_ascii_start();
            let value = value.strip_prefix(b"=")?.trim_ascii_start();
            let value = std::str::from_utf8(value).ok()?;
            value
                .bytes()
                .all(|byte| byte.is_ascii_graphic())
                .then_some(value)
        })
}

/// Removes our cookies from a request: every copy, also oddly written. Others stay byte for byte.
///
/// Fields split by HTTP/2 are joined with `; ` (COOKIE-11); a field that is left empty goes. One field without any
/// cookie of ours is not touched.
pub fn strip(headers: &mut impl Edit, ours: &[&str]) {
    let mut fields = headers.fields().get_all(COOKIE).iter();
    let (Some(first), second) = (fields.next(), fields.next()) else {
        return;
    };
    if second.is_none() && !pairs(first.as_bytes()).any(|pair| is_ours(pair, ours)) {
        return;
    }
    let mut kept: Vec<u8> = Vec::with_capacity(first.len());
    for field in headers.fields().get_all(COOKIE) {
        let mut starts_field = true;
        for pair in pairs(field.as_bytes()) {
            if is_ours(pair, ours) {
                continue;
            }
            if kept.is_empty() {
                kept.extend_from_slice(pair.trim_ascii_start());
            } else if starts_field {
                kept.extend_from_slice(b"; ");
                kept.extend_from_slice(pair.trim_ascii_start());
            } else {
                kept.push(b';');
                kept.extend_from_slice(pair);
            }
            starts_field = false;
        }
    }
    headers.remove(&COOKIE);
    if pairs(&kept).all(|pair| pair.trim_ascii().is_empty()) {
        return;
    }
    // What is kept was part of field values, so it is one; were it none, losing it is the safe side.
    if let Ok(mut value) = HeaderValue::from_bytes(&kept) {
        value.set_sensitive(true);
        headers.set(COOKIE, value);
    }
}

/// Whether a `Set-Cookie` value of an upstream sets or clears one of ours (COOKIE-08).
///
/// Case and space do not count, and a nameless cookie (`=name=value`, which browsers send back as `name=value`) is known
/// by what it would become.
pub fn names_cookie(set_cookie_value: &[u8], ours: &[&str]) -> bool {
    let pair = set_cookie_value
        .split(|byte| *byte == b';')
        .next()
        .unwrap_or_default();
    let mut pair = pair;
    while let [b' ' | b'\t' | b'=', rest @ ..] = pair {
        pair = rest;
    }
    is_ours(pair, ours)
}

/// The pieces between semicolons.
fn pairs(field: &[u8]) -> impl Iterator<Item = &[u8]> {
    field.split(|byte| *byte == b';')
}

/// Whether a pair's name is one of ours, give or take case, space and quotes.
fn is_ours(pair: &[u8], ours: &[&str]) -> bool {
    let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
    let odd = |byte: &u8| byte.is_ascii_whitespace() || *byte == b'"' || *byte == b'\'';
    let start = name
        .iter()
        .position(|byte| !odd(byte))
        .unwrap_or(name.len());
    let end = name
        .iter()
        .rposition(|byte| !odd(byte))
        .map_or(start, |at| at + 1);
    ours.iter()
        .any(|our| name[start..end].eq_ignore_ascii_case(our.as_bytes()))
}

/// A cookie of ours on its way to a browser: always `HttpOnly` and `Path=/` (COOKIE-01).
#[derive(Clone, Copy)]
pub struct SetCookie<'a> {
    /// Full name, prefix included.
    pub name: &'a str,
    /// Value; what may not stand in a cookie is percent-encoded.
    pub value: &'a str,
    /// `Domain`; left out for names that start with `__Host-`.
    pub domain: Option<&'a str>,
    /// `SameSite`.
    pub same_site: SameSite,
    /// `Secure`.
    pub secure: bool,
    /// `Max-Age`, at most 400 days; `None` makes a cookie that ends with the browser's session.
    pub max_age: Option<Duration>,
}

impl std::fmt::Debug for SetCookie<'_> {
    /// Without the value, which is a secret more often than not.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SetCookie")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl<'a> SetCookie<'a> {
    /// The session cookie as configured.
    pub fn session(cookie: &'a model::Cookie, value: &'a str, max_age: Option<Duration>) -> Self {
        Self {
            name: &cookie.name,
            value,
            domain: cookie.domain.as_deref(),
            same_site: cookie.same_site,
            secure: cookie.secure,
            max_age,
        }
    }

    /// The cookie that binds logins to the browser (COOKIE-04): it must come along when the provider sends the browser
    /// back, so it is `Lax` where the session's is `Strict`, and it stays on this host.
    pub fn login(cookie: &'a model::Cookie, value: &'a str, max_age: Option<Duration>) -> Self {
        Self {
            name: &cookie.login_name,
            value,
            domain: None,
            same_site: match cookie.same_site {
                SameSite::Strict | SameSite::Lax => SameSite::Lax,
                SameSite::None => SameSite::None,
            },
            secure: cookie.secure,
            max_age,
        }
    }

    /// The field value that sets the cookie, marked sensitive.
    pub fn to_value(&self) -> HeaderValue {
        let max_age = self.max_age.map(|age| age.min(MAX_AGE).as_secs());
        self.write(self.value, max_age, "")
    }

    /// The field value that clears the cookie.
    pub fn clear(&self) -> HeaderValue {
        self.write("", Some(0), "; Expires=Thu, 01 Jan 1970 00:00:00 GMT")
    }

    fn write(&self, value: &str, max_age: Option<u64>, expires: &str) -> HeaderValue {
        use std::fmt::Write as _;
        let mut out = String::with_capacity(self.name.len() + value.len() + 96);
        push_octets(&mut out, self.name);
        out.push('=');
        push_octets(&mut out, value);
        out.push_str("; Path=/");
        let hosts_own = self
            .name
            .get(..7)
            .is_some_and(|start| start.eq_ignore_ascii_case("__Host-"));
        if let Some(domain) = self.domain.filter(|_| !hosts_own) {
            out.push_str("; Domain=");
            push_octets(&mut out, domain);
        }
        if let Some(seconds) = max_age {
            // Writing to a String cannot fail.
            let _ = write!(out, "; Max-Age={seconds}");
        }
        out.push_str(expires);
        if self.secure {
            out.push_str("; Secure");
        }
        out.push_str("; HttpOnly; SameSite=");
        out.push_str(match self.same_site {
            SameSite::Strict => "Strict",
            SameSite::Lax => "Lax",
            SameSite::None => "None",
        });
        let mut value =
            HeaderValue::try_from(out).expect("cookie octets and fixed text are visible ASCII");
        value.set_sensitive(true);
        value
    }
}

/// Appends text as cookie octets (RFC 6265 §4.1.1, without `=`-less surprises): all else is percent-encoded.
fn push_octets(out: &mut String, text: &str) {
    use std::fmt::Write as _;
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b';' | b'\\') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests;
