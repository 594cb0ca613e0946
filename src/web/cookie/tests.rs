//! Shows that our cookies stop here and come from here only: COOKIE-01, COOKIE-04..11.

use proptest::prelude::*;

use super::*;

const OURS: &[&str] = &["__Host-daypass", "__Host-daypass-login"];

fn request(fields: &[&str]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for field in fields {
        map.append(COOKIE, HeaderValue::from_bytes(field.as_bytes()).unwrap());
    }
    map
}

#[test]
fn cookies_are_found_wherever_they_are() {
    for (name, fields, want) in [
        ("alone", &["__Host-daypass=v"][..], &["v"][..]),
        ("among others", &["a=b; __Host-daypass=v;c=d"], &["v"]),
        ("no space", &["a=b;__Host-daypass=v"], &["v"]),
        (
            "split by HTTP/2 (COOKIE-11)",
            &["a=b", "__Host-daypass=v", "c=d"],
            &["v"],
        ),
        (
            "several (COOKIE-07)",
            &["__Host-daypass=v; __Host-daypass=w", "__Host-daypass=x"],
            &["v", "w", "x"],
        ),
        ("value with =", &["__Host-daypass=v=w"], &["v=w"]),
        ("empty", &["__Host-daypass="], &[""]),
        ("longer name", &["__Host-daypass-login=v"], &[]),
        ("shorter name", &["__Host-daypas=v"], &[]),
        ("names have case", &["__host-daypass=v"], &[]),
        ("no value", &["__Host-daypass"], &[]),
        ("in a value", &["a=__Host-daypass=v"], &[]),
        ("nameless", &["=__Host-daypass=v"], &[]),
        ("value that is no ASCII", &["__Host-daypass=é"], &[]),
        ("value with space", &["__Host-daypass=v w"], &[]),
        ("none", &[], &[]),
    ] {
        let map = request(fields);
        assert_eq!(
            find(&map, "__Host-daypass").collect::<Vec<_>>(),
            want,
            "{name}"
        );
    }
}

#[test]
fn our_cookies_are_taken_out_and_others_stay() {
    for (name, fields, want) in [
        ("alone", &["__Host-daypass=v"][..], None),
        ("both", &["__Host-daypass=v; __Host-daypass-login=w"], None),
        ("first", &["__Host-daypass=v; a=b; c=d"], Some("a=b; c=d")),
        ("middle", &["a=b; __Host-daypass=v; c=d"], Some("a=b; c=d")),
        ("last", &["a=b; c=d; __Host-daypass=v"], Some("a=b; c=d")),
        (
            "every copy",
            &["__Host-daypass=v; a=b; __Host-daypass=w"],
            Some("a=b"),
        ),
        ("case", &["__HOST-DAYPASS=v; a=b"], Some("a=b")),
        (
            "space around the name",
            &["a=b;  __Host-daypass =v"],
            Some("a=b"),
        ),
        ("tab", &["a=b;\t__Host-daypass\t=v"], Some("a=b")),
        ("quoted name", &["a=b; \"__Host-daypass\"=v"], Some("a=b")),
        ("quoted value", &["__Host-daypass=\"v\"; a=b"], Some("a=b")),
        ("value with =", &["__Host-daypass=v=w; a=b"], Some("a=b")),
        ("without value", &["__Host-daypass; a=b"], Some("a=b")),
        (
            "cookie sandwich",
            &["$Version=1; a=\"b; __Host-daypass=v; c=d\""],
            Some("$Version=1; a=\"b; c=d\""),
        ),
        (
            "others byte for byte",
            &["a=\"x y\";b;;=c; d = e ;__Host-daypass=v;é=ü"],
            Some("a=\"x y\";b;;=c; d = e ;é=ü"),
        ),
        (
            "split by HTTP/2",
            &["a=b", "__Host-daypass=v", "c=d; e=f"],
            Some("a=b; c=d; e=f"),
        ),
        (
            "split, none of ours (COOKIE-11)",
            &["a=b", "c=d"],
            Some("a=b; c=d"),
        ),
        (
            "look-alikes stay",
            &["daypass=v; __Host-daypass2=w"],
            Some("daypass=v; __Host-daypass2=w"),
        ),
        (
            "none of ours stays as it is",
            &["a=b;c=d ; "],
            Some("a=b;c=d ; "),
        ),
        ("only semicolons left", &[";; __Host-daypass=v;"], None),
        ("no cookie", &[], None),
    ] {
        let mut map = request(fields);
        strip(&mut map, OURS);
        let got: Vec<_> = map
            .get_all(COOKIE)
            .iter()
            .map(HeaderValue::as_bytes)
            .collect();
        let want: Vec<_> = want.iter().map(|want| want.as_bytes()).collect();
        assert_eq!(got, want, "{name}");
    }
}

#[test]
fn upstreams_cannot_set_our_cookies() {
    for (name, value, want) in [
        ("ours (COOKIE-08)", "__Host-daypass=v; Path=/", true),
        ("clearing it", "__Host-daypass=; Max-Age=0", true),
        ("case", "__host-DAYPASS=v", true),
        ("space", " \t__Host-daypass \t= v", true),
        ("nameless", "=__Host-daypass=v", true),
        ("nameless twice", " = =__Host-daypass=v", true),
        ("quoted", "\"__Host-daypass\"=v", true),
        ("without value", "__Host-daypass", true),
        ("the login cookie", "__Host-daypass-login=v", true),
        ("theirs", "sid=__Host-daypass=v", false),
        (
            "theirs with ours as attribute",
            "sid=v; __Host-daypass=x",
            false,
        ),
        ("look-alike without prefix", "daypass=v", false),
        ("longer", "__Host-daypass2=v", false),
        ("empty", "", false),
    ] {
        assert_eq!(names_cookie(value.as_bytes(), OURS), want, "{name}");
    }
}

