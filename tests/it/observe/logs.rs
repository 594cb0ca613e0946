//! Shows what stands in access and audit log, and what never does (OBS-08).

use std::time::Duration;

use daypass_testbed::client::{Call, Client, Response};
use daypass_testbed::daypass::{Daypass, Setup};
use daypass_testbed::echo::Echo;
use daypass_testbed::provider::{Endpoint, Fault, Provider};
use daypass_testbed::raw::wait_for;
use serde_json::{Value, json};

use super::PATIENCE;
use crate::BINARY;

const JANE: &str = "248289761001";

/// A route that lets nobody in.
fn nobody(echo: &Echo) -> Value {
    json!({
        "name": "nobody", "path_prefix": "/nobody", "upstream": echo.url(),
        "require": {"claims": {"groups": ["nobody"]}},
    })
}

/// Lines of a target.
fn lines(daypass: &Daypass, target: &str) -> Vec<Value> {
    let events = daypass.events();
    events
        .into_iter()
        .filter(|event| event["target"] == target)
        .collect()
}

/// The one access line of the request that this answer belongs to.
pub(super) fn line_of(daypass: &Daypass, answer: &Response) -> Value {
    let id = answer
        .header("x-request-id")
        .expect("every answer of ours has an id");
    let found = || -> Vec<Value> {
        let all = lines(daypass, "access");
        all.into_iter()
            .filter(|line| line["request.id"] == id)
            .collect()
    };
    let seen = wait_for(PATIENCE, || (!found().is_empty()).then_some(()));
    assert!(seen.is_some(), "no line for {id}: {}", daypass.log());
    let mut found = found();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn each_request_has_one_line_that_tells_what_was_decided_and_why() {
    let (provider, echo) = (Provider::start(), Echo::start());
    let closed = json!({"name": "closed", "path_prefix": "/closed", "access": "deny"});
    let setup = Setup::new(&provider, &echo.url()).route_first(closed);
    let daypass = Daypass::ready(BINARY, setup.route_first(nobody(&echo)));
    let (client, stranger) = (Client::new(), Client::new());
    assert_eq!(
        client.browse(daypass.url("/")).await.expect("login").status,
        200
    );
    let url = |path: &str| daypass.url(path);
    for (name, call, status, route, access, decision, reason, forwarded) in [
        (
            "forwarded",
            client.get(url("/a/./b?q=1")),
            200,
            "private",
            "session",
            "forward",
            None,
            true,
        ),
        (
            "public",
            stranger.get(url("/public/x")),
            200,
            "public",
            "public",
            "forward",
            None,
            true,
        ),
        (
            "refused",
            stranger.get(url("/a")),
            401,
            "private",
            "session",
            "refuse",
            Some("no_session"),
            false,
        ),
        (
            "sent to log in",
            stranger.navigate(url("/a")),
            302,
            "private",
            "session",
            "login",
            Some("no_session"),
            false,
        ),
        (
            "denied",
            client.get(url("/closed")),
            403,
            "closed",
            "deny",
            "refuse",
            Some("route"),
            false,
        ),
        (
            "denied, and whose it was",
            client.get(url("/nobody")),
            403,
            "nobody",
            "session",
            "refuse",
            Some("claims"),
            false,
        ),
        (
            "own, and whose it was",
            client.get(url("/oauth2/session")),
            200,
            "_daypass",
            "own",
            "own",
            None,
            false,
        ),
        (
            "own, refused",
            stranger.get(url("/oauth2/session")),
            401,
            "_daypass",
            "own",
            "refuse",
            Some("no_session"),
            false,
        ),
        (
            "not our host",
            stranger.get(url("/a")).header("host", "evil.example"),
            421,
            "_none",
            "none",
            "refuse",
            Some("misdirected"),
            false,
        ),
    ] {
        let answer = call.send().await.expect("an answer");
        assert_eq!(answer.status, status, "{name}: {}", answer.text());
        let line = line_of(&daypass, &answer);
        let told = (
            &line["route"],
            &line["access"],
            &line["decision"],
            &line["http.status"],
            &line["http.method"],
        );
        assert_eq!(
            told,
            (
                &json!(route),
                &json!(access),
                &json!(decision),
                &json!(status),
                &json!("GET")
            ),
            "{name}: {line}"
        );
        assert_eq!(
            line.get("reason").and_then(Value::as_str),
            reason,
            "{name}: {line}"
        );
        assert_eq!(line["level"], "INFO", "{name}: {line}");
        assert_eq!(line["client.address"], "127.0.0.1", "{name}: {line}");
        let millis = |field: &str| line[field].as_f64();
        let (total, own) = (
            millis("duration_ms").expect("a time"),
            millis("own_ms").expect("a time"),
        );
        assert!(own > 0.0 && own <= total, "{name}: {line}");
        assert_eq!(millis("upstream_ms").is_some(), forwarded, "{name}: {line}");
        let hash = line.get("subject.hash").and_then(Value::as_str);
        let signed_in = (access == "session" && decision == "forward") || name.contains("whose");
        assert_eq!(
            hash.is_some_and(|hash| hash.len() == 16),
            signed_in,
            "{name}: {line}"
        );
        if decision == "forward" {
            let seen = echo.last().expect("forwarded");
            assert_eq!(
                seen.header("x-request-id"),
                answer.header("x-request-id"),
                "{name}: one id all the way"
            );
        }
        if name == "forwarded" {
            assert_eq!(
                line["url.path"], "/a/b",
                "the path that decided, without its query"
            );
        }
    }
    assert!(
        !daypass.log().contains(JANE) && !daypass.log().contains("jane@example.com"),
        "nobody is named"
    );
}

/// Where a session is known, made or ended, its line says whose it was.
#[tokio::test(flavor = "multi_thread")]
async fn the_line_of_whoever_is_known_has_the_hash_of_their_name() {
    let (mut provider, echo) = (Provider::start(), Echo::start());
    let setup = Setup::new(&provider, &echo.url()).set("session.refresh_before", "0s");
    let daypass = Daypass::ready(BINARY, setup);
    let client = Client::new();
    let page = client.browse(daypass.url("/")).await.expect("a login");
    let known = line_of(&daypass, &page)["subject.hash"].clone();
    assert!(known.is_string());
    let sends = |call: Call| async { call.send().await.expect("an answer") };

    // The callback, and its replay.
    let started = sends(client.navigate(daypass.url("/oauth2/login"))).await;
    let to_provider = started.location().expect("to the provider");
    let callback = sends(client.navigate(to_provider)).await;
    let callback = callback.location().expect("back");
    for row in ["callback", "callback again"] {
        let answer = sends(client.navigate(&callback)).await;
        assert_eq!(answer.status, 303, "{row}");
        assert_eq!(line_of(&daypass, &answer)["subject.hash"], known, "{row}");
    }
    let twin = client.twin();
    let local = sends(twin.post(daypass.url("/oauth2/logout/local"))).await;
    assert_eq!(local.status, 204);
    assert_eq!(line_of(&daypass, &local)["subject.hash"], known, "local");
    client.browse(daypass.url("/")).await.expect("a login");
    let out = sends(client.navigate(daypass.url("/oauth2/logout"))).await;
    assert_eq!(out.status, 303);
    assert_eq!(line_of(&daypass, &out)["subject.hash"], known, "logout");

    // A token that has run out and cannot be renewed.
    provider.configure(|settings| settings.access_ttl = Duration::from_secs(1));
    client.browse(daypass.url("/")).await.expect("a login");
    provider.stop();
    for path in ["/", "/oauth2/session/refresh"] {
        let answer = wait_for(PATIENCE, || {
            let call = match path {
                "/" => client.get(daypass.url(path)),
                _ => client.post(daypass.url(path)),
            };
            let answer = tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(call.send())
            });
            answer.ok().filter(|answer| answer.status == 503)
        });
        let answer = answer.expect("503 when the token has run out");
        assert_eq!(line_of(&daypass, &answer)["subject.hash"], known, "{path}");
    }
}

