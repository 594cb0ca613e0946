//! Shows that a session alone does not open every door: denials, missing routes, required claims and scopes.

use serde_json::{Value, json};

use crate::stage::{Stage, assert_jane};

async fn stage() -> Stage {
    Stage::signed_in(|setup, upstream| {
        let route = |name: &str, require: Value| {
            json!({"name": name, "path_prefix": format!("/{name}"), "upstream": upstream, "require": require})
        };
        setup.routes(json!([
            {"name": "denied", "path_prefix": "/denied", "access": "deny"},
            route("admins", json!({"claims": {"groups": ["admin", "ops"]}})),
            route("ops", json!({"claims": {"groups": "ops"}})),
            route("verified", json!({"claims": {"email_verified": true}})),
            route("verified-text", json!({"claims": {"email_verified": "true"}})),
            route("both", json!({"claims": {"groups": "admin", "email": "jane@example.com"}})),
            route("one-of-two", json!({"claims": {"groups": "admin", "email": "john@example.com"}})),
            route("missing", json!({"claims": {"tenant": "acme"}})),
            route("deep", json!({"claims": {"deep.role": "owner"}})),
            route("prefix", json!({"claims": {"groups": "adm"}})),
            route("domain", json!({"claims": {"email": "jane@example.co"}})),
            route("case", json!({"claims": {"groups": "Admin"}})),
            route("scoped", json!({"scopes": ["openid", "email"]})),
            route("unscoped", json!({"scopes": ["openid", "orders.read"]})),
            {"name": "rest", "path_prefix": "/rest", "upstream": upstream,
             "claims_to_headers": {"x-user": "sub", "x-name": "name", "x-email": "email", "x-groups": "groups"}},
        ]))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_door_asks_for_what_it_says() {
    let stage = stage().await;
    for (row, want, reason) in [
        ("/denied", 403, "route"),
        ("/denied/a", 403, "route"),
        ("/admins", 200, ""),
        ("/ops", 403, "claims"),
        ("/verified", 200, ""),
        ("/verified-text", 403, "claims"),
        ("/both", 200, ""),
        ("/one-of-two", 403, "claims"),
        ("/missing", 403, "claims"),
        ("/deep", 403, "claims"),
        ("/prefix", 403, "claims"),
        ("/domain", 403, "claims"),
        ("/case", 403, "claims"),
        ("/scoped", 200, ""),
        ("/unscoped", 403, "scope"),
        ("/rest", 200, ""),
        // PATH-04: no route, no way, session or not.
        ("/", 404, ""),
        ("/nothing", 404, ""),
        ("/restful", 404, ""),
    ] {
        let call = stage
            .client
            .get(stage.daypass.url(row))
            .header("accept", "application/json");
        let answer = call.clone().send().await.expect(row);
        assert_eq!(answer.status, want, "{row}: {}", answer.text());
        assert_eq!(stage.arrived(row).is_some(), want == 200, "{row}");
        if want == 403 {
            let problem = answer.json();
            assert_eq!(
                answer.header("content-type"),
                Some("application/problem+json"),
                "{row}"
            );
            let told = problem["reason"].as_str().unwrap_or_default();
            assert!(told.contains(reason), "{row}: {problem}");
            // Who lacks what is not for the browser to learn.
            assert!(
                !answer.text().contains("ops") && !answer.text().contains("tenant"),
                "{row}: {problem}"
            );
        }
        if want != 200 {
            assert_eq!(answer.header("cache-control"), Some("no-store"), "{row}");
        }
        // People get a page, and are not sent to sign in again: it would not help.
        let page = call.clone().header("sec-fetch-mode", "navigate");
        let page = page.send().await.expect(row);
        assert_eq!(page.status, want, "{row}");
        let stranger = call.without_cookies().send().await.expect(row);
        let denied = matches!(want, 404) || row.starts_with("/denied");
        assert_eq!(stranger.status, if denied { want } else { 401 }, "{row}");
        stage.echo.forget();
    }
    let answer = stage.raw_get(b"/rest", "Cookie: @COOKIE@\r\n");
    assert_eq!(answer.status(), Some(200));
    assert_jane("rest", &stage.arrived("rest").expect("it arrived"));
    for (reason, least) in [("claims", 8.0), ("route", 2.0)] {
        let metrics = stage.daypass.metrics();
        let denied: f64 = metrics.sum("daypass_denied_total", &[("reason", reason)]);
        assert!(denied >= least, "{reason}: {denied}");
    }
}
