//! Carries a login transaction to the provider and back, sealed into `state`, so that no store needs to hold it.
//!
//! Two sealed parts: the way, which our keys alone open, and the transaction, which takes the browser's binding too. So a
//! callback that cannot be finished (other tab, cookie gone, too late) still knows the way forward. The way is sealed over
//! the transaction: where it opens, the whole `state` is as we made it, whoever it was made for.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Wanted, random};
use crate::clock::Timestamp;
use crate::seal::{KeyRing, Purpose};
use crate::secret::{CodeVerifier, Nonce};

/// One login under way (FLOW-05).
#[derive(Debug)]
pub(super) struct Transaction {
    /// Names it among the consumed ones.
    pub(super) id: [u8; 16],
    /// PKCE verifier: 43 characters, 32 random bytes (FLOW-02).
    pub(super) verifier: CodeVerifier,
    /// Comes back in the ID token.
    pub(super) nonce: Nonce,
    /// Name of the provider.
    pub(super) provider: String,
    /// Its issuer: the only one the answer may come from (FLOW-11).
    pub(super) issuer: String,
    /// As sent, and to be repeated at the token endpoint.
    pub(super) redirect_uri: String,
    /// Sent `max_age`, to be checked against `auth_time`.
    pub(super) max_age: Option<Duration>,
}

/// Where a login leads, and how it was asked for.
#[derive(Debug, Clone)]
pub(super) struct Way {
    pub(super) wanted: Wanted,
    /// When the login was started.
    pub(super) started_at: Timestamp,
    /// How often it has started anew, because its answer came with another login cookie.
    pub(super) restarts: u8,
}

/// Why a login's time is not now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Untimely(pub(super) &'static str);

/// How long a transaction may take (FLOW-06).
pub(super) const LIFETIME: Duration = Duration::from_secs(15 * 60);
/// Clocks of replicas may differ by this much.
const SKEW: Duration = Duration::from_secs(60);
/// Longer texts are not ours: see [`MAX_RETURN_TO`].
const MAX_TEXT: usize = 16 * 1024;
/// Longer return targets make way for `/` (FLOW-16): `state` has to fit the provider's URL limits.
const MAX_RETURN_TO: usize = 2048;
/// Parameters beyond this are not remembered, for the same reason.
const MAX_EXTRA: usize = 512;
const VERSION: u8 = 1;

impl Transaction {
    /// A new one with fresh secrets from the system's random source (FLOW-07).
    pub(super) fn new(
        provider: &str,
        issuer: &str,
        redirect_uri: String,
        max_age: Option<Duration>,
    ) -> Self {
        Self {
            id: random(),
            verifier: CodeVerifier::new(BASE64_URL_SAFE_NO_PAD.encode(random::<32>())),
            nonce: Nonce::new(BASE64_URL_SAFE_NO_PAD.encode(random::<16>())),
            provider: provider.to_owned(),
            issuer: issuer.to_owned(),
            redirect_uri,
            max_age,
        }
    }

    /// Seals it together with the way.
    pub(super) fn seal(&self, keys: &KeyRing, binding: &[u8], way: &Way) -> String {
        let transaction = keys.seal(Purpose::LoginState, binding, &[], &self.encode());
        let way = keys.seal(Purpose::LoginState, &[], &over(&transaction), &way.encode());
        let length = u16::try_from(way.len())
            .expect("a way of less than 3 KiB is sealed to far below 64 KiB");
        BASE64_URL_SAFE_NO_PAD.encode([&length.to_be_bytes()[..], &way, &transaction].concat())
    }

    /// Opens what this browser's binding sealed.
    pub(super) fn open(keys: &KeyRing, binding: &[u8], state: &str) -> Option<Self> {
        let (_, transaction) = split(state)?;
        let plain = keys
            .open(Purpose::LoginState, binding, &[], &transaction)
            .ok()?;
        Self::decode(&Zeroizing::new(plain))
    }

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let wire = Wire {
            v: VERSION,
            id: u128::from_be_bytes(self.id),
            cv: self.verifier.expose().into(),
            n: self.nonce.expose().into(),
            p: (&self.provider).into(),
            i: (&self.issuer).into(),
            r: (&self.redirect_uri).into(),
            m: self.max_age.map(|age| age.as_secs()),
        };
        Zeroizing::new(serde_json::to_vec(&wire).expect("texts and numbers always serialise"))
    }

    fn decode(plain: &[u8]) -> Option<Self> {
        let wire: Wire<'_> = serde_json::from_slice(plain).ok()?;
        (wire.v == VERSION).then(|| Self {
            id: wire.id.to_be_bytes(),
            verifier: CodeVerifier::new(wire.cv),
            nonce: Nonce::new(wire.n),
            provider: wire.p.into_owned(),
            issuer: wire.i.into_owned(),
            redirect_uri: wire.r.into_owned(),
            max_age: wire.m.map(Duration::from_secs),
        })
    }
}

