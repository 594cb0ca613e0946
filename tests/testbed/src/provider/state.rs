//! Keeps what the provider knows: clients, grants, tokens and every request it was sent.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::faults::{Endpoint, Script};
use super::keys::{Signing, SigningKey, random};

/// How the provider behaves when nothing is broken.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own, and tests name the one they turn"
)]
pub struct Settings {
    /// Life of an access token.
    pub access_ttl: Duration,
    /// Life of an ID token.
    pub id_ttl: Duration,
    /// Shape of access tokens.
    pub access_token: AccessTokenForm,
    /// Merged into the claims of JWT access tokens.
    pub access_claims: Value,
    /// Whether refresh tokens are handed out.
    pub refresh_tokens: bool,
    /// What happens to a refresh token that was used.
    pub rotation: Rotation,
    /// Whether a refresh brings a new ID token.
    pub id_token_on_refresh: bool,
    /// Whether the user's claims are in the ID token (else only at UserInfo).
    pub claims_in_id_token: bool,
    /// Whether authorization answers carry `iss` (RFC 9207).
    pub iss_parameter: bool,
    /// Pushed authorization requests.
    pub par: Par,
    /// Signature algorithm, taken up at start and by `rotate_keys`.
    pub signing: Signing,
    /// Whether a page asks who the user is.
    pub login: Login,
    /// Who signs in when no page asks.
    pub user: String,
    /// Users by name, with their claims (`sub` among them).
    pub users: BTreeMap<String, Value>,
    /// Refuses authorization requests without PKCE S256.
    pub require_pkce: bool,
    /// Seconds the provider's clock is ahead.
    pub clock_ahead: i64,
    /// Merged into the metadata; `null` removes a member.
    pub metadata: Value,
}

/// Shape of access tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessTokenForm {
    /// RFC 9068 JWT.
    Jwt,
    /// Random text.
    Opaque,
}

/// What happens to a refresh token that was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// Replaced; presented again, the whole grant is revoked (RFC 9700 §4.14.2).
    Strict,
    /// Replaced; presented again within this time it is answered once more.
    Grace(Duration),
    /// Stays.
    Off,
}

/// Pushed authorization requests (RFC 9126).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Par {
    /// Not offered.
    Off,
    /// Offered in the metadata.
    Advertised,
    /// Asked for.
    Required,
}

/// Whether a page asks who the user is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    /// Every authorization request is approved at once.
    Auto,
    /// A page with a button a user; remembered by a cookie until logout.
    Form,
    /// Approved at once, for whoever `login_hint` names.
    Hint,
}

impl Default for Settings {
    fn default() -> Self {
        let jane = json!({
            "sub": "248289761001", "name": "Jane Doe", "preferred_username": "jane",
            "email": "jane@example.com", "email_verified": true, "groups": ["admin", "staff"],
        });
        let john = json!({
            "sub": "248289761002", "name": "John Roe", "preferred_username": "john",
            "email": "john@example.com", "email_verified": false, "groups": ["staff"],
        });
        Self {
            access_ttl: Duration::from_mins(5),
            id_ttl: Duration::from_hours(1),
            access_token: AccessTokenForm::Jwt,
            access_claims: json!({}),
            refresh_tokens: true,
            rotation: Rotation::Strict,
            id_token_on_refresh: true,
            claims_in_id_token: true,
            iss_parameter: true,
            par: Par::Off,
            signing: Signing::Es256,
            login: Login::Auto,
            user: "jane".to_owned(),
            users: BTreeMap::from([("jane".to_owned(), jane), ("john".to_owned(), john)]),
            require_pkce: true,
            clock_ahead: 0,
            metadata: json!({}),
        }
    }
}

/// A client the provider knows.
#[derive(Debug, Clone)]
pub struct Registration {
    /// `client_id`.
    pub client_id: String,
    /// How it authenticates; anything else is `invalid_client`.
    pub auth: Auth,
    /// Exact redirect URIs; empty allows all (ports are unknown when a test starts).
    pub redirect_uris: Vec<String>,
    /// Exact `post_logout_redirect_uri`s; empty allows all.
    pub post_logout_redirect_uris: Vec<String>,
}

/// How a client authenticates.
#[derive(Debug, Clone)]
pub enum Auth {
    /// `client_secret_basic`.
    Basic(String),
    /// `client_secret_basic` with any of these: a secret of its own for each replica tells who asks.
    AnyBasic(Vec<String>),
    /// `client_secret_post`.
    Post(String),
    /// `private_key_jwt` with this public JWK.
    PrivateKey(Value),
    /// Public client.
    None,
}

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct Record {
    /// What it was for.
    pub endpoint: Endpoint,
    /// Method.
    pub method: String,
    /// Parameters of query and form, in order, duplicates kept.
    pub params: Vec<(String, String)>,
    /// Header lines.
    pub headers: Vec<(String, String)>,
    /// `basic`, `post`, `private_key_jwt`, `none`, or empty at endpoints without.
    pub client_auth: &'static str,
    /// When it arrived.
    pub at: Instant,
    /// Status it was answered with; `None` while under way or when the connection was cut.
    pub status: Option<u16>,
}

