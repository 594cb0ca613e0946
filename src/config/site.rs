//! Reads what stands around the routes: public origins, listeners, limits, logging, pages.

use std::num::NonZeroU32;
use std::sync::Arc;

use ipnet::IpNet;
use tracing::level_filters::LevelFilter;

use super::model::{Address, Limits, Listener, ListenerTls, LogFormat, Logging, Origin, Pages};
use super::read::{At, Value};
use super::section::Section;
use super::table::LISTENER;
use super::tree::Kind;
use super::{canonical, scalar, tls};

/// A value that may be one or a list of them.
fn one_or_many(section: &Section<'_>, name: &'static str) -> Option<At<Vec<Value>>> {
    let value = section.any(name)?;
    if let Kind::Sequence(_) = value.value.kind {
        return section.reader.list(value);
    }
    Some(At {
        spot: value.spot.clone(),
        value: vec![value],
    })
}

/// Origins of `public_url`; the first is the main one.
pub(super) fn public_origins(root: &Section<'_>) -> Option<Vec<Origin>> {
    let reader = root.reader;
    let insecure_http = root.flag("insecure_http");
    if insecure_http == Some(true) {
        reader.warning(
            &root.spot_of("insecure_http"),
            "plain http for the browser is allowed, anyone on the way can take over sessions: use https",
        );
    }
    let list = one_or_many(root, "public_url")?;
    if list.value.is_empty() {
        reader.problem(
            &list.spot,
            "no origin: write at least one, such as `https://shop.example.com`",
        );
        return None;
    }
    let mut origins: Vec<Origin> = Vec::new();
    let mut good = true;
    for value in list.value {
        let Some(text) = reader.text(value) else {
            good = false;
            continue;
        };
        let Some(origin) = reader.accept(&text.spot, scalar::origin(&text.value)) else {
            good = false;
            continue;
        };
        if !origin.secure && insecure_http == Some(false) && !scalar::is_loopback(&origin.host) {
            reader.problem(&text.spot, "plain http off loopback: write `https://`, or set `insecure_http: true` at the top of the file");
            good = false;
        } else if origins.contains(&origin) {
            reader.problem(&text.spot, "the same origin twice: keep one");
            good = false;
        } else {
            if origins
                .first()
                .is_some_and(|first| first.secure != origin.secure)
            {
                reader.warning(&text.spot, "https and http side by side: cookies lose `Secure` and their prefix, write https for all");
            }
            origins.push(origin);
        }
    }
    good.then_some(origins)
}

/// Listeners and the address of the admin endpoints.
pub(super) fn sockets(root: &Section<'_>) -> Option<(Vec<Listener>, Address)> {
    let reader = root.reader;
    let admin = root.section("admin").and_then(|admin| {
        let text = admin.text("listen")?;
        Some(At {
            value: reader.accept(&text.spot, scalar::address(&text.value, &reader.base))?,
            spot: text.spot,
        })
    });
    let list = one_or_many(root, "listen")?;
    if list.value.is_empty() {
        reader.problem(
            &list.spot,
            "no listener: write at least one, such as `0.0.0.0:8080`",
        );
        return None;
    }
    let mut listeners: Vec<At<Listener>> = Vec::new();
    let mut good = true;
    for value in list.value {
        let Some(new) = listener(root, value) else {
            good = false;
            continue;
        };
        if listeners
            .iter()
            .any(|old| scalar::clash(&old.value.address, &new.value.address))
        {
            reader.problem(
                &new.spot,
                "another listener has this address: write another port",
            );
            good = false;
        }
        if admin
            .as_ref()
            .is_some_and(|admin| scalar::clash(&admin.value, &new.value.address))
        {
            reader.problem(
                &new.spot,
                "`admin.listen` has this address: write another port for one of them",
            );
            good = false;
        }
        listeners.push(new);
    }
    let admin = admin?.value;
    good.then(|| {
        (
            listeners
                .into_iter()
                .map(|listener| listener.value)
                .collect(),
            admin,
        )
    })
}

