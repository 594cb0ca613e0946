//! Reads `session`: store, keys, times and cookie.

use std::sync::Arc;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::prelude::BASE64_STANDARD;
use url::Host;
use zeroize::Zeroizing;

use super::model::{Cookie, Origin, SameSite, Session, Store};
use super::read::{At, Reader, Spot};
use super::section::Section;
use super::store;
use super::table::STORE;
use super::tree::Kind;
use crate::secret::SealingKey;

/// Reads the section; `origins` are the public ones, when they could be read.
pub(super) fn session(root: &Section<'_>, origins: Option<&[Origin]>) -> Option<Session> {
    let section = root.section("session")?;
    let cache_entries = section
        .count("cache_entries")
        .and_then(|entries| usize::try_from(entries).ok());
    let store = store(&section, cache_entries);
    let keys = keys(&section, store.as_ref());
    let lifetime = section.duration("lifetime");
    let idle_timeout = section.duration("idle_timeout");
    if let (Some(lifetime), Some(idle)) = (lifetime, idle_timeout)
        && idle > lifetime
        // Who never wrote it has nothing to mend.
        && section.has("idle_timeout")
    {
        section.reader.warning(
            &section.spot_of("idle_timeout"),
            "longer than `lifetime`, so it never counts: write a shorter one, or `0` for off",
        );
    }
    let refresh_before = section.duration("refresh_before");
    let max_staleness = section.duration("max_staleness");
    let expose_claims = section.texts("expose_claims");
    let cookie = cookie(&section, origins);
    Some(Session {
        store: store?,
        keys: keys?,
        lifetime: lifetime?,
        idle_timeout: Some(idle_timeout?).filter(|idle| !idle.is_zero()),
        refresh_before: refresh_before?,
        max_staleness: max_staleness?,
        cache_entries: cache_entries?,
        expose_claims: expose_claims?
            .value
            .into_iter()
            .map(|claim| claim.value)
            .collect(),
        cookie: cookie?,
    })
}

fn store(section: &Section<'_>, entries: Option<usize>) -> Option<Store> {
    let reader = section.reader;
    let value = section.any("store")?;
    let store = match &value.value.kind {
        Kind::Scalar { text, .. } if text == "memory" => {
            return entries.map(|entries| Store::Memory { entries });
        }
        Kind::Scalar { .. } => {
            let url = reader.text(value)?;
            store::single(reader, url)
        }
        Kind::Mapping(_) => Section::open(reader, &STORE, value)
            .and_then(|store| {
                // Required: a missing one is a problem.
                if store.has("redis") {
                    store.section("redis")
                } else {
                    store.any("redis").and(None)
                }
            })
            .and_then(|redis| store::redis(&redis)),
        Kind::Sequence(_) => {
            reader.problem(
                &value.spot,
                "expected one store: write `memory`, a `redis://` URL or `{redis: {url: …}}`",
            );
            None
        }
    };
    store.map(Box::new).map(Store::Redis)
}

/// Key ring, each key as 32 bytes in standard base64 with padding, whatever the spelling in the file.
fn keys(section: &Section<'_>, store: Option<&Store>) -> Option<Vec<SealingKey>> {
    let reader = section.reader;
    let Some(value) = section.given("keys") else {
        return match store? {
            Store::Memory { .. } => Some(Vec::new()),
            Store::Redis(_) => {
                reader.problem(
                    &section.spot_of("keys"),
                    "missing: with Redis all replicas need the same keys, write `keys: [{file: PATH}]` with the output of `daypass keygen`",
                );
                None
            }
        };
    };
    let list = reader.list(value)?;
    if list.value.is_empty() {
        reader.problem(&list.spot, "no key: write at least one, such as `{file: PATH}` with the output of `daypass keygen`");
        return None;
    }
    if list.value.len() > 16 {
        reader.problem(
            &list.spot,
            "more than 16 keys: keep those that sealed sessions still alive",
        );
        return None;
    }
    let mut seen: Vec<Zeroizing<String>> = Vec::new();
    list.value
        .into_iter()
        .map(|value| {
            let secret = reader.secret(value)?;
            let Some(bytes) = decode_key(&secret.value) else {
                reader.problem(
                    &secret.spot,
                    "not a key of 32 bytes in base64: write the output of `daypass keygen`",
                );
                return None;
            };
            if bytes.iter().all(|byte| *byte == bytes[0]) {
                reader.problem(
                    &secret.spot,
                    "a key of one repeated byte is no secret: write the output of `daypass keygen`",
                );
                return None;
            }
            let text = Zeroizing::new(BASE64_STANDARD.encode(*bytes));
            if seen.contains(&text) {
                reader.problem(&secret.spot, "the same key twice: keep one");
                return None;
            }
            seen.push(text.clone());
            Some(SealingKey::new(text.as_str()))
        })
        .collect::<Vec<_>>()
        .into_iter()
        .collect()
}

