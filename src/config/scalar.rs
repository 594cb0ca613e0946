//! Reads single values: durations, sizes, numbers, origins, addresses.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use url::{Host, Url};

use super::model::{Address, Origin};

/// A complaint: what is wrong and what to write instead.
pub(super) type Complaint = String;

/// Longest duration that is accepted; keeps arithmetic with instants far from its limits.
const LONGEST: Duration = Duration::from_secs(400 * 24 * 3600);

/// `90s`, `15m`, `1h 30m`; `0` when `zero` allows it.
pub(super) fn duration(text: &str, zero: bool) -> Result<Duration, Complaint> {
    let expected = || -> Complaint {
        let off = if zero { ", or `0` for off" } else { "" };
        format!(
            "expected a duration: write a number with a unit, such as `90s`, `15m`, `12h` or `7d`{off}"
        )
    };
    if text == "0" && zero {
        return Ok(Duration::ZERO);
    }
    let duration = humantime::parse_duration(text).map_err(|_| expected())?;
    if duration.is_zero() && !zero {
        return Err("must be longer than nothing: write, for example, `5s`".into());
    }
    if !duration.is_zero() && duration < Duration::from_millis(1) {
        return Err("shorter than a millisecond: write, for example, `5s`".into());
    }
    if duration > LONGEST {
        return Err("longer than 400 days: write a shorter duration".into());
    }
    Ok(duration)
}

/// `64KiB`, `8MiB`, or plain `0`.
pub(super) fn size(text: &str, min: u64, max: u64) -> Result<u64, Complaint> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor: Option<u64> = match unit.trim_start() {
        "B" => Some(1),
        "" if text == "0" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    let bytes = factor
        .and_then(|factor| number.parse::<u64>().ok()?.checked_mul(factor))
        .ok_or("expected a size: write a number with a unit, such as `64KiB` or `8MiB`")?;
    if bytes < min || bytes > max {
        return Err(format!(
            "out of range: write a size between {} and {}",
            show_size(min),
            show_size(max)
        ));
    }
    Ok(bytes)
}

fn show_size(bytes: u64) -> String {
    [("GiB", 30), ("MiB", 20), ("KiB", 10)]
        .into_iter()
        .find(|(_, shift)| bytes != 0 && bytes.is_multiple_of(1 << shift))
        .map_or_else(
            || format!("{bytes}B"),
            |(unit, shift)| format!("{}{unit}", bytes >> shift),
        )
}

/// A whole number.
pub(super) fn count(text: &str, min: u64, max: u64) -> Result<u64, Complaint> {
    match text.parse::<u64>() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        Ok(_) => Err(format!(
            "out of range: write a number between {min} and {max}"
        )),
        Err(_) => Err(format!(
            "expected a whole number: write one between {min} and {max}"
        )),
    }
}

/// A web origin, as a URL without path.
pub(super) fn origin(text: &str) -> Result<Origin, Complaint> {
    let expected = "expected an origin: write scheme and host, such as `https://shop.example.com`";
    let url = Url::parse(text).map_err(|_| expected)?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err(expected.into());
    }
    if has_credentials(&url) {
        return Err("no user or password may stand in this URL: write the origin alone".into());
    }
    let serialized = url.origin().ascii_serialization();
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(format!(
            "must be an origin without path: write `{serialized}`"
        ));
    }
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
        return Err(expected.into());
    };
    if host.ends_with('.') || host.contains('*') {
        return Err(
            "the host must be a plain name without final dot: write it as the browser shows it"
                .into(),
        );
    }
    Ok(Origin {
        secure: url.scheme() == "https",
        host: host.into(),
        port,
        text: serialized.into(),
    })
}

pub(super) fn has_credentials(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

/// Whether a URL's host is this machine: plain http never leaves it.
pub(super) fn is_loopback(host: &str) -> bool {
    match Host::parse(host) {
        Ok(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Ok(Host::Ipv4(ip)) => ip.is_loopback(),
        Ok(Host::Ipv6(ip)) => ip.is_loopback(),
        Err(_) => false,
    }
}

/// `127.0.0.1:8080`, `[::]:8080` or `unix:/path`.
pub(super) fn address(text: &str, base: &Path) -> Result<Address, Complaint> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_path(path, base).map(Address::Unix);
    }
    text.parse::<SocketAddr>().map(Address::Tcp).map_err(|_| {
        let port = text.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        match port {
            Some(port) => format!(
                "expected an IP address and a port: write `0.0.0.0:{port}`, `127.0.0.1:{port}`, `[::]:{port}` or `unix:/path`"
            ),
            None => "expected an IP address and a port: write, for example, `0.0.0.0:8080` or `unix:/path`".into(),
        }
    })
}

/// Path of a Unix socket.
pub(super) fn unix_path(path: &str, base: &Path) -> Result<PathBuf, Complaint> {
    // `unix:///run/x` means the same as `unix:/run/x`.
    let path = path
        .strip_prefix("//")
        .filter(|rest| rest.starts_with('/'))
        .unwrap_or(path);
    if path.is_empty() || path.ends_with('/') || path.contains('\0') {
        return Err(
            "expected the path of a socket: write, for example, `unix:/run/daypass/http.sock`"
                .into(),
        );
    }
    let path = base.join(path);
    // `sun_path` is 108 bytes on Linux, with a final NUL; 104 elsewhere.
    if path.as_os_str().len() > 103 {
        return Err("the path of a socket may have 103 bytes at most: write a shorter one".into());
    }
    Ok(path)
}

