//! Is an OpenID Provider that does what a test tells it to, and remembers what it was asked.

mod endpoints;
mod faults;
mod keys;
mod logout;
mod pages;
mod presented;
mod state;
#[cfg(test)]
mod tests;
mod tokens;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::Frame;
use hyper::{Request, Response};
use serde_json::Value;
use tokio::sync::watch;

pub use faults::{Endpoint, Fault};
pub use keys::{ClientKey, Signing, claims, encode, random, verify};
pub(crate) use keys::{sha256, unix_now};
pub(crate) use pages::escape;
pub use state::{
    AccessTokenForm, Auth, Login, Par, Presentation, Record, Registration, Rotation, Settings,
    Verdict,
};

use crate::host::{Answer, Cut, Host, Wire};
use endpoints::{Incoming, Reply};
use state::State;

/// `client_id` of the client that every provider knows.
pub const CLIENT_ID: &str = "shop";

/// A running provider; stops when dropped.
#[derive(Debug)]
pub struct Provider {
    shared: Arc<Shared>,
    address: SocketAddr,
    host: Option<Host>,
    client_secret: String,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    released: watch::Sender<u64>,
}

impl Provider {
    /// Starts on a free port, with the client [`CLIENT_ID`] registered for `client_secret_basic`.
    pub fn start() -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), Settings::default())
    }

    /// Starts with `settings` other than the default.
    pub fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::default();
        change(&mut settings);
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), settings)
    }

    /// Starts at a given address.
    pub fn start_at(address: SocketAddr, settings: Settings) -> Self {
        let address = if address.port() == 0 {
            crate::ports::free()
        } else {
            address
        };
        let state = State::new(format!("http://{address}"), settings);
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            released: watch::Sender::new(0),
        });
        let client_secret = shared.lock().secret("client secret", 24);
        let mut provider = Self {
            shared,
            address,
            host: None,
            client_secret: client_secret.clone(),
        };
        provider.register(Registration {
            client_id: CLIENT_ID.to_owned(),
            auth: Auth::Basic(client_secret.clone()),
            redirect_uris: Vec::new(),
            post_logout_redirect_uris: Vec::new(),
        });
        // What goes over the wire with client_secret_basic is this, and it must not be logged either.
        let basic = base64::Engine::encode(
            &base64::engine::general_purpose::STANDARD,
            format!("{CLIENT_ID}:{client_secret}"),
        );
        provider.shared.lock().remember("basic credentials", &basic);
        provider.resume();
        provider
    }

    /// Issuer identifier.
    pub fn issuer(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Secret of [`CLIENT_ID`].
    pub fn client_secret(&self) -> &str {
        &self.client_secret
    }

    /// Adds a client, or replaces the one of that name.
    pub fn register(&self, client: Registration) {
        self.shared
            .lock()
            .clients
            .insert(client.client_id.clone(), client);
    }

    /// Changes how it behaves from the next request on.
    pub fn configure(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.shared.lock().settings);
    }

    /// Misbehaves once, at the next request for `endpoint`; further calls queue up.
    pub fn fault(&self, endpoint: Endpoint, fault: Fault) {
        self.faults(endpoint, [fault]);
    }

    /// As [`Provider::fault`] with several faults in one answer.
    pub fn faults(&self, endpoint: Endpoint, faults: impl IntoIterator<Item = Fault>) {
        self.shared
            .lock()
            .script
            .push(endpoint, faults.into_iter().collect());
    }

    /// Lets the next request for `endpoint` through unharmed: a gap in the queue of faults.
    pub fn no_fault(&self, endpoint: Endpoint) {
        self.faults(endpoint, []);
    }

    /// Misbehaves at every request for `endpoint` that no queued fault is for.
    pub fn always(&self, endpoint: Endpoint, faults: impl IntoIterator<Item = Fault>) {
        self.shared
            .lock()
            .script
            .stand(endpoint, faults.into_iter().collect());
    }

    /// Behaves again: queued and standing faults are forgotten (stalled requests stay stalled).
    pub fn behave(&self) {
        self.shared.lock().script.clear();
    }

    /// Lets every stalled request go on.
    pub fn release(&self) {
        self.shared.released.send_modify(|count| *count += 1);
    }

    /// Refuses connections from here on; state is kept.
    pub fn stop(&mut self) {
        if let Some(mut host) = self.host.take() {
            host.stop();
        }
    }

    /// Listens again on the same port.
    pub fn resume(&mut self) {
        if self.host.is_none() {
            let host = Host::new("provider");
            let shared = Arc::clone(&self.shared);
            host.serve(self.address, Wire::Http1, move |request| {
                answer(Arc::clone(&shared), request)
            });
            self.host = Some(host);
        }
    }

    /// Signs with a new key from here on; old keys stay in the JWKS unless `forget` says otherwise.
    pub fn rotate_keys(&self, forget: bool) {
        let mut state = self.shared.lock();
        if forget {
            state.keys.clear();
        }
        let key = keys::SigningKey::generate(state.settings.signing);
        state.keys.push(key);
    }

    /// Public keys as published.
    pub fn jwks(&self) -> Vec<Value> {
        self.shared.lock().jwks()
    }

    /// Signs any claims with the current key: logout tokens, hints, forgeries.
    pub fn sign(&self, typ: &str, claims: &Value) -> String {
        self.shared.lock().signer().sign(typ, claims)
    }

    /// Ends every grant: the next refresh gets `invalid_grant`.
    pub fn revoke_all(&self) {
        for grant in &mut self.shared.lock().grants {
            grant.revoked = true;
        }
    }

    /// Grants that still work.
    pub fn active_grants(&self) -> usize {
        self.shared
            .lock()
            .grants
            .iter()
            .filter(|grant| !grant.revoked)
            .count()
    }

    /// Requests so far for `endpoint`.
    pub fn requests(&self, endpoint: Endpoint) -> Vec<Record> {
        let state = self.shared.lock();
        let records = state.records.iter().skip(state.forgotten);
        records
            .filter(|record| record.endpoint == endpoint)
            .cloned()
            .collect()
    }

    /// Number of requests so far for `endpoint`.
    pub fn count(&self, endpoint: Endpoint) -> usize {
        let state = self.shared.lock();
        let records = state.records.iter().skip(state.forgotten);
        records.filter(|record| record.endpoint == endpoint).count()
    }

    /// Waits (blocking) until `endpoint` was asked `count` times.
    pub fn wait_for_count(&self, endpoint: Endpoint, count: usize, limit: Duration) -> bool {
        crate::raw::wait_for(limit, || (self.count(endpoint) >= count).then_some(())).is_some()
    }

    /// Forgets the requests so far (tokens and their presentations are kept).
    pub fn forget_requests(&self) {
        let mut state = self.shared.lock();
        state.forgotten = state.records.len();
    }

    /// How often a refresh token arrived that had been rotated away. Must be zero.
    pub fn reused(&self) -> usize {
        self.shared.lock().reused
    }

    /// How often each refresh token arrived, whatever became of it; zeros left out.
    pub fn presentations(&self) -> Vec<usize> {
        let state = self.shared.lock();
        state
            .refresh
            .values()
            .map(|token| token.presented)
            .filter(|&count| count > 0)
            .collect()
    }

    /// Refresh tokens shown, in the order they arrived, and what became of each.
    pub fn journal(&self) -> Vec<Presentation> {
        self.shared.lock().presentations.clone()
    }

    /// Codes, tokens, verifiers and secrets handed out or seen so far.
    pub fn issued_secrets(&self) -> Vec<String> {
        let state = self.shared.lock();
        let secrets = state.secrets.iter();
        secrets.map(|(_, secret)| secret.clone()).collect()
    }

    /// Length of all access, refresh and ID tokens handed out so far, in bytes.
    pub fn issued_token_bytes(&self) -> usize {
        let state = self.shared.lock();
        let tokens = state
            .secrets
            .iter()
            .filter(|(kind, _)| ["access token", "refresh token", "ID token"].contains(kind));
        tokens.map(|(_, token)| token.len()).sum()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Merges `change` into `target`, member by member; `null` removes (RFC 7396, one level).
pub(crate) fn merge(target: &mut Value, change: &Value) {
    if let (Some(target), Some(change)) = (target.as_object_mut(), change.as_object()) {
        for (name, value) in change {
            if value.is_null() {
                target.shift_remove(name);
            } else {
                target.insert(name.clone(), value.clone());
            }
        }
    }
}

async fn answer(shared: Arc<Shared>, request: Request<hyper::body::Incoming>) -> Answer {
    let request = read(request).await?;
    // A task of its own: like a real server, we finish what we began when the client hangs up.
    tokio::spawn(process(shared, request))
        .await
        .unwrap_or(Err(Cut))
}

async fn read(request: Request<hyper::body::Incoming>) -> Result<Incoming, Cut> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, 1 << 20)
        .collect()
        .await
        .map_err(|_| Cut)?
        .to_bytes();
    let query = head.uri.query().unwrap_or_default();
    let decode = |bytes: &[u8]| {
        form_urlencoded::parse(bytes)
            .into_owned()
            .collect::<Vec<_>>()
    };
    let mut params = decode(query.as_bytes());
    params.extend(decode(&body));
    let refresh = params
        .iter()
        .any(|(name, value)| name == "grant_type" && value == "refresh_token");
    let endpoint = match head.uri.path() {
        "/.well-known/openid-configuration" => Endpoint::Discovery,
        "/jwks" => Endpoint::Jwks,
        "/authorize" => Endpoint::Authorize,
        "/token" if refresh => Endpoint::Refresh,
        "/token" => Endpoint::Token,
        "/userinfo" => Endpoint::UserInfo,
        "/revoke" => Endpoint::Revoke,
        "/end-session" => Endpoint::EndSession,
        "/par" => Endpoint::Par,
        _ => Endpoint::Unknown,
    };
    Ok(Incoming {
        endpoint,
        method: head.method.to_string(),
        headers: head.headers,
        params,
    })
}

