//! Shows that the demo starts, prints a URL, and that the URL leads through sign-in to the application.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use daypass_testbed::client::{Client, Form};
use daypass_testbed::raw::wait_for;

use nix::sys::signal::Signal;

use super::process::Process;

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_prints_a_url_that_signs_in() {
    // Examples are not built for tests that run alone; this is quick when they are. Variables that a test runner sets
    // for us (CARGO_MANIFEST_DIR and more) would make build scripts run again, and with them half of the build.
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut build = Command::new(cargo);
    let kept = [
        "PATH",
        "HOME",
        "CARGO_HOME",
        "RUSTUP_HOME",
        "RUSTUP_TOOLCHAIN",
        "CARGO_TARGET_DIR",
        "RUSTFLAGS",
    ];
    build.env_clear();
    build.envs(std::env::vars().filter(|(name, _)| kept.contains(&name.as_str())));
    build
        .args(["build", "--quiet", "--example", "demo"])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    assert!(build.status().expect("cargo runs").success());
    let binary = Path::new(crate::BINARY);
    let example = binary.parent().expect("a folder").join("examples/demo");
    let mut demo = Process::spawn(Command::new(example).arg(binary));
    let url = wait_for(Duration::from_secs(30), || {
        let text = demo.stdout();
        let rest = text.split("Open ").nth(1)?;
        rest.split_whitespace().next().map(ToOwned::to_owned)
    });
    let url = url.unwrap_or_else(|| panic!("no URL: {}{}", demo.stdout(), demo.stderr()));

    let client = Client::new();
    let page = client.browse(&url).await.expect("the sign-in page");
    let form = Form::first(&page).expect("a button for a user");
    let page = client.submit(&form).await.expect("signed in");
    assert_eq!(page.status, 200, "{}", page.text());
    assert_eq!(
        page.url.as_str().trim_end_matches('/'),
        url.trim_end_matches('/')
    );
    assert!(
        page.text().contains("uthorization"),
        "the page shows what arrived: {}",
        page.text()
    );
    let script = Client::new()
        .get(format!("{url}/orders"))
        .send()
        .await
        .expect("an answer");
    assert_eq!(script.status, 401);

    demo.signal(Signal::SIGINT);
    let status = demo.wait().expect("Ctrl-C ends it");
    assert_eq!(status.code(), Some(0), "{}", demo.stderr());
}
