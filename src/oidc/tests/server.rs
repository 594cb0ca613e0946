//! A little HTTP server that answers as it was told and remembers what it was asked.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A request as it came in.
#[derive(Debug, Clone)]
pub(in crate::oidc) struct Received {
    pub(in crate::oidc) method: String,
    pub(in crate::oidc) path: String,
    pub(in crate::oidc) headers: HashMap<String, String>,
    pub(in crate::oidc) body: String,
}

impl Received {
    /// Parameters of the form, in order.
    pub(in crate::oidc) fn form(&self) -> Vec<(String, String)> {
        form_urlencoded::parse(self.body.as_bytes())
            .into_owned()
            .collect()
    }

    /// One parameter of the form.
    pub(in crate::oidc) fn parameter(&self, name: &str) -> Option<String> {
        let mut all = self.form().into_iter().filter(|(n, _)| n == name);
        let first = all.next()?.1;
        assert!(all.next().is_none(), "{name} is there twice");
        Some(first)
    }

    /// User name and password of `Authorization: Basic`.
    pub(in crate::oidc) fn basic(&self) -> Option<String> {
        let text = self.headers.get("authorization")?.strip_prefix("Basic ")?;
        String::from_utf8(STANDARD.decode(text).ok()?).ok()
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub(in crate::oidc) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    after: Duration,
    ending: Ending,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Whole,
    /// Half of the body, then the connection is closed.
    CutShort,
    /// Half of the body, then nothing for long.
    Stalled,
    /// The connection is closed without an answer.
    Silent,
}

impl Reply {
    pub(in crate::oidc) fn new(status: u16, media: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: vec![("content-type".to_owned(), media.to_owned())],
            body: body.into(),
            after: Duration::ZERO,
            ending: Ending::Whole,
        }
    }

    pub(in crate::oidc) fn json(value: &Value) -> Self {
        Self::new(200, "application/json", value.to_string())
    }

    pub(in crate::oidc) fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub(in crate::oidc) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(in crate::oidc) fn after(mut self, wait: Duration) -> Self {
        self.after = wait;
        self
    }

    pub(in crate::oidc) fn cut_short(mut self) -> Self {
        self.ending = Ending::CutShort;
        self
    }

    pub(in crate::oidc) fn stalled(mut self) -> Self {
        self.ending = Ending::Stalled;
        self
    }

    pub(in crate::oidc) fn silent() -> Self {
        let mut reply = Self::new(200, "", "");
        reply.ending = Ending::Silent;
        reply
    }
}

/// The server; it goes when dropped.
pub(in crate::oidc) struct Server {
    address: SocketAddr,
    script: Arc<Script>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Script {
    always: Mutex<HashMap<String, Reply>>,
    next: Mutex<HashMap<String, Vec<Reply>>>,
    log: Mutex<Vec<Received>>,
}

impl Server {
    pub(in crate::oidc) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let script = Arc::new(Script::default());
        let shared = Arc::clone(&script);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self {
            address,
            script,
            task,
        }
    }

    pub(in crate::oidc) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What `path` answers from now on.
    pub(in crate::oidc) fn always(&self, path: &str, reply: Reply) {
        self.script.always.lock().insert(path.to_owned(), reply);
    }

    /// What `path` answers next, once.
    pub(in crate::oidc) fn next(&self, path: &str, reply: Reply) {
        let mut next = self.script.next.lock();
        next.entry(path.to_owned()).or_default().push(reply);
    }

    /// Requests for `path` so far.
    pub(in crate::oidc) fn received(&self, path: &str) -> Vec<Received> {
        let log = self.script.log.lock();
        log.iter().filter(|r| r.path == path).cloned().collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Script {
    fn answer(&self, request: &Received) -> Reply {
        self.log.lock().push(request.clone());
        if let Some(queue) = self.next.lock().get_mut(&request.path)
            && !queue.is_empty()
        {
            return queue.remove(0);
        }
        let always = self.always.lock();
        always
            .get(&request.path)
            .cloned()
            .unwrap_or_else(|| Reply::new(404, "text/html", "<h1>Not found</h1>"))
    }
}

/// One request per connection, as the client means it.
async fn serve(mut stream: TcpStream, script: Arc<Script>) {
    let Some(request) = receive(&mut stream).await else {
        return;
    };
    let reply = script.answer(&request);
    tokio::time::sleep(reply.after).await;
    if reply.ending == Ending::Silent {
        return;
    }
    let mut head = format!(
        "HTTP/1.1 {} X\r\ncontent-length: {}\r\n",
        reply.status,
        reply.body.len()
    );
    for (name, value) in &reply.headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    head += "\r\n";
    let length = match reply.ending {
        Ending::Whole => reply.body.len(),
        _ => reply.body.len() / 2,
    };
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(&reply.body[..length]).await;
    if reply.ending == Ending::Stalled {
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
}

async fn receive(stream: &mut TcpStream) -> Option<Received> {
    let mut data = Vec::new();
    let end = loop {
        if let Some(at) = data.windows(4).position(|w| w == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut data).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(data[..end].to_vec()).ok()?;
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: HashMap<_, _> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers
        .get("content-length")
        .map_or(Some(0), |text| text.parse().ok())?;
    let mut body = data.split_off(end + 4);
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some(Received {
        method,
        path,
        headers,
        body: String::from_utf8(body).ok()?,
    })
}
