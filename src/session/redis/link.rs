//! Keeps one connection to a server alive and gives every command a deadline.
//!
//! A supervisor task dials, checks the connection with a heartbeat, and dials again as soon as anyone finds it broken.
//! A connection that does not answer in time is abandoned, not queued on: Redis may be frozen, or a network path gone.
//! Rotated credentials are tried on a second connection, which takes over once they are accepted.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue, RedisError, RedisResult};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at};
use tracing::{info, warn};

use self::answer::Class;
pub(super) use self::answer::LinkError;
use super::access::{Access, Pass, Place, may_be_refusal};
use super::command::{Command, code};
use super::node::{Masters, Node};
use super::sentinel::Sentinels;
use crate::metrics::Metrics;
use crate::seal::random;

mod answer;

/// One supervised connection. Connects at first use.
pub(super) struct Link {
    shared: Arc<Shared>,
    supervisor: Mutex<Option<JoinHandle<()>>>,
}

/// Where the server is found.
pub(super) enum Origin {
    /// Always here.
    Place(Place),
    /// Where the sentinels say that the master is.
    Sentinels(Sentinels),
}

/// Who learns of connections made, replaced and lost.
pub(super) enum Observer {
    /// `store_connected` is this connection.
    Gauge(Arc<Metrics>),
    /// It is one of many, and their keeper is told to have a look.
    Keeper(Arc<Notify>),
}

struct Shared {
    origin: Origin,
    access: Arc<Access>,
    observer: Observer,
    state: watch::Sender<State>,
    /// The server as it was entered last; none before that.
    nodes: watch::Sender<Arc<[Node]>>,
    /// How it was entered then.
    shown: Mutex<Option<(Place, Arc<Pass>)>>,
    /// Counts the connections made, of all links that share it.
    dialled: Dialled,
    /// When a refusal was last logged: under load each command may be refused.
    refused: Mutex<Option<Instant>>,
}

#[derive(Clone)]
enum State {
    /// `epoch` tells connections apart, so that an old one's failure does not break a new one.
    Up {
        epoch: u64,
        connection: MultiplexedConnection,
    },
    /// `since` the first failure; `None` before the first attempt has ended. `sure` when the server itself was found away,
    /// not just one connection closed.
    Down {
        epoch: u64,
        since: Option<Instant>,
        sure: bool,
    },
}

/// Counts connections made: the next may lead to another server.
pub(super) type Dialled = Arc<watch::Sender<u64>>;

/// A connection that a command can be sent on.
pub(super) struct Ready {
    shared: Arc<Shared>,
    epoch: u64,
    connection: MultiplexedConnection,
}

/// A connection as made.
struct Entered {
    connection: MultiplexedConnection,
    node: Node,
    place: Place,
    pass: Arc<Pass>,
}

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

impl Link {
    /// Reaches out to nobody yet.
    pub(super) fn new(
        origin: Origin,
        access: Arc<Access>,
        observer: Observer,
        dialled: Dialled,
    ) -> Self {
        let (state, _) = watch::channel(State::Down {
            epoch: 0,
            since: None,
            sure: false,
        });
        let known = match &origin {
            Origin::Place(place) => Some((place.clone(), access.passes().current)),
            Origin::Sentinels(_) => None,
        };
        let node = known
            .as_ref()
            .and_then(|(place, pass)| pass.node(place).ok());
        let (nodes, _) = watch::channel(node.into_iter().collect());
        Self {
            shared: Arc::new(Shared {
                origin,
                access,
                observer,
                state,
                nodes,
                shown: Mutex::new(known),
                dialled,
                refused: Mutex::new(None),
            }),
            supervisor: Mutex::new(None),
        }
    }

    /// The server as it was entered last. Sentinels have to be asked first: till then, none.
    pub(super) fn node(&self) -> Masters {
        self.shared.nodes.subscribe()
    }

    /// The sentinels, where there are any.
    pub(super) fn sentinels(&self) -> Option<&Sentinels> {
        match &self.shared.origin {
            Origin::Sentinels(sentinels) => Some(sentinels),
            Origin::Place(_) => None,
        }
    }

    /// Where the server is, where that never changes.
    pub(super) fn place(&self) -> Option<&Place> {
        match &self.shared.origin {
            Origin::Place(place) => Some(place),
            Origin::Sentinels(_) => None,
        }
    }

