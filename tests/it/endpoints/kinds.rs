//! Shows what each kind of request gets that has no session (RESP-01..09).

use std::time::Duration;

use daypass_testbed::client::{Call, Client};
use daypass_testbed::provider::Provider;
use daypass_testbed::raw::wait_for;
use http::Method;
use serde_json::json;

use crate::login::{Stage, brief, go};

/// What a request gets.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Gets {
    /// 302 to the provider.
    Login,
    /// 401 with a page.
    Page,
    /// 401 with a problem document.
    Problem,
}

type Headers = &'static [(&'static str, &'static str)];

const HTML: (&str, &str) = (
    "accept",
    "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
);
const ANY: (&str, &str) = ("accept", "*/*");
const JSON: (&str, &str) = ("accept", "application/json");
const NAVIGATE: (&str, &str) = ("sec-fetch-mode", "navigate");
const DOCUMENT: (&str, &str) = ("sec-fetch-dest", "document");

fn dressed(call: Call, headers: Headers) -> Call {
    headers
        .iter()
        .fold(call, |call, (name, value)| call.header(name, value))
}

async fn assert_gets(stage: &Stage, call: Call, gets: Gets, row: &str) {
    let answer = go(call).await;
    let html = answer
        .header("content-type")
        .is_some_and(|kind| kind.starts_with("text/html"));
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{row}");
    if gets == Gets::Login {
        assert_eq!(answer.status, 302, "{row}: {}", brief(&answer));
        let to = answer.location().expect("to the provider");
        assert!(to.starts_with(&stage.provider.issuer()), "{row}: {to}");
        assert_eq!(answer.header_all("set-cookie").len(), 1, "{row}");
        return;
    }
    assert_eq!(
        (answer.status, answer.location()),
        (401, None),
        "{row}: {}",
        brief(&answer)
    );
    assert!(answer.header_all("set-cookie").is_empty(), "{row}");
    // RESP-04
    let challenge = answer.header("www-authenticate").expect("a challenge");
    assert!(
        challenge.starts_with("Daypass ") && !challenge.contains("Basic"),
        "{row}: {challenge}"
    );
    assert_eq!(html, gets == Gets::Page, "{row}: {}", brief(&answer));
    if html {
        assert!(
            answer.text().contains("href=\"/oauth2/login"),
            "{row}: a way forward"
        );
    } else if !answer.body.is_empty() {
        let problem = answer.json();
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json"),
            "{row}"
        );
        assert_eq!(problem["reason"], "no_session", "{row}");
        assert!(
            problem["login_url"]
                .as_str()
                .is_some_and(|url| url.starts_with("/oauth2/login")),
            "{row}"
        );
        assert_eq!(problem["type"], "urn:daypass:problem:no_session", "{row}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_request_without_a_session_gets_its_answer() {
    let rows: &[(&str, Method, Headers, Gets)] = &[
        (
            "a page is opened",
            Method::GET,
            &[HTML, NAVIGATE, DOCUMENT, ("sec-fetch-site", "none")],
            Gets::Login,
        ),
        (
            "a link on another site",
            Method::GET,
            &[HTML, NAVIGATE, DOCUMENT, ("sec-fetch-site", "cross-site")],
            Gets::Login,
        ),
        (
            "a page that is asked about",
            Method::HEAD,
            &[HTML, NAVIGATE, DOCUMENT],
            Gets::Login,
        ),
        (
            "fetch()",
            Method::GET,
            &[ANY, ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")],
            Gets::Problem,
        ),
        (
            "fetch() that would take HTML",
            Method::GET,
            &[
                HTML,
                ("sec-fetch-mode", "cors"),
                ("sec-fetch-dest", "empty"),
            ],
            Gets::Problem,
        ),
        (
            "fetch() of a part of a page",
            Method::GET,
            &[
                HTML,
                ("sec-fetch-mode", "same-origin"),
                ("sec-fetch-dest", "empty"),
            ],
            Gets::Problem,
        ),
        (
            "fetch() without CORS",
            Method::POST,
            &[HTML, ("sec-fetch-mode", "no-cors")],
            Gets::Problem,
        ),
        (
            "fetch() on the same origin",
            Method::GET,
            &[
                JSON,
                ("sec-fetch-mode", "same-origin"),
                ("sec-fetch-dest", "empty"),
            ],
            Gets::Problem,
        ),
        (
            "an image",
            Method::GET,
            &[
                ("accept", "image/avif,image/webp,*/*;q=0.8"),
                ("sec-fetch-mode", "no-cors"),
                ("sec-fetch-dest", "image"),
            ],
            Gets::Problem,
        ),
        (
            "a script",
            Method::GET,
            &[
                ANY,
                ("sec-fetch-mode", "no-cors"),
                ("sec-fetch-dest", "script"),
            ],
            Gets::Problem,
        ),
        (
            "a frame (RESP-06)",
            Method::GET,
            &[HTML, NAVIGATE, ("sec-fetch-dest", "iframe")],
            Gets::Page,
        ),
        (
            "an object",
            Method::GET,
            &[HTML, NAVIGATE, ("sec-fetch-dest", "object")],
            Gets::Page,
        ),
        (
            "a form is posted (RESP-05)",
            Method::POST,
            &[HTML, NAVIGATE, DOCUMENT],
            Gets::Page,
        ),
        (
            "PUT by a script",
            Method::PUT,
            &[
                JSON,
                ("sec-fetch-mode", "cors"),
                ("sec-fetch-dest", "empty"),
            ],
            Gets::Problem,
        ),
        ("DELETE by a program", Method::DELETE, &[], Gets::Problem),
        (
            "OPTIONS",
            Method::OPTIONS,
            &[ANY, ("sec-fetch-mode", "cors")],
            Gets::Problem,
        ),
        (
            "a mode said twice",
            Method::GET,
            &[HTML, NAVIGATE, ("sec-fetch-mode", "cors"), DOCUMENT],
            Gets::Problem,
        ),
        // RESP-03: no Fetch Metadata.
        ("an old browser", Method::GET, &[HTML], Gets::Login),
        (
            "an old browser's XMLHttpRequest",
            Method::GET,
            &[HTML, ("x-requested-with", "XMLHttpRequest")],
            Gets::Page,
        ),
        (
            "jQuery",
            Method::GET,
            &[
                ("accept", "application/json, text/javascript, */*; q=0.01"),
                ("x-requested-with", "XMLHttpRequest"),
            ],
            Gets::Problem,
        ),
        ("curl", Method::GET, &[ANY], Gets::Problem),
        ("no Accept", Method::GET, &[], Gets::Problem),
        ("JSON", Method::GET, &[JSON], Gets::Problem),
        (
            "HTML, but JSON rather",
            Method::GET,
            &[("accept", "text/html;q=0.5, application/json")],
            Gets::Problem,
        ),
        (
            "JSON, but HTML rather",
            Method::GET,
            &[("accept", "application/json;q=0.5, text/html")],
            Gets::Login,
        ),
        (
            "HTML not at all",
            Method::GET,
            &[("accept", "text/html;q=0, */*")],
            Gets::Problem,
        ),
        (
            "event stream",
            Method::GET,
            &[("accept", "text/event-stream")],
            Gets::Problem,
        ),
        ("an old browser's form", Method::POST, &[HTML], Gets::Page),
        (
            "a prefetch",
            Method::GET,
            &[HTML, NAVIGATE, DOCUMENT, ("sec-purpose", "prefetch")],
            Gets::Page,
        ),
    ];
    let stage = Stage::new();
    for (row, method, headers, gets) in rows {
        let call = Client::new().request(method.clone(), stage.url("/private?a=1"));
        assert_gets(&stage, dressed(call, headers), *gets, row).await;
    }
    assert_eq!(stage.echo.count(), 0);
    // A request is counted a moment after its answer.
    let labels = [("route", "private"), ("reason", "no_session")];
    let all = rows.len().to_string();
    let counted = wait_for(Duration::from_secs(20), || {
        let counted = stage.counted("daypass_unauthenticated_total", &labels);
        (counted == all).then_some(())
    });
    assert!(counted.is_some(), "{all} were refused");
}

/// WS-01
#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_without_a_session_is_refused_and_not_redirected() {
    let stage = Stage::new();
    let client = Client::new();
    for headers in [
        &[("origin", "http://127.0.0.1")][..],
        &[NAVIGATE, HTML],
        &[("sec-fetch-mode", "websocket"), ("sec-fetch-dest", "empty")],
    ] {
        let refused = client
            .websocket(&stage.url("/ws"), headers)
            .await
            .expect_err("no session");
        assert_eq!(refused.status, Some(401), "{headers:?}");
    }
    assert_eq!(stage.echo.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_may_say_what_becomes_of_those_without_a_session() {
    const BROWSER: Headers = &[HTML, NAVIGATE, DOCUMENT];
    const FRAME: Headers = &[HTML, NAVIGATE, ("sec-fetch-dest", "iframe")];
    const SCRIPT: Headers = &[ANY, ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")];
    let stage = Stage::with(Provider::start(), |setup| {
        let route = |mode: &str| json!({"path_prefix": format!("/{mode}"), "on_unauthenticated": mode, "upstream": "http://127.0.0.1:1"});
        setup
            .route_first(route("redirect"))
            .route_first(route("unauthorized"))
            .route_first(route("auto"))
    });
    for (mode, method, headers, gets) in [
        ("auto", Method::GET, BROWSER, Gets::Login),
        ("auto", Method::GET, SCRIPT, Gets::Problem),
        ("auto", Method::GET, FRAME, Gets::Page),
        ("redirect", Method::GET, BROWSER, Gets::Login),
        ("redirect", Method::GET, SCRIPT, Gets::Login),
        ("redirect", Method::GET, FRAME, Gets::Login),
        ("redirect", Method::GET, &[], Gets::Login),
        ("redirect", Method::POST, BROWSER, Gets::Page),
        ("redirect", Method::POST, SCRIPT, Gets::Problem),
        ("unauthorized", Method::GET, BROWSER, Gets::Page),
        ("unauthorized", Method::GET, SCRIPT, Gets::Problem),
    ] {
        let call = Client::new().request(method.clone(), stage.url(&format!("/{mode}/x")));
        let row = format!("{mode} {method} {headers:?}");
        assert_gets(&stage, dressed(call, headers), gets, &row).await;
    }
}

/// `public` never looks at the session, `optional` uses it where there is one; neither asks anybody to log in.
#[tokio::test(flavor = "multi_thread")]
async fn public_and_optional_routes_are_open() {
    for (access, known) in [("public", false), ("optional", true)] {
        let stage = Stage::with(Provider::start(), |setup| {
            setup.set("routes.0.access", access)
        });
        let client = stage.signed_in().await;
        let page = |client: &Client| client.navigate(stage.url("/public/x"));
        for (row, call, known) in [
            ("nobody", page(&Client::new()), false),
            ("signed in", page(&client), known),
            (
                "a bad cookie",
                page(&client).header("cookie", "daypass=garbage"),
                false,
            ),
            ("a script", client.get(stage.url("/public/x")), known),
        ] {
            assert_eq!(go(call).await.status, 200, "{access}: {row}");
            let seen = stage.echo.last().expect("forwarded");
            assert_eq!(seen.bearer().is_some(), known, "{access}: {row}");
        }
    }
}
