//! Reads the command line and runs the command.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::app::{self, App, Source};
use crate::config::model::LogFormat;
use crate::config::{self, Environment};
use crate::telemetry;

mod sessions;

/// Places the configuration is looked for, in this order, after `-c` and `$DAYPASS_CONFIG`.
const PLACES: [&str; 2] = ["config/daypass.yaml", "/etc/daypass/daypass.yaml"];

/// Authenticating reverse proxy: OpenID Connect sessions in front, fresh access tokens behind.
#[derive(Debug, Parser)]
#[command(
    name = "daypass",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Example:\n  daypass check -c daypass.yaml && daypass run -c daypass.yaml"
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve (the default).
    #[command(
        after_help = "Example:\n  daypass run -c /etc/daypass/daypass.yaml --log-format text\n\nSIGTERM drains, SIGHUP reloads. A changed file, secret or certificate reloads by itself."
    )]
    Run(RunArgs),
    /// Load and validate the configuration; report every problem at once.
    #[command(
        after_help = "Example:\n  daypass check -c daypass.yaml --online\n\nExit status: 0 good, 1 problems, 2 usage."
    )]
    Check {
        #[command(flatten)]
        file: FileArgs,
        /// Also fetch the providers' metadata and keys, and ask the session store.
        #[arg(long)]
        online: bool,
    },
    /// Print the JSON Schema of the configuration.
    #[command(
        after_help = "Example:\n  daypass schema > daypass.schema.json\n  # and as first line of daypass.yaml:\n  # yaml-language-server: $schema=daypass.schema.json"
    )]
    Schema,
    /// Print a fresh 256-bit session key, base64.
    #[command(after_help = "Example:\n  daypass keygen > session-key")]
    Keygen,
    /// See and end sessions across the fleet, on the configured Redis.
    #[command(after_help = sessions::EXAMPLES)]
    Sessions {
        #[command(subcommand)]
        action: sessions::Action,
    },
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Shape of log lines; overrides `logging.format`.
    #[arg(long, value_enum)]
    log_format: Option<Format>,
}

#[derive(Debug, Args)]
struct FileArgs {
    /// Configuration file [default: $DAYPASS_CONFIG, then config/daypass.yaml, then /etc/daypass/daypass.yaml].
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Json,
    Text,
}

/// Runs the command of the process's arguments.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let environment = Environment::of_process();
    match cli.command {
        None => run(&cli.run, environment),
        Some(Command::Run(args)) => run(&args, environment),
        Some(Command::Check { file, online }) => check(&file, &environment, online),
        Some(Command::Schema) => print(&format!("{:#}\n", config::schema())),
        Some(Command::Keygen) => print(&format!("{}\n", config::keygen())),
        Some(Command::Sessions { action }) => sessions::run(&action, &environment),
    }
}

impl FileArgs {
    fn path(&self, environment: &Environment) -> Result<PathBuf, String> {
        if let Some(path) = self
            .config
            .clone()
            .or_else(|| environment.get("DAYPASS_CONFIG").map(PathBuf::from))
        {
            return Ok(path);
        }
        PLACES
            .iter()
            .map(PathBuf::from)
            .find(|path| path.exists())
            .ok_or_else(|| {
                format!(
                    "no configuration: give one with -c FILE or $DAYPASS_CONFIG, or write {}",
                    PLACES.join(" or ")
                )
            })
    }
}

fn run(args: &RunArgs, environment: Environment) -> ExitCode {
    let path = match args.file.path(&environment) {
        Ok(path) => path,
        Err(problem) => return fail(&problem),
    };
    let loaded = match config::load(&path, &environment) {
        Ok(loaded) => loaded,
        Err(problems) => return fail(&problems.to_string()),
    };
    let mut logging = loaded.config.logging.clone();
    match args.log_format {
        Some(Format::Json) => logging.format = LogFormat::Json,
        Some(Format::Text) => logging.format = LogFormat::Text,
        None => {}
    }
    let color =
        environment.get("NO_COLOR").is_none_or(str::is_empty) && std::io::stderr().is_terminal();
    let levels = telemetry::start(&logging, environment.get("RUST_LOG"), color);
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    // For all but the connections, which have threads of their own.
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start the runtime: {error}")),
    };
    let outcome = runtime.block_on(async {
        let terminated = terminated().map_err(|error| error.to_string())?;
        let app = App::build(loaded, Source { path, environment }, levels)
            .await
            .map_err(|error| with_causes(&error))?;
        app.run(terminated)
            .await
            .map_err(|error| format!("cannot start threads: {error}"))
    });
    // What is still running has had its time.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => fail(&problem),
    }
}

/// Resolves at SIGTERM or SIGINT.
fn terminated() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn check(file: &FileArgs, environment: &Environment, online: bool) -> ExitCode {
    let path = match file.path(environment) {
        Ok(path) => path,
        Err(problem) => return fail(&problem),
    };
    let loaded = match config::load(&path, environment) {
        Ok(loaded) => loaded,
        Err(problems) => return fail(&problems.to_string()),
    };
    for warning in &loaded.warnings {
        say(&format!("warning: {warning}"));
    }
    let mut problems = app::check_offline(&loaded.config);
    if online {
        match tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
        {
            Ok(runtime) => problems.extend(runtime.block_on(app::check_online(loaded.config))),
            Err(error) => problems.push(error.to_string()),
        }
    }
    if problems.is_empty() {
        return print(&format!("{}: good\n", path.display()));
    }
    fail(&problems.join("\n"))
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Results go to stdout. A closed pipe is no problem of ours.
fn print(text: &str) -> ExitCode {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn say(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

fn fail(problem: &str) -> ExitCode {
    say(problem);
    ExitCode::FAILURE
}
