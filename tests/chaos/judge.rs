//! Decides from the provider's journal and the ledger which losses had to be, and which presentations were one too many.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use daypass_testbed::provider::{Presentation, Verdict};

use crate::browser::{EFFECTIVE, Over, STALENESS};
use crate::ledger::{Ledger, Lost, a_while_before, before};
use crate::plan::Trouble;
use crate::watch::Peril;
use crate::world::PATIENCE;

// Each of these is longer by as much as the machine stood still meanwhile.

/// Within this after an answer it is stored, if nothing is in the way.
const TO_STORE: Duration = Duration::from_millis(1500);
/// Within this, mostly: for what must not excuse more than it has to.
const SOON: Duration = Duration::from_millis(100);
/// A provider on a busy machine hears what was said to it within this.
const ON_THE_WIRE: Duration = Duration::from_millis(500);
/// Who cannot reach the store for so long may have lost the lease: it lives for ten seconds, renewed every third of that.
const RISKY: Duration = Duration::from_secs(6);

/// Why nobody could have saved what a presentation brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    /// The provider cut the connection on its answer.
    AnswerCut,
    /// The provider went away with its answer.
    ProviderGone,
    /// The answer came after the patience of a refresh.
    TooLate,
    /// The replica was killed between sending and storing.
    Killed,
    /// The replica was frozen, or cut off from the store, for longer than its lease was good for: its siblings were not.
    OutOfReach,
    /// A master of the store acknowledged it, and ended before a replica had it.
    MasterLost,
    /// A master of the store acknowledged it that had been replaced, or was a moment later.
    TwoMasters,
    /// A master of the store acknowledged it, and was replaced by a replica that did not follow it any more.
    StaleHeir,
}

impl From<Peril> for Fate {
    fn from(peril: Peril) -> Self {
        match peril {
            Peril::MasterEnded => Self::MasterLost,
            Peril::TwoMasters => Self::TwoMasters,
            Peril::StaleHeir => Self::StaleHeir,
        }
    }
}

/// What befell a presentation, if it could not end well, so that the token was shown again at a moment.
pub(crate) fn fate(shown: &Presentation, again: Instant, ledger: &Ledger) -> Option<Fate> {
    let now = Instant::now();
    let ended = shown.ended.unwrap_or(now);
    let late = ledger.stood_still(before(shown.arrived, ON_THE_WIRE), ended + TO_STORE);
    let (soon, to_store, on_the_wire) = (SOON + late, TO_STORE + late, ON_THE_WIRE + late);
    // Nobody is served from what is not stored: it had come, and only the store can have lost it.
    let served = shown.issued.as_ref().and_then(|jti| ledger.served.get(jti));
    if let Some(served) = served.filter(|at| **at <= again) {
        let ended = shown.ended.unwrap_or(shown.arrived);
        let stored = settled(shown, ended, soon, ledger).at.min(*served);
        return ledger.peril(&shown.user, ended, stored).map(Fate::from);
    }
    if shown.cut && shown.verdict != Some(Verdict::Unprocessed) {
        return Some(Fate::AnswerCut);
    }
    let left = ended + Duration::from_millis(500);
    if ledger
        .during(shown.arrived, left)
        .any(|happened| happened.trouble.drops_answers())
    {
        return Some(Fate::ProviderGone);
    }
    if ended.duration_since(shown.arrived) + Duration::from_millis(500) > PATIENCE {
        return Some(Fate::TooLate);
    }
    let settled = settled(shown, ended, to_store, ledger);
    let from = before(shown.arrived, soon);
    // What its sender said before it was killed may be heard when it is gone.
    let said = before(shown.arrived, on_the_wire);
    let killed = ledger
        .during(said, settled.at)
        .any(|happened| happened.trouble == Trouble::Killed(shown.sender) && happened.from >= said);
    if killed {
        return Some(Fate::Killed);
    }
    // The lease it was shown under, or what it brought.
    let stored = self::settled(shown, ended, soon, ledger).at;
    let lease = ledger.peril(&shown.user, from, shown.arrived);
    let lost = lease.or_else(|| ledger.peril(&shown.user, ended, stored));
    if let Some(peril) = lost {
        return Some(peril.into());
    }
    settled
        .parted
        .filter(|_| settled.alone)
        .filter(|since| settled.at.duration_since(*since) > RISKY + TO_STORE)
        .map(|_| Fate::OutOfReach)
}

/// When an answer was stored at the latest.
struct Settled {
    at: Instant,
    /// Since when the store could not be reached.
    parted: Option<Instant>,
    /// Everybody is kept from a store that is away, and whoever had a lease goes first when it is back: not so when siblings
    /// could reach it.
    alone: bool,
}

/// Storing takes so long, and goes on for as long as the store is out of reach.
fn settled(shown: &Presentation, ended: Instant, takes: Duration, ledger: &Ledger) -> Settled {
    let mut settled = Settled {
        at: ended + takes,
        parted: None,
        alone: false,
    };
    loop {
        let mut later = settled.at;
        for parted in ledger.partings(shown.sender, &shown.user, shown.arrived, settled.at) {
            settled.alone |= parted.alone;
            let over = parted.until.unwrap_or_else(Instant::now);
            // It has to be found again.
            later = later.max(over + TO_STORE);
            let since = settled
                .parted
                .map_or(parted.from, |since| since.min(parted.from));
            settled.parted = Some(since);
        }
        if later == settled.at {
            return settled;
        }
        settled.at = later;
    }
}

