//! Runs real Redis servers on loopback, and freezes, kills and restarts them: one, some with sentinels, a Cluster.
//!
//! [`SERVER`] in the environment names another program than `redis-server`: Valkey's, a build of another version.

pub mod cluster;
mod probe;
mod resp;
pub mod sentinel;

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

pub use probe::Probe;
pub use resp::Reply;

use crate::pki::Authority;
use crate::raw::wait_for;

/// Environment variable with the program to run as Redis.
pub const SERVER: &str = "DAYPASS_TEST_REDIS_SERVER";

/// The program to run as Redis, without arguments.
fn server() -> Command {
    let program = std::env::var_os(SERVER).unwrap_or_else(|| "redis-server".into());
    let mut command = Command::new(program);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Starts it.
fn spawn(mut command: Command) -> Child {
    command.spawn().unwrap_or_else(|error| {
        let program = command.get_program().display();
        panic!("{program}: {error} (scripts/install-deps installs redis-server)")
    })
}

/// How the server is to run.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Keeps data in an append-only file, fsynced with every write, so that a restart finds it.
    pub persistent: bool,
    /// TLS instead of plain TCP, by [`Redis::authority`].
    pub tls: bool,
    /// With TLS: client certificates are asked for.
    pub client_certificates: bool,
    /// ACL user and password; the default user is off then.
    pub user: Option<(String, String)>,
    /// Further lines of the ACL file: `user reader on >secret ~* +get`.
    pub acl: Vec<String>,
    /// Such lines for the sentinels that watch it.
    pub sentinel_acl: Vec<String>,
    /// Further arguments of redis-server: `["--maxmemory", "4mb"]`.
    pub arguments: Vec<String>,
}

/// A running Redis; killed when dropped.
#[derive(Debug)]
pub struct Redis {
    options: Options,
    address: SocketAddr,
    directory: TempDir,
    authority: Option<Arc<Authority>>,
    child: Option<Child>,
}

impl Redis {
    /// Starts without persistence, TLS or password.
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    /// Starts with an append-only file.
    pub fn persistent() -> Self {
        Self::with(Options {
            persistent: true,
            ..Options::default()
        })
    }

    /// Starts with `options`.
    pub fn with(options: Options) -> Self {
        let authority = options.tls.then(|| Arc::new(Authority::new()));
        Self::signed_by(authority, options)
    }

