//! Holds deploy/, config/ and the README to what they promise: the sidecar's life in a pod, and configurations that load.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

/// Every document of a manifest.
fn manifest(name: &str) -> Vec<Value> {
    let text = read(&format!("deploy/kubernetes/{name}.yaml"));
    let documents = text.split("\n---\n");
    documents
        .map(|text| serde_saphyr::from_str(text).unwrap_or_else(|e| panic!("{name}: {e}")))
        .collect()
}

fn read(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What is at `pointer` (RFC 6901), which must be there.
#[track_caller]
fn at<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    let found = value.pointer(pointer);
    found.unwrap_or_else(|| panic!("{pointer} is missing"))
}

fn pod() -> Value {
    at(&manifest("deployment")[0], "/spec/template/spec").clone()
}

fn embedded_text() -> String {
    let map = &manifest("configmap")[0];
    let text = at(map, "/data/daypass.yaml").as_str();
    text.expect("a text").to_owned()
}

fn embedded() -> Value {
    serde_saphyr::from_str(&embedded_text()).expect("the embedded file is YAML")
}

fn port(address: &Value) -> u64 {
    let (_, port) = address
        .as_str()
        .and_then(|a| a.rsplit_once(':'))
        .expect("host:port");
    port.parse().expect("a port")
}

#[test]
fn the_session_cache_fits_into_the_memory_of_its_container() {
    // docs/sessions.md: 4 KiB each at most, and what the process takes at rest.
    let entries = at(&embedded(), "/session/cache_entries").as_u64();
    let cache = entries.expect("a number") * 4 / 1024;
    let pod = pod();
    let limit = at(&pod, "/initContainers/0/resources/limits/memory").as_str();
    let limit = limit.and_then(|limit| limit.strip_suffix("Mi"));
    let limit: u64 = limit.expect("in Mi").parse().expect("a number");
    assert!(cache + 64 <= limit, "{cache} MiB of {limit}");
}

