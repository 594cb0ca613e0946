//! Stands in for a provider and a session store in the tests of login and logout.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use url::Url;

use super::port::{Idp, Store};
use crate::clock::Timestamp;
use crate::config::model;
use crate::metrics::LogoutKind;
use crate::oidc::{
    Acted, AuthorizationRequest, CallError, Claims, Expectations, IdTokenError, IssParameter,
    LogoutToken, LogoutTokenError, Revocable, Revoked, TokenResponse,
};
use crate::seal::KeyRing;
use crate::secret::{
    AccessToken, AuthorizationCode, CodeVerifier, IdToken, RefreshToken, SealingKey,
};
use crate::session::{
    Begun, Ended, Found, Gone, Lookup, Meta, Session, SessionId, StoreError, Whose,
};

pub(crate) const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn keys() -> KeyRing {
    // 32 bytes as base64.
    KeyRing::new(&[SealingKey::new(
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    )])
}

pub(crate) fn origin(host: &str) -> model::Origin {
    model::Origin {
        secure: true,
        host: host.into(),
        port: 443,
        text: format!("https://{host}").into(),
    }
}

pub(crate) fn provider(name: &str) -> model::Provider {
    model::Provider {
        name: name.into(),
        issuer: format!("https://{name}.example"),
        client_id: "shop".into(),
        client_auth: model::ClientAuth::None,
        scopes: vec!["openid".into(), "profile".into()],
        authorize_params: std::collections::BTreeMap::new(),
        par: model::Par::Off,
        ca_pem: None,
        userinfo: false,
        id_token_algorithms: Vec::new(),
        timeout: Duration::from_secs(5),
        refresh_patience: Duration::from_secs(60),
        default_token_lifetime: Duration::from_secs(300),
        insecure_http: false,
    }
}

pub(crate) fn config(providers: Vec<Arc<model::Provider>>) -> model::Config {
    model::Config {
        public_origins: vec![origin("shop.example.com"), origin("www.example.com")],
        listeners: Vec::new(),
        admin: model::Address::Unix(PathBuf::new()),
        trusted_proxies: Vec::new(),
        base_path: "/oauth2".into(),
        providers,
        session: model::Session {
            store: model::Store::Memory { entries: 10 },
            keys: Vec::new(),
            lifetime: 12 * HOUR,
            idle_timeout: Some(HOUR),
            refresh_before: Duration::from_secs(60),
            max_staleness: Duration::from_secs(30),
            cache_entries: 1000,
            expose_claims: Vec::new(),
            cookie: model::Cookie {
                name: "__Host-daypass".into(),
                login_name: "__Host-daypass-login".into(),
                domain: None,
                same_site: model::SameSite::Lax,
                secure: true,
            },
        },
        upstreams: Vec::new(),
        routes: Vec::new(),
        limits: model::Limits {
            header_bytes: 65536,
            logins_per_minute_per_ip: NonZeroU32::new(20).unwrap(),
            drain_timeout: Duration::from_secs(30),
        },
        logging: model::Logging {
            format: model::LogFormat::Text,
            level: tracing::level_filters::LevelFilter::INFO,
            access_log: false,
        },
        pages: model::Pages::default(),
        files: crate::config::watch::Prints::new(),
    }
}

/// A provider that answers as told and notes what it was asked.
#[derive(Debug)]
pub(crate) struct FakeIdp {
    pub(crate) config: model::Provider,
    pub(crate) down: AtomicBool,
    pub(crate) iss_required: AtomicBool,
    pub(crate) no_end_session: AtomicBool,
    pub(crate) token: Mutex<fn() -> Result<TokenResponse, CallError>>,
    pub(crate) id_token: Mutex<fn() -> Result<Value, IdTokenError>>,
    pub(crate) logout_token: Mutex<fn() -> Result<LogoutToken, LogoutTokenError>>,
    pub(crate) userinfo: Mutex<fn() -> Result<Value, CallError>>,
    pub(crate) revocation: Mutex<fn() -> Result<Revoked, CallError>>,
    /// One line per call, in order.
    pub(crate) calls: Mutex<Vec<String>>,
    /// `state`, nonce and verifier of authorization requests, in order.
    pub(crate) sent: Mutex<Vec<(String, String, String)>>,
}

pub(crate) fn tokens() -> TokenResponse {
    TokenResponse {
        access_token: AccessToken::new("access"),
        asked_at: NOW,
        expires_at: NOW.plus(HOUR),
        refresh_token: Some(RefreshToken::new("refresh")),
        id_token: Some(IdToken::new("id")),
        scope: None,
        refresh_expires_in: None,
    }
}

