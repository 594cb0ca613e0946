//! Draws the random numbers that protocol steps need.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};

/// 128 random bits as base64url, for a `jti`; `None` when the system has no randomness.
pub(super) fn unique_id() -> Option<String> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(URL_SAFE_NO_PAD.encode(bytes))
}

/// A length between `(1 - spread) * d` and `d`, so that replicas do not act in step.
pub(super) fn jittered(d: Duration, spread: f64) -> Duration {
    let mut bytes = [0; 4];
    // Without randomness the full length will do: jitter keeps no secret.
    let share = match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.0,
    };
    d.mul_f64(1.0 - spread.clamp(0.0, 1.0) * share)
}
