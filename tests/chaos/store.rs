//! Runs the store in one of its topologies, and breaks its nodes and the ways to them.

use daypass_testbed::breakable::{Breakable, Mode};
use daypass_testbed::daypass::Setup;
use daypass_testbed::redis::Redis;

/// What a topology must be able to do. Nodes are counted from 0; a node that is down or frozen may be told so again.
pub(crate) trait Store: Send {
    /// How many nodes can be broken.
    fn nodes(&self) -> usize;
    /// Points a replica at this store, by a way of its own where there is one.
    fn configure(&self, setup: Setup, replica: usize) -> Setup;
    /// Freezes a node: connections stay open and nothing answers.
    fn freeze(&mut self, node: usize);
    /// Lets a frozen node go on.
    fn thaw(&mut self, node: usize);
    /// Ends a node without warning.
    fn kill(&mut self, node: usize);
    /// Starts a node that was killed; what it acknowledged is there.
    fn restart(&mut self, node: usize);
    /// Breaks or mends the way between a replica and the store.
    fn way(&mut self, replica: usize, mode: Mode);
    /// Every byte that is stored, for showing that no secret is.
    fn dump(&self) -> Vec<u8>;
}

/// One Redis that syncs with every write, and a breakable way to it for each replica.
pub(crate) struct Single {
    redis: Redis,
    ways: Vec<Breakable>,
}

impl Single {
    pub(crate) fn start(replicas: usize) -> Self {
        let redis = Redis::persistent();
        let ways = (0..replicas)
            .map(|_| Breakable::start(redis.address()))
            .collect();
        Self { redis, ways }
    }
}

impl Store for Single {
    fn nodes(&self) -> usize {
        1
    }

    fn configure(&self, setup: Setup, replica: usize) -> Setup {
        let url = format!("redis://{}/0", self.ways[replica].address());
        setup.set("session.store", url)
    }

    fn freeze(&mut self, _: usize) {
        self.redis.pause();
    }

    fn thaw(&mut self, _: usize) {
        self.redis.resume();
    }

    fn kill(&mut self, _: usize) {
        self.redis.kill();
    }

    fn restart(&mut self, _: usize) {
        self.redis.restart();
    }

    fn way(&mut self, replica: usize, mode: Mode) {
        self.ways[replica].set(mode);
    }

    fn dump(&self) -> Vec<u8> {
        self.redis.dump()
    }
}
