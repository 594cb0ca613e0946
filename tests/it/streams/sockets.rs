//! Shows that Unix sockets do on both sides what TCP does.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc;

use crate::stage::{PATIENCE, Stage};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_is_listened_on() {
    let mut stage =
        Stage::new(|setup, _| setup.set("listen", json!(["@LISTEN@", "unix:@DIR@/http.sock"])));
    let path = stage.daypass.directory().join("http.sock");
    // A file left behind by a crash is no obstacle.
    stage.daypass.kill();
    assert!(path.exists());
    stage.daypass.restart();
    stage.daypass.wait_ready();
    stage.sign_in().await;
    let mut stream = UnixStream::connect(&path).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    let request = format!(
        "GET /a HTTP/1.1\r\nHost: {}\r\nCookie: {}\r\nX-Forwarded-For: 203.0.113.7\r\nConnection: close\r\n\r\n",
        stage.daypass.authority(),
        stage.cookie()
    );
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = stage.arrived("unix").expect("it arrived");
    crate::stage::assert_jane("unix", &seen);
    // A peer without address is not trusted by having none.
    assert!(
        !seen.header_all("x-forwarded-for").join(",").contains("203"),
        "{seen:?}"
    );
    stage.daypass.term();
    stage.daypass.wait_exit(PATIENCE).expect("it ends");
    assert!(!path.exists(), "the socket's file is left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_behind_a_unix_socket_is_reached() {
    let stage = Stage::signed_in(|setup, _| {
        setup.route_first(
            json!({"name": "unix", "path_prefix": "/unix", "upstream": "unix:@DIR@/app.sock"}),
        )
    })
    .await;
    let path = stage.daypass.directory().join("app.sock");
    let listener = UnixListener::bind(&path).expect("bound");
    let (send, seen) = mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut buffer = [0; 8192];
            let count = stream.read(&mut buffer).unwrap_or(0);
            let _ = send.send(String::from_utf8_lossy(&buffer[..count]).into_owned());
            let _ = stream.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nunix",
            );
        }
    });
    let answer = stage
        .client
        .get(stage.daypass.url("/unix/a?b"))
        .send()
        .await
        .expect("an answer");
    assert_eq!((answer.status, &*answer.text()), (200, "unix"));
    let request = seen.recv_timeout(PATIENCE).expect("a request");
    assert!(
        request.starts_with("GET /unix/a?b HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(
        request
            .to_ascii_lowercase()
            .contains("\r\nauthorization: bearer ey"),
        "no token"
    );
    assert!(
        request
            .to_ascii_lowercase()
            .contains(&format!("\r\nhost: {}\r\n", stage.daypass.authority()))
    );
    std::fs::remove_file(&path).expect("removed");
    let gone = stage
        .client
        .get(stage.daypass.url("/unix/a"))
        .send()
        .await
        .expect("an answer");
    assert_eq!(gone.status, 502);
}
