//! Lets `jsonwebtoken` sign and verify with ring, the one cryptography library in the binary.
//!
//! ES512 is absent because ring has no P-521; HMAC is absent because a shared secret proves nothing about the sender
//! (RFC 8725 §3.1). Nothing here panics: what a key or an algorithm cannot do is an error.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::jwk::ThumbprintHash;
use jsonwebtoken::signature::{self, Signer, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::rand::SystemRandom;
use ring::signature::{self as ring_signature, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair};

/// Makes ring the cryptography of `jsonwebtoken` for this process; calling it again changes nothing.
pub(super) fn install() {
    // `Err` means that it is installed already.
    let _ = PROVIDER.install_default();
}

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key| new_signer(*algorithm, key),
    verifier_factory: |algorithm, key| new_verifier(*algorithm, key),
    key_utils: KeyUtils {
        rsa_pub_components_from_private_key: |_| Err(ErrorKind::UnsupportedAlgorithm.into()),
        rsa_pub_components_from_public_key: |_| Err(ErrorKind::UnsupportedAlgorithm.into()),
        ec_pub_components_from_private_key: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
        ed_pub_components_from_private_key: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
        compute_digest: |data, hash| compute_digest(data, &hash),
    },
};

struct RingSigner {
    algorithm: Algorithm,
    key: KeyPair,
}

enum KeyPair {
    Rsa(Box<RsaKeyPair>, &'static dyn ring_signature::RsaEncoding),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Signer<Vec<u8>> for RingSigner {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        let rng = SystemRandom::new();
        match &self.key {
            KeyPair::Rsa(key, padding) => {
                let mut out = vec![0; key.public().modulus_len()];
                key.sign(*padding, &rng, message, &mut out)
                    .map_err(signature::Error::from_source)?;
                Ok(out)
            }
            KeyPair::Ecdsa(key) => key
                .sign(&rng, message)
                .map(|signed| signed.as_ref().to_vec())
                .map_err(signature::Error::from_source),
            KeyPair::Ed25519(key) => Ok(key.sign(message).as_ref().to_vec()),
        }
    }
}

