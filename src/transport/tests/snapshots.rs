//! Snapshots over real connections: whole, with breaks, refused, of no use any more.

use tokio_stream::iter;

use super::*;
use crate::replica::snapshot::{CHUNK_BYTES_MAX, Chunk, Cut, Header, Offered, Receive, Refused};
use crate::types::{LogIndex, LogPosition, Term};

const POSITION: LogPosition = LogPosition { index: LogIndex(500), term: Term(3) };

/// Takes chunks, and refuses some once.
#[derive(Default)]
struct Taker {
    state: Mutex<Taken>,
    /// The number of a chunk that is not taken the first time.
    refuse: Mutex<Vec<(u64, Refused)>>,
}

#[derive(Default)]
struct Taken {
    header: Option<Header>,
    offers: u64,
    chunks: Vec<Chunk>,
}

impl Receive for Taker {
    fn offer(&self, from: NodeId, header: Header) -> Result<Offered, Refused> {
        assert_eq!(from, NodeId(1));
        let mut taken = self.state.lock().unwrap();
        taken.offers += 1;
        if taken.header.replace(header.clone()).is_some_and(|before| before != header) {
            taken.chunks.clear();
        }
        let complete = taken.chunks.last().is_some_and(|chunk| chunk.total.is_some());
        Ok(if complete { Offered::Complete } else { Offered::From(taken.chunks.len() as u64) })
    }

    fn chunk(&self, _: NodeId, id: u64, chunk: &Chunk) -> Result<bool, Refused> {
        let mut taken = self.state.lock().unwrap();
        assert_eq!(taken.header.as_ref().unwrap().id, id);
        assert_eq!(taken.chunks.len() as u64, chunk.number);
        let mut refuse = self.refuse.lock().unwrap();
        if let Some(at) = refuse.iter().position(|(number, _)| *number == chunk.number) {
            return Err(refuse.remove(at).1);
        }
        taken.chunks.push(chunk.clone());
        Ok(chunk.total.is_some())
    }
}

impl Taker {
    fn refuse(&self, number: u64, refused: Refused) {
        self.refuse.lock().unwrap().push((number, refused));
    }

    /// Whether all of `cut` has come.
    fn has_all(&self, cut: &Cut) -> bool {
        let taken = self.state.lock().unwrap();
        let id = taken.header.as_ref().unwrap().id;
        let mut all = Vec::new();
        cut.chunks(id, 0, |chunk| {
            all.push(chunk);
            std::ops::ControlFlow::Continue(())
        });
        taken.chunks == all && taken.header == Some(cut.header(id))
    }
}

/// A state of several chunks.
fn cut(to: u64) -> Cut {
    Cut { to: NodeId(to), ..Cut::sample(30, Term(4), POSITION) }
}

fn outcome(sent: Option<LogPosition>) -> Outcome {
    Outcome { to: NodeId(2), session: Session(1), term: Term(4), sent }
}

/// A sender, and a receiver with what it takes.
async fn pair() -> (Node, Traffic, Node, Traffic, Arc<Taker>) {
    let addresses = Addresses::default();
    let a = start(&addresses, "a", 1, member_of(X)).await;
    let b = start(&addresses, "b", 2, member_of(X)).await;
    let a_traffic = a.run(X, &[(2, "b")]);
    let b_traffic = b.run(X, &[(1, "a")]);
    let taker = Arc::<Taker>::default();
    b.service.receive_snapshots_by(taker.clone());
    (a, a_traffic, b, b_traffic, taker)
}

#[tokio::test]
async fn a_snapshot_arrives_whole_and_is_counted() {
    let (_a, mut sender, _b, _, taker) = pair().await;
    sender.peers.send_snapshot(cut(2));
    assert_eq!(sender.ended.recv().await, Some(outcome(Some(POSITION))));
    assert!(taker.has_all(&cut(2)));
    assert_eq!(sender.metrics.raft_snapshots_sent_total.get(), 1);
    let bytes: usize = taker.state.lock().unwrap().chunks.iter().map(|chunk| chunk.records.len()).sum();
    let sent = sender.metrics.raft_snapshot_bytes_total.with_label_values(&["sent"]);
    assert_eq!(sent.get(), bytes as u64);
}

#[tokio::test]
async fn a_broken_transfer_continues_where_it_broke() {
    let (_a, mut sender, _b, _, taker) = pair().await;
    taker.refuse(2, Refused::NotNow("the first break".into()));
    taker.refuse(5, Refused::NotNow("the second one".into()));
    sender.peers.send_snapshot(cut(2));
    assert_eq!(sender.ended.recv().await, Some(outcome(Some(POSITION))));
    // Every chunk was taken once, or the taker would have said so.
    assert!(taker.has_all(&cut(2)));
    assert_eq!(taker.state.lock().unwrap().offers, 3);
}

#[tokio::test]
async fn a_receiver_that_restarts_gets_all_of_it_again() {
    let (_a, mut sender, b, _, taker) = pair().await;
    taker.refuse(2, Refused::NotNow("a break".into()));
    let addresses = b.addresses.clone();
    let (server, stop) = (b.server, b.stop);
    sender.peers.send_snapshot(cut(2));
    while taker.state.lock().unwrap().chunks.len() < 2 {
        tokio::task::yield_now().await;
    }
    let _ = stop.send(());
    let _ = server.await;
    let b = start(&addresses, "b", 2, member_of(X)).await;
    let _traffic = b.run(X, &[(1, "a")]);
    let anew = Arc::<Taker>::default();
    b.service.receive_snapshots_by(anew.clone());
    assert_eq!(sender.ended.recv().await, Some(outcome(Some(POSITION))));
    assert!(anew.has_all(&cut(2)) || taker.has_all(&cut(2)));
}

