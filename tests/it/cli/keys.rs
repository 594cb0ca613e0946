//! Shows that `check` looks into client keys, and says where a bad one stands.

use std::fs;

use daypass_testbed::daypass::Setup;
use daypass_testbed::provider::Provider;
use serde_json::json;

use super::folder_with;
use super::process::run;

#[test]
fn check_reports_client_keys_that_cannot_sign_with_their_place() {
    let provider = Provider::start();
    let setup = Setup::new(&provider, "http://127.0.0.1:9");
    let curve = r#"{"kty":"EC","crv":"P-521","x":"AA","y":"AA","d":"not-to-be-shown-01234567"}"#;
    let factors = r#"{"kty":"RSA","n":"AA","e":"AQAB","d":"not-to-be-shown-01234567"}"#;
    let section = |key: &str| json!({"issuer": provider.issuer(), "client_id": "shop", "client_key": {"file": key}});
    let setup = setup
        .unset("provider")
        .set(
            "providers",
            json!({"one": section("curve"), "two": section("factors")}),
        )
        .set("session.lifetime", "soon");
    let (folder, _) = folder_with(&setup);
    fs::write(folder.path().join("curve"), curve).expect("written");
    fs::write(folder.path().join("factors"), factors).expect("written");
    let ended = run(folder.path(), &["check", "-c", "daypass.yaml"], &[]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    for (key, said) in [
        ("providers.one.client_key", "P-384"),
        ("providers.two.client_key", "`p`, `q`"),
        ("session.lifetime", "`12h`"),
    ] {
        let line = ended.stderr.lines().find(|line| line.contains(key));
        let line = line.unwrap_or_else(|| panic!("{key}: {}", ended.stderr));
        assert!(line.contains(said), "{line}");
        let place = line.split(": ").next().unwrap_or_default();
        assert_eq!(
            place.matches(':').count(),
            2,
            "file, line and column: {line}"
        );
    }
    assert!(
        !ended.stderr.contains("not-to-be-shown"),
        "{}",
        ended.stderr
    );
}
