//! Holds a secret so that it cannot be printed, compared in variable time or mistaken for another kind.
//!
//! There is no `Display`, `Serialize`, `PartialEq` or `Deref`; `rg 'expose\('` lists every use. The text is wiped on
//! drop. That covers our own copies only, not the buffers of sockets or parsers, nor a header that shares the text.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// What a [`Secret`] is; its name is all that `Debug` shows.
pub trait Kind {
    /// Name of the secret, as `Debug` prints it.
    const NAME: &'static str;
}

/// A secret text of kind `K`.
pub struct Secret<K>(Text, PhantomData<fn() -> K>);

#[derive(Clone)]
enum Text {
    Own(Zeroizing<String>),
    /// Part of a header, which holds it as long as anyone does: one copy instead of two. ASCII.
    Shared(Bytes),
}

impl<K: Kind> Secret<K> {
    /// Takes ownership of the text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Text::Own(Zeroizing::new(text.into())), PhantomData)
    }

    /// Shares the bytes with whoever else holds them. They are not wiped. `None` unless they are ASCII.
    pub fn shared(bytes: Bytes) -> Option<Self> {
        bytes
            .is_ascii()
            .then_some(Self(Text::Shared(bytes), PhantomData))
    }

    /// The text itself. Every call is a place where the secret may leak: look twice.
    pub fn expose(&self) -> &str {
        match &self.0 {
            Text::Own(text) => text,
            Text::Shared(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
        }
    }

    /// Compares in time that depends on the lengths only.
    pub fn matches(&self, other: &str) -> bool {
        self.bytes().ct_eq(other.as_bytes()).into()
    }

    /// Length of the text in bytes.
    pub fn len(&self) -> usize {
        self.bytes().len()
    }

    /// Whether the text is empty.
    pub fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    fn bytes(&self) -> &[u8] {
        match &self.0 {
            Text::Own(text) => text.as_bytes(),
            Text::Shared(bytes) => bytes,
        }
    }
}

impl<K> Clone for Secret<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), PhantomData)
    }
}

impl<K: Kind> fmt::Debug for Secret<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}(..)", K::NAME)
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $alias:ident($kind:ident) = $name:literal;)*) => {$(
        #[doc = concat!("Marks a ", $name, ".")]
        #[derive(Debug)]
        pub enum $kind {}
        impl Kind for $kind {
            const NAME: &'static str = stringify!($alias);
        }
        $(#[$doc])*
        pub type $alias = Secret<$kind>;
    )*};
}

kinds! {
    /// Shown at the upstream's door (RFC 6749 §1.4).
    AccessToken(AccessTokenKind) = "access token";
    /// Shown at the token endpoint only (RFC 6749 §1.5).
    RefreshToken(RefreshTokenKind) = "refresh token";
    /// Says who signed in (OIDC Core §2).
    IdToken(IdTokenKind) = "ID token";
    /// The relying party's password (RFC 6749 §2.3.1).
    ClientSecret(ClientSecretKind) = "client secret";
    /// A private key in PEM or JWK form.
    PrivateKey(PrivateKeyKind) = "private key";
    /// An authorization code (RFC 6749 §4.1.2).
    AuthorizationCode(AuthorizationCodeKind) = "authorization code";
    /// PKCE verifier (RFC 7636 §4.1).
    CodeVerifier(CodeVerifierKind) = "code verifier";
    /// Binds an ID token to one login (OIDC Core §3.1.2.1).
    Nonce(NonceKind) = "nonce";
    /// A key of the session key ring, as configured.
    SealingKey(SealingKeyKind) = "sealing key";
    /// A password for the session store.
    StorePassword(StorePasswordKind) = "store password";
    /// The store's URL, which may hold a password.
    StoreUrl(StoreUrlKind) = "store URL";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_the_kind_and_nothing_else() {
        let token = AccessToken::new("s3cr3t");
        assert_eq!(format!("{token:?}"), "AccessToken(..)");
        assert_eq!(format!("{:?}", Some(&token)), "Some(AccessToken(..))");
    }

    #[test]
    fn a_shared_text_is_the_same_secret_and_must_be_ascii() {
        let header = Bytes::from_static(b"Bearer abc");
        let token = AccessToken::shared(header.slice(7..)).unwrap();
        assert_eq!((token.expose(), token.len()), ("abc", 3));
        assert!(token.matches("abc") && token.clone().matches("abc"));
        assert_eq!(format!("{token:?}"), "AccessToken(..)");
        assert!(AccessToken::shared(Bytes::from_static("é".as_bytes())).is_none());
    }

    #[test]
    fn matches_compares_the_whole_text() {
        let secret = ClientSecret::new("abc");
        for (name, other, want) in [
            ("equal", "abc", true),
            ("prefix", "ab", false),
            ("longer", "abcd", false),
            ("other", "abd", false),
        ] {
            assert_eq!(secret.matches(other), want, "{name}");
        }
    }
}
