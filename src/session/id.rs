//! Makes and reads the cookie's value, and hashes it into the name the store knows.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use zeroize::Zeroizing;

use crate::seal::random;

/// The cookie's value: 32 random bytes. A secret; only its hash ever leaves the process.
#[derive(Clone)]
pub struct SessionId {
    text: Zeroizing<[u8; TEXT_LEN]>,
    key: RecordKey,
}

/// Hash of a [`SessionId`] (SHA-256 with a domain separator). Not secret by itself, but kept out of logs in full.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecordKey([u8; 32]);

impl SessionId {
    /// A fresh one from the system's random source.
    pub fn generate() -> Self {
        let mut bytes = Zeroizing::new([0; BYTES]);
        random(&mut *bytes);
        let mut text = Zeroizing::new([0; TEXT_LEN]);
        URL_SAFE_NO_PAD
            .encode_slice(*bytes, &mut *text)
            .expect("32 bytes are 43 characters of unpadded base64");
        Self {
            text,
            key: RecordKey::of(&bytes),
        }
    }

    /// From a cookie's value; `None` unless it is exactly 43 characters of unpadded base64url that decode canonically.
    pub fn parse(cookie: &str) -> Option<Self> {
        let text: [u8; TEXT_LEN] = cookie.as_bytes().try_into().ok()?;
        let text = Zeroizing::new(text);
        // The engine refuses set bits beyond the last byte: one session has one spelling.
        let bytes = decode(&text)?;
        Some(Self {
            key: RecordKey::of(&bytes),
            text,
        })
    }

    /// The cookie's value.
    pub fn expose(&self) -> &str {
        std::str::from_utf8(&*self.text).expect("base64 is ASCII")
    }

    /// What the store knows it by.
    pub fn record_key(&self) -> RecordKey {
        self.key
    }

    /// The 32 bytes, the second secret of the sealed record.
    pub(super) fn bytes(&self) -> Zeroizing<[u8; BYTES]> {
        decode(&self.text).expect("both constructors leave canonical base64 of 32 bytes")
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(..)")
    }
}

impl RecordKey {
    fn of(bytes: &[u8; BYTES]) -> Self {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(b"daypass session key v1\0");
        hash.update(bytes);
        let mut key = [0; 32];
        key.copy_from_slice(hash.finish().as_ref());
        Self(key)
    }

    /// First 12 hex digits, to correlate log lines.
    pub fn short(&self) -> String {
        let shown = self.0[..6]
            .iter()
            .fold(0u64, |sum, byte| (sum << 8) | u64::from(*byte));
        format!("{shown:012x}")
    }

    /// As the store gave it back; `None` for anything of another length.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The whole hash.
    pub(super) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordKey({})", self.short())
    }
}

fn decode(text: &[u8; TEXT_LEN]) -> Option<Zeroizing<[u8; BYTES]>> {
    // The engine wants room for whole groups of three bytes.
    let mut room = Zeroizing::new([0; TEXT_LEN.div_ceil(4) * 3]);
    let len = URL_SAFE_NO_PAD.decode_slice(text, &mut *room).ok()?;
    let mut bytes = Zeroizing::new([0; BYTES]);
    bytes.copy_from_slice(room[..len].get(..BYTES)?);
    Some(bytes)
}

const BYTES: usize = 32;
const TEXT_LEN: usize = 43;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_has_exactly_one_spelling() {
        let id = SessionId::generate();
        let text = id.expose().to_owned();
        let again = SessionId::parse(&text).unwrap();
        assert_eq!(again.record_key(), id.record_key());
        assert_eq!(again.bytes(), id.bytes());

        // The last of 43 characters carries 4 bits of data; the other 2 must be zero.
        let zeros = "A".repeat(43);
        assert!(SessionId::parse(&zeros).is_some());
        for (name, cookie) in [
            ("empty", String::new()),
            ("one short", text[..42].to_owned()),
            ("one long", format!("{text}A")),
            ("padded", format!("{text}=")),
            ("trailing bits", format!("{}B", "A".repeat(42))),
            ("standard alphabet", format!("+{}", "A".repeat(42))),
            ("a space", format!(" {}", "A".repeat(42))),
            ("a quote", format!("\"{}\"", "A".repeat(41))),
            ("not ASCII", format!("{}é", "A".repeat(41))),
            ("huge", "A".repeat(1 << 16)),
        ] {
            assert!(SessionId::parse(&cookie).is_none(), "{name}");
        }
    }

    #[test]
    fn ids_differ_and_never_print_themselves() {
        // SESS-01: 256 bits of randomness; the store's key is a hash.
        let (one, two) = (SessionId::generate(), SessionId::generate());
        assert_ne!(one.expose(), two.expose());
        assert_ne!(one.record_key(), two.record_key());
        assert_eq!(format!("{one:?}"), "SessionId(..)");
        let zeros = RecordKey([0; 32]);
        assert_eq!(zeros.short(), "000000000000");
        let counting = RecordKey(std::array::from_fn(|i| u8::try_from(i).unwrap()));
        assert_eq!(counting.short(), "000102030405");
    }

    #[test]
    fn the_record_key_is_pinned() {
        // Replicas of different versions must agree on it (SESS-05).
        let id = SessionId::parse(&"A".repeat(43)).unwrap();
        let want = digest::digest(
            &digest::SHA256,
            &[&b"daypass session key v1\0"[..], &[0; 32]].concat(),
        );
        assert_eq!(id.record_key().as_bytes(), want.as_ref());
    }
}
