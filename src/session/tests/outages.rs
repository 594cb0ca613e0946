//! Shows that Redis' failures cost half a second at most, lose nothing and heal by themselves.

use super::redis::{now, open, record_key, tracked};
use super::*;

/// No request waits longer for a store that does not answer.
const HALF_A_SECOND: Duration = Duration::from_millis(500);

/// How many commands were given up on at their deadlines.
fn timeouts(metrics: &Metrics) -> f64 {
    let of = |op| format!(r#"daypass_store_operations_total{{op="{op}",result="timeout"}}"#);
    ["load", "create", "delete"]
        .map(|op| metric(metrics, &of(op)))
        .iter()
        .sum()
}

#[tokio::test]
async fn a_frozen_redis_costs_half_a_second_and_then_nothing() {
    // PRODUCT §7: no request waits more than 500 ms; an I/O error is no miss.
    let server = RedisServer::start();
    let (sessions, metrics) = open(&server.config());
    sessions.ping().await.unwrap();
    // Which this process has never met.
    let id = open(&server.config()).0.create(session_at(now())).await;
    let id = id.unwrap();
    let all_refused = async || {
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
        start.elapsed()
    };
    takes_less_than(HALF_A_SECOND, async || {
        server.signal("CONT");
        eventually("thawed", async || sessions.ping().await.is_ok()).await;
        server.signal("STOP");
        // First they wait for an answer, then for a connection.
        all_refused().await.max(all_refused().await)
    })
    .await;
    assert_eq!(metrics.store_connected.get(), 0);

    let soon = Duration::from_millis(1500);
    let mut young = Vec::new();
    takes_less_than(soon, async || {
        server.signal("STOP");
        let frozen = Instant::now();
        eventually("a long outage is told at once", async || {
            let start = Instant::now();
            assert!(sessions.delete(&id).await.is_err());
            start.elapsed() < Duration::from_millis(50)
        })
        .await;
        young.push(frozen.elapsed());
        server.signal("CONT");
        let start = Instant::now();
        eventually("thawed", async || sessions.load(&id).await.is_ok()).await;
        start.elapsed()
    })
    .await;
    let young = young.into_iter().min().unwrap_or_default();
    assert!(young < Duration::from_secs(4), "not long: {young:?}");
    found(sessions.load(&id).await);
    assert_eq!(metrics.store_connected.get(), 1);
}

#[tokio::test]
async fn what_redis_said_while_this_process_was_frozen_is_heard() {
    let server = RedisServer::start();
    let (sessions, metrics) = open(&server.config());
    // A few tries: should it be Redis that stands still, nothing is there to be heard.
    eventually("heard", async || {
        eventually("up", async || sessions.ping().await.is_ok()).await;
        server.signal("STOP");
        let mut asked = std::pin::pin!(sessions.ping());
        assert!(futures_util::poll!(asked.as_mut()).is_pending());
        // One thread does all the work of this test: the connection's task sends it, and does not run while that sleeps.
        tokio::task::yield_now().await;
        server.signal("CONT");
        std::thread::sleep(Duration::from_millis(1200));
        asked.await.is_ok() && metrics.store_connected.get() == 1
    })
    .await;
}

#[tokio::test]
async fn a_server_that_takes_connections_and_says_nothing_is_given_up_in_time() {
    let server = RedisServer::start();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut store = server.store();
    let url = format!("redis://{}/0", silent.local_addr().unwrap());
    store.url = crate::secret::StoreUrl::new(url);
    let config = config(model::Store::Redis(Box::new(store)));
    let id = SessionId::generate();
    takes_less_than(HALF_A_SECOND, async || {
        let (sessions, metrics) = open(&config);
        let mut longest = Duration::ZERO;
        for _ in 0..3 {
            let start = Instant::now();
            assert!(sessions.load(&id).await.is_err());
            longest = longest.max(start.elapsed());
        }
        assert_eq!(metrics.store_connected.get(), 0);
        assert!(timeouts(&metrics) > 0.5);
        longest
    })
    .await;
}

#[tokio::test]
async fn a_refused_command_is_an_error_and_no_reason_to_reconnect() {
    let server = RedisServer::start();
    let (sessions, metrics) = open(&server.config());
    let id = sessions.create(session_at(now())).await.unwrap();
    found(sessions.load(&id).await);
    tracked(&metrics).await;
    let lease = granted(sessions.lease(&id, 0).await);
    sessions
        .commit(&id, &lease, &tokens(1, now()))
        .await
        .unwrap();
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    // Connections may be lost on a machine that stands still; not each time.
    eventually("no reconnect", async || {
        let before = server.connections();
        assert!(sessions.create(session_at(now())).await.is_err(), "OOM");
        let lease = sessions.lease(&id, 1).await;
        assert!(lease.is_err(), "no lease, no presenting: {lease:?}");
        found(sessions.load(&id).await);
        // One by redis-cli, for asking; none by us.
        sessions.ping().await.is_ok() && server.connections() == before + 1
    })
    .await;
    assert!(
        sessions.delete(&id).await.unwrap().is_some(),
        "a logout works"
    );
}

#[tokio::test]
async fn start_up_needs_no_redis_and_a_restart_heals_by_itself() {
    let mut server = RedisServer::start();
    server.kill();
    let mut opened = open(&server.config());
    takes_less_than(HALF_A_SECOND, async || {
        opened = open(&server.config());
        let start = Instant::now();
        assert!(opened.0.create(session_at(now())).await.is_err());
        start.elapsed()
    })
    .await;
    let (sessions, metrics) = opened;
    assert_eq!(metrics.store_connected.get(), 0);

    let soon = Duration::from_secs(1);
    takes_less_than(soon, async || {
        server.kill();
        let away = async || metrics.store_connected.get() == 0;
        eventually("away", away).await;
        server.restart();
        let start = Instant::now();
        eventually("up", async || sessions.ping().await.is_ok()).await;
        start.elapsed()
    })
    .await;

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

/// Passes bytes on to Redis, and swallows the answer to the first command that holds `marker`: cut off, or never answered.
async fn lossy(port: u16, marker: String, cut: bool) -> u16 {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    let once = Arc::new(std::sync::atomic::AtomicBool::new(true));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (once, marker) = (Arc::clone(&once), marker.clone());
            tokio::spawn(async move {
                let server = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.unwrap().into_split();
                let mut swallow = false;
                let (mut asked, mut answered) = ([0; 16384], [0; 16384]);
                loop {
                    tokio::select! {
                        n = from_client.read(&mut asked) => {
                            let Ok(n @ 1..) = n else { return };
                            let text = String::from_utf8_lossy(&asked[..n]);
                            swallow |= text.contains(&marker)
                                && once.swap(false, Ordering::SeqCst);
                            to_server.write_all(&asked[..n]).await.unwrap();
                        }
                        n = from_server.read(&mut answered) => {
                            let Ok(n @ 1..) = n else { return };
                            if !swallow {
                                to_client.write_all(&answered[..n]).await.unwrap();
                            } else if cut {
                                return;
                            }
                        }
                    }
                }
            });
        }
    });
    own
}