fn listener(root: &Section<'_>, value: Value) -> Option<At<Listener>> {
    let reader = root.reader;
    if let Kind::Scalar { .. } = value.value.kind {
        let text = reader.text(value)?;
        let address = reader.accept(&text.spot, scalar::address(&text.value, &reader.base))?;
        return Some(At {
            value: Listener { address, tls: None },
            spot: text.spot,
        });
    }
    let section = Section::open(reader, &LISTENER, value)?;
    let text = section.text("address");
    let address = text.and_then(|text| {
        Some(At {
            value: reader.accept(&text.spot, scalar::address(&text.value, &reader.base))?,
            spot: text.spot,
        })
    });
    let tls = match section.optional_section("tls") {
        Some(tls) => Some(listener_tls(&tls)?),
        None if section.has("tls") => return None,
        None => None,
    };
    let address = address?;
    Some(At {
        value: Listener {
            address: address.value,
            tls,
        },
        spot: address.spot,
    })
}

fn listener_tls(tls: &Section<'_>) -> Option<ListenerTls> {
    let pair = tls::pair(tls, "cert_file", "key_file");
    let authorities = tls::authorities(tls, "client_ca_file");
    if tls.has("client_ca_file") && authorities.is_none() {
        return None;
    }
    let client_ca_file = match tls.given("client_ca_file") {
        Some(value) => Some(tls.reader.base.join(tls.reader.text(value)?.value)),
        None => None,
    };
    let pair = pair?;
    Some(ListenerTls {
        cert_file: pair.chain_file,
        key_file: pair.key_file,
        client_ca_file,
    })
}

/// Peers whose forwarding headers are believed.
pub(super) fn trusted_proxies(root: &Section<'_>) -> Option<Vec<IpNet>> {
    let texts = root.texts("trusted_proxies")?;
    texts
        .value
        .into_iter()
        .map(|text| {
            let net = root.reader.accept(&text.spot, scalar::network(&text.value))?;
            if net.prefix_len() == 0 {
                root.reader.warning(&text.spot, "believes everyone, so that any client can claim any address: write the proxies' networks");
            }
            Some(net)
        })
        .collect::<Vec<_>>()
        .into_iter()
        .collect()
}

/// Prefix of our own endpoints.
pub(super) fn base_path(root: &Section<'_>) -> Option<Arc<str>> {
    let path = root.text("base_path")?;
    root.reader
        .accept(&path.spot, canonical::check(&path.value))?;
    let simple = path
        .value
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b'.' | b'~'));
    let complaint = if path.value == "/" {
        "would leave no path to the application: write, for example, `/oauth2`"
    } else if path.value.ends_with('/') {
        "ends with a slash: write it without"
    } else if !simple {
        "holds unusual characters: write letters, digits, `-`, `_`, `.` and `/`"
    } else {
        return Some(path.value.into());
    };
    root.reader.problem(&path.spot, complaint);
    None
}

/// Limits of the whole process.
pub(super) fn limits(root: &Section<'_>) -> Option<Limits> {
    let section = root.section("limits")?;
    let header_bytes = section.size("header_bytes");
    let logins = section.count("logins_per_minute_per_ip");
    let drain_timeout = section.duration("drain_timeout");
    Some(Limits {
        header_bytes: usize::try_from(header_bytes?).ok()?,
        logins_per_minute_per_ip: NonZeroU32::new(u32::try_from(logins?).ok()?)?,
        drain_timeout: drain_timeout?,
    })
}

/// What is logged.
pub(super) fn logging(root: &Section<'_>) -> Option<Logging> {
    let section = root.section("logging")?;
    let format = section.choice("format", &[]);
    let level = section.choice("level", &[]);
    let access_log = section.flag("access_log");
    Some(Logging {
        format: if format?.value == "text" {
            LogFormat::Text
        } else {
            LogFormat::Json
        },
        level: match level?.value {
            "error" => LevelFilter::ERROR,
            "warn" => LevelFilter::WARN,
            "debug" => LevelFilter::DEBUG,
            "trace" => LevelFilter::TRACE,
            _ => LevelFilter::INFO,
        },
        access_log: access_log?,
    })
}

/// Our own pages.
pub(super) fn pages(root: &Section<'_>) -> Option<Pages> {
    let section = root.section("pages")?;
    let title = section.text("title");
    if let Some(title) = title
        .as_ref()
        .filter(|title| title.value.is_empty() || title.value.chars().count() > 200)
    {
        section.reader.problem(
            &title.spot,
            "no title: write 1 to 200 characters, or remove it",
        );
    }
    Some(Pages {
        title: title.map(|title| title.value),
    })
}