impl Way {
    /// Of a login that starts at `now`.
    pub(super) fn new(
        return_to: String,
        mut extra: Vec<(String, String)>,
        restarts: u8,
        now: Timestamp,
    ) -> Self {
        let mut room = MAX_EXTRA;
        extra.retain(|(name, value)| {
            let left = room.checked_sub(name.len() + value.len());
            room = left.unwrap_or(room);
            left.is_some()
        });
        let return_to = if return_to.len() > MAX_RETURN_TO {
            "/".to_owned()
        } else {
            return_to
        };
        Self {
            wanted: Wanted { return_to, extra },
            started_at: now,
            restarts,
        }
    }

    /// The way of a `state` of ours, of whatever browser and age.
    pub(super) fn open(keys: &KeyRing, state: &str) -> Option<Self> {
        let (way, transaction) = split(state)?;
        let plain = keys
            .open(Purpose::LoginState, &[], &over(&transaction), &way)
            .ok()?;
        let wire: WayWire<'_> = serde_json::from_slice(&plain).ok()?;
        (wire.v == VERSION).then(|| Self {
            wanted: Wanted {
                return_to: wire.r.into_owned(),
                extra: wire.e,
            },
            started_at: wire.t,
            restarts: wire.n,
        })
    }

    /// Whether the login may be finished at `now` (FLOW-06).
    pub(super) fn timely(&self, now: Timestamp) -> Result<(), Untimely> {
        if self.started_at > now.plus(SKEW) {
            return Err(Untimely("the login started in the future"));
        }
        if now > self.started_at.plus(LIFETIME) {
            return Err(Untimely("the login took too long"));
        }
        Ok(())
    }

    fn encode(&self) -> Vec<u8> {
        let wire = WayWire {
            v: VERSION,
            r: (&self.wanted.return_to).into(),
            e: self.wanted.extra.clone(),
            t: self.started_at,
            n: self.restarts,
        };
        serde_json::to_vec(&wire).expect("texts and numbers always serialise")
    }
}

/// Associated data of the way: it is no transaction, and belongs to this one.
fn over(transaction: &[u8]) -> Vec<u8> {
    [b"way", transaction].concat()
}

/// The two sealed parts: way and transaction.
fn split(state: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    if state.len() > MAX_TEXT {
        return None;
    }
    let mut bytes = BASE64_URL_SAFE_NO_PAD.decode(state).ok()?;
    let length = usize::from(u16::from_be_bytes(*bytes.first_chunk()?));
    let end = 2 + length;
    if bytes.len() < end {
        return None;
    }
    let transaction = bytes.split_off(end);
    bytes.drain(..2);
    Some((bytes, transaction))
}

