//! Asks several servers at once and does not wait for the slow ones.

use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::{Instant, timeout_at};

use crate::clock::last_look;

/// Whatever is answered within `limit`, but for a [`last_look`] at what had come by then. After the first answer that is good enough only `grace`
/// is given to the others: they may know better, and they may be gone.
pub(super) async fn gather<T>(
    asked: impl IntoIterator<Item = impl Future<Output = T>>,
    good: impl Fn(&T) -> bool,
    limit: Duration,
    grace: Duration,
) -> Vec<T> {
    let mut asked: FuturesUnordered<_> = asked.into_iter().collect();
    let mut end = Instant::now() + limit;
    let mut answers = Vec::new();
    let mut found = false;
    // Of all that were late, not of the first alone.
    let mut looking = false;
    loop {
        match timeout_at(end, asked.next()).await {
            Ok(Some(answer)) => {
                if !found && good(&answer) {
                    found = true;
                    end = end.min(Instant::now() + grace);
                }
                answers.push(answer);
            }
            Err(_) if !looking => {
                looking = true;
                end = last_look(Instant::now());
            }
            Ok(None) | Err(_) => return answers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_answered_while_the_process_was_frozen_is_heard() {
        let limit = Duration::from_millis(50);
        let heard = async || {
            // Connections' tasks bring the answers, one after the other, and nothing runs while the only thread sleeps.
            let (wake, woken) = tokio::sync::watch::channel(false);
            let asked = [1, 2, 3].map(|turns| {
                let (bring, brought) = tokio::sync::oneshot::channel();
                let mut woken = woken.clone();
                tokio::spawn(async move {
                    let _ = woken.wait_for(|woken| *woken).await;
                    for _ in 0..turns {
                        tokio::task::yield_now().await;
                    }
                    let _ = bring.send(turns);
                });
                brought
            });
            let mut answers = std::pin::pin!(gather(asked, |_| true, limit, limit));
            assert!(futures_util::poll!(answers.as_mut()).is_pending());
            tokio::task::yield_now().await;
            std::thread::sleep(limit * 2);
            wake.send_replace(true);
            answers.await
        };
        // The last look is short: a machine may stand still during it, too, and does not each time.
        let mut all = Vec::new();
        for _ in 0..5 {
            let answers = heard().await;
            if answers == [Ok(1), Ok(2), Ok(3)] {
                return;
            }
            all.push(answers);
        }
        panic!("never all three: {all:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_good_answer_gives_the_others_a_little_time() {
        let limit = Duration::from_millis(400);
        let grace = Duration::from_millis(100);
        for (name, delays, want, took) in [
            ("all quick", vec![1, 2, 3], vec![1, 2, 3], 3),
            ("one slow", vec![10, 90, 300], vec![10, 90], 110),
            (
                "bad ones do not count",
                vec![7, 300, 350],
                vec![7, 300, 350],
                350,
            ),
            ("none in time", vec![500, 600], vec![], 400),
            ("none asked", vec![], vec![], 0),
        ] {
            let began = Instant::now();
            let asked = delays.iter().map(|delay| async move {
                tokio::time::sleep(Duration::from_millis(*delay)).await;
                *delay
            });
            // Seven is the bad one.
            let answers = gather(asked, |answer| *answer != 7, limit, grace).await;
            assert_eq!(answers, want, "{name}");
            let mut end = began + Duration::from_millis(took);
            if want.len() < delays.len() {
                end = last_look(end);
            }
            assert_eq!(Instant::now(), end, "{name}");
        }
    }
}
