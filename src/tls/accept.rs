//! Handshakes of those that connect: bounded in time, refusals counted and logged without filling the log.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::{Port, Wire};
use crate::metrics::{IntCounter, Metrics};

/// Longest time for a handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// At most one refusal is logged in this time; the others are counted.
const LOG_INTERVAL: Duration = Duration::from_secs(5);
/// The first byte of a handshake (RFC 8446, 5.1).
const HANDSHAKE: u8 = 22;
/// What a client that speaks plain HTTP is told.
const SPEAK_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\
    Content-Length: 37\r\n\r\nthis port speaks TLS only: use https\n";

/// Does the handshakes of one port. Clones share it.
#[derive(Clone)]
pub struct Acceptor(Arc<Inner>);

struct Inner {
    port: Arc<Port>,
    /// Those that speak plain HTTP are told that this is not understood.
    tells_plain: bool,
    timeout: Duration,
    refused: IntCounter,
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    last: Option<Instant>,
    unlogged: u64,
}

/// Why a connection was refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("it does not speak TLS")]
    Plain,
    #[error("it ended before the handshake")]
    Closed,
    #[error("the handshake took longer than {0:?}")]
    Slow(Duration),
    #[error("{0}")]
    Handshake(io::Error),
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Acceptor").field(&self.0.port.name()).finish()
    }
}

impl Acceptor {
    /// For connections to `port`.
    #[must_use]
    pub fn new(port: Arc<Port>, metrics: &Metrics) -> Self {
        Self::with_timeout(port, metrics, HANDSHAKE_TIMEOUT)
    }

    pub(super) fn with_timeout(port: Arc<Port>, metrics: &Metrics, timeout: Duration) -> Self {
        let refused = metrics.tls_handshakes_failed_total.with_label_values(&[port.name()]);
        let tells_plain = port.name() == "client";
        Self(Arc::new(Inner { port, tells_plain, timeout, refused, log: Mutex::default() }))
    }

    /// The DNS names of the certificate that is shown now.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.0.port.material().names.clone()
    }

    /// The connection under TLS, once the other side has shown what is demanded; `None` if it was refused, which is
    /// logged.
    pub async fn accept(&self, tcp: TcpStream, from: SocketAddr) -> Option<Wire> {
        let timeout = self.0.timeout;
        let done = tokio::time::timeout(timeout, self.handshake(tcp)).await;
        match done.unwrap_or(Err(Refusal::Slow(timeout))) {
            Ok(wire) => Some(wire),
            Err(refusal) => {
                self.refused(&refusal, from);
                None
            }
        }
    }

    async fn handshake(&self, mut tcp: TcpStream) -> Result<Wire, Refusal> {
        // Looked at before rustls does, whose answer to anything else would be an alert that no plain client reads.
        let mut first = [0];
        match tcp.peek(&mut first).await.map_err(Refusal::Handshake)? {
            0 => return Err(Refusal::Closed),
            _ if first != [HANDSHAKE] => {
                if self.0.tells_plain && first[0].is_ascii_uppercase() {
                    // It may not listen any more.
                    let _ = tcp.write_all(SPEAK_TLS).await;
                    let _ = tcp.shutdown().await;
                }
                return Err(Refusal::Plain);
            }
            _ => {}
        }
        let acceptor = TlsAcceptor::from(Arc::clone(&self.0.port.material().server));
        let tls = acceptor.accept(tcp).await.map_err(Refusal::Handshake)?;
        Ok(Wire::Tls(Box::new(TlsStream::Server(tls))))
    }

    fn refused(&self, refusal: &Refusal, from: SocketAddr) {
        let Inner { port, refused, log, .. } = &*self.0;
        if matches!(refusal, Refusal::Closed) {
            // Load balancers look in so, every few seconds.
            return tracing::debug!(port = port.name(), %from, "a connection ended before its handshake");
        }
        refused.inc();
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.last.is_some_and(|last| last.elapsed() < LOG_INTERVAL) {
            log.unlogged += 1;
            return;
        }
        let unlogged = std::mem::take(&mut log.unlogged);
        log.last = Some(Instant::now());
        drop(log);
        tracing::warn!(port = port.name(), %from, unlogged, "refused a connection: {refusal}");
    }
}
