//! Proves the configuration on whole files: `tests/config/*.yaml`, with what is said about each beside it.
//!
//! `DAYPASS_BLESS=1` writes the expected texts, the schema and the tables of the reference anew; read the diff.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::table::{self, Key, Need, Shape, Table};
use super::*;

fn home() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Files of the folder of test configurations, whose own path stays out of messages.
struct Fixtures;

impl Files for Fixtures {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        Disk.read(&home().join("tests/config").join(path))
    }
}

/// Compares a text with a file that is kept in the repository.
#[track_caller]
fn assert_kept(file: &Path, text: &str) {
    if std::env::var_os("DAYPASS_BLESS").is_some() {
        std::fs::write(file, text).unwrap();
    }
    let kept = std::fs::read_to_string(file).unwrap_or_default();
    assert!(
        kept == text,
        "{} is not what the code says (DAYPASS_BLESS=1 writes it anew):\n{text}",
        file.display()
    );
}

/// `#env NAME=VALUE` lines at the top of a test configuration.
fn environment(text: &[u8]) -> Environment {
    let fixed = [("REDIS_PASSWORD".to_owned(), "planted-s3cret".to_owned())];
    String::from_utf8_lossy(text)
        .lines()
        .filter_map(|line| line.strip_prefix("#env ")?.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .chain(fixed)
        .collect()
}

fn configurations() -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = std::fs::read_dir(home().join("tests/config"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read(path).unwrap())
        })
        .collect();
    all.sort();
    all
}

fn report(name: &str, text: &[u8]) -> String {
    let mut report = String::new();
    match check_text(name, text, &environment(text), &Fixtures) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                writeln!(report, "warning: {warning}").unwrap();
            }
            // What is logged of a configuration must keep its secrets too.
            let debug = format!("{:?}", loaded.config);
            assert!(
                !debug.contains("s3cret") && !debug.contains("not-the-real"),
                "{debug}"
            );
            writeln!(report, "good").unwrap();
        }
        Err(problems) => writeln!(report, "{problems}").unwrap(),
    }
    report
}

#[test]
fn each_configuration_gets_the_report_beside_it() {
    let all = configurations();
    assert!(
        all.iter()
            .filter(|(name, _)| !name.starts_with("ok-"))
            .count()
            >= 25
    );
    for (name, text) in all {
        let report = report(&name, &text);
        assert_eq!(
            name.starts_with("ok-"),
            report.ends_with("good\n"),
            "{name}:\n{report}"
        );
        assert_kept(
            &home()
                .join("tests/config")
                .join(&name)
                .with_extension("txt"),
            &report,
        );
    }
}

#[test]
fn no_report_repeats_a_secret() {
    for (name, text) in configurations() {
        let report = report(&name, &text);
        assert!(!report.contains("s3cret"), "{name}:\n{report}");
        for word in ["not-the-real-client-secret", "ckoRSN6"] {
            assert!(!report.contains(word), "{name}:\n{report}");
        }
    }
}

/// A slip of the pen may put a secret anywhere.
#[test]
fn a_secret_in_the_place_of_any_value_is_not_repeated() {
    let text = std::fs::read_to_string(home().join("tests/config/ok-every-key.yaml")).unwrap();
    let (tree, _) = tree::parse(text.as_bytes()).unwrap();
    let mut spots = Vec::new();
    collect_scalars(&tree, &mut spots);
    assert!(spots.len() > 80, "{}", spots.len());
    for forms in [
        "planted-s3cret",
        "\"https://planted-s3cret:x/\"",
        "[planted-s3cret]",
    ] {
        for (line, column) in &spots {
            let Some(planted) = replace_scalar(&text, *line, *column, forms) else {
                continue;
            };
            let report = match check_text("daypass.yaml", &planted, &environment(b""), &Fixtures) {
                Ok(loaded) => format!("{:?} {:?}", loaded.config, loaded.warnings),
                Err(problems) => problems.to_string(),
            };
            let secretive = report
                .lines()
                .filter(|line| line.contains("s3cret"))
                .collect::<Vec<_>>();
            // A good value of a key that is no secret shows in `Debug`; only complaints count then.
            assert!(
                secretive.is_empty() || report.starts_with("Config"),
                "line {line} column {column}: {secretive:?}"
            );
        }
    }
}

