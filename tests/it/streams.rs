//! Keeps long answers, uploads, WebSockets and other versions of HTTP going.
