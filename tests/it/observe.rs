//! Shows what an operator sees: health, metrics, logs (PRODUCT §7, §8), and that no secret is among it.

mod bounds;
mod health;
mod hygiene;
mod logs;
mod moves;
mod overhead;
mod prometheus;

use std::time::{Duration, Instant};

use daypass_testbed::daypass::{Daypass, Setup};
use daypass_testbed::echo::Echo;
use daypass_testbed::provider::Provider;

use crate::BINARY;

const PATIENCE: Duration = Duration::from_secs(20);

/// Printed, because the bars (PRODUCT §10) are for release builds on a quiet machine; asserted far above them.
#[test]
fn a_start_is_quick_and_rest_is_small() {
    let (provider, echo) = (Provider::start(), Echo::start());
    let began = Instant::now();
    let daypass = Daypass::ready(BINARY, Setup::new(&provider, &echo.url()));
    let took = began.elapsed();
    let resident = daypass.resident_bytes();
    let mebibytes = resident >> 20;
    eprintln!("start to ready: {took:?}; resident at rest: {mebibytes} MiB");
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(resident > 0 && mebibytes <= 64, "{mebibytes} MiB");
    let told = daypass.metric("process_resident_memory_bytes", &[]);
    assert!(told > 0.0, "and it is told");
}
