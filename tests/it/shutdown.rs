//! Stops a process that is busy.
