//! Shows that a sealed text opens for its owner and purpose only.

use proptest::prelude::*;

use super::*;

const ONE: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const TWO: &str = "/////////////////////////////////////////w8=";

fn ring(keys: &[&str]) -> KeyRing {
    KeyRing::new(&keys.iter().map(|k| SealingKey::new(*k)).collect::<Vec<_>>())
}

type Case<'a> = (&'a str, &'a KeyRing, Purpose, &'a [u8], &'a [u8], bool);

#[test]
fn a_text_opens_only_with_all_that_sealed_it() {
    // SESS-02: neither the configured key nor the cookie alone, nor a record moved elsewhere.
    let keys = ring(&[ONE]);
    let sealed = keys.seal(Purpose::Session, b"cookie", b"record", b"plain");
    let other = ring(&[TWO]);
    let cases: [Case; 8] = [
        (
            "all of it",
            &keys,
            Purpose::Session,
            b"cookie",
            b"record",
            true,
        ),
        (
            "another purpose",
            &keys,
            Purpose::LoginState,
            b"cookie",
            b"record",
            false,
        ),
        (
            "another cookie",
            &keys,
            Purpose::Session,
            b"cookiE",
            b"record",
            false,
        ),
        ("no cookie", &keys, Purpose::Session, b"", b"record", false),
        (
            "a longer cookie",
            &keys,
            Purpose::Session,
            b"cookie\0",
            b"record",
            false,
        ),
        (
            "another record",
            &keys,
            Purpose::Session,
            b"cookie",
            b"recorD",
            false,
        ),
        ("no record", &keys, Purpose::Session, b"cookie", b"", false),
        (
            "another key",
            &other,
            Purpose::Session,
            b"cookie",
            b"record",
            false,
        ),
    ];
    for (name, keys, purpose, second, bound, opens) in cases {
        let opened = keys.open(purpose, second, bound, &sealed).ok();
        assert_eq!(opened.as_deref(), opens.then_some(&b"plain"[..]), "{name}");
    }
}

#[test]
fn rotation_opens_what_an_older_key_sealed() {
    // SESS-02: key ids and previous keys.
    let old = ring(&[ONE]);
    let rotated = ring(&[TWO, ONE]);
    let retired = ring(&[TWO]);
    let before = old.seal(Purpose::LoginState, b"", b"", b"x");
    let after = rotated.seal(Purpose::LoginState, b"", b"", b"x");
    assert!(rotated.open(Purpose::LoginState, b"", b"", &before).is_ok());
    assert!(retired.open(Purpose::LoginState, b"", b"", &after).is_ok());
    assert!(
        retired
            .open(Purpose::LoginState, b"", b"", &before)
            .is_err()
    );
    assert!(old.open(Purpose::LoginState, b"", b"", &after).is_err());
}

#[test]
fn keys_are_read_in_either_alphabet_with_or_without_padding() {
    let plain = TWO.trim_end_matches('=');
    let sealed = ring(&[TWO]).seal(Purpose::LogoutState, b"", b"", b"x");
    let url = plain.replace('/', "_");
    let with_newline = format!("{TWO}\n");
    for (name, text) in [
        ("unpadded", plain),
        ("url alphabet", &url),
        ("with the newline of a file", &with_newline),
    ] {
        assert!(
            ring(&[text])
                .open(Purpose::LogoutState, b"", b"", &sealed)
                .is_ok(),
            "{name}"
        );
    }
}

#[test]
fn no_key_at_all_makes_a_key_of_its_own() {
    let (one, two) = (ring(&[]), ring(&[]));
    let sealed = one.seal(Purpose::LoginCookie, b"", b"", b"x");
    assert!(
        one.clone()
            .open(Purpose::LoginCookie, b"", b"", &sealed)
            .is_ok()
    );
    assert!(two.open(Purpose::LoginCookie, b"", b"", &sealed).is_err());
}

#[test]
fn the_same_text_never_seals_to_the_same_bytes() {
    let keys = ring(&[ONE]);
    let seal = || keys.seal(Purpose::Session, b"c", b"r", b"same");
    assert_ne!(seal(), seal());
    assert_eq!(format!("{keys:?}"), "KeyRing(1 keys)");
}

proptest! {
    #[test]
    fn any_flipped_bit_and_any_cut_spoils_it(
        plain in proptest::collection::vec(any::<u8>(), 0..200),
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let keys = ring(&[ONE, TWO]);
        let sealed = keys.seal(Purpose::Session, b"cookie", b"record", &plain);
        prop_assert_eq!(&keys.open(Purpose::Session, b"cookie", b"record", &sealed).unwrap(), &plain);

        let mut flipped = sealed.clone();
        flipped[at.index(sealed.len())] ^= 1 << bit;
        prop_assert!(keys.open(Purpose::Session, b"cookie", b"record", &flipped).is_err());

        let cut = &sealed[..at.index(sealed.len())];
        prop_assert!(keys.open(Purpose::Session, b"cookie", b"record", cut).is_err());
        let longer = [&sealed[..], &[0]].concat();
        prop_assert!(keys.open(Purpose::Session, b"cookie", b"record", &longer).is_err());
    }

    #[test]
    fn arbitrary_bytes_never_open(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(ring(&[ONE]).open(Purpose::Session, b"", b"", &bytes).is_err());
    }
}

#[test]
fn rings_of_the_same_keys_open_the_same() {
    let one = ring(&[ONE]);
    for (name, other, same) in [
        ("itself", ring(&[ONE]), true),
        ("another", ring(&[TWO]), false),
        ("one more", ring(&[ONE, TWO]), false),
    ] {
        assert_eq!(one.opens_the_same_as(&other), same, "{name}");
        assert_eq!(other.opens_the_same_as(&one), same, "{name}");
    }
    assert!(ring(&[ONE, TWO]).opens_the_same_as(&ring(&[TWO, ONE])));
}
