//! Messages of nodes that nobody knows, and of those that somebody who can be trusted knows.

use tokio_stream::iter;

use super::*;
use crate::metrics::Metrics;
use crate::tls::{HeldSecret, PeerTls, Port};
use crate::types::{LogIndex, Term};

const DAY: Duration = Duration::from_hours(24);

/// Frames as a program without any credentials sends them: each did harm once.
fn attacks() -> Vec<proto::Message> {
    use proto::message::Body;
    let poison = proto::ForwardedProposal { id: 1, command: b"no command".to_vec().into() };
    let entry = proto::Entry { term: 9, index: 1, kind: 2, data: b"forged".to_vec().into(), time: 1 };
    let position = |index, term| Some(proto::Position { index, term });
    let append = proto::Append {
        term: 9,
        session: 1,
        prev: position(0, 0),
        entries: vec![entry],
        commit_index: 1,
        round: 1,
        ..proto::Append::default()
    };
    let vote = proto::VoteRequest {
        term: 9,
        last: position(99, 9),
        transfer: true,
        ..proto::VoteRequest::default()
    };
    [
        Body::Forward(proto::Forward { proposals: vec![poison] }),
        Body::Removed(proto::Removed { index: 7 }),
        Body::VoteRefused(proto::VoteRefused { term: (1 << 62) - 1, pre_vote: false }),
        Body::Append(append),
        Body::RequestVote(vote),
        Body::TimeoutNow(proto::TimeoutNow { term: 9 }),
    ]
    .map(|body| proto::Message { body: Some(body) })
    .into()
}

fn attack(from: u64, name: &str, to: u64, message: proto::Message) -> proto::Frame {
    let introduction = proto::Introduction { name: name.into(), ..proto::Introduction::default() };
    let route = Some(proto::Route { cluster_id: X.0, from, to });
    proto::Frame { route, introduction: Some(introduction), messages: vec![message] }
}

async fn refused(client: &mut PeerClient<tonic::transport::Channel>, frame: proto::Frame) -> tonic::Status {
    client.stream(iter([frame])).await.unwrap_err()
}

#[tokio::test]
async fn nothing_of_a_node_that_nobody_knows_reaches_the_core() {
    let addresses = Addresses::default();
    let members = [(1, "a"), (2, "b")];
    let a = start(&addresses, "a", 1, member_of(X)).await;
    let b = start(&addresses, "b", 2, member_of(X)).await;
    let mut traffic = a.run(X, &members);
    let _b_traffic = b.run(X, &members);
    let mut client = stranger(&a).await;
    for message in attacks() {
        // An invented node; one with the name of a member; one with a member's id.
        for (from, name, why) in [
            (99, "mallory", "nobody here knows node 0000000000000063"),
            (99, "b", "nobody here knows node 0000000000000063"),
            (2, "mallory", "node 0000000000000002 is b, not mallory"),
        ] {
            let status = refused(&mut client, attack(from, name, 1, message.clone())).await;
            assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
            assert!(status.message().contains(why), "{status}");
        }
    }
    let offer = proto::SnapshotHeader {
        route: Some(proto::Route { cluster_id: X.0, from: 99, to: 1 }),
        ..proto::SnapshotHeader::default()
    };
    assert_eq!(client.offer_snapshot(offer).await.unwrap_err().code(), Code::Unavailable);
    let route = Some(proto::Route { cluster_id: X.0, from: 99, to: 1 });
    let call = Some(proto::AdminCall { route, forwarded: true, again: false, timeout_ms: 1_000 });
    let change = proto::ChangeRequest { call, remove: vec![2], ..proto::ChangeRequest::default() };
    assert_eq!(client.change(change).await.unwrap_err().code(), Code::PermissionDenied);
    assert!(traffic.inbox.try_recv().is_err());
    assert!(a.directory.get(NodeId(99)).is_none());
    assert!(!traffic.peers.is_member(NodeId(99)));
}

#[tokio::test]
async fn nobody_but_its_own_cluster_binds_an_empty_node() {
    let addresses = Addresses::default();
    let b = start(&addresses, "b", 2, Arc::default()).await;
    let mut client = stranger(&b).await;
    let invented = |from, name| attack(from, name, 2, convert::to_wire(message(1)));
    let unknown = |status: tonic::Status| {
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        assert!(status.message().contains("nobody here knows"), "{status}");
    };
    for name in ["mallory", "a"] {
        unknown(refused(&mut client, invented(1, name)).await);
    }
    // a is there, and has nothing to do with it.
    let a = start(&addresses, "a", 1, Arc::default()).await;
    unknown(refused(&mut client, invented(1, "a")).await);
    let hello = proto::HelloRequest {
        route: Some(proto::Route { cluster_id: 0, from: 99, to: 0 }),
        forming: true,
        ..proto::HelloRequest::default()
    };
    let nonce = client.hello(hello).await.unwrap().into_inner().nonce;
    for (from, name) in [(99, "mallory"), (1, "a")] {
        let configuration = founders(&[(from, name), (2, "b")]).encode();
        let route = Some(proto::Route { cluster_id: X.0, from, to: 2 });
        let form = proto::FormRequest { route, nonce, configuration };
        unknown(client.form(form).await.unwrap_err());
    }
    assert_eq!(*b.disk.standing.lock().unwrap(), Standing::Empty);
    a.stop().await;
    // The cluster that has added it.
    let a = start(&addresses, "a", 1, member_of(X)).await;
    let _traffic = a.run(X, &[(1, "a"), (2, "b")]);
    let formed = b.bootstrap().await.unwrap().unwrap();
    assert_eq!(formed, Formed { cluster_id: X, configuration: None });
}