impl Record {
    /// First value of a parameter.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// First value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// One refresh token shown at the token endpoint, and what became of it.
#[derive(Debug, Clone)]
pub struct Presentation {
    /// Who it was issued for; empty when it was not issued here.
    pub user: String,
    /// Tells the tokens of a user apart without showing them.
    pub token: u64,
    /// Place of the client's secret among those of [`Auth::AnyBasic`]; 0 otherwise.
    pub sender: usize,
    /// When the request had arrived.
    pub arrived: Instant,
    /// What the provider decided; `None` while it has not.
    pub verdict: Option<Verdict>,
    /// When the decision was made.
    pub decided: Option<Instant>,
    /// When the answer was handed to the connection, or the connection cut; `None` while under way, and for ever when the
    /// provider was stopped meanwhile.
    pub ended: Option<Instant>,
    /// Whether the answer was cut off, as a fault wanted it.
    pub cut: bool,
    /// `jti` of the access token in the answer, whether or not it arrived.
    pub issued: Option<String>,
}

/// What the provider decided about a refresh token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// New tokens were issued for it.
    Accepted,
    /// It had been rotated away: reuse.
    Reused,
    /// Refused for another reason: its grant is revoked, or it is unknown.
    Refused,
    /// A fault answered, or cut the connection, before it was looked at.
    Unprocessed,
}

/// A user's consent to a client, which codes and tokens hang on.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    pub(crate) client_id: String,
    pub(crate) user: String,
    pub(crate) scope: String,
    pub(crate) nonce: Option<String>,
    pub(crate) auth_time: i64,
    pub(crate) sid: String,
    pub(crate) acr: Option<String>,
    pub(crate) revoked: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Code {
    pub(crate) grant: usize,
    pub(crate) redirect_uri: String,
    pub(crate) challenge: Option<String>,
    pub(crate) used: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Refresh {
    pub(crate) grant: usize,
    /// Tells it from others without showing it.
    pub(crate) number: u64,
    /// When it was rotated away.
    pub(crate) used: Option<Instant>,
    /// How often it arrived, whatever became of it.
    pub(crate) presented: usize,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) issuer: String,
    pub(crate) settings: Settings,
    pub(crate) script: Script,
    pub(crate) clients: HashMap<String, Registration>,
    /// The last one signs.
    pub(crate) keys: Vec<SigningKey>,
    pub(crate) grants: Vec<Grant>,
    pub(crate) codes: HashMap<String, Code>,
    pub(crate) refresh: HashMap<String, Refresh>,
    pub(crate) access: HashMap<String, (usize, Instant)>,
    pub(crate) pushed: HashMap<String, Vec<(String, String)>>,
    pub(crate) assertions: HashSet<String>,
    pub(crate) records: Vec<Record>,
    /// Refresh tokens shown, in the order they arrived.
    pub(crate) presentations: Vec<Presentation>,
    /// Records before this one are not counted any more.
    pub(crate) forgotten: usize,
    /// Presentations of refresh tokens that had been rotated away.
    pub(crate) reused: usize,
    /// Everything secret that was handed out, and what it is.
    pub(crate) secrets: Vec<(&'static str, String)>,
}

impl State {
    pub(crate) fn new(issuer: String, settings: Settings) -> Self {
        let keys = vec![SigningKey::generate(settings.signing)];
        Self {
            issuer,
            settings,
            script: Script::default(),
            clients: HashMap::new(),
            keys,
            grants: Vec::new(),
            codes: HashMap::new(),
            refresh: HashMap::new(),
            access: HashMap::new(),
            pushed: HashMap::new(),
            assertions: HashSet::new(),
            records: Vec::new(),
            presentations: Vec::new(),
            forgotten: 0,
            reused: 0,
            secrets: Vec::new(),
        }
    }

    /// A fresh secret of `bytes` random bytes, remembered for the log scan.
    pub(crate) fn secret(&mut self, kind: &'static str, bytes: usize) -> String {
        let value = random(bytes);
        self.remember(kind, &value);
        value
    }

    pub(crate) fn remember(&mut self, kind: &'static str, value: &str) {
        self.secrets.push((kind, value.to_owned()));
        crate::secrets::record(kind, value);
    }

    pub(crate) fn signer(&self) -> &SigningKey {
        self.keys.last().expect("there is always a key")
    }

    pub(crate) fn jwks(&self) -> Vec<Value> {
        self.keys.iter().map(SigningKey::jwk).collect()
    }

    /// Claims of a user; an unknown one is called what they typed.
    pub(crate) fn user(&self, name: &str) -> Value {
        self.settings.users.get(name).cloned().unwrap_or_else(
            || json!({"sub": format!("user-{name}"), "name": name, "preferred_username": name}),
        )
    }
}
