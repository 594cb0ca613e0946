//! Shows that every path has one spelling or none: PATH-01, PATH-02, REG-02, REG-03.

use proptest::prelude::*;

use super::*;

fn canonical(raw: &str) -> Result<String, PathError> {
    CanonicalPath::parse(raw.as_bytes()).map(|path| path.as_str().to_owned())
}

#[test]
fn paths_take_their_one_spelling() {
    for (name, raw, want) in [
        ("root", "/", "/"),
        ("plain", "/a/b.html", "/a/b.html"),
        ("trailing slash stays", "/a/", "/a/"),
        (
            "every pchar stays",
            "/!$&'()*+,;=:@-._~",
            "/!$&'()*+,;=:@-._~",
        ),
        ("unreserved escapes go", "/%61%2D%2e%5F%7e%30", "/a-._~0"),
        (
            "reserved escapes stay, in upper case",
            "/a%3ab%3b%26",
            "/a%3Ab%3B%26",
        ),
        (
            "escaped percent stays once (no double decoding)",
            "/%2561",
            "/%2561",
        ),
        (
            "double-escaped dots are no dots",
            "/%252e%252e/a",
            "/%252e%252e/a",
        ),
        (
            "escaped ? and # are part of the path (REG-02, REG-03)",
            "/a%3fb%23c",
            "/a%3Fb%23c",
        ),
        ("duplicate slashes", "//a///b//", "/a/b/"),
        ("dot segments", "/a/./b/../c", "/a/c"),
        ("escaped dot segments", "/a/%2e/b/%2E%2e/c", "/a/c"),
        ("half-escaped dot segment", "/a/b/.%2e/c", "/a/c"),
        ("dot segment at the end", "/a/.", "/a/"),
        ("double dot at the end", "/a/b/..", "/a/"),
        ("up to the root", "/a/..", "/"),
        ("slashes collapse before dots resolve", "/a//../b", "/b"),
        ("three dots are a name", "/.../a", "/.../a"),
        ("a name that starts with dots", "/..a/.b", "/..a/.b"),
        ("parameters stay", "/a;v=1/b", "/a;v=1/b"),
        ("raw UTF-8 is escaped", "/é", "/%C3%A9"),
        ("escaped UTF-8 stays, in upper case", "/%c3%a9", "/%C3%A9"),
        ("astral plane", "/\u{1F511}", "/%F0%9F%94%91"),
        (
            "space and what browsers send raw",
            "/a b|[c]^",
            "/a%20b%7C%5Bc%5D%5E",
        ),
        ("fullwidth slash is a letter", "/\u{FF0F}a", "/%EF%BC%8Fa"),
    ] {
        assert_eq!(canonical(raw).as_deref(), Ok(want), "{name}");
    }
}

#[test]
fn ambiguous_paths_are_refused() {
    use PathError::{BadEscape, DottedParameters, EscapesRoot, Forbidden, NoLeadingSlash, NotUtf8};
    for (name, raw, want) in [
        ("empty", &b""[..], NoLeadingSlash),
        ("no slash", b"a", NoLeadingSlash),
        ("asterisk-form", b"*", NoLeadingSlash),
        ("absolute-form (PATH-02)", b"http://h/a", NoLeadingSlash),
        ("escaped slash (PATH-01)", b"/a%2fb", Forbidden),
        ("escaped slash in upper case", b"/a%2Fb", Forbidden),
        ("escaped traversal", b"/assets/..%2fadmin", Forbidden),
        ("backslash", b"/a\\b", Forbidden),
        ("escaped backslash", b"/a%5cb", Forbidden),
        ("backslash traversal", b"/assets/..\\admin", Forbidden),
        ("raw fragment (REG-03)", b"/admin#/assets/", Forbidden),
        ("raw query (REG-02)", b"/admin?/assets/", Forbidden),
        ("NUL", b"/a\0", Forbidden),
        ("escaped NUL", b"/a%00.css", Forbidden),
        ("CR", b"/a\rb", Forbidden),
        ("escaped LF", b"/a%0Ab", Forbidden),
        ("tab", b"/\t/a", Forbidden),
        ("DEL", b"/%7f", Forbidden),
        ("C1 control", b"/%c2%85", Forbidden),
        ("lone percent", b"/%", BadEscape),
        ("cut escape", b"/%6", BadEscape),
        ("bad escape", b"/%zz", BadEscape),
        ("IIS escape", b"/%u002e", BadEscape),
        ("overlong dot", b"/%c0%ae%c0%ae/", NotUtf8),
        ("overlong slash", b"/a%c0%afb", NotUtf8),
        ("overlong slash, three octets", b"/a%e0%80%afb", NotUtf8),
        ("surrogate", b"/%ed%a0%80", NotUtf8),
        ("Latin-1", b"/caf\xe9", NotUtf8),
        ("lone continuation", b"/%80", NotUtf8),
        ("cut sequence", b"/%c3", NotUtf8),
        ("cut sequence before a slash", b"/%c3/a", NotUtf8),
        ("above the root", b"/..", EscapesRoot),
        ("above the root, deeper", b"/a/../../b", EscapesRoot),
        ("above the root, escaped", b"/%2e%2e/b", EscapesRoot),
        ("above the root behind slashes", b"//../b", EscapesRoot),
        ("dot segment with parameters", b"/a/..;/b", DottedParameters),
        ("with a parameter", b"/a/..;x=1/b", DottedParameters),
        ("single dot with parameters", b"/a/.;/b", DottedParameters),
        (
            "escaped dots with parameters",
            b"/a/%2e%2e;/b",
            DottedParameters,
        ),
        ("escaped semicolon", b"/a/..%3b/b", DottedParameters),
        ("at the end", b"/a/..;", DottedParameters),
    ] {
        assert_eq!(CanonicalPath::parse(raw).err(), Some(want), "{name}");
    }
}

