//! Keeps the map of a Cluster true: looks now and then, and at once when a node says that a key has moved.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use redis::{RedisResult, Value, from_redis_value};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::{Held, Layout, Map, Shared};
use crate::seal::random;
use crate::session::redis::command::Command;
use crate::session::redis::gather::gather;
use crate::session::redis::link::{ANSWER, Link, LinkError, jittered};

impl Shared {
    /// Looks, rests, looks again, until aborted.
    pub(super) async fn keep(self: Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        let mut reported = false;
        let mut older = Older::default();
        loop {
            let complete = match self.look(Instant::now() + ANSWER).await {
                Ok(layout) => {
                    reported = false;
                    self.adopt(&layout, &mut older) && layout.is_whole()
                }
                Err(problem) => {
                    self.note_loss();
                    if !reported {
                        reported = true;
                        warn!(
                            problem,
                            "session store: the Cluster is not known; trying on"
                        );
                    }
                    false
                }
            };
            let all_up = self.review();
            self.metrics
                .store_connected
                .set(i64::from(complete && all_up));
            let rest = if complete && all_up {
                pause = FIRST_PAUSE;
                jittered(PERIOD)
            } else {
                pause = (pause * 2).min(MAX_PAUSE);
                jittered(pause)
            };
            // However much happens.
            sleep(GAP).await;
            let _ = timeout(rest, self.stir.notified()).await;
        }
    }

    /// Asks a few nodes for the layout; those that are connected first.
    pub(super) async fn look(&self, deadline: Instant) -> Result<Layout, &'static str> {
        let map = Arc::clone(&self.map.borrow());
        let mut asked: Vec<Arc<Link>> = map.links.iter().filter(|l| l.is_up()).cloned().collect();
        if !asked.is_empty() {
            // Others each time: one may be cut off and not know it.
            let mut turn = [0];
            random(&mut turn);
            let turn = usize::from(turn[0]) % asked.len();
            asked.rotate_left(turn);
            asked.truncate(ASKED);
        }
        if asked.len() < ASKED {
            let places = self.seeds.iter();
            asked.extend(places.filter_map(|place| self.link(place)).take(MAX_SEEDS));
        }
        let looks = asked.iter().map(|link| question(link, deadline));
        let limit = deadline.saturating_duration_since(Instant::now());
        let good = |answer: &Result<Layout, LinkError>| matches!(answer, Ok(l) if l.is_whole());
        let answers = gather(looks, good, limit, GRACE).await;
        let refused = answers
            .iter()
            .any(|answer| matches!(answer, Err(LinkError::Refused)));
        Layout::newest(answers.into_iter().flatten()).ok_or(if refused {
            "a node refuses CLUSTER SLOTS or CLUSTER INFO: it is not in cluster mode, or the user lacks the right"
        } else {
            "no node answers"
        })
    }

    /// Puts a layout in force, unless it is another and older than the one that is. Whether it is in force now.
    fn adopt(&self, layout: &Layout, older: &mut Older) -> bool {
        let links: Vec<Arc<Link>> = layout
            .masters
            .iter()
            .map_while(|place| self.link(place))
            .collect();
        let newer = older.may_take(self.map.borrow().epoch, layout.epoch);
        let mut same = false;
        let changed = self.map.send_if_modified(|map| {
            same = map.lost.is_none()
                && map.slots == layout.slots
                && map.links.len() == links.len()
                && map.links.iter().zip(&links).all(|(a, b)| Arc::ptr_eq(a, b));
            if newer && !(same && map.epoch == layout.epoch) {
                *map = Arc::new(Map {
                    links: links.clone(),
                    slots: layout.slots.clone(),
                    epoch: layout.epoch,
                    lost: None,
                });
            }
            newer && !same
        });
        if !(newer || same) {
            return false;
        }
        for link in &links {
            link.supervise();
        }
        if changed {
            info!(
                masters = links.len(),
                epoch = layout.epoch,
                "session store: the Cluster's slots are known"
            );
        }
        let masters: HashSet<_> = layout.masters.iter().collect();
        let now = Instant::now();
        self.links.lock().retain(|place, Held { used, .. }| {
            masters.contains(place) || now.duration_since(*used) < KEPT
        });
        true
    }

    /// Nothing is known; what was known stays, for want of better.
    fn note_loss(&self) {
        self.map.send_modify(|map| {
            let known = Arc::clone(map);
            *map = Arc::new(Map {
                links: known.links.clone(),
                slots: known.slots.clone(),
                epoch: known.epoch,
                lost: known.lost.or_else(|| Some(Instant::now())),
            });
        });
    }

    /// Publishes the masters as they are entered now. Whether all are connected.
    fn review(&self) -> bool {
        let map = Arc::clone(&self.map.borrow());
        let now: Vec<_> = map
            .links
            .iter()
            .flat_map(|link| link.node().borrow().to_vec())
            .collect();
        self.masters.send_if_modified(|masters| {
            let same = masters.len() == now.len()
                && masters
                    .iter()
                    .zip(&now)
                    .all(|(old, new)| Arc::ptr_eq(&old.id, &new.id));
            if !same {
                *masters = now.into();
            }
            !same
        });
        map.links.iter().all(|link| link.is_up())
    }
}

