//! Stands in for the world around daypass: provider, upstream, Redis, clients and browser, for tests, benches and the demo.
//!
//! Never linked into the shipped binary, and does not depend on the `daypass` crate: daypass is run as a process and
//! judged by what it sends. Servers run on threads of their own, so blocking or single-threaded tests cannot stall
//! them, and all stop when dropped. Functions panic where a test could only fail.

pub mod client;
pub mod daypass;
pub mod echo;
mod host;
pub mod node;
pub mod pki;
pub mod ports;
pub mod process;
pub mod provider;
pub mod raw;
pub mod redis;
pub mod secrets;

/// Anything that can go wrong in a client; tests print it.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
