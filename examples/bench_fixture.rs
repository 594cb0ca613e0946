//! Gives `scripts/bench` and `scripts/bench-peers` a provider that approves every login at once.
//!
//! Prints what it is as one line of JSON, then obeys one command a line, each answered by a line of JSON, until stdin
//! closes. Refresh tokens rotate; one that is presented again revokes its grant.

use std::io::{BufRead, Write};
use std::time::Duration;

use daypass_testbed::provider::{CLIENT_ID, Endpoint, Fault, Provider};
use serde_json::{Value, json};

fn main() -> std::io::Result<()> {
    // Unless told otherwise tokens outlive the run: what is measured then is the hot path, not the refresh.
    let provider = Provider::with(|settings| settings.access_ttl = Duration::from_secs(24 * 3600));
    let mut out = std::io::stdout();
    let about = json!({
        "issuer": provider.issuer(),
        "client_id": CLIENT_ID,
        "client_secret": provider.client_secret(),
    });
    writeln!(out, "{about}")?;
    for line in std::io::stdin().lock().lines() {
        writeln!(out, "{}", obey(&provider, &line?))?;
    }
    Ok(())
}

/// `access-ttl MILLISECONDS` is the life of the tokens issued from here on; `refresh-delay MILLISECONDS` is how long an
/// answer to a refresh takes; `counters` tells, since it was asked last, how many refreshes were asked for, and over all
/// how many of them presented a used token and how long all tokens together were.
fn obey(provider: &Provider, command: &str) -> Value {
    let (name, argument) = command.split_once(' ').unwrap_or((command, ""));
    let time = argument.parse().map(Duration::from_millis);
    match (name, time) {
        ("access-ttl", Ok(time)) => provider.configure(|settings| settings.access_ttl = time),
        ("refresh-delay", Ok(time)) => provider.always(Endpoint::Refresh, [Fault::Delay(time)]),
        ("counters", _) => {
            let refreshes = provider.count(Endpoint::Refresh);
            provider.forget_requests();
            return json!({
                "refreshes": refreshes,
                "replays": provider.reused(),
                "token_bytes": provider.issued_token_bytes(),
            });
        }
        _ => return json!({"error": format!("unknown command: {command}")}),
    }
    json!({})
}
