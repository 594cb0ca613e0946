//! Shows that the parts work together, from the outside: one binary, because linking pingora takes its time.

mod deploy;
mod layering;
