//! Is the upstream: tells, byte by byte, what arrived at its door.

mod page;
mod routes;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::host::{Host, Wire};
use crate::pki::Issued;

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct Request {
    /// Method.
    pub method: String,
    /// Path and query, untouched.
    pub target: String,
    /// `HTTP/1.1`, `HTTP/2.0`, …
    pub version: String,
    /// `:authority` or absolute-form authority, if there was one.
    pub authority: Option<String>,
    /// Header lines, names in lower case, duplicates kept, values as latin-1 where they are not UTF-8.
    pub headers: Vec<(String, String)>,
    /// Bytes of the body; 0 until it has arrived.
    pub body_length: usize,
    /// SHA-256 of the body in hex, once it has arrived.
    pub body_sha256: String,
    /// When the header arrived.
    pub at: Instant,
    /// The other end of its connection: equal for requests on one connection.
    pub peer: Option<SocketAddr>,
}

impl Request {
    /// Values of a header.
    pub fn header_all(&self, name: &str) -> Vec<&str> {
        let fitting = self.headers.iter().filter(|(key, _)| key == name);
        fitting.map(|(_, value)| value.as_str()).collect()
    }

    /// First value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.header_all(name).first().copied()
    }

    /// The token of `Authorization: Bearer …`.
    pub fn bearer(&self) -> Option<&str> {
        self.header("authorization")?.strip_prefix("Bearer ")
    }

    fn json(&self) -> Value {
        json!({
            "method": self.method, "target": self.target, "version": self.version,
            "authority": self.authority, "headers": self.headers,
            "body_length": self.body_length, "body_sha256": self.body_sha256,
        })
    }
}

/// A running echo upstream; stops when dropped.
#[derive(Debug)]
pub struct Echo {
    shared: Arc<Shared>,
    http1: SocketAddr,
    h2c: SocketAddr,
    tls: Option<SocketAddr>,
    certificate: Option<Issued>,
    host: Option<Host>,
}

#[derive(Debug, Default)]
struct Shared {
    requests: Mutex<Seen>,
    ended: Mutex<Vec<Duration>>,
}

/// The latest requests.
#[derive(Debug, Default)]
struct Seen {
    /// How many were forgotten before the first that is kept.
    forgotten: usize,
    kept: Vec<Request>,
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, request: Request) -> usize {
        let mut seen = self.seen();
        seen.kept.push(request);
        seen.forgotten + seen.kept.len() - 1
    }

    fn complete(&self, index: usize, length: usize, sha256: String) -> Option<Request> {
        let mut seen = self.seen();
        // Requests may have been forgotten meanwhile.
        let index = index.checked_sub(seen.forgotten)?;
        let request = seen.kept.get_mut(index)?;
        request.body_length = length;
        request.body_sha256 = sha256;
        Some(request.clone())
    }
}

