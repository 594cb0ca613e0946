//! Tells who the client is behind proxies we trust, and what we tell the upstream about it.
//!
//! Nothing an untrusted peer says about itself is believed or passed on (HDR-01), and only `trusted_proxies` makes a peer
//! trusted. A peer on a Unix socket has no address; it counts as `0.0.0.0`, so `trusted_proxies: [0.0.0.0/32]` trusts it.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use super::headers::{Edit, fold, remove_where, tokens};
use super::host::Authority;

/// Who sent the request, as far as it can be believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Address of the client: the rightmost hop that is not trusted (HDR-04). `0.0.0.0` when nothing is known.
    pub ip: IpAddr,
    /// Whether the client's connection was TLS.
    pub proto_https: bool,
    /// `X-Forwarded-Host` of a trusted peer, in lower case.
    pub host: Option<String>,
    /// Address of the TCP peer; `None` on a Unix socket.
    pub peer: Option<IpAddr>,
    /// Whether the peer is trusted.
    pub trusted: bool,
}

impl Client {
    /// Looks at the peer and, if it is trusted, at what it says.
    pub fn of(peer: Option<IpAddr>, trusted: &[IpNet], headers: &HeaderMap, tls: bool) -> Self {
        let peer = peer.map(|ip| ip.to_canonical());
        let ip = peer.unwrap_or(UNKNOWN);
        let is_trusted = |ip: IpAddr| trusted.iter().any(|net| net.contains(&ip));
        let mut client = Self {
            ip,
            proto_https: tls,
            host: None,
            peer,
            trusted: is_trusted(ip),
        };
        if !client.trusted {
            return client;
        }
        if headers.contains_key(X_FORWARDED_FOR) {
            let hops = backwards(headers, &X_FORWARDED_FOR);
            client.ip = rightmost(ip, hops.map(parse_node), is_trusted);
        } else if headers.contains_key(FORWARDED) {
            let elements = forwarded_elements(headers);
            let hops = elements.iter().rev().map(|element| {
                forwarded_parameter(element, b"for").and_then(|node| parse_node(&node))
            });
            client.ip = rightmost(ip, hops, is_trusted);
        }
        // Of a list, what the nearest proxy says: what stands before may come from anyone.
        let from_forwarded = |parameter: &[u8]| {
            let elements = forwarded_elements(headers);
            elements
                .last()
                .and_then(|element| forwarded_parameter(element, parameter))
        };
        if let Some(proto) = backwards(headers, &X_FORWARDED_PROTO)
            .next()
            .map(<[u8]>::to_vec)
            .or_else(|| from_forwarded(b"proto"))
        {
            client.proto_https = match proto.to_ascii_lowercase().as_slice() {
                b"https" | b"wss" => true,
                b"http" | b"ws" => false,
                _ => client.proto_https,
            };
        }
        client.host = backwards(headers, &X_FORWARDED_HOST)
            .next()
            .map(<[u8]>::to_vec)
            .or_else(|| from_forwarded(b"host"))
            .and_then(|host| String::from_utf8(host).ok())
            .map(|host| host.to_ascii_lowercase())
            .filter(|host| Authority::parse(host).is_some());
        client
    }
}

/// Removes what must not be believed and says who the client is: `X-Forwarded-For`, `-Proto` and `-Host` (HDR-05).
///
/// From an untrusted peer the whole family goes. From a trusted one only what proxies write of every request stays: the
/// others (`X-Original-URL`, `X-Forwarded-User`, ...) an ordinary proxy passes on as its client sent them. `secure` and
/// `host` are scheme and authority of the origin the client asked for, already found to be ours: TLS may have ended
/// before us.
pub fn apply(headers: &mut impl Edit, client: &Client, secure: bool, host: HeaderValue) {
    remove_where(headers, |name| {
        is_forwarding(name.as_str()) && !(client.trusted && is_written_by_proxies(name.as_str()))
    });
    let own = client.peer.map(Text::of);
    let before = headers.fields().get_all(X_FORWARDED_FOR).iter();
    let mut chain: Vec<u8> = Vec::new();
    for hop in before
        .map(HeaderValue::as_bytes)
        .chain(own.as_ref().map(Text::as_bytes))
    {
        if !chain.is_empty() {
            chain.extend_from_slice(b", ");
        }
        chain.extend_from_slice(hop);
    }
    // Parts of field values, and addresses: always a field value.
    if let Ok(value) = HeaderValue::try_from(chain)
        && !value.is_empty()
    {
        headers.set(X_FORWARDED_FOR, value);
    }
    if headers.fields().contains_key(FORWARDED) {
        append_forwarded(headers, client);
    }
    let proto = if secure { "https" } else { "http" };
    headers.set(X_FORWARDED_PROTO, HeaderValue::from_static(proto));
    headers.set(X_FORWARDED_HOST, host);
}

/// Continues a trusted peer's `Forwarded` (RFC 7239 §4), so that it does not contradict `X-Forwarded-For`.
fn append_forwarded(headers: &mut impl Edit, client: &Client) {
    let node = match client.peer {
        Some(IpAddr::V4(ip)) => format!("for={ip}"),
        Some(IpAddr::V6(ip)) => format!("for=\"[{ip}]\""),
        None => "for=unknown".to_owned(),
    };
    let mut chain = headers
        .fields()
        .get_all(FORWARDED)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect::<Vec<_>>()
        .join(&b", "[..]);
    chain.extend_from_slice(b", ");
    chain.extend_from_slice(node.as_bytes());
    match HeaderValue::try_from(chain) {
        Ok(value) => headers.set(FORWARDED, value),
        Err(_) => headers.remove(&FORWARDED),
    }
}

