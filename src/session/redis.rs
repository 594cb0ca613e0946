//! Keeps sessions in Redis: sealed records, leases, and the scripts that make each step one step.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use quick_cache::sync::Cache;
use tokio::time::Instant;

use self::applications::Applications;
use self::command::{Command, Invocation, Script};
pub(super) use self::fleet::{Cursor, Page};
use self::link::LinkError;
use self::scripts::Scripts;
use self::topology::Topology;
use self::tracking::{Listeners, Tracked, Tracker};
use super::{
    CommitAnswer, EndAnswer, Lease, LeaseAnswer, Meta, RecordKey, Session, SessionId, StoreError,
    Tokens, record,
};
use crate::clock::Timestamp;
use crate::config::model;
use crate::metrics::{Metrics, StoreOp, StoreResult};
use crate::seal::{KeyRing, Purpose};

mod access;
mod apart;
mod applications;
mod cluster;
mod command;
mod fleet;
mod gather;
mod link;
mod node;
mod scripts;
mod sentinel;
mod topology;
pub(super) mod tracking;

#[cfg(test)]
mod servers;

/// Sessions in Redis.
pub(super) struct Redis {
    link: Topology,
    scripts: Scripts,
    prefix: String,
    applications: Applications,
    /// Sessions as they were before a deletion without an answer: the next try finds them gone, and their tokens are still
    /// to be revoked. Bounded.
    perhaps_deleted: Cache<RecordKey, Arc<Session>>,
    metrics: Arc<Metrics>,
}

/// A record as read.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) session: Arc<Session>,
    /// Life left in Redis; `None` when somebody has taken the TTL away.
    pub(super) ttl: Option<Duration>,
}

impl Redis {
    /// Reaches out to nobody.
    pub(super) fn new(config: &model::RedisStore, metrics: Arc<Metrics>) -> Result<Self, String> {
        Ok(Self {
            link: Topology::new(config, Arc::clone(&metrics))?,
            scripts: Scripts::new(),
            prefix: config.key_prefix.clone(),
            applications: Applications::new(),
            perhaps_deleted: Cache::new(UNSURE),
            metrics,
        })
    }

    /// Takes over rotated credentials and certificates.
    pub(super) fn reconfigure(&self, config: &model::RedisStore) -> Result<(), String> {
        if config.key_prefix != self.prefix {
            return Err("session.store: another key prefix takes a restart".into());
        }
        self.link.reconfigure(config)
    }

    /// What is wrong with the servers, in words; nothing when all is well.
    pub(super) async fn survey(&self) -> Vec<String> {
        self.link.survey().await
    }

    /// Counts answers of servers that tell nobody of changes: what they say is not to be kept.
    pub(super) fn strangers(&self) -> Arc<AtomicU64> {
        self.link.strangers()
    }

    /// Keeps a cache true. Reaches out to nobody yet.
    pub(super) fn tracker(&self, listeners: Listeners) -> Tracker {
        let tracked = Tracked {
            masters: self.link.masters(),
            redials: self.link.dialled(),
            records: format!("{}s:", self.prefix),
            marks: format!("{}r:", self.prefix),
            probes: format!("{}p:", self.prefix),
            roster: self.link.roster(),
        };
        Tracker::new(tracked, listeners)
    }

    /// Whether Redis is known not to answer for this session: waiting for it would be of no use.
    pub(super) fn is_away(&self, key: RecordKey) -> bool {
        self.link.is_away(&self.record(key))
    }

