//! Shows that sessions stay where they can be found while sentinels put another master in place, slots of a Cluster move,
//! nodes join, and passwords are rotated: all with real servers.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use daypass_testbed::redis::cluster::Cluster;
use daypass_testbed::redis::sentinel::{MASTER, Watched, user};
use daypass_testbed::redis::{Options, Redis as Server};

use super::link::ANSWER;
use super::*;
use crate::metrics::Metrics;
use crate::secret::{PrivateKey, SealingKey, StorePassword, StoreUrl};
use crate::session::testing::{documented_rights, session_at, takes_less_than, tokens};

mod addresses;
mod slow;
mod thawed;

const LIFE: Duration = Duration::from_secs(600);
const LEASE: Duration = Duration::from_secs(10);
/// Longest wait for what happens by itself.
const SOON: Duration = Duration::from_secs(15);
/// Nobody waits for longer, on a machine that does not stand still.
const IN_TIME: Duration = Duration::from_millis(500);

fn store(urls: &[String], mode: model::RedisMode) -> model::RedisStore {
    let mut urls = urls.iter().map(|url| StoreUrl::new(url.as_str()));
    model::RedisStore {
        url: urls.next().expect("a URL"),
        more_urls: urls.collect(),
        mode,
        username: None,
        password: None,
        ca_pem: None,
        client_cert: None,
        key_prefix: "daypass:".into(),
    }
}

fn open_store(config: &model::RedisStore) -> (Redis, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    let redis = Redis::new(config, Arc::clone(&metrics)).expect("a good configuration");
    (redis, metrics)
}

fn keys() -> KeyRing {
    KeyRing::new(&[SealingKey::new(
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    )])
}

fn now() -> Timestamp {
    use crate::clock::Clock as _;
    crate::clock::SystemClock.now()
}

async fn create(redis: &Redis) -> Result<SessionId, StoreError> {
    let id = SessionId::generate();
    let session = session_at(now());
    redis
        .create(&id, &keys(), &session, LIFE)
        .await
        .map(|()| id)
}

async fn generation(redis: &Redis, id: &SessionId) -> Option<u64> {
    let loaded = redis.load(id, &keys()).await.expect("an answer");
    loaded.map(|loaded| loaded.session.generation)
}

/// A session, once the servers answer.
async fn created(redis: &Redis) -> SessionId {
    eventually("stored", async || create(redis).await.ok()).await
}

/// One refresh from lease to commit. Only servers that stand still are asked twice: nothing is given up before its time.
async fn refresh(redis: &Redis, id: &SessionId, known: u64) {
    let mut unheard = false;
    let lease = eventually("granted", async || {
        let began = Instant::now();
        match redis.lease(id, &keys(), known, LEASE).await {
            Ok(LeaseAnswer::Granted(lease)) => return Some(lease),
            // It may be ours.
            Ok(LeaseAnswer::Held { .. }) if unheard => {}
            answer => assert!(answer.is_err() && began.elapsed() >= ANSWER, "{answer:?}"),
        }
        unheard = true;
        None
    })
    .await;
    let next = tokens(known + 1, now());
    eventually("stored", async || {
        let began = Instant::now();
        let answer = redis.commit(id, &keys(), &lease, &next).await;
        let stored = matches!(answer, Ok(CommitAnswer::Stored(_)));
        let slow = answer.is_err() && began.elapsed() >= ANSWER;
        assert!(stored || slow, "{answer:?}");
        stored.then_some(())
    })
    .await;
}

