//! Makes requests as a browser or an API client would: with a cookie jar, and no redirect followed unless told to.

mod form;
mod jar;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryFutureExt;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::net::TcpStream;

use url::Url;

pub use form::Form;
pub use jar::{Cookie, Jar};
pub use tokio_tungstenite::{WebSocketStream, tungstenite};

use crate::Failure;
use crate::pki::Issued;

/// Redirects followed before giving up.
const HOPS: usize = 20;

/// A client with its own cookies and connections; clones share both.
#[derive(Debug, Clone)]
pub struct Client {
    pool: Pool<HttpsConnector<HttpConnector>, Full<Bytes>>,
    jar: Arc<Mutex<Jar>>,
}

impl Client {
    /// HTTP/1.1 (HTTP/2 where ALPN offers it), trusting no certificate.
    pub fn new() -> Self {
        Self::build(None, false)
    }

    /// Trusts certificates by the authority in `ca_pem`.
    pub fn trusting(ca_pem: &str) -> Self {
        Self::build(Some(ca_pem), false)
    }

    /// As [`Client::trusting`], and shows a certificate of its own.
    pub fn with_certificate(ca_pem: &str, own: &Issued) -> Self {
        Self::over(crate::pki::client_config(Some(ca_pem), Some(own)), false)
    }

    /// HTTP/2 only, with prior knowledge on plain connections.
    pub fn http2() -> Self {
        Self::build(None, true)
    }

    fn build(ca_pem: Option<&str>, http2_only: bool) -> Self {
        Self::over(crate::pki::client_config(ca_pem, None), http2_only)
    }

    fn over(tls: rustls::ClientConfig, http2_only: bool) -> Self {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(5)));
        let tls = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(connector);
        let pool = Pool::builder(TokioExecutor::new())
            .http2_only(http2_only)
            .build(tls);
        Self {
            pool,
            jar: Arc::default(),
        }
    }

    /// A client with a copy of this one's cookies, and connections of its own.
    #[must_use]
    pub fn twin(&self) -> Self {
        let twin = Self::new();
        *twin.jar() = self.jar().clone();
        twin
    }

    /// The cookies.
    pub fn jar(&self) -> MutexGuard<'_, Jar> {
        self.jar.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request to build on.
    pub fn request(&self, method: Method, url: impl AsRef<str>) -> Call {
        let url =
            Url::parse(url.as_ref()).unwrap_or_else(|error| panic!("{}: {error}", url.as_ref()));
        Call {
            client: self.clone(),
            method,
            url,
            target: None,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            via: None,
            cookies: true,
            timeout: Duration::from_mins(1),
        }
    }

    /// A GET as scripts and API clients send it.
    pub fn get(&self, url: impl AsRef<str>) -> Call {
        self.request(Method::GET, url)
    }

    /// A POST.
    pub fn post(&self, url: impl AsRef<str>) -> Call {
        self.request(Method::POST, url)
    }

    /// A GET as a browser sends it when a link is followed.
    pub fn navigate(&self, url: impl AsRef<str>) -> Call {
        self.get(url).navigation()
    }

    /// Opens `url` as a browser does and follows redirects, across hosts, to the page at the end.
    pub async fn browse(&self, url: impl AsRef<str>) -> Result<Response, Failure> {
        self.navigate(url).follow().await
    }

    /// Sends a form as a browser does when its button is pressed, and follows redirects.
    pub async fn submit(&self, form: &Form) -> Result<Response, Failure> {
        let fields = form
            .fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        if form.post {
            let origin = form.action.origin().ascii_serialization();
            let call = self
                .post(&form.action)
                .navigation()
                .header("origin", origin);
            return call.form(fields).follow().await;
        }
        let mut url = form.action.clone();
        url.query_pairs_mut().clear().extend_pairs(fields);
        self.browse(url).await
    }

    /// Opens a WebSocket with our cookies and these extra headers; the answer's status if it is refused.
    pub async fn websocket(
        &self,
        url: &str,
        headers: &[(&str, &str)],
    ) -> Result<WebSocketStream<TcpStream>, WebSocketRefused> {
        use tokio_tungstenite::tungstenite::{Error, client::IntoClientRequest};
        let other = |error: String| WebSocketRefused {
            status: None,
            error,
        };
        let page = Url::parse(url).map_err(|error| other(error.to_string()))?;
        let socket = url.replacen("http", "ws", 1);
        let mut request = socket
            .into_client_request()
            .map_err(|error| other(error.to_string()))?;
        if let Some(cookies) = self.jar().header(&page) {
            request.headers_mut().insert("cookie", value(&cookies));
        }
        for (name, text) in headers {
            request.headers_mut().insert(header(name), value(text));
        }
        let host = page.host_str().unwrap_or_default();
        let port = page.port_or_known_default().unwrap_or(80);
        let stream = TcpStream::connect((host, port))
            .map_err(|error| other(error.to_string()))
            .await?;
        match tokio_tungstenite::client_async(request, stream).await {
            Ok((socket, _)) => Ok(socket),
            Err(Error::Http(response)) => Err(WebSocketRefused {
                status: Some(response.status().as_u16()),
                error: String::new(),
            }),
            Err(error) => Err(other(error.to_string())),
        }
    }
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

/// Why there is no WebSocket.
#[derive(Debug, Clone)]
pub struct WebSocketRefused {
    /// Status of the answer, if there was one.
    pub status: Option<u16>,
    /// What else went wrong.
    pub error: String,
}

/// A request in the making.
#[derive(Debug, Clone)]
#[must_use]
pub struct Call {
    client: Client,
    method: Method,
    url: Url,
    target: Option<String>,
    headers: HeaderMap,
    body: Bytes,
    via: Option<SocketAddr>,
    cookies: bool,
    timeout: Duration,
}

