//! Knows which node of the store took writes when: who could not be heard, and what was acknowledged and may yet be lost.
//!
//! A shard is a set of nodes that hold the same data, one of them as master. Redis replicates after it has answered: what
//! a master acknowledged last is lost when another takes its place, and so is what it acknowledges after that. All is lost
//! that it acknowledged since its heir last followed it.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use crate::ledger::before;

/// What a master acknowledged within this before its end may not have reached a replica.
const LAG: Duration = Duration::from_millis(50);
/// An heir that did not follow for so long at the end was not merely looked at a moment before.
const STALE: Duration = Duration::from_millis(200);

/// Why what was acknowledged is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peril {
    /// The master ended a moment later, and another took its place.
    MasterEnded,
    /// There were two masters, and the one that was asked had to give way.
    TwoMasters,
    /// Its heir had not caught up with it. Sentinels compare how much replicas have read, though a master that starts again
    /// counts from zero: one that still has the old count wins over one that has followed since.
    StaleHeir,
}

/// What a node says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    /// It takes writes.
    Takes,
    /// It hears of every write of that node.
    Follows(usize),
    /// Neither, or it says nothing.
    Neither,
}

/// A node followed another, when it was last looked at.
#[derive(Debug, Clone, Copy)]
struct Following {
    node: usize,
    master: usize,
    last: Instant,
}

/// A time in which a node took writes. The moments are known only as well as somebody looked.
#[derive(Debug, Clone, Copy)]
struct Turn {
    node: usize,
    /// Not yet then, and surely from then.
    began: (Instant, Instant),
    /// Still then, and surely no more from then; nothing while it goes on.
    ended: Option<(Instant, Instant)>,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    shard: usize,
    /// Killed or frozen: answers that were under way are old.
    held: bool,
    /// Counts how often that changed.
    epoch: u64,
    /// The last look.
    looked: Instant,
}

/// A slot on its way to another shard.
#[derive(Debug, Clone, Copy)]
struct Move {
    slot: u16,
    to: usize,
    began: Instant,
    ended: Option<Instant>,
}

/// Everything that is known of the store's nodes.
#[derive(Debug)]
pub(crate) struct Watch {
    nodes: Vec<Node>,
    turns: Vec<Turn>,
    following: Vec<Following>,
    /// The slots of each shard at the start.
    homes: Vec<RangeInclusive<u16>>,
    moves: Vec<Move>,
    /// How long replicas may take to find the master after it has changed.
    finding: Duration,
}

impl Watch {
    /// Nodes by their shard; the first one of each shard is its master.
    pub(crate) fn new(
        shards: &[usize],
        homes: Vec<RangeInclusive<u16>>,
        finding: Duration,
        now: Instant,
    ) -> Self {
        let nodes: Vec<Node> = shards
            .iter()
            .map(|&shard| Node {
                shard,
                held: false,
                epoch: 0,
                looked: now,
            })
            .collect();
        let first = |shard| shards.iter().position(|own| *own == shard);
        let masters = (0..homes.len()).filter_map(first);
        let turns = masters.map(|node| Turn {
            node,
            began: (now, now),
            ended: None,
        });
        Self {
            turns: turns.collect(),
            following: Vec::new(),
            nodes,
            homes,
            moves: Vec::new(),
            finding,
        }
    }

    /// One server, which is all there is.
    pub(crate) fn single(now: Instant) -> Self {
        Self::new(&[0], vec![0..=u16::MAX], Duration::ZERO, now)
    }

    /// A node is about to be killed or frozen.
    pub(crate) fn hold(&mut self, node: usize, now: Instant) {
        let held = &mut self.nodes[node];
        (held.held, held.epoch, held.looked) = (true, held.epoch + 1, now);
        if let Some(turn) = self.open(node) {
            turn.ended = Some((now, now));
        }
    }

    /// A node goes on. One that was `frozen` as master takes itself for one until it hears otherwise.
    pub(crate) fn release(&mut self, node: usize, frozen: bool, now: Instant) {
        let held = &mut self.nodes[node];
        let since = held.looked;
        (held.held, held.epoch, held.looked) = (false, held.epoch + 1, now);
        let last = self.turns.iter().rev().find(|turn| turn.node == node);
        let was_master = last.is_some_and(|turn| turn.ended.is_some_and(|(_, at)| at == since));
        if frozen && was_master {
            self.turns.push(Turn {
                node,
                began: (now, now),
                ended: None,
            });
        }
    }

