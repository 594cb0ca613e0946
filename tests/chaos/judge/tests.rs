//! Shows that the judge tells what had to be from what had not, and excuses nothing beside it.

use std::sync::{Arc, Mutex};

use super::*;
use crate::ledger::{Happened, SignedIn};
use crate::plan::Misbehaviour;
use crate::watch::{Sight, Watch};

/// The provider's journal and the ledger of one token, by milliseconds since the start. Its slot is in the first shard of
/// two, with nodes 0 and 2.
struct Story {
    ledger: Ledger,
    journal: Vec<Presentation>,
}

impl Story {
    fn new() -> Self {
        let began = Instant::now()
            .checked_sub(Duration::from_mins(1))
            .expect("the machine has run for a minute");
        let watch = Watch::new(&[0, 1, 0, 1], vec![0..=99, 100..=199], TO_STORE, began);
        let mut ledger = Ledger::new(Arc::new(Mutex::new(watch)));
        ledger.began = began;
        let signed_in = SignedIn {
            slot: 7,
            asked: began,
            answered: began + Duration::from_millis(100),
        };
        ledger.visits.insert("0.1".to_owned(), signed_in);
        Self {
            ledger,
            journal: Vec::new(),
        }
    }

    /// A node ends, and another takes writes from then on.
    fn node(self, ends: usize, from: u64, next: usize, until: u64) -> Self {
        let (from, until) = (self.at(from), self.at(until));
        {
            let mut watch = self.ledger.watch();
            let looked = before(from, Duration::from_millis(10));
            if ends != next {
                watch.answered(next, 0, (looked, looked), Sight::Follows(ends));
            }
            watch.hold(ends, from);
            if ends == next {
                watch.release(next, true, until);
            } else {
                let looked = before(until, Duration::from_millis(20));
                watch.answered(next, 0, (looked, looked), Sight::Neither);
                watch.answered(next, 0, (until, until), Sight::Takes);
            }
        }
        self
    }

    fn at(&self, millis: u64) -> Instant {
        self.ledger.began + Duration::from_millis(millis)
    }

    fn shown(mut self, by: usize, from: u64, until: u64, verdict: Verdict, cut: bool) -> Self {
        self.journal.push(Presentation {
            user: "0.1".to_owned(),
            token: 7,
            sender: by,
            arrived: self.at(from),
            verdict: Some(verdict),
            decided: Some(self.at(from)),
            ended: Some(self.at(until)),
            cut,
            issued: Some(format!("from {from}")),
        });
        self
    }

    /// The machine stood still.
    fn stall(mut self, from: u64, until: u64) -> Self {
        let (until, late) = (self.at(until), Duration::from_millis(until - from));
        self.ledger.stalled(until, late);
        self
    }

    /// What was answered to what was shown at one moment is shown to the upstream at another.
    fn served(mut self, shown: u64, at: u64) -> Self {
        let at = self.at(at);
        self.ledger.served.insert(format!("from {shown}"), at);
        self
    }

    fn trouble(mut self, trouble: Trouble, from: u64, until: u64) -> Self {
        let (from, until) = (self.at(from), Some(self.at(until)));
        self.ledger.happened.push(Happened {
            trouble,
            from,
            until,
        });
        self
    }

    /// How many promises were broken by what was shown, and by a loss at the end.
    fn judged(mut self) -> (usize, usize) {
        let (from, until) = (self.ledger.began, Instant::now());
        presentations(&self.journal, &mut self.ledger, from, until);
        let shown = self.ledger.violations.len();
        self.ledger.lost.push(Lost {
            visit: "0.1".to_owned(),
            at: self.at(50_000),
            replica: 0,
            reason: "revoked".to_owned(),
        });
        losses(&self.journal, &mut self.ledger, until);
        (shown, self.ledger.violations.len() - shown)
    }
}

