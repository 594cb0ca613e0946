//! Runs the store in one of its topologies, and breaks its nodes and the ways to them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use daypass_testbed::breakable::{Breakable, Mode};
use daypass_testbed::daypass::Setup;
use daypass_testbed::redis::Redis;

use crate::plan::Shape;
use crate::watch::Watch;

pub(crate) mod cluster;
pub(crate) mod replicated;
pub(crate) mod sentinel;
mod sentry;
pub(crate) mod slots;

/// What is known of the nodes, by whoever breaks them and whoever looks at them.
pub(crate) type SharedWatch = Arc<Mutex<Watch>>;

/// What a topology must be able to do. Nodes go by their roles: first the masters as they are now, then their replicas.
pub(crate) trait Store: Send {
    /// What there is to break.
    fn shape(&self) -> Shape;
    /// Which nodes took writes when.
    fn watch(&self) -> SharedWatch;
    /// Points a replica at this store, by a way of its own where there is one.
    fn configure(&self, setup: Setup, replica: usize) -> Setup;
    /// Whether all nodes are there and replicas have what their masters acknowledged: what breaks only then can be
    /// survived. With a single node there is nothing to wait for.
    fn is_whole(&self) -> bool;
    /// Freezes a node: connections stay open and nothing answers.
    fn freeze(&mut self, node: usize);
    /// Lets the node go on that was frozen by this name.
    fn thaw(&mut self, node: usize);
    /// Ends a node without warning.
    fn kill(&mut self, node: usize);
    /// Starts the node that was killed by this name; what it acknowledged is there.
    fn restart(&mut self, node: usize);
    /// Breaks or mends the way between a replica and the store, if it has one of its own.
    fn way(&mut self, replica: usize, mode: Mode);
    /// Begins to move slots that are in use from one master to another.
    fn move_slots(&mut self, from: usize, to: usize);
    /// Stops with that; no slot is on its way afterwards.
    fn settle_slots(&mut self);
    /// Every byte that is stored, for showing that no secret is.
    fn dump(&self) -> Vec<u8>;
}

/// One Redis that syncs with every write, and a breakable way to it for each replica.
pub(crate) struct Single {
    redis: Redis,
    ways: Vec<Breakable>,
    watch: SharedWatch,
}

impl Single {
    pub(crate) fn start(replicas: usize) -> Self {
        let redis = Redis::persistent();
        let ways = (0..replicas)
            .map(|_| Breakable::start(redis.address()))
            .collect();
        let watch = Arc::new(Mutex::new(Watch::single(Instant::now())));
        Self { redis, ways, watch }
    }

    fn away(&self) {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        watch.hold(0, Instant::now());
    }

    fn back(&self) {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        watch.release(0, true, Instant::now());
    }
}

impl Store for Single {
    fn shape(&self) -> Shape {
        Shape::SINGLE
    }

    fn watch(&self) -> SharedWatch {
        Arc::clone(&self.watch)
    }

    fn configure(&self, setup: Setup, replica: usize) -> Setup {
        let url = format!("redis://{}/0", self.ways[replica].address());
        setup.set("session.store", url)
    }

    fn is_whole(&self) -> bool {
        true
    }

    fn freeze(&mut self, _: usize) {
        self.away();
        self.redis.pause();
    }

    fn thaw(&mut self, _: usize) {
        self.redis.resume();
        self.back();
    }

    fn kill(&mut self, _: usize) {
        self.away();
        self.redis.kill();
    }

    fn restart(&mut self, _: usize) {
        self.redis.restart();
        self.back();
    }

    fn way(&mut self, replica: usize, mode: Mode) {
        self.ways[replica].set(mode);
    }

    fn move_slots(&mut self, _: usize, _: usize) {}

    fn settle_slots(&mut self) {}

    fn dump(&self) -> Vec<u8> {
        self.redis.dump()
    }
}