#[test]
fn long_paths_are_refused_as_sent_and_as_written() {
    let just = format!("/{}", "a".repeat(MAX_PATH - 1));
    assert_eq!(canonical(&just).as_deref(), Ok(&*just));
    assert_eq!(canonical(&format!("{just}a")), Err(PathError::TooLong));
    let swelling = format!("/{}", "é".repeat(MAX_PATH / 3));
    assert_eq!(canonical(&swelling), Err(PathError::TooLong));
    let slashes = "/".repeat(MAX_PATH);
    assert_eq!(canonical(&slashes).as_deref(), Ok("/"));
}

#[test]
fn canonical_paths_are_borrowed() {
    for raw in ["/", "/a/b/", "/a;v=1/%C3%A9/%3A", "/.well-known/x"] {
        let path = CanonicalPath::parse(raw.as_bytes()).unwrap();
        assert!(matches!(path.0, Cow::Borrowed(_)), "{raw}");
    }
}

#[test]
fn below_takes_whole_segments() {
    for (path, prefix, want) in [
        ("/oauth2/login", "/oauth2", Some("/login")),
        ("/oauth2", "/oauth2", Some("")),
        ("/oauth2x", "/oauth2", None),
        ("/x", "/", Some("/x")),
        ("/oauth2;x/login", "/oauth2", None),
    ] {
        let path = CanonicalPath::parse(path.as_bytes()).unwrap();
        assert_eq!(path.below(prefix), want, "{path:?} {prefix}");
    }
}

/// Byte strings made of what attacks are made of.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"/".to_vec()),
        Just(b".".to_vec()),
        Just(b"..".to_vec()),
        Just(b"%2e".to_vec()),
        Just(b";".to_vec()),
        Just(b"%3b".to_vec()),
        Just(b"%2f".to_vec()),
        Just(b"%25".to_vec()),
        Just(b"%c3%a9".to_vec()),
        Just("é".as_bytes().to_vec()),
        Just(b"a".to_vec()),
        Just(b"%61".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..3),
    ];
    proptest::collection::vec(piece, 0..24)
        .prop_map(|pieces| [b"/".to_vec(), pieces.concat()].concat())
}

proptest! {
    #[test]
    fn canonical_form_is_a_fixed_point_without_ambiguity(raw in hostile()) {
        if let Ok(path) = CanonicalPath::parse(&raw) {
            let text = path.as_str();
            prop_assert!(text.starts_with('/') && text.is_ascii());
            prop_assert!(!text.contains("//") && !text.contains(['\\', '?', '#']));
            let lower = text.to_ascii_lowercase();
            for bad in ["%2f", "%5c", "%00", "%0a", "%2e", "%61"] {
                prop_assert!(!lower.contains(bad), "{text}");
            }
            for segment in text.split('/') {
                let cut = segment.split(';').next().unwrap_or_default();
                prop_assert!(cut != "." && cut != "..", "{text}");
            }
            let again = CanonicalPath::parse(text.as_bytes()).unwrap();
            prop_assert_eq!(again.as_str(), text);
            prop_assert!(matches!(again.0, Cow::Borrowed(_)), "canonical paths are not copied");
        }
    }

    #[test]
    fn borrowing_and_rebuilding_agree(raw in hostile()) {
        let rebuilt = rebuild(&raw);
        if is_canonical(&raw) {
            prop_assert_eq!(rebuilt.map(String::into_bytes), Ok(raw));
        } else if let Ok(text) = rebuilt {
            prop_assert_ne!(text.into_bytes(), raw);
        }
    }
}
