//! Gives tests sessions, configurations and a Redis of their own.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Begun, Orphan, Session, SessionId, Sessions, StoreError, Tokens, bearer};
use crate::clock::Timestamp;
use crate::config::model;
use crate::secret::{AccessToken, IdToken, RefreshToken, SealingKey, StoreUrl};

pub(crate) const START: Timestamp = Timestamp::from_secs(1_800_000_000);

/// Tokens `at-N`, `rt-N`, `id-N` with five minutes to live.
pub(crate) fn tokens(n: u64, now: Timestamp) -> Tokens {
    let access = AccessToken::new(format!("at-{n}"));
    Tokens {
        bearer: bearer(&access),
        access,
        refresh: Some(RefreshToken::new(format!("rt-{n}"))),
        id: Some(IdToken::new(format!("id-{n}"))),
        scopes: vec!["openid".into()],
        refreshed_at: now,
        expires_at: now.plus(Duration::from_secs(300)),
    }
}

/// A session of twelve hours that began at `now`.
pub(crate) fn session_at(now: Timestamp) -> Session {
    let serde_json::Value::Object(claims) = json!({"sub": "alice", "aud": "shop"}) else {
        unreachable!("an object was written");
    };
    Session {
        provider: "provider".into(),
        issuer: "https://idp.example".into(),
        subject: "alice".into(),
        sid: Some("sid-1".into()),
        claims: Arc::new(claims.into()),
        created_at: now,
        expires_at: now.plus(Duration::from_secs(12 * 3600)),
        tokens: Arc::new(tokens(0, now)),
        generation: 0,
    }
}

/// A session that began at [`START`].
pub(crate) fn session() -> Session {
    session_at(START)
}

impl Sessions {
    /// Makes a session of a login that no logout was too late for.
    pub(crate) async fn create(&self, session: Session) -> Result<SessionId, StoreError> {
        match self
            .begin(session, Timestamp::from_millis(i64::MAX))
            .await?
        {
            Begun::Session(id) => Ok(id),
            Begun::TooLate => unreachable!("it began after everything"),
        }
    }

    /// Waits for an orphan however long it takes.
    pub(crate) async fn next_orphan(&self) -> Option<Orphan> {
        self.next_orphan_until(std::future::pending()).await
    }
}

/// A configuration with the given store.
pub(crate) fn config(store: model::Store) -> model::Session {
    model::Session {
        store,
        keys: vec![SealingKey::new(
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        )],
        lifetime: Duration::from_secs(12 * 3600),
        idle_timeout: Some(Duration::from_secs(3600)),
        refresh_before: Duration::from_secs(60),
        max_staleness: Duration::from_secs(30),
        cache_entries: 1000,
        expose_claims: Vec::new(),
        cookie: model::Cookie {
            name: "daypass".into(),
            login_name: "daypass-login".into(),
            domain: None,
            same_site: model::SameSite::Lax,
            secure: false,
        },
    }
}

/// Rights of an ACL user, as that section of docs/redis.md lists them.
pub(crate) fn documented_rights(section: &str) -> &'static str {
    let text = include_str!("../../docs/redis.md");
    let after = text.split(section).nth(1).expect("the section");
    let line = after
        .lines()
        .find(|line| line.starts_with("user "))
        .expect("the line of an ACL file");
    let (_, rights) = line.split_once("PASSWORD ").expect("the password's place");
    rights
}

/// Fails unless one of a few tries takes less than `limit`, by its own measure: a machine may stand still for a while, and
/// does not do so each time.
pub(crate) async fn takes_less_than(limit: Duration, mut attempt: impl AsyncFnMut() -> Duration) {
    let mut all = Vec::new();
    for _ in 0..5 {
        let took = attempt().await;
        if took < limit {
            return;
        }
        all.push(took);
    }
    panic!("never less than {limit:?}: {all:?}");
}

/// A single server, entered by nobody in particular.
pub(crate) fn store_at(url: &str) -> model::RedisStore {
    model::RedisStore {
        url: StoreUrl::new(url),
        more_urls: Vec::new(),
        mode: model::RedisMode::Single,
        username: None,
        password: None,
        ca_pem: None,
        client_cert: None,
        key_prefix: "daypass:".into(),
    }
}

