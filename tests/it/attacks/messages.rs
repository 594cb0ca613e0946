//! Shows that a message that two servers could read in two ways is refused and ends its connection.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use daypass_testbed::echo::Request;
use daypass_testbed::raw::{exchange_parts, wait_for};

use crate::stage::{PATIENCE, Stage, assert_jane};

/// What must become of a message.
#[derive(Debug, Clone, Copy)]
enum Want {
    /// Refused with this status; the connection ends; nothing arrives.
    Refused(u16),
    /// Refused as soon as the body turns out bad: the connection ends, and the upstream never gets a whole message.
    Broken,
    /// Read leniently by pingora, where none of our code sees the bytes: what arrives is framed anew, and nothing of what
    /// follows is taken for a request.
    Contained,
    /// Arrives once, with a body of this length.
    Arrives(usize),
}

use Want::{Arrives, Broken, Contained, Refused};

/// A POST with these header lines and this body, and a second request behind it that must never be seen.
fn post(lines: &str, body: &str) -> String {
    format!(
        "POST /a HTTP/1.1\r\nHost: @HOST@\r\nCookie: @COOKIE@\r\n{lines}\r\n{body}GET /smuggled HTTP/1.1\r\nHost: @HOST@\r\nCookie: @COOKIE@\r\nConnection: close\r\n\r\n"
    )
}

/// A GET with these header lines.
fn get(lines: &str) -> String {
    format!(
        "GET /a HTTP/1.1\r\nHost: @HOST@\r\nCookie: @COOKIE@\r\n{lines}Connection: close\r\n\r\n"
    )
}

