//! Keeps what happened: which trouble really began and ended when, who lost a session, what was seen that must not be.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::plan::{Misbehaviour, Trouble};
use crate::store::SharedWatch;
use crate::watch::{Peril, Watch};

/// A trouble as it happened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Happened {
    pub(crate) trouble: Trouble,
    pub(crate) from: Instant,
    /// `None` while it lasts.
    pub(crate) until: Option<Instant>,
}

/// A session that was not there when it should have been.
#[derive(Debug, Clone)]
pub(crate) struct Lost {
    pub(crate) visit: String,
    pub(crate) at: Instant,
    pub(crate) replica: usize,
    pub(crate) reason: String,
}

/// When somebody signed in, and where in the store the session is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SignedIn {
    pub(crate) slot: u16,
    pub(crate) asked: Instant,
    pub(crate) answered: Instant,
}

/// A time in which a replica could not store what belongs to one session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parted {
    pub(crate) from: Instant,
    /// `None` while it lasts.
    pub(crate) until: Option<Instant>,
    /// Whether its siblings could.
    pub(crate) alone: bool,
}

/// Everything that is known of a run.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) began: Instant,
    watch: SharedWatch,
    pub(crate) visits: HashMap<String, SignedIn>,
    /// When the upstream was first shown an access token, by its `jti`.
    pub(crate) served: HashMap<String, Instant>,
    /// Visits that were over, and came back with an older copy of the store.
    pub(crate) back: HashSet<String>,
    pub(crate) happened: Vec<Happened>,
    /// When somebody who wanted to run could not for a while, and for how long.
    stalls: Vec<(Instant, Duration)>,
    pub(crate) lost: Vec<Lost>,
    /// Broken promises, each by the name of its invariant.
    pub(crate) violations: Vec<String>,
    pub(crate) counts: BTreeMap<String, u64>,
}

impl Ledger {
    pub(crate) fn new(watch: SharedWatch) -> Self {
        Self {
            began: Instant::now(),
            watch,
            visits: HashMap::new(),
            served: HashMap::new(),
            back: HashSet::new(),
            happened: Vec::new(),
            stalls: Vec::new(),
            lost: Vec::new(),
            violations: Vec::new(),
            counts: BTreeMap::new(),
        }
    }

    /// The machine stood still for this long until now.
    pub(crate) fn stalled(&mut self, until: Instant, late: Duration) {
        self.stalls.push((until, late));
    }

    /// For how long it did between two moments, taken together: whatever had to be done then may be late by that.
    pub(crate) fn stood_still(&self, from: Instant, until: Instant) -> Duration {
        let overlaps =
            |(end, late): &&(Instant, Duration)| *end >= from && before(*end, *late) <= until;
        let stalls = self.stalls.iter().filter(overlaps);
        stalls.map(|(_, late)| *late).sum()
    }

    pub(crate) fn count(&mut self, what: &str) {
        *self.counts.entry(what.to_owned()).or_default() += 1;
    }

    /// Notes a broken promise, with the time and the troubles around it.
    pub(crate) fn violated(&mut self, invariant: &str, what: &str) {
        let now = Instant::now();
        let around = self.around(a_while_before(now), now);
        let at = self.clock(now);
        self.violations.push(format!(
            "[{invariant}] at {at}: {what}\n    around it: {around}"
        ));
    }

    /// Seconds since the start.
    pub(crate) fn clock(&self, at: Instant) -> String {
        let since = at.saturating_duration_since(self.began);
        format!("{:.3} s", since.as_secs_f64())
    }

    /// Troubles between two moments, in words.
    pub(crate) fn around(&self, from: Instant, until: Instant) -> String {
        let words: Vec<_> = self
            .during(from, until)
            .map(|happened| {
                let end = happened.until.map_or("…".to_owned(), |at| self.clock(at));
                format!("{:?} {}–{end}", happened.trouble, self.clock(happened.from))
            })
            .collect();
        words.join("; ")
    }

    /// What the store did with a visit between two moments, in words.
    pub(crate) fn stored(&self, visit: &str, from: Instant, until: Instant) -> String {
        let Some(visit) = self.visits.get(visit) else {
            return "who never signed in".to_owned();
        };
        let clock = |at| self.clock(at);
        let told = self.watch().told(visit.slot, (from, until), clock);
        let (asked, answered) = (clock(visit.asked), clock(visit.answered));
        format!("signed in {asked}–{answered}; slot {}: {told}", visit.slot)
    }

    /// Troubles that overlap with this time.
    pub(crate) fn during(&self, from: Instant, until: Instant) -> impl Iterator<Item = &Happened> {
        let open = move |happened: &&Happened| {
            happened.from <= until && happened.until.is_none_or(|end| end >= from)
        };
        self.happened.iter().filter(open)
    }

    /// Whether a request to this replica may have got no answer at all.
    pub(crate) fn silent(&self, replica: usize, from: Instant, until: Instant) -> bool {
        // A connection that was kept open may show only later that its other end is gone.
        self.during(before(from, Duration::from_secs(5)), until)
            .any(|happened| {
                matches!(happened.trouble, Trouble::Killed(r) | Trouble::Frozen(r) if r == replica)
            })
    }

    /// Whether this replica may not have heard from the store.
    pub(crate) fn deaf(&self, replica: usize, from: Instant, until: Instant) -> bool {
        self.during(from, until).any(|h| h.trouble.parts(replica))
            || self.watch().unsettled(from, until)
    }

    /// When this replica was kept from storing what belongs to a visit.
    pub(crate) fn partings(
        &self,
        replica: usize,
        visit: &str,
        from: Instant,
        until: Instant,
    ) -> Vec<Parted> {
        let parted = |happened: &&Happened| happened.trouble.parts(replica);
        let own = self
            .during(from, until)
            .filter(parted)
            .map(|happened| Parted {
                from: happened.from,
                until: happened.until,
                alone: true,
            });
        let outages = self.visits.get(visit).map(|visit| {
            let outages = self.watch().outages(visit.slot, from, until);
            outages.into_iter().map(|(from, until)| Parted {
                from,
                until,
                alone: false,
            })
        });
        own.chain(outages.into_iter().flatten()).collect()
    }

    /// Whether something that the store acknowledged about a visit between two moments may be lost.
    pub(crate) fn peril(&self, visit: &str, from: Instant, until: Instant) -> Option<Peril> {
        let visit = self.visits.get(visit)?;
        self.watch().peril(visit.slot, from, until)
    }

    pub(crate) fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// So much earlier.
pub(crate) fn before(at: Instant, time: Duration) -> Instant {
    at.checked_sub(time).unwrap_or(at)
}

/// Early enough to see what led to something.
pub(crate) fn a_while_before(at: Instant) -> Instant {
    before(at, Duration::from_secs(20))
}

impl Trouble {
    /// Whether it keeps this replica, and no other, from the store.
    pub(crate) fn parts(self, replica: usize) -> bool {
        matches!(self, Self::CutOff(r) | Self::Frozen(r) if r == replica)
    }

    /// Whether it lets go of answers of the provider that are under way.
    pub(crate) fn drops_answers(self) -> bool {
        matches!(self, Self::Provider(Misbehaviour::Down))
    }
}
