//! Has Redis tell which sessions have changed, and says how far the cache may be believed.
//!
//! One RESP3 connection per master, of its own: `CLIENT TRACKING ... BCAST` names every changed record on it. Redis keeps
//! no state per key for that, and whichever connection reads the records does not matter. Pushes are handled where they
//! are received: there is no queue that could grow, and what precedes a heartbeat's answer has been handled when the
//! answer is. So an answer proves that everything before its question has been told.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ProtocolVersion, PushInfo, PushKind, RedisError, Value,
};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use self::server::{Ended, Role, look};
use super::command::code;
use super::link::{ANSWER, DIAL, jittered};
use super::node::{Masters, Node};
use super::topology::Roster;
use crate::clock::by;
use crate::metrics::Metrics;
use crate::seal::random;
use crate::session::cache::{Cache, Entry};
use crate::session::changes::Changes;
use crate::session::orphans::Orphans;
use crate::session::seen::{Last, Seen};
use crate::session::{RecordKey, Session};

mod probe;
mod server;

/// Keeps the cache true. Connects at first use.
pub(in crate::session) struct Tracker {
    shared: Arc<Shared>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// Who hears of changes.
#[derive(Debug, Clone)]
pub(in crate::session) struct Listeners {
    pub(in crate::session) cache: Arc<Cache>,
    pub(in crate::session) changes: Changes,
    pub(in crate::session) seen: Arc<Seen>,
    pub(in crate::session) orphans: Arc<Orphans>,
    pub(in crate::session) metrics: Arc<Metrics>,
}

/// What is tracked, and what a change of it means.
pub(super) struct Tracked {
    pub(super) masters: Masters,
    /// Counts command connections made anew. Each may lead elsewhere than the one before, and tracking must follow:
    /// pushes of one server say nothing about what is read from another.
    pub(super) redials: watch::Receiver<u64>,
    /// Prefix of the records' keys.
    pub(super) records: String,
    /// Prefix of the markers that ask for revocation.
    pub(super) marks: String,
    /// Prefix of keys that are written only to hear of it.
    pub(super) probes: String,
    /// Knows what a server holds, and is told when one falls silent.
    pub(super) roster: Roster,
}

struct Shared {
    tracked: Tracked,
    hear: Listeners,
    /// By master: up to when it has told everything; `None` while it is not tracked.
    board: Mutex<Vec<Option<Instant>>>,
    /// Whether it was said that Redis cannot do it.
    warned: AtomicBool,
    /// When commands were last made to follow.
    led: Mutex<Option<Instant>>,
}

impl Tracker {
    /// Reaches out to nobody yet.
    pub(super) fn new(tracked: Tracked, hear: Listeners) -> Self {
        Self {
            shared: Arc::new(Shared {
                tracked,
                hear,
                board: Mutex::default(),
                warned: AtomicBool::new(false),
                led: Mutex::default(),
            }),
            task: Mutex::new(None),
        }
    }

    /// Starts the task, also when the runtime it ran on is gone.
    pub(in crate::session) fn supervise(&self) {
        let mut task = self.task.lock();
        if task.as_ref().is_none_or(JoinHandle::is_finished) {
            self.shared.lost();
            *task = Some(tokio::spawn(Shared::run(Arc::clone(&self.shared))));
        }
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut() {
            task.abort();
        }
    }
}

impl fmt::Debug for Tracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tracker(..)")
    }
}

impl Shared {
    /// Follows all masters, until there are others.
    async fn run(self: Arc<Self>) {
        let mut masters = self.tracked.masters.clone();
        let mut redials = self.tracked.redials.clone();
        // Nothing can be read before.
        if redials.wait_for(|dialled| *dialled > 0).await.is_err() {
            return;
        }
        loop {
            let nodes = masters.borrow_and_update().clone();
            redials.mark_unchanged();
            *self.board.lock() = vec![None; nodes.len()];
            let follow = async {
                join_all(nodes.iter().enumerate().map(|(at, n)| self.follow(at, n))).await;
                // Without any master there is nothing to do but wait for one.
                std::future::pending::<()>().await;
            };
            let there = tokio::select! {
                () = follow => true,
                () = self.count() => true,
                told = masters.changed() => told.is_ok(),
                told = redials.changed() => told.is_ok(),
            };
            self.lost();
            if !there {
                return;
            }
        }
    }

