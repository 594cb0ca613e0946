//! Shows that over HTTP/2 the stream ends with its session, and its neighbours on the connection go on.

use std::time::Duration;

use daypass_testbed::client::{Client, Streaming};
use daypass_testbed::echo::Echo;
use daypass_testbed::pki::Authority;
use daypass_testbed::provider::Provider;
use serde_json::json;

use crate::stage::{PATIENCE, Stage};

async fn first(stage: &Stage, path: &str) -> Streaming {
    let call = stage.client.get(stage.daypass.url(path));
    let mut stream = call.stream().await.expect("a stream");
    assert_eq!(
        (stream.status, format!("{:?}", stream.version)),
        (200, "HTTP/2.0".to_owned())
    );
    stream.next().await.expect("no error").expect("a message");
    stream
}

/// How it ended: `None` for a proper end, else the error's words.
async fn end(mut stream: Streaming) -> Option<String> {
    let all = async {
        loop {
            match stream.next().await {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(error) => return Some(format!("{error:?}")),
            }
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("an end")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logout_resets_streams_and_spares_the_connection() {
    let (authority, provider, echo) = (Authority::new(), Provider::start(), Echo::start());
    let certificate = authority.issue(&["localhost", "127.0.0.1"]);
    let h2c = echo.h2c_url();
    let mut stage = Stage::with(provider, echo, |setup, upstream| {
        setup
            .tls(&certificate)
            .route_first(json!({"name": "grpc", "path_prefix": "/grpc", "upstream": h2c, "rewrite_prefix": "/"}))
            .route_first(json!({"name": "open", "path_prefix": "/open", "access": "public", "upstream": upstream, "rewrite_prefix": "/"}))
    });
    stage.client = Client::trusting(&authority.pem);
    stage.sign_in().await;
    let grpc = first(&stage, "/grpc/sse?ms=20&grpc").await;
    let events = first(&stage, "/sse?ms=20").await;
    let mut neighbour = first(&stage, "/open/sse?ms=20").await;
    let poll = tokio::spawn(stage.client.get(stage.daypass.url("/poll?ms=60000")).send());
    stage.wait_for_metric("daypass_streams_active", &[], 3.0);
    let arrived = daypass_testbed::raw::wait_for(PATIENCE, || {
        let requests = stage.echo.requests();
        let mut requests = requests.iter();
        requests
            .any(|request| request.target.starts_with("/poll"))
            .then_some(())
    });
    assert!(arrived.is_some(), "the long poll");
    assert!(
        stage
            .daypass
            .metric("daypass_streams_active", &[("route", "grpc")])
            > 0.5
    );
    // On the same connection.
    let out = stage.client.post(stage.daypass.url("/oauth2/logout/local"));
    let out = out.header("sec-fetch-site", "same-origin").send().await;
    assert_eq!(out.expect("an answer").status, 204);
    for stream in [grpc, events] {
        let error = end(stream).await.expect("no proper end");
        assert!(
            error.contains("Reset") && error.contains("CANCEL"),
            "{error}"
        );
    }
    assert!(
        poll.await.expect("no panic").is_err(),
        "no answer without session"
    );
    neighbour.next().await.expect("no error").expect("an event");
    stage.wait_for_metric(
        "daypass_streams_closed_total",
        &[("reason", "revoked")],
        3.0,
    );
    stage.wait_for_metric("daypass_streams_active", &[], 1.0);
    // Who is cut off is accounted for as well.
    stage.wait_for_access("/sse", "revoked");
    stage.wait_for_access("/grpc/sse", "revoked");
    stage.wait_for_access("/poll", "revoked");
    let upstream = daypass_testbed::raw::wait_for(Duration::from_secs(10), || {
        (stage.echo.ended_streams().len() == 2).then_some(())
    });
    assert!(upstream.is_some(), "the upstreams' ends are closed, too");
}
