//! daypass: an authenticating reverse-proxy sidecar.
//!
//! See `docs/architecture.md` for the layers and the way of a request.

pub mod admin;
pub mod app;
pub mod claims;
pub mod cli;
pub mod clock;
pub mod config;
pub mod listen;
pub mod login;
pub mod logout;
pub mod metrics;
pub mod oidc;
pub mod pages;
pub mod proxy;
pub mod refresh;
pub mod route;
pub mod rp;
pub mod seal;
pub mod secret;
pub mod session;
pub mod streams;
pub mod telemetry;
pub mod web;
