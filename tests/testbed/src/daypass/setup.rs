//! Writes the configuration that a test starts daypass with.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::node::RealProvider;
use crate::pki::Issued;
use crate::provider::{CLIENT_ID, Provider, random};
use crate::redis::Redis;

/// A configuration in the making.
///
/// In every text `@LISTEN@`, `@ADMIN@`, `@PUBLIC_URL@` and `@DIR@` (directory of the file) are filled in: ports are
/// not known before.
#[derive(Debug, Clone)]
pub struct Setup {
    source: Source,
    tls: bool,
    at: Option<SocketAddr>,
    pub(super) files: Vec<(String, String)>,
    pub(super) environment: Vec<(String, String)>,
}

#[derive(Debug, Clone)]
enum Source {
    Text(String),
    Document(Value),
}

/// Where a process listens, and what the browser calls it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    pub(super) public: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) origin: SocketAddr,
}

impl Places {
    /// Free ports, picked beforehand: `public_url` names the public one, and a reload must find both unchanged.
    pub(super) fn pick(setup: &Setup) -> Self {
        let public = setup.at.unwrap_or_else(crate::ports::free);
        Self {
            public,
            admin: crate::ports::free(),
            origin: public,
        }
    }
}

impl Setup {
    /// This YAML, with the placeholders filled in.
    pub fn yaml(text: &str) -> Self {
        Self::from_source(Source::Text(text.to_owned()))
    }

    /// A session route for `/`, a public one for `/public`, both to `upstream`; the memory store; all that is logged.
    pub fn new(provider: &Provider, upstream: &str) -> Self {
        Self::client(
            &provider.issuer(),
            CLIENT_ID,
            provider.client_secret(),
            upstream,
        )
    }

    /// As [`Setup::new`] with another provider.
    pub fn client(issuer: &str, client_id: &str, client_secret: &str, upstream: &str) -> Self {
        crate::secrets::record("client secret", client_secret);
        Self::from_source(Source::Document(json!({
            "public_url": "@PUBLIC_URL@",
            "listen": "@LISTEN@",
            "admin": {"listen": "@ADMIN@"},
            "provider": {"issuer": issuer, "client_id": client_id, "client_secret": client_secret},
            "session": {"store": "memory"},
            "routes": [
                {"name": "public", "path_prefix": "/public", "access": "public", "upstream": upstream},
                {
                    "name": "private", "path_prefix": "/", "access": "session", "upstream": upstream,
                    "claims_to_headers": {
                        "x-user": "sub", "x-name": "name", "x-email": "email", "x-groups": "groups",
                    },
                },
            ],
            // Everything is logged, so that everything is checked for secrets.
            "logging": {"format": "json", "level": "debug"},
        })))
    }

    /// As [`Setup::new`] with the real provider; combine with [`Setup::at`], for it must know our redirect URI.
    pub fn real(provider: &RealProvider, upstream: &str) -> Self {
        Self::client(
            &provider.issuer(),
            CLIENT_ID,
            provider.client_secret(),
            upstream,
        )
    }

    /// Listens at this address instead of a free one, for providers that must be told redirect URIs beforehand.
    #[must_use]
    pub fn at(mut self, public: SocketAddr) -> Self {
        self.at = Some(public);
        self
    }

    /// Sessions in `redis`, under a fresh key (the same for all processes started from this setup).
    #[must_use]
    pub fn redis(self, redis: &Redis) -> Self {
        self.set("session.store", redis.url()).session_key()
    }

    /// Seals under a fresh key.
    #[must_use]
    pub fn session_key(self) -> Self {
        // 32 bytes in standard base64, as `daypass keygen` prints them.
        let mut key = random(32).replace('-', "+").replace('_', "/");
        key.push('=');
        crate::secrets::record("session key", &key);
        self.set("session.keys", json!([key]))
    }

    /// The public listener speaks TLS and is called `https://localhost`.
    #[must_use]
    pub fn tls(mut self, certificate: &Issued) -> Self {
        self.tls = true;
        self.set(
            "listen",
            json!({
                "address": "@LISTEN@",
                "tls": {"cert_file": certificate.cert_file, "key_file": certificate.key_file},
            }),
        )
    }

