//! Asks several servers at once and does not wait for the slow ones.

use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::Instant;

use crate::clock::by;

/// Whatever is answered within `limit`, but for the last look of [`by`]. After the first answer that is good enough only `grace`
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
    while let Some(Some(answer)) = by(end, asked.next()).await {
        if !found && good(&answer) {
            found = true;
            end = end.min(Instant::now() + grace);
        }
        answers.push(answer);
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::last_look;

    #[tokio::test]
    async fn what_was_answered_while_the_process_was_frozen_is_heard() {
        let limit = Duration::from_millis(50);
        // A connection's task brings the answer, and nothing runs while the only thread sleeps.
        let (bring, brought) = tokio::sync::oneshot::channel();
        let (wake, woken) = tokio::sync::oneshot::channel::<()>();
        tokio::spawn(async move {
            let _ = woken.await;
            tokio::task::yield_now().await;
            let _ = bring.send(1);
        });
        let asked = [brought];
        let mut answers = std::pin::pin!(gather(asked, |_| true, limit, limit));
        assert!(futures_util::poll!(answers.as_mut()).is_pending());
        tokio::task::yield_now().await;
        std::thread::sleep(limit * 2);
        let _ = wake.send(());
        assert_eq!(answers.await, [Ok(1)]);
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
