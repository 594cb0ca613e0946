//! Holds every page of ours to the same rules: no script, no framing, no caching, no sniffing, a request id.

use daypass_testbed::client::{Call, Client, Response};
use daypass_testbed::daypass::{Daypass, Setup};
use daypass_testbed::echo::Echo;
use daypass_testbed::provider::{CLIENT_ID, Endpoint, Fault, Provider};
use serde_json::json;

use crate::BINARY;
use crate::login::{Stage, go};

#[track_caller]
fn assert_proper(page: &Response, row: &str) {
    for (name, want) in [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        assert_eq!(page.header_all(name), [want], "{row}: {name}");
    }
    let policy = page.header("referrer-policy").expect("a policy");
    assert!(
        matches!(policy, "no-referrer" | "same-origin"),
        "{row}: {policy}"
    );
    let csp = page.header("content-security-policy").expect("a policy");
    for directive in [
        "default-src 'none'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action ",
    ] {
        assert!(csp.contains(directive), "{row}: {csp}");
    }
    assert!(
        !csp.contains("unsafe") && !csp.contains("script-src") && !csp.contains('*'),
        "{row}: {csp}"
    );
    let text = page.text();
    for bad in [
        "<script",
        "javascript:",
        "onclick",
        "style=\"",
        "<iframe",
        "<img",
        "<link",
        "http://",
        "https://",
        "@import",
        "url(",
    ] {
        // The way to another origin of ours is the one link that may be absolute.
        let body = text
            .replace("0;url=", "")
            .replace("href=\"http://", "href=\"");
        assert!(!body.contains(bad), "{row}: {bad}");
    }
    for good in [
        "<html lang=\"en\">",
        "<meta name=\"viewport\"",
        "<h1 id=\"heading\">",
        "<title>",
        "color-scheme",
    ] {
        assert!(text.contains(good), "{row}: {good}");
    }
    let id = page.header("x-request-id").expect("a request id");
    assert!(
        text.contains(&format!("<code>{id}</code>")),
        "{row}: the user can quote the request"
    );
    assert!(
        text.contains("<a class=\"button") || text.contains("<button"),
        "{row}: a way forward"
    );
    assert!(
        page.headers
            .keys()
            .all(|name| !name.as_str().starts_with("access-control-")),
        "{row}: CORS-05"
    );
    assert_eq!(page.header("server"), None, "{row}");
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "one table")]
async fn every_page_of_ours_is_proper() {
    let stage = Stage::with(Provider::start(), |setup| {
        setup
            .set("limits.logins_per_minute_per_ip", 20)
            .set("pages.title", "Shop <& \"Co\">")
            .set("routes.1.require", json!({"claims": {"sub": "248289761001"}}))
            .route_first(json!({"path_prefix": "/down", "access": "public", "upstream": "http://127.0.0.1:1"}))
            .route_first(json!({"path_prefix": "/never", "access": "deny"}))
            .route_first(json!({"path_prefix": "/chiefs", "upstream": "http://127.0.0.1:1", "require": {"claims": {"groups": ["chiefs"]}}}))
            .route_first(json!({"path_prefix": "/scoped", "upstream": "http://127.0.0.1:1", "require": {"scopes": ["orders.write"]}}))
            .route_first(json!({"path_prefix": "/small", "access": "public", "upstream": "http://127.0.0.1:1", "limits": {"body": "1KiB"}}))
            .set("session.cookie.same_site", "strict")
    });
    let stranger = Client::new();
    let page = |client: &Client, path: &str| client.navigate(stage.url(path));
    let client = Client::new();
    let callback = stage.callback(&client).await;
    let signed_in = go(client.navigate(&callback)).await;
    assert_proper(&signed_in, "signed in");
    assert_eq!(signed_in.status, 200);
    let rows: Vec<(&str, Call, u16)> = vec![
        (
            "401",
            stranger.post(stage.url("/x")).header("accept", "text/html"),
            401,
        ),
        ("no such endpoint", page(&stranger, "/oauth2/nothing"), 404),
        (
            "another method",
            stranger
                .request(http::Method::DELETE, stage.url("/oauth2/login"))
                .header("accept", "text/html"),
            405,
        ),
        ("bad path", page(&stranger, "/").target("/a%2fb"), 400),
        (
            "another host",
            page(&stranger, "/").header("host", "evil.example"),
            421,
        ),
        ("deny", page(&client, "/never"), 403),
        ("claims", page(&client, "/chiefs"), 403),
        ("scopes", page(&client, "/scoped"), 403),
        (
            "cross-site",
            client
                .post(stage.url("/x"))
                .header("accept", "text/html")
                .header("origin", "https://evil.example"),
            403,
        ),
        (
            "too large",
            stranger
                .post(stage.url("/small"))
                .header("accept", "text/html")
                .body(vec![0; 2000]),
            413,
        ),
        ("upstream down", page(&stranger, "/down"), 502),
        (
            "bad state",
            page(&stranger, "/oauth2/callback?state=x&code=y"),
            400,
        ),
        ("another browser", stranger.navigate(&callback), 400),
        (
            "unknown provider",
            page(&stranger, "/oauth2/login?provider=x"),
            404,
        ),
        (
            "confirm",
            client
                .get(stage.url("/oauth2/logout"))
                .header("accept", "text/html")
                .header("sec-fetch-site", "cross-site"),
            200,
        ),
        (
            "signed out",
            page(&stranger, "/oauth2/logout/callback"),
            200,
        ),
    ];
    for (row, call, status) in rows {
        let answer = go(call).await;
        assert_eq!(answer.status, status, "{row}: {}", answer.text());
        assert_proper(&answer, row);
        assert!(
            answer.text().contains("Shop &#60;&#38; &#34;Co&#34;&#62;"),
            "{row}: the title, escaped"
        );
    }
    stage
        .provider
        .fault(Endpoint::Authorize, Fault::oauth("access_denied"));
    let callback = stage.callback(&stranger).await;
    assert_proper(&go(stranger.navigate(callback)).await, "refused");
    stage.provider.fault(Endpoint::Token, Fault::WrongNonce);
    let callback = stage.callback(&stranger).await;
    assert_proper(&go(stranger.navigate(callback)).await, "invalid");
    let mut limited = go(stranger.navigate(stage.url("/oauth2/login"))).await;
    // One more is let in every three seconds.
    for _ in 0..100 {
        if limited.status == 429 {
            break;
        }
        limited = go(stranger.navigate(stage.url("/oauth2/login"))).await;
    }
    assert_eq!(limited.status, 429);
    assert_proper(&limited, "too many");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chooser_and_the_outage_page_are_proper() {
    let (mut provider, echo) = (Provider::start(), Echo::start());
    provider.stop();
    let section = json!({"issuer": provider.issuer(), "client_id": CLIENT_ID, "client_secret": provider.client_secret()});
    let setup = Setup::new(&provider, &echo.url())
        .unset("provider")
        .set("providers", json!({"a": section, "b": section}));
    let daypass = Daypass::ready(BINARY, setup);
    let chooser = go(Client::new().navigate(daypass.url("/hello"))).await;
    assert_eq!(chooser.status, 200);
    assert_proper(&chooser, "chooser");
    let outage = go(Client::new().navigate(daypass.url("/oauth2/login?provider=a"))).await;
    assert_eq!(outage.status, 503);
    assert_proper(&outage, "outage");
}
