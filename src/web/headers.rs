//! Decides which header fields may pass, and how claims become field values.

use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};

use crate::claims::Claim;

/// A header block that can be edited: [`HeaderMap`], or a server's own type that keeps more beside the map.
pub trait Edit {
    /// The fields as they are.
    fn fields(&self) -> &HeaderMap;
    /// Removes every field of the name.
    fn remove(&mut self, name: &HeaderName);
    /// Sets the field, replacing all of its name.
    fn set(&mut self, name: HeaderName, value: HeaderValue);
}

impl Edit for HeaderMap {
    fn fields(&self) -> &HeaderMap {
        self
    }

    fn remove(&mut self, name: &HeaderName) {
        HeaderMap::remove(self, name);
    }

    fn set(&mut self, name: HeaderName, value: HeaderValue) {
        self.insert(name, value);
    }
}

/// Removes the fields whose name `unwanted` picks. Allocates only when there are any.
pub fn remove_where(headers: &mut impl Edit, unwanted: impl Fn(&HeaderName) -> bool) {
    let names: Vec<HeaderName> = headers
        .fields()
        .keys()
        .filter(|name| unwanted(name))
        .cloned()
        .collect();
    for name in &names {
        headers.remove(name);
    }
}

/// The header names that are ours on a route: what a client sends under them never reaches the upstream (HDR-03).
///
/// Names are compared as CGI, WSGI, Rack and nginx may alias them: case does not count, and anything but letters and
/// digits is one and the same separator, so `x_user`, `x.user` and `X-User` are one name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owned {
    /// Folded, sorted, without duplicates.
    names: Box<[Box<[u8]>]>,
    /// Bit `n` set: some name is `n` bytes long (the last bit: that or longer).
    lengths: u64,
}

impl Owned {
    /// Compiles the set.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a HeaderName>) -> Self {
        let mut names: Vec<Box<[u8]>> = names
            .into_iter()
            .map(|name| name.as_str().bytes().map(fold).collect())
            .collect();
        names.sort_unstable();
        names.dedup();
        let lengths = names.iter().fold(0, |bits, name| bits | bit(name.len()));
        Self {
            names: names.into_boxed_slice(),
            lengths,
        }
    }

    /// Whether the name, in whatever spelling, is ours.
    pub fn is_owned(&self, name: &HeaderName) -> bool {
        let name = name.as_str().as_bytes();
        self.lengths & bit(name.len()) != 0
            && self.names.iter().any(|ours| {
                ours.len() == name.len() && ours.iter().zip(name).all(|(a, b)| *a == fold(*b))
            })
    }

    /// Removes what is ours, every spelling and copy of it.
    pub fn strip(&self, headers: &mut impl Edit) {
        if !self.names.is_empty() {
            remove_where(headers, |name| self.is_owned(name));
        }
    }
}

/// Whether two names may be one to a server behind us; see [`Owned`].
pub fn same_name(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).all(|(a, b)| fold(a) == fold(b))
}

/// The byte as names are compared.
pub(crate) fn fold(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() {
        byte.to_ascii_lowercase()
    } else {
        b'-'
    }
}

fn bit(len: usize) -> u64 {
    1 << len.min(63)
}

/// Removes the fields that concern one connection only, and those that `Connection` names (RFC 9110 §7.6.1; PROXY-01).
///
/// With `upgrade`, an `Upgrade` field stays and `Connection` becomes exactly `upgrade`. `TE` shrinks to `trailers` when
/// it holds that (gRPC depends on it). Framing (`Content-Length`, `Transfer-Encoding`) belongs to the server and
/// stays. `Connection` cannot name away what others rely on (PROXY-02): see `is_end_to_end`.
pub fn strip_hop_by_hop(headers: &mut impl Edit, upgrade: bool) {
    let fields = headers.fields();
    if fields.contains_key(CONNECTION) {
        let nominated: Vec<HeaderName> = tokens(fields, &CONNECTION)
            .filter_map(|token| HeaderName::from_bytes(token).ok())
            .filter(|name| !is_end_to_end(name) && *name != UPGRADE && *name != TE)
            .collect();
        for name in &nominated {
            headers.remove(name);
        }
        headers.remove(&CONNECTION);
    }
    if headers.fields().contains_key(TE) {
        let trailers =
            tokens(headers.fields(), &TE).any(|token| token.eq_ignore_ascii_case(b"trailers"));
        headers.remove(&TE);
        if trailers {
            headers.set(TE, HeaderValue::from_static("trailers"));
        }
    }
    if headers.fields().contains_key(UPGRADE) {
        if upgrade {
            headers.set(CONNECTION, HeaderValue::from_static("upgrade"));
        } else {
            headers.remove(&UPGRADE);
        }
    }
    // One look at each name costs less than one look-up for each of these.
    remove_where(headers, |name| {
        matches!(
            name.as_str(),
            "proxy-authorization"
                | "proxy-authenticate"
                | "keep-alive"
                | "proxy-connection"
                | "http2-settings"
        )
    });
}

