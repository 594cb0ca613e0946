//! Runs the people and the troubles against each other, short in every build and long on demand.

use std::time::{Duration, Instant};

use daypass_testbed::provider::random;

use crate::dice::Dice;
use crate::people::Person;
use crate::plan::{Hardship, Plan, REPLICAS};
use crate::store::replicated::Replicated;
use crate::store::{Single, Store, cluster, sentinel};
use crate::world::Stage;

/// How the store is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Topology {
    Single,
    Sentinel,
    Cluster,
}

impl Topology {
    const ALL: [Self; 3] = [Self::Single, Self::Sentinel, Self::Cluster];

    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    fn start(self, seed: u64) -> Box<dyn Store> {
        match self {
            Self::Single => Box::new(Single::start(REPLICAS)),
            Self::Sentinel => Box::new(Replicated::new(sentinel::start(), seed)),
            Self::Cluster => {
                let full_coverage = seed.is_multiple_of(2);
                Box::new(Replicated::new(cluster::start(full_coverage), seed))
            }
        }
    }
}

/// One run.
struct Run {
    seed: u64,
    topology: Topology,
    length: Duration,
    people: usize,
    hardship: Hardship,
    /// After the last trouble everybody must be served within this: a lease that nobody holds any more, and the longest
    /// pause after so many failures in a row.
    recovery: Duration,
}

impl Run {
    async fn go(&self) {
        let store = tokio::task::block_in_place(|| self.topology.start(self.seed));
        let plan = Plan::draw(self.seed, self.length, store.shape(), self.hardship);
        let mut stage = tokio::task::block_in_place(|| Stage::new(store));
        let world = stage.world.clone();
        let people: Vec<_> = (0..self.people)
            .map(|place| Person::new(world.clone(), self.seed, place))
            .map(|person| tokio::spawn(person.live(self.recovery)))
            .collect();
        let length = self.length;
        let script = plan.clone();
        let mut stage = tokio::task::spawn_blocking(move || {
            stage.run(&script, length);
            stage
        })
        .await
        .expect("the troubles go as planned");
        let calm = Instant::now();
        for person in people {
            person.await.expect("a person comes to the end");
        }
        let recovered = calm.elapsed();
        tokio::task::block_in_place(|| stage.judge());
        let ledger = world.ledger();
        let counts = ledger.counts.iter();
        let counts: Vec<_> = counts
            .map(|(what, count)| format!("  {what}: {count}"))
            .collect();
        let report = format!(
            "seed {}, {:?}, {:?} for {:?}, {} people; recovered {recovered:.1?} after the last trouble\n{}",
            self.seed,
            self.topology,
            self.hardship,
            self.length,
            self.people,
            counts.join("\n")
        );
        say(&report);
        let violations = ledger.violations.clone();
        drop(ledger);
        let shown = violations.len().min(10);
        let replay = match self.hardship {
            Hardship::Short => "cargo nextest run --test chaos".to_owned(),
            Hardship::Full => {
                let minutes = self.length.as_secs_f64() / 60.0;
                let (seed, store) = (self.seed, self.topology.name());
                format!("make chaos SEED={seed} MINUTES={minutes} STORE={store}")
            }
        };
        assert!(
            violations.is_empty(),
            "{} broken promises:\n{}\n\n{report}\nwhat was planned:\n{plan}\nreplay: {replay} (the races between \
             people and machines are not replayed)",
            violations.len(),
            violations[..shown].join("\n"),
        );
    }
}

async fn short(topology: Topology, seed: u64, seconds: u64) {
    let run = Run {
        seed,
        topology,
        length: Duration::from_secs(seconds),
        people: 20,
        hardship: Hardship::Short,
        recovery: Duration::from_secs(30),
    };
    run.go().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_stretch_of_bad_luck_breaks_no_promise() {
    short(Topology::Single, 20, 7).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_stretch_of_bad_luck_with_sentinels_breaks_no_promise() {
    short(Topology::Sentinel, 20, 12).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_stretch_of_bad_luck_in_a_cluster_breaks_no_promise() {
    short(Topology::Cluster, 20, 12).await;
}

/// `make chaos`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes as long as it is told to: make chaos"]
async fn a_long_stretch_of_bad_luck_breaks_no_promise() {
    let number = |name: &str| {
        let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
        let value: f64 = text.parse().unwrap_or_else(|_| panic!("{name}={text}"));
        Some(value)
    };
    let seed = std::env::var("CHAOS_SEED").ok();
    let seed = seed
        .filter(|seed| !seed.is_empty())
        .map_or_else(drawn, |text| {
            text.parse().unwrap_or_else(|_| panic!("CHAOS_SEED={text}"))
        });
    let topology = match std::env::var("CHAOS_STORE").unwrap_or_default() {
        empty if empty.is_empty() => Dice::new(seed, "topology").pick(&Topology::ALL),
        name => {
            let mut all = Topology::ALL.into_iter();
            let named = all.find(|topology| topology.name() == name);
            named.unwrap_or_else(|| panic!("CHAOS_STORE={name}: single, sentinel or cluster"))
        }
    };
    say(&format!("seed {seed}, {topology:?}"));
    let run = Run {
        seed,
        topology,
        length: Duration::from_secs_f64(number("CHAOS_MINUTES").unwrap_or(5.0) * 60.0),
        people: 40,
        hardship: Hardship::Full,
        recovery: Duration::from_secs(60),
    };
    run.go().await;
}

fn drawn() -> u64 {
    let text = random(8);
    text.bytes()
        .fold(0, |seed, byte| seed % 1_000_000 * 64 + u64::from(byte % 64))
        % 1_000_000
}

/// For whoever waits for a long run.
#[expect(clippy::print_stderr, reason = "the report is what the run is for")]
fn say(text: &str) {
    eprintln!("{text}");
}
