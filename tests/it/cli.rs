//! Shows what each command prints, where, and how it exits (PRODUCT §1).

mod demo;
mod keys;
mod logs;
pub(crate) mod process;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use daypass_testbed::client::Client;
use daypass_testbed::daypass::{Daypass, Setup};
use daypass_testbed::echo::Echo;
use daypass_testbed::provider::{Endpoint, Fault, Provider};
use daypass_testbed::redis::{Options, Redis};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::BINARY;
use process::{Process, daypass, run};

/// A folder with `setup` as `daypass.yaml`.
pub(crate) fn folder_with(setup: &Setup) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("daypass.yaml");
    fs::write(&file, setup.preview(folder.path())).expect("written");
    (folder, file)
}

/// A configuration that is good and whose provider, upstream and store nobody runs.
pub(crate) fn lonely() -> Setup {
    Setup::client(
        "http://127.0.0.1:9",
        "shop",
        "the-secret-of-a-lonely-client",
        "http://127.0.0.1:9",
    )
}

#[test]
fn check_calls_a_good_file_good_on_stdout() {
    let (folder, file) = folder_with(&lonely());
    let ended = run(folder.path(), &["check", "-c", "daypass.yaml"], &[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.stdout, "daypass.yaml: good\n");
    // The inline secret is worth a warning, with its place (PRODUCT §2), and is not repeated.
    assert!(
        ended
            .stderr
            .contains("provider.client_secret: a secret stands in the file itself"),
        "{}",
        ended.stderr
    );
    assert!(!ended.stderr.contains("lonely-client"), "{}", ended.stderr);
    drop(file);
}

/// The sessions of the memory store are in another process: the message says what to do instead.
#[test]
fn sessions_in_memory_are_not_to_be_seen_from_here() {
    let (folder, _) = folder_with(&lonely());
    for action in ["list", "revoke"] {
        let words = ["sessions", action, "--all", "-c", "daypass.yaml"];
        let ended = run(folder.path(), &words, &[]);
        assert_eq!(
            (ended.code, &*ended.stdout),
            (Some(1), ""),
            "{action}: {ended:?}"
        );
        for said in ["session.store is `memory`", "Restart daypass", "redis://"] {
            assert!(ended.stderr.contains(said), "{action}: {}", ended.stderr);
        }
    }
    // Names may look like options: both are texts by the provider.
    for name in ["--subject", "--sid"] {
        let words = ["sessions", "list", name, "-08a5", "-c", "daypass.yaml"];
        assert_eq!(run(folder.path(), &words, &[]).code, Some(1), "{name}");
    }
}

/// CFG-01, CFG-05.
#[test]
fn check_reports_every_problem_at_once_with_its_place_and_a_remedy() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = "\
public_url: https://shop.example.com
listne: 0.0.0.0:80
provider:
  issuer: http://login.example.com
  client_id: shop
  client_secret: never-to-be-repeated
session:
  store: redis://127.0.0.1:1/0
  idle_timeout: 30
routes:
  - {path_prefix: /, access: sesion, upstream: http://127.0.0.1:3000}
  - {path_prefix: /a, upstream: nope}
";
    fs::write(folder.path().join("bad.yaml"), text).expect("written");
    let wanted = [
        (
            "a misspelt key",
            "bad.yaml:2:1: listne: ",
            "did you mean `listen`?",
        ),
        (
            "plain http",
            "bad.yaml:4:11: provider.issuer: ",
            "write `https://`",
        ),
        (
            "keys missing",
            "bad.yaml:8:3: session.keys: ",
            "daypass keygen",
        ),
        (
            "a bare number",
            "bad.yaml:9:17: session.idle_timeout: ",
            "such as `90s`",
        ),
        (
            "a misspelt choice",
            "bad.yaml:11:30: routes[0].access: ",
            "did you mean `session`?",
        ),
        (
            "a shadowed route",
            "bad.yaml:12:19: routes[1].path_prefix: ",
            "move this one before it",
        ),
        (
            "an unknown upstream",
            "bad.yaml:12:33: routes[1].upstream: ",
            "declare it under `upstreams`",
        ),
    ];
    for command in ["check", "run"] {
        let ended = run(folder.path(), &[command, "-c", "bad.yaml"], &[]);
        assert_eq!(ended.code, Some(1), "{command}: {ended:?}");
        assert_eq!(ended.stdout, "", "{command}");
        for (name, place, remedy) in wanted {
            let found = ended
                .stderr
                .lines()
                .any(|line| line.starts_with(place) && line.contains(remedy));
            assert!(found, "{command}, {name}: {}", ended.stderr);
        }
        assert!(
            ended.stderr.contains(&format!("{} problems", wanted.len())),
            "{}",
            ended.stderr
        );
        assert!(
            !ended.stderr.contains("never-to-be-repeated"),
            "{}",
            ended.stderr
        );
    }
}

#[test]
fn wrong_usage_exits_with_2_and_a_missing_file_with_1() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, arguments, code, said) in [
        ("unknown command", &["serve"][..], 2, "serve"),
        ("unknown option", &["check", "--offline"], 2, "--offline"),
        ("option without value", &["run", "-c"], 2, "--config"),
        (
            "unknown log format",
            &["run", "--log-format", "xml"],
            2,
            "xml",
        ),
        ("argument too many", &["keygen", "please"], 2, "please"),
        (
            "options of two commands",
            &["-c", "a.yaml", "check"],
            2,
            "check",
        ),
        (
            "check of a file that is not there",
            &["check", "-c", "none.yaml"],
            1,
            "none.yaml",
        ),
        (
            "run of a file that is not there",
            &["run", "-c", "none.yaml"],
            1,
            "none.yaml",
        ),
    ] {
        let ended = run(folder.path(), arguments, &[]);
        assert_eq!(ended.code, Some(code), "{name}: {ended:?}");
        assert!(ended.stderr.contains(said), "{name}: {ended:?}");
        assert_eq!(ended.stdout, "", "{name}");
    }
}

