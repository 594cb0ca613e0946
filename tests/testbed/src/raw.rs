//! Speaks bytes over TCP, for messages that no HTTP library would send or show.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What came back for raw bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// Every byte of the answer.
    pub bytes: Vec<u8>,
    /// The peer closed the connection (and did not merely fall silent).
    pub closed: bool,
}

impl Exchange {
    /// The answer as text, bad bytes replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// Status codes of all answers, in order; empty when nothing came back.
    pub fn statuses(&self) -> Vec<u16> {
        self.text()
            .split("HTTP/1.")
            .skip(1)
            .filter_map(|rest| rest.get(2..5)?.parse().ok())
            .collect()
    }

    /// Status code of the first answer.
    pub fn status(&self) -> Option<u16> {
        self.statuses().first().copied()
    }

    /// Header and decoded body of the first answer.
    pub fn first(&self) -> Option<(String, Vec<u8>)> {
        let end = find(&self.bytes, b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&self.bytes[..end]).into_owned();
        let body = &self.bytes[end + 4..];
        let lower = head.to_ascii_lowercase();
        if lower.contains("\r\ntransfer-encoding: chunked") {
            return Some((head, dechunk(body)));
        }
        let length = lower
            .split("\r\ncontent-length: ")
            .nth(1)
            .and_then(|rest| rest.split("\r\n").next()?.trim().parse::<usize>().ok());
        let body = &body[..length.unwrap_or(body.len()).min(body.len())];
        Some((head, body.to_vec()))
    }
}

/// Sends `bytes` and reads until the peer closes or says nothing for `patience`.
pub fn exchange(address: SocketAddr, bytes: &[u8], patience: Duration) -> Exchange {
    exchange_parts(address, &[bytes], Duration::ZERO, patience)
}

/// Sends `parts` with a pause between them, then reads as [`exchange`] does.
pub fn exchange_parts(
    address: SocketAddr,
    parts: &[&[u8]],
    pause: Duration,
    patience: Duration,
) -> Exchange {
    let mut answer = Exchange {
        bytes: Vec::new(),
        closed: false,
    };
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(5)) else {
        answer.closed = true;
        return answer;
    };
    let _ = stream.set_nodelay(true);
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            std::thread::sleep(pause);
        }
        // The peer may have refused the message half way: its answer is what counts.
        if stream.write_all(part).is_err() {
            break;
        }
    }
    stream
        .set_read_timeout(Some(patience))
        .expect("the patience is not zero");
    let mut buffer = [0_u8; 16 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => answer.closed = true,
            Ok(count) => {
                answer.bytes.extend_from_slice(&buffer[..count]);
                continue;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => {
                answer.closed =
                    !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
            }
        }
        return answer;
    }
}

/// A plain GET on a connection of its own; `None` when nobody answers. For polling without a runtime.
pub fn get(address: SocketAddr, target: &str) -> Option<(u16, String)> {
    let request = format!("GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let answer = exchange(address, request.as_bytes(), Duration::from_secs(5));
    let (_, body) = answer.first()?;
    Some((
        answer.status()?,
        String::from_utf8_lossy(&body).into_owned(),
    ))
}

/// An upstream that records the very bytes it was sent and answers every request header with a canned answer.
#[derive(Debug)]
pub struct Sink {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Sink {
    /// Starts with `answer` for each request; after one that says `Connection: close` the connection is closed.
    pub fn start(answer: &'static [u8]) -> Self {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port is free");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let received = Arc::new(Mutex::new(Vec::new()));
        let sink = Self {
            address,
            received: Arc::clone(&received),
        };
        // The threads end with the test process: they hold nothing but a socket.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let received = Arc::clone(&received);
                std::thread::spawn(move || record(stream, answer, &received));
            }
        });
        sink
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Bytes received so far, one entry a connection.
    pub fn received(&self) -> Vec<Vec<u8>> {
        self.received
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn record(mut stream: TcpStream, answer: &[u8], received: &Mutex<Vec<Vec<u8>>>) {
    let index = {
        let mut all = received.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(Vec::new());
        all.len() - 1
    };
    let close = find(&answer.to_ascii_lowercase(), b"connection: close").is_some();
    let (mut buffer, mut answered) = ([0_u8; 16 * 1024], 0);
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        let headers = {
            let mut all = received.lock().unwrap_or_else(PoisonError::into_inner);
            all[index].extend_from_slice(&buffer[..count]);
            all[index]
                .windows(4)
                .filter(|window| window == b"\r\n\r\n")
                .count()
        };
        while answered < headers {
            answered += 1;
            if stream.write_all(answer).is_err() || close {
                return;
            }
        }
    }
}

/// Repeats `check` every few milliseconds until it gives something; `None` after `limit`.
pub fn wait_for<T>(limit: Duration, mut check: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = check() {
            return Some(value);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

fn dechunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = find(bytes, b"\r\n") {
        let size = std::str::from_utf8(&bytes[..end]).ok();
        let size =
            size.and_then(|text| usize::from_str_radix(text.split(';').next()?.trim(), 16).ok());
        let start = end + 2;
        match size {
            Some(size @ 1..) if bytes.len() >= start + size + 2 => {
                body.extend_from_slice(&bytes[start..start + size]);
                bytes = &bytes[start + size + 2..];
            }
            _ => break,
        }
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunked_answer_is_put_together() {
        let bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n".to_vec();
        let answer = Exchange {
            bytes,
            closed: true,
        };
        assert_eq!(answer.status(), Some(200));
        assert_eq!(answer.first().expect("an answer").1, b"abcde");
    }

    #[test]
    fn the_sink_records_what_it_was_sent_byte_by_byte() {
        let sink = Sink::start(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
        let sent = b"GET /a%2Fb?q=|  HTTP/1.1\r\nhOsT: x\r\n\r\n";
        let answer = exchange(sink.address(), sent, Duration::from_secs(2));
        assert_eq!(answer.statuses(), [204]);
        assert!(answer.closed);
        assert_eq!(sink.received(), [sent.to_vec()]);
    }
}
