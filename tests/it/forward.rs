//! Shows what a forwarded request and its answer look like, and what happens when the upstream fails.

mod bodies;
mod failures;
mod requests;
mod routing;
