//! Reads logs, metrics and health as an operator does.
