//! Constructs everything once, serves, reloads and drains.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admin::{Admin, Health};
use crate::clock::{SharedClock, SystemClock};
use crate::config::model::{Config, Listener};
use crate::config::watch::Prints;
use crate::config::{self, Environment, Loaded};
use crate::listen::{self, Bound, Workers, tls::Certificate};
use crate::login;
use crate::metrics::{LogoutKind, Metrics, ReloadResult, SessionEnd};
use crate::oidc::Provider;
use crate::proxy::live::{Lasting, Live};
use crate::proxy::upstream::Upstream;
use crate::proxy::{InFlight, Proxy};
use crate::refresh::Refresher;
use crate::rp::{Revoker, audit};
use crate::session::Sessions;
use crate::streams::Streams;
use crate::telemetry::Levels;

mod fixed;

/// Pause between looks at the session store.
const STORE_PULSE: Duration = Duration::from_secs(1);
/// Pause between looks at what is known of the providers.
const PROVIDER_LOOK: Duration = Duration::from_secs(1);
/// A provider that was not heard for so long is asked.
const PROVIDER_PULSE: Duration = Duration::from_secs(10);

/// What storing a refreshed token, or revoking one, may take at shutdown beside the provider's own time.
const STORING: Duration = Duration::from_secs(5);

/// Why daypass does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Something configured cannot be used.
    #[error("{0}")]
    Config(String),
    /// A listener.
    #[error(transparent)]
    Bind(#[from] listen::BindError),
}

/// Where the configuration comes from, for reloading.
#[derive(Debug, Clone)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// The environment at start.
    pub environment: Environment,
}

/// Bound and ready to serve.
#[derive(Debug)]
pub struct App {
    source: Source,
    levels: Levels,
    listeners: Vec<Bound>,
    admin: Bound,
    certificates: Vec<Arc<Certificate>>,
    live: Arc<ArcSwap<Live>>,
    lasting: Lasting,
    refresher: Arc<Refresher>,
    health: Arc<Health>,
    in_flight: Arc<InFlight>,
    hangup: Signal,
}

