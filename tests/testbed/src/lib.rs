//! Test machinery (to be written).
