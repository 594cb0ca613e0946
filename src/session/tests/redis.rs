//! Shows what holds on Redis alone: sealing, deadlines, reconnection, TTLs, forgotten scripts.

use super::*;

fn open(config: &model::Session) -> (Sessions, Arc<Metrics>) {
    let metrics = metrics();
    let sessions = Sessions::open(config, Arc::new(SystemClock), Arc::clone(&metrics)).unwrap();
    (sessions, metrics)
}

fn now() -> Timestamp {
    SystemClock.now()
}

/// The one record in an otherwise empty database.
fn record_key(server: &RedisServer) -> String {
    server.cli(&["KEYS", "daypass:s:*"])
}

fn pttl(server: &RedisServer, key: &str) -> i64 {
    server.cli(&["PTTL", key]).parse().unwrap()
}

#[tokio::test]
async fn nothing_in_redis_tells_the_cookie_or_a_token() {
    // SESS-01, SESS-02.
    let server = RedisServer::start();
    let (sessions, _) = open(&server.config());
    let id = sessions.create(session_at(now())).await.unwrap();
    let lease = granted(sessions.lease(&id, 0).await);
    sessions
        .commit(&id, &lease, &tokens(1, now()))
        .await
        .unwrap();
    let record = record_key(&server);
    let dump = server.cli(&["--no-raw", "HGETALL", &record]);
    for secret in [id.expose(), "at-1", "rt-1", "rt-0", "alice"] {
        assert!(
            !dump.contains(secret) && !record.contains(secret),
            "{secret}"
        );
    }
    assert!(
        record.contains('{') && record.ends_with('}'),
        "one slot: {record}"
    );
}

#[tokio::test]
async fn a_record_that_was_touched_from_outside_is_a_miss_and_never_an_error() {
    // PRODUCT §4: tampering, truncation, a record moved to another key, an unknown key id.
    let server = RedisServer::start();
    let (sessions, metrics) = open(&server.config());
    let spoil: [(&str, &str); 5] = [
        (
            "cut",
            "redis.call('HSET', KEYS[1], 'd', string.sub(redis.call('HGET', KEYS[1], 'd'), 1, 30))",
        ),
        ("emptied", "redis.call('HSET', KEYS[1], 'd', '')"),
        ("field gone", "redis.call('HDEL', KEYS[1], 'd')"),
        (
            "another type",
            "redis.call('DEL', KEYS[1]) redis.call('SET', KEYS[1], 'x')",
        ),
        (
            "bit flipped",
            "local d = redis.call('HGET', KEYS[1], 'd') redis.call('HSET', KEYS[1], 'd', string.sub(d, 1, -2) .. string.char((string.byte(d, -1) + 1) % 256))",
        ),
    ];
    for (name, script) in spoil {
        server.cli(&["FLUSHALL"]);
        let id = sessions.create(session_at(now())).await.unwrap();
        server.cli(&["EVAL", script, "1", &record_key(&server)]);
        assert_eq!(missing(sessions.load(&id).await), Gone::Revoked, "{name}");
    }

    server.cli(&["FLUSHALL"]);
    let id = sessions.create(session_at(now())).await.unwrap();
    let first = record_key(&server);
    let other = sessions.create(session_at(now())).await.unwrap();
    let keys = server.cli(&["KEYS", "daypass:s:*"]);
    let second = keys.lines().find(|k| *k != first).unwrap();
    server.cli(&["RENAME", &first, second]);
    assert_eq!(missing(sessions.load(&other).await), Gone::Revoked, "moved");
    assert_eq!(missing(sessions.load(&id).await), Gone::Revoked);

    server.cli(&["FLUSHALL"]);
    let mut foreign = server.config();
    foreign.keys = vec![crate::secret::SealingKey::new(
        "/////////////////////////////////////////w8=",
    )];
    let id = sessions.create(session_at(now())).await.unwrap();
    assert_eq!(
        missing(open(&foreign).0.load(&id).await),
        Gone::Unknown,
        "foreign key"
    );
    let corrupt = metric(
        &metrics,
        r#"daypass_store_operations_total{op="load",result="corrupt"}"#,
    );
    assert!(corrupt >= 4.0, "{corrupt}");
}

#[tokio::test]
async fn a_record_lives_as_long_as_it_can_be_used_and_use_extends_it_now_and_then() {
    // SESS-03, PRODUCT §4: TTL = what is left; idle time without a write per request.
    let server = RedisServer::start();
    let mut config = server.config();
    config.idle_timeout = Some(Duration::from_secs(100));
    let (sessions, metrics) = open(&config);
    let mut session = session_at(now());
    session.expires_at = now().plus(Duration::from_secs(40));
    sessions.create(session).await.unwrap();
    let ttl = pttl(&server, &record_key(&server));
    assert!((38_000..=40_000).contains(&ttl), "absolute: {ttl}");

    server.cli(&["FLUSHALL"]);
    let id = sessions.create(session_at(now())).await.unwrap();
    let record = record_key(&server);
    let ttl = pttl(&server, &record);
    assert!((98_000..=100_000).contains(&ttl), "idle: {ttl}");

    let touches = || {
        metric(
            &metrics,
            r#"daypass_store_operations_total{op="touch",result="ok"}"#,
        )
    };
    server.cli(&["PEXPIRE", &record, "95000"]);
    found(sessions.load(&id).await);
    server.cli(&["PEXPIRE", &record, "50000"]);
    found(sessions.peek(&id).await);
    assert!(touches() < 0.5, "young enough, or no use");
    for _ in 0..50 {
        found(sessions.load(&id).await);
    }
    eventually("touched", async || pttl(&server, &record) > 95_000).await;
    assert!(
        (touches() - 1.0).abs() < f64::EPSILON,
        "one write for 50 requests"
    );
}

