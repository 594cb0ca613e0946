//! Shows that expiry costs one token call, and that nobody waits for a token that still works.

use std::time::{Duration, Instant};

use daypass_testbed::provider::{Endpoint, Fault};

use super::rig::{PATIENCE, Rig, assert_unavailable};

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_requests_at_expiry_make_one_token_call() {
    // REFRESH-01, REFRESH-02, REFRESH-06, REFRESH-11.
    let rig = Rig::new();
    let person = rig.expired().await;
    rig.echo.forget();
    // Long enough for all replicas to want it.
    let slow = Fault::DelayAnswer(Duration::from_millis(500));
    rig.provider.fault(Endpoint::Refresh, slow);
    let answers = rig.burst(&person, 300).await;
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [200; 300]);
    assert_eq!((rig.calls(), rig.provider.reused()), (1, 0));
    assert_eq!(rig.echo.count(), 300, "each request arrived once");
    rig.assert_renewed(&person);
    assert_eq!(rig.generation(&person), Some(1));
    // One flight of each replica took off at most; one of them presented the token.
    assert_eq!(rig.refreshes("success"), 1);
    assert!(rig.refreshes("superseded") <= 2);
    for failure in ["rejected", "unavailable", "invalid", "misconfigured", "logged_out"] {
        assert_eq!(rig.refreshes(failure), 0, "{failure}");
    }
    let waits = rig.counted("daypass_token_refresh_waits_seconds_count", &[]);
    let shared = rig.counted("daypass_token_refresh_shared_total", &[]);
    assert!(shared >= 1 && waits > shared && waits <= 300, "{shared} of {waits}");
    assert!(waits - shared <= 3, "who does not share flies: {shared} of {waits}");
}

#[tokio::test(flavor = "multi_thread")]
async fn inside_the_window_the_old_token_serves_and_one_call_renews_it() {
    // REFRESH-10. Ageing begins at half of a short life, up to a tenth of that later, and ends at nine tenths.
    let life = Duration::from_secs(8);
    let rig = Rig::new();
    let person = rig.sign_in_for(life).await;
    let signed_in = Instant::now();
    rig.echo.forget();
    rig.burst(&person, 30).await;
    assert_eq!(rig.calls(), 0, "a fresh token is left alone");
    tokio::time::sleep(life / 2).await;
    rig.provider.fault(Endpoint::Refresh, Fault::StallAnswer);
    let answers = rig.burst(&person, 300).await;
    let took = signed_in.elapsed();
    assert!(took < life * 8 / 10, "this machine is too slow to tell: {took:?}");
    // The provider has not answered yet, so nobody can have waited for it.
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!((rig.calls(), rig.echo.count()), (1, 330));
    rig.assert_first_token(&person);
    assert_eq!(rig.counted("daypass_token_refresh_waits_seconds_count", &[]), 0);
    rig.provider.release();
    rig.wait_for_generation(&person, 1);
    rig.echo.forget();
    let answers = rig.burst(&person, 30).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    rig.assert_renewed(&person);
    assert_eq!((rig.calls(), rig.provider.reused()), (1, 0));
    assert_eq!(rig.refreshes("success"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_hang_up_change_nothing() {
    // REFRESH-05: the answer arrives when nobody is left to want it.
    let rig = Rig::new();
    let person = rig.expired().await;
    rig.echo.forget();
    rig.provider.fault(Endpoint::Refresh, Fault::StallAnswer);
    let impatient = (0..30).map(|index| {
        let call = rig.call(&person, index % 3, "/orders");
        call.timeout(Duration::from_millis(400)).send()
    });
    let answers = futures_util::future::join_all(impatient).await;
    assert!(answers.iter().all(Result::is_err), "all gave up");
    assert_eq!(rig.calls(), 1);
    rig.provider.release();
    rig.wait_for_generation(&person, 1);
    let answers = rig.burst(&person, 30).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert!(rig.echo.count() >= 30);
    rig.assert_renewed(&person);
    assert_eq!((rig.calls(), rig.provider.reused()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_slower_than_the_time_out_costs_503_but_no_token() {
    // REFRESH-09, REFRESH-14: requests wait for `timeout`, the flight for `refresh_patience`.
    let rig = Rig::with(3, |_| {}, |setup| setup.set("provider.timeout", "1s"));
    let person = rig.expired().await;
    rig.echo.forget();
    rig.provider.fault(Endpoint::Refresh, Fault::StallAnswer);
    for round in 0..2 {
        let began = Instant::now();
        for answer in rig.burst(&person, 6).await {
            assert_unavailable(&answer, "provider_unavailable", &format!("round {round}"));
        }
        let waited = began.elapsed();
        assert!(waited >= Duration::from_millis(900), "it waits first: {waited:?}");
        assert!(waited < Duration::from_secs(6), "but not for ever: {waited:?}");
    }
    assert_eq!((rig.calls(), rig.echo.count()), (1, 0));
    rig.provider.release();
    rig.wait_for_generation(&person, 1);
    for replica in 0..3 {
        rig.until(&person, replica, 200).await;
    }
    rig.assert_renewed(&person);
    let found = daypass_testbed::raw::wait_for(PATIENCE, || {
        (rig.refreshes("success") == 1).then_some(())
    });
    assert!(found.is_some());
    assert_eq!((rig.calls(), rig.provider.reused()), (1, 0));
    assert!(rig.provider.presentations().iter().all(|count| *count == 1));
}
