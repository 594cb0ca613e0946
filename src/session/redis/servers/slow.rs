//! Shows that a sentinel which is slow to reach is heard all the same.

use daypass_testbed::breakable::{Breakable, Mode};

use super::super::access::{Access, Doors};
use super::super::sentinel::{Sentinels, Word};
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_sentinel_that_is_slow_to_let_us_in_is_heard_from_its_second_word_on() {
    let (name, password) = user("admin");
    let watched = Watched::with(
        1,
        Options {
            user: Some((name.clone(), password.clone())),
            ..Options::default()
        },
    );
    let all = watched.sentinels();
    // Longer for letting us in and the question than the others are waited for, and shorter for the question alone.
    let slow = Breakable::start(all[0]);
    slow.set(Mode::Delay(Duration::from_millis(35)));
    let urls = [slow.address(), all[1], all[2]].map(|at| format!("redis://{at}"));
    let mode = model::RedisMode::Sentinel {
        master: MASTER.into(),
        username: Some(name),
        password: Some(StorePassword::new(password)),
    };
    let doors = Doors::open(&store(&urls, mode)).expect("a good configuration");
    let pass = doors.sentinels.expect("a pass for sentinels");
    let sentinels = Sentinels::new(MASTER.into(), doors.places, Access::new(pass));
    let address = slow.address().to_string();
    eventually("heard", async || {
        let words = sentinels.words().await;
        let mut masters = words
            .iter()
            .filter(|(_, word)| matches!(word, Word::Master(..)));
        masters
            .any(|(place, _)| place.to_string() == address)
            .then_some(())
    })
    .await;
}
