//! Reads the `Host` of a request and tells which of our origins it means.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use crate::config::model::Origin;

/// Host and port as a client wrote them (RFC 9110 §7.2), the host in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority<'a> {
    host: Cow<'a, str>,
    port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// Reads `Host` or `:authority`. `None` for user information, a bad port, or anything that is no name and no address.
    pub fn parse(text: &'a str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix('[') {
            let (address, rest) = rest.split_once(']')?;
            // Scoped addresses (RFC 6874) mean something on one machine only.
            let address: Ipv6Addr = address.parse().ok()?;
            return Some(Self {
                host: Cow::Owned(format!("[{address}]")),
                port: parse_port(rest)?,
            });
        }
        let colon = text.find(':').unwrap_or(text.len());
        let (name, rest) = text.split_at(colon);
        if name.is_empty() || name.len() > 253 || !name.bytes().all(is_name) {
            return None;
        }
        Some(Self {
            host: if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
                Cow::Owned(name.to_ascii_lowercase())
            } else {
                Cow::Borrowed(name)
            },
            port: parse_port(rest)?,
        })
    }

    /// Lower-case host, IPv6 in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Port, when written.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Whether this is the authority of `origin`; a port left out is the origin's default one.
    pub fn is(&self, origin: &Origin) -> bool {
        let port = self.port.unwrap_or(if origin.secure { 443 } else { 80 });
        port == origin.port && *self.host == *origin.host
    }

    /// The origin that is meant, if any. The scheme cannot be told from `Host`: the first that fits wins.
    pub fn origin<'o>(&self, origins: &'o [Origin]) -> Option<&'o Origin> {
        origins.iter().find(|origin| self.is(origin))
    }
}

/// Port of `:443`, or none of the empty text; `None` when it is neither.
#[expect(
    clippy::option_option,
    reason = "absent, good and bad are three answers"
)]
fn parse_port(text: &str) -> Option<Option<u16>> {
    if text.is_empty() {
        return Some(None);
    }
    let digits = text.strip_prefix(':')?;
    if digits.len() > 5 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    match digits.parse::<u16>() {
        Ok(port) if port > 0 => Some(Some(port)),
        _ => None,
    }
}

/// Letters, digits, hyphen, dot; the underscore is no host name but names of containers have it.
fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')
}

/// An origin from its text, for tests.
#[cfg(test)]
pub(crate) fn origin(text: &str) -> Origin {
    let url = url::Url::parse(text).unwrap();
    Origin {
        secure: url.scheme() == "https",
        host: url.host_str().unwrap().into(),
        port: url.port_or_known_default().unwrap(),
        text: url.origin().ascii_serialization().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_read() {
        for (name, text, want) in [
            (
                "plain",
                "shop.example.com",
                Some(("shop.example.com", None)),
            ),
            (
                "port",
                "shop.example.com:8443",
                Some(("shop.example.com", Some(8443))),
            ),
            ("case", "Shop.Example.COM", Some(("shop.example.com", None))),
            ("IPv4", "127.0.0.1:80", Some(("127.0.0.1", Some(80)))),
            ("IPv6", "[::1]:8080", Some(("[::1]", Some(8080)))),
            (
                "IPv6, long form",
                "[0:0:0:0:0:0:0:1]",
                Some(("[::1]", None)),
            ),
            ("empty (PROXY-07)", "", None),
            ("empty name", ":80", None),
            ("empty port", "shop.example.com:", None),
            ("port zero", "shop.example.com:0", None),
            ("port too large", "shop.example.com:65536", None),
            ("port with sign", "shop.example.com:+80", None),
            ("port with junk", "shop.example.com:80@evil.example", None),
            ("user information (PROXY-07)", "shop@evil.example", None),
            ("list", "shop.example.com, evil.example", None),
            ("space", "shop.example.com ", None),
            ("slash", "shop.example.com/evil", None),
            ("backslash", "shop.example.com\\evil", None),
            ("escape", "shop%2eexample.com", None),
            ("non-ASCII", "ſhop.example.com", None),
            ("scoped IPv6", "[fe80::1%25eth0]", None),
            ("open bracket", "[::1", None),
            ("junk after bracket", "[::1]x", None),
            ("bare IPv6", "::1", None),
        ] {
            let got = Authority::parse(text);
            let got = got.as_ref().map(|got| (got.host(), got.port()));
            assert_eq!(got, want, "{name}");
        }
    }

    #[test]
    fn an_origin_is_recognised_by_host_and_port() {
        let https = origin("https://shop.example.com");
        let odd = origin("http://localhost:8080");
        for (name, text, origin, want) in [
            ("default port left out", "shop.example.com", &https, true),
            ("default port written", "shop.example.com:443", &https, true),
            ("other port", "shop.example.com:80", &https, false),
            (
                "trailing dot is another name",
                "shop.example.com.",
                &https,
                false,
            ),
            ("subdomain", "x.shop.example.com", &https, false),
            ("odd port", "localhost:8080", &odd, true),
            ("odd port left out", "localhost", &odd, false),
        ] {
            let got = Authority::parse(text).is_some_and(|authority| authority.is(origin));
            assert_eq!(got, want, "{name}");
        }
    }
}
