//! Shows that sessions can be found, shown and ended without their cookies, all of them and no others.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::conformance::{Rig, both};
use super::redis::{now, open, record_key, tracked};
use super::*;
use crate::metrics::LogoutKind;
use crate::session::index::IndexKey;
use crate::session::sessions::{Fleet, Walk};

const ISSUER: &str = "https://idp.example";

fn of(subject: &str, sid: Option<&str>, now: Timestamp) -> Session {
    let mut session = session_at(now);
    session.subject = subject.into();
    session.sid = sid.map(Into::into);
    let mut claims = session.claims.to_map();
    claims.insert("iat".into(), now.as_secs().into());
    session.claims = Arc::new(claims.into());
    session
}

async fn end(sessions: &Sessions, whose: Whose<'_>, revoke: bool) -> Vec<Ended> {
    let mut all = Vec::new();
    let kind = LogoutKind::BackChannel;
    let told = |ended: &Ended| all.push(ended.clone());
    sessions.end_all(whose, kind, revoke, told).await.unwrap();
    all
}

async fn alive(sessions: &Sessions, id: &SessionId) -> bool {
    matches!(sessions.peek(id).await.unwrap(), Lookup::Found(_))
}

/// A replica that hears of changes.
async fn listening(server: &RedisServer) -> Sessions {
    let (sessions, metrics) = open(&server.config());
    alive(&sessions, &SessionId::generate()).await;
    tracked(&metrics).await;
    sessions
}

/// Everything a walk leads to, each once.
async fn walked(mut walk: Walk<'_>) -> HashSet<RecordKey> {
    let mut all = HashSet::new();
    while let Some(page) = walk.next().await.unwrap() {
        all.extend(page);
    }
    all
}

fn fleet(sessions: &Sessions) -> Fleet<'_> {
    sessions.fleet().expect("it is Redis")
}

