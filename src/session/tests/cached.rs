//! Shows with a real Redis that cached sessions cost no hop, end at once when they end elsewhere, and outlive an outage
//! for as long as was asked for and no longer.

use super::redis::{now, open, record_key, tracked};
use super::*;

/// How often Redis was asked for a record.
fn reads(metrics: &Metrics) -> f64 {
    ["ok", "miss", "error", "timeout"]
        .iter()
        .map(|result| {
            let series =
                format!(r#"daypass_store_operations_total{{op="load",result="{result}"}}"#);
            metric(metrics, &series)
        })
        .sum()
}

pub(super) fn looked_up(metrics: &Metrics, result: &str) -> f64 {
    let series = format!(r#"daypass_session_cache_requests_total{{result="{result}"}}"#);
    metric(metrics, &series)
}

async fn is_missing(sessions: &Sessions, id: &SessionId) -> bool {
    matches!(sessions.load(id).await, Ok(Lookup::Missing(_)))
}

/// A replica that is told of changes, and has the session cached.
async fn replica(config: &model::Session, id: &SessionId) -> (Sessions, Arc<Metrics>) {
    let (sessions, metrics) = open(config);
    found(sessions.load(id).await);
    tracked(&metrics).await;
    found(sessions.load(id).await);
    (sessions, metrics)
}

fn with_staleness(server: &RedisServer, limit: Duration) -> model::Session {
    model::Session {
        max_staleness: limit,
        ..server.config()
    }
}

/// Identifier of the tracking connections.
fn trackers(server: &RedisServer) -> Vec<String> {
    let clients = server.cli(&["CLIENT", "LIST"]);
    let field = |line: &str, name: &str| {
        let mut fields = line.split(' ').filter_map(|field| field.split_once('='));
        let found = fields.find(|(key, _)| *key == name);
        found.map(|(_, value)| value.to_owned()).unwrap_or_default()
    };
    clients
        .lines()
        .filter(|line| field(line, "flags").contains('B'))
        .map(|line| field(line, "id"))
        .collect()
}

#[tokio::test]
async fn a_cached_session_costs_redis_nothing() {
    let server = RedisServer::start();
    let (one, _) = open(&server.config());
    let id = one.create(session_at(now())).await.unwrap();
    let (two, metrics) = replica(&server.config(), &id).await;
    let (before, hits) = (reads(&metrics), looked_up(&metrics, "hit"));
    // Trust may lapse on a machine that stands still; it does not do so all the time.
    let all_hits = async || {
        let (before, hits) = (reads(&metrics), looked_up(&metrics, "hit"));
        for _ in 0..100 {
            found(two.load(&id).await);
            found(two.peek(&id).await);
        }
        (reads(&metrics) - before).abs() < 0.5 && looked_up(&metrics, "hit") - hits > 199.5
    };
    eventually("hits only", all_hits).await;
    assert!(reads(&metrics) >= before && looked_up(&metrics, "hit") > hits);
    let entries = &metrics.session_cache_entries;
    eventually("the gauge tells", async || entries.get() == 1).await;
    assert_eq!(two.held(), 1);
    let one_each = async || trackers(&server).len() == 1;
    eventually("one connection per replica", one_each).await;
}

#[tokio::test]
async fn a_logout_on_one_replica_counts_on_the_other_and_wakes_who_waits_there() {
    let server = RedisServer::start();
    let (one, _) = open(&server.config());
    let id = one.create(session_at(now())).await.unwrap();
    let (two, _) = replica(&server.config(), &id).await;
    let mut changed = two.watch(&id);
    let logout = one.delete(&id).await.unwrap();
    assert!(logout.is_some());
    let woken = tokio::time::timeout(Duration::from_secs(5), changed.next());
    assert!(woken.await.is_ok());
    assert_eq!(missing(two.load(&id).await), Gone::Revoked);
    assert_eq!(two.held(), 0);
}

#[tokio::test]
async fn a_logout_here_counts_before_it_is_answered() {
    let server = RedisServer::start();
    let (one, _) = open(&server.config());
    for _ in 0..50 {
        let id = one.create(session_at(now())).await.unwrap();
        found(one.load(&id).await);
        // Reads race with it; none of them may bring it back.
        let racing: Vec<_> = (0..4)
            .map(|_| {
                let (sessions, id) = (one.clone(), id.clone());
                tokio::spawn(async move { drop(sessions.load(&id).await) })
            })
            .collect();
        one.delete(&id).await.unwrap();
        assert_eq!(missing(one.load(&id).await), Gone::Revoked);
        for one in racing {
            one.await.unwrap();
        }
        assert_eq!(missing(one.load(&id).await), Gone::Revoked);
    }
}

#[tokio::test]
async fn a_logout_without_an_answer_leaves_nothing_cached() {
    let server = RedisServer::start();
    let (one, _) = open(&server.config());
    let id = one.create(session_at(now())).await.unwrap();
    let (two, _) = replica(&server.config(), &id).await;
    server.signal("STOP");
    let answer = two.delete(&id).await;
    assert!(answer.is_err());
    assert!(two.load(&id).await.is_err(), "neither there nor gone");
    server.signal("CONT");
}

#[tokio::test]
async fn a_refresh_elsewhere_brings_the_new_tokens() {
    let server = RedisServer::start();
    let (one, _) = open(&server.config());
    let id = one.create(session_at(now())).await.unwrap();
    let (two, _) = replica(&server.config(), &id).await;
    found(one.load(&id).await);
    for n in 1..4 {
        let lease = granted(one.lease(&id, n - 1).await);
        let tokens = tokens(n, now());
        one.commit(&id, &lease, &tokens).await.unwrap();
        let here = found(one.load(&id).await).session.generation;
        assert_eq!(here, n, "who committed sees it at once");
        let newer = async || found(two.load(&id).await).session.generation == n;
        eventually("the other sees it", newer).await;
    }
}

#[tokio::test]
async fn use_elsewhere_extends_the_idle_time_here() {
    // On the local end of the idle time Redis is asked.
    let server = RedisServer::start();
    let mut config = server.config();
    config.idle_timeout = Some(Duration::from_secs(600));
    let (one, _) = open(&config);
    let id = one.create(session_at(now())).await.unwrap();
    let record = record_key(&server);
    server.cli(&["PEXPIRE", &record, "3000"]);
    let (two, _) = open(&config);
    found(two.peek(&id).await);
    server.cli(&["PEXPIRE", &record, "500000"]);
    tokio::time::sleep(Duration::from_millis(3010)).await;
    found(two.peek(&id).await);
}

#[tokio::test]
async fn without_the_tracking_connection_nothing_cached_is_believed() {
    let server = RedisServer::start();
    let (one, _) = open(&server.config());
    let id = one.create(session_at(now())).await.unwrap();
    let other = one.create(session_at(now())).await.unwrap();
    let (two, metrics) = replica(&server.config(), &id).await;
    found(two.load(&other).await);
    for client in trackers(&server) {
        server.cli(&["CLIENT", "KILL", "ID", &client]);
    }
    one.delete(&id).await.unwrap();
    eventually("refused", async || is_missing(&two, &id).await).await;
    tracked(&metrics).await;
    // Tracked again, or still about to be: what was read before is read again, once.
    let before = reads(&metrics);
    eventually("read again", async || {
        found(two.load(&other).await);
        reads(&metrics) > before
    })
    .await;
}

#[tokio::test]
async fn a_frozen_redis_is_noticed_and_cached_sessions_do_not_wait_for_it() {
    let server = RedisServer::start();
    let (one, _) = open(&server.config());
    let id = one.create(session_at(now())).await.unwrap();
    let unread = one.create(session_at(now())).await.unwrap();
    let limit = Duration::from_secs(5);
    let (two, metrics) = replica(&with_staleness(&server, limit), &id).await;
    let mut frozen = Instant::now();
    let enough = Duration::from_millis(400);
    takes_less_than(enough, async || {
        server.signal("CONT");
        eventually("thawed", async || two.ping().await.is_ok()).await;
        tracked(&metrics).await;
        found(two.load(&id).await);
        let stale = looked_up(&metrics, "stale");
        server.signal("STOP");
        frozen = Instant::now();
        let mut slowest = Duration::ZERO;
        // Until after the heartbeat: served, and nobody waits for a deadline.
        while looked_up(&metrics, "stale") < stale + 20.0 {
            let start = Instant::now();
            found(two.load(&id).await);
            slowest = slowest.max(start.elapsed());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        slowest
    })
    .await;
    let enough = Duration::from_millis(600);
    takes_less_than(enough, async || {
        let start = Instant::now();
        assert!(two.load(&unread).await.is_err());
        start.elapsed()
    })
    .await;
    let mut served = frozen;
    eventually("max_staleness ends it", async || {
        let start = Instant::now();
        let ended = two.load(&id).await.is_err();
        if !ended {
            served = start;
        }
        ended
    })
    .await;
    assert!(served < frozen + limit + Duration::from_secs(2));
    server.signal("CONT");
    eventually("thawed", async || two.load(&id).await.is_ok()).await;
    tracked(&metrics).await;
    found(two.load(&id).await);
}

#[tokio::test]
async fn a_redis_that_is_gone_is_outlived_for_max_staleness_and_not_believed_when_it_is_back() {
    for (name, limit) in [("0", Duration::ZERO), ("long", Duration::from_secs(60))] {
        let mut server = RedisServer::start();
        let (one, _) = open(&server.config());
        let id = one.create(session_at(now())).await.unwrap();
        let (two, metrics) = replica(&with_staleness(&server, limit), &id).await;
        server.kill();
        if limit.is_zero() {
            eventually("fails closed", async || two.load(&id).await.is_err()).await;
        } else {
            eventually("noticed", async || {
                found(two.load(&id).await);
                looked_up(&metrics, "stale") > 10.0
            })
            .await;
            assert_eq!(metrics.session_cache_tracking.get(), 0);
        }
        // It comes back, and has lost everything.
        server.restart();
        eventually("up", async || is_missing(&two, &id).await).await;
        assert_eq!(missing(two.load(&id).await), Gone::Revoked, "{name}");
        tracked(&metrics).await;
    }
}

#[tokio::test]
async fn a_redis_that_may_not_tell_is_believed_for_a_second() {
    let server = RedisServer::start();
    let rights = testing::documented_rights("### Servers");
    let user = ["ACL", "SETUSER", "daypass", "on", ">pw"];
    let rights = rights
        .split(' ')
        .filter(|right| *right != "+client|tracking");
    server.cli(&user.into_iter().chain(rights).collect::<Vec<_>>());
    let mut store = server.store();
    store.username = Some("daypass".into());
    store.password = Some(crate::secret::StorePassword::new("pw"));
    let (one, _) = open(&server.config());
    let id = one.create(session_at(now())).await.unwrap();
    let (two, metrics) = open(&config(model::Store::Redis(Box::new(store))));
    let hit = async || {
        found(two.load(&id).await);
        looked_up(&metrics, "hit") > 0.5
    };
    eventually("believed for a moment", hit).await;
    assert_eq!(metrics.session_cache_tracking.get(), 0);
    one.delete(&id).await.unwrap();
    let start = Instant::now();
    eventually("refused", async || is_missing(&two, &id).await).await;
    assert!(start.elapsed() < Duration::from_secs(3));

    // Its own changes it knows at once.
    let id = two.create(session_at(now())).await.unwrap();
    found(two.load(&id).await);
    let lease = granted(two.lease(&id, 0).await);
    let tokens = tokens(1, now());
    two.commit(&id, &lease, &tokens).await.unwrap();
    assert_eq!(found(two.load(&id).await).session.generation, 1);
    two.delete(&id).await.unwrap();
    assert_eq!(missing(two.load(&id).await), Gone::Revoked);
}

#[tokio::test]
async fn a_proxy_that_keeps_the_pushes_to_itself_is_found_out() {
    believed_for_a_moment_through(Odd::Deaf).await;
}

#[tokio::test]
async fn a_proxy_that_hangs_up_on_what_it_does_not_know_is_done_without() {
    believed_for_a_moment_through(Odd::HangsUp).await;
}

async fn believed_for_a_moment_through(odd: Odd) {
    let server = RedisServer::start();
    let (one, _) = open(&server.config());
    let id = one.create(session_at(now())).await.unwrap();
    let (proxy, swallowed) = odd_proxy(server.port, odd).await;
    let store = store_at(&format!("redis://{proxy}/0"));
    let (two, metrics) = open(&config(model::Store::Redis(Box::new(store))));
    let hit = async || {
        found(two.load(&id).await);
        looked_up(&metrics, "hit") > 0.5
    };
    eventually("believed for a moment", hit).await;
    assert_eq!(metrics.session_cache_tracking.get(), 0);
    assert!(swallowed.load(Ordering::SeqCst) > 0);
    one.delete(&id).await.unwrap();
    let start = Instant::now();
    eventually("refused", async || is_missing(&two, &id).await).await;
    assert!(start.elapsed() < Duration::from_secs(3));
    let gone = async || server.cli(&["KEYS", "daypass:p:*"]).is_empty();
    eventually("nothing is left of the probe", gone).await;
}

#[tokio::test]
async fn tracking_does_without_proof_where_nothing_can_be_written() {
    let server = RedisServer::start();
    let (one, _) = open(&server.config());
    let id = one.create(session_at(now())).await.unwrap();
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let (two, metrics) = open(&server.config());
    found(two.load(&id).await);
    tracked(&metrics).await;
    one.delete(&id).await.unwrap();
    eventually("told", async || is_missing(&two, &id).await).await;
}

#[tokio::test]
async fn a_flushed_database_ends_all_sessions() {
    let server = RedisServer::start();
    let (one, _) = open(&server.config());
    let id = one.create(session_at(now())).await.unwrap();
    let (two, _) = replica(&server.config(), &id).await;
    for command in ["FLUSHALL", "FLUSHDB"] {
        let id = one.create(session_at(now())).await.unwrap();
        found(two.load(&id).await);
        server.cli(&[command]);
        eventually(command, async || is_missing(&two, &id).await).await;
    }
    assert_eq!(missing(two.load(&id).await), Gone::Revoked);
}

#[tokio::test]
async fn a_demoted_master_is_read_but_not_trusted_and_used_again_when_it_is_promoted() {
    let server = RedisServer::start();
    let (sessions, metrics) = open(&server.config());
    let id = sessions.create(session_at(now())).await.unwrap();
    found(sessions.load(&id).await);
    tracked(&metrics).await;
    // Of a master that nobody reaches: the data stay.
    server.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    let lost = async || metrics.session_cache_tracking.get() == 0;
    eventually("noticed by heartbeat", lost).await;
    let (began, before) = (Instant::now(), server.connections());
    for _ in 0..200 {
        assert!(sessions.create(session_at(now())).await.is_err());
    }
    let made = server.connections() - before;
    // Commands and tracking look whether the name leads elsewhere by now: now and then, not each time.
    let paced = 10 + u64::try_from(began.elapsed().as_millis() / 50).unwrap();
    assert!(made < paced.min(200), "{made} connections");
    eventually("read", async || sessions.load(&id).await.is_ok()).await;
    server.cli(&["REPLICAOF", "NO", "ONE"]);
    tracked(&metrics).await;
    let login = async || sessions.create(session_at(now())).await.is_ok();
    eventually("logins work again", login).await;
    found(sessions.load(&id).await);
}

#[tokio::test]
async fn a_key_that_was_taken_away_opens_nothing_that_is_cached() {
    let server = RedisServer::start();
    let (one, _) = open(&server.config());
    let id = one.create(session_at(now())).await.unwrap();
    let (two, _) = replica(&server.config(), &id).await;
    let mut config = server.config();
    two.reconfigure(&config).unwrap();
    assert_eq!(two.held(), 1, "the same keys: it stays");
    config.keys = vec![crate::secret::SealingKey::new(
        "/////////////////////////////////////////w8=",
    )];
    two.reconfigure(&config).unwrap();
    assert_eq!(missing(two.load(&id).await), Gone::Revoked);
}

#[tokio::test]
#[ignore = "a measurement: run with --ignored --nocapture"]
async fn measure_how_soon_a_logout_counts_elsewhere() {
    const ROUNDS: usize = 500;
    let server = RedisServer::start();
    let (one, _) = open(&server.config());
    let id = one.create(session_at(now())).await.unwrap();
    let (two, _) = replica(&server.config(), &id).await;
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        let id = one.create(session_at(now())).await.unwrap();
        while two.held() == 0 {
            found(two.load(&id).await);
        }
        let start = Instant::now();
        let logout = tokio::spawn({
            let (one, id) = (one.clone(), id.clone());
            async move { one.delete(&id).await }
        });
        while !is_missing(&two, &id).await {
            tokio::task::yield_now().await;
        }
        took.push(start.elapsed());
        logout.await.unwrap().unwrap();
    }
    took.sort();
    println!(
        "logout here, refused there: p50 {:?}, p99 {:?}, max {:?}",
        took[ROUNDS / 2],
        took[ROUNDS * 99 / 100],
        took[ROUNDS - 1]
    );
}

#[tokio::test]
#[ignore = "a measurement: run with --ignored --nocapture"]
async fn measure_the_memory_of_a_cached_session() {
    const SESSIONS: usize = 40_000;
    /// What is there once, whatever the number of sessions, is there after these.
    const WARM: usize = 10_000;
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages = status.split(' ').nth(1).unwrap();
        pages.parse::<usize>().unwrap() * 4096
    };
    let server = RedisServer::start();
    let mut config = server.config();
    config.cache_entries = 2 * SESSIONS;
    let (one, _) = open(&server.config());
    let token = |n: usize| format!("{n:08}{}", "x".repeat(1016));
    let mut ids = Vec::new();
    for n in 0..SESSIONS {
        let mut session = session_at(now());
        let access = AccessToken::new(token(n));
        session.tokens = Arc::new(Tokens {
            bearer: bearer(&access),
            access,
            refresh: Some(RefreshToken::new(token(n))),
            id: Some(IdToken::new(token(n))),
            ..tokens(0, now())
        });
        let serde_json::Value::Object(claims) = serde_json::json!({
            "sub": "248289761001", "name": "Jane Doe", "preferred_username": "jane",
            "email": "jane.doe@example.com", "email_verified": true, "iss": "https://login.example.com/realms/acme",
            "aud": "shop", "iat": 1_700_000_000, "exp": 1_700_000_300, "groups": ["admin", "ops", "staff"],
        }) else {
            unreachable!("an object was written");
        };
        session.claims = Arc::new(claims.into());
        ids.push(one.create(session).await.unwrap());
    }
    let (two, _) = open(&config);
    for id in &ids[..WARM] {
        found(two.load(id).await);
    }
    let (before, held) = (resident(), two.held());
    for id in &ids[WARM..] {
        found(two.load(id).await);
    }
    let each = (resident() - before) / (two.held() - held);
    println!(
        "{} cached sessions: {each} bytes each, {} beyond three tokens of 1 KiB",
        two.held(),
        each - 3 * 1024
    );
    assert!(each <= (3 + 3) * 1024);
}
