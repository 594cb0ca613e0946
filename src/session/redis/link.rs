//! Keeps one connection to Redis alive and gives every command a deadline.
//!
//! A supervisor task dials, checks the connection with a heartbeat, and dials again as soon as anyone finds it broken.
//! A connection that does not answer in time is abandoned, not queued on: Redis may be frozen, or a network path gone.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, FromRedisValue, Pipeline, RedisError, RedisResult,
    ScriptInvocation, ServerErrorKind,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at};
use tracing::{info, warn};

use crate::metrics::Metrics;
use crate::seal::random;

/// One supervised connection. Connects at first use.
pub(super) struct Link {
    shared: Arc<Shared>,
    supervisor: Mutex<Option<JoinHandle<()>>>,
}

/// What can be sent. Each must be safe to send twice: an answer may get lost with its connection.
#[derive(Clone, Copy)]
pub(super) enum Command<'a> {
    /// A Lua script, loaded again when Redis has forgotten it.
    Script(&'a ScriptInvocation<'a>),
    /// Plain commands in one round trip.
    Pipe(&'a Pipeline),
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkError {
    /// Not in time.
    Timeout,
    /// No connection.
    Unreachable,
    /// The key holds something that is not ours.
    WrongType,
    /// Redis said no.
    Refused,
}

struct Shared {
    client: ArcSwap<Client>,
    state: watch::Sender<State>,
    /// Counts the connections made.
    dialled: watch::Sender<u64>,
    /// When a refusal was last logged: under load each command may be refused.
    refused: Mutex<Option<Instant>>,
    metrics: Arc<Metrics>,
}

#[derive(Clone)]
enum State {
    /// `epoch` tells connections apart, so that an old one's failure does not break a new one.
    Up {
        epoch: u64,
        connection: MultiplexedConnection,
    },
    /// `since` the first failure; `None` before the first attempt has ended. `sure` when Redis itself was found away,
    /// not just one connection closed.
    Down {
        epoch: u64,
        since: Option<Instant>,
        sure: bool,
    },
}

/// Lets others say that Redis has fallen silent.
#[derive(Clone)]
pub(super) struct Suspect(Arc<Shared>);

impl State {
    fn epoch(&self) -> u64 {
        match self {
            Self::Up { epoch, .. } | Self::Down { epoch, .. } => *epoch,
        }
    }

    fn is_away(&self) -> bool {
        matches!(self, Self::Down { sure: true, .. })
    }
}

impl Suspect {
    /// Redis does not answer. The connection in use is given up; should it be another's fault, the next is there at once.
    pub(super) fn silent(&self) {
        let epoch = self.0.state.borrow().epoch();
        self.0.broken(epoch, true);
    }
}

impl Link {
    /// Reaches out to nobody yet.
    pub(super) fn new(client: Client, metrics: Arc<Metrics>) -> Self {
        let (state, _) = watch::channel(State::Down {
            epoch: 0,
            since: None,
            sure: false,
        });
        Self {
            shared: Arc::new(Shared {
                client: ArcSwap::from_pointee(client),
                state,
                dialled: watch::channel(0).0,
                refused: Mutex::new(None),
                metrics,
            }),
            supervisor: Mutex::new(None),
        }
    }

    /// Uses other credentials from the next connection on; the one in use stays.
    pub(super) fn replace_client(&self, client: Client) {
        self.shared.client.store(Arc::new(client));
    }

    /// Counts the connections made: the next may lead to another server.
    pub(super) fn dialled(&self) -> watch::Receiver<u64> {
        self.shared.dialled.subscribe()
    }

    /// For whoever finds out by other means that Redis has fallen silent.
    pub(super) fn suspect(&self) -> Suspect {
        Suspect(Arc::clone(&self.shared))
    }

    /// Whether Redis is known to be away: it would be of no use to wait for it.
    pub(super) fn is_away(&self) -> bool {
        // Somebody must try to bring it back, whoever asks.
        self.supervise();
        self.shared.state.borrow().is_away()
    }

    /// Waits until Redis is known to be away.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn goes_away(&self) {
        // The sender lives as long as we do.
        let _ = self.shared.state.subscribe().wait_for(State::is_away).await;
    }

    /// Sends a command and waits for the answer, connection set-up included, at most [`ANSWER`].
    ///
    /// # Cancel safety
    /// Cancel safe: Redis may or may not act on a command whose answer nobody waits for.
    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        command: Command<'_>,
    ) -> Result<T, LinkError> {
        self.ask_times(command, Instant::now() + ANSWER, MAX_ATTEMPTS)
            .await
    }

    /// As [`ask`](Self::ask), but sends the command once: for a caller who must know that an answer got lost.
    pub(super) async fn ask_once<T: FromRedisValue>(
        &self,
        command: Command<'_>,
        deadline: Instant,
    ) -> Result<T, LinkError> {
        self.ask_times(command, deadline, 1).await
    }

    async fn ask_times<T: FromRedisValue>(
        &self,
        command: Command<'_>,
        deadline: Instant,
        max_attempts: u32,
    ) -> Result<T, LinkError> {
        self.supervise();
        let mut used = None;
        let mut attempts = 0;
        let answer = timeout_at(deadline, async {
            loop {
                let (epoch, mut connection) = self.connection().await?;
                used = Some(epoch);
                attempts += 1;
                match command.send(&mut connection).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => {
                        let class = Class::of(&error);
                        if class != Class::Answer {
                            self.shared.broken(epoch, false);
                        }
                        if class != Class::Lost || attempts == max_attempts {
                            return Err(self.shared.link_error(&error, class));
                        }
                    }
                }
            }
        })
        .await;
        answer.unwrap_or_else(|_| {
            // It may only be slow, but nobody can tell that from frozen; a new connection costs little.
            if let Some(epoch) = used {
                self.shared.broken(epoch, true);
            }
            Err(LinkError::Timeout)
        })
    }

    /// The connection in use, or the next one. Fails at once when Redis has been away for a while: waiting is for blips.
    async fn connection(&self) -> Result<(u64, MultiplexedConnection), LinkError> {
        let mut state = self.shared.state.subscribe();
        loop {
            match &*state.borrow_and_update() {
                State::Up { epoch, connection } => return Ok((*epoch, connection.clone())),
                State::Down {
                    since: Some(since), ..
                } if since.elapsed() > PATIENCE => return Err(LinkError::Unreachable),
                State::Down { .. } => {}
            }
            state.changed().await.map_err(|_| LinkError::Unreachable)?;
        }
    }

    /// Starts the supervisor, also when the runtime it ran on is gone.
    fn supervise(&self) {
        let mut supervisor = self.supervisor.lock();
        if supervisor.as_ref().is_none_or(JoinHandle::is_finished) {
            if supervisor.is_some() {
                self.shared.state.send_modify(|state| {
                    let epoch = state.epoch();
                    *state = State::Down {
                        epoch,
                        since: None,
                        sure: false,
                    };
                });
            }
            *supervisor = Some(tokio::spawn(Shared::run(Arc::clone(&self.shared))));
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(supervisor) = self.supervisor.get_mut() {
            supervisor.abort();
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Link(..)")
    }
}

impl Shared {
    /// Dials, watches, dials again, until aborted.
    async fn run(self: Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        let mut reported = false;
        loop {
            match self.dial().await {
                Ok(connection) => {
                    pause = FIRST_PAUSE;
                    reported = false;
                    info!("session store connected");
                    self.watch_over(connection).await;
                    warn!("session store connection lost");
                }
                Err(error) => {
                    self.note_failure();
                    if !reported {
                        reported = true;
                        // Kind and code only: texts may quote what was sent.
                        warn!(
                            store.error = ?error.kind(),
                            store.code = code(&error),
                            "session store cannot be reached; trying on"
                        );
                    }
                    // Jittered, or a fleet would knock in step.
                    sleep(pause.mul_f64(0.5 + 0.5 * fraction())).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
            }
        }
    }

    async fn dial(&self) -> RedisResult<MultiplexedConnection> {
        let client = self.client.load_full();
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(DIAL))
            .set_response_timeout(Some(DIAL))
            .set_pipeline_buffer_size(QUEUE);
        let attempt = async {
            let mut connection = client
                .get_multiplexed_async_connection_with_config(&config)
                .await?;
            // A server that still loads its data, or lets us in but not do anything, is not up.
            redis::cmd("PING").exec_async(&mut connection).await?;
            Ok(connection)
        };
        timeout(DIAL, attempt)
            .await
            .unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
    }

    /// Publishes the connection and returns when it is found broken, by the heartbeat or by a command.
    async fn watch_over(&self, connection: MultiplexedConnection) {
        let mut state = self.state.subscribe();
        let mine = state.borrow().epoch() + 1;
        self.state.send_replace(State::Up {
            epoch: mine,
            connection: connection.clone(),
        });
        state.mark_unchanged();
        self.dialled.send_replace(mine);
        self.metrics.store_connected.set(1);
        let mut beat = interval(HEARTBEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let check = async {
            loop {
                beat.tick().await;
                let mut connection = connection.clone();
                let ping = redis::cmd("PING");
                match timeout(ANSWER, ping.exec_async(&mut connection)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) if Class::of(&error) == Class::Answer => {}
                    _ => break,
                }
            }
        };
        let told = state.wait_for(|state| matches!(state, State::Down { .. }));
        tokio::select! {
            () = check => self.broken(mine, true),
            _ = told => {}
        }
    }

    /// A command or heartbeat found connection `broken` unusable.
    fn broken(&self, broken: u64, sure: bool) {
        self.state.send_if_modified(|state| {
            let current = matches!(state, State::Up { epoch, .. } if *epoch == broken);
            if current {
                self.metrics.store_connected.set(0);
                *state = State::Down {
                    epoch: broken,
                    since: Some(Instant::now()),
                    sure,
                };
            }
            current
        });
    }

    fn link_error(&self, error: &RedisError, class: Class) -> LinkError {
        let code = code(error);
        if class == Class::Lost {
            return LinkError::Unreachable;
        }
        if code.as_deref() == Some("WRONGTYPE") {
            return LinkError::WrongType;
        }
        let mut refused = self.refused.lock();
        if refused.is_none_or(|last| last.elapsed() > REFUSALS_EVERY) {
            *refused = Some(Instant::now());
            warn!(
                store.error = ?error.kind(),
                store.code = code,
                "session store refuses commands"
            );
        }
        LinkError::Refused
    }

    /// Dialling failed: from now on the outage has a beginning, and those who wait see when it has become long.
    fn note_failure(&self) {
        self.metrics.store_connected.set(0);
        self.state.send_modify(|state| {
            if let State::Down { since, sure, .. } = state {
                since.get_or_insert_with(Instant::now);
                *sure = true;
            }
        });
    }
}

impl Command<'_> {
    async fn send<T: FromRedisValue>(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<T> {
        match self {
            Self::Script(script) => script.invoke_async(connection).await,
            Self::Pipe(pipe) => pipe.query_async(connection).await,
        }
    }
}

/// What an error says about the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Redis answered; the connection is good.
    Answer,
    /// The connection is gone; another may do.
    Lost,
    /// Redis answered, but this connection will not do: a demoted master, data still loading, rights withdrawn. Dialling
    /// resolves the name and authenticates again.
    Elsewhere,
}

