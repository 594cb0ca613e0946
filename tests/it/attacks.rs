//! Shows that hostile requests and hostile upstreams gain nothing: every row names what must happen, and the echo
//! upstream proves what arrived.

mod cookies;
mod cross_site;
mod headers;
mod hosts;
mod messages;
mod paths;
mod responses;
mod rules;
