//! Connections to the peer port, under TLS if that is wanted. One that has not shown yet that a member is behind it is
//! closed after a while, and the oldest of them at once if there are too many: so strangers cannot keep members out.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Sleep, sleep};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use crate::tls::{Acceptor, Idle, PeerCertificate, PeerTls, Slot, Slots, Wire};

/// Connections at one time that have not shown a member yet, those in their handshake included.
const UNPROVEN_MAX: usize = 32;
/// For how long a connection may be so.
const UNPROVEN_TIME: Duration = Duration::from_secs(10);
/// Pause after a failed accept (no file descriptors left), so that the loop does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// Shortest time between two warnings that connections cannot be accepted.
const WARN_INTERVAL: Duration = Duration::from_secs(1);

/// Connections, one after the other, ready for HTTP/2.
pub(super) type Incoming = Pin<Box<dyn Stream<Item = io::Result<Guarded>> + Send>>;

/// What is known of a connection. Clones share whether it has shown a member.
#[derive(Clone, Debug, Default)]
pub(super) struct Connection {
    pub(super) from: Option<SocketAddr>,
    /// Verified in the handshake.
    pub(super) certificate: Option<PeerCertificate>,
    proven: Arc<AtomicBool>,
}

impl Connection {
    /// Notes that a member is behind it.
    pub(super) fn prove(&self) {
        self.proven.store(true, Ordering::Relaxed);
    }

    fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }
}

/// The connections that have not shown a member yet, the oldest first.
#[derive(Default)]
struct Unproven(Mutex<VecDeque<(Connection, oneshot::Sender<()>)>>);

impl Unproven {
    /// Takes in a connection, in place of the oldest one if there are too many. The receiver completes when its turn to
    /// be closed has come.
    fn enter(&self, connection: Connection) -> oneshot::Receiver<()> {
        let (keep, evicted) = oneshot::channel();
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|(connection, keep)| !keep.is_closed() && !connection.is_proven());
        while entries.len() >= UNPROVEN_MAX {
            // Its receiver completes as the sender is dropped.
            entries.pop_front();
        }
        entries.push_back((connection, keep));
        evicted
    }
}

/// A connection that ends by itself if it does not show a member in time, or if it is idle and there are too many.
pub(super) struct Guarded {
    wire: Wire,
    connection: Connection,
    limit: Limit,
    moved: Arc<Moved>,
    /// Completes when it must make room for another one.
    must_close: Pin<Box<dyn Future<Output = ()> + Send>>,
    _slot: Slot,
}

/// When something came last, in milliseconds behind `since`.
struct Moved {
    since: Instant,
    millis: AtomicU64,
}

impl Moved {
    fn new() -> Self {
        Self { since: Instant::now(), millis: AtomicU64::new(0) }
    }

    fn now(&self) {
        let millis = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.millis.store(millis, Ordering::Relaxed);
    }
}

impl Idle for Moved {
    fn idle_since(&self) -> Option<Instant> {
        Some(self.since + Duration::from_millis(self.millis.load(Ordering::Relaxed)))
    }
}

/// How long an unproven connection lasts.
struct Limit {
    evicted: Option<oneshot::Receiver<()>>,
    deadline: Pin<Box<Sleep>>,
}

impl Limit {
    /// Ready once the connection must end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let is_evicted = match &mut self.evicted {
            Some(evicted) => Pin::new(evicted).poll(cx).is_ready(),
            None => true,
        };
        if is_evicted {
            self.evicted = None;
            return Poll::Ready(());
        }
        self.deadline.as_mut().poll(cx)
    }
}

impl Connected for Guarded {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        self.connection.clone()
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.connection.is_proven() && self.limit.poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if self.must_close.as_mut().poll(cx).is_ready() {
            self.must_close = Box::pin(std::future::ready(()));
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.wire).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.moved.now();
        }
        read
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }
}

