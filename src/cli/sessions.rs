//! Shows and ends sessions across the fleet (`daypass sessions`), for whoever answers an incident.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::{BufWriter, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;
use tracing::level_filters::LevelFilter;

use super::{FileArgs, fail, say};
use crate::clock::{SharedClock, SystemClock, Timestamp};
use crate::config::{self, Environment, model};
use crate::metrics::{LogoutKind, Metrics};
use crate::rp::audit;
use crate::session::{Fleet, Listed, Meta, RecordKey, Sessions, StoreError, Walk, Whose};
use crate::telemetry;

pub(super) const EXAMPLES: &str = "Examples:
  daypass sessions list   -c daypass.yaml --subject 248289761001
  daypass sessions list   -c daypass.yaml --all --json | jq -r .subject | sort | uniq -c
  daypass sessions revoke -c daypass.yaml --sid 08a5019c-17e1-4977 --provider acme
  daypass sessions revoke -c daypass.yaml --all

Exit status: 0 done, 1 problems, 2 usage.";

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Show who is signed in, from when to when; never a token.
    #[command(after_help = EXAMPLES)]
    List {
        #[command(flatten)]
        which: Which,
        /// One JSON object a line instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// End sessions on every replica; those that hold them revoke their tokens at the provider.
    #[command(after_help = EXAMPLES)]
    Revoke {
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Debug, Args)]
pub(super) struct Which {
    #[command(flatten)]
    file: FileArgs,
    #[command(flatten)]
    names: Names,
    /// Only sessions of this provider, by its name in the configuration.
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Names {
    /// Sessions of this user (`sub`).
    #[arg(long, value_name = "S", allow_hyphen_values = true)]
    subject: Option<String>,
    /// Sessions of this session at the provider (`sid`).
    #[arg(long, value_name = "S", allow_hyphen_values = true)]
    sid: Option<String>,
    /// Every session.
    #[arg(long)]
    all: bool,
}

pub(super) fn run(action: &Action, environment: &Environment) -> ExitCode {
    let which = match action {
        Action::List { which, .. } | Action::Revoke { which } => which,
    };
    let (config, sessions) = match open(which, environment) {
        Ok(opened) => opened,
        Err(problem) => return fail(&problem),
    };
    if matches!(action, Action::Revoke { .. }) {
        // What is ended is written down: a replica does so only for a session that it holds.
        let logging = model::Logging {
            level: LevelFilter::WARN,
            ..config.logging.clone()
        };
        telemetry::start(&logging, environment.get("RUST_LOG"), false);
    }
    let Some(fleet) = sessions.fleet() else {
        return fail(
            "session.store is `memory`: its sessions are known to the running process only. Restart daypass to end them \
             all; with `session.store: redis://...` they can be seen and ended from here",
        );
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start the runtime: {error}")),
    };
    let meant = which.meant(&config);
    let done = match action {
        Action::List { json, .. } => runtime.block_on(list(fleet, &meant, which, *json)),
        Action::Revoke { .. } => runtime.block_on(revoke(fleet, &meant, which)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => fail(&problem),
    }
}

fn open(which: &Which, environment: &Environment) -> Result<(model::Config, Sessions), String> {
    let path = which.file.path(environment)?;
    let loaded = config::load(&path, environment).map_err(|problems| problems.to_string())?;
    let config = loaded.config;
    if let Some(name) = &which.provider
        && !config.providers.iter().any(|one| *one.name == **name)
    {
        let known: Vec<_> = config.providers.iter().map(|one| &*one.name).collect();
        return Err(format!(
            "no provider `{name}` in {}: it has {}",
            path.display(),
            known.join(", ")
        ));
    }
    let clock: SharedClock = Arc::new(SystemClock);
    let metrics = Metrics::new().map_err(|error| error.to_string())?;
    let sessions = Sessions::open(&config.session, clock, Arc::new(metrics))?;
    Ok((config, sessions))
}

/// The sets to go through: one for each issuer, or none for all sessions.
type Meant<'a> = Vec<Option<Whose<'a>>>;

impl Which {
    fn meant<'a>(&'a self, config: &'a model::Config) -> Meant<'a> {
        if self.names.all {
            return vec![None];
        }
        let providers = config.providers.iter();
        let mut issuers: Vec<&str> = providers
            .filter(|one| {
                self.provider
                    .as_ref()
                    .is_none_or(|name| *one.name == **name)
            })
            .map(|one| one.issuer.as_str())
            .collect();
        issuers.sort_unstable();
        issuers.dedup();
        let whose = issuers.into_iter().map(|issuer| {
            Some(Whose {
                issuer,
                sid: self.names.sid.as_deref(),
                subject: self.names.subject.as_deref(),
                providers: None,
            })
        });
        whose.collect()
    }

    /// Of a session that tells nothing about itself, only `--all` without a provider can mean it.
    fn fits(&self, whose: Option<&Whose<'_>>, meta: Option<&Meta>) -> bool {
        let Some(meta) = meta else {
            return whose.is_none() && self.provider.is_none();
        };
        let provider = self.provider.as_ref();
        provider.is_none_or(|name| *meta.provider == **name)
            && whose.is_none_or(|whose| whose.fits(meta))
    }
}

fn walk<'a>(fleet: Fleet<'a>, whose: Option<&Whose<'_>>) -> Walk<'a> {
    match whose {
        Some(whose) => fleet.of(whose),
        None => fleet.all(),
    }
}

async fn list(
    fleet: Fleet<'_>,
    meant: &Meant<'_>,
    which: &Which,
    json: bool,
) -> Result<(), String> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut seen: HashSet<RecordKey> = HashSet::new();
    if !json {
        let _ = out.write_all(HEADING.as_bytes());
    }
    for whose in meant {
        let mut walk = walk(fleet, whose.as_ref());
        while let Some(mut page) = walk.next().await.map_err(unreachable)? {
            page.retain(|key| seen.insert(*key));
            let listed = fleet.list(&page).await.map_err(unreachable)?;
            for one in listed {
                if which.fits(whose.as_ref(), one.meta.as_ref()) {
                    let line = if json { object(&one) } else { row(&one) };
                    if out.write_all(line.as_bytes()).is_err() {
                        // A closed pipe is no problem of ours.
                        return Ok(());
                    }
                }
            }
        }
    }
    let _ = out.flush();
    Ok(())
}

async fn revoke(fleet: Fleet<'_>, meant: &Meant<'_>, which: &Which) -> Result<(), String> {
    let (mut ended, mut outcome) = (0_u64, Ok(()));
    for whose in meant {
        outcome = revoke_of(fleet, whose.as_ref(), which, &mut ended).await;
        if outcome.is_err() {
            break;
        }
    }
    // Also when the store failed half-way: how far it went.
    let _ = writeln!(
        std::io::stdout().lock(),
        "ended {ended} session{}",
        if ended == 1 { "" } else { "s" }
    );
    if outcome.is_err() {
        say("some may be left: try again");
    }
    outcome.map_err(unreachable)
}

async fn revoke_of(
    fleet: Fleet<'_>,
    whose: Option<&Whose<'_>>,
    which: &Which,
    ended: &mut u64,
) -> Result<(), StoreError> {
    let mut walk = walk(fleet, whose);
    while let Some(page) = walk.next().await? {
        let listed = fleet.list(&page).await?;
        let meant = listed
            .iter()
            .filter(|one| which.fits(whose, one.meta.as_ref()));
        let page: Vec<_> = meant.map(|one| one.key).collect();
        let (gone, outcome) = fleet.end(&page, Some(LogoutKind::Operator)).await;
        *ended += gone.len() as u64;
        for one in &gone {
            audit::ended(LogoutKind::Operator, one);
        }
        outcome?;
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unreachable(error: StoreError) -> String {
    format!("session.store: {error}")
}

fn row(one: &Listed) -> String {
    let meta = one.meta.as_ref();
    let text = |text: Option<&str>| shown(text.unwrap_or("unknown"));
    let time = |time: Option<Timestamp>| time.map_or_else(|| "unknown".into(), Timestamp::rfc3339);
    let mut line = String::new();
    let _ = writeln!(
        line,
        "{:12}  {:20}  {:20}  {:20}  {:20}  {:>9}  {}",
        one.key.short(),
        time(meta.map(|meta| meta.created_at)),
        time(meta.map(|meta| meta.expires_at)),
        text(meta.map(|meta| &*meta.provider)),
        text(meta.map(|meta| &*meta.subject)),
        one.ttl
            .map_or_else(|| "-".into(), |ttl| ttl.as_secs().to_string()),
        text(meta.map(|meta| meta.sid.as_deref().unwrap_or("-"))),
    );
    line
}

/// A subject is a text by the provider: nothing in it may steer a terminal.
fn shown(text: &str) -> String {
    text.escape_debug().to_string()
}

fn object(one: &Listed) -> String {
    let meta = one.meta.as_ref();
    let object = json!({
        "session": one.key.short(),
        "provider": meta.map(|meta| &*meta.provider),
        "subject": meta.map(|meta| &*meta.subject),
        "sid": meta.and_then(|meta| meta.sid.as_deref()),
        "created_at": meta.map(|meta| meta.created_at.rfc3339()),
        "expires_at": meta.map(|meta| meta.expires_at.rfc3339()),
        "ends_unused_in_seconds": one.ttl.as_ref().map(Duration::as_secs),
    });
    format!("{object}\n")
}

const HEADING: &str = "SESSION       CREATED               EXPIRES               PROVIDER              SUBJECT               UNUSED(s)  SID\n";
