//! Shows that a logout always ends the session here, and takes the provider along when it can.

use std::sync::atomic::Ordering;

use super::*;
use crate::clock::ManualClock;
use crate::oidc::{CallError, Revoked};
use crate::rp::fakes::{self, FakeIdp, FakeStore, NOW};

pub(in crate::logout) struct World {
    pub(in crate::logout) flow: Flow<FakeIdp, FakeStore>,
    clock: Arc<ManualClock>,
    pub(in crate::logout) idp: Arc<FakeIdp>,
    pub(in crate::logout) store: FakeStore,
    pub(in crate::logout) origin: model::Origin,
}

pub(in crate::logout) fn world(names: &[&str]) -> World {
    world_of(names.iter().map(|name| fakes::provider(name)).collect())
}

pub(in crate::logout) fn world_of(models: Vec<model::Provider>) -> World {
    let config = fakes::config(models.iter().cloned().map(Arc::new).collect());
    let providers: Vec<_> = models.into_iter().map(FakeIdp::new).collect();
    let (clock, store) = (ManualClock::at(NOW), FakeStore::default());
    World {
        idp: Arc::clone(&providers[0]),
        origin: config.main_origin().clone(),
        flow: Flow {
            config: Arc::new(config),
            providers,
            sessions: store.clone(),
            clock: Arc::clone(&clock) as SharedClock,
            metrics: Arc::new(Metrics::new().unwrap()),
            revoker: Revoker::default(),
        },
        clock,
        store,
    }
}

impl World {
    async fn signed_in(&self) -> SessionId {
        let session = fakes::session(&self.idp.config.name);
        self.store.create(session).await.unwrap()
    }

    async fn rp(&self, id: Option<&SessionId>, redirect: Option<&str>) -> Result<Next, StoreError> {
        let redirect = redirect.map(str::to_owned);
        self.flow
            .end(LogoutKind::RpInitiated, &self.origin, id, redirect)
            .await
            .map(|(next, _)| next)
    }
}

fn parameter(next: &Next, name: &str) -> String {
    let Next::Location(location) = next else {
        panic!("no location");
    };
    let url = Url::parse(location).unwrap();
    let pair = url.query_pairs().find(|(known, _)| known == name);
    pair.unwrap().1.into_owned()
}

/// LOGOUT-01, LOGOUT-02, LOGOUT-05
#[tokio::test]
async fn a_logout_ends_the_session_here_then_at_the_provider() {
    let world = world(&["provider"]);
    let id = world.signed_in().await;
    let next = world.rp(Some(&id), Some("/bye")).await.unwrap();
    assert!(world.store.get(&id).is_none());
    assert_eq!(parameter(&next, "hint"), "id");
    assert_eq!(
        parameter(&next, "back"),
        "https://shop.example.com/oauth2/logout/callback"
    );
    let state = parameter(&next, "state");
    assert_eq!(world.flow.returned(Some(&state)).as_deref(), Some("/bye"));
    world.clock.advance(LIFETIME + Duration::from_secs(1));
    assert_eq!(world.flow.returned(Some(&state)), None, "too late");
    world.flow.revoker.drained().await;
    assert_eq!(world.idp.count("revoke refresh"), 1);
}

/// LOGOUT-02
#[tokio::test]
async fn a_state_that_is_not_ours_leads_nowhere() {
    let world = world(&["provider"]);
    let oversized = "A".repeat(MAX_STATE + 1);
    for state in [None, Some(""), Some("AAAA"), Some("a b"), Some(&*oversized)] {
        assert_eq!(world.flow.returned(state), None);
    }
    let next = world.rp(None, None).await.unwrap();
    let state = parameter(&next, "state");
    assert_eq!(
        world.flow.returned(Some(&state)),
        None,
        "no target was sealed"
    );
}

/// LOGOUT-01, LOGOUT-04
#[tokio::test]
async fn without_the_provider_the_session_ends_here_all_the_same() {
    for (name, down, no_endpoint) in [("down", true, false), ("no endpoint", false, true)] {
        let world = world(&["provider"]);
        world.idp.down.store(down, Ordering::SeqCst);
        world
            .idp
            .no_end_session
            .store(no_endpoint, Ordering::SeqCst);
        let id = world.signed_in().await;
        let next = world.rp(Some(&id), Some("/bye")).await.unwrap();
        assert!(world.store.get(&id).is_none(), "{name}");
        assert!(matches!(next, Next::Location(to) if to == "/bye"), "{name}");
        let next = world.rp(None, None).await.unwrap();
        assert_eq!(next, Next::SignedOut, "{name}");
    }
}

