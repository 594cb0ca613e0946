//! Keeps people busy on all replicas while something happens to Redis, and tells what they saw.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use daypass_testbed::client::Client;
use daypass_testbed::daypass::Daypass;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// Longest wait for what must happen soon, on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// Between two requests of a person at a replica.
const PAUSE: Duration = Duration::from_millis(20);

/// Signs in at the first replica.
pub(super) async fn sign_in(fleet: &[Daypass]) -> Client {
    let client = Client::new();
    let login = fleet[0].url("/oauth2/login?redirect=/public/in");
    let page = client.browse(login).await.expect("the way in");
    assert_eq!(page.status, 200, "{}", page.text());
    client
}

/// Status of one request with the session at a replica.
pub(super) async fn status(fleet: &[Daypass], client: &Client, replica: usize) -> u16 {
    let call = client.get(fleet[0].url("/orders"));
    let answer = call.via(fleet[replica].public()).send().await;
    answer.expect("an answer").status
}

/// Requests of everyone at every replica, one after the other, until stopped.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    lanes: Vec<Arc<Lane>>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Lane {
    /// 200s since the last other answer.
    streak: AtomicUsize,
    /// Everything else, by status and reason.
    others: Mutex<Vec<String>>,
}

impl Load {
    pub(super) fn start(fleet: &[Daypass], people: &[Client]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut lanes, mut tasks) = (Vec::new(), Vec::new());
        for client in people {
            for replica in fleet {
                let lane = Arc::new(Lane::default());
                lanes.push(Arc::clone(&lane));
                let (stop, client) = (Arc::clone(&stop), client.twin());
                let (url, via) = (fleet[0].url("/orders"), replica.public());
                tasks.push(tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let answer = client.get(&url).via(via).send().await;
                        let answer = answer.expect("an answer");
                        if answer.status == 200 {
                            lane.streak.fetch_add(1, Ordering::Relaxed);
                        } else {
                            lane.streak.store(0, Ordering::Relaxed);
                            let seen = format!("{} {}", answer.status, answer.json()["reason"]);
                            let others = lane.others.lock();
                            others.unwrap_or_else(PoisonError::into_inner).push(seen);
                        }
                        sleep(PAUSE).await;
                    }
                }));
            }
        }
        Self { stop, lanes, tasks }
    }

    /// Waits until every lane has had so many 200s in a row from now on.
    pub(super) async fn served(&self, count: usize, when: &str) {
        let streak = |lane: &Arc<Lane>| lane.streak.load(Ordering::Relaxed);
        for lane in &self.lanes {
            lane.streak.store(0, Ordering::Relaxed);
        }
        let deadline = Instant::now() + PATIENCE;
        while self.lanes.iter().any(|lane| streak(lane) < count) {
            let dead = self.tasks.iter().any(JoinHandle::is_finished);
            assert!(!dead, "{when}: a request got no answer");
            let late = Instant::now() > deadline;
            assert!(!late, "{when}: not served again; {:?}", self.others());
            sleep(PAUSE).await;
        }
    }

    /// Answers other than 200 so far.
    pub(super) fn others(&self) -> Vec<String> {
        let all = self.lanes.iter().flat_map(|lane| {
            let others = lane.others.lock();
            others.unwrap_or_else(PoisonError::into_inner).clone()
        });
        all.collect()
    }

    /// How many were told to come back so far, and requires that nobody was told anything else.
    pub(super) fn noticed(&self, when: &str) -> usize {
        let others = self.others();
        let refused = others.iter().any(|seen| !seen.starts_with("503"));
        assert!(!refused, "{when}: {others:?}");
        others.len()
    }

    /// Requires that all who were not served were told to come back, never that they were signed out.
    pub(super) async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let others = self.others();
        let refused = others.iter().find(|seen| !seen.starts_with("503"));
        assert_eq!(refused, None, "of {}", others.len());
        for task in self.tasks {
            task.await.expect("every request was answered");
        }
        others.len()
    }
}