async fn process(shared: Arc<Shared>, request: Incoming) -> Answer {
    let (faults, record, shown, mut released) = {
        let mut state = shared.lock();
        let faults = state.script.take(request.endpoint);
        state.records.push(record_of(&request));
        if let Some(token) = request.param("refresh_token")
            && let Some(token) = state.refresh.get_mut(&token)
        {
            token.presented += 1;
        }
        let shown = state.shown(&request);
        let released = shared.released.subscribe();
        (faults, state.records.len() - 1, shown, released)
    };
    let end = |cut| {
        if let Some(shown) = shown {
            shared.lock().ended(shown, cut);
        }
    };
    let mut canned = None;
    for fault in &faults {
        match fault {
            Fault::Delay(time) => tokio::time::sleep(*time).await,
            Fault::Stall => {
                let _ = released.changed().await;
            }
            Fault::DropBefore => {
                end(true);
                return Err(Cut);
            }
            other => canned = canned.or(in_place_of(other, request.endpoint)),
        }
    }
    let reply = match canned {
        Some(reply) => reply,
        None => shared.lock().reply_to(&request, &faults, shown),
    };
    let mut truncate = false;
    for fault in &faults {
        match fault {
            Fault::DelayAnswer(time) => tokio::time::sleep(*time).await,
            Fault::StallAnswer => {
                let _ = released.changed().await;
            }
            Fault::DropAfter => {
                end(true);
                return Err(Cut);
            }
            Fault::TruncatedBody => truncate = true,
            _ => {}
        }
    }
    end(truncate);
    shared.lock().records[record].status = Some(reply.status);
    Ok(on_the_wire(reply, truncate))
}