#[tokio::test]
async fn a_deletion_whose_answer_got_lost_still_tells_what_was_deleted() {
    // LOGOUT-05: or else its tokens would be revoked by nobody.
    let lost = async |cut: bool| {
        let server = RedisServer::start();
        let (direct, _) = open(&server.config());
        let id = direct.create(session_at(now())).await.unwrap();
        // Loaded beforehand, so that the command itself is what gets lost.
        let other = direct.create(session_at(now())).await.unwrap();
        direct.delete(&other).await.unwrap();
        let lease_key = record_key(&server).replace(":s:", ":l:");
        let mut store = server.store();
        let port = lossy(server.port, lease_key, cut).await;
        store.url = crate::secret::StoreUrl::new(format!("redis://127.0.0.1:{port}/0"));
        let (sessions, _) = open(&config(model::Store::Redis(Box::new(store))));
        eventually("up", async || sessions.ping().await.is_ok()).await;
        let start = Instant::now();
        let mut deleted = sessions.delete(&id).await;
        let took = start.elapsed();
        if cut && deleted.is_err() {
            // Only a machine that stood still has not answered in time.
            assert!(took >= Duration::from_millis(450), "{deleted:?}");
            return Duration::MAX;
        }
        if !cut {
            // Nobody can tell in time; the user is told, and tries again.
            assert!(deleted.is_err(), "{deleted:?}");
            eventually("up again", async || sessions.ping().await.is_ok()).await;
            deleted = sessions.delete(&id).await;
        }
        let deleted = deleted.unwrap().expect("what was deleted");
        assert_eq!(deleted.tokens.access.expose(), "at-0", "cut: {cut}");
        // What is left of the index goes off the request's path.
        eventually("no tombstone", async || server.cli(&["DBSIZE"]) == "0").await;
        let again = sessions.delete(&id).await.unwrap();
        assert!(again.is_none(), "LOGOUT-16: {again:?}");
        took
    };
    for cut in [true, false] {
        takes_less_than(HALF_A_SECOND, async || lost(cut).await).await;
    }
}

