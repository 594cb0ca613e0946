//! A page in Chromium learns from its event stream that the person has signed out in another tab.

use daypass_testbed::node;
use serde_json::{Value, json};

use super::{LIMIT, step};
use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn a_page_learns_of_a_logout_in_another_tab() {
    let stage = Stage::signed_in(|setup, _| setup).await;
    let jar = stage.client.jar().clone();
    let cookies: Value = jar
        .cookies()
        .iter()
        .map(|cookie| json!({"name": cookie.name, "value": cookie.value}))
        .collect();
    let (url, cookies) = (stage.daypass.url("/"), cookies.to_string());
    let arguments = [("url", url.as_str()), ("cookies", cookies.as_str())];
    let lines = tokio::task::block_in_place(|| node::browser("events.mjs", &arguments, LIMIT));
    let lines = lines.unwrap_or_else(|error| panic!("{error}"));
    let told = step(&lines, "ended")["told"].as_array().expect("a list");
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["kind"], "ended");
    assert_eq!(
        told[0]["data"],
        json!({"active": false, "reason": "revoked", "login_url": "/oauth2/login"})
    );
    step(&lines, "gave_up");
}
