//! Shows when a document is fetched, and when not.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A document that counts how often it was fetched, and whose fetch fails while `broken` is set.
struct Source {
    fetches: Arc<AtomicU32>,
    broken: Arc<AtomicU32>,
    takes: Duration,
}

impl Source {
    fn new(takes: Duration) -> Self {
        Self {
            fetches: Arc::default(),
            broken: Arc::default(),
            takes,
        }
    }

    fn fetch(
        &self,
    ) -> impl Future<Output = Result<Fetched<u32>, CallError>> + Send + 'static + use<> {
        let (fetches, broken, takes) = (
            Arc::clone(&self.fetches),
            Arc::clone(&self.broken),
            self.takes,
        );
        async move {
            let value = fetches.fetch_add(1, Ordering::SeqCst) + 1;
            tokio::time::sleep(takes).await;
            if broken.load(Ordering::SeqCst) > 0 {
                return Err(unavailable("broken"));
            }
            let ttl = Duration::from_secs(3600);
            Ok(Fetched { value, ttl })
        }
    }

    fn count(&self) -> u32 {
        self.fetches.load(Ordering::SeqCst)
    }

    fn break_it(&self, broken: bool) {
        self.broken.store(broken.into(), Ordering::SeqCst);
    }
}

fn cached() -> Cached<u32> {
    Cached::new(Policy {
        provider: "provider".into(),
        what: "the document",
        within: Duration::from_secs(5),
        max_age: Some(Duration::from_secs(24 * 3600)),
        refetch_interval: Duration::from_secs(30),
    })
}

/// Lets background tasks run, without moving the time.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn all_who_wait_share_one_fetch() {
    let (cached, source) = (cached(), Source::new(Duration::from_secs(1)));
    let all = (0..100).map(|_| cached.get(|| source.fetch()));
    for got in futures_util::future::join_all(all).await {
        assert_eq!(*got.unwrap(), 1);
    }
    assert_eq!(source.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_who_gives_up_does_not_stop_the_fetch_for_others() {
    let (cached, source) = (cached(), Source::new(Duration::from_secs(1)));
    let impatient = cached.get(|| source.fetch());
    tokio::time::timeout(Duration::from_millis(10), impatient)
        .await
        .unwrap_err();
    assert_eq!(*cached.get(|| source.fetch()).await.unwrap(), 1);
    assert_eq!(source.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_fetch_has_a_deadline() {
    let (cached, source) = (cached(), Source::new(Duration::from_secs(3600)));
    let began = Instant::now();
    cached.get(|| source.fetch()).await.unwrap_err();
    assert_eq!(began.elapsed(), Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn failures_back_off_up_to_half_a_minute() {
    let (cached, source) = (cached(), Source::new(Duration::ZERO));
    source.break_it(true);
    let mut at = Vec::new();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(600) {
        let before = source.count();
        cached.get(|| source.fetch()).await.unwrap_err();
        if source.count() > before {
            at.push(began.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let waits: Vec<_> = at
        .windows(2)
        .map(|pair| pair[1].saturating_sub(pair[0]))
        .collect();
    let slack = Duration::from_millis(200);
    for (n, wait) in waits.iter().enumerate() {
        let full = Duration::from_secs(30.min(1 << n.min(5)));
        assert!(
            *wait + slack >= full / 2 && *wait <= full + slack,
            "{n}: {wait:?}"
        );
    }
    assert!((20..60).contains(&waits.len()), "{}", waits.len());

    // Healed: nobody remembers.
    source.break_it(false);
    tokio::time::sleep(Duration::from_secs(31)).await;
    cached.get(|| source.fetch()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_old_copy_serves_while_a_new_one_is_fetched() {
    // META-06, JWT-11.
    let (cached, source) = (cached(), Source::new(Duration::from_secs(1)));
    cached.get(|| source.fetch()).await.unwrap();
    tokio::time::advance(Duration::from_secs(3601)).await;
    let asked = Instant::now();
    assert_eq!(*cached.get(|| source.fetch()).await.unwrap(), 1);
    assert_eq!(*cached.get(|| source.fetch()).await.unwrap(), 1);
    assert_eq!(asked.elapsed(), Duration::ZERO, "nobody waited");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(*cached.get(|| source.fetch()).await.unwrap(), 2);
    assert_eq!(source.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_cannot_be_replaced_serves_until_it_is_too_old() {
    // JWT-11, JWT-12.
    let (cached, source) = (cached(), Source::new(Duration::ZERO));
    cached.get(|| source.fetch()).await.unwrap();
    source.break_it(true);
    tokio::time::advance(Duration::from_secs(23 * 3600)).await;
    assert_eq!(*cached.get(|| source.fetch()).await.unwrap(), 1);
    settle().await;
    assert_eq!(*cached.get(|| source.fetch()).await.unwrap(), 1);
    tokio::time::advance(Duration::from_secs(3600)).await;
    cached.get(|| source.fetch()).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn refetching_is_rate_limited() {
    // JWT-10.
    let (cached, source) = (cached(), Source::new(Duration::ZERO));
    cached.get(|| source.fetch()).await.unwrap();
    assert_eq!(
        *cached.refetch(|| source.fetch()).await.unwrap().unwrap(),
        2
    );
    for _ in 0..29 {
        assert!(cached.refetch(|| source.fetch()).await.unwrap().is_none());
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert_eq!(source.count(), 2);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(
        *cached.refetch(|| source.fetch()).await.unwrap().unwrap(),
        3
    );
    // A failure is told, and the old copy stays.
    source.break_it(true);
    tokio::time::advance(Duration::from_secs(30)).await;
    cached.refetch(|| source.fetch()).await.unwrap_err();
    assert_eq!(*cached.get(|| source.fetch()).await.unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn refetches_at_once_share_one_fetch() {
    let (cached, source) = (cached(), Source::new(Duration::from_secs(1)));
    cached.get(|| source.fetch()).await.unwrap();
    let all = (0..100).map(|_| cached.refetch(|| source.fetch()));
    for got in futures_util::future::join_all(all).await {
        assert_eq!(*got.unwrap().unwrap(), 2);
    }
    assert_eq!(source.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_dies_is_no_fetch() {
    let cached = cached();
    let dying = || async { panic!("a bug in the fetch") };
    cached.get(dying).await.unwrap_err();
    let source = Source::new(Duration::ZERO);
    assert_eq!(*cached.get(|| source.fetch()).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn dropping_it_ends_the_fetch() {
    let (cached, source) = (cached(), Source::new(Duration::from_secs(1)));
    let guard = Arc::clone(&source.fetches);
    let _ = tokio::time::timeout(Duration::from_millis(1), cached.get(|| source.fetch())).await;
    drop(cached);
    drop(source);
    settle().await;
    assert_eq!(Arc::strong_count(&guard), 1, "the task is gone");
}
