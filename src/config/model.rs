//! The checked configuration: a value of these types is correct, so nothing downstream validates again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use url::Url;

pub use super::provider::ClientKey;
use crate::secret::{ClientSecret, PrivateKey, SealingKey, StorePassword, StoreUrl};

/// Everything daypass needs to know to serve.
#[derive(Debug, Clone)]
pub struct Config {
    /// Origins the browser sees; never empty. The first is the main one.
    pub public_origins: Vec<Origin>,
    /// Where requests come in; never empty.
    pub listeners: Vec<Listener>,
    /// Where `/metrics`, `/healthz` and `/readyz` are served.
    pub admin: Address,
    /// Peers whose forwarding headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Prefix of our own endpoints: starts with `/`, has no trailing `/`.
    pub base_path: Arc<str>,
    /// Providers in the order of the file; never empty. With `provider:` there is one, named `provider`.
    pub providers: Vec<Arc<Provider>>,
    /// Sessions and their cookie.
    pub session: Session,
    /// Upstreams, named ones and those written as a URL at a route (named after the URL's authority).
    pub upstreams: Vec<Arc<Upstream>>,
    /// Routes in the order of the file.
    pub routes: Vec<Arc<Route>>,
    /// Limits of the whole process.
    pub limits: Limits,
    /// What is logged.
    pub logging: Logging,
    /// Our own pages.
    pub pages: Pages,
    /// Files this configuration was read from (itself, secrets, keys, certificates): a change of any asks for a reload. With what
    /// they held when they were read.
    pub files: super::watch::Prints,
}

/// A web origin: scheme, host and port, in the form of the `Origin` header (RFC 6454 §6.2).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// `https` or `http`.
    pub secure: bool,
    /// Lower-case host, IPv6 in brackets.
    pub host: Box<str>,
    /// Effective port.
    pub port: u16,
    /// Serialised: `https://shop.example.com`, with the port only when it is not the default.
    pub text: Arc<str>,
}

impl Origin {
    /// The value of the `Host` header: host, and the port when it is not the default.
    pub fn authority(&self) -> &str {
        self.text
            .split_once("://")
            .map_or(&*self.text, |(_, rest)| rest)
    }
}

/// One socket requests come in on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Where it listens.
    pub address: Address,
    /// TLS with ALPN `h2` and `http/1.1`.
    pub tls: Option<ListenerTls>,
}

/// A socket address or a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// TCP.
    Tcp(SocketAddr),
    /// Unix socket, by path.
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A listener's certificate; files are read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTls {
    /// PEM chain, leaf first.
    pub cert_file: PathBuf,
    /// PEM private key.
    pub key_file: PathBuf,
    /// PEM authorities that client certificates must come from.
    pub client_ca_file: Option<PathBuf>,
}

/// An OpenID Provider and how we are registered there.
#[derive(Debug, Clone, PartialEq)]
pub struct Provider {
    /// Name in metrics, logs and the chooser.
    pub name: Arc<str>,
    /// Issuer identifier, exactly as written: it is compared as a string (Discovery §4.3).
    pub issuer: String,
    /// Our `client_id`.
    pub client_id: String,
    /// How we prove who we are.
    pub client_auth: ClientAuth,
    /// Scopes asked for; contains `openid`.
    pub scopes: Vec<String>,
    /// Extra parameters of the authorization request; never one we set ourselves.
    pub authorize_params: BTreeMap<String, String>,
    /// Pushed authorization requests (RFC 9126).
    pub par: Par,
    /// PEM authorities to trust beside the system's.
    pub ca_pem: Option<Vec<u8>>,
    /// Whether claims of the UserInfo endpoint are merged into the ID token's.
    pub userinfo: bool,
    /// Signature algorithms accepted for ID tokens.
    pub id_token_algorithms: Vec<jsonwebtoken::Algorithm>,
    /// How long a request waits for the provider.
    pub timeout: Duration,
    /// How long a refresh under way is left to finish.
    pub refresh_patience: Duration,
    /// Life of an access token whose answer has no `expires_in` and which is no JWT with `exp`.
    pub default_token_lifetime: Duration,
    /// Plain http is allowed for issuer and endpoints (always for loopback).
    pub insecure_http: bool,
}

/// Client authentication at the provider's endpoints.
#[derive(Debug, Clone)]
pub enum ClientAuth {
    /// HTTP Basic, form-urlencoded first (RFC 6749 §2.3.1).
    SecretBasic(ClientSecret),
    /// In the form body (RFC 6749 §2.3.1).
    SecretPost(ClientSecret),
    /// Signed assertion (RFC 7523 §2.2).
    PrivateKeyJwt(ClientKey),
    /// Public client.
    None,
}

impl PartialEq for ClientAuth {
    /// Secrets are compared in constant time; used to see whether a reload changed anything.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::SecretBasic(a), Self::SecretBasic(b))
            | (Self::SecretPost(a), Self::SecretPost(b)) => a.matches(b.expose()),
            (Self::PrivateKeyJwt(a), Self::PrivateKeyJwt(b)) => a.matches(b),
            (Self::None, Self::None) => true,
            _ => false,
        }
    }
}

