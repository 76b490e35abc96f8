//! The network between members on one machine: a relay for each ordered pair, which can become silent or refuse.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use super::faults::Direction;

/// Most connections of one relay; a pair of members needs three or four.
const CONNECTIONS_MAX: usize = 64;
/// Pause after the system gave no connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// Bytes that one direction of a connection holds.
const BUFFER_BYTES: usize = 64 << 10;

/// What a relay does with bytes and connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// All passes.
    Open,
    /// Nothing passes and nothing is refused, as if a cable had been pulled.
    Silent,
    /// Connections end, and new ones end at once.
    Refused,
}

/// The relays of a cluster.
pub(super) struct Relays {
    pairs: Vec<Pair>,
}

/// The way on which `from` reaches `to`.
struct Pair {
    from: String,
    to: String,
    relay: Relay,
}

struct Relay {
    address: SocketAddr,
    flow: watch::Sender<Flow>,
    accepting: JoinHandle<()>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Relays {
    /// A relay for each ordered pair of these members, each given with the address at which it listens.
    ///
    /// # Errors
    /// No port is free.
    pub(super) async fn start(members: &[(String, SocketAddr)]) -> io::Result<Self> {
        let mut pairs = Vec::new();
        for (from, _) in members {
            for (to, address) in members.iter().filter(|(to, _)| to != from) {
                let relay = Relay::start(*address).await?;
                pairs.push(Pair { from: from.clone(), to: to.clone(), relay });
            }
        }
        Ok(Self { pairs })
    }

    /// Where `from` is to connect in order to reach `to`; `None` for a pair that there is not.
    pub(super) fn address(&self, from: &str, to: &str) -> Option<SocketAddr> {
        let pair = self.pairs.iter().find(|pair| pair.from == from && pair.to == to)?;
        Some(pair.relay.address)
    }

    /// Changes the ways of each of the victims, in these directions.
    pub(super) fn set(&self, victims: &[String], direction: Direction, flow: Flow) {
        for pair in &self.pairs {
            let is_out = direction != Direction::In && victims.contains(&pair.from);
            let is_in = direction != Direction::Out && victims.contains(&pair.to);
            if is_out || is_in {
                pair.relay.flow.send_replace(flow);
            }
        }
    }

    /// All passes again.
    pub(super) fn heal(&self) {
        for pair in &self.pairs {
            pair.relay.flow.send_replace(Flow::Open);
        }
    }
}

impl Relay {
    async fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let flow = watch::Sender::new(Flow::Open);
        let accepting = tokio::spawn(accept(listener, target, flow.subscribe()));
        Ok(Self { address, flow, accepting })
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, flow: watch::Receiver<Flow>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok((connection, _)) = listener.accept().await else {
            // Too many open files, and the like: passes, or the members say that they cannot connect.
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else { continue };
        let flow = flow.clone();
        tokio::spawn(async move {
            // A connection that breaks is what its two ends see, too.
            let _ = carry(connection, target, flow).await;
            drop(place);
        });
    }
}

/// Carries one connection until both sides have ended it, one breaks it, or it is refused.
async fn carry(source: TcpStream, target: SocketAddr, mut flow: watch::Receiver<Flow>) -> io::Result<()> {
    let mut refused = flow.clone();
    let both = async {
        passes(&mut flow).await;
        let target = TcpStream::connect(target).await?;
        source.set_nodelay(true)?;
        target.set_nodelay(true)?;
        let ((source_in, source_out), (target_in, target_out)) = (source.into_split(), target.into_split());
        let mut back = flow.clone();
        tokio::try_join!(pump(source_in, target_out, &mut flow), pump(target_in, source_out, &mut back))
    };
    tokio::select! {
        done = both => done.map(drop),
        _ = refused.wait_for(|flow| *flow == Flow::Refused) => Ok(()),
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    flow: &mut watch::Receiver<Flow>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let length = from.read(&mut buffer).await?;
        passes(flow).await;
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..length]).await?;
    }
}

