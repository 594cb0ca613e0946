//! Gathers small writes, so that an answer's head and a short body leave in one system call.
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

/// Bytes gathered; what is larger goes out directly. One Ethernet frame's worth, as in pingora.
const WRITE: usize = 1460;

/// Puts the buffer around an accepted socket.
pub(super) fn stream<S>(socket: S) -> Stream
where
    S: AsyncRead + AsyncWrite + Unpin + Send + Sync + Debug + 'static,
{
    let buffered = Buffered(BufWriter::with_capacity(WRITE, socket));
    Stream::from(VirtualSocketStream::new(Box::new(buffered)))
}

#[derive(Debug)]
struct Buffered<S>(BufWriter<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Buffered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(self.0.get_mut()).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Buffered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
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