impl App {
    /// Constructs everything and binds every listener; reaches out to nobody.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn build(loaded: Loaded, source: Source, levels: Levels) -> Result<Self, StartError> {
        // First of all: until somebody listens, SIGHUP ends a process.
        let hangup = signal(SignalKind::hangup())
            .map_err(|error| StartError::Config(format!("cannot listen for SIGHUP: {error}")))?;
        let config = Arc::new(loaded.config);
        let clock: SharedClock = Arc::new(SystemClock);
        let metrics =
            Arc::new(Metrics::new().map_err(|error| StartError::Config(error.to_string()))?);
        let sessions = Sessions::open(&config.session, clock.clone(), metrics.clone())
            .map_err(StartError::Config)?;
        let refresher = Refresher::new(sessions.clone(), clock.clone(), metrics.clone());
        let lasting = Lasting {
            streams: Streams::new(sessions.clone(), clock.clone(), metrics.clone()),
            sessions,
            login_memory: login::Memory::new(),
            revoker: Revoker::default(),
            clock: clock.clone(),
            metrics: metrics.clone(),
        };
        let live = Live::compile(config.clone(), &lasting, None).map_err(StartError::Config)?;
        let mut listeners = Vec::with_capacity(config.listeners.len());
        for listener in &config.listeners {
            let bound = listen::bind(listener).await?;
            tracing::info!(listener = "public", address = %bound.address, tls = listener.tls.is_some(), "listening");
            listeners.push(bound);
        }
        let admin = listen::bind(&Listener {
            address: config.admin.clone(),
            tls: None,
        })
        .await?;
        tracing::info!(listener = "admin", address = %admin.address, tls = false, "listening");
        metrics.config_loaded(clock.now());
        Ok(Self {
            source,
            levels,
            certificates: listeners.iter().filter_map(Bound::certificate).collect(),
            listeners,
            admin,
            live: Arc::new(ArcSwap::from_pointee(live)),
            lasting,
            refresher,
            health: Arc::default(),
            in_flight: Arc::default(),
            hangup,
        })
    }

    /// Serves until `shutdown` resolves, then drains: no new connections, requests under way are finished within
    /// `limits.drain_timeout`, refreshes under way within the provider's `refresh_patience`.
    ///
    /// # Errors
    /// When the system has no threads to give.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> std::io::Result<()> {
        let (stop, stopping) = watch::channel(false);
        let config = self.live.load().config.clone();
        let keepalive: usize = config
            .upstreams
            .iter()
            .map(|upstream| upstream.keepalive)
            .sum();
        let count = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let workers = Workers::start(count, || {
            let proxy = Proxy::new(
                self.live.clone(),
                self.refresher.clone(),
                self.lasting.clock.clone(),
                self.in_flight.clone(),
            );
            proxy.into_app(usize::div_ceil(keepalive, count.get()))
        })?;
        let workers = Arc::new(workers);
        let mut serving = JoinSet::new();
        for listener in self.listeners {
            serving.spawn(listener.serve(workers.clone(), stopping.clone()));
        }
        // The admin port answers to the end, so that probes see the drain.
        let (admin_stop, admin_stopping) = watch::channel(false);
        let admin = Arc::new(Workers::here(Admin::new(
            self.lasting.metrics.clone(),
            self.health.clone(),
        )));
        let admin = tokio::spawn(self.admin.serve(admin, admin_stopping));

        let mut upkeep = JoinSet::new();
        upkeep.spawn(watch_store(
            self.lasting.sessions.clone(),
            self.health.clone(),
        ));
        upkeep.spawn(watch_providers(self.live.clone(), self.health.clone()));
        let reloader = Reloader {
            source: self.source,
            levels: self.levels,
            started: config,
            live: self.live.clone(),
            lasting: self.lasting.clone(),
            certificates: self.certificates,
        };
        upkeep.spawn(reloader.run(self.hangup));
        // These go on while requests do: whatever ends a session meanwhile ends what is open, and its tokens.
        let (enough, told) = watch::channel(false);
        let mut orphans = JoinSet::new();
        orphans.spawn(revoke_orphans(
            self.live.clone(),
            self.lasting.clone(),
            told,
        ));
        let streams = self.lasting.streams.clone();
        let mut attending = JoinSet::new();
        attending.spawn(async move { streams.attend().await });

        shutdown.await;
        let patience = self.live.load().config.limits.drain_timeout;
        tracing::info!(
            in_flight = self.in_flight.count(),
            refreshes = self.refresher.in_flight(),
            "draining"
        );
        self.health.drain();
        self.lasting.streams.drain();
        upkeep.abort_all();
        let _ = stop.send(true);
        let requests = tokio::time::timeout(patience, async {
            self.in_flight.drained().await;
            while serving.join_next().await.is_some() {}
        });
        if requests.await.is_err() {
            let in_flight = self.in_flight.count();
            tracing::warn!(in_flight, "drain timed out; cutting what is left");
        }
        serving.abort_all();
        // A refresh may have rotated its token already: giving up on the answer would end the session (REFRESH-35). It
        // has its own patience, whatever the requests were given.
        let live = self.live.load_full();
        let patience = live
            .providers
            .iter()
            .map(|provider| provider.config().refresh_patience)
            .max();
        let left = self
            .refresher
            .drain(patience.unwrap_or_default() + STORING)
            .await;
        let _ = enough.send(true);
        let revoked = tokio::time::timeout(STORING, async {
            while orphans.join_next().await.is_some() {}
            self.lasting.revoker.drained().await;
        });
        if revoked.await.is_err() {
            tracing::warn!("revocations left unfinished");
        }
        attending.abort_all();
        tracing::info!(refreshes_left = left, "drained");
        let _ = admin_stop.send(true);
        admin.abort();
        Ok(())
    }
}