/// When authorization requests are pushed (RFC 9126).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Par {
    /// When the provider's metadata offer it.
    Auto,
    /// Always; a provider without it is an error.
    Required,
    /// Never.
    Off,
}

/// Sessions and their cookie.
#[derive(Debug, Clone)]
pub struct Session {
    /// Where sessions are kept.
    pub store: Store,
    /// First seals, all open. Empty only with the memory store: then the sessions make a key of their own.
    pub keys: Vec<SealingKey>,
    /// Absolute lifetime.
    pub lifetime: Duration,
    /// Idle time-out; `None` when off.
    pub idle_timeout: Option<Duration>,
    /// How long before a token's expiry it is refreshed.
    pub refresh_before: Duration,
    /// With Redis unreachable, how long after it was last known true a cached session is served.
    pub max_staleness: Duration,
    /// Most sessions of Redis kept in this process.
    pub cache_entries: usize,
    /// Claims that `session` may tell the page.
    pub expose_claims: Vec<String>,
    /// The cookie.
    pub cookie: Cookie,
}

/// Where sessions are kept.
#[derive(Debug, Clone)]
pub enum Store {
    /// In this process, at most `entries`.
    Memory {
        /// Bound; the least recently used session goes first.
        entries: usize,
    },
    /// In Redis.
    Redis(Box<RedisStore>),
}

/// Redis, and how it is laid out.
#[derive(Debug, Clone)]
pub struct RedisStore {
    /// `redis://`, `rediss://` or `unix:` URL as configured, password included. Of several, the first.
    pub url: StoreUrl,
    /// The URLs after the first: of sentinels or of a Cluster's nodes.
    pub more_urls: Vec<StoreUrl>,
    /// What the URLs lead to.
    pub mode: RedisMode,
    /// ACL user; overrides the URL's.
    pub username: Option<String>,
    /// Password; overrides the URL's.
    pub password: Option<StorePassword>,
    /// PEM authorities to trust instead of the public ones (`rediss://`).
    pub ca_pem: Option<Vec<u8>>,
    /// PEM client certificate chain and key.
    pub client_cert: Option<(Vec<u8>, PrivateKey)>,
    /// Prefix of all keys.
    pub key_prefix: String,
}

/// What the URLs of a Redis store lead to.
#[derive(Debug, Clone)]
pub enum RedisMode {
    /// The one server.
    Single,
    /// Sentinels, which know the master.
    Sentinel {
        /// The master's name.
        master: String,
        /// ACL user at the sentinels.
        username: Option<String>,
        /// Password at the sentinels.
        password: Option<StorePassword>,
    },
    /// Some nodes of a Cluster.
    Cluster,
}

/// The session cookie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cookie {
    /// Full name, with `__Host-` or `__Secure-` where it applies.
    pub name: Arc<str>,
    /// Full name of the cookie that binds logins to the browser.
    pub login_name: Arc<str>,
    /// `Domain` attribute.
    pub domain: Option<Arc<str>>,
    /// `SameSite` attribute.
    pub same_site: SameSite,
    /// `Secure` attribute: every public origin is https.
    pub secure: bool,
}

/// `SameSite` (RFC 6265bis §4.1.2.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameSite {
    /// Sent on same-site requests only.
    Strict,
    /// Also on top-level navigations.
    Lax,
    /// Always.
    None,
}

/// A server requests are forwarded to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Label in metrics and logs.
    pub name: Arc<str>,
    /// Where it is.
    pub target: Target,
    /// HTTP version spoken.
    pub protocol: Protocol,
    /// Limit of TCP (and TLS) connection set-up.
    pub connect_timeout: Duration,
    /// Limit between two reads.
    pub read_timeout: Duration,
    /// Idle connections kept.
    pub keepalive: usize,
    /// TLS towards it.
    pub tls: Option<UpstreamTls>,
}

/// An upstream's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Host name or address, and port; resolved again as time goes by.
    Tcp {
        /// Host, no brackets for IPv6.
        host: Box<str>,
        /// Port.
        port: u16,
    },
    /// Unix socket.
    Unix(PathBuf),
}

/// HTTP version towards an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// ALPN decides on TLS, HTTP/1.1 on plain connections.
    Auto,
    /// HTTP/1.1 only.
    Http1,
    /// HTTP/2 only; with prior knowledge on plain connections (`h2c://`).
    Http2,
}

/// TLS towards an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTls {
    /// Name asked for and checked in the certificate; never empty.
    pub server_name: Box<str>,
    /// PEM authorities to trust instead of the system's.
    pub ca_pem: Option<Vec<u8>>,
    /// PEM client certificate chain.
    pub client_cert_pem: Option<Vec<u8>>,
    /// File of the client certificate's PEM key (read at load time, kept out of `Debug`).
    pub client_key_file: Option<PathBuf>,
}