/// Whether two sockets cannot be bound side by side.
pub(super) fn clash(a: &Address, b: &Address) -> bool {
    match (a, b) {
        (Address::Tcp(a), Address::Tcp(b)) => {
            a.port() != 0
                && a.port() == b.port()
                && (a.ip() == b.ip()
                    || a.is_ipv4() == b.is_ipv4()
                        && (a.ip().is_unspecified() || b.ip().is_unspecified()))
        }
        (Address::Unix(a), Address::Unix(b)) => a == b,
        _ => false,
    }
}

/// A CIDR block, or a single address.
pub(super) fn network(text: &str) -> Result<IpNet, Complaint> {
    let net = match text.parse::<IpAddr>() {
        Ok(ip) => IpNet::from(ip),
        Err(_) => text
            .parse::<IpNet>()
            .map_err(|_| "expected a network: write, for example, `10.0.0.0/8` or `192.0.2.7`")?,
    };
    if net.trunc() != net {
        return Err(format!(
            "bits are set beyond the prefix: write `{}`",
            net.trunc()
        ));
    }
    Ok(net)
}

/// A scope token (RFC 6749 §3.3).
pub(super) fn is_scope(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        for (name, text, zero, want) in [
            ("seconds", "90s", false, Some(90)),
            ("minutes", "15m", false, Some(900)),
            ("days", "7d", false, Some(604_800)),
            ("several", "1h 30m", false, Some(5400)),
            ("bare number", "90", false, None),
            ("zero where off makes sense", "0", true, Some(0)),
            ("zero seconds where off makes sense", "0s", true, Some(0)),
            ("zero where it makes none", "0", false, None),
            ("zero seconds where it makes none", "0s", false, None),
            ("negative", "-1s", false, None),
            ("beyond all bounds", "99999999999999999999d", false, None),
            ("too long", "401d", false, None),
            ("too short", "1ns", false, None),
            ("empty", "", true, None),
        ] {
            let got = duration(text, zero).ok();
            assert_eq!(got, want.map(Duration::from_secs), "{name}");
        }
    }

    #[test]
    fn sizes_need_a_unit() {
        for (name, text, want) in [
            ("kibibytes", "64KiB", Some(65_536)),
            ("mebibytes", "8MiB", Some(8 << 20)),
            ("bytes", "10B", Some(10)),
            ("zero", "0", Some(0)),
            ("a space", "1 KiB", Some(1024)),
            ("bare number", "10", None),
            ("decimal unit", "10MB", None),
            ("overflow", "99999999999999GiB", None),
            ("out of range", "2GiB", None),
            ("empty", "", None),
        ] {
            assert_eq!(size(text, 0, 1 << 30).ok(), want, "{name}");
        }
    }

    #[test]
    fn origins_are_canonical_and_bare() {
        for (name, text, want) in [
            (
                "plain",
                "https://shop.example.com",
                Some("https://shop.example.com"),
            ),
            (
                "capitals",
                "HTTPS://Shop.Example.COM/",
                Some("https://shop.example.com"),
            ),
            ("default port", "https://a:443", Some("https://a")),
            (
                "other port",
                "http://localhost:8080",
                Some("http://localhost:8080"),
            ),
            ("IPv6", "http://[::1]:80", Some("http://[::1]")),
            ("path", "https://a/b", None),
            ("query", "https://a/?b", None),
            ("fragment", "https://a/#b", None),
            ("user", "https://u@a/", None),
            ("other scheme", "ftp://a/", None),
            ("no scheme", "shop.example.com", None),
            ("final dot", "https://a./", None),
        ] {
            let got = origin(text).ok().map(|origin| origin.text.to_string());
            assert_eq!(got.as_deref(), want, "{name}");
        }
    }

    #[test]
    fn sockets_clash_when_one_bind_takes_the_others_port() {
        for (name, a, b, want) in [
            ("same", "127.0.0.1:1", "127.0.0.1:1", true),
            ("any and one", "0.0.0.0:1", "127.0.0.1:1", true),
            ("other port", "0.0.0.0:1", "0.0.0.0:2", false),
            ("families", "0.0.0.0:1", "[::]:1", false),
            ("chosen by the system", "127.0.0.1:0", "127.0.0.1:0", false),
            ("same socket", "unix:/a", "unix:///a", true),
        ] {
            let parse = |text| address(text, Path::new("/")).unwrap();
            assert_eq!(clash(&parse(a), &parse(b)), want, "{name}");
        }
    }

    #[test]
    fn networks_are_exact() {
        for (name, text, want) in [
            ("block", "10.0.0.0/8", true),
            ("address", "192.0.2.7", true),
            ("IPv6", "fd00::/8", true),
            ("stray bits", "10.0.0.1/8", false),
            ("name", "localhost", false),
        ] {
            assert_eq!(network(text).is_ok(), want, "{name}");
        }
    }
}
