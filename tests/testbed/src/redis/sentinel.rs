//! Runs a master with replicas and three sentinels, which put a replica in its place when it fails.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Options, Redis, tls_settings, try_command};
use crate::pki::{Authority, Issued};
use crate::provider::random;
use crate::raw::wait_for;

/// What the sentinels call the master.
pub const MASTER: &str = "mymaster";
/// How long a master may be silent: longer than a busy machine lets one wait.
const DOWN_AFTER: Duration = Duration::from_secs(2);
/// Longest wait for sentinels, replicas or a failover.
const PATIENCE: Duration = Duration::from_mins(1);

/// A master, its replicas and their sentinels; killed when dropped.
#[derive(Debug)]
pub struct Watched {
    servers: Vec<Redis>,
    sentinels: Vec<Sentinel>,
    authority: Option<Arc<Authority>>,
    options: Options,
}

#[derive(Debug)]
struct Sentinel {
    address: SocketAddr,
    directory: TempDir,
    user: Option<(String, String)>,
    child: Child,
    alive: bool,
}

impl Watched {
    /// A master and `replicas`, without TLS or passwords.
    pub fn start(replicas: usize) -> Self {
        Self::with(replicas, Options::default())
    }

    /// As [`Watched::start`], all servers and sentinels with `options`. The ACL user of the options is theirs: they
    /// replicate and watch as it.
    pub fn with(replicas: usize, options: Options) -> Self {
        let authority = options.tls.then(|| Arc::new(Authority::new()));
        let server = |master: Option<SocketAddr>| {
            let mut options = options.clone();
            let mut set = |words: &[&str]| {
                let words = words.iter().map(|&word| word.to_owned());
                options.arguments.extend(words);
            };
            // A replica is of use as soon as it is there.
            set(&["--repl-diskless-sync-delay", "0"]);
            if let Some((user, password)) = &options.user.clone() {
                set(&["--masteruser", user, "--masterauth", password]);
            }
            if options.tls {
                options
                    .arguments
                    .extend(["--tls-replication", "yes"].map(ToOwned::to_owned));
            }
            if let Some(master) = master {
                let words = [
                    "--replicaof".to_owned(),
                    master.ip().to_string(),
                    master.port().to_string(),
                ];
                options.arguments.extend(words);
            }
            Redis::signed_by(authority.clone(), options)
        };
        let master = server(None);
        let mut servers = vec![master];
        for _ in 0..replicas {
            servers.push(server(Some(servers[0].address())));
        }
        let mut watched = Self {
            servers,
            sentinels: Vec::new(),
            authority,
            options,
        };
        watched.wait_for_replicas(replicas);
        watched.start_sentinels();
        watched
    }

    /// What `session.store` says to use it, as the user of the options.
    pub fn store(&self) -> Value {
        let scheme = if self.options.tls { "rediss" } else { "redis" };
        let urls: Vec<String> = self
            .sentinels
            .iter()
            .map(|sentinel| format!("{scheme}://{}", sentinel.address))
            .collect();
        let mut redis = json!({"mode": "sentinel", "master": MASTER, "urls": urls});
        if let Some((user, password)) = &self.options.user {
            redis["username"] = json!(user);
            redis["password"] = json!(password);
            redis["sentinel_username"] = json!(user);
            redis["sentinel_password"] = json!(password);
        }
        if let Some(authority) = &self.authority {
            redis["tls"] = json!({"ca_file": authority.file()});
        }
        json!({"redis": redis})
    }

    /// A certificate for a client; panics without TLS.
    pub fn client_certificate(&self) -> Issued {
        let authority = self.authority.as_ref().expect("started with TLS");
        authority.issue(&["client"])
    }

    /// Where the sentinels listen.
    pub fn sentinels(&self) -> Vec<SocketAddr> {
        self.sentinels
            .iter()
            .map(|sentinel| sentinel.address)
            .collect()
    }

    /// A server by its number; the first one was the master at the start.
    pub fn server(&self, index: usize) -> &Redis {
        &self.servers[index]
    }

    /// As [`Watched::server`], to kill and restart.
    pub fn server_mut(&mut self, index: usize) -> &mut Redis {
        &mut self.servers[index]
    }

    /// Number of the server that all living sentinels call the master; `None` while they disagree.
    pub fn master(&self) -> Option<usize> {
        let living = self.sentinels.iter().filter(|sentinel| sentinel.alive);
        let mut named = living.map(Sentinel::master);
        let first = named.next()??;
        if !named.all(|other| other.as_ref() == Some(&first)) {
            return None;
        }
        self.servers
            .iter()
            .position(|server| server.address() == first)
    }

    /// Waits until all sentinels have another master than this one, and it takes writes.
    pub fn wait_for_failover(&self, from: usize) -> usize {
        let master = wait_for(PATIENCE, || {
            let master = self.master().filter(|master| *master != from)?;
            let role = self.servers[master].try_command(&["ROLE"])?.strings();
            (role.first()? == "master").then_some(master)
        });
        master.unwrap_or_else(|| panic!("no failover: {}", self.logs()))
    }

    /// Waits until so many replicas follow the master: one that has just copied its data does not yet, for up to a second.
    pub fn wait_for_replicas(&self, count: usize) {
        let there = wait_for(PATIENCE, || {
            let master = if self.sentinels.is_empty() {
                0
            } else {
                self.master()?
            };
            (self.servers[master].replicas_online()? >= count).then_some(())
        });
        assert!(there.is_some(), "replicas do not connect: {}", self.logs());
    }