    /// Whether there is a connection now.
    pub(super) fn is_up(&self) -> bool {
        matches!(*self.shared.state.borrow(), State::Up { .. })
    }

    /// The server does not answer, somebody found out. The connection in use is given up; should it be another's fault, the
    /// next is there at once.
    pub(super) fn is_silent(&self) {
        let epoch = self.shared.state.borrow().epoch();
        self.shared.broken(epoch, true);
    }

    /// Whether the server is known to be away: it would be of no use to wait for it.
    pub(super) fn is_away(&self) -> bool {
        // Somebody must try to bring it back, whoever asks.
        self.supervise();
        self.shared.state.borrow().is_away()
    }

    /// Waits until the server is known to be away.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn goes_away(&self) {
        // The sender lives as long as we do.
        let _ = self.shared.state.subscribe().wait_for(State::is_away).await;
    }

    /// Sends a command and waits for the answer, connection set-up included, until the deadline. `attempts`: how often it
    /// may be sent; one is for a caller who must know that an answer got lost.
    ///
    /// # Cancel safety
    /// Cancel safe: Redis may or may not act on a command whose answer nobody waits for.
    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        command: Command<'_>,
        deadline: Instant,
        attempts: u32,
    ) -> Result<T, LinkError> {
        let mut sent = 0;
        let mut turned_away = 0;
        loop {
            let ready = match timeout_at(deadline, self.ready()).await {
                Ok(ready) => ready?,
                Err(_) => return Err(LinkError::Timeout),
            };
            match ready.send(command, false, deadline).await {
                Err(LinkError::Lost) => {
                    sent += 1;
                    if sent >= attempts {
                        return Err(LinkError::Lost);
                    }
                }
                // It was not acted upon, and the sentinels know another.
                Err(LinkError::NotMaster) if self.sentinels().is_some() => {
                    turned_away += 1;
                    if turned_away >= MAX_TURNS {
                        return Err(LinkError::NotMaster);
                    }
                }
                answer => return answer,
            }
        }
    }

    /// The connection in use, or the next one. Fails at once when Redis has been away for a while: waiting is for blips.
    pub(super) async fn ready(&self) -> Result<Ready, LinkError> {
        self.supervise();
        let mut state = self.shared.state.subscribe();
        loop {
            match &*state.borrow_and_update() {
                State::Up { epoch, connection } => {
                    return Ok(Ready {
                        shared: Arc::clone(&self.shared),
                        epoch: *epoch,
                        connection: connection.clone(),
                    });
                }
                State::Down {
                    since: Some(since), ..
                } if since.elapsed() > PATIENCE => return Err(LinkError::Unreachable),
                State::Down { .. } => {}
            }
            state.changed().await.map_err(|_| LinkError::Unreachable)?;
        }
    }

    /// Starts the supervisor, also when the runtime it ran on is gone.
    pub(super) fn supervise(&self) {
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

impl Ready {
    /// Where the server is, where that never changes.
    pub(super) fn place(&self) -> Option<&Place> {
        match &self.shared.origin {
            Origin::Place(place) => Some(place),
            Origin::Sentinels(_) => None,
        }
    }

    /// Sends a command once. A connection that turns out not to be usable is replaced.
    pub(super) async fn send<T: FromRedisValue>(
        mut self,
        command: Command<'_>,
        asking: bool,
        deadline: Instant,
    ) -> Result<T, LinkError> {
        let answer = timeout_at(deadline, command.send(&mut self.connection, asking)).await;
        let error = match answer {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error,
            Err(_) => {
                // It may only be slow, but nobody can tell that from frozen; a new connection costs little.
                self.shared.broken(self.epoch, true);
                return Err(LinkError::Timeout);
            }
        };
        let class = Class::of(&error);
        if class != Class::Answer {
            self.shared.broken(self.epoch, false);
        }
        let failure = LinkError::of(&error, class);
        if matches!(failure, LinkError::Refused | LinkError::NotMaster) {
            self.shared.report_refusal(&error);
        }
        Err(failure)
    }
}

impl Shared {
    /// Dials, watches, dials again, until aborted.
    async fn run(self: Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        let mut reported = false;
        loop {
            match self.dial().await {
                Ok(entered) => {
                    pause = FIRST_PAUSE;
                    reported = false;
                    let mut entered = Some(entered);
                    while let Some(connection) = entered {
                        info!(store.node = &*connection.node.id, "session store connected");
                        entered = self.watch_over(connection).await;
                    }
                    warn!("session store connection lost");
                }
                Err(error) => {
                    self.note_failure();
                    if !reported {
                        reported = true;
                        // Kind and code only: texts may quote what was sent.
                        warn!(
                            store.node = self.origin.name(),
                            store.error = ?error.kind(),
                            store.code = code(&error),
                            "session store cannot be reached; trying on"
                        );
                    }
                    // Jittered, or a fleet would knock in step.
                    sleep(jittered(pause)).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
            }
        }
    }

    /// Connects with the credentials in force; until a server knows them, with those from before.
    async fn dial(&self) -> RedisResult<Entered> {
        let place = match &self.origin {
            Origin::Place(place) => place.clone(),
            Origin::Sentinels(sentinels) => sentinels.master(None).await?,
        };
        let passes = self.access.passes();
        let error = match self.enter(&place, &passes.current).await {
            Ok(entered) => return Ok(entered),
            Err(error) => error,
        };
        match &passes.previous {
            Some(previous) if may_be_refusal(&error) => {
                self.enter(&place, previous).await.map_err(|_| error)
            }
            _ => Err(error),
        }
    }

    async fn enter(&self, place: &Place, pass: &Arc<Pass>) -> RedisResult<Entered> {
        let node = pass.node(place)?;
        let attempt = async {
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(DIAL))
                .set_response_timeout(Some(DIAL))
                .set_pipeline_buffer_size(QUEUE);
            let mut connection = node
                .client
                .get_multiplexed_async_connection_with_config(&config)
                .await?;
            // A server that still loads its data, or lets us in but not do anything, is not up.
            self.check(&mut connection).await?;
            Ok(connection)
        };
        let connection: RedisResult<_> = timeout(DIAL, attempt)
            .await
            .unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()));
        let connection = connection?;
        Ok(Entered {
            connection,
            node,
            place: place.clone(),
            pass: Arc::clone(pass),
        })
    }

    /// Is the server there, and the one to write to? Where sentinels may have put another in its place, it has to say so
    /// itself: an old master that comes back does not know yet.
    async fn check(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        match &self.origin {
            Origin::Place(_) => redis::cmd("PING").exec_async(connection).await,
            Origin::Sentinels(sentinels) => sentinels.verify_master(connection).await,
        }
    }

    /// Publishes the connection and returns when it is found broken, by the heartbeat or by a command; or with the one that
    /// takes its place.
    async fn watch_over(&self, entered: Entered) -> Option<Entered> {
        let mut state = self.state.subscribe();
        let mine = state.borrow().epoch() + 1;
        self.show(&entered);
        self.state.send_replace(State::Up {
            epoch: mine,
            connection: entered.connection.clone(),
        });
        state.mark_unchanged();
        self.dialled.send_modify(|dialled| *dialled += 1);
        self.observer.tell(true);
        let told = state.wait_for(|state| matches!(state, State::Down { .. }));
        tokio::select! {
            () = self.beat(&entered) => {}
            () = self.overtaken(&entered) => {
                warn!("the sentinels name another master; leaving the old one");
            }
            next = self.renewed(&entered) => return Some(next),
            _ = told => return None,
        }
        self.broken(mine, true);
        None
    }

    /// Tells of another server, or of other credentials for it; not of each connection.
    fn show(&self, entered: &Entered) {
        let mut shown = self.shown.lock();
        let same = shown.as_ref().is_some_and(|(place, pass)| {
            *place == entered.place && Arc::ptr_eq(pass, &entered.pass)
        });
        if !same {
            *shown = Some((entered.place.clone(), Arc::clone(&entered.pass)));
            self.nodes.send_replace(Arc::from([entered.node.clone()]));
        }
    }

    /// Ends when the server has stopped answering.
    async fn beat(&self, entered: &Entered) {
        let mut beat = interval(HEARTBEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            let mut connection = entered.connection.clone();
            match timeout(ANSWER, self.check(&mut connection)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) if Class::of(&error) == Class::Answer => {}
                _ => return,
            }
        }
    }

    /// Ends when the sentinels have another master: the old one may be cut off from them and still answer us.
    async fn overtaken(&self, entered: &Entered) {
        let Origin::Sentinels(sentinels) = &self.origin else {
            return std::future::pending().await;
        };
        loop {
            sleep(jittered(SENTINEL_PULSE)).await;
            match sentinels.master(Some(&entered.place)).await {
                Ok(master) if master != entered.place => return,
                _ => {}
            }
        }
    }

    /// Ends when credentials other than those of the connection are in force and accepted. Till then it stays in use.
    async fn renewed(&self, entered: &Entered) -> Entered {
        let mut passes = self.access.subscribe();
        let mut pause = FIRST_PAUSE;
        let mut reported = false;
        loop {
            let wanted = Arc::clone(&passes.borrow_and_update().current);
            if Arc::ptr_eq(&wanted, &entered.pass) {
                if passes.changed().await.is_err() {
                    return std::future::pending().await;
                }
                continue;
            }
            match self.enter(&entered.place, &wanted).await {
                Ok(next) => return next,
                Err(error) => {
                    if !reported {
                        reported = true;
                        warn!(
                            store.node = &*entered.node.id,
                            store.error = ?error.kind(),
                            "session store does not accept the new credentials; the connection in use stays, trying on"
                        );
                    }
                }
            }
            tokio::select! {
                () = sleep(jittered(pause)) => pause = (pause * 2).min(MAX_RENEWAL_PAUSE),
                _ = passes.changed() => {
                    pause = FIRST_PAUSE;
                    reported = false;
                }
            }
        }
    }

    /// A command or heartbeat found connection `broken` unusable.
    fn broken(&self, broken: u64, sure: bool) {
        let ended = self.state.send_if_modified(|state| {
            let current = matches!(state, State::Up { epoch, .. } if *epoch == broken);
            if current {
                *state = State::Down {
                    epoch: broken,
                    since: Some(Instant::now()),
                    sure,
                };
            }
            current
        });
        if ended {
            self.observer.tell(false);
        }
    }

    fn report_refusal(&self, error: &RedisError) {
        let mut refused = self.refused.lock();
        if refused.is_none_or(|last| last.elapsed() > REFUSALS_EVERY) {
            *refused = Some(Instant::now());
            warn!(
                store.error = ?error.kind(),
                store.code = code(error),
                "session store refuses commands"
            );
        }
    }

    /// Dialling failed: from now on the outage has a beginning, and those who wait see when it has become long.
    fn note_failure(&self) {
        self.observer.tell(false);
        self.state.send_modify(|state| {
            if let State::Down { since, sure, .. } = state {
                since.get_or_insert_with(Instant::now);
                *sure = true;
            }
        });
    }
}

