//! Shows that the first match wins, in every reading of a path, and what a route keeps from clients: PATH-01, HDR-03.

use std::time::Duration;

use http::HeaderValue;
use proptest::prelude::*;

use super::*;
use crate::config::model::{
    Address, ClaimPath, Cookie, CrossSite, Headers, Limits, LogFormat, Logging, OnUnauthenticated,
    Pages, Protocol, Require, Route, RouteLimits, SameSite, Session, Store, Target, Token,
    Upstream,
};
use crate::web::host::origin;

fn route(name: &str, path: PathPattern) -> Route {
    Route {
        name: name.into(),
        host: None,
        methods: vec![],
        path,
        access: Access::Session,
        upstream: Some(0),
        rewrite_prefix: None,
        require: Require::default(),
        token: Token {
            kind: TokenKind::Access,
            header: AUTHORIZATION,
        },
        claims_to_headers: vec![],
        on_unauthenticated: OnUnauthenticated::Auto,
        headers: Headers::default(),
        cross_site: CrossSite::Deny,
        limits: RouteLimits {
            body: 0,
            timeout: Duration::from_secs(1),
        },
        provider: None,
    }
}

fn prefix(path: &str) -> PathPattern {
    PathPattern::Prefix(path.into())
}

fn exact(path: &str) -> PathPattern {
    PathPattern::Exact(path.into())
}

fn pattern(path: &str) -> PathPattern {
    PathPattern::Regex(regex::Regex::new(&format!("^(?:{path})$")).unwrap())
}

fn config(routes: Vec<Route>) -> Config {
    Config {
        public_origins: vec![origin("https://shop.example.com")],
        listeners: vec![],
        admin: Address::Unix("/nowhere".into()),
        trusted_proxies: vec![],
        base_path: "/oauth2".into(),
        providers: vec![],
        session: Session {
            store: Store::Memory { entries: 1 },
            keys: vec![],
            lifetime: Duration::from_secs(1),
            idle_timeout: None,
            refresh_before: Duration::from_secs(1),
            max_staleness: Duration::from_secs(30),
            cache_entries: 1000,
            expose_claims: vec![],
            cookie: Cookie {
                name: "__Host-daypass".into(),
                login_name: "__Host-daypass-login".into(),
                domain: None,
                same_site: SameSite::Lax,
                secure: true,
            },
        },
        upstreams: vec![Arc::new(Upstream {
            name: "shop".into(),
            target: Target::Unix("/nowhere".into()),
            protocol: Protocol::Auto,
            connect_timeout: Duration::from_secs(1),
            read_timeout: Duration::from_secs(1),
            keepalive: 1,
            tls: None,
        })],
        routes: routes.into_iter().map(Arc::new).collect(),
        limits: Limits {
            header_bytes: 1,
            logins_per_minute_per_ip: std::num::NonZeroU32::MIN,
            drain_timeout: Duration::from_secs(1),
        },
        logging: Logging {
            format: LogFormat::Text,
            level: tracing::level_filters::LevelFilter::OFF,
            access_log: false,
        },
        pages: Pages::default(),
        files: crate::config::watch::Prints::new(),
    }
}

fn table(routes: Vec<Route>) -> Table {
    Table::compile(&config(routes))
}

