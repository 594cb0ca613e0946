//! Shows that a master which was frozen until another took its place is not believed when it goes on.

use std::sync::Mutex;

use tokio::task::JoinHandle;

use super::super::command::slot;
use super::*;

/// Many replicas that ask for one session all the time.
struct Asking {
    wanted: Arc<Mutex<SessionId>>,
    missed: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Asking {
    /// So many that somebody is on the way to a frozen master at any moment.
    fn start(wanted: SessionId, open: impl Fn() -> Redis) -> Self {
        let wanted = Arc::new(Mutex::new(wanted));
        let (missed, over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let one = |redis: Redis| {
            let wanted = Arc::clone(&wanted);
            let (missed, over) = (Arc::clone(&missed), Arc::clone(&over));
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let id = wanted.lock().expect("no panic").clone();
                    if matches!(redis.load(&id, &keys()).await, Ok(None)) {
                        missed.fetch_add(1, Ordering::Relaxed);
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
        };
        let tasks = (0..8).map(|_| one(open())).collect();
        Self {
            wanted,
            missed,
            over,
            tasks,
        }
    }

    /// From now on they ask for this one.
    fn ask_for(&self, id: &SessionId) {
        *self.wanted.lock().expect("no panic") = id.clone();
    }

    /// How often it was said not to exist.
    async fn end(self) -> u64 {
        // Longer than an old master may be taken for one.
        tokio::time::sleep(Duration::from_secs(2)).await;
        self.over.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("no panic");
        }
        self.missed.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_at_a_frozen_master_asks_the_sentinels_before_it_is_believed() {
    let watched = Watched::start(1);
    let urls: Vec<String> = watched
        .sentinels()
        .iter()
        .map(|at| format!("redis://{at}"))
        .collect();
    let mode = || model::RedisMode::Sentinel {
        master: MASTER.to_owned(),
        username: None,
        password: None,
    };
    let open = || open_store(&store(&urls, mode())).0;
    let first = created(&open()).await;
    watched.wait_until_replicated();
    watched.server(0).pause();
    let asking = Asking::start(first, open);
    tokio::task::block_in_place(|| watched.wait_for_failover(0));
    let fresh = open();
    let id = created(&fresh).await;
    asking.ask_for(&id);
    // What the sentinels said a moment ago is good enough for a server that lets us in at once.
    tokio::time::sleep(Duration::from_millis(250)).await;
    watched.server(0).resume();
    assert_eq!(asking.end().await, 0, "it was there");
    assert_eq!(generation(&fresh, &id).await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_master_of_a_cluster_is_not_believed_when_it_goes_on() {
    let cluster = Cluster::start(3, true);
    let urls: Vec<String> = (0..3).map(|node| cluster.node(node).url()).collect();
    let open = || open_store(&store(&urls, model::RedisMode::Cluster)).0;
    let redis = open();
    // In the part of the data that will be away.
    let there = async |redis: &Redis| {
        eventually("there", async || {
            let id = create(redis).await.ok()?;
            let slot = slot(redis.record(id.record_key()).as_bytes());
            let holder = cluster.holder(1, slot)?;
            (holder % 3 == 0).then_some((id, slot))
        })
        .await
    };
    let (first, slot) = there(&redis).await;
    cluster.wait_until_replicated(0);
    cluster.node(0).pause();
    let asking = Asking::start(first, open);
    tokio::task::block_in_place(|| cluster.wait_for_failover(0, slot));
    let (id, _) = there(&open()).await;
    asking.ask_for(&id);
    cluster.node(0).resume();
    assert_eq!(asking.end().await, 0, "it was there");
    assert_eq!(generation(&redis, &id).await, Some(0));
}