impl Origin {
    fn name(&self) -> String {
        match self {
            Self::Place(place) => place.to_string(),
            Self::Sentinels(sentinels) => sentinels.name().to_owned(),
        }
    }
}

impl Observer {
    fn tell(&self, up: bool) {
        match self {
            Self::Gauge(metrics) => metrics.store_connected.set(i64::from(up)),
            Self::Keeper(keeper) => keeper.notify_one(),
        }
    }
}

/// Between half and all of it.
pub(super) fn jittered(pause: Duration) -> Duration {
    let mut byte = [0];
    random(&mut byte);
    pause.mul_f64(0.5 + 0.5 * f64::from(byte[0]) / 255.0)
}

/// The whole wait of a command. No request waits longer than 500 ms for a store that does not answer; the rest is ours.
pub(super) const ANSWER: Duration = Duration::from_millis(450);
/// One attempt to connect: TCP, TLS, AUTH and PING.
pub(super) const DIAL: Duration = Duration::from_secs(1);
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Between looks at what the sentinels say, while a master answers.
const SENTINEL_PULSE: Duration = Duration::from_secs(1);
/// Commands wait for a connection while an outage is younger than this, and fail at once when it is older.
const PATIENCE: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest time Redis may be back before we notice.
const MAX_PAUSE: Duration = Duration::from_millis(250);
/// Between attempts to get in with new credentials, with the old ones still good.
const MAX_RENEWAL_PAUSE: Duration = Duration::from_secs(5);
/// Commands queued on the connection; more wait, within their deadlines.
const QUEUE: usize = 1024;
/// A command whose connection broke is sent again on the next one.
pub(super) const MAX_ATTEMPTS: u32 = 3;
/// How often a command that a demoted master did not take is taken elsewhere.
const MAX_TURNS: u32 = 10;
const REFUSALS_EVERY: Duration = Duration::from_secs(5);
