//! Keeps what an operator may see of a session without its cookie: who, and from when to when; never a token.
//!
//! Sealed under the configured keys only. Whoever holds a dump of Redis *and* a key learns who was signed in, and nothing
//! that signs anyone in.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{RecordKey, Session};
use crate::clock::Timestamp;
use crate::seal::{KeyRing, Purpose};

/// What is known of a session without its cookie.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Name of the provider in the configuration.
    pub provider: Arc<str>,
    /// Issuer at login.
    pub issuer: Arc<str>,
    /// `sub`.
    pub subject: Arc<str>,
    /// `sid` of the provider's session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<Arc<str>>,
    /// When the user logged in here.
    pub created_at: Timestamp,
    /// End of the absolute lifetime.
    pub expires_at: Timestamp,
}

/// A session as an operator sees it.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Which one.
    pub key: RecordKey,
    /// Whose it is; `None` for a record that another version wrote, or that was sealed under a key that is gone.
    pub meta: Option<Meta>,
    /// Ends after this time unless it is used again; `None` when somebody has taken its end away.
    pub ttl: Option<Duration>,
}

impl Meta {
    /// What may be seen of this session.
    pub(crate) fn of(session: &Session) -> Self {
        Self {
            provider: Arc::clone(&session.provider),
            issuer: Arc::clone(&session.issuer),
            subject: Arc::clone(&session.subject),
            sid: session.sid.clone(),
            created_at: session.created_at,
            expires_at: session.expires_at,
        }
    }

    /// For the record of that key, and no other.
    pub(super) fn seal(&self, keys: &KeyRing, key: RecordKey) -> Vec<u8> {
        let plain = serde_json::to_vec(self).expect("texts and numbers always serialise");
        keys.seal(Purpose::SessionMeta, &[], key.as_bytes(), &plain)
    }

    pub(super) fn open(keys: &KeyRing, key: RecordKey, sealed: &[u8]) -> Option<Self> {
        let plain = keys
            .open(Purpose::SessionMeta, &[], key.as_bytes(), sealed)
            .ok()?;
        serde_json::from_slice(&plain).ok()
    }
}

// Names of users do not belong in logs.
impl std::fmt::Debug for Meta {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meta")
            .field("provider", &self.provider)
            .field("created_at", &self.created_at)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::SessionId;
    use crate::session::testing::session;

    #[test]
    fn it_opens_for_its_own_record_only_and_holds_no_token() {
        let keys = KeyRing::new(&[]);
        let (key, other) = (
            SessionId::generate().record_key(),
            SessionId::generate().record_key(),
        );
        let meta = Meta::of(&session());
        let sealed = meta.seal(&keys, key);
        assert_eq!(Meta::open(&keys, key, &sealed).as_ref(), Some(&meta));
        assert_eq!(Meta::open(&keys, other, &sealed), None);
        assert_eq!(Meta::open(&KeyRing::new(&[]), key, &sealed), None);
        assert_eq!(Meta::open(&keys, key, b""), None);
        let text = serde_json::to_string(&meta).unwrap();
        for token in ["at-0", "rt-0", "id-0"] {
            assert!(!text.contains(token), "{token}");
        }
        assert!(!format!("{meta:?}").contains("alice"));
    }

    #[test]
    fn later_versions_may_add_to_it() {
        // SESS-05.
        let text = r#"{"provider":"p","issuer":"https://a.example","subject":"s","created_at":1,"expires_at":2,"new":[1]}"#;
        let meta: Meta = serde_json::from_str(text).unwrap();
        assert_eq!((&*meta.subject, meta.sid), ("s", None));
    }
}
