//! Holds everything a request needs that a reload replaces, as one value that is swapped at once.

use std::sync::Arc;

use http::HeaderValue;

use crate::clock::SharedClock;
use crate::config::model::{Access, Config};
use crate::login::{self, Login};
use crate::logout::Logout;
use crate::metrics::{Metrics, RouteSeries};
use crate::oidc::Provider;
use crate::route::Table;
use crate::rp::Revoker;
use crate::session::Sessions;
use crate::streams::Streams;

use super::upstream::Upstream;

/// The configuration in force, compiled.
#[derive(Debug)]
pub struct Live {
    /// As checked.
    pub config: Arc<Config>,
    /// Routes, for matching.
    pub table: Table,
    /// What goes with each route, by its index.
    pub routes: Vec<RouteParts>,
    /// Providers, by their index.
    pub providers: Vec<Arc<Provider>>,
    /// Sessions.
    pub sessions: Sessions,
    /// Answers that last.
    pub streams: Streams,
    /// Logging in.
    pub login: Login,
    /// Logging out.
    pub logout: Logout,
    /// `X-Forwarded-Host` for each public origin, by its index.
    pub authorities: Vec<HeaderValue>,
    /// Series of our own endpoints.
    pub own: RouteSeries,
    /// Series of requests that no route took.
    pub unrouted: RouteSeries,
}

/// What goes with a route.
#[derive(Debug)]
pub struct RouteParts {
    /// Where it forwards to; `None` only for `access: deny`.
    pub upstream: Option<Arc<Upstream>>,
    /// Its series.
    pub series: RouteSeries,
}

/// What lives longer than one configuration.
#[derive(Debug, Clone)]
pub struct Lasting {
    /// Sessions.
    pub sessions: Sessions,
    /// Answers that last.
    pub streams: Streams,
    /// States consumed and logins counted.
    pub login_memory: Arc<login::Memory>,
    /// Revocations under way.
    pub revoker: Revoker,
    /// Time.
    pub clock: SharedClock,
    /// Metrics.
    pub metrics: Arc<Metrics>,
}

/// Labels of requests that belong to no configured route. Configured names never begin with `_`.
const OWN: &str = "_daypass";
const UNROUTED: &str = "_none";

impl Live {
    /// Compiles a configuration. Providers and upstreams that have not changed are taken over from `old`, with what they
    /// have learnt (metadata, keys, addresses).
    ///
    /// # Errors
    /// A text that says what cannot be used.
    pub fn compile(
        config: Arc<Config>,
        lasting: &Lasting,
        old: Option<&Self>,
    ) -> Result<Self, String> {
        let Lasting {
            sessions,
            streams,
            login_memory,
            revoker,
            clock,
            metrics,
        } = lasting;
        let providers = config
            .providers
            .iter()
            .map(|wanted| {
                let mut known = old.iter().flat_map(|old| &old.providers);
                if let Some(known) = known.find(|known| known.config() == wanted) {
                    return Ok(known.clone());
                }
                Provider::new(wanted.clone(), clock.clone(), metrics.clone())
                    .map(Arc::new)
                    .map_err(|problem| format!("provider {}: {problem}", wanted.name))
            })
            .collect::<Result<Vec<_>, String>>()?;
        let known_upstreams = old
            .map(|old| {
                old.routes
                    .iter()
                    .filter_map(|route| route.upstream.clone())
                    .collect::<Vec<_>>()
            })
            .unwrap_or_default();
        let upstreams = config
            .upstreams
            .iter()
            .map(|wanted| {
                match known_upstreams
                    .iter()
                    .find(|known| known.config == *wanted && wanted.tls.is_none())
                {
                    Some(known) => Ok(known.clone()),
                    None => Upstream::new(wanted, metrics),
                }
            })
            .collect::<Result<Vec<_>, String>>()?;
        let routes = config
            .routes
            .iter()
            .map(|route| RouteParts {
                upstream: route.upstream.map(|index| upstreams[index].clone()),
                series: RouteSeries::new(metrics, &route.name, access_label(route.access)),
            })
            .collect();
        let login = Login::new(
            config.clone(),
            providers.clone(),
            sessions.clone(),
            login_memory.clone(),
            revoker.clone(),
            clock.clone(),
            metrics.clone(),
        );
        let logout = Logout::new(
            config.clone(),
            providers.clone(),
            sessions.clone(),
            revoker.clone(),
            clock.clone(),
            metrics.clone(),
        );
        Ok(Self {
            authorities: config
                .public_origins
                .iter()
                .map(|origin| {
                    HeaderValue::try_from(origin.authority())
                        .map_err(|_| format!("public_url: {}: not a header value", origin.text))
                })
                .collect::<Result<_, _>>()?,
            table: Table::compile(&config),
            routes,
            providers,
            sessions: sessions.clone(),
            streams: streams.clone(),
            login,
            logout,
            own: RouteSeries::new(metrics, &Arc::from(OWN), "own"),
            unrouted: RouteSeries::new(metrics, &Arc::from(UNROUTED), "none"),
            config,
        })
    }

    /// The provider a session came from, if it is still configured with the same issuer.
    pub fn provider_of(&self, session: &crate::session::Session) -> Option<&Arc<Provider>> {
        self.providers.iter().find(|provider| {
            *provider.config().name == *session.provider
                && *provider.config().issuer == *session.issuer
        })
    }
}

/// An access mode as label.
pub fn access_label(access: Access) -> &'static str {
    match access {
        Access::Public => "public",
        Access::Optional => "optional",
        Access::Session => "session",
        Access::Deny => "deny",
    }
}
