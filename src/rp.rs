//! Holds what logging in and logging out share as a relying party: the parts they talk to, audit lines, revocation.

pub mod audit;
#[cfg(test)]
pub(crate) mod fakes;
pub(crate) mod port;
mod revoke;

pub use revoke::Revoker;
