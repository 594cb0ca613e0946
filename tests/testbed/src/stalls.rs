//! Watches whether the machine or a server stands still: whoever was late for that has proved nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::redis::Probe;

/// Between two looks.
const EVERY: Duration = Duration::from_millis(5);
/// A server that has not answered by then stands still; it is asked again.
pub const PATIENCE: Duration = Duration::from_millis(500);

/// A watch; ends when dropped.
#[derive(Debug)]
pub struct Stalls {
    longest: Arc<Mutex<Duration>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Stalls {
    /// Watches the machine, and these servers.
    pub fn watch(mut servers: Vec<Probe>) -> Self {
        let (longest, over) = (Arc::<Mutex<Duration>>::default(), Arc::default());
        let (into, until) = (Arc::clone(&longest), Arc::<AtomicBool>::clone(&over));
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                let began = Instant::now();
                std::thread::sleep(EVERY);
                for server in &mut servers {
                    server.ask(&["PING"]);
                }
                let took = began.elapsed();
                let mut longest = into.lock().unwrap_or_else(PoisonError::into_inner);
                *longest = took.max(*longest);
            }
        });
        Self {
            longest,
            over,
            thread: Some(thread),
        }
    }

    /// The longest that a look has taken since this was last asked: a sleep of 5 ms and a question to each server.
    pub fn longest(&self) -> Duration {
        let mut longest = self.longest.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut longest)
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::wait_for;
    use crate::redis::Redis;

    #[test]
    fn a_server_that_stands_still_is_seen() {
        let redis = Redis::start();
        let stalls = Stalls::watch(vec![redis.probe(PATIENCE)]);
        let short = Duration::from_millis(200);
        // As it is, a look takes less; on any machine that is not standing still itself.
        let quick = wait_for(PATIENCE * 20, || {
            std::thread::sleep(EVERY * 4);
            let longest = stalls.longest();
            (!longest.is_zero() && longest < short).then_some(())
        });
        assert!(quick.is_some());
        redis.pause();
        std::thread::sleep(short);
        redis.resume();
        let seen = wait_for(PATIENCE * 20, || (stalls.longest() >= short).then_some(()));
        assert!(seen.is_some());
    }
}
