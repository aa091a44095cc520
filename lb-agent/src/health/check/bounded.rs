//! Ends what a server sends in answer to one probe, however it is packed.
//!
//! Libraries bound the pieces of an answer, not how many there are: interim answers, records of TLS
//! and extensions of chunks may go on for ever, and none of them is an answer.

use std::{
    io,
    pin::Pin,
    sync::atomic::{AtomicU32, Ordering},
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
};

/// Bytes that a server may send, with all that TLS and chunks add to them.
pub(super) const BYTES_MAX: usize = 512 * 1024;
/// Interim answers (1xx) before the answer.
pub(super) const INTERIM_MAX: u32 = 16;

/// A connection that fails when so many bytes were read; the piece that goes beyond is still read.
pub(super) struct Bounded<C> {
    connection: C,
    left: usize,
}

impl<C> Bounded<C> {
    pub(super) fn new(connection: C) -> Self {
        Self { connection, left: BYTES_MAX }
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Bounded<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            let text = format!("it goes on after {BYTES_MAX} bytes");
            return Poll::Ready(Err(io::Error::other(text)));
        }
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.connection).poll_read(context, buffer);
        self.left = self.left.saturating_sub(buffer.filled().len() - before);
        result
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Bounded<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(context)
    }
}

/// Counts interim answers.
#[derive(Debug, Default)]
pub(super) struct Interim {
    count: AtomicU32,
    too_many: Notify,
}

impl Interim {
    /// One more.
    pub(super) fn add(&self) {
        if self.count.fetch_add(1, Ordering::Relaxed) == INTERIM_MAX {
            self.too_many.notify_one();
        }
    }

    pub(super) fn are_too_many(&self) -> bool {
        self.count.load(Ordering::Relaxed) > INTERIM_MAX
    }

    /// Waits until they are.
    pub(super) async fn wait_too_many(&self) {
        self.too_many.notified().await;
    }
}