/// Waits until bytes pass. Once the relays are gone nothing will.
async fn passes(flow: &mut watch::Receiver<Flow>) {
    if flow.wait_for(|flow| *flow == Flow::Open).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers every byte with the same byte.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = connection.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        address
    }

    async fn three() -> Relays {
        let mut members = Vec::new();
        for name in ["a", "b", "c"] {
            members.push((name.to_owned(), echo().await));
        }
        Relays::start(&members).await.unwrap()
    }

    async fn connect(relays: &Relays, from: &str, to: &str) -> TcpStream {
        TcpStream::connect(relays.address(from, to).unwrap()).await.unwrap()
    }

    async fn is_echoed(connection: &mut TcpStream, byte: u8) -> bool {
        connection.write_all(&[byte]).await.is_ok() && connection.read_u8().await.is_ok_and(|b| b == byte)
    }

    /// Whether nothing comes for a moment in which it would.
    async fn is_silent(connection: &mut TcpStream) -> bool {
        tokio::time::timeout(Duration::from_millis(50), connection.read_u8()).await.is_err()
    }

    #[tokio::test]
    async fn each_ordered_pair_has_a_way_of_its_own() {
        let relays = three().await;
        let mut ways = std::collections::BTreeSet::new();
        for (from, to) in [("a", "b"), ("a", "c"), ("b", "a"), ("b", "c"), ("c", "a"), ("c", "b")] {
            assert!(ways.insert(relays.address(from, to).unwrap()));
            assert!(is_echoed(&mut connect(&relays, from, to).await, 1).await);
        }
        assert_eq!(relays.address("a", "a"), None);
    }

    #[tokio::test]
    async fn a_cut_is_silent_and_what_was_held_back_passes_once_it_is_healed() {
        let relays = three().await;
        let mut before = connect(&relays, "a", "b").await;
        assert!(is_echoed(&mut before, 1).await);
        relays.set(&["b".to_owned()], Direction::Both, Flow::Silent);
        let mut during = connect(&relays, "b", "c").await;
        before.write_all(&[2]).await.unwrap();
        during.write_all(&[3]).await.unwrap();
        assert!(is_silent(&mut before).await && is_silent(&mut during).await);
        assert!(is_echoed(&mut connect(&relays, "a", "c").await, 4).await, "between the others all passes");
        relays.heal();
        assert_eq!((before.read_u8().await.unwrap(), during.read_u8().await.unwrap()), (2, 3));
    }

    #[tokio::test]
    async fn a_cut_in_one_direction_leaves_the_other_one() {
        for (direction, cut, open) in
            [(Direction::Out, ("a", "b"), ("b", "a")), (Direction::In, ("b", "a"), ("a", "b"))]
        {
            let relays = three().await;
            relays.set(&["a".to_owned()], direction, Flow::Silent);
            let mut connection = connect(&relays, cut.0, cut.1).await;
            connection.write_all(&[1]).await.unwrap();
            assert!(is_silent(&mut connection).await, "{direction:?}");
            assert!(is_echoed(&mut connect(&relays, open.0, open.1).await, 2).await, "{direction:?}");
        }
    }

    #[tokio::test]
    async fn refused_connections_end_and_new_ones_do_until_it_is_healed() {
        let relays = three().await;
        let mut before = connect(&relays, "a", "b").await;
        assert!(is_echoed(&mut before, 1).await);
        relays.set(&["a".to_owned()], Direction::Both, Flow::Refused);
        assert!(before.read_u8().await.is_err());
        assert!(connect(&relays, "b", "a").await.read_u8().await.is_err());
        relays.heal();
        assert!(is_echoed(&mut connect(&relays, "b", "a").await, 2).await);
    }

    #[tokio::test]
    async fn an_end_that_closes_is_seen_by_the_other() {
        let relays = three().await;
        let mut connection = connect(&relays, "a", "b").await;
        connection.write_all(b"last").await.unwrap();
        connection.shutdown().await.unwrap();
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"last");
    }
}
