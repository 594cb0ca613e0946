//! Remembers how long a provider wants to be left alone.

use std::time::{Duration, UNIX_EPOCH};

use http::HeaderMap;
use http::header::RETRY_AFTER;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::clock::Timestamp;

/// A pause for all token calls of one grant type to one provider, whatever session they are for (REFRESH-38).
#[derive(Debug, Default)]
pub(super) struct Pause(Mutex<Option<Instant>>);

impl Pause {
    /// What is left of the pause.
    pub(super) fn left(&self) -> Option<Duration> {
        let until = (*self.0.lock())?;
        let left = until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// Pauses for `wait` from now; a longer pause stays.
    pub(super) fn extend(&self, wait: Duration) {
        let until = Instant::now() + wait.min(LONGEST);
        let mut current = self.0.lock();
        if current.is_none_or(|current| current < until) {
            *current = Some(until);
        }
    }
}

/// Reads `Retry-After`: seconds or a date (RFC 9110 §10.2.3), at most ten minutes, so that a wrong clock or a hostile
/// answer cannot stop refreshes for long.
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // Digits that do not fit are a very long wait.
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        let date = httpdate::parse_http_date(text).ok()?;
        let millis = date.duration_since(UNIX_EPOCH).ok()?.as_millis();
        Timestamp::from_millis(i64::try_from(millis).ok()?).left(now)
    };
    Some(wait.min(LONGEST))
}

const LONGEST: Duration = Duration::from_secs(10 * 60);

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn retry_after_is_read_in_both_forms_and_clamped() {
        // REFRESH-38; 784111777 is Sun, 06 Nov 1994 08:49:37 GMT.
        let now = Timestamp::from_secs(784_111_777 - 30);
        for (name, text, want) in [
            ("seconds", "7", Some(7)),
            ("zero", "0", Some(0)),
            ("padded", " 7 ", Some(7)),
            ("a date ahead", "Sun, 06 Nov 1994 08:49:37 GMT", Some(30)),
            ("a date past", "Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("very long", "86400", Some(600)),
            ("overflow", "99999999999999999999999", Some(600)),
            ("a far date", "Sat, 06 Nov 2094 08:49:37 GMT", Some(600)),
            ("negative", "-1", None),
            ("nonsense", "soon", None),
            ("empty", "", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(text));
            let got = retry_after(&headers, now);
            assert_eq!(got, want.map(Duration::from_secs), "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_runs_out_and_is_never_shortened() {
        let pause = Pause::default();
        assert_eq!(pause.left(), None);
        pause.extend(Duration::from_secs(10));
        pause.extend(Duration::from_secs(2));
        assert_eq!(pause.left(), Some(Duration::from_secs(10)));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(pause.left(), None);
    }
}