fn find(table: &Table, host: &str, method: &Method, path: &str) -> Option<String> {
    let path = CanonicalPath::parse(path.as_bytes()).unwrap();
    table
        .find(host, method, &path)
        .map(|route| route.config.name.to_string())
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn the_first_route_that_fits_takes_the_request() {
    let table = table(vec![
        Route {
            host: Some(HostPattern::Exact("admin.example.com".into())),
            ..route("admin", prefix("/"))
        },
        Route {
            host: Some(HostPattern::Suffix(".t.example.com".into())),
            ..route("tenant", prefix("/"))
        },
        route("health", exact("/healthz")),
        Route {
            methods: vec![Method::GET, Method::HEAD],
            ..route("assets", prefix("/assets"))
        },
        route("numbers", pattern("/orders/[0-9]+")),
        route("orders", prefix("/orders")),
        route("café", prefix("/café")),
        route("home", exact("/")),
        Route {
            methods: vec![Method::POST],
            ..route("hooks", pattern("/.*/hook"))
        },
    ]);
    for (name, host, method, path, want) in [
        (
            "host",
            "admin.example.com",
            Method::GET,
            "/assets/a",
            Some("admin"),
        ),
        (
            "wildcard host",
            "a.b.t.example.com",
            Method::GET,
            "/x",
            Some("tenant"),
        ),
        (
            "wildcard is no bare domain",
            "t.example.com",
            Method::GET,
            "/x",
            None,
        ),
        (
            "wildcard needs a label",
            ".t.example.com",
            Method::GET,
            "/x",
            None,
        ),
        ("exact", "h", Method::GET, "/healthz", Some("health")),
        ("exact is not a prefix", "h", Method::GET, "/healthz/", None),
        ("prefix itself", "h", Method::GET, "/assets", Some("assets")),
        (
            "prefix with slash",
            "h",
            Method::GET,
            "/assets/",
            Some("assets"),
        ),
        (
            "below a prefix",
            "h",
            Method::HEAD,
            "/assets/a/b",
            Some("assets"),
        ),
        ("whole segments", "h", Method::GET, "/assetsx", None),
        ("method", "h", Method::POST, "/assets/a", None),
        (
            "methods have case",
            "h",
            Method::from_bytes(b"get").unwrap(),
            "/assets/a",
            None,
        ),
        (
            "regex before prefix",
            "h",
            Method::GET,
            "/orders/17",
            Some("numbers"),
        ),
        (
            "prefix after regex",
            "h",
            Method::GET,
            "/orders/x",
            Some("orders"),
        ),
        ("regex is anchored", "h", Method::GET, "/x/orders/17", None),
        (
            "regex with a first segment of another route",
            "h",
            Method::POST,
            "/assets/x/hook",
            Some("hooks"),
        ),
        (
            "regex with an unknown first segment",
            "h",
            Method::POST,
            "/x/hook",
            Some("hooks"),
        ),
        (
            "patterns are made canonical",
            "h",
            Method::GET,
            "/caf%c3%a9/x",
            Some("café"),
        ),
        ("root", "h", Method::GET, "/", Some("home")),
        ("paths have case", "h", Method::GET, "/Assets/a", None),
        ("nothing", "h", Method::GET, "/x", None),
    ] {
        assert_eq!(find(&table, host, &method, path).as_deref(), want, "{name}");
    }
}

#[test]
fn a_path_leads_to_one_route_in_every_reading() {
    let table = table(vec![
        Route {
            access: Access::Deny,
            ..route("deny", prefix("/api:admin"))
        },
        route("admin", prefix("/admin")),
        Route {
            access: Access::Public,
            ..route("assets", prefix("/public/assets"))
        },
        route("cars", pattern("/cars(;[^/]*)?(/.*)?")),
        Route {
            access: Access::Public,
            ..route("rest", prefix("/"))
        },
    ]);
    for (name, path, want) in [
        ("plain", "/admin/x", Some("admin")),
        (
            "parameters do not lead around (PATH-01)",
            "/admin;x/y",
            None,
        ),
        ("empty parameters", "/admin;/y", None),
        ("escaped semicolon", "/admin%3bx/y", None),
        ("empty first segment once cut", "/;x/admin", None),
        ("escaped", "/%3Bx/admin", None),
        ("escaped delimiter", "/api%3Aadmin", None),
        ("unescaped delimiter", "/api:admin", Some("deny")),
        (
            "parameters that lead into an open route",
            "/public;x/assets/a",
            None,
        ),
        (
            "parameters below the pattern are harmless",
            "/admin/x;v=1/y",
            Some("admin"),
        ),
        (
            "escaped delimiters below the pattern too",
            "/admin/a%40b%3Ac%26",
            Some("admin"),
        ),
        (
            "parameters that a regex allows for",
            "/cars;color=red/1",
            Some("cars"),
        ),
        ("everything in the catch-all", "/x;y/z%3A", Some("rest")),
        ("other escapes have one reading", "/adm%20in", Some("rest")),
        ("percent stays", "/%2561dmin", Some("rest")),
    ] {
        assert_eq!(
            find(&table, "h", &Method::GET, path).as_deref(),
            want,
            "{name}"
        );
    }
}

#[test]
fn routes_own_the_names_they_speak_under() {
    let name = HeaderName::from_static;
    let claim = |header: &'static str| {
        let path = ClaimPath {
            text: "sub".into(),
            segments: vec!["sub".into()],
        };
        (name(header), path)
    };
    let table = table(vec![
        Route {
            access: Access::Public,
            ..route("public", prefix("/public"))
        },
        Route {
            access: Access::Optional,
            token: Token {
                kind: TokenKind::None,
                header: AUTHORIZATION,
            },
            ..route("optional", prefix("/optional"))
        },
        Route {
            token: Token {
                kind: TokenKind::Id,
                header: name("x-id-token"),
            },
            claims_to_headers: vec![claim("x-user")],
            headers: Headers {
                request_set: vec![(name("x-env"), HeaderValue::from_static("prod"))],
                ..Headers::default()
            },
            ..route("session", prefix("/"))
        },
    ]);
    let owns =
        |route: usize, header: &'static str| table.routes()[route].owned.is_owned(&name(header));
    for (what, header, want) in [
        (
            "claims of any route, in any spelling (HDR-03)",
            "x_user",
            [true, true, true],
        ),
        (
            "authorization where sessions are used",
            "authorization",
            [false, true, true],
        ),
        ("the token's header", "x-id-token", [false, false, true]),
        ("what the route sets", "x-env", [false, false, true]),
        ("nothing else", "accept", [false, false, false]),
    ] {
        assert_eq!(
            [owns(0, header), owns(1, header), owns(2, header)],
            want,
            "{what}"
        );
    }
    assert_eq!(table.routes()[0].token_header, None);
    assert_eq!(table.routes()[1].token_header, None);
    assert_eq!(table.routes()[2].token_header, Some(name("x-id-token")));
    assert_eq!(&*table.routes()[2].upstream_label, "shop");
    assert_eq!(
        table
            .routes()
            .iter()
            .map(|route| route.uses_session)
            .collect::<Vec<_>>(),
        [false, true, true]
    );
}

