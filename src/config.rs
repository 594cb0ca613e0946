//! Turns a YAML file and the environment into a checked configuration.

pub mod model;
