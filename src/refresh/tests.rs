//! Holds the refresher to each invariant of PRODUCT §5, with a provider that rotates and detects reuse.

use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::clock::{Clock, ManualClock, SystemClock};
use crate::config::model;
use crate::oidc::{
    Acted, CallError, Claims, Clearance, IdTokenError, Revocable, Revoked, TokenResponse,
};
use crate::secret::{AccessToken, IdToken, RefreshToken};
use crate::session::testing::{RedisServer, START, config, session_at};
use crate::session::{CommitAnswer, LeaseAnswer, Lookup};

mod answers;
mod races;
mod replicas;

/// A provider that rotates refresh tokens `rt-0`, `rt-1`, … and knows when one is shown twice.
#[derive(Debug)]
pub(super) struct Idp {
    clock: SharedClock,
    script: Mutex<VecDeque<Act>>,
    /// Generation of the only token that is good.
    current: AtomicUsize,
    calls: AtomicUsize,
    reused: AtomicUsize,
    /// Requests that were not sent because the lease may have been lost.
    held_back: AtomicUsize,
    revoked: Mutex<Vec<String>>,
    timeout: Duration,
    /// Life of the tokens it issues.
    life: Duration,
}

/// What the provider does with a call; when nothing is said, it works.
#[derive(Debug)]
enum Act {
    /// No new refresh token in the answer; the old one stays good.
    KeepToken,
    /// Works, with this ID token in the answer.
    WithId(&'static str),
    /// Fails without acting.
    Fail(CallError),
    /// Rotates, but the answer is lost.
    LoseAnswer,
    /// Rotates, but nothing else of the answer can be used.
    Garble,
    /// Does not even get the request before the gate opens.
    ReachedAfter(Arc<Semaphore>),
    /// Works once the gate opens.
    Wait(Arc<Semaphore>),
    /// Fails once the gate opens, and nobody knows whether it has acted.
    LoseAfter(Arc<Semaphore>),
    /// `invalid_grant` once the gate opens.
    RejectAfter(Arc<Semaphore>),
    /// Breaks in a way nobody thought of.
    Panic,
}

impl Idp {
    fn new(clock: SharedClock) -> Self {
        Self {
            clock,
            script: Mutex::default(),
            current: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            reused: AtomicUsize::new(0),
            held_back: AtomicUsize::new(0),
            revoked: Mutex::default(),
            timeout: Duration::from_secs(5),
            life: Duration::from_secs(300),
        }
    }

    fn act(&self, act: Act) {
        self.script.lock().push_back(act);
    }

    /// The next call waits until a permit is added.
    fn stall(&self) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        self.act(Act::Wait(Arc::clone(&gate)));
        gate
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn held_back(&self) -> usize {
        self.held_back.load(Ordering::SeqCst)
    }

    fn reused(&self) -> usize {
        self.reused.load(Ordering::SeqCst)
    }

    fn revoked(&self) -> Vec<String> {
        self.revoked.lock().clone()
    }

    fn rotate(&self, token: &RefreshToken, keep: bool) -> Result<TokenResponse, CallError> {
        let current = self.current.load(Ordering::SeqCst);
        if !token.matches(&format!("rt-{current}")) {
            self.reused.fetch_add(1, Ordering::SeqCst);
            return Err(oauth("invalid_grant"));
        }
        let next = if keep { current } else { current + 1 };
        self.current.store(next, Ordering::SeqCst);
        Ok(TokenResponse {
            access_token: AccessToken::new(format!("at-{}", self.calls())),
            asked_at: self.clock.now(),
            expires_at: self.clock.now().plus(self.life),
            refresh_token: (!keep).then(|| RefreshToken::new(format!("rt-{next}"))),
            id_token: None,
            scope: None,
            refresh_expires_in: None,
        })
    }
}

impl TokenEndpoint for Idp {
    fn name(&self) -> &'static str {
        "provider"
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn pause(&self) -> Option<Duration> {
        None
    }

    async fn refresh(
        &self,
        token: &RefreshToken,
        clearance: &Clearance,
    ) -> Result<TokenResponse, CallError> {
        let mut act = self.script.lock().pop_front();
        if let Some(Act::ReachedAfter(gate)) = act {
            gate.acquire().await.unwrap().forget();
            act = None;
        }
        if !clearance.given() {
            self.held_back.fetch_add(1, Ordering::SeqCst);
            return Err(unreachable_now());
        }
        self.calls.fetch_add(1, Ordering::SeqCst);
        match act {
            None | Some(Act::ReachedAfter(_)) => self.rotate(token, false),
            Some(Act::KeepToken) => self.rotate(token, true),
            Some(Act::WithId(id)) => self.rotate(token, false).map(|mut answer| {
                answer.id_token = Some(IdToken::new(id));
                answer
            }),
            Some(Act::Fail(error)) => Err(error),
            Some(Act::LoseAnswer) => {
                self.rotate(token, false)?;
                Err(lost())
            }
            Some(Act::Garble) => Err(CallError::Unusable {
                reason: "the token type is not Bearer",
                refresh_token: self.rotate(token, false)?.refresh_token,
            }),
            Some(Act::Wait(gate)) => {
                gate.acquire().await.unwrap().forget();
                self.rotate(token, false)
            }
            Some(Act::LoseAfter(gate)) => {
                gate.acquire().await.unwrap().forget();
                Err(lost())
            }
            Some(Act::RejectAfter(gate)) => {
                gate.acquire().await.unwrap().forget();
                Err(oauth("invalid_grant"))
            }
            Some(Act::Panic) => panic!("a bug in the provider's client"),
        }
    }

