//! Names the sets that lead to sessions without their cookies: by the provider's session, and by the user.

use ring::digest;

use super::{Meta, RecordKey, Session};

/// Which sessions are meant when nobody shows a cookie. At least one of `sid` and `subject` is given; with both, a session
/// must fit both.
#[derive(Clone, Copy)]
pub struct Whose<'a> {
    /// Whose names they are.
    pub issuer: &'a str,
    /// `sid`: one session at the provider.
    pub sid: Option<&'a str>,
    /// `sub`: everything of one user.
    pub subject: Option<&'a str>,
    /// Names of the providers whose sessions are meant; those of the issuer's others are not. `None` for all of the issuer.
    pub providers: Option<&'a [&'a str]>,
}

/// A session that was ended without its cookie.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Which one.
    pub key: RecordKey,
    /// Whose it was, where the record tells.
    pub meta: Option<Meta>,
}

/// Name of an index set: a hash, so that no subject stands in clear in a key's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct IndexKey([u8; 32]);

impl<'a> Whose<'a> {
    /// The sessions of one session at the provider.
    pub fn sid(issuer: &'a str, sid: &'a str) -> Self {
        Self {
            issuer,
            sid: Some(sid),
            subject: None,
            providers: None,
        }
    }

    /// The sessions of one user.
    pub fn subject(issuer: &'a str, subject: &'a str) -> Self {
        Self {
            issuer,
            sid: None,
            subject: Some(subject),
            providers: None,
        }
    }

    /// The set that holds them all, the smaller one where there is a choice.
    pub(super) fn index(&self) -> Option<IndexKey> {
        match (self.sid, self.subject) {
            (Some(sid), _) => Some(IndexKey::new(SID, self.issuer, sid)),
            (None, Some(subject)) => Some(IndexKey::new(SUBJECT, self.issuer, subject)),
            (None, None) => None,
        }
    }

    /// Whether the set may hold others as well, so that each session must be looked at.
    pub(super) fn needs_a_look(&self) -> bool {
        self.providers.is_some() || (self.sid.is_some() && self.subject.is_some())
    }

    /// Names what is remembered of an end at the provider: a logout token is for one client, and its others' logins go on.
    pub(super) fn note(&self, provider: &str) -> Option<IndexKey> {
        let (kind, name) = match (self.sid, self.subject) {
            (Some(sid), _) => (SID, sid),
            (None, Some(subject)) => (SUBJECT, subject),
            (None, None) => return None,
        };
        Some(IndexKey::of_parts(&[kind, self.issuer, provider, name]))
    }

    /// Whether a session is one of them.
    pub fn fits(&self, meta: &Meta) -> bool {
        *self.issuer == *meta.issuer
            && self.sid.is_none_or(|sid| meta.sid.as_deref() == Some(sid))
            && self.subject.is_none_or(|subject| *meta.subject == *subject)
            && self
                .providers
                .is_none_or(|names| names.contains(&&*meta.provider))
    }
}

// Names of users do not belong in logs.
impl std::fmt::Debug for Whose<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Whose")
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}

impl IndexKey {
    pub(super) fn new(kind: &str, issuer: &str, value: &str) -> Self {
        Self::of_parts(&[kind, issuer, value])
    }

    /// Each part with its length before it: two sets never get one name.
    fn of_parts(parts: &[&str]) -> Self {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(b"daypass index v1\0");
        for part in parts {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let mut key = [0; 32];
        key.copy_from_slice(hash.finish().as_ref());
        Self(key)
    }

    /// The sets a session belongs to.
    pub(super) fn of(issuer: &str, subject: &str, sid: Option<&str>) -> impl Iterator<Item = Self> {
        let by_sid = sid.map(|sid| Self::new(SID, issuer, sid));
        by_sid
            .into_iter()
            .chain([Self::new(SUBJECT, issuer, subject)])
    }

    /// As [`of`](Self::of).
    pub(super) fn of_session(session: &Session) -> impl Iterator<Item = Self> {
        Self::of(&session.issuer, &session.subject, session.sid.as_deref())
    }

    /// As [`of`](Self::of).
    pub(super) fn of_meta(meta: &Meta) -> impl Iterator<Item = Self> {
        Self::of(&meta.issuer, &meta.subject, meta.sid.as_deref())
    }

    pub(super) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

const SID: &str = "sid";
const SUBJECT: &str = "sub";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::testing::session;

    #[test]
    fn sets_of_other_kinds_issuers_or_values_have_other_names() {
        let key = |kind, issuer, value| *IndexKey::new(kind, issuer, value).as_bytes();
        let names = [
            key(SID, "https://a.example", "1"),
            key(SUBJECT, "https://a.example", "1"),
            key(SID, "https://b.example", "1"),
            key(SID, "https://a.example", "2"),
            key(SID, "https://a.example1", ""),
            key(SID, "", "https://a.example1"),
        ];
        let note = |whose: Whose<'_>, provider| whose.note(provider).map(|note| *note.as_bytes());
        let whose = Whose::sid("https://a.example", "1");
        let notes = [note(whose, "one"), note(whose, "two")].map(|note| note.unwrap());
        let names = [&names[..], &notes].concat();
        for (at, name) in names.iter().enumerate() {
            assert!(!names[..at].contains(name), "{at}");
        }
    }

    #[test]
    fn a_session_fits_when_all_that_is_said_is_true_of_it() {
        let meta = Meta::of(&session());
        let issuer = "https://idp.example";
        for (name, whose, want) in [
            ("its sid", Whose::sid(issuer, "sid-1"), true),
            ("its user", Whose::subject(issuer, "alice"), true),
            ("another sid", Whose::sid(issuer, "sid-2"), false),
            ("another user", Whose::subject(issuer, "bob"), false),
            (
                "another issuer",
                Whose::sid("https://b.example", "sid-1"),
                false,
            ),
            (
                "both",
                Whose {
                    subject: Some("alice"),
                    ..Whose::sid(issuer, "sid-1")
                },
                true,
            ),
            (
                "its sid and another user",
                Whose {
                    subject: Some("bob"),
                    ..Whose::sid(issuer, "sid-1")
                },
                false,
            ),
            (
                "its user at its provider",
                Whose {
                    providers: Some(&["other", "provider"]),
                    ..Whose::subject(issuer, "alice")
                },
                true,
            ),
            (
                "its user at another client",
                Whose {
                    providers: Some(&["other"]),
                    ..Whose::subject(issuer, "alice")
                },
                false,
            ),
        ] {
            assert_eq!(whose.fits(&meta), want, "{name}");
        }
        assert!(!format!("{:?}", Whose::subject(issuer, "alice")).contains("alice"));
    }
}