    /// Tracks one master, again and again.
    async fn follow(self: &Arc<Self>, at: usize, node: &Node) {
        let mut pause = FIRST_PAUSE;
        // Set-ups in a row that came to nothing although commands reach the server.
        let mut in_vain = 0;
        // It said that it is no master: by the same name there may be another when it says that it is.
        let mut demoted = false;
        loop {
            let mut ended = self.track(at, node, demoted).await;
            demoted |= matches!(ended, Ended::Demoted);
            let tracked = self.unproven(at);
            self.lost();
            if tracked {
                pause = FIRST_PAUSE;
            }
            in_vain = if !tracked && self.tracked.roster.is_up(node) {
                in_vain + 1
            } else {
                0
            };
            if in_vain >= IN_VAIN && matches!(ended, Ended::Lost | Ended::Silent) {
                // Some hang up on what they do not know.
                ended = Ended::Refused(Some("hung up".to_owned()));
            }
            match ended {
                // What was reached by the name may be another server now, and commands must not stay with this one: what it
                // says would be believed as long as the other keeps silent.
                Ended::Lost | Ended::Demoted if tracked => self.lead(node).await,
                Ended::Lost | Ended::Demoted | Ended::NotReady => {}
                // Whoever reads over the other connection need not wait to find out.
                Ended::Silent => self.tracked.roster.silent(node),
                Ended::Refused(code) => {
                    self.refused(node, code.as_deref());
                    sleep(jittered(REFUSED_PAUSE)).await;
                    // It has a few tries again, or one failure more would cost as long.
                    in_vain = 0;
                    continue;
                }
            }
            if in_vain == IN_VAIN {
                warn!(
                    store.node = &*node.id,
                    "session cache cannot be kept true yet; sessions are read from Redis"
                );
            }
            sleep(jittered(pause)).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Tracks one master until that ends.
    async fn track(self: &Arc<Self>, at: usize, node: &Node, demoted: bool) -> Ended {
        let cut = Arc::new(Notify::new());
        let dialled = self.dial(node, Arc::clone(&cut));
        let (mut connection, sent) = match by(Instant::now() + DIAL, dialled).await {
            Some(Ok(dialled)) => dialled,
            Some(Err(ended)) => return ended,
            None => return Ended::Lost,
        };
        if demoted {
            self.lead(node).await;
        }
        self.proven(at, sent);
        loop {
            tokio::select! {
                () = cut.notified() => return Ended::Lost,
                () = sleep(BEAT) => {}
            }
            let sent = Instant::now();
            match by(sent + ANSWER, look(&mut connection)).await {
                Some(Ok(Role::Master)) => self.proven(at, sent),
                // What is written to another master from now on, this one hears of late or never.
                Some(Ok(Role::Replica)) => return Ended::Demoted,
                Some(Ok(Role::CutOff)) => return Ended::NotReady,
                Some(Err(error)) => match Ended::of(&error) {
                    Ended::Refused(_) => return Ended::NotReady,
                    ended => return ended,
                },
                None => return Ended::Silent,
            }
        }
    }

    /// Has commands follow to where tracking goes, now and then at most: whoever cuts one connection after the other must
    /// not take the others along each time.
    async fn lead(&self, node: &Node) {
        let pause = {
            let mut led = self.led.lock();
            let now = Instant::now();
            let next = led.map_or(now, |last| last + LEAD_EVERY).max(now);
            *led = Some(next);
            next - now
        };
        sleep(pause).await;
        self.tracked.roster.changed(node);
    }

    /// A connection on which every change of a record is told, and when the last question that it has answered was sent.
    async fn dial(
        self: &Arc<Self>,
        node: &Node,
        cut: Arc<Notify>,
    ) -> Result<(MultiplexedConnection, Instant), Ended> {
        let shared = Arc::clone(self);
        let probe = self.probe(node).await;
        let heard = Arc::new(AtomicBool::new(false));
        let ears = (probe.clone().into_bytes(), Arc::clone(&heard));
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_push_sender(move |push: PushInfo| {
                match push.kind {
                    PushKind::Invalidate => {
                        if names(&push.data, &ears.0) {
                            ears.1.store(true, Ordering::SeqCst);
                        }
                        shared.told(&push.data);
                    }
                    PushKind::Disconnection => cut.notify_one(),
                    _ => {}
                }
                Ok::<(), Infallible>(())
            });
        let mut connection = resp3(&node.client)?
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        match look(&mut connection).await? {
            Role::Master => {}
            Role::Replica => return Err(Ended::Demoted),
            Role::CutOff => return Err(Ended::NotReady),
        }
        // What this process writes over its command connection is told as well.
        redis::cmd("CLIENT")
            .arg(&["TRACKING", "ON", "BCAST", "PREFIX"])
            .arg(&self.tracked.records)
            .arg("PREFIX")
            .arg(&self.tracked.marks)
            .arg("PREFIX")
            .arg(&probe)
            .exec_async(&mut connection)
            .await?;
        // A proxy may take the command and keep the pushes to itself, or send them to somebody else.
        let sent = Instant::now();
        let mut write = redis::cmd("SET");
        write.arg(&probe).arg("").arg("PX").arg(PROBED);
        if let Err(error) = write.exec_async(&mut connection).await {
            return match code(&error).as_deref() {
                // Nothing can be written now, so there is nothing to be heard.
                Some("OOM" | "MISCONF" | "NOREPLICAS" | "NOPERM") => Ok((connection, sent)),
                // The slot is on its way, or its master is.
                Some(_) => {
                    self.tracked.roster.moved();
                    Err(Ended::NotReady)
                }
                None => Err(error.into()),
            };
        }
        // A push goes out with the answer to what caused it, so before the next one.
        let sent = Instant::now();
        let mut done = redis::cmd("DEL");
        if let Err(error) = done.arg(&probe).exec_async(&mut connection).await
            && code(&error).is_none()
        {
            return Err(error.into());
        }
        if heard.load(Ordering::SeqCst) {
            Ok((connection, sent))
        } else {
            Err(Ended::Refused(Some("no push".to_owned())))
        }
    }

    /// A key that nobody else writes, in one of the slots that the server holds.
    async fn probe(&self, node: &Node) -> String {
        let held = self.tracked.roster.slots(node);
        let mut id = [0; 8];
        random(&mut id);
        probe::find(&held, &self.tracked.probes, u64::from_be_bytes(id)).await
    }

    /// Master `at` has told everything up to `since`.
    fn proven(&self, at: usize, since: Instant) {
        let mut board = self.board.lock();
        let Some(slot) = board.get_mut(at) else {
            return;
        };
        let new = slot.replace(since).is_none();
        // The slowest counts. With one missing nothing is known.
        let all = board.iter().copied().min().flatten();
        let Some(oldest) = all else {
            return;
        };
        if !new {
            self.hear.cache.trust().beat(oldest);
            return;
        }
        // Reads that begin from now on: each master tracks already.
        self.hear.cache.trust().establish(oldest);
        drop(board);
        self.warned.store(false, Ordering::Relaxed);
        self.hear.metrics.session_cache_tracking.set(1);
        info!("session cache is kept true by Redis");
        self.hear.changes.wake_all();
    }

    /// Master `at` is not tracked any more; whether it was.
    fn unproven(&self, at: usize) -> bool {
        let mut board = self.board.lock();
        board.get_mut(at).and_then(Option::take).is_some()
    }

    /// Changes may go untold.
    fn lost(&self) {
        if self.hear.cache.trust().lose() {
            self.hear.metrics.session_cache_tracking.set(0);
            warn!("session cache is not kept true any more; sessions are read from Redis");
            self.hear.changes.wake_all();
        }
    }

    fn refused(&self, node: &Node, code: Option<&str>) {
        self.hear.cache.trust().give_up();
        if !self.warned.swap(true, Ordering::Relaxed) {
            warn!(
                store.node = &*node.id,
                store.code = code,
                "Redis does not tell of changed sessions (CLIENT TRACKING over RESP3, Redis 6 or later); cached ones are believed for a second, so that a logout on another replica takes as long"
            );
        }
    }

    /// A push: which keys have changed.
    fn told(&self, data: &[Value]) {
        let [Value::Array(keys)] = data else {
            // The whole database was flushed, or it is something that we do not understand.
            self.hear.cache.flush();
            self.hear.changes.wake_all();
            return;
        };
        for key in keys {
            let Value::BulkString(key) = key else {
                continue;
            };
            if let Some(key) = record_key(&self.tracked.records, key) {
                self.changed(key);
            } else if let Some(key) = record_key(&self.tracked.marks, key) {
                // The record is gone.
                let held = self.hear.cache.forget(key);
                let held = held.map(|entry| self.met(key, entry));
                self.hear.orphans.marked(key, held, Instant::now());
            }
        }
    }

    fn changed(&self, key: RecordKey) {
        if let Some((entry, dropped)) = self.hear.cache.news(key) {
            let session = self.met(key, entry);
            if dropped {
                self.hear.orphans.dropped(key, session, Instant::now());
            }
        }
        self.hear.changes.wake(key);
    }

    /// Should it be gone, the next request is told why.
    fn met(&self, key: RecordKey, entry: Entry) -> Arc<Session> {
        let last = Last {
            expires_at: entry.session.expires_at,
            idle_expires_at: entry.ends_at,
        };
        self.hear.seen.met(key, last);
        entry.session
    }

    /// Shows the cache's size; and while nobody tells of changes, has those look who wait for one.
    async fn count(&self) {
        let mut beats: u32 = 0;
        loop {
            self.hear.cache.count();
            self.hear.orphans.forget_old(Instant::now());
            if self.hear.cache.trust().untold() && beats.is_multiple_of(LOOK_EVERY) {
                self.hear.changes.wake_all();
            }
            beats = beats.wrapping_add(1);
            sleep(BEAT).await;
        }
    }
}

/// The same client, speaking the protocol that knows pushes.
fn resp3(client: &Client) -> Result<Client, RedisError> {
    let info = client.get_connection_info().clone();
    let settings = info
        .redis_settings()
        .clone()
        .set_protocol(ProtocolVersion::RESP3);
    Client::open(info.set_redis_settings(settings))
}

/// Whether a push is about this key.
fn names(data: &[Value], wanted: &[u8]) -> bool {
    let [Value::Array(keys)] = data else {
        return false;
    };
    keys.iter()
        .any(|key| matches!(key, Value::BulkString(key) if key == wanted))
}

/// The session a key belongs to; `None` when it is not one of ours.
fn record_key(prefix: &str, key: &[u8]) -> Option<RecordKey> {
    let hash = key.strip_prefix(prefix.as_bytes())?;
    let hash = hash.strip_prefix(b"{")?.strip_suffix(b"}")?;
    let mut bytes = [0; 33];
    let length = URL_SAFE_NO_PAD.decode_slice(hash, &mut bytes).ok()?;
    RecordKey::from_bytes(bytes.get(..length)?)
}

/// Together with [`ANSWER`] less than the time for which a proof holds.
const BEAT: Duration = Duration::from_millis(500);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const MAX_PAUSE: Duration = Duration::from_secs(1);
const LEAD_EVERY: Duration = Duration::from_secs(1);
/// About three seconds' worth.
const IN_VAIN: u32 = 8;
/// Life of a probe, in ms.
const PROBED: u64 = 1000;
/// Rights and versions change seldom.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);
/// In beats.
const LOOK_EVERY: u32 = 10;

#[cfg(test)]
mod tests;