/// A Redis on a free port of loopback, killed on drop. `DAYPASS_TEST_REDIS_SERVER` in the environment names another program
/// than `redis-server`.
pub(crate) struct RedisServer {
    child: Child,
    pub(crate) port: u16,
    args: Vec<String>,
    /// Replicas write `dump.rdb` where they run, and whoever starts there believes it.
    folder: tempfile::TempDir,
}

impl RedisServer {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With further arguments.
    pub(crate) fn start_with(args: &[&str]) -> Self {
        let mut args: Vec<String> = args.iter().map(ToString::to_string).collect();
        loop {
            // Nobody else is given it, also while the server is down.
            let port = daypass_testbed::ports::free().port();
            let folder = tempfile::tempdir().unwrap();
            let child = spawn(port, &args, folder.path());
            let pid = format!("process_id:{}", child.id());
            let server = Self {
                child,
                port,
                args,
                folder,
            };
            // Another test may have been given the same port; then it is theirs that answers.
            if server.cli(&["INFO", "server"]).contains(&pid) {
                return server;
            }
            args = server.args.clone();
        }
    }

    pub(crate) fn store(&self) -> model::RedisStore {
        store_at(&format!("redis://127.0.0.1:{}/0", self.port))
    }

    pub(crate) fn config(&self) -> model::Session {
        config(model::Store::Redis(Box::new(self.store())))
    }

    /// One command with `redis-cli`; what it printed.
    pub(crate) fn cli(&self, args: &[&str]) -> String {
        let out = Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .args(args)
            .output()
            .unwrap();
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }

    /// How many connections were ever made, this question's own among them.
    pub(crate) fn connections(&self) -> u64 {
        let info = self.cli(&["INFO", "stats"]);
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("total_connections_received:"));
        line.unwrap().trim().parse().unwrap()
    }

    /// Sends a signal: `STOP` freezes, `CONT` thaws.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill")
            .args([&format!("-{name}"), &pid])
            .status();
        assert!(status.unwrap().success());
    }

    /// Kills it; the port stays reserved for a restart.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again, on the same port.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.child = spawn(self.port, &self.args, self.folder.path());
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a proxy before a Redis makes of tracking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Odd {
    /// Says yes to `CLIENT TRACKING` and does nothing about it.
    Deaf,
    /// Hangs up on `HELLO`, which it has never heard of.
    HangsUp,
}

/// Such a proxy: its address, and how often it did so.
pub(crate) async fn odd_proxy(port: u16, odd: Odd) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let swallowed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&swallowed);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await else {
                continue;
            };
            let ((mut asks, mut told), (mut answers, mut asked)) =
                (client.into_split(), server.into_split());
            tokio::spawn(async move { tokio::io::copy(&mut answers, &mut told).await });
            let swallowed = Arc::clone(&count);
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(count @ 1..) = asks.read(&mut buffer).await {
                    // Each connection sends one command at a time until it tracks.
                    let text = String::from_utf8_lossy(&buffer[..count]);
                    let passed = if odd == Odd::HangsUp && text.contains("HELLO") {
                        swallowed.fetch_add(1, Ordering::SeqCst);
                        return;
                    } else if odd == Odd::Deaf && text.contains("TRACKING") {
                        swallowed.fetch_add(1, Ordering::SeqCst);
                        &b"*3\r\n$6\r\nCLIENT\r\n$7\r\nSETNAME\r\n$4\r\ndeaf\r\n"[..]
                    } else {
                        &buffer[..count]
                    };
                    if asked.write_all(passed).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, swallowed)
}

fn spawn(port: u16, args: &[String], folder: &std::path::Path) -> Child {
    let program = std::env::var_os("DAYPASS_TEST_REDIS_SERVER");
    let program = program.unwrap_or_else(|| "redis-server".into());
    let child = Command::new(&program)
        .current_dir(folder)
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "no", "--loglevel", "warning"])
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let start = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "it did not come up"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}