fn cookie<'a>() -> SetCookie<'a> {
    SetCookie {
        name: "__Host-daypass",
        value: "v",
        domain: None,
        same_site: SameSite::Lax,
        secure: true,
        max_age: None,
    }
}

#[test]
fn cookies_are_written_with_all_they_need() {
    for (name, cookie, want) in [
        (
            "session (COOKIE-01)",
            cookie(),
            "__Host-daypass=v; Path=/; Secure; HttpOnly; SameSite=Lax",
        ),
        (
            "max-age",
            SetCookie {
                max_age: Some(Duration::from_secs(900)),
                ..cookie()
            },
            "__Host-daypass=v; Path=/; Max-Age=900; Secure; HttpOnly; SameSite=Lax",
        ),
        (
            "max-age is capped (COOKIE-09)",
            SetCookie {
                max_age: Some(Duration::MAX),
                ..cookie()
            },
            "__Host-daypass=v; Path=/; Max-Age=34560000; Secure; HttpOnly; SameSite=Lax",
        ),
        (
            "plain http on loopback",
            SetCookie {
                name: "daypass",
                secure: false,
                same_site: SameSite::Strict,
                ..cookie()
            },
            "daypass=v; Path=/; HttpOnly; SameSite=Strict",
        ),
        (
            "domain",
            SetCookie {
                name: "__Secure-daypass",
                domain: Some("example.com"),
                same_site: SameSite::None,
                ..cookie()
            },
            "__Secure-daypass=v; Path=/; Domain=example.com; Secure; HttpOnly; SameSite=None",
        ),
        (
            "no domain with __Host-",
            SetCookie {
                domain: Some("example.com"),
                ..cookie()
            },
            "__Host-daypass=v; Path=/; Secure; HttpOnly; SameSite=Lax",
        ),
        (
            "nothing can be injected",
            SetCookie {
                value: "v; Domain=evil\r\nx: y, é\"",
                ..cookie()
            },
            "__Host-daypass=v%3B%20Domain=evil%0D%0Ax:%20y%2C%20%C3%A9%22; Path=/; Secure; HttpOnly; SameSite=Lax",
        ),
    ] {
        let value = cookie.to_value();
        assert_eq!(value, want, "{name}");
        assert!(value.is_sensitive(), "{name}");
    }
    assert_eq!(
        cookie().clear(),
        "__Host-daypass=; Path=/; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Secure; HttpOnly; SameSite=Lax"
    );
    assert!(
        !format!(
            "{:?}",
            SetCookie {
                value: "s3cr3t",
                ..cookie()
            }
        )
        .contains("s3cr3t")
    );
}

#[test]
fn configured_cookies_take_the_configured_attributes() {
    let config = model::Cookie {
        name: "__Secure-daypass".into(),
        login_name: "__Host-daypass-login".into(),
        domain: Some("example.com".into()),
        same_site: SameSite::Strict,
        secure: true,
    };
    // COOKIE-05: a session cookie is far below 200 bytes.
    let session = SetCookie::session(&config, &"x".repeat(43), None).to_value();
    assert!(session.len() < 200);
    assert!(
        session
            .to_str()
            .unwrap()
            .ends_with("Domain=example.com; Secure; HttpOnly; SameSite=Strict")
    );
    // COOKIE-04: the login cookie survives the provider's redirect.
    let login = SetCookie::login(&config, "x", Some(Duration::from_secs(900))).to_value();
    assert_eq!(
        login,
        "__Host-daypass-login=x; Path=/; Max-Age=900; Secure; HttpOnly; SameSite=Lax"
    );
}

proptest! {
    #[test]
    fn stripping_removes_ours_and_nothing_else(
        pieces in proptest::collection::vec(
            prop_oneof![
                Just("__Host-daypass=v".to_owned()),
                Just(" \t__HOST-daypass-LOGIN = \"w\"".to_owned()),
                "[ -:<-~]{0,8}",
                "[a-c_]{1,3}=[!-:<-~]{0,6}",
            ],
            0..8,
        ),
        split in any::<bool>(),
    ) {
        let fields: Vec<String> = if split { pieces.clone() } else { vec![pieces.join(";")] };
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        let mut map = request(&fields);
        let before: Vec<Vec<u8>> = map
            .get_all(COOKIE)
            .iter()
            .flat_map(|field| pairs(field.as_bytes()).map(<[u8]>::to_vec).collect::<Vec<_>>())
            .filter(|pair| !is_ours(pair, OURS) && !pair.trim_ascii().is_empty())
            .map(|pair| pair.trim_ascii().to_vec())
            .collect();
        strip(&mut map, OURS);
        prop_assert!(map.get_all(COOKIE).iter().count() <= 1);
        let after: Vec<Vec<u8>> = map
            .get_all(COOKIE)
            .iter()
            .flat_map(|field| pairs(field.as_bytes()).map(<[u8]>::to_vec).collect::<Vec<_>>())
            .filter(|pair| !pair.trim_ascii().is_empty())
            .map(|pair| pair.trim_ascii().to_vec())
            .collect();
        prop_assert_eq!(after, before);
        for ours in OURS {
            prop_assert_eq!(find(&map, ours).count(), 0);
        }
    }
}