#[test]
fn what_had_to_be_is_told_from_what_had_not() {
    use Verdict::{Accepted, Reused, Unprocessed};
    let again = |story: Story, at| story.shown(1, at, at + 100, Reused, false);
    let once = |until| Story::new().shown(0, 1000, until, Accepted, false);
    let down = Trouble::Provider(Misbehaviour::Down);
    for (name, story, want) in [
        ("nothing happened to it", again(once(1100), 9000), (1, 1)),
        ("two at once", again(once(3000), 2000), (1, 1)),
        (
            "not acted upon",
            Story::new()
                .shown(0, 1000, 1100, Unprocessed, true)
                .shown(1, 2000, 2100, Accepted, false),
            (0, 1),
        ),
        (
            "cut",
            again(Story::new().shown(0, 1000, 1100, Accepted, true), 1200),
            (0, 0),
        ),
        (
            "cut, and not shown again: that is not how it was lost",
            Story::new().shown(0, 1000, 1100, Accepted, true),
            (0, 1),
        ),
        ("too late", again(once(6500), 6200), (0, 0)),
        (
            "cut, and yet it had come",
            again(Story::new().shown(0, 1000, 1100, Accepted, true), 1200).served(1000, 1150),
            (1, 1),
        ),
        (
            "frozen for a while",
            again(once(1500), 12_000).trouble(Trouble::Frozen(0), 1200, 4500),
            (1, 1),
        ),
        (
            "frozen for longer than a lease",
            again(once(1500), 12_000).trouble(Trouble::Frozen(0), 1200, 13_500),
            (0, 0),
        ),
        (
            "the store was away for longer than a lease",
            again(once(1500), 15_000).node(0, 1200, 0, 14_500),
            (1, 1),
        ),
        (
            "and the replica for longer than the store",
            again(once(1500), 15_000).node(0, 1200, 0, 14_500).trouble(
                Trouble::CutOff(0),
                14_000,
                16_000,
            ),
            (0, 0),
        ),
        (
            "the provider went away",
            again(once(1500), 3000).trouble(down, 1300, 2500),
            (0, 0),
        ),
    ] {
        assert_eq!(story.judged(), want, "{name}");
    }
}

#[test]
fn who_is_killed_takes_along_what_was_under_way_and_nothing_else() {
    use Verdict::{Accepted, Reused};
    let again = |story: Story, at| story.shown(1, at, at + 100, Reused, false);
    let once = |until| Story::new().shown(0, 1000, until, Accepted, false);
    for (name, story, want) in [
        (
            "killed in the middle",
            again(once(1500), 12_000).trouble(Trouble::Killed(0), 1200, 5000),
            (0, 0),
        ),
        (
            "killed in the middle, but it had been stored",
            again(once(1500), 12_000)
                .served(1000, 1600)
                .trouble(Trouble::Killed(0), 1700, 5000),
            (1, 1),
        ),
        (
            "killed in the middle, and served only after it was shown again",
            again(once(1500), 12_000)
                .served(1000, 12_500)
                .trouble(Trouble::Killed(0), 1700, 5000),
            (0, 0),
        ),
        (
            "another was killed",
            again(once(1500), 12_000).trouble(Trouble::Killed(2), 1200, 5000),
            (1, 1),
        ),
        (
            "killed long after",
            again(once(1500), 12_000).trouble(Trouble::Killed(0), 8000, 9000),
            (1, 1),
        ),
        (
            "killed while it was on the wire",
            again(once(1500), 12_000).trouble(Trouble::Killed(0), 600, 5000),
            (0, 0),
        ),
        (
            "killed long before it was heard of, on a machine that stood still",
            again(once(1500), 12_000)
                .trouble(Trouble::Killed(0), 300, 5000)
                .stall(400, 700),
            (0, 0),
        ),
        (
            "killed long before it was heard of, and the machine stood still at another time",
            again(once(1500), 12_000)
                .trouble(Trouble::Killed(0), 300, 5000)
                .stall(5000, 6000),
            (1, 1),
        ),
        (
            "killed before it was sent, so by another",
            again(once(1500), 12_000).trouble(Trouble::Killed(0), 400, 5000),
            (1, 1),
        ),
        (
            "killed while the store was away",
            again(once(1500), 12_000).node(0, 1200, 0, 4500).trouble(
                Trouble::Killed(0),
                4000,
                5000,
            ),
            (0, 0),
        ),
    ] {
        assert_eq!(story.judged(), want, "{name}");
    }
}

