//! Accepts connections: binds before anything starts, hands streams to an application, and drains.
//!
//! pingora's own listener layer retries a taken port for 30 s and then panics in a task, and its shutdown cuts requests;
//! so sockets are bound here, where a failure is an ordinary error, and the accept loops are ours.

use std::any::Any;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use pingora::apps::ServerApp;
use pingora::http::ResponseHeader;
use pingora::listeners::tls::Acceptor;
use pingora::protocols::http::ServerSession;
use pingora::protocols::l4::stream::Stream as L4Stream;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{GetProxyDigest, GetSocketDigest, SocketDigest, Stream};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::config::model::{Address, Listener};
use crate::streams::Riders;

mod buffered;
pub mod tls;
mod workers;

pub use self::workers::Workers;

/// Longest time from an idle connection to a complete request header: pingora's 60 s of keep-alive, and then some to send
/// it. pingora limits each read, not their sum, and in HTTP/2 not the preface: a byte a minute would hold it for ever.
const REQUEST: Duration = Duration::from_secs(75);
/// How often a connection is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Longest TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections held at once by one listener; more wait in the kernel's queue.
const CONNECTIONS: usize = 65_536;
/// Pause after a failed `accept`, which is nearly always a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a connection is doing, for the one who looks after it. Travels with the stream, in the only place pingora has for
/// such a thing.
///
/// A watch per connection instead of a timer per request: the request only notes where it is.
#[derive(Debug, Clone)]
pub struct Activity(Arc<Watched>);

#[derive(Debug)]
struct Watched {
    /// Looks the current step may still take; 0 when there is none to wait for.
    looks_left: AtomicU32,
    /// The requests on it that ride on a session.
    riders: Riders,
}

impl Activity {
    fn new() -> Self {
        let activity = Self(Arc::new(Watched {
            looks_left: AtomicU32::new(0),
            riders: Riders::default(),
        }));
        activity.waits();
        activity
    }

    /// The one that belongs to a session's connection.
    pub fn of(session: &ServerSession) -> Option<&Self> {
        let digest = session.digest()?.proxy_digest.as_ref()?;
        digest.user_data.as_ref()?.downcast_ref::<Self>()
    }

    /// The requests on it that ride on a session.
    pub fn riders(&self) -> &Riders {
        &self.0.riders
    }

    /// A request's header is waited for.
    pub fn waits(&self) {
        self.expect_within(REQUEST);
    }

    /// The next step must come within `limit`, give or take a second, or the connection ends.
    pub fn expect_within(&self, limit: Duration) {
        let looks = limit.as_millis() / LOOK.as_millis() + 1;
        let looks = u32::try_from(looks).unwrap_or(u32::MAX);
        self.0.looks_left.store(looks, Ordering::Release);
    }

    /// A request is under way: other limits apply.
    pub fn is_busy(&self) {
        self.0.looks_left.store(0, Ordering::Release);
    }

    fn attach(&self, stream: &mut L4Stream) {
        let Ok(unused) = ResponseHeader::build_no_case(200, Some(0)) else {
            return;
        };
        let mark: Box<dyn Any + Send + Sync> = Box::new(self.clone());
        stream.set_proxy_digest(ProxyDigest::new(Box::new(unused), Some(mark)));
    }

    /// Looks after `connection` until it ends, and ends it when a step does not come in time. A task of its own: what a
    /// connection's task waits for is looked at each time it wakes.
    fn watch(&self, connection: AbortHandle) {
        let watched = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                let Some(watched) = watched.upgrade() else {
                    return;
                };
                let looks_left = &watched.looks_left;
                let looked = looks_left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| {
                    // The last look is not taken off: 0 means that nothing is waited for.
                    (left > 1).then(|| left - 1)
                });
                if looked == Err(1) || !watched.riders.look() {
                    return connection.abort();
                }
            }
        });
    }
}

/// A bound socket, not yet accepting.
#[derive(Debug)]
pub struct Bound {
    socket: Socket,
    /// Where it really listens: a port 0 has become a number.
    pub address: Address,
    tls: Option<Arc<tls::Certificate>>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix {
        socket: UnixListener,
        /// Held for its `Drop`.
        _path: UnixPath,
    },
}

/// Removes the socket file when the listener goes.
#[derive(Debug)]
struct UnixPath(PathBuf);