#[tokio::test]
async fn a_lease_whose_answer_got_lost_is_found_again() {
    // Without that, everyone would wait for a lease that nobody knows to hold.
    let server = RedisServer::start();
    let (sessions, _) = open(&server.config());
    let id = sessions.create(session_at(now())).await.unwrap();
    let lease = granted(sessions.lease(&id, 0).await);
    sessions.give_up(&id, lease, Duration::ZERO).await.unwrap();
    server.signal("STOP");
    assert!(sessions.lease(&id, 0).await.is_err());
    server.signal("CONT");
    eventually("thawed", async || sessions.ping().await.is_ok()).await;
    let held = server.cli(&["EXISTS", &record_key(&server).replace(":s:", ":l:")]);
    assert_eq!(held, "1", "Redis had acted on it");
    // Should Redis have been away for longer than another's lease, they go first.
    let lease = in_time(&sessions, &id, 0).await;
    sessions.give_up(&id, lease, Duration::ZERO).await.unwrap();
    granted(sessions.lease(&id, 0).await);
}

#[tokio::test]
async fn who_had_a_lease_before_an_outage_goes_first_after_it() {
    // REFRESH-02: the lease ran out while nobody could renew it, and its holder has what the token was rotated to.
    let server = RedisServer::start();
    let lease = Duration::from_millis(300);
    let sessions = || {
        let clock = Arc::new(SystemClock);
        Sessions::with_lease(&server.config(), clock, metrics(), lease).unwrap()
    };
    let (ours, theirs) = (sessions(), sessions());
    let id = ours.create(session_at(now())).await.unwrap();
    let held = granted(ours.lease(&id, 0).await);
    server.signal("STOP");
    // Redis will read this when it wakes, and nobody hears what it says.
    assert!(theirs.lease(&id, 0).await.is_err());
    server.signal("CONT");
    eventually("thawed", async || theirs.ping().await.is_ok()).await;
    for _ in 0..3 {
        let answer = theirs.lease(&id, 0).await.unwrap();
        assert!(matches!(answer, LeaseAnswer::Held { .. }), "{answer:?}");
    }
    // It finds another at its lease, and parks what it has: that counts, too.
    let answer = ours.commit(&id, &held, &tokens(1, now())).await.unwrap();
    assert!(
        matches!(answer, CommitAnswer::Stored(_) | CommitAnswer::Held { .. }),
        "{answer:?}"
    );
    let answer = theirs.lease(&id, 0).await.unwrap();
    assert!(
        matches!(&answer, LeaseAnswer::Newer(s) if s.generation == 1),
        "{answer:?}"
    );
    // Who never comes back is not waited for long.
    let _vanished = granted(ours.lease(&id, 1).await);
    in_time(&theirs, &id, 1).await;
}

