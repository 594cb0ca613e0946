//! Shows what a record in Redis gives away, how long it lives, and what tampering with it does.

use super::*;

pub(super) fn open(config: &model::Session) -> (Sessions, Arc<Metrics>) {
    let metrics = metrics();
    let sessions = Sessions::open(config, Arc::new(SystemClock), Arc::clone(&metrics)).unwrap();
    (sessions, metrics)
}

pub(super) fn now() -> Timestamp {
    SystemClock.now()
}

/// Redis tells of changes.
pub(super) async fn tracked(metrics: &Metrics) {
    let gauge = &metrics.session_cache_tracking;
    eventually("tracked", async || gauge.get() == 1).await;
}

/// The one record in an otherwise empty database.
pub(super) fn record_key(server: &RedisServer) -> String {
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
    assert!((30_000..=40_000).contains(&ttl), "absolute: {ttl}");

    server.cli(&["FLUSHALL"]);
    let id = sessions.create(session_at(now())).await.unwrap();
    let record = record_key(&server);
    let ttl = pttl(&server, &record);
    assert!((90_000..=100_000).contains(&ttl), "idle: {ttl}");

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
    // Counted when the answer is here.
    eventually("counted", async || touches() > 0.5).await;
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
    session.expires_at = now().plus(Duration::from_secs(3));
    let id = sessions.create(session).await.unwrap();
    server.cli(&["PERSIST", &record_key(&server)]);
    tokio::time::sleep(Duration::from_millis(3010)).await;
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
    server.cli(&["PEXPIRE", &record_key(&server), "60000"]);
    found(sessions.load(&id).await);
    sessions.delete(&id).await.unwrap();
    sessions.ping().await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(record_key(&server), "");
}

#[tokio::test]
async fn an_idle_time_that_could_not_be_extended_is_tried_again_soon() {
    let server = RedisServer::start();
    let (sessions, _) = open(&server.config());
    let id = sessions.create(session_at(now())).await.unwrap();
    let (key, half_an_hour) = (record_key(&server), 1_800_000);
    server.cli(&["PEXPIRE", &key, &half_an_hour.to_string()]);
    server.cli(&["ACL", "SETUSER", "default", "-pexpire"]);
    let refused = async || {
        found(sessions.load(&id).await);
        server
            .cli(&["INFO", "errorstats"])
            .contains("errorstat_NOPERM")
    };
    eventually("refused", refused).await;
    server.cli(&["ACL", "SETUSER", "default", "+pexpire"]);
    // By itself it would be six minutes until the next try.
    let extended = async || {
        found(sessions.load(&id).await);
        pttl(&server, &key) > half_an_hour
    };
    eventually("extended", extended).await;
}