/// Whether the name, in whatever spelling, speaks of an earlier hop: `X-Forwarded-*`, `Forwarded`, `X-Real-IP`,
/// `X-Original-*`, `X-Rewrite-*`.
pub fn is_forwarding(name: &str) -> bool {
    let starts = |prefix: &[u8]| {
        name.len() >= prefix.len()
            && name
                .bytes()
                .zip(prefix)
                .all(|(byte, want)| fold(byte) == *want)
    };
    match name.len() {
        9 => starts(b"forwarded") || starts(b"x-real-ip"),
        11.. => {
            (starts(b"x-forwarded")
                && name
                    .as_bytes()
                    .get(11)
                    .is_none_or(|byte| fold(*byte) == b'-'))
                || starts(b"x-original-")
                || starts(b"x-rewrite-")
        }
        _ => false,
    }
}

/// Names that proxies set or append to, so that a trusted one's value is its own.
fn is_written_by_proxies(name: &str) -> bool {
    [
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-prefix",
        "x-forwarded-proto",
    ]
    .contains(&name)
}

/// Walks the hops from the nearest on and stops at the first that is not trusted, or before one that is no address.
fn rightmost(
    peer: IpAddr,
    hops: impl Iterator<Item = Option<IpAddr>>,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> IpAddr {
    let mut client = peer;
    for hop in hops {
        // What a trusted proxy could not name is not known: the proxy itself is the best answer.
        let Some(hop) = hop else { break };
        client = hop;
        if !is_trusted(hop) {
            break;
        }
    }
    client
}

/// The members of a list field, last first.
fn backwards<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'h [u8]> + use<'h> {
    tokens(headers, name).collect::<Vec<_>>().into_iter().rev()
}

/// Address of a hop: IPv4 or IPv6, bare or in brackets, with or without port.
fn parse_node(node: impl AsRef<[u8]>) -> Option<IpAddr> {
    let node = std::str::from_utf8(node.as_ref()).ok()?.trim_ascii();
    let bare = node
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let ip = bare
        .unwrap_or(node)
        .parse::<IpAddr>()
        .or_else(|_| node.parse::<SocketAddr>().map(|socket| socket.ip()))
        .ok()?;
    Some(ip.to_canonical())
}

/// The elements of all `Forwarded` fields, quoted commas respected.
fn forwarded_elements(headers: &HeaderMap) -> Vec<&[u8]> {
    headers
        .get_all(FORWARDED)
        .iter()
        .flat_map(|value| split_quoted(value.as_bytes(), b','))
        .filter(|element| !element.trim_ascii().is_empty())
        .collect()
}

/// A parameter of a `Forwarded` element, unquoted. Given twice it is no parameter.
fn forwarded_parameter(element: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let mut values = split_quoted(element, b';').filter_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let (key, value) = pair.split_at(at);
        key.trim_ascii()
            .eq_ignore_ascii_case(name)
            .then(|| value[1..].trim_ascii())
    });
    let value = values.next().filter(|_| values.next().is_none())?;
    let Some(inner) = value
        .strip_prefix(b"\"")
        .and_then(|rest| rest.strip_suffix(b"\""))
    else {
        return Some(value.to_vec());
    };
    let mut out = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(&byte) = bytes.next() {
        out.push(if byte == b'\\' { *bytes.next()? } else { byte });
    }
    Some(out)
}

/// Splits at `separator` outside of quoted strings (RFC 9110 §5.6.4).
fn split_quoted(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |byte| {
        let splits = *byte == separator && !quoted;
        match *byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => {}
        }
        splits
    })
}

/// An address as text, without a heap.
struct Text {
    bytes: [u8; 45],
    len: usize,
}

impl Text {
    fn of(ip: IpAddr) -> Self {
        // The longest text of an IPv6 address has 45 bytes (INET6_ADDRSTRLEN less the NUL).
        let mut text = Self {
            bytes: [0; 45],
            len: 0,
        };
        match ip {
            // By hand: four numbers by way of `fmt` cost a tenth of all that is done to the request's head.
            IpAddr::V4(ip) => {
                for (at, octet) in ip.octets().into_iter().enumerate() {
                    if at > 0 {
                        text.push(b'.');
                    }
                    if octet >= 100 {
                        text.push(b'0' + octet / 100);
                    }
                    if octet >= 10 {
                        text.push(b'0' + octet / 10 % 10);
                    }
                    text.push(b'0' + octet % 10);
                }
            }
            IpAddr::V6(ip) => {
                let mut cursor = std::io::Cursor::new(&mut text.bytes[..]);
                let _ = write!(cursor, "{ip}");
                text.len = usize::try_from(cursor.position()).unwrap_or_default();
            }
        }
        text
    }

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = byte;
            self.len += 1;
        }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Stands for a peer without address.
const UNKNOWN: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

#[cfg(test)]
mod tests;
