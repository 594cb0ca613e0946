//! Decides what a page that listens to `session/events` is told, from nothing but the session as it was found.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::session::Found;

use super::Bond;

/// What a page is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The session is about to end unless something happens.
    Expiring,
    /// It has new tokens, or more time than was announced.
    Refreshed,
}

/// How long the session's times are in this configuration: a short one is announced later.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// The absolute lifetime.
    pub lifetime: Duration,
    /// The idle time-out.
    pub idle: Option<Duration>,
    /// What the session hangs on.
    pub bond: Bond,
}

/// What a page knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feed {
    known: Known,
}

/// What an event's id stands for. It tells a page nothing that `session` does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    /// Tells one login from the next.
    created_at: i64,
    generation: u64,
    expiring: bool,
}

impl Feed {
    /// A page connects: for the first time, or again with the id of the last event it got. What it is told first is in the
    /// next [`look`](Self::look).
    pub fn open(last_event_id: Option<&str>, found: &Found) -> Self {
        let fresh = Known {
            created_at: found.session.created_at.as_millis(),
            generation: found.session.generation,
            expiring: false,
        };
        let known = match last_event_id.filter(|id| !id.is_empty()) {
            None => fresh,
            // What it knows is of another login, or of nobody: it must learn anew. No session has this generation.
            Some(id) => Known::parse(id)
                .filter(|known| known.created_at == fresh.created_at)
                .unwrap_or(Known {
                    generation: u64::MAX,
                    ..fresh
                }),
        };
        Self { known }
    }

    /// The session was found like this: what is to be told, in this order.
    pub fn look(&mut self, found: &Found, times: Times, now: Timestamp) -> Vec<Kind> {
        let mut told = Vec::new();
        let expiring = notices(found, times).any(|notice| notice <= now);
        let known = &mut self.known;
        let renewed = known.generation != found.session.generation;
        if renewed || (known.expiring && !expiring) {
            told.push(Kind::Refreshed);
        }
        if expiring && (renewed || !known.expiring) {
            told.push(Kind::Expiring);
        }
        known.generation = found.session.generation;
        known.expiring = expiring;
        told
    }

    /// The page was told that the session is about to end.
    pub fn is_expiring(&self) -> bool {
        self.known.expiring
    }

    /// The id of what was told last.
    pub fn id(&self) -> String {
        let Known {
            created_at,
            generation,
            expiring,
        } = self.known;
        let phase = if expiring { 'e' } else { 'l' };
        format!("{created_at}-{generation}-{phase}")
    }

    /// When the session will be about to end, if it is not yet.
    pub fn next(found: &Found, times: Times, now: Timestamp) -> Option<Timestamp> {
        notices(found, times).filter(|notice| *notice > now).min()
    }
}

impl Known {
    fn parse(id: &str) -> Option<Self> {
        let mut parts = id.split('-');
        let known = Self {
            created_at: parts.next()?.parse().ok()?,
            generation: parts.next()?.parse().ok()?,
            expiring: match parts.next()? {
                "e" => true,
                "l" => false,
                _ => return None,
            },
        };
        parts.next().is_none().then_some(known)
    }
}

/// When each of the session's ends is announced.
fn notices(found: &Found, times: Times) -> impl Iterator<Item = Timestamp> {
    let before = |end: Timestamp, whole: Duration| end.minus(NOTICE.min(whole / 5));
    let session = &found.session;
    let lifetime = before(session.expires_at, times.lifetime);
    let idle = found.idle_expires_at.zip(times.idle);
    let idle = idle.map(|(end, whole)| before(end, whole));
    let token = match times.bond {
        Bond::Session => None,
        Bond::Token => session.last_token_ends(),
    };
    let token = token.map(|end| before(end, end.left(session.tokens.refreshed_at)));
    [Some(lifetime), idle, token].into_iter().flatten()
}

