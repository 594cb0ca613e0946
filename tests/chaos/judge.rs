//! Decides from the provider's journal and the ledger which losses had to be, and which presentations were one too many.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use daypass_testbed::provider::{Presentation, Verdict};

use crate::ledger::{Ledger, Lost, a_while_before, before};
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
    /// The replica was frozen, or cut off from the store, for longer than its lease was good for: its siblings were not.
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
    // Everybody is kept from a store that is away; whoever had a lease goes first when it is back.
    let mut alone = false;
    loop {
        let mut later = settled;
        for happened in ledger.during(shown.arrived, settled) {
            if happened.trouble.parts(shown.sender) {
                alone |= happened.trouble.replica() == Some(shown.sender);
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
        .filter(|_| alone)
        .filter(|since| settled.duration_since(*since) > RISKY + TO_STORE)
        .map(|_| Fate::OutOfReach)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Happened;
    use crate::plan::Misbehaviour;

    /// The provider's journal and the ledger of one token, by milliseconds since the start.
    struct Story {
        ledger: Ledger,
        journal: Vec<Presentation>,
    }

    impl Story {
        fn new() -> Self {
            let mut ledger = Ledger::new();
            ledger.began = Instant::now()
                .checked_sub(Duration::from_mins(1))
                .expect("the machine has run for a minute");
            Self {
                ledger,
                journal: Vec::new(),
            }
        }

        fn at(&self, millis: u64) -> Instant {
            self.ledger.began + Duration::from_millis(millis)
        }

        fn shown(mut self, by: usize, from: u64, until: u64, verdict: Verdict, cut: bool) -> Self {
            self.journal.push(Presentation {
                user: "0.1".to_owned(),
                token: 7,
                sender: by,
                arrived: self.at(from),
                verdict: Some(verdict),
                decided: Some(self.at(from)),
                ended: Some(self.at(until)),
                cut,
            });
            self
        }

        fn trouble(mut self, trouble: Trouble, from: u64, until: u64) -> Self {
            let (from, until) = (self.at(from), Some(self.at(until)));
            self.ledger.happened.push(Happened {
                trouble,
                from,
                until,
            });
            self
        }

        /// How many promises were broken by what was shown, and by a loss at the end.
        fn judged(mut self) -> (usize, usize) {
            let (from, until) = (self.ledger.began, Instant::now());
            presentations(&self.journal, &mut self.ledger, from, until);
            let shown = self.ledger.violations.len();
            self.ledger.lost.push(Lost {
                visit: "0.1".to_owned(),
                at: self.at(50_000),
                replica: 0,
                reason: "revoked".to_owned(),
            });
            losses(&self.journal, &mut self.ledger, until);
            (shown, self.ledger.violations.len() - shown)
        }
    }

    #[test]
    fn what_had_to_be_is_told_from_what_had_not() {
        use Verdict::{Accepted, Reused, Unprocessed};
        let again = |story: Story, at| story.shown(1, at, at + 100, Reused, false);
        let once = |until| Story::new().shown(0, 1000, until, Accepted, false);
        let down = Trouble::Provider(Misbehaviour::Down);
        for (name, story, want) in [
            ("nothing happened to it", again(once(1100), 9000), (1, 1)),
            ("two at once", again(once(3000), 2000), (1, 1)),
            (
                "not acted upon",
                Story::new()
                    .shown(0, 1000, 1100, Unprocessed, true)
                    .shown(1, 2000, 2100, Accepted, false),
                (0, 1),
            ),
            (
                "cut",
                again(Story::new().shown(0, 1000, 1100, Accepted, true), 1200),
                (0, 0),
            ),
            ("too late", again(once(6500), 6200), (0, 0)),
            (
                "killed in the middle",
                again(once(1500), 12_000).trouble(Trouble::Killed(0), 1200, 5000),
                (0, 0),
            ),
            (
                "another was killed",
                again(once(1500), 12_000).trouble(Trouble::Killed(2), 1200, 5000),
                (1, 1),
            ),
            (
                "killed long after",
                again(once(1500), 12_000).trouble(Trouble::Killed(0), 8000, 9000),
                (1, 1),
            ),
            (
                "killed while the store was away",
                again(once(1500), 12_000)
                    .trouble(Trouble::StoreFrozen(0), 1200, 4500)
                    .trouble(Trouble::Killed(0), 4000, 5000),
                (0, 0),
            ),
            (
                "frozen for a while",
                again(once(1500), 12_000).trouble(Trouble::Frozen(0), 1200, 4500),
                (1, 1),
            ),
            (
                "frozen for longer than a lease",
                again(once(1500), 12_000).trouble(Trouble::Frozen(0), 1200, 13_500),
                (0, 0),
            ),
            (
                "the store was away for longer than a lease",
                again(once(1500), 15_000).trouble(Trouble::StoreKilled(0), 1200, 14_500),
                (1, 1),
            ),
            (
                "and the replica for longer than the store",
                again(once(1500), 15_000)
                    .trouble(Trouble::StoreKilled(0), 1200, 14_500)
                    .trouble(Trouble::CutOff(0), 14_000, 16_000),
                (0, 0),
            ),
            (
                "the provider went away",
                again(once(1500), 3000).trouble(down, 1300, 2500),
                (0, 0),
            ),
        ] {
            assert_eq!(story.judged(), want, "{name}");
        }
    }
}
