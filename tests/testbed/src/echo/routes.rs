//! Answers: an echo for most paths, special behaviour for a few.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, Stream, StreamExt};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::{Shared, page};
use crate::host::{Answer, Body, Cut, full, json, respond};

pub(super) async fn answer(shared: Arc<Shared>, mut request: Request<Incoming>) -> Answer {
    let seen = describe(&request);
    let query: Vec<(String, String)> =
        form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes())
            .into_owned()
            .collect();
    let number = |name: &str, default: u64| {
        let found = query.iter().find(|(key, _)| key == name);
        found
            .and_then(|(_, value)| value.parse().ok())
            .unwrap_or(default)
    };
    let path = request.uri().path().to_owned();
    let html = wants_html(request.headers());
    let index = shared.record(seen);
    if path == "/ws" && request.headers().contains_key("sec-websocket-key") {
        return Ok(websocket(&shared, &mut request));
    }
    if path == "/sse" {
        return Ok(events(
            &shared,
            Duration::from_millis(number("ms", 100).max(1)),
            number("count", u64::MAX),
            query.iter().any(|(key, _)| key == "grpc"),
        ));
    }
    if path == "/early" {
        // Answers without reading the body, as a server that refuses an upload does.
        return Ok(respond(413, "text/plain", "too large"));
    }
    let (length, sha256) = digest(request.into_body()).await?;
    let seen = shared.complete(index, length, sha256);
    tokio::time::sleep(Duration::from_millis(number("ms", 0))).await;
    if let Some(status) = path
        .strip_prefix("/status/")
        .and_then(|status| status.parse().ok())
    {
        return Ok(respond(status, "text/plain", format!("status {status}")));
    }
    let size = |name| usize::try_from(number(name, 0)).unwrap_or(0);
    Ok(match path.as_str() {
        "/big" => streamed(chunks(size("bytes"))),
        "/reset" if size("after") > 0 => {
            let mut response =
                streamed(chunks(size("after")).chain(futures_util::stream::once(cut())));
            response
                .headers_mut()
                .insert("content-length", (size("after") + 1000).into());
            response
        }
        "/reset" => return Err(Cut),
        "/trailers" => trailers(),
        "/set-cookie" => with_headers(
            query
                .iter()
                .map(|(name, value)| ("set-cookie".to_owned(), format!("{name}={value}"))),
        ),
        "/headers" => with_headers(query.into_iter()),
        "/unauthorized" => {
            let mut response = respond(401, "text/plain", "the upstream wants another token");
            let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
            response.headers_mut().insert("www-authenticate", challenge);
            response
        }
        _ => match seen {
            Some(seen) if html => respond(200, "text/html; charset=utf-8", page::echo(&seen)),
            Some(seen) => json(200, &seen.json()),
            None => respond(200, "text/plain", "the test forgot this request"),
        },
    })
}

fn describe(request: &Request<Incoming>) -> super::Request {
    let uri = request.uri();
    let headers = request.headers().iter();
    super::Request {
        method: request.method().to_string(),
        target: uri
            .path_and_query()
            .map_or_else(|| uri.to_string(), ToString::to_string),
        version: format!("{:?}", request.version()),
        authority: uri.authority().map(ToString::to_string),
        headers: headers
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect(),
        body_length: 0,
        body_sha256: String::new(),
        at: Instant::now(),
        peer: request
            .extensions()
            .get::<crate::host::Peer>()
            .map(|peer| peer.0),
    }
}

fn text(value: &HeaderValue) -> String {
    let bytes = value.as_bytes();
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|&byte| char::from(byte)).collect(),
    }
}

/// `text/html` is named before JSON: a browser, not a script.
fn wants_html(headers: &HeaderMap) -> bool {
    let accept = headers
        .get("accept")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let place = |kind: &str| accept.find(kind).unwrap_or(usize::MAX);
    place("text/html") < place("application/json")
}