    /// Waits until Redis is known not to answer for this session.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn goes_away(&self, key: RecordKey) {
        self.link.goes_away(&self.record(key)).await;
    }

    pub(super) async fn load(
        &self,
        id: &SessionId,
        keys: &KeyRing,
    ) -> Result<Option<Loaded>, StoreError> {
        let record = self.record(id.record_key());
        let mut pipe = redis::pipe();
        pipe.hget(&record, "d").pttl(&record);
        let started = Instant::now();
        let answer: Result<(Option<Vec<u8>>, i64), _> = self.link.ask(Command::Pipe(&pipe)).await;
        let (result, loaded) = match answer {
            Ok((None, _)) => (StoreResult::Miss, None),
            // A record that does not open is no session, and no error.
            Ok((Some(data), ttl)) => match open(id, keys, &data) {
                None => (StoreResult::Corrupt, None),
                Some(session) => {
                    let ttl = match ttl {
                        -1 => None,
                        // It may have run out between the two commands.
                        ttl => Some(Duration::from_millis(u64::try_from(ttl).unwrap_or(0))),
                    };
                    (StoreResult::Ok, Some(Loaded { session, ttl }))
                }
            },
            Err(LinkError::WrongType) => (StoreResult::Corrupt, None),
            Err(error) => return Err(self.failed(StoreOp::Load, &error, started)),
        };
        self.done(StoreOp::Load, result, started);
        Ok(loaded)
    }

    pub(super) async fn create(
        &self,
        id: &SessionId,
        keys: &KeyRing,
        session: &Session,
        ttl: Duration,
    ) -> Result<(), StoreError> {
        let mut script = self.scripts.create.key(self.record(id.record_key()));
        script
            .arg(seal(id, keys, session))
            .arg(session.generation)
            .arg(millis(ttl))
            .arg(Meta::of(session).seal(keys, id.record_key()));
        self.run(StoreOp::Create, &script).await.map(drop)
    }

    /// Sets the record's TTL if it is there.
    pub(super) async fn touch(&self, key: RecordKey, ttl: Duration) -> Result<bool, StoreError> {
        let mut pipe = redis::pipe();
        pipe.cmd("PEXPIRE").arg(self.record(key)).arg(millis(ttl));
        let started = Instant::now();
        let answer: Result<(bool,), _> = self.link.ask(Command::Pipe(&pipe)).await;
        let (there,) = answer.map_err(|error| self.failed(StoreOp::Touch, &error, started))?;
        let result = if there {
            StoreResult::Ok
        } else {
            StoreResult::Miss
        };
        self.done(StoreOp::Touch, result, started);
        Ok(there)
    }

    /// Deletes the record and returns what it held. A deletion whose answer got lost is repeated, and what it deleted is
    /// known from before: no tombstone has to stay behind.
    pub(super) async fn delete(
        &self,
        id: &SessionId,
        keys: &KeyRing,
    ) -> Result<Option<Arc<Session>>, StoreError> {
        let key = id.record_key();
        let before = self.peek(id, keys).await?;
        let script = self.keys(&self.scripts.delete, id);
        let started = Instant::now();
        let deadline = started + link::ANSWER;
        let mut lost = false;
        let answer = loop {
            let command = Command::Script(&script);
            let answer: Result<(String, Vec<u8>), _> = self.link.ask_once(command, deadline).await;
            match answer {
                Err(LinkError::Lost) if !lost => lost = true,
                Err(LinkError::TryAgain) => {
                    // Its steps may be sent twice, and then say that nothing was there.
                    lost = true;
                    break self.delete_apart(key, deadline).await;
                }
                answer => break answer,
            }
        };
        let (tag, data) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                if let Some(before) = before {
                    self.perhaps_deleted.insert(key, before);
                }
                return Err(self.failed(StoreOp::Delete, &error, started));
            }
        };
        let earlier = self
            .perhaps_deleted
            .remove(&key)
            .map(|(_, session)| session);
        if tag == "deleted" {
            self.done(StoreOp::Delete, StoreResult::Ok, started);
            return Ok(open(id, keys, &data));
        }
        self.done(StoreOp::Delete, StoreResult::Miss, started);
        // Gone, by another's hand unless it was ours.
        Ok(before.filter(|_| lost).or(earlier))
    }

    /// What a deletion would return.
    async fn peek(
        &self,
        id: &SessionId,
        keys: &KeyRing,
    ) -> Result<Option<Arc<Session>>, StoreError> {
        let started = Instant::now();
        let deadline = started + link::ANSWER;
        let answer = self.fields(id.record_key(), ["d", "p"], deadline).await;
        let [data, parked] = answer.map_err(|error| self.failed(StoreOp::Load, &error, started))?;
        let newest = parked.filter(|parked| !parked.is_empty()).or(data);
        let result = newest
            .as_ref()
            .map_or(StoreResult::Miss, |_| StoreResult::Ok);
        self.done(StoreOp::Load, result, started);
        Ok(newest.and_then(|data| open(id, keys, &data)))
    }

    pub(super) async fn lease(
        &self,
        id: &SessionId,
        keys: &KeyRing,
        generation: u64,
        ttl: Duration,
    ) -> Result<LeaseAnswer, StoreError> {
        let (key, asked) = (id.record_key(), Instant::now());
        let application = self.applications.take(key);
        let owner = application.owner;
        let served = application.served().map(millis);
        let mut script = self.keys(&self.scripts.lease, id);
        script.arg(generation).arg(&owner.0[..]).arg(millis(ttl));
        script.arg(u8::from(self.was_away(key, ttl)));
        script.arg(served.map_or_else(String::new, |since| since.to_string()));
        let answer = self.run(StoreOp::Lease, &script).await;
        match &answer {
            Ok((tag, age)) if tag == "yield" => {
                let application = application.told_to_wait(left(age));
                self.applications.keep(key, application);
            }
            Ok((tag, _)) if tag == "held" => self.applications.keep(key, application.afresh()),
            // It may be ours by now; under another name we would wait for ourselves.
            Err(_) => self.applications.keep(key, application),
            Ok(_) => {}
        }
        let (tag, payload) = answer?;
        Ok(match &*tag {
            "held" => LeaseAnswer::Held {
                retry_in: left(&payload),
            },
            "yield" => LeaseAnswer::Held {
                retry_in: YIELD_AGAIN,
            },
            "cooling" => LeaseAnswer::CoolingDown {
                left: left(&payload),
            },
            "gone" => LeaseAnswer::Gone,
            // A record that does not open is no session; the lease on it runs out.
            granted_or_newer => match open(id, keys, &payload) {
                None => LeaseAnswer::Gone,
                Some(session) if granted_or_newer == "granted" => {
                    LeaseAnswer::Granted(Lease::new(session, owner, asked, ttl))
                }
                Some(session) => LeaseAnswer::Newer(session),
            },
        })
    }

    pub(super) async fn renew(
        &self,
        id: &SessionId,
        lease: &Lease,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        let mut script = self.keys(&self.scripts.renew, id);
        script
            .arg(lease.session.generation)
            .arg(&lease.owner.0[..])
            .arg(millis(ttl));
        let (tag, _) = self.run(StoreOp::Lease, &script).await?;
        Ok(tag == "ok")
    }

    pub(super) async fn commit(
        &self,
        id: &SessionId,
        keys: &KeyRing,
        lease: &Lease,
        tokens: &Tokens,
    ) -> Result<CommitAnswer, StoreError> {
        let next = Arc::new(lease.session.with_tokens(tokens.clone()));
        let mut script = self.keys(&self.scripts.commit, id);
        script
            .arg(lease.session.generation)
            .arg(&lease.owner.0[..])
            .arg(next.generation)
            .arg(seal(id, keys, &next));
        let (tag, payload) = self.run(StoreOp::Commit, &script).await?;
        Ok(match &*tag {
            "stored" => CommitAnswer::Stored(next),
            "held" => CommitAnswer::Held {
                retry_in: left(&payload),
            },
            "superseded" => {
                open(id, keys, &payload).map_or(CommitAnswer::Gone, CommitAnswer::Superseded)
            }
            _ => CommitAnswer::Gone,
        })
    }

    pub(super) async fn give_up(
        &self,
        id: &SessionId,
        lease: &Lease,
        cool_down: Duration,
    ) -> Result<(), StoreError> {
        let mut script = self.keys(&self.scripts.give_up, id);
        let pause = u64::try_from(cool_down.as_millis()).unwrap_or(u64::MAX);
        let read = lease.session.generation;
        script.arg(&lease.owner.0[..]).arg(pause).arg(read);
        self.run(StoreOp::Lease, &script).await.map(drop)
    }

    pub(super) async fn end(
        &self,
        id: &SessionId,
        keys: &KeyRing,
        lease: &Lease,
    ) -> Result<EndAnswer, StoreError> {
        let mut script = self.keys(&self.scripts.end, id);
        script.arg(lease.session.generation).arg(&lease.owner.0[..]);
        let (tag, payload) = self.run(StoreOp::Delete, &script).await?;
        Ok(match &*tag {
            "held" => EndAnswer::Held {
                retry_in: left(&payload),
            },
            "disputed" => EndAnswer::Disputed {
                retry_in: left(&payload),
            },
            "newer" => open(id, keys, &payload).map_or(EndAnswer::Ended, EndAnswer::Newer),
            _ => EndAnswer::Ended,
        })
    }

    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        let started = Instant::now();
        let answer = self.link.ping().await;
        answer.map_err(|error| self.failed(StoreOp::Ping, &error, started))?;
        self.done(StoreOp::Ping, StoreResult::Ok, started);
        Ok(())
    }

    pub(super) fn is_up(&self) -> bool {
        self.link.is_up()
    }

    /// Runs a script that answers `{tag, payload}`.
    async fn run(
        &self,
        op: StoreOp,
        script: &Invocation<'_>,
    ) -> Result<(String, Vec<u8>), StoreError> {
        let started = Instant::now();
        let answer = self.link.ask(Command::Script(script)).await;
        self.heard(op, answer, started)
    }

    /// Accounts for a script's answer.
    fn heard(
        &self,
        op: StoreOp,
        answer: Result<(String, Vec<u8>), LinkError>,
        started: Instant,
    ) -> Result<(String, Vec<u8>), StoreError> {
        let answer = answer.map_err(|error| self.failed(op, &error, started))?;
        let result = match &*answer.0 {
            "gone" => StoreResult::Miss,
            _ => StoreResult::Ok,
        };
        self.done(op, result, started);
        Ok(answer)
    }

    /// Whether the store did not answer a moment ago, or nobody here can tell, for we have just come. Whoever had a lease
    /// then may have lost it to nothing but time, and is about to store what it got: they go first.
    fn was_away(&self, key: RecordKey, lease: Duration) -> bool {
        self.applications.failed_lately() || !self.link.is_up_for(&self.record(key), lease / 5)
    }

    fn done(&self, op: StoreOp, result: StoreResult, started: Instant) {
        self.metrics.store_operated(op, result, started.elapsed());
    }

    fn failed(&self, op: StoreOp, error: &LinkError, started: Instant) -> StoreError {
        if matches!(
            error,
            LinkError::Timeout
                | LinkError::Unreachable
                | LinkError::Lost
                | LinkError::NotMaster
                | LinkError::ClusterDown
        ) {
            self.applications.note_failure();
        }
        let (result, text) = match error {
            LinkError::Timeout => (StoreResult::Timeout, "no answer in time"),
            LinkError::Unreachable | LinkError::Lost => (StoreResult::Error, "no connection"),
            LinkError::WrongType => (StoreResult::Error, "the key holds something else"),
            LinkError::Refused | LinkError::NotMaster => (StoreResult::Error, "command refused"),
            LinkError::TryAgain => (StoreResult::Error, "the key is on its way"),
            LinkError::ClusterDown => (StoreResult::Error, "the Cluster is down"),
            LinkError::Moved(..) | LinkError::Ask(..) => {
                (StoreResult::Error, "a Cluster; write mode: cluster")
            }
        };
        self.metrics.store_operated(op, result, started.elapsed());
        StoreError(text)
    }

    fn keys<'a>(&self, script: &'a Script, id: &SessionId) -> Invocation<'a> {
        let key = id.record_key();
        let mut script = script.key(self.record(key));
        script.key(self.key('l', key));
        script
    }

    fn record(&self, key: RecordKey) -> String {
        self.key('s', key)
    }

    /// The braces make a hash tag: both keys of a session share one slot of a Cluster.
    fn key(&self, kind: char, key: RecordKey) -> String {
        let hash = URL_SAFE_NO_PAD.encode(key.as_bytes());
        format!("{}{kind}:{{{hash}}}", self.prefix)
    }
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redis({})", self.prefix)
    }
}

