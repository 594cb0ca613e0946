//! Runs a Cluster: masters with a replica each, slots that can be moved, nodes that can be added.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Options, Redis, Reply};
use crate::raw::wait_for;

/// Number of slots.
pub const SLOTS: u16 = 16_384;
/// How long a node may be silent: longer than a busy machine lets one wait.
const NODE_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for anything that the nodes have to agree on.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running Cluster; killed when dropped.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Redis>,
    /// What they call themselves: it stays through restarts.
    ids: Vec<String>,
    buses: Vec<SocketAddr>,
    options: Options,
}

impl Cluster {
    /// `masters`, which share the slots evenly, and as many replicas if `replicated`: node `masters + n` is that of node `n`.
    pub fn start(masters: usize, replicated: bool) -> Self {
        Self::with(masters, replicated, Options::default())
    }

    /// As [`Cluster::start`], all nodes with `options`.
    pub fn with(masters: usize, replicated: bool, options: Options) -> Self {
        let mut cluster = Self {
            nodes: Vec::new(),
            ids: Vec::new(),
            buses: Vec::new(),
            options,
        };
        let count = if replicated { 2 * masters } else { masters };
        for _ in 0..count {
            cluster.start_node();
        }
        for (index, node) in cluster.nodes[..masters].iter().enumerate() {
            let bound = |index: usize| usize::from(SLOTS) * index / masters;
            let (first, last) = (bound(index), bound(index + 1) - 1);
            let words = [
                "CLUSTER",
                "ADDSLOTSRANGE",
                &first.to_string(),
                &last.to_string(),
            ];
            assert_eq!(node.command(&words), Reply::Status("OK".to_owned()));
            // Distinct epochs from the start: settling them takes the nodes a while.
            node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]);
        }
        for index in 1..count {
            cluster.meet(index);
        }
        cluster.wait_for_nodes(count);
        if replicated {
            for index in 0..masters {
                let id = &cluster.ids[index];
                let answer = cluster.nodes[masters + index].command(&["CLUSTER", "REPLICATE", id]);
                assert_eq!(answer, Reply::Status("OK".to_owned()));
            }
            for index in 0..masters {
                cluster.wait_for_replica(index);
            }
        }
        cluster.wait_until_ok();
        cluster
    }

    /// What `session.store` says to use it; the first two nodes tell the others.
    pub fn store(&self) -> Value {
        let urls: Vec<String> = self
            .nodes
            .iter()
            .take(2)
            .map(|node| self.url(node))
            .collect();
        let mut redis = json!({"mode": "cluster", "urls": urls});
        if let Some(authority) = &self.nodes[0].authority {
            redis["tls"] = json!({"ca_file": authority.file()});
        }
        if let Some((user, password)) = &self.options.user {
            redis["username"] = json!(user);
            redis["password"] = json!(password);
        }
        json!({"redis": redis})
    }

    /// A node by its number.
    pub fn node(&self, index: usize) -> &Redis {
        &self.nodes[index]
    }

    /// As [`Cluster::node`], to kill and restart.
    pub fn node_mut(&mut self, index: usize) -> &mut Redis {
        &mut self.nodes[index]
    }

    /// How many nodes there are, dead ones included.
    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    /// Numbers of the nodes that hold slots, as `node` sees it.
    pub fn masters(&self, node: usize) -> Vec<usize> {
        let mut masters: Vec<usize> = self.ranges(node).into_iter().map(|range| range.2).collect();
        masters.sort_unstable();
        masters.dedup();
        masters
    }

    /// Number of the node that holds a slot, as `node` sees it.
    pub fn holder(&self, node: usize, slot: u16) -> Option<usize> {
        let ranges = self.ranges(node);
        let range = ranges
            .iter()
            .find(|range| (range.0..=range.1).contains(&slot))?;
        Some(range.2)
    }

    /// The slot of a key.
    pub fn slot(&self, key: &str) -> u16 {
        let answer = self
            .living()
            .command(&["CLUSTER", "KEYSLOT", key])
            .integer();
        answer
            .and_then(|slot| u16::try_from(slot).ok())
            .expect("a slot")
    }

    /// All keys, of all masters that answer.
    pub fn keys(&self) -> Vec<String> {
        let masters = self.nodes.iter().filter(|node| {
            let role = node.try_command(&["ROLE"]).map(|role| role.strings());
            role.is_some_and(|role| role.first().is_some_and(|role| role == "master"))
        });
        masters.flat_map(Redis::keys).collect()
    }

    /// A node that joins, without slots. Its number.
    pub fn join(&mut self) -> usize {
        let index = self.start_node();
        self.meet(index);
        let living = self
            .nodes
            .iter()
            .filter(|node| node.try_command(&["PING"]).is_some());
        self.wait_for_nodes(living.count());
        // It takes nothing for the first two seconds.
        self.wait_until_ok();
        index
    }

    /// Moves the first slots of a master to another as an operator does, with `redis-cli --cluster reshard`: up to this one
    /// and `more`.
    pub fn reshard(&self, last: u16, more: u16, from: usize, to: usize) {
        // The tool goes by what all nodes say, and only the two of a move are told at once.
        let agreed = wait_for(PATIENCE, || self.is_whole(&[]).then_some(()));
        assert!(agreed.is_some(), "the nodes do not agree");
        let held = self
            .ranges(from)
            .into_iter()
            .filter(|range| range.2 == from);
        let up_to_it: u16 = held
            .filter(|range| range.0 <= last)
            .map(|range| range.1.min(last) - range.0 + 1)
            .sum();
        let count = up_to_it + more;
        let mut command = Command::new("redis-cli");
        if let Some(authority) = &self.nodes[from].authority {
            command.arg("--tls").arg("--cacert").arg(authority.file());
        }
        let address = self.nodes[from].address().to_string();
        let done = command
            .args(["--cluster", "reshard", &address])
            .args(["--cluster-from", &self.ids[from]])
            .args(["--cluster-to", &self.ids[to]])
            .args(["--cluster-slots", &count.to_string(), "--cluster-yes"])
            .output()
            .expect("scripts/install-deps installs redis-cli");
        assert!(
            done.status.success(),
            "{}{}",
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        );
    }

    /// Begins to move a slot: the source knows the target, and the other way round.
    pub fn begin_move(&self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        let (source, target) = (&self.ids[from], &self.ids[to]);
        let ok = Reply::Status("OK".to_owned());
        let importing = ["CLUSTER", "SETSLOT", &slot, "IMPORTING", source];
        assert_eq!(self.nodes[to].command(&importing), ok);
        let migrating = ["CLUSTER", "SETSLOT", &slot, "MIGRATING", target];
        assert_eq!(self.nodes[from].command(&migrating), ok);
    }

    /// Moves the keys of a slot on its way.
    pub fn move_keys(&self, slot: u16, from: usize, to: usize) {
        let target = self.nodes[to].address();
        let (host, port) = (target.ip().to_string(), target.port().to_string());
        loop {
            let words = ["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), "10"];
            let keys = self.nodes[from].command(&words).strings();
            if keys.is_empty() {
                return;
            }
            let mut words = vec!["MIGRATE", &host, &port, "", "0", "5000"];
            if let Some((user, password)) = &self.options.user {
                words.extend(["AUTH2", user, password]);
            }
            words.push("KEYS");
            words.extend(keys.iter().map(String::as_str));
            let answer = self.nodes[from].command(&words);
            // A key may have gone meanwhile.
            assert!(
                matches!(&answer, Reply::Status(text) if text == "OK" || text == "NOKEY"),
                "{answer:?}"
            );
        }
    }

    /// Gives a moved slot to its new master, who is told first.
    pub fn end_move(&self, slot: u16, from: usize, to: usize) {
        let id = &self.ids[to];
        for node in [to, from] {
            let words = ["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", id];
            assert_eq!(
                self.nodes[node].command(&words),
                Reply::Status("OK".to_owned())
            );
        }
    }

    /// Moves a slot with all its keys.
    pub fn move_slot(&self, slot: u16, from: usize, to: usize) {
        self.begin_move(slot, from, to);
        self.move_keys(slot, from, to);
        self.end_move(slot, from, to);
    }

    /// Waits until another node holds the slots of a dead one, and the Cluster works again. Its number.
    pub fn wait_for_failover(&self, from: usize, slot: u16) -> usize {
        let next = wait_for(PATIENCE, || {
            // A frozen one would be waited for.
            let mut others = (0..self.nodes.len()).filter(|node| *node != from);
            let living = others.find(|node| self.nodes[*node].try_command(&["PING"]).is_some())?;
            let holder = self.holder(living, slot).filter(|holder| *holder != from)?;
            self.is_ok_without(Some(from)).then_some(holder)
        });
        next.unwrap_or_else(|| panic!("no failover: {}", self.living().log()))
    }

    /// Whether all nodes are there and of one mind, no slot is on its way, and each master has a replica with all that it
    /// acknowledged so far. `keys`: one for each master to write, wherever it is now.
    pub fn is_whole(&self, keys: &[&str]) -> bool {
        let ranges = self.ranges(0);
        let whole = || {
            for node in 0..self.nodes.len() {
                let info = self.nodes[node].try_command(&["CLUSTER", "INFO"])?.bytes();
                let ok = String::from_utf8_lossy(&info).contains("cluster_state:ok");
                (ok && self.ranges(node) == ranges).then_some(())?;
                let mine = self.nodes[node].try_command(&["CLUSTER", "NODES"])?.bytes();
                let mine = String::from_utf8_lossy(&mine).into_owned();
                let odd = ["fail", "handshake", "->-", "-<-", "disconnected"];
                (!odd.iter().any(|word| mine.contains(word))).then_some(())?;
            }
            for key in keys {
                let slot = self.slot(key);
                let range = ranges
                    .iter()
                    .find(|range| (range.0..=range.1).contains(&slot))?;
                self.nodes[range.2].replicates(1, key)?;
            }
            Some(())
        };
        whole().is_some()
    }

    /// Waits until all that a master has acknowledged so far is on a replica, too.
    pub fn wait_until_replicated(&self, master: usize) {
        self.nodes[master].wait_until_replicated();
    }

    /// Waits until every living node says that the Cluster works.
    pub fn wait_until_ok(&self) {
        let ok = wait_for(PATIENCE, || self.is_ok().then_some(()));
        assert!(
            ok.is_some(),
            "the Cluster does not come up: {}",
            self.nodes[0].log()
        );
    }

    /// Waits until the replica of a master at the start has its data.
    fn wait_for_replica(&self, master: usize) {
        let synced = wait_for(PATIENCE, || {
            (self.nodes[master].replicas_online()? > 0).then_some(())
        });
        assert!(synced.is_some(), "no replica: {}", self.nodes[master].log());
    }

    fn url(&self, node: &Redis) -> String {
        let scheme = if self.options.tls { "rediss" } else { "redis" };
        format!("{scheme}://{}", node.address())
    }

    fn start_node(&mut self) -> usize {
        let bus = crate::ports::free();
        let mut options = self.options.clone();
        let settings = [
            ("--cluster-enabled", "yes".to_owned()),
            ("--cluster-config-file", "nodes.conf".to_owned()),
            (
                "--cluster-node-timeout",
                NODE_TIMEOUT.as_millis().to_string(),
            ),
            ("--cluster-port", bus.port().to_string()),
            ("--repl-diskless-sync-delay", "0".to_owned()),
        ];
        for (key, value) in settings {
            options.arguments.extend([key.to_owned(), value]);
        }
        if self.options.tls {
            // Or else they announce their plain ports.
            let words = ["--tls-cluster", "yes", "--tls-replication", "yes"];
            options.arguments.extend(words.map(ToOwned::to_owned));
        }
        if let Some((user, password)) = &self.options.user {
            let words = ["--masteruser", user, "--masterauth", password];
            options.arguments.extend(words.map(ToOwned::to_owned));
        }
        let authority = self.nodes.first().and_then(|node| node.authority.clone());
        let node = match authority {
            Some(authority) => Redis::signed_by(Some(authority), options),
            None => Redis::with(options),
        };
        let id = node.command(&["CLUSTER", "MYID"]).bytes();
        self.ids
            .push(String::from_utf8(id).expect("hexadecimal digits"));
        self.nodes.push(node);
        self.buses.push(bus);
        self.nodes.len() - 1
    }

    /// Introduces a node to all before it: waiting for gossip takes longer.
    fn meet(&self, index: usize) {
        for other in 0..index {
            let address = self.nodes[other].address();
            let (host, port) = (address.ip().to_string(), address.port().to_string());
            let bus = self.buses[other].port().to_string();
            self.nodes[index].command(&["CLUSTER", "MEET", &host, &port, &bus]);
        }
    }

    fn wait_for_nodes(&self, count: usize) {
        let met = wait_for(PATIENCE, || {
            let mut all = self.nodes.iter().filter_map(|node| {
                let text = node.try_command(&["CLUSTER", "NODES"])?.bytes();
                Some(String::from_utf8_lossy(&text).into_owned())
            });
            let met = |text: String| {
                let lines = text.lines().filter(|line| line.contains(" connected"));
                !text.contains("handshake") && lines.count() >= count
            };
            all.all(met).then_some(())
        });
        assert!(
            met.is_some(),
            "the nodes do not meet: {}",
            self.nodes[0].log()
        );
    }

    fn is_ok(&self) -> bool {
        self.is_ok_without(None)
    }

    fn is_ok_without(&self, out: Option<usize>) -> bool {
        let nodes = self.nodes.iter().enumerate();
        let mut living = nodes
            .filter(|(index, _)| Some(*index) != out)
            .filter_map(|(_, node)| node.try_command(&["CLUSTER", "INFO"]));
        living.all(|info| String::from_utf8_lossy(&info.bytes()).contains("cluster_state:ok"))
    }

    fn living(&self) -> &Redis {
        let mut nodes = self.nodes.iter();
        let living = nodes.find(|node| node.try_command(&["PING"]).is_some());
        living.expect("a node answers")
    }

    /// First and last slot and number of the master, for each range.
    fn ranges(&self, node: usize) -> Vec<(u16, u16, usize)> {
        let Some(Reply::Array(ranges)) = self.nodes[node].try_command(&["CLUSTER", "SLOTS"]) else {
            return Vec::new();
        };
        let read = |range: &Reply| {
            let Reply::Array(range) = range else {
                return None;
            };
            let slot = |at: usize| u16::try_from(range.get(at)?.integer()?).ok();
            let Reply::Array(master) = range.get(2)? else {
                return None;
            };
            // By its name: which of its ports it tells depends on the server and on who asks.
            let name = master.get(2)?.bytes();
            let known = self.ids.iter().position(|id| id.as_bytes() == name)?;
            Some((slot(0)?, slot(1)?, known))
        };
        ranges.iter().filter_map(read).collect()
    }
}