impl JwtSigner for RingSigner {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

/// `key` holds PKCS#1 or PKCS#8 for RSA, PKCS#8 for the others.
fn new_signer(algorithm: Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>, Error> {
    if key.family() != algorithm.family() {
        return Err(ErrorKind::InvalidKeyFormat.into());
    }
    let der = key.as_bytes();
    let pair = match algorithm {
        Algorithm::RS256 => rsa(der, &ring_signature::RSA_PKCS1_SHA256)?,
        Algorithm::RS384 => rsa(der, &ring_signature::RSA_PKCS1_SHA384)?,
        Algorithm::RS512 => rsa(der, &ring_signature::RSA_PKCS1_SHA512)?,
        Algorithm::PS256 => rsa(der, &ring_signature::RSA_PSS_SHA256)?,
        Algorithm::PS384 => rsa(der, &ring_signature::RSA_PSS_SHA384)?,
        Algorithm::PS512 => rsa(der, &ring_signature::RSA_PSS_SHA512)?,
        Algorithm::ES256 => ecdsa(der, &ring_signature::ECDSA_P256_SHA256_FIXED_SIGNING)?,
        Algorithm::ES384 => ecdsa(der, &ring_signature::ECDSA_P384_SHA384_FIXED_SIGNING)?,
        Algorithm::EdDSA => KeyPair::Ed25519(
            // OpenSSL writes PKCS#8 without the public key, which the checking constructor refuses.
            Ed25519KeyPair::from_pkcs8_maybe_unchecked(der)
                .map_err(|_| Error::from(ErrorKind::InvalidEddsaKey))?,
        ),
        _ => return Err(ErrorKind::UnsupportedAlgorithm.into()),
    };
    Ok(Box::new(RingSigner {
        algorithm,
        key: pair,
    }))
}

fn rsa(der: &[u8], padding: &'static dyn ring_signature::RsaEncoding) -> Result<KeyPair, Error> {
    let key = RsaKeyPair::from_der(der)
        .or_else(|_| RsaKeyPair::from_pkcs8(der))
        .map_err(|reason| Error::from(ErrorKind::InvalidRsaKey(reason.to_string())))?;
    Ok(KeyPair::Rsa(Box::new(key), padding))
}

fn ecdsa(
    der: &[u8],
    algorithm: &'static ring_signature::EcdsaSigningAlgorithm,
) -> Result<KeyPair, Error> {
    EcdsaKeyPair::from_pkcs8(algorithm, der, &SystemRandom::new())
        .map(KeyPair::Ecdsa)
        .map_err(|_| ErrorKind::InvalidEcdsaKey.into())
}

struct RingVerifier {
    algorithm: Algorithm,
    parameters: Parameters,
    key: DecodingKey,
}

enum Parameters {
    Rsa(&'static ring_signature::RsaParameters),
    Other(&'static dyn ring_signature::VerificationAlgorithm),
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signed: &Vec<u8>) -> Result<(), signature::Error> {
        let outcome = match (&self.parameters, self.key.kind()) {
            (Parameters::Rsa(parameters), DecodingKeyKind::RsaModulusExponent { n, e }) => {
                ring_signature::RsaPublicKeyComponents { n, e }.verify(parameters, message, signed)
            }
            (Parameters::Rsa(parameters), DecodingKeyKind::SecretOrDer(der)) => {
                ring_signature::UnparsedPublicKey::new(*parameters, der).verify(message, signed)
            }
            (Parameters::Other(algorithm), DecodingKeyKind::SecretOrDer(point)) => {
                ring_signature::UnparsedPublicKey::new(*algorithm, point).verify(message, signed)
            }
            (Parameters::Other(_), DecodingKeyKind::RsaModulusExponent { .. }) => {
                return Err(signature::Error::new());
            }
        };
        outcome.map_err(signature::Error::from_source)
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

/// RSA keys below 2048 bits are refused by the parameters themselves (JWT-07).
fn new_verifier(algorithm: Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    if key.family() != algorithm.family() {
        return Err(ErrorKind::InvalidKeyFormat.into());
    }
    let parameters = match algorithm {
        Algorithm::RS256 => Parameters::Rsa(&ring_signature::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::RS384 => Parameters::Rsa(&ring_signature::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::RS512 => Parameters::Rsa(&ring_signature::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::PS256 => Parameters::Rsa(&ring_signature::RSA_PSS_2048_8192_SHA256),
        Algorithm::PS384 => Parameters::Rsa(&ring_signature::RSA_PSS_2048_8192_SHA384),
        Algorithm::PS512 => Parameters::Rsa(&ring_signature::RSA_PSS_2048_8192_SHA512),
        Algorithm::ES256 => Parameters::Other(&ring_signature::ECDSA_P256_SHA256_FIXED),
        Algorithm::ES384 => Parameters::Other(&ring_signature::ECDSA_P384_SHA384_FIXED),
        Algorithm::EdDSA => Parameters::Other(&ring_signature::ED25519),
        _ => return Err(ErrorKind::UnsupportedAlgorithm.into()),
    };
    Ok(Box::new(RingVerifier {
        algorithm,
        parameters,
        key: key.clone(),
    }))
}

fn compute_digest(data: &[u8], hash: &ThumbprintHash) -> Result<Vec<u8>, Error> {
    let algorithm = match hash {
        ThumbprintHash::SHA256 => &ring::digest::SHA256,
        ThumbprintHash::SHA384 => &ring::digest::SHA384,
        ThumbprintHash::SHA512 => &ring::digest::SHA512,
        _ => return Err(ErrorKind::UnsupportedAlgorithm.into()),
    };
    Ok(ring::digest::digest(algorithm, data).as_ref().to_vec())
}

#[cfg(test)]
mod tests;
