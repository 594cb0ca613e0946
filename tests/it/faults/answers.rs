//! Shows what each answer of the token endpoint does to a session: nothing but `invalid_grant` ends it.

use std::time::{Duration, Instant};

use daypass_testbed::daypass::Setup;
use daypass_testbed::provider::{AccessTokenForm, Endpoint, Fault};
use serde_json::json;

use super::rig::{PATIENCE, Rig, assert_refused, assert_unavailable};

/// A bad answer, how often the token is presented for it, and what the metric calls it.
struct Row {
    name: &'static str,
    fault: Fault,
    calls: usize,
    result: &'static str,
}

/// A whole answer of media type JSON.
fn json_answer(status: u16, body: &str) -> Fault {
    let kind = ("content-type".to_owned(), "application/json".to_owned());
    Fault::Status(status, vec![kind], body.to_owned())
}

fn bad_answers() -> Vec<Row> {
    let row = |name, fault, calls, result| Row {
        name,
        fault,
        calls,
        result,
    };
    let moved = ("location".to_owned(), "/elsewhere".to_owned());
    let grant_gone = r#"{"error": "invalid_grant"}"#;
    vec![
        // REFRESH-13: the provider says that it did not act. One presentation, then a pause.
        row("408", Fault::status(408), 1, "unavailable"),
        row("500", Fault::status(500), 1, "unavailable"),
        row("502", Fault::status(502), 1, "unavailable"),
        row("503", Fault::status(503), 1, "unavailable"),
        row("404 page", Fault::status(404), 1, "unavailable"),
        row(
            "redirect",
            Fault::Status(307, vec![moved], String::new()),
            1,
            "unavailable",
        ),
        row(
            "temporarily_unavailable",
            Fault::oauth("temporarily_unavailable"),
            1,
            "unavailable",
        ),
        row(
            "server_error",
            Fault::oauth("server_error"),
            1,
            "unavailable",
        ),
        row(
            "invalid_grant under 500",
            json_answer(500, grant_gone),
            1,
            "unavailable",
        ),
        // REFRESH-16: our own fault, told apart in the metric.
        row(
            "invalid_client",
            Fault::oauth("invalid_client"),
            1,
            "misconfigured",
        ),
        row(
            "unauthorized_client",
            Fault::oauth("unauthorized_client"),
            1,
            "misconfigured",
        ),
        row(
            "invalid_request",
            Fault::oauth("invalid_request"),
            1,
            "misconfigured",
        ),
        row(
            "unheard-of error",
            Fault::oauth("x_quota"),
            1,
            "misconfigured",
        ),
        // REFRESH-19.
        row(
            "error under 200",
            json_answer(200, r#"{"error": "server_error"}"#),
            1,
            "unavailable",
        ),
        // REFRESH-23: bytes were sent and no token was read; the provider may have acted, so it is asked again, once.
        row("cut", Fault::DropBefore, 2, "unavailable"),
        // An answer that came is not asked for again, whatever it holds: a bad body is a reason to pause.
        row("HTML", Fault::Html, 1, "unavailable"),
        row("empty", json_answer(200, ""), 1, "unavailable"),
        row("no token", json_answer(200, "{}"), 1, "invalid"),
        row("no object", json_answer(200, "[1]"), 1, "invalid"),
        row("2 MiB", Fault::HugeBody(2 << 20), 1, "unavailable"),
    ]
}

/// The first pause after a failure is a second, give or take a fifth.
const SHORTEST_PAUSE: Duration = Duration::from_millis(800);

#[tokio::test(flavor = "multi_thread")]
async fn bad_answers_keep_the_session_and_everyone_pauses() {
    let many_logins = |setup: Setup| setup.set("limits.logins_per_minute_per_ip", 9999);
    let rig = Rig::with(3, |_| {}, many_logins);
    let rows = bad_answers();
    let people = rig.all_expired(rows.len()).await;
    rig.echo.forget();
    for (row, person) in rows.iter().zip(&people) {
        let (calls, counted) = (rig.calls(), rig.refreshes(row.result));
        rig.provider.always(Endpoint::Refresh, [row.fault.clone()]);
        let began = Instant::now();
        // At once, and again, on all replicas.
        for _ in 0..2 {
            for answer in rig.burst(person, 6).await {
                assert_unavailable(&answer, "provider_unavailable", row.name);
            }
        }
        let pauses = began.elapsed().as_millis() / SHORTEST_PAUSE.as_millis();
        let bound = row.calls * (1 + usize::try_from(pauses).expect("not that many"));
        let asked = rig.calls() - calls;
        assert!(
            (row.calls..=bound).contains(&asked),
            "{}: {asked} calls",
            row.name
        );
        assert!(rig.refreshes(row.result) > counted, "{}", row.name);
        assert_eq!(
            rig.generation(person),
            Some(0),
            "{}: the session is as it was",
            row.name
        );
        assert_eq!(rig.echo.count(), 0, "{}: nothing is forwarded", row.name);
        rig.provider.behave();
        // Each row is for itself: that failures in a row hold back calls is another test's matter.
        for replica in 0..3 {
            let other = rig.expired().await;
            assert_eq!(rig.get(&other, replica).await.status, 200, "{}", row.name);
        }
        rig.echo.forget();
    }
    let others = 3 * rows.len();
    // All recover by themselves, on every replica, with the token that was presented before.
    for (index, (row, person)) in rows.iter().zip(&people).enumerate() {
        rig.echo.forget();
        rig.until(person, index % 3, 200).await;
        let answers = rig.burst(person, 3).await;
        assert!(
            answers.iter().all(|answer| answer.status == 200),
            "{}",
            row.name
        );
        rig.assert_renewed(person);
        assert_eq!(rig.generation(person), Some(1), "{}", row.name);
    }
    assert_eq!(rig.provider.reused(), 0);
    assert_eq!(rig.provider.active_grants(), rows.len() + others);
    assert_eq!(rig.refreshes("success"), (rows.len() + others) as u64);
    assert_eq!(rig.refreshes("rejected"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_honoured_by_all_replicas() {
    // REFRESH-38; RFC 9110 §10.2.3 knows it with 503 as well.
    let asked = vec![("retry-after".to_owned(), PAUSE.to_string())];
    let busy = Fault::Status(503, asked, "busy".to_owned());
    let limited = assert_pause_kept("429", Fault::RetryAfter(PAUSE), "rate_limited");
    let busy = assert_pause_kept("503", busy, "unavailable");
    tokio::join!(limited, busy);
}

/// What the provider asks for, in seconds: more than a burst of requests takes.
const PAUSE: u64 = 5;

async fn assert_pause_kept(name: &str, fault: Fault, result: &str) {
    let rig = Rig::new();
    let (person, other) = (rig.expired().await, rig.expired().await);
    rig.provider.fault(Endpoint::Refresh, fault);
    let asked = Instant::now();
    let answer = rig.get(&person, 1).await;
    let wait = assert_unavailable(&answer, "provider_unavailable", name);
    // Never sooner than the provider wants to be asked.
    let sooner = Duration::from_secs(wait) + asked.elapsed() < Duration::from_secs(PAUSE);
    assert!(!sooner && wait <= PAUSE + 1, "{name}: Retry-After: {wait}");
    assert_eq!(rig.refreshes(result), 1, "{name}");
    for answer in rig.burst(&person, 30).await {
        assert_unavailable(&answer, "provider_unavailable", name);
    }
    // The provider asked the client to pause, not one session.
    let answer = rig.get(&other, 1).await;
    assert_unavailable(&answer, "provider_unavailable", name);
    assert_eq!(rig.calls(), 1, "{name}");
    for replica in [0, 2, 1] {
        rig.until(&person, replica, 200).await;
    }
    let asked = rig.provider.requests(Endpoint::Refresh);
    let pause = asked[1].at.duration_since(asked[0].at);
    assert!(
        pause >= Duration::from_secs(PAUSE),
        "{name}: asked again after {pause:?}"
    );
    rig.until(&other, 1, 200).await;
    assert_eq!((rig.calls(), rig.provider.reused()), (3, 0), "{name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_fails_everyone_is_asked_less_until_a_probe_succeeds() {
    let rig = Rig::with(1, |_| {}, |setup| setup);
    let people = rig.all_expired(12).await;
    rig.provider.always(Endpoint::Refresh, [Fault::status(503)]);
    let open = || {
        let labels = [("calls", "refresh"), ("provider", "provider")];
        rig.fleet[0].metric("daypass_provider_circuit_open", &labels) > 0.5
    };
    assert!(!open());
    for person in &people {
        let answer = rig.get(person, 0).await;
        assert_unavailable(&answer, "provider_unavailable", "failing");
    }
    // The fifth failure in a row was one too many; the first pause is a second, and may be over on a slow machine.
    assert!((5..=7).contains(&rig.calls()), "{} calls", rig.calls());
    assert!(open());
    // Refreshes that fail stop no login.
    let newcomer = rig.sign_in().await;
    assert_eq!(rig.get(&newcomer, 0).await.status, 200);
    rig.provider.behave();
    for person in &people {
        rig.until(person, 0, 200).await;
        assert_eq!(rig.generation(person), Some(1));
    }
    assert!(!open());
    assert_eq!(rig.provider.reused(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_never_answers_is_left_after_its_time_and_loses_nobody() {
    // Given up after `refresh_patience`, then left in peace for a while (REFRESH-13).
    let rig = Rig::with(
        2,
        |_| {},
        |setup| {
            setup
                .set("provider.timeout", "1s")
                .set("provider.refresh_patience", "2s")
        },
    );
    let person = rig.expired().await;
    rig.echo.forget();
    rig.provider.always(Endpoint::Refresh, [Fault::Stall]);
    let began = Instant::now();
    while rig.refreshes("unavailable") == 0 {
        for answer in rig.burst(&person, 4).await {
            assert_unavailable(&answer, "provider_unavailable", "stalled");
        }
        assert!(began.elapsed() < PATIENCE, "nobody gives up");
    }
    tokio::task::block_in_place(|| rig.wait_for_calls(1));
    // One by the flight that gave up, one by the next if there is one already.
    assert!((1..=2).contains(&rig.calls()), "{} calls", rig.calls());
    assert_eq!((rig.generation(&person), rig.echo.count()), (Some(0), 0));
    rig.provider.behave();
    for replica in 0..2 {
        rig.until(&person, replica, 200).await;
    }
    rig.assert_renewed(&person);
    assert_eq!(rig.provider.reused(), 0, "it had done nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_token_is_served_whatever_the_provider_says_to_renewal() {
    // Invariant 3 with 4: inside the window a failing provider costs nobody anything. A slow machine needs a longer window.
    for life in [5, 15, 45].map(Duration::from_secs) {
        if renew_in_vain(life).await {
            return;
        }
    }
    panic!("this machine is too slow to tell");
}

/// `false`: it took too long to tell.
async fn renew_in_vain(life: Duration) -> bool {
    let rig = Rig::new();
    let person = rig.sign_in_for(life).await;
    let signed_in = Instant::now();
    rig.echo.forget();
    rig.provider.always(Endpoint::Refresh, [Fault::status(500)]);
    tokio::time::sleep(life * 23 / 40).await;
    let began = Instant::now();
    let mut answers = Vec::new();
    for _ in 0..3 {
        answers.extend(rig.burst(&person, 9).await);
    }
    let tried = daypass_testbed::raw::wait_for(PATIENCE, || {
        (rig.refreshes("unavailable") > 0).then_some(())
    });
    let calls = rig.calls();
    if signed_in.elapsed() > life * 8 / 10 {
        return false;
    }
    for answer in answers {
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert!(tried.is_some(), "it was tried");
    rig.assert_first_token(&person);
    let most = 2 + began.elapsed().as_secs();
    assert!(calls as u64 <= most, "{calls} calls, at most one a second");
    rig.provider.behave();
    rig.wait_until_renewed(&person).await;
    assert_eq!(rig.provider.reused(), 0);
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_new_refresh_token_the_old_one_stays() {
    // REFRESH-08, REFRESH-30.
    let rig = Rig::new();
    let person = rig.expired().await;
    let short = Fault::Answer(json!({"expires_in": 3}));
    rig.provider
        .faults(Endpoint::Refresh, [Fault::NoRefreshToken, short.clone()]);
    rig.provider.faults(Endpoint::Refresh, [short]);
    for replica in 0..3 {
        assert_eq!(rig.get(&person, replica).await.status, 200);
        // This one's life, by which it has run out.
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    let requests = rig.provider.requests(Endpoint::Refresh);
    let shown: Vec<_> = requests
        .iter()
        .map(|call| call.param("refresh_token"))
        .collect();
    assert_eq!(shown.len(), 3);
    assert_eq!(shown[0], shown[1], "the old one");
    assert_ne!(shown[1], shown[2], "and then the one that replaced it");
    assert!(requests.iter().all(|call| call.param("scope").is_none()));
    // REFRESH-40.
    assert!(requests.iter().all(|call| call.client_auth == "basic"));
    assert_eq!(rig.provider.reused(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_expires_in_the_token_or_the_configuration_tells() {
    // REFRESH-26, REFRESH-27.
    let rig = Rig::with(
        2,
        |settings| settings.access_ttl = Duration::from_secs(120),
        |setup| setup.set("provider.default_token_lifetime", "40s"),
    );
    for (name, form, fault, least, most) in [
        (
            "exp of a JWT",
            AccessTokenForm::Jwt,
            Fault::NoExpiresIn,
            90,
            120,
        ),
        (
            "opaque",
            AccessTokenForm::Opaque,
            Fault::NoExpiresIn,
            20,
            40,
        ),
        (
            "text",
            AccessTokenForm::Opaque,
            Fault::Answer(json!({"expires_in": "70"})),
            45,
            70,
        ),
        (
            "negative",
            AccessTokenForm::Opaque,
            Fault::Answer(json!({"expires_in": -1})),
            20,
            40,
        ),
        (
            "null",
            AccessTokenForm::Jwt,
            Fault::Answer(json!({"expires_in": null})),
            90,
            120,
        ),
    ] {
        rig.provider
            .configure(|settings| settings.access_token = form);
        let person = rig.expired().await;
        rig.provider.fault(Endpoint::Refresh, fault);
        assert_eq!(rig.get(&person, 1).await.status, 200, "{name}");
        // Learns of it where nobody has told it yet: what it has cached has run out.
        assert_eq!(rig.get(&person, 0).await.status, 200, "{name}");
        let told = rig.session(&person, 0).await.json();
        let left = told["token"]["expires_in_seconds"]
            .as_u64()
            .expect("seconds");
        assert!((least..=most).contains(&left), "{name}: {left}");
    }
    assert_eq!((rig.calls(), rig.provider.reused()), (5, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_grant_ends_the_session_everywhere() {
    // REFRESH-15, REFRESH-21, SESS-04.
    let rig = Rig::new();
    let person = rig.expired().await;
    for replica in 0..3 {
        assert_eq!(rig.session(&person, replica).await.status, 200);
    }
    rig.echo.forget();
    rig.provider.revoke_all();
    for (index, answer) in rig.burst(&person, 30).await.iter().enumerate() {
        assert_refused(answer, "revoked", &format!("request {index}"));
    }
    assert_eq!(rig.calls(), 1);
    assert_eq!(rig.keys(), [""; 0], "neither record nor lease");
    for replica in 0..3 {
        let call = rig.call(&person, replica, "/orders").navigation();
        let answer = call.send().await.expect("an answer");
        let location = answer.location().unwrap_or_default();
        let login = format!("{}/authorize?", rig.provider.issuer());
        assert!(location.starts_with(&login), "{} {location}", answer.status);
        let told = rig.session(&person, replica).await;
        assert_refused(&told, "revoked", "session");
    }
    assert_eq!(rig.echo.count(), 0);
    assert_eq!((rig.calls(), rig.provider.reused()), (1, 0));
    assert_eq!(rig.refreshes("rejected"), 1);
    let ends = "daypass_session_ends_total";
    assert_eq!(rig.counted(ends, &[("reason", "refresh_rejected")]), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_refresh_token_the_session_ends_with_its_token() {
    // REFRESH-29.
    let rig = Rig::with(2, |settings| settings.refresh_tokens = false, |setup| setup);
    let person = rig.expired().await;
    for replica in 0..2 {
        assert_refused(&rig.get(&person, replica).await, "expired", "API");
        let call = rig.call(&person, replica, "/orders").navigation();
        let answer = call.send().await.expect("an answer");
        assert!(answer.location().is_some(), "{}", answer.status);
    }
    assert_eq!(rig.calls(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refreshed_id_token_is_held_against_the_first() {
    // REFRESH-31, OIDC Core §12.2.
    let rig = Rig::new();
    let another_day = Fault::Claims(json!({"auth_time": 1}));
    let mut waiting = Vec::new();
    for (name, fault, ends) in [
        ("another subject", Fault::ForeignSubject, true),
        ("another issuer", Fault::WrongIssuer, false),
        ("another audience", Fault::WrongAudience, false),
        ("another sign-in", another_day, false),
        ("bad signature", Fault::BadSignature, false),
        ("unsigned", Fault::AlgNone, false),
    ] {
        let person = rig.expired().await;
        assert_eq!(rig.session(&person, 1).await.status, 200, "{name}");
        rig.echo.forget();
        rig.provider.forget_requests();
        rig.provider.fault(Endpoint::Refresh, fault);
        let answer = rig.get(&person, 1).await;
        assert_eq!((rig.calls(), rig.echo.count()), (1, 0), "{name}");
        if ends {
            assert_refused(&answer, "revoked", name);
            assert_eq!(rig.generation(&person), None, "{name}");
            // What came with it is nobody's.
            let revoked = rig.provider.wait_for_count(Endpoint::Revoke, 1, PATIENCE);
            assert!(revoked, "{name}");
        } else {
            assert_unavailable(&answer, "provider_unavailable", name);
            let shown = rig.provider.requests(Endpoint::Refresh);
            waiting.push((
                name,
                person,
                shown[0].param("refresh_token").map(str::to_owned),
            ));
        }
    }
    // Nothing was used of the answers that prove nothing, but the rotated token in them was kept, or all were lost.
    for (name, person, shown) in waiting {
        rig.echo.forget();
        rig.provider.forget_requests();
        rig.until(&person, 2, 200).await;
        rig.assert_renewed(&person);
        let asked = rig.provider.requests(Endpoint::Refresh);
        assert_ne!(asked[0].param("refresh_token"), shown.as_deref(), "{name}");
    }
    assert_eq!(rig.provider.reused(), 0);
    let ends = "daypass_session_ends_total";
    assert_eq!(rig.counted(ends, &[("reason", "identity_changed")]), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_without_id_token_keeps_the_first_one() {
    let rig = Rig::with(
        2,
        |settings| settings.id_token_on_refresh = false,
        |setup| setup,
    );
    let person = rig.expired().await;
    assert_eq!(rig.get(&person, 1).await.status, 200);
    // It is still there to be the hint of a logout.
    let url = rig.fleet[0].url("/oauth2/logout");
    let answer = person.client.navigate(url).send().await.expect("an answer");
    let location = answer.location().expect("a way to the provider");
    let location = url::Url::parse(&location).expect("a URL");
    let hint = location
        .query_pairs()
        .find(|(name, _)| name == "id_token_hint");
    let hint = hint.expect("a hint").1.into_owned();
    assert!(daypass_testbed::provider::verify(&hint, &rig.provider.jwks()).is_some());
    assert_eq!((rig.calls(), rig.provider.reused()), (1, 0));
}
