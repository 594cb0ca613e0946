//! Shows what is served when the provider or Redis is away (PRODUCT contract §7), and that daypass recovers by itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use daypass_testbed::breakable::{Breakable, Mode};
use daypass_testbed::client::{Client, Response};
use daypass_testbed::daypass::{Daypass, Setup};
use daypass_testbed::echo::Echo;
use daypass_testbed::provider::{Endpoint, Fault, Provider};
use daypass_testbed::raw::wait_for;
use daypass_testbed::redis::Redis;

use crate::BINARY;
use crate::faults::rig::{PATIENCE, Person, Rig, assert_unavailable, counted};

/// A request waits for the store for 500 ms at most; the rest is this machine's.
const NOT_LONG: Duration = Duration::from_secs(2);
/// "Recovers promptly": pauses between attempts are far below a second.
const SOON: Duration = Duration::from_secs(5);

async fn get(client: &Client, url: String) -> Response {
    client.get(url).send().await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn daypass_starts_and_stays_up_with_the_provider_down() {
    let (mut provider, echo) = (Provider::start(), Echo::start());
    provider.stop();
    // Ready: no other replica would fare better.
    let daypass = Daypass::ready(BINARY, Setup::new(&provider, &echo.url()));
    let (_, report) = daypass.admin_get("/readyz").expect("an answer");
    assert!(report.contains("unreachable"), "it tells, though: {report}");
    let client = Client::new();
    let public = get(&client, daypass.url("/public/x")).await;
    assert_eq!((public.status, echo.count()), (200, 1));
    for path in ["/orders", "/oauth2/login"] {
        let call = client.navigate(daypass.url(path));
        let page = call.send().await.expect("an answer");
        assert_eq!(page.status, 503, "{path}: {}", page.text());
        let kind = page.header("content-type").unwrap_or_default().to_owned();
        assert!(kind.starts_with("text/html"), "{path}: {kind}");
        assert!(page.header("retry-after").is_some(), "{path}");
    }
    let answer = get(&client, daypass.url("/oauth2/login")).await;
    assert_unavailable(&answer, "provider_unavailable", "login by API");
    assert_eq!(echo.count(), 1, "nothing else was forwarded");
    provider.resume();
    let back = wait_for(PATIENCE, || {
        let (_, report) = daypass.admin_get("/readyz")?;
        (!report.contains("unreachable")).then_some(())
    });
    assert!(back.is_some(), "it notices without being asked");
    let page = client
        .browse(daypass.url("/orders"))
        .await
        .expect("the way in");
    assert_eq!(page.status, 200, "{}", page.text());
    assert!(echo.last().expect("forwarded").bearer().is_some());
    assert_eq!(
        counted(&daypass, "daypass_logins_total", &[("result", "success")]),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn daypass_starts_with_redis_down_and_gets_ready_when_it_comes() {
    let (provider, echo, mut redis) = (Provider::start(), Echo::start(), Redis::start());
    redis.kill();
    let daypass = Daypass::start(BINARY, Setup::new(&provider, &echo.url()).redis(&redis));
    let client = Client::new();
    assert_eq!(get(&client, daypass.url("/public/x")).await.status, 200);
    assert_eq!(daypass.admin_get("/healthz").expect("an answer").0, 200);
    assert_eq!(daypass.admin_get("/readyz").expect("an answer").0, 503);
    assert_eq!(counted(&daypass, "daypass_store_connected", &[]), 0);
    redis.restart();
    let began = Instant::now();
    daypass.wait_ready();
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    let page = client
        .browse(daypass.url("/orders"))
        .await
        .expect("the way in");
    assert_eq!(page.status, 200, "{}", page.text());
    assert_eq!(counted(&daypass, "daypass_store_connected", &[]), 1);
}

/// What holds for sessions that no replica has cached, for as long as Redis does not answer, whatever the reason.
async fn assert_store_away(rig: &Rig, name: &str, fresh: &Person, expired: &Person) {
    for replica in 0..rig.fleet.len() {
        for (token, person) in [("fresh", fresh), ("expired", expired)] {
            let row = format!("{name}, {token} token, replica {replica}");
            let jar = person.client.jar().clone();
            let began = Instant::now();
            let answer = rig.get(person, replica).await;
            assert!(began.elapsed() < NOT_LONG, "{row}: {:?}", began.elapsed());
            assert_unavailable(&answer, "store_unavailable", &row);
            let told = rig.session(person, replica).await;
            assert_unavailable(&told, "store_unavailable", &row);
            // A browser gets a page, and neither a login nor another cookie.
            let call = rig.call(person, replica, "/orders").navigation();
            let page = call.send().await.expect("an answer");
            assert_eq!(
                (page.status, page.header("set-cookie")),
                (503, None),
                "{row}"
            );
            // Nobody is told that they are signed out when they may not be.
            let left = rig.log_out(person, replica).await;
            assert_unavailable(&left, "store_unavailable", &row);
            assert_eq!(person.client.jar().cookies(), jar.cookies(), "{row}");
        }
        let row = format!("{name}, replica {replica}");
        let began = Instant::now();
        let public = rig.call(fresh, replica, "/public/x").send().await;
        assert_eq!(public.expect("an answer").status, 200, "{row}");
        assert!(
            began.elapsed() < NOT_LONG,
            "{row}: public routes ask no store"
        );
        assert_eq!(
            rig.fleet[replica]
                .admin_get("/healthz")
                .expect("an answer")
                .0,
            200
        );
        let down = wait_for(SOON, || {
            let connected = rig.fleet[replica].metric("daypass_store_connected", &[]);
            (connected < 0.5).then_some(())
        });
        assert!(down.is_some(), "{row}: the metric tells");
    }
    // There is nowhere to put a session: nobody is sent to type a password first.
    let asked = rig.provider.count(Endpoint::Authorize);
    let daypass = &rig.fleet[0];
    for path in ["/orders", "/oauth2/login?redirect=%2Forders"] {
        let row = format!("{name}, login by {path}");
        let stranger = Client::new();
        let page = stranger.browse(daypass.url(path)).await.expect("a page");
        assert_eq!(
            page.url.path(),
            path.split('?').next().expect("a path"),
            "{row}"
        );
        assert_eq!(
            (page.status, page.header("retry-after")),
            (503, Some("5")),
            "{row}"
        );
        assert!(
            page.text().contains("<a class=\"button"),
            "{row}: a way forward"
        );
        assert!(
            stranger.jar().cookies().is_empty(),
            "{row}: nothing has begun"
        );
    }
    let login = daypass.url("/oauth2/login");
    let answer = get(&Client::new(), login).await;
    assert_unavailable(
        &answer,
        "store_unavailable",
        &format!("{name}, login by API"),
    );
    assert_eq!(rig.provider.count(Endpoint::Authorize), asked, "{name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_down_or_frozen_costs_503_where_nothing_is_cached_and_nothing_else() {
    // REFRESH-37: without the lease's keeper no token is presented.
    for name in ["down", "frozen"] {
        let mut rig = Rig::with(2, |_| {}, |setup| setup);
        let (fresh, expired) = (rig.sign_in().await, rig.expired().await);
        // Who signed them in has them cached.
        rig.fleet[0].kill();
        rig.fleet[0].restart();
        rig.echo.forget();
        if name == "down" {
            rig.redis.kill();
        } else {
            rig.redis.pause();
        }
        assert_store_away(&rig, name, &fresh, &expired).await;
        assert_eq!(rig.calls(), 0, "{name}: no token was presented");
        let forwarded = rig.echo.requests();
        let all_public = forwarded
            .iter()
            .all(|request| request.target == "/public/x");
        assert!(
            all_public && forwarded.len() == 2,
            "{name}: {}",
            forwarded.len()
        );
        if name == "down" {
            rig.redis.restart();
        } else {
            rig.redis.resume();
        }
        let began = Instant::now();
        rig.echo.forget();
        for replica in 0..2 {
            rig.until(&fresh, replica, 200).await;
            rig.until(&expired, replica, 200).await;
        }
        assert!(
            began.elapsed() < SOON,
            "{name}: back after {:?}",
            began.elapsed()
        );
        assert_eq!((rig.calls(), rig.provider.reused()), (1, 0), "{name}");
        let ends = rig.counted("daypass_session_ends_total", &[]);
        assert_eq!(ends, 0, "{name}: nobody's session ended");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_token_waits_for_redis_to_come_back() {
    // REFRESH-07: the provider's answer comes when Redis cannot take it.
    for name in ["restarted", "frozen", "out of memory"] {
        let mut rig = Rig::with(2, |_| {}, |setup| setup);
        let person = rig.expired().await;
        rig.echo.forget();
        rig.provider.fault(Endpoint::Refresh, Fault::StallAnswer);
        rig.ask_and_leave(&person, 0).await;
        match name {
            "restarted" => rig.redis.kill(),
            "frozen" => rig.redis.pause(),
            _ => drop(rig.redis.command(&["CONFIG", "SET", "maxmemory", "1"])),
        }
        rig.provider.release();
        let reported =
            rig.fleet[0].wait_for_log(&["refreshed tokens are not stored yet"], PATIENCE);
        assert!(reported.is_some(), "{name}: it tries, and says so");
        // REFRESH-06: nobody is served from an answer that is not stored, nor waits for it long; and it is not the provider
        // that is to blame.
        let asked = Instant::now();
        let answer = rig.get(&person, 0).await;
        assert_unavailable(&answer, "store_unavailable", name);
        assert!(asked.elapsed() < Duration::from_secs(2), "{name}");
        assert_eq!(rig.echo.count(), 0, "{name}");
        match name {
            "restarted" => rig.redis.restart(),
            "frozen" => rig.redis.resume(),
            _ => drop(rig.redis.command(&["CONFIG", "SET", "maxmemory", "0"])),
        }
        rig.wait_for_generation(&person, 1);
        for replica in 0..2 {
            rig.until(&person, replica, 200).await;
        }
        rig.assert_renewed(&person);
        assert_eq!(
            (rig.calls(), rig.provider.reused()),
            (1, 0),
            "{name}: presented once"
        );
        rig.assert_refreshes("success", 1);
        assert_eq!(
            rig.keys(),
            std::slice::from_ref(&person.record),
            "{name}: no lease is left"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_survives_restarts_of_redis_between_requests() {
    let mut rig = Rig::with(2, |_| {}, |setup| setup);
    let person = rig.expired().await;
    let mut unnoticed = 0;
    for round in 0..3 {
        rig.redis.restart();
        // Broken connections are found when they are used, and the command is sent again on a new one.
        let answer = rig.get(&person, round % 2).await;
        if answer.status == 200 {
            unnoticed += 1;
        } else {
            // Where the restart takes long, as on a machine that stands still now and then.
            assert_unavailable(&answer, "store_unavailable", &format!("round {round}"));
            rig.until(&person, round % 2, 200).await;
        }
    }
    assert!(unnoticed > 0, "each time");
    assert_eq!((rig.calls(), rig.provider.reused()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_forgets_everything_signs_people_out_and_breaks_nothing() {
    let rig = Rig::with(2, |_| {}, |setup| setup);
    let (fresh, expired) = (rig.sign_in().await, rig.expired().await);
    rig.provider.fault(Endpoint::Refresh, Fault::StallAnswer);
    rig.ask_and_leave(&expired, 0).await;
    rig.redis.flush();
    // The scripts are gone as well.
    rig.redis.command(&["SCRIPT", "FLUSH"]);
    rig.provider.release();
    for person in [&fresh, &expired] {
        for replica in 0..2 {
            // Redis tells them within milliseconds.
            rig.until(person, replica, 401).await;
        }
    }
    // Tokens of a session that is gone are revoked, not left to live on.
    assert!(rig.provider.wait_for_count(Endpoint::Revoke, 1, PATIENCE));
    assert_eq!(rig.keys(), [""; 0], "and nothing brought it back");
    let again = rig.expired().await;
    assert_eq!(rig.get(&again, 1).await.status, 200);
    assert_eq!(rig.provider.reused(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_and_no_provider_cost_503_on_the_memory_store_too() {
    let (mut provider, echo) = (Provider::start(), Echo::start());
    let daypass = Daypass::ready(BINARY, Setup::new(&provider, &echo.url()));
    let client = Client::new();
    let brief = serde_json::json!({"expires_in": 0.1});
    provider.fault(Endpoint::Token, Fault::Answer(brief));
    let login = daypass.url("/oauth2/login?redirect=/public/in");
    assert_eq!(client.browse(login).await.expect("the way in").status, 200);
    tokio::time::sleep(Duration::from_millis(100)).await;
    provider.stop();
    for _ in 0..3 {
        let answer = get(&client, daypass.url("/orders")).await;
        assert_unavailable(&answer, "provider_unavailable", "API");
    }
    let call = client.navigate(daypass.url("/orders"));
    let page = call.send().await.expect("an answer");
    assert_eq!(
        (page.status, page.location()),
        (503, None),
        "no login: the session lives"
    );
    provider.resume();
    let deadline = Instant::now() + PATIENCE;
    while get(&client, daypass.url("/orders")).await.status != 200 {
        assert!(Instant::now() < deadline, "it recovers");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(
        (provider.count(Endpoint::Refresh), provider.reused()),
        (1, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_whose_connections_break_all_the_time_costs_no_session() {
    // Every command may be lost on the way there or back: each must be safe to send again.
    const PEOPLE: usize = 20;
    let (provider, echo, redis) = (Provider::start(), Echo::start(), Redis::start());
    let way = Breakable::start(redis.address());
    let setup = Setup::new(&provider, &echo.url()).redis(&redis);
    let setup = setup.set("session.store", format!("redis://{}/0", way.address()));
    let rig = Rig {
        fleet: Daypass::fleet(BINARY, &setup, 2),
        redis,
        provider,
        echo,
    };
    let people = rig.all_expired(PEOPLE).await;
    rig.echo.forget();
    let over = AtomicBool::new(false);
    let breaking = async {
        // Now and then there is time for a command and its answer, also where everything takes longer.
        for passes in [60, 60, 60, 250].into_iter().cycle() {
            if over.load(Ordering::Relaxed) {
                return;
            }
            way.set(Mode::Cut);
            tokio::time::sleep(Duration::from_millis(15)).await;
            way.set(Mode::Pass);
            tokio::time::sleep(Duration::from_millis(passes)).await;
        }
    };
    let lost = || {
        let lines = rig.fleet[0].lines();
        let lost = |line: &&String| line.contains("session store connection lost");
        lines.iter().filter(lost).count()
    };
    let asking = async {
        let began = Instant::now();
        // All are renewed in the first round; the others go on until connections have broken often enough.
        loop {
            let asked = people.iter().enumerate();
            let asked = asked.map(|(index, person)| rig.until(person, index % 2, 200));
            futures_util::future::join_all(asked).await;
            if lost() > 1 || began.elapsed() > PATIENCE {
                break;
            }
        }
        over.store(true, Ordering::Relaxed);
    };
    tokio::join!(breaking, asking);
    for (index, person) in people.iter().enumerate() {
        rig.until(person, (index + 1) % 2, 200).await;
    }
    assert_eq!(
        (rig.calls(), rig.provider.reused()),
        (PEOPLE, 0),
        "each presented once"
    );
    assert_eq!(rig.provider.active_grants(), PEOPLE);
    assert_eq!(rig.counted("daypass_session_ends_total", &[]), 0);
    assert!(lost() > 1, "they did break");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_whose_grant_was_never_heard_keeps_nobody_waiting() {
    // Redis stalls just then: the lease is there, and its holder does not know. It need not wait for itself.
    let (provider, echo, redis) = (Provider::start(), Echo::start(), Redis::start());
    let way = Breakable::start(redis.address());
    let setup = Setup::new(&provider, &echo.url()).redis(&redis);
    let setup = setup.set("session.store", format!("redis://{}/0", way.address()));
    let rig = Rig {
        fleet: Daypass::fleet(BINARY, &setup, 1),
        redis,
        provider,
        echo,
    };
    let (earlier, person) = (rig.expired().await, rig.expired().await);
    // Redis knows the scripts from then on, and needs one round trip for each.
    assert_eq!(rig.get(&earlier, 0).await.status, 200);
    way.swallow_answer_to(&person.lease());
    let answer = rig.get(&person, 0).await;
    assert_unavailable(&answer, "store_unavailable", "the grant was not heard");
    assert_eq!(rig.calls(), 1, "it was not acted on");
    let granted = wait_for(SOON, || rig.keys().contains(&person.lease()).then_some(()));
    assert!(granted.is_some(), "granted");
    way.set(Mode::Pass);
    let began = Instant::now();
    rig.until(&person, 0, 200).await;
    assert!(
        began.elapsed() < SOON,
        "it waited for itself: {:?}",
        began.elapsed()
    );
    assert_eq!((rig.calls(), rig.provider.reused()), (2, 0));
}
