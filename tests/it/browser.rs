//! Drives a real Chromium through a real provider.
