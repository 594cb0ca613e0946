//! Runs a Cluster of three masters with a replica each, and moves slots in use from master to master.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use daypass_testbed::redis::cluster::{Cluster, SLOTS};
use daypass_testbed::redis::{Options, Redis};
use serde_json::Value;

use super::replicated::{Servers, lock};
use super::{SharedWatch, slots};
use crate::dice::Dice;
use crate::plan::Shape;

const MASTERS: u16 = 3;

/// Nodes that keep what they acknowledge; each replica stays with its master, and a master that is away takes the whole
/// Cluster with it or only its own slots.
pub(crate) fn start(full_coverage: bool) -> Cluster {
    let coverage = if full_coverage { "yes" } else { "no" };
    let arguments = [
        "--cluster-allow-replica-migration",
        "no",
        "--cluster-require-full-coverage",
        coverage,
    ];
    Cluster::with(
        usize::from(MASTERS),
        true,
        Options {
            persistent: true,
            arguments: arguments.map(ToOwned::to_owned).to_vec(),
            ..Options::default()
        },
    )
}

impl Servers for Cluster {
    const SHAPE: Shape = Shape {
        shards: MASTERS as usize,
        nodes: 2 * MASTERS as usize,
        ways: false,
        moves: true,
    };

    fn shards(&self) -> Vec<usize> {
        let masters = usize::from(MASTERS);
        (0..self.count()).map(|node| node % masters).collect()
    }

    fn homes(&self) -> Vec<RangeInclusive<u16>> {
        let bound = |master| SLOTS / MASTERS * master + (SLOTS % MASTERS) * master / MASTERS;
        let home = |master| bound(master)..=bound(master + 1) - 1;
        (0..MASTERS).map(home).collect()
    }

    fn key(&self, shard: usize) -> String {
        let home = &self.homes()[shard];
        let keys = (0..).map(|number: u32| format!("chaos:look:{number}"));
        let mut there = keys.filter(|key| home.contains(&slots::of_key(key)));
        there.next().expect("every slot has keys")
    }

    fn configuration(&self) -> Value {
        self.store()
    }

    fn is_whole(&self) -> bool {
        let keys: Vec<String> = (0..Self::SHAPE.shards)
            .map(|shard| self.key(shard))
            .collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        Self::is_whole(self, &keys)
    }

    fn node(&mut self, index: usize) -> &mut Redis {
        self.node_mut(index)
    }

    fn mover(
        servers: &Arc<Mutex<Self>>,
        watch: &SharedWatch,
        shards: (usize, usize),
        dice: Dice,
    ) -> Option<Mover> {
        Some(Mover::start(servers, watch, shards, dice))
    }
}

/// Moves one slot after the other until it is dropped; then the last one arrives.
pub(crate) struct Mover {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Mover {
    fn start(
        cluster: &Arc<Mutex<Cluster>>,
        watch: &SharedWatch,
        shards: (usize, usize),
        mut dice: Dice,
    ) -> Self {
        let (cluster, watch) = (Arc::clone(cluster), Arc::clone(watch));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                move_one(&cluster, &watch, shards, &mut dice);
                std::thread::sleep(dice.time(0, 50));
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let moved = thread.join();
            assert!(
                moved.is_ok() || std::thread::panicking(),
                "a slot did not move"
            );
        }
    }
}

/// Moves a slot with keys, if there is one, and lingers in each state it can be in on its way.
fn move_one(
    cluster: &Mutex<Cluster>,
    watch: &SharedWatch,
    shards: (usize, usize),
    dice: &mut Dice,
) {
    let (from, to) = {
        let watch = lock(watch);
        (watch.named(shards.0), watch.named(shards.1))
    };
    let slot = {
        let cluster = lock(cluster);
        // The keys by which nodes are looked at stay.
        let keys = cluster.node(from).keys().into_iter();
        let mut found: Vec<u16> = keys
            .filter(|key| key.contains('{'))
            .map(|key| slots::of_key(&key))
            .collect();
        found.sort_unstable();
        found.dedup();
        if found.is_empty() {
            return;
        }
        let slot = dice.pick(&found);
        lock(watch).moving(slot, shards.1, Instant::now());
        cluster.begin_move(slot, from, to);
        slot
    };
    let long = if dice.percent(20) { 400 } else { 20 };
    std::thread::sleep(dice.time(0, long));
    lock(cluster).move_keys(slot, from, to);
    std::thread::sleep(dice.time(0, long));
    let cluster = lock(cluster);
    // What was begun at the target meanwhile is there; what was created at the source before it knew is not.
    cluster.move_keys(slot, from, to);
    cluster.end_move(slot, from, to);
    lock(watch).moved(slot, Instant::now());
}