    /// Starts with `options`, and for TLS with an authority that others share.
    fn signed_by(authority: Option<Arc<Authority>>, options: Options) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory is made");
        if let Some((_, password)) = &options.user {
            crate::secrets::record("Redis password", password);
        }
        let mut redis = Self {
            options,
            address: crate::ports::free(),
            directory,
            authority,
            child: None,
        };
        redis.restart();
        redis
    }

    /// URL as daypass is configured with; without user and password.
    pub fn url(&self) -> String {
        let scheme = if self.options.tls { "rediss" } else { "redis" };
        // Certificates name `localhost` and the address.
        format!("{scheme}://{}/0", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its Unix socket, which speaks plain RESP in every variant.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// The authority behind its certificate; panics without TLS.
    pub fn authority(&self) -> &Authority {
        self.authority
            .as_ref()
            .expect("this Redis was started with TLS")
    }

    /// Runs a command (as the ACL user if there is one) and gives the reply.
    pub fn command(&self, words: &[&str]) -> Reply {
        self.try_command(words)
            .unwrap_or_else(|| panic!("redis did not answer {}", words[0]))
    }

    /// Every key, but for what proves that tracking works: a connection that breaks on the way leaves one for a second.
    pub fn keys(&self) -> Vec<String> {
        let mut keys = self.command(&["KEYS", "*"]).strings();
        keys.retain(|key| !key.contains(":p:{"));
        keys
    }

    /// Remaining life of a key; `None` when it has no end or does not exist.
    pub fn ttl(&self, key: &str) -> Option<Duration> {
        let left = self.command(&["PTTL", key]).integer()?;
        u64::try_from(left).ok().map(Duration::from_millis)
    }

    /// Every byte of all values, as the server would write them to disk: for showing what a dump tells.
    pub fn dump(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for key in self.keys() {
            all.extend_from_slice(key.as_bytes());
            all.extend_from_slice(&self.command(&["DUMP", &key]).bytes());
        }
        all
    }

    /// Throws all data away.
    pub fn flush(&self) {
        self.command(&["FLUSHALL"]);
    }

    /// Freezes it: connections stay open and nothing answers.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets a frozen one go on.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Ends it without warning; connecting is refused afterwards.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // SIGKILL ends frozen processes, too.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it (again, if need be after a kill) on the same port; data are there if it is persistent.
    pub fn restart(&mut self) {
        self.kill();
        let file = self.directory.path().join("redis.conf");
        if !file.exists() {
            // Later it is the server's own: sentinels have it write down what they made of it.
            std::fs::write(&file, self.settings()).expect("the configuration is written");
        }
        let mut command = server();
        command.arg(&file);
        self.child = Some(spawn(command));
        let up = wait_for(Duration::from_secs(10), || {
            self.try_command(&["PING"])
                .filter(|reply| *reply == Reply::Status("PONG".to_owned()))
        });
        assert!(up.is_some(), "it does not start: {}", self.log());
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("redis.log")).unwrap_or_default()
    }

    /// For asking it again and again, also while it is down.
    pub fn probe(&self, patience: Duration) -> Probe {
        Probe::new(self.socket(), self.options.user.clone(), patience)
    }

    /// The configuration it starts with. In a file: the arguments of a process are for all to see.
    fn settings(&self) -> String {
        let directory = self.directory.path();
        let path = |name: &str| directory.join(name).display().to_string();
        let port = self.address.port().to_string();
        let mut words: Vec<String> = Vec::new();
        let mut set = |key: &str, value: &str| {
            words.extend([format!("--{key}"), value.to_owned()]);
        };
        set("bind", "127.0.0.1");
        set("save", "");
        set("dir", &directory.display().to_string());
        set("unixsocket", &path("redis.sock"));
        set("logfile", &path("redis.log"));
        // What was written survives the process, which is all that ends here. A disk that is slow to sync stalls it.
        set("appendfsync", "no");
        let persistent = self.options.persistent;
        set("appendonly", if persistent { "yes" } else { "no" });
        if let Some(authority) = &self.authority {
            set("port", "0");
            set("tls-port", &port);
            for (key, value) in tls_settings(authority, self.options.client_certificates) {
                set(key, &value);
            }
        } else {
            set("port", &port);
        }
        if let Some((user, password)) = &self.options.user {
            let more = self.options.acl.join("\n");
            let acl = format!("user default off\nuser {user} on >{password} ~* &* +@all\n{more}\n");
            std::fs::write(path("users.acl"), acl).expect("the ACL file is written");
            set("aclfile", &path("users.acl"));
        }
        words.extend(self.options.arguments.iter().cloned());
        lines(&words)
    }

    /// As [`Redis::command`]; nothing when there is no answer.
    pub fn try_command(&self, words: &[&str]) -> Option<Reply> {
        try_command(&self.socket(), self.options.user.as_ref(), words)
    }

    /// Replicas that get what is written.
    fn replicas_online(&self) -> Option<usize> {
        let info = self.try_command(&["INFO", "replication"])?.bytes();
        Some(
            String::from_utf8_lossy(&info)
                .matches("state=online")
                .count(),
        )
    }

    /// Writes a key, which comes after all that was written before, and asks so many replicas whether they have it. Nothing
    /// unless all say so at once.
    fn replicates(&self, replicas: usize, key: &str) -> Option<()> {
        let mut probe = self.probe(Duration::from_secs(2));
        let wanted = replicas.to_string();
        let written = probe.ask(&["SET", key, "1", "PX", "1000"])?;
        (written == Reply::Status("OK".to_owned())).then_some(())?;
        let there = probe.ask(&["WAIT", &wanted, "500"])?.integer()?;
        (usize::try_from(there).ok()? >= replicas).then_some(())
    }

    /// Waits until what is written by now is on a replica, too. `WAIT` knows only what its own connection wrote.
    fn wait_until_replicated(&self) {
        let info = || {
            let info = self.command(&["INFO", "replication"]).bytes();
            String::from_utf8_lossy(&info).into_owned()
        };
        let number = |text: &str| {
            let digits = text.split(|c: char| !c.is_ascii_digit()).next()?;
            digits.parse::<u64>().ok()
        };
        let written = info();
        let written = written.split("master_repl_offset:").nth(1);
        let written = written.and_then(number).expect("an offset");
        let there = wait_for(Duration::from_secs(20), || {
            let info = info();
            let mut acknowledged = info.split(",offset=").skip(1).filter_map(number);
            acknowledged.any(|offset| offset >= written).then_some(())
        });
        assert!(there.is_some(), "nothing is replicated: {}", self.log());
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            let pid = i32::try_from(child.id()).expect("a process id fits");
            kill(Pid::from_raw(pid), signal).expect("our own child can be signalled");
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The lines of a configuration file: each begins with what would be an argument with two hyphens.
fn lines(words: &[String]) -> String {
    let mut text = String::new();
    for word in words {
        match word.strip_prefix("--") {
            Some(key) => text.extend(["\n", key]),
            None => text.extend([
                " \"",
                &word.replace('\\', "\\\\").replace('"', "\\\""),
                "\"",
            ]),
        }
    }
    text + "\n"
}

/// Settings of a server that shows a certificate of `authority`, and asks for one of clients if they need one.
fn tls_settings(authority: &Authority, ask: bool) -> Vec<(&'static str, String)> {
    let issued = authority.issue(&["localhost", "127.0.0.1"]);
    let path = |path: PathBuf| path.display().to_string();
    vec![
        ("tls-cert-file", path(issued.cert_file)),
        ("tls-key-file", path(issued.key_file)),
        ("tls-ca-cert-file", path(authority.file())),
        (
            "tls-auth-clients",
            if ask { "yes" } else { "no" }.to_owned(),
        ),
    ]
}

/// Runs a command over a Unix socket, as a user if there is one.
fn try_command(socket: &Path, user: Option<&(String, String)>, words: &[&str]) -> Option<Reply> {
    let mut connection = resp::Connection::new(connect(socket)?);
    if let Some((user, password)) = user {
        connection.call(&["AUTH", user, password])?;
    }
    connection.call(words)
}

fn connect(path: &Path) -> Option<UnixStream> {
    let stream = UnixStream::connect(path).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    Some(stream)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn data_survive_a_kill_when_persistent() {
        let mut redis = Redis::persistent();
        redis.command(&["SET", "key", "value"]);
        let address = redis.address();
        redis.kill();
        assert!(TcpStream::connect(address).is_err());
        redis.restart();
        assert_eq!(
            redis.command(&["GET", "key"]),
            Reply::Bytes(b"value".to_vec())
        );
        assert_eq!(
            (redis.keys(), redis.ttl("key")),
            (vec!["key".to_owned()], None)
        );
    }

    #[test]
    fn a_frozen_server_accepts_and_does_not_answer() {
        let redis = Redis::start();
        redis.pause();
        assert!(TcpStream::connect(redis.address()).is_ok());
        let answer = crate::raw::exchange(redis.address(), b"PING\r\n", Duration::from_millis(100));
        assert_eq!((answer.bytes.len(), answer.closed), (0, false));
        redis.resume();
        assert_eq!(redis.command(&["PING"]), Reply::Status("PONG".to_owned()));
    }

    #[test]
    fn the_acl_user_gets_in_and_nobody_else() {
        let user = Some(("daypass".to_owned(), "a-password-of-some-length".to_owned()));
        let redis = Redis::with(Options {
            user,
            ..Options::default()
        });
        assert_eq!(redis.command(&["PING"]), Reply::Status("PONG".to_owned()));
        let words = b"PING\r\nQUIT\r\n";
        let stranger = crate::raw::exchange(redis.address(), words, Duration::from_secs(5));
        assert!(stranger.text().contains("NOAUTH"), "{}", stranger.text());
    }

    #[test]
    fn the_tls_variant_speaks_no_plain_text_on_its_port() {
        let redis = Redis::with(Options {
            tls: true,
            ..Options::default()
        });
        assert!(redis.url().starts_with("rediss://"));
        let plain = crate::raw::exchange(redis.address(), b"PING\r\n", Duration::from_millis(200));
        assert!(!plain.text().contains("PONG"));
    }
}