#[test]
fn prefixes_are_rewritten() {
    for (name, from, to, path, want) in [
        ("prefix", prefix("/api"), "/v2", "/api/x", "/v2/x"),
        ("prefix alone", prefix("/api"), "/v2", "/api", "/v2"),
        ("prefix with slash", prefix("/api"), "/v2", "/api/", "/v2/"),
        ("to the root", prefix("/api"), "/", "/api/x", "/x"),
        ("prefix alone to the root", prefix("/api"), "/", "/api", "/"),
        ("from the root", prefix("/"), "/app", "/x", "/app/x"),
        ("the root itself", prefix("/"), "/app", "/", "/app/"),
        ("exact", exact("/a"), "/b", "/a", "/b"),
        ("regex has no prefix", pattern("/a.*"), "/b", "/ax", "/ax"),
    ] {
        let table = table(vec![Route {
            rewrite_prefix: Some(to.into()),
            ..route("r", from)
        }]);
        let path = CanonicalPath::parse(path.as_bytes()).unwrap();
        let found = table.find("h", &Method::GET, &path).unwrap();
        let got = found.rewrite(&path);
        assert_eq!(got, want, "{name}");
        assert!(
            CanonicalPath::parse(got.as_bytes()).is_ok_and(|again| again.as_str() == got),
            "{name}"
        );
    }
    let plain = table(vec![route("r", prefix("/"))]);
    let path = CanonicalPath::parse(b"/x").unwrap();
    assert!(matches!(
        plain.routes()[0].rewrite(&path),
        Cow::Borrowed("/x")
    ));
}

/// Patterns and paths from so few segments that they meet often.
fn segments(max: usize) -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof!["[ab]", "[ab]{2}"], 0..max)
        .prop_map(|segments| format!("/{}", segments.join("/")))
}

proptest! {
    #[test]
    fn the_table_agrees_with_a_naive_search(
        patterns in proptest::collection::vec((0..3_u8, segments(4), 0..3_u8, any::<bool>()), 0..12),
        path in segments(5),
        slash in any::<bool>(),
        host in prop_oneof![Just("x.h"), Just("y.h"), Just("h")],
        post in any::<bool>(),
    ) {
        let path = if slash && path != "/" { format!("{path}/") } else { path };
        let method = if post { Method::POST } else { Method::GET };
        let routes = patterns.iter().enumerate().map(|(at, (kind, text, hosts, posts))| Route {
            host: match hosts {
                0 => None,
                1 => Some(HostPattern::Exact("x.h".into())),
                _ => Some(HostPattern::Suffix(".h".into())),
            },
            methods: if *posts { vec![Method::POST] } else { vec![] },
            ..route(&at.to_string(), match kind {
                0 => exact(text),
                1 => prefix(text),
                _ => pattern(&format!("{text}.?")),
            })
        }).collect();
        let naive = patterns.iter().position(|(kind, text, hosts, posts)| {
            let on_host = match hosts {
                0 => true,
                1 => host == "x.h",
                _ => host != "h",
            };
            let on_path = match kind {
                0 => path == *text,
                1 => text == "/" || path == *text || path.starts_with(&format!("{text}/")),
                _ => path == *text || (path.starts_with(text.as_str()) && path.len() == text.len() + 1),
            };
            on_host && on_path && (!posts || post)
        });
        prop_assert_eq!(find(&table(routes), host, &method, &path), naive.map(|at| at.to_string()));
    }
}
