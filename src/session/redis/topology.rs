//! Leads a command to the server that holds its key, however Redis is laid out: one server, a master with sentinels, a
//! Cluster.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use redis::FromRedisValue;
use tokio::sync::watch;
use tokio::time::{Duration, Instant, timeout};

use super::access::{Access, Doors, Place};
use super::cluster::Cluster;
use super::command::{Command, slot};
use super::link::{ANSWER, Dialled, Link, LinkError, MAX_ATTEMPTS, Observer, Origin};
use super::node::{Masters, Node};
use super::sentinel::{Sentinels, Word};
use crate::config::model;
use crate::metrics::Metrics;

/// All servers of the store. Connects at first use.
#[derive(Debug)]
pub(super) struct Topology {
    layout: Arc<Layout>,
    dialled: Dialled,
    access: Arc<Access>,
    address: Address,
}

#[derive(Debug)]
enum Layout {
    /// A single server, or the master that sentinels name.
    One(Link),
    Cluster(Cluster),
}

/// What others may say and ask of the servers.
#[derive(Clone, Debug)]
pub(super) struct Roster(Arc<Layout>);

impl Roster {
    /// The slots that the server holds, in ascending order; empty where there are none.
    pub(super) fn slots(&self, node: &Node) -> Vec<u16> {
        match &*self.0 {
            Layout::One(_) => Vec::new(),
            Layout::Cluster(cluster) => cluster.slots_of(node),
        }
    }

    /// It does not hold what it should.
    pub(super) fn moved(&self) {
        if let Layout::Cluster(cluster) = &*self.0 {
            cluster.stir();
        }
    }

    /// Whether commands reach it.
    pub(super) fn is_up(&self, node: &Node) -> bool {
        self.with_link(node, Link::is_up).unwrap_or(false)
    }

    /// It has fallen silent.
    pub(super) fn silent(&self, node: &Node) {
        self.with_link(node, Link::is_silent);
    }

    /// What it was reached by may be another server by now.
    pub(super) fn changed(&self, node: &Node) {
        self.with_link(node, Link::redial);
    }

    fn with_link<T>(&self, node: &Node, ask: impl FnOnce(&Link) -> T) -> Option<T> {
        match &*self.0 {
            Layout::One(link) => Some(ask(link)),
            Layout::Cluster(cluster) => cluster.link_to(node).map(|link| ask(&link)),
        }
    }
}

/// Where the data are: what must not change in a running process.
#[derive(Debug, PartialEq, Eq)]
struct Address {
    mode: Mode,
    places: Vec<Place>,
    /// TLS and database.
    kind: (bool, i64),
}

#[derive(Debug, PartialEq, Eq)]
enum Mode {
    Single,
    Sentinel(String),
    Cluster,
}

impl Topology {
    /// Reaches out to nobody yet.
    pub(super) fn new(config: &model::RedisStore, metrics: Arc<Metrics>) -> Result<Self, String> {
        let doors = Doors::open(config)?;
        let address = Address::of(config, &doors);
        let Doors {
            places,
            data,
            sentinels,
        } = doors;
        let access = Arc::new(Access::new(data));
        let dialled: Dialled = Arc::new(watch::channel(0).0);
        let one = |origin, metrics| {
            let observer = Observer::Gauge(metrics);
            let link = Link::new(origin, Arc::clone(&access), observer, Arc::clone(&dialled));
            Layout::One(link)
        };
        let layout = match (&address.mode, sentinels) {
            (Mode::Sentinel(name), Some(pass)) => {
                let sentinels = Sentinels::new(name.clone(), places, Access::new(pass));
                one(Origin::Sentinels(sentinels), metrics)
            }
            (Mode::Cluster, _) => Layout::Cluster(Cluster::new(
                places,
                Arc::clone(&access),
                Arc::clone(&dialled),
                metrics,
            )),
            _ => {
                let place = places.into_iter().next().ok_or("session.store: no URL")?;
                one(Origin::Place(place), metrics)
            }
        };
        Ok(Self {
            layout: Arc::new(layout),
            dialled,
            access,
            address,
        })
    }

    /// Takes over rotated credentials and certificates. Connections stay until the new ones are accepted.
    pub(super) fn reconfigure(&self, config: &model::RedisStore) -> Result<(), String> {
        let doors = Doors::open(config)?;
        if Address::of(config, &doors) != self.address {
            return Err(
                "session.store: other addresses, another mode, master or database take a restart"
                    .into(),
            );
        }
        self.access.replace(doors.data);
        if let (Layout::One(link), Some(pass)) = (&*self.layout, doors.sentinels)
            && let Some(sentinels) = link.sentinels()
        {
            sentinels.access().replace(pass);
        }
        Ok(())
    }

