//! Finds the master that holds a key, and follows the Cluster when keys move.
//!
//! The redis crate has a client for Clusters, too. It retries, queues and reconnects by rules of its own; here each master
//! is a [`Link`] like any other, so that deadlines, heartbeats and rotation are the same in all modes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use redis::FromRedisValue;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use self::layout::{Layout, NOBODY, place};
use super::access::{Access, Place};
use super::command::Command;
use super::link::{Dialled, Link, LinkError, MAX_ATTEMPTS, Observer, Origin, Ready};
use super::node::{Masters, Node};
use crate::clock::by;
use crate::metrics::Metrics;

mod keeper;
mod layout;

/// The masters of a Cluster. Connects at first use.
pub(super) struct Cluster {
    shared: Arc<Shared>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    seeds: Vec<Place>,
    access: Arc<Access>,
    map: watch::Sender<Arc<Map>>,
    /// Masters, and nodes that we were sent to by the way.
    links: Mutex<HashMap<Place, Held>>,
    /// Something happened: the map may be old.
    stir: Arc<Notify>,
    masters: watch::Sender<Arc<[Node]>>,
    dialled: Dialled,
    /// Counts answers of nodes that are not known to hold slots: nobody hears what changes there.
    strangers: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
}

/// Who holds what, as of the last look.
#[derive(Default)]
struct Map {
    links: Vec<Arc<Link>>,
    /// Index into `links` for each slot; empty before the first look.
    slots: Vec<u16>,
    /// Of the layout.
    epoch: u64,
    /// When the first of the looks was taken that found nothing; no look has found anything since.
    lost: Option<Instant>,
}

struct Held {
    link: Arc<Link>,
    used: Instant,
}

