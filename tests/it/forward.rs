//! Shows what reaches the upstream and what comes back.