#[tokio::test]
async fn a_ttl_that_was_stretched_serves_nobody_beyond_the_lifetime() {
    let server = RedisServer::start();
    let (sessions, metrics) = open(&server.config());
    let mut session = session_at(now());
    session.expires_at = now().plus(Duration::from_millis(200));
    let id = sessions.create(session).await.unwrap();
    server.cli(&["PERSIST", &record_key(&server)]);
    tokio::time::sleep(Duration::from_millis(210)).await;
    assert_eq!(missing(sessions.load(&id).await), Gone::Expired);
    assert!(metric(&metrics, r#"daypass_session_ends_total{reason="expired"}"#) > 0.5);
}

#[tokio::test]
async fn idle_and_revoked_elsewhere_are_told_apart() {
    let server = RedisServer::start();
    let mut config = server.config();
    config.idle_timeout = Some(Duration::from_millis(400));
    let (one, _) = open(&config);
    let id = one.create(session_at(now())).await.unwrap();
    tokio::time::sleep(Duration::from_millis(420)).await;
    assert_eq!(missing(one.load(&id).await), Gone::Idle);

    let (two, _) = open(&server.config());
    let (three, _) = open(&server.config());
    let id = two.create(session_at(now())).await.unwrap();
    found(three.load(&id).await);
    two.delete(&id).await.unwrap();
    assert_eq!(missing(three.load(&id).await), Gone::Revoked);
    assert_eq!(
        missing(open(&server.config()).0.load(&id).await),
        Gone::Unknown
    );
}

#[tokio::test]
async fn touching_never_recreates_a_record() {
    let server = RedisServer::start();
    let (sessions, _) = open(&server.config());
    let id = sessions.create(session_at(now())).await.unwrap();
    server.cli(&["PEXPIRE", &record_key(&server), "1000"]);
    found(sessions.load(&id).await);
    sessions.delete(&id).await.unwrap();
    sessions.ping().await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(server.cli(&["DBSIZE"]), "0");
}

#[tokio::test]
async fn a_frozen_redis_costs_half_a_second_and_then_nothing() {
    // PRODUCT §7: no request waits more than 500 ms; an I/O error is no miss.
    let server = RedisServer::start();
    let (sessions, metrics) = open(&server.config());
    let id = sessions.create(session_at(now())).await.unwrap();
    server.signal("STOP");
    for _ in 0..2 {
        let start = Instant::now();
        let all: Vec<_> = (0..50)
            .map(|_| {
                let (sessions, id) = (sessions.clone(), id.clone());
                tokio::spawn(async move { sessions.load(&id).await.is_err() })
            })
            .collect();
        for one in all {
            assert!(one.await.unwrap());
        }
        assert!(
            start.elapsed() < Duration::from_millis(500),
            "{:?}",
            start.elapsed()
        );
    }
    assert_eq!(metrics.store_connected.get(), 0);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let start = Instant::now();
    assert!(sessions.delete(&id).await.is_err());
    assert!(
        start.elapsed() < Duration::from_millis(50),
        "a long outage is told at once"
    );

    server.signal("CONT");
    let start = Instant::now();
    eventually("thawed", async || sessions.load(&id).await.is_ok()).await;
    assert!(
        start.elapsed() < Duration::from_millis(1500),
        "{:?}",
        start.elapsed()
    );
    found(sessions.load(&id).await);
    assert_eq!(metrics.store_connected.get(), 1);
}

#[tokio::test]
async fn start_up_needs_no_redis_and_a_restart_heals_by_itself() {
    let mut server = RedisServer::start();
    server.kill();
    let (sessions, metrics) = open(&server.config());
    let start = Instant::now();
    assert!(sessions.create(session_at(now())).await.is_err());
    assert!(start.elapsed() < Duration::from_millis(500));
    assert_eq!(metrics.store_connected.get(), 0);

    server.restart();
    let start = Instant::now();
    eventually("up", async || sessions.ping().await.is_ok()).await;
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );

    // A connection that Redis closed is replaced within the request that finds out.
    let id = sessions.create(session_at(now())).await.unwrap();
    server.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    found(sessions.load(&id).await);

    server.restart();
    eventually("up again", async || sessions.ping().await.is_ok()).await;
    assert_eq!(
        missing(sessions.load(&id).await),
        Gone::Revoked,
        "Redis lost it"
    );
}

#[tokio::test]
async fn forgotten_scripts_are_loaded_again() {
    let server = RedisServer::start();
    let (sessions, _) = open(&server.config());
    let id = sessions.create(session_at(now())).await.unwrap();
    server.cli(&["SCRIPT", "FLUSH"]);
    let lease = granted(sessions.lease(&id, 0).await);
    server.cli(&["SCRIPT", "FLUSH"]);
    sessions
        .commit(&id, &lease, &tokens(1, now()))
        .await
        .unwrap();
    server.cli(&["SCRIPT", "FLUSH"]);
    assert_eq!(sessions.delete(&id).await.unwrap().unwrap().generation, 1);
}

#[tokio::test]
async fn a_commit_whose_answer_got_lost_is_recognised() {
    let server = RedisServer::start();
    let (sessions, _) = open(&server.config());
    let id = sessions.create(session_at(now())).await.unwrap();
    let lease = granted(sessions.lease(&id, 0).await);
    for _ in 0..2 {
        let answer = sessions
            .commit(&id, &lease, &tokens(1, now()))
            .await
            .unwrap();
        assert!(matches!(answer, CommitAnswer::Stored(_)), "{answer:?}");
    }
    assert_eq!(found(sessions.load(&id).await).session.generation, 1);
}

#[tokio::test]
async fn an_acl_user_with_the_documented_rights_is_enough_and_a_wrong_password_is_an_outage() {
    let server = RedisServer::start();
    server.cli(&[
        "ACL",
        "SETUSER",
        "daypass",
        "on",
        ">pa:ss/w@rd",
        "~daypass:*",
        "-@all",
        "+@connection",
        "+hget",
        "+hset",
        "+hmget",
        "+exists",
        "+get",
        "+set",
        "+del",
        "+pttl",
        "+pexpire",
        "+evalsha",
        "+script|load",
    ]);
    let mut store = server.store();
    store.username = Some("daypass".into());
    store.password = Some(crate::secret::StorePassword::new("pa:ss/w@rd"));
    let (sessions, _) = open(&config(model::Store::Redis(store.clone())));
    let id = sessions.create(session_at(now())).await.unwrap();
    let lease = granted(sessions.lease(&id, 0).await);
    sessions.renew(&id, &lease).await.unwrap();
    sessions
        .commit(&id, &lease, &tokens(1, now()))
        .await
        .unwrap();
    sessions.delete(&id).await.unwrap();

    let right = config(model::Store::Redis(store.clone()));
    store.password = Some(crate::secret::StorePassword::new("wrong"));
    let (sessions, _) = open(&config(model::Store::Redis(store)));
    assert!(sessions.load(&id).await.is_err());
    // A reload brings the right one.
    sessions.reconfigure(&right).unwrap();
    eventually("let in", async || sessions.ping().await.is_ok()).await;
}

#[tokio::test]
async fn unix_sockets_work() {
    let dir = std::env::temp_dir().join(format!("daypass-redis-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let socket = dir.join("redis.sock");
    let server = RedisServer::start_with(&["--unixsocket", socket.to_str().unwrap()]);
    let mut store = server.store();
    store.url = crate::secret::StoreUrl::new(format!("unix:{}", socket.display()));
    let (sessions, _) = open(&config(model::Store::Redis(store)));
    let id = sessions.create(session_at(now())).await.unwrap();
    found(sessions.load(&id).await);
    drop(server);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test]
async fn a_configuration_that_cannot_work_is_refused_without_quoting_it() {
    let server = RedisServer::start();
    let store = |change: &dyn Fn(&mut model::RedisStore)| {
        let mut store = server.store();
        change(&mut store);
        config(model::Store::Redis(store))
    };
    let url = |text: &'static str| {
        store(&|s: &mut model::RedisStore| s.url = crate::secret::StoreUrl::new(text))
    };
    for (name, config) in [
        ("no URL", url("s3cret")),
        ("another scheme", url("http://user:s3cret@localhost")),
        (
            "unverified TLS",
            url("rediss://user:s3cret@localhost/#insecure"),
        ),
        (
            "CA without TLS",
            store(&|s| s.ca_pem = Some(b"s3cret".to_vec())),
        ),
    ] {
        let error = Sessions::open(&config, Arc::new(SystemClock), metrics()).err();
        assert!(
            !error.as_ref().unwrap().contains("s3cret"),
            "{name}: {error:?}"
        );
    }
    assert!(
        Sessions::open(
            &url("rediss://localhost:6390/2"),
            Arc::new(SystemClock),
            metrics()
        )
        .is_ok()
    );

    let (sessions, _) = open(&server.config());
    assert!(sessions.reconfigure(&url("redis://127.0.0.1:1/0")).is_err());
    assert!(
        sessions
            .reconfigure(&store(&|s| s.key_prefix = "other:".into()))
            .is_err()
    );
    assert!(sessions.reconfigure(&memory_config(1)).is_err());
    assert!(sessions.reconfigure(&server.config()).is_ok());
}
