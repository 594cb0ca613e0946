//! Decides from the provider's journal and the ledger which losses had to be, and which presentations were one too many.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use daypass_testbed::provider::{Presentation, Verdict};

use crate::ledger::{Ledger, a_while_before, before};
use crate::plan::Trouble;
use crate::world::PATIENCE;

/// Within this after an answer it is stored, if nothing is in the way.
const TO_STORE: Duration = Duration::from_millis(1500);
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
    /// The replica was frozen, or could not reach the store, for longer than its lease was good for.
    OutOfReach,
}

/// What befell a presentation, if it could not end well.
pub(crate) fn fate(shown: &Presentation, ledger: &Ledger) -> Option<Fate> {
    let now = Instant::now();
    if shown.cut && shown.verdict != Some(Verdict::Unprocessed) {
        return Some(Fate::AnswerCut);
    }
    let ended = shown.ended.unwrap_or(now);
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
    // Storing goes on for as long as the store is out of reach.
    let mut settled = ended + TO_STORE;
    let mut parted: Option<Instant> = None;
    loop {
        let mut later = settled;
        for happened in ledger.during(shown.arrived, settled) {
            if happened.trouble.parts(shown.sender) {
                later = later.max(happened.until.unwrap_or(now) + TO_STORE);
                parted = Some(parted.map_or(happened.from, |since| since.min(happened.from)));
            }
        }
        if later == settled {
            break;
        }
        settled = later;
    }
    let from = before(shown.arrived, Duration::from_millis(100));
    let killed = ledger
        .during(from, settled)
        .any(|happened| happened.trouble == Trouble::Killed(shown.sender) && happened.from >= from);
    if killed {
        return Some(Fate::Killed);
    }
    parted
        .filter(|since| settled.duration_since(*since) > RISKY + TO_STORE)
        .map(|_| Fate::OutOfReach)
}

/// `[1]` Nobody shows a refresh token again, unless what became of it the time before could not be known.
pub(crate) fn presentations(journal: &[Presentation], ledger: &mut Ledger) {
    let mut tokens: BTreeMap<u64, Vec<&Presentation>> = BTreeMap::new();
    for shown in journal {
        tokens.entry(shown.token).or_default().push(shown);
    }
    let mut wrong = Vec::new();
    let mut inherent = 0;
    for shown in tokens.values() {
        for pair in shown.windows(2) {
            let (first, again) = (pair[0], pair[1]);
            let over = first.ended.is_some_and(|at| at <= again.arrived);
            let harmless = first.verdict == Some(Verdict::Unprocessed) && over;
            if harmless {
                continue;
            }
            if fate(first, ledger).is_some() {
                inherent += 1;
                continue;
            }
            let clock = |at: Instant| ledger.clock(at);
            wrong.push(format!(
                "{}: shown by replica {} at {}, {:?} at {}, answered at {}; shown again by replica {} at {}, {:?}\n    \
                 then: {}",
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
            ));
        }
    }
    ledger
        .counts
        .insert("tokens shown again, inherently".to_owned(), inherent);
    for what in wrong {
        ledger.violated("1: a refresh token is presented once", &what);
    }
}

/// `[2]` Nobody loses a session but to what must lose it.
pub(crate) fn losses(journal: &[Presentation], ledger: &mut Ledger) {
    let mut by_visit: HashMap<&str, Vec<&Presentation>> = HashMap::new();
    for shown in journal {
        by_visit.entry(shown.user.as_str()).or_default().push(shown);
    }
    for lost in std::mem::take(&mut ledger.lost) {
        let shown = by_visit.get(lost.visit.as_str());
        let shown = shown.map(Vec::as_slice).unwrap_or_default();
        let acted = |shown: &&&Presentation| shown.verdict != Some(Verdict::Unprocessed);
        let why = shown
            .iter()
            .filter(acted)
            .find_map(|shown| fate(shown, ledger));
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
            "{} at {} on replica {}: {}\n    presentations, latest first: {}",
            lost.visit,
            ledger.clock(lost.at),
            lost.replica,
            lost.reason,
            last.join("; ")
        );
        ledger.violated("2: no session is lost", &what);
    }
}