#[test]
fn check_online_asks_the_provider_and_the_store() {
    let redis = Redis::start();
    let mut gone = Redis::start();
    gone.kill();
    let provider = Provider::start();
    let keyless = Provider::start();
    keyless.always(Endpoint::Jwks, [Fault::status(500)]);
    let mut away = Provider::start();
    away.stop();
    let (issuer, dead, no_keys) = (provider.issuer(), away.issuer(), keyless.issuer());
    for (name, provider, redis, said) in [
        ("everything there", &provider, &redis, &[][..]),
        ("provider down", &away, &redis, &[dead.as_str()]),
        ("no keys to be had", &keyless, &redis, &[no_keys.as_str()]),
        ("store down", &provider, &gone, &["session.store"]),
        (
            "both down, both told",
            &away,
            &gone,
            &[dead.as_str(), "session.store"],
        ),
    ] {
        let (folder, _) = folder_with(&Setup::new(provider, "http://127.0.0.1:9").redis(redis));
        let offline = run(folder.path(), &["check", "-c", "daypass.yaml"], &[]);
        assert_eq!(offline.code, Some(0), "{name}, offline: {offline:?}");
        let ended = run(
            folder.path(),
            &["check", "-c", "daypass.yaml", "--online"],
            &[],
        );
        let good = said.is_empty();
        assert_eq!(ended.code, Some(i32::from(!good)), "{name}: {ended:?}");
        assert_eq!(ended.stdout.contains("good"), good, "{name}: {ended:?}");
        for said in said {
            assert!(ended.stderr.contains(said), "{name}: {ended:?}");
        }
        assert_eq!(
            daypass_testbed::secrets::leaks_in(&ended.stderr),
            [""; 0],
            "{name}"
        );
    }
    assert!(
        provider.count(Endpoint::Discovery) > 0,
        "{issuer} was asked"
    );
    assert!(provider.count(Endpoint::Jwks) > 0, "for its keys, too");
}

#[test]
fn check_online_tells_of_a_refused_password_without_repeating_it() {
    let user = (
        "daypass".to_owned(),
        "the-password-that-redis-knows".to_owned(),
    );
    let redis = Redis::with(Options {
        user: Some(user),
        ..Options::default()
    });
    let provider = Provider::start();
    for (password, code) in [
        ("the-password-that-redis-knows", 0),
        ("a-password-that-is-not-right", 1),
    ] {
        let setup = Setup::new(&provider, "http://127.0.0.1:9").session_key();
        let store = serde_json::json!({"redis": {"url": redis.url(), "username": "daypass", "password": {"file": "password"}}});
        let (folder, _) = folder_with(&setup.set("session.store", store));
        fs::write(folder.path().join("password"), password).expect("written");
        let ended = run(
            folder.path(),
            &["check", "-c", "daypass.yaml", "--online"],
            &[],
        );
        assert_eq!(ended.code, Some(code), "{ended:?}");
        assert!(!format!("{ended:?}").contains(password), "{ended:?}");
    }
}