impl Cluster {
    /// Reaches out to nobody yet.
    pub(super) fn new(
        seeds: Vec<Place>,
        access: Arc<Access>,
        dialled: Dialled,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                seeds,
                access,
                map: watch::channel(Arc::default()).0,
                links: Mutex::default(),
                stir: Arc::default(),
                masters: watch::channel(Arc::from([])).0,
                dialled,
                strangers: Arc::default(),
                metrics,
            }),
            keeper: Mutex::new(None),
        }
    }

    pub(super) fn masters(&self) -> Masters {
        self.shared.masters.subscribe()
    }

    /// Counts answers of nodes that are not known to hold slots.
    pub(super) fn strangers(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.shared.strangers)
    }

    /// The link to a master.
    pub(super) fn link_to(&self, node: &Node) -> Option<Arc<Link>> {
        let map = self.shared.map.borrow();
        let index = map.index(node)?;
        map.links.get(index).cloned()
    }

    /// The slots that the master holds, in ascending order.
    pub(super) fn slots_of(&self, node: &Node) -> Vec<u16> {
        let map = self.shared.map.borrow();
        let Some(index) = map.index(node) else {
            return Vec::new();
        };
        let slots = (0..).zip(&map.slots);
        slots
            .filter(|(_, held)| usize::from(**held) == index)
            .map(|(slot, _)| slot)
            .collect()
    }

    /// The map may be old, somebody found out.
    pub(super) fn stir(&self) {
        self.shared.stir.notify_one();
    }

    /// Whether a master is connected: with some away, the next session may still find its place.
    pub(super) fn is_up(&self) -> bool {
        let map = self.shared.map.borrow();
        map.links.iter().any(|link| link.is_up())
    }

    /// Whether the slot's master has been connected without a break for so long.
    pub(super) fn is_up_for(&self, slot: u16, time: Duration) -> bool {
        let home = self.shared.map.borrow().home(slot);
        home.is_some_and(|link| link.is_up_for(time))
    }

    /// Whether the slot's master is known to be away, or there is none.
    pub(super) fn is_away(&self, slot: u16) -> bool {
        self.keep();
        let map = self.shared.map.borrow();
        match map.home(slot) {
            Some(link) => link.is_away(),
            None => !map.slots.is_empty() || map.is_long_lost(),
        }
    }

    /// Waits until the slot's master is known to be away.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn goes_away(&self, slot: u16) {
        let mut map = self.shared.map.subscribe();
        loop {
            if self.is_away(slot) {
                return;
            }
            let home = map.borrow_and_update().home(slot);
            let away = async {
                match &home {
                    Some(link) => link.goes_away().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = away => return,
                // The sender lives as long as we do.
                _ = map.changed() => {}
            }
        }
    }

    /// Sends a command to one of the masters, by its number; `None` when there are not so many.
    pub(super) async fn ask_master<T: FromRedisValue>(
        &self,
        number: usize,
        command: Command<'_>,
        deadline: Instant,
    ) -> Option<Result<T, LinkError>> {
        self.keep();
        let mut map = self.shared.map.subscribe();
        let found = map.wait_for(|map| !map.links.is_empty() || map.is_long_lost());
        let link = match by(deadline, found).await {
            Some(Ok(map)) if map.links.is_empty() => return Some(Err(LinkError::Unreachable)),
            Some(Ok(map)) => map.links.get(number).cloned(),
            _ => return Some(Err(LinkError::Timeout)),
        };
        Some(link?.ask(command, deadline, MAX_ATTEMPTS).await)
    }

    /// Sends a command to whoever holds its key, and follows it there. `attempts`: how often it may be sent to a server
    /// that might act on it.
    ///
    /// # Cancel safety
    /// As [`Link::ask`].
    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        command: Command<'_>,
        deadline: Instant,
        attempts: u32,
    ) -> Result<T, LinkError> {
        self.keep();
        let slot = command.slot().unwrap_or(0);
        let mut lost = 0;
        let mut hops = 0;
        // Where we were sent, and whether only for this once.
        let mut detour: Option<(Arc<Link>, bool)> = None;
        loop {
            let ready = async {
                match &detour {
                    Some((link, _)) => link.ready().await,
                    None => self.shared.home(slot).await,
                }
            };
            let ready = by(deadline, ready).await;
            let ready = ready.ok_or(LinkError::Timeout)??;
            let asked = ready.place().cloned();
            let asking = detour.take().is_some_and(|(_, asking)| asking);
            let failure = match ready.send(command, asking, deadline).await {
                Ok(answer) => {
                    if !self.shared.map.borrow().knows(asked.as_ref()) {
                        self.shared.strangers.fetch_add(1, Ordering::SeqCst);
                    }
                    return Ok(answer);
                }
                Err(failure) => failure,
            };
            let pause = match &failure {
                LinkError::Moved(host, port) | LinkError::Ask(host, port) => {
                    hops += 1;
                    let asked = asked.ok_or(LinkError::ClusterDown)?;
                    let link = self.shared.link(&place(Some(host.as_str()), *port, &asked));
                    let for_once = matches!(failure, LinkError::Ask(..));
                    detour = Some((link.ok_or(LinkError::ClusterDown)?, for_once));
                    if !for_once {
                        self.shared.stir.notify_one();
                    }
                    if hops <= STRAIGHT {
                        continue;
                    }
                    // Two nodes that name each other have not yet both heard how the move ended.
                    SHORT
                }
                LinkError::Lost => {
                    lost += 1;
                    if lost >= attempts {
                        return Err(failure);
                    }
                    self.shared.stir.notify_one();
                    continue;
                }
                // Whoever asks once knows better what to do than to wait.
                LinkError::TryAgain if attempts == 1 => return Err(failure),
                LinkError::TryAgain => {
                    // It was sent as far as it goes, and begins anew.
                    hops = 0;
                    SHORT
                }
                LinkError::ClusterDown | LinkError::NotMaster => {
                    self.shared.stir.notify_one();
                    LONG
                }
                _ => return Err(failure),
            };
            if timeout_at(deadline, sleep(pause)).await.is_err() {
                return Err(failure);
            }
        }
    }

    /// Whether any part of the data can be reached: who is in the other part gets 503s, and nobody is helped by more.
    pub(super) async fn ping(&self, deadline: Instant) -> Result<(), LinkError> {
        self.keep();
        let mut map = self.shared.map.subscribe();
        let found = map.wait_for(|map| !map.links.is_empty() || map.is_long_lost());
        let links = match by(deadline, found).await {
            Some(Ok(map)) => map.links.clone(),
            _ => return Err(LinkError::Timeout),
        };
        let pings = links.iter().map(|link| ping(link, deadline));
        let answers = super::gather::gather(
            pings,
            Result::is_ok,
            deadline.saturating_duration_since(Instant::now()),
            Duration::ZERO,
        );
        let mut worst = LinkError::Unreachable;
        for answer in answers.await {
            match answer {
                Ok(()) => return Ok(()),
                Err(error) => worst = error,
            }
        }
        Err(worst)
    }

    /// What is wrong with the Cluster, in words.
    pub(super) async fn survey(&self, deadline: Instant) -> Vec<String> {
        self.keep();
        let layout = match self.shared.look(deadline).await {
            Ok(layout) => layout,
            Err(problem) => return vec![problem.to_owned()],
        };
        let mut problems = Vec::new();
        if layout.missing() > 0 {
            problems.push(format!("{} slots have no master", layout.missing()));
        } else if !layout.ok {
            problems.push("the Cluster says that it is down".to_owned());
        }
        for place in &layout.masters {
            let deadline = Instant::now() + super::link::ANSWER;
            let answer = match self.shared.link(place) {
                Some(link) => ping(&link, deadline).await,
                None => Err(LinkError::Refused),
            };
            if answer.is_err() {
                problems.push(format!("the master at {place} does not answer"));
            }
        }
        problems
    }

    /// Starts the keeper, also when the runtime it ran on is gone.
    fn keep(&self) {
        let mut keeper = self.keeper.lock();
        if keeper.as_ref().is_none_or(JoinHandle::is_finished) {
            *keeper = Some(tokio::spawn(Shared::keep(Arc::clone(&self.shared))));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.get_mut() {
            keeper.abort();
        }
    }
}

