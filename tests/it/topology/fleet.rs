//! Runs two replicas over Redis with sentinels and over a Cluster, under load, and takes masters away.

use std::process::Command;
use std::time::Duration;

use daypass_testbed::client::Client;
use daypass_testbed::daypass::{Daypass, Setup};
use daypass_testbed::echo::Echo;
use daypass_testbed::provider::{Endpoint, Provider};
use daypass_testbed::raw::wait_for;
use daypass_testbed::redis::cluster::Cluster;
use daypass_testbed::redis::sentinel::{Watched, user};
use daypass_testbed::redis::{Options, Redis};
use daypass_testbed::stalls::{self, Stalls};
use serde_json::json;

use super::load::{Load, PATIENCE, sign_in, status};
use crate::BINARY;

/// How often something is done that nobody is to notice, while the machine stands still meanwhile.
const TRIES: usize = 3;
/// Whoever stood still for so long may have been noticed.
const STALL: Duration = Duration::from_millis(100);

/// Tokens run out all the time: what is tried is mostly how they are refreshed.
fn provider() -> Provider {
    Provider::with(|settings| settings.access_ttl = Duration::from_secs(2))
}

fn setup(provider: &Provider, echo: &Echo) -> Setup {
    Setup::new(provider, &echo.url())
        .set("session.refresh_before", "1s")
        .session_key()
}