impl Call {
    /// Adds a header line (several of one name are possible).
    pub fn header(mut self, name: &str, text: impl AsRef<[u8]>) -> Self {
        let value =
            HeaderValue::from_bytes(text.as_ref()).expect("the test's header value is valid");
        self.headers.append(header(name), value);
        self
    }

    /// Sends what a browser sends when a link is followed.
    pub fn navigation(self) -> Self {
        self.header(
            "accept",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        )
        .header("sec-fetch-mode", "navigate")
        .header("sec-fetch-dest", "document")
        .header("sec-fetch-site", "none")
        .header("upgrade-insecure-requests", "1")
    }

    /// Sends this body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends a form.
    pub fn form<'a>(self, fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let body = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(fields)
            .finish();
        self.header("content-type", "application/x-www-form-urlencoded")
            .body(body)
    }

    /// Sends this request target as it stands, dot segments and all.
    pub fn target(mut self, target: &str) -> Self {
        self.target = Some(target.to_owned());
        self
    }

    /// Connects to `address` while asking for the URL's host (as `curl --connect-to`): one replica of many.
    pub fn via(mut self, address: SocketAddr) -> Self {
        self.via = Some(address);
        self
    }

    /// Sends no cookies and keeps none.
    pub fn without_cookies(mut self) -> Self {
        self.cookies = false;
        self
    }

    /// Gives up after this long.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// Sends it and reads the whole answer.
    pub async fn send(self) -> Result<Response, Failure> {
        let timeout = self.timeout;
        let url = self.url.clone();
        let whole = async {
            let streaming = self.stream().await?;
            let (version, status, headers) =
                (streaming.version, streaming.status, streaming.headers);
            let collected = streaming.body.collect().await?;
            let trailers = collected.trailers().cloned();
            Ok(Response {
                url,
                version,
                status,
                headers,
                body: collected.to_bytes(),
                trailers,
            })
        };
        tokio::time::timeout(timeout, whole)
            .await
            .map_err(|_| "no whole answer in time")?
    }

    /// Sends it and follows redirects as a browser does, across hosts.
    pub async fn follow(self) -> Result<Response, Failure> {
        let client = self.client.clone();
        let (via, host) = (self.via, self.url.origin());
        let mut response = self.send().await?;
        for _ in 0..HOPS {
            let Some(location) = response.location() else {
                return Ok(response);
            };
            let mut next = client.navigate(&location);
            next.via = via.filter(|_| next.url.origin() == host);
            response = next.send().await?;
        }
        Err(format!("more than {HOPS} redirects, the last to {}", response.url).into())
    }

    /// Sends it and gives the answer's header, with the body still to come.
    pub async fn stream(self) -> Result<Streaming, Failure> {
        let mut wire = self.url.clone();
        wire.set_fragment(None);
        let authority = match self.via {
            Some(address) => address.to_string(),
            None => wire.authority().to_owned(),
        };
        let target = self
            .target
            .clone()
            .unwrap_or_else(|| wire[url::Position::BeforePath..].to_owned());
        let mut request = Request::builder()
            .method(self.method)
            .uri(format!("{}://{authority}{target}", wire.scheme()))
            .body(Full::new(self.body))?;
        *request.headers_mut() = self.headers;
        if self.via.is_some() && !request.headers().contains_key("host") {
            request
                .headers_mut()
                .insert("host", value(wire.authority()));
        }
        let jar_cookies = self.client.jar().header(&self.url).filter(|_| self.cookies);
        if let Some(cookies) = jar_cookies
            && !request.headers().contains_key("cookie")
        {
            request.headers_mut().insert("cookie", value(&cookies));
        }
        let sent = tokio::time::timeout(self.timeout, self.client.pool.request(request)).await;
        let response = sent.map_err(|_| "no answer in time")??;
        let (head, body) = response.into_parts();
        if self.cookies {
            for line in head.headers.get_all("set-cookie") {
                self.client
                    .jar()
                    .store(&self.url, &String::from_utf8_lossy(line.as_bytes()));
            }
        }
        Ok(Streaming {
            version: head.version,
            status: head.status.as_u16(),
            headers: head.headers,
            body,
        })
    }
}

/// An answer whose body is still on its way.
#[derive(Debug)]
pub struct Streaming {
    /// HTTP version.
    pub version: hyper::Version,
    /// Status.
    pub status: u16,
    /// Header.
    pub headers: HeaderMap,
    /// Body.
    pub body: Incoming,
}

impl Streaming {
    /// The next piece of the body; `Ok(None)` at its proper end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// What was asked for.
    pub url: Url,
    /// HTTP version.
    pub version: hyper::Version,
    /// Status.
    pub status: u16,
    /// Header.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// Trailers.
    pub trailers: Option<HeaderMap>,
}

impl Response {
    /// First value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// All values of a header.
    pub fn header_all(&self, name: &str) -> Vec<String> {
        let values = self.headers.get_all(name).iter();
        values
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect()
    }

    /// Body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Body as JSON; fails the test with the body when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!("{} {}: {error}: {}", self.status, self.url, self.text())
        })
    }

    /// Where a redirect leads, made absolute.
    pub fn location(&self) -> Option<String> {
        let location = self
            .header("location")
            .filter(|_| (300..400).contains(&self.status))?;
        Some(self.url.join(location).ok()?.into())
    }
}

fn header(name: &str) -> HeaderName {
    HeaderName::from_bytes(name.as_bytes()).expect("the test's header name is valid")
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("the value is a header value")
}
