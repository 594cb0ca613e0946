//! Sends commands to one server, each with a deadline, over a connection that a supervisor keeps alive.
//!
//! A connection that does not answer in time is abandoned, not queued on: Redis may be frozen, or a network path gone.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redis::FromRedisValue;
use redis::aio::MultiplexedConnection;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::answer::Class;
pub(super) use self::answer::LinkError;
use super::access::{Access, Pass, Place};
use super::command::Command;
use super::node::{Masters, Node};
use super::sentinel::Sentinels;
use crate::clock::by;
use crate::metrics::Metrics;
use crate::seal::random;

mod answer;
mod supervisor;
#[cfg(test)]
mod tests;

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
        since: Instant,
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
        let known = origin.place().cloned();
        let known = known.map(|place| (place, access.passes().current));
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
        self.shared.origin.place()
    }

    /// Whether there is a connection now.
    pub(super) fn is_up(&self) -> bool {
        matches!(*self.shared.state.borrow(), State::Up { .. })
    }

    /// Whether a connection has been there for so long.
    pub(super) fn is_up_for(&self, time: Duration) -> bool {
        matches!(*self.shared.state.borrow(), State::Up { since, .. } if since.elapsed() >= time)
    }

    /// The connection in use may lead to another server than somebody else's: it is made anew.
    pub(super) fn redial(&self) {
        let epoch = self.shared.state.borrow().epoch();
        self.shared.broken(epoch, false);
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
            let ready = by(deadline, self.ready()).await;
            let ready = ready.ok_or(LinkError::Timeout)??;
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
                State::Up {
                    epoch, connection, ..
                } => {
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
        self.shared.origin.place()
    }

    /// Sends a command once. A connection that turns out not to be usable is replaced.
    pub(super) async fn send<T: FromRedisValue>(
        mut self,
        command: Command<'_>,
        asking: bool,
        deadline: Instant,
    ) -> Result<T, LinkError> {
        let sent = Instant::now();
        let answer = by(deadline, command.send(&mut self.connection, asking)).await;
        let error = match answer {
            Some(Ok(answer)) => return Ok(answer),
            Some(Err(error)) => error,
            None => {
                // It may only be slow, but nobody can tell that from frozen; a new connection costs little. What was sent
                // at the last moment proves nothing: the heartbeat will tell.
                if sent.elapsed() >= FAIR {
                    self.shared.broken(self.epoch, true);
                }
                return Err(LinkError::Timeout);
            }
        };
        let class = Class::of(&error);
        let replace = match class {
            Class::Answer => false,
            Class::Lost => true,
            Class::Elsewhere => self.shared.may_lead_elsewhere(),
        };
        if replace {
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
    /// Whether another connection may lead to another server. Where only a name says which, one that was made a moment ago
    /// has just been led by it: with each command refused, each would cost a connection.
    fn may_lead_elsewhere(&self) -> bool {
        match (&self.origin, &*self.state.borrow()) {
            (Origin::Place(_), State::Up { since, .. }) => since.elapsed() >= LEAD_EVERY,
            _ => true,
        }
    }
}

impl Origin {
    /// Where the server is, where that never changes.
    fn place(&self) -> Option<&Place> {
        match self {
            Self::Place(place) => Some(place),
            Self::Sentinels(_) => None,
        }
    }

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

/// The whole wait of a command, but for a last look. No request waits longer than 500 ms for a store that does not answer;
/// the rest is ours.
pub(super) const ANSWER: Duration = Duration::from_millis(450);
/// One attempt to connect: TCP, TLS, AUTH and PING.
pub(super) const DIAL: Duration = Duration::from_secs(1);
/// Commands wait for a connection while an outage is younger than this, and fail at once when it is older.
const PATIENCE: Duration = Duration::from_secs(2);
/// A server that has had so long to answer, and has not, is taken for silent.
const FAIR: Duration = Duration::from_millis(200);
/// Pause between connections to a place that takes no commands.
const LEAD_EVERY: Duration = Duration::from_millis(250);
/// A command whose connection broke is sent again on the next one.
pub(super) const MAX_ATTEMPTS: u32 = 3;
/// How often a command that a demoted master did not take is taken elsewhere.
const MAX_TURNS: u32 = 10;