/// LOGOUT-09, SESS-09, REG-12
#[tokio::test]
async fn a_logout_ends_what_it_means_and_nothing_else() {
    both(async |rig: &Rig, store| {
        let s = &rig.sessions;
        let rows: [(&str, &str, Option<&str>); 5] = [
            ("laptop", "alice", Some("a1")),
            ("second browser of one login", "alice", Some("a1")),
            ("phone", "alice", Some("a2")),
            ("no sid", "alice", None),
            ("another user", "bob", Some("b1")),
        ];
        let cases: [(&str, Whose<'_>, [bool; 5]); 6] = [
            (
                "by sid",
                Whose::sid(ISSUER, "a1"),
                [true, true, false, false, false],
            ),
            (
                "by sub",
                Whose::subject(ISSUER, "alice"),
                [true, true, true, true, false],
            ),
            (
                "by both",
                Whose {
                    subject: Some("alice"),
                    ..Whose::sid(ISSUER, "a2")
                },
                [false, false, true, false, false],
            ),
            (
                "a sid of somebody else",
                Whose {
                    subject: Some("bob"),
                    ..Whose::sid(ISSUER, "a2")
                },
                [false; 5],
            ),
            (
                "of another issuer",
                Whose::subject("https://b.example", "alice"),
                [false; 5],
            ),
            ("unknown", Whose::sid(ISSUER, "nope"), [false; 5]),
        ];
        for (case, whose, want) in cases {
            let mut ids = Vec::new();
            for (_, subject, sid) in rows {
                let session = of(subject, sid, rig.clock.now());
                ids.push(s.create(session).await.unwrap());
            }
            let mut woken = s.watch(&ids[0]);
            let ended = end(s, whose, false).await;
            let count = want.iter().filter(|gone| **gone).count();
            assert_eq!(ended.len(), count, "{store}: {case}");
            for ended in &ended {
                let meta = ended.meta.as_ref().expect("it is known whose it was");
                assert!(whose.fits(meta), "{store}: {case}");
            }
            for ((id, gone), (row, ..)) in ids.iter().zip(want).zip(rows) {
                assert_eq!(alive(s, id).await, !gone, "{store}: {case}: {row}");
                if gone {
                    assert_eq!(
                        missing(s.load(id).await),
                        Gone::Revoked,
                        "{store}: {case}: {row}"
                    );
                }
            }
            if want[0] {
                woken.next().await;
            }
            assert!(
                end(s, whose, false).await.is_empty(),
                "{store}: {case}: twice"
            );
            // What is left is found later on: deleting one took no other out of its set.
            for (id, gone) in ids.iter().zip(want) {
                if !gone {
                    s.delete(id).await.unwrap().expect("it is there");
                    assert_eq!(missing(s.load(id).await), Gone::Revoked);
                }
            }
            let left = end(s, Whose::subject(ISSUER, "alice"), false).await;
            assert!(left.is_empty(), "{store}: {case}");
        }
    })
    .await;
}

/// What is said to one client is not said to another at the same issuer.
#[tokio::test]
async fn a_logout_ends_the_sessions_of_its_client_only() {
    both(async |rig: &Rig, store| {
        let s = &rig.sessions;
        for by_sid in [true, false] {
            let mut ids = Vec::new();
            for provider in ["a", "b", "c"] {
                let mut session = of("alice", Some("a1"), rig.clock.now());
                session.provider = provider.into();
                ids.push(s.create(session).await.unwrap());
            }
            let whose = if by_sid {
                Whose::sid(ISSUER, "a1")
            } else {
                Whose::subject(ISSUER, "alice")
            };
            let named = Whose {
                providers: Some(&["a", "c"]),
                ..whose
            };
            assert_eq!(end(s, named, false).await.len(), 2, "{store}: {by_sid}");
            let alive = [
                alive(s, &ids[0]).await,
                alive(s, &ids[1]).await,
                alive(s, &ids[2]).await,
            ];
            assert_eq!(alive, [false, true, false], "{store}: {by_sid}");
            assert_eq!(end(s, whose, false).await.len(), 1, "{store}: {by_sid}");
        }
    })
    .await;
}

#[tokio::test]
async fn one_that_goes_leaves_the_others_reachable() {
    // SESS-09.
    both(async |rig: &Rig, store| {
        let s = &rig.sessions;
        let mut ids = Vec::new();
        for _ in 0..3 {
            ids.push(
                s.create(of("alice", Some("a1"), rig.clock.now()))
                    .await
                    .unwrap(),
            );
        }
        s.delete(&ids[1]).await.unwrap().expect("it is there");
        assert_eq!(
            end(s, Whose::sid(ISSUER, "a1"), false).await.len(),
            2,
            "{store}"
        );
    })
    .await;
}

/// LOGOUT-12
#[tokio::test]
async fn a_login_that_the_provider_has_ended_meanwhile_makes_no_session() {
    both(async |rig: &Rig, store| {
        let s = &rig.sessions;
        let began_before = rig.clock.now();
        rig.pass(Duration::from_millis(5)).await;
        let at = ["provider", "twin"];
        s.forbid(Whose::sid(ISSUER, "a1"), &at).await.unwrap();
        s.forbid(Whose::subject(ISSUER, "carol"), &at)
            .await
            .unwrap();
        rig.pass(Duration::from_millis(5)).await;
        let began_after = rig.clock.now();
        // What the provider says of the ID token's age does not count: a code of before the logout may be redeemed after
        // it, and somebody may sign in again within the second.
        let (old, new) = (
            began_before.minus(Duration::from_secs(30)),
            began_after.plus(Duration::from_secs(30)),
        );
        for (row, (subject, sid), iat, began_at, want) in [
            ("that sid", ("alice", "a1"), new, began_before, false),
            ("another sid", ("alice", "a2"), old, began_before, true),
            ("that user", ("carol", "c1"), new, began_before, false),
            ("another user", ("dora", "d1"), old, began_before, true),
            ("that sid again", ("alice", "a1"), old, began_after, true),
            ("that user again", ("carol", "c2"), old, began_after, true),
        ] {
            let session = of(subject, Some(sid), iat);
            match s.begin(session, began_at).await.unwrap() {
                Begun::Session(id) => {
                    assert!(want && alive(s, &id).await, "{store}: {row}");
                }
                Begun::TooLate => {
                    assert!(!want, "{store}: {row}");
                    let left = end(s, Whose::sid(ISSUER, sid), false).await;
                    assert!(left.is_empty(), "{store}: {row}: nothing is left of it");
                }
            }
        }
        // Of another client at that issuer nothing was said.
        for (provider, want) in [("another", true), ("twin", false)] {
            let mut session = of("carol", Some("a1"), old);
            session.provider = provider.into();
            let begun = s.begin(session, began_before).await.unwrap();
            let made = matches!(begun, Begun::Session(_));
            assert_eq!(made, want, "{store}: {provider}");
        }
    })
    .await;
}

/// LOGOUT-08
#[tokio::test]
async fn a_logout_token_is_used_up_once() {
    both(async |rig: &Rig, store| {
        let s = &rig.sessions;
        let keep = Duration::from_secs(2);
        assert!(
            !s.used(ISSUER, "t1").await.unwrap(),
            "{store}: asking uses nothing up"
        );
        assert!(!s.used(ISSUER, "t1").await.unwrap(), "{store}");
        assert!(s.use_up(ISSUER, "t1", keep).await.unwrap(), "{store}");
        assert!(!s.use_up(ISSUER, "t1", keep).await.unwrap(), "{store}");
        assert!(s.used(ISSUER, "t1").await.unwrap(), "{store}");
        assert!(!s.used(ISSUER, "t2").await.unwrap(), "{store}");
        assert!(!s.used("https://b.example", "t1").await.unwrap(), "{store}");
        rig.pass(keep).await;
        assert!(!s.used(ISSUER, "t1").await.unwrap(), "{store}: expired");
    })
    .await;
}

#[tokio::test]
async fn memory_hands_over_what_it_ended_and_forgets_whom_it_held() {
    let (sessions, clock, _) = memory();
    sessions
        .create(of("alice", Some("a1"), clock.now()))
        .await
        .unwrap();
    assert_eq!(sessions.indexed(), 2);
    end(&sessions, Whose::sid(ISSUER, "a1"), true).await;
    let orphan = sessions.next_orphan().await.expect("nobody else waits");
    assert!(
        orphan
            .session
            .tokens
            .refresh
            .as_ref()
            .unwrap()
            .matches("rt-0")
    );
    assert!(!orphan.uncounted);
    assert_eq!(sessions.indexed(), 0);

    // Also of those that end by themselves, or make way for others.
    let sessions = Sessions::open(&memory_config(100), clock.clone(), metrics()).unwrap();
    for n in 0..2000 {
        let session = of(&format!("user-{n}"), Some("s"), clock.now());
        sessions.create(session).await.unwrap();
        assert!(sessions.indexed() <= 2 * 4 * 200, "{}", sessions.indexed());
    }
    clock.advance(Duration::from_secs(3601));
    sessions
        .create(of("last", None, clock.now()))
        .await
        .unwrap();
    assert_eq!(sessions.indexed(), 1);
}

#[tokio::test]
async fn whoever_has_enough_leaves_no_orphan_behind() {
    let (sessions, clock, _) = memory();
    for sid in ["a1", "a2"] {
        let session = of("alice", Some(sid), clock.now());
        sessions.create(session).await.unwrap();
    }
    end(&sessions, Whose::subject(ISSUER, "alice"), true).await;
    for left in [true, true, false] {
        let orphan = sessions.next_orphan_until(std::future::ready(())).await;
        assert_eq!(orphan.is_some(), left);
    }
}

#[tokio::test]
async fn of_those_who_hold_a_session_one_is_told_to_revoke_it() {
    // LOGOUT-09: whoever ended it could not know its tokens.
    let server = RedisServer::start();
    let (one, two) = (listening(&server).await, listening(&server).await);
    let (operator, _) = open(&server.config());
    for round in 0..20 {
        let sid = format!("a{round}");
        let session = of("alice", Some(&sid), now());
        let id = one.create(session).await.unwrap();
        assert!(alive(&one, &id).await && alive(&two, &id).await);
        // By another process, and by one that holds it.
        let by = if round % 2 == 0 { &operator } else { &one };
        end(by, Whose::sid(ISSUER, &sid), true).await;
        let (orphan, other) = tokio::select! {
            orphan = one.next_orphan() => (orphan, &two),
            orphan = two.next_orphan() => (orphan, &one),
        };
        let orphan = orphan.expect("nobody else waits");
        assert_eq!(
            (orphan.key, orphan.kind, orphan.uncounted),
            (id.record_key(), LogoutKind::BackChannel, false)
        );
        let refresh = orphan.session.tokens.refresh.as_ref().unwrap();
        assert!(refresh.matches("rt-0"));
        // What the other one is told next is not this one.
        let next = format!("b{round}");
        let mine = other.create(of("bob", Some(&next), now())).await.unwrap();
        assert!(alive(other, &mine).await);
        let kind = LogoutKind::Operator;
        let whose = Whose::sid(ISSUER, &next);
        operator.end_all(whose, kind, true, |_| {}).await.unwrap();
        let orphan = other.next_orphan().await.expect("nobody else waits");
        assert_eq!(
            (orphan.key, orphan.kind, orphan.uncounted),
            (mine.record_key(), LogoutKind::Operator, true)
        );
    }
    assert_eq!(server.cli(&["KEYS", "daypass:r:*"]), "");

    // Nobody holds it: the marker lies there for a minute, in the record's slot.
    let id = operator
        .create(of("carol", Some("c"), now()))
        .await
        .unwrap();
    end(&operator, Whose::sid(ISSUER, "c"), true).await;
    let marker = server.cli(&["KEYS", "daypass:r:*"]);
    let hash = URL_SAFE_NO_PAD.encode(id.record_key().as_bytes());
    assert_eq!(
        marker,
        format!("daypass:r:{{{hash}}}"),
        "in the record's slot"
    );
    let ttl: i64 = server.cli(&["PTTL", &marker]).parse().unwrap();
    assert!((1..=60_000).contains(&ttl), "{ttl}");
    server.cli(&["DEL", &marker]);

    // Whoever deletes with the cookie revokes by themselves; a front-channel logout revokes nothing.
    let id = one.create(of("alice", Some("x3"), now())).await.unwrap();
    one.delete(&id).await.unwrap();
    one.create(of("alice", Some("x4"), now())).await.unwrap();
    end(&one, Whose::sid(ISSUER, "x4"), false).await;
    assert_eq!(server.cli(&["KEYS", "daypass:r:*"]), "");
}

#[tokio::test]
async fn whoever_wrote_a_session_last_revokes_what_it_holds_now() {
    // LOGOUT-09: nobody asks for it after its login, refresh or extension, and pushes have emptied the caches.
    let server = RedisServer::start();
    let (one, two) = (listening(&server).await, listening(&server).await);
    let (operator, _) = open(&server.config());
    for round in 0..20 {
        for (name, refreshed) in [("login", false), ("refresh", true)] {
            let sid = format!("{name}{round}");
            let id = one.create(of("alice", Some(&sid), now())).await.unwrap();
            let (holder, token) = if refreshed {
                // The other replica has met the session as it was before.
                assert!(alive(&one, &id).await && alive(&two, &id).await);
                let lease = granted(two.lease(&id, 0).await);
                let stored = two.commit(&id, &lease, &tokens(1, now())).await.unwrap();
                assert!(matches!(stored, CommitAnswer::Stored(_)));
                (&two, "rt-1")
            } else {
                (&one, "rt-0")
            };
            if round % 2 == 0 {
                // In most of these the news of it have come, in most of the others not: both must do.
                let news = tokio::time::sleep(Duration::from_millis(5));
                news.await;
            }
            end(&operator, Whose::sid(ISSUER, &sid), true).await;
            let orphan = tokio::time::timeout(Duration::from_secs(5), holder.next_orphan());
            let orphan = orphan
                .await
                .unwrap_or_else(|_| panic!("{name}: nobody revokes"));
            let session = orphan.expect("nobody else waits").session;
            let refresh = session.tokens.refresh.as_ref().unwrap();
            assert!(refresh.matches(token), "{name}: the token of now");
        }
    }
    assert_eq!(server.cli(&["KEYS", "daypass:r:*"]), "");
}

#[tokio::test]
async fn the_index_tells_nobody_and_ends_with_its_last_member() {
    // SESS-02, PRODUCT §4.
    let server = RedisServer::start();
    let (sessions, _) = open(&server.config());
    let mut short = of("alice", Some("a1"), now());
    short.expires_at = now().plus(Duration::from_secs(60));
    sessions.create(short).await.unwrap();
    sessions
        .create(of("alice", Some("a2"), now()))
        .await
        .unwrap();
    let set = |kind, value| {
        let name = IndexKey::new(kind, ISSUER, value);
        format!("daypass:i:{}", URL_SAFE_NO_PAD.encode(name.as_bytes()))
    };
    let ttl = |key: &str| -> i64 { server.cli(&["PTTL", key]).parse().unwrap() };
    let slack = 300_000;
    let short = ttl(&set("sid", "a1"));
    assert!(
        (slack + 50_000..=slack + 60_000).contains(&short),
        "{short}"
    );
    let long = ttl(&set("sub", "alice"));
    assert!(
        (slack + 43_190_000..=slack + 43_200_000).contains(&long),
        "{long}"
    );
    for key in server.cli(&["KEYS", "*"]).lines() {
        let dump = server.cli(&["--no-raw", "DUMP", key]);
        for secret in ["alice", "a1", ISSUER] {
            assert!(
                !key.contains(secret) && !dump.contains(&format!("\"{secret}")),
                "{key}"
            );
        }
    }

    // A shorter session after a longer one does not cut the set's life.
    let mut short = of("alice", None, now());
    short.expires_at = now().plus(Duration::from_secs(60));
    sessions.create(short).await.unwrap();
    assert!(ttl(&set("sub", "alice")) > slack + 43_000_000);
}

#[tokio::test]
async fn an_index_set_is_pruned_and_bounded() {
    let server = RedisServer::start();
    let (sessions, _) = open(&server.config());
    sessions.ping().await.unwrap();
    let name = IndexKey::new("sub", ISSUER, "alice");
    let key = format!("daypass:i:{}", URL_SAFE_NO_PAD.encode(name.as_bytes()));
    let fill = "for n = 1, tonumber(ARGV[1]) do redis.call('ZADD', KEYS[1], ARGV[2], 'x' .. n) end";
    let card = || -> u64 { server.cli(&["ZCARD", &key]).parse().unwrap() };

    let past = (now().as_millis() - 1000).to_string();
    server.cli(&["EVAL", fill, "1", &key, "150", &past]);
    sessions.create(of("alice", None, now())).await.unwrap();
    assert_eq!(card(), 51, "a hundred at a time");
    sessions.create(of("alice", None, now())).await.unwrap();
    assert_eq!(card(), 2);

    let soon = (now().as_millis() + 1_000_000).to_string();
    server.cli(&["EVAL", fill, "1", &key, "20250", &soon]);
    let id = sessions.create(of("alice", None, now())).await.unwrap();
    assert_eq!(
        card(),
        20_153,
        "a hundred at a time, of those that end first"
    );
    assert_eq!(
        end(&sessions, Whose::subject(ISSUER, "alice"), false)
            .await
            .len(),
        3
    );
    assert!(!alive(&sessions, &id).await);
}

#[tokio::test]
async fn a_session_that_cannot_be_indexed_is_not_made() {
    let server = RedisServer::start();
    let (sessions, _) = open(&server.config());
    let name = IndexKey::new("sub", ISSUER, "alice");
    let key = format!("daypass:i:{}", URL_SAFE_NO_PAD.encode(name.as_bytes()));
    server.cli(&["SET", &key, "spoilt"]);
    assert!(sessions.create(of("alice", None, now())).await.is_err());
    assert_eq!(record_key(&server), "");
}

#[tokio::test]
async fn an_operator_sees_and_ends_every_session_also_those_of_other_versions() {
    let server = RedisServer::start();
    let mut config = server.config();
    let model::Store::Redis(store) = &mut config.store else {
        panic!("it is Redis");
    };
    store.key_prefix = "a*[b]:".into();
    let (sessions, _) = open(&config);
    // Of somebody else, in the same database.
    server.cli(&[
        "HSET",
        "aX[b]:s:{AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA}",
        "d",
        "x",
    ]);
    let mut keys = HashSet::new();
    for n in 0..3 {
        let session = of("alice", Some(&format!("a{n}")), now());
        keys.insert(sessions.create(session).await.unwrap().record_key());
    }
    let fleet = fleet(&sessions);
    assert_eq!(walked(fleet.all()).await, keys);
    assert_eq!(
        walked(fleet.of(&Whose::subject(ISSUER, "alice"))).await,
        keys
    );
    assert_eq!(walked(fleet.of(&Whose::sid(ISSUER, "a1"))).await.len(), 1);

    let old = *keys.iter().next().unwrap();
    let record = format!("a*[b]:s:{{{}}}", URL_SAFE_NO_PAD.encode(old.as_bytes()));
    server.cli(&["HDEL", &record, "m"]);
    server.cli(&["PERSIST", &record]);
    let page: Vec<_> = keys.iter().copied().collect();
    let listed = fleet.list(&page).await.unwrap();
    for one in &listed {
        let known = one.meta.as_ref().map(|meta| &*meta.subject);
        let want = (one.key != old).then_some("alice");
        assert_eq!((known, one.ttl.is_some()), (want, want.is_some()));
    }
    // And one that somebody has spoilt.
    server.cli(&["DEL", &record]);
    server.cli(&["SET", &record, "x"]);
    let (gone, outcome) = fleet.end(&page, Some(LogoutKind::Operator)).await;
    outcome.unwrap();
    assert_eq!(gone.len(), 3);
    assert!(fleet.list(&page).await.unwrap().is_empty());
    assert!(walked(fleet.all()).await.is_empty());
    assert!(memory().0.fleet().is_none());
}

/// Writes records like alice's first one, until there are `many`: as fast as Redis takes them.
fn multiply(server: &RedisServer, sessions: &Sessions, many: usize) {
    let name = IndexKey::new("sub", ISSUER, "alice");
    let set = format!("daypass:i:{}", URL_SAFE_NO_PAD.encode(name.as_bytes()));
    let meta = Meta::of(&of("alice", Some("a1"), now()));
    let mut pipe = ::redis::pipe();
    for _ in 1..many {
        let key = SessionId::generate().record_key();
        let record = format!("daypass:s:{{{}}}", URL_SAFE_NO_PAD.encode(key.as_bytes()));
        let fields = [("d", vec![0; 100]), ("m", meta.seal(&sessions.keys(), key))];
        pipe.hset_multiple(&record, &fields).ignore();
        let score = meta.expires_at.as_millis();
        pipe.zadd(&set, &key.as_bytes()[..], score).ignore();
    }
    let client = ::redis::Client::open(format!("redis://127.0.0.1:{}/", server.port)).unwrap();
    let () = pipe.query(&mut client.get_connection().unwrap()).unwrap();
}

/// Issue 3, point 7: many small steps, and others are served between any two of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_sessions_of_a_user_end_without_blocking_redis() {
    const MANY: usize = 10_000;
    let server = RedisServer::start();
    let (sessions, _) = open(&server.config());
    let first = sessions
        .create(of("alice", Some("a1"), now()))
        .await
        .unwrap();
    let bystander = sessions.create(of("bob", Some("b1"), now())).await.unwrap();
    multiply(&server, &sessions, MANY);
    server.cli(&["CONFIG", "RESETSTAT"]);

    let (other, _) = open(&server.config());
    other.ping().await.unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let pings = tokio::spawn(async move {
        let mut served = 0;
        while !*stopped.borrow() {
            served += u64::from(other.ping().await.is_ok());
        }
        served
    });
    let ended = end(&sessions, Whose::subject(ISSUER, "alice"), true).await;
    stop.send_replace(true);
    let served: u64 = pings.await.unwrap();

    let keys: HashSet<_> = ended.iter().map(|ended| ended.key).collect();
    assert_eq!((ended.len(), keys.len()), (MANY, MANY), "each once");
    assert!(!alive(&sessions, &first).await);
    assert!(alive(&sessions, &bystander).await);
    let stats = server.cli(&["INFO", "commandstats"]);
    let calls = |command: &str| -> u64 {
        let line = stats
            .lines()
            .find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
        let count = line.and_then(|rest| rest.split(',').next()?.parse().ok());
        count.unwrap_or(0)
    };
    assert!(calls("zscan") >= 10, "pages: {stats}");
    assert!(
        calls("evalsha") >= MANY as u64,
        "a script a session: {stats}"
    );
    assert_eq!(calls("zrange") + calls("keys"), 0, "{stats}");
    assert!(
        served >= calls("zscan"),
        "others were served meanwhile: {served}"
    );
}