#[test]
fn schema_prints_the_committed_schema() {
    let ended = run(Path::new("/"), &["schema"], &[]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let printed: Value = serde_json::from_str(&ended.stdout).expect("it is JSON");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/daypass.schema.json");
    let committed = fs::read_to_string(file).expect("config/daypass.schema.json");
    assert_eq!(
        printed,
        serde_json::from_str::<Value>(&committed).expect("it is JSON")
    );
    assert!(
        printed["$schema"]
            .as_str()
            .is_some_and(|url| url.contains("json-schema.org"))
    );
}

#[test]
fn keygen_prints_another_32_bytes_each_time() {
    let keys: BTreeSet<Vec<u8>> = (0..8)
        .map(|_| {
            let ended = run(Path::new("/"), &["keygen"], &[]);
            assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
            let line = ended.stdout.strip_suffix('\n').expect("one line");
            let key = BASE64_STANDARD.decode(line).expect("base64");
            assert_eq!(key.len(), 32);
            key
        })
        .collect();
    assert_eq!(keys.len(), 8);
}

#[test]
fn a_key_of_keygen_is_one_that_sessions_take() {
    let key = run(Path::new("/"), &["keygen"], &[]).stdout;
    let (folder, _) =
        folder_with(&lonely().set("session.keys", serde_json::json!([{"file": "session-key"}])));
    fs::write(folder.path().join("session-key"), key).expect("written");
    let ended = run(folder.path(), &["check", "-c", "daypass.yaml"], &[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn every_command_explains_itself_with_an_example_on_stdout() {
    for (name, arguments, example) in [
        ("the whole", &["--help"][..], "daypass run"),
        ("short option", &["-h"], "daypass run"),
        ("run", &["run", "--help"], "daypass run -c "),
        ("check", &["check", "--help"], "daypass check -c "),
        ("schema", &["schema", "--help"], "daypass schema > "),
        ("keygen", &["keygen", "--help"], "daypass keygen > "),
    ] {
        let ended = run(Path::new("/"), arguments, &[]);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{name}");
        let shown = ended.stdout.split("Example:\n").nth(1);
        assert!(
            shown.is_some_and(|shown| shown.contains(example)),
            "{name}: {}",
            ended.stdout
        );
    }
    let version = run(Path::new("/"), &["--version"], &[]);
    assert_eq!(
        version.stdout,
        concat!("daypass ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn the_configuration_is_looked_for_in_the_order_promised() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = lonely().preview(folder.path());
    fs::create_dir(folder.path().join("config")).expect("made");
    for name in ["option.yaml", "variable.yaml", "config/daypass.yaml"] {
        fs::write(folder.path().join(name), &text).expect("written");
    }
    let variable = [("DAYPASS_CONFIG", "variable.yaml")];
    for (name, arguments, environment, found) in [
        (
            "option before variable",
            &["check", "-c", "option.yaml"][..],
            &variable[..],
            "option.yaml",
        ),
        (
            "variable before place",
            &["check"],
            &variable,
            "variable.yaml",
        ),
        (
            "place, seen from the working directory",
            &["check"],
            &[],
            "config/daypass.yaml",
        ),
    ] {
        let ended = run(folder.path(), arguments, environment);
        assert_eq!(
            ended.stdout,
            format!("{found}: good\n"),
            "{name}: {ended:?}"
        );
    }
    let empty = tempfile::tempdir().expect("a folder");
    if !Path::new("/etc/daypass/daypass.yaml").exists() {
        let ended = run(empty.path(), &["check"], &[]);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        for place in [
            "-c FILE",
            "$DAYPASS_CONFIG",
            "config/daypass.yaml",
            "/etc/daypass/daypass.yaml",
        ] {
            assert!(ended.stderr.contains(place), "{ended:?}");
        }
    }
    // A variable that names nothing is a mistake to be told of, no reason to look elsewhere.
    let ended = run(
        folder.path(),
        &["check"],
        &[("DAYPASS_CONFIG", "none.yaml")],
    );
    assert_eq!(ended.code, Some(1), "{ended:?}");
}

#[test]
fn serving_is_what_it_does_when_not_told_otherwise() {
    let (folder, file) = folder_with(&lonely());
    let file = file.display().to_string();
    for (name, arguments, environment) in [
        ("named", &["run", "-c", "daypass.yaml"][..], &[][..]),
        ("option only", &["-c", "daypass.yaml"], &[]),
        ("nothing at all", &[], &[("DAYPASS_CONFIG", file.as_str())]),
    ] {
        let process = daypass(folder.path(), arguments, environment);
        assert!(
            process.says("\"listener\":\"admin\""),
            "{name}: {}",
            process.stderr()
        );
        assert_eq!(process.stdout(), "", "{name}: logs go to stderr");
        stop(process);
    }
}

/// Ends it as an operator would; it must agree.
fn stop(process: Process) {
    process.signal(Signal::SIGTERM);
    let ended = process.finish();
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn variables_override_the_file_and_name_themselves_when_wrong() {
    let (folder, _) = folder_with(&lonely());
    for (name, variable, value, said) in [
        (
            "no duration",
            "DAYPASS__SESSION__IDLE_TIMEOUT",
            "soon",
            "session.idle_timeout",
        ),
        (
            "a misspelt key",
            "DAYPASS__SESION__IDLE_TIMEOUT",
            "30m",
            "session",
        ),
        (
            "no choice",
            "DAYPASS__LOGGING__FORMAT",
            "xml",
            "logging.format",
        ),
    ] {
        let ended = run(
            folder.path(),
            &["check", "-c", "daypass.yaml"],
            &[(variable, value)],
        );
        assert_eq!(ended.code, Some(1), "{name}: {ended:?}");
        let told = ended
            .stderr
            .lines()
            .any(|line| line.contains(variable) && line.contains(said));
        assert!(told, "{name}: {ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variable_that_overrides_is_in_force() {
    let (provider, echo) = (Provider::start(), Echo::start());
    let setup = Setup::new(&provider, &echo.url()).env("DAYPASS__BASE_PATH", "/gate");
    let daypass = Daypass::ready(BINARY, setup);
    let answer = Client::new()
        .get(daypass.url("/gate/session"))
        .send()
        .await
        .expect("an answer");
    assert_eq!(
        answer.json()["login_url"],
        "/gate/login",
        "{}",
        answer.text()
    );
    assert_eq!(
        Client::new()
            .browse(daypass.url("/page"))
            .await
            .expect("login")
            .status,
        200
    );
    let asked = provider.requests(Endpoint::Authorize);
    let callback = daypass.url("/gate/callback");
    assert_eq!(asked[0].param("redirect_uri"), Some(callback.as_str()));
}

#[test]
fn a_taken_address_ends_the_start_at_once_and_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let socket_folder = tempfile::tempdir().expect("a folder");
    let socket = socket_folder.path().join("http.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    let socket_url = format!("unix:{}", socket.display());
    for (name, key, value, said) in [
        ("public", "listen", address.as_str(), address.as_str()),
        ("admin", "admin.listen", &address, &address),
        (
            "Unix socket of a living process",
            "listen",
            &socket_url,
            &socket_url[5..],
        ),
    ] {
        let (folder, _) = folder_with(&lonely().set(key, value));
        let began = std::time::Instant::now();
        let ended = run(folder.path(), &["run", "-c", "daypass.yaml"], &[]);
        assert_eq!(ended.code, Some(1), "{name}: {ended:?}");
        assert!(
            ended
                .stderr
                .lines()
                .any(|line| line.contains("cannot listen") && line.contains(said)),
            "{name}: {ended:?}"
        );
        // pingora itself would try on for half a minute.
        assert!(
            began.elapsed().as_secs() < 10,
            "{name}: {:?}",
            began.elapsed()
        );
        assert_eq!(ended.stdout, "", "{name}");
    }
    assert!(socket.exists(), "the other's socket file is left alone");
    drop(listener);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_file_left_by_a_crash_is_no_obstacle() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("http.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("a socket"));
    assert!(
        socket.exists(),
        "std leaves the file behind, as a crash does"
    );
    let (config, _) = folder_with(&lonely().set("listen", format!("unix:{}", socket.display())));
    let process = daypass(config.path(), &["run", "-c", "daypass.yaml"], &[]);
    assert!(
        process.says("\"listener\":\"admin\""),
        "{}",
        process.stderr()
    );
    assert!(std::os::unix::net::UnixStream::connect(&socket).is_ok());
    stop(process);
    assert!(!socket.exists(), "a clean end takes its socket file along");
}