fn collect_scalars(node: &tree::Node, spots: &mut Vec<(usize, usize)>) {
    match &node.kind {
        tree::Kind::Scalar { .. } => {
            if let Place::File { line, column } = node.place {
                spots.push((line, column));
            }
        }
        tree::Kind::Sequence(nodes) => nodes.iter().for_each(|node| collect_scalars(node, spots)),
        tree::Kind::Mapping(entries) => entries
            .iter()
            .for_each(|entry| collect_scalars(&entry.value, spots)),
    }
}

/// Puts another text where a scalar starts.
fn replace_scalar(text: &str, line: usize, column: usize, with: &str) -> Option<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let old = lines.get(line - 1)?.clone();
    let start = old.char_indices().nth(column - 1)?.0;
    let rest = &old[start..];
    let end = match rest.strip_prefix('"') {
        Some(quoted) => quoted.find('"')? + 2,
        None => rest.find([',', '}', ']']).unwrap_or(rest.len()),
    };
    lines[line - 1] = format!("{}{with}{}", &old[..start], &rest[end..]);
    Some(lines.join("\n"))
}

fn all_tables() -> Vec<&'static Table> {
    fn below(shape: &'static Shape, found: &mut Vec<&'static Table>) {
        match shape {
            Shape::Table(table) => visit(table, found),
            Shape::List(shape) | Shape::Map(shape) => below(shape, found),
            Shape::Any(shapes) => shapes.iter().for_each(|shape| below(shape, found)),
            _ => {}
        }
    }
    fn visit(table: &'static Table, found: &mut Vec<&'static Table>) {
        if found.iter().all(|known| known.title != table.title) {
            found.push(table);
            table.keys.iter().for_each(|key| below(&key.shape, found));
        }
    }
    let mut found = Vec::new();
    visit(&table::ROOT, &mut found);
    found
}

#[test]
fn the_reader_reads_every_key_of_the_tables() {
    let mut asked = BTreeSet::new();
    for name in [
        "ok-every-key.yaml",
        "ok-warnings.yaml",
        "store-several-urls.yaml",
    ] {
        let text = std::fs::read(home().join("tests/config").join(name)).unwrap();
        let environment = environment(&text);
        let reader = Reader {
            file: Arc::from(name),
            base: PathBuf::new(),
            environment: &environment,
            files: &Fixtures,
            found: RefCell::default(),
        };
        read(&reader, &text);
        asked.extend(reader.found.into_inner().asked);
    }
    let listed: BTreeSet<_> = all_tables()
        .iter()
        .flat_map(|table| table.keys.iter().map(|key| (table.title, key.name)))
        .collect();
    assert_eq!(asked, listed);
}

#[test]
fn defaults_of_the_tables_are_what_the_product_promises() {
    let text = std::fs::read(home().join("tests/config/ok-smallest.yaml")).unwrap();
    let config = check_text("daypass.yaml", &text, &environment(&text), &Fixtures)
        .unwrap()
        .config;
    let provider = &config.providers[0];
    assert_eq!(&*provider.name, "provider");
    assert_eq!(
        provider.scopes,
        ["openid", "profile", "email", "offline_access"]
    );
    assert!(
        matches!(provider.client_auth, model::ClientAuth::SecretBasic(ref secret) if secret.matches("not-the-real-client-secret"))
    );
    assert_eq!(provider.refresh_patience.as_secs(), 60);
    assert_eq!(&*config.session.cookie.name, "__Host-daypass");
    assert_eq!(&*config.session.cookie.login_name, "__Host-daypass-login");
    assert_eq!(
        config.session.idle_timeout.map(|idle| idle.as_secs()),
        Some(3600)
    );
    assert_eq!(
        config
            .routes
            .iter()
            .map(|route| &*route.name)
            .collect::<Vec<_>>(),
        ["assets", "root"]
    );
    assert_eq!(
        config.upstreams.len(),
        1,
        "the same URL is the same upstream"
    );
    assert_eq!(&*config.upstreams[0].name, "127.0.0.1:3000");
    assert_eq!(config.routes[0].token.kind, model::TokenKind::None);
    assert_eq!(config.routes[1].token.kind, model::TokenKind::Access);
    assert_eq!(
        config.files.into_keys().collect::<Vec<_>>(),
        ["daypass.yaml", "files/client-secret", "files/session-key"].map(PathBuf::from)
    );
}