    /// The node that a name means now: first the masters by their shards, then everybody else. A shard that has no master
    /// goes by its last one.
    pub(crate) fn named(&self, name: usize) -> usize {
        let masters = (0..self.homes.len()).filter_map(|shard| {
            let turns = self.turns_of(shard);
            let open = turns.iter().rev().find(|turn| turn.ended.is_none());
            open.or(turns.last()).map(|turn| turn.node)
        });
        let mut all: Vec<usize> = masters.collect();
        let others = (0..self.nodes.len()).filter(|node| !all.contains(node));
        let others: Vec<usize> = others.collect();
        all.extend(others);
        all[name]
    }

    /// Whom to ask next: nothing while the node is held. To be given back with the answer.
    pub(crate) fn asking(&self, node: usize) -> Option<u64> {
        let node = &self.nodes[node];
        (!node.held).then_some(node.epoch)
    }

    /// What a node that was asked at one moment had said by another.
    pub(crate) fn answered(
        &mut self,
        node: usize,
        epoch: u64,
        (asked, heard): (Instant, Instant),
        sight: Sight,
    ) {
        let Node {
            epoch: known,
            looked,
            ..
        } = self.nodes[node];
        if epoch != known {
            return;
        }
        self.nodes[node].looked = asked;
        if let Sight::Follows(master) = sight {
            self.followed(node, master, asked);
        }
        match (self.open(node), sight == Sight::Takes) {
            (Some(turn), false) => turn.ended = Some((looked, heard)),
            (None, true) => self.turns.push(Turn {
                node,
                began: (looked, heard),
                ended: None,
            }),
            _ => {}
        }
    }

    /// A slot sets out for another shard.
    pub(crate) fn moving(&mut self, slot: u16, to: usize, now: Instant) {
        self.moves.push(Move {
            slot,
            to,
            began: now,
            ended: None,
        });
    }

    /// It has arrived.
    pub(crate) fn moved(&mut self, slot: u16, now: Instant) {
        let on_its_way = |step: &&mut Move| step.slot == slot && step.ended.is_none();
        if let Some(step) = self.moves.iter_mut().find(on_its_way) {
            step.ended = Some(now);
        }
    }

    /// Times between two moments in which nobody took writes of this slot; no end while that lasts.
    pub(crate) fn outages(
        &self,
        slot: u16,
        from: Instant,
        until: Instant,
    ) -> Vec<(Instant, Option<Instant>)> {
        let shards = self.shards(slot, from, until);
        let outages = shards.into_iter().flat_map(|shard| self.gaps(shard));
        outages.filter(|gap| overlaps(*gap, from, until)).collect()
    }

    /// Whether something that was acknowledged between two moments, about this slot, may be lost.
    pub(crate) fn peril(&self, slot: u16, from: Instant, until: Instant) -> Option<Peril> {
        let shards = self.shards(slot, from, until);
        let mut perils = shards.into_iter().flat_map(|shard| self.perils(shard));
        perils
            .find(|(began, ended, _)| overlaps((*began, *ended), from, until))
            .map(|(_, _, peril)| peril)
    }

    /// Whether replicas may have listened to the wrong node, or to none.
    pub(crate) fn unsettled(&self, from: Instant, until: Instant) -> bool {
        let from = before(from, self.finding);
        let unsettled = |shard| {
            let mut gaps = self.gaps(shard).into_iter();
            let mut perils = self.perils(shard).into_iter();
            gaps.any(|gap| overlaps(gap, from, until))
                || perils.any(|(began, ended, _)| overlaps((began, ended), from, until))
        };
        (0..self.homes.len()).any(unsettled)
    }

    /// Who took writes of a slot, and what may be lost, between two moments, in words; times by `clock`.
    pub(crate) fn told(
        &self,
        slot: u16,
        (from, until): (Instant, Instant),
        clock: impl Fn(Instant) -> String,
    ) -> String {
        let end = |at: Option<Instant>| at.map_or("…".to_owned(), &clock);
        let mut words = Vec::new();
        for shard in self.shards(slot, from, until) {
            let turns = self.turns_of(shard).into_iter();
            let turns =
                turns.map(|turn| (turn.began.1, turn.ended.map(|ended| ended.1), turn.node));
            for (began, ended, node) in turns.filter(|turn| overlaps((turn.0, turn.1), from, until))
            {
                words.push(format!(
                    "node {node} took writes {}–{}",
                    clock(began),
                    end(ended)
                ));
            }
            let perils = self.perils(shard).into_iter();
            for (began, ended, peril) in
                perils.filter(|peril| overlaps((peril.0, peril.1), from, until))
            {
                words.push(format!("{peril:?} {}–{}", clock(began), end(ended)));
            }
        }
        words.join("; ")
    }

    /// How often another node took a master's place.
    pub(crate) fn failovers(&self) -> usize {
        let shards = 0..self.homes.len();
        let changes = shards.map(|shard| {
            let turns = self.turns_of(shard);
            let ended = |turn: &&Turn| turn.ended.is_none_or(|(_, at)| at > turn.began.1 + LAG);
            let nodes: Vec<usize> = turns.iter().filter(ended).map(|turn| turn.node).collect();
            nodes.windows(2).filter(|pair| pair[0] != pair[1]).count()
        });
        changes.sum()
    }