    /// Sends a command and waits for the answer, connection set-up included, at most [`ANSWER`].
    ///
    /// # Cancel safety
    /// Cancel safe: Redis may or may not act on a command whose answer nobody waits for.
    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        command: Command<'_>,
    ) -> Result<T, LinkError> {
        self.ask_by(command, Instant::now() + ANSWER).await
    }

    /// As [`ask`](Self::ask), but waits until `deadline`: for one step of several.
    pub(super) async fn ask_by<T: FromRedisValue>(
        &self,
        command: Command<'_>,
        deadline: Instant,
    ) -> Result<T, LinkError> {
        self.ask_times(command, deadline, MAX_ATTEMPTS).await
    }

    /// As [`ask`](Self::ask), but sends the command once: for a caller who must know that an answer got lost.
    pub(super) async fn ask_once<T: FromRedisValue>(
        &self,
        command: Command<'_>,
        deadline: Instant,
    ) -> Result<T, LinkError> {
        self.ask_times(command, deadline, 1).await
    }

    async fn ask_times<T: FromRedisValue>(
        &self,
        command: Command<'_>,
        deadline: Instant,
        attempts: u32,
    ) -> Result<T, LinkError> {
        match &*self.layout {
            Layout::One(link) => link.ask(command, deadline, attempts).await,
            Layout::Cluster(cluster) => cluster.ask(command, deadline, attempts).await,
        }
    }

    /// Is anybody there?
    pub(super) async fn ping(&self) -> Result<(), LinkError> {
        let deadline = Instant::now() + ANSWER;
        match &*self.layout {
            Layout::One(link) => {
                let mut pipe = redis::pipe();
                pipe.cmd("PING");
                let command = Command::Pipe(&pipe);
                let (_pong,): (String,) = link.ask(command, deadline, MAX_ATTEMPTS).await?;
                Ok(())
            }
            Layout::Cluster(cluster) => cluster.ping(deadline).await,
        }
    }

    /// Whether a server that holds data is connected now.
    pub(super) fn is_up(&self) -> bool {
        match &*self.layout {
            Layout::One(link) => link.is_up(),
            Layout::Cluster(cluster) => cluster.is_up(),
        }
    }

    /// Sends a command to one of the masters, by its number; `None` when there are not so many. For what is not about one
    /// key.
    pub(super) async fn ask_master<T: FromRedisValue>(
        &self,
        number: usize,
        command: Command<'_>,
    ) -> Option<Result<T, LinkError>> {
        let deadline = Instant::now() + ANSWER;
        match &*self.layout {
            Layout::One(link) if number == 0 => {
                Some(link.ask(command, deadline, MAX_ATTEMPTS).await)
            }
            Layout::One(_) => None,
            Layout::Cluster(cluster) => cluster.ask_master(number, command, deadline).await,
        }
    }

    /// Counts the connections made for commands: the next may lead to another server.
    pub(super) fn dialled(&self) -> watch::Receiver<u64> {
        self.dialled.subscribe()
    }

    /// Counts answers of servers that nobody follows.
    pub(super) fn strangers(&self) -> Arc<AtomicU64> {
        match &*self.layout {
            Layout::One(_) => Arc::default(),
            Layout::Cluster(cluster) => cluster.strangers(),
        }
    }

    /// For whoever has connections to the servers of their own.
    pub(super) fn roster(&self) -> Roster {
        Roster(Arc::clone(&self.layout))
    }

    /// Whether the key's server has been connected without a break for so long.
    pub(super) fn is_up_for(&self, key: &str, time: Duration) -> bool {
        match &*self.layout {
            Layout::One(link) => link.is_up_for(time),
            Layout::Cluster(cluster) => cluster.is_up_for(slot(key.as_bytes()), time),
        }
    }

    /// Whether the key's server is known to be away: it would be of no use to wait for it.
    pub(super) fn is_away(&self, key: &str) -> bool {
        match &*self.layout {
            Layout::One(link) => link.is_away(),
            Layout::Cluster(cluster) => cluster.is_away(slot(key.as_bytes())),
        }
    }

    /// Waits until the key's server is known to be away.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn goes_away(&self, key: &str) {
        match &*self.layout {
            Layout::One(link) => link.goes_away().await,
            Layout::Cluster(cluster) => cluster.goes_away(slot(key.as_bytes())).await,
        }
    }

    /// Every master that holds part of the data.
    pub(super) fn masters(&self) -> Masters {
        match &*self.layout {
            Layout::One(link) => link.node(),
            Layout::Cluster(cluster) => cluster.masters(),
        }
    }

    /// Asks everybody; what is wrong, in words.
    pub(super) async fn survey(&self) -> Vec<String> {
        let link = match &*self.layout {
            Layout::Cluster(cluster) => return cluster.survey(Instant::now() + SURVEY).await,
            Layout::One(link) => link,
        };
        let mut problems = Vec::new();
        if let Some(sentinels) = link.sentinels() {
            let mut named = false;
            for (place, word) in sentinels.all_words().await {
                problems.push(match word {
                    Word::Master(..) => {
                        named = true;
                        continue;
                    }
                    Word::Unknown => {
                        format!(
                            "the sentinel at {place} knows no master `{}`",
                            sentinels.name()
                        )
                    }
                    Word::Closed => format!("the sentinel at {place} does not let us in"),
                    Word::Silence => format!("the sentinel at {place} does not answer"),
                });
            }
            if !named {
                return problems;
            }
        }
        // The first attempt may meet a master that is being replaced.
        let answer = timeout(SURVEY, async {
            loop {
                let answer = self.ping().await;
                match (&answer, link.sentinels()) {
                    (Err(_), Some(_)) => tokio::time::sleep(ANSWER).await,
                    _ => return answer,
                }
            }
        });
        let problem = match answer.await {
            Ok(Ok(())) => return problems,
            Ok(Err(LinkError::Timeout)) => "no answer in time",
            Ok(Err(LinkError::Refused | LinkError::NotMaster)) => "command refused",
            Ok(Err(_)) => "no connection",
            Err(_) => "the master that the sentinels name cannot be used",
        };
        problems.push(problem.to_owned());
        problems
    }
}

impl Address {
    fn of(config: &model::RedisStore, doors: &Doors) -> Self {
        let mut places = doors.places.clone();
        places.sort();
        Self {
            mode: match &config.mode {
                model::RedisMode::Single => Mode::Single,
                model::RedisMode::Sentinel { master, .. } => Mode::Sentinel(master.clone()),
                model::RedisMode::Cluster => Mode::Cluster,
            },
            places,
            kind: doors.data.kind(),
        }
    }
}

/// How long a survey waits for a part of the answer.
const SURVEY: Duration = Duration::from_secs(3);