#[expect(clippy::too_many_lines, reason = "a table of rows")]
fn framing() -> Vec<(&'static str, String, Want)> {
    let chunked = "Transfer-Encoding: chunked\r\n";
    vec![
        (
            "Content-Length",
            post("Content-Length: 3\r\nConnection: close\r\n", "abc"),
            Arrives(3),
        ),
        (
            "chunked",
            post(
                &format!("{chunked}Connection: close\r\n"),
                "3\r\nabc\r\n0\r\n\r\n",
            ),
            Arrives(3),
        ),
        (
            "chunked, coding in capitals",
            post(
                "Transfer-Encoding: CHUNKED\r\nConnection: close\r\n",
                "3\r\nabc\r\n0\r\n\r\n",
            ),
            Arrives(3),
        ),
        // RFC 9112 §6.3, PROXY-05.
        (
            "CL and TE",
            post(&format!("Content-Length: 3\r\n{chunked}"), "0\r\n\r\n"),
            Refused(400),
        ),
        (
            "TE and CL",
            post(&format!("{chunked}Content-Length: 3\r\n"), "0\r\n\r\n"),
            Refused(400),
        ),
        (
            "CL zero and TE",
            post(&format!("Content-Length: 0\r\n{chunked}"), "0\r\n\r\n"),
            Refused(400),
        ),
        (
            "CL twice, differing",
            post("Content-Length: 3\r\nContent-Length: 0\r\n", "abc"),
            Refused(400),
        ),
        (
            "CL twice, the same",
            post("Content-Length: 3\r\nContent-Length: 3\r\n", "abc"),
            Refused(400),
        ),
        (
            "CL list",
            post("Content-Length: 3, 3\r\n", "abc"),
            Refused(400),
        ),
        (
            "CL list, differing",
            post("Content-Length: 3, 0\r\n", "abc"),
            Refused(400),
        ),
        (
            "CL plus",
            post("Content-Length: +3\r\n", "abc"),
            Refused(400),
        ),
        (
            "CL minus",
            post("Content-Length: -3\r\n", "abc"),
            Refused(400),
        ),
        ("CL empty", post("Content-Length:\r\n", "abc"), Refused(400)),
        (
            "CL hexadecimal",
            post("Content-Length: 0x3\r\n", "abc"),
            Refused(400),
        ),
        (
            "CL with underscore",
            post("Content-Length: 1_0\r\n", "abc"),
            Refused(400),
        ),
        (
            "CL with fraction",
            post("Content-Length: 3.0\r\n", "abc"),
            Refused(400),
        ),
        (
            "CL with space",
            post("Content-Length: 3 3\r\n", "abc"),
            Refused(400),
        ),
        (
            "CL beyond 64 bits",
            post("Content-Length: 18446744073709551619\r\n", "abc"),
            Refused(400),
        ),
        (
            "CL in another spelling is no CL",
            post(
                "Content-Length: 3\r\nContent_Length: 0\r\nConnection: close\r\n",
                "abc",
            ),
            Arrives(3),
        ),
        (
            "TE not chunked",
            post("Transfer-Encoding: identity\r\n", "abc"),
            Refused(400),
        ),
        (
            "TE gzip, chunked",
            post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
            Refused(400),
        ),
        (
            "TE chunked, gzip",
            post("Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n"),
            Refused(400),
        ),
        (
            "TE chunked, chunked",
            post("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"),
            Refused(400),
        ),
        (
            "TE twice",
            post(&format!("{chunked}{chunked}"), "0\r\n\r\n"),
            Refused(400),
        ),
        (
            "TE twice, one identity",
            post(
                &format!("{chunked}Transfer-Encoding: identity\r\n"),
                "0\r\n\r\n",
            ),
            Refused(400),
        ),
        (
            "TE xchunked",
            post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
            Refused(400),
        ),
        (
            "TE with parameter",
            post("Transfer-Encoding: chunked;q=1\r\n", "0\r\n\r\n"),
            Refused(400),
        ),
        (
            "TE quoted",
            post("Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n"),
            Refused(400),
        ),
        (
            "TE with comma",
            post("Transfer-Encoding: ,chunked\r\n", "0\r\n\r\n"),
            Refused(400),
        ),
        (
            "TE empty",
            post("Transfer-Encoding:\r\n", "0\r\n\r\n"),
            Refused(400),
        ),
        (
            "TE with vertical tab",
            post("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"),
            Refused(400),
        ),
        (
            "TE with space before colon",
            post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
            Refused(400),
        ),
        (
            "TE with tab before colon and CL",
            post(
                "Transfer-Encoding\t: chunked\r\nContent-Length: 3\r\n",
                "abc",
            ),
            Refused(400),
        ),
        (
            "TE folded",
            post("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"),
            Refused(400),
        ),
        (
            "TE after bare LF",
            post(
                "X: y\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n",
                "abc",
            ),
            Refused(400),
        ),
        (
            "TE in HTTP/1.0",
            post(chunked, "0\r\n\r\n").replace(
                "HTTP/1.1\r\nHost: @HOST@\r\nCookie: @COOKIE@\r\nTransfer",
                "HTTP/1.0\r\nHost: @HOST@\r\nCookie: @COOKIE@\r\nTransfer",
            ),
            Refused(400),
        ),
        (
            "CL on GET with a request in it",
            get("Content-Length: 5\r\n") + "GET /",
            Arrives(5),
        ),
        // RFC 9112 §7.1.
        (
            "chunk size with sign",
            post(chunked, "+3\r\nabc\r\n0\r\n\r\n"),
            Broken,
        ),
        (
            "chunk size with 0x",
            post(chunked, "0x3\r\nabc\r\n0\r\n\r\n"),
            Broken,
        ),
        (
            "chunk size empty",
            post(chunked, "\r\nabc\r\n0\r\n\r\n"),
            Contained,
        ),
        (
            "chunk size no number",
            post(chunked, "xyz\r\nabc\r\n0\r\n\r\n"),
            Broken,
        ),
        (
            "chunk size with space",
            post(chunked, "3 3\r\nabc\r\n0\r\n\r\n"),
            Broken,
        ),
        (
            "chunk size beyond 64 bits",
            post(chunked, "10000000000000003\r\nabc\r\n0\r\n\r\n"),
            Broken,
        ),
        (
            "chunk longer than its size",
            post(chunked, "2\r\nabc\r\n0\r\n\r\n"),
            Broken,
        ),
        (
            "chunk lines end in LF",
            post(chunked, "3\nabc\n0\n\n"),
            Broken,
        ),
        (
            "chunk extension with LF",
            post(chunked, "3;\nxx\r\nabc\r\n0\r\n\r\n"),
            Contained,
        ),
        (
            "chunk ends in CR",
            post(chunked, "3\r\nabc\r0\r\n\r\n"),
            Broken,
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table of rows")]
fn heads() -> Vec<(&'static str, String, Want)> {
    let huge = |size: usize| get(&format!("X-Huge: {}\r\n", "a".repeat(size)));
    vec![
        ("plain", get(""), Arrives(0)),
        (
            "empty line before",
            "\r\n".to_owned() + &get(""),
            Arrives(0),
        ),
        (
            "empty lines before",
            "\r\n\r\n".to_owned() + &get(""),
            Arrives(0),
        ),
        (
            "empty line before a fragment",
            "\r\n".to_owned() + &get("").replacen("/a", "/a#/public", 1),
            Refused(400),
        ),
        // PROXY-07.
        ("space before colon", get("X-A : b\r\n"), Refused(400)),
        ("tab before colon", get("X-A\t: b\r\n"), Refused(400)),
        ("space in name", get("X A: b\r\n"), Refused(400)),
        (
            "space before name",
            "GET /a HTTP/1.1\r\n Host: @HOST@\r\nConnection: close\r\n\r\n".to_owned(),
            Refused(400),
        ),
        ("no name", get(": b\r\n"), Refused(400)),
        ("no colon", get("X-A\r\n"), Refused(400)),
        ("obs-fold", get("X-A: b\r\n c\r\n"), Refused(400)),
        (
            "obs-fold with tab",
            get("X-A: b\r\n\tX-User: evil\r\n"),
            Refused(400),
        ),
        ("bare CR", get("X-A: b\rX-User: evil\r\n"), Refused(400)),
        ("bare LF", get("X-A: b\nX-User: evil\r\n"), Refused(400)),
        (
            "bare LF after the request line",
            get("").replacen("\r\n", "\n", 1),
            Refused(400),
        ),
        ("only LFs", get("").replace("\r\n", "\n"), Refused(400)),
        ("NUL in value", get("X-A: b\0c\r\n"), Refused(400)),
        ("NUL in name", get("X\0A: b\r\n"), Refused(400)),
        ("control in value", get("X-A: b\x01c\r\n"), Refused(400)),
        ("DEL in value", get("X-A: b\x7fc\r\n"), Refused(400)),
        ("latin-1 name", get("X-\u{e9}: b\r\n"), Refused(400)),
        // Methods and versions (PROXY-14).
        ("TRACE", get("").replacen("GET", "TRACE", 1), Refused(405)),
        (
            "CONNECT",
            get("").replacen("GET /a", "CONNECT @HOST@", 1),
            Refused(405),
        ),
        (
            "CONNECT to elsewhere",
            get("").replacen("GET /a", "CONNECT evil.example:25", 1),
            Refused(400),
        ),
        (
            "CONNECT with path",
            get("").replacen("GET", "CONNECT", 1),
            Refused(405),
        ),
        (
            "lower-case method",
            get("").replacen("GET", "get", 1),
            Refused(400),
        ),
        (
            "mixed-case method",
            get("").replacen("GET", "Get", 1),
            Refused(400),
        ),
        (
            "unknown method",
            get("").replacen("GET", "BREW", 1),
            Arrives(0),
        ),
        ("no method", get("").replacen("GET ", "", 1), Refused(400)),
        (
            "HTTP/1.0 with Host",
            get("").replacen("HTTP/1.1", "HTTP/1.0", 1),
            Arrives(0),
        ),
        (
            "HTTP/1.0 without Host",
            "GET /a HTTP/1.0\r\nCookie: @COOKIE@\r\n\r\n".to_owned(),
            Refused(400),
        ),
        ("HTTP/0.9", "GET /a\r\n\r\n".to_owned(), Refused(400)),
        (
            "HTTP/1.2",
            get("").replacen("HTTP/1.1", "HTTP/1.2", 1),
            Refused(400),
        ),
        (
            "HTTP/2.0 on the request line",
            get("").replacen("HTTP/1.1", "HTTP/2.0", 1),
            Refused(400),
        ),
        (
            "HTTP/11",
            get("").replacen("HTTP/1.1", "HTTP/11", 1),
            Refused(400),
        ),
        (
            "two spaces",
            get("").replacen("GET /a", "GET  /a", 1),
            Refused(400),
        ),
        (
            "not HTTP",
            "\x16\x03\x01\x02\0\x01\0\x01\r\n\r\n".to_owned(),
            Refused(400),
        ),
        // PROXY-11.
        ("60 KiB of header", huge(60 * 1024), Arrives(0)),
        ("70 KiB of header", huge(70 * 1024), Refused(431)),
        ("500 KiB of header", huge(500 * 1024), Refused(431)),
        ("80 fields", get(&"X-Many: b\r\n".repeat(80)), Arrives(0)),
    ]
}

fn play(stage: &Stage, rows: &[(&str, String, Want)]) {
    let mut wrong = Vec::new();
    let target = |index: usize| format!("/a?{index}");
    for (index, (row, request, want)) in rows.iter().enumerate() {
        let answer = stage.raw(request.replacen("/a", &target(index), 1).as_bytes());
        let (status, closed) = (answer.status(), answer.closed);
        let good = match want {
            Refused(code) => status == Some(*code),
            Broken => status == Some(400),
            Contained => matches!(status, Some(200 | 400)),
            Arrives(_) => status == Some(200),
        };
        if !(good && closed && answer.statuses().len() == 1) {
            wrong.push(format!(
                "{row}: want {want:?}, got {:?}, closed {closed}",
                answer.statuses()
            ));
        }
    }
    // A message that broke off may reach the upstream after its answer: so all are looked at in the end.
    let seen = stage.echo.requests();
    for (index, (row, _, want)) in rows.iter().enumerate() {
        let mine: Vec<_> = seen
            .iter()
            .filter(|seen| seen.target == target(index))
            .collect();
        let good = match (want, &*mine) {
            (Refused(_) | Broken | Contained, []) | (Contained, [_]) => true,
            (Broken, [one]) => one.body_sha256.is_empty(),
            (Arrives(length), [one]) => {
                assert_jane(row, one);
                one.body_length == *length
            }
            _ => false,
        };
        if !good {
            wrong.push(format!("{row}: want {want:?}, arrived {mine:?}"));
        }
    }
    let known = |seen: &Request| (0..rows.len()).any(|index| seen.target == target(index));
    let others: Vec<_> = seen.iter().filter(|seen| !known(seen)).collect();
    assert!(others.is_empty(), "nobody asked for {others:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    stage.echo.forget();
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_one_end_to_a_message() {
    let stage = Stage::signed_in(|setup, _| setup).await;
    play(&stage, &framing());
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_one_reading_of_a_head() {
    let stage = Stage::signed_in(|setup, _| setup).await;
    play(&stage, &heads());
    // 400 or 431: more fields than the parser takes.
    let answer = stage.raw(get(&"X-Many: b\r\n".repeat(2000)).as_bytes());
    assert!(
        matches!(answer.status(), Some(400 | 431)) && answer.closed,
        "{}",
        answer.text()
    );
    assert!(stage.arrived("2000 fields").is_none());
    // And more bytes than it takes.
    let answer = stage.raw(get(&format!("X-Huge: {}\r\n", "a".repeat(3 << 20))).as_bytes());
    assert!(matches!(answer.status(), None | Some(400 | 431)) && answer.closed);
    assert!(stage.arrived("3 MiB").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_that_they_are_not_to_be_kept() {
    // CACHE-01: also those that never got as far as a route.
    let stage = Stage::new(|setup, _| setup);
    for (row, request) in [
        ("bad head", get("X-A : b\r\n")),
        ("bad framing", post("Content-Length: 3, 3\r\n", "abc")),
        (
            "too large",
            get(&format!("X-Huge: {}\r\n", "a".repeat(70 * 1024))),
        ),
        ("bad path", get("").replacen("/a", "/%2f", 1)),
        ("misdirected", get("").replacen("@HOST@", "evil.example", 1)),
        ("bad method", get("").replacen("GET", "TRACE", 1)),
        ("no session", get("")),
    ] {
        let answer = stage.raw(request.as_bytes());
        let head = answer.first().expect(row).0.to_ascii_lowercase();
        assert!(
            head.contains("cache-control:") && head.contains("no-store"),
            "{row}: {head}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_pieces_is_one_request() {
    let stage = Stage::signed_in(|setup, _| setup).await;
    let request = get("").replace("@HOST@", &stage.daypass.authority());
    let request = request.replace("@COOKIE@", &stage.cookie());
    let parts: Vec<&[u8]> = request.as_bytes().chunks(7).collect();
    let answer = exchange_parts(
        stage.daypass.public(),
        &parts,
        Duration::from_millis(1),
        PATIENCE,
    );
    assert_eq!(answer.statuses(), [200]);
    assert_jane("pieces", &stage.arrived("pieces").expect("it arrived"));
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_and_half_open_connections_take_nothing_from_others() {
    let stage = Stage::signed_in(|setup, _| setup).await;
    let before = stage.daypass.resident_bytes();
    let authority = stage.daypass.authority();
    let starts: [&[u8]; 4] = [
        b"",
        b"G",
        b"GET /a HTTP/1.1\r\nHost: ",
        b"POST /public/a HTTP/1.1\r\nHost: @HOST@\r\nContent-Length: 1000\r\n\r\nabc",
    ];
    let held: Vec<TcpStream> = (0..400)
        .map(|index| {
            let mut stream = TcpStream::connect(stage.daypass.public()).expect("accepted");
            let text =
                String::from_utf8_lossy(starts[index % starts.len()]).replace("@HOST@", &authority);
            stream.write_all(text.as_bytes()).expect("sent");
            stream
        })
        .collect();
    // A request half sent goes up as far as it is there.
    let half = wait_for(PATIENCE, || (stage.echo.count() >= 100).then_some(()));
    assert!(half.is_some(), "{} of 100 arrived", stage.echo.count());
    stage.echo.forget();
    for _ in 0..20 {
        let answer = stage.raw_get(b"/a", "Cookie: @COOKIE@\r\n");
        assert_eq!(answer.status(), Some(200));
        assert_jane(
            "beside 400",
            &stage.arrived("beside 400").expect("it arrived"),
        );
    }
    let grown = stage.daypass.resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "400 connections took {} KiB", grown >> 10);
    drop(held);
}