    fn open(&mut self, node: usize) -> Option<&mut Turn> {
        let mut turns = self.turns.iter_mut();
        turns.find(|turn| turn.node == node && turn.ended.is_none())
    }

    /// Where a slot was between two moments.
    fn shards(&self, slot: u16, from: Instant, until: Instant) -> Vec<usize> {
        let home = self.homes.iter().position(|home| home.contains(&slot));
        let mut at: Vec<usize> = home.into_iter().collect();
        for step in self.moves.iter().filter(|step| step.slot == slot) {
            if step.ended.is_some_and(|ended| ended < from) {
                at.clear();
            }
            if step.began <= until {
                at.push(step.to);
            }
        }
        at
    }

    fn turns_of(&self, shard: usize) -> Vec<Turn> {
        let of = |turn: &&Turn| self.nodes[turn.node].shard == shard;
        let mut turns: Vec<Turn> = self.turns.iter().filter(of).copied().collect();
        turns.sort_by_key(|turn| turn.began.1);
        turns
    }

    fn gaps(&self, shard: usize) -> Vec<(Instant, Option<Instant>)> {
        let turns = self.turns_of(shard);
        let mut gaps = Vec::new();
        // Taken until then; nothing when it goes on.
        let mut taken = turns.first().and_then(|turn| turn.ended);
        for turn in turns.iter().skip(1) {
            let Some((_, until)) = taken else { break };
            if turn.began.1 > until {
                gaps.push((until, Some(turn.began.1)));
            }
            taken = turn.ended.map(|ended| ended.max((until, until)));
        }
        gaps.extend(taken.map(|(_, until)| (until, None)));
        gaps
    }

    fn perils(&self, shard: usize) -> Vec<(Instant, Option<Instant>, Peril)> {
        let turns = self.turns_of(shard);
        let mut perils = Vec::new();
        for (place, turn) in turns.iter().enumerate() {
            let others = turns[..place].iter();
            for first in others.filter(|first| first.node != turn.node) {
                let Some((last, over)) = first.ended.filter(|(_, at)| outlasts(turn, *at)) else {
                    // It goes on beside the other, who has to give way.
                    if first.ended.is_none_or(|(_, at)| at > turn.began.0) {
                        let from = before(turn.began.0, LAG);
                        perils.push((from, turn.ended.map(|(_, at)| at), Peril::TwoMasters));
                    }
                    continue;
                };
                let beside = over > turn.began.0;
                if !beside && has_successor(&turns, first, turn) {
                    continue;
                }
                let last = last.min(turn.began.0);
                let caught_up = self.caught_up(turn, first).min(last);
                let peril = if last.duration_since(caught_up) > STALE {
                    Peril::StaleHeir
                } else if beside {
                    Peril::TwoMasters
                } else {
                    Peril::MasterEnded
                };
                perils.push((before(caught_up, LAG), Some(over), peril));
            }
        }
        perils
    }

    /// When the one who took a turn last followed the one who had it.
    fn caught_up(&self, heir: &Turn, master: &Turn) -> Instant {
        let following = self.following.iter();
        let seen = following
            .filter(|seen| (seen.node, seen.master) == (heir.node, master.node))
            .map(|seen| seen.last)
            .filter(|last| *last <= heir.began.1);
        seen.max().unwrap_or(master.began.0)
    }

    fn followed(&mut self, node: usize, master: usize, now: Instant) {
        let mut seen = self.following.iter_mut();
        let own = seen.rfind(|seen| seen.node == node);
        match own {
            Some(seen) if seen.master == master => seen.last = now,
            _ => self.following.push(Following {
                node,
                master,
                last: now,
            }),
        }
    }
}

/// Whether somebody took writes between the end of one turn and the beginning of another, or as the first one ended.
fn has_successor(turns: &[Turn], first: &Turn, next: &Turn) -> bool {
    let Some((_, over)) = first.ended else {
        return false;
    };
    turns.iter().any(|turn| {
        let itself = std::ptr::eq(turn, first) || std::ptr::eq(turn, next);
        !itself && turn.began.1 <= next.began.1 && outlasts(turn, over)
    })
}

/// Whether a turn goes on after a moment.
fn outlasts(turn: &Turn, moment: Instant) -> bool {
    turn.ended.is_none_or(|(_, at)| at > moment)
}

fn overlaps(span: (Instant, Option<Instant>), from: Instant, until: Instant) -> bool {
    span.0 <= until && span.1.is_none_or(|end| end >= from)
}

#[cfg(test)]
mod tests;
