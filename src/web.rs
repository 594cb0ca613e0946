//! Holds the pure rules of HTTP and browsers: paths, cookies, headers, redirects. Knows no store, no provider and no server.

pub mod cookie;
pub mod fetch;
pub mod forwarded;
pub mod headers;
pub mod host;
pub mod path;
pub mod redirect;
pub mod trace;