async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn ids(masters: &node::Masters) -> Vec<String> {
    masters
        .borrow()
        .iter()
        .map(|node| node.id.to_string())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::too_many_lines,
    reason = "one story, each step on what the one before left"
)]
async fn keys_are_followed_while_their_slots_move_and_to_masters_that_join() {
    let app = user("daypass");
    let rights = documented_rights("### Cluster");
    let mut cluster = Cluster::with(
        3,
        false,
        Options {
            tls: true,
            client_certificates: true,
            user: Some(user("admin")),
            acl: vec![format!("user daypass on >{} {rights}", app.1)],
            ..Options::default()
        },
    );
    let urls: Vec<String> = (0..2).map(|node| cluster.node(node).url()).collect();
    let authority = cluster.node(0).authority();
    let issued = authority.issue(&["client"]);
    let mut config = store(&urls, model::RedisMode::Cluster);
    config.username = Some("daypass".into());
    config.password = Some(StorePassword::new(app.1.as_str()));
    config.ca_pem = Some(authority.pem.clone().into_bytes());
    let (anonymous, _) = open_store(&config);
    config.client_cert = Some((
        issued.cert_pem.into_bytes(),
        PrivateKey::new(issued.key_pem),
    ));
    let (redis, metrics) = open_store(&config);
    let mut sessions = Vec::new();
    for _ in 0..30 {
        sessions.push(created(&redis).await);
    }
    let mut known = ids(&redis.link.masters());
    known.sort();
    let mut want: Vec<String> = (0..3)
        .map(|node| cluster.node(node).address().to_string())
        .collect();
    want.sort();
    assert_eq!(known, want, "also the one that no URL names");
    for node in 0..3 {
        assert!(!cluster.node(node).keys().is_empty(), "{node}");
    }
    assert_eq!(redis.link.survey().await, Vec::<String>::new());
    eventually("all connected", async || {
        (metrics.store_connected.get() == 1).then_some(())
    })
    .await;

    // A slot on its way: the old master sends us on, for this once.
    let id = &sessions[0];
    let slot = cluster.slot(&redis.record(id.record_key()));
    let from = cluster.holder(0, slot).expect("a master");
    let to = (from + 1) % 3;
    refresh(&redis, id, 0).await;
    cluster.begin_move(slot, from, to);
    assert_eq!(generation(&redis, id).await, Some(1), "not moved yet");
    cluster.move_keys(slot, from, to);
    assert_eq!(generation(&redis, id).await, Some(1), "ASK");
    assert!(
        redis.touch(id.record_key(), LIFE).await.expect("an answer"),
        "ASK"
    );
    // Record and lease must be together, and a lease that does not exist is nowhere: Redis says to try again, and till the
    // end of the move nobody can hold it.
    takes_less_than(IN_TIME, async || {
        let began = Instant::now();
        let answer = redis.lease(id, &keys(), 1, LEASE).await;
        assert!(answer.is_err(), "TRYAGAIN: {answer:?}");
        began.elapsed()
    })
    .await;
    let moving = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        cluster.end_move(slot, from, to);
    };
    // A request that comes while the slot is on its way waits for it, and then finds the new master without scripts.
    tokio::join!(moving, refresh(&redis, id, 1));
    assert_eq!(generation(&redis, id).await, Some(2), "MOVED");

    // A master that joins is one of them as soon as it holds anything.
    let joined = cluster.join();
    let address = cluster.node(joined).address().to_string();
    assert!(!ids(&redis.link.masters()).contains(&address));
    cluster.move_slot(slot, to, joined);
    refresh(&redis, id, 2).await;
    assert_eq!(generation(&redis, id).await, Some(3));
    eventually("the new master is known", async || {
        ids(&redis.link.masters()).contains(&address).then_some(())
    })
    .await;
    for id in &sessions[1..] {
        assert_eq!(generation(&redis, id).await, Some(0), "none was lost");
    }
    assert_eq!(redis.link.survey().await, Vec::<String>::new());

    // Others than those who are let in are told so; and a Cluster that is taken for a single server.
    assert_eq!(anonymous.link.survey().await, ["no node answers"]);
    config.more_urls.clear();
    config.mode = model::RedisMode::Single;
    let (single, _) = open_store(&config);
    let refused = first_refusal(&single, &sessions).await;
    assert!(refused.contains("mode: cluster"), "{refused}");

    // With a part of the data away, what is wrong is told, and the rest served.
    cluster.node_mut(joined).kill();
    takes_less_than(IN_TIME, async || {
        let began = Instant::now();
        assert!(redis.load(id, &keys()).await.is_err());
        began.elapsed()
    })
    .await;
    eventually("it shows", async || {
        (metrics.store_connected.get() == 0).then_some(())
    })
    .await;
    let problems = redis.link.survey().await.join("\n");
    assert!(
        problems.contains(&address) || problems.contains("down"),
        "{problems}"
    );
}

