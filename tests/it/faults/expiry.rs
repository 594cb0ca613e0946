//! Shows that expiry costs one token call, and that nobody waits for a token that still works.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use daypass_testbed::client::Client;
use daypass_testbed::daypass::{Daypass, Setup};
use daypass_testbed::echo::Echo;
use daypass_testbed::provider::{Endpoint, Fault, Provider, claims};
use serde_json::json;

use crate::BINARY;

use super::rig::{Rig, assert_unavailable};

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_requests_at_expiry_make_one_token_call() {
    // REFRESH-01, REFRESH-02, REFRESH-06, REFRESH-11.
    let rig = Rig::with(3, |_| {}, |setup| setup.set("provider.timeout", "20s"));
    let person = rig.expired().await;
    rig.echo.forget();
    // Long enough for all to come and want it, on a busy machine, too.
    let slow = Fault::DelayAnswer(Duration::from_secs(6));
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
    for failure in [
        "rejected",
        "unavailable",
        "invalid",
        "misconfigured",
        "logged_out",
    ] {
        assert_eq!(rig.refreshes(failure), 0, "{failure}");
    }
    let waits = rig.counted("daypass_token_refresh_waits_seconds_count", &[]);
    let shared = rig.counted("daypass_token_refresh_shared_total", &[]);
    assert!(
        shared >= 1 && waits > shared && waits <= 300,
        "{shared} of {waits}"
    );
    assert!(
        waits - shared <= 3,
        "who does not share flies: {shared} of {waits}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn inside_the_window_the_old_token_serves_and_one_call_renews_it() {
    // REFRESH-10. A slow machine needs a longer window to look into.
    for life in [8, 20, 50].map(Duration::from_secs) {
        if look_inside_the_window(life).await {
            return;
        }
    }
    panic!("this machine is too slow to tell");
}

/// `false`: it took too long to tell. Ageing begins at half of a short life, up to a tenth of that later, and ends at nine
/// tenths.
async fn look_inside_the_window(life: Duration) -> bool {
    let rig = Rig::new();
    let person = rig.sign_in_for(life).await;
    let signed_in = Instant::now();
    rig.echo.forget();
    rig.burst(&person, 30).await;
    if signed_in.elapsed() > life * 4 / 10 {
        return false;
    }
    assert_eq!(rig.calls(), 0, "a fresh token is left alone");
    tokio::time::sleep((life * 23 / 40).saturating_sub(signed_in.elapsed())).await;
    rig.provider.fault(Endpoint::Refresh, Fault::StallAnswer);
    let answers = rig.burst(&person, 300).await;
    if signed_in.elapsed() > life * 8 / 10 {
        return false;
    }
    tokio::task::block_in_place(|| rig.wait_for_calls(1));
    // The provider has not answered yet, so nobody can have waited for it.
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!((rig.calls(), rig.echo.count()), (1, 330));
    rig.assert_first_token(&person);
    assert_eq!(
        rig.counted("daypass_token_refresh_waits_seconds_count", &[]),
        0
    );
    rig.provider.release();
    rig.wait_for_generation(&person, 1);
    for replica in 0..3 {
        rig.until_shown_another(&person, replica).await;
    }
    rig.echo.forget();
    let answers = rig.burst(&person, 30).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    rig.assert_renewed(&person);
    assert_eq!((rig.calls(), rig.provider.reused()), (1, 0));
    rig.assert_refreshes("success", 1);
    true
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
        call.timeout(Duration::from_secs(1)).send()
    });
    let answers = futures_util::future::join_all(impatient).await;
    assert!(answers.iter().all(Result::is_err), "all gave up");
    rig.wait_for_calls(1);
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
        assert!(
            waited >= Duration::from_millis(900),
            "it waits first: {waited:?}"
        );
        assert!(
            waited < Duration::from_secs(6),
            "but not for ever: {waited:?}"
        );
    }
    assert_eq!((rig.calls(), rig.echo.count()), (1, 0));
    rig.provider.release();
    rig.wait_for_generation(&person, 1);
    for replica in 0..3 {
        rig.until(&person, replica, 200).await;
    }
    rig.assert_renewed(&person);
    rig.assert_refreshes("success", 1);
    assert_eq!((rig.calls(), rig.provider.reused()), (1, 0));
    assert!(rig.provider.presentations().iter().all(|count| *count == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_sessions_that_expire_together_cost_a_call_each() {
    // REFRESH-39; and none of them gets another's token.
    const PEOPLE: usize = 40;
    let rig = Rig::new();
    let mut people = rig.all_expired(PEOPLE / 2).await;
    rig.provider
        .configure(|settings| settings.user = "john".to_owned());
    people.extend(rig.all_expired(PEOPLE / 2).await);
    rig.echo.forget();
    let bursts = people.iter().map(|person| rig.burst(person, 6));
    for answers in futures_util::future::join_all(bursts).await {
        assert!(answers.iter().all(|answer| answer.status == 200));
    }
    assert_eq!((rig.calls(), rig.provider.reused()), (PEOPLE, 0));
    assert!(rig.provider.presentations().iter().all(|count| *count == 1));
    assert_eq!(
        (rig.refreshes("success"), rig.bearers().len()),
        (PEOPLE as u64, PEOPLE)
    );
    for request in rig.echo.requests() {
        let claims = request.bearer().and_then(claims).expect("a JWT");
        assert_eq!(claims["sub"].as_str(), request.header("x-user"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_for_a_refresh_shares_the_flight_and_bodies_wait_unharmed() {
    // REFRESH-33: `session/refresh` and forwarded requests of every kind want the same thing.
    let rig = Rig::new();
    let person = rig.expired().await;
    rig.echo.forget();
    let slow = Fault::DelayAnswer(Duration::from_millis(300));
    rig.provider.fault(Endpoint::Refresh, slow);
    let began = Instant::now();
    // A token that was asked for less than five seconds ago is not burnt by asking again.
    let most = || 1 + usize::try_from(began.elapsed().as_secs() / 5).expect("a small number");
    let post = |index: usize, path: &str| {
        let call = person.client.post(rig.fleet[0].url(path));
        let call = call.header("sec-fetch-site", "same-origin");
        call.via(rig.fleet[index % 3].public())
    };
    let asked = (0..30).map(|index| post(index, "/oauth2/session/refresh").send());
    let sent = (0..30).map(|index| post(index, "/orders").body(vec![b'x'; 100_000]).send());
    let (asked, sent) = tokio::join!(
        futures_util::future::join_all(asked),
        futures_util::future::join_all(sent)
    );
    for answer in asked.into_iter().chain(sent) {
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let calls = rig.calls();
    assert!((1..=most()).contains(&calls), "{calls}");
    assert_eq!((rig.provider.reused(), rig.echo.count()), (0, 30));
    assert!(
        rig.echo
            .requests()
            .iter()
            .all(|request| request.body_length == 100_000)
    );
    rig.assert_renewed(&person);
    for index in 0..9 {
        let answer = post(index, "/oauth2/session/refresh").send().await;
        assert_eq!(answer.expect("an answer").status, 200);
    }
    let calls = rig.calls();
    assert!((1..=most()).contains(&calls), "{calls}");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_memory_store_expiry_costs_one_token_call_too() {
    let (provider, echo) = (Provider::start(), Echo::start());
    let daypass = Daypass::ready(BINARY, Setup::new(&provider, &echo.url()));
    let client = Client::new();
    let brief = json!({"expires_in": 0.1});
    provider.fault(Endpoint::Token, Fault::Answer(brief));
    let login = daypass.url("/oauth2/login?redirect=/public/in");
    client.browse(login).await.expect("the way in");
    tokio::time::sleep(Duration::from_millis(100)).await;
    echo.forget();
    let slow = Fault::DelayAnswer(Duration::from_millis(300));
    provider.fault(Endpoint::Refresh, slow);
    let calls = (0..100).map(|_| client.get(daypass.url("/orders")).send());
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.expect("an answer").status, 200);
    }
    let seen: HashSet<_> = echo
        .requests()
        .iter()
        .map(|request| request.bearer().expect("a token").to_owned())
        .collect();
    assert_eq!((echo.count(), seen.len()), (100, 1));
    assert_eq!(
        (provider.count(Endpoint::Refresh), provider.reused()),
        (1, 0)
    );
}
