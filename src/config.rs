//! Turns a YAML file and the environment into a checked configuration.
//!
//! `tree` parses the file into values that know their place, `environment` lays the variables over it, and the
//! section readers (`site`, `provider`, `session`, `upstream`, `route`) walk it with the key tables of `table`, which
//! also make the schema and the reference. Nothing stops at the first problem.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

mod canonical;
mod environment;
mod headers;
mod matcher;
pub mod model;
mod problem;
mod provider;
mod read;
mod route;
mod scalar;
mod schema;
mod section;
mod session;
mod shadow;
mod site;
mod source;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod tls;
mod tree;
mod upstream;
pub mod watch;

pub use environment::Environment;
pub use problem::{Place, Problem, Problems};
pub use schema::schema;
pub use source::{Disk, Files, NoFiles};

use read::{Found, Reader, Spot};
use section::Section;

/// A configuration that may be served, and what should still be looked at.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The checked configuration.
    pub config: model::Config,
    /// Inline secrets, insecure switches, unused upstreams.
    pub warnings: Vec<Problem>,
}

/// Reads and checks the configuration in `path`.
///
/// # Errors
/// Every problem at once, in file order.
pub fn load(path: &Path, environment: &Environment) -> Result<Loaded, Problems> {
    let name = path.display().to_string();
    let bytes = Disk.read(path).map(Zeroizing::new).map_err(|error| {
        let mut problems = Problems::whole(
            &name,
            format!(
                "the file cannot be read ({}): name another with `-c`",
                source::why(&error)
            ),
        );
        problems
            .files
            .insert(path.to_owned(), watch::Print::of(None));
        problems
    })?;
    check(&name, path, &bytes, environment, &Disk)
}

/// Checks a configuration in memory; `file_name` stands in messages, and relative paths count from its folder.
///
/// Touches nothing but `files`.
///
/// # Errors
/// Every problem at once, in file order.
pub fn check_text(
    file_name: &str,
    text: impl AsRef<[u8]>,
    environment: &Environment,
    files: &dyn Files,
) -> Result<Loaded, Problems> {
    check(
        file_name,
        Path::new(file_name),
        text.as_ref(),
        environment,
        files,
    )
}

fn check(
    name: &str,
    path: &Path,
    bytes: &[u8],
    environment: &Environment,
    files: &dyn Files,
) -> Result<Loaded, Problems> {
    let reader = Reader {
        file: Arc::from(name),
        base: path.parent().unwrap_or(Path::new("")).to_owned(),
        environment,
        files,
        found: RefCell::new(Found {
            files: watch::Prints::from([(path.to_owned(), watch::Print::of(Some(bytes)))]),
            ..Found::default()
        }),
    };
    let config = read(&reader, bytes);
    let mut found = reader.found.into_inner();
    problem::in_file_order(&mut found.problems);
    problem::in_file_order(&mut found.warnings);
    match config {
        Some(config) if found.problems.is_empty() => Ok(Loaded {
            config: model::Config {
                files: found.files,
                ..config
            },
            warnings: found.warnings,
        }),
        _ => {
            if found.problems.is_empty() {
                // Every part that fails says why; were one to forget, the failure must still show.
                found.problems = Problems::whole(name, "the configuration cannot be used").problems;
            }
            Err(Problems {
                problems: found.problems,
                warnings: found.warnings,
                files: found.files,
            })
        }
    }
}

fn read(reader: &Reader<'_>, bytes: &[u8]) -> Option<model::Config> {
    let report = |error: tree::SyntaxError| {
        reader.problem(
            &Spot {
                place: error.place,
                path: String::new(),
            },
            error.message,
        );
    };
    let (tree, mistakes) = tree::parse(bytes).map_err(report).ok()?;
    mistakes.into_iter().for_each(report);
    let (tree, mistakes) = environment::overlay(tree, reader.environment);
    mistakes.into_iter().for_each(report);
    let spot = Spot {
        place: tree.place.clone(),
        path: String::new(),
    };
    let root = Section::open(reader, &table::ROOT, read::At { value: tree, spot })?;

    let origins = site::public_origins(&root);
    let sockets = site::sockets(&root);
    let trusted_proxies = site::trusted_proxies(&root);
    let base_path = site::base_path(&root);
    let providers = provider::providers(&root);
    let session = session::session(&root, origins.as_deref());
    let mut pool = upstream::Pool::read(&root);
    let around = route::Around {
        origins: origins.as_deref(),
        base_path: base_path.as_deref(),
        providers: providers.as_deref(),
    };
    let routes = route::routes(&root, &around, &mut pool);
    let upstreams = pool.finish(reader);
    let limits = site::limits(&root);
    let logging = site::logging(&root);
    let pages = site::pages(&root);
    let (listeners, admin) = sockets?;
    Some(model::Config {
        public_origins: origins?,
        listeners,
        admin,
        trusted_proxies: trusted_proxies?,
        base_path: base_path?,
        providers: providers?,
        session: session?,
        upstreams,
        routes: routes?,
        limits: limits?,
        logging: logging?,
        pages: pages?,
        files: watch::Prints::new(),
    })
}

/// A fresh 256-bit session key in base64.
pub fn keygen() -> String {
    let mut key = Zeroizing::new([0; 32]);
    SystemRandom::new().fill(&mut *key).expect(
        "the kernel hands out random bytes once it is up, and without them nothing here is safe",
    );
    BASE64_STANDARD.encode(*key)
}
