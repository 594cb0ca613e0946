//! Asks every node of the store, all the time, whether it takes writes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use daypass_testbed::redis::{Probe, Reply};

use super::SharedWatch;
use crate::watch::Sight;

/// Between two looks.
const TICK: Duration = Duration::from_millis(20);

/// A thread for each node, for one that is frozen keeps whoever asks it; ended when dropped.
pub(crate) struct Sentry {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Sentry {
    /// Probes of the nodes, each with a key that is its shard's for ever and does not exist, and the ports of all of them.
    pub(crate) fn start(watch: &SharedWatch, probes: Vec<(Probe, String)>, ports: &[u16]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = probes.into_iter().enumerate().map(|(node, (probe, key))| {
            let (watch, stop) = (Arc::clone(watch), Arc::clone(&stop));
            let mut node = Node {
                index: node,
                probe,
                key,
                ports: ports.to_owned(),
            };
            std::thread::spawn(move || node.look(&watch, &stop))
        });
        Self {
            threads: threads.collect(),
            stop,
        }
    }
}

impl Drop for Sentry {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

struct Node {
    index: usize,
    probe: Probe,
    key: String,
    ports: Vec<u16>,
}

impl Node {
    fn look(&mut self, watch: &SharedWatch, stop: &AtomicBool) {
        let lock = || watch.lock().unwrap_or_else(PoisonError::into_inner);
        while !stop.load(Ordering::SeqCst) {
            let epoch = lock().asking(self.index);
            if let Some(epoch) = epoch {
                let asked = Instant::now();
                let sight = self.ask();
                lock().answered(self.index, epoch, (asked, Instant::now()), sight);
            }
            std::thread::sleep(TICK);
        }
    }

    fn ask(&mut self) -> Sight {
        // Deletes nothing: that leaves no trace, and is refused where writes are.
        match self.probe.ask(&["DEL", &self.key]) {
            Some(Reply::Integer(_)) => Sight::Takes,
            Some(_) => self.master().map_or(Sight::Neither, Sight::Follows),
            None => Sight::Neither,
        }
    }

    /// Whom it hears every write of.
    fn master(&mut self) -> Option<usize> {
        let Reply::Array(role) = self.probe.ask(&["ROLE"])? else {
            return None;
        };
        let [kind, _, port, state, ..] = role.as_slice() else {
            return None;
        };
        let follows = kind.bytes() == b"slave" && state.bytes() == b"connected";
        let port = port.integer().filter(|_| follows)?;
        self.ports.iter().position(|own| i64::from(*own) == port)
    }
}