#[tokio::test]
async fn a_transfer_ends_when_the_receiver_does_not_want_it_or_is_unknown() {
    let (_a, mut sender, _b, _, taker) = pair().await;
    taker.refuse(1, Refused::Outdated("a newer term is known"));
    sender.peers.send_snapshot(cut(2));
    assert_eq!(sender.ended.recv().await, Some(outcome(None)));
    assert_eq!(taker.state.lock().unwrap().offers, 1);
    taker.refuse(1, Refused::Malformed("a bad chunk".into()));
    sender.peers.send_snapshot(cut(2));
    assert_eq!(sender.ended.recv().await, Some(outcome(None)));
    assert_eq!(taker.state.lock().unwrap().offers, 2);
    sender.peers.send_snapshot(cut(9));
    assert_eq!(sender.ended.recv().await, Some(Outcome { to: NodeId(9), ..outcome(None) }));
}

#[tokio::test]
async fn a_transfer_ends_with_the_leadership_or_the_membership() {
    let (_a, mut sender, _b, _, taker) = pair().await;
    taker.refuse(1, Refused::NotNow("a break".into()));
    sender.leads.store(false, Ordering::Relaxed);
    sender.peers.send_snapshot(cut(2));
    assert_eq!(sender.ended.recv().await, Some(outcome(None)));
    assert_eq!(taker.state.lock().unwrap().chunks.len(), 0);

    sender.leads.store(true, Ordering::Relaxed);
    for _ in 0..100 {
        taker.refuse(2, Refused::NotNow("again and again".into()));
    }
    sender.peers.send_snapshot(cut(2));
    while taker.state.lock().unwrap().chunks.len() < 2 {
        tokio::task::yield_now().await;
    }
    sender.peers.set_peers(&BTreeMap::new());
    assert_eq!(sender.ended.recv().await, Some(outcome(None)));
}

#[tokio::test]
async fn a_newer_snapshot_takes_the_place_of_one_on_its_way() {
    let (_a, mut sender, _b, _, taker) = pair().await;
    for _ in 0..3 {
        taker.refuse(2, Refused::NotNow("for a while".into()));
    }
    sender.peers.send_snapshot(cut(2));
    while taker.state.lock().unwrap().chunks.len() < 2 {
        tokio::task::yield_now().await;
    }
    let later = Cut { term: Term(5), ..cut(2) };
    sender.peers.send_snapshot(later);
    assert_eq!(sender.ended.recv().await, Some(outcome(None)));
    let last = Outcome { term: Term(5), ..outcome(Some(POSITION)) };
    assert_eq!(sender.ended.recv().await, Some(last));
    assert!(taker.has_all(&Cut { term: Term(5), ..cut(2) }));
}

#[tokio::test]
async fn hostile_snapshots_are_refused_by_name() {
    let (_a, _sender, b, _, taker) = pair().await;
    let mut client = stranger(&b).await;
    let route = |from, to| Some(proto::Route { cluster_id: X.0, from, to });
    let header = |route| proto::SnapshotHeader {
        route,
        id: 7,
        term: 4,
        session: 1,
        position: Some(proto::Position { index: 500, term: 3 }),
        configuration: founders(&[(1, "a"), (2, "b")]).encode(),
        ..proto::SnapshotHeader::default()
    };
    let offers = [
        (header(None), Code::InvalidArgument),
        (header(route(1, 3)), Code::FailedPrecondition),
        (header(Some(proto::Route { cluster_id: 9, from: 1, to: 2 })), Code::FailedPrecondition),
        (proto::SnapshotHeader { term: 0, ..header(route(1, 2)) }, Code::InvalidArgument),
        (proto::SnapshotHeader { keys: 9, ..header(route(1, 2)) }, Code::InvalidArgument),
    ];
    for (offer, code) in offers {
        assert_eq!(client.offer_snapshot(offer).await.unwrap_err().code(), code);
    }
    assert_eq!(taker.state.lock().unwrap().offers, 0);
    client.offer_snapshot(header(route(1, 2))).await.unwrap();
    let chunk = |number, route| proto::SnapshotChunk { route, id: 7, number, ..Default::default() };
    let streams = [
        (vec![], Code::InvalidArgument),
        (vec![chunk(0, None)], Code::InvalidArgument),
        (vec![chunk(0, route(1, 3))], Code::FailedPrecondition),
        (vec![chunk(0, route(1, 2)), chunk(1, route(5, 2))], Code::InvalidArgument),
        (
            vec![chunk(1, route(1, 2)), proto::SnapshotChunk { id: 8, ..chunk(2, None) }],
            Code::InvalidArgument,
        ),
        (vec![chunk(u64::MAX, route(1, 2))], Code::InvalidArgument),
        (
            vec![proto::SnapshotChunk {
                records: vec![0; CHUNK_BYTES_MAX + 1].into(),
                ..chunk(2, route(1, 2))
            }],
            Code::InvalidArgument,
        ),
        // The end of a stream is not the end of a snapshot.
        (vec![chunk(2, route(1, 2))], Code::Unavailable),
    ];
    for (chunks, code) in streams {
        let status = client.snapshot(iter(chunks)).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
    }
}
