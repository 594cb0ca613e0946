//! Says how the provider misbehaves, endpoint by endpoint, once or for ever.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde_json::Value;

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// `/.well-known/openid-configuration`.
    Discovery,
    /// `/jwks`.
    Jwks,
    /// `/authorize`.
    Authorize,
    /// `/token` with any grant but a refresh token.
    Token,
    /// `/token` with a refresh token.
    Refresh,
    /// `/userinfo`.
    UserInfo,
    /// `/revoke` (RFC 7009).
    Revoke,
    /// `/end-session` (RP-initiated logout).
    EndSession,
    /// `/par` (RFC 9126).
    Par,
    /// Anything else.
    Unknown,
}

/// One way to misbehave. Several make one behaviour: `[Delay(..), NoRefreshToken]`.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// Waits, then processes the request (also when the client has gone).
    Delay(Duration),
    /// Processes the request (a token is rotated), then waits before it answers.
    DelayAnswer(Duration),
    /// Waits for [`Provider::release`](super::Provider::release), then processes.
    Stall,
    /// Processes, then waits for [`Provider::release`](super::Provider::release).
    StallAnswer,
    /// Cuts the connection; the request is not processed.
    DropBefore,
    /// Processes (a token is rotated), then cuts the connection: the answer is lost.
    DropAfter,
    /// Processes, then sends half of the body and cuts the connection.
    TruncatedBody,
    /// This status, these headers and this body; the request is not processed.
    Status(u16, Vec<(String, String)>, String),
    /// 200 with a web page, as captive portals and load balancers answer; not processed.
    Html,
    /// 200 and a JSON body of this many bytes; not processed.
    HugeBody(usize),
    /// `{"error": …}` with the status RFC 6749 §5.2 asks for (at `/authorize` as a redirect); not processed.
    OAuthError(String),
    /// 429 with `Retry-After` in seconds; not processed.
    RetryAfter(u64),
    /// No refresh token in the answer; the presented one stays valid.
    NoRefreshToken,
    /// No `expires_in` in the answer.
    NoExpiresIn,
    /// No ID token in the answer.
    MissingIdToken,
    /// Merged into the JSON answer; `null` removes a member.
    Answer(Value),
    /// Merged into the ID token's claims before it is signed; `null` removes a claim.
    Claims(Value),
    /// Merged into the ID token's JOSE header; the signature is over the changed header.
    Header(Value),
    /// Another `nonce` in the ID token.
    WrongNonce,
    /// An ID token for somebody else.
    WrongAudience,
    /// An ID token (or, at discovery, metadata) by another issuer; at `/authorize` another `iss` parameter (RFC 9207).
    WrongIssuer,
    /// An ID token, or UserInfo answer, about somebody else.
    ForeignSubject,
    /// An ID token that was valid an hour ago.
    ExpiredIdToken,
    /// An `at_hash` of another access token.
    WrongAtHash,
    /// An unsigned ID token.
    AlgNone,
    /// An ID token whose signature does not fit.
    BadSignature,
    /// An ID token by a key that is not in the JWKS, with a `kid` that is not there either.
    UnknownKey,
    /// HS256 keyed with the public key.
    HmacWithPublicKey,
    /// Another `state` than was sent (at `/authorize`).
    WrongState,
}

impl Fault {
    /// An OAuth error answer.
    pub fn oauth(code: &str) -> Self {
        Self::OAuthError(code.to_owned())
    }

    /// A status with a plain body.
    pub fn status(status: u16) -> Self {
        Self::Status(status, Vec::new(), "scripted failure".to_owned())
    }
}

/// Behaviours that are still to come.
#[derive(Debug, Default)]
pub(crate) struct Script {
    next: BTreeMap<Endpoint, VecDeque<Vec<Fault>>>,
    standing: BTreeMap<Endpoint, Vec<Fault>>,
}

impl Script {
    pub(crate) fn push(&mut self, endpoint: Endpoint, behaviour: Vec<Fault>) {
        self.next.entry(endpoint).or_default().push_back(behaviour);
    }

    pub(crate) fn stand(&mut self, endpoint: Endpoint, behaviour: Vec<Fault>) {
        self.standing.insert(endpoint, behaviour);
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The behaviour for the request at hand: the next in the queue, else the standing one, else none.
    pub(crate) fn take(&mut self, endpoint: Endpoint) -> Vec<Fault> {
        let queued = self.next.get_mut(&endpoint).and_then(VecDeque::pop_front);
        queued
            .or_else(|| self.standing.get(&endpoint).cloned())
            .unwrap_or_default()
    }
}
