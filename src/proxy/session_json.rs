//! Says what a page may know of its session; never a token.

use serde_json::{Map, Value, json};

use crate::clock::Timestamp;
use crate::config::model::Config;
use crate::session::Found;

/// The document of `session`, and of the events that carry it.
pub(super) fn session(config: &Config, found: &Found, now: Timestamp) -> Value {
    let session = &found.session;
    let seconds = |until: Timestamp| until.left(now).as_secs();
    let claims: Map<_, _> = config
        .session
        .expose_claims
        .iter()
        .filter_map(|name| {
            session
                .claims
                .get(name)
                .map(|value| (name.clone(), value.to_value()))
        })
        .collect();
    json!({
        "active": true,
        "subject": &*session.subject,
        "provider": &*session.provider,
        "claims": claims,
        "session": {
            "created_at": session.created_at.rfc3339(),
            "expires_at": session.expires_at.rfc3339(),
            "expires_in_seconds": seconds(session.expires_at),
            "idle_expires_at": found.idle_expires_at.map(Timestamp::rfc3339),
            "idle_expires_in_seconds": found.idle_expires_at.map(seconds),
        },
        "token": {
            "refreshed_at": session.tokens.refreshed_at.rfc3339(),
            "expires_at": session.tokens.expires_at.rfc3339(),
            "expires_in_seconds": seconds(session.tokens.expires_at),
        },
        "logout_url": format!("{}/logout", config.base_path),
    })
}