/// What is sealed; names are short because `state` travels in a URL.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire<'a> {
    v: u8,
    id: u128,
    cv: std::borrow::Cow<'a, str>,
    n: std::borrow::Cow<'a, str>,
    p: std::borrow::Cow<'a, str>,
    i: std::borrow::Cow<'a, str>,
    r: std::borrow::Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    m: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WayWire<'a> {
    v: u8,
    r: std::borrow::Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    e: Vec<(String, String)>,
    t: Timestamp,
    n: u8,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rp::fakes::keys;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn transaction() -> Transaction {
        Transaction::new(
            "provider",
            "https://idp.example",
            "https://shop.example.com/oauth2/callback".into(),
            Some(Duration::from_secs(300)),
        )
    }

    fn way(return_to: &str) -> Way {
        Way::new(return_to.into(), Vec::new(), 0, NOW)
    }

    fn joined(way: &[u8], transaction: &[u8]) -> String {
        let length = u16::try_from(way.len()).unwrap().to_be_bytes();
        BASE64_URL_SAFE_NO_PAD.encode([&length[..], way, transaction].concat())
    }

    /// FLOW-05
    #[test]
    fn a_transaction_comes_back_whole_to_the_browser_that_started_it() {
        let sent = transaction();
        let extra = vec![("prompt".to_owned(), "login".to_owned())];
        let way = Way::new("/orders?id=7".into(), extra, 2, NOW);
        let state = sent.seal(&keys(), b"browser", &way);
        let back = Transaction::open(&keys(), b"browser", &state).unwrap();
        assert_eq!(back.id, sent.id);
        assert!(back.verifier.matches(sent.verifier.expose()));
        assert!(back.nonce.matches(sent.nonce.expose()));
        assert_eq!(back.provider, sent.provider);
        assert_eq!(back.issuer, sent.issuer);
        assert_eq!(back.redirect_uri, sent.redirect_uri);
        assert_eq!(back.max_age, sent.max_age);
        let back = Way::open(&keys(), &state).unwrap();
        assert_eq!(back.wanted.return_to, "/orders?id=7");
        assert_eq!(back.wanted.extra, way.wanted.extra);
        assert_eq!((back.started_at, back.restarts), (NOW, 2));
        assert!(state.len() < 700, "a URL must carry it: {}", state.len());
    }

    /// FLOW-02, FLOW-07
    #[test]
    fn secrets_are_fresh_and_long_enough() {
        let (one, two) = (transaction(), transaction());
        assert_eq!(one.verifier.len(), 43);
        assert_eq!(one.nonce.len(), 22);
        assert!(!one.verifier.matches(two.verifier.expose()));
        assert!(!one.nonce.matches(two.nonce.expose()));
        assert_ne!(one.id, two.id);
    }

    /// FLOW-04, FLOW-08
    #[test]
    fn a_foreign_or_broken_state_does_not_open() {
        let state = transaction().seal(&keys(), b"browser", &way("/a"));
        assert!(Transaction::open(&keys(), b"another browser", &state).is_none());
        assert!(Transaction::open(&keys(), b"", &state).is_none());
        for (name, text) in [
            ("empty", String::new()),
            ("short", "AA".into()),
            ("not base64", "a b".into()),
            (
                "length beyond the end",
                BASE64_URL_SAFE_NO_PAD.encode([0xff, 0xff, 1]),
            ),
            ("truncated", state[..state.len() - 4].into()),
            ("oversized", "A".repeat(MAX_TEXT + 1)),
        ] {
            assert!(
                Transaction::open(&keys(), b"browser", &text).is_none(),
                "{name}"
            );
            assert!(Way::open(&keys(), &text).is_none(), "{name}");
        }
    }

    #[test]
    fn a_way_opens_with_its_own_transaction_only() {
        let state = transaction().seal(&keys(), b"browser", &way("/a"));
        let other = transaction().seal(&keys(), b"browser", &way("/b"));
        let ((ours, _), (_, theirs)) = (split(&state).unwrap(), split(&other).unwrap());
        assert!(Way::open(&keys(), &joined(&ours, &theirs)).is_none());
        // With an empty binding both parts are sealed under the same key: the associated data keep them apart.
        let state = transaction().seal(&keys(), b"", &way("/a"));
        let (way, transaction) = split(&state).unwrap();
        let turned = joined(&transaction, &way);
        assert!(Way::open(&keys(), &turned).is_none());
        assert!(Transaction::open(&keys(), b"", &turned).is_none());
    }

    #[test]
    fn what_does_not_fit_into_a_url_is_left_out() {
        let pair = |name: &str, length| (name.to_owned(), "x".repeat(length));
        let extra = vec![pair("a", 400), pair("b", 400), pair("c", 100)];
        let way = Way::new("/".repeat(MAX_RETURN_TO + 1), extra, 0, NOW);
        assert_eq!(way.wanted.return_to, "/");
        let names: Vec<_> = way
            .wanted
            .extra
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(names, ["a", "c"]);
    }

    /// FLOW-06
    #[test]
    fn a_login_lasts_fifteen_minutes() {
        let sent = way("/");
        let second = Duration::from_secs(1);
        for (name, now, want) in [
            ("at once", NOW, true),
            ("at the end", NOW.plus(LIFETIME), true),
            ("after it", NOW.plus(LIFETIME + second), false),
            ("clock of a replica behind", NOW.minus(SKEW), true),
            ("clock far behind", NOW.minus(SKEW + second), false),
        ] {
            assert_eq!(sent.timely(now).is_ok(), want, "{name}");
        }
    }
}
