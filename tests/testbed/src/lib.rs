//! Stands in for the world around daypass: provider, upstream, Redis, clients and browser, for tests, benches and the demo.
//!
//! Never linked into the shipped binary, and does not depend on the `daypass` crate: daypass is run as a process and
//! judged by what it sends. Servers run on threads of their own, so blocking or single-threaded tests cannot stall
//! them, and all stop when dropped. Functions panic where a test could only fail.
//!
//! ```no_run
//! # async fn test() -> Result<(), daypass_testbed::Failure> {
//! use daypass_testbed::client::Client;
//! use daypass_testbed::daypass::{Daypass, Setup};
//! use daypass_testbed::echo::Echo;
//! use daypass_testbed::provider::{Endpoint, Fault, Provider};
//! use daypass_testbed::redis::Redis;
//!
//! let provider = Provider::with(|settings| settings.access_ttl = std::time::Duration::from_secs(2));
//! let (echo, redis) = (Echo::start(), Redis::start());
//! let setup = Setup::new(&provider, &echo.url()).redis(&redis).set("session.refresh_before", "1s");
//! let replicas = Daypass::fleet("target/debug/daypass", &setup, 3);
//!
//! let browser = Client::new();
//! browser.browse(replicas[0].url("/")).await?; // signs in: the provider approves at once
//! provider.fault(Endpoint::Refresh, Fault::RetryAfter(1));
//! let answer = browser.get(replicas[0].url("/orders")).via(replicas[2].public()).send().await?;
//! assert_eq!(answer.status, 200);
//! assert!(echo.last().expect("a request").bearer().is_some());
//! assert_eq!(provider.reused(), 0);
//! # Ok(())
//! # }
//! ```

pub mod breakable;
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
pub mod stalls;

/// Anything that can go wrong in a client; tests print it.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
