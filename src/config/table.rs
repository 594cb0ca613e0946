//! Lists every key of the configuration file: the one source for the reader, the schema and the reference.

/// A mapping with fixed keys.
#[derive(Debug)]
pub(super) struct Table {
    /// Heading in the reference; also how a message calls it.
    pub(super) title: &'static str,
    /// What it is for, in a sentence or two.
    pub(super) about: &'static str,
    pub(super) keys: &'static [Key],
    /// Keys of the product's plan that do not work yet.
    pub(super) later: &'static [&'static str],
}

/// One key.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    pub(super) need: Need,
    pub(super) about: &'static str,
}

/// What happens without the key.
#[derive(Debug, Clone, Copy)]
pub(super) enum Need {
    /// An error; the text is an example.
    Required(&'static str),
    /// This value counts, written as in the file.
    Default(&'static str),
    /// Nothing, or what the description says.
    Optional,
}

/// What a value looks like.
#[derive(Debug)]
pub(super) enum Shape {
    Text,
    Bool,
    /// `90s`, `15m`; `0` too when the flag is set.
    Duration {
        zero: bool,
    },
    /// `64KiB`, between the two in bytes.
    Size(u64, u64),
    /// A whole number between the two.
    Count(u64, u64),
    /// A path of a file.
    File,
    Secret,
    OneOf(&'static [&'static str]),
    List(&'static Shape),
    /// Keys chosen by the user.
    Map(&'static Shape),
    Table(&'static Table),
    /// Any of these.
    Any(&'static [Shape]),
    /// A text, number or boolean.
    Scalar,
}

use Need::{Default, Optional, Required};
use Shape::{Any, Bool, Count, Duration, File, List, Map, OneOf, Scalar, Secret, Size, Text};

const fn key(name: &'static str, shape: Shape, need: Need, about: &'static str) -> Key {
    Key {
        name,
        shape,
        need,
        about,
    }
}

const SPAN: Shape = Duration { zero: false };
const SPAN_OR_OFF: Shape = Duration { zero: true };
const TEXTS: Shape = List(&Text);

pub(super) static ROOT: Table = Table {
    title: "the configuration",
    about: "The top level of the file.",
    keys: &[
        key(
            "public_url",
            Any(&[Text, TEXTS]),
            Required("public_url: https://shop.example.com"),
            "Origin the browser sees, or a list of them; the first is the main one. Requests for other hosts get 421.",
        ),
        key(
            "listen",
            Any(&[
                Text,
                Shape::Table(&LISTENER),
                List(&Any(&[Text, Shape::Table(&LISTENER)])),
            ]),
            Default("0.0.0.0:8080"),
            "Where requests come in: `ADDRESS:PORT`, `unix:/path`, a mapping, or a list of these.",
        ),
        key(
            "admin",
            Shape::Table(&ADMIN),
            Optional,
            "Where metrics and health are served.",
        ),
        key(
            "trusted_proxies",
            TEXTS,
            Default("[]"),
            "Networks whose `X-Forwarded-*` and `Forwarded` headers are believed.",
        ),
        key(
            "base_path",
            Text,
            Default("/oauth2"),
            "Where daypass's own endpoints live.",
        ),
        key(
            "insecure_http",
            Bool,
            Default("false"),
            "Allows a plain-http `public_url` off loopback; warns.",
        ),
        key(
            "provider",
            Shape::Table(&PROVIDER),
            Optional,
            "The OpenID Provider. Either this or `providers` is required.",
        ),
        key(
            "providers",
            Map(&Shape::Table(&PROVIDER)),
            Optional,
            "Several providers by name (`[a-z0-9-]+`); login shows a chooser.",
        ),
        key(
            "session",
            Shape::Table(&SESSION),
            Optional,
            "Sessions and their cookie.",
        ),
        key(
            "upstreams",
            Map(&Shape::Table(&UPSTREAM)),
            Optional,
            "Upstreams with options, by name (`[a-z0-9_-]+`); a route may also write a URL.",
        ),
        key(
            "routes",
            List(&Shape::Table(&ROUTE)),
            Required("routes: [{path_prefix: /, upstream: http://127.0.0.1:3000}]"),
            "First match wins; no match is 404.",
        ),
        key(
            "limits",
            Shape::Table(&LIMITS),
            Optional,
            "Limits of the whole process.",
        ),
        key(
            "logging",
            Shape::Table(&LOGGING),
            Optional,
            "What is logged.",
        ),
        key(
            "pages",
            Shape::Table(&PAGES),
            Optional,
            "daypass's own pages.",
        ),
    ],
    later: &["tracing"],
};

pub(super) static LISTENER: Table = Table {
    title: "listen",
    about: "One listener, when an address alone does not say enough.",
    keys: &[
        key(
            "address",
            Text,
            Required("address: 0.0.0.0:8443"),
            "`ADDRESS:PORT` or `unix:/path`.",
        ),
        key(
            "tls",
            Shape::Table(&LISTENER_TLS),
            Optional,
            "Serve TLS, with HTTP/2 and HTTP/1.1.",
        ),
    ],
    later: &[],
};

pub(super) static LISTENER_TLS: Table = Table {
    title: "listen.tls",
    about: "A listener's certificate. The files are read again when they change.",
    keys: &[
        key(
            "cert_file",
            File,
            Required("cert_file: /run/tls/tls.crt"),
            "PEM certificate chain, leaf first.",
        ),
        key(
            "key_file",
            File,
            Required("key_file: /run/tls/tls.key"),
            "PEM private key.",
        ),
        key(
            "client_ca_file",
            File,
            Optional,
            "PEM authorities; client certificates from them are then required.",
        ),
    ],
    later: &[],
};

pub(super) static ADMIN: Table = Table {
    title: "admin",
    about: "`/metrics`, `/healthz` and `/readyz`, never on the public listener.",
    keys: &[key(
        "listen",
        Text,
        Default("0.0.0.0:9090"),
        "`ADDRESS:PORT` or `unix:/path`.",
    )],
    later: &[],
};

pub(super) const CLIENT_AUTH: &[&str] = &[
    "client_secret_basic",
    "client_secret_post",
    "private_key_jwt",
    "none",
];
pub(super) const ALGORITHMS: &[&str] = &[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA",
];

pub(super) static PROVIDER: Table = Table {
    title: "provider",
    about: "An OpenID Provider and how daypass is registered there.",
    keys: &[
        key(
            "issuer",
            Text,
            Required("issuer: https://login.example.com/realms/acme"),
            "Issuer identifier, exactly as the provider writes it; discovery starts here. https, except on loopback.",
        ),
        key(
            "client_id",
            Text,
            Required("client_id: shop"),
            "Identifier of the client.",
        ),
        key(
            "client_auth",
            OneOf(CLIENT_AUTH),
            Optional,
            "How the client proves who it is. Default: `client_secret_basic` with a `client_secret`, `private_key_jwt` with a `client_key`; a public client says `none`.",
        ),
        key("client_secret", Secret, Optional, "The client's secret."),
        key(
            "client_key",
            Secret,
            Optional,
            "The client's private key, PEM or JWK.",
        ),
        key(
            "scopes",
            TEXTS,
            Default("[openid, profile, email, offline_access]"),
            "Scopes asked for; `openid` must be among them.",
        ),
        key(
            "authorize_params",
            Map(&Scalar),
            Default("{}"),
            "Extra parameters of the authorization request, such as `audience`.",
        ),
        key(
            "par",
            OneOf(&["auto", "required", "off"]),
            Default("auto"),
            "Pushed authorization requests (RFC 9126): `auto` uses them when offered.",
        ),
        key(
            "ca_file",
            File,
            Optional,
            "PEM authorities to trust beside the system's.",
        ),
        key(
            "userinfo",
            Bool,
            Default("false"),
            "Merge the claims of the UserInfo endpoint into the ID token's.",
        ),
        key(
            "id_token_algorithms",
            List(&OneOf(ALGORITHMS)),
            Default("[RS256, PS256, ES256, EdDSA]"),
            "Signature algorithms accepted for ID tokens.",
        ),
        key(
            "timeout",
            SPAN,
            Default("5s"),
            "How long a request waits for the provider.",
        ),
        key(
            "refresh_patience",
            SPAN,
            Default("60s"),
            "How long a refresh under way is left to finish.",
        ),
        key(
            "default_token_lifetime",
            SPAN,
            Default("5m"),
            "Life of an access token that does not tell its own.",
        ),
        key(
            "insecure_http",
            Bool,
            Default("false"),
            "Allows plain http to a provider off loopback; warns.",
        ),
    ],
    later: &[
        "preset",
        "resource",
        "response_mode",
        "dpop",
        "endpoints",
        "client_cert",
    ],
};

pub(super) static SESSION: Table = Table {
    title: "session",
    about: "Sessions and their cookie.",
    keys: &[
        key(
            "store",
            Any(&[Text, Shape::Table(&STORE)]),
            Default("memory"),
            "`memory`, a `redis://`, `rediss://` or `unix:` URL, or `{redis: {…}}`.",
        ),
        key(
            "keys",
            List(&Secret),
            Optional,
            "Keys that seal sessions: 32 bytes in base64 each (`daypass keygen`). The first seals, all open. Required with Redis; generated for `memory`.",
        ),
        key("lifetime", SPAN, Default("12h"), "Absolute lifetime."),
        key(
            "idle_timeout",
            SPAN_OR_OFF,
            Default("1h"),
            "Ends a session unused for so long; `0` is off.",
        ),
        key(
            "refresh_before",
            SPAN_OR_OFF,
            Default("60s"),
            "How long before its expiry a token is refreshed, off the request's path.",
        ),
        key(
            "max_staleness",
            SPAN_OR_OFF,
            Default("30s"),
            "With Redis unreachable, how long cached sessions are still served, counted from when they were last known true; `0` refuses at once.",
        ),
        key(
            "cache_entries",
            Count(1, 100_000_000),
            Default("100000"),
            "Most sessions in this process. With `memory` these are all there are: the least recently used goes first. With Redis they are cached, and one counts for each 4 KiB it takes.",
        ),
        key(
            "expose_claims",
            TEXTS,
            Default("[name, preferred_username, email]"),
            "Claims the `session` endpoint tells the page beside the subject.",
        ),
        key("cookie", Shape::Table(&COOKIE), Optional, "The cookie."),
    ],
    later: &[],
};

pub(super) static STORE: Table = Table {
    title: "session.store",
    about: "A store with options.",
    keys: &[key(
        "redis",
        Shape::Table(&REDIS),
        Required("redis: {url: redis://redis:6379/0}"),
        "Redis or Valkey.",
    )],
    later: &[],
};

pub(super) static REDIS: Table = Table {
    title: "session.store.redis",
    about: "Redis or Valkey: a single server, a master watched by sentinels, or a Cluster. [redis.md](redis.md) says more.",
    keys: &[
        key(
            "url",
            Text,
            Optional,
            "`redis://host:6379/0`, `rediss://…` (TLS) or `unix:/path`. Either this or `urls` is required.",
        ),
        key(
            "urls",
            TEXTS,
            Optional,
            "A list of URLs, without user and password: of all sentinels (port 26379 unless written; the database is the master's), or of some nodes of the Cluster, which tell the others. All `redis://` or all `rediss://`.",
        ),
        key(
            "mode",
            OneOf(&["single", "sentinel", "cluster"]),
            Default("single"),
            "What the URLs lead to.",
        ),
        key(
            "master",
            Text,
            Optional,
            "Name of the master. Required with `mode: sentinel`.",
        ),
        key("username", Text, Optional, "ACL user; overrides the URL's."),
        key(
            "password",
            Secret,
            Optional,
            "Password; overrides the URL's. May be rotated while daypass runs.",
        ),
        key(
            "sentinel_username",
            Text,
            Optional,
            "ACL user at the sentinels, with `mode: sentinel`.",
        ),
        key(
            "sentinel_password",
            Secret,
            Optional,
            "Password at the sentinels, with `mode: sentinel`; none is sent without it.",
        ),
        key(
            "key_prefix",
            Text,
            Default("\"daypass:\""),
            "Prefix of all keys.",
        ),
        key(
            "tls",
            Shape::Table(&REDIS_TLS),
            Optional,
            "TLS, for `rediss://`; the same towards sentinels and servers.",
        ),
    ],
    later: &[],
};

pub(super) static REDIS_TLS: Table = Table {
    title: "session.store.redis.tls",
    about: "TLS towards Redis.",
    keys: &[
        key(
            "ca_file",
            File,
            Optional,
            "PEM authorities to trust instead of the public ones.",
        ),
        key(
            "client_cert",
            File,
            Optional,
            "PEM client certificate chain.",
        ),
        key(
            "client_key",
            File,
            Optional,
            "PEM key of the client certificate.",
        ),
    ],
    later: &[],
};

pub(super) static COOKIE: Table = Table {
    title: "session.cookie",
    about: "Always `HttpOnly`. With https it is `Secure` and named `__Host-…`, or `__Secure-…` with a domain.",
    keys: &[
        key(
            "name",
            Text,
            Default("daypass"),
            "Name without prefix. The cookie that binds logins to the browser is named after it, with `-login`.",
        ),
        key(
            "domain",
            Text,
            Optional,
            "`Domain` attribute; must cover every host of `public_url`. Only needed to share sessions between hosts.",
        ),
        key(
            "same_site",
            OneOf(&["strict", "lax", "none"]),
            Default("lax"),
            "`SameSite` attribute; `none` needs https. With `strict`, who comes from another site sees a page in between that asks again.",
        ),
    ],
    later: &[],
};

pub(super) static UPSTREAM: Table = Table {
    title: "upstreams.<name>",
    about: "A server requests are forwarded to.",
    keys: &[
        key(
            "url",
            Text,
            Required("url: http://127.0.0.1:3000"),
            "`http://`, `https://`, `h2c://` (HTTP/2 without TLS) or `unix:/path`; no path.",
        ),
        key(
            "protocol",
            OneOf(&["auto", "h1", "h2"]),
            Default("auto"),
            "HTTP version; `auto` lets ALPN decide on TLS and speaks HTTP/1.1 without.",
        ),
        key(
            "connect_timeout",
            SPAN,
            Default("2s"),
            "Limit of connection set-up, TLS included.",
        ),
        key(
            "read_timeout",
            SPAN,
            Default("60s"),
            "Limit between two reads.",
        ),
        key(
            "keepalive",
            Count(0, 65_536),
            Default("64"),
            "Idle connections kept.",
        ),
        key(
            "tls",
            Shape::Table(&UPSTREAM_TLS),
            Optional,
            "TLS, for `https://`.",
        ),
    ],
    later: &["health_check"],
};

pub(super) static UPSTREAM_TLS: Table = Table {
    title: "upstreams.<name>.tls",
    about: "TLS towards an upstream.",
    keys: &[
        key(
            "ca_file",
            File,
            Optional,
            "PEM authorities to trust instead of the system's.",
        ),
        key(
            "client_cert",
            File,
            Optional,
            "PEM client certificate chain.",
        ),
        key(
            "client_key",
            File,
            Optional,
            "PEM key of the client certificate.",
        ),
        key(
            "server_name",
            Text,
            Optional,
            "Name asked for and checked. Default: the URL's host.",
        ),
    ],
    later: &[],
};

pub(super) static ROUTE: Table = Table {
    title: "routes[]",
    about: "Exactly one of `path`, `path_prefix` and `path_regex`. A route that an earlier one hides is an error.",
    keys: &[
        key(
            "name",
            Text,
            Optional,
            "Label in metrics and logs; derived from the path when absent.",
        ),
        key(
            "host",
            Text,
            Optional,
            "A host of `public_url`, or `*.example.com`.",
        ),
        key(
            "methods",
            TEXTS,
            Optional,
            "Methods in capitals; all when absent.",
        ),
        key("path", Text, Optional, "The whole path."),
        key(
            "path_prefix",
            Text,
            Optional,
            "Whole segments: `/a` takes `/a` and `/a/b`, not `/ab`.",
        ),
        key(
            "path_regex",
            Text,
            Optional,
            "A regular expression the whole path must match.",
        ),
        key(
            "access",
            OneOf(&["public", "optional", "session", "deny"]),
            Default("session"),
            "Who may pass: everyone (`public`, or `optional` with the user when signed in), signed-in users, nobody.",
        ),
        key(
            "upstream",
            Text,
            Optional,
            "Name of an upstream, or a URL. Required unless access is `deny`.",
        ),
        key(
            "rewrite_prefix",
            Text,
            Optional,
            "Replaces the prefix of `path_prefix`.",
        ),
        key(
            "require",
            Shape::Table(&REQUIRE),
            Optional,
            "What a signed-in user must have, else 403.",
        ),
        key(
            "token",
            Shape::Table(&TOKEN),
            Optional,
            "What is shown at the upstream's door.",
        ),
        key(
            "claims_to_headers",
            Map(&Text),
            Default("{}"),
            "Request header to dotted claim path.",
        ),
        key(
            "on_unauthenticated",
            OneOf(&["auto", "redirect", "unauthorized"]),
            Default("auto"),
            "Without a session: `auto` redirects navigations and answers all else with 401.",
        ),
        key(
            "headers",
            Shape::Table(&HEADERS),
            Optional,
            "Headers set and removed.",
        ),
        key(
            "cross_site",
            Any(&[OneOf(&["deny", "allow"]), TEXTS]),
            Default("deny"),
            "Unsafe methods and WebSocket handshakes from other sites: `deny`, `allow`, or a list of origins.",
        ),
        key("limits", Shape::Table(&ROUTE_LIMITS), Optional, "Limits."),
        key("provider", Text, Optional, "Provider to log in with."),
    ],
    later: &["bearer", "on_upstream_401"],
};

pub(super) static REQUIRE: Table = Table {
    title: "routes[].require",
    about: "All of it must hold.",
    keys: &[
        key(
            "scopes",
            TEXTS,
            Optional,
            "Every one must have been granted.",
        ),
        key(
            "claims",
            Map(&Any(&[Scalar, List(&Scalar)])),
            Optional,
            "Dotted claim path to a value; a list means any of.",
        ),
    ],
    later: &["acr", "max_age"],
};

pub(super) static TOKEN: Table = Table {
    title: "routes[].token",
    about: "What is shown at the upstream's door.",
    keys: &[
        key(
            "kind",
            OneOf(&["access", "id", "none"]),
            Default("access"),
            "Which token.",
        ),
        key(
            "header",
            Text,
            Default("authorization"),
            "`authorization` carries `Bearer …`, any other header the raw token.",
        ),
    ],
    later: &["exchange"],
};

pub(super) static HEADERS: Table = Table {
    title: "routes[].headers",
    about: "Headers set and removed on the way up and down.",
    keys: &[
        key(
            "request",
            Shape::Table(&HEADER_CHANGES),
            Optional,
            "Towards the upstream.",
        ),
        key(
            "response",
            Shape::Table(&HEADER_CHANGES),
            Optional,
            "Towards the browser.",
        ),
    ],
    later: &[],
};

pub(super) static HEADER_CHANGES: Table = Table {
    title: "routes[].headers.request, .response",
    about: "Not for connection headers, nor for those that daypass itself sets.",
    keys: &[
        key(
            "set",
            Map(&Scalar),
            Default("{}"),
            "Header to value; replaces what was there.",
        ),
        key("remove", TEXTS, Default("[]"), "Headers taken out."),
    ],
    later: &[],
};

pub(super) static ROUTE_LIMITS: Table = Table {
    title: "routes[].limits",
    about: "Limits of one route.",
    keys: &[
        key(
            "body",
            Size(0, 1 << 50),
            Default("10MiB"),
            "Largest request body.",
        ),
        key(
            "timeout",
            SPAN,
            Default("60s"),
            "Longest wait for the upstream's response header, counted from the request, and for each next piece of a request's body.",
        ),
    ],
    later: &[],
};

pub(super) static LIMITS: Table = Table {
    title: "limits",
    about: "Limits of the whole process.",
    keys: &[
        key(
            "header_bytes",
            Size(1024, 1 << 20),
            Default("64KiB"),
            "Largest request header block.",
        ),
        key(
            "logins_per_minute_per_ip",
            Count(1, 1_000_000),
            Default("60"),
            "Logins started per minute and client address.",
        ),
        key(
            "drain_timeout",
            SPAN,
            Default("30s"),
            "Longest time from SIGTERM for requests to end; token refreshes under way have their `refresh_patience`.",
        ),
    ],
    later: &[],
};

pub(super) static LOGGING: Table = Table {
    title: "logging",
    about: "Logs go to stderr.",
    keys: &[
        key(
            "format",
            OneOf(&["json", "text"]),
            Default("json"),
            "One JSON object a line, or text for people.",
        ),
        key(
            "level",
            OneOf(&["error", "warn", "info", "debug", "trace"]),
            Default("info"),
            "Least severe level logged. The audit log, and the access log while it is on, are written whatever this says.",
        ),
        key("access_log", Bool, Default("true"), "One line per request."),
    ],
    later: &[],
};

pub(super) static PAGES: Table = Table {
    title: "pages",
    about: "daypass's own pages.",
    keys: &[key(
        "title",
        Text,
        Optional,
        "Name of the application, shown as heading.",
    )],
    later: &["dir", "logo"],
};
