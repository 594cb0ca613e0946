//! Runs the people and the troubles against each other, short in every build and long on demand.

use std::time::{Duration, Instant};

use daypass_testbed::provider::random;

use crate::people::Person;
use crate::plan::{Hardship, Plan, REPLICAS};
use crate::store::{Single, Store};
use crate::world::Stage;

/// One run.
struct Run {
    seed: u64,
    length: Duration,
    people: usize,
    hardship: Hardship,
    /// After the last trouble everybody must be served within this: a lease that nobody holds any more, and the longest
    /// pause after so many failures in a row.
    recovery: Duration,
}

impl Run {
    async fn go(&self, store: Box<dyn Store>) {
        let plan = Plan::draw(self.seed, self.length, store.nodes(), self.hardship);
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
            "seed {}, {:?} for {:?}, {} people; recovered {recovered:.1?} after the last trouble\n{}",
            self.seed,
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
                format!("make chaos SEED={} MINUTES={minutes}", self.seed)
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

#[tokio::test(flavor = "multi_thread")]
async fn a_short_stretch_of_bad_luck_breaks_no_promise() {
    let run = Run {
        seed: 20,
        length: Duration::from_secs(7),
        people: 20,
        hardship: Hardship::Short,
        recovery: Duration::from_secs(30),
    };
    run.go(Box::new(Single::start(REPLICAS))).await;
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
    say(&format!("seed {seed}"));
    let run = Run {
        seed,
        length: Duration::from_secs_f64(number("CHAOS_MINUTES").unwrap_or(5.0) * 60.0),
        people: 40,
        hardship: Hardship::Full,
        recovery: Duration::from_secs(60),
    };
    run.go(Box::new(Single::start(REPLICAS))).await;
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
