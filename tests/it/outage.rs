//! Takes provider and store away, and gives them back.
