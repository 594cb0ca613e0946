//! Holds the requests that ride on a session over one connection, and cuts off those whose session is over.
//!
//! Every forwarded request with a session is noted here, which costs two short locks; only one that is still there when
//! the connection has been looked at twice, or when its session changes, or says that it will last, gets a watch of its own.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::Context;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::task::AbortHandle;

use super::{Bond, Step, Streams, Watch};
use crate::metrics::StreamEnd;
use crate::session::{Lately, SessionId};

/// What rides over one connection. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Riders(Arc<Connection>);

#[derive(Debug, Default)]
struct Connection {
    /// For the one request that an HTTP/1.1 connection carries.
    cut: Cut,
    /// A request rides on the connection itself, so who reads or writes must be woken by a cut.
    mounted: AtomicBool,
    rides: Mutex<Rides>,
}

#[derive(Debug, Default)]
struct Rides {
    streams: Option<Streams>,
    slots: Vec<Option<Ride>>,
    count: u64,
}

#[derive(Debug)]
struct Ride {
    number: u64,
    id: SessionId,
    bond: Bond,
    /// Of its HTTP/2 stream; without one it is the connection that is cut.
    cut: Option<Arc<Cut>>,
    /// It was there at the last look.
    looked: bool,
    watch: Option<AbortHandle>,
    ended: Option<StreamEnd>,
    /// Looks since it was cut off.
    overdue: u8,
}

/// The connections that requests with a session have come over, by their places in memory: one that is held here weakly
/// keeps its place.
#[derive(Debug, Default)]
pub(super) struct Register(Mutex<HashMap<usize, Weak<Connection>>>);

/// Tells whoever serves a request that its session is over.
#[derive(Debug, Default)]
pub struct Cut {
    made: AtomicBool,
    waker: AtomicWaker,
}

/// A request's place among the riders, until it is dropped.
#[derive(Debug)]
pub struct Seat {
    riders: Riders,
    slot: usize,
    answered: bool,
}

impl Cut {
    /// Whether it was made; if not, the task is woken when it is.
    pub fn poll(&self, cx: &mut Context<'_>) -> bool {
        self.waker.register(cx.waker());
        self.is_made()
    }

    fn is_made(&self) -> bool {
        self.made.load(Ordering::Acquire)
    }

    /// Makes it undone, for the next request.
    fn unmake(&self) {
        self.made.store(false, Ordering::Release);
    }

    fn make(&self) {
        self.made.store(true, Ordering::Release);
        self.waker.wake();
    }
}

impl Riders {
    /// Notes a request that rides on the session; `cut` is its stream's, if it is not alone on the connection.
    pub fn mount(
        &self,
        streams: &Streams,
        id: SessionId,
        bond: Bond,
        cut: Option<Arc<Cut>>,
    ) -> Seat {
        if cut.is_none() {
            self.0.mounted.store(true, Ordering::Release);
        }
        let mut rides = self.0.rides.lock();
        if rides.streams.is_none() {
            rides.streams = Some(streams.clone());
            // Once in the life of a connection.
            streams.0.connections.enter(&self.0);
        }
        rides.count += 1;
        let number = rides.count;
        let ride = Some(Ride {
            number,
            id,
            bond,
            cut,
            looked: false,
            watch: None,
            ended: None,
            overdue: 0,
        });
        // As many as a connection has streams: one, or a hundred at most.
        let slot = if let Some(free) = rides.slots.iter().position(Option::is_none) {
            rides.slots[free] = ride;
            free
        } else {
            rides.slots.push(ride);
            rides.slots.len() - 1
        };
        drop(rides);
        Seat {
            riders: self.clone(),
            slot,
            answered: false,
        }
    }

    /// Looks at all riders, once a second: who was there before is watched from now on. `false` when a cut was not heeded:
    /// then the connection must end.
    #[must_use]
    pub fn look(&self) -> bool {
        let mut rides = self.0.rides.lock();
        let Rides { streams, slots, .. } = &mut *rides;
        let Some(streams) = streams else {
            return true;
        };
        let mut heeded = true;
        for (slot, ride) in slots.iter_mut().enumerate() {
            let Some(ride) = ride else { continue };
            if ride.ended.is_some() {
                ride.overdue += 1;
                heeded &= ride.overdue < OVERDUE;
            } else if std::mem::replace(&mut ride.looked, true) {
                self.watch(streams, slot, ride);
            }
        }
        heeded
    }

