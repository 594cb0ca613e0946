//! Shows when nobody took writes and what may be lost, by what each node was seen to do.

use super::*;

/// What the nodes of one shard did, by milliseconds; each was looked at ten milliseconds before it changed.
struct Story(Instant, Watch);

impl Story {
    fn new() -> Self {
        let began = Instant::now();
        Self(
            began,
            Watch::new(&[0, 0, 0, 1], vec![0..=9, 10..=19], Duration::ZERO, began),
        )
    }

    fn at(&self, millis: u64) -> Instant {
        self.0 + Duration::from_millis(millis)
    }

    fn held(mut self, node: usize, at: u64) -> Self {
        self.1.hold(node, self.0 + Duration::from_millis(at));
        self
    }

    fn released(mut self, node: usize, frozen: bool, at: u64) -> Self {
        let at = self.at(at);
        self.1.release(node, frozen, at);
        self
    }

    fn takes(mut self, node: usize, takes: bool, at: u64) -> Self {
        let (before, at) = (self.at(at - 10), self.at(at));
        let epoch = self.1.asking(node).expect("not held");
        let sight = |takes| if takes { Sight::Takes } else { Sight::Neither };
        let was = self.1.open(node).is_some();
        self.1.answered(node, epoch, (before, before), sight(was));
        self.1.answered(node, epoch, (at, at), sight(takes));
        self
    }

    fn follows(mut self, node: usize, master: usize, at: u64) -> Self {
        let at = self.at(at);
        let epoch = self.1.asking(node).expect("not held");
        self.1
            .answered(node, epoch, (at, at), Sight::Follows(master));
        self
    }

    fn span(&self, from: Instant, until: Option<Instant>) -> (u128, Option<u128>) {
        let since = |at: Instant| (at - self.0).as_millis();
        (since(from), until.map(since))
    }
}

type Spans = Vec<(u128, Option<u128>)>;
type Perils = Vec<(u128, Option<u128>, Peril)>;

#[track_caller]
fn told(cases: Vec<(&str, Story, Spans, Perils)>) {
    for (name, story, outages, perils) in cases {
        let told = story.1.gaps(0).into_iter();
        let told: Spans = told.map(|(from, until)| story.span(from, until)).collect();
        assert_eq!(told, outages, "{name}");
        let told = story.1.perils(0).into_iter().map(|(from, until, peril)| {
            let (from, until) = story.span(from, until);
            (from, until, peril)
        });
        assert_eq!(told.collect::<Perils>(), perils, "{name}");
        assert!(
            story.1.gaps(1).is_empty() && story.1.perils(1).is_empty(),
            "{name}"
        );
    }
}

#[test]
fn nobody_is_there_while_a_master_is_away_and_nothing_is_lost_when_it_comes_back() {
    told(vec![
        ("nothing happens", Story::new(), vec![], vec![]),
        (
            "killed, and nobody is there yet",
            Story::new().held(0, 1000),
            vec![(1000, None)],
            vec![],
        ),
        (
            "killed and started again in time: it has all that it acknowledged",
            Story::new()
                .held(0, 1000)
                .released(0, false, 1200)
                .takes(0, true, 1300),
            vec![(1000, Some(1300))],
            vec![],
        ),
        (
            "frozen for a moment",
            Story::new()
                .held(0, 1000)
                .released(0, true, 1200)
                .takes(0, true, 1220),
            vec![(1000, Some(1200))],
            vec![],
        ),
        (
            "a replica is killed",
            Story::new()
                .held(2, 1000)
                .released(2, false, 2000)
                .takes(2, false, 2100),
            vec![],
            vec![],
        ),
        (
            "a master refuses writes for a while, and has no rival",
            Story::new().takes(0, false, 1000).takes(0, true, 1500),
            vec![(1000, Some(1500))],
            vec![],
        ),
    ]);
}

