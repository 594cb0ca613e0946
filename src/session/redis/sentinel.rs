//! Asks sentinels where the master is, and the master whether it is one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ErrorKind, RedisError, RedisResult, Value, from_redis_value};
use tokio::time::Instant;

use super::access::{Access, Place, may_be_refusal};
use super::gather::gather;
use crate::clock::by;

/// The sentinels of one master.
pub(super) struct Sentinels {
    name: Arc<str>,
    access: Arc<Access>,
    all: Vec<Arc<Sentinel>>,
    /// The highest configuration epoch seen: each failover has a higher one.
    newest: Mutex<u64>,
}

struct Sentinel {
    master: Arc<str>,
    place: Place,
    access: Arc<Access>,
    /// Kept open, for it is asked every second.
    connection: Mutex<Option<MultiplexedConnection>>,
}

/// What a sentinel said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    /// The master, as of this configuration epoch.
    Master(Place, u64),
    /// It knows no master of that name.
    Unknown,
    /// It does not let us in.
    Closed,
    /// Nothing.
    Silence,
}

impl Sentinels {
    pub(super) fn new(name: String, places: Vec<Place>, access: Access) -> Self {
        let (name, access): (Arc<str>, _) = (name.into(), Arc::new(access));
        let sentinels = places.into_iter().map(|place| {
            Arc::new(Sentinel {
                master: Arc::clone(&name),
                place,
                access: Arc::clone(&access),
                connection: Mutex::new(None),
            })
        });
        Self {
            all: sentinels.collect(),
            name,
            access,
            newest: Mutex::new(0),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn access(&self) -> &Access {
        &self.access
    }

    /// Where the master is, by the newest answer. Of several such, the one `in_use`: sentinels may spell an address in
    /// different ways.
    pub(super) async fn master(&self, in_use: Option<&Place>) -> RedisResult<Place> {
        let words = self.words().await;
        let mut newest = self.newest.lock();
        let all: Vec<_> = words.iter().map(|(_, word)| word).collect();
        let (place, epoch) = choose(&all, self.all.len(), *newest, in_use)
            .ok_or((ErrorKind::Client, "no sentinel names a master"))?;
        *newest = epoch;
        Ok(place)
    }

    /// What each sentinel says that answers in time.
    pub(super) async fn words(&self) -> Vec<(&Place, Word)> {
        let asked = self
            .all
            .iter()
            .map(|sentinel| async { (&sentinel.place, ask(sentinel).await) });
        let good = |(_, word): &(&Place, Word)| matches!(word, Word::Master(..));
        gather(asked, good, ASK, GRACE).await
    }

    /// What every sentinel says, however slow within the limit.
    pub(super) async fn all_words(&self) -> Vec<(&Place, Word)> {
        let asked = self
            .all
            .iter()
            .map(|sentinel| async { (&sentinel.place, ask(sentinel).await) });
        let mut words = gather(asked, |_| false, ASK, ASK).await;
        for sentinel in &self.all {
            if !words.iter().any(|(place, _)| **place == sentinel.place) {
                words.push((&sentinel.place, Word::Silence));
            }
        }
        words
    }

    /// Asks a server what it takes itself for. `HELLO` needs no right that `AUTH` does not need.
    pub(super) async fn verify_master(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<()> {
        let hello: HashMap<String, Value> = redis::cmd("HELLO").query_async(connection).await?;
        if let Some(Value::BulkString(role)) = hello.get("role")
            && role == b"master"
        {
            return Ok(());
        }
        Err((ErrorKind::Client, "the server is not a master").into())
    }
}

/// Asks in a task of its own: whoever does not wait for a slow sentinel leaves it to finish, and finds its connection made
/// when it is asked again. Cut off each time, it would never be heard.
async fn ask(sentinel: &Arc<Sentinel>) -> Word {
    let sentinel = Arc::clone(sentinel);
    let asked = tokio::spawn(async move { sentinel.ask().await });
    asked.await.unwrap_or(Word::Silence)
}

impl Sentinel {
    async fn ask(&self) -> Word {
        let kept = self.connection.lock().clone();
        let asked = async {
            if let Some(mut connection) = kept
                && let Ok(word) = self.question(&mut connection).await
            {
                return Ok((word, connection));
            }
            let mut connection = self.connect().await?;
            let word = self.question(&mut connection).await?;
            Ok((word, connection))
        };
        let answer = by(Instant::now() + ASK, asked).await;
        let (connection, word) = match answer {
            Some(Ok((word, connection))) => (Some(connection), word),
            Some(Err(error)) if closed(&error) => (None, Word::Closed),
            _ => (None, Word::Silence),
        };
        *self.connection.lock() = connection;
        word
    }

    /// Errors are those of the connection.
    async fn question(&self, connection: &mut MultiplexedConnection) -> RedisResult<Word> {
        // Address and epoch differ while a failover is under way, and only the first command knows the address then.
        let mut pipe = redis::pipe();
        pipe.ignore_errors();
        pipe.cmd("SENTINEL")
            .arg("GET-MASTER-ADDR-BY-NAME")
            .arg(&*self.master)
            .cmd("SENTINEL")
            .arg("MASTER")
            .arg(&*self.master);
        let answers: [RedisResult<Value>; 2] = pipe.query_async(connection).await?;
        let [address, details] = answers;
        let Some((host, port)) = from_redis_value::<Option<(String, u16)>>(address?)? else {
            return Ok(Word::Unknown);
        };
        let details: HashMap<String, String> = from_redis_value(details?)?;
        let epoch = details
            .get("config-epoch")
            .and_then(|text| text.parse().ok());
        Ok(Word::Master(Place::Tcp(host, port), epoch.unwrap_or(0)))
    }

    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        // Who asks has a deadline; the crate's own would take no last look.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(QUEUE);
        let passes = self.access.passes();
        let enter = |pass: Arc<super::access::Pass>| {
            let config = config.clone();
            async move {
                let node = pass.node(&self.place)?;
                node.client
                    .get_multiplexed_async_connection_with_config(&config)
                    .await
            }
        };
        match (enter(passes.current).await, passes.previous) {
            (Err(error), Some(previous)) if may_be_refusal(&error) => {
                enter(previous).await.map_err(|_| error)
            }
            (entered, _) => entered,
        }
    }
}

/// The newest master of those named. An answer older than what was `seen` comes from a sentinel that was cut off, unless most
/// of the `known` ones give it: then they were set up anew.
fn choose(
    words: &[&Word],
    known: usize,
    seen: u64,
    in_use: Option<&Place>,
) -> Option<(Place, u64)> {
    let named = || {
        words.iter().filter_map(|word| match word {
            Word::Master(place, epoch) => Some((place, *epoch)),
            _ => None,
        })
    };
    let newest = named().map(|(_, epoch)| epoch).max()?;
    if newest < seen && named().count() * 2 <= known {
        return None;
    }
    let mut candidates = named().filter(|(_, epoch)| *epoch == newest);
    let first = candidates.clone().next()?.0;
    let place = candidates
        .find(|(place, _)| Some(*place) == in_use)
        .map_or(first, |(place, _)| place);
    Some((place.clone(), newest))
}

fn closed(error: &RedisError) -> bool {
    super::access::is_refusal(error)
        || error.kind() == ErrorKind::Server(redis::ServerErrorKind::NoPerm)
}

impl std::fmt::Debug for Sentinels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sentinels({})", self.name)
    }
}

