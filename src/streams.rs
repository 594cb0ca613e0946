//! Ends open answers with the session they ride on, and counts the streams of events that pages hold open.
//!
//! `Watch` follows one session: it wakes when the session may have changed, when its time is up, and now and then in
//! case nobody woke it. `Riders` holds what rides over one connection; only what lasts gets a watch, and what is open
//! when its session changes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use crate::clock::SharedClock;
use crate::metrics::Metrics;
use crate::session::{RecordKey, SessionId, Sessions};

pub mod feed;
mod follow;
mod riders;
pub mod websocket;

pub use self::follow::{Bond, Step, Watch};
use self::riders::Register;
pub use self::riders::{Cut, Riders, Seat};

/// What all watches share. Made once; lives across reloads. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Streams(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    sessions: Sessions,
    clock: SharedClock,
    metrics: Arc<Metrics>,
    /// Looks at the store that may be under way at once: all watches may wake together.
    looks: Semaphore,
    connections: Register,
    /// Streams of events that pages hold, by session; only sessions that have any.
    listeners: Mutex<Listeners>,
    draining: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Listeners {
    by_session: HashMap<RecordKey, usize>,
    count: usize,
}

/// The right to hold one stream of events.
#[derive(Debug)]
pub struct Listening {
    streams: Streams,
    key: RecordKey,
}

impl Streams {
    /// Makes it.
    pub fn new(sessions: Sessions, clock: SharedClock, metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Shared {
            sessions,
            clock,
            metrics,
            looks: Semaphore::new(LOOKS),
            connections: Register::default(),
            listeners: Mutex::default(),
            draining: watch::Sender::new(false),
        }))
    }

    /// Has what is open watched when its session changes, also what has not lasted yet; for as long as it is polled. A
    /// request that was let in just before the change has a moment to get on its session.
    pub async fn attend(&self) {
        loop {
            let lately = self.0.sessions.changed(MOMENT).await;
            for riders in self.0.connections.all() {
                riders.attend(&lately);
            }
        }
    }

    /// The right to hold a stream of events for the session; `None` when there are enough already.
    pub fn listen(&self, id: &SessionId) -> Option<Listening> {
        let key = id.record_key();
        let mut listeners = self.0.listeners.lock();
        if listeners.count >= LISTENERS {
            return None;
        }
        let held = listeners.by_session.entry(key).or_default();
        if *held >= LISTENERS_OF_ONE {
            return None;
        }
        *held += 1;
        listeners.count += 1;
        drop(listeners);
        Some(Listening {
            streams: self.clone(),
            key,
        })
    }

    /// The process is about to end: streams of events end, and pages connect elsewhere.
    pub fn drain(&self) {
        self.0.draining.send_replace(true);
    }

    /// Resolves when the process is about to end.
    ///
    /// # Cancel safety
    /// Cancel safe: it only looks.
    pub async fn draining(&self) {
        let mut draining = self.0.draining.subscribe();
        // The sender is ours: it cannot be gone.
        let _ = draining.wait_for(|draining| *draining).await;
    }

    /// How long an answer may go on while the store does not tell whether its session lives.
    fn patience(&self) -> Duration {
        self.0.sessions.max_staleness()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut listeners = self.streams.0.listeners.lock();
        listeners.count = listeners.count.saturating_sub(1);
        if let Entry::Occupied(mut held) = listeners.by_session.entry(self.key) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }
}

/// For how long changes of sessions are gathered: going through all connections takes a millisecond or so.
const MOMENT: Duration = Duration::from_millis(50);
/// Looks at the store under way at once.
const LOOKS: usize = 256;
/// Streams of events that one session may hold in one process: a browser has six connections to a host over HTTP/1.1.
const LISTENERS_OF_ONE: usize = 8;
/// Streams of events in one process.
const LISTENERS: usize = 10_000;

#[cfg(test)]
mod tests;
