//! Draws what breaks when. Known before anything runs, so that a failure can show it and the seed brings it back.

use std::fmt;
use std::time::Duration;

use crate::dice::Dice;

/// Replicas of the fleet.
pub(crate) const REPLICAS: usize = 3;

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
    /// A node of the store is frozen.
    StoreFrozen(usize),
    /// A node of the store is killed, and started when it is over.
    StoreKilled(usize),
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
    pub(crate) fn draw(seed: u64, length: Duration, nodes: usize, hardship: Hardship) -> Self {
        let mut all = Vec::new();
        let mut track = |purpose: &str, pause: (usize, usize), draw: Draw| {
            let mut dice = Dice::new(seed, purpose);
            let mut at = dice.time(300, 300 + pause.1);
            while at < length {
                let (trouble, lasts) = draw(&mut dice, nodes, hardship);
                let lasts = lasts.min(length.saturating_sub(at));
                all.push(Planned { at, lasts, trouble });
                at += lasts + dice.time(pause.0, pause.1);
            }
        };
        match hardship {
            Hardship::Short => {
                track("replicas", (300, 2000), of_a_replica);
                track("store", (2500, 4000), of_the_store);
                track("provider", (300, 1500), of_the_provider);
            }
            Hardship::Full => {
                track("replicas", (1000, 6000), of_a_replica);
                track("other replicas", (5000, 20_000), of_a_replica);
                track("store", (4000, 20_000), of_the_store);
                track("provider", (500, 5000), of_the_provider);
            }
        }
        all.sort_by_key(|planned| planned.at);
        Self(all)
    }
}

type Draw = fn(&mut Dice, usize, Hardship) -> (Trouble, Duration);

/// Shorter than what is left of any lease, or longer than a whole one: in between, luck decides what is lost.
fn against_the_lease(dice: &mut Dice, hardship: Hardship) -> Duration {
    if hardship == Hardship::Full && dice.percent(25) {
        dice.time(12_000, 15_000)
    } else {
        dice.time(100, 3500)
    }
}

fn of_a_replica(dice: &mut Dice, _: usize, hardship: Hardship) -> (Trouble, Duration) {
    let replica = dice.below(REPLICAS);
    match dice.below(10) {
        0..=3 => (Trouble::Killed(replica), dice.time(0, 3000)),
        4..=6 => (Trouble::Frozen(replica), against_the_lease(dice, hardship)),
        7..=8 => (Trouble::CutOff(replica), against_the_lease(dice, hardship)),
        _ => (Trouble::Slow(replica), dice.time(1000, 3000)),
    }
}

fn of_the_store(dice: &mut Dice, nodes: usize, hardship: Hardship) -> (Trouble, Duration) {
    let node = dice.below(nodes);
    if dice.percent(50) {
        (
            Trouble::StoreFrozen(node),
            against_the_lease(dice, hardship),
        )
    } else {
        (
            Trouble::StoreKilled(node),
            against_the_lease(dice, hardship),
        )
    }
}

fn of_the_provider(dice: &mut Dice, _: usize, hardship: Hardship) -> (Trouble, Duration) {
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
    let draw = |seed| {
        let length = Duration::from_mins(10);
        Plan::draw(seed, length, 1, Hardship::Full).to_string()
    };
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
    for trouble in ["Killed", "Frozen", "CutOff", "StoreKilled", "Stuck", "Down"] {
        assert!(draw(7).contains(trouble), "{trouble}");
    }
}