fn check_online(daypass: &Daypass) -> String {
    let check = Command::new(BINARY)
        .args(["check", "--online", "-c"])
        .arg(daypass.config_file())
        .output()
        .expect("daypass runs");
    let text = [check.stdout, check.stderr].concat();
    format!(
        "{:?} {}",
        check.status.code(),
        String::from_utf8_lossy(&text)
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_replace_a_master_under_load_and_a_password_is_rotated() {
    let (provider, echo) = (provider(), Echo::start());
    let first = user("daypass");
    let mut documented = include_str!("../../../docs/redis.md").lines();
    let (_, rights) = documented
        .find_map(|line| line.split_once("user daypass on >PASSWORD "))
        .expect("the rights at servers");
    let mut watched = Watched::with(
        1,
        Options {
            tls: true,
            client_certificates: true,
            user: Some(user("admin")),
            acl: vec![format!("user daypass on >{} {rights}", first.1)],
            ..Options::default()
        },
    );
    let own = watched.client_certificate();
    let mut store = watched.store();
    let redis = &mut store["redis"];
    redis["username"] = json!("daypass");
    redis["password"] = json!({"file": "@DIR@/redis-password"});
    redis["tls"]["client_cert"] = json!(own.cert_file);
    redis["tls"]["client_key"] = json!(own.key_file);
    let setup = setup(&provider, &echo)
        .set("session.store", store)
        .file("redis-password", &first.1);
    let mut fleet = Daypass::fleet(BINARY, &setup, 2);
    let checked = check_online(&fleet[0]);
    assert!(checked.starts_with("Some(0)"), "{checked}");

    let people = [
        sign_in(&fleet).await,
        sign_in(&fleet).await,
        sign_in(&fleet).await,
    ];
    let load = Load::start(&fleet, &people);
    load.served(5, "before").await;
    assert!(load.noticed("before") <= 2, "{:?}", load.others());
    watched.wait_until_replicated();
    watched.kill_sentinel(0);
    watched.server_mut(0).kill();
    let master = watched.wait_for_failover(0);
    let asked = provider.count(Endpoint::Refresh);
    load.served(5, "after the failover").await;
    // Each must get a new token on the new master, which has never seen the scripts.
    assert!(provider.wait_for_count(Endpoint::Refresh, asked + 2 * people.len(), PATIENCE));
    assert_eq!(provider.reused(), 0, "no token was presented twice");
    let checked = check_online(&fleet[0]);
    assert!(
        checked.contains("does not answer") && checked.contains("sentinel"),
        "{checked}"
    );

    rotate_the_password(watched.server(master), &mut fleet, &load, first.1).await;
    load.end().await;

    // Nobody was signed out, until they sign out themselves: here, and so everywhere.
    for person in &people {
        let out = person.post(fleet[0].url("/oauth2/logout/local"));
        let out = out.header("sec-fetch-site", "same-origin").send().await;
        assert_eq!(out.expect("an answer").status, 204);
        assert!(wait_for_refusal(&fleet, person, 1).await);
    }
    assert_eq!(provider.reused(), 0);
}

/// A password that Redis learns first, and then knows alone. Nobody notices; when the machine stood still it is done again.
async fn rotate_the_password(
    server: &Redis,
    fleet: &mut [Daypass],
    load: &Load,
    mut current: String,
) {
    let connections = || {
        let list = server.command(&["CLIENT", "LIST"]).bytes();
        let list = String::from_utf8_lossy(&list).into_owned();
        let ours = list.lines().filter(|line| line.contains("user=daypass"));
        let mut ids: Vec<_> = ours
            .filter_map(|line| line.split(' ').next().map(ToOwned::to_owned))
            .collect();
        ids.sort();
        ids
    };
    let stalls = Stalls::watch(vec![server.probe(stalls::PATIENCE)]);
    for _ in 0..TRIES {
        let (_, next) = user("daypass");
        load.served(1, "before the rotation").await;
        let before = load.others().len();
        stalls.longest();
        server.command(&["ACL", "SETUSER", "daypass", &format!(">{next}")]);
        // For commands, and to hear of changes.
        let all = wait_for(PATIENCE, || {
            let now = connections();
            (now.len() == 2 * fleet.len()).then_some(now)
        });
        let old = all.unwrap_or_else(|| panic!("{:?}", connections()));
        for daypass in fleet.iter_mut() {
            daypass.change(|setup| setup.file("redis-password", &next));
        }
        let replaced = wait_for(PATIENCE, || {
            let now = connections();
            (now.len() == old.len() && now.iter().all(|id| !old.contains(id))).then_some(())
        });
        assert!(replaced.is_some(), "{old:?} {:?}", connections());
        server.command(&["ACL", "SETUSER", "daypass", &format!("<{current}")]);
        current = next;
        load.served(5, "after the rotation").await;
        if load.others().len() == before {
            return;
        }
        let stall = stalls.longest();
        assert!(
            stall >= STALL,
            "requests were lost ({stall:?}): {:?}",
            load.others()
        );
    }
    panic!("this machine is too slow to tell: {:?}", load.others());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_a_fresh_token_does_not_notice_that_a_master_is_replaced() {
    // PRODUCT §7.
    let (provider, echo) = (Provider::start(), Echo::start());
    let mut watched = Watched::start(1);
    let setup = Setup::new(&provider, &echo.url())
        .session_key()
        .set("session.store", watched.store());
    let fleet = Daypass::fleet(BINARY, &setup, 2);
    let people = [sign_in(&fleet).await, sign_in(&fleet).await];
    let load = Load::start(&fleet, &people);
    load.served(5, "before").await;
    watched.wait_until_replicated();
    watched.server_mut(0).kill();
    watched.wait_for_failover(0);
    // The new master tells of changes.
    for daypass in &fleet {
        let tracked = wait_for(PATIENCE, || {
            (daypass.metric("daypass_session_cache_tracking", &[]) > 0.5).then_some(())
        });
        assert!(tracked.is_some(), "it is followed");
    }
    load.served(5, "after").await;
    assert_eq!(load.others(), Vec::<String>::new());
    load.end().await;
    let out = people[0].post(fleet[0].url("/oauth2/logout/local"));
    let out = out.header("sec-fetch-site", "same-origin").send().await;
    assert_eq!(out.expect("an answer").status, 204);
    let refused = wait_for_refusal(&fleet, &people[0], 1).await;
    assert!(refused, "a logout counts on the other replica");
}

async fn wait_for_refusal(fleet: &[Daypass], person: &Client, replica: usize) -> bool {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while status(fleet, person, replica).await != 401 {
        if tokio::time::Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    true
}

/// Whether one request at most was told to come back: a server that stalls for half a second costs one in each replica. More are
/// an error, unless the machine stood still and there are tries left.
fn noticed_by_few(load: &Load, before: usize, when: &str, stalls: &Stalls, left: usize) -> bool {
    let few = load.noticed(when) <= before + 1;
    let stall = stalls.longest();
    assert!(
        few || (left > 0 && stall >= STALL),
        "{when} ({stall:?}): {:?}",
        load.others()
    );
    few
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_moves_slots_and_replaces_a_master_under_load() {
    let (provider, echo) = (provider(), Echo::start());
    let encrypted = Options {
        tls: true,
        ..Options::default()
    };
    let mut cluster = Cluster::with(3, true, encrypted);
    let setup = setup(&provider, &echo).set("session.store", cluster.store());
    let fleet = Daypass::fleet(BINARY, &setup, 2);
    let checked = check_online(&fleet[0]);
    assert!(checked.starts_with("Some(0)"), "{checked}");
    let mut people = Vec::new();
    for _ in 0..4 {
        people.push(sign_in(&fleet).await);
    }
    let keys = cluster.keys();
    let records = keys.iter().filter(|key| key.starts_with("daypass:s:"));
    let mut slots: Vec<u16> = records.map(|key| cluster.slot(key)).collect();
    slots.sort_unstable();
    slots.dedup();
    assert!(slots.len() + 1 >= people.len(), "a slot each, near enough");

    // Each session moves to each of the other masters and back again, in the middle of requests and refreshes.
    let load = Load::start(&fleet, &people);
    load.served(5, "before").await;
    // By those who took part: the others hear of it in a while.
    let home = |slot: u16| cluster.holder(0, slot).expect("a master");
    let mut homes: Vec<(u16, usize)> = slots.iter().map(|slot| (*slot, home(*slot))).collect();
    let probes = (0..cluster.count()).map(|node| cluster.node(node).probe(stalls::PATIENCE));
    let stalls = Stalls::watch(probes.collect());
    for left in (0..TRIES).rev() {
        let before = load.noticed("before the moves");
        stalls.longest();
        for _ in 0..3 {
            for (slot, from) in &mut homes {
                let to = (*from + 1) % 3;
                cluster.move_slot(*slot, *from, to);
                *from = to;
            }
            load.served(5, "after a move").await;
        }
        if noticed_by_few(&load, before, "three moves of each slot", &stalls, left) {
            break;
        }
    }
    // With the tool that operators use. It begins with the least slot of a master, so that is made one of ours.
    let (first, mut home) = homes[0];
    for left in (0..TRIES).rev() {
        let (from, to) = ((home + 1) % 3, (home + 2) % 3);
        cluster.move_slot(first, home, from);
        home = to;
        let before = load.noticed("before the resharding");
        stalls.longest();
        tokio::task::block_in_place(|| cluster.reshard(first, 100, from, to));
        assert_eq!(cluster.holder(from, first), Some(to));
        load.served(5, "after an operator's resharding").await;
        if noticed_by_few(&load, before, "a hundred slots", &stalls, left) {
            break;
        }
    }
    drop(stalls);
    assert_eq!(provider.reused(), 0);

    let lost = home;
    cluster.wait_until_replicated(lost);
    cluster.node_mut(lost).kill();
    let next = cluster.wait_for_failover(lost, first);
    assert_eq!(next, lost + 3, "its replica");
    let asked = provider.count(Endpoint::Refresh);
    load.served(5, "after the failover").await;
    assert!(provider.wait_for_count(Endpoint::Refresh, asked + 2 * people.len(), PATIENCE));
    load.end().await;
    assert_eq!(provider.reused(), 0, "no token was presented twice");
    for person in &people {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while status(&fleet, person, 1).await != 200 {
            assert!(tokio::time::Instant::now() < deadline, "not served again");
        }
        let out = person.post(fleet[1].url("/oauth2/logout/local"));
        let out = out
            .header("sec-fetch-site", "same-origin")
            .via(fleet[1].public())
            .send()
            .await;
        assert_eq!(out.expect("an answer").status, 204);
        assert!(wait_for_refusal(&fleet, person, 0).await);
    }
    // What the sessions are found by ends later.
    let left = cluster.keys().into_iter();
    assert_eq!(
        left.filter(|key| !key.starts_with("daypass:i:"))
            .collect::<Vec<_>>(),
        Vec::<String>::new(),
        "nothing is left behind"
    );
}
