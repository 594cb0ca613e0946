//! Runs a small fleet through hours' worth of bad luck, drawn from a seed, and holds it to what it promises all the while.
//!
//! The real binary, three replicas, a real Redis (alone, behind sentinels or as a Cluster) that keeps what it acknowledged,
//! a provider that rotates refresh tokens
//! and detects reuse, an upstream that tells which token it was shown, and people who each know what they must see.
//! The seed decides what breaks when, and what the people do; the races between them are the machine's own. The same
//! seed is the same bad luck, not the same run: a failure may take several runs to come back.
//!
//! `make chaos SEED=… MINUTES=…` runs long; a short run is part of `make test`.

use std::path::PathBuf;

mod browser;
mod dice;
mod fleet;
mod judge;
mod ledger;
mod people;
mod plan;
mod store;
mod watch;
mod world;

/// The binary under test: this build's, or another one.
pub(crate) fn binary() -> PathBuf {
    let other = std::env::var_os("DAYPASS_BIN");
    other.map_or_else(|| env!("CARGO_BIN_EXE_daypass").into(), PathBuf::from)
}
