//! Asks several servers at once and does not wait for the slow ones.

use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::{Instant, sleep_until};

/// Whatever is answered within `limit`. After the first answer that is good enough only `grace` is given to the others: they
/// may know better, and they may be gone.
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
    loop {
        tokio::select! {
            answer = asked.next() => match answer {
                None => return answers,
                Some(answer) => {
                    if !found && good(&answer) {
                        found = true;
                        end = end.min(Instant::now() + grace);
                    }
                    answers.push(answer);
                }
            },
            () = sleep_until(end) => return answers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(began.elapsed(), Duration::from_millis(took), "{name}");
        }
    }
}
