//! Reads `upstreams`, and the URLs that routes write in their place.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use url::{Host, Url};

use super::model::{Protocol, Target, Upstream, UpstreamTls};
use super::read::{At, Reader, Spot, nearest};
use super::scalar::{self, Complaint};
use super::section::Section;
use super::table::UPSTREAM;
use super::tls;
use super::tree::{Kind, Node};

/// Upstreams found so far; routes add those they write as a URL.
pub(super) struct Pool {
    upstreams: Vec<Entry>,
    /// Whether all of the section could be read: else a name that is not here may be a broken one.
    complete: bool,
}

struct Entry {
    upstream: Arc<Upstream>,
    /// Where it is declared; nothing when it stands at a route.
    declared: Option<Spot>,
    used: bool,
}

/// What a URL says.
#[derive(Debug, PartialEq, Eq)]
struct Location {
    target: Target,
    secure: bool,
    /// `h2c://`.
    prior_knowledge: bool,
    /// `host:port`, or the socket's path.
    label: String,
}

impl Pool {
    /// Reads the section.
    pub(super) fn read(root: &Section<'_>) -> Self {
        let mut pool = Self {
            upstreams: Vec::new(),
            complete: true,
        };
        let Some(value) = root.given("upstreams") else {
            return pool;
        };
        let Some(map) = root.reader.map(value) else {
            pool.complete = false;
            return pool;
        };
        for (name, value) in map.value {
            let proper = !name.value.is_empty()
                && name.value.len() <= 63
                && name.value.bytes().all(|b| {
                    b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_')
                });
            if !proper {
                root.reader.problem(&name.spot, "an upstream's name is a label in metrics: write lower-case letters, digits, `-` and `_` only");
            }
            match Section::open(root.reader, &UPSTREAM, value)
                .and_then(|section| upstream(&section, &name.value))
            {
                Some(upstream) if proper => pool.upstreams.push(Entry {
                    upstream: Arc::new(upstream),
                    declared: Some(name.spot),
                    used: false,
                }),
                _ => pool.complete = false,
            }
        }
        pool
    }

    /// The index of the upstream a route names, or writes as a URL.
    pub(super) fn find(&mut self, reader: &Reader<'_>, text: &At<String>) -> Option<usize> {
        if !text.value.contains(':') {
            let found = self
                .upstreams
                .iter_mut()
                .position(|entry| *entry.upstream.name == *text.value && entry.declared.is_some());
            match found {
                Some(index) => self.upstreams[index].used = true,
                None if self.complete => {
                    let names: Vec<&str> = self
                        .upstreams
                        .iter()
                        .filter(|entry| entry.declared.is_some())
                        .map(|entry| &*entry.upstream.name)
                        .collect();
                    let message = match nearest(&text.value, &names) {
                        Some(near) => format!("no upstream of this name: did you mean `{near}`?"),
                        None => "no upstream of this name: declare it under `upstreams`, or write a URL such as `http://127.0.0.1:3000`".into(),
                    };
                    reader.problem(&text.spot, message);
                }
                None => {}
            }
            return found;
        }
        let location = reader.accept(&text.spot, location(&text.value, &reader.base))?;
        let same = |entry: &Entry| {
            entry.declared.is_none()
                && entry.upstream.target == location.target
                && entry.upstream.tls.is_some() == location.secure
                && (entry.upstream.protocol == Protocol::Http2) == location.prior_knowledge
        };
        if let Some(index) = self.upstreams.iter().position(same) {
            return Some(index);
        }
        // The label holds a `:` or `/`, so it is none of the declared names; two schemes at one port are told apart.
        let taken = self
            .upstreams
            .iter()
            .any(|entry| *entry.upstream.name == *location.label);
        let name = if taken {
            text.value.trim_end_matches('/').to_owned()
        } else {
            location.label
        };
        // The rest takes the defaults of a declared one.
        let node = Node {
            place: text.spot.place.clone(),
            kind: Kind::Mapping(vec![super::tree::Entry {
                key: "url".into(),
                place: text.spot.place.clone(),
                value: Node {
                    place: text.spot.place.clone(),
                    kind: Kind::Scalar {
                        text: text.value.clone(),
                        plain: false,
                    },
                },
            }]),
        };
        let section = Section::open(
            reader,
            &UPSTREAM,
            At {
                value: node,
                spot: text.spot.clone(),
            },
        )?;
        let upstream = Arc::new(upstream(&section, &name)?);
        self.upstreams.push(Entry {
            upstream,
            declared: None,
            used: true,
        });
        Some(self.upstreams.len() - 1)
    }

    /// All upstreams; warns of those no route uses.
    pub(super) fn finish(self, reader: &Reader<'_>) -> Vec<Arc<Upstream>> {
        for entry in &self.upstreams {
            if let (false, Some(spot)) = (entry.used, &entry.declared) {
                reader.warning(
                    spot,
                    "no route uses this upstream: remove it, or name it in a route",
                );
            }
        }
        self.upstreams
            .into_iter()
            .map(|entry| entry.upstream)
            .collect()
    }
}

