//! Stands between two parties on TCP and breaks what it carries: cut, black hole, delay.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// What happens to bytes and connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Everything passes.
    Pass,
    /// Everything passes this much later, in both directions.
    Delay(Duration),
    /// Connections are accepted and stay open; nothing passes until the mode changes.
    BlackHole,
    /// Open connections are cut, new ones are cut as soon as they are accepted.
    Cut,
}

/// A breakable way to `target`; ends when dropped.
#[derive(Debug)]
pub struct Breakable {
    address: SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

#[derive(Debug)]
struct Shared {
    mode: watch::Sender<Mode>,
    last_words: Mutex<Option<String>>,
}

impl Breakable {
    /// Starts on a free loopback port, in [`Mode::Pass`].
    pub fn start(target: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime starts");
        let listener =
            std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port is free");
        listener
            .set_nonblocking(true)
            .expect("a socket can be set non-blocking");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            mode: watch::Sender::new(Mode::Pass),
            last_words: Mutex::new(None),
        });
        let carried = Arc::clone(&shared);
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("the socket suits tokio");
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, target, Arc::clone(&carried)));
            }
        });
        Self {
            address,
            shared,
            runtime: Some(runtime),
        }
    }

    /// Where to connect instead of to the target.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what happens, for open connections too.
    pub fn set(&self, mode: Mode) {
        self.shared.mode.send_replace(mode);
    }

    /// Becomes a [`Mode::BlackHole`] as soon as a client says something that contains `words`: that still arrives, and its
    /// answer does not.
    pub fn swallow_answer_to(&self, words: &str) {
        *self.shared.last_words() = Some(words.to_owned());
    }
}

impl Shared {
    fn last_words(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.last_words
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether these bytes, from a client, are the last that pass.
    fn are_last(&self, bytes: &[u8]) -> bool {
        let mut last = self.last_words();
        let said = last.as_deref().is_some_and(|last| {
            let mut windows = bytes.windows(last.len());
            windows.any(|window| window == last.as_bytes())
        });
        if said {
            *last = None;
        }
        said
    }
}

impl Drop for Breakable {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn carry(client: TcpStream, target: SocketAddr, shared: Arc<Shared>) {
    let mut mode = shared.mode.subscribe();
    if *mode.borrow() == Mode::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = async {
            tokio::join!(pump(from_client, to_server, &shared, true), pump(from_server, to_client, &shared, false));
        } => {}
        _ = mode.wait_for(|mode| *mode == Mode::Cut) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: &Shared, up: bool) {
    let mut mode = shared.mode.subscribe();
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let bytes = &buffer[..count];
        let now = *mode.borrow();
        if let Mode::Delay(time) = now {
            tokio::time::sleep(time).await;
        }
        if up && shared.are_last(bytes) {
            // Before they go out: nothing may come back.
            shared.mode.send_replace(Mode::BlackHole);
        } else if mode
            .wait_for(|mode| *mode != Mode::BlackHole)
            .await
            .is_err()
        {
            return;
        }
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::exchange;
    use crate::redis::Redis;

    #[test]
    fn each_mode_breaks_in_its_own_way_and_heals() {
        let redis = Redis::start();
        let way = Breakable::start(redis.address());
        let say = |words: &str, patience| {
            let words = format!("{words}\r\n");
            let answer = exchange(way.address(), words.as_bytes(), patience);
            (answer.text(), answer.closed)
        };
        // Where the end of the connection tells that all has been said, there is time for it.
        let (soon, ample) = (Duration::from_millis(200), Duration::from_secs(10));
        let bye = "PING\r\nQUIT";
        let said = ("+PONG\r\n+OK\r\n".to_owned(), true);
        for (mode, words, patience, heard) in [
            (Mode::Pass, bye, ample, said.clone()),
            (Mode::BlackHole, "PING", soon, (String::new(), false)),
            (Mode::Cut, "PING", ample, (String::new(), true)),
            (Mode::Delay(soon / 10), bye, ample, said.clone()),
            (Mode::Pass, bye, ample, said.clone()),
        ] {
            way.set(mode);
            assert_eq!(say(words, patience), heard, "{mode:?}");
        }

        way.swallow_answer_to("last");
        assert_eq!(say(bye, ample), said);
        let answer = say("SET last 1", soon);
        assert_eq!(answer, (String::new(), false), "no answer");
        let arrived = crate::raw::wait_for(ample, || redis.keys().pop());
        assert_eq!(arrived.as_deref(), Some("last"), "it came through");
        assert_eq!(say(bye, soon), (String::new(), false), "and nothing else");
        way.set(Mode::Pass);
        assert_eq!(say(bye, ample), said);
    }
}
