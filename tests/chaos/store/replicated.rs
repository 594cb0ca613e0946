//! Breaks the nodes of a store that replicates, however its servers find each other.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use daypass_testbed::breakable::Mode;
use daypass_testbed::daypass::Setup;
use daypass_testbed::redis::Redis;
use serde_json::Value;

use super::cluster::Mover;
use super::sentry::Sentry;
use super::{SharedWatch, Store};
use crate::dice::Dice;
use crate::plan::Shape;
use crate::watch::Watch;

/// How long replicas may go on with a master that has been replaced: docs/redis.md.
const FINDING: Duration = Duration::from_millis(1500);
/// A node that is not held answers within this, or it counts as silent.
const PATIENCE: Duration = Duration::from_secs(1);

/// Servers of which some follow others.
pub(crate) trait Servers: Send + 'static {
    /// What there is to break.
    const SHAPE: Shape;
    /// The shard of each node.
    fn shards(&self) -> Vec<usize>;
    /// The slots of each shard at the start.
    fn homes(&self) -> Vec<RangeInclusive<u16>>;
    /// A key that stays in this shard.
    fn key(&self, shard: usize) -> String;
    /// What `session.store` says to use them.
    fn configuration(&self) -> Value;
    /// See [`Store::is_whole`].
    fn is_whole(&self) -> bool;
    fn node(&mut self, index: usize) -> &mut Redis;
    /// Moves a slot of this shard that is in use to another shard, in steps with pauses; see [`Mover`].
    fn mover(_: &Arc<Mutex<Self>>, _: &SharedWatch, _: (usize, usize), _: Dice) -> Option<Mover> {
        None
    }
}

/// A store of such servers.
pub(crate) struct Replicated<S> {
    servers: Arc<Mutex<S>>,
    watch: SharedWatch,
    /// Which server was meant by the name it had when its trouble began.
    held: HashMap<usize, usize>,
    mover: Option<Mover>,
    dice: Dice,
    _sentry: Sentry,
}

impl<S: Servers> Replicated<S> {
    pub(crate) fn new(mut servers: S, seed: u64) -> Self {
        let shards = servers.shards();
        let watch = Watch::new(&shards, servers.homes(), FINDING, Instant::now());
        let watch = Arc::new(Mutex::new(watch));
        let probes = shards.iter().enumerate().map(|(node, &shard)| {
            let key = servers.key(shard);
            (servers.node(node).probe(PATIENCE), key)
        });
        let probes = probes.collect();
        let ports = (0..shards.len()).map(|node| servers.node(node).address().port());
        let ports: Vec<u16> = ports.collect();
        let sentry = Sentry::start(&watch, probes, &ports);
        Self {
            servers: Arc::new(Mutex::new(servers)),
            watch,
            held: HashMap::new(),
            mover: None,
            dice: Dice::new(seed, "slots"),
            _sentry: sentry,
        }
    }

    fn servers(&self) -> MutexGuard<'_, S> {
        lock(&self.servers)
    }

    /// The server that a name means now; noted until its trouble is over.
    fn hold(&mut self, node: usize) -> usize {
        let mut watch = lock(&self.watch);
        let index = *self.held.entry(node).or_insert_with(|| watch.named(node));
        watch.hold(index, Instant::now());
        index
    }
}

impl<S: Servers> Store for Replicated<S> {
    fn shape(&self) -> Shape {
        S::SHAPE
    }

    fn watch(&self) -> SharedWatch {
        Arc::clone(&self.watch)
    }

    fn configure(&self, setup: Setup, _: usize) -> Setup {
        setup.set("session.store", self.servers().configuration())
    }

    fn is_whole(&self) -> bool {
        self.held.is_empty() && self.mover.is_none() && self.servers().is_whole()
    }

    fn freeze(&mut self, node: usize) {
        let index = self.hold(node);
        self.servers().node(index).pause();
    }

    fn thaw(&mut self, node: usize) {
        if let Some(index) = self.held.remove(&node) {
            lock(&self.watch).release(index, true, Instant::now());
            self.servers().node(index).resume();
        }
    }

    fn kill(&mut self, node: usize) {
        let index = self.hold(node);
        self.servers().node(index).kill();
    }

    fn restart(&mut self, node: usize) {
        if let Some(index) = self.held.remove(&node) {
            lock(&self.watch).release(index, false, Instant::now());
            self.servers().node(index).restart();
        }
    }

    fn way(&mut self, _: usize, _: Mode) {}

    fn move_slots(&mut self, from: usize, to: usize) {
        let dice = Dice::new(self.dice.below(usize::MAX) as u64, "steps");
        self.mover = S::mover(&self.servers, &self.watch, (from, to), dice);
    }

    fn settle_slots(&mut self) {
        self.mover = None;
    }

    fn dump(&self) -> Vec<u8> {
        let masters = 0..S::SHAPE.shards;
        let masters: Vec<usize> = masters
            .map(|shard| lock(&self.watch).named(shard))
            .collect();
        let mut servers = self.servers();
        let dumps = masters
            .into_iter()
            .map(|master| servers.node(master).dump());
        dumps.collect::<Vec<_>>().concat()
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
