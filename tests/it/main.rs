//! Shows that the parts work together, from the outside: one binary, because linking pingora takes its time.

mod deploy;
mod layering;
mod smoke;

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_daypass");