/// The whole wait for a sentinel: connecting and the answer.
const ASK: Duration = Duration::from_millis(400);
/// How long the others may take once one has answered.
const GRACE: Duration = Duration::from_millis(100);
const QUEUE: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_master_counts_and_a_sentinel_that_was_cut_off_does_not() {
        let place = |host: &str| Place::Tcp(host.to_owned(), 6379);
        let (old, new) = (place("old"), place("new"));
        let says = |place: &Place, epoch| Word::Master(place.clone(), epoch);
        let silent = Word::Silence;
        for (name, words, seen, in_use, want) in [
            (
                "all the same",
                vec![says(&old, 1); 3],
                0,
                None,
                Some((&old, 1)),
            ),
            (
                "a failover that not all have heard of",
                vec![says(&old, 1), says(&new, 2), says(&old, 1)],
                1,
                Some(&old),
                Some((&new, 2)),
            ),
            (
                "two spellings of the one in use",
                vec![says(&new, 2), says(&old, 2)],
                2,
                Some(&old),
                Some((&old, 2)),
            ),
            (
                "only one answers, and it missed the failover",
                vec![silent.clone(), says(&old, 1), Word::Unknown],
                2,
                None,
                None,
            ),
            (
                "set up anew",
                vec![says(&old, 0), says(&old, 0)],
                2,
                None,
                Some((&old, 0)),
            ),
            (
                "nobody knows it",
                vec![Word::Unknown, Word::Closed, silent],
                0,
                None,
                None,
            ),
        ] {
            let words: Vec<_> = words.iter().collect();
            let want = want.map(|(place, epoch): (&Place, u64)| (place.clone(), epoch));
            assert_eq!(choose(&words, 3, seen, in_use), want, "{name}");
        }
    }
}
