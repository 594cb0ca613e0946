//! Gives `scripts/bench` a provider that approves every login at once: prints what it is as one line of JSON, and runs
//! until stdin closes.

use std::io::{Read, Write};
use std::time::Duration;

use daypass_testbed::provider::{CLIENT_ID, Provider};

fn main() -> std::io::Result<()> {
    // Tokens outlive the run: what is measured is the hot path, not the refresh.
    let provider = Provider::with(|settings| settings.access_ttl = Duration::from_secs(24 * 3600));
    let line = serde_json::json!({
        "issuer": provider.issuer(),
        "client_id": CLIENT_ID,
        "client_secret": provider.client_secret(),
    });
    writeln!(std::io::stdout(), "{line}")?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
