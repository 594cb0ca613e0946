//! Keeps one connection to a server alive.
//!
//! A task dials, checks the connection with a heartbeat, and dials again as soon as anyone finds it broken. Rotated
//! credentials are tried on a second connection, which takes over once they are accepted.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ErrorKind, RedisError, RedisResult};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{info, warn};

use super::answer::Class;
use super::{ANSWER, DIAL, Origin, Shared, State, jittered};
use crate::clock::by;
use crate::session::redis::access::{Pass, Place, may_be_refusal};
use crate::session::redis::command::code;
use crate::session::redis::node::Node;

/// A connection as made.
struct Entered {
    connection: MultiplexedConnection,
    node: Node,
    place: Place,
    pass: Arc<Pass>,
}

impl Shared {
    /// Dials, watches, dials again, until aborted.
    pub(super) async fn run(self: Arc<Self>) {
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

    /// Connects to the server; where there are sentinels, to the one they name.
    async fn dial(&self) -> RedisResult<Entered> {
        let sentinels = match &self.origin {
            Origin::Place(place) => return self.get_in(place).await,
            Origin::Sentinels(sentinels) => sentinels,
        };
        let asked = Instant::now();
        let place = sentinels.master(None).await?;
        let entered = self.get_in(&place).await?;
        // It may have stood still, and let us in when it went on, as a master who does not know yet that there is another:
        // whoever signed in there meanwhile would be unknown. If none of them answers now, what they said before has to do.
        if asked.elapsed() > PROMPT
            && let Ok(master) = sentinels.master(Some(&place)).await
            && master != place
        {
            return Err((ErrorKind::Client, "the sentinels name another master").into());
        }
        Ok(entered)
    }

    /// Connects with the credentials in force; until a server knows them, with those from before.
    async fn get_in(&self, place: &Place) -> RedisResult<Entered> {
        let passes = self.access.passes();
        let error = match self.enter(place, &passes.current).await {
            Ok(entered) => return Ok(entered),
            Err(error) => error,
        };
        match &passes.previous {
            Some(previous) if may_be_refusal(&error) => {
                self.enter(place, previous).await.map_err(|_| error)
            }
            _ => Err(error),
        }
    }

    async fn enter(&self, place: &Place, pass: &Arc<Pass>) -> RedisResult<Entered> {
        let node = pass.node(place)?;
        let attempt = async {
            // Whoever waits has a deadline; the crate's own would take no last look.
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(None)
                .set_response_timeout(None)
                .set_pipeline_buffer_size(QUEUE);
            let mut connection = node
                .client
                .get_multiplexed_async_connection_with_config(&config)
                .await?;
            // A server that still loads its data, or lets us in but not do anything, is not up.
            self.check(&mut connection).await?;
            Ok(connection)
        };
        let connection: RedisResult<_> = by(Instant::now() + DIAL, attempt)
            .await
            .unwrap_or_else(|| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()));
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
            since: Instant::now(),
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
            match by(Instant::now() + ANSWER, self.check(&mut connection)).await {
                Some(Ok(())) => {}
                Some(Err(error)) if Class::of(&error) == Class::Answer => {}
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
    pub(super) fn broken(&self, broken: u64, sure: bool) {
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

    pub(super) fn report_refusal(&self, error: &RedisError) {
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

const HEARTBEAT: Duration = Duration::from_secs(1);
/// A server that lets us in within this has not been replaced since the sentinels were asked.
const PROMPT: Duration = Duration::from_millis(100);
/// Between looks at what the sentinels say, while a master answers.
const SENTINEL_PULSE: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest time Redis may be back before we notice.
const MAX_PAUSE: Duration = Duration::from_millis(250);
/// Between attempts to get in with new credentials, with the old ones still good.
const MAX_RENEWAL_PAUSE: Duration = Duration::from_secs(5);
/// Commands queued on the connection; more wait, within their deadlines.
const QUEUE: usize = 1024;
const REFUSALS_EVERY: Duration = Duration::from_secs(5);
