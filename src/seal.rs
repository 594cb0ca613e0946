//! Seals bytes so that only a holder of the key ring (and of a second secret) can open them.
//!
//! Layout: `version (1) | key id (4) | nonce (12) | ciphertext and tag`. AES-256-GCM; the key of each text comes from
//! HKDF-SHA256 over the configured key *and* the second secret, so neither of the two alone opens anything.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hkdf};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::secret::SealingKey;

#[cfg(test)]
mod tests;

/// The key ring: first seals, all open.
#[derive(Clone)]
pub struct KeyRing(Arc<[Key]>);

/// What a sealed text is for; one purpose never opens another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A session record; the second secret is the cookie.
    Session,
    /// A login transaction in `state`; the second secret is the login cookie.
    LoginState,
    /// The login cookie's loop counter and the like; no second secret.
    LoginCookie,
    /// The `state` of an RP-initiated logout.
    LogoutState,
    /// Whose a session is, for operators; no second secret.
    SessionMeta,
}

/// Why a sealed text did not open. Deliberately says nothing more.
#[derive(Debug, thiserror::Error)]
#[error("sealed text cannot be opened")]
pub struct Unsealable;

/// One key of the ring and the public name it goes by in sealed texts.
struct Key {
    id: [u8; KEY_ID_LEN],
    bytes: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRing({} keys)", self.0.len())
    }
}

impl KeyRing {
    /// From configured keys (each checked to hold 32 bytes as base64 by the configuration).
    ///
    /// Without any key, a random one is made: what it seals is opened by this ring only.
    pub fn new(keys: &[SealingKey]) -> Self {
        let mut ring: Vec<Key> = keys
            .iter()
            .map(|key| Key::new(decode(key.expose())))
            .collect();
        if ring.is_empty() {
            let mut bytes = Zeroizing::new([0; 32]);
            random(&mut *bytes);
            ring.push(Key::new(bytes));
        }
        Self(ring.into())
    }

    /// Whether both rings hold the same keys, in any order: then each opens what the other does.
    pub fn opens_the_same_as(&self, other: &Self) -> bool {
        let within = |one: &Self, other: &Self| {
            let known = |key: &Key| other.0.iter().any(|k| k.bytes.ct_eq(&*key.bytes).into());
            one.0.iter().all(known)
        };
        within(self, other) && within(other, self)
    }

    /// Seals `plain` under the first key, `second` (a further secret; may be empty) and `bound` (associated data).
    pub fn seal(&self, purpose: Purpose, second: &[u8], bound: &[u8], plain: &[u8]) -> Vec<u8> {
        let key = &self.0[0]; // `new` leaves no ring empty
        let mut out = Vec::with_capacity(HEADER_LEN + plain.len() + AES_256_GCM.tag_len());
        out.push(VERSION);
        out.extend_from_slice(&key.id);
        let mut nonce = [0; NONCE_LEN];
        random(&mut nonce);
        out.extend_from_slice(&nonce);

        // The plain text is encrypted where it ends up, so that no copy of it stays behind.
        let aad = associated(purpose, &out, bound);
        out.extend_from_slice(plain);
        let tag = key
            .derive(purpose, second)
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(&aad),
                &mut out[HEADER_LEN..],
            )
            .expect("only texts beyond 64 GiB cannot be sealed, and those fit no memory of ours");
        out.extend_from_slice(tag.as_ref());
        out
    }

    /// Opens what any key of the ring sealed.
    ///
    /// # Errors
    /// [`Unsealable`] for anything else, in every case alike.
    pub fn open(
        &self,
        purpose: Purpose,
        second: &[u8],
        bound: &[u8],
        sealed: &[u8],
    ) -> Result<Vec<u8>, Unsealable> {
        let (header, body) = sealed.split_at_checked(HEADER_LEN).ok_or(Unsealable)?;
        if header[0] != VERSION || body.len() < AES_256_GCM.tag_len() {
            return Err(Unsealable);
        }
        let nonce: [u8; NONCE_LEN] = header[1 + KEY_ID_LEN..]
            .try_into()
            .map_err(|_| Unsealable)?;
        let aad = associated(purpose, header, bound);
        // Two keys may share an id by chance: each of them is tried.
        for key in self.0.iter().filter(|key| key.id == header[1..=KEY_ID_LEN]) {
            let mut text = body.to_vec();
            let opened = key.derive(purpose, second).open_in_place(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(&aad),
                &mut text,
            );
            if let Ok(plain) = opened {
                let len = plain.len();
                text.truncate(len);
                return Ok(text);
            }
        }
        Err(Unsealable)
    }
}

impl Key {
    fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(b"daypass key id v1\0");
        hash.update(&*bytes);
        let mut id = [0; KEY_ID_LEN];
        id.copy_from_slice(&hash.finish().as_ref()[..KEY_ID_LEN]);
        Self { id, bytes }
    }

    /// The key of one purpose and second secret: HKDF (RFC 5869) over both secrets. The configured key has a fixed
    /// length, so that where one ends and the other begins is beyond doubt.
    fn derive(&self, purpose: Purpose, second: &[u8]) -> LessSafeKey {
        let mut material = Zeroizing::new(Vec::with_capacity(self.bytes.len() + second.len()));
        material.extend_from_slice(&*self.bytes);
        material.extend_from_slice(second);
        let info = [purpose.label()];
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, b"daypass seal v1").extract(&material);
        let key = secret
            .expand(&info, &AES_256_GCM)
            .expect("a 256-bit key is within what HKDF-SHA256 can expand to");
        LessSafeKey::new(UnboundKey::from(key))
    }
}

impl Purpose {
    /// Goes into the key and the associated data; changing one orphans everything sealed for it.
    const fn label(self) -> &'static [u8] {
        match self {
            Self::Session => b"session",
            Self::LoginState => b"login state",
            Self::LoginCookie => b"login cookie",
            Self::LogoutState => b"logout state",
            Self::SessionMeta => b"session meta",
        }
    }
}

/// The header has a fixed length and the label ends with a byte no label holds: the parts cannot run into each other.
fn associated(purpose: Purpose, header: &[u8], bound: &[u8]) -> Vec<u8> {
    [header, purpose.label(), b"\0", bound].concat()
}

/// The 32 bytes of a configured key, in either base64 alphabet, padded or not.
///
/// The configuration lets nothing else through. Were it to, the text itself would be hashed into a key: as secret as
/// the text is, and no reason to panic.
fn decode(text: &str) -> Zeroizing<[u8; 32]> {
    let standard = Zeroizing::new(text.trim().replace('-', "+").replace('_', "/"));
    let decoded = ANY_PADDING.decode(standard.as_bytes()).map(Zeroizing::new);
    let mut bytes = Zeroizing::new([0; 32]);
    match decoded {
        Ok(key) if key.len() == bytes.len() => bytes.copy_from_slice(&key),
        _ => bytes.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref()),
    }
    bytes
}

/// Fills `bytes` from the system's random source.
pub(crate) fn random(bytes: &mut [u8]) {
    SystemRandom::new().fill(bytes).expect(
        "Linux's getrandom fails only where the system call is forbidden, and TLS needs it too",
    );
}

const VERSION: u8 = 1;
const KEY_ID_LEN: usize = 4;
const HEADER_LEN: usize = 1 + KEY_ID_LEN + NONCE_LEN;

const ANY_PADDING: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