/// Keeps `readyz` and `store_connected` true.
async fn watch_store(sessions: Sessions, health: Arc<Health>) {
    let mut up = None;
    loop {
        let now = sessions.ping().await.is_ok();
        health.store(now);
        match (up, now) {
            (Some(false), true) => tracing::info!("session store is back"),
            (None | Some(true), false) => tracing::warn!("session store does not answer"),
            _ => {}
        }
        up = Some(now);
        tokio::time::sleep(STORE_PULSE).await;
    }
}

/// Revokes the tokens of sessions that were ended without their cookie and that this process held (LOGOUT-05), however many
/// there are: until there is none left and it is `enough`.
async fn revoke_orphans(
    live: Arc<ArcSwap<Live>>,
    lasting: Lasting,
    mut enough: watch::Receiver<bool>,
) {
    let sessions = &lasting.sessions;
    // The sender is held to the end of the process.
    while let Some(orphan) = sessions
        .next_orphan_until(async { drop(enough.wait_for(|enough| *enough).await) })
        .await
    {
        if orphan.uncounted {
            lasting.metrics.logout(orphan.kind);
            lasting.metrics.session_ended(match orphan.kind {
                LogoutKind::Operator => SessionEnd::Revoked,
                _ => SessionEnd::Logout,
            });
            audit::orphaned(&orphan);
        }
        let provider = live.load().provider_of(&orphan.session).cloned();
        if let Some(provider) = provider {
            let tokens = orphan.session.tokens.clone();
            lasting.revoker.revoke_in_turn(&provider, tokens).await;
        }
    }
}

/// Fetches metadata ahead of the first login, and tries again while a provider is away.
async fn watch_providers(live: Arc<ArcSwap<Live>>, health: Arc<Health>) {
    let mut up = None;
    loop {
        let providers = live.load().providers.clone();
        let mut all = true;
        for provider in &providers {
            let warm = provider.warm_up().await;
            if let Err(error) = provider.is_there(PROVIDER_PULSE).await.and(warm) {
                all = false;
                if up != Some(false) {
                    tracing::warn!(provider = &*provider.config().name, %error, "provider is not available; trying again");
                }
            }
        }
        if all && up == Some(false) {
            tracing::info!("all providers are available");
        }
        up = Some(all);
        health.providers(all);
        tokio::time::sleep(PROVIDER_LOOK).await;
    }
}

/// Puts a changed configuration into force.
struct Reloader {
    source: Source,
    levels: Levels,
    /// What the process started with: some of it stays until its end.
    started: Arc<Config>,
    live: Arc<ArcSwap<Live>>,
    lasting: Lasting,
    certificates: Vec<Arc<Certificate>>,
}

impl Reloader {
    async fn run(self, mut hangup: Signal) {
        let files = self.live.load().config.files.clone();
        let mut watcher = match config::watch::Watcher::new(files) {
            Ok(watcher) => watcher,
            Err(error) => {
                tracing::warn!(%error, "cannot watch the configuration's files; use SIGHUP to reload");
                while hangup.recv().await.is_some() {
                    self.reload().await;
                }
                return;
            }
        };
        loop {
            tokio::select! {
                _ = hangup.recv() => {}
                () = watcher.changed() => {}
            }
            let files = self.reload().await;
            if !files.is_empty() {
                watcher.follow(files);
            }
        }
    }

    /// Loads and swaps. Returns the files to watch from now on; of a rejected configuration, too, for what it lacks may be
    /// mended in a file that was not watched before.
    async fn reload(&self) -> Prints {
        let Source { path, environment } = self.source.clone();
        // Reads files: kept off the workers that serve.
        let loading = tokio::task::spawn_blocking(move || config::load(&path, &environment));
        let Ok(loaded) = loading.await else {
            return Prints::new();
        };
        let (files, result) = match loaded {
            Ok(loaded) => {
                for warning in &loaded.warnings {
                    tracing::warn!("{warning}");
                }
                (loaded.config.files.clone(), self.swap(loaded.config))
            }
            Err(problems) => {
                for problem in &problems.problems {
                    tracing::error!("{problem}");
                }
                let result = Err("the new configuration has problems".to_owned());
                (problems.files, result)
            }
        };
        match result {
            Ok(()) => {
                self.lasting.metrics.reloaded(ReloadResult::Success);
                self.lasting.metrics.config_loaded(self.lasting.clock.now());
                tracing::info!("configuration reloaded");
            }
            Err(problem) => {
                self.lasting.metrics.reloaded(ReloadResult::Rejected);
                tracing::error!(problem, "configuration rejected; the old one serves on");
            }
        }
        files
    }

