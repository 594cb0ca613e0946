//! Runs the daypass binary as a process, and reads its log, metrics and health.
//!
//! Dropped, it checks that no secret known to [`secrets`] stands in the log or the metrics.

mod metrics;
mod setup;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

pub use metrics::{Metrics, Sample};
pub use setup::Setup;

use crate::raw::{self, wait_for};
use crate::secrets;
use setup::Places;

/// Longest wait for the process to listen, to be ready or to answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// A running daypass; killed when dropped.
#[derive(Debug)]
pub struct Daypass {
    binary: PathBuf,
    setup: Setup,
    places: Places,
    directory: TempDir,
    child: Option<Child>,
    pid: Pid,
    lines: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
    frozen: bool,
    scanned: bool,
}

/// A process that ended before it listened.
#[derive(Debug)]
pub struct Failed {
    /// How it ended; `None` when it was still running but not listening.
    pub status: Option<ExitStatus>,
    /// What it said.
    pub log: String,
}

impl Daypass {
    /// Starts `binary` with `setup` and waits until it listens; a test fails here with the log if it does not.
    pub fn start(binary: impl AsRef<Path>, setup: impl Into<Setup>) -> Self {
        Self::try_start(binary, setup).unwrap_or_else(|failed| {
            panic!(
                "daypass does not start ({:?}):\n{}",
                failed.status, failed.log
            )
        })
    }

    /// As [`Daypass::start`], and waits until it is ready.
    pub fn ready(binary: impl AsRef<Path>, setup: impl Into<Setup>) -> Self {
        let daypass = Self::start(binary, setup);
        daypass.wait_ready();
        daypass
    }

    /// Starts, for tests that expect it to fail.
    pub fn try_start(binary: impl AsRef<Path>, setup: impl Into<Setup>) -> Result<Self, Failed> {
        let setup = setup.into();
        let places = Places::pick(&setup);
        Self::start_in(binary.as_ref(), setup, places)
    }

    /// Starts `count` replicas that share one public origin (the first one's address); reach each with
    /// [`Call::via`](crate::client::Call::via) and [`Daypass::public`].
    pub fn fleet(binary: impl AsRef<Path>, setup: &Setup, count: usize) -> Vec<Self> {
        Self::fleet_of(binary, setup, count, |_, setup| setup)
    }

    /// As [`Daypass::fleet`], with something changed for each replica by its place.
    pub fn fleet_of(
        binary: impl AsRef<Path>,
        setup: &Setup,
        count: usize,
        each: impl Fn(usize, Setup) -> Setup,
    ) -> Vec<Self> {
        let first = Places::pick(setup);
        let origin = first.public;
        let others = setup.clone().anywhere();
        let places = (1..count).map(|_| Places {
            origin,
            ..Places::pick(&others)
        });
        let places: Vec<Places> = std::iter::once(first).chain(places).collect();
        let start = |(place, places)| {
            let setup = each(place, setup.clone());
            Self::start_in(binary.as_ref(), setup, places).unwrap_or_else(|failed| {
                panic!(
                    "daypass does not start ({:?}):\n{}",
                    failed.status, failed.log
                )
            })
        };
        let fleet: Vec<Self> = places.into_iter().enumerate().map(start).collect();
        fleet.iter().for_each(Self::wait_ready);
        fleet
    }

    fn start_in(binary: &Path, setup: Setup, places: Places) -> Result<Self, Failed> {
        let directory = tempfile::tempdir().expect("a temporary directory is made");
        let mut daypass = Self {
            binary: binary.to_owned(),
            setup,
            places,
            directory,
            child: None,
            pid: Pid::from_raw(0),
            lines: Arc::default(),
            readers: Vec::new(),
            frozen: false,
            scanned: false,
        };
        daypass.write();
        daypass.spawn()?;
        Ok(daypass)
    }

