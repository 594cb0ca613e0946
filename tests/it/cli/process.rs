//! Runs the binary with any arguments, and keeps what it writes apart: stdout here, stderr there.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use daypass_testbed::raw::wait_for;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longest wait for a process to say something or to end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A process; killed when dropped.
pub(crate) struct Process {
    child: Child,
    readers: Vec<JoinHandle<()>>,
    stdout: Arc<Mutex<Vec<u8>>>,
    stderr: Arc<Mutex<Vec<u8>>>,
}

/// How a process ended, and what it wrote.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// `daypass` in `folder`, with an environment of nothing but `environment`.
pub(crate) fn daypass(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Process {
    let mut command = Command::new(crate::BINARY);
    command.args(arguments).env_clear();
    command.envs(environment.iter().copied());
    Process::spawn(command.current_dir(folder))
}

/// As [`daypass`], to its end.
pub(crate) fn run(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
    daypass(folder, arguments, environment).finish()
}

impl Process {
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the process starts");
        let (stdout, stderr) = (Arc::default(), Arc::default());
        let readers = vec![
            collect(child.stdout.take().expect("piped"), Arc::clone(&stdout)),
            collect(child.stderr.take().expect("piped"), Arc::clone(&stderr)),
        ];
        Self {
            child,
            readers,
            stdout,
            stderr,
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).expect("a process id fits");
        kill(Pid::from_raw(id), signal).expect("our own child can be signalled");
    }

    pub(crate) fn stdout(&self) -> String {
        text(&self.stdout)
    }

    pub(crate) fn stderr(&self) -> String {
        text(&self.stderr)
    }

    /// Waits until `check` of stderr holds.
    pub(crate) fn says(&self, words: &str) -> bool {
        wait_for(PATIENCE, || self.stderr().contains(words).then_some(())).is_some()
    }

    pub(crate) fn wait(&mut self) -> Option<ExitStatus> {
        wait_for(PATIENCE, || self.child.try_wait().ok().flatten())
    }

    /// Waits for the end and gives what was written.
    pub(crate) fn finish(mut self) -> Ended {
        let status = self.wait();
        assert!(status.is_some(), "it does not end:\n{}", self.stderr());
        for reader in self.readers.drain(..) {
            reader.join().expect("the reader does not panic");
        }
        Ended {
            code: status.and_then(|status| status.code()),
            stdout: self.stdout(),
            stderr: self.stderr(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(bytes: &Mutex<Vec<u8>>) -> String {
    let bytes = bytes.lock().unwrap_or_else(PoisonError::into_inner);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn collect(mut stream: impl Read + Send + 'static, into: Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            let mut into = into.lock().unwrap_or_else(PoisonError::into_inner);
            into.extend_from_slice(&buffer[..count]);
        }
    })
}