impl Echo {
    /// Starts on free ports: HTTP/1.1 and HTTP/2 with prior knowledge.
    pub fn start() -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), None)
    }

    /// Starts with a TLS port (ALPN `h2` and `http/1.1`) beside the plain ones.
    pub fn with_tls(certificate: &Issued) -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), Some(certificate.clone()))
    }

    /// Starts with HTTP/1.1 at a given address.
    pub fn start_at(http1: SocketAddr, certificate: Option<Issued>) -> Self {
        let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
        let mut echo = Self {
            shared: Arc::default(),
            http1,
            h2c: any,
            tls: None,
            certificate,
            host: None,
        };
        if echo.certificate.is_some() {
            echo.tls = Some(any);
        }
        echo.resume();
        echo
    }

    /// URL of the HTTP/1.1 port, without trailing slash.
    pub fn url(&self) -> String {
        format!("http://{}", self.http1)
    }

    /// URL of the HTTP/2 port in daypass's words: `h2c://…`.
    pub fn h2c_url(&self) -> String {
        format!("h2c://{}", self.h2c)
    }

    /// URL of the TLS port, by the name `localhost`.
    pub fn tls_url(&self) -> String {
        let port = self.tls.expect("this upstream was started with TLS").port();
        format!("https://localhost:{port}")
    }

    /// Address of the HTTP/1.1 port.
    pub fn address(&self) -> SocketAddr {
        self.http1
    }

    /// Requests so far, in the order their headers arrived.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.seen().kept.clone()
    }

    /// Requests from the `first` on, counted from the start (forgotten ones are left out), and how many there were in all.
    pub fn since(&self, first: usize) -> (Vec<Request>, usize) {
        let seen = self.shared.seen();
        let skip = first.saturating_sub(seen.forgotten).min(seen.kept.len());
        let all = seen.forgotten + seen.kept.len();
        (seen.kept[skip..].to_vec(), all)
    }

    /// Forgets all but the latest `keep`, so that a long run does not fill the memory.
    pub fn trim(&self, keep: usize) {
        let mut seen = self.shared.seen();
        let gone = seen.kept.len().saturating_sub(keep);
        seen.kept.drain(..gone);
        seen.forgotten += gone;
    }

    /// The latest request.
    pub fn last(&self) -> Option<Request> {
        self.requests().pop()
    }

    /// Number of requests so far.
    pub fn count(&self) -> usize {
        self.shared.seen().kept.len()
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        self.trim(0);
    }

    /// How long each WebSocket and event stream that ended had lived.
    pub fn ended_streams(&self) -> Vec<Duration> {
        self.shared
            .ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Refuses connections from here on.
    pub fn stop(&mut self) {
        if let Some(mut host) = self.host.take() {
            host.stop();
        }
    }

    /// Listens again on the same ports.
    pub fn resume(&mut self) {
        if self.host.is_some() {
            return;
        }
        let host = Host::new("echo");
        let serve = |address: SocketAddr, wire: Wire| {
            let shared = Arc::clone(&self.shared);
            host.serve(address, wire, move |request| {
                routes::answer(Arc::clone(&shared), request)
            })
        };
        self.http1 = serve(self.http1, Wire::Http1);
        self.h2c = serve(self.h2c, Wire::H2c);
        if let (Some(address), Some(certificate)) = (self.tls, &self.certificate) {
            self.tls = Some(serve(address, Wire::Tls(certificate.server_config())));
        }
        self.host = Some(host);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::Message;

    use super::*;
    use crate::client::Client;

    #[tokio::test]
    async fn duplicates_and_odd_targets_arrive_as_sent() {
        let echo = Echo::start();
        let call = Client::new()
            .post(echo.url())
            .target("/a//b/..%2fc?x=%20&&y")
            .body("hello");
        let seen = call
            .header("x-two", "1")
            .header("x-two", "2")
            .send()
            .await
            .expect("an answer")
            .json();
        assert_eq!(seen["target"], "/a//b/..%2fc?x=%20&&y");
        assert_eq!(seen["body_length"], 5);
        assert_eq!(
            seen["body_sha256"],
            "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
        );
        assert_eq!(
            echo.last().expect("a request").header_all("x-two"),
            ["1", "2"]
        );
    }

    #[tokio::test]
    async fn what_is_trimmed_is_still_counted() {
        let echo = Echo::start();
        for path in ["/1", "/2", "/3"] {
            let call = Client::new().get(format!("{}{path}", echo.url()));
            assert_eq!(call.send().await.expect("an answer").status, 200);
        }
        echo.trim(1);
        let targets = |first| {
            let (requests, all) = echo.since(first);
            let targets = requests.into_iter().map(|request| request.target);
            (targets.collect::<Vec<_>>(), all)
        };
        assert_eq!(targets(0), (vec!["/3".to_owned()], 3));
        assert_eq!(targets(3), (vec![], 3));
    }

    #[tokio::test]
    async fn http2_and_tls_ports_speak_what_they_say() {
        let authority = crate::pki::Authority::new();
        let echo = Echo::with_tls(&authority.issue(&["localhost", "127.0.0.1"]));
        let url = echo.h2c_url().replace("h2c", "http");
        let seen = Client::http2()
            .get(url)
            .send()
            .await
            .expect("an answer")
            .json();
        assert_eq!(seen["version"], "HTTP/2.0");
        let client = Client::trusting(&authority.pem);
        let seen = client
            .get(echo.tls_url())
            .send()
            .await
            .expect("an answer")
            .json();
        assert_eq!(seen["version"], "HTTP/2.0");
        assert!(Client::new().get(echo.tls_url()).send().await.is_err());
    }

    #[tokio::test]
    async fn special_paths_do_what_their_names_say() {
        let echo = Echo::start();
        let client = Client::new();
        let get = async |path: &str| client.get(format!("{}{path}", echo.url())).send().await;
        assert_eq!(get("/status/503").await.expect("an answer").status, 503);
        assert_eq!(
            get("/big?bytes=300000")
                .await
                .expect("an answer")
                .body
                .len(),
            300_000
        );
        let answer = get("/headers?x-a=1&x-a=2").await.expect("an answer");
        assert_eq!(answer.header_all("x-a"), ["1", "2"]);
        // hyper sends trailers to those only who say that they want them (RFC 9110 §6.5.1).
        let call = client
            .get(format!("{}/trailers", echo.url()))
            .header("te", "trailers");
        let trailers = call
            .send()
            .await
            .expect("an answer")
            .trailers
            .expect("trailers");
        assert_eq!(trailers["x-trailer"], "last");
        assert!(get("/reset").await.is_err());
        assert!(get("/reset?after=10").await.is_err());
        get("/set-cookie?a=b").await.expect("an answer");
        assert_eq!(
            client
                .jar()
                .find("a")
                .map(|cookie| cookie.value.clone())
                .as_deref(),
            Some("b")
        );
        let mut stream = client
            .get(format!("{}/sse?ms=10", echo.url()))
            .stream()
            .await
            .expect("an answer");
        for count in 0..3 {
            let event = stream.next().await.expect("no error").expect("an event");
            assert_eq!(event, format!("id: {count}\ndata: tick {count}\n\n"));
        }
    }

    #[tokio::test]
    async fn websocket_messages_come_back() {
        let echo = Echo::start();
        let client = Client::new();
        let mut socket = client
            .websocket(&format!("{}/ws", echo.url()), &[])
            .await
            .expect("a WebSocket");
        socket.send(Message::text("hello")).await.expect("sent");
        let back = socket.next().await.expect("open").expect("a message");
        assert_eq!(back, Message::text("hello"));
        assert_eq!(
            echo.last().expect("a request").header("upgrade"),
            Some("websocket")
        );
    }

    #[tokio::test]
    async fn a_browser_gets_a_page_that_shows_a_fingerprint_and_no_token() {
        let echo = Echo::start();
        let call = Client::new()
            .navigate(echo.url())
            .header("authorization", "Bearer e30.e30.signature-of-it");
        let page = call
            .header("x-user", "<jane>")
            .send()
            .await
            .expect("an answer")
            .text();
        assert!(
            page.contains("&lt;jane&gt;") && page.contains("id=\"fingerprint\""),
            "{page}"
        );
        assert!(!page.contains("signature-of-it"), "{page}");
    }
}
