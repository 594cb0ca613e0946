//! Shows that an upstream that is down, slow or broken becomes an answer that people and programs understand.

use std::time::{Duration, Instant};

use daypass_testbed::client::Call;
use daypass_testbed::ports;
use daypass_testbed::raw::{Sink, wait_for};
use serde_json::json;

use crate::stage::{PATIENCE, Stage};

/// Sends the call as a program and as a person: both get `status`, in their own words, and nothing to keep.
async fn both_kinds(row: &str, call: &Call, status: u16, reason: &str) {
    let answer = call
        .clone()
        .header("accept", "application/json")
        .send()
        .await
        .expect(row);
    assert_eq!(answer.status, status, "{row}: {}", answer.text());
    assert_eq!(
        answer.header("content-type"),
        Some("application/problem+json"),
        "{row}"
    );
    let problem = answer.json();
    assert_eq!(problem["reason"], reason, "{row}");
    assert_eq!(
        problem["request_id"].as_str(),
        answer.header("x-request-id"),
        "{row}"
    );
    assert!(
        answer.header("location").is_none() && problem.get("login_url").is_none(),
        "{row}: {problem}"
    );
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{row}");
    let page = call.clone().navigation().send().await.expect(row);
    assert_eq!(page.status, status, "{row}");
    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8"),
        "{row}"
    );
    let id = page.header("x-request-id").expect("an id").to_owned();
    assert!(page.text().contains(&id), "{row}: no id to quote");
    assert_eq!(page.header("cache-control"), Some("no-store"), "{row}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_down_is_502_until_it_is_back() {
    let mut stage = Stage::signed_in(|setup, _| setup).await;
    stage.echo.stop();
    for path in ["/a", "/public/a"] {
        let call = stage.client.get(stage.daypass.url(path));
        both_kinds(path, &call, 502, "upstream_unavailable").await;
    }
    let errors = stage
        .daypass
        .metric("daypass_upstream_errors_total", &[("reason", "connect")]);
    assert!(errors >= 4.0, "{errors}");
    stage.echo.resume();
    let answer = stage
        .client
        .get(stage.daypass.url("/a"))
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_answers_are_502() {
    let nowhere = format!("http://{}", ports::free());
    let sinks = [
        ("not-http", Sink::start(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")),
        ("two-lengths", Sink::start(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!")),
        ("bad-length", Sink::start(b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok")),
        ("bad-name", Sink::start(b"HTTP/1.1 200 OK\r\nX A: b\r\nContent-Length: 2\r\n\r\nok")),
        ("bad-status", Sink::start(b"HTTP/1.1 2OO OK\r\nContent-Length: 2\r\n\r\nok")),
        ("gone", Sink::start(b"HTTP/1.1 200 OK\r\nConnection: close\r\nX: ")),
        ("unasked-upgrade", Sink::start(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")),
    ];
    let stage = Stage::signed_in(|setup, _| {
        let route = |name: &str, url: &str| json!({"name": name, "path_prefix": format!("/{name}"), "upstream": url});
        let setup = sinks.iter().fold(setup, |setup, (name, sink)| setup.route_first(route(name, &sink.url())));
        setup.route_first(route("nowhere", &nowhere)).route_first(route("unknown", "http://no-such-host.invalid:80"))
    })
    .await;
    for row in sinks
        .iter()
        .map(|(name, _)| *name)
        .chain(["nowhere", "unknown"])
    {
        let call = stage.client.get(stage.daypass.url(&format!("/{row}")));
        both_kinds(row, &call, 502, "upstream_unavailable").await;
    }
    assert!(stage.arrived("broken").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_upstream_is_504_after_the_routes_time() {
    let stage = Stage::signed_in(|setup, upstream| {
        setup.route_first(json!({
            "name": "hurried", "path_prefix": "/hurried", "upstream": upstream, "limits": {"timeout": "1s"},
        }))
    })
    .await;
    let call = stage.client.get(stage.daypass.url("/hurried?ms=30000"));
    let began = Instant::now();
    both_kinds("slow", &call, 504, "upstream_timeout").await;
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
    // Two calls, two requests: a request that timed out is not sent again.
    let arrived = wait_for(PATIENCE, || (stage.echo.count() >= 2).then_some(()));
    assert!(arrived.is_some());
    assert_eq!(stage.echo.count(), 2);
    assert!(
        stage
            .daypass
            .metric("daypass_upstream_errors_total", &[("reason", "timeout")])
            >= 2.0
    );
    // A machine that stands still makes the quick slow, not each time.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let quick = stage.client.get(stage.daypass.url("/hurried?ms=10"));
        let quick = quick.send().await.expect("an answer").status;
        if quick == 200 {
            break;
        }
        assert_eq!(quick, 504);
        assert!(Instant::now() < deadline, "still too slow");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_is_not_sent_again() {
    // PROXY-08: over connections that were used before, where servers are most tempted to try again.
    let stage = Stage::signed_in(|setup, _| setup).await;
    for (method, most) in [("POST", 1), ("PATCH", 1), ("GET", 2), ("DELETE", 2)] {
        for _ in 0..3 {
            let warm = stage.client.get(stage.daypass.url("/a")).send().await;
            assert_eq!(warm.expect("an answer").status, 200);
        }
        stage.echo.forget();
        let method: http::Method = method.parse().expect("a method");
        let call = stage
            .client
            .request(method.clone(), stage.daypass.url("/reset"));
        let answer = call.body("once").send().await.expect("an answer");
        assert_eq!(answer.status, 502, "{method}");
        let count = stage.echo.count();
        assert!(
            (1..=most).contains(&count),
            "{method} was sent {count} times"
        );
        stage.echo.forget();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_is_not_passed_as_whole() {
    let stage = Stage::signed_in(|setup, _| setup).await;
    let mut answer = stage
        .client
        .get(stage.daypass.url("/reset?after=100000"))
        .stream()
        .await
        .expect("a header");
    assert_eq!(answer.status, 200);
    let mut got = 0;
    let end = loop {
        match answer.next().await {
            Ok(Some(bytes)) => got += bytes.len(),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    assert!(
        end.is_err(),
        "an answer that broke off after {got} bytes was passed as whole"
    );
    assert_eq!(
        stage
            .client
            .get(stage.daypass.url("/a"))
            .send()
            .await
            .expect("an answer")
            .status,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_is_not_forwarded_buys_no_time() {
    let stage = Stage::signed_in(|setup, upstream| {
        setup.route_first(json!({
            "name": "hurried", "path_prefix": "/hurried", "upstream": upstream, "limits": {"timeout": "1s"},
        }))
    })
    .await;
    let call = stage.client.get(stage.daypass.url("/hurried?ms=30000"));
    let answer = call
        .header("upgrade", "h2c")
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status, 504);
}
