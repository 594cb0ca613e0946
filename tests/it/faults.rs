//! Breaks refreshes in every way with three replicas on one Redis.