/// The comma-separated members of all fields of the name, without the space around them.
pub(crate) fn tokens<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'h [u8]> + use<'h> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

/// Fields that `Connection` cannot name away, because routing, framing, identity or a browser's safety hang on them.
fn is_end_to_end(name: &HeaderName) -> bool {
    if *name == HOST || *name == CONTENT_LENGTH || *name == TRANSFER_ENCODING || *name == TRAILER {
        return true;
    }
    let name = name.as_str();
    [
        "x-forwarded",
        "content-",
        "access-control-",
        "cross-origin-",
        "sec-",
        "x-content-type-",
        "x-frame-",
    ]
    .iter()
    .any(|prefix| name.starts_with(prefix))
        || [
            "authorization",
            "cache-control",
            "cookie",
            "date",
            "expect",
            "expires",
            "forwarded",
            "location",
            "origin",
            "pragma",
            "referer",
            "referrer-policy",
            "set-cookie",
            "strict-transport-security",
            "traceparent",
            "tracestate",
            "vary",
            "www-authenticate",
            "x-real-ip",
            "x-request-id",
        ]
        .contains(&name)
}

/// Turns a claim into a field value (HDR-06), or `None` where there is nothing to say: null, objects, empty arrays.
///
/// Text is taken as it is except for control characters, `%`, what is not ASCII, and space at either end, which are
/// percent-encoded as UTF-8, so that no two claims give one value. Arrays of scalars are joined with `,`, and a comma
/// within an element is encoded too; null elements are skipped. Over 8 KiB there is no value: half a list of groups
/// would be a lie.
pub fn claim_value(claim: &Claim) -> Option<HeaderValue> {
    let mut out = String::new();
    match claim {
        Claim::List(elements) => {
            let mut first = true;
            for element in elements.iter().filter(|element| !element.is_null()) {
                if !std::mem::take(&mut first) {
                    out.push(',');
                }
                push_scalar(&mut out, element, true)?;
            }
            if first {
                return None;
            }
        }
        scalar => push_scalar(&mut out, scalar, false)?,
    }
    // Printable ASCII by construction.
    HeaderValue::try_from(out).ok()
}

/// Appends a scalar; `None` for what is none, or beyond the limit.
fn push_scalar(out: &mut String, scalar: &Claim, in_list: bool) -> Option<()> {
    use std::fmt::Write as _;
    match scalar {
        Claim::Text(text) => {
            let inner = text.trim_matches(' ');
            let start = text.len() - text.trim_start_matches(' ').len();
            let end = start + inner.len();
            for (at, byte) in text.bytes().enumerate() {
                let encode = !(b' '..=b'~').contains(&byte)
                    || byte == b'%'
                    || (in_list && byte == b',')
                    || at < start
                    || at >= end;
                if encode {
                    // Writing to a String cannot fail.
                    let _ = write!(out, "%{byte:02X}");
                } else {
                    out.push(char::from(byte));
                }
                if out.len() > MAX_CLAIM {
                    return None;
                }
            }
        }
        Claim::Number(number) => {
            let _ = write!(out, "{number}");
        }
        Claim::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Claim::Null | Claim::List(_) | Claim::Object(_) => return None,
    }
    (out.len() <= MAX_CLAIM).then_some(())
}

/// Longest field value made of a claim, in bytes.
const MAX_CLAIM: usize = 8 * 1024;

#[cfg(test)]
mod tests;