/// What an auditor asks for: who came, who left, who was turned away, and whose tokens could not be renewed.
#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::too_many_lines,
    reason = "one story, each step of which builds on the one before"
)]
async fn the_audit_log_tells_of_logins_logouts_refusals_and_failed_refreshes() {
    let provider = Provider::with(|settings| settings.access_ttl = Duration::from_secs(1));
    let echo = Echo::start();
    let setup = Setup::new(&provider, &echo.url())
        .set("session.refresh_before", "0s")
        .route_first(nobody(&echo));
    // The audit log does not hang on the access log.
    let daypass = Daypass::ready(
        BINARY,
        setup
            .set("logging.access_log", false)
            .set("logging.level", "info"),
    );
    let client = Client::new();
    let tells = |name: &str, fields: Value| {
        let fits = |line: &Value| {
            fields
                .as_object()
                .expect("fields")
                .iter()
                .all(|(key, value)| &line[key] == value)
        };
        let found = wait_for(PATIENCE, || lines(&daypass, "audit").into_iter().find(fits));
        found.unwrap_or_else(|| {
            panic!(
                "{name}: {fields} is not in the audit log:\n{}",
                daypass.log()
            )
        })
    };
    assert_eq!(
        client.browse(daypass.url("/")).await.expect("login").status,
        200
    );
    let login = tells(
        "login",
        json!({"event": "login", "result": "success", "provider": "provider"}),
    );
    let hash = login["subject.hash"].clone();
    assert_eq!(hash.as_str().map(str::len), Some(16), "{login}");
    let session = login["session"].clone();
    assert!(session.is_string(), "{login}");

    provider.fault(Endpoint::Authorize, Fault::oauth("access_denied"));
    Client::new()
        .browse(daypass.url("/"))
        .await
        .expect("an answer");
    tells(
        "a login that failed",
        json!({"event": "login", "result": "refused"}),
    );

    let denied = client
        .get(daypass.url("/nobody"))
        .send()
        .await
        .expect("an answer");
    assert_eq!(denied.status, 403);
    let id = denied.header("x-request-id").expect("an id");
    tells(
        "denial",
        json!({"event": "denied", "reason": "claims", "route": "nobody", "request.id": id, "subject.hash": hash}),
    );

    provider.always(Endpoint::Refresh, [Fault::oauth("invalid_client")]);
    let failed = wait_for(PATIENCE, || {
        let answer = client.get(daypass.url("/")).send();
        let answer =
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(answer));
        (answer.expect("an answer").status == 503).then_some(())
    });
    assert!(failed.is_some(), "{}", daypass.log());
    tells(
        "refresh failure",
        json!({"event": "refresh.failed", "reason": "misconfigured", "session": session}),
    );

    client
        .browse(daypass.url("/oauth2/logout"))
        .await
        .expect("logout");
    let logout = tells(
        "logout",
        json!({"event": "logout", "kind": "rp_initiated", "session": session}),
    );
    assert_eq!(logout["subject.hash"], hash, "{logout}");
    tells(
        "revocation",
        json!({"event": "token.revoked", "result": "success", "provider": "provider"}),
    );

    provider.behave();
    assert_eq!(
        client.browse(daypass.url("/")).await.expect("login").status,
        200
    );
    provider.revoke_all();
    let ended = wait_for(PATIENCE, || {
        let answer = client.get(daypass.url("/")).send();
        let answer =
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(answer));
        (answer.expect("an answer").status == 401).then_some(())
    });
    assert!(ended.is_some(), "{}", daypass.log());
    tells(
        "a session that the provider ended",
        json!({"event": "session.ended", "reason": "refresh_rejected"}),
    );
    assert_eq!(
        lines(&daypass, "access"),
        [Value::Null; 0],
        "access_log: false"
    );
    assert!(!daypass.log().contains(JANE), "nobody is named");
}