    /// Sets the key at a dotted path; numbers are places in lists: `routes.0.access`.
    #[must_use]
    pub fn set(mut self, path: &str, value: impl Into<Value>) -> Self {
        let Source::Document(document) = &mut self.source else {
            panic!("a setup from YAML text has no keys to set");
        };
        let mut place = document;
        for key in path.split('.') {
            place = match key.parse::<usize>() {
                Ok(index) if place.is_array() => {
                    place.get_mut(index).expect("the list is long enough")
                }
                _ => {
                    if !place.is_object() {
                        *place = Value::Object(Map::new());
                    }
                    &mut place[key]
                }
            };
        }
        *place = value.into();
        self
    }

    /// Takes a top-level key or one at a dotted path out.
    #[must_use]
    pub fn unset(mut self, path: &str) -> Self {
        let Source::Document(document) = &mut self.source else {
            panic!("a setup from YAML text has no keys to take out");
        };
        let (parent, key) = path.rsplit_once('.').unwrap_or(("", path));
        let parent = if parent.is_empty() {
            Some(document)
        } else {
            document.pointer_mut(&format!("/{}", parent.replace('.', "/")))
        };
        if let Some(members) = parent.and_then(Value::as_object_mut) {
            members.shift_remove(key);
        }
        self
    }

    /// All routes at once.
    #[must_use]
    pub fn routes(self, routes: Value) -> Self {
        self.set("routes", routes)
    }

    /// A route before all others.
    #[must_use]
    pub fn route_first(mut self, route: Value) -> Self {
        if let Source::Document(document) = &mut self.source
            && let Some(routes) = document["routes"].as_array_mut()
        {
            routes.insert(0, route);
        }
        self
    }

    /// A file beside the configuration, to be named as `@DIR@/name`.
    #[must_use]
    pub fn file(mut self, name: &str, text: &str) -> Self {
        self.files.retain(|(old, _)| old != name);
        self.files.push((name.to_owned(), text.to_owned()));
        self
    }

    /// A variable of the process's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The file's text with ports that are free now: for running `daypass check` by hand.
    pub fn preview(&self, directory: &Path) -> String {
        self.render(&Places::pick(self), directory)
    }

    pub(super) fn anywhere(mut self) -> Self {
        self.at = None;
        self
    }

    pub(super) fn origin(&self, places: &Places) -> String {
        if self.tls {
            return format!("https://localhost:{}", places.origin.port());
        }
        format!("http://{}", places.origin)
    }

    pub(super) fn render(&self, places: &Places, directory: &Path) -> String {
        let text = match &self.source {
            Source::Text(text) => text.clone(),
            // JSON is YAML.
            Source::Document(document) => format!("{document:#}\n"),
        };
        text.replace("@LISTEN@", &places.public.to_string())
            .replace("@ADMIN@", &places.admin.to_string())
            .replace("@PUBLIC_URL@", &self.origin(places))
            .replace("@DIR@", &directory.display().to_string())
    }

    fn from_source(source: Source) -> Self {
        Self {
            source,
            tls: false,
            at: None,
            files: Vec::new(),
            environment: Vec::new(),
        }
    }
}

impl From<&str> for Setup {
    fn from(text: &str) -> Self {
        Self::yaml(text)
    }
}

impl From<&Self> for Setup {
    fn from(setup: &Self) -> Self {
        setup.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_set_by_path_and_places_filled_in() {
        let provider = Provider::start();
        let setup = Setup::new(&provider, "http://127.0.0.1:1")
            .set("session.cookie.same_site", "strict")
            .set("routes.1.token.kind", "id")
            .unset("session.store")
            .route_first(json!({"path": "/first", "access": "deny"}));
        let places = Places::pick(&setup);
        let text = setup.render(&places, Path::new("/d"));
        let document: Value = serde_json::from_str(&text).expect("it is JSON, which is YAML");
        assert_eq!(document["public_url"], format!("http://{}", places.public));
        assert_eq!(
            document["session"],
            json!({"cookie": {"same_site": "strict"}})
        );
        assert_eq!(document["routes"][0]["path"], "/first");
        assert_eq!(document["routes"][2]["token"], json!({"kind": "id"}));
    }
}
