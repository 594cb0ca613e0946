//! Shows that the first route that fits takes the request, and where it then goes.

use daypass_testbed::echo::Echo;
use serde_json::json;

use crate::stage::Stage;

#[expect(clippy::too_many_lines, reason = "a table of rows")]
#[tokio::test(flavor = "multi_thread")]
async fn the_first_route_that_fits_takes_the_request() {
    let stage = Stage::new(|setup, upstream| {
        let public = |name: &str, rest: serde_json::Value| {
            let mut route = json!({
                "name": name, "access": "public", "upstream": upstream, "headers": {"request": {"set": {"x-route": name}}},
            });
            for (key, value) in rest.as_object().expect("an object") {
                route[key] = value.clone();
            }
            route
        };
        setup
            .set(
                "public_url",
                json!(["@PUBLIC_URL@", "http://localhost:7", "http://a.localhost:7"]),
            )
            .routes(json!([
                public("host", json!({"host": "localhost", "path_prefix": "/"})),
                public(
                    "wildcard",
                    json!({"host": "*.localhost", "path_prefix": "/w"})
                ),
                public("exact", json!({"path": "/exact"})),
                public(
                    "writers",
                    json!({"path_prefix": "/api", "methods": ["POST", "PUT"]})
                ),
                public(
                    "readers",
                    json!({"path_prefix": "/api", "methods": ["GET"]})
                ),
                public("api-rest", json!({"path_prefix": "/api/v2"})),
                public("regex", json!({"path_regex": "/items/[0-9]+(/edit)?"})),
                public("images", json!({"path_regex": "/.*\\.(png|jpg)"})),
                public(
                    "rewrite",
                    json!({"path_prefix": "/old", "rewrite_prefix": "/new/place"})
                ),
                public(
                    "strip",
                    json!({"path_prefix": "/strip", "rewrite_prefix": "/"})
                ),
                public("deep", json!({"path_prefix": "/a/b/c"})),
            ]))
    });
    let own = stage.daypass.authority();
    for (method, host, target, route, arrives) in [
        ("GET", &*own, "/exact", "exact", "/exact"),
        ("GET", &*own, "/exact?x", "exact", "/exact?x"),
        ("GET", &*own, "/exact/", "", ""),
        ("GET", &*own, "/exactly", "", ""),
        ("GET", "localhost:7", "/exact", "host", "/exact"),
        ("GET", "LOCALHOST:7", "/anything", "host", "/anything"),
        ("GET", "a.localhost:7", "/w", "wildcard", "/w"),
        ("GET", "a.localhost:7", "/exact", "exact", "/exact"),
        ("GET", "a.localhost:7", "/nothing", "", ""),
        ("GET", &*own, "/w", "", ""),
        ("POST", &*own, "/api/x", "writers", "/api/x"),
        ("PUT", &*own, "/api", "writers", "/api"),
        ("GET", &*own, "/api/x", "readers", "/api/x"),
        ("GET", &*own, "/api/v2/x", "readers", "/api/v2/x"),
        ("DELETE", &*own, "/api/v2/x", "api-rest", "/api/v2/x"),
        ("DELETE", &*own, "/api/x", "", ""),
        ("GET", &*own, "/apix", "", ""),
        ("GET", &*own, "/items/12", "regex", "/items/12"),
        ("GET", &*own, "/items/12/edit", "regex", "/items/12/edit"),
        ("GET", &*own, "/items/12/editor", "", ""),
        ("GET", &*own, "/x/items/12", "", ""),
        ("GET", &*own, "/pics/a.png", "images", "/pics/a.png"),
        ("GET", &*own, "/pics/a.png/x", "", ""),
        ("GET", &*own, "/old", "rewrite", "/new/place"),
        ("GET", &*own, "/old/", "rewrite", "/new/place/"),
        (
            "GET",
            &*own,
            "/old/x%20y?q=/old",
            "rewrite",
            "/new/place/x%20y?q=/old",
        ),
        ("GET", &*own, "/older", "", ""),
        ("GET", &*own, "/strip", "strip", "/"),
        ("GET", &*own, "/strip?x", "strip", "/?x"),
        ("GET", &*own, "/strip/x", "strip", "/x"),
        (
            "GET",
            &*own,
            "/strip//evil.example",
            "strip",
            "/evil.example",
        ),
        ("GET", &*own, "/a/b/c/d", "deep", "/a/b/c/d"),
        ("GET", &*own, "/a/b", "", ""),
        ("GET", &*own, "/", "", ""),
    ] {
        let row = format!("{method} {host}{target}");
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        let answer = stage.raw(request.as_bytes());
        let seen = stage.arrived(&row);
        assert_eq!(
            answer.status(),
            Some(if route.is_empty() { 404 } else { 200 }),
            "{row}: {}",
            answer.text()
        );
        assert_eq!(
            seen.as_ref()
                .and_then(|seen| seen.header("x-route"))
                .unwrap_or(""),
            route,
            "{row}"
        );
        assert_eq!(
            seen.as_ref().map_or("", |seen| &seen.target),
            arrives,
            "{row}"
        );
        if let Some(seen) = seen {
            // The Host the browser asked for, as it wrote it.
            assert_eq!(seen.header("host"), Some(host), "{row}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_are_told_apart() {
    let other = Echo::start();
    let stage = Stage::signed_in(|setup, upstream| {
        setup
            .set(
                "upstreams",
                json!({"one": {"url": upstream, "keepalive": 4}, "two": {"url": other.url()}}),
            )
            .route_first(json!({"name": "two", "path_prefix": "/two", "upstream": "two"}))
            .route_first(json!({"name": "one", "path_prefix": "/one", "upstream": "one"}))
    })
    .await;
    for (path, to_one) in [
        ("/one", true),
        ("/two", false),
        ("/one", true),
        ("/two", false),
        ("/else", true),
    ] {
        let answer = stage.client.get(stage.daypass.url(path)).send().await;
        assert_eq!(answer.expect("an answer").status, 200);
        assert_eq!(stage.arrived(path).is_some(), to_one, "{path}");
        assert_eq!(other.count(), usize::from(!to_one), "{path}");
        other.forget();
    }
}