    async fn verify(
        &self,
        token: &IdToken,
        _access: &AccessToken,
        original: &Claims,
    ) -> Result<(), IdTokenError> {
        assert_eq!(original["sub"], "alice");
        match token.expose() {
            "id-someone-else" => Err(IdTokenError::IdentityChanged),
            "id-bad" => Err(IdTokenError::Refused("signature")),
            "id-unchecked" => Err(IdTokenError::Keys(lost())),
            _ => Ok(()),
        }
    }

    async fn revoke(&self, token: Revocable<'_>) -> Result<Revoked, CallError> {
        let text = match token {
            Revocable::Refresh(token) => token.expose(),
            Revocable::Access(token) => token.expose(),
        };
        self.revoked.lock().push(text.to_owned());
        Ok(Revoked::Done)
    }
}

fn oauth(code: &str) -> CallError {
    CallError::OAuth { code: code.into() }
}

/// The request was sent and no answer was read.
fn lost() -> CallError {
    CallError::Unavailable {
        reason: "connection closed",
        acted: Acted::Perhaps,
    }
}

/// No byte was sent.
fn unreachable_now() -> CallError {
    CallError::Unavailable {
        reason: "it refused the connection",
        acted: Acted::Unasked,
    }
}

fn down() -> CallError {
    CallError::Unavailable {
        reason: "status 500",
        acted: Acted::No,
    }
}

/// One process: sessions, refresher and metrics of its own.
struct Replica {
    sessions: Sessions,
    refresher: Arc<Refresher>,
    metrics: Arc<Metrics>,
}

impl Replica {
    fn new(config: &model::Session, clock: &SharedClock, lease: Duration) -> Self {
        let metrics = Arc::new(Metrics::new().unwrap());
        metrics.know_provider("provider");
        let sessions =
            Sessions::with_lease(config, Arc::clone(clock), Arc::clone(&metrics), lease).unwrap();
        Self::over(sessions, clock, metrics)
    }

    /// Another process on the same store.
    fn over(sessions: Sessions, clock: &SharedClock, metrics: Arc<Metrics>) -> Self {
        Self {
            refresher: Refresher::new(sessions.clone(), Arc::clone(clock), Arc::clone(&metrics)),
            sessions,
            metrics,
        }
    }

    async fn found(&self, id: &SessionId) -> Found {
        match self.sessions.load(id).await.unwrap() {
            Lookup::Found(found) => found,
            Lookup::Missing(gone) => panic!("missing: {gone:?}"),
        }
    }

    async fn is_gone(&self, id: &SessionId) -> bool {
        matches!(self.sessions.load(id).await, Ok(Lookup::Missing(_)))
    }

    /// What a request does.
    async fn usable(&self, id: &SessionId, idp: &Arc<Idp>) -> Result<Arc<Session>, RefreshError> {
        let found = self.found(id).await;
        self.refresher.usable_from(id, &found, idp, WINDOW).await
    }

    /// Requests in tasks of their own, all from the session as it is now.
    async fn requests(
        &self,
        count: usize,
        id: &SessionId,
        idp: &Arc<Idp>,
    ) -> Vec<tokio::task::JoinHandle<Result<Arc<Session>, RefreshError>>> {
        let found = self.found(id).await;
        (0..count)
            .map(|_| {
                let (refresher, id) = (Arc::clone(&self.refresher), id.clone());
                let (found, idp) = (found.clone(), Arc::clone(idp));
                tokio::spawn(async move { refresher.usable_from(&id, &found, &idp, WINDOW).await })
            })
            .collect()
    }

    fn counted(&self, result: &str) -> f64 {
        let series =
            format!(r#"daypass_token_refreshes_total{{provider="provider",result="{result}"}}"#);
        self.metric(&series)
    }

    fn metric(&self, series: &str) -> f64 {
        let text = String::from_utf8(self.metrics.encode().unwrap()).unwrap();
        text.lines()
            .find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
            .unwrap_or_else(|| panic!("no series {series}"))
    }
}

/// One replica over memory, a clock that obeys, and a session whose token has five minutes.
struct Rig {
    clock: Arc<ManualClock>,
    replica: Replica,
    idp: Arc<Idp>,
    id: SessionId,
}

impl Rig {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Session)) -> Self {
        let clock = ManualClock::at(START);
        let shared: SharedClock = clock.clone();
        let config = config(model::Store::Memory { entries: 100 });
        let replica = Replica::new(&config, &shared, Sessions::LEASE);
        let mut session = session_at(START);
        change(&mut session);
        let id = replica.sessions.create(session).await.unwrap();
        let idp = Arc::new(Idp::new(shared));
        Self {
            clock,
            replica,
            idp,
            id,
        }
    }

    /// With a token that has expired.
    async fn expired() -> Self {
        let rig = Self::new().await;
        rig.clock.advance(Duration::from_secs(300));
        rig
    }

    fn shared_clock(&self) -> SharedClock {
        self.clock.clone()
    }

    async fn usable(&self) -> Result<Arc<Session>, RefreshError> {
        self.replica.usable(&self.id, &self.idp).await
    }

    async fn found(&self) -> Found {
        self.replica.found(&self.id).await
    }

    async fn landed(&self) {
        landed(&self.replica.refresher).await;
    }
}

/// All flights are done.
async fn landed(refresher: &Refresher) {
    let mut in_the_air = refresher.in_the_air.subscribe();
    let wait = in_the_air.wait_for(|count| *count == 0);
    timeout(Duration::from_secs(120), wait)
        .await
        .unwrap()
        .unwrap();
}

async fn until(what: &str, mut check: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if check() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}

fn access(session: &Session) -> &str {
    session.tokens.access.expose()
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9
}

const WINDOW: Duration = Duration::from_secs(60);