/// The answer that a fault gives instead of processing the request.
fn in_place_of(fault: &Fault, endpoint: Endpoint) -> Option<Reply> {
    match fault {
        Fault::Status(status, headers, body) => {
            let mut reply = Reply::html(*status, body.clone());
            reply.headers.retain(|(name, _)| {
                !headers
                    .iter()
                    .any(|(other, _)| other.eq_ignore_ascii_case(name))
            });
            reply.headers.extend(headers.iter().cloned());
            Some(reply)
        }
        Fault::Html => Some(Reply::html(
            200,
            "<!doctype html><title>Welcome to the hotel WiFi</title>".to_owned(),
        )),
        Fault::HugeBody(size) => Some(Reply::json(200, &Value::String("x".repeat(*size)))),
        Fault::RetryAfter(seconds) => {
            let reply = Reply::json(
                429,
                &serde_json::json!({"error": "temporarily_unavailable"}),
            );
            Some(reply.with("retry-after", &seconds.to_string()))
        }
        // At /authorize it is a redirect, which needs the request.
        Fault::OAuthError(code) if endpoint != Endpoint::Authorize => {
            Some(Reply::oauth_error(code))
        }
        _ => None,
    }
}

fn on_the_wire(reply: Reply, truncate: bool) -> Response<crate::host::Body> {
    let mut response = Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        response = response.header(name, value);
    }
    let body = if truncate {
        response = response.header("content-length", reply.body.len());
        let half = Bytes::copy_from_slice(&reply.body.as_bytes()[..reply.body.len() / 2]);
        let frames = [Ok(Frame::data(half)), Err(Cut)];
        // The pause lets the first half leave before the connection is cut.
        let frames = futures_util::stream::iter(frames).then(|frame| async move {
            if frame.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            frame
        });
        BodyExt::boxed_unsync(StreamBody::new(Box::pin(frames)))
    } else {
        crate::host::full(reply.body)
    };
    response
        .body(body)
        .expect("a scripted answer has valid headers")
}

fn record_of(request: &Incoming) -> Record {
    let headers = request.headers.iter();
    let authenticated = matches!(
        request.endpoint,
        Endpoint::Token | Endpoint::Refresh | Endpoint::Revoke | Endpoint::Par
    );
    Record {
        endpoint: request.endpoint,
        method: request.method.clone(),
        params: request.params.clone(),
        headers: headers
            .map(|(name, value)| {
                (
                    name.to_string(),
                    String::from_utf8_lossy(value.as_bytes()).into_owned(),
                )
            })
            .collect(),
        client_auth: if authenticated {
            endpoints::credentials(request).map_or("", |(method, _, _)| method)
        } else {
            ""
        },
        at: std::time::Instant::now(),
        status: None,
    }
}
