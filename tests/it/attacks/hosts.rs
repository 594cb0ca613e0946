//! Shows that only our own names are answered to, and that nobody but a trusted proxy speaks for a client.

use serde_json::json;

use crate::stage::Stage;

#[expect(clippy::too_many_lines, reason = "a table of rows")]
#[tokio::test(flavor = "multi_thread")]
async fn only_our_own_names_are_answered_to() {
    let stage = Stage::signed_in(|setup, _| setup).await;
    let authority = stage.daypass.authority();
    let (ip, port) = authority.split_once(':').expect("a port");
    let get = |target: &str, lines: &str| {
        format!("GET {target} HTTP/1.1\r\n{lines}Cookie: @COOKIE@\r\nConnection: close\r\n\r\n")
    };
    let rows: Vec<(&str, String, u16)> = vec![
        ("ours", get("/a", "Host: @HOST@\r\n"), 200),
        (
            "header name in capitals",
            get("/a", "HOST: @HOST@\r\n"),
            200,
        ),
        (
            "absolute-form, the same",
            get("http://@HOST@/a", "Host: @HOST@\r\n"),
            200,
        ),
        // 421 (RFC 9110 §15.5.20, PROXY-13).
        ("foreign", get("/a", "Host: evil.example\r\n"), 421),
        (
            "foreign, our port",
            get("/a", &format!("Host: evil.example:{port}\r\n")),
            421,
        ),
        ("other port", get("/a", &format!("Host: {ip}:1\r\n")), 421),
        ("no port", get("/a", &format!("Host: {ip}\r\n")), 421),
        (
            "trailing dot",
            get("/a", &format!("Host: {ip}.:{port}\r\n")),
            421,
        ),
        ("sub-domain", get("/a", "Host: x.@HOST@\r\n"), 421),
        ("IPv6", get("/a", &format!("Host: [::1]:{port}\r\n")), 421),
        (
            "localhost",
            get("/a", &format!("Host: localhost:{port}\r\n")),
            421,
        ),
        (
            "foreign on a public route",
            get("/public/a", "Host: evil.example\r\n"),
            421,
        ),
        (
            "foreign on our endpoint",
            get("/oauth2/login", "Host: evil.example\r\n"),
            421,
        ),
        // 400: no one way to read it (RFC 9112 §3.2, PROXY-07).
        ("missing", get("/a", ""), 400),
        ("missing, absolute-form", get("http://@HOST@/a", ""), 400),
        ("empty", get("/a", "Host:\r\n"), 400),
        ("twice", get("/a", "Host: @HOST@\r\nHost: @HOST@\r\n"), 400),
        (
            "twice, foreign first",
            get("/a", "Host: evil.example\r\nHost: @HOST@\r\n"),
            400,
        ),
        (
            "twice, foreign last",
            get("/a", "Host: @HOST@\r\nhost: evil.example\r\n"),
            400,
        ),
        ("a list", get("/a", "Host: @HOST@, evil.example\r\n"), 400),
        (
            "user information",
            get("/a", "Host: evil.example@@HOST@\r\n"),
            400,
        ),
        (
            "user information after",
            get("/a", "Host: @HOST@@evil.example\r\n"),
            400,
        ),
        (
            "port with sign",
            get("/a", &format!("Host: {ip}:+{port}\r\n")),
            400,
        ),
        (
            "port with zero",
            get("/a", &format!("Host: {ip}:0\r\n")),
            400,
        ),
        ("port with junk", get("/a", "Host: @HOST@x\r\n"), 400),
        (
            "port too large",
            get("/a", &format!("Host: {ip}:6{port}\r\n")),
            400,
        ),
        ("path", get("/a", "Host: @HOST@/evil\r\n"), 400),
        (
            "escape",
            get("/a", &format!("Host: 127%2e0.0.1:{port}\r\n")),
            400,
        ),
        (
            "space inside",
            get("/a", "Host: @HOST@ evil.example\r\n"),
            400,
        ),
        (
            "absolute-form, another",
            get("http://evil.example/a", "Host: @HOST@\r\n"),
            400,
        ),
        (
            "absolute-form, foreign Host",
            get("http://@HOST@/a", "Host: evil.example\r\n"),
            400,
        ),
        (
            "absolute-form, other port",
            get(&format!("http://{ip}:1/a"), "Host: @HOST@\r\n"),
            400,
        ),
        (
            "absolute-form, user information",
            get("http://u:p@@HOST@/a", "Host: @HOST@\r\n"),
            400,
        ),
        // Nobody but a trusted proxy may name another host, and none makes a foreign one ours.
        (
            "X-Forwarded-Host makes a foreign one ours",
            get("/a", "Host: evil.example\r\nX-Forwarded-Host: @HOST@\r\n"),
            421,
        ),
        (
            "X-Forwarded-Host makes ours foreign",
            get("/a", "Host: @HOST@\r\nX-Forwarded-Host: evil.example\r\n"),
            200,
        ),
        (
            "Forwarded makes ours foreign",
            get("/a", "Host: @HOST@\r\nForwarded: host=evil.example\r\n"),
            200,
        ),
        (
            "X-Host",
            get(
                "/a",
                "Host: @HOST@\r\nX-Host: evil.example\r\nX-Original-Host: evil.example\r\n",
            ),
            200,
        ),
    ];
    let mut wrong = Vec::new();
    for (row, request, want) in rows {
        let answer = stage.raw(request.as_bytes());
        let seen = stage.arrived(row);
        if answer.status() != Some(want) || seen.is_some() != (want == 200) || !answer.closed {
            wrong.push(format!(
                "{row}: want {want}, got {:?} {seen:?}",
                answer.status()
            ));
        }
        if want != 200 {
            // A refusal names the stranger nowhere: no redirect, no link is made of it (PROXY-13).
            let text = answer.text();
            assert!(
                !text.contains("evil.example")
                    && !text.to_ascii_lowercase().contains("\r\nlocation:"),
                "{row}: {text}"
            );
        }
        if let Some(seen) = seen {
            assert_eq!(seen.header_all("x-forwarded-host"), [&*authority], "{row}");
            assert_eq!(seen.header_all("host"), [&*authority], "{row}");
            assert!(
                seen.header("forwarded").is_none() && seen.header("x-original-host").is_none(),
                "{row}"
            );
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What a hop before us may say.
const CLAIMED: &str = "X-Forwarded-For: 203.0.113.7, 198.51.100.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 443\r\n\
    X-Forwarded-Uri: /public\r\nX-Real-IP: 203.0.113.7\r\nX-Forwarded: for=1\r\nForwarded: for=203.0.113.7;proto=https\r\n\
    X_Forwarded_For: 203.0.113.8\r\nX.Forwarded.For: 203.0.113.8\r\nx_real_ip: 203.0.113.8\r\nX-Original-URL: /public\r\n\
    X-Rewrite-URL: /public\r\nX-Forwarded-Client-Cert: By=evil\r\nX-Request-Id: from-the-client\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn strangers_cannot_say_where_they_come_from() {
    let stage = Stage::signed_in(|setup, _| setup).await;
    for (row, path) in [("session", "/a"), ("public", "/public/a")] {
        let answer = stage.raw_get(path.as_bytes(), &format!("{CLAIMED}Cookie: @COOKIE@\r\n"));
        assert_eq!(answer.status(), Some(200), "{row}: {}", answer.text());
        let seen = stage.arrived(row).expect(row);
        // HDR-01, HDR-05.
        assert_eq!(seen.header_all("x-forwarded-for"), ["127.0.0.1"], "{row}");
        assert_eq!(seen.header_all("x-forwarded-proto"), ["http"], "{row}");
        assert_eq!(
            seen.header_all("x-forwarded-host"),
            [&*stage.daypass.authority()],
            "{row}"
        );
        let text = format!("{:?}", seen.headers);
        for word in [
            "203.0.113",
            "198.51.100",
            "https",
            "/public",
            "evil",
            "from-the-client",
        ] {
            let path_itself = row == "public" && word == "/public";
            assert!(
                path_itself || !text.contains(word),
                "{row}: {word} arrived: {text}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_is_believed_as_far_as_it_goes() {
    let stage = Stage::signed_in(|setup, _| {
        setup.set("trusted_proxies", json!(["127.0.0.0/8", "198.51.100.0/24"]))
    })
    .await;
    let answer = stage.raw_get(b"/a", &format!("{CLAIMED}Cookie: @COOKIE@\r\n"));
    assert_eq!(answer.status(), Some(200), "{}", answer.text());
    let seen = stage.arrived("trusted").expect("it arrived");
    assert_eq!(
        seen.header_all("x-forwarded-for"),
        ["203.0.113.7, 198.51.100.9, 127.0.0.1"]
    );
    assert_eq!(seen.header_all("x-forwarded-proto"), ["https"]);
    assert_eq!(seen.header_all("x-request-id"), ["from-the-client"]);
    // Spellings that no honest proxy writes go even then.
    assert!(
        !format!("{:?}", seen.headers).contains("203.0.113.8"),
        "{:?}",
        seen.headers
    );
    // The log names the rightmost hop that is not trusted (HDR-04).
    let line = stage
        .daypass
        .wait_for_log(
            &["from-the-client", "client.address"],
            crate::stage::PATIENCE,
        )
        .expect("an access log line");
    assert!(line.contains("203.0.113.7"), "{line}");
    // What it says the host was must still be ours.
    for (row, line, want) in [
        ("ours", "X-Forwarded-Host: @HOST@\r\n", 200),
        ("foreign", "X-Forwarded-Host: evil.example\r\n", 421),
        (
            "the nearest counts",
            "X-Forwarded-Host: evil.example, @HOST@\r\n",
            200,
        ),
        (
            "the nearest counts, foreign",
            "X-Forwarded-Host: @HOST@, evil.example\r\n",
            421,
        ),
    ] {
        let answer = stage.raw_get(b"/a", &format!("{line}Cookie: @COOKIE@\r\n"));
        assert_eq!(answer.status(), Some(want), "{row}: {}", answer.text());
        assert_eq!(stage.arrived(row).is_some(), want == 200, "{row}");
    }
}
