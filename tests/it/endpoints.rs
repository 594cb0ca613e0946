//! Uses our own endpoints as pages and scripts do.