fn upstream(section: &Section<'_>, name: &str) -> Option<Upstream> {
    let reader = section.reader;
    let url = section.any("url");
    let location = url.and_then(|url| {
        if matches!(url.value.kind, Kind::Sequence(_)) {
            reader.problem(&url.spot, "a list of URLs is not supported yet: write one");
            return None;
        }
        let url = reader.text(url)?;
        let location = reader.accept(&url.spot, location(&url.value, &reader.base))?;
        Some(At {
            value: location,
            spot: url.spot,
        })
    });
    let protocol = section.choice("protocol", &[]);
    let protocol = match (&location, protocol) {
        (Some(location), Some(protocol)) if location.value.prior_knowledge => {
            match protocol.value {
                "h1" => {
                    reader.problem(
                        &protocol.spot,
                        "`h2c://` speaks HTTP/2: write `http://` in the URL for HTTP/1.1",
                    );
                    None
                }
                _ => Some(Protocol::Http2),
            }
        }
        (_, protocol) => protocol.map(|protocol| match protocol.value {
            "h1" => Protocol::Http1,
            "h2" => Protocol::Http2,
            _ => Protocol::Auto,
        }),
    };
    let connect_timeout = section.duration("connect_timeout");
    let read_timeout = section.duration("read_timeout");
    let keepalive = section
        .count("keepalive")
        .and_then(|count| usize::try_from(count).ok());
    let tls = match &location {
        Some(location) if !location.value.secure && section.has("tls") => {
            reader.problem(
                &section.spot_of("tls"),
                "TLS options without TLS: write `https://` in the URL, or remove `tls`",
            );
            section.section("tls");
            None
        }
        Some(location) if location.value.secure => {
            Some(upstream_tls(section, &location.value.target)?)
        }
        _ => {
            section.section("tls");
            None
        }
    };
    Some(Upstream {
        name: name.into(),
        target: location?.value.target,
        protocol: protocol?,
        connect_timeout: connect_timeout?,
        read_timeout: read_timeout?,
        keepalive: keepalive?,
        tls,
    })
}

fn upstream_tls(section: &Section<'_>, target: &Target) -> Option<UpstreamTls> {
    let tls = section.section("tls")?;
    let ca_pem = tls::authorities(&tls, "ca_file");
    let pair = tls::pair(&tls, "client_cert", "client_key");
    let name = match tls.text("server_name") {
        None => server_name(target),
        Some(name) => {
            if ServerName::try_from(name.value.as_str()).is_err() {
                section.reader.problem(
                    &name.spot,
                    "no server name: write a host name or an IP address, without port",
                );
            }
            name.value.into()
        }
    };
    let (client_cert_pem, client_key_file) = match pair {
        Some(pair) => (Some(pair.chain), Some(pair.key_file)),
        None => (None, None),
    };
    Some(UpstreamTls {
        server_name: name,
        ca_pem,
        client_cert_pem,
        client_key_file,
    })
}

fn server_name(target: &Target) -> Box<str> {
    match target {
        Target::Tcp { host, .. } => host.clone(),
        Target::Unix(_) => "localhost".into(),
    }
}

fn location(text: &str, base: &Path) -> Result<Location, Complaint> {
    const EXPECTED: &str = "expected an upstream's URL: write, for example, `http://127.0.0.1:3000`, `https://api.example.com`, `h2c://127.0.0.1:3000` or `unix:/run/app.sock`";
    if let Some(path) = text.strip_prefix("unix:") {
        let path = scalar::unix_path(path, base)?;
        let label = path.to_string_lossy().into_owned();
        return Ok(Location {
            target: Target::Unix(path),
            secure: false,
            prior_knowledge: false,
            label,
        });
    }
    // `Url` knows the default port of `http`, and what a host looks like, but not `h2c`.
    let prior_knowledge = text.starts_with("h2c://");
    let url = text
        .strip_prefix("h2c://")
        .map_or_else(|| text.to_owned(), |rest| format!("http://{rest}"));
    let url = Url::parse(&url).map_err(|_| EXPECTED)?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(EXPECTED.into());
    }
    if scalar::has_credentials(&url) {
        return Err(
            "no user or password may stand in an upstream's URL: set a header at the route".into(),
        );
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err("an upstream's URL has no path: write scheme, host and port, and `rewrite_prefix` at the route".into());
    }
    let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
        return Err(EXPECTED.into());
    };
    if port == 0 {
        return Err("port 0 is no port: write the upstream's".into());
    }
    let label = format!("{host}:{port}");
    let host = match host {
        Host::Domain(name) => name.to_owned(),
        Host::Ipv4(ip) => ip.to_string(),
        Host::Ipv6(ip) => ip.to_string(),
    };
    Ok(Location {
        target: Target::Tcp {
            host: host.into(),
            port,
        },
        secure: url.scheme() == "https",
        prior_knowledge,
        label,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_upstreams_have_scheme_host_and_port_only() {
        for (name, text, want) in [
            ("http", "http://127.0.0.1:3000", Some("127.0.0.1:3000")),
            (
                "default port",
                "https://api.example.com/",
                Some("api.example.com:443"),
            ),
            ("h2c", "h2c://app", Some("app:80")),
            ("IPv6", "http://[::1]:3000", Some("[::1]:3000")),
            ("socket", "unix:/run/app.sock", Some("/run/app.sock")),
            ("path", "http://app/x", None),
            ("query", "http://app?x", None),
            ("user", "http://u:p@app", None),
            ("scheme", "ftp://app", None),
            ("host and port alone", "app:3000", None),
            ("nothing", "unix:", None),
        ] {
            let got = location(text, Path::new("/"))
                .ok()
                .map(|location| location.label);
            assert_eq!(got.as_deref(), want, "{name}");
        }
    }
}