#[test]
fn what_was_acknowledged_last_may_be_lost_when_another_takes_the_place() {
    use Peril::{MasterEnded, TwoMasters};
    told(vec![
        (
            "killed, and another takes its place",
            Story::new()
                .follows(1, 0, 990)
                .held(0, 1000)
                .takes(1, true, 3000),
            vec![(1000, Some(3000))],
            vec![(940, Some(1000), MasterEnded)],
        ),
        (
            "and it comes back as a replica",
            Story::new()
                .follows(1, 0, 990)
                .held(0, 1000)
                .takes(1, true, 3000)
                .released(0, false, 4000)
                .takes(0, false, 4100),
            vec![(1000, Some(3000))],
            vec![(940, Some(1000), MasterEnded)],
        ),
        (
            "frozen, replaced, and for a moment it does not know",
            Story::new()
                .follows(1, 0, 990)
                .held(0, 1000)
                .takes(1, true, 3000)
                .released(0, true, 4000)
                .takes(0, false, 4100),
            vec![(1000, Some(3000))],
            vec![
                (940, Some(1000), MasterEnded),
                (3950, Some(4100), TwoMasters),
            ],
        ),
        (
            "it wakes while it is replaced",
            Story::new()
                .follows(1, 0, 990)
                .held(0, 1000)
                .released(0, true, 2000)
                .follows(1, 0, 2480)
                .takes(1, true, 2500)
                .takes(0, false, 2700),
            vec![(1000, Some(2000))],
            vec![(2430, Some(2700), TwoMasters)],
        ),
        (
            "it wakes, and hands over before anyone takes",
            Story::new()
                .follows(1, 0, 990)
                .held(0, 1000)
                .released(0, true, 2000)
                .follows(1, 0, 2680)
                .takes(0, false, 2700)
                .takes(1, true, 2900),
            vec![(1000, Some(2000)), (2700, Some(2900))],
            vec![(2630, Some(2700), MasterEnded)],
        ),
    ]);
}

#[test]
fn all_is_lost_since_the_heir_last_followed() {
    use Peril::{MasterEnded, StaleHeir, TwoMasters};
    told(vec![
        (
            "killed and started again, and replaced by one that has not followed it since",
            Story::new()
                .follows(1, 0, 990)
                .held(0, 1000)
                .released(0, false, 1500)
                .takes(0, true, 1600)
                .takes(1, true, 2500)
                .takes(0, false, 2700),
            vec![(1000, Some(1600))],
            vec![(940, Some(2700), StaleHeir)],
        ),
        (
            "and by one that has",
            Story::new()
                .follows(1, 0, 990)
                .held(0, 1000)
                .released(0, false, 1500)
                .takes(0, true, 1600)
                .follows(1, 0, 2480)
                .takes(1, true, 2500)
                .takes(0, false, 2700),
            vec![(1000, Some(1600))],
            vec![(2430, Some(2700), TwoMasters)],
        ),
        (
            "two in a row",
            Story::new()
                .follows(1, 0, 990)
                .follows(2, 0, 990)
                .held(0, 1000)
                .takes(1, true, 3000)
                .follows(2, 1, 4990)
                .held(1, 5000)
                .takes(2, true, 7000),
            vec![(1000, Some(3000)), (5000, Some(7000))],
            vec![
                (940, Some(1000), MasterEnded),
                (4940, Some(5000), MasterEnded),
            ],
        ),
    ]);
}

#[test]
fn an_answer_from_before_a_kill_tells_nothing() {
    let mut story = Story::new();
    let epoch = story.1.asking(0).expect("not held");
    story = story.held(0, 1000);
    assert_eq!(story.1.asking(0), None);
    let at = story.at(1001);
    story.1.answered(0, epoch, (at, at), Sight::Takes);
    assert!(story.1.open(0).is_none());
}

#[test]
fn a_slot_is_where_it_was_at_the_time() {
    let mut story = Story::new();
    let (away, there) = (story.at(1000), story.at(1200));
    story.1.moving(5, 1, away);
    story.1.moved(5, there);
    for (name, slot, from, until, want) in [
        ("before", 5, 0, 900, vec![0]),
        ("on its way", 5, 900, 1100, vec![0, 1]),
        ("just arrived", 5, 1150, 1300, vec![0, 1]),
        ("after", 5, 1300, 1400, vec![1]),
        ("another", 6, 0, 1400, vec![0]),
    ] {
        let (from, until) = (story.at(from), story.at(until));
        assert_eq!(story.1.shards(slot, from, until), want, "{name}");
    }
}

#[test]
fn a_name_means_the_master_of_the_moment() {
    let watch = |story: Story| [0, 1, 2, 3].map(|name| story.1.named(name));
    assert_eq!(watch(Story::new()), [0, 3, 1, 2]);
    assert_eq!(watch(Story::new().held(0, 1000)), [0, 3, 1, 2]);
    let replaced = Story::new().held(0, 1000).takes(1, true, 3000);
    assert_eq!(replaced.1.failovers(), 1);
    assert_eq!(watch(replaced), [1, 3, 0, 2]);
}
