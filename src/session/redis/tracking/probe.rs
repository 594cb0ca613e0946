//! Makes up a key that one server of a Cluster holds.

use super::super::command::{SLOTS, slot};

/// A key in one of the slots, or in any where there are none. A few tries do for a master with its share of them. One that
/// holds a single slot takes some ten thousand: whoever else is on this thread has their turn in between.
pub(super) async fn find(held: &[u16], prefix: &str, mut id: u64) -> String {
    for n in 0..16 * u32::from(SLOTS) {
        let key = format!("{prefix}{{{id:016x}}}");
        if held.is_empty() || held.binary_search(&slot(key.as_bytes())).is_ok() {
            return key;
        }
        // Changes every digit: with the last ones alone, some slots are never met.
        id = id.wrapping_add(0x9E37_79B9_7F4A_7C15);
        if n % TRIES_AT_ONCE == TRIES_AT_ONCE - 1 {
            tokio::task::yield_now().await;
        }
    }
    // Not in practice, and it does no harm: the server says that it is another's, and we come again.
    format!("{prefix}{{{id:016x}}}")
}

/// Keys that are tried without a pause.
const TRIES_AT_ONCE: u32 = 64;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_share_of_the_slots_is_met_at_once_and_a_single_one_keeps_nobody_waiting() {
        for id in 0..100 {
            for (name, held) in [
                ("no Cluster", Vec::new()),
                ("all slots", (0..SLOTS).collect()),
                ("a third of them", (5461..10_922).collect()),
            ] {
                let found = find(&held, "p:", id).now_or_never();
                let found = found.unwrap_or_else(|| panic!("{name}: not at once"));
                let fits = held.is_empty() || held.contains(&slot(found.as_bytes()));
                assert!(fits, "{name}: {found}");
            }
        }

        let turns = AtomicU32::new(0);
        let others = async {
            loop {
                turns.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        };
        let found = tokio::select! {
            found = find(&[7], "p:", 1) => found,
            () = others => unreachable!("that has no end"),
        };
        assert_eq!(slot(found.as_bytes()), 7);
        assert!(turns.into_inner() > 10, "others have their turn");
    }
}
