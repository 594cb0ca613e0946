//! Shows that only a whole, unaltered session cookie is one, that ours never travel on, and that others travel untouched.

use crate::stage::{Stage, assert_jane, assert_nobody};

/// What must become of a `Cookie` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    /// A session.
    Jane,
    /// No session.
    Nobody,
}

use Want::{Jane, Nobody};

#[tokio::test(flavor = "multi_thread")]
async fn only_the_whole_cookie_is_a_session() {
    let stage = Stage::signed_in(|setup, _| setup).await;
    let good = stage.cookie();
    let (name, value) = good.split_once('=').expect("a pair");
    // A session of somebody else's browser that was ended, so that its cookie is of the right form only.
    let other = {
        let mut bytes = value.as_bytes().to_vec();
        bytes.rotate_left(1);
        String::from_utf8(bytes).expect("ASCII")
    };
    let flipped = |at: usize| {
        let mut bytes = value.as_bytes().to_vec();
        // One bit of the alphabet: A and B, a and b, 0 and 1 differ in it.
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(bytes).expect("ASCII")
    };
    // The last character of 32 bytes in base64url carries two bits that must be zero: another spelling of the same bytes.
    let last = value.chars().last().expect("a character");
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let place = alphabet.find(last).expect("base64url");
    let alias = &alphabet[place + 1..place + 2];
    let cut = &value[..value.len() - 1];
    let rows: Vec<(&str, String, Want)> = vec![
        ("as given", good.clone(), Jane),
        ("among others", format!("a=1; {good}; b=2"), Jane),
        ("no space between", format!("a=1;{good};b=2"), Jane),
        ("space around", format!("  {name} = {value}  "), Jane),
        ("none", "a=1".to_owned(), Nobody),
        ("empty header", String::new(), Nobody),
        ("empty value", format!("{name}="), Nobody),
        ("no value", name.to_owned(), Nobody),
        ("truncated by one", format!("{name}={cut}"), Nobody),
        (
            "truncated to half",
            format!("{name}={}", &value[..20]),
            Nobody,
        ),
        ("one character more", format!("{good}A"), Nobody),
        ("padded", format!("{good}="), Nobody),
        ("first flipped", format!("{name}={}", flipped(0)), Nobody),
        ("middle flipped", format!("{name}={}", flipped(20)), Nobody),
        (
            "another spelling of the same bytes",
            format!("{name}={cut}{alias}"),
            Nobody,
        ),
        ("of the right form only", format!("{name}={other}"), Nobody),
        ("quoted", format!("{name}=\"{value}\""), Nobody),
        (
            "percent-encoded",
            format!("{name}=%{:02X}{}", value.as_bytes()[0], &value[1..]),
            Nobody,
        ),
        (
            "lower case",
            format!("{name}={}", value.to_ascii_lowercase()),
            Nobody,
        ),
        (
            "name in capitals",
            format!("{}={value}", name.to_ascii_uppercase()),
            Nobody,
        ),
        ("name with prefix", format!("x{good}"), Nobody),
        ("nameless", format!("={good}"), Nobody),
        ("in another cookie's value", format!("a={good}"), Nobody),
        (
            "oversized",
            format!("{name}={}", "A".repeat(20_000)),
            Nobody,
        ),
        ("not ASCII", format!("{name}={value}\u{e9}"), Nobody),
        // COOKIE-07: a good one among bad ones counts, whichever comes first.
        ("bad one first", format!("{name}={other}; {good}"), Jane),
        ("bad one last", format!("{good}; {name}={other}"), Jane),
        ("junk first", format!("{name}=junk; {name}=; {good}"), Jane),
        ("twice the same", format!("{good}; {good}"), Jane),
    ];
    for (row, header, want) in rows {
        let answer = stage.raw_get(b"/a", &format!("Cookie: {header}\r\n"));
        let seen = stage.arrived(row);
        match want {
            Jane => {
                assert_eq!(answer.status(), Some(200), "{row}: {}", answer.text());
                assert_jane(row, &seen.expect(row));
            }
            Nobody => {
                assert_eq!(answer.status(), Some(401), "{row}: {}", answer.text());
                assert!(seen.is_none(), "{row}");
            }
        }
    }
    // All that left the session alone.
    let answer = stage.raw_get(b"/a", "Cookie: @COOKIE@\r\n");
    assert_eq!(answer.status(), Some(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_of_two_people_cannot_be_mixed() {
    let stage = Stage::signed_in(|setup, _| setup).await;
    let jane = stage.cookie();
    stage
        .provider
        .configure(|settings| settings.user = "john".to_owned());
    let john = daypass_testbed::client::Client::new();
    john.browse(stage.daypass.url("/oauth2/login"))
        .await
        .expect("a login");
    let name = jane.split('=').next().unwrap_or_default().to_owned();
    let john_value = john.jar().find(&name).expect("a session").value.clone();
    let jane_value = jane.split('=').nth(1).unwrap_or_default();
    let half = jane_value.len() / 2;
    stage.echo.forget();
    for (row, value) in [
        (
            "Jane's head, John's tail",
            format!("{}{}", &jane_value[..half], &john_value[half..]),
        ),
        (
            "John's head, Jane's tail",
            format!("{}{}", &john_value[..half], &jane_value[half..]),
        ),
        ("both", format!("{jane_value}{john_value}")),
    ] {
        let answer = stage.raw_get(b"/a", &format!("Cookie: {name}={value}\r\n"));
        assert_eq!(answer.status(), Some(401), "{row}");
        assert!(stage.arrived(row).is_none(), "{row}");
    }
    let answer = stage.raw_get(b"/a", &format!("Cookie: {name}={john_value}\r\n"));
    assert_eq!(answer.status(), Some(200));
    let seen = stage.arrived("John").expect("it arrived");
    assert_eq!(seen.header_all("x-user"), ["248289761002"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ours_stay_here_and_others_arrive_byte_for_byte() {
    let stage = Stage::signed_in(|setup, _| setup).await;
    let good = stage.cookie();
    let (name, value) = good.split_once('=').expect("a pair");
    // Every cookie of ours in the jar, the one that binds logins included.
    let ours: Vec<(String, String)> = stage
        .client
        .jar()
        .cookies()
        .iter()
        .filter(|cookie| cookie.name.contains("daypass"))
        .map(|cookie| (cookie.name.clone(), cookie.value.clone()))
        .collect();
    let rows: Vec<(&str, String, Option<String>)> = vec![
        ("only ours", good.clone(), None),
        ("one before", format!("a=1; {good}"), Some("a=1".to_owned())),
        ("one after", format!("{good}; a=1"), Some("a=1".to_owned())),
        (
            "around",
            format!("a=1; {good}; b=2"),
            Some("a=1; b=2".to_owned()),
        ),
        (
            "odd values",
            format!("q=\"x y\"; {good}; e=; =n; f; g=a=b==; h=%3B"),
            Some("q=\"x y\"; e=; =n; f; g=a=b==; h=%3B".to_owned()),
        ),
        (
            "no space",
            format!("a=1;{good};b=2"),
            Some("a=1;b=2".to_owned()),
        ),
        (
            "alike, but not ours",
            format!("x{good}; {name}2=x; {good}"),
            Some(format!("x{good}; {name}2=x")),
        ),
        (
            "ours twice",
            format!("{good}; a=1; {name}=junk"),
            Some("a=1".to_owned()),
        ),
        (
            "ours in capitals",
            format!("{good}; {}=x; a=1", name.to_ascii_uppercase()),
            Some("a=1".to_owned()),
        ),
        (
            "ours quoted by a neighbour",
            format!("a=\"1; {good}; b=2\""),
            Some("a=\"1; b=2\"".to_owned()),
        ),
        (
            "latin-1",
            format!("a=\u{e9}; {good}"),
            Some("a=\u{e9}".to_owned()),
        ),
        (
            "two headers",
            format!("a=1; {good}\r\nCookie: b=2"),
            Some("a=1; b=2".to_owned()),
        ),
    ];
    for (row, header, want) in rows {
        let answer = stage.raw_get(b"/a", &format!("Cookie: {header}\r\n"));
        assert_eq!(answer.status(), Some(200), "{row}: {}", answer.text());
        let seen = stage.arrived(row).expect(row);
        assert_eq!(
            seen.header_all("cookie"),
            want.iter().map(String::as_str).collect::<Vec<_>>(),
            "{row}"
        );
        // The same on a public route, where nobody looks at the session.
        let answer = stage.raw_get(b"/public/a", &format!("Cookie: {header}\r\n"));
        assert_eq!(answer.status(), Some(200), "{row}");
        let seen = stage.arrived(row).expect(row);
        assert_nobody(row, &seen);
        assert_eq!(
            seen.header_all("cookie"),
            want.iter().map(String::as_str).collect::<Vec<_>>(),
            "{row}, public"
        );
    }
    for (name, secret) in &ours {
        let answer = stage.raw_get(b"/public/a", &format!("Cookie: {name}={secret}; a=1\r\n"));
        assert_eq!(answer.status(), Some(200), "{name}");
        let seen = stage.arrived(name).expect("it arrived");
        assert_eq!(seen.header_all("cookie"), ["a=1"], "{name}");
        assert!(!format!("{seen:?}").contains(secret.as_str()), "{name}");
    }
    assert!(ours.iter().any(|(_, secret)| secret == value));
}
