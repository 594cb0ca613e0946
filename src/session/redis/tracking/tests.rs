//! Scripts heartbeats, losses and pushes of two masters.

use redis::{ErrorKind, ServerErrorKind};

use super::super::topology::Topology;
use super::*;
use crate::session::SessionId;
use crate::session::testing::{session, store_at};

struct Rig {
    shared: Shared,
    _masters: watch::Sender<Arc<[Node]>>,
    key: RecordKey,
}

impl Rig {
    /// Two masters, of which none is tracked yet.
    fn new() -> Self {
        let metrics = Arc::new(Metrics::new().unwrap());
        let nowhere = store_at("redis://127.0.0.1:1/");
        let topology = Topology::new(&nowhere, Arc::clone(&metrics)).unwrap();
        let (masters, receiver) = watch::channel(Arc::from([]));
        let shared = Shared {
            tracked: Tracked {
                masters: receiver,
                redials: topology.dialled(),
                records: "daypass:s:".into(),
                marks: "daypass:r:".into(),
                probes: "daypass:p:".into(),
                roster: topology.roster(),
            },
            hear: Listeners {
                cache: Arc::new(Cache::new(100, Arc::default(), Arc::clone(&metrics))),
                changes: Changes::default(),
                seen: Arc::new(Seen::new(Arc::clone(&metrics))),
                orphans: Arc::default(),
                metrics,
            },
            board: Mutex::new(vec![None; 2]),
            warned: AtomicBool::new(false),
            led: Mutex::default(),
        };
        Self {
            shared,
            _masters: masters,
            key: SessionId::generate().record_key(),
        }
    }

    fn read(&self) {
        let cache = &self.shared.hear.cache;
        cache.keep(&cache.ticket(self.key), Arc::new(session()), None);
    }

    fn believed(&self, now: Instant) -> bool {
        self.shared.hear.cache.fresh(self.key, now).is_some()
    }

    fn drop_master(&self, at: usize) {
        self.shared.board.lock()[at] = None;
        self.shared.lost();
    }
}

fn name(key: RecordKey) -> Vec<u8> {
    format!("daypass:s:{{{}}}", URL_SAFE_NO_PAD.encode(key.as_bytes())).into_bytes()
}

#[test]
fn nothing_is_believed_unless_every_master_is_tracked_and_beating() {
    let rig = Rig::new();
    let t = Instant::now();
    let after = |ms: u64| t + Duration::from_millis(ms);
    rig.read();
    rig.shared.proven(0, t);
    assert!(!rig.believed(t), "one of two");
    rig.shared.proven(1, after(100));
    assert!(!rig.believed(t), "read before");
    rig.read();
    assert!(rig.believed(after(999)));
    assert!(!rig.believed(after(1000)), "the slower one's proof counts");
    rig.shared.proven(1, after(600));
    assert!(!rig.believed(after(1000)));
    rig.shared.proven(0, after(500));
    assert!(rig.believed(after(1499)) && !rig.believed(after(1500)));
    assert_eq!(rig.shared.hear.metrics.session_cache_tracking.get(), 1);

    rig.drop_master(0);
    assert!(!rig.believed(after(600)));
    assert_eq!(rig.shared.hear.metrics.session_cache_tracking.get(), 0);
    rig.shared.proven(1, after(700));
    assert!(!rig.believed(after(700)), "the other alone is not enough");
    rig.shared.proven(0, after(700));
    assert!(!rig.believed(after(700)), "nothing is believed unread");
    rig.read();
    assert!(rig.believed(after(701)));
    rig.shared.proven(7, after(800));
}

#[tokio::test(start_paused = true)]
async fn commands_are_led_at_once_and_then_at_a_measured_pace() {
    let rig = Rig::new();
    let node = Node {
        id: "127.0.0.1:1".into(),
        client: Client::open("redis://127.0.0.1:1/").unwrap(),
    };
    let began = Instant::now();
    for second in 0..3 {
        rig.shared.lead(&node).await;
        assert_eq!(began.elapsed().as_secs(), second);
    }
    sleep(Duration::from_secs(10)).await;
    rig.shared.lead(&node).await;
    assert_eq!(began.elapsed().as_secs(), 12, "at once, after a while");
}