#[tokio::test]
async fn a_leader_that_only_another_member_knows_is_heard() {
    let addresses = Addresses::default();
    let a = start(&addresses, "a", 1, member_of(X)).await;
    let b = start(&addresses, "b", 2, member_of(X)).await;
    // b was away while d was added, and its list does not have it.
    let old = [(1, "a"), (2, "b")];
    let mut b_traffic = b.run(X, &old);
    let d = start(&addresses, "d", 4, member_of(X)).await;
    let d_traffic = d.run(X, &[(1, "a"), (2, "b"), (4, "d")]);
    let mut client = stranger(&b).await;
    let frame = || attack(4, "d", 2, convert::to_wire(message(3)));
    let a_traffic = a.run(X, &old);
    let status = refused(&mut client, frame()).await;
    assert!(status.message().contains("none of a, c says that it is a member"), "{status}");
    // a learns of it first.
    a_traffic.peers.set_peers(&names(&[(1, "a"), (2, "b"), (4, "d")]));
    loop {
        // What leaves with a stream that is refused is lost.
        let _ = d_traffic.peers.send(NodeId(2), message(1));
        if let Ok((from, message_of_d)) = b_traffic.inbox.try_recv() {
            assert_eq!((from, message_of_d), (NodeId(4), message(1)));
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn of_a_removed_node_only_what_the_core_answers_counts() {
    let term = Term(1 << 40);
    for (signal, counts) in [
        (Signal::ReadIndex { id: ReadId(1) }, true),
        (Signal::Forward { proposals: Vec::new() }, true),
        (Signal::Removed { index: LogIndex(7) }, false),
        (Signal::VoteRefused { term, pre_vote: false }, false),
        (Signal::TimeoutNow { term }, false),
    ] {
        let message = Message::from(signal);
        assert_eq!(super::super::senders::is_answered_to_removed(&message), counts, "{message:?}");
    }
}

/// Settings of the member called `name`, under a secret that ends with `last`.
fn secretive(name: &str, last: char) -> Settings {
    let text = format!("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGH{last}");
    let metrics = Metrics::new();
    let port = Port::peer_by_secret(HeldSecret::new(text.into()), name.into(), DAY, &metrics).unwrap();
    Settings { tls: Some(PeerTls::new(Arc::new(port), None, &metrics)), ..settings() }
}

#[tokio::test]
async fn under_a_secret_members_are_who_their_certificates_say() {
    let addresses = Addresses::default();
    let members = [(1, "a"), (2, "b"), (3, "c")];
    let a = start_under(&addresses, "a", 1, member_of(X), secretive("a", 'x')).await;
    let mut traffic = a.run(X, &members);
    // Without TLS, and under another secret.
    assert!(
        PeerClient::connect(format!("http://{}", a.port)).await.is_err() || {
            let mut client = stranger(&a).await;
            client.stream(iter([attack(2, "b", 1, attacks().remove(0))])).await.is_err()
        }
    );
    let connect = async |settings: Settings| dial::connect("a", &addresses.resolver(), 0, &settings).await;
    assert!(connect(secretive("b", 'y')).await.is_err_and(|error| !error.to_string().is_empty()));
    // c speaks for itself alone, in whatever it does.
    let (mut client, _) = connect(secretive("c", 'x')).await.unwrap();
    for message in attacks() {
        let status = refused(&mut client, attack(2, "b", 1, message)).await;
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
        assert!(status.message().contains("its certificate is another member's"), "{status}");
    }
    let route = Some(proto::Route { cluster_id: X.0, from: 2, to: 1 });
    let offer = proto::SnapshotHeader { route, ..proto::SnapshotHeader::default() };
    assert_eq!(client.offer_snapshot(offer).await.unwrap_err().code(), Code::PermissionDenied);
    let call = Some(proto::AdminCall { route, forwarded: true, again: false, timeout_ms: 1_000 });
    let change = proto::ChangeRequest { call, remove: vec![2], ..proto::ChangeRequest::default() };
    assert_eq!(client.change(change).await.unwrap_err().code(), Code::PermissionDenied);
    assert!(traffic.inbox.try_recv().is_err());
    // A member that is added now, and that a's configuration does not have yet.
    let d = start_under(&addresses, "d", 4, member_of(X), secretive("d", 'x')).await;
    let d_traffic = d.run(X, &[(1, "a"), (4, "d")]);
    d_traffic.send(1, 5).await;
    assert_eq!(traffic.receive().await, (4, message(5)));
}

#[tokio::test]
async fn strangers_that_hold_connections_keep_no_member_out() {
    let addresses = Addresses::default();
    let a = start(&addresses, "a", 1, member_of(X)).await;
    let mut a_traffic = a.run(X, &[(1, "a"), (2, "b")]);
    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(TcpStream::connect(&a.port).await.unwrap());
    }
    let b = start(&addresses, "b", 2, member_of(X)).await;
    let b_traffic = b.run(X, &[(1, "a"), (2, "b")]);
    b_traffic.send(1, 5).await;
    assert_eq!(a_traffic.receive().await, (2, message(5)));
    // The oldest were closed to make room.
    let mut greeting = Vec::new();
    // By an end or by a reset.
    let _ = held[0].read_to_end(&mut greeting).await;
    assert!(greeting.len() < 1000, "nothing but the greeting of HTTP/2");
}