async fn digest(mut body: Incoming) -> Result<(usize, String), Cut> {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame.map_err(|_| Cut)?.data_ref() {
            context.update(data);
            length += data.len();
        }
    }
    Ok((length, page::hex(context.finish().as_ref())))
}

fn streamed(
    frames: impl Stream<Item = Result<Frame<Bytes>, Cut>> + Send + 'static,
) -> Response<Body> {
    let body = BodyExt::boxed_unsync(StreamBody::new(frames));
    let mut response = Response::new(body);
    response.headers_mut().insert(
        "content-type",
        HeaderValue::from_static("application/octet-stream"),
    );
    response
}

fn chunks(bytes: usize) -> impl Stream<Item = Result<Frame<Bytes>, Cut>> {
    static ZEROS: [u8; 16 * 1024] = [b'x'; 16 * 1024];
    let sizes = (0..bytes.div_ceil(ZEROS.len()))
        .map(move |index| (bytes - index * ZEROS.len()).min(ZEROS.len()));
    futures_util::stream::iter(
        sizes.map(|size| Ok(Frame::data(Bytes::from_static(&ZEROS[..size])))),
    )
}

/// Breaks the connection, a moment after what came before has left.
async fn cut() -> Result<Frame<Bytes>, Cut> {
    tokio::time::sleep(Duration::from_millis(20)).await;
    Err(Cut)
}

fn trailers() -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-trailer", HeaderValue::from_static("last"));
    let frames = [
        Ok(Frame::data(Bytes::from_static(b"body"))),
        Ok(Frame::trailers(trailers)),
    ];
    let mut response = streamed(futures_util::stream::iter(frames));
    // Over HTTP/1.1 hyper sends trailers only if they are announced and the request has `TE: trailers`.
    response
        .headers_mut()
        .insert("trailer", HeaderValue::from_static("x-trailer"));
    response
}

fn with_headers(lines: impl Iterator<Item = (String, String)>) -> Response<Body> {
    let mut response = Response::new(full("ok"));
    for (name, value) in lines {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

fn events(shared: &Arc<Shared>, pause: Duration, count: u64, grpc: bool) -> Response<Body> {
    let life = Life::begin(shared);
    let events = futures_util::stream::unfold((0_u64, life), move |(index, life)| async move {
        if index >= count {
            return None;
        }
        if index > 0 {
            tokio::time::sleep(pause).await;
        }
        let event = format!("id: {index}\ndata: tick {index}\n\n");
        Some((Ok(Frame::data(Bytes::from(event))), (index + 1, life)))
    });
    let mut response = streamed(events);
    let kind = if grpc {
        // What it looks like to a proxy: messages without end.
        "application/grpc"
    } else {
        "text/event-stream"
    };
    response
        .headers_mut()
        .insert("content-type", HeaderValue::from_static(kind));
    response
}

fn websocket(shared: &Arc<Shared>, request: &mut Request<Incoming>) -> Response<Body> {
    let key = request
        .headers()
        .get("sec-websocket-key")
        .map(|key| derive_accept_key(key.as_bytes()));
    let upgrade = hyper::upgrade::on(request);
    let life = Life::begin(shared);
    tokio::spawn(async move {
        let _life = life;
        let Ok(stream) = upgrade.await else { return };
        let mut socket =
            WebSocketStream::from_raw_socket(TokioIo::new(stream), Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                break;
            }
        }
    });
    let mut response = Response::new(full(""));
    *response.status_mut() = hyper::StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert("upgrade", HeaderValue::from_static("websocket"));
    headers.insert("connection", HeaderValue::from_static("Upgrade"));
    if let Some(key) = key.and_then(|key| HeaderValue::try_from(key).ok()) {
        headers.insert("sec-websocket-accept", key);
    }
    response
}

/// Notes how long a stream lived, when it is dropped.
struct Life {
    shared: Arc<Shared>,
    began: Instant,
}

impl Life {
    fn begin(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            began: Instant::now(),
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let mut ended = self
            .shared
            .ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        ended.push(self.began.elapsed());
    }
}
