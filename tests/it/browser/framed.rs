//! The provider's sign-out page ends a session in a frame of Chromium's (LOGOUT-14), and a stranger's page cannot show it.

use daypass_testbed::node;
use daypass_testbed::provider::{Endpoint, Fault, Provider};
use serde_json::{Value, json};

use super::{LIMIT, step};
use crate::stage::Stage;

/// A page at this provider's origin with an address in a frame.
fn page(provider: &Provider, framed: &url::Url) -> String {
    let html = vec![("content-type".to_owned(), "text/html".to_owned())];
    let address = framed.as_str().replace('&', "&amp;");
    let body = format!("<!doctype html><title>Bye</title><iframe src=\"{address}\"></iframe>");
    let page = Fault::Status(200, html, body);
    provider.always(Endpoint::EndSession, [page]);
    format!("{}/end-session", provider.issuer())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_provider_ends_a_session_in_a_frame_of_its_own() {
    let stage = Stage::signed_in(|setup, _| setup).await;
    let stranger = Provider::start();
    let at = stage.daypass.url("/oauth2/logout/frontchannel");
    let address = |sid: &str| {
        let issuer = stage.provider.issuer();
        let words = [("iss", issuer.as_str()), ("sid", sid)];
        url::Url::parse_with_params(&at, words).expect("a URL")
    };
    let cookies: Value = stage
        .client
        .jar()
        .cookies()
        .iter()
        .map(|cookie| json!({"name": cookie.name, "value": cookie.value}))
        .collect();
    let (url, cookies) = (stage.daypass.url("/"), cookies.to_string());
    // Which session is whose, a stranger does not know.
    let elsewhere = page(&stranger, &address("a-sid-that-is-nobodys"));
    let sign_out = page(&stage.provider, &address(&stage.provider.latest_sid()));
    let arguments = [
        ("url", url.as_str()),
        ("cookies", cookies.as_str()),
        ("stranger", elsewhere.as_str()),
        ("provider", sign_out.as_str()),
    ];
    let lines = tokio::task::block_in_place(|| node::browser("framed.mjs", &arguments, LIMIT));
    let lines = lines.unwrap_or_else(|error| panic!("{error}"));
    for (name, at, title, session) in [
        (
            "stranger",
            "chrome-error://chromewebdata/",
            "127.0.0.1",
            200,
        ),
        ("provider", at.as_str(), "Signed out", 401),
    ] {
        let seen = step(&lines, name);
        assert_eq!(
            (&seen["at"], &seen["title"], &seen["session"]),
            (&json!(at), &json!(title), &json!(session)),
            "{name}"
        );
    }
    let ended = [("kind", "front_channel")];
    let count = stage.daypass.metric("daypass_logouts_total", &ended);
    assert!((count - 1.0).abs() < 0.1, "{count}");
}
