//! Draws what breaks when. Known before anything runs, so that a failure can show it and the seed brings it back.

use std::fmt;
use std::time::Duration;

use crate::dice::Dice;

/// Replicas of the fleet.
pub(crate) const REPLICAS: usize = 3;

/// What there is to break of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Masters. Nodes are counted from them.
    pub(crate) shards: usize,
    /// All nodes; those that are no masters are replicas.
    pub(crate) nodes: usize,
    /// Whether each replica of the fleet has a way of its own to the store. Not where servers announce each other.
    pub(crate) ways: bool,
    /// Whether slots can move from master to master.
    pub(crate) moves: bool,
}

impl Shape {
    /// One server.
    pub(crate) const SINGLE: Self = Self {
        shards: 1,
        nodes: 1,
        ways: true,
        moves: false,
    };

    /// Whether another node takes the place of one that is away for long.
    fn fails_over(self) -> bool {
        self.nodes > self.shards
    }
}

/// One thing that breaks and is mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// `kill -9`, and a start when it is over.
    Killed(usize),
    /// SIGSTOP.
    Frozen(usize),
    /// The way between a replica and the store swallows everything.
    CutOff(usize),
    /// Each byte between a replica and the store comes later.
    Slow(usize),
    /// A node of the store is frozen: by its role when that begins, masters first.
    StoreFrozen(usize),
    /// A node of the store is killed, and started when it is over.
    StoreKilled(usize),
    /// Slots in use move from one master of the store to another.
    SlotsMove(usize, usize),
    /// The provider misbehaves.
    Provider(Misbehaviour),
}

/// How the provider misbehaves when a token is refreshed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Misbehaviour {
    /// Answers late, within the patience of a refresh.
    Slow(Duration),
    /// Acts late, within that patience.
    Sluggish(Duration),
    /// Acts and answers after everyone's patience has run out. The answers are lost.
    Stuck,
    /// This status.
    Status(u16),
    /// 429 with `Retry-After`.
    Limits,
    /// Cuts the connection before it acts, so many times.
    CutsBefore(usize),
    /// Acts, and cuts the connection, so many times. The answers are lost.
    CutsAfter(usize),
    /// Acts, and cuts the connection half way through the answer, so many times.
    CutsWithin(usize),
    /// Refuses connections, and lets go of those it has.
    Down,
}

/// A trouble at its time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Planned {
    pub(crate) at: Duration,
    pub(crate) lasts: Duration,
    pub(crate) trouble: Trouble,
}

/// Everything that will break, in order.
#[derive(Debug, Clone)]
pub(crate) struct Plan(pub(crate) Vec<Planned>);

/// How hard the times are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hardship {
    /// Short troubles, none of which outlasts a lease: fits into `make test`.
    Short,
    /// Everything.
    Full,
}

impl Plan {
    /// Troubles of replicas, of the store and of the provider run beside each other, each kind one after the other.
    pub(crate) fn draw(seed: u64, length: Duration, shape: Shape, hardship: Hardship) -> Self {
        let mut all = Vec::new();
        let mut track = |purpose: &str, pause: (usize, usize), draw: Draw| {
            let mut dice = Dice::new(seed, purpose);
            let mut at = dice.time(300, 300 + pause.1);
            while at < length {
                let (trouble, lasts) = draw(&mut dice, shape, hardship);
                let lasts = lasts.min(length.saturating_sub(at));
                all.push(Planned { at, lasts, trouble });
                at += lasts + dice.time(pause.0, pause.1);
            }
        };
        // What was broken must be whole before it is broken again, and servers take their time with that.
        let (short, full) = if shape.fails_over() {
            ((500, 1000), (2000, 8000))
        } else {
            ((2500, 4000), (4000, 20_000))
        };
        match hardship {
            Hardship::Short => {
                track("replicas", (300, 2000), of_a_replica);
                track("store", short, of_the_store);
                track("provider", (300, 1500), of_the_provider);
            }
            Hardship::Full => {
                track("replicas", (1000, 6000), of_a_replica);
                track("other replicas", (5000, 20_000), of_a_replica);
                track("store", full, of_the_store);
                track("provider", (500, 5000), of_the_provider);
            }
        }
        all.sort_by_key(|planned| planned.at);
        Self(all)
    }
}

type Draw = fn(&mut Dice, Shape, Hardship) -> (Trouble, Duration);

