//! Shows that the parts work together, from the outside: one binary, because linking pingora takes its time.

mod attacks;
mod browser;
mod cli;
mod deploy;
mod endpoints;
mod events;
mod faults;
mod forward;
mod layering;
mod login;
mod logout;
mod observe;
mod outage;
mod reload;
mod shutdown;
mod stage;
mod streams;
mod topology;

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_daypass");
