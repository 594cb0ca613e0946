//! Holds three replicas on one Redis to the invariants of refresh (PRODUCT contract §5), whatever breaks on the way.
//!
//! The provider rotates strictly and detects reuse: where a test does not say that a second presentation is inherent,
//! `reused()` must be 0 at its end.

mod answers;
mod cache;
mod crash;
mod expiry;
mod lost;
mod race;
mod records;
pub(crate) mod rig;
