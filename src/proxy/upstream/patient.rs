//! Lets a request be sent whole before its answer is read; without this, pingora 0.9 tears one WebSocket in twenty down.
//!
//! pingora's HTTP/1.1 exchange waits for the upstream's answer and for the end of the request's (empty) body at once, and
//! picks at random when both are there. When the `101` of a quick upstream wins, the end of the body that comes after it
//! is taken for the end of the tunnel (cloudflare/pingora#946). So connections for upgrades go through a socket that
//! holds back the first read after a write for a few turns: the body's end is already queued and is taken first.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use pingora::connectors::L4Connect;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::{Error, ErrorType};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// Turns of the executor that a first read waits.
const TURNS: u8 = 4;

/// Connects for requests that ask for an upgrade.
#[derive(Debug)]
pub(super) struct PatientConnector {
    /// Longest wait for a connection.
    pub(super) timeout: Duration,
}

#[async_trait]
impl L4Connect for PatientConnector {
    async fn connect(&self, address: &SocketAddr) -> pingora::Result<Stream> {
        let connect = async {
            Ok::<Box<dyn VirtualSocket>, io::Error>(match address {
                SocketAddr::Inet(address) => {
                    let stream = TcpStream::connect(address).await?;
                    stream.set_nodelay(true)?;
                    Box::new(Patient::new(stream))
                }
                SocketAddr::Unix(address) => {
                    let path = address.as_pathname().ok_or(io::ErrorKind::InvalidInput)?;
                    Box::new(Patient::new(UnixStream::connect(path).await?))
                }
            })
        };
        let socket = match tokio::time::timeout(self.timeout, connect).await {
            Ok(Ok(socket)) => socket,
            Ok(Err(error)) => {
                let kind = match error.kind() {
                    io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
                    _ => ErrorType::ConnectError,
                };
                return Err(Error::because(kind, "upgrade", error).into_up());
            }
            Err(_) => return Err(Error::explain(ErrorType::ConnectTimedout, "upgrade").into_up()),
        };
        Ok(Stream::from(VirtualSocketStream::new(socket)))
    }
}

/// A stream whose first read after a write waits a few turns. After the first bytes it is an ordinary one.
#[derive(Debug)]
struct Patient<S> {
    stream: S,
    turns_left: u8,
    answered: bool,
}

impl<S> Patient<S> {
    fn new(stream: S) -> Self {
        Self {
            stream,
            turns_left: 0,
            answered: false,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.answered && self.turns_left > 0 {
            self.turns_left -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.answered |= read.is_ready();
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.turns_left = TURNS;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + Sync + std::fmt::Debug> VirtualSocket
    for Patient<S>
{
    fn set_socket_option(&self, _: VirtualSockOpt) -> io::Result<()> {
        // Set when it was connected.
        Ok(())
    }
}