/// What `listener` accepts, at most `connections_max` at one time. Ends when it is dropped.
pub(super) fn incoming(listener: TcpListener, tls: Option<&PeerTls>, connections_max: u32) -> Incoming {
    let (ready, incoming) = mpsc::channel(1);
    tokio::spawn(accept_all(
        listener,
        tls.map(|tls| tls.acceptor().clone()),
        Slots::new(connections_max),
        ready,
    ));
    ReceiverStream::new(incoming).map(Ok).boxed()
}

/// Does handshakes side by side: a slow one holds up nobody. Until nobody takes the results any more.
async fn accept_all(
    listener: TcpListener,
    acceptor: Option<Acceptor>,
    slots: Slots,
    ready: mpsc::Sender<Guarded>,
) {
    let mut warned: Option<Instant> = None;
    let unproven = Arc::new(Unproven::default());
    loop {
        let accepted = async {
            let (tcp, from) = listener.accept().await?;
            Ok::<_, io::Error>((tcp, from, slots.take().await))
        };
        let accepted = tokio::select! {
            accepted = accepted => accepted,
            () = ready.closed() => return,
        };
        match accepted {
            Ok((tcp, from, slot)) => {
                let connection = Connection { from: Some(from), ..Connection::default() };
                let evicted = unproven.enter(connection.clone());
                tokio::spawn(prepare(
                    tcp,
                    from,
                    acceptor.clone(),
                    (connection, slot),
                    evicted,
                    ready.clone(),
                ));
            }
            Err(error) => {
                if warned.is_none_or(|at| at.elapsed() >= WARN_INTERVAL) {
                    warned = Some(Instant::now());
                    tracing::warn!(%error, "cannot accept connections of peers; trying again");
                }
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// From a TCP connection to one that is ready for HTTP/2.
async fn prepare(
    tcp: TcpStream,
    from: SocketAddr,
    acceptor: Option<Acceptor>,
    (mut connection, slot): (Connection, Slot),
    mut evicted: oneshot::Receiver<()>,
    ready: mpsc::Sender<Guarded>,
) {
    // Messages are small; waiting for more of them would only delay them.
    let _ = tcp.set_nodelay(true);
    let wire = match acceptor {
        None => Wire::Plain(tcp),
        Some(acceptor) => {
            let accepted = tokio::select! {
                accepted = acceptor.accept(tcp, from) => accepted,
                _ = &mut evicted => None,
                () = slot.must_close() => None,
            };
            let Some(wire) = accepted else { return };
            // Only holders of the authority's certificates come so far.
            connection.prove();
            wire
        }
    };
    connection.certificate = wire.certificate();
    let limit = Limit { evicted: Some(evicted), deadline: Box::pin(sleep(UNPROVEN_TIME)) };
    let (moved, must_close) = (Arc::new(Moved::new()), Box::pin(slot.must_close()));
    slot.watch(Arc::clone(&moved) as Arc<dyn Idle>);
    // Nobody takes it any more at shutdown.
    let _ = ready.send(Guarded { wire, connection, limit, moved, must_close, _slot: slot }).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_strangers_the_oldest_must_go() {
        let unproven = Unproven::default();
        let mut connections: Vec<_> = (0..UNPROVEN_MAX)
            .map(|_| {
                let connection = Connection::default();
                (connection.clone(), unproven.enter(connection))
            })
            .collect();
        connections[0].0.prove();
        drop(connections.pop());
        let stays = |(_, evicted): &mut (Connection, oneshot::Receiver<()>)| {
            matches!(evicted.try_recv(), Err(oneshot::error::TryRecvError::Empty))
        };
        // One shows a member and one has ended: there is room for two.
        let more = [(); 2].map(|()| unproven.enter(Connection::default()));
        assert!(connections.iter_mut().skip(1).all(stays));
        let last = unproven.enter(Connection::default());
        assert!(!stays(&mut connections[1]) && connections.iter_mut().skip(2).all(stays));
        drop((more, last));
    }
}
