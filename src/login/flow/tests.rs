//! Shows how logins start, finish and end what was before.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::Ordering;

use serde_json::json;

use super::*;
use crate::clock::{ManualClock, Waited};
use crate::oidc::CallError;
use crate::rp::fakes::{self, FakeIdp, FakeStore, HOUR, NOW};

mod refusals;

struct World {
    flow: Flow<FakeIdp, FakeStore>,
    clock: Arc<ManualClock>,
    idp: Arc<FakeIdp>,
    store: FakeStore,
    origin: model::Origin,
    waited: Waited,
}

fn world() -> World {
    world_of(vec![fakes::provider("provider")])
}

fn world_of(providers: Vec<model::Provider>) -> World {
    let config = fakes::config(providers.iter().cloned().map(Arc::new).collect());
    let providers: Vec<_> = providers.into_iter().map(FakeIdp::new).collect();
    let (clock, store) = (ManualClock::at(NOW), FakeStore::default());
    World {
        idp: Arc::clone(&providers[0]),
        origin: config.main_origin().clone(),
        flow: Flow {
            config: Arc::new(config),
            providers,
            sessions: store.clone(),
            memory: Memory::new(),
            clock: Arc::clone(&clock) as SharedClock,
            metrics: Arc::new(Metrics::new().unwrap()),
            revoker: Revoker::default(),
        },
        clock,
        store,
        waited: Waited::default(),
    }
}

type UserInfo = fn() -> Result<serde_json::Value, CallError>;

/// A browser's part of a login under way.
struct UnderWay {
    state: String,
    cookie: String,
}

impl World {
    async fn try_start(
        &self,
        provider: Option<&str>,
        cookie: Option<&str>,
        automatic: bool,
    ) -> Result<Started, StartError> {
        self.flow
            .start(Start {
                origin: &self.origin,
                return_to: "/orders?id=7".into(),
                provider,
                login_cookie: cookie,
                extra: Vec::new(),
                client: IpAddr::V4(Ipv4Addr::LOCALHOST),
                automatic,
                waited: &Waited::default(),
            })
            .await
    }

    async fn begin(&self, provider: Option<&str>, cookie: Option<&str>) -> UnderWay {
        let started = self.try_start(provider, cookie, true).await.unwrap();
        let url = url::Url::parse(&started.location).unwrap();
        let state = url.query_pairs().find(|(name, _)| name == "state");
        UnderWay {
            state: state.unwrap().1.into_owned(),
            cookie: started.login_cookie,
        }
    }

    async fn answer(
        &self,
        query: &str,
        cookie: Option<&str>,
        old: Option<&SessionId>,
    ) -> Result<Finished, CallbackError> {
        self.answer_at(&self.origin, None, query, cookie, old).await
    }

    async fn answer_at(
        &self,
        origin: &model::Origin,
        path_provider: Option<&str>,
        query: &str,
        login_cookie: Option<&str>,
        old_session: Option<&SessionId>,
    ) -> Result<Finished, CallbackError> {
        self.flow
            .finish(Callback {
                origin,
                path_provider,
                old_session,
                ..self.callback(query, login_cookie)
            })
            .await
    }

    fn callback<'a>(&'a self, query: &'a str, login_cookie: Option<&'a str>) -> Callback<'a> {
        Callback {
            origin: &self.origin,
            path_provider: None,
            query,
            login_cookie,
            old_session: None,
            client: IpAddr::V4(Ipv4Addr::LOCALHOST),
            navigates: true,
            waited: &self.waited,
        }
    }

    /// `state` of the login that was started last.
    fn last_state(&self) -> String {
        let sent = self.idp.sent.lock();
        sent.last().expect("a login was started").0.clone()
    }

    async fn sign_in(&self, cookie: Option<&str>, old: Option<&SessionId>) -> (SessionId, String) {
        let login = self.begin(None, cookie).await;
        let query = format!("state={}&code=c0de", login.state);
        match self.answer(&query, Some(&login.cookie), old).await.unwrap() {
            Finished::SignedIn {
                id, login_cookie, ..
            } => (id, login_cookie),
            other => panic!("nobody was signed in: {other:?}"),
        }
    }

    fn logins(&self, result: LoginResult) -> bool {
        let text = String::from_utf8(self.flow.metrics.encode().unwrap()).unwrap();
        text.lines().any(|line| {
            line.starts_with("daypass_logins_total")
                && line.contains(&format!("result=\"{}\"", result.label()))
                && !line.ends_with(" 0")
        })
    }
}