/// How long before its end a session is about to end; a fifth of its time, if that is less.
const NOTICE: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::session::testing::{START, session, tokens};

    const TIMES: Times = Times {
        lifetime: Duration::from_secs(12 * 3600),
        idle: Some(Duration::from_secs(3600)),
        bond: Bond::Token,
    };

    fn found(generation: u64, idle_left: u64) -> Found {
        let mut session = session();
        session.generation = generation;
        Found {
            session: Arc::new(session),
            idle_expires_at: Some(START.plus(Duration::from_secs(idle_left))),
            stale: false,
        }
    }

    #[test]
    fn a_page_is_told_what_it_does_not_know() {
        use Kind::{Expiring, Refreshed};
        let created = START.as_millis();
        let id = |generation: u64, phase: char| format!("{created}-{generation}-{phase}");
        // name, last event's id, generation and idle seconds left as found, what is told
        for (name, last, generation, left, want) in [
            ("first time", None, 3, 3600, vec![]),
            ("first time, nearly over", None, 3, 119, vec![Expiring]),
            ("an empty id is none", Some(String::new()), 3, 3600, vec![]),
            ("nothing new", Some(id(3, 'l')), 3, 3600, vec![]),
            ("nothing new, nearly over", Some(id(3, 'e')), 3, 100, vec![]),
            (
                "refreshed meanwhile",
                Some(id(2, 'l')),
                3,
                3600,
                vec![Refreshed],
            ),
            ("used meanwhile", Some(id(3, 'e')), 3, 3600, vec![Refreshed]),
            (
                "refreshed, nearly over",
                Some(id(2, 'e')),
                3,
                100,
                vec![Refreshed, Expiring],
            ),
            (
                "nearly over meanwhile",
                Some(id(3, 'l')),
                3,
                100,
                vec![Expiring],
            ),
            (
                "another login",
                Some("1-3-l".into()),
                3,
                3600,
                vec![Refreshed],
            ),
            ("nonsense", Some("a-b".into()), 3, 3600, vec![Refreshed]),
            (
                "too much of it",
                Some(id(3, 'l') + "-l"),
                3,
                3600,
                vec![Refreshed],
            ),
        ] {
            let found = found(generation, left);
            let mut feed = Feed::open(last.as_deref(), &found);
            assert_eq!(feed.look(&found, TIMES, START), want, "{name}");
            assert!(
                feed.look(&found, TIMES, START).is_empty(),
                "{name}: told once"
            );
            // Whoever comes back with the last id is told nothing twice.
            let mut again = Feed::open(Some(&feed.id()), &found);
            assert!(
                again.look(&found, TIMES, START).is_empty(),
                "{name}: told again"
            );
        }
    }

    #[test]
    fn the_end_is_announced_before_it_comes() {
        let after = |seconds| START.plus(Duration::from_secs(seconds));
        let mut over = found(0, 3600);
        assert_eq!(Feed::next(&over, TIMES, START), Some(after(3480)));
        // Without idle time-out it is the lifetime's end that is announced.
        over.idle_expires_at = None;
        let lifetime = 12 * 3600;
        assert_eq!(Feed::next(&over, TIMES, START), Some(after(lifetime - 120)));
        assert_eq!(Feed::next(&over, TIMES, after(lifetime - 120)), None);
        // Of a short time a fifth.
        let short = Times {
            lifetime: Duration::from_secs(20),
            idle: None,
            bond: Bond::Token,
        };
        assert_eq!(Feed::next(&over, short, START), Some(after(lifetime - 4)));
        // Without a refresh token the access token's end counts.
        let mut session = session();
        let mut last = tokens(0, START);
        last.refresh = None;
        session.tokens = Arc::new(last);
        over.session = Arc::new(session);
        // It is five minutes good, of which five seconds are for the way.
        assert_eq!(Feed::next(&over, TIMES, START), Some(after(236)));
        let mut feed = Feed::open(None, &over);
        assert_eq!(feed.look(&over, TIMES, after(236)), [Kind::Expiring]);
        // Where no route shows it, it does not matter.
        let no_token = Times {
            bond: Bond::Session,
            ..TIMES
        };
        assert_eq!(
            Feed::next(&over, no_token, START),
            Some(after(lifetime - 120))
        );
    }
}