/// Ends the provider's session `s1` of jane.
pub(crate) fn logout_token() -> LogoutToken {
    LogoutToken {
        subject: Some("jane".into()),
        sid: Some("s1".into()),
        id: "token-1".into(),
        issued_at: NOW,
        good_until: NOW.plus(Duration::from_secs(180)),
    }
}

pub(crate) fn outage() -> CallError {
    CallError::Unavailable {
        reason: "connection refused",
        acted: Acted::Unasked,
    }
}

fn object(value: Value) -> Claims {
    match value {
        Value::Object(map) => map,
        _ => Claims::new(),
    }
}

impl FakeIdp {
    pub(crate) fn new(config: model::Provider) -> Arc<Self> {
        Arc::new(Self {
            config,
            down: AtomicBool::new(false),
            iss_required: AtomicBool::new(false),
            no_end_session: AtomicBool::new(false),
            token: Mutex::new(|| Ok(tokens())),
            id_token: Mutex::new(|| Ok(json!({"sub": "jane", "sid": "s1", "name": "Jane"}))),
            logout_token: Mutex::new(|| Ok(logout_token())),
            userinfo: Mutex::new(|| Ok(json!({}))),
            revocation: Mutex::new(|| Ok(Revoked::Done)),
            calls: Mutex::default(),
            sent: Mutex::default(),
        })
    }

    pub(crate) fn count(&self, call: &str) -> usize {
        let calls = self.calls.lock();
        calls.iter().filter(|line| line.starts_with(call)).count()
    }

    fn note(&self, call: String) -> Result<(), CallError> {
        self.calls.lock().push(call);
        if self.down.load(Ordering::SeqCst) {
            return Err(outage());
        }
        Ok(())
    }
}

impl Idp for FakeIdp {
    fn config(&self) -> &model::Provider {
        &self.config
    }

    async fn iss_parameter(&self) -> Result<IssParameter, CallError> {
        self.note("iss_parameter".into())?;
        Ok(IssParameter {
            required: self.iss_required.load(Ordering::SeqCst),
        })
    }

    async fn authorization_url(
        &self,
        request: &AuthorizationRequest<'_>,
    ) -> Result<Url, CallError> {
        self.note(format!("authorize {}", request.redirect_uri))?;
        self.sent.lock().push((
            request.state.to_owned(),
            request.nonce.expose().to_owned(),
            request.verifier.expose().to_owned(),
        ));
        let mut url = Url::parse(&self.config.issuer).unwrap();
        url.query_pairs_mut()
            .append_pair("state", request.state)
            .extend_pairs(request.extra);
        Ok(url)
    }

    async fn exchange_code(
        &self,
        code: &AuthorizationCode,
        verifier: &CodeVerifier,
        redirect_uri: &str,
    ) -> Result<TokenResponse, CallError> {
        self.note(format!(
            "token {} {} {redirect_uri}",
            code.expose(),
            verifier.expose()
        ))?;
        (self.token.lock())()
    }

    async fn verify_id_token(
        &self,
        _: &IdToken,
        expect: &Expectations<'_>,
    ) -> Result<Claims, IdTokenError> {
        self.note(format!(
            "verify nonce={} max_age={:?} at={}",
            expect.nonce.unwrap_or("none"),
            expect.max_age.map(|age| age.as_secs()),
            expect.access_token.is_some()
        ))?;
        (self.id_token.lock())().map(object)
    }

    async fn verify_logout_token(&self, _: &str) -> Result<LogoutToken, LogoutTokenError> {
        self.note("verify_logout".into())?;
        (self.logout_token.lock())()
    }

    async fn userinfo(&self, _: &AccessToken, subject: &str) -> Result<Claims, CallError> {
        self.note(format!("userinfo {subject}"))?;
        (self.userinfo.lock())().map(object)
    }

    async fn revoke(&self, token: Revocable<'_>) -> Result<Revoked, CallError> {
        self.note(match token {
            Revocable::Refresh(token) => format!("revoke {}", token.expose()),
            Revocable::Access(token) => format!("revoke {}", token.expose()),
        })?;
        (self.revocation.lock())()
    }

    async fn end_session_url(
        &self,
        hint: Option<&IdToken>,
        back: &str,
        state: &str,
    ) -> Result<Option<Url>, CallError> {
        self.note("end_session".into())?;
        if self.no_end_session.load(Ordering::SeqCst) {
            return Ok(None);
        }
        let mut url = Url::parse(&format!("{}/end", self.config.issuer)).unwrap();
        url.query_pairs_mut()
            .append_pair("hint", hint.map_or("none", |token| token.expose()))
            .append_pair("back", back)
            .append_pair("state", state);
        Ok(Some(url))
    }
}