#[tokio::test]
async fn a_login_makes_a_session_and_leads_to_where_the_user_was_going() {
    let world = world();
    let login = world.begin(None, None).await;
    let query = format!("code=c0de&state={}", login.state);
    let finished = world.answer(&query, Some(&login.cookie), None).await;
    let Ok(Finished::SignedIn {
        id,
        location,
        login_cookie,
        subject,
        ..
    }) = finished
    else {
        panic!("{finished:?}");
    };
    assert_eq!(location, "/orders?id=7");
    assert_eq!(&*subject, "jane");
    assert!(login_cookie.len() < 300);
    let session = world.store.get(&id).unwrap();
    assert_eq!(&*session.issuer, "https://provider.example");
    assert_eq!(session.sid.as_deref(), Some("s1"));
    assert_eq!(session.created_at, NOW);
    assert_eq!(session.expires_at, NOW.plus(12 * HOUR));
    assert_eq!(session.tokens.scopes, ["openid", "profile"]);
    assert!(session.tokens.bearer.as_ref().unwrap().is_sensitive());
    assert!(world.logins(LoginResult::Success));

    let (_, nonce, verifier) = world.idp.sent.lock()[0].clone();
    assert_eq!(
        *world.idp.calls.lock(),
        [
            "authorize https://shop.example.com/oauth2/callback".to_owned(),
            "iss_parameter".to_owned(),
            format!("token c0de {verifier} https://shop.example.com/oauth2/callback"),
            format!("verify nonce={nonce} max_age=None at=true"),
        ]
    );
}

/// FLOW-05, FLOW-06
#[tokio::test]
async fn tabs_log_in_side_by_side_with_one_cookie() {
    let world = world();
    let mut cookie = None;
    let mut states = Vec::new();
    for _ in 0..10 {
        let login = world.begin(None, cookie.as_deref()).await;
        states.push(login.state);
        cookie = Some(login.cookie);
    }
    let mut cookie = cookie.unwrap();
    for state in states.iter().rev() {
        let query = format!("state={state}&code=c");
        match world.answer(&query, Some(&cookie), None).await.unwrap() {
            Finished::SignedIn { login_cookie, .. } => cookie = login_cookie,
            other => panic!("a fresh state: {other:?}"),
        }
        assert!(cookie.len() < 300);
    }
}

#[tokio::test]
async fn userinfo_is_merged_where_configured_and_must_answer() {
    let provider = model::Provider {
        userinfo: true,
        ..fakes::provider("provider")
    };
    let world = world_of(vec![provider]);
    *world.idp.userinfo.lock() = || Ok(json!({"sub": "jane", "name": "X", "groups": ["ops"]}));
    let (id, cookie) = world.sign_in(None, None).await;
    let claims = world.store.get(&id).unwrap().claims.to_map();
    assert_eq!(claims["name"], "Jane");
    assert_eq!(claims["groups"], json!(["ops"]));
    assert_eq!(world.idp.count("userinfo jane"), 1);

    let rows: [(UserInfo, bool); 2] = [
        (|| Err(fakes::outage()), true),
        (|| Err(CallError::Metadata("sub differs".into())), false),
    ];
    for (userinfo, unavailable) in rows {
        *world.idp.userinfo.lock() = userinfo;
        let login = world.begin(None, Some(&cookie)).await;
        let query = format!("state={}&code=c", login.state);
        match world
            .answer(&query, Some(&login.cookie), None)
            .await
            .unwrap_err()
        {
            CallbackError::ProviderUnavailable => assert!(unavailable),
            CallbackError::Invalid(_) => assert!(!unavailable),
            other => panic!("{other:?}"),
        }
    }
}

/// FLOW-27
#[tokio::test]
async fn a_new_login_ends_the_old_session_and_keeps_its_grant() {
    let world = world();
    let (old, cookie) = world.sign_in(None, None).await;
    let (new, _) = world.sign_in(Some(&cookie), Some(&old)).await;
    assert_ne!(old.expose(), new.expose());
    assert!(world.store.get(&old).is_none());
    assert!(world.store.get(&new).is_some());
    world.flow.revoker.drained().await;
    assert_eq!(world.idp.count("revoke"), 0);
}

#[tokio::test]
async fn a_login_that_cannot_be_stored_is_an_error_and_its_token_is_revoked() {
    let world = world();
    let login = world.begin(None, None).await;
    world.store.fail(true);
    let query = format!("state={}&code=c", login.state);
    let result = world.answer(&query, Some(&login.cookie), None).await;
    assert!(matches!(result, Err(CallbackError::StoreUnavailable)));
    assert!(world.logins(LoginResult::StoreUnavailable));
    world.flow.revoker.drained().await;
    assert_eq!(world.idp.count("revoke refresh"), 1);
}

