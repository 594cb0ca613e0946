//! Changes the configuration of a running process.
