//! Gathers small writes, so that an answer's head and a short body leave in one system call; and ends what a cut-off
//! request waits for.
//!
//! pingora's own listeners set such a buffer on their streams in a way that is closed to others; a stream made outside has
//! none, and costs a `send` more per answer. Every part of pingora that writes flushes, for the buffer is its default.

use std::fmt::Debug;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use tokio::io::{AsyncRead, AsyncWrite, BufWriter, ReadBuf};

use crate::streams::Riders;

/// Bytes gathered; what is larger goes out directly. One Ethernet frame's worth, as in pingora.
const WRITE: usize = 1460;

/// Puts the buffer around an accepted socket. When the connection's request is cut off, nothing more is read, and nothing
/// waits to be written: what is left to say must fit into the socket's buffer.
pub(super) fn stream<S>(socket: S, riders: Riders) -> Stream
where
    S: AsyncRead + AsyncWrite + Unpin + Send + Sync + Debug + 'static,
{
    let buffered = Buffered {
        socket: BufWriter::with_capacity(WRITE, socket),
        riders,
    };
    Stream::from(VirtualSocketStream::new(Box::new(buffered)))
}

#[derive(Debug)]
struct Buffered<S> {
    socket: BufWriter<S>,
    riders: Riders,
}

impl<S> Buffered<S> {
    /// A wait that a cut ends.
    fn unless_cut<T>(
        &self,
        cx: &mut Context<'_>,
        poll: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match poll {
            Poll::Pending if self.riders.poll_cut(cx) => Poll::Ready(Err(cut())),
            poll => poll,
        }
    }
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the session is over")
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Buffered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.riders.is_cut() {
            // Whatever the client goes on sending.
            return Poll::Ready(Err(cut()));
        }
        let poll = Pin::new(self.socket.get_mut()).poll_read(cx, buf);
        self.unless_cut(cx, poll)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Buffered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.unless_cut(cx, poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.socket).poll_flush(cx);
        self.unless_cut(cx, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl<S> VirtualSocket for Buffered<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + Sync + Debug,
{
    fn set_socket_option(&self, _: VirtualSockOpt) -> io::Result<()> {
        // Set when it was accepted.
        Ok(())
    }
}
