//! Reads which master holds which slots, and picks the newest of several answers.

use redis::{ParsingError, Value, from_redis_value};

use crate::session::redis::access::Place;
use crate::session::redis::command::SLOTS;

/// What a node knows of its Cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    /// Masters that hold slots, in order.
    pub(super) masters: Vec<Place>,
    /// Index into `masters` for each slot; [`NOBODY`] where there is none.
    pub(super) slots: Vec<u16>,
    /// Whether the node sees the Cluster work.
    pub(super) ok: bool,
    /// Counts failovers and moves of slots.
    pub(super) epoch: u64,
}

/// A slot without a master.
pub(super) const NOBODY: u16 = u16::MAX;
/// More masters than any Cluster is recommended to have.
const MAX_MASTERS: usize = 1000;

impl Layout {
    /// Reads the answers to `CLUSTER SLOTS` and `CLUSTER INFO` of the node at `asked`.
    pub(super) fn read(slots: Value, info: &str, asked: &Place) -> Result<Self, ParsingError> {
        let ranges: Vec<Vec<Value>> = from_redis_value(slots)?;
        let mut held = Vec::with_capacity(ranges.len());
        for range in ranges {
            let mut range = range.into_iter();
            let (Some(first), Some(last), Some(master)) =
                (range.next(), range.next(), range.next())
            else {
                continue;
            };
            let (first, last): (u16, u16) = (from_redis_value(first)?, from_redis_value(last)?);
            let mut master = from_redis_value::<Vec<Value>>(master)?.into_iter();
            let host: Option<String> = master.next().map(from_redis_value).transpose()?.flatten();
            let port: Option<u16> = master.next().map(from_redis_value).transpose()?;
            let (Some(port @ 1..), true) = (port, first <= last && last < SLOTS) else {
                continue;
            };
            held.push((place(host.as_deref(), port, asked), first, last));
        }
        let mut masters: Vec<Place> = held.iter().map(|(place, ..)| place.clone()).collect();
        masters.sort();
        masters.dedup();
        masters.truncate(MAX_MASTERS);
        let mut all = vec![NOBODY; usize::from(SLOTS)];
        for (place, first, last) in held {
            let index = masters.binary_search(&place).ok();
            let index = index.and_then(|index| u16::try_from(index).ok());
            all[usize::from(first)..=usize::from(last)].fill(index.unwrap_or(NOBODY));
        }
        let field = |name: &str| {
            info.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(str::trim)
        };
        Ok(Self {
            masters,
            slots: all,
            ok: field("cluster_state") == Some("ok"),
            epoch: field("cluster_current_epoch")
                .and_then(|epoch| epoch.parse().ok())
                .unwrap_or(0),
        })
    }

    /// Slots that nobody holds.
    pub(super) fn missing(&self) -> usize {
        self.slots.iter().filter(|slot| **slot == NOBODY).count()
    }

    /// Nothing better can be expected from another node.
    pub(super) fn is_whole(&self) -> bool {
        self.ok && self.missing() == 0
    }

    /// The answer to believe: of a node that sees the Cluster work rather than of one that is cut off from it, and the newest
    /// of those.
    pub(super) fn newest(all: impl IntoIterator<Item = Self>) -> Option<Self> {
        all.into_iter()
            .filter(|layout| !layout.masters.is_empty())
            .max_by_key(|layout| (layout.ok, layout.epoch, usize::MAX - layout.missing()))
    }
}

/// A node may not know its own host, or has been told not to tell: then it is the one that was asked.
pub(super) fn place(host: Option<&str>, port: u16, asked: &Place) -> Place {
    let host = match (host, asked) {
        (None | Some("" | "?"), Place::Tcp(host, _)) => host.clone(),
        (host, _) => host.unwrap_or_default().to_owned(),
    };
    Place::Tcp(host, port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn range(first: i64, last: i64, host: Value, port: i64) -> Value {
        let node = vec![host, Value::Int(port), bulk("id"), Value::Array(vec![])];
        let replica = vec![bulk("10.0.0.9"), Value::Int(1), bulk("id")];
        Value::Array(vec![
            Value::Int(first),
            Value::Int(last),
            Value::Array(node),
            Value::Array(replica),
        ])
    }

    #[test]
    fn slots_lead_to_masters_and_an_unnamed_host_is_the_one_asked() {
        let asked = Place::Tcp("seed".into(), 6379);
        let slots = Value::Array(vec![
            range(0, 99, bulk("10.0.0.1"), 7001),
            range(100, 199, Value::Nil, 7002),
            range(200, 200, bulk(""), 7002),
            range(300, 16_383, bulk("10.0.0.1"), 7001),
            range(5, 99_999, bulk("out of bounds"), 7003),
        ]);
        let info = "cluster_state:ok\r\ncluster_current_epoch:12\r\n";
        let layout = Layout::read(slots, info, &asked).expect("a layout");
        let first = Place::Tcp("10.0.0.1".into(), 7001);
        let second = Place::Tcp("seed".into(), 7002);
        assert_eq!(layout.masters, [first, second]);
        assert_eq!((layout.ok, layout.epoch, layout.missing()), (true, 12, 99));
        for (slot, want) in [
            (0, 0),
            (99, 0),
            (100, 1),
            (200, 1),
            (250, NOBODY),
            (16_383, 0),
        ] {
            assert_eq!(layout.slots[slot], want, "{slot}");
        }
        assert!(!layout.is_whole());
        assert!(Layout::read(Value::Int(1), info, &asked).is_err());
    }

    #[test]
    fn a_node_that_is_cut_off_is_not_believed() {
        let asked = Place::Tcp("seed".into(), 6379);
        let layout = |ok: bool, epoch: u64, last: i64| {
            let slots = Value::Array(vec![range(0, last, bulk("a"), 1)]);
            let state = if ok { "ok" } else { "fail" };
            let info = format!("cluster_state:{state}\r\ncluster_current_epoch:{epoch}\r\n");
            Layout::read(slots, &info, &asked).expect("a layout")
        };
        for (name, all, want) in [
            ("newer", vec![layout(true, 1, 9), layout(true, 2, 9)], 1),
            ("cut off", vec![layout(true, 1, 9), layout(false, 2, 9)], 0),
            (
                "more complete",
                vec![layout(true, 1, 99), layout(true, 1, 9)],
                0,
            ),
        ] {
            let want = all[want].clone();
            assert_eq!(Layout::newest(all), Some(want), "{name}");
        }
        assert_eq!(Layout::newest([]), None);
    }
}
