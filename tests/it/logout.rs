//! Signs out, here and at the provider.
