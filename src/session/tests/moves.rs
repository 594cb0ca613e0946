//! Shows with real servers that nothing is believed of a server that nobody follows, and that no logout waits for one.

use daypass_testbed::redis::cluster::Cluster;

use super::cached::looked_up;
use super::redis::{now, open, tracked};
use super::*;
use crate::secret::StoreUrl;

fn of(cluster: &Cluster) -> model::Session {
    let url = |node: usize| StoreUrl::new(cluster.node(node).url().trim_end_matches("/0"));
    let mut store = store_at("");
    store.url = url(0);
    store.more_urls = vec![url(1)];
    store.mode = model::RedisMode::Cluster;
    config(model::Store::Redis(Box::new(store)))
}

async fn is_missing(sessions: &Sessions, id: &SessionId) -> bool {
    matches!(sessions.load(id).await, Ok(Lookup::Missing(_)))
}

/// Whether the session is served from the cache now.
async fn is_hit(sessions: &Sessions, metrics: &Metrics, id: &SessionId) -> bool {
    let before = looked_up(metrics, "hit");
    found(sessions.load(id).await);
    looked_up(metrics, "hit") > before + 0.5
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_on_its_way_to_a_new_master_is_neither_believed_nor_stuck() {
    let mut cluster = Cluster::start(3, false);
    let joined = cluster.join();
    let (one, _) = open(&of(&cluster));
    let (two, metrics) = open(&of(&cluster));
    let mut sessions = Vec::new();
    // Whoever comes first finds out where everything is.
    eventually("known", async || one.ping().await.is_ok()).await;
    for _ in 0..3 {
        sessions.push(one.create(session_at(now())).await.unwrap());
    }
    eventually("known", async || two.ping().await.is_ok()).await;
    found(two.load(&sessions[0]).await);
    tracked(&metrics).await;

    // Half way: the record is at a master which holds no slots yet, and which nobody follows.
    let mut moving = Vec::new();
    for id in &sessions {
        let slot = cluster.slot(&record_name(id));
        let from = cluster.holder(0, slot).expect("a master");
        cluster.begin_move(slot, from, joined);
        cluster.move_keys(slot, from, joined);
        moving.push((slot, from));
    }
    for _ in 0..20 {
        for id in &sessions {
            assert!(!is_hit(&two, &metrics, id).await, "read where it is");
        }
    }
    // No command may name record and lease now, for the lease is nowhere. The user is logged out all the same, and at once.
    let deleted = one.delete(&sessions[0]).await.unwrap();
    assert!(deleted.is_some_and(|session| session.tokens.access.expose() == "at-0"));
    assert!(is_missing(&two, &sessions[0]).await);
    assert!(one.delete(&sessions[0]).await.unwrap().is_none());
    // So is one whose cookie is not there.
    let fleet = two.fleet().expect("sessions in Redis");
    let kind = crate::metrics::LogoutKind::Operator;
    let (ended, outcome) = fleet.end(&[sessions[1].record_key()], Some(kind)).await;
    outcome.unwrap();
    assert_eq!(ended.len(), 1);
    assert_eq!(
        ended[0].meta.as_ref().map(|meta| &*meta.subject),
        Some("alice")
    );
    assert!(is_missing(&one, &sessions[1]).await);

    // The new master is followed once it holds slots, and tells of what changes there.
    for (slot, from) in moving {
        cluster.end_move(slot, from, joined);
    }
    let last = &sessions[2];
    eventually("followed", async || is_hit(&two, &metrics, last).await).await;
    one.delete(last).await.unwrap();
    eventually("told", async || is_missing(&two, last).await).await;
}

fn record_name(id: &SessionId) -> String {
    use base64::Engine as _;
    let hash = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(id.record_key().as_bytes());
    format!("daypass:s:{{{hash}}}")
}

#[tokio::test]
async fn commands_follow_the_name_when_another_server_takes_it_over() {
    follow_the_name(Duration::ZERO).await;
}

#[tokio::test]
async fn commands_follow_the_name_also_when_it_is_given_away_late() {
    // By then the old server has been asked again, and has answered.
    follow_the_name(Duration::from_millis(1500)).await;
}

/// The old master is demoted, and `late` after that its name leads to the new one.
async fn follow_the_name(late: Duration) {
    // Straight from memory to memory, without files.
    let sync = [
        "--repl-diskless-sync",
        "yes",
        "--repl-diskless-sync-delay",
        "0",
    ];
    let load = ["--repl-diskless-load", "swapdb"];
    let all = [&sync[..], &load[..]].concat();
    let (old, new) = (RedisServer::start_with(&all), RedisServer::start_with(&all));
    let (way, target) = switchable(old.port).await;
    let store = store_at(&format!("redis://{way}/0"));
    let (two, metrics) = open(&config(model::Store::Redis(Box::new(store))));
    let id = two.create(session_at(now())).await.unwrap();
    found(two.load(&id).await);
    tracked(&metrics).await;
    found(two.load(&id).await);
    // The other has all the data, and becomes the master. The old one is told so and keeps its connections; what is
    // written from now on it never hears of.
    new.cli(&["REPLICAOF", "127.0.0.1", &old.port.to_string()]);
    eventually("replicated", async || {
        new.cli(&["DBSIZE"]) == old.cli(&["DBSIZE"])
    })
    .await;
    new.cli(&["REPLICAOF", "NO", "ONE"]);
    if late.is_zero() {
        target.store(usize::from(new.port), Ordering::SeqCst);
    }
    old.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    tokio::time::sleep(late).await;
    target.store(usize::from(new.port), Ordering::SeqCst);
    let (one, _) = open(&new.config());
    // Whatever was believed of the old one, nobody is served from it once the new one is followed.
    tracked(&metrics).await;
    one.delete(&id).await.unwrap().expect("it is there");
    eventually("refused", async || is_missing(&two, &id).await).await;
    two.create(session_at(now()))
        .await
        .expect("written to the new one");
}

/// A way to a port of this machine that can be changed, for connections to come.
async fn switchable(port: u16) -> (std::net::SocketAddr, Arc<std::sync::atomic::AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let target = Arc::new(std::sync::atomic::AtomicUsize::new(usize::from(port)));
    let ports = Arc::clone(&target);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let port = u16::try_from(ports.load(Ordering::SeqCst)).unwrap();
            tokio::spawn(async move {
                if let Ok(mut server) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await {
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    (address, target)
}
