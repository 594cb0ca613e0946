//! Shows that session keys rotate by reload: the first seals, all open, and one taken out opens nothing more.

use daypass_testbed::client::Client;
use daypass_testbed::daypass::{Daypass, Setup};
use daypass_testbed::echo::Echo;
use daypass_testbed::provider::Provider;
use daypass_testbed::redis::Redis;
use serde_json::{Value, json};

use super::{get, reloaded, signed_in};
use crate::BINARY;
use crate::cli::process::run;

fn key(seed: &str) -> (String, Value) {
    let text = run(std::path::Path::new("/"), &["keygen"], &[]).stdout;
    daypass_testbed::secrets::record("session key", text.trim());
    (format!("key-{seed}"), Value::String(text))
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_rotate_without_signing_anyone_out_and_one_taken_out_ends_its_sessions() {
    let (provider, echo, redis) = (Provider::start(), Echo::start(), Redis::start());
    let setup = Setup::new(&provider, &echo.url()).redis(&redis);
    let ((old, old_text), (new, new_text)) = (key("old"), key("new"));
    let named = |names: &[&String]| -> Value {
        names
            .iter()
            .map(|name| json!({"file": format!("@DIR@/{name}")}))
            .collect()
    };
    let setup = setup
        .file(&old, old_text.as_str().expect("text"))
        .file(&new, new_text.as_str().expect("text"))
        .set("session.keys", named(&[&old]));
    let mut daypass = Daypass::ready(BINARY, setup);
    let (before, between) = (Client::new(), Client::new());
    signed_in(&before.browse(daypass.url("/")).await.expect("login"));

    reloaded(&mut daypass, "success", |daypass| {
        daypass.change(|setup| setup.set("session.keys", named(&[&new, &old])));
    });
    signed_in(&get(&before, daypass.url("/")).await);
    signed_in(&between.browse(daypass.url("/")).await.expect("login"));

    reloaded(&mut daypass, "success", |daypass| {
        daypass.change(|setup| setup.set("session.keys", named(&[&new])));
    });
    let gone = get(&before, daypass.url("/")).await;
    assert_eq!(
        gone.status,
        401,
        "the key that sealed it is gone: {}",
        gone.text()
    );
    signed_in(&get(&between, daypass.url("/")).await);
    // It is over, not broken: signing in helps.
    signed_in(&before.browse(daypass.url("/")).await.expect("login"));
}

/// Sessions of the memory store are sealed under no key: a rotation does not touch them.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_in_memory_do_not_mind_keys() {
    let (provider, echo) = (Provider::start(), Echo::start());
    let ((old, old_text), (new, new_text)) = (key("old"), key("new"));
    let setup = Setup::new(&provider, &echo.url())
        .file(&old, old_text.as_str().expect("text"))
        .file(&new, new_text.as_str().expect("text"));
    let mut daypass = Daypass::ready(BINARY, setup);
    let client = Client::new();
    signed_in(&client.browse(daypass.url("/")).await.expect("login"));
    for name in [&old, &new] {
        let keys = json!([{"file": format!("@DIR@/{name}")}]);
        reloaded(&mut daypass, "success", |daypass| {
            daypass.change(|setup| setup.set("session.keys", keys));
        });
        signed_in(&get(&client, daypass.url("/")).await);
        signed_in(&Client::new().browse(daypass.url("/")).await.expect("login"));
    }
}

/// A login that began before the rotation ends after it: its `state` is sealed under a key that still opens.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_under_way_outlives_a_rotation() {
    let (provider, echo, redis) = (Provider::start(), Echo::start(), Redis::start());
    let ((old, old_text), (new, new_text)) = (key("old"), key("new"));
    let setup = Setup::new(&provider, &echo.url())
        .redis(&redis)
        .file(&old, old_text.as_str().expect("text"))
        .file(&new, new_text.as_str().expect("text"))
        .set("session.keys", json!([{"file": format!("@DIR@/{old}")}]));
    let mut daypass = Daypass::ready(BINARY, setup);
    let client = Client::new();
    let to_provider = client
        .navigate(daypass.url("/page"))
        .send()
        .await
        .expect("an answer");
    let to_us = client
        .navigate(to_provider.location().expect("a redirect"))
        .send()
        .await
        .expect("an answer");
    let keys = json!([{"file": format!("@DIR@/{new}")}, {"file": format!("@DIR@/{old}")}]);
    reloaded(&mut daypass, "success", |daypass| {
        daypass.change(|setup| setup.set("session.keys", keys));
    });
    let page = client
        .browse(to_us.location().expect("the way back"))
        .await
        .expect("signed in");
    signed_in(&page);
    assert_eq!(page.url.as_str(), daypass.url("/page"));
}