impl Shared {
    /// A connection to the slot's master; to another when the slot gets one while we wait.
    async fn home(&self, slot: u16) -> Result<Ready, LinkError> {
        let mut map = self.map.subscribe();
        loop {
            let link = {
                let map = map.borrow_and_update();
                match map.home(slot) {
                    None if map.is_long_lost() => return Err(LinkError::Unreachable),
                    link => link,
                }
            };
            let ready = async {
                match &link {
                    Some(link) => link.ready().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                ready = ready => return ready,
                changed = map.changed() => changed.map_err(|_| LinkError::Unreachable)?,
            }
        }
    }

    /// The link to a place, made now if need be. `None` when there are too many.
    fn link(&self, place: &Place) -> Option<Arc<Link>> {
        let mut links = self.links.lock();
        let now = Instant::now();
        if let Some(held) = links.get_mut(place) {
            held.used = now;
            return Some(Arc::clone(&held.link));
        }
        if links.len() >= MAX_LINKS {
            return None;
        }
        let link = Arc::new(Link::new(
            Origin::Place(place.clone()),
            Arc::clone(&self.access),
            Observer::Keeper(Arc::clone(&self.stir)),
            Arc::clone(&self.dialled),
        ));
        let held = Held {
            link: Arc::clone(&link),
            used: now,
        };
        links.insert(place.clone(), held);
        Some(link)
    }
}

impl Map {
    fn home(&self, slot: u16) -> Option<Arc<Link>> {
        let index = *self.slots.get(usize::from(slot))?;
        if index == NOBODY {
            return None;
        }
        self.links.get(usize::from(index)).cloned()
    }

    /// Whether a node at this place holds slots.
    fn knows(&self, place: Option<&Place>) -> bool {
        self.links.iter().any(|link| link.place() == place)
    }

    /// Number of a master's link.
    fn index(&self, node: &Node) -> Option<usize> {
        self.links.iter().position(|link| {
            let place = link.place();
            place.is_some_and(|place| place.to_string() == *node.id)
        })
    }

    fn is_long_lost(&self) -> bool {
        self.lost.is_some_and(|lost| lost.elapsed() > PATIENCE)
    }
}

async fn ping(link: &Link, deadline: Instant) -> Result<(), LinkError> {
    let mut pipe = redis::pipe();
    pipe.cmd("PING");
    let (_pong,): (String,) = link.ask(Command::Pipe(&pipe), deadline, 1).await?;
    Ok(())
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cluster(..)")
    }
}

/// From node to node without a pause: where it was, where it is, and one who is behind the times.
const STRAIGHT: u32 = 3;
/// While keys are on their way, one by one.
const SHORT: Duration = Duration::from_millis(10);
/// While the Cluster makes up its mind.
const LONG: Duration = Duration::from_millis(50);
/// As long as a link waits for its server: see there.
const PATIENCE: Duration = Duration::from_secs(2);
/// Masters, and as many seeds and detours again.
const MAX_LINKS: usize = 2000;