#[tokio::test]
async fn who_slept_through_an_outage_lets_others_go_first_all_the_same() {
    let server = RedisServer::start();
    let sessions = || {
        let metrics = metrics();
        let opened = Sessions::open(
            &server.config(),
            Arc::new(SystemClock),
            Arc::clone(&metrics),
        );
        (opened.unwrap(), metrics)
    };
    let ((ours, _), (theirs, metrics), (later, _)) = (sessions(), sessions(), sessions());
    let id = ours.create(session_at(now())).await.unwrap();
    found(theirs.load(&id).await);
    let _held = granted(ours.lease(&id, 0).await);
    server.signal("STOP");
    // Nobody asks anything of it meanwhile but the heartbeats.
    let connected = &metrics.store_connected;
    eventually("noticed", async || connected.get() == 0).await;
    server.signal("CONT");
    eventually("back", async || connected.get() == 1).await;
    // As if the outage had outlasted the lease: what is left is for knowing that there was one.
    let lapsed = server.cli(&[
        "PEXPIRE",
        &record_key(&server).replace(":s:", ":l:"),
        "299000",
    ]);
    assert_eq!(lapsed, "1");
    for (who, sessions) in [("was idle", &theirs), ("has only just come", &later)] {
        let answer = sessions.lease(&id, 0).await.unwrap();
        assert!(
            matches!(answer, LeaseAnswer::Held { .. }),
            "{who}: {answer:?}"
        );
    }
    in_time(&theirs, &id, 0).await;
}

#[tokio::test]
async fn where_connections_break_all_the_time_everybody_has_their_turn_in_the_end() {
    let server = RedisServer::start();
    let (ours, theirs) = (open(&server.config()).0, open(&server.config()).0);
    let lost = ours.create(session_at(now())).await.unwrap();
    let loaded = granted(ours.lease(&lost, 0).await);
    ours.give_up(&lost, loaded, Duration::ZERO).await.unwrap();
    server.signal("STOP");
    assert!(
        ours.lease(&lost, 0).await.is_err(),
        "granted, and not heard"
    );
    server.signal("CONT");
    eventually("thawed", async || ours.ping().await.is_ok()).await;
    let granted_unheard = record_key(&server).replace(":s:", ":l:");
    assert_eq!(server.cli(&["EXISTS", &granted_unheard]), "1");

    let lapsed = theirs.create(session_at(now())).await.unwrap();
    let _vanished = granted(theirs.lease(&lapsed, 0).await);
    let keys = server.cli(&["KEYS", "daypass:l:*"]);
    let lapses = keys.lines().find(|key| *key != granted_unheard).unwrap();
    // What is left is for knowing that there was one.
    assert_eq!(server.cli(&["PEXPIRE", lapses, "299000"]), "1");

    for (name, id) in [("our own", lost), ("another's", lapsed)] {
        let mut waited = 0;
        eventually(name, async || {
            server.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
            tokio::time::sleep(Duration::from_millis(20)).await;
            match ours.lease(&id, 0).await {
                Ok(LeaseAnswer::Granted(_)) => return true,
                Ok(LeaseAnswer::Held { .. }) => waited += 1,
                // Connections may break more often than a command is sent again.
                Err(_) => {}
                answer => panic!("{name}: {answer:?}"),
            }
            false
        })
        .await;
        assert!(waited > 0, "{name}: others go first");
    }
}

/// A lease, once all who may have one still have had the time to come back.
async fn in_time(sessions: &Sessions, id: &SessionId, generation: u64) -> Lease {
    let began = Instant::now();
    loop {
        match sessions.lease(id, generation).await.unwrap() {
            LeaseAnswer::Granted(lease) => return lease,
            answer => assert!(matches!(answer, LeaseAnswer::Held { .. }), "{answer:?}"),
        }
        assert!(began.elapsed() < Duration::from_secs(5), "never granted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
