//! Signs in, in every way that works and every way that must not.