impl Drop for UnixPath {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Why a listener could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The socket.
    #[error("cannot listen on {address}")]
    Socket {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The certificate.
    #[error("cannot use the certificate of {address}: {problem}")]
    Certificate {
        /// Where.
        address: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// Binds one listener.
///
/// # Errors
/// See [`BindError`].
pub async fn bind(listener: &Listener) -> Result<Bound, BindError> {
    let name = listener.address.to_string();
    let failed = |source| BindError::Socket {
        address: name.clone(),
        source,
    };
    let tls = match &listener.tls {
        Some(files) => Some(Arc::new(tls::Certificate::load(files).map_err(
            |problem| BindError::Certificate {
                address: name.clone(),
                problem,
            },
        )?)),
        None => None,
    };
    let (socket, address) = match &listener.address {
        Address::Tcp(address) => {
            let socket = TcpListener::bind(address).await.map_err(failed)?;
            let bound = socket.local_addr().map_err(failed)?;
            (Socket::Tcp(socket), Address::Tcp(bound))
        }
        Address::Unix(path) => {
            // A socket file left by a crash would make bind fail. One that still answers belongs to somebody.
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(failed(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another process listens on this socket",
                )));
            }
            if std::fs::symlink_metadata(path)
                .is_ok_and(|meta| std::os::unix::fs::FileTypeExt::is_socket(&meta.file_type()))
            {
                let _ = std::fs::remove_file(path);
            }
            let socket = UnixListener::bind(path).map_err(failed)?;
            // The group may connect: a reverse proxy in front runs as another user.
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o660))
                .map_err(failed)?;
            (
                Socket::Unix {
                    socket,
                    _path: UnixPath(path.clone()),
                },
                Address::Unix(path.clone()),
            )
        }
    };
    Ok(Bound {
        socket,
        address,
        tls,
    })
}

impl Bound {
    /// The certificate, for reloading.
    pub fn certificate(&self) -> Option<Arc<tls::Certificate>> {
        self.tls.clone()
    }

    /// Accepts until `stop` turns true, then closes the socket. Connections run on `workers` and go on: see [`ServerApp`]
    /// for how they end.
    pub async fn serve<A: ServerApp + Send + Sync + 'static>(
        self,
        workers: Arc<Workers<A>>,
        mut stop: watch::Receiver<bool>,
    ) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            // Finished connections are forgotten as we go, so the set stays as small as what is open.
            while connections.try_join_next().is_some() {}
            let accepted = tokio::select! {
                biased;
                () = stopped(&mut stop) => break,
                accepted = self.accept(&slots) => accepted,
            };
            let (accepted, slot) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(error = %error, listener = %self.address, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let acceptor = self.tls.as_ref().map(|tls| tls.acceptor());
            let stop = stop.clone();
            let activity = Activity::new();
            let mark = activity.clone();
            let worker = workers.least_busy();
            let (app, place) = (worker.app.clone(), worker.place());
            let connection = async move {
                let _held = (slot, place);
                // Here, because a socket belongs to the runtime that it was made on.
                let Ok(stream) = accepted.into_stream(&mark) else {
                    return;
                };
                let Some(stream) = handshake(stream, acceptor).await else {
                    return;
                };
                let mut next = app.process_new(stream, &stop).await;
                while let Some(stream) = next {
                    next = app.process_new(stream, &stop).await;
                }
            };
            activity.watch(connections.spawn_on(connection, &worker.runtime));
        }
        let Self { socket, .. } = self;
        drop(socket);
        for app in workers.apps() {
            app.cleanup().await;
        }
        // The drain deadline belongs to the caller, who drops this future when it is reached.
        while connections.join_next().await.is_some() {}
    }

    async fn accept(
        &self,
        slots: &Arc<Semaphore>,
    ) -> io::Result<(Accepted, tokio::sync::OwnedSemaphorePermit)> {
        let slot = slots
            .clone()
            .acquire_owned()
            .await
            .map_err(io::Error::other)?;
        let accepted = match &self.socket {
            Socket::Tcp(socket) => Accepted::Tcp(socket.accept().await?.0.into_std()?),
            Socket::Unix { socket, .. } => Accepted::Unix(socket.accept().await?.0.into_std()?),
        };
        Ok((accepted, slot))
    }
}

/// A connection on its way from the runtime that accepts to the one that serves.
enum Accepted {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Accepted {
    /// As pingora takes it, marked with what it is doing.
    fn into_stream(self, activity: &Activity) -> io::Result<L4Stream> {
        let riders = activity.riders().clone();
        let (mut stream, fd) = match self {
            Self::Tcp(stream) => {
                stream.set_nodelay(true)?;
                let fd = stream.as_raw_fd();
                (buffered::stream(TcpStream::from_std(stream)?, riders), fd)
            }
            Self::Unix(stream) => {
                let fd = stream.as_raw_fd();
                (buffered::stream(UnixStream::from_std(stream)?, riders), fd)
            }
        };
        stream.set_socket_digest(SocketDigest::from_raw_fd(fd));
        activity.attach(&mut stream);
        Ok(stream)
    }
}

async fn handshake(stream: L4Stream, acceptor: Option<Arc<Acceptor>>) -> Option<Stream> {
    let Some(acceptor) = acceptor else {
        return Some(Box::new(stream));
    };
    // Failed handshakes are everyday noise (scanners, probes): not worth a log line at the default level.
    match tokio::time::timeout(HANDSHAKE, acceptor.tls_handshake(stream)).await {
        Ok(Ok(stream)) => Some(Box::new(stream)),
        Ok(Err(_)) => {
            tracing::debug!("TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!("TLS handshake timed out");
            None
        }
    }
}

/// Resolves when `stop` is true, or when nobody is left who could make it so.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
