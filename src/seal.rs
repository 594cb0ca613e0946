//! Seals bytes so that only a holder of the key ring (and of a second secret) can open them.

use std::sync::Arc;

use crate::secret::SealingKey;

/// The key ring: first seals, all open.
#[derive(Clone)]
pub struct KeyRing(Arc<()>);

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyRing(..)")
    }
}

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
}

/// Why a sealed text did not open. Deliberately says nothing more.
#[derive(Debug, thiserror::Error)]
#[error("sealed text cannot be opened")]
pub struct Unsealable;

impl KeyRing {
    /// From configured keys (each checked to hold 32 bytes as base64 by the configuration).
    pub fn new(keys: &[SealingKey]) -> Self {
        let _ = keys;
        todo!()
    }

    /// Seals `plain` under the first key, `second` (a further secret; may be empty) and `bound` (associated data).
    pub fn seal(&self, purpose: Purpose, second: &[u8], bound: &[u8], plain: &[u8]) -> Vec<u8> {
        let _ = (purpose, second, bound, plain);
        todo!()
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
        let _ = (purpose, second, bound, sealed);
        todo!()
    }
}