    /// Everything that can fail comes first; then one swap.
    fn swap(&self, config: Config) -> Result<(), String> {
        let old = self.live.load_full();
        if old.config.listeners != config.listeners || old.config.admin != config.admin {
            return Err("listen addresses changed: that takes a restart".to_owned());
        }
        let config = Arc::new(config);
        let new = Live::compile(config.clone(), &self.lasting, Some(&old))?;
        let acceptors = self
            .certificates
            .iter()
            .map(|certificate| certificate.read())
            .collect::<Result<Vec<_>, _>>()?;
        self.lasting.sessions.reconfigure(&config.session)?;
        for (certificate, acceptor) in self.certificates.iter().zip(acceptors) {
            certificate.put(acceptor);
        }
        self.levels.set(config.logging.level);
        self.live.store(Arc::new(new));
        for key in fixed::waiting(&self.started, &config) {
            tracing::warn!("{key}: takes a restart; what it was at start stays in force");
        }
        Ok(())
    }
}

/// Builds everything the configuration names and throws it away again: what only shows when it is used (certificates,
/// authorities, the store's address) is a problem of `check`, too. Reaches out to nobody. Returns one line per problem.
pub fn check_offline(config: &Config) -> Vec<String> {
    let metrics = match Metrics::new() {
        Ok(metrics) => Arc::new(metrics),
        Err(error) => return vec![error.to_string()],
    };
    let clock: SharedClock = Arc::new(SystemClock);
    let listeners = config.listeners.iter().filter_map(|l| l.tls.as_ref());
    let mut problems: Vec<String> = listeners
        .filter_map(|files| Certificate::load(files).err())
        .collect();
    problems.extend(config.providers.iter().filter_map(|provider| {
        let built = Provider::new(provider.clone(), clock.clone(), metrics.clone());
        let problem = built.err()?;
        Some(format!("provider {}: {problem}", provider.name))
    }));
    let upstreams = config.upstreams.iter();
    problems.extend(upstreams.filter_map(|upstream| Upstream::new(upstream, &metrics).err()));
    let sessions = match Sessions::open(&config.session, clock.clone(), metrics.clone()) {
        Ok(sessions) => sessions,
        Err(problem) => {
            problems.push(problem);
            return problems;
        }
    };
    if problems.is_empty() {
        let lasting = Lasting {
            streams: Streams::new(sessions.clone(), clock.clone(), metrics.clone()),
            sessions,
            login_memory: login::Memory::new(),
            revoker: Revoker::default(),
            clock,
            metrics,
        };
        problems.extend(Live::compile(Arc::new(config.clone()), &lasting, None).err());
    }
    problems
}

/// Asks everything configured whether it is there (`check --online`). Returns one line per problem; what cannot even be
/// built is for [`check_offline`] to tell.
pub async fn check_online(config: Config) -> Vec<String> {
    let clock: SharedClock = Arc::new(SystemClock);
    let metrics = match Metrics::new() {
        Ok(metrics) => Arc::new(metrics),
        Err(error) => return vec![error.to_string()],
    };
    let mut problems = Vec::new();
    for provider in &config.providers {
        let Ok(asked) = Provider::new(provider.clone(), clock.clone(), metrics.clone()) else {
            continue;
        };
        if let Err(problem) = asked.warm_up().await {
            problems.push(format!(
                "provider `{}` at {}: {problem}",
                provider.name, provider.issuer
            ));
        }
    }
    let store = match Sessions::open(&config.session, clock, metrics) {
        Ok(sessions) => sessions.survey().await,
        Err(_) => Vec::new(),
    };
    problems.extend(
        store
            .iter()
            .map(|problem| format!("session.store: {problem}")),
    );
    problems
}
