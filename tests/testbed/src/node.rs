//! Runs the parts that live in Node: the real OpenID Provider, and a real browser.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Failure;
use crate::client::{Client, Form, Response};
use crate::provider::random;
use crate::raw::wait_for;

/// Longest wait for what the provider says.
const PATIENCE: Duration = Duration::from_secs(20);

/// How the real provider is to run.
#[derive(Debug, Clone)]
pub struct RealOptions {
    /// Exact redirect URIs of the client.
    pub redirect_uris: Vec<String>,
    /// Exact post-logout redirect URIs.
    pub post_logout_redirect_uris: Vec<String>,
    /// Life of an access token.
    pub access_ttl: Duration,
    /// Further settings of `tests/provider/server.mjs`, by the names of its environment variables.
    pub environment: Vec<(String, String)>,
}

impl Default for RealOptions {
    fn default() -> Self {
        Self {
            redirect_uris: Vec::new(),
            post_logout_redirect_uris: Vec::new(),
            access_ttl: Duration::from_mins(5),
            environment: Vec::new(),
        }
    }
}

impl RealOptions {
    /// For a daypass at `origin` with the default `base_path`.
    pub fn for_daypass(origin: &str) -> Self {
        Self {
            redirect_uris: vec![format!("{origin}/oauth2/callback")],
            post_logout_redirect_uris: vec![format!("{origin}/oauth2/logout/callback")],
            ..Self::default()
        }
    }
}

/// npm `oidc-provider`, running; ends when dropped.
#[derive(Debug)]
pub struct RealProvider {
    address: SocketAddr,
    client_secret: String,
    node: Node,
}

impl RealProvider {
    /// Starts it on a free port.
    pub fn start(options: &RealOptions) -> Self {
        Self::start_at(crate::ports::free(), options)
    }

    /// Starts it at a known address, for tests that must name it before.
    pub fn start_at(address: SocketAddr, options: &RealOptions) -> Self {
        let client_secret = random(24);
        crate::secrets::record("client secret", &client_secret);
        let mut command = node(&tests().join("provider/server.mjs"));
        command
            .env("PORT", address.port().to_string())
            .env("CLIENT_ID", crate::provider::CLIENT_ID)
            .env("CLIENT_SECRET", &client_secret)
            .env("REDIRECT_URIS", options.redirect_uris.join(" "))
            .env(
                "POST_LOGOUT_REDIRECT_URIS",
                options.post_logout_redirect_uris.join(" "),
            )
            .env(
                "ACCESS_TOKEN_SECONDS",
                options.access_ttl.as_secs().to_string(),
            )
            .envs(options.environment.iter().cloned());
        let mut node = Node::spawn(command);
        let ready = wait_for(PATIENCE, || {
            let ready = node.lines().iter().any(|line| line.contains("\"ready\""));
            (ready || node.ended()).then_some(ready)
        });
        assert!(
            ready == Some(true),
            "the provider does not start:\n{}",
            node.lines().join("\n")
        );
        Self {
            address,
            client_secret,
            node,
        }
    }

    /// Issuer identifier.
    pub fn issuer(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Secret of the client [`CLIENT_ID`](crate::provider::CLIENT_ID).
    pub fn client_secret(&self) -> &str {
        &self.client_secret
    }

    /// What happened so far: `{"event": "grant.success", "grant_type": "refresh_token"}` and the like.
    pub fn events(&self) -> Vec<Value> {
        self.node
            .lines()
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// How often `event` happened, with that `grant_type` if one is given.
    pub fn count(&self, event: &str, grant_type: Option<&str>) -> usize {
        let fits = |line: &Value| {
            line["event"] == event && grant_type.is_none_or(|grant| line["grant_type"] == grant)
        };
        self.events().iter().filter(|line| fits(line)).count()
    }

    /// As [`RealProvider::count`], once it is so many: what the provider did it tells beside its answers, and somebody has to
    /// read it.
    pub fn count_from(&self, least: usize, event: &str, grant_type: Option<&str>) -> usize {
        let count = || self.count(event, grant_type);
        let told = wait_for(PATIENCE, || Some(count()).filter(|count| *count >= least));
        told.unwrap_or_else(count)
    }

    /// Fills in the sign-in and consent pages that `page` leads to, until the client's own host answers.
    pub async fn sign_in(
        &self,
        client: &Client,
        page: Response,
        user: &str,
    ) -> Result<Response, Failure> {
        let mut page = page;
        for _ in 0..4 {
            if page.url.port() != Some(self.address.port()) {
                return Ok(page);
            }
            let form = Form::first(&page)
                .ok_or_else(|| format!("no form at {}: {}", page.url, page.text()))?;
            let asks_who = form.fields.iter().any(|(name, _)| name == "login");
            let form = if asks_who {
                form.fill("login", user).fill("password", "any")
            } else {
                form
            };
            page = client.submit(&form).await?;
        }
        Err("the provider keeps asking".into())
    }

    /// Says yes on the provider's sign-out page.
    pub async fn sign_out(&self, client: &Client, page: &Response) -> Result<Response, Failure> {
        let form = Form::first(page).ok_or_else(|| format!("no form at {}", page.url))?;
        client.submit(&form.fill("logout", "yes")).await
    }
}

/// Drives a real Chromium with a script of `tests/browser` and gives the JSON lines it printed.
///
/// Fails with everything the script said if it fails or takes longer than `limit`.
pub fn browser(
    script: &str,
    arguments: &[(&str, &str)],
    limit: Duration,
) -> Result<Vec<Value>, Failure> {
    let mut command = node(&tests().join("browser").join(script));
    for (name, value) in arguments {
        command.arg(format!("--{name}")).arg(value);
    }
    let mut node = Node::spawn(command);
    let deadline = Instant::now() + limit;
    let status = loop {
        match node.child.try_wait()? {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                return Err(format!(
                    "{script} takes longer than {limit:?}:\n{}",
                    node.lines().join("\n")
                )
                .into());
            }
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    node.finish();
    let lines = node.lines();
    if !status.success() {
        return Err(format!("{script} failed ({status}):\n{}", lines.join("\n")).into());
    }
    Ok(lines
        .iter()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect())
}

/// A Node process; ended by its id when dropped.
#[derive(Debug)]
struct Node {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Node {
    fn spawn(mut command: Command) -> Self {
        // An open stdin tells the script that we are still there.
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("node: {error}"));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        let readers = vec![
            read(stdout, Arc::clone(&lines)),
            read(stderr, Arc::clone(&lines)),
        ];
        Self {
            child,
            lines,
            readers,
        }
    }

    fn lines(&self) -> Vec<String> {
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for the rest of the output of a process that has ended.
    fn finish(&mut self) {
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Closing stdin lets the script put its own children (the browser) away; the kill is for those that hang.
        drop(self.child.stdin.take());
        let ended = wait_for(Duration::from_secs(3), || {
            self.child.try_wait().ok().flatten()
        });
        if ended.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn read(
    stream: impl std::io::Read + Send + 'static,
    lines: Arc<Mutex<Vec<String>>>,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            lines
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(line);
        }
    })
}

fn node(script: &Path) -> Command {
    let modules = tests().join("provider/node_modules");
    assert!(
        modules.is_dir(),
        "{} is missing: scripts/install-deps installs it",
        modules.display()
    );
    let mut command = Command::new("node");
    command.arg(script);
    command
}

fn tests() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("the crate lies in tests/").to_owned()
}
