//! Shows which keys of the log and of the connections change at a reload, and which are named because they do not.

use daypass_testbed::client::Client;
use daypass_testbed::daypass::{Daypass, Setup};
use daypass_testbed::echo::Echo;
use daypass_testbed::provider::Provider;
use daypass_testbed::raw::wait_for;
use serde_json::json;

use super::{PATIENCE, get, reloaded, signed_in};
use crate::BINARY;

/// Access and audit log stay on at every level.
#[tokio::test(flavor = "multi_thread")]
async fn the_level_of_logs_changes_at_sighup() {
    let (provider, echo) = (Provider::start(), Echo::start());
    let mut daypass = Daypass::ready(BINARY, Setup::new(&provider, &echo.url()));
    let level = |level: &'static str| {
        move |daypass: &mut Daypass| daypass.change(|setup| setup.set("logging.level", level))
    };
    reloaded(&mut daypass, "success", level("error"));
    // What is known of by now was written under the new level, and so is all that follows.
    signed_in(&get(&Client::new(), daypass.url("/public/at-last")).await);
    let line = daypass.wait_for_log(&["/public/at-last"], PATIENCE);
    assert!(line.is_some(), "{}", daypass.log());
    let already = daypass.lines().len();
    signed_in(&Client::new().browse(daypass.url("/")).await.expect("login"));
    let written = || daypass.lines().split_off(already);
    for target in ["access", "audit"] {
        let target = format!("\"target\":\"{target}\"");
        let told = wait_for(PATIENCE, || {
            written()
                .iter()
                .any(|line| line.contains(&target))
                .then_some(())
        });
        assert!(told.is_some(), "{target}:\n{}", daypass.log());
    }
    let chatter = |line: &&String| line.contains("\"target\":\"daypass");
    assert_eq!(written().iter().find(chatter), None);
    reloaded(&mut daypass, "success", level("debug"));
    signed_in(&Client::new().browse(daypass.url("/")).await.expect("login"));
    let told = wait_for(PATIENCE, || {
        let lines = daypass.lines().split_off(already);
        let mut lines = lines.iter();
        lines
            .any(|line| line.contains("\"level\":\"DEBUG\""))
            .then_some(())
    });
    assert!(told.is_some(), "{}", daypass.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_a_restart_is_named_and_the_rest_comes_into_force() {
    let (provider, echo) = (Provider::start(), Echo::start());
    let setup = Setup::new(&provider, &echo.url())
        .set("upstreams.shop.url", echo.url())
        .route_first(json!({"path_prefix": "/later", "upstream": "shop"}));
    let mut daypass = Daypass::ready(BINARY, setup.clone());
    let named = |daypass: &Daypass| {
        let lines = daypass.lines();
        let lines = lines.iter().filter(|line| line.contains("takes a restart"));
        lines.cloned().collect::<Vec<_>>()
    };
    let changed = setup
        .set("logging.format", "text")
        .set("upstreams.shop.keepalive", 7)
        .set("routes.0.access", "public");
    reloaded(&mut daypass, "success", |daypass| {
        daypass.rewrite(changed.clone());
    });
    assert_eq!(get(&Client::new(), daypass.url("/later")).await.status, 200);
    for key in ["logging.format", "upstreams.shop.keepalive"] {
        let line = daypass.wait_for_log(&[key, "takes a restart"], PATIENCE);
        let line = line.unwrap_or_else(|| panic!("{key}:\n{}", daypass.log()));
        assert!(line.contains("\"level\":\"WARN\""), "still JSON: {line}");
    }
    // Not only at the reload that changed them: what is in force is what counts.
    let before = named(&daypass).len();
    reloaded(&mut daypass, "success", |_| {});
    let told = wait_for(PATIENCE, || {
        (named(&daypass).len() >= before + 2).then_some(())
    });
    assert!(told.is_some(), "{}", daypass.log());
    reloaded(&mut daypass, "success", |daypass| {
        daypass.change(|setup| {
            setup
                .unset("logging.format")
                .unset("upstreams.shop.keepalive")
        });
    });
    // A reload is told of after what it names.
    let all_read = |daypass: &Daypass| {
        let reloads = daypass.metric("daypass_config_reloads_total", &[("result", "success")]);
        let told = wait_for(PATIENCE, || {
            let lines = daypass.lines();
            let lines = lines.iter();
            let told = lines.filter(|line| line.contains("configuration reloaded"));
            let told = told.fold(0.0, |told, _| told + 1.0);
            (told >= reloads).then_some(())
        });
        assert!(told.is_some(), "{}", daypass.log());
    };
    all_read(&daypass);
    let after = named(&daypass).len();
    reloaded(&mut daypass, "success", |_| {});
    all_read(&daypass);
    assert_eq!(named(&daypass).len(), after, "nothing waits any more");
}