/// `[1]` Nobody shows a refresh token again, unless what became of it the time before could not be known. Looks at what
/// was shown from one moment to another.
pub(crate) fn presentations(
    journal: &[Presentation],
    ledger: &mut Ledger,
    from: Instant,
    until: Instant,
) {
    let mut tokens: BTreeMap<u64, Vec<&Presentation>> = BTreeMap::new();
    for shown in journal {
        tokens.entry(shown.token).or_default().push(shown);
    }
    let mut wrong = Vec::new();
    let mut inherent = 0;
    for shown in tokens.values() {
        for pair in shown.windows(2) {
            let (first, again) = (pair[0], pair[1]);
            if again.arrived < from || again.arrived >= until {
                continue;
            }
            let over = first.ended.is_some_and(|at| at <= again.arrived);
            let harmless = first.verdict == Some(Verdict::Unprocessed) && over;
            if harmless {
                continue;
            }
            if fate(first, again.arrived, ledger).is_some() {
                inherent += 1;
                continue;
            }
            let clock = |at: Instant| ledger.clock(at);
            wrong.push(format!(
                "{}: shown by replica {} at {}, {:?} at {}, answered at {}; shown again by replica {} at {}, {:?}\n    \
                 then: {}\n    {}",
                first.user,
                first.sender,
                clock(first.arrived),
                first.verdict,
                first.decided.map_or("never".to_owned(), clock),
                first.ended.map_or("never".to_owned(), clock),
                again.sender,
                clock(again.arrived),
                again.verdict,
                ledger.around(a_while_before(first.arrived), again.arrived),
                ledger.stored(&first.user, a_while_before(first.arrived), again.arrived),
            ));
        }
    }
    let counted = ledger
        .counts
        .entry("tokens shown again, inherently".to_owned());
    *counted.or_default() += inherent;
    for what in wrong {
        ledger.violated("1: a refresh token is presented once", &what);
    }
}

/// `[2]` Nobody loses a session but to what must lose it. Looks at what was lost until then.
pub(crate) fn losses(journal: &[Presentation], ledger: &mut Ledger, until: Instant) {
    let mut by_visit: HashMap<&str, Vec<&Presentation>> = HashMap::new();
    for shown in journal {
        by_visit.entry(shown.user.as_str()).or_default().push(shown);
    }
    let (due, later) = std::mem::take(&mut ledger.lost)
        .into_iter()
        .partition(|lost| lost.at < until);
    ledger.lost = later;
    let due: Vec<Lost> = due;
    for lost in due {
        let shown = by_visit.get(lost.visit.as_str());
        let shown = shown.map(Vec::as_slice).unwrap_or_default();
        // Where an answer was lost, or what was stored of it, the token is shown again, and that ends the session.
        let acted = |shown: &Presentation| shown.verdict != Some(Verdict::Unprocessed);
        let why = shown.iter().enumerate().find_map(|(place, first)| {
            let mut later = shown[place + 1..].iter();
            let again = later.find(|again| again.token == first.token && acted(again))?;
            acted(first).then(|| fate(first, again.arrived, ledger))?
        });
        let signed_in = ledger.visits.get(&lost.visit).copied();
        let in_vain = signed_in.and_then(|at| ledger.peril(&lost.visit, at.asked, at.answered));
        let why = why.or(in_vain.map(Fate::from));
        if let Some(why) = why {
            ledger.count(&format!("sessions lost that had to be: {why:?}"));
            continue;
        }
        let last: Vec<_> = shown
            .iter()
            .rev()
            .take(4)
            .map(|shown| {
                format!(
                    "token {} by replica {} at {}: {:?}, answered {}{}",
                    shown.token,
                    shown.sender,
                    ledger.clock(shown.arrived),
                    shown.verdict,
                    shown
                        .ended
                        .map_or("never".to_owned(), |at| ledger.clock(at)),
                    if shown.cut { ", cut" } else { "" },
                )
            })
            .collect();
        let what = format!(
            "{} at {} on replica {}: {}\n    presentations, latest first: {}\n    {}",
            lost.visit,
            ledger.clock(lost.at),
            lost.replica,
            lost.reason,
            last.join("; "),
            ledger.stored(&lost.visit, a_while_before(lost.at), lost.at),
        );
        ledger.violated("2: no session is lost", &what);
    }
}

/// `[3]` Nobody is served as someone who has left. Looks at one answer of this kind.
pub(crate) fn served_after_the_end(
    ledger: &mut Ledger,
    visit: &str,
    replica: usize,
    over: Over,
    began: Instant,
) {
    let deaf = ledger.deaf(replica, over.at, began);
    let late = ledger.stood_still(over.at, began);
    let bound = EFFECTIVE + late + if deaf { STALENESS } else { Duration::ZERO };
    if began <= over.at + bound {
        return;
    }
    // The store may have forgotten the end with its master.
    if let Some(peril) = ledger.peril(visit, over.asked, over.at) {
        if ledger.back.insert(visit.to_owned()) {
            ledger.count(&format!("visits that were over and came back: {peril:?}"));
        }
        return;
    }
    let what = format!(
        "{visit} was over at {}, and replica {replica} served it at {}",
        ledger.clock(over.at),
        ledger.clock(began)
    );
    ledger.violated("3: what is over is over", &what);
}

#[cfg(test)]
mod tests;
