//! Runs a master with two replicas behind three sentinels, set up as docs/redis.md advises.

use std::ops::RangeInclusive;

use daypass_testbed::redis::sentinel::Watched;
use daypass_testbed::redis::{Options, Redis};
use serde_json::Value;

use super::replicated::Servers;
use crate::plan::Shape;

/// Servers that keep what they acknowledge, and take no writes without a replica: a master that was frozen while its
/// sentinels put another in its place would take them for seconds, for nobody tells it sooner.
pub(crate) fn start() -> Watched {
    let arguments = [
        "--min-replicas-to-write",
        "1",
        "--min-replicas-max-lag",
        "10",
    ];
    Watched::with(
        2,
        Options {
            persistent: true,
            arguments: arguments.map(ToOwned::to_owned).to_vec(),
            ..Options::default()
        },
    )
}

impl Servers for Watched {
    const SHAPE: Shape = Shape {
        shards: 1,
        nodes: 3,
        ways: false,
        moves: false,
    };

    fn shards(&self) -> Vec<usize> {
        vec![0; self.count()]
    }

    fn homes(&self) -> Vec<RangeInclusive<u16>> {
        vec![0..=u16::MAX]
    }

    fn key(&self, _: usize) -> String {
        "chaos:look".to_owned()
    }

    fn configuration(&self) -> Value {
        self.store()
    }

    fn is_whole(&self) -> bool {
        Self::is_whole(self)
    }

    fn node(&mut self, index: usize) -> &mut Redis {
        self.server_mut(index)
    }
}