async fn first_refusal(redis: &Redis, sessions: &[SessionId]) -> String {
    for id in sessions {
        if let Err(error) = redis.load(id, &keys()).await {
            return error.to_string();
        }
    }
    String::new()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_master_that_still_answers_is_left_for_the_one_the_sentinels_name() {
    let admin = user("admin");
    let (app, watcher) = (user("daypass"), user("daypass"));
    let watched = Watched::with(
        1,
        Options {
            user: Some(admin),
            acl: vec![format!(
                "user daypass on >{} {}",
                app.1,
                documented_rights("### Servers")
            )],
            sentinel_acl: vec![format!(
                "user daypass on >{} {}",
                watcher.1,
                documented_rights("### Sentinels")
            )],
            ..Options::default()
        },
    );
    let urls: Vec<String> = watched
        .sentinels()
        .iter()
        .map(|at| format!("redis://{at}"))
        .collect();
    let redis_of = |name: &str, password: &str| {
        let mode = model::RedisMode::Sentinel {
            master: name.to_owned(),
            username: Some("daypass".into()),
            password: Some(StorePassword::new(watcher.1.as_str())),
        };
        let mut config = store(&urls, mode);
        config.username = Some("daypass".into());
        config.password = Some(StorePassword::new(password));
        open_store(&config)
    };
    let (redis, metrics) = redis_of(MASTER, &app.1);
    let mut masters = redis.link.masters();
    assert_eq!(ids(&masters), Vec::<String>::new(), "nobody was asked yet");
    let id = created(&redis).await;
    refresh(&redis, &id, 0).await;
    let old = watched.server(0).address().to_string();
    assert_eq!(ids(&masters), [old.as_str()]);
    assert_eq!(metrics.store_connected.get(), 1);
    assert_eq!(redis.link.survey().await, Vec::<String>::new());
    watched.wait_until_replicated();

    let (unknown, _) = redis_of("another", &app.1);
    assert!(create(&unknown).await.is_err());
    let problems = unknown.link.survey().await;
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(
        problems[0].contains("knows no master `another`"),
        "{problems:?}"
    );

    // The master is cut off from sentinels and replicas, and not from us: it knows them no more.
    masters.mark_unchanged();
    watched.server(0).command(&["ACL", "DELUSER", "admin"]);
    let next = watched.wait_for_failover(0);
    let new = watched.server(next).address().to_string();
    let changed = tokio::time::timeout(SOON, masters.changed()).await;
    assert!(matches!(changed, Ok(Ok(()))), "another master in time");
    assert_eq!(ids(&masters), [new.as_str()]);
    refresh(&redis, &id, 1).await;
    let record = redis.record(id.record_key());
    let held = watched
        .server(next)
        .command(&["HGET", &record, "g"])
        .bytes();
    assert_eq!(held, b"2", "written to the new master");
}

#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::too_many_lines,
    reason = "one story, each step on what the one before left"
)]
async fn a_rotated_password_costs_no_request_whichever_side_learns_of_it_first() {
    let (first, second, third) = (user("daypass"), user("daypass"), user("daypass"));
    let admin = user("admin");
    let server = Server::with(Options {
        user: Some(admin),
        acl: vec![format!(
            "user daypass on >{} {}",
            first.1,
            documented_rights("### Servers")
        )],
        ..Options::default()
    });
    let config = |password: &(String, String)| {
        let mut config = store(&[server.url()], model::RedisMode::Single);
        config.username = Some("daypass".into());
        config.password = Some(StorePassword::new(password.1.as_str()));
        config
    };
    let (redis, _) = open_store(&config(&first));
    let redis = Arc::new(redis);
    let id = created(&redis).await;
    let masters = redis.link.masters();
    let connections = || {
        let list = server.command(&["CLIENT", "LIST"]).bytes();
        let list = String::from_utf8_lossy(&list).into_owned();
        let ours = list.lines().filter(|line| line.contains("user=daypass"));
        ours.filter_map(|line| line.split(' ').next().map(ToOwned::to_owned))
            .collect::<Vec<_>>()
    };
    let before = connections();
    assert_eq!(before.len(), 1);

    let (stop, asked) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let load = {
        let (redis, stop, asked) = (Arc::clone(&redis), Arc::clone(&stop), Arc::clone(&asked));
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                redis.load(&id, &keys()).await.expect("no request fails");
                asked.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            id
        })
    };
    // The file first: Redis does not know the new password yet, and a lost connection is made again with the old one.
    redis
        .reconfigure(&config(&second))
        .expect("only the password");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(connections(), before, "the connection in use stays");
    server.command(&["CLIENT", "KILL", "USER", "daypass"]);
    eventually("connected again", async || {
        (connections().len() == 1).then_some(())
    })
    .await;
    let set = |password: &(String, String), how: &str| {
        server.command(&[
            "ACL",
            "SETUSER",
            "daypass",
            how,
            &format!(">{}", password.1),
        ]);
    };
    let old = connections();
    set(&second, "resetpass");
    eventually("another connection takes over", async || {
        let now = connections();
        (now.len() == 1 && now != old).then_some(())
    })
    .await;
    // Redis first: connections made with the old password stay, and both are good for a while.
    let old = connections();
    set(&third, "on");
    redis
        .reconfigure(&config(&third))
        .expect("only the password");
    eventually("another connection takes over", async || {
        let now = connections();
        (now.len() == 1 && now != old).then_some(())
    })
    .await;
    set(&third, "resetpass");
    server.command(&["CLIENT", "KILL", "USER", "daypass"]);
    eventually("connected again", async || {
        (connections().len() == 1).then_some(())
    })
    .await;
    // The same once more is no change.
    let same = connections();
    redis.reconfigure(&config(&third)).expect("nothing new");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(connections(), same);

    let seen = asked.load(Ordering::Relaxed);
    eventually("still asking", async || {
        (asked.load(Ordering::Relaxed) > seen).then_some(())
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    let id = load.await.expect("no request failed");
    assert!(
        masters.has_changed().expect("alive"),
        "who follows the servers learns of it"
    );

    // A password that is wrong from the start: an outage that ends by itself.
    let (locked_out, _) = open_store(&config(&first));
    assert!(locked_out.load(&id, &keys()).await.is_err());
    set(&first, "on");
    eventually("let in", async || locked_out.load(&id, &keys()).await.ok()).await;
}