#[tokio::test(flavor = "multi_thread")]
async fn text_holds_the_same_for_eyes() {
    let (provider, echo) = (Provider::start(), Echo::start());
    let (folder, _) =
        crate::cli::folder_with(&Setup::new(&provider, &echo.url()).set("logging.format", "text"));
    let text = std::fs::read_to_string(folder.path().join("daypass.yaml")).expect("the file");
    let config: Value = serde_json::from_str(&text).expect("setups are JSON");
    let process = crate::cli::process::daypass(folder.path(), &["run", "-c", "daypass.yaml"], &[]);
    assert!(process.says("listener=\"admin\""), "{}", process.stderr());
    let url = config["public_url"].as_str().expect("a URL");
    let answer = Client::new()
        .get(format!("{url}/public/x?q=secret-query"))
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status, 200);
    let id = answer.header("x-request-id").expect("an id").to_owned();
    assert!(process.says(&id), "{}", process.stderr());
    let stderr = process.stderr();
    let line = stderr
        .lines()
        .find(|line| line.contains(&id))
        .expect("a line");
    for part in [
        "INFO",
        "access",
        "http.method=\"GET\"",
        "http.status=200",
        "url.path=\"/public/x\"",
        "route=\"public\"",
        "upstream_ms=",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(
        !stderr.contains("secret-query") && !stderr.contains('\u{1b}'),
        "{stderr}"
    );
}
