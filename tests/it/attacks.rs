//! Proves that hostile input gets what the table says, and that the upstream never sees it.