/// Since when looks have found nothing but layouts older than the one in force. Where one node answers alone, it may be one that
/// stood still and knows of no failover yet.
#[derive(Default)]
struct Older(Option<Instant>);

impl Older {
    /// Whether what was found is taken in the place of what is in force.
    fn may_take(&mut self, in_force: u64, found: u64) -> bool {
        if found >= in_force {
            self.0 = None;
            return true;
        }
        let since = *self.0.get_or_insert_with(Instant::now);
        let made_anew = since.elapsed() >= MADE_ANEW;
        if made_anew {
            self.0 = None;
        }
        made_anew
    }
}

async fn question(link: &Link, deadline: Instant) -> Result<Layout, LinkError> {
    let mut pipe = redis::pipe();
    pipe.cmd("CLUSTER").arg("SLOTS").cmd("CLUSTER").arg("INFO");
    let (slots, info): (Value, Value) = link.ask(Command::Pipe(&pipe), deadline, 1).await?;
    let place = link.place().ok_or(LinkError::Refused)?;
    let read = || -> RedisResult<Layout> {
        let info: String = from_redis_value(info)?;
        Ok(Layout::read(slots, &info, place)?)
    };
    read().map_err(|_| LinkError::Refused)
}

/// Between looks when all is well.
const PERIOD: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Between looks while something is missing.
const MAX_PAUSE: Duration = Duration::from_millis(500);
const GAP: Duration = Duration::from_millis(50);
/// Connected masters that are asked in one look.
const ASKED: usize = 3;
const MAX_SEEDS: usize = 10;
/// An older layout is taken when nothing else was found for so long: then the Cluster was made anew. Longer than nodes need to
/// hear of a failover once they can.
const MADE_ANEW: Duration = Duration::from_secs(5);
/// How long other nodes may take once one has answered.
const GRACE: Duration = Duration::from_millis(100);
/// A link that is no master's is closed when it has not been used for so long.
const KEPT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_older_layout_is_taken_only_when_nothing_else_is_found() {
        let mut older = Older::default();
        assert!(older.may_take(0, 7) && older.may_take(7, 7));
        for _ in 0..3 {
            for _ in 0..4 {
                assert!(!older.may_take(7, 6), "somebody stood still");
                sleep(MADE_ANEW / 5).await;
            }
            assert!(older.may_take(7, 7), "as the others say");
        }
        assert!(!older.may_take(7, 1));
        sleep(MADE_ANEW).await;
        assert!(older.may_take(7, 1), "made anew");
        assert!(older.may_take(1, 2));
    }
}
