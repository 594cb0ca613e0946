//! Shows daypass at work: a provider with a sign-in page, an upstream that tells what it received, daypass in between.
//!
//! `make demo`, or `cargo build && cargo run --example demo -- target/debug/daypass`. Ends with Ctrl-C.

use std::error::Error;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use daypass_testbed::echo::Echo;
use daypass_testbed::ports;
use daypass_testbed::provider::{CLIENT_ID, Login, Provider, Settings};
use daypass_testbed::{process, raw};
use tokio::signal::unix::{SignalKind, signal};

/// Life of an access token: long enough to look at one, short enough to see the next.
const ACCESS_TTL: Duration = Duration::from_secs(60);

/// Longest wait for daypass to get ready.
const PATIENCE: Duration = Duration::from_secs(15);

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("demo: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let binary = binary()?;
    let public = ports::prefer(8080);
    let admin = ports::prefer(9090);
    let settings = Settings {
        login: Login::Form,
        access_ttl: ACCESS_TTL,
        ..Settings::default()
    };
    let provider = Provider::start_at(ports::prefer(9000), settings);
    let upstream = Echo::start_at(ports::prefer(3000), None);

    let directory = std::env::temp_dir().join(format!("daypass-demo-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let file = directory.join("daypass.yaml");
    let text = CONFIG
        .replace("PUBLIC_PORT", &public.port().to_string())
        .replace("PUBLIC", &public.to_string())
        .replace("ADMIN", &admin.to_string())
        .replace("ISSUER", &provider.issuer())
        .replace("CLIENT_ID", CLIENT_ID)
        .replace("UPSTREAM", &upstream.url());
    std::fs::write(&file, text)?;
    std::fs::write(directory.join("client-secret"), provider.client_secret())?;

    let served = serve(&binary, &file, public.port(), admin).await;
    std::fs::remove_dir_all(&directory)?;
    served
}

/// Runs daypass until it ends or we are told to.
async fn serve(
    binary: &Path,
    file: &Path,
    port: u16,
    admin: SocketAddr,
) -> Result<(), Box<dyn Error>> {
    let mut daypass = Command::new(binary)
        .args(["run", "-c"])
        .arg(file)
        .stdin(Stdio::null())
        // A group of its own: Ctrl-C comes to us, and we end it in good order.
        .process_group(0)
        .spawn()
        .map_err(|error| format!("{}: {error} (cargo build makes it)", binary.display()))?;
    let watched = watch(&mut daypass, file, port, admin).await;
    process::terminate(&mut daypass, Duration::from_secs(5));
    watched
}

/// Waits until daypass is ready, says what to try, and waits for Ctrl-C or for daypass to end.
async fn watch(
    daypass: &mut Child,
    file: &Path,
    port: u16,
    admin: SocketAddr,
) -> Result<(), Box<dyn Error>> {
    let ready = raw::wait_for(PATIENCE, || {
        if let Ok(Some(status)) = daypass.try_wait() {
            return Some(Err(format!("daypass ended at once ({status})")));
        }
        raw::get(admin, "/readyz")
            .filter(|(status, _)| *status == 200)
            .map(Ok)
    });
    ready.unwrap_or_else(|| Err(format!("daypass is not ready after {PATIENCE:?}")))?;
    let banner = BANNER
        .replace("PORT", &port.to_string())
        .replace("ADMIN", &admin.to_string())
        .replace("FILE", &file.display().to_string());
    say(&banner);
    let mut check = tokio::time::interval(Duration::from_millis(500));
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = hang_up.recv() => break,
            _ = check.tick() => {
                if let Some(status) = daypass.try_wait()? {
                    return Err(format!("daypass ended ({status})").into());
                }
            }
        }
    }
    say("\nGood-bye.");
    Ok(())
}

/// The daypass binary: the first argument, else the one built beside this example.
fn binary() -> Result<PathBuf, Box<dyn Error>> {
    if let Some(path) = std::env::args_os().nth(1) {
        return Ok(path.into());
    }
    let here = std::env::current_exe()?;
    let profile = here.parent().and_then(Path::parent);
    Ok(profile
        .ok_or("the example lies in no target folder")?
        .join("daypass"))
}

#[expect(
    clippy::print_stdout,
    reason = "a demo talks to the person in front of the terminal"
)]
fn say(text: &str) {
    println!("{text}");
}

const BANNER: &str = "
  daypass is running. Open   http://localhost:PORT

  Try this:
    1. Open the page: you are sent to a demo provider. Be Jane or John; there is no password.
    2. The page shows what the application behind daypass received: headers, and an access token for 60 seconds.
       Your browser holds an opaque cookie and no token.
    3. Reload after a minute: a new token has come, and nobody asked you to sign in again.
    4. \"Admins only\" lets Jane in and turns John away. \"Public page\" asks nobody.
    5. As a script:  curl -i http://localhost:PORT/orders   gives 401 with a problem document, no redirect.
    6. Sign out: the session ends here and at the provider.

  Metrics: http://ADMIN/metrics    Configuration: FILE (edit it: it is reloaded)
  Ctrl-C ends everything.
";

const CONFIG: &str = "\
# Written by the demo; removed when it ends.
public_url: [http://localhost:PUBLIC_PORT, http://127.0.0.1:PUBLIC_PORT]
listen: PUBLIC
admin: {listen: ADMIN}

provider:
  issuer: ISSUER
  client_id: CLIENT_ID
  client_secret: {file: client-secret}

session:
  store: memory
  refresh_before: 10s     # access tokens of the demo live for 60 s

routes:
  - name: public
    path_prefix: /public
    access: public
    upstream: UPSTREAM
  - name: admin
    path_prefix: /admin
    upstream: UPSTREAM
    require:
      claims: {groups: [admin]}
    claims_to_headers: {x-user: sub, x-name: name, x-groups: groups}
  - name: private
    path_prefix: /
    upstream: UPSTREAM
    claims_to_headers: {x-user: sub, x-name: name, x-email: email}

logging: {format: text, level: info}
";
