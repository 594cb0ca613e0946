//! Tells pages of their session, and renews it for them.

use http::StatusCode;
use http::request::Parts;

use crate::metrics::Unauthenticated;
use crate::refresh::RefreshError;
use crate::session::Found;

use super::super::answer::Answer;
use super::super::decide::{self, Presented};
use super::super::events::Events;
use super::super::refusal::{Refusal, SOON};
use super::super::respond;
use super::super::session_json;
use super::{Endpoints, asked_elsewhere};

impl Endpoints<'_> {
    pub(super) async fn session(self, head: &Parts) -> Answer {
        match decide::signed_in(self.live(), head, false, self.clock.now()).await {
            Ok(Presented::Session(_, found)) => self.tell(&found),
            Ok(Presented::None(gone)) => self.refuse_api(
                head,
                &Refusal::Unauthenticated(decide::reason(gone.map(|(_, why)| why))),
            ),
            Err(_) => self.refuse_api(head, &Refusal::StoreUnavailable),
        }
    }

    pub(super) async fn session_events(self, head: &Parts) -> Answer {
        if asked_elsewhere(head, self.config()) {
            // Another site could read nothing, but hold all the streams that the session may have.
            return self.refuse_api(head, &Refusal::CrossSite);
        }
        let presented = decide::signed_in(self.live(), head, false, self.clock.now());
        let (id, found) = match presented.await {
            Ok(Presented::Session(id, found)) => (id, found),
            Ok(Presented::None(gone)) => {
                let why = decide::reason(gone.map(|(_, why)| why));
                return self.refuse_api(head, &Refusal::Unauthenticated(why));
            }
            Err(_) => return self.refuse_api(head, &Refusal::StoreUnavailable),
        };
        self.ctx.session = Some(found.session.clone());
        let live = self.live();
        match Events::new(&live.config, &live.streams, self.clock, head, id, found) {
            Some(events) => {
                self.ctx.events_of = Some(Box::new(events));
                Events::head()
            }
            None => self.refuse_api(head, &Refusal::RateLimited { retry_after: SOON }),
        }
    }

    pub(super) async fn session_refresh(self, head: &Parts) -> Answer {
        let config = self.live().config.clone();
        if asked_elsewhere(head, &config) {
            return self.refuse_api(head, &Refusal::CrossSite);
        }
        let presented = decide::signed_in(self.live(), head, true, self.clock.now());
        let (id, found) = match presented.await {
            Ok(Presented::Session(id, found)) => (id, found),
            Ok(Presented::None(gone)) => {
                return self.refuse_api(
                    head,
                    &Refusal::Unauthenticated(decide::reason(gone.map(|(_, why)| why))),
                );
            }
            Err(_) => return self.refuse_api(head, &Refusal::StoreUnavailable),
        };
        self.ctx.session = Some(found.session.clone());
        let Some(provider) = self.live().provider_of(&found.session).cloned() else {
            return self.refuse_api(head, &Refusal::Unauthenticated(Unauthenticated::NoSession));
        };
        let forced = self.refresher.force(&id, &found, &provider);
        match self.ctx.waited.on(forced).await {
            Ok(session) => self.tell(&Found { session, ..found }),
            Err(RefreshError::Ended) => {
                self.refuse_api(head, &Refusal::Unauthenticated(Unauthenticated::Revoked))
            }
            // Nothing to refresh with, and the token still works: the session is what it is.
            Err(RefreshError::NoRefreshToken) => self.tell(&found),
            Err(RefreshError::Unavailable { retry_after }) => {
                self.refuse_api(head, &Refusal::ProviderUnavailable { retry_after })
            }
            Err(RefreshError::Store) => self.refuse_api(head, &Refusal::StoreUnavailable),
        }
    }

    /// What a page may know of its session; never a token (PRODUCT contract §3).
    fn tell(self, found: &Found) -> Answer {
        self.ctx.decision = "own";
        let body = session_json::session(self.config(), found, self.clock.now());
        self.ctx.session = Some(found.session.clone());
        Answer::json(StatusCode::OK, "application/json", body.to_string())
    }

    /// Scripts call these endpoints: never a page, never a redirect (BFF-02).
    fn refuse_api(self, head: &Parts, refusal: &Refusal) -> Answer {
        respond::problem(self.ctx, head, refusal)
    }
}
