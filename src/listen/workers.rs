//! Runs connections on threads that share nothing: each has a runtime, an application and so a pool of upstream connections
//! of its own.
//!
//! A connection stays where it began. No task moves between cores and no wake-up crosses from one to another, which is
//! what a scheduler that steals spends much of a proxy's time on; the price is that one connection has one core.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Where connections run.
#[derive(Debug)]
pub struct Workers<A> {
    /// Never empty.
    workers: Vec<Worker<A>>,
}

#[derive(Debug)]
pub(super) struct Worker<A> {
    pub(super) app: Arc<A>,
    pub(super) runtime: Handle,
    open: Arc<AtomicUsize>,
    /// Dropped to end the thread, and with it whatever still runs there. A worker on its maker's runtime has none.
    _thread: Option<oneshot::Sender<()>>,
}

/// A connection counted at its worker, for as long as this lives.
#[derive(Debug)]
pub(super) struct Place(Arc<AtomicUsize>);

impl<A> Workers<A> {
    /// One worker, on the runtime of the caller.
    pub fn here(app: A) -> Self {
        let worker = Worker::new(app, Handle::current(), None);
        Self {
            workers: vec![worker],
        }
    }

    /// As many threads as asked for, each with its own `app`.
    ///
    /// # Errors
    /// When a runtime or a thread cannot be made.
    pub fn start(count: NonZeroUsize, mut app: impl FnMut() -> A) -> io::Result<Self> {
        let workers = (0..count.get()).map(|_| {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let handle = runtime.handle().clone();
            let (stop, stopped) = oneshot::channel::<()>();
            std::thread::Builder::new()
                .name("daypass-worker".to_owned())
                .spawn(move || {
                    // Never sent: the sender is dropped.
                    let _ = runtime.block_on(stopped);
                    runtime.shutdown_background();
                })?;
            Ok(Worker::new(app(), handle, Some(stop)))
        });
        Ok(Self {
            workers: workers.collect::<io::Result<_>>()?,
        })
    }

    /// The worker with the fewest connections.
    pub(super) fn least_busy(&self) -> &Worker<A> {
        let mut best = &self.workers[0];
        for worker in &self.workers[1..] {
            if worker.open.load(Ordering::Relaxed) < best.open.load(Ordering::Relaxed) {
                best = worker;
            }
        }
        best
    }

    /// The applications of all workers.
    pub(super) fn apps(&self) -> impl Iterator<Item = &A> {
        self.workers.iter().map(|worker| &*worker.app)
    }
}

impl<A> Worker<A> {
    fn new(app: A, runtime: Handle, thread: Option<oneshot::Sender<()>>) -> Self {
        Self {
            app: Arc::new(app),
            runtime,
            open: Arc::default(),
            _thread: thread,
        }
    }

    pub(super) fn place(&self) -> Place {
        self.open.fetch_add(1, Ordering::Relaxed);
        Place(self.open.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_go_where_the_fewest_are_and_leave_their_place() {
        let mut made = 0;
        let count = NonZeroUsize::new(3).unwrap();
        let workers = Workers::start(count, || {
            made += 1;
            made
        })
        .unwrap();
        let mut places: Vec<_> = (0..6)
            .map(|_| {
                let worker = workers.least_busy();
                (*worker.app, worker.place())
            })
            .collect();
        let on =
            |places: &[(i32, Place)]| [1, 2, 3].map(|n| places.iter().filter(|p| p.0 == n).count());
        assert_eq!(on(&places), [2, 2, 2]);
        places.retain(|(worker, _)| *worker != 2);
        assert_eq!(*workers.least_busy().app, 2);
    }

    #[test]
    fn what_is_spawned_on_a_worker_runs_on_its_thread_until_the_worker_is_dropped() {
        let workers = Workers::start(NonZeroUsize::MIN, || ()).unwrap();
        let (done, seen) = std::sync::mpsc::channel();
        let (held, gone) = std::sync::mpsc::channel::<()>();
        workers.least_busy().runtime.spawn(async move {
            done.send(std::thread::current().name().map(str::to_owned))
                .unwrap();
            let _held = held;
            std::future::pending::<()>().await;
        });
        assert_eq!(seen.recv().unwrap().as_deref(), Some("daypass-worker"));
        drop(workers);
        assert!(gone.recv().is_err(), "its tasks are dropped");
    }
}