/// One route.
#[derive(Debug, Clone)]
pub struct Route {
    /// Label in metrics and logs; unique.
    pub name: Arc<str>,
    /// Host pattern.
    pub host: Option<HostPattern>,
    /// Methods; empty means all.
    pub methods: Vec<http::Method>,
    /// Path matcher.
    pub path: PathPattern,
    /// Who may pass.
    pub access: Access,
    /// Index into [`Config::upstreams`]; `None` only with [`Access::Deny`].
    pub upstream: Option<usize>,
    /// Replaces the matched prefix; canonical, no trailing slash unless it is `/`.
    pub rewrite_prefix: Option<String>,
    /// What a signed-in user must have.
    pub require: Require,
    /// What is shown at the upstream's door.
    pub token: Token,
    /// Header name to dotted claim path.
    pub claims_to_headers: Vec<(http::HeaderName, ClaimPath)>,
    /// What a request without session gets.
    pub on_unauthenticated: OnUnauthenticated,
    /// Headers set and removed.
    pub headers: Headers,
    /// Cross-site requests that ride on the cookie.
    pub cross_site: CrossSite,
    /// Limits.
    pub limits: RouteLimits,
    /// Index into [`Config::providers`] when the route names one.
    pub provider: Option<usize>,
}

/// Exact host or wildcard of one or more labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// The whole host, lower case.
    Exact(Box<str>),
    /// `*.example.com`, kept as `.example.com`.
    Suffix(Box<str>),
}

/// How a route matches the canonical path.
#[derive(Debug, Clone)]
pub enum PathPattern {
    /// The whole path.
    Exact(String),
    /// Whole segments; `/` matches all. No trailing slash otherwise.
    Prefix(String),
    /// Anchored at both ends.
    Regex(regex::Regex),
}

/// Who may pass a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everyone; no session is looked at.
    Public,
    /// Everyone; a session is used when there is one.
    Optional,
    /// Signed-in users.
    Session,
    /// Nobody.
    Deny,
}

/// What a signed-in user must have, else 403.
#[derive(Debug, Clone, Default)]
pub struct Require {
    /// Every scope must have been granted.
    pub scopes: Vec<String>,
    /// Every claim must match.
    pub claims: Vec<(ClaimPath, Vec<serde_json::Value>)>,
}

/// Dotted path into the claims, already split; a key that itself holds dots is tried whole first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimPath {
    /// As written.
    pub text: Box<str>,
    /// Split at dots.
    pub segments: Vec<Box<str>>,
}

/// What is shown at the upstream's door.
#[derive(Debug, Clone)]
pub struct Token {
    /// Which token.
    pub kind: TokenKind,
    /// `authorization` carries `Bearer …`, any other header the raw token.
    pub header: http::HeaderName,
}

/// Which token is forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// The access token.
    Access,
    /// The ID token.
    Id,
    /// None.
    None,
}

/// What a request without session gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnUnauthenticated {
    /// Navigations are redirected, all else gets 401.
    Auto,
    /// Always redirected.
    Redirect,
    /// Always 401.
    Unauthorized,
}

/// Headers set and removed on the way up and down.
#[derive(Debug, Clone, Default)]
pub struct Headers {
    /// Set on the request.
    pub request_set: Vec<(http::HeaderName, http::HeaderValue)>,
    /// Removed from the request.
    pub request_remove: Vec<http::HeaderName>,
    /// Set on the response.
    pub response_set: Vec<(http::HeaderName, http::HeaderValue)>,
    /// Removed from the response.
    pub response_remove: Vec<http::HeaderName>,
}

/// Unsafe methods and WebSocket handshakes from other sites.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CrossSite {
    /// 403.
    Deny,
    /// As any other.
    Allow,
    /// Only from these origins.
    Origins(Vec<Origin>),
}

/// Limits of one route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteLimits {
    /// Largest request body in bytes.
    pub body: u64,
    /// Longest wait for the upstream's response header, counted from the request.
    pub timeout: Duration,
}

/// Limits of the whole process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest request header block in bytes.
    pub header_bytes: usize,
    /// Logins started per minute and client address.
    pub logins_per_minute_per_ip: NonZeroU32,
    /// Longest time from SIGTERM for requests to end; token refreshes under way have their `refresh_patience`.
    pub drain_timeout: Duration,
}

/// What is logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logging {
    /// JSON or text.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: tracing::level_filters::LevelFilter,
    /// One line per request.
    pub access_log: bool,
}

/// Shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Our own pages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pages {
    /// Name of the application, shown as heading.
    pub title: Option<String>,
}

impl Config {
    /// URL of the main origin.
    pub fn main_origin(&self) -> &Origin {
        // `public_origins` is never empty: see the field.
        &self.public_origins[0]
    }

    /// Whether any route shows upstreams a token of the session. If none does, the session does not hang on tokens.
    pub fn shows_tokens(&self) -> bool {
        let mut routes = self.routes.iter();
        routes.any(|route| route.token.kind != TokenKind::None)
    }

    /// Absolute URL of one of our endpoints at `origin`; `endpoint` has no leading slash.
    pub fn endpoint(&self, origin: &Origin, endpoint: &str) -> Url {
        let text = format!("{}{}/{endpoint}", origin.text, self.base_path);
        Url::parse(&text).expect("an origin, a canonical base path and a fixed endpoint make a URL")
    }
}