/// Sessions in a map.
#[derive(Debug, Default, Clone)]
pub(crate) struct FakeStore(Arc<FakeStoreState>);

#[derive(Debug, Default)]
struct FakeStoreState {
    down: AtomicBool,
    sessions: Mutex<HashMap<String, Arc<Session>>>,
    used: Mutex<HashSet<(String, String)>>,
    /// `sid`s that were ended at the provider.
    forbidden: Mutex<Vec<String>>,
    /// When a logout of everybody was told.
    over_at: Mutex<Option<Timestamp>>,
}

impl FakeStore {
    pub(crate) fn fail(&self, down: bool) {
        self.0.down.store(down, Ordering::SeqCst);
    }

    pub(crate) fn get(&self, id: &SessionId) -> Option<Arc<Session>> {
        self.0.sessions.lock().get(id.expose()).cloned()
    }

    pub(crate) fn forbidden(&self) -> Vec<String> {
        self.0.forbidden.lock().clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.sessions.lock().len()
    }

    /// The provider logs everybody out.
    pub(crate) fn over(&self, told_at: Timestamp) {
        *self.0.over_at.lock() = Some(told_at);
    }

    #[expect(clippy::unused_async, reason = "as the store's own")]
    pub(crate) async fn create(&self, session: Session) -> Result<SessionId, StoreError> {
        self.up()?;
        let id = SessionId::generate();
        let mut sessions = self.0.sessions.lock();
        sessions.insert(id.expose().to_owned(), Arc::new(session));
        Ok(id)
    }

    fn up(&self) -> Result<(), StoreError> {
        if self.0.down.load(Ordering::SeqCst) {
            return Err(StoreError("timed out"));
        }
        Ok(())
    }
}

impl Store for FakeStore {
    fn keys(&self) -> KeyRing {
        keys()
    }

    async fn reachable(&self) -> Result<(), StoreError> {
        self.up()
    }

    async fn peek(&self, id: &SessionId) -> Result<Lookup, StoreError> {
        self.up()?;
        Ok(self
            .get(id)
            .map_or(Lookup::Missing(Gone::Unknown), |session| {
                Lookup::Found(Found {
                    session,
                    idle_expires_at: None,
                    stale: false,
                })
            }))
    }

    async fn begin(&self, session: Session, began_at: Timestamp) -> Result<Begun, StoreError> {
        if self.0.over_at.lock().is_some_and(|end| began_at <= end) {
            self.up()?;
            return Ok(Begun::TooLate);
        }
        self.create(session).await.map(Begun::Session)
    }

    async fn delete(&self, id: &SessionId) -> Result<Option<Arc<Session>>, StoreError> {
        self.up()?;
        Ok(self.0.sessions.lock().remove(id.expose()))
    }

    async fn end_all(
        &self,
        whose: Whose<'_>,
        _: LogoutKind,
        _: bool,
        ended: &mut (dyn FnMut(&Ended) + Send),
    ) -> Result<(), StoreError> {
        self.up()?;
        self.0.sessions.lock().retain(|id, session| {
            let meta = Meta::of(session);
            let stays = !whose.fits(&meta);
            if !stays {
                let id = SessionId::parse(id).unwrap();
                let (key, meta) = (id.record_key(), Some(meta));
                ended(&Ended { key, meta });
            }
            stays
        });
        Ok(())
    }

    async fn forbid(&self, whose: Whose<'_>, _: &[&str]) -> Result<(), StoreError> {
        self.up()?;
        let sid = whose.sid.unwrap_or_default().to_owned();
        self.0.forbidden.lock().push(sid);
        Ok(())
    }

    async fn used(&self, issuer: &str, jti: &str) -> Result<bool, StoreError> {
        self.up()?;
        let token = (issuer.to_owned(), jti.to_owned());
        Ok(self.0.used.lock().contains(&token))
    }

    async fn use_up(&self, issuer: &str, jti: &str, _: Duration) -> Result<bool, StoreError> {
        self.up()?;
        let token = (issuer.to_owned(), jti.to_owned());
        Ok(self.0.used.lock().insert(token))
    }
}

/// A session as a login makes it.
pub(crate) fn session(provider: &str) -> Session {
    let answer = tokens();
    Session {
        provider: provider.into(),
        issuer: format!("https://{provider}.example").into(),
        subject: "jane".into(),
        sid: None,
        claims: Arc::default(),
        created_at: NOW,
        expires_at: NOW.plus(HOUR),
        tokens: Arc::new(crate::session::Tokens {
            access: answer.access_token,
            bearer: None,
            refresh: answer.refresh_token,
            id: answer.id_token,
            scopes: Vec::new(),
            refreshed_at: NOW,
            expires_at: answer.expires_at,
        }),
        generation: 0,
    }
}
