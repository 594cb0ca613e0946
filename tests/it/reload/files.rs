//! Shows that files which change on disk are noticed without a signal, in all the ways they change.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use daypass_testbed::client::Client;
use daypass_testbed::daypass::{Daypass, Setup};
use daypass_testbed::echo::Echo;
use daypass_testbed::provider::Provider;
use daypass_testbed::raw::wait_for;
use nix::sys::signal::Signal;

use super::{PATIENCE, get, reloads};
use crate::BINARY;
use crate::cli::process::daypass;

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_noticed_however_it_changes() {
    let (provider, echo) = (Provider::start(), Echo::start());
    let mut daypass = Daypass::ready(BINARY, Setup::new(&provider, &echo.url()));
    let file = daypass.config_file();
    for (name, base, write) in [
        ("renamed over, as editors do", "/one", None),
        ("written in place", "/two", Some(false)),
        ("removed and written anew", "/three", Some(true)),
    ] {
        let before = reloads(&daypass, "success");
        match write {
            None => daypass.change(|setup| setup.set("base_path", base)),
            Some(remove) => {
                let text = fs::read_to_string(&file).expect("readable");
                let mut document: serde_json::Value = serde_json::from_str(&text).expect("JSON");
                document["base_path"] = base.into();
                if remove {
                    fs::remove_file(&file).expect("removed");
                }
                fs::write(&file, document.to_string()).expect("written");
            }
        }
        let seen = wait_for(PATIENCE, || {
            (reloads(&daypass, "success") > before).then_some(())
        });
        assert!(seen.is_some(), "{name}: {}", daypass.log());
        let answer = get(&Client::new(), daypass.url(&format!("{base}/session"))).await;
        assert_eq!(
            answer.json()["login_url"],
            format!("{base}/login"),
            "{name}"
        );
    }
}

/// CFG-02: a mounted ConfigMap is a link to `..data/daypass.yaml`, and `..data` a link that is swapped.
#[tokio::test(flavor = "multi_thread")]
async fn a_configmap_that_kubernetes_swaps_is_noticed() {
    let (provider, echo) = (Provider::start(), Echo::start());
    let folder = tempfile::tempdir().expect("a folder");
    let setup = Setup::new(&provider, &echo.url());
    let text = setup.preview(folder.path());
    let config: serde_json::Value = serde_json::from_str(&text).expect("setups are JSON");
    let publish = |version: &str, text: &str| {
        fs::create_dir(folder.path().join(version)).expect("made");
        fs::write(folder.path().join(version).join("daypass.yaml"), text).expect("written");
        symlink(version, folder.path().join("..data_tmp")).expect("linked");
        fs::rename(
            folder.path().join("..data_tmp"),
            folder.path().join("..data"),
        )
        .expect("swapped");
    };
    publish("..2026_01_01", &text);
    symlink("..data/daypass.yaml", folder.path().join("daypass.yaml")).expect("linked");
    let process = daypass(
        Path::new("/"),
        &[
            "run",
            "-c",
            &folder.path().join("daypass.yaml").display().to_string(),
        ],
        &[],
    );
    assert!(
        process.says("\"listener\":\"admin\""),
        "{}",
        process.stderr()
    );
    let session = |base: &str| {
        format!(
            "{}{base}/session",
            config["public_url"].as_str().expect("a URL")
        )
    };
    assert_eq!(
        get(&Client::new(), session("/oauth2")).await.json()["login_url"],
        "/oauth2/login"
    );

    let mut next = config.clone();
    for (version, base) in [("..2026_01_02", "/second"), ("..2026_01_03", "/third")] {
        next["base_path"] = base.into();
        let before = process.stderr().matches("configuration reloaded").count();
        let old = fs::read_link(folder.path().join("..data")).expect("a link");
        publish(version, &next.to_string());
        // Kubernetes takes the old folder away, and with it what was watched.
        fs::remove_dir_all(folder.path().join(old)).expect("removed");
        let seen = wait_for(PATIENCE, || {
            (process.stderr().matches("configuration reloaded").count() > before).then_some(())
        });
        assert!(seen.is_some(), "{version}: {}", process.stderr());
        assert_eq!(
            get(&Client::new(), session(base)).await.json()["login_url"],
            format!("{base}/login"),
            "{version}"
        );
    }
    process.signal(Signal::SIGTERM);
    assert_eq!(process.finish().code, Some(0));
}

/// A second configuration's time is its own, and what it names from now on is watched.
#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::disallowed_methods,
    reason = "the process under test has a clock of its own"
)]
async fn the_time_of_loading_moves_and_new_files_are_watched() {
    let (provider, echo) = (Provider::start(), Echo::start());
    let mut daypass = Daypass::ready(BINARY, Setup::new(&provider, &echo.url()));
    let loaded = |daypass: &Daypass| daypass.metric("daypass_config_loaded_timestamp_seconds", &[]);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970");
    let first = loaded(&daypass);
    assert!(
        (now.as_secs_f64() - first).abs() < 60.0,
        "seconds since 1970: {first}"
    );
    let watched = |count: f64, daypass: &Daypass| {
        wait_for(PATIENCE, || {
            (reloads(daypass, "success") >= count).then_some(())
        })
    };
    daypass.change(|setup| {
        setup
            .set(
                "provider.client_secret",
                serde_json::json!({"file": "@DIR@/client-secret"}),
            )
            .file("client-secret", provider.client_secret())
    });
    assert!(watched(1.0, &daypass).is_some(), "{}", daypass.log());
    daypass.change(|setup| setup.file("client-secret", "another-secret-that-is-named-since"));
    assert!(watched(2.0, &daypass).is_some(), "{}", daypass.log());
    let moved = wait_for(PATIENCE, || {
        // Whole seconds: the same one may have begun both.
        daypass.hup();
        (loaded(&daypass) > first).then_some(())
    });
    assert!(moved.is_some(), "{first} {}", loaded(&daypass));
}
