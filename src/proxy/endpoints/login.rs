//! Answers `login` and `callback`: sends the browser to the provider, and takes it back in.

use http::header;
use http::request::Parts;
use http::{Method, StatusCode};

use crate::login::{Callback, Finished, Start, Wanted};
use crate::rp::audit::subject_hash;
use crate::web::fetch;

use super::super::answer::Answer;
use super::super::cookies;
use super::super::respond;
use super::{Endpoints, parameter};

/// Parameters of `login` that are passed on to the provider (FLOW-24).
const PASSED_ON: [&str; 5] = [
    "prompt",
    "login_hint",
    "acr_values",
    "ui_locales",
    "max_age",
];

impl Endpoints<'_> {
    pub(super) async fn login(self, head: &Parts) -> Answer {
        if fetch::is_prefetch(&head.headers) {
            // A page that is only looked ahead at starts nothing (FLOW-23).
            return Answer::empty(StatusCode::NO_CONTENT);
        }
        let query = head.uri.query().unwrap_or_default();
        let return_to = self.return_to(parameter(query, "redirect").as_deref());
        let extra: Vec<_> = PASSED_ON
            .iter()
            .filter_map(|name| {
                parameter(query, name)
                    .filter(|value| value.len() <= 512)
                    .map(|value| ((*name).to_owned(), value))
            })
            .collect();
        let provider = parameter(query, "provider");
        let wanted = Wanted { return_to, extra };
        let start = Start {
            origin: self.origin(),
            return_to: wanted.return_to.clone(),
            provider: provider.as_deref(),
            login_cookie: cookies::login(self.config(), head),
            extra: wanted.extra.clone(),
            client: self.ctx.client.ip,
            automatic: false,
            waited: &self.ctx.waited,
        };
        let started = self.live().login.start(start).await;
        match started {
            Ok(started) => respond::to_provider(self.config(), head, &started),
            Err(error) => respond::start_refused(self.ctx, head, &error, &wanted),
        }
    }

    pub(super) async fn callback(
        self,
        head: &Parts,
        provider: Option<&str>,
        query: &str,
    ) -> Answer {
        let config = self.live().config.clone();
        let old_session = cookies::session(&config, head);
        let callback = Callback {
            origin: self.origin(),
            path_provider: provider,
            query,
            login_cookie: cookies::login(&config, head),
            old_session: old_session.as_ref(),
            client: self.ctx.client.ip,
            // The provider's form arrives by POST, and leads to a page all the same.
            navigates: fetch::kind(&Method::GET, &head.headers) == fetch::Kind::Navigation,
            waited: &self.ctx.waited,
        };
        match self.live().login.finish(callback).await {
            Ok(Finished::SignedIn {
                id,
                location,
                login_cookie,
                issuer,
                subject,
            }) => {
                self.ctx.decision = "signed_in";
                self.ctx.signed_in = Some(subject_hash(&issuer, &subject));
                respond::signed_in(self.ctx, &location)
                    .with(header::SET_COOKIE, cookies::set_session(&config, &id))
                    .with(
                        header::SET_COOKIE,
                        cookies::set_login(&config, &login_cookie),
                    )
            }
            Ok(Finished::Already { location, session }) => {
                self.ctx.session = Some(session);
                respond::signed_in(self.ctx, &location)
            }
            Ok(Finished::Restarted(started)) => {
                self.ctx.decision = "login";
                respond::to_provider(&config, head, &started)
            }
            Err(error) => {
                let wanted = self.live().login.wanted(query);
                respond::callback_refused(self.ctx, head, &error, wanted.as_ref())
            }
        }
    }
}
