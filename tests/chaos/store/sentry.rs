//! Asks every node of the store, all the time, whether it takes writes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use daypass_testbed::redis::{Probe, Reply};

use super::SharedWatch;

/// Between two looks.
const TICK: Duration = Duration::from_millis(20);

/// A thread for each node, for one that is frozen keeps whoever asks it; ended when dropped.
pub(crate) struct Sentry {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Sentry {
    /// Probes of the nodes, each with a key that is its shard's for ever and does not exist.
    pub(crate) fn start(watch: &SharedWatch, probes: Vec<(Probe, String)>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = probes.into_iter().enumerate().map(|(node, (probe, key))| {
            let (watch, stop) = (Arc::clone(watch), Arc::clone(&stop));
            std::thread::spawn(move || look(node, probe, &key, &watch, &stop))
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

fn look(node: usize, mut probe: Probe, key: &str, watch: &SharedWatch, stop: &AtomicBool) {
    let lock = || watch.lock().unwrap_or_else(PoisonError::into_inner);
    while !stop.load(Ordering::SeqCst) {
        let epoch = lock().asking(node);
        if let Some(epoch) = epoch {
            let asked = Instant::now();
            // Deletes nothing: that leaves no trace, and is refused where writes are.
            let answer = probe.ask(&["DEL", key]);
            let takes = matches!(answer, Some(Reply::Integer(_)));
            lock().answered(node, epoch, (asked, Instant::now()), takes);
        }
        std::thread::sleep(TICK);
    }
}
