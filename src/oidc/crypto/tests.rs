//! Shows that no key and no algorithm makes ring panic.

use super::super::tests::keys::RSA_PKCS8;
use super::*;

#[test]
fn what_a_key_cannot_do_is_an_error_and_no_panic() {
    let private = [
        EncodingKey::from_secret(b"secret"),
        EncodingKey::from_rsa_der(b"no key"),
        EncodingKey::from_rsa_der(b""),
        EncodingKey::from_ec_der(b"no key"),
        EncodingKey::from_ed_der(RSA_PKCS8.as_bytes()),
    ];
    let public = [
        DecodingKey::from_secret(b"secret"),
        DecodingKey::from_rsa_der(b"no key"),
        DecodingKey::from_rsa_raw_components(&[], &[]),
        DecodingKey::from_rsa_raw_components(&[0; 256], &[0]),
        DecodingKey::from_rsa_raw_components(&[0xff; 256], &[2]),
        DecodingKey::from_ec_der(b""),
        DecodingKey::from_ec_der(&[4; 65]),
        DecodingKey::from_ed_der(&[0xff; 32]),
    ];
    for algorithm in [
        Algorithm::HS256,
        Algorithm::RS256,
        Algorithm::PS512,
        Algorithm::ES256,
        Algorithm::ES384,
        Algorithm::EdDSA,
    ] {
        for key in &private {
            assert!(new_signer(algorithm, key).is_err(), "{algorithm:?} {key:?}");
        }
        for (n, key) in public.iter().enumerate() {
            let Ok(verifier) = new_verifier(algorithm, key) else {
                continue;
            };
            for signed in [vec![], vec![0; 64], vec![0; 256]] {
                assert!(
                    verifier.verify(b"message", &signed).is_err(),
                    "{algorithm:?} {n}"
                );
            }
        }
    }
}

#[test]
fn digests_are_ring_s() {
    let sha256 = compute_digest(b"", &ThumbprintHash::SHA256).unwrap();
    assert_eq!(sha256[..4], [0xe3, 0xb0, 0xc4, 0x42]);
    assert_eq!(
        compute_digest(b"", &ThumbprintHash::SHA384).unwrap().len(),
        48
    );
    assert_eq!(
        compute_digest(b"", &ThumbprintHash::SHA512).unwrap().len(),
        64
    );
}