#[test]
fn variables_win_over_the_file() {
    let text = std::fs::read(home().join("tests/config/ok-overridden.yaml")).unwrap();
    let config = check_text("daypass.yaml", &text, &environment(&text), &Fixtures)
        .unwrap()
        .config;
    assert_eq!(
        config.session.idle_timeout.map(|idle| idle.as_secs()),
        Some(1800)
    );
    assert_eq!(
        config.session.cookie.domain, None,
        "an empty variable takes a value away"
    );
    assert_eq!(config.routes.len(), 2);
    assert!(
        matches!(config.providers[0].client_auth, model::ClientAuth::SecretBasic(ref secret) if secret.matches("from-the-environment"))
    );
}

#[test]
fn order_of_providers_is_that_of_the_file() {
    let text = b"public_url: https://a.example.com\nproviders:\n  zeta: {issuer: https://z.example.com, client_id: a, client_auth: none}\n  alpha: {issuer: https://a.example.com, client_id: a, client_auth: none}\nroutes: [{path_prefix: /, upstream: http://a, provider: alpha}]\n";
    let environment = [("DAYPASS__LOGGING__LEVEL".to_owned(), "warn".to_owned())]
        .into_iter()
        .collect();
    let config = check_text("daypass.yaml", text, &environment, &NoFiles)
        .unwrap()
        .config;
    let names: Vec<_> = config
        .providers
        .iter()
        .map(|provider| &*provider.name)
        .collect();
    assert_eq!(names, ["zeta", "alpha"]);
    assert_eq!(config.routes[0].provider, Some(1));
}

#[test]
fn keygen_makes_a_key_that_the_configuration_takes() {
    let key = keygen();
    assert_ne!(key, keygen());
    let text = format!(
        "public_url: https://a.example.com\nprovider: {{issuer: https://z.example.com, client_id: a, client_auth: none}}\nsession: {{keys: ['{key}', {{env: URL_SAFE}}]}}\nroutes: [{{path_prefix: /, upstream: http://a}}]\n"
    );
    let other = keygen()
        .replace('+', "-")
        .replace('/', "_")
        .replace('=', "");
    let environment = [("URL_SAFE".to_owned(), other)].into_iter().collect();
    let loaded = check_text("daypass.yaml", text, &environment, &NoFiles).unwrap();
    assert_eq!(loaded.config.session.keys.len(), 2);
    assert!(loaded.config.session.keys[0].matches(&key));
    assert_eq!(
        loaded.config.session.keys[1].len(),
        44,
        "one spelling for all keys"
    );
}

#[test]
fn load_reads_from_disk_and_tells_what_to_watch() {
    let path = home().join("tests/config/ok-smallest.yaml");
    let loaded = load(&path, &Environment::default()).unwrap();
    assert!(loaded.config.files.contains_key(&path));
    assert_eq!(loaded.config.files.len(), 3);
    let missing = home().join("tests/config/none.yaml");
    let problems = load(&missing, &Environment::default()).unwrap_err();
    assert_eq!(problems.problems.len(), 1);
    assert_eq!(problems.files.into_keys().collect::<Vec<_>>(), [missing]);
}

#[test]
fn too_large_a_file_is_refused() {
    let text = vec![b'#'; 1024 * 1024 + 1];
    let problems = check_text("daypass.yaml", text, &Environment::default(), &NoFiles).unwrap_err();
    assert!(problems.to_string().contains("larger than 1 MiB"));
}

