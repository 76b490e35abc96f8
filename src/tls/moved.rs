//! When bytes last moved on a connection: what tells a slow one from an idle one.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The moment at which the latest byte came or went on a connection. Clones share it.
#[derive(Clone, Debug)]
pub struct Moved(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    opened: Instant,
    /// Milliseconds from `opened` to the latest byte that was read, and to the latest that was written.
    read_ms: AtomicU64,
    wrote_ms: AtomicU64,
}

/// A connection that notes in a [`Moved`] when bytes move, and shows what is read to an observer.
#[derive(Debug)]
pub struct Watched<S, O> {
    stream: S,
    moved: Moved,
    observer: O,
}

/// Sees what a connection reads, in order.
pub trait Observe: Unpin {
    /// The next bytes.
    fn observe(&mut self, bytes: &[u8]);
}

impl Observe for () {
    fn observe(&mut self, _: &[u8]) {}
}

impl Default for Moved {
    fn default() -> Self {
        Self(Arc::new(Inner {
            opened: Instant::now(),
            read_ms: AtomicU64::new(0),
            wrote_ms: AtomicU64::new(0),
        }))
    }
}

impl Moved {
    /// When the latest byte moved; before the first, when the connection was opened.
    #[must_use]
    pub fn at(&self) -> Instant {
        let read_ms = self.0.read_ms.load(Ordering::Relaxed);
        self.0.opened + Duration::from_millis(read_ms.max(self.0.wrote_ms.load(Ordering::Relaxed)))
    }

    /// When the latest byte was written; before the first, when the connection was opened.
    #[must_use]
    pub fn wrote_at(&self) -> Instant {
        self.0.opened + Duration::from_millis(self.0.wrote_ms.load(Ordering::Relaxed))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.0.opened.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn read(&self) {
        self.0.read_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    fn wrote(&self) {
        self.0.wrote_ms.store(self.now_ms(), Ordering::Relaxed);
    }
}

impl<S, O: Observe> Watched<S, O> {
    /// Watches `stream`.
    pub fn new(stream: S, moved: Moved, observer: O) -> Self {
        Self { stream, moved, observer }
    }

    fn wrote(&self, polled: &Poll<io::Result<usize>>) {
        if matches!(polled, Poll::Ready(Ok(1..))) {
            self.moved.wrote();
        }
    }
}

impl<S: AsyncRead + Unpin, O: Observe> AsyncRead for Watched<S, O> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let read = &buffer.filled()[before..];
        if !read.is_empty() {
            self.moved.read();
            self.observer.observe(read);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin, O: Observe> AsyncWrite for Watched<S, O> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.wrote(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