#[test]
fn a_push_drops_what_it_names_and_wakes_who_waits() {
    use futures_util::FutureExt as _;
    let rig = Rig::new();
    let t = Instant::now();
    rig.shared.proven(0, t);
    rig.shared.proven(1, t);
    let other = SessionId::generate().record_key();
    let hear = &rig.shared.hear;
    let keep = |key| {
        let ticket = hear.cache.ticket(key);
        hear.cache.keep(&ticket, Arc::new(session()), None);
    };
    let waits = |key| hear.changes.subscribe(key);
    let bulk = |text: Vec<u8>| Value::BulkString(text);

    keep(rig.key);
    keep(other);
    let (mut one, mut two) = (waits(rig.key), waits(other));
    let named = [bulk(b"daypass:s:junk".to_vec()), bulk(name(rig.key))];
    rig.shared.told(&[Value::Array(named.into())]);
    assert!(!rig.believed(t) && hear.cache.held(other).is_some());
    assert!(one.next().now_or_never().is_some() && two.next().now_or_never().is_none());
    let now = crate::session::testing::START;
    assert_eq!(
        hear.seen.missed(rig.key, now),
        crate::session::Gone::Revoked
    );

    for (what, data) in [
        ("FLUSHALL", vec![Value::Nil]),
        ("not understood", vec![Value::Okay, Value::Int(1)]),
        ("empty", Vec::new()),
    ] {
        keep(rig.key);
        rig.shared.told(&data);
        assert_eq!(hear.cache.len(), 0, "{what}");
        assert!(one.next().now_or_never().is_some(), "{what}");
        assert!(two.next().now_or_never().is_some(), "{what}");
    }
}

#[test]
fn only_keys_of_ours_name_a_session() {
    let key = SessionId::generate().record_key();
    let good = name(key);
    assert_eq!(record_key("daypass:s:", &good), Some(key));
    let text = String::from_utf8(good).unwrap();
    for (what, bad) in [
        ("another prefix", text.replace("daypass", "nightpass")),
        ("a lease", text.replace(":s:", ":l:")),
        ("no braces", text.replace(['{', '}'], "")),
        ("cut", text.replace('}', "").split_at(40).0.to_owned() + "}"),
        ("longer", text.replace('}', "AAAAAAAA}")),
        ("no base64", text.replace('{', "{!")),
        ("nothing", String::new()),
    ] {
        assert_eq!(record_key("daypass:s:", bad.as_bytes()), None, "{what}");
    }
}

#[test]
fn a_server_that_cannot_is_told_from_one_that_is_not_ready() {
    let extension = |code: &str, text: &str| {
        redis::make_extension_error(code.to_owned(), Some(text.to_owned()))
    };
    let server = |kind| RedisError::from((ErrorKind::Server(kind), "said so"));
    for (what, error, refused, not_ready) in [
        (
            "no RESP3",
            (ErrorKind::RESP3NotSupported, "-").into(),
            true,
            false,
        ),
        (
            "ACL",
            extension("NOPERM", "no permissions to run 'client|tracking'"),
            true,
            false,
        ),
        (
            "a proxy",
            server(ServerErrorKind::ResponseError),
            true,
            false,
        ),
        ("loading", server(ServerErrorKind::BusyLoading), false, true),
        ("a replica", server(ServerErrorKind::ReadOnly), false, true),
        (
            "no password",
            extension("NOAUTH", "Authentication required."),
            false,
            true,
        ),
        (
            "no connection",
            std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into(),
            false,
            false,
        ),
    ] {
        let ended = Ended::of(&error);
        assert_eq!(matches!(ended, Ended::Refused(_)), refused, "{what}");
        assert_eq!(matches!(ended, Ended::NotReady), not_ready, "{what}");
    }
}