#[test]
fn the_schema_in_the_repository_is_this_one() {
    let text = format!("{}\n", serde_json::to_string_pretty(&schema()).unwrap());
    assert_kept(&home().join("config/daypass.schema.json"), &text);
}

/// The keys the schema and the reader know are those of one table; this proves that the schema leaves none out.
#[test]
fn the_schema_has_the_keys_of_the_tables_and_no_others() {
    fn objects(value: &serde_json::Value, found: &mut BTreeSet<Vec<String>>) {
        if let Some(properties) = value["properties"].as_object() {
            assert_eq!(
                value["additionalProperties"], false,
                "unknown keys are refused"
            );
            found.insert(properties.keys().cloned().collect());
            properties.values().for_each(|value| objects(value, found));
        } else if value["additionalProperties"].is_object() {
            objects(&value["additionalProperties"], found);
        }
        if value["items"].is_object() {
            objects(&value["items"], found);
        }
        value["anyOf"]
            .as_array()
            .into_iter()
            .flatten()
            .for_each(|value| objects(value, found));
    }
    let mut found = BTreeSet::new();
    objects(&schema(), &mut found);
    let tables: BTreeSet<Vec<String>> = all_tables()
        .iter()
        .map(|table| table.keys.iter().map(|key| key.name.to_owned()).collect())
        .collect();
    assert_eq!(found, tables);
}

/// Answers every read with what the example's names promise.
struct Example;

impl Files for Example {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let extension = path.extension().and_then(|extension| extension.to_str());
        match extension.or_else(|| path.file_name()?.to_str()) {
            Some("session-key") => Fixtures.read(Path::new("files/session-key")),
            Some("client-secret") => Fixtures.read(Path::new("files/client-secret")),
            Some("key") => Fixtures.read(Path::new("files/tls.key")),
            Some("crt") => Fixtures.read(Path::new("files/tls.crt")),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

#[test]
fn the_example_is_good_and_shows_every_key() {
    let text = std::fs::read_to_string(home().join("config/daypass.yaml")).unwrap();
    let loaded = check_text(
        "config/daypass.yaml",
        &text,
        &Environment::default(),
        &Example,
    );
    let loaded = loaded.unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.warnings, []);
    // `#key: value` is a setting that is switched off, `# Text` is prose.
    let whole = text.replace("\n#", "\n").replace("\n ", "\n");
    for table in all_tables() {
        for key in table.keys {
            let shown = whole
                .match_indices(&format!("{}:", key.name))
                .any(|(at, _)| {
                    at == 0
                        || !whole.as_bytes()[at - 1].is_ascii_alphanumeric()
                            && whole.as_bytes()[at - 1] != b'_'
                });
            assert!(
                shown,
                "{} of {} is not in the example",
                key.name, table.title
            );
        }
        let works = |name: &str| {
            let tables = all_tables();
            tables
                .iter()
                .any(|table| table.keys.iter().any(|key| key.name == name))
        };
        for later in table.later.iter().filter(|later| !works(later)) {
            assert!(
                !whole.contains(&format!(" {later}:")) && !whole.contains(&format!("\n{later}:")),
                "{later} does not work yet"
            );
        }
    }
}

#[test]
fn settings_switched_off_in_the_example_work_when_switched_on() {
    let text = std::fs::read_to_string(home().join("config/daypass.yaml")).unwrap();
    let on: Vec<String> = text
        .lines()
        .map(|line| {
            let body = line.trim_start();
            match body.strip_prefix('#') {
                Some(rest) if !rest.is_empty() && !rest.starts_with([' ', '!']) => {
                    format!("{}{rest}", &line[..line.len() - body.len()])
                }
                _ => line.to_owned(),
            }
        })
        .collect();
    assert_ne!(on.join("\n"), text);
    let loaded = check_text(
        "config/daypass.yaml",
        on.join("\n"),
        &Environment::default(),
        &Example,
    );
    loaded.unwrap_or_else(|problems| panic!("{problems}"));
}

#[test]
fn the_reference_has_the_tables_of_the_code() {
    let file = home().join("docs/configuration.md");
    let kept = std::fs::read_to_string(&file).unwrap();
    let marker = "<!-- The tables below are made from src/config/table.rs. -->\n";
    let (head, _) = kept
        .split_once(marker)
        .expect("the reference holds the marker");
    assert_kept(&file, &format!("{head}{marker}{}", reference()));
}

fn reference() -> String {
    let mut text = String::new();
    for table in all_tables() {
        let title = if table.title == table::ROOT.title {
            "Top level".into()
        } else {
            format!("`{}`", table.title)
        };
        write!(
            text,
            "\n## {title}\n\n{}\n\n| key | value | default | meaning |\n|---|---|---|---|\n",
            table.about
        )
        .unwrap();
        for key in table.keys {
            writeln!(
                text,
                "| `{}` | {} | {} | {} |",
                key.name,
                show(&key.shape),
                show_need(key),
                key.about.replace('|', "\\|")
            )
            .unwrap();
        }
    }
    text
}

fn show_need(key: &Key) -> String {
    match key.need {
        Need::Required(_) => "required".into(),
        Need::Default(text) => format!("`{text}`"),
        Need::Optional => "–".into(),
    }
}

fn show(shape: &Shape) -> String {
    match shape {
        Shape::Text => "text".into(),
        Shape::Bool => "`true`, `false`".into(),
        Shape::Duration { zero: false } => "duration".into(),
        Shape::Duration { zero: true } => "duration or `0`".into(),
        Shape::Size(..) => "size".into(),
        Shape::Count(..) => "number".into(),
        Shape::File => "file".into(),
        Shape::Secret => "secret".into(),
        Shape::Scalar => "text, number or boolean".into(),
        Shape::OneOf(choices) => choices
            .iter()
            .map(|choice| format!("`{choice}`"))
            .collect::<Vec<_>>()
            .join(", "),
        Shape::List(item) => match **item {
            Shape::OneOf(_) | Shape::Any(_) => format!("list of: {}", show(item)),
            _ => format!("list: {}", show(item)),
        },
        Shape::Map(value) => format!("mapping to {}", show(value)),
        Shape::Table(table) => format!("[mapping](#{})", anchor(table.title)),
        Shape::Any(shapes) => shapes.iter().map(show).collect::<Vec<_>>().join("; or "),
    }
}

/// The anchor a Markdown renderer gives a heading.
fn anchor(title: &str) -> String {
    title
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = check_text("daypass.yaml", bytes, &Environment::default(), &NoFiles);
    }