    /// Watches from now on what rides on sessions that have changed.
    pub(super) fn attend(&self, lately: &Lately) {
        let mut rides = self.0.rides.lock();
        let Rides { streams, slots, .. } = &mut *rides;
        let Some(streams) = streams else {
            return;
        };
        for (slot, ride) in slots.iter_mut().enumerate() {
            if let Some(ride) = ride
                && ride.ended.is_none()
                && lately.has(&ride.id.record_key())
            {
                self.watch(streams, slot, ride);
            }
        }
    }

    /// Whether the connection's one request has been cut off; if not, the task is woken when it is.
    pub fn poll_cut(&self, cx: &mut Context<'_>) -> bool {
        self.0.mounted.load(Ordering::Acquire) && self.0.cut.poll(cx)
    }

    /// Whether the connection's one request has been cut off.
    pub fn is_cut(&self) -> bool {
        self.0.mounted.load(Ordering::Acquire) && self.0.cut.is_made()
    }

    fn watch(&self, streams: &Streams, slot: usize, ride: &mut Ride) {
        if ride.watch.is_some() {
            return;
        }
        let mut watch = Watch::new(streams, ride.id.clone(), ride.bond);
        let (riders, streams, number) = (self.clone(), streams.clone(), ride.number);
        // Ends with the ride: the seat aborts it.
        let task = tokio::spawn(async move {
            loop {
                if let Step::Over(why) = watch.next(None).await {
                    riders.end(&streams, slot, number, why);
                    return;
                }
            }
        });
        ride.watch = Some(task.abort_handle());
    }

    /// Cuts a rider off. Under the lock, so that it cannot hit the next one in the same place.
    fn end(&self, streams: &Streams, slot: usize, number: u64, why: StreamEnd) {
        let mut rides = self.0.rides.lock();
        let Some(Some(ride)) = rides.slots.get_mut(slot) else {
            return;
        };
        if ride.number != number || ride.ended.is_some() {
            return;
        }
        ride.ended = Some(why);
        streams.0.metrics.stream_closed(why);
        ride.cut.as_deref().unwrap_or(&self.0.cut).make();
    }
}

impl Register {
    fn enter(&self, connection: &Arc<Connection>) {
        let place = Arc::as_ptr(connection).addr();
        self.0.lock().insert(place, Arc::downgrade(connection));
    }

    /// Those that are open.
    pub(super) fn all(&self) -> Vec<Riders> {
        let connections = self.0.lock();
        let open = connections.values().filter_map(Weak::upgrade);
        open.map(Riders).collect()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(streams) = self.rides.get_mut().streams.take() {
            let place = std::ptr::from_ref(self).addr();
            streams.0.connections.0.lock().remove(&place);
        }
    }
}

impl Seat {
    /// The request is known to last: watch its session from now on.
    pub fn watch(&self) {
        self.with_ride(|riders, streams, ride| riders.watch(streams, self.slot, ride));
    }

    /// Why it was cut off, if it was.
    pub fn ended(&self) -> Option<StreamEnd> {
        self.with_ride(|_, _, ride| ride.ended).flatten()
    }

    /// Lets the connection be read again after it was cut, for the last words of a WebSocket's client.
    pub fn let_speak(&self) {
        self.riders.0.mounted.store(false, Ordering::Release);
    }

    /// The whole answer is out: a cut that was made meanwhile came too late, and the connection lives on. The client may
    /// have sent its next request by now.
    pub fn answered(mut self) {
        self.answered = true;
    }

    fn with_ride<T>(&self, f: impl FnOnce(&Riders, &Streams, &mut Ride) -> T) -> Option<T> {
        let mut rides = self.riders.0.rides.lock();
        let Rides { streams, slots, .. } = &mut *rides;
        let ride = slots.get_mut(self.slot)?.as_mut()?;
        Some(f(&self.riders, streams.as_ref()?, ride))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut rides = self.riders.0.rides.lock();
        let Some(place) = rides.slots.get_mut(self.slot) else {
            return;
        };
        let ride = place.take();
        drop(rides);
        let Some(ride) = ride else { return };
        if ride.cut.is_none() && (self.answered || ride.ended.is_none()) {
            // Nobody can make it any more: the ride is out of its place.
            self.riders.0.cut.unmake();
            self.riders.0.mounted.store(false, Ordering::Release);
        }
        if let Some(watch) = ride.watch {
            watch.abort();
        }
    }
}

/// Looks after which a connection whose request was cut off, and goes on, is ended.
const OVERDUE: u8 = 4;
