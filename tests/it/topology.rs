//! Shows that sessions live through failovers, moves of slots and rotated passwords of Redis as people run it.

mod fleet;
mod load;
