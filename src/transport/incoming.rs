//! Connections to the peer port, under TLS if that is wanted.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::{Connected, TcpConnectInfo, TcpIncoming};

use crate::tls::{Acceptor, PeerTls, Wire};

/// Handshakes at one time; further connections wait in the listen backlog.
const HANDSHAKES_MAX: usize = 1024;
/// Pause after a failed accept (no file descriptors left), so that the loop does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Connections, one after the other, ready for HTTP/2.
pub(super) type Incoming = Pin<Box<dyn Stream<Item = io::Result<Wire>> + Send>>;

impl Connected for Wire {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.tcp().connect_info()
    }
}

/// What `listener` accepts. Ends when it is dropped.
pub(super) fn incoming(listener: TcpListener, tls: Option<&PeerTls>) -> Incoming {
    match tls {
        None => TcpIncoming::from(listener)
            .with_nodelay(Some(true))
            .map(|accepted| accepted.map(Wire::Plain))
            .boxed(),
        Some(tls) => {
            let (ready, incoming) = mpsc::channel(1);
            tokio::spawn(shake_hands(listener, tls.acceptor().clone(), ready));
            ReceiverStream::new(incoming).map(Ok).boxed()
        }
    }
}

/// Does handshakes side by side: a slow one holds up nobody. Until nobody takes the results any more.
async fn shake_hands(listener: TcpListener, acceptor: Acceptor, ready: mpsc::Sender<Wire>) {
    let slots = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let accepted = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            accepted = accepted => accepted,
            () = ready.closed() => return,
        };
        match accepted {
            Ok((tcp, from)) => {
                let (acceptor, ready) = (acceptor.clone(), ready.clone());
                tokio::spawn(async move {
                    // Messages are small; waiting for more of them would only delay them.
                    let _ = tcp.set_nodelay(true);
                    let wire = acceptor.accept(tcp, from).await;
                    drop(slot);
                    if let Some(wire) = wire {
                        // Nobody takes it any more at shutdown.
                        let _ = ready.send(wire).await;
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection of a peer");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}