#[test]
fn a_master_takes_with_it_what_it_acknowledged_last_and_nothing_else() {
    let again = |story: Story, at| story.shown(1, at, at + 100, Verdict::Reused, false);
    let once = |until| Story::new().shown(0, 1000, until, Verdict::Accepted, false);
    for (name, story, want) in [
        (
            "the master ended a moment after it was stored, and another took its place",
            again(once(1500), 9000).node(0, 1540, 2, 3500),
            (0, 0),
        ),
        (
            "the master ended so, and it had been served",
            again(once(1500), 9000)
                .served(1000, 1530)
                .node(0, 1540, 2, 3500),
            (0, 0),
        ),
        (
            "the master ended so, and came back itself",
            again(once(1500), 9000).node(0, 1540, 0, 3500),
            (1, 1),
        ),
        (
            "the master of another shard ended so",
            again(once(1500), 9000).node(1, 1540, 3, 3500),
            (1, 1),
        ),
        (
            "the master ended some time after it was answered, and nobody could store it sooner",
            again(once(1500), 9000)
                .node(0, 1800, 2, 4300)
                .stall(1500, 1800),
            (0, 0),
        ),
        (
            "the master ended some time after it was stored",
            again(once(1500), 9000).node(0, 2000, 2, 4500),
            (1, 1),
        ),
        (
            "the master ended while the answer was under way: it is stored with the next one",
            again(once(3000), 9000).node(0, 1500, 2, 2800),
            (1, 1),
        ),
        (
            "the master ended a moment after it gave the lease",
            again(once(4000), 3500).node(0, 1010, 2, 3000),
            (0, 0),
        ),
        (
            "the master ended with the login, long before",
            again(once(1500), 9000).node(0, 110, 2, 900),
            (1, 0),
        ),
        (
            "the master ended a moment after the login",
            Story::new().node(0, 110, 2, 3000),
            (0, 0),
        ),
        (
            "the master ended some time after the login",
            Story::new().node(0, 500, 2, 3000),
            (0, 1),
        ),
        (
            "killed while there was no master",
            again(once(1500), 12_000).node(0, 1200, 2, 4500).trouble(
                Trouble::Killed(0),
                4000,
                5000,
            ),
            (0, 0),
        ),
        (
            "killed while another shard had no master",
            again(once(1500), 12_000).node(1, 1200, 3, 4500).trouble(
                Trouble::Killed(0),
                4000,
                5000,
            ),
            (1, 1),
        ),
    ] {
        assert_eq!(story.judged(), want, "{name}");
    }
}

#[test]
fn what_is_over_may_be_served_for_so_long_and_come_back_with_an_older_copy_only() {
    for (name, story, began, want) in [
        ("at once", Story::new(), 10_100, None),
        ("too late", Story::new(), 12_200, Some(1)),
        (
            "late, on a machine that stood still",
            Story::new().stall(11_000, 11_200),
            12_200,
            None,
        ),
        (
            "late, on a machine that had stood still before",
            Story::new().stall(9000, 9900),
            12_200,
            Some(1),
        ),
        (
            "cut off from the store",
            Story::new().trouble(Trouble::CutOff(0), 9000, 15_000),
            14_900,
            None,
        ),
        (
            "cut off, and too late",
            Story::new().trouble(Trouble::CutOff(0), 9000, 15_000),
            15_200,
            Some(1),
        ),
        (
            "another was cut off",
            Story::new().trouble(Trouble::CutOff(1), 9000, 15_000),
            14_900,
            Some(1),
        ),
        (
            "the master ended a moment later, and another took its place",
            Story::new().node(0, 10_120, 2, 12_000),
            20_000,
            Some(0),
        ),
        (
            "the master ended some time later",
            Story::new().node(0, 10_400, 2, 12_000),
            20_000,
            Some(1),
        ),
        (
            "the master ended so, and came back itself",
            Story::new().node(0, 10_120, 0, 12_000),
            20_000,
            Some(1),
        ),
        (
            "the master of another shard ended so",
            Story::new().node(1, 10_120, 3, 12_000),
            20_000,
            Some(1),
        ),
    ] {
        let mut ledger = story.ledger;
        let at = |millis| ledger.began + Duration::from_millis(millis);
        let over = Over {
            asked: at(10_000),
            at: at(10_090),
        };
        let began = at(began);
        served_after_the_end(&mut ledger, "0.1", 0, over, began);
        let (broken, back) = (ledger.violations.len(), ledger.back.len());
        let told = if broken + back == 0 {
            None
        } else {
            Some(broken)
        };
        assert_eq!(told, want, "{name}");
    }
}