impl Class {
    fn of(error: &RedisError) -> Self {
        match error.kind() {
            redis::ErrorKind::Server(
                ServerErrorKind::ReadOnly
                | ServerErrorKind::MasterDown
                | ServerErrorKind::BusyLoading,
            ) => Self::Elsewhere,
            redis::ErrorKind::Extension if code(error).as_deref() == Some("NOAUTH") => {
                Self::Elsewhere
            }
            redis::ErrorKind::Server(_)
            | redis::ErrorKind::Extension
            | redis::ErrorKind::UnexpectedReturnType => Self::Answer,
            _ => Self::Lost,
        }
    }
}

/// The first word of Redis' error, also of the first error in a pipeline.
pub(super) fn code(error: &RedisError) -> Option<String> {
    if let Some(code) = error.code() {
        return Some(code.to_owned());
    }
    let errors = error.clone().into_server_errors()?;
    errors.first().map(|(_, error)| error.code().to_owned())
}

/// Evenly spread over 0..=1.
pub(super) fn fraction() -> f64 {
    let mut byte = [0];
    random(&mut byte);
    f64::from(byte[0]) / 255.0
}

/// The whole wait of a command. No request waits longer than 500 ms for a store that does not answer; the rest is ours.
pub(super) const ANSWER: Duration = Duration::from_millis(450);
/// One attempt to connect: TCP, TLS, AUTH and PING.
pub(super) const DIAL: Duration = Duration::from_secs(1);
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Commands wait for a connection while an outage is younger than this, and fail at once when it is older.
const PATIENCE: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest time Redis may be back before we notice.
const MAX_PAUSE: Duration = Duration::from_millis(250);
/// Commands queued on the connection; more wait, within their deadlines.
const QUEUE: usize = 1024;
/// A command whose connection broke is sent again on the next one.
const MAX_ATTEMPTS: u32 = 3;
const REFUSALS_EVERY: Duration = Duration::from_secs(5);
