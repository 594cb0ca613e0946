//! Shows which private keys are read, and that none is shown.

use serde_json::json;

use super::*;

const RSA_PKCS1: &str = include_str!("../../../../tests/fixtures/test-only-rsa-2048.pkcs1.pem");
const RSA_PKCS8: &str = include_str!("../../../../tests/fixtures/test-only-rsa-2048.pkcs8.pem");
const P256_SEC1: &str = include_str!("../../../../tests/fixtures/test-only-p256.sec1.pem");
const P256_PKCS8: &str = include_str!("../../../../tests/fixtures/test-only-localhost.key.pem");
const P384_SEC1: &str = include_str!("../../../../tests/fixtures/test-only-p384.sec1.pem");
const ED25519: &str = include_str!("../../../../tests/fixtures/test-only-ed25519.pkcs8.pem");
/// RFC 8037 §A.1.
const ED25519_JWK: &str = r#"{"kty":"OKP","crv":"Ed25519","kid":"ed","use":"sig","key_ops":["sign"],
    "d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
/// RFC 7517 §A.2.
const P256_JWK: &str = r#"{"kty":"EC","crv":"P-256","kid":"1","use":"enc",
    "x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
    "d":"870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"}"#;

/// The RSA fixture as JWK, taken apart by hand: RSAPrivateKey is nine short-form or two-byte-length INTEGERs.
fn rsa_jwk() -> String {
    let der = PrivateKeyDer::from_pem_slice(RSA_PKCS1.as_bytes()).unwrap();
    let mut rest = &der.secret_der()[4..];
    let mut numbers = Vec::new();
    while let [0x02, first, more @ ..] = rest {
        let (length, value) = match *first {
            0x82 => (usize::from(more[0]) << 8 | usize::from(more[1]), &more[2..]),
            0x81 => (usize::from(more[0]), &more[1..]),
            short => (usize::from(short), more),
        };
        let digits = value[..length]
            .strip_prefix(&[0])
            .unwrap_or(&value[..length]);
        numbers.push(URL_SAFE_NO_PAD.encode(digits));
        rest = &value[length..];
    }
    let names = ["version", "n", "e", "d", "p", "q", "dp", "dq", "qi"];
    assert_eq!(numbers.len(), names.len());
    let mut jwk = json!({"kty": "RSA", "kid": "r", "alg": "PS256", "x5c": ["a"]});
    for (name, number) in names.into_iter().zip(numbers).skip(1) {
        jwk[name] = number.into();
    }
    jwk.to_string()
}

#[test]
fn every_usual_form_of_key_is_read() {
    let all_rsa = ["RS256", "PS256", "RS384", "PS384", "RS512", "PS512"];
    let rsa_jwk = rsa_jwk();
    for (name, text, algorithms, id) in [
        ("PKCS#1", RSA_PKCS1, &all_rsa[..], None),
        ("PKCS#8 RSA", RSA_PKCS8, &all_rsa, None),
        ("SEC 1 P-256", P256_SEC1, &["ES256"], None),
        ("SEC 1 P-384", P384_SEC1, &["ES384"], None),
        ("PKCS#8 P-256", P256_PKCS8, &["ES256"], None),
        ("PKCS#8 Ed25519", ED25519, &["EdDSA"], None),
        ("JWK Ed25519", ED25519_JWK, &["EdDSA"], Some("ed")),
        ("JWK P-256", P256_JWK, &["ES256"], Some("1")),
        ("JWK RSA with alg", &rsa_jwk, &["PS256"], Some("r")),
    ] {
        let key = ClientKey::parse(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let got: Vec<_> = key.algorithms.iter().map(|a| format!("{a:?}")).collect();
        assert_eq!(got, algorithms, "{name}");
        assert_eq!(key.id(), id, "{name}");
        assert!(!format!("{key:?}").contains("nWGx"), "{name}");
    }
}

#[test]
fn what_is_no_usable_key_is_refused_without_showing_it() {
    let public_only = r#"{"kty":"EC","crv":"P-256","x":"s3cr3t_A","y":"AA"}"#;
    let halves = ED25519_JWK.replace("11qYAYKx", "22qYAYKx");
    let other_point = P256_JWK.replace("MKBCTNIc", "NKBCTNIc");
    let wrong_alg = P256_JWK.replace(r#""kid":"1""#, r#""alg":"RS256""#);
    let secret = r#"{"kty":"oct","k":"s3cr3t"}"#;
    let certificate = include_str!("../../../../tests/fixtures/test-only-ca.pem");
    let cut: String = RSA_PKCS8
        .lines()
        .take(5)
        .chain(["-----END PRIVATE KEY-----"])
        .collect::<Vec<_>>()
        .join("\n");
    let p521 = P256_JWK.replace("P-256", "P-521");
    let mut short: serde_json::Value = serde_json::from_str(&rsa_jwk()).unwrap();
    for factor in ["p", "q"] {
        short.as_object_mut().unwrap().remove(factor);
    }
    let short = short.to_string();
    for (name, text, want) in [
        ("empty", "", "no private key"),
        ("words", "s3cr3t", "no private key"),
        ("certificate", certificate, "no private key"),
        ("cut short", &cut, "kind of key"),
        ("public only", public_only, "no complete"),
        ("halves that do not fit", &halves, "no complete"),
        ("point that does not fit", &other_point, "no complete"),
        ("alg that does not fit", &wrong_alg, "`alg`"),
        ("a curve we do not have", &p521, "kind of key"),
        ("RSA without its factors", &short, "`p`, `q`"),
        ("shared secret", secret, "`client_secret`"),
        ("no JSON", r#"{"kty": s3cr3t}"#, "no private key"),
        ("a set", r#"{"keys": []}"#, "no private key"),
        (
            "not base64url",
            r#"{"kty":"OKP","crv":"Ed25519","d":"s3cr3t+/","x":"AA"}"#,
            "no private key",
        ),
    ] {
        let problem = ClientKey::parse(text).unwrap_err();
        assert!(problem.contains(want), "{name}: {problem}");
        assert!(!problem.contains("s3cr3t"), "{name}: {problem}");
    }
}

/// A reload keeps what the provider is known for, unless the key changed.
#[test]
fn a_key_is_the_same_whatever_its_wrapping() {
    let (one, other) = (ED25519_JWK, ED25519_JWK.replace("\"ed\"", "\"ed2\""));
    let key = |text: &str| ClientKey::parse(text).unwrap();
    assert!(key(one).matches(&key(&format!(" {one}\n"))));
    assert!(!key(one).matches(&key(&other)), "another name");
    assert!(!key(P256_JWK).matches(&key(P256_SEC1)), "another key");
}

#[test]
fn der_lengths_and_numbers_are_minimal() {
    for (name, got, want) in [
        ("zero", der::unsigned(&[0]), vec![2, 1, 0]),
        ("empty", der::unsigned(&[]), vec![2, 1, 0]),
        ("leading zeros", der::unsigned(&[0, 0, 5]), vec![2, 1, 5]),
        ("sign", der::unsigned(&[0x80]), vec![2, 2, 0, 0x80]),
        ("nothing", der::wrap(4, &[]), vec![4, 0]),
        ("127", der::wrap(4, &[1; 127])[..2].to_vec(), vec![4, 127]),
        (
            "128",
            der::wrap(4, &[1; 128])[..3].to_vec(),
            vec![4, 0x81, 128],
        ),
        (
            "300",
            der::wrap(4, &[1; 300])[..4].to_vec(),
            vec![4, 0x82, 1, 44],
        ),
    ] {
        assert_eq!(got, want, "{name}");
    }
}
