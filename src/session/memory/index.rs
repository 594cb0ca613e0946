//! Finds sessions in memory by what the provider calls them, and remembers its logout tokens.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use parking_lot::Mutex;
use quick_cache::sync::Cache;

use super::super::index::IndexKey;
use super::super::{RecordKey, Session};
use crate::clock::Timestamp;

/// Which sessions belong to a user, or to a session at the provider.
#[derive(Debug, Default)]
pub(super) struct Index(Mutex<Sets>);

#[derive(Debug, Default)]
struct Sets {
    sets: HashMap<IndexKey, HashSet<RecordKey>>,
    members: usize,
}

/// What the provider's logout tokens said of late; bounded and expiring.
#[derive(Debug)]
pub(in crate::session) struct Told {
    /// Ended there: a login that is under way here comes too late. Until when it is remembered, and when we were told.
    over: Cache<IndexKey, (Timestamp, Timestamp)>,
    /// Logout tokens seen, until when.
    used: Cache<IndexKey, Timestamp>,
}

impl Index {
    /// Adds a session. Members whose sessions are gone are swept out when there are more members than `limit`.
    pub(super) fn add(
        &self,
        key: RecordKey,
        session: &Session,
        limit: usize,
        lives: impl Fn(&RecordKey) -> bool,
    ) {
        let mut sets = self.0.lock();
        for index in IndexKey::of_session(session) {
            if sets.sets.entry(index).or_default().insert(key) {
                sets.members += 1;
            }
        }
        if sets.members > limit {
            // The new one is not in the store yet.
            sets.retain(|member| *member == key || lives(member));
        }
    }

    /// Takes out a session that is gone; the others stay reachable (SESS-09).
    pub(super) fn remove(&self, key: RecordKey, session: &Session) {
        let mut sets = self.0.lock();
        for index in IndexKey::of_session(session) {
            let Some(members) = sets.sets.get_mut(&index) else {
                continue;
            };
            let (gone, empty) = (members.remove(&key), members.is_empty());
            sets.members -= usize::from(gone);
            if empty {
                sets.sets.remove(&index);
            }
        }
    }

    /// Sweeps out members whose sessions are gone.
    pub(super) fn sweep(&self, lives: impl Fn(&RecordKey) -> bool) {
        self.0.lock().retain(lives);
    }

    /// The members of a set; some may be gone.
    pub(super) fn members(&self, index: &IndexKey) -> Vec<RecordKey> {
        let sets = self.0.lock();
        let members = sets.sets.get(index).into_iter().flatten();
        members.copied().collect()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().members
    }
}

impl Sets {
    fn retain(&mut self, lives: impl Fn(&RecordKey) -> bool) {
        self.sets.retain(|_, members| {
            members.retain(&lives);
            !members.is_empty()
        });
        self.members = self.sets.values().map(HashSet::len).sum();
    }
}

impl Default for Told {
    fn default() -> Self {
        Self {
            over: Cache::new(REMEMBERED),
            used: Cache::new(REMEMBERED),
        }
    }
}

impl Told {
    pub(in crate::session) fn forbid(&self, note: IndexKey, until: Timestamp, told_at: Timestamp) {
        self.over.insert(note, (until, told_at));
    }

    /// When we were told that it was ended at the provider, if it was of late.
    pub(in crate::session) fn over(&self, note: &IndexKey, now: Timestamp) -> Option<Timestamp> {
        let (until, told_at) = self.over.get(note)?;
        (now < until).then_some(told_at)
    }

    pub(in crate::session) fn used(&self, token: &IndexKey, now: Timestamp) -> bool {
        self.used.get(token).is_some_and(|until| now < until)
    }

    /// Whether it is used for the first time.
    pub(in crate::session) fn use_up(
        &self,
        token: IndexKey,
        now: Timestamp,
        keep: Duration,
    ) -> bool {
        let first = !self.used(&token, now);
        if first {
            self.used.insert(token, now.plus(keep));
        }
        first
    }
}

/// Each one was signed by a provider, within the last minutes.
const REMEMBERED: usize = 10_000;
