//! Turns a session into the bytes that are sealed, and back.
//!
//! JSON, so that replicas of adjacent versions read each other's records: a new field is optional, an unknown one is
//! passed over, and only a change that old readers would get wrong raises `v`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Session, Tokens, with_bearer};
use crate::claims::Claims;
use crate::clock::Timestamp;
use crate::secret::{AccessToken, IdToken, RefreshToken};

/// The record cannot be read by this version.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("session record cannot be read")]
pub(super) struct Unreadable;

/// What goes into the sealed record. The one place where tokens are written out.
pub(super) fn encode(session: &Session) -> Zeroizing<Vec<u8>> {
    let tokens = &session.tokens;
    let record = Written {
        v: VERSION,
        provider: &session.provider,
        issuer: &session.issuer,
        subject: &session.subject,
        sid: session.sid.as_deref(),
        claims: &session.claims,
        created_at: session.created_at,
        expires_at: session.expires_at,
        generation: session.generation,
        access: tokens.access.expose(),
        refresh: tokens.refresh.as_ref().map(RefreshToken::expose),
        id: tokens.id.as_ref().map(IdToken::expose),
        scopes: &tokens.scopes,
        refreshed_at: tokens.refreshed_at,
        token_expires_at: tokens.expires_at,
    };
    // Grown without reallocation where possible: a reallocated buffer is not wiped.
    let mut out = Zeroizing::new(Vec::with_capacity(4096 + 2 * tokens.access.len()));
    serde_json::to_writer(&mut *out, &record)
        .expect("text keys and JSON values always serialise, and a vector takes every write");
    out
}

/// Reads what any version with the same `v` wrote.
pub(super) fn decode(bytes: &[u8]) -> Result<Session, Unreadable> {
    let record: Read = serde_json::from_slice(bytes).map_err(|_| Unreadable)?;
    if record.v != VERSION {
        return Err(Unreadable);
    }
    let (access, bearer) = with_bearer(AccessToken::new(record.access));
    let mut scopes = record.scopes;
    scopes.shrink_to_fit();
    Ok(Session {
        provider: record.provider.into(),
        issuer: record.issuer.into(),
        subject: record.subject.into(),
        sid: record.sid.map(Into::into),
        claims: Arc::new(record.claims),
        created_at: record.created_at,
        expires_at: record.expires_at,
        tokens: Arc::new(Tokens {
            bearer,
            access,
            refresh: record.refresh.map(RefreshToken::new),
            id: record.id.map(IdToken::new),
            scopes,
            refreshed_at: record.refreshed_at,
            expires_at: record.token_expires_at,
        }),
        generation: record.generation,
    })
}

#[derive(Serialize)]
struct Written<'a> {
    v: u8,
    provider: &'a str,
    issuer: &'a str,
    subject: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sid: Option<&'a str>,
    claims: &'a Claims,
    created_at: Timestamp,
    expires_at: Timestamp,
    generation: u64,
    access: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    scopes: &'a [String],
    refreshed_at: Timestamp,
    token_expires_at: Timestamp,
}

#[derive(Deserialize)]
struct Read {
    v: u8,
    provider: String,
    issuer: String,
    subject: String,
    #[serde(default)]
    sid: Option<String>,
    claims: Claims,
    created_at: Timestamp,
    expires_at: Timestamp,
    generation: u64,
    access: String,
    #[serde(default)]
    refresh: Option<String>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    scopes: Vec<String>,
    refreshed_at: Timestamp,
    token_expires_at: Timestamp,
}

const VERSION: u8 = 1;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::session::testing::session;

    #[test]
    fn a_session_survives_the_round_trip() {
        let before = session();
        let after = decode(&encode(&before)).unwrap();
        assert_eq!(after.subject, before.subject);
        assert_eq!(after.sid, before.sid);
        assert_eq!(after.claims, before.claims);
        assert_eq!(after.expires_at, before.expires_at);
        assert_eq!(after.generation, before.generation);
        assert_eq!(after.tokens.access.expose(), before.tokens.access.expose());
        assert!(after.tokens.refresh.as_ref().unwrap().matches("rt-0"));
        assert!(after.tokens.id.as_ref().unwrap().matches("id-0"));
        assert_eq!(after.tokens.scopes, before.tokens.scopes);
        assert_eq!(after.tokens.expires_at, before.tokens.expires_at);
        let bearer = after.tokens.bearer.as_ref().unwrap();
        assert_eq!(bearer, "Bearer at-0");
        assert!(bearer.is_sensitive());
    }

    #[test]
    fn adjacent_versions_read_each_other() {
        // SESS-05. The text is what version 0.1 writes; it may only ever gain optional fields.
        let golden = r#"{"v":1,"provider":"provider","issuer":"https://idp.example","subject":"alice",
            "claims":{"sub":"alice"},"created_at":1000,"expires_at":2000,"generation":7,"access":"at",
            "refreshed_at":1000,"token_expires_at":1500}"#;
        let read = decode(golden.as_bytes()).unwrap();
        assert_eq!((read.generation, &*read.subject), (7, "alice"));
        assert!(read.tokens.refresh.is_none());

        let newer = golden.replacen('{', r#"{"acr":"gold","nested":{"a":[1]},"#, 1);
        assert!(
            decode(newer.as_bytes()).is_ok(),
            "unknown fields are passed over"
        );
        let other = golden.replacen(r#""v":1"#, r#""v":2"#, 1);
        assert_eq!(decode(other.as_bytes()).err(), Some(Unreadable));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            let _ = decode(&bytes);
        }
    }
}