#[test]
fn every_container_satisfies_the_restricted_pod_security_standard() {
    // K8S-12
    for deployment in [&manifest("deployment")[0], &manifest("redis")[0]] {
        let pod = at(deployment, "/spec/template/spec");
        assert_eq!(at(pod, "/securityContext/runAsNonRoot"), true);
        let seccomp = at(pod, "/securityContext/seccompProfile/type");
        assert_eq!(seccomp, "RuntimeDefault");
        assert_eq!(at(pod, "/automountServiceAccountToken"), false);
        let kinds = ["initContainers", "containers"];
        let containers = kinds.iter().filter_map(|kind| pod[kind].as_array());
        for container in containers.flatten() {
            let name = &container["name"];
            let security = &container["securityContext"];
            assert_eq!(security["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(security["capabilities"]["drop"][0], "ALL", "{name}");
            assert!(
                at(container, "/resources/limits/memory").is_string(),
                "{name}"
            );
            assert!(
                at(container, "/resources/requests/cpu").is_string(),
                "{name}"
            );
        }
    }
}

#[test]
fn the_sidecar_starts_first_and_its_probes_fit_the_configuration() {
    let (pod, config) = (pod(), embedded());
    let sidecar = at(&pod, "/initContainers/0");
    assert_eq!(
        sidecar["restartPolicy"], "Always",
        "K8S-01: a native sidecar"
    );
    for (probe, path, why) in [
        (
            "startupProbe",
            "/healthz",
            "K8S-02: waits for neither store nor provider",
        ),
        ("readinessProbe", "/readyz", "K8S-06: off while draining"),
        ("livenessProbe", "/healthz", "K8S-04: asks for nobody else"),
    ] {
        assert_eq!(sidecar[probe]["httpGet"]["path"], path, "{why}");
        assert_eq!(
            sidecar[probe]["httpGet"]["port"], "admin",
            "K8S-05: {probe}"
        );
    }
    let named = |name: &str| {
        let ports = sidecar["ports"].as_array().expect("ports");
        let port = ports.iter().find(|port| port["name"] == name);
        port.and_then(|p| p["containerPort"].as_u64())
            .expect("a port")
    };
    assert_eq!(named("admin"), port(at(&config, "/admin/listen")));
    assert_eq!(named("http"), port(at(&config, "/listen")));
    let service = &manifest("service")[0];
    assert_eq!(at(service, "/spec/ports/0/targetPort"), "http");
    let labels = at(&manifest("deployment")[0], "/spec/template/metadata/labels").clone();
    for (key, value) in at(service, "/spec/selector")
        .as_object()
        .expect("a selector")
    {
        assert_eq!(&labels[key], value, "the service finds the pods");
    }
}

#[test]
fn the_grace_period_covers_the_application_and_the_drain() {
    // K8S-07: a native sidecar gets SIGTERM only when the application is gone, all within one grace period.
    let pod = pod();
    let grace = at(&pod, "/terminationGracePeriodSeconds")
        .as_u64()
        .expect("seconds");
    let pause = at(&pod, "/containers/0/lifecycle/preStop/sleep/seconds");
    let drain = embedded()["limits"]["drain_timeout"].clone();
    let drain = humantime::parse_duration(drain.as_str().expect("a duration")).expect("a duration");
    let (application, spare) = (10, 10);
    let needed = pause.as_u64().expect("seconds") + application + drain.as_secs() + spare;
    assert!(grace >= needed, "{grace} s are less than {needed} s");
}

#[test]
fn the_application_is_reachable_through_daypass_only() {
    // K8S-14
    let upstream = at(&embedded(), "/upstreams/shop/url").clone();
    let address = upstream
        .as_str()
        .and_then(|url| url.strip_prefix("http://"));
    let address = address.expect("plain http");
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    let app = manifest("app")[0]["data"]["default.conf"].clone();
    let listen = format!("listen {address};");
    assert!(app.as_str().expect("a text").contains(&listen), "{listen}");
}

#[test]
fn secrets_hold_what_the_configuration_reads_and_nothing_real() {
    let secrets = manifest("secret");
    let folder = "/run/secrets/daypass/";
    let text = embedded_text();
    let mut read: Vec<_> = text
        .split(folder)
        .skip(1)
        .map(|rest| rest.split('}').next().expect("split yields one"))
        .collect();
    read.sort_unstable();
    let held = at(&secrets[0], "/stringData").as_object().expect("a map");
    let mut keys: Vec<_> = held.keys().collect();
    keys.sort_unstable();
    assert_eq!(read, keys, "each is read and each is there");
    for value in held.values() {
        assert!(value.as_str().expect("a text").starts_with("REPLACE-ME"));
    }
    let acl = at(&secrets[1], "/stringData/users.acl")
        .as_str()
        .expect("a text");
    let password = held["redis-password"].as_str().expect("a text");
    let user = embedded()["session"]["store"]["redis"]["username"].clone();
    let rule = format!(
        "user {} on >{password} ~daypass:* ",
        user.as_str().expect("a name")
    );
    assert!(acl.contains(&rule), "{rule}");
}

/// Runs `daypass check` on `text` with the secrets of the examples in place; returns the exit code and the output.
fn check(name: &str, text: &str) -> (Option<i32>, String) {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder");
    for (file, secret) in [
        ("client-secret", "c2VjcmV0IG9mIGEgY2xpZW50"),
        (
            "session-key",
            "3q2+7wABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhs=",
        ),
        ("redis-password", "cGFzc3dvcmQgb2YgYSBzdG9yZQ"),
    ] {
        fs::write(folder.join(file), secret).expect("a file");
    }
    let path = folder.join("daypass.yaml");
    let secrets = folder.display().to_string();
    fs::write(&path, text.replace("/run/secrets/daypass", &secrets)).expect("a file");
    let output = Command::new(env!("CARGO_BIN_EXE_daypass"))
        .args(["check", "-c"])
        .arg(&path)
        .env_clear()
        .output()
        .expect("daypass starts");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    (output.status.code(), said)
}

/// The first YAML block of a page that is a whole configuration.
fn smallest(page: &str) -> String {
    let text = read(page);
    let blocks = text.split("```yaml\n").skip(1);
    let mut blocks = blocks.filter_map(|block| block.split("```").next());
    let found = blocks.find(|block| block.contains("public_url:"));
    found
        .unwrap_or_else(|| panic!("{page} shows a configuration"))
        .to_owned()
}

#[test]
fn every_configuration_we_show_is_good() {
    for (name, text) in [
        ("kubernetes", embedded_text()),
        ("readme", smallest("README.md")),
        ("annotated", read("config/daypass.yaml")),
    ] {
        let (code, said) = check(name, &text);
        assert_eq!(code, Some(0), "{name}:\n{said}");
    }
    let misspelt = embedded_text().replace("issuer:", "isuer:");
    let (code, said) = check("control", &misspelt);
    assert_eq!(code, Some(1), "a misspelt key is a problem:\n{said}");
}

#[test]
fn links_between_our_pages_lead_somewhere() {
    let docs = fs::read_dir(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs"));
    let docs = docs.expect("the folder").map(|entry| {
        let name = entry.expect("an entry").file_name();
        format!("docs/{}", name.to_str().expect("UTF-8"))
    });
    let pages = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(String::from);
    for page in docs.chain(pages) {
        let page = page.as_str();
        let text = read(page);
        let targets = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://")) {
            let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(page);
            let path = path.with_file_name(target.split('#').next().expect("split yields one"));
            assert!(path.exists(), "{page} links to {target}");
        }
    }
}
