//! Stands between two parties on TCP and breaks what it carries: cut, black hole, delay.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
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
    mode: Arc<watch::Sender<Mode>>,
    runtime: Option<Runtime>,
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
        let mode = Arc::new(watch::Sender::new(Mode::Pass));
        let shared = Arc::clone(&mode);
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("the socket suits tokio");
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, target, shared.subscribe()));
            }
        });
        Self {
            address,
            mode,
            runtime: Some(runtime),
        }
    }

    /// Where to connect instead of to the target.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what happens, for open connections too.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for Breakable {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn carry(client: TcpStream, target: SocketAddr, mut mode: watch::Receiver<Mode>) {
    if *mode.borrow() == Mode::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (up, down) = (mode.clone(), mode.clone());
    tokio::select! {
        () = async { tokio::join!(pump(from_client, to_server, up), pump(from_server, to_client, down)); } => {}
        _ = mode.wait_for(|mode| *mode == Mode::Cut) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut mode: watch::Receiver<Mode>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let now = *mode.borrow();
        if let Mode::Delay(time) = now {
            tokio::time::sleep(time).await;
        }
        if mode
            .wait_for(|mode| *mode != Mode::BlackHole)
            .await
            .is_err()
            || to.write_all(&buffer[..count]).await.is_err()
        {
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
        let ping = |patience| exchange(way.address(), b"PING\r\n", Duration::from_millis(patience));
        for (mode, patience, text, closed) in [
            (Mode::Pass, 200, "+PONG\r\n", false),
            (Mode::BlackHole, 200, "", false),
            (Mode::Cut, 2000, "", true),
            (
                Mode::Delay(Duration::from_millis(20)),
                400,
                "+PONG\r\n",
                false,
            ),
            (Mode::Pass, 200, "+PONG\r\n", false),
        ] {
            way.set(mode);
            let answer = ping(patience);
            assert_eq!(
                (answer.text().as_str(), answer.closed),
                (text, closed),
                "{mode:?}"
            );
        }
    }
}
