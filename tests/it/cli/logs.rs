//! Shows what logs look like: format, colour and level, by option, variable and file.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::process::{Process, daypass};
use super::{folder_with, lonely};

fn is_json(line: &str) -> bool {
    serde_json::from_str::<Value>(line).is_ok_and(|value| value.is_object())
}

#[test]
fn the_option_beats_the_variable_which_beats_the_file() {
    let text = ("DAYPASS__LOGGING__FORMAT", "text");
    for (name, in_file, option, variable, json) in [
        ("JSON is the default", None, None, None, true),
        ("file", Some("text"), None, None, false),
        ("variable", Some("json"), None, Some(text), false),
        ("option text", Some("json"), Some("text"), None, false),
        ("option json", Some("text"), Some("json"), Some(text), true),
    ] {
        let setup = match in_file {
            Some(format) => lonely().set("logging.format", format),
            None => lonely().unset("logging.format"),
        };
        let (folder, _) = folder_with(&setup);
        let mut arguments = vec!["run", "-c", "daypass.yaml"];
        arguments.extend(option.iter().flat_map(|format| ["--log-format", format]));
        let environment: Vec<_> = variable.into_iter().collect();
        let process = daypass(folder.path(), &arguments, &environment);
        assert!(process.says("admin"), "{name}: {}", process.stderr());
        // Whole lines: it may be about to write another.
        let stderr = process.stderr();
        let (whole, _) = stderr.rsplit_once('\n').expect("a line");
        for line in whole.lines() {
            assert_eq!(is_json(line), json, "{name}: {line}");
        }
        assert_eq!(process.stdout(), "", "{name}");
    }
}

#[test]
fn text_lines_read_as_time_level_place_and_message() {
    let (folder, _) = folder_with(&lonely());
    let process = daypass(
        folder.path(),
        &["run", "-c", "daypass.yaml", "--log-format", "text"],
        &[],
    );
    assert!(process.says("listener=\"admin\""), "{}", process.stderr());
    let stderr = process.stderr();
    let line = stderr
        .lines()
        .find(|line| line.contains("listener=\"public\""))
        .expect("the line");
    let words: Vec<&str> = line.split_whitespace().collect();
    assert!(
        words[0].ends_with('Z') && words[0].contains('T'),
        "an RFC 3339 time in UTC: {line}"
    );
    assert_eq!(words[1], "INFO", "{line}");
    assert!(
        line.contains("listening") && line.contains("address=127.0.0.1:"),
        "{line}"
    );
}

#[test]
fn levels_follow_the_file_and_rust_log_overrides_them() {
    let targets = |process: &Process| -> Vec<String> {
        let stderr = process.stderr();
        let events = stderr
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events
            .filter_map(|event| Some(event["target"].as_str()?.to_owned()))
            .collect()
    };
    for (name, level, variable, speaks, debug) in [
        ("info is the default", None, None, true, false),
        ("file says debug", Some("debug"), None, true, true),
        ("file says error", Some("error"), None, false, false),
        (
            "RUST_LOG turns it up",
            Some("error"),
            Some("debug"),
            true,
            true,
        ),
        (
            "RUST_LOG turns it down",
            Some("debug"),
            Some("error"),
            false,
            false,
        ),
        (
            "RUST_LOG of everything lets no library speak",
            None,
            Some("trace"),
            true,
            true,
        ),
        (
            "RUST_LOG for one part",
            Some("error"),
            Some("daypass::oidc=debug"),
            false,
            true,
        ),
        ("an empty RUST_LOG is none", None, Some(""), true, false),
    ] {
        let setup = match level {
            Some(level) => lonely().set("logging.level", level),
            None => lonely().unset("logging.level"),
        };
        let (folder, _) = folder_with(&setup);
        let environment: Vec<_> = variable
            .map(|value| ("RUST_LOG", value))
            .into_iter()
            .collect();
        let process = daypass(folder.path(), &["run", "-c", "daypass.yaml"], &environment);
        // The provider cannot be reached, of which `oidc` tells at debug. What is not said shows when the process has ended.
        if debug {
            assert!(
                process.says("\"level\":\"DEBUG\""),
                "{name}: {}",
                process.stderr()
            );
        }
        if speaks {
            assert!(process.says("listening"), "{name}: {}", process.stderr());
        }
        listens(&process, folder.path());
        for target in targets(&process) {
            let ours = target == "access" || target == "audit" || target.starts_with("daypass");
            assert!(ours, "{name}: {target}");
        }
        let stderr = process.stderr();
        assert_eq!(stderr.contains("listening"), speaks, "{name}: {stderr}");
        assert_eq!(
            stderr.contains("\"level\":\"DEBUG\""),
            debug,
            "{name}: {stderr}"
        );
        super::stop(process);
    }
}

/// Waits until the admin port answers, for processes that do not say so.
fn listens(process: &Process, folder: &Path) {
    let text = std::fs::read_to_string(folder.join("daypass.yaml")).expect("the file");
    let config: Value = serde_json::from_str(&text).expect("setups are JSON");
    let admin = config["admin"]["listen"]
        .as_str()
        .expect("an address")
        .parse()
        .expect("an address");
    let up = daypass_testbed::raw::wait_for(super::process::PATIENCE, || {
        let (_, body) = daypass_testbed::raw::get(admin, "/readyz")?;
        // The first look at the provider has ended, well or not.
        body.contains("\"providers\"").then_some(())
    });
    assert!(up.is_some(), "{}", process.stderr());
}

/// Colour is for terminals, and for those who do not say NO_COLOR (no-color.org).
#[test]
fn colour_is_for_terminals_only() {
    // Its admin port is taken: it says where it listens, and ends by itself.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let (folder, file) = folder_with(&lonely().set("admin.listen", address));
    let shell = format!(
        "exec {} run -c {} --log-format text",
        crate::BINARY,
        file.display()
    );
    for (name, terminal, no_color, coloured) in [
        ("terminal", true, None, true),
        ("terminal, NO_COLOR", true, Some("1"), false),
        ("terminal, NO_COLOR empty", true, Some(""), true),
        ("no terminal", false, None, false),
    ] {
        let mut command = if terminal {
            // util-linux's `script` gives the process a terminal; what it writes there comes out of stdout.
            let mut command = Command::new("script");
            command.args(["-qefc", &shell, "/dev/null"]);
            command
        } else {
            let mut command = Command::new("sh");
            command.args(["-c", &shell]);
            command
        };
        command
            .current_dir(folder.path())
            .env("TERM", "xterm")
            .env_remove("NO_COLOR");
        if let Some(value) = no_color {
            command.env("NO_COLOR", value);
        }
        let ended = Process::spawn(&mut command).finish();
        assert_eq!(ended.code, Some(1), "{name}: {ended:?}");
        let written = ended.stdout + &ended.stderr;
        assert!(written.contains("listening"), "{name}: {written}");
        assert_eq!(written.contains('\u{1b}'), coloured, "{name}: {written}");
    }
}