/// Standard or URL-safe alphabet, padded or not.
fn decode_key(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let lenient =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let alphabet = if text.contains(['-', '_']) {
        alphabet::URL_SAFE
    } else {
        alphabet::STANDARD
    };
    let bytes = Zeroizing::new(
        GeneralPurpose::new(&alphabet, lenient)
            .decode(text.trim())
            .ok()?,
    );
    Some(Zeroizing::new(bytes.as_slice().try_into().ok()?))
}

fn cookie(section: &Section<'_>, origins: Option<&[Origin]>) -> Option<Cookie> {
    let reader = section.reader;
    let cookie = section.section("cookie")?;
    let name = cookie.text("name").filter(|name| check_name(reader, name));
    let domain = cookie.text("domain");
    let domain_good = match (&domain, origins) {
        (Some(domain), origins) => check_domain(reader, domain, origins.unwrap_or_default()),
        (None, _) => true,
    };
    let same_site = cookie.choice("same_site", &[]);
    let secure = origins?.iter().all(|origin| origin.secure);
    if let Some(same_site) = same_site
        .as_ref()
        .filter(|same_site| same_site.value == "none" && !secure)
    {
        // Browsers refuse such a cookie (RFC 6265bis §5.7 step 19).
        reader.problem(
            &same_site.spot,
            "`none` needs https at every public URL: write `lax`",
        );
        return None;
    }
    let prefix = match (secure, &domain) {
        (true, None) => "__Host-",
        (true, Some(_)) => "__Secure-",
        (false, _) => "",
    };
    let name = name?.value;
    if !domain_good {
        return None;
    }
    Some(Cookie {
        name: Arc::from(format!("{prefix}{name}")),
        // It has no `Domain`, so no sibling host needs to be able to plant one (FLOW-08).
        login_name: Arc::from(if prefix.is_empty() {
            format!("{name}-login")
        } else {
            format!("__Host-{name}-login")
        }),
        domain: domain.map(|domain| domain.value.into()),
        same_site: match same_site?.value {
            "strict" => SameSite::Strict,
            "none" => SameSite::None,
            _ => SameSite::Lax,
        },
        secure,
    })
}

/// A cookie's name is a token (RFC 6265 §4.1.1).
fn check_name(reader: &Reader<'_>, name: &At<String>) -> bool {
    let lower = name.value.to_ascii_lowercase();
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let complaint = if lower.starts_with("__host-") || lower.starts_with("__secure-") {
        "daypass adds the prefix itself: write the name without it"
    } else if !(1..=64).contains(&name.value.len()) || !name.value.bytes().all(is_token) {
        "no cookie name: write letters, digits, `-` and `_`, at most 64"
    } else {
        return true;
    };
    reader.problem(&name.spot, complaint);
    false
}

fn check_domain(reader: &Reader<'_>, domain: &At<String>, origins: &[Origin]) -> bool {
    let report = |spot: &Spot, message: String| {
        reader.problem(spot, message);
        false
    };
    let text = domain.value.as_str();
    if text.starts_with('.') {
        return report(
            &domain.spot,
            "a leading dot means nothing today: write the domain without it".into(),
        );
    }
    if text != text.to_ascii_lowercase() {
        return report(&domain.spot, "must be in lower case: write it so".into());
    }
    if !matches!(Host::parse(text), Ok(Host::Domain(name)) if name == text) || text.ends_with('.') {
        return report(
            &domain.spot,
            "no domain: write a host name such as `example.com`".into(),
        );
    }
    if !text.contains('.') && text != "localhost" {
        return report(
            &domain.spot,
            "a top-level domain cannot hold cookies: write one of your own, such as `example.com`"
                .into(),
        );
    }
    let uncovered = origins.iter().find(|origin| {
        let rest = origin.host.strip_suffix(text);
        !rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    });
    if let Some(origin) = uncovered {
        return report(
            &domain.spot,
            format!(
                "does not cover `{}` of `public_url`: write a domain that all its hosts share, or none",
                origin.host
            ),
        );
    }
    true
}
