//! Reads `session.store.redis`: the URLs, what they lead to, and the credentials.

use url::Url;
use zeroize::Zeroizing;

use super::model::{RedisMode, RedisStore};
use super::problem::Place;
use super::read::{At, Reader};
use super::section::Section;
use super::table::REDIS;
use super::{scalar, tls};
use crate::secret::{PrivateKey, StorePassword, StoreUrl};

/// More would be a slip; each is dialled.
const MAX_URLS: usize = 50;

/// A store of which only the URL is written.
pub(super) fn single(reader: &Reader<'_>, url: At<String>) -> Option<RedisStore> {
    address(reader, &url, Mode::Single)?;
    let defaults = Section::defaults(reader, &REDIS, url.spot);
    Some(RedisStore {
        url: StoreUrl::new(url.value),
        more_urls: Vec::new(),
        mode: RedisMode::Single,
        username: None,
        password: None,
        ca_pem: None,
        client_cert: None,
        key_prefix: defaults.text("key_prefix")?.value,
    })
}

/// A store with options.
pub(super) fn redis(redis: &Section<'_>) -> Option<RedisStore> {
    let reader = redis.reader;
    let mode = redis.choice("mode", &[]).map(|mode| match mode.value {
        "sentinel" => Mode::Sentinel,
        "cluster" => Mode::Cluster,
        _ => Mode::Single,
    });
    let urls = urls(redis);
    // With a wrong mode nothing can be said about the rest that would not be a guess.
    let addresses = match (mode, &urls) {
        (Some(mode), Some(urls)) => addresses(reader, urls, mode),
        _ => None,
    };
    let username = redis.text("username");
    let password = redis.secret("password");
    let layout = layout(redis, mode);
    let key_prefix = redis.text("key_prefix");
    if let Some(prefix) = key_prefix.as_ref().filter(|prefix| {
        prefix.value.len() > 64
            || prefix
                .value
                .contains(|c: char| c.is_control() || c.is_whitespace() || matches!(c, '{' | '}'))
    }) {
        reader.problem(
            &prefix.spot,
            "no key prefix: write at most 64 characters, without spaces and braces",
        );
    }
    let has_tls = redis.has("tls");
    let tls = redis.section("tls")?;
    if has_tls && addresses.as_ref().is_some_and(|found| !found.tls) {
        reader.problem(
            &redis.spot_of("tls"),
            "TLS options without TLS: write `rediss://` in the URL, or remove `tls`",
        );
    }
    let ca_pem = tls::authorities(&tls, "ca_file");
    let pair = tls::pair(&tls, "client_cert", "client_key");
    let client_cert = match pair {
        Some(pair) => {
            let key = Zeroizing::new(pair.key);
            let text = reader.accept(
                &tls.spot_of("client_key"),
                std::str::from_utf8(&key).map_err(|_| "not a text file: write one in PEM"),
            )?;
            Some((pair.chain, PrivateKey::new(text)))
        }
        None => None,
    };
    let mut urls = addresses?.urls.into_iter();
    Some(RedisStore {
        url: urls.next()?,
        more_urls: urls.collect(),
        mode: layout?,
        username: username.map(|name| name.value),
        password: password.map(|password| StorePassword::new(password.value.as_str())),
        ca_pem,
        client_cert,
        key_prefix: key_prefix?.value,
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Single,
    Sentinel,
    Cluster,
}

/// The mode with what belongs to it.
fn layout(redis: &Section<'_>, mode: Option<Mode>) -> Option<RedisMode> {
    let reader = redis.reader;
    let master = redis.text("master");
    let username = redis.text("sentinel_username");
    let password = redis.secret("sentinel_password");
    let mode = mode?;
    if mode != Mode::Sentinel {
        for key in ["master", "sentinel_username", "sentinel_password"] {
            if redis.has(key) {
                reader.problem(
                    &redis.spot_of(key),
                    "only of use with sentinels: write `mode: sentinel`, or remove it",
                );
            }
        }
    }
    Some(match mode {
        Mode::Single => RedisMode::Single,
        Mode::Cluster => RedisMode::Cluster,
        Mode::Sentinel => {
            if !redis.has("master") {
                reader.problem(
                    &redis.spot_of("master"),
                    "missing: with sentinels write the name they know the master by, for example `master: mymaster`",
                );
            }
            if redis.has("sentinel_username") && !redis.has("sentinel_password") {
                reader.problem(
                    &redis.spot_of("sentinel_password"),
                    "missing: `sentinel_username` needs its password",
                );
            }
            let master = master?;
            if master.value.is_empty() || master.value.contains(char::is_whitespace) {
                reader.problem(
                    &master.spot,
                    "no name of a master: write it as in `sentinel monitor`",
                );
                return None;
            }
            RedisMode::Sentinel {
                master: master.value,
                username: username.map(|name| name.value),
                password: password.map(|text| StorePassword::new(text.value.as_str())),
            }
        }
    })
}

/// The URLs under `url` or `urls`; at least one.
fn urls(redis: &Section<'_>) -> Option<Vec<At<String>>> {
    let reader = redis.reader;
    let url = redis.has("url").then(|| redis.text("url"));
    let urls = redis.has("urls").then(|| redis.texts("urls"));
    match (url, urls) {
        (Some(_), Some(_)) => {
            reader.problem(
                &redis.spot_of("urls"),
                "both `url` and `urls` are given: keep one of them",
            );
            None
        }
        (Some(url), None) => Some(vec![url?]),
        (None, Some(urls)) => {
            let urls = urls?;
            let complaint = match urls.value.len() {
                0 => "no URL: write one, such as `redis://redis:6379/0`",
                1..=MAX_URLS => return Some(urls.value),
                _ => "more than 50 URLs: a few that are up are enough",
            };
            reader.problem(&urls.spot, complaint);
            None
        }
        (None, None) => {
            // Asked for, so that the tables know them as read.
            redis.given("url").or_else(|| redis.given("urls"));
            reader.problem(
                &redis.spot_of("url"),
                "missing: write, for example, `url: redis://redis:6379/0`",
            );
            None
        }
    }
}

struct Addresses {
    urls: Vec<StoreUrl>,
    tls: bool,
}

/// Checks the URLs one by one, and that they fit each other and the mode.
fn addresses(reader: &Reader<'_>, urls: &[At<String>], mode: Mode) -> Option<Addresses> {
    let parsed: Vec<_> = urls.iter().map(|url| address(reader, url, mode)).collect();
    if mode == Mode::Single
        && let Some(second) = urls.get(1)
    {
        reader.problem(
            &second.spot,
            "several URLs for a single server: keep one, or write `mode: sentinel` or `mode: cluster`",
        );
        return None;
    }
    let parsed: Vec<Address> = parsed.into_iter().collect::<Option<_>>()?;
    let first = parsed.first()?;
    let mut good = true;
    for (index, (url, address)) in urls.iter().zip(&parsed).enumerate().skip(1) {
        let complaint = if address.tls != first.tls {
            "another scheme than the first URL: write all with `redis://`, or all with `rediss://`"
        } else if address.database != first.database {
            "another database than in the first URL: write the same in all"
        } else if parsed[..index]
            .iter()
            .any(|earlier| earlier.node == address.node)
        {
            "the same server twice: keep one"
        } else {
            continue;
        };
        reader.problem(&url.spot, complaint);
        good = false;
    }
    good.then(|| Addresses {
        urls: urls
            .iter()
            .map(|url| StoreUrl::new(url.value.as_str()))
            .collect(),
        tls: first.tls,
    })
}

struct Address {
    tls: bool,
    database: u16,
    node: (String, Option<u16>),
}

/// Checks a store's URL without ever repeating it: it may hold a password.
fn address(reader: &Reader<'_>, url: &At<String>, mode: Mode) -> Option<Address> {
    const EXPECTED: &str = "expected a store: write `memory`, `redis://host:6379/0`, `rediss://host:6379/0` or `unix:/path`";
    let problem = |message: &str| {
        reader.problem(&url.spot, message);
        None
    };
    if let Some(path) = url.value.strip_prefix("unix:") {
        if mode != Mode::Single {
            return problem(
                "sentinels and Clusters are reached over the network: write `redis://` or `rediss://`",
            );
        }
        if !path.starts_with('/') {
            return problem(
                "expected an absolute path: write, for example, `unix:/run/redis.sock`",
            );
        }
        return reader
            .accept(&url.spot, scalar::unix_path(path, &reader.base))
            .map(|_| Address {
                tls: false,
                database: 0,
                node: (path.to_owned(), None),
            });
    }
    let Some(parsed) = Url::parse(&url.value).ok() else {
        return problem(EXPECTED);
    };
    let tls = match parsed.scheme() {
        "redis" => false,
        "rediss" => true,
        _ => return problem(EXPECTED),
    };
    let Some(host) = parsed.host_str().filter(|host| !host.is_empty()) else {
        return problem("the URL has no host: write, for example, `redis://redis:6379/0`");
    };
    if parsed.fragment().is_some() {
        return problem(
            "the URL has a fragment, which would switch off checks of TLS: remove the part from `#`",
        );
    }
    if parsed.query().is_some() {
        return problem(
            "the URL has options: remove the part from `?`, and use the keys of `store: {redis: {…}}`",
        );
    }
    let database = parsed.path().trim_start_matches('/');
    let database = match (database.is_empty(), database.parse::<u16>()) {
        (true, _) => 0,
        (false, Ok(database)) => database,
        (false, Err(_)) => {
            return problem(
                "the path must be the number of a database: write, for example, `redis://redis:6379/0`",
            );
        }
    };
    if mode == Mode::Cluster && database != 0 {
        return problem("a Cluster has database 0 only: remove the path");
    }
    if mode != Mode::Single && (parsed.password().is_some() || !parsed.username().is_empty()) {
        return problem(
            "the URL holds a user or password: write `username` and `password` beside `urls`, and for the sentinels `sentinel_username` and `sentinel_password`",
        );
    }
    if parsed.password().is_some() && !matches!(url.spot.place, Place::Variable(_)) {
        reader.warning(&url.spot, "a password stands in the URL: write `store: {redis: {url: …, password: {file: PATH}}}`");
    }
    Some(Address {
        tls,
        database,
        node: (host.to_ascii_lowercase(), parsed.port()),
    })
}