    #[test]
    fn a_damaged_configuration_does_not_panic(at in 0usize..4000, cut in 0usize..20, insert in "[-a-z0-9{}\\[\\]:,&*#|>'\"%@ \n\t]{0,6}") {
        let mut text = std::fs::read(home().join("tests/config/ok-every-key.yaml")).unwrap();
        let at = at.min(text.len());
        let end = (at + cut).min(text.len());
        text.splice(at..end, insert.into_bytes());
        if let Err(problems) = check_text("daypass.yaml", text, &environment(b""), &Fixtures) {
            // The net below all parts is never needed: each says what it does not like.
            prop_assert!(!problems.to_string().contains("cannot be used"), "{}", problems);
        }
    }
}

#[test]
fn large_hostile_files_are_answered_quickly() {
    let repeated = |count: usize, line: &dyn Fn(usize) -> String| {
        (0..count).map(line).collect::<Vec<_>>().join("\n")
    };
    let many_keys = repeated(40_000, &|n| format!("k{n}: 1"));
    let many_routes = repeated(16_000, &|_| "- {path: /a, upstream: a}".into());
    let many_routes = format!("routes:\n{many_routes}\n");
    let many_headers = repeated(16_000, &|n| format!("    x-{n}: sub"));
    let many_headers = format!("routes:\n- claims_to_headers:\n{many_headers}\n");
    for text in [many_keys, many_routes, many_headers] {
        assert!(text.len() < tree::MAX_BYTES);
        assert!(check_text("daypass.yaml", text, &Environment::default(), &NoFiles).is_err());
    }
}