    /// How many servers there are, dead ones included.
    pub fn count(&self) -> usize {
        self.servers.len()
    }

    /// Whether the sentinels agree on a master, every other server follows it, and has all that it acknowledged so far.
    pub fn is_whole(&self) -> bool {
        let others = self.servers.len() - 1;
        let whole = || {
            let master = self.master()?;
            let named = |index: usize| {
                let role = self.servers[index].try_command(&["ROLE"])?.strings();
                let follows = role.first()? == if index == master { "master" } else { "slave" };
                follows.then_some(())
            };
            (0..self.servers.len()).try_for_each(named)?;
            self.servers[master].replicates(others, "chaos:whole")
        };
        whole().is_some()
    }

    /// Waits until all that the master has acknowledged so far is on a replica, too.
    pub fn wait_until_replicated(&self) {
        let master = self.master().expect("the sentinels agree");
        self.servers[master].wait_until_replicated();
    }

    /// Kills a sentinel.
    pub fn kill_sentinel(&mut self, index: usize) {
        self.sentinels[index].kill();
    }

    fn start_sentinels(&mut self) {
        // Known to each other from the start, and knowing the replicas: finding out takes them seconds.
        let addresses: Vec<SocketAddr> = (0..3).map(|_| crate::ports::free()).collect();
        let id = |address: &SocketAddr| format!("{:040x}", address.port());
        // Issued once: the files have the same names each time.
        let tls = self
            .authority
            .as_ref()
            .map(|authority| tls_settings(authority, self.options.client_certificates));
        for own in &addresses {
            let mut text = String::new();
            let mut line = |words: &str| writeln!(text, "{words}").expect("a String takes all");
            let monitored = self.servers[0].address();
            line(&format!("sentinel myid {}", id(own)));
            line(&format!(
                "sentinel monitor {MASTER} {} {} 2",
                monitored.ip(),
                monitored.port()
            ));
            line(&format!(
                "sentinel down-after-milliseconds {MASTER} {}",
                DOWN_AFTER.as_millis()
            ));
            line(&format!("sentinel failover-timeout {MASTER} 5000"));
            if let Some((user, password)) = &self.options.user {
                line(&format!("sentinel auth-user {MASTER} {user}"));
                line(&format!("sentinel auth-pass {MASTER} {password}"));
                line(&format!("sentinel sentinel-user {user}"));
                line(&format!("sentinel sentinel-pass {password}"));
                line("user default off");
                line(&format!("user {user} on >{password} ~* &* +@all"));
                for user in &self.options.sentinel_acl {
                    line(user);
                }
            }
            for replica in &self.servers[1..] {
                let address = replica.address();
                line(&format!(
                    "sentinel known-replica {MASTER} {} {}",
                    address.ip(),
                    address.port()
                ));
            }
            for other in addresses.iter().filter(|other| *other != own) {
                let words = format!("{} {} {}", other.ip(), other.port(), id(other));
                line(&format!("sentinel known-sentinel {MASTER} {words}"));
            }
            if let Some(tls) = &tls {
                line(&format!(
                    "port 0\ntls-port {}\ntls-replication yes",
                    own.port()
                ));
                for (key, value) in tls {
                    line(&format!("{key} {value}"));
                }
            } else {
                line(&format!("port {}", own.port()));
            }
            self.sentinels
                .push(Sentinel::start(*own, &text, self.options.user.clone()));
        }
        let agreed = wait_for(PATIENCE, || self.master());
        assert!(
            agreed.is_some(),
            "the sentinels know no master: {}",
            self.logs()
        );
    }

    fn logs(&self) -> String {
        let sentinels = self.sentinels.iter().map(Sentinel::log);
        let servers = self.servers.iter().map(Redis::log);
        sentinels.chain(servers).collect::<Vec<_>>().join("\n---\n")
    }
}

impl Sentinel {
    fn start(address: SocketAddr, text: &str, user: Option<(String, String)>) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory is made");
        let path = directory.path();
        let file = path.join("sentinel.conf");
        let text = format!(
            "bind 127.0.0.1\ndir {0}\nlogfile {0}/sentinel.log\nunixsocket {0}/redis.sock\n{text}",
            path.display()
        );
        std::fs::write(&file, text).expect("the configuration is written");
        let mut command = super::server();
        command.arg(&file).args(["--sentinel", "--daemonize", "no"]);
        let child = super::spawn(command);
        Self {
            address,
            directory,
            user,
            child,
            alive: true,
        }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    fn master(&self) -> Option<SocketAddr> {
        let words = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER];
        let address = try_command(&self.socket(), self.user.as_ref(), &words)?.strings();
        let [host, port] = address.as_slice() else {
            return None;
        };
        Some(SocketAddr::new(host.parse().ok()?, port.parse().ok()?))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("sentinel.log")).unwrap_or_default()
    }

    fn kill(&mut self) {
        self.alive = false;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A user of a random password, which is recorded as a secret.
pub fn user(name: &str) -> (String, String) {
    let password = random(24);
    crate::secrets::record("Redis password", &password);
    (name.to_owned(), password)
}