    fn spawn(&mut self) -> Result<(), Failed> {
        let mut child = Command::new(&self.binary)
            .args(["run", "-c"])
            .arg(self.config_file())
            .envs(self.setup.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.binary.display()));
        let already = self.lines().len();
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        self.readers.push(collect(stdout, Arc::clone(&self.lines)));
        self.readers.push(collect(stderr, Arc::clone(&self.lines)));
        self.pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id fits"));
        self.child = Some(child);
        self.frozen = false;
        let up = wait_for(PATIENCE, || {
            let lines = self.lines();
            let lines = &lines[already..];
            let both = listening(lines, "public").next().is_some()
                && listening(lines, "admin").next().is_some();
            (both || self.exited().is_some()).then_some(both)
        });
        if up == Some(true) {
            let lines = self.lines();
            let address = |listener| {
                listening(&lines[already..], listener).find_map(|text| text.parse().ok())
            };
            self.places.public = address("public").unwrap_or(self.places.public);
            self.places.admin = address("admin").unwrap_or(self.places.admin);
            return Ok(());
        }
        let status = self.exited();
        self.kill();
        Err(Failed {
            status,
            log: self.log(),
        })
    }

    /// Address of the public listener.
    pub fn public(&self) -> SocketAddr {
        self.places.public
    }

    /// Address of the admin listener.
    pub fn admin(&self) -> SocketAddr {
        self.places.admin
    }

    /// `path` at the public origin.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.setup.origin(&self.places))
    }

    /// `host:port` of the public origin: what a `Host` header must say.
    pub fn authority(&self) -> String {
        self.url("")
            .split_once("://")
            .map(|(_, rest)| rest.to_owned())
            .unwrap_or_default()
    }

    /// The configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.directory.path().join("daypass.yaml")
    }

    /// Directory of the configuration file and of [`Setup::file`]s.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Puts another configuration in the place of the old one, by rename as Kubernetes does. No signal is sent.
    pub fn rewrite(&mut self, setup: impl Into<Setup>) {
        self.setup = setup.into();
        self.write();
    }

    /// Changes the configuration file; no signal is sent.
    pub fn change(&mut self, change: impl FnOnce(Setup) -> Setup) {
        self.setup = change(self.setup.clone());
        self.write();
    }

    /// Waits until `/readyz` says 200.
    pub fn wait_ready(&self) {
        let ready = wait_for(PATIENCE, || {
            self.admin_get("/readyz")
                .filter(|(status, _)| *status == 200)
        });
        assert!(
            ready.is_some(),
            "daypass does not get ready:\n{}",
            self.log()
        );
    }

    /// A GET at the admin listener: status and body.
    pub fn admin_get(&self, path: &str) -> Option<(u16, String)> {
        raw::get(self.admin(), path)
    }

    /// All metrics as of now.
    pub fn metrics(&self) -> Metrics {
        let (status, text) = self
            .admin_get("/metrics")
            .expect("the admin listener answers");
        assert_eq!(status, 200, "{text}");
        Metrics::parse(&text)
    }

    /// Sum of the series of `name` that carry at least these labels; 0 if there is none.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.metrics().sum(name, labels)
    }

    /// Everything it wrote, line by line.
    pub fn lines(&self) -> Vec<String> {
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Takes out all but the latest `keep` lines, so that a long run does not fill the memory. Whoever takes them checks
    /// them, too: nobody will at the end.
    pub fn take_lines(&self, keep: usize) -> Vec<String> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = lines.len().saturating_sub(keep);
        lines.drain(..gone).collect()
    }

    /// Everything it wrote.
    pub fn log(&self) -> String {
        self.lines().join("\n")
    }

    /// Log lines that are JSON.
    pub fn events(&self) -> Vec<Value> {
        self.lines()
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Waits for a line that contains all of `words`.
    pub fn wait_for_log(&self, words: &[&str], limit: Duration) -> Option<String> {
        wait_for(limit, || {
            self.lines()
                .into_iter()
                .find(|line| words.iter().all(|word| line.contains(word)))
        })
    }

    /// SIGHUP: asks for a reload.
    pub fn hup(&self) {
        self.signal(Signal::SIGHUP);
    }

    /// SIGTERM: asks for a graceful end.
    pub fn term(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// SIGINT: what Ctrl-C sends.
    pub fn interrupt(&self) {
        self.signal(Signal::SIGINT);
    }

    /// SIGSTOP: freezes it.
    pub fn freeze(&mut self) {
        self.signal(Signal::SIGSTOP);
        self.frozen = true;
        // The signal is sent, and each thread stops when it comes to run.
        let stopped = wait_for(PATIENCE, || threads_stand_still(self.pid).then_some(()));
        assert!(stopped.is_some(), "it does not stop");
    }

    /// SIGCONT: lets it go on.
    pub fn thaw(&mut self) {
        self.signal(Signal::SIGCONT);
        self.frozen = false;
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }

    /// Starts it again after an end, on the same ports; log lines are added to the old ones.
    pub fn restart(&mut self) {
        self.kill();
        if let Err(failed) = self.spawn() {
            panic!(
                "daypass does not start again ({:?}):\n{}",
                failed.status, failed.log
            );
        }
    }

    /// How it ended, if it did.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child
            .as_mut()
            .and_then(|child| child.try_wait().ok().flatten())
    }

    /// Waits for the end.
    pub fn wait_exit(&mut self, limit: Duration) -> Option<ExitStatus> {
        wait_for(limit, || self.exited())
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    }

    /// Secrets that stand in the log or the metrics so far, by kind and place.
    pub fn leaks(&self) -> Vec<String> {
        let alive = !self.frozen && self.child.is_some();
        let metrics = if alive {
            self.admin_get("/metrics").map(|(_, text)| text)
        } else {
            None
        };
        let mut leaks = secrets::leaks_in(&self.log());
        leaks.extend(secrets::leaks_in(&metrics.unwrap_or_default()));
        leaks
    }

    /// Leaves out the check for leaked secrets, for a test that provokes one.
    pub fn skip_leak_check(&mut self) {
        self.scanned = true;
    }

    fn signal(&self, signal: Signal) {
        assert!(
            self.child.is_some(),
            "a process that was killed gets no signals"
        );
        // A process that just ended is a zombie until it is waited for: the signal goes nowhere, and hits nobody else.
        let _ = kill(self.pid, signal);
    }

    fn write(&self) {
        let directory = self.directory.path();
        for (name, text) in &self.setup.files {
            replace(&directory.join(name), text);
        }
        replace(
            &self.config_file(),
            &self.setup.render(&self.places, directory),
        );
    }
}