/// LOGOUT-16
#[tokio::test]
async fn a_logout_without_session_is_no_error_and_still_visits_a_single_provider() {
    let world = world(&["provider"]);
    let unknown = SessionId::generate();
    for id in [None, Some(&unknown)] {
        let next = world.rp(id, None).await.unwrap();
        assert_eq!(parameter(&next, "hint"), "none");
    }
    let several = self::world(&["one", "two"]);
    assert_eq!(several.rp(None, None).await.unwrap(), Next::SignedOut);
    let id = several.signed_in().await;
    let next = several.rp(Some(&id), None).await.unwrap();
    assert_eq!(parameter(&next, "hint"), "id");
}

#[tokio::test]
async fn a_local_logout_never_leaves_for_the_provider() {
    let world = world(&["provider"]);
    let id = world.signed_in().await;
    let next = world
        .flow
        .end(LogoutKind::Local, &world.origin, Some(&id), None)
        .await;
    let (next, session) = next.unwrap();
    assert_eq!(next, Next::SignedOut);
    assert_eq!(&*session.unwrap().subject, "jane");
    assert!(world.store.get(&id).is_none());
    assert_eq!(world.idp.count("end_session"), 0);
    world.flow.revoker.drained().await;
    assert_eq!(world.idp.count("revoke refresh"), 1);
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_told_and_nothing_else_happens() {
    let world = world(&["provider"]);
    let id = world.signed_in().await;
    world.store.fail(true);
    assert!(world.rp(Some(&id), None).await.is_err());
    assert!(world.store.get(&id).is_some());
    world.flow.revoker.drained().await;
    assert!(world.idp.calls.lock().is_empty());
}

#[tokio::test]
async fn tokens_never_go_to_a_provider_that_changed_its_issuer() {
    let world = world(&["provider"]);
    let mut session = fakes::session("provider");
    session.issuer = "https://former.example".into();
    let id = world.store.create(session).await.unwrap();
    assert_eq!(world.rp(Some(&id), None).await.unwrap(), Next::SignedOut);
    world.flow.revoker.drained().await;
    assert!(world.idp.calls.lock().is_empty());
}

/// LOGOUT-05
#[tokio::test(start_paused = true)]
async fn a_revocation_is_tried_three_times_and_only_while_it_helps() {
    type Row = (&'static str, fn() -> Result<Revoked, CallError>, usize);
    let rows: [Row; 4] = [
        ("outage", || Err(fakes::outage()), 3),
        (
            "slow down",
            || {
                Err(CallError::RateLimited {
                    retry_after: Some(Duration::from_secs(2)),
                })
            },
            3,
        ),
        (
            "slow down for too long",
            || {
                Err(CallError::RateLimited {
                    retry_after: Some(Duration::from_secs(90)),
                })
            },
            1,
        ),
        (
            "refused",
            || {
                Err(CallError::OAuth {
                    code: "unsupported_token_type".into(),
                })
            },
            1,
        ),
    ];
    for (name, revocation, tries) in rows {
        let world = world(&["provider"]);
        *world.idp.revocation.lock() = revocation;
        let id = world.signed_in().await;
        world.rp(Some(&id), None).await.unwrap();
        world.flow.revoker.drained().await;
        assert_eq!(world.idp.count("revoke"), tries, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_begun_before_a_reload_is_waited_for_all_the_same() {
    let world = world(&["provider"]);
    *world.idp.revocation.lock() = || Err(fakes::outage());
    let lasting = world.flow.revoker.clone();
    let id = world.signed_in().await;
    world.rp(Some(&id), None).await.unwrap();
    drop(world.flow);
    lasting.drained().await;
    assert_eq!(world.idp.count("revoke"), 3);
}

#[tokio::test]
async fn the_confirmation_page_learns_where_its_form_may_end_up() {
    let world = world(&["one", "two"]);
    assert_eq!(
        world.flow.end_session_origins(&world.origin).await,
        ["https://one.example", "https://two.example"]
    );
    world.idp.down.store(true, Ordering::SeqCst);
    assert_eq!(
        world.flow.end_session_origins(&world.origin).await,
        ["https://two.example"]
    );
}