/// Shorter than what is left of any lease, or longer than a whole one: in between, luck decides what is lost.
fn against_the_lease(dice: &mut Dice, hardship: Hardship) -> Duration {
    if hardship == Hardship::Full && dice.percent(25) {
        dice.time(12_000, 15_000)
    } else {
        dice.time(100, 3500)
    }
}

/// Shorter than anybody takes to notice, or long enough for another to take the place: in a Cluster and behind sentinels a
/// second of silence and an election.
fn against_the_election(dice: &mut Dice, hardship: Hardship) -> Duration {
    match dice.below(10) {
        0..=2 => dice.time(100, 900),
        3..=7 => dice.time(2500, 5000),
        _ if hardship == Hardship::Full => dice.time(10_000, 15_000),
        _ => dice.time(1000, 2500),
    }
}

fn of_a_replica(dice: &mut Dice, shape: Shape, hardship: Hardship) -> (Trouble, Duration) {
    let replica = dice.below(REPLICAS);
    match dice.below(10) {
        7..=8 if shape.ways => (Trouble::CutOff(replica), against_the_lease(dice, hardship)),
        9 if shape.ways => (Trouble::Slow(replica), dice.time(1000, 3000)),
        0..=3 | 9 => (Trouble::Killed(replica), dice.time(0, 3000)),
        _ => (Trouble::Frozen(replica), against_the_lease(dice, hardship)),
    }
}

fn of_the_store(dice: &mut Dice, shape: Shape, hardship: Hardship) -> (Trouble, Duration) {
    if shape.moves && dice.percent(30) {
        let from = dice.below(shape.shards);
        let to = (from + 1 + dice.below(shape.shards - 1)) % shape.shards;
        return (Trouble::SlotsMove(from, to), dice.time(500, 4000));
    }
    // A replica of the store is missed less.
    let node = if shape.fails_over() && dice.percent(20) {
        shape.shards + dice.below(shape.nodes - shape.shards)
    } else {
        dice.below(shape.shards)
    };
    let trouble = if dice.percent(50) {
        Trouble::StoreFrozen(node)
    } else {
        Trouble::StoreKilled(node)
    };
    let lasts = if shape.fails_over() {
        against_the_election(dice, hardship)
    } else {
        against_the_lease(dice, hardship)
    };
    (trouble, lasts)
}

fn of_the_provider(dice: &mut Dice, _: Shape, hardship: Hardship) -> (Trouble, Duration) {
    let misbehaviour = match dice.below(14) {
        0..=2 => Misbehaviour::Slow(dice.time(100, 3500)),
        3..=4 => Misbehaviour::Sluggish(dice.time(100, 3500)),
        5 if hardship == Hardship::Full => Misbehaviour::Stuck,
        5..=7 => Misbehaviour::Status(dice.pick(&[500, 502, 503, 504])),
        8 => Misbehaviour::Limits,
        9 => Misbehaviour::CutsBefore(1 + dice.below(5)),
        10 => Misbehaviour::CutsAfter(1 + dice.below(2)),
        11 => Misbehaviour::CutsWithin(1),
        _ => Misbehaviour::Down,
    };
    let lasts = match (misbehaviour, hardship) {
        (Misbehaviour::Stuck, _) | (_, Hardship::Short) => dice.time(200, 1500),
        (_, Hardship::Full) => dice.time(200, 6000),
    };
    (Trouble::Provider(misbehaviour), lasts)
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Planned { at, lasts, trouble } in &self.0 {
            let (at, lasts) = (at.as_secs_f64(), lasts.as_secs_f64());
            writeln!(f, "  {at:8.3} s for {lasts:6.3} s  {trouble:?}")?;
        }
        Ok(())
    }
}

#[test]
fn the_seed_alone_decides_what_breaks() {
    let replicated = Shape {
        shards: 3,
        nodes: 6,
        ways: false,
        moves: true,
    };
    for (shape, own) in [
        (Shape::SINGLE, ["CutOff", "Slow(0)"]),
        (replicated, ["SlotsMove", "StoreFrozen(4)"]),
    ] {
        let draw = |seed| {
            let length = Duration::from_mins(30);
            Plan::draw(seed, length, shape, Hardship::Full).to_string()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        let everywhere = ["Killed", "Frozen", "StoreKilled(0)", "Stuck", "Down"];
        for trouble in everywhere.into_iter().chain(own) {
            assert!(draw(7).contains(trouble), "{trouble}");
        }
    }
    let cut_off = Plan::draw(7, Duration::from_mins(30), replicated, Hardship::Full);
    assert!(!cut_off.to_string().contains("CutOff"));
}