impl Drop for Daypass {
    fn drop(&mut self) {
        let failing = std::thread::panicking();
        let leaks = if self.scanned || failing {
            Vec::new()
        } else {
            self.leaks()
        };
        let crashed = self.exited().and_then(|status| status.signal());
        self.kill();
        if failing {
            let lines = self.lines();
            let tail = lines.len().saturating_sub(60);
            eprintln!(
                "--- end of the log of daypass {} ---\n{}\n---",
                self.places.public,
                lines[tail..].join("\n")
            );
            return;
        }
        assert!(
            leaks.is_empty(),
            "secrets in log or metrics:\n{}",
            leaks.join("\n")
        );
        assert!(
            crashed.is_none(),
            "daypass died of signal {crashed:?}:\n{}",
            self.log()
        );
    }
}

/// Addresses that log lines call listening for `listener`; fields may stand at the top or in `fields`.
fn listening<'a>(lines: &'a [String], listener: &'a str) -> impl Iterator<Item = String> + 'a {
    lines.iter().filter_map(move |line| {
        let event: Value = serde_json::from_str(line).ok()?;
        let fields = event.get("fields").unwrap_or(&event);
        let fits = fields["message"] == "listening" && fields["listener"] == listener;
        fits.then(|| fields["address"].as_str().map(ToOwned::to_owned))
            .flatten()
    })
}

/// Whether every thread of the process is stopped, or there is none.
fn threads_stand_still(pid: Pid) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return true;
    };
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The state follows the name, which may hold anything.
        stat.rsplit_once(") ")
            .is_none_or(|(_, rest)| rest.starts_with('T'))
    })
}

fn collect(
    stream: impl std::io::Read + Send + 'static,
    lines: Arc<Mutex<Vec<String>>>,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        // Lines that are no UTF-8 are kept, too: a leak may be in them.
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            lines
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(line);
        }
    })
}

fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).expect("a file in our own directory is written");
    std::fs::rename(&new, path).expect("a file in our own directory is renamed");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stand-in binary: a shell script that does `first`, logs what daypass logs, then does `body`.
    fn script(first: &str, body: &str) -> (TempDir, PathBuf) {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("daypass");
        let text = format!(
            "#!/bin/sh\n{first}\n\
             echo '{{\"fields\":{{\"message\":\"listening\",\"listener\":\"public\",\"address\":\"127.0.0.1:1\"}}}}' >&2\n\
             echo '{{\"message\":\"listening\",\"listener\":\"admin\",\"address\":\"127.0.0.1:2\"}}' >&2\n{body}\n"
        );
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
            .expect("executable");
        (directory, path)
    }

    #[test]
    fn addresses_come_from_the_log_in_both_spellings() {
        let (_directory, binary) = script("", "exec sleep 60");
        let daypass = Daypass::start(&binary, Setup::yaml("x: 1"));
        assert_eq!(daypass.public().to_string(), "127.0.0.1:1");
        assert_eq!(daypass.admin().to_string(), "127.0.0.1:2");
    }

    #[test]
    fn a_process_that_ends_early_is_a_failure_with_its_log() {
        let directory = tempfile::tempdir().expect("a directory");
        let failed =
            Daypass::try_start("/bin/false", Setup::yaml("")).expect_err("it ends at once");
        assert_eq!(failed.status.and_then(|status| status.code()), Some(1));
        drop(directory);
    }

    #[test]
    fn signals_reach_the_process_and_its_end_is_seen() {
        let (_directory, binary) = script("trap 'exit 7' TERM", "while :; do sleep 0.02; done");
        let mut daypass = Daypass::start(&binary, Setup::yaml("x: 1"));
        daypass.term();
        let status = daypass.wait_exit(Duration::from_secs(5)).expect("it ends");
        assert_eq!(status.code(), Some(7));
    }

    #[test]
    #[should_panic(expected = "secrets in log or metrics")]
    fn a_secret_in_the_log_fails_the_test() {
        secrets::record("refresh token", "harness-leak-0123456789");
        let (_directory, binary) =
            script("", "echo got harness-leak-0123456789 >&2; exec sleep 60");
        let daypass = Daypass::start(&binary, Setup::yaml("x: 1"));
        daypass
            .wait_for_log(&["got"], Duration::from_secs(5))
            .expect("the line");
    }
}