fn seal(id: &SessionId, keys: &KeyRing, session: &Session) -> Vec<u8> {
    let plain = record::encode(session);
    keys.seal(
        Purpose::Session,
        &*id.bytes(),
        id.record_key().as_bytes(),
        &plain,
    )
}

/// `None` for anything that is not, in every bit, what one of our replicas sealed for this cookie.
fn open(id: &SessionId, keys: &KeyRing, data: &[u8]) -> Option<Arc<Session>> {
    let bound = id.record_key();
    let plain = keys
        .open(Purpose::Session, &*id.bytes(), bound.as_bytes(), data)
        .ok()?;
    let plain = zeroize::Zeroizing::new(plain);
    record::decode(&plain).ok().map(Arc::new)
}

/// PEXPIRE and PX take at least 1 and no more than fits their arithmetic.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis())
        .unwrap_or(u64::MAX)
        .clamp(1, 1 << 52)
}

fn left(payload: &[u8]) -> Duration {
    let text = std::str::from_utf8(payload).unwrap_or_default();
    Duration::from_millis(text.parse().unwrap_or(0))
}

/// The TTL a record should have: what is left of the session, or of its idle time.
pub(super) fn wanted_ttl(
    expires_at: Timestamp,
    idle: Option<Duration>,
    now: Timestamp,
) -> Duration {
    let absolute = expires_at.left(now);
    idle.map_or(absolute, |idle| idle.min(absolute))
}

/// Deletions without an answer that are remembered.
const UNSURE: usize = 1000;
/// When to ask again where another goes first.
const YIELD_AGAIN: Duration = Duration::from_millis(100);