/// FLOW-21
#[tokio::test]
async fn a_loop_is_cut_and_an_explicit_login_starts_afresh() {
    let world = world();
    let mut cookie = None;
    for _ in 0..3 {
        // Each login finishes, and the browser comes back without its session cookie.
        let (_, next) = world.sign_in(cookie.as_deref(), None).await;
        cookie = Some(next);
        world.clock.advance(Duration::from_secs(2));
    }
    let looping = world.try_start(None, cookie.as_deref(), true).await;
    assert!(matches!(looping, Err(StartError::Loop)));
    assert!(world.logins(LoginResult::Loop));
    let asked = world
        .try_start(None, cookie.as_deref(), false)
        .await
        .unwrap();
    let again = world.try_start(None, Some(&asked.login_cookie), true).await;
    assert!(again.is_ok());
    world.clock.advance(Duration::from_secs(60));
    assert!(world.try_start(None, cookie.as_deref(), true).await.is_ok());
}

#[tokio::test]
async fn too_many_logins_from_one_address_are_told_to_wait() {
    let world = world();
    for _ in 0..20 {
        world.try_start(None, None, true).await.unwrap();
    }
    match world.try_start(None, None, true).await {
        Err(StartError::RateLimited { retry_after }) => assert!(!retry_after.is_zero()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn with_the_provider_down_nothing_is_consumed() {
    let world = world();
    let login = world.begin(None, None).await;
    world.idp.down.store(true, Ordering::SeqCst);
    assert!(matches!(
        world.try_start(None, None, true).await,
        Err(StartError::ProviderUnavailable)
    ));
    let query = format!("state={}&code=c", login.state);
    let result = world.answer(&query, Some(&login.cookie), None).await;
    assert!(matches!(result, Err(CallbackError::ProviderUnavailable)));
    world.idp.down.store(false, Ordering::SeqCst);
    let result = world.answer(&query, Some(&login.cookie), None).await;
    assert!(matches!(result, Ok(Finished::SignedIn { .. })));
}

#[tokio::test]
async fn with_the_store_down_nobody_is_sent_to_the_provider() {
    let world = world();
    world.store.fail(true);
    for automatic in [true, false] {
        let result = world.try_start(None, None, automatic).await;
        assert!(
            matches!(result, Err(StartError::StoreUnavailable)),
            "{result:?}"
        );
    }
    assert_eq!(world.idp.count("authorize"), 0);
    assert!(world.logins(LoginResult::StoreUnavailable));
    world.store.fail(false);
    assert!(world.try_start(None, None, true).await.is_ok());
}

#[test]
fn a_link_can_only_tighten_max_age() {
    let mut provider = fakes::provider("provider");
    let pair = |value: &str| vec![("max_age".to_owned(), value.to_owned())];
    for (name, configured, asked, sent, checked) in [
        ("neither", None, vec![], vec![], None),
        ("asked", None, pair("60"), pair("60"), Some(60)),
        ("configured", Some("300"), vec![], vec![], Some(300)),
        ("tighter", Some("300"), pair("60"), pair("60"), Some(60)),
        ("looser", Some("300"), pair("9999"), pair("300"), Some(300)),
        ("no number", Some("300"), pair("x"), vec![], Some(300)),
        (
            "twice",
            None,
            [pair("60"), pair("9999")].concat(),
            pair("60"),
            Some(60),
        ),
    ] {
        provider.authorize_params.clear();
        if let Some(value) = configured {
            provider
                .authorize_params
                .insert("max_age".into(), value.into());
        }
        let (extra, max_age) = parameters(asked, &provider);
        assert_eq!(extra, sent, "{name}");
        assert_eq!(max_age.map(|age| age.as_secs()), checked, "{name}");
    }
}

#[test]
fn nothing_that_travels_through_the_browser_is_in_debug() {
    let origin = fakes::origin("shop.example.com");
    let callback = Callback {
        origin: &origin,
        path_provider: None,
        query: "code=S3CRET&state=S3CRET",
        login_cookie: Some("S3CRET"),
        old_session: None,
        client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        navigates: true,
        waited: &Waited::default(),
    };
    assert!(!format!("{callback:?}").contains("S3CRET"));
    let started = Started {
        location: "S3CRET".into(),
        login_cookie: "S3CRET".into(),
    };
    assert!(!format!("{started:?}").contains("S3CRET"));
}
