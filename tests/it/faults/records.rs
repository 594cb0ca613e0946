//! Shows what Redis holds of a session: nothing readable, nothing that can be tampered with, and nothing once it is over.

use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use daypass_testbed::client::Client;
use daypass_testbed::daypass::{Daypass, Setup};
use daypass_testbed::echo::Echo;
use daypass_testbed::provider::{Endpoint, Fault, Provider, random};
use daypass_testbed::raw::wait_for;
use daypass_testbed::secrets;
use serde_json::json;

use super::rig::{PATIENCE, Person, Rig, assert_refused};
use crate::BINARY;

impl Person {
    /// The session cookie's value.
    fn cookie(&self) -> String {
        let jar = self.client.jar();
        let mut long = jar
            .cookies()
            .iter()
            .filter(|cookie| cookie.value.len() == 43);
        long.next().expect("a session cookie").value.clone()
    }
}

/// Every file below `directory`, in one.
fn files(directory: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            all.extend(files(&path));
        } else if path.is_file() {
            all.extend(std::fs::read(&path).unwrap_or_default());
        }
    }
    all
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_never_told_a_cookie_a_token_or_a_name() {
    // PRODUCT §4. The append-only file holds every write Redis was ever asked for, so nothing can have been there for a
    // while only.
    let rig = Rig::with(2, |_| {}, |setup| setup);
    let (person, leaver, stuck) = (
        rig.expired().await,
        rig.expired().await,
        rig.expired().await,
    );
    for person in [&person, &leaver] {
        assert_eq!(rig.get(person, 1).await.status, 200);
    }
    let cookies = [person.cookie(), leaver.cookie(), stuck.cookie()];
    assert_eq!(rig.log_out(&leaver, 0).await.status, 204);
    // A lease is among it.
    rig.provider.fault(Endpoint::Refresh, Fault::Stall);
    rig.ask_and_leave(&stuck, 0).await;
    let directory = rig.redis.command(&["CONFIG", "GET", "dir"]).strings();
    let written = files(Path::new(&directory[1]));
    for marker in [
        person.record.as_bytes(),
        leaver.lease().as_bytes(),
        stuck.lease().as_bytes(),
    ] {
        assert!(
            contains(&written, marker),
            "the file is the one to look into"
        );
    }
    let mut secrets = rig.provider.issued_secrets();
    assert!(secrets.len() > 12, "logins and refreshes");
    secrets.extend(cookies.clone());
    // Claims are nobody's business either.
    secrets.extend(["Jane Doe", "jane@example.com", "248289761001"].map(ToOwned::to_owned));
    for secret in secrets {
        assert!(!contains(&written, secret.as_bytes()), "{secret}");
    }
    for cookie in cookies {
        let bytes = URL_SAFE_NO_PAD.decode(cookie).expect("base64");
        assert!(!contains(&written, &bytes), "the cookie's bytes");
    }
    rig.provider.release();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_was_tampered_with_is_no_session_and_no_error() {
    // SESS: sealed under key and cookie, bound to its place.
    const FLIP: &str = "local d, i = redis.call('HGET', KEYS[1], 'd'), tonumber(ARGV[1])
        if i < 0 then i = #d + i + 1 end
        redis.call('HSET', KEYS[1], 'd', d:sub(1, i - 1) .. string.char(bit.bxor(d:byte(i), 1)) .. d:sub(i + 1))";
    const CUT: &str = "local d = redis.call('HGET', KEYS[1], 'd')
        redis.call('HSET', KEYS[1], 'd', d:sub(1, tonumber(ARGV[1])))";
    const GROW: &str =
        "redis.call('HSET', KEYS[1], 'd', redis.call('HGET', KEYS[1], 'd') .. ARGV[1])";
    const PUT: &str = "redis.call('HSET', KEYS[1], 'd', ARGV[1])";
    const TAKE: &str = "redis.call('HDEL', KEYS[1], ARGV[1])";
    const RETYPE: &str = "redis.call('DEL', KEYS[1]) redis.call('RPUSH', KEYS[1], ARGV[1])";
    const SWAP: &str = "redis.call('COPY', ARGV[1], KEYS[1], 'REPLACE')";
    let rig = Rig::with(2, |_| {}, |setup| setup);
    let (person, other) = (rig.sign_in().await, rig.sign_in().await);
    rig.redis.command(&["COPY", &person.record, "kept"]);
    assert_eq!(rig.get(&person, 0).await.status, 200);
    for (name, script, argument) in [
        ("version flipped", FLIP, "1"),
        ("key id flipped", FLIP, "3"),
        ("nonce flipped", FLIP, "8"),
        ("text flipped", FLIP, "40"),
        ("tag flipped", FLIP, "-1"),
        ("cut to nothing", CUT, "0"),
        ("cut in the header", CUT, "10"),
        ("cut to the header", CUT, "17"),
        ("cut in the tag", CUT, "30"),
        ("last byte cut", CUT, "-2"),
        ("grown", GROW, "x"),
        ("text", PUT, "hello"),
        ("JSON", PUT, r#"{"subject":"admin"}"#),
        ("no data", TAKE, "d"),
        ("another type", RETYPE, "x"),
        ("another session's", SWAP, &other.record),
    ] {
        let done = rig
            .redis
            .command(&["EVAL", script, "1", &person.record, argument]);
        assert!(
            !matches!(done, daypass_testbed::redis::Reply::Error(_)),
            "{name}: {done:?}"
        );
        // What a replica had cached is dropped when it is told, a moment after Redis answered us.
        for replica in 0..2 {
            rig.until(&person, replica, 401).await;
        }
        rig.echo.forget();
        for replica in 0..2 {
            let answer = rig.get(&person, replica).await;
            assert_eq!(answer.status, 401, "{name}: {}", answer.text());
            assert_eq!(rig.session(&person, replica).await.status, 401, "{name}");
            let call = rig.call(&person, replica, "/orders").navigation();
            let answer = call.send().await.expect("an answer");
            assert_eq!(answer.status, 302, "{name}: {}", answer.text());
        }
        assert_eq!(rig.echo.count(), 0, "{name}");
        // As it was, it opens again: it was the change that closed it.
        rig.redis
            .command(&["COPY", "kept", &person.record, "REPLACE"]);
        assert_eq!(rig.get(&person, 1).await.status, 200, "{name}");
    }
    assert_eq!(
        rig.get(&other, 0).await.status,
        200,
        "the other one was not touched"
    );
    let corrupt = [("op", "load"), ("result", "corrupt")];
    assert!(rig.counted("daypass_store_operations_total", &corrupt) > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated_without_signing_anyone_out() {
    // PRODUCT §2 `session.keys`: the first seals, all open.
    let key = || {
        let key = random(32);
        secrets::record("session key", &key);
        key
    };
    let (old, new) = (key(), key());
    let mut rig = Rig::with(2, |_| {}, |setup| setup.set("session.keys", json!([old])));
    let (idler, user) = (rig.expired().await, rig.expired().await);
    let mut reload = |keys: serde_json::Value| {
        for replica in &mut rig.fleet {
            let done = replica.metric("daypass_config_reloads_total", &[("result", "success")]);
            replica.change(|setup| setup.set("session.keys", keys.clone()));
            replica.hup();
            let reloaded = wait_for(PATIENCE, || {
                let now = replica.metric("daypass_config_reloads_total", &[("result", "success")]);
                (now > done).then_some(())
            });
            assert!(reloaded.is_some(), "{}", replica.log());
        }
    };
    // First every replica learns to open with the new one, then it begins to seal.
    reload(json!([old, new]));
    reload(json!([new, old]));
    assert_eq!(rig.session(&idler, 0).await.status, 200);
    // A refresh seals anew.
    assert_eq!(rig.get(&user, 1).await.status, 200);
    assert_eq!(rig.get(&user, 0).await.status, 200);
    let mut reload = |keys: serde_json::Value| {
        for replica in &mut rig.fleet {
            replica.change(|setup| setup.set("session.keys", keys.clone()));
            replica.restart();
            replica.wait_ready();
        }
    };
    reload(json!([new]));
    for replica in 0..2 {
        assert_eq!(
            rig.get(&user, replica).await.status,
            200,
            "sealed under the new key"
        );
        // Sealed under a key that is gone: signed out, which is why the old key is kept for a session's life.
        assert_refused(&rig.get(&idler, replica).await, "no_session", "the old key");
    }
    assert_eq!((rig.calls(), rig.provider.reused()), (1, 0));
}

/// A session must be used so often.
const STEP: Duration = Duration::from_millis(600);
const LIFETIME: Duration = Duration::from_secs(5);
/// For longer than it may be idle.
const ROUNDS: usize = 10;

#[tokio::test(flavor = "multi_thread")]
async fn idle_sessions_end_and_used_ones_do_not() {
    // Three stores' worth of clocks at once: Redis with idle time-out, memory with idle time-out, Redis with a lifetime.
    let idle = |setup: Setup| setup.set("session.idle_timeout", "5s");
    let on_redis = Rig::with(2, |_| {}, idle);
    let brief = Rig::with(
        2,
        |_| {},
        |setup| {
            setup
                .set("session.lifetime", "5s")
                .set("session.idle_timeout", "0")
        },
    );
    let on_redis = async {
        let rig = on_redis;
        let (user, looker) = (rig.sign_in().await, rig.sign_in().await);
        assert_eq!(rig.session(&user, 0).await.status, 200);
        for round in 0..ROUNDS {
            tokio::time::sleep(STEP).await;
            // Used on one replica, it lives on all. Looking at it is no use.
            assert_eq!(rig.get(&user, 1).await.status, 200, "round {round}");
            let looked = rig.session(&looker, round % 2).await;
            if looked.status != 200 {
                assert_refused(&looked, "idle", "only looked at");
            }
        }
        assert_refused(&rig.get(&looker, 0).await, "idle", "only looked at");
        tokio::time::sleep(Duration::from_millis(5500)).await;
        // The last use is written down beside its answer.
        let gone = wait_for(PATIENCE, || rig.keys().is_empty().then_some(()));
        assert!(gone.is_some(), "{:?}", rig.keys());
        for replica in 0..2 {
            assert_refused(&rig.get(&user, replica).await, "idle", "Redis");
        }
        assert_eq!(rig.keys(), [""; 0], "nothing is left");
    };
    let in_memory = async {
        let (provider, echo) = (Provider::start(), Echo::start());
        let daypass = Daypass::ready(BINARY, idle(Setup::new(&provider, &echo.url())));
        let client = Client::new();
        let get = async || {
            let sent = client.get(daypass.url("/orders")).send().await;
            sent.expect("an answer")
        };
        client.browse(daypass.url("/")).await.expect("the way in");
        for round in 0..ROUNDS {
            tokio::time::sleep(STEP).await;
            assert_eq!(get().await.status, 200, "round {round}");
        }
        tokio::time::sleep(Duration::from_millis(5500)).await;
        assert_refused(&get().await, "idle", "memory");
    };
    let lifetime = async {
        let rig = brief;
        let began = Instant::now();
        let person = rig.sign_in().await;
        let signed_in = Instant::now();
        assert_eq!(rig.session(&person, 0).await.status, 200);
        let mut used = 0;
        // Use does not extend it: from its beginning, which lies between the two.
        while began.elapsed() < LIFETIME {
            let answer = rig.get(&person, 1).await;
            if began.elapsed() < LIFETIME {
                assert_eq!(answer.status, 200);
                used += 1;
            }
            tokio::time::sleep(STEP / 2).await;
        }
        assert!(used > 0);
        tokio::time::sleep((LIFETIME + STEP).saturating_sub(signed_in.elapsed())).await;
        for replica in 0..2 {
            assert_refused(&rig.get(&person, replica).await, "expired", "lifetime");
        }
        assert_eq!(rig.keys(), [""; 0], "nothing is left");
        let ends = rig.counted("daypass_session_ends_total", &[("reason", "expired")]);
        // The last request of the loop may have come just after the end.
        assert!((2..=3).contains(&ends), "{ends}: each replica, once");
    };
    tokio::join!(on_redis, in_memory, lifetime);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_holds_a_session_for_as_long_as_it_can_be_used() {
    let rig = Rig::with(
        2,
        |_| {},
        |setup| {
            setup
                .set("session.lifetime", "10m")
                .set("session.idle_timeout", "5m")
        },
    );
    let person = rig.expired().await;
    let left = rig.redis.ttl(&person.record).expect("an end");
    assert!(
        left <= Duration::from_secs(300) && left > Duration::from_secs(250),
        "{left:?}"
    );
    assert_eq!(rig.get(&person, 1).await.status, 200);
    assert_eq!(
        rig.keys(),
        std::slice::from_ref(&person.record),
        "no lease once it is refreshed"
    );
    assert_eq!(rig.log_out(&person, 0).await.status, 204);
    assert_eq!(rig.keys(), [""; 0]);
    // Asking with what is left in other tabs brings nothing back.
    for replica in 0..2 {
        assert_eq!(rig.get(&person, replica).await.status, 401);
    }
    assert_eq!(rig.keys(), [""; 0]);
}
