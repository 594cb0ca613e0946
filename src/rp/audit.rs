//! Writes the audit lines of logins and logouts, which name a subject by a hash only.

use std::fmt::Write as _;

use ring::digest;

use crate::metrics::{LoginResult, LogoutKind};
use crate::oidc::Revoked;
use crate::session::{Ended, Orphan, Session, SessionId};

/// Names a subject in logs: the first 16 hex digits of SHA-256 over issuer and subject. It correlates lines; it is no
/// shield for subjects that can be guessed.
pub fn subject_hash(issuer: &str, subject: &str) -> String {
    let mut hash = digest::Context::new(&digest::SHA256);
    // An issuer is a URL and so holds no NUL: two pairs never run into one text.
    for part in [issuer, "\0", subject] {
        hash.update(part.as_bytes());
    }
    hash.finish().as_ref()[..8]
        .iter()
        .fold(String::with_capacity(16), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// A login made a session.
pub(crate) fn signed_in(provider: &str, id: &SessionId, issuer: &str, subject: &str) {
    tracing::info!(
        target: "audit",
        event = "login",
        provider,
        result = LoginResult::Success.label(),
        subject.hash = subject_hash(issuer, subject),
        session = id.record_key().short(),
        "login finished"
    );
}

/// A login made none. `reason` is the error's own text, which holds nothing a user or provider sent but a cleaned code.
pub(crate) fn failed(provider: &str, result: LoginResult, reason: &dyn std::fmt::Display) {
    tracing::info!(
        target: "audit",
        event = "login",
        provider,
        result = result.label(),
        reason = %reason,
        "login failed"
    );
}

/// The token of a session that is gone was to be revoked at its provider; `None` when that failed.
pub(crate) fn token_revoked(provider: &str, session: Option<&str>, done: Option<Revoked>) {
    tracing::info!(
        target: "audit",
        event = "token.revoked",
        provider,
        session,
        result = match done {
            Some(Revoked::Done) => "success",
            Some(Revoked::Unsupported) => "unsupported",
            None => "failure",
        },
        "the provider was asked to revoke the token of a session that is gone"
    );
}

/// A session was replaced by a new login.
pub(crate) fn replaced(old: &SessionId) {
    tracing::info!(
        target: "audit",
        event = "session_replaced",
        session = old.record_key().short(),
        "a new login ended the old session"
    );
}

/// A session was logged out.
pub(crate) fn signed_out(kind: LogoutKind, id: &SessionId, session: &Session) {
    tracing::info!(
        target: "audit",
        event = "logout",
        kind = kind.label(),
        provider = &*session.provider,
        subject.hash = subject_hash(&session.issuer, &session.subject),
        session = id.record_key().short(),
        "logged out"
    );
}

/// A session was ended without its cookie.
pub fn ended(kind: LogoutKind, ended: &Ended) {
    let meta = ended.meta.as_ref();
    tracing::info!(
        target: "audit",
        event = "logout",
        kind = kind.label(),
        provider = meta.map(|meta| &*meta.provider),
        subject.hash = meta.map(|meta| subject_hash(&meta.issuer, &meta.subject)),
        session = ended.key.short(),
        "logged out"
    );
}

/// A session that this process held was ended elsewhere, where nobody wrote it down.
pub fn orphaned(orphan: &Orphan) {
    let session = &orphan.session;
    tracing::info!(
        target: "audit",
        event = "logout",
        kind = orphan.kind.label(),
        provider = &*session.provider,
        subject.hash = subject_hash(&session.issuer, &session.subject),
        session = orphan.key.short(),
        "logged out"
    );
}

/// A back-channel logout was refused, or could not be done.
pub(crate) fn back_channel_refused(reason: &dyn std::fmt::Display) {
    tracing::warn!(
        target: "audit",
        event = "logout",
        kind = LogoutKind::BackChannel.label(),
        result = "refused",
        reason = %reason,
        "back-channel logout not done"
    );
}

/// A logout could not reach the store: the session may live on.
pub(crate) fn logout_failed(kind: LogoutKind, id: &SessionId) {
    tracing::warn!(
        target: "audit",
        event = "logout",
        kind = kind.label(),
        result = "store_unavailable",
        session = id.record_key().short(),
        "logout failed, the session may live on"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_named_by_a_stable_hash_of_issuer_and_subject() {
        let name = subject_hash("https://idp.example", "248289761001");
        assert_eq!(name.len(), 16);
        assert_eq!(name, subject_hash("https://idp.example", "248289761001"));
        assert_ne!(name, subject_hash("https://other.example", "248289761001"));
        assert_ne!(name, subject_hash("https://idp.example", "248289761002"));
        assert!(!name.contains("248289"));
    }
}
